"""Numbers, files and systems that are not as they should be: the right answer or one clear line."""

import io
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import run
from run.engine import chat, early, gguf, merge, threaded
from support import models
from support.cli import CLEAN, ROOT, VOCAB, assert_one_line_error, run_cli, run_shell, write_files

LARGE = models.Shape(
    dim=1024, hidden_dim=1024, n_layers=1, n_heads=8, n_kv_heads=8, vocab_size=416, seq_len=64
)


# ------------------------------------------------------------------------------------- arguments
@pytest.mark.parametrize("threads", [-5, 1025])
def test_threads_out_of_range(tmp_path, backend, threads):
    path = write_files(tmp_path, models.build("mha"))
    with pytest.raises(run.ModelError, match=f"threads is {threads}; it must be from 0"):
        run.load_model(path, backend=backend, threads=threads)


def test_a_seed_of_numpy(tmp_path, backend):
    engine = run.load_model(write_files(tmp_path, models.build("mha", vocab=VOCAB)))
    want = list(run.generate(engine, "Once", steps=30, seed=5))
    assert list(run.generate(engine, "Once", steps=30, seed=np.int64(5))) == want


@pytest.mark.parametrize("flags", [("-t", "1e39"), ("-t", "nan"), ("-p", "1e39"), ("-s", "0")])
def test_numbers_that_no_float32_holds(flags):
    done = run_cli("none.bin", *flags)
    assert_one_line_error(done, "must be from", status=2)


# ----------------------------------------------------------------------------- files that are odd
def retyped(key, kind, value):
    return models.write_gguf(models.build("mha"), vocab=VOCAB, extra={key: (kind, value)})[0]


@pytest.mark.parametrize("value", ["%3000000000d", "", "32"])
def test_an_alignment_that_is_a_string(value):
    with pytest.raises(run.ModelError, match="general.alignment is .* it must be a whole number"):
        run.read_model(retyped("general.alignment", "str", value))


@pytest.mark.parametrize(
    ("key", "kind", "value", "expected"),
    [
        ("llama.embedding_length", "f32", 64.0, "a whole number"),
        ("llama.block_count", "bool", True, "a whole number"),
        ("llama.context_length", "[u32]", [64], "a whole number"),
        ("llama.rope.freq_base", "str", "1e4", "a number"),
        ("tokenizer.ggml.add_space_prefix", "u32", 1, "true or false"),
        ("tokenizer.ggml.tokens", "[u32]", [1, 2], "a list of strings"),
        ("tokenizer.ggml.scores", "[str]", ["a"], "a list of numbers"),
        ("tokenizer.chat_template", "u32", 7, "a string"),
        ("general.architecture", "u32", 7, "a string"),
    ],
)
def test_metadata_of_another_type_is_named(key, kind, value, expected):
    """The key, what was found, and what it must be."""
    with pytest.raises(run.ModelError) as caught:
        run.read_model(retyped(key, kind, value))
    assert key in str(caught.value) and f"must be {expected}" in str(caught.value)


def test_missing_metadata_is_named():
    for key in ("llama.embedding_length", "general.architecture"):
        data, _ = models.write_gguf(models.build("mha"), vocab=VOCAB, extra={key: None})
        with pytest.raises(run.ModelError, match=f"no {key}"):
            run.read_model(data)


def moved(offsets):
    """A GGUF whose tensors are at other places: {name: how far away}."""
    data = models.write_gguf(models.build("mha"), vocab=VOCAB)[0]
    for name, by in offsets.items():
        info = gguf.GGUF(data).infos[name]
        text = name.encode()
        at = data.index(len(text).to_bytes(8, "little") + text) + 8 + len(text)
        at += 4 + 8 * len(info.shape) + 4
        data = data[:at] + (info.offset + by).to_bytes(8, "little") + data[at + 8 :]
    return data


def test_a_tensor_that_begins_nowhere():
    with pytest.raises(run.ModelError, match="blk.0.attn_k is at .*; it must be a multiple of 32"):
        run.read_model(moved({"blk.0.attn_k.weight": 4}))


def test_a_tensor_inside_another():
    with pytest.raises(run.ModelError, match="begins inside another"):
        run.read_model(moved({"blk.0.attn_k.weight": -32}))


def test_too_many_layers():
    shape = models.SHAPES["mha"]
    header = [shape.dim, shape.hidden_dim, 400_000, shape.n_heads, shape.n_kv_heads, 32, 64]
    with pytest.raises(run.ModelError, match="n_layers is 400000 .* must be below 16,384"):
        run.read_model(np.array(header, "<i4").tobytes() + bytes(100))


# --------------------------------------------------------------------- threads, forks, the system
FORK = """
import os, sys
sys.path[:0] = sys.argv[1:2]
import run
model = run.load_model(sys.argv[2], backend=sys.argv[3], threads=3)
want = model.forward([5, 6, 7], 0).tobytes()
child = os.fork()
same = all(model.forward([5, 6, 7], 0).tobytes() == want for _ in range(5))
if child:
    same = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 and same
os._exit(0 if same else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_after_loading(tmp_path, backend):
    """Parent and child both go on, each with threads of its own."""
    path = write_files(tmp_path, models.fill(LARGE, 1), vocab=models.first_tokens(416))
    command = [sys.executable, "-c", FORK, str(ROOT), str(path), backend]
    done = subprocess.run(command, check=False, timeout=60, env=CLEAN, capture_output=True)
    assert done.returncode == 0, done.stderr


DAEMON = """
import sys, threading, time
sys.path[:0] = sys.argv[1:2]
import run
model = run.load_model(sys.argv[2], backend=sys.argv[3], threads=2)
def write():
    while True:
        list(run.generate(model, "Once", steps=60, seed=1))
threading.Thread(target=write, daemon=True).start()
time.sleep(0.05)
"""


@pytest.mark.slow
def test_the_end_while_a_daemon_thread_writes(tmp_path, backend):
    path = write_files(tmp_path, models.build("gqa", vocab=VOCAB))
    command = [sys.executable, "-c", DAEMON, str(ROOT), str(path), backend]
    for _ in range(5):
        done = subprocess.run(command, check=False, timeout=60, env=CLEAN, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")


def test_a_system_that_gives_no_threads(monkeypatch):
    """The caller does all the work, or with as many as there are."""
    started = []
    start = threading.Thread.start

    def refuse_the_third(thread):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_the_third)
    backend = threaded.Threaded(run.Config(64, 96, 1, 4, 2, 40, 8), "numpy, in a test", 7)
    assert backend.team.size == 3
    w = np.random.default_rng(1).standard_normal((1025, 1024), dtype=np.float32)
    x = w[:1].copy()
    np.testing.assert_allclose(backend.matmul(w, x), x @ w.T, rtol=1e-4, atol=1e-3)


def test_main_in_another_thread(tmp_path, capfd):
    path = write_files(tmp_path, models.build("mha", vocab=VOCAB))
    status = []
    arguments = [str(path), "-t", "0", "-n", "9"]
    thread = threading.Thread(target=lambda: status.append(run.main(arguments)))
    thread.start()
    thread.join(60)
    assert status == [0]
    assert capfd.readouterr().out


def test_a_closed_stdout_loses_no_text_silently(tmp_path):
    path = write_files(tmp_path, models.build("mha", vocab=VOCAB))
    done = run_shell(f"{sys.executable} {ROOT / 'run.py'} {path} -s 1 -n 12 >&-")
    assert_one_line_error(done, "stdout is closed")


def test_threads_asked_for_in_a_prompt(monkeypatch):
    """-j is an option, not a part of what is said; it may be shortened as argparse allows."""
    for argv, want in (
        (["-i", "type -j 1 please"], None),
        (["-i", "-j"], None),
        (["-y", "--threads 3"], None),
        (["-j", "3"], "3"),
        (["-j4"], "4"),
        (["--threads=5"], "5"),
        (["--thread", "6", "model.bin", "-i", "a -j 1"], "6"),
        (["-j", "x"], None),
        (["-j"], None),
    ):
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
        early.limit_threads(argv)
        assert os.environ.get("OPENBLAS_NUM_THREADS") == want, argv


@pytest.mark.parametrize("swallow", ["nothing", "wrapped", "all"])
def test_an_interrupt_ends_with_130_whatever_becomes_of_it(monkeypatch, swallow):
    """Python wraps it where a class is made, and swallows it in callbacks."""
    monkeypatch.setattr("sys.unraisablehook", sys.unraisablehook)
    before = signal.getsignal(signal.SIGINT)

    def main():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            if swallow == "nothing":
                raise
            if swallow == "wrapped":
                raise RuntimeError("Error calling __set_name__") from error
        return 0

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert early.interruptible(main) == 130
        assert early.interruptible(lambda: 3) == 3
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------------------------------ texts
def test_words_are_encoded_apart_where_no_token_crosses_them():
    tokenizer = run.read_tokenizer(models.write_tokenizer(VOCAB))
    text = "  Once upon  a time \n the   dog, é\udce9 sat\t on " * 200
    assert merge.encode(tokenizer, text) == merge.merge(tokenizer, tokenizer.characters(text))
    crossing = run.read_tokenizer(models.write_tokenizer(VOCAB))
    crossing.pieces.append(b"n a")
    crossing.scores.append(99.0)
    crossing.ids = crossing.ids | {b"n a": len(crossing.pieces) - 1}
    whole = merge.merge(crossing, crossing.characters(text))
    assert merge.encode(crossing, text) == whole


class Silent:
    """A sampler that ends every reply at once."""

    def sample(self, logits):
        return 2


def test_a_last_message_may_fill_the_context(tmp_path, backend):
    """Above three quarters of it, when what came before is forgotten."""
    engine = run.load_model(write_files(tmp_path, models.build("mha", vocab=VOCAB)), context=48)
    said = []
    talk = chat.Chat(engine, Silent(), notice=said.append)
    list(talk.reply("the dog"))
    message = "a b c d e f g"
    while len(talk.render(message, first=True)) < 40:
        message += " a"
    list(talk.reply(message))
    assert len(said) == 1 and "1 old turns forgotten" in said[0]


def test_a_line_that_is_too_long_is_one_message(monkeypatch, capsys):
    monkeypatch.setattr(chat, "LONGEST_LINE", 100)
    monkeypatch.setattr("sys.stdin", io.StringIO("x" * 250 + "\nhello\n"))
    assert chat.ask() == ""
    assert "more than 100 characters" in capsys.readouterr().err
    assert chat.ask() == "hello"
    assert chat.ask() is None
