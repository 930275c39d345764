"""Helpers of the tests: files in a directory, and run.py in a process as a user starts it."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import run
from support import models

ROOT = Path(__file__).resolve().parent.parent.parent
SHARED = ROOT.parent / "shared"  # real checkpoints and reference outputs, where they are at hand
VOCAB = models.tiny_vocab()
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("RUN_", "PYTHON"))}


def write_files(directory, model, vocab=VOCAB):
    """Write a checkpoint (Model or bytes) and its tokenizer.bin; the checkpoint's path."""
    path = Path(directory) / "model.bin"
    path.write_bytes(model if isinstance(model, bytes) else models.write_v0(model))
    if vocab is not None:
        (path.parent / "tokenizer.bin").write_bytes(models.write_tokenizer(vocab))
    return path


def limits(address_space):
    """What a child process does before run.py starts: no more address space than this."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run_cli(*arguments, stdin=b"", timeout=60, memory=None, env=None, cwd=None, script=None):
    """`python run.py ARGUMENTS` -> CompletedProcess, in bytes. memory: address space allowed."""
    command = [
        sys.executable,
        str(script or ROOT / "run.py"),
        *map(os.fspath, map(text, arguments)),
    ]
    env = CLEAN | (env or {})
    if memory:
        only_on_linux()
        env |= {"OPENBLAS_NUM_THREADS": "1"}  # each of its threads reserves address space
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        check=False,
        timeout=timeout,
        cwd=cwd,
        env=env,
        preexec_fn=functools.partial(limits, memory) if memory else None,
    )


def run_shell(command):
    """A line of bash, for pipes and redirections: a CompletedProcess with bytes."""
    if os.name == "nt":
        pytest.skip("its commands are for a shell of POSIX")
    shell = ["bash", "-c", command]
    return subprocess.run(shell, capture_output=True, check=False, env=CLEAN, timeout=60)


def peak_memory(*arguments):
    """The most resident memory, in bytes, of a run that must succeed."""
    only_on_linux()
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True)\n"
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)"
    command = [sys.executable, "-c", code, sys.executable, ROOT / "run.py", *map(str, arguments)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=True, env=CLEAN, timeout=120
    )
    return 1024 * int(done.stderr.split()[-1])


def only_on_linux():
    """Skip a test that limits or measures memory: other systems count it in other ways."""
    if sys.platform != "linux":
        pytest.skip("memory is limited and measured on Linux only")


def text(argument):
    return argument if isinstance(argument, (str, bytes, os.PathLike)) else str(argument)


def assert_one_line_error(done, *words, status=1):
    """It failed as it should: the status, one line on stderr naming the words, no traceback."""
    stderr = done.stderr.decode()
    assert "Traceback" not in stderr, stderr
    assert done.returncode == status, (done.returncode, stderr)
    lines = stderr.strip().splitlines()
    if status == 1:
        assert len(lines) == 1, stderr
    for word in words:
        assert str(word).lower() in stderr.lower(), (word, stderr)


@functools.cache
def missing_kernel():
    """Why the C backend cannot be tested here, or None."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = write_files(directory, models.build())
        try:
            run.load_model(path, backend="c")
        except run.ModelError as error:
            return str(error)
    return None


def assert_close(got, want, tolerance):
    """Largest difference, relative to the largest wanted number, within the tolerance."""
    assert np.shape(got) == np.shape(want)
    assert np.isfinite(got).all()
    error = np.abs(np.asarray(got, float) - want).max() / np.abs(want).max()
    assert error <= tolerance, f"off by {error:.2e} of the largest"
