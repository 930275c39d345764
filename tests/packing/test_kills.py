"""Killed at random moments: nothing is half-written, nothing left that the next start keeps.

RUN_KILLS=1000 python -m pytest tests/packing/test_kills.py    # more tries than every day's
RUN_SEED=7                                                     # other moments
"""

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from packed import STORY, start

from run.engine import scratch
from run.engine.archive import Archive
from support import models
from support.cli import CLEAN, ROOT, write_files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="these programs are for Linux")
KILLS = int(os.environ.get("RUN_KILLS") or 40)
SEED = int(os.environ.get("RUN_SEED") or 1)
BUILD = [sys.executable, ROOT / "build.py"]


@pytest.fixture
def places(tmp_path):
    """Empty directories, by name, and an environment that leads to them."""
    found = {name: tmp_path / name for name in ("out", "tmp", "cache", "model")}
    for place in found.values():
        place.mkdir()
    env = {"TMPDIR": str(found["tmp"]), "XDG_CACHE_HOME": str(found["cache"])}
    return found, CLEAN | env


def kill(command, env, delay, group):
    """Start a program and kill it, alone or with its children; return whether it was at work."""
    process = subprocess.Popen(
        list(map(os.fspath, command)),
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL) if group else process.kill()
    return process.wait() < 0


def lifetime(command, env):
    begin = time.monotonic()
    done = start(*command, env=env, timeout=600)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - begin


def moments(command, env, tries, before=lambda: None):
    """Kill a program so often, from its start to just after its end; yield the number."""
    before()
    life = lifetime(command, env)
    rng = random.Random(SEED)
    at_work = 0
    for number in range(tries):
        before()
        at_work += kill(command, env, rng.uniform(0, life * 1.1), rng.random() < 0.5)
        yield number
    assert at_work > tries / 8


@pytest.mark.parametrize("is_there", [False, True])
def test_embed(executable, places, is_there):
    """The new file is complete or not there; an old one is as it was, or the new one."""
    folders, env = places
    model = write_files(folders["model"], models.build("gqa", seed=5))
    want = folders["model"].parent / "want"
    new = folders["out"] / "new"
    assert start(executable, "--embed", model, "-o", want, env=env).returncode == 0
    complete, old = want.read_bytes(), b"old"

    def before():
        new.unlink(missing_ok=True)
        if is_there:
            new.write_bytes(old)

    for _ in moments([executable, "--embed", model, "-o", new], env, KILLS, before):
        assert set(os.listdir(folders["out"])) <= {"new"}
        assert not is_there or new.exists()
        assert not new.exists() or new.read_bytes() in ((old, complete) if is_there else [complete])
        assert os.listdir(folders["tmp"]) == []


def test_first_starts(com, story, places):
    """The cache holds the right program or none, besides names that a later start removes."""
    folders, env = places
    cache = folders["cache"] / "run"

    def before():
        shutil.rmtree(cache, ignore_errors=True)

    names = set()
    for _ in moments(["sh", com, *STORY], env, KILLS, before):
        for path in cache.iterdir() if cache.exists() else ():
            name = path.name
            assert re.fullmatch(r"[0-9a-f]{64}(\.new\.[A-Za-z0-9]{6})?", name), name
            names.add(name[64:68])
            if len(name) == 64:
                assert hashlib.sha256(path.read_bytes()).hexdigest() == name
            else:
                os.utime(path, (1e9, 1e9))  # long ago
        assert os.listdir(folders["tmp"]) == []
        assert not cache.exists() or cache.stat().st_mode & 0o777 == 0o700
        if cache.exists() and not any(len(name) == 64 for name in os.listdir(cache)):
            done = start("sh", com, *STORY, env=env)
            assert (done.returncode, done.stdout) == (0, story), done.stderr
            (left,) = os.listdir(cache)
            assert len(left) == 64


def test_builds(places):
    """As for --embed; what they leave in TMPDIR says that it is theirs, and the next one sweeps."""
    pytest.importorskip("PyInstaller", reason="PyInstaller is not installed (make build)")
    folders, env = places
    env.pop("XDG_CACHE_HOME")  # zig keeps its C libraries there
    model = write_files(folders["model"], models.build())
    new = folders["out"] / "new"

    def before():
        new.unlink(missing_ok=True)

    for _ in moments([*BUILD, "--model", model, "-o", new], env, max(3, KILLS // 20), before):
        assert set(os.listdir(folders["out"])) <= {"new"}
        assert not new.exists() or Archive(new).read("tokenizer.bin")
        for place in folders["tmp"].iterdir():
            assert re.fullmatch(f"run-build-{scratch.OWN_NAME}", place.name)
        assert sorted(os.listdir(folders["model"])) == ["model.bin", "tokenizer.bin"]
    wait_for_children(folders["tmp"])
    start(*BUILD, "--model", folders["model"] / "missing", "-o", new, env=env)  # sweeps
    assert os.listdir(folders["tmp"]) == []


def wait_for_children(folder):
    """Wait until the compilers of killed builds have ended, which keep their directories."""
    import fcntl

    for place in folder.iterdir():
        if (place / scratch.MARK).exists():  # else: killed in the moment between making and marking
            with open(place / scratch.MARK, "rb") as mark:
                fcntl.flock(mark, fcntl.LOCK_EX)
        else:
            assert os.listdir(place) in ([], [f"{scratch.MARK}.new"])
            shutil.rmtree(place)
