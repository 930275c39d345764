"""Packed files for tests: the tiny model's executable, and a universal file made of it at once."""

import os
import random
import resource
import subprocess
import sys

import pytest

from run.engine import programs
from run.engine.archive import Archive, Member
from run.packing import universal
from support import models
from support.cli import CLEAN, ROOT, write_files

STORY = ("-t", "0", "-n", "24")


def start(*command, **options):
    """Run a program to its end; return its CompletedProcess, in text."""
    settings = {"capture_output": True, "text": True, "errors": "replace", "timeout": 120}
    settings |= {"env": CLEAN, "cwd": "/", "stdin": subprocess.DEVNULL}
    return subprocess.run(list(map(os.fspath, command)), check=False, **(settings | options))


def one_line(done):
    """Return the one line of a program that failed as it should."""
    assert done.returncode == 1, done
    assert done.stdout == "", done
    (line,) = done.stderr.splitlines()
    return line


def limited():
    """What a child does first: it becomes a user who may not start another process or thread."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    os.setgid(12345)
    os.setuid(12345)


PLANTED = "import os; os.makedirs({path!r}); raise SystemExit('owned')\n"


def plant(place):
    """Make a directory with modules that nobody should import."""
    for package in "PyInstaller", "ziglang", "encodings":
        (place / package).mkdir(parents=True)
        for module in "__init__", "__main__":
            text = PLANTED.format(path=str(place / "owned"))
            (place / package / f"{module}.py").write_text(text)
    (place / "numpy.py").write_text(PLANTED.format(path=str(place / "owned")))


def build_executable(directory):
    """Build the tiny model's executable, in a directory with traps; skips where it cannot be."""
    pytest.importorskip("PyInstaller", reason="PyInstaller is not installed (make build)")
    model = write_files(directory, models.build())
    plant(directory / "planted")
    command = [sys.executable, ROOT / "build.py", "--model", model, "-o", directory / "run"]
    done = start(*command, cwd=directory / "planted", timeout=600)
    if "no shared library" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return directory / "run"


def bootloader():
    """Return what begins as a program for Windows does, and goes on in bytes of any kind."""
    noise = random.Random(3).randbytes(300_000)
    head = b"MZ" + noise[:0x3A] + (0x108).to_bytes(4, "little") + noise[: 0x108 - 0x40]
    return head + b"PE\0\0" + noise + b"\n>garbage;while :; do :; done\n" + noise


def universal_file(output, executable):
    """Make a universal file out of an executable for this system, without another build."""
    found = Archive(executable)
    with open(executable, "rb") as file:
        launcher = file.read(found.head_size)
    kept = [name for name in found.entries if name.startswith("embed/")]
    members = [programs.model_member(found.member("model.bin").source)]
    members += [found.member(name) for name in ("tokenizer.bin", *kept)]
    members.append(Member("__main__.py", b"import run\nrun.main()\n"))
    here = {"linux-x86_64": (launcher, found.member("app.pkg").source)}
    universal.build(output, (universal_file.bootloader, b"no pkg"), here, members)
    return output


universal_file.bootloader = bootloader()
