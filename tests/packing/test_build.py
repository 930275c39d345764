"""What build.py makes, as users meet it: alone, in strange places, killed, given other models.

`make test-build` runs this; it takes minutes. What needs root, a tool or the network is skipped,
with the reason, where that is missing.
"""

import functools
import hashlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import build
from run.engine.archive import Archive
from run.packing import freeze
from support import models
from support.cli import CLEAN, ROOT, SHARED, VOCAB, run_cli, write_files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="these are tests for Linux")
STORY = ["-t", "0", "-n", "24"]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "run-tests"


def start(*command, **options):
    """Run a program to its end; return its CompletedProcess, in text."""
    settings = {"capture_output": True, "text": True, "timeout": 300, "env": CLEAN, "cwd": "/"}
    options = settings | options
    return subprocess.run(list(map(os.fspath, command)), check=False, **options)


def output_of(*command, **options):
    """Return the stdout of a program that must succeed."""
    done = start(*command, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def error_of(*command, status=1, **options):
    """Return the one line on stderr of a program that must fail."""
    done = start(*command, **options)
    assert done.returncode == status, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    steps = "build: (compiling|collecting|putting|rounding|with)"
    (line,) = [row for row in done.stderr.splitlines() if not re.match(steps, row)]
    return line


def build_py(*arguments, **options):
    return start(sys.executable, ROOT / "build.py", *arguments, **options)


def built_by(directory, *flags, name="run"):
    """Build a tiny model's file in a directory; return its path. Skips without PyInstaller."""
    if not freeze.importlib.util.find_spec("PyInstaller"):
        pytest.skip("PyInstaller is not installed (make build)")
    model = write_files(directory, models.build())
    done = build_py("--model", model, "-o", directory / name, *flags)
    if "no shared library" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return directory / name


@pytest.fixture(scope="module")
def executable(tmp_path_factory):
    return built_by(tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return built_by(tmp_path_factory.mktemp("small"), "--small")


@pytest.fixture(scope="module")
def portable(tmp_path_factory):
    directory = tmp_path_factory.mktemp("portable")
    model = write_files(directory, models.build())
    done = build_py("--portable", "--model", model, "-o", directory / "run")
    if done.returncode:
        assert "build: " in done.stderr
        pytest.skip(done.stderr.strip().splitlines()[-1])
    return directory / "run"


@pytest.fixture(scope="module")
def zipapp(tmp_path_factory, request):
    """With this system's kernel only: zig takes minutes for all of them."""
    directory = tmp_path_factory.mktemp("zipapp")
    model = write_files(directory, models.build())
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    native = build.systems.this_system()
    patch.setattr(build.systems, "SYSTEMS", {native: build.systems.SYSTEMS.get(native)})
    assert build.main(["--zipapp", "--model", str(model), "-o", str(directory / "run.pyz")]) == 0
    return directory / "run.pyz"


@functools.cache
def expected(*flags):
    """Return what `python run.py` prints for the tiny model."""
    directory = CACHE / f"tmp-{os.getpid()}"
    directory.mkdir(parents=True, exist_ok=True)
    try:
        done = run_cli(write_files(directory, models.build()), *flags)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()
    finally:
        shutil.rmtree(directory)


@functools.cache
def no_namespaces():
    """Return why mounts cannot be made here, or None."""
    if not shutil.which("unshare"):
        return "unshare is not installed"
    done = start("unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt")
    return f"mounts are not allowed here: {done.stderr.strip()}" if done.returncode else None


def mounted(script, *arguments, **options):
    """Run a shell script that may mount things: nobody else sees them."""
    if no_namespaces():
        pytest.skip(no_namespaces())
    return start("unshare", "-m", "sh", "-ec", script, "sh", *arguments, **options)


# ------------------------------------------------------------------ on this machine


def test_it_tells_the_story_of_run_py_and_takes_its_flags(executable):
    assert output_of(executable, *STORY) == expected(*STORY)
    seeded = ["-t", "1.0", "-p", "0.9", "-s", "7", "-n", "40", "-i", "A cat"]
    assert output_of(executable, *seeded) == expected(*seeded)
    assert "model" in output_of(executable, "--info").lower()
    assert "run" in output_of(executable, "--version")
    assert "invalid" in error_of(executable, "-n", "x", status=2)


def test_no_environment_no_directory(executable, tmp_path):
    (tmp_path / "empty").mkdir()
    shutil.copy(executable, tmp_path / "empty" / "run")
    there = {"cwd": tmp_path / "empty", "env": {}}
    assert output_of("./run", *STORY, **there) == expected(*STORY)
    assert os.listdir(tmp_path / "empty") == ["run"]


def test_other_pythons_settings_do_not_matter(executable, tmp_path):
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    (tmp_path / "encodings").mkdir()
    env = {"PYTHONHOME": "/nowhere", "PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": "x"}
    env |= {"LC_ALL": "ja_JP.eucJP", "PYTHONVERBOSE": "1"}
    assert output_of(executable, *STORY, env=env, cwd=tmp_path) == expected(*STORY)


@pytest.mark.parametrize("name", ["other", "with a space", "Größe 模型 🦙", "run.exe", "-dash"])
def test_any_name(executable, tmp_path, name):
    place = tmp_path / f"{name} dir"
    place.mkdir()
    shutil.copy(executable, place / name)
    assert output_of(place / name, *STORY) == expected(*STORY)
    (tmp_path / f"link {name}").symlink_to(place / name)
    assert output_of(tmp_path / f"link {name}", *STORY) == expected(*STORY)
    assert output_of(name, *STORY, env={"PATH": str(place)}, executable=name) == expected(*STORY)


def test_read_only_file_system(executable):
    script = 'mount -t tmpfs none /mnt; cp "$0" /mnt/run; mount -o remount,ro /mnt; cd /mnt; '
    script += "mount -t tmpfs -o ro none /tmp; mount -t tmpfs -o ro none /dev/shm; ./run -t 0 -n 24"
    done = mounted(script.replace('"$0"', '"$1"'), executable)
    assert (done.returncode, done.stdout) == (0, expected(*STORY)), done.stderr


def test_noexec_temporary_directory(executable):
    script = "for d in /tmp /dev/shm /var/tmp; do mount -t tmpfs -o noexec none $d; done; exec "
    script = 'cp "$1" /mnt/run; ' + script.replace("; exec ", "; exec /mnt/run -t 0 -n 24")
    done = mounted("mount -t tmpfs none /mnt; " + script, executable)
    assert (done.returncode, done.stdout) == (0, expected(*STORY)), done.stderr


def test_closed_streams_and_a_deleted_file(executable, tmp_path):
    copy = shutil.copy(executable, tmp_path / "run")
    story = " ".join(STORY)
    assert start("sh", "-c", f'"$1" {story} <&-', "sh", copy).stdout == expected(*STORY)
    assert start("sh", "-c", f'"$1" {story} <&- 2>&-', "sh", copy).stdout == expected(*STORY)
    assert start("sh", "-c", f'"$1" {story} >&-', "sh", copy).stdout == ""
    process = subprocess.Popen([copy, "-n", "24", "-t", "0"], stdout=subprocess.PIPE, text=True)
    os.unlink(copy)
    assert process.communicate(timeout=60)[0] == expected(*STORY)


# ------------------------------------------------------------------ nothing is left behind


@pytest.fixture
def places(tmp_path):
    """A TMPDIR of its own, and what is in the places where programs unpack things."""
    directory = tmp_path / "tmp"
    directory.mkdir()

    def listing():
        found = {p.name for d in ("/tmp", "/dev/shm", "/var/tmp") for p in Path(d).iterdir()}
        return {name for name in found if re.match("run|_MEI", name)}, os.listdir(directory)

    return directory, listing


def take_interrupts():
    """What a child does first: a shell's background jobs, and theirs, inherit Ctrl-C as ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_by_exit_or_signal(executable, places, number):
    directory, listing = places
    before = listing()
    command = [executable, "-t", "1", "-n", "24" if number is None else "64"]
    for delay in (0.002, 0.01, 0.02, 0.04, 0.08, 0.3) if number else (0,):
        process = subprocess.Popen(
            command + ["-m", "chat"] * bool(number),  # waits for a line
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=CLEAN | {"TMPDIR": str(directory)},
            text=True,
            preexec_fn=take_interrupts,
        )
        time.sleep(delay)
        if number:
            process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        assert "Traceback" not in stderr
        assert process.returncode in ((0,) if number is None else (-number, 128 + number))
    assert listing() == before


# ------------------------------------------------------------------ other models


def test_embed_a_model_on_the_spot(executable, tmp_path):
    other = models.build("gqa", seed=5)
    model = write_files(tmp_path, other)
    new = tmp_path / "myrun"
    bare = {"env": {}, "cwd": "/"}
    done = start(executable, "--embed", model, "-z", tmp_path / "tokenizer.bin", "-o", new, **bare)
    assert done.returncode == 0, done.stderr
    want = run_cli(model, *STORY).stdout.decode()
    assert want != expected(*STORY)
    assert output_of(new, *STORY, **bare) == want
    assert os.access(new, os.X_OK)
    again = tmp_path / "again"  # what was embedded can be embedded into
    output_of(new, "--embed", write_files(tmp_path, models.build()), "-o", again, **bare)
    assert again.read_bytes() == Path(executable).read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["again", "model.bin", "myrun", "tokenizer.bin"]


def test_embed_a_gguf(executable, tmp_path):
    model = tmp_path / "model.gguf"
    model.write_bytes(models.write_gguf(models.build(), "Q8_0", vocab=VOCAB)[0])
    output_of(executable, "--embed", model, "-o", tmp_path / "new")
    assert "tokenizer.bin" not in zipfile.ZipFile(tmp_path / "new").namelist()
    assert output_of(tmp_path / "new", *STORY) == run_cli(model, *STORY).stdout.decode()


def test_embed_refuses_in_one_line(executable, tmp_path):
    copy = shutil.copy(executable, tmp_path / "run")
    model = write_files(tmp_path, models.build())
    assert "running program" in error_of(copy, "--embed", model, "-o", copy)
    assert "running program" in error_of("./run", "--embed", model, "-o", "run", cwd=tmp_path)
    assert "-o" in error_of(copy, "--embed", model)
    assert "no directory" in error_of(copy, "--embed", model, "-o", tmp_path / "no" / "run")
    assert "not a file" in error_of(copy, "--embed", model, "-o", tmp_path)
    assert "missing" in error_of(copy, "--embed", "missing", "-o", tmp_path / "new")
    model.write_bytes(model.read_bytes()[:-4])
    assert "model.bin" in error_of(copy, "--embed", model, "-o", tmp_path / "new")
    assert sorted(os.listdir(tmp_path)) == ["model.bin", "run", "tokenizer.bin"]
    assert output_of(copy, *STORY) == expected(*STORY)


def test_embed_on_a_full_disk(executable, tmp_path):
    model = write_files(tmp_path, models.build())
    script = 'mount -t tmpfs -o size=8m none /mnt; "$1" --embed "$2" -o /mnt/new 2>&1; ls -A /mnt'
    done = mounted(script.replace(" 2>&1;", " 2>&1 ||"), executable, model)
    (line,) = done.stdout.splitlines()
    assert "No space left" in line and "MB" in line


def test_zip_changes_the_model(executable, tmp_path):
    if not shutil.which("zip"):
        pytest.skip("zip is not installed")
    copy = shutil.copy(executable, tmp_path / "run.x")
    model = write_files(tmp_path, models.build("gqa", seed=5))
    output_of("zip", "-0", copy, "model.bin", cwd=tmp_path)
    want = run_cli(model, *STORY).stdout.decode()
    assert output_of(copy, *STORY) == want
    output_of("zip", "-9", copy, "model.bin", cwd=tmp_path)  # deflated: read instead of mapped
    assert output_of(copy, *STORY) == want


def sparse_model(path, size):
    """A tiny model in a file of `size` bytes: its RoPE tables, which nobody reads, are a hole."""
    data = models.write_v0(models.build())
    head_size = models.build().shape.head_size
    *numbers, seq_len = struct.unpack_from("<7i", data)
    weights = len(data) - 4 * seq_len * head_size
    seq_len = (size - weights) // (4 * head_size)
    with open(path, "wb") as file:
        file.write(struct.pack("<7i", *numbers, seq_len) + data[28:weights])
        file.truncate(weights + 4 * seq_len * head_size)
    return path


def test_a_model_above_4_gb(executable, tmp_path):
    """Mapped in place: it is in no memory but the page cache, and no start waits for it."""
    model = sparse_model(tmp_path / "model.bin", 4400 << 20)
    (tmp_path / "tokenizer.bin").write_bytes(models.write_tokenizer(VOCAB))
    new = tmp_path / "new"
    output_of(executable, "--embed", model, "-o", new)
    assert new.stat().st_size > 4400 << 20
    assert new.stat().st_blocks * 512 < 1 << 30  # holes stay holes
    measure = "import resource, subprocess, sys; "
    measure += "done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, check=True); "
    measure += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); "
    measure += "sys.stdout.write(done.stdout.decode())"
    peak, story = output_of(sys.executable, "-c", measure, new, *STORY).split("\n", 1)
    assert story == expected(*STORY)
    assert int(peak) < 300_000  # KB
    third = tmp_path / "third"
    output_of(new, "--embed", write_files(tmp_path, models.build()), "-o", third)
    assert output_of(third, *STORY) == expected(*STORY)


def test_killed_while_it_writes(executable, tmp_path):
    model = sparse_model(tmp_path / "model.bin", 4400 << 20)
    process = subprocess.Popen([executable, "--embed", model, "-o", tmp_path / "new"], env=CLEAN)
    time.sleep(1)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert sorted(os.listdir(tmp_path)) == ["model.bin"]


# ------------------------------------------------------------------ building


def test_the_same_inputs_give_the_same_bytes(executable, tmp_path):
    again = built_by(tmp_path)
    assert digest(again) == digest(executable)


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_the_model_lies_on_a_cache_line(executable):
    model = Archive(executable).entries["model.bin"]
    assert (model.offset + 28) % 64 == 0 and not model.method
    with zipfile.ZipFile(executable) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[-1] == "app.pkg"


def test_small_is_small_and_tells_the_same(small, executable):
    assert output_of(small, *STORY, env={}) == expected(*STORY)
    model = Archive(small).entries["model.bin"].size
    assert small.stat().st_size - model <= 18e6
    assert executable.stat().st_size - model <= 52e6


def test_default_flags_and_int8(tmp_path):
    new = built_by(tmp_path, "--int8", "--args", "-t 0 -n 24")
    int8 = output_of(new)
    assert int8 == run_cli(tmp_path / "model.bin", "--int8", *STORY).stdout.decode()
    assert output_of(new, "-n", "4") == "".join(output_of(new, "-t", "0", "-n", "4"))
    assert len(output_of(new, "-n", "4")) < len(int8)
    size = Archive(new).entries["model.bin"].size
    assert size < (tmp_path / "model.bin").stat().st_size / 3


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_int8_gguf(tmp_path, kind):
    import numpy as np

    import run
    from run.engine import quantize

    data, exact = models.write_gguf(models.build(), kind, vocab=VOCAB)
    changed = quantize.write_gguf(tmp_path / "new.gguf", memoryview(data))
    assert bool(changed) == (kind != "Q8_0")
    file = run.read_model(run.open_buffer(tmp_path / "new.gguf"))
    assert file.tokenizer is not None and "Q8_0" in file.format and "F16" not in file.format
    want, got = exact.tensors["w1"][1], file.weights.layers[1].w1
    bound = np.abs(want).max() / 127 * (0.57 if changed else 0)  # the scale is a float16
    assert np.abs(got[:] - want).max() <= bound
    if not changed:
        assert (tmp_path / "new.gguf").read_bytes() == data


def test_bad_inputs_end_in_one_line(tmp_path):
    model = write_files(tmp_path, models.build())
    out = ["-o", tmp_path / "new"]
    command = [sys.executable, ROOT / "build.py"]
    assert "missing" in error_of(*command, "--model", tmp_path / "missing", *out)
    bad = tmp_path / "bad.bin"
    bad.write_bytes(model.read_bytes()[:-4])
    assert "bad.bin" in error_of(*command, "--model", bad, *out)
    assert "nothing" in error_of(*command, "--model", model, "-z", tmp_path / "nothing", *out)
    error = error_of(*command, "--model", model, "--args=--frobnicate", *out, status=2)
    assert "frobnicate" in error
    assert "quot" in error_of(*command, "--model", model, "--args", "-i 'x", *out)
    target = error_of(*command, "--model", model, "--target", "plan9-mips", *out)
    assert "plan9-mips" in target
    assert not (tmp_path / "new").exists()


def test_no_numpy(tmp_path):
    """Without the virtual environment's packages: one line that says what to install."""
    line = error_of(sys.executable, "-S", ROOT / "build.py", "-o", tmp_path / "new")
    assert line == "build: numpy is missing: `make build` installs it, or pip install numpy"


def test_no_pyinstaller(tmp_path, monkeypatch, capsys):
    model = write_files(tmp_path, models.build())
    find = freeze.importlib.util.find_spec
    monkeypatch.setattr(
        freeze.importlib.util, "find_spec", lambda n: None if n == "PyInstaller" else find(n)
    )
    assert build.main(["--model", str(model), "-o", str(tmp_path / "new")]) == 1
    assert "pip install pyinstaller" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "new").exists()


def test_no_shared_python(tmp_path, monkeypatch):
    """A Python whose shared library is not there, as Debian's without the package for it."""
    if not freeze.importlib.util.find_spec("PyInstaller"):
        pytest.skip("PyInstaller is not installed (make build)")
    static = "import sysconfig; sysconfig.get_config_vars()['INSTSONAME'] = 'libpython-none.so'"
    (tmp_path / "sitecustomize.py").write_text(static)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(freeze.FreezeError, match="--enable-shared") as caught:
        freeze.freeze(tmp_path)
    assert "\n" not in str(caught.value)


def test_without_a_compiler(tmp_path, monkeypatch, capsys):
    """PyInstaller's bootloader takes the launcher's place; what a killed run left is removed."""
    if not freeze.importlib.util.find_spec("PyInstaller"):
        pytest.skip("PyInstaller is not installed (make build)")
    monkeypatch.setattr(build.compilers, "zig", lambda: None)
    monkeypatch.setattr(build.compilers, "native_compiler", lambda: None)
    model, new = write_files(tmp_path, models.build()), tmp_path / "new"
    assert build.main(["--model", str(model), "-o", str(new)]) == 0
    assert "without the C kernel" in capsys.readouterr().err
    assert output_of(new, *STORY) == expected("--backend", "numpy", *STORY)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    env = CLEAN | {"TMPDIR": str(scratch)}
    quick = [new, "--version"]
    process = subprocess.Popen(
        [new, "-m", "chat"], env=env, stdin=subprocess.PIPE, start_new_session=True
    )
    time.sleep(2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (left,) = scratch.iterdir()
    os.utime(left, (1, 1))  # long ago
    output_of(*quick, env=env)
    assert not list(scratch.iterdir())


def test_a_killed_build_leaves_no_file(tmp_path):
    model = write_files(tmp_path, models.build())
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    env = CLEAN | {"TMPDIR": str(scratch)}
    command = [sys.executable, ROOT / "build.py", "--model", model, "-o", tmp_path / "new"]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, start_new_session=True)
    while b"collecting" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert sorted(os.listdir(tmp_path)) == ["model.bin", "scratch", "tokenizer.bin"]
    assert len(os.listdir(scratch)) == 1
    build_py("--model", tmp_path / "missing", env=env)  # the next build sweeps
    assert os.listdir(scratch) == []


# ------------------------------------------------------------------ the zipapp


def test_zipapp_runs_and_changes_its_model(zipapp, tmp_path):
    assert output_of(sys.executable, zipapp, *STORY) == expected(*STORY)
    assert output_of(sys.executable, zipapp, *STORY, "--backend", "numpy") == expected(*STORY)
    model = write_files(tmp_path, models.build("gqa", seed=5))
    output_of(sys.executable, zipapp, "--embed", model, "-o", tmp_path / "new.pyz")
    want = run_cli(model, *STORY).stdout.decode()
    assert output_of(sys.executable, tmp_path / "new.pyz", *STORY) == want


def test_zipapp_maps_the_model(zipapp):
    entry = Archive(zipapp).entries["model.bin"]
    code = "import sys; sys.path.insert(0, sys.argv[1]); import run; m = run.load_model(); "
    code += "data = run.engine_module('carried').find_carried()['model.bin']; "
    code += "print(m.backend, type(data).__name__, len(data))"
    words = output_of(sys.executable, "-c", code, zipapp).split()
    assert words[-2:] == ["memoryview", str(entry.size)]
    assert not entry.method


# ------------------------------------------------------------------ the real thing


def golden_rows():
    path = SHARED / "golden" / "run_c.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


@pytest.mark.parametrize("kind", ["executable", "zipapp"])
def test_golden_outputs(kind, request, tmp_path):
    if not golden_rows():
        pytest.skip("there is no ../shared/golden here")
    program = [request.getfixturevalue(kind)]
    program[:0] = [sys.executable] if kind == "zipapp" else []
    for number, row in enumerate(golden_rows()):
        model, tokenizer = SHARED / "models" / row["model"], SHARED / "models" / "tok512.bin"
        assert output_of(*program, model, "-z", tokenizer, *row["args"]) == row["stdout"]
        new = tmp_path / f"run{number}"
        output_of(*program, "--embed", model, "-z", tokenizer, "-o", new)
        alone = [*program[:-1], new]
        assert output_of(*alone, *row["args"]) == row["stdout"]
        new.unlink()


# ------------------------------------------------------------------ bare systems


@functools.cache
def bare_root(suite):
    """Return the directory of a Debian without Python, made once and kept; skips without one."""
    root = CACHE / f"debian-{suite}"
    if root.is_dir():
        return root
    if not shutil.which("mmdebstrap"):
        pytest.skip("mmdebstrap is not installed")
    CACHE.mkdir(parents=True, exist_ok=True)
    aside = CACHE / f"debian-{suite}.{os.getpid()}"
    done = start("mmdebstrap", "--variant=minbase", suite, aside, timeout=600)
    if done.returncode:
        shutil.rmtree(aside, ignore_errors=True)
        pytest.skip(f"mmdebstrap failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    aside.rename(root)
    return root


def in_root(suite, program, *flags, setup="", tmpdir=""):
    """Run a program, alone in an empty directory of a bare system, with no environment."""
    root = bare_root(suite)
    script = 'mount --bind "$1" /mnt; mount -t tmpfs none /mnt/srv; cp "$2" /mnt/srv/run; '
    script += (
        setup + 'shift 2; exec env -i $T "$CHROOT" /mnt sh -c \'cd /srv; exec ./run "$@"\' sh "$@"'
    )
    env = CLEAN | {"CHROOT": shutil.which("chroot") or "/usr/sbin/chroot", "T": tmpdir}
    return mounted(script, root, program, *flags, env=env)


PROC = "mount -t proc proc /mnt/proc; "


@pytest.mark.parametrize("suite", ["bullseye", "bookworm"])
@pytest.mark.parametrize("kind", ["executable", "small", "portable"])
def test_bare_debian(suite, kind, request):
    program = request.getfixturevalue(kind)
    done = in_root(suite, program, "--version", setup=PROC)
    needs = re.search("GLIBC_[0-9.]+|older than", done.stderr)
    if kind != "portable" and needs:  # built on a newer system: it has to say so
        assert done.returncode == 1 and "--portable" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        return
    assert kind != "portable" or not needs, done.stderr
    done = in_root(suite, program, *STORY, setup=PROC)
    assert (done.returncode, done.stdout) == (0, expected(*STORY)), done.stderr
    assert not shutil.which("python3", path=str(bare_root(suite) / "usr" / "bin"))


@pytest.mark.parametrize("kind", ["executable", "portable"])
def test_bare_debian_without_proc_and_memory_files(kind, request):
    """Then it unpacks to TMPDIR, and deletes what it unpacked before the story begins."""
    program = request.getfixturevalue(kind)
    tmpfs = "mount -t tmpfs none /mnt/dev/shm; "
    listing = tmpfs + "trap 'ls /mnt/dev/shm' EXIT; "
    done = in_root("bookworm", program, *STORY, setup=listing.replace("exec ", ""))
    assert (done.returncode, done.stdout) == (0, expected(*STORY)), done.stderr
    noexec = "for d in dev/shm tmp var/tmp; do mount -t tmpfs -o noexec none /mnt/$d; done; "
    done = in_root("bookworm", program, *STORY, setup=noexec)
    assert done.returncode != 0 and "TMPDIR" in done.stderr and len(done.stderr.splitlines()) == 1
    done = in_root("bookworm", program, *STORY, setup=noexec, tmpdir="TMPDIR=/srv")
    assert (done.returncode, done.stdout) == (0, expected(*STORY)), done.stderr
