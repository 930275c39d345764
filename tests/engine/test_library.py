"""run.py from Python: no side effect on import, four lines to a text, errors as ModelError."""

import io
import subprocess
import sys

import numpy as np
import pytest

import run
from run.engine import progress
from support import models
from support.cli import CLEAN, ROOT, VOCAB, write_files


def python(code, cwd=ROOT):
    command = [sys.executable, "-c", code]
    pipes = {"capture_output": True, "text": True}
    return subprocess.run(command, cwd=cwd, check=False, env=CLEAN, timeout=60, **pipes)


def test_import_has_no_side_effect(tmp_path):
    """Nothing printed or written; signals, argv, paths and environment left alone."""
    code = (
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r}); sys.dont_write_bytecode = True\n"
        "import numpy\n"
        "before = dict(os.environ), list(sys.argv), list(sys.path), numpy.geterr()\n"
        "handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]\n"
        "import run\n"
        "assert before == (dict(os.environ), list(sys.argv), list(sys.path), numpy.geterr())\n"
        "assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]\n"
    )
    done = python(code, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_four_lines(tmp_path):
    path = write_files(tmp_path, models.build("gqa", vocab=VOCAB))
    model = run.load_model(path)
    text = ""
    for piece in run.generate(model, "Once upon a time", steps=30, seed=1):
        text += piece
    assert text.startswith("Once upon a time") and len(text) > 20


def test_paths_may_be_str_or_path(tmp_path):
    path = write_files(tmp_path, models.build("mha", vocab=VOCAB))
    tokenizer = tmp_path / "other.tok"
    (tmp_path / "tokenizer.bin").rename(tokenizer)
    for kind in (str, lambda p: p):
        engine = run.load_model(kind(path), kind(tokenizer))
        assert engine.tokenizer.encode("the")[0] == 1


def test_what_a_model_tells(tmp_path):
    engine = run.load_model(write_files(tmp_path, models.build("gqa")), backend="numpy")
    assert engine.config.dim == 64 and engine.config.kv_dim == 16 and engine.config.head_size == 8
    assert "v0" in engine.file.format
    assert engine.backend.description.startswith("numpy")
    assert engine.weights.layers[0].wq.shape == (64, 64)


def test_logits_belong_to_the_caller(tmp_path, backend):
    """A second forward must not change the array that the first one returned."""
    engine = run.load_model(write_files(tmp_path, models.build("mha")), backend=backend)
    first = engine.forward([1], 0)
    before = first.copy()
    engine.forward([9], 1)
    assert np.array_equal(first, before)


def test_errors_are_model_errors(tmp_path):
    path = write_files(tmp_path, models.build("mha"), vocab=None)
    for bad in (tmp_path / "missing.bin", tmp_path, path):  # path: no tokenizer beside it
        with pytest.raises(run.ModelError) as caught:
            list(run.generate(run.load_model(bad), "a"))
        assert "\n" not in str(caught.value)
    with pytest.raises(run.ModelError):
        run.load_model(path, tmp_path / "missing.tok")


def test_modelerror_is_an_ordinary_exception():
    assert issubclass(run.ModelError, Exception)


def test_main_returns_a_status(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    path = write_files(tmp_path, models.build("mha", vocab=VOCAB))
    assert run.main([str(path), "-t", "0", "-n", "5"]) in (0, None)
    assert capfd.readouterr().out
    assert run.main([str(tmp_path / "missing.bin")]) == 1
    assert "missing.bin" in capfd.readouterr().err


def test_quantize_is_runq_s_rule():
    random = np.random.RandomState(0)
    x = random.standard_normal((6, 128)).astype(np.float32)
    x[1] = 0
    x[2, :32] = np.arange(32) - 15.5  # with a scale of 1, halves: away from zero, not to even
    x[2, 31] = 127
    q, scales = models.quantize_groups(x.reshape(-1, 32))
    got = run.quantize(x, 32)
    if isinstance(got, tuple):
        got_q, got_scales = got
    else:
        got_q, got_scales = got.q, got.scales
    assert np.array_equal(np.asarray(got_q).reshape(-1, 32), q)
    assert np.array_equal(np.asarray(got_scales).reshape(-1), scales)


class Screen(io.StringIO):
    """A stderr that says it is a terminal, or not."""

    def __init__(self, terminal):
        super().__init__()
        self.isatty = lambda: terminal


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("seconds", [0.01, 0.9])
def test_progress_is_shown_on_a_terminal_after_a_second(monkeypatch, terminal, seconds):
    clock, screen = iter(np.arange(0, 100, seconds).tolist()), Screen(terminal)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr("sys.stderr", screen)
    assert list(progress.shown(list("abcdef"), "reading")) == list("abcdef")
    assert ("reading" in screen.getvalue()) == (terminal and seconds > 0.5)
