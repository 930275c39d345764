"""The command line as a user meets it: run.py in its own process."""

import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import run
from support import models, reference
from support.cli import (
    CLEAN,
    ROOT,
    VOCAB,
    assert_one_line_error,
    peak_memory,
    run_cli,
    run_shell,
    write_files,
)

FLAGS = """-t -p -s -n -i -z -m -y -j -v -h --temperature --top-p --seed --steps --prompt
--tokenizer --mode --system-prompt --info --ppl --int8 --backend --threads --version"""
FOREVER = {1: VOCAB.id("a"), VOCAB.id("a"): VOCAB.id("a")}  # says "a" until the context ends


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random model that writes text, with its tokenizer beside it."""
    return write_files(tmp_path_factory.mktemp("tiny"), models.build("gqa", vocab=VOCAB))


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A model that says "a" sixty thousand times: time to interrupt it."""
    return write_files(tmp_path_factory.mktemp("aaa"), models.scripted(FOREVER, seq_len=60_000))


def out(*arguments, **options):
    """stdout of a run that must succeed."""
    done = run_cli(*arguments, **options)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


# --------------------------------------------------------------------------------------------------
# Flags


def test_short_and_long_flags_are_the_same(tiny):
    short = ["-t", "0.8", "-p", "0.95", "-s", "5", "-n", "30", "-i", "The dog", "-m", "generate"]
    long = ["--temperature", "0.8", "--top-p", "0.95", "--seed", "5", "--steps", "30"]
    long += [
        "--prompt",
        "The dog",
        "--mode",
        "generate",
        "--tokenizer",
        tiny.parent / "tokenizer.bin",
    ]
    text = out(tiny, *short)
    assert text == out(tiny, *long)
    assert text == out(*short, tiny)  # flags may come first
    assert text == out(tiny, *short, "-z", tiny.parent / "tokenizer.bin")


def test_the_defaults_are_run_c_s(tiny):
    given = out(tiny, "-t", "1.0", "-p", "0.9", "-n", "256", "-s", "3")
    assert out(tiny, "-s", "3") == given


def test_text_ends_with_one_newline(endless):
    assert out(endless, "-t", "0", "-n", "5") == "aaaaa\n"


def test_tokens_per_second_go_to_stderr_as_run_c_prints_them(tiny):
    stderr = run_cli(tiny, "-n", "20", "-s", "1").stderr.decode()
    assert re.search(r"^achieved tok/s: \d+(\.\d+)?$", stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("steps", "count"), [(1, 1), (7, 7), (0, 64), (-3, 64), (64, 64), (900, 64)]
)
def test_steps(tmp_path, steps, count):
    path = write_files(tmp_path, models.scripted(FOREVER, seq_len=64))
    assert out(path, "-t", "0", "-n", steps) == "a" * count + "\n"


@pytest.mark.slow
def test_a_fresh_seed_each_time_and_v_tells_it(tiny):
    first, second = (run_cli(tiny, "-v", "-n", "40") for _ in range(2))
    assert first.stdout != second.stdout
    for done in (first, second):
        numbers = re.findall(r"\d+", done.stderr.decode().lower().split("seed")[1])
        again = out(tiny, "-s", numbers[0], "-n", "40")
        assert again == done.stdout.decode()


def test_prompt_from_stdin(tiny):
    want = out(tiny, "-i", "The dog\nsaw é 😀", "-s", "2", "-n", "60")
    assert want.startswith("The dog\nsaw é 😀")
    got = out(tiny, "-i", "-", "-s", "2", "-n", "60", stdin="The dog\nsaw é 😀".encode())
    assert got == want


def test_prompt_from_empty_stdin_and_invalid_utf8(tiny):
    assert out(tiny, "-i", "-", "-s", "2") == out(tiny, "-s", "2")
    for stdin in (b"a\xffb", b"\xf0\x9f", b"\0", b"a\0b"):
        done = run_cli(tiny, "-i", "-", "-s", "2", stdin=stdin)
        assert b"Traceback" not in done.stderr
        assert done.returncode in (0, 1)


def test_invalid_utf8_on_the_command_line(tiny):
    done = run_cli(tiny, b"-i", b"a\xffb", "-s", "2", "-n", "9")
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0
    done.stdout.decode()  # the output is UTF-8 whatever came in


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_output_is_utf8_whatever_the_locale(tiny, encoding):
    env = {
        "PYTHONIOENCODING": encoding,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    done = run_cli(tiny, "-i", "é 你 😀", "-s", "1", "-n", "30", env=env)
    assert done.returncode == 0, done.stderr
    assert "é 你 😀" in done.stdout.decode()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-t", "-0.1"], ["-0.1", "0"]),
        (["-t", "nan"], ["nan"]),
        (["-t", "inf"], ["inf"]),
        (["-t", "warm"], ["warm"]),
        (["-p", "1.5"], ["1.5", "1"]),
        (["-p", "-1"], ["-1", "0"]),
        (["-p", "nan"], ["nan"]),
        (["-s", "-4"], ["-4"]),
        (["-s", "0"], ["0"]),
        (["-s", "99999999999999999999"], ["99999999999999999999"]),
        (["-s", "1.5"], ["1.5"]),
        (["-n", "ten"], ["ten"]),
        (["-n", "1e3"], ["1e3"]),
        (["-m", "sing"], ["sing", "generate", "chat"]),
        (["-j", "-1"], ["-1"]),
        (["-j", "x"], ["x"]),
        (["--backend", "cuda"], ["cuda", "numpy"]),
        (["--nonsense"], ["nonsense"]),
        (["-t"], ["-t"]),
        (["other.bin"], ["other.bin"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_flags_are_refused(tiny, flags, words):
    """Exit 2, and the message has the value and what is possible; nothing is replaced silently."""
    done = run_cli(tiny, *flags)
    assert_one_line_error(done, *words, status=2)
    assert done.stdout == b""


@pytest.mark.parametrize(
    "flags", [["-t", "0"], ["-t", "100"], ["-p", "0"], ["-p", "1"], ["-s", "1"]]
)
def test_the_ends_of_the_ranges_are_fine(tiny, flags):
    assert out(tiny, "-s", "7", "-n", "12", *flags)


@pytest.mark.slow
def test_seeds_beyond_32_bits(tiny):
    texts = {out(tiny, "-n", "40", "-s", str(seed)) for seed in (1, 2**32 + 1, 2**64 - 1)}
    assert len(texts) == 3


def test_help_has_an_example_of_each_use():
    text = out("-h")
    for flag in FLAGS.split():
        assert flag in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_version():
    assert run.__version__ in out("--version")


@pytest.mark.slow
def test_threads_and_backend(tiny, backend):
    want = out(tiny, "-s", "5", "-n", "50", "--backend", "numpy")
    for flags in (["-j", "1"], ["-j", "2"], ["--threads", "3"], ["-j2"], ["--threads=1"]):
        assert out(tiny, "-s", "5", "-n", "50", "--backend", backend, *flags) == want


def test_missing_kernel_is_a_clear_word(tmp_path, tiny):
    """--backend c where there is none: refused; auto: goes on in NumPy and --info says why."""
    shutil.copy(ROOT / "run.py", tmp_path)
    done = run_cli(tiny, "--backend", "c", script=tmp_path / "run.py")
    assert_one_line_error(done, "embed/engine/backends.py")
    assert "numpy" in run_cli(tiny, "-v", script=tmp_path / "run.py").stderr.decode().lower()
    for flag in ("--info", "--int8"):
        done = run_cli(tiny, flag, script=tmp_path / "run.py")
        assert b"embed" in done.stderr and done.returncode


# --------------------------------------------------------------------------------------------------
# --info, --int8, --ppl


def test_info(tiny):
    text = out(tiny, "--info")
    model, tokenizer = tiny.read_bytes(), (tiny.parent / "tokenizer.bin").read_bytes()
    for data in (model, tokenizer):
        assert hashlib.sha256(data).hexdigest() in text
    shape = models.SHAPES["gqa"]
    count = sum(math.prod(size) for size in shape.tensor_shapes().values())
    plain = text.replace(",", "").replace("_", "")
    for number in (shape.dim, shape.hidden_dim, shape.n_layers, shape.n_heads, shape.n_kv_heads):
        assert re.search(rf"\b{number}\b", plain), number
    for number in (shape.vocab_size, shape.seq_len, count):
        assert re.search(rf"\b{number}\b", plain), number
    assert "v0" in text
    assert "numpy" in text.lower() or "c (" in text


def test_info_of_every_format(tmp_path):
    model = models.build("blocks", vocab=VOCAB)
    for data, word in (
        (models.write_v1(model), "v1"),
        (models.write_v2(model, 32)[0], "v2"),
        (models.write_gguf(model, models.Q4_K_M, VOCAB)[0], "Q4_K"),
    ):
        text = out(write_files(tmp_path, data), "--info")
        assert word in text
        assert hashlib.sha256(data).hexdigest() in text


def test_int8_flag(tiny, tmp_path):
    """The text that the version 2 file of the same groups gives."""
    data, _ = models.write_v2(models.build("gqa", vocab=VOCAB), 32)
    want = out(write_files(tmp_path, data), "-s", "3", "-n", "40")
    got = out(tiny, "--int8", "-s", "3", "-n", "40")
    assert got == want
    assert "int8" in out(tiny, "--int8", "--info")


def perplexity(text):
    """The number in what --ppl prints."""
    return float(re.search(r"perplexity\D*(\d+(?:\.\d+)?)", text, re.IGNORECASE)[1])


def reference_losses(model, ids):
    """-log p of each token after the first, which must be BOS."""
    logits = reference.forward(model, ids[:-1])
    top = logits.max(axis=1)
    losses = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top
    return losses - logits[np.arange(len(ids) - 1), ids[1:]]


def test_ppl_is_the_reference_s(tiny, tmp_path, backend):
    text = "Once upon a time there was a little girl named Lily. She had a big red ball."
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    model = models.build("gqa", vocab=VOCAB)
    losses = reference_losses(model, reference.encode(VOCAB, text))
    got = perplexity(out(tiny, "--ppl", tmp_path / "text.txt", "--backend", backend))
    assert got == pytest.approx(np.exp(losses.mean()), rel=1e-3)


def test_ppl_of_a_text_longer_than_the_context(tmp_path):
    """In windows of the context, each starting with BOS."""
    model = models.build("mha", vocab=VOCAB)
    path = write_files(tmp_path, model)
    (tmp_path / "text.txt").write_text(models.TEXT * 2, encoding="utf-8")
    ids, losses = reference.encode(VOCAB, models.TEXT * 2)[1:], []
    size = model.shape.seq_len - 1
    assert len(ids) > 2 * size
    for start in range(0, len(ids), size):
        losses += reference_losses(model, [1, *ids[start : start + size]]).tolist()
    got = perplexity(out(path, "--ppl", tmp_path / "text.txt"))
    assert got == pytest.approx(np.exp(np.mean(losses)), rel=1e-3)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", None], ids=["empty", "not UTF-8", "missing"])
def test_ppl_of_no_text(tiny, tmp_path, content):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    done = run_cli(tiny, "--ppl", path)
    if content != b"\xff\xfe" or done.returncode:
        assert_one_line_error(done, "text.txt")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_memory_is_the_weights_the_cache_and_little_more(tmp_path, backend):
    """At most 60 MB more. All weights but the last norm are zero: a file with holes."""
    shape = models.Shape(512, 1376, 6, 8, 8, len(VOCAB), 1024)
    size = 28 + 4 * sum(map(math.prod, shape.tensor_shapes().values())) + 4 * 1024 * 64
    path = write_files(tmp_path, models.header(shape))
    os.truncate(path, size)
    with open(path, "r+b") as file:  # the norm stands before the tables, which end a tied model
        file.seek(size - 4 * 1024 * 64 - 4 * shape.dim)
        file.write(np.ones(shape.dim, "<f4").tobytes())
    cache = 8 * shape.n_layers * shape.kv_dim * 140
    peak = peak_memory(path, "-n", "140", "-i", "the ball " * 60, "-s", "1", "--backend", backend)
    assert size < peak < size + cache + 60e6


# --------------------------------------------------------------------------------------------------
# Where run.py is, pipes, signals


def test_run_py_alone_in_an_empty_directory(tmp_path, tiny):
    shutil.copy(ROOT / "run.py", tmp_path)
    alone = tmp_path / "run.py"
    assert out(tiny, "-s", "4", "-n", "20", script=alone) == out(tiny, "-s", "4", "-n", "20")
    done = run_cli(script=alone, cwd=tmp_path)
    assert_one_line_error(done, "embed")
    assert {path.name for path in tmp_path.iterdir()} <= {"run.py", "__pycache__"}


def test_a_model_without_its_tokenizer(tmp_path):
    path = write_files(tmp_path, models.build("mha"), vocab=None)
    done = run_cli(path, cwd=tmp_path)
    assert_one_line_error(done, "tokenizer", "-z")


def test_broken_pipe(endless):
    """`| head -1`: at most one line, whether the reader leaves early or never reads."""
    for reader in ("head -c 1", "true"):
        command = f"{sys.executable} {ROOT / 'run.py'} {endless} -t 0 -n 0 | {reader}; "
        command += "echo ${PIPESTATUS[0]} >&2"
        done = run_shell(command)
        *lines, status = done.stderr.decode().splitlines()
        assert len(lines) <= 1 and "Exception" not in "".join(lines), lines
        assert int(status) in (0, 1, 141)  # 141: ended by SIGPIPE


def test_full_disk(tiny):
    """Writing fails: said in one line, exit 1, not ignored."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb") as full:
        command = [sys.executable, ROOT / "run.py", tiny, "-n", "9", "-s", "1"]
        with subprocess.Popen(command, stdout=full, stderr=subprocess.PIPE, env=CLEAN) as child:
            stderr = child.communicate(timeout=60)[1]
    assert child.returncode == 1
    assert b"Traceback" not in stderr and b"Exception" not in stderr
    assert b"space" in stderr


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for one process there")
def test_ctrl_c_while_writing(endless):
    """Exit 130 as a shell expects, no traceback, and what was written stays."""
    command = [sys.executable, ROOT / "run.py", endless, "-t", "0", "-n", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=CLEAN
    ) as child:
        assert child.stdout.read(10) == b"a" * 10
        child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate(timeout=20)
    assert child.returncode in (130, -signal.SIGINT), stderr
    assert b"Traceback" not in stderr and b"KeyboardInterrupt" not in stderr
    assert set(stdout.decode().strip()) <= {"a"}


def wait_for_default_sigint(pid):
    """Until run.py's first lines have run: they take Python's handler of SIGINT away."""
    status, seen = Path(f"/proc/{pid}/status"), False
    for _ in range(10_000):
        caught = int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16)
        python_s = bool(caught >> (signal.SIGINT - 1) & 1)
        if seen and not python_s:
            return
        seen = seen or python_s
        time.sleep(0.001)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc here")
@pytest.mark.parametrize("delay", [0, 0.02, 0.05, 0.1, 0.2])
def test_ctrl_c_at_any_moment_of_the_start(endless, delay):
    """From run.py's first lines on; before them, the interpreter does what it does."""
    command = [sys.executable, ROOT / "run.py", endless, "-t", "0", "-n", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=CLEAN
    ) as child:
        wait_for_default_sigint(child.pid)
        time.sleep(delay)
        child.send_signal(signal.SIGINT)
        stderr = child.communicate(timeout=60)[1]
    assert child.returncode in (130, -signal.SIGINT), stderr
    assert b"Traceback" not in stderr


@pytest.mark.parametrize("closed", ["0", "2", "0,2"])
def test_closed_standard_streams(tiny, closed):
    """`<&-` and `2>&-`: the text still comes."""
    redirects = " ".join(f"{fd}{'<' if fd == '0' else '>'}&-" for fd in closed.split(","))
    command = f"{sys.executable} {ROOT / 'run.py'} {tiny} -s 1 -n 12 {redirects}"
    done = run_shell(command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == out(tiny, "-s", "1", "-n", "12")
    assert b"Traceback" not in done.stderr


def test_closed_stdin_and_a_prompt_from_stdin(tiny):
    command = f"{sys.executable} {ROOT / 'run.py'} {tiny} -i - -s 1 0<&-"
    done = run_shell(command)
    assert b"Traceback" not in done.stderr
    assert done.returncode in (0, 1)


def test_closed_stdout(tiny):
    command = f"{sys.executable} {ROOT / 'run.py'} {tiny} -s 1 -n 12 >&-"
    done = run_shell(command)
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr


def test_text_streams_while_it_is_made(endless):
    """The first word comes long before the last: nothing waits in a buffer."""
    command = [sys.executable, ROOT / "run.py", endless, "-t", "0", "-n", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=CLEAN
    ) as child:
        assert os.read(child.stdout.fileno(), 100)[:1] == b"a"
        assert child.poll() is None
        child.kill()


def test_the_default_model(tmp_path, tiny):
    """Whatever lies in embed/ beside run.py, from any directory."""
    home = tmp_path / "home"
    shutil.copytree(ROOT / "embed" / "engine", home / "embed" / "engine")
    shutil.copy(ROOT / "run.py", home)
    shutil.copy(tiny, home / "embed" / "model.bin")
    shutil.copy(tiny.parent / "tokenizer.bin", home / "embed")
    want = out(tiny, "-s", "4", "-n", "20", "-i", "The dog sat")
    script = home / "run.py"
    assert out("-s", "4", "-n", "20", "-i", "The dog sat", script=script, cwd=tmp_path) == want


def test_golden_files_tell_their_origin():
    readme = (ROOT / "tests" / "golden" / "README.md").read_text()
    for path in (ROOT / "tests" / "golden").glob("*.jsonl"):
        assert path.name in readme
        for line in path.read_text(encoding="utf-8").splitlines():
            json.loads(line)
