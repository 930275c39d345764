"""embed/launcher: what it takes from its environment, damaged files, and Ctrl-C at any moment."""

import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import pytest

from support import models
from support.cli import CLEAN, ROOT, write_files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the launcher is for Linux")
STORY = ["-t", "0", "-n", "24"]


@pytest.fixture(scope="module")
def executable(tmp_path_factory):
    """The tiny model's file; skips where PyInstaller is missing."""
    pytest.importorskip("PyInstaller", reason="PyInstaller is not installed (make build)")
    directory = tmp_path_factory.mktemp("launcher")
    model = write_files(directory, models.build())
    command = [sys.executable, ROOT / "build.py", "--model", model, "-o", directory / "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "no shared library" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return directory / "run"


def start(*command, **options):
    """Run a program to its end: CompletedProcess, in text."""
    settings = {"capture_output": True, "text": True, "timeout": 60, "env": CLEAN, "cwd": "/"}
    return subprocess.run(list(map(os.fspath, command)), check=False, **(settings | options))


@pytest.fixture(scope="module")
def story(executable):
    done = start(executable, *STORY)
    assert done.returncode == 0 and len(done.stdout) > 24, done.stderr
    return done.stdout


# ------------------------------------------------------------------ the environment
# Start argv[1] with the environment argv[2], in hexadecimal: one that no dict can hold.
EXECVE = """
import ctypes, os, sys
argv = [os.fsencode(text) for text in sys.argv[1:2] + sys.argv[3:]]
rows = bytes.fromhex(sys.argv[2]).split(b"\\0")
lists = [(ctypes.c_char_p * (len(row) + 1))(*row) for row in (argv, rows)]
ctypes.CDLL(None).execve(argv[0], *lists)
os._exit(127)
"""


@pytest.mark.parametrize(
    "entry",
    [
        b"PYTHON" + b"A" * 57 + b"=1",  # a name of 63, 64, 65 characters
        b"PYTHON" + b"A" * 58 + b"=1",
        b"PYTHON" + b"A" * 59 + b"=1",
        b"PYTHON" + b"A" * 9000 + b"=1",
        b"PYTHONHOME",  # no value at all
        b"PYTHON",
        b"PYTHONPATH=/one\0PYTHONPATH=/two",
        b"=",
        b"",
        b"nothing",
    ],
)
def test_any_environment(executable, story, entry):
    rows = b"\0".join([b"A=b", entry, b"Z=z"]).hex()
    done = start(sys.executable, "-c", EXECVE, executable, rows, *STORY, timeout=20)
    assert (done.returncode, done.stdout) == (0, story), done.stderr


def test_a_set_uid_copy_reads_no_other_file(executable, story):
    """As RUN_ARCHIVE could be anybody's; without the bit it does what it is told."""
    if os.geteuid():
        pytest.skip("needs root, to give a file to somebody else")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        if os.statvfs(name).f_flag & os.ST_NOSUID:
            pytest.skip("/var/tmp is mounted nosuid")
        os.chmod(name, 0o755)
        copy, other = shutil.copy(executable, name), Path(name) / "other"
        other.write_bytes(b"no zip")
        asked = CLEAN | {"RUN_ARCHIVE": str(other), "RUN_PKG": "app.pkg", "TMPDIR": name}
        for env in asked, asked | {"RUN_PKG": ""}:
            assert start(copy, *STORY, env=env).returncode != 0
        os.chown(copy, 65534, 65534)
        os.chmod(copy, 0o4755)
        for env in asked, asked | {"RUN_PKG": ""}:
            done = start(copy, *STORY, env=env)
            assert (done.returncode, done.stdout) == (0, story), done.stderr
        assert sorted(os.listdir(name)) == ["other", "run"]


def test_temporary_directories_with_odd_names(executable, story, tmp_path):
    """TMPDIR matters only where there are no memory files; it must never break a start."""
    for name in "a b", "a:b", "a\nb", "a\tb", "long" * 60:
        (tmp_path / name).mkdir()
        done = start(executable, *STORY, env=CLEAN | {"TMPDIR": str(tmp_path / name)})
        assert (done.returncode, done.stdout) == (0, story), done.stderr


# ------------------------------------------------------------------ damaged files
def test_a_program_that_was_cut_short_says_so(executable, tmp_path):
    copy = shutil.copy(executable, tmp_path / "run")
    size = os.path.getsize(copy)
    launcher = Path(executable).read_bytes().index(b"PK\3\4")
    for cut in 1, 22, 100, 5000, 1 << 20, size // 2, size - launcher - 100:
        os.truncate(copy, size - cut)
        done = start(copy, *STORY, timeout=20)
        assert (done.returncode, done.stdout) == (1, ""), cut
        (line,) = done.stderr.splitlines()
        assert "cut short" in line, line


def zlib_streams(rng):
    """Yield (stream, what it unpacks to or None): every kind of block, whole and damaged."""
    texts = [b"", b"a", bytes(70000), rng.randbytes(70000), b"abc" * 9000]
    texts.append(bytes(int(rng.expovariate(0.05)) % 256 for _ in range(60000)))
    for data in texts:
        for level in 0, 1, 6, 9:
            for strategy in zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY:
                packer = zlib.compressobj(level, zlib.DEFLATED, 15, 9, strategy)
                stream = packer.compress(data) + packer.flush()
                yield stream, data
                for _ in range(25):
                    bad = bytearray(stream)
                    for _ in range(rng.choice((1, 1, 4))):
                        bad[rng.randrange(len(bad))] = rng.randrange(256)
                    yield bytes(bad[: rng.choice((None, rng.randrange(len(bad))))]), None


def inflated(stream, size):
    """What zlib makes of a stream without its header and checksum, if it is of this size."""
    try:
        data = zlib.decompressobj(-15).decompress(stream[2:])
    except zlib.error:
        return None
    return data if len(data) == size else None


SANITIZED = pytest.param("-fsanitize=address,undefined", marks=pytest.mark.sanitizer)


@pytest.mark.parametrize("sanitizer", ["", SANITIZED])
def test_inflate_is_zlibs(sanitizer, tmp_path):
    """Under the sanitizers nothing is read or written outside, whatever the stream says."""
    cc = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not cc:
        pytest.skip("no C compiler found")
    program = tmp_path / "check"
    flags = [cc, "-O1", "-g", *sanitizer.split(), "-fno-sanitize-recover=all"]
    source = Path(__file__).with_name("check_inflate.c")
    built = start(*flags, source, "-o", program)
    if built.returncode and sanitizer:
        pytest.skip(f"{cc} has no {sanitizer}")
    assert built.returncode == 0, built.stderr
    rng = random.Random(9)
    cases = [(s, len(d) if d is not None else rng.randrange(90000)) for s, d in zlib_streams(rng)]
    sent = b"".join(struct.pack("<2I", len(s), n) + s for s, n in cases)
    done = subprocess.run([program], input=sent, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    at = 0
    for stream, size in cases:
        want = inflated(stream, size)
        assert done.stdout[at] == (want is not None), stream[:40]
        at += 1
        if want is not None:
            assert done.stdout[at : at + size] == want
            at += size
    assert at == len(done.stdout)


# ------------------------------------------------------------------ Ctrl-C
@pytest.fixture
def default_sigint():
    """Programs start with it, even where these tests run in a script's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def ignored_sigint():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


def piped(*command):
    """Start a program whose output is read here."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(command, env=CLEAN, **pipes)


def interrupted(command, delays):
    """Start a program and send SIGINT after each of the delays: status, stdout, stderr."""
    with piped(*command) as process:
        for delay in delays:
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    return process.returncode, out.decode(), err.decode()


def assert_no_trace(stderr):
    for word in "Traceback", "ignored", "Fatal":
        assert word not in stderr, stderr


def test_ctrl_c_at_any_moment(executable, story, default_sigint):
    """The whole text with status 0, or 130 (or the signal itself): never a traceback."""
    begin = time.monotonic()
    start(executable, *STORY)
    life = (time.monotonic() - begin) * 1.1
    rng = random.Random(5)
    for i in range(60):
        delays = [rng.uniform(0, life), rng.choice((0, 1e-4, 5e-3))][: 1 + i % 2]
        status, out, err = interrupted([executable, *STORY], delays)
        assert status in (0, 130, -signal.SIGINT), (status, delays, err)
        assert out == story if status == 0 else story.startswith(out), (status, delays, out)
        assert_no_trace(err)


def test_ctrl_c_after_the_last_word(executable, story, default_sigint):
    """Python's end swallows exceptions: none may be raised there."""
    rng = random.Random(6)
    for _ in range(30):
        with piped(executable, *STORY) as process:
            assert process.stdout.read(len(story.encode())).decode() == story
            time.sleep(rng.choice((0, 1e-4, 1e-3, 5e-3, 2e-2)))
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert process.returncode in (0, 130, -signal.SIGINT)
        assert_no_trace(err.decode())


@pytest.mark.parametrize("delay", [0.001, 0.02, 0.03, 0.05])
def test_an_ignored_ctrl_c_stays_ignored(executable, story, ignored_sigint, delay):
    """As `run &` in a script has it: a Ctrl-C there is for another program."""
    status, out, _ = interrupted([executable, *STORY], [0, delay, delay, delay, delay])
    assert (status, out) == (0, story)
