"""The universal file in every shell, and other systems' executables under emulators.

`make test-everywhere` runs this. What is missing (an emulator, root, the package index) skips its
tests, with the reason. Expected texts: run.py's own, and the golden outputs of run.c.
"""

import concurrent.futures
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from run.engine import programs
from run.engine.archive import Archive
from run.packing import fetch, interpreters, universal
from support import models
from support.cli import CLEAN, ROOT, SHARED, VOCAB, run_cli, write_files

here = f"{sys.platform}-{platform.machine()}"
pytestmark = pytest.mark.skipif(here != "linux-x86_64", reason=f"the emulators are not for {here}")

STORY = ("-t", "0", "-n", "24")
RUNS = [
    STORY,
    ("-t", "0.9", "-s", "3", "-n", "40", "-i", "The cat"),
    ("-t", "0.7", "-p", "0", "-s", "11", "-n", "30", "-i", 'Größe 🎈  "quoted" $HOME * \\ end'),
    ("-t", "0", "-n", "0", "-i", "two\nlines", "--backend", "numpy"),
]
PATHS = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
GOLDEN = SHARED / "golden" / "run_c.jsonl"


def launch(*command, stdin=b"", env=None, cwd=None, timeout=120):
    """Run a program to its end; return its CompletedProcess, in bytes."""
    return subprocess.run(
        list(map(os.fspath, command)),
        input=stdin,
        capture_output=True,
        env=CLEAN | {"PATH": PATHS} | (env or {}),
        cwd=cwd,
        timeout=timeout,
        check=False,
    )


def text_of(done):
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def need(*programs):
    """Return the first of some programs that is installed; skips without one."""
    for program in programs:
        if found := shutil.which(program, path=PATHS):
            return found
    pytest.skip(f"{programs[0]} is not installed (make emulators)")


def need_root():
    if os.geteuid() != 0:
        pytest.skip("needs root")


# --------------------------------------------------------------------------- what is built


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A directory with a tiny model and its tokenizer."""
    return write_files(tmp_path_factory.mktemp("model"), models.build("gqa", vocab=VOCAB)).parent


def build(output, *arguments):
    """Run build.py; skips where what it needs cannot be had."""
    command = [sys.executable, str(ROOT / "build.py"), *map(str, arguments), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, env=CLEAN, check=False)
    for missing in ("cannot fetch", "need pip", "is missing", "no C compiler", "Python 3.11"):
        if done.returncode and missing in done.stderr:
            pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="session")
def com(files, tmp_path_factory):
    """The universal file."""
    return build(tmp_path_factory.mktemp("com") / "run.com", "--universal", "--model", model(files))


@pytest.fixture(scope="session")
def exe(files, tmp_path_factory):
    """The executable for Windows."""
    output = tmp_path_factory.mktemp("exe") / "run.exe"
    return build(output, "--target", "windows-x86_64", "--model", model(files))


@pytest.fixture(scope="session")
def arm(files, tmp_path_factory):
    """The executable for Linux on aarch64."""
    output = tmp_path_factory.mktemp("arm") / "run"
    return build(output, "--target", "linux-aarch64", "--model", model(files))


def model(files):
    return files / "model.bin"


@pytest.fixture(scope="session")
def texts(files):
    """{arguments: what run.py prints for them}"""
    return {run: text_of(run_cli(model(files), *run)) for run in RUNS}


@pytest.fixture
def home(tmp_path):
    """The environment of a user with an empty home, and with directories of their own."""
    shutil.rmtree(f"/dev/shm/run-{os.getuid()}", ignore_errors=True)  # the cache's last resort
    names = {"HOME": "home", "XDG_CACHE_HOME": "cache", "TMPDIR": "tmp"}
    for name in names.values():
        (tmp_path / name).mkdir()
    return {key: str(tmp_path / name) for key, name in names.items()}


def program_name(com):
    """Return the name that the universal file gives this machine's program in the cache."""
    data = program(com)[1]
    return universal.hashlib.sha256(data).hexdigest()


def program(com, system="linux-x86_64"):
    """Return (offset, bytes) of a program inside the universal file."""
    archive = Archive(com)
    return archive.entries[f"program/{system}"].offset, archive.read(f"program/{system}")


def kept(home, com):
    """Return the path of the program in the user's cache."""
    return Path(home["XDG_CACHE_HOME"]) / "run" / program_name(com)


# --------------------------------------------------------------------------- every shell

SHELLS = ["bash", "dash", "zsh", "ksh", "busybox sh", "fish"]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("run", RUNS, ids=range(len(RUNS)))
def test_typed_into_a_shell(com, texts, home, shell, run):
    program, *words = shell.split()
    program = need(program, f"{program}-static")
    if program.endswith("fish"):
        line = " ".join("'" + w.replace("\\", "\\\\").replace("'", "\\'") + "'" for w in run)
    else:
        line = shlex.join(run)
    done = launch(program, *words, "-c", f"./run.com {line}", env=home, cwd=com.parent)
    assert text_of(done) == texts[run]
    assert kept(home, com).is_file()


@pytest.mark.parametrize("shell", [*SHELLS[:-1], "mksh", "sh"])
def test_given_to_a_shell(com, texts, home, shell):
    program, *words = shell.split()
    done = launch(need(program), *words, "run.com", *STORY, env=home, cwd=com.parent)
    assert text_of(done) == texts[STORY]


WAYS = {
    "path": ["dash", "-c", 'PATH="$PWD:$PATH"; run.com "$@"', "dash"],
    "xargs": ["xargs", "-a", "/dev/null", "./run.com"],
    "find": ["find", "run.com", "-exec", "./{}", "ARGUMENTS", ";"],
    "perl": ["perl", "-e", "exit system(@ARGV) >> 8", "./run.com"],
    "env -i": ["env", "-i", "/bin/sh", "run.com"],
    "nohup": ["nohup", "sh", "run.com"],
    "timeout": ["timeout", "60", "sh", "run.com"],
    "python": [sys.executable, "run.com"],
    "make": ["make", "-sf", "-", "ARGUMENTS"],  # s: make test-everywhere is a make around it
}


@pytest.mark.parametrize("way", WAYS)
def test_started_by(com, texts, home, way):
    command, stdin = list(WAYS[way]), b""
    if way == "make":
        command, stdin = command[:3], ("all:\n\t@./run.com " + shlex.join(STORY)).encode()
    elif "ARGUMENTS" in command:
        at = command.index("ARGUMENTS")
        command[at : at + 1] = STORY
    else:
        command += STORY
    if way != "python":
        command[0] = need(command[0])
    done = launch(*command, stdin=stdin, env=home, cwd=com.parent)
    assert text_of(done) == texts[STORY]


@pytest.mark.parametrize("name", ["run", "a b.com", "größe 🎈.com", "-x.com", 'it\'s "$HOME".com'])
def test_names(com, texts, home, tmp_path, name):
    """Other names, a symbolic link, and a directory that cannot be written."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / name).symlink_to(com)
    for path in (tmp_path / "dir" / name, Path("dir", name)):
        done = launch("/bin/sh", path, *STORY, env=home, cwd=tmp_path)
        assert text_of(done) == texts[STORY]


def golden_runs():
    """Return [(arguments, text)] for the models of the golden outputs.

    The texts are run.py's; that they are run.c's is for test_golden.py.
    """
    if not GOLDEN.is_file():
        pytest.skip("no golden outputs beside the repository")
    place, runs = SHARED / "models", []
    for line in map(json.loads, GOLDEN.read_text(encoding="utf-8").splitlines()):
        run = (place / line["model"], "-z", place / "tok512.bin", *line["args"])
        runs.append((run, text_of(run_cli(*run))))
    return runs


def test_golden(com, home):
    for run, text in golden_runs():
        assert text_of(launch("/bin/sh", com, *run, env=home)) == text


def test_exit_codes_and_streams(com, home, texts):
    """What the program returns, reads and says passes through the script."""
    assert launch("/bin/sh", com, "--version", env=home).returncode == 0
    wrong = launch("/bin/sh", com, "--nonsense", env=home)
    assert (wrong.returncode, wrong.stdout) == (2, b"") and b"--nonsense" in wrong.stderr
    missing = launch("/bin/sh", com, "nowhere.bin", env=home)
    assert missing.returncode == 1 and len(missing.stderr.splitlines()) == 1
    prompt = RUNS[1][-1].encode()
    piped = launch("/bin/sh", com, *RUNS[1][:-1], "-", stdin=prompt, env=home)
    assert text_of(piped) == texts[RUNS[1]]


@pytest.mark.parametrize("sent, status", [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_signals(com, home, sent, status):
    """Ctrl-C and kill reach the program while it waits for input, and leave nothing behind."""
    command = ["/bin/sh", str(com), "-m", "chat"]
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=CLEAN | {"PATH": PATHS} | home,
        start_new_session=True,
    )
    assert os.read(child.stdout.fileno(), 5) == b"User:"
    time.sleep(0.5)  # until it reads
    os.killpg(child.pid, sent)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == status, errors
    assert b"Traceback" not in errors
    assert os.listdir(home["TMPDIR"]) == []


def test_other_systems_take_python(com, texts, home, tmp_path):
    """A Mac has no program inside: its python3 runs the file. Without python3 it says so."""
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "uname").write_text("#!/bin/sh\necho Darwin arm64\n")
    (fake / "uname").chmod(0o755)
    for tool in ("head", "tail"):
        (fake / tool).symlink_to(need(tool))
    alone = home | {"PATH": str(fake)}
    done = launch("/bin/sh", com, *STORY, env=alone)
    assert done.returncode == 1 and b"no python3" in done.stderr and b"Darwin arm64" in done.stderr
    (fake / "python3").symlink_to(sys.executable)
    assert text_of(launch("/bin/sh", com, *STORY, env=alone)) == texts[STORY]


# --------------------------------------------------------------------------- the cache under attack


def attacked(com, home, texts, *words):
    """Start the file; the story must be right, and stderr must contain the words."""
    done = launch("/bin/sh", com, *STORY, env=home)
    assert text_of(done) == texts[STORY]
    assert b"owned" not in done.stdout + done.stderr
    for word in words:
        assert word.encode() in done.stderr, done.stderr
    return done


def plant(path):
    """A foreign program where the file's own is expected."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\necho owned\n")
    path.chmod(0o755)


def test_cache_is_private(com, home, texts):
    attacked(com, home, texts)
    path = kept(home, com)
    assert path.stat().st_mode & 0o777 == 0o700
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(path.parent) == [path.name]
    before = path.stat().st_mtime_ns
    done = attacked(com, home, texts)
    assert path.stat().st_mtime_ns == before
    assert b"run: " not in done.stderr


def test_directory_of_another_user(com, home, texts):
    need_root()
    plant(kept(home, com))
    for path in (kept(home, com), kept(home, com).parent):
        os.chown(path, 12345, 12345)
    attacked(com, home, texts, "cannot use", "open to others, or theirs")
    assert kept(home, com).read_text().endswith("owned\n")


def test_all_directories_of_another_user(com, home, texts):
    """TMPDIR/run-UID is taken, too: /dev/shm is left."""
    need_root()
    other = Path(home["TMPDIR"], f"run-{os.getuid()}")
    plant(other / program_name(com))
    plant(kept(home, com))
    for path in (other, kept(home, com).parent):
        os.chown(path, 12345, 12345)
    done = attacked(com, home, texts, str(other))
    assert done.stderr.count(b"cannot use") == 2


def test_program_of_another_user(com, home, texts):
    need_root()
    plant(kept(home, com))
    kept(home, com).parent.chmod(0o700)
    os.chown(kept(home, com), 12345, 12345)
    attacked(com, home, texts)
    assert kept(home, com).stat().st_uid == os.getuid()


def test_directory_open_to_others(com, home, texts):
    plant(kept(home, com))
    kept(home, com).parent.chmod(0o777)
    attacked(com, home, texts, "cannot use", "open to others")


def test_linked_directory(com, home, texts, tmp_path):
    plant(tmp_path / "elsewhere" / program_name(com))
    kept(home, com).parent.symlink_to(tmp_path / "elsewhere")
    attacked(com, home, texts, "cannot use")


@pytest.mark.parametrize("damage", ["other", "cut", "empty", "bit"])
def test_wrong_program(com, home, texts, damage):
    """A program of our own that is not the right one is replaced, and that is said."""
    path, data = kept(home, com), bytearray(program(com)[1])
    plant(path)
    path.parent.chmod(0o700)
    data[len(data) // 2] ^= 1
    damaged = {"cut": data[:4096], "empty": b"", "bit": data}
    if damage in damaged:
        path.write_bytes(damaged[damage])
    attacked(com, home, texts, "not the right program: writing it again")
    assert path.read_bytes() == program(com)[1]
    assert b"run: " not in attacked(com, home, texts).stderr


def test_linked_program(com, home, texts, tmp_path):
    """A symbolic link is replaced; what it points to stays as it was."""
    plant(tmp_path / "precious")
    kept(home, com).parent.mkdir()
    kept(home, com).parent.chmod(0o700)
    kept(home, com).symlink_to(tmp_path / "precious")
    attacked(com, home, texts)
    assert not kept(home, com).is_symlink()
    assert (tmp_path / "precious").read_text().endswith("owned\n")


def test_planted_temporary_names(com, home, texts, tmp_path):
    """Old leftovers of killed starts go away; young ones may belong to somebody at work."""
    folder = kept(home, com).parent
    folder.mkdir(mode=0o700)
    (folder / "abc.new.1").write_bytes(b"old")
    os.utime(folder / "abc.new.1", (1e9, 1e9))
    (folder / "abc.new.2").write_bytes(b"young")
    attacked(com, home, texts)
    assert sorted(os.listdir(folder)) == sorted([program_name(com), "abc.new.2"])


@pytest.fixture
def mounted(home):
    """A function that mounts a small file system on the user's cache, with options."""
    need_root()
    cache = home["XDG_CACHE_HOME"]

    def mount(options):
        done = launch("mount", "-t", "tmpfs", "-o", options, "tmpfs", cache)
        if done.returncode:
            pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")

    yield mount
    launch("umount", cache)


@pytest.mark.parametrize(
    "options, word",
    [("ro", "Read-only file system"), ("size=8k", "No space left"), ("noexec", "noexec")],
)
def test_bad_home(com, home, texts, mounted, options, word):
    """Read-only, full, noexec: it says so, and uses TMPDIR."""
    mounted(options)
    attacked(com, home, texts, "cannot use", word)
    assert (Path(home["TMPDIR"]) / f"run-{os.getuid()}" / program_name(com)).is_file()
    assert b"run: " not in attacked(com, home, texts).stderr  # said once is enough


def test_no_home(com, texts, tmp_path):
    for env in ({"TMPDIR": str(tmp_path)}, {"HOME": "/proc/none", "TMPDIR": str(tmp_path)}):
        assert text_of(launch("/bin/sh", com, *STORY, env=env)) == texts[STORY]


def test_home_is_a_file(com, home, texts, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    attacked(com, home | {"XDG_CACHE_HOME": str(tmp_path / "file")}, texts, "Not a directory")


def test_first_starts_at_once(com, home, texts):
    command = ["/bin/sh", str(com), *STORY]
    env = CLEAN | {"PATH": PATHS} | home
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    children = [subprocess.Popen(command, env=env, **pipes) for _ in range(8)]
    for child in children:
        output, errors = child.communicate(timeout=120)
        assert (child.returncode, output) == (0, texts[STORY]), errors
    assert os.listdir(kept(home, com).parent) == [program_name(com)]


def test_damaged_file(com, home, tmp_path):
    """A bad copy of the universal file starts nothing."""
    bad = tmp_path / "bad.com"
    shutil.copy(com, bad)
    with open(bad, "r+b") as file:
        file.seek(program(com)[0] + 5000)
        file.write(b"damaged")
    done = launch("/bin/sh", bad, *STORY, env=home)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"is damaged: copy it again" in done.stderr
    assert os.listdir(Path(home["XDG_CACHE_HOME"]) / "run") == []


def test_no_tool_for_hashes(com, home, texts, tmp_path):
    """Without sha256sum and the like the bytes are compared: a wrong program is still found."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in "head tail uname ls wc dd cmp id mkdir find mv rm chmod".split():
        (tools / tool).symlink_to(need(tool))
    bare = home | {"PATH": str(tools)}
    attacked(com, bare, texts)
    plant(kept(home, com))
    attacked(com, bare, texts, "not the right program")


# --------------------------------------------------------------------------- changing the file


@pytest.fixture(scope="session")
def other(tmp_path_factory):
    """Another model."""
    return write_files(tmp_path_factory.mktemp("other"), models.build("mha", 5, vocab=VOCAB))


def test_embed(com, other, home, tmp_path):
    """--embed makes another universal file, which every system can still start."""
    new = tmp_path / "new.com"
    text_of(launch("/bin/sh", com, "--embed", other, "-o", new, env=home))
    expected = text_of(run_cli(other, *STORY))
    assert text_of(launch("/bin/sh", new, *STORY, env=home)) == expected
    assert text_of(launch(sys.executable, new, *STORY, env=home)) == expected
    assert program(new) == program(com)


def test_assimilate(com, texts, home, tmp_path):
    """--assimilate writes a program that needs neither shell nor cache."""
    plain = tmp_path / "plain"
    text_of(launch("/bin/sh", com, "--assimilate", "-o", plain, env=home))
    assert plain.read_bytes()[:4] == b"\x7fELF"
    assert text_of(launch(plain, *STORY)) == texts[STORY]
    again = launch(plain, "--assimilate", "-o", tmp_path / "again")
    assert again.returncode == 1 and b"universal files" in again.stderr


def test_found_by_bash_alone(com, home):
    """`bash run.com` looks in PATH, too, but does not tell where it found the file: it fails."""
    path = {"PATH": f"{com.parent}:{PATHS}"}
    done = launch("bash", "run.com", *STORY, env=home | path, cwd="/")
    assert (done.returncode, done.stdout) == (1, b"")


def test_parts_for_windows(com, exe):
    """What --assimilate takes for Windows is the bootloader as PyInstaller made it."""
    head, pkg = programs.program_for("windows-x86_64", Archive(com))
    archive = Archive(exe)
    assert head == exe.read_bytes()[: archive.head_size] == universal.windows_of(exe)[0]
    assert pkg == "app.pkg"
    with pytest.raises(universal.UniversalError, match="no program that build.py made"):
        universal.windows_of(com)


def test_payload(com, texts, home, files, tmp_path):
    """A finished program of another system can be put in; a launcher gives up its own copy."""
    plain = tmp_path / "plain"
    programs.assimilate(plain, com)
    head, source = universal.program_of(plain)
    assert head == program(com)[1][: len(head)] and source.size > 1e7


# --------------------------------------------------------------------------- Windows, under wine


@pytest.fixture(scope="session")
def wine(tmp_path_factory):
    """A function that runs a program for Windows under wine and returns its CompletedProcess."""
    program = need("wine64", "/usr/lib/wine/wine64")
    env = {"WINEPREFIX": str(tmp_path_factory.mktemp("wine")), "WINEDEBUG": "-all"}
    if launch(program, "wineboot", "-i", env=env, timeout=300).returncode:
        pytest.skip("wine does not start")

    def run(*command, **options):
        return launch(program, *command, env=env, timeout=300, **options)

    yield run
    run("wineserver", "-k")


def windows_text(done):
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.replace(b"\r\n", b"\n")


@pytest.mark.parametrize("run", RUNS, ids=range(len(RUNS)))
def test_windows(wine, exe, texts, run):
    assert windows_text(wine(exe, *run)) == texts[run]


def test_windows_universal(wine, com, texts):
    for run in RUNS[:2]:
        assert windows_text(wine(com, *run)) == texts[run]


def test_windows_kernel(wine, exe):
    """The C kernel for Windows is the one that runs."""
    assert b"c (" in wine(exe, "--info").stdout


def test_windows_golden(wine, exe):
    for run, text in golden_runs():
        assert windows_text(wine(exe, *run)) == text


def test_windows_paths(wine, exe, files, texts, tmp_path):
    """Drive letters, backslashes, spaces and letters beyond ASCII."""
    place = tmp_path / "ä dir"
    shutil.copytree(files, place)
    letter = "Z:" + str(place / "model.bin").replace("/", "\\")
    for path in (letter, "ä dir\\model.bin", letter.replace("\\", "/")):
        assert windows_text(wine(exe, path, *STORY, cwd=tmp_path)) == texts[STORY]
    done = wine(exe, "nowhere\\model.bin", cwd=tmp_path)
    assert done.returncode == 1 and b"nowhere\\model.bin" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_windows_input(wine, exe, files, end):
    """UTF-8 and both line ends on standard input, for a prompt and for a chat."""
    prompt = "Größe 🎈".encode()
    expected = text_of(run_cli(model(files), *STORY, "-i", "-", stdin=prompt + b"\n"))
    assert windows_text(wine(exe, *STORY, "-i", "-", stdin=prompt + end)) == expected
    expected = run_cli(model(files), *STORY, "-m", "chat", stdin=prompt + b"\n").stdout
    assert windows_text(wine(exe, *STORY, "-m", "chat", stdin=prompt + end)) == expected


def test_windows_embed(wine, exe, other, tmp_path):
    done = wine(exe, "--embed", other, "-o", "new.exe", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = text_of(run_cli(other, *STORY))
    assert windows_text(wine(tmp_path / "new.exe", *STORY)) == expected


def test_windows_assimilate(wine, com, texts, tmp_path):
    done = wine(com, "--assimilate", "-o", "plain.exe", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert windows_text(wine(tmp_path / "plain.exe", *STORY)) == texts[STORY]


def test_windows_leaves_nothing(wine, exe, texts, tmp_path):
    """No unpacked files stay behind."""
    temp = "Z:" + str(tmp_path).replace("/", "\\")
    script = f"set TEMP={temp}& set TMP={temp}& {exe.name} -t 0 -n 24"
    shutil.copy(exe, tmp_path.parent / exe.name)
    done = wine("cmd", "/c", script, cwd=tmp_path.parent)
    assert windows_text(done) == texts[STORY]
    assert os.listdir(tmp_path) == []


# --------------------------------------------------------------------------- aarch64, under qemu

ARM_PACKAGES = "libc6 libgcc-s1 libstdc++6 zlib1g busybox-static".split()
BINFMT = Path("/proc/sys/fs/binfmt_misc")


def apt(*arguments, state, **options):
    """apt-get for arm64, with lists of its own."""
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State::lists": state / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": state,
    }
    flags = [f"-o{name}={value}" for name, value in settings.items()]
    return launch("apt-get", "-qq", *flags, *arguments, timeout=600, **options)


@pytest.fixture(scope="session")
def arm_root(tmp_path_factory):
    """A bare root directory of Debian for arm64, which this kernel can run programs of."""
    need_root()
    need("qemu-aarch64-static")
    need("apt-get")
    root = fetch.cache_dir() / "arm64-root"
    if not (root / "bin" / "busybox").exists():
        state = tmp_path_factory.mktemp("apt")
        (state / "lists" / "partial").mkdir(parents=True)
        apt("update", state=state)
        done = apt("download", *ARM_PACKAGES, state=state, cwd=state)
        if done.returncode:
            pytest.skip(f"no arm64 packages: {done.stderr.decode().strip()}")
        for package in sorted(state.glob("*.deb")):
            launch("dpkg-deb", "-x", package, root)
    with registered_qemu():
        for name in ("proc", "tmp", "home", "dev"):
            (root / name).mkdir(exist_ok=True)
        launch("mknod", "-m", "666", root / "dev" / "null", "c", "1", "3")
        launch("chroot", root, "/bin/busybox", "--install", "-s", "/bin")
        launch("mount", "-t", "proc", "proc", root / "proc")
        yield root
        launch("umount", root / "proc")


class registered_qemu:
    """The kernel starts aarch64 programs with qemu, also in other root directories (flag F)."""

    def __enter__(self):
        self.own = []
        if not (BINFMT / "register").exists():
            done = launch("mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT)
            if done.returncode:
                pytest.skip(f"no binfmt_misc: {done.stderr.decode().strip()}")
        if not (BINFMT / "qemu-aarch64").exists():
            rule = Path("/usr/lib/binfmt.d/qemu-aarch64.conf").read_bytes()
            (BINFMT / "register").write_bytes(rule)
            self.own = [BINFMT / "qemu-aarch64"]

    def __exit__(self, *_):
        for rule in self.own:
            rule.write_text("-1")


def in_arm(root, *command, **options):
    words = ("env", "-i", "PATH=/bin:/usr/bin", "HOME=/home", *command)
    return launch(need("chroot"), root, *words, timeout=300, **options)


@pytest.mark.parametrize("run", RUNS, ids=range(len(RUNS)))
def test_arm(arm_root, arm, texts, run):
    shutil.copy(arm, arm_root / "run")
    assert text_of(in_arm(arm_root, "/run", *run)) == texts[run]


def test_arm_kernel(arm_root, arm):
    shutil.copy(arm, arm_root / "run")
    assert b"c (" in in_arm(arm_root, "/run", "--info").stdout


def test_arm_universal(arm_root, com, texts):
    shutil.rmtree(arm_root / "home")
    (arm_root / "home").mkdir()
    shutil.copy(com, arm_root / "run.com")
    for run in RUNS[:2]:
        assert text_of(in_arm(arm_root, "sh", "/run.com", *run)) == texts[run]
    assert len(os.listdir(arm_root / "home" / ".cache" / "run")) == 1


def test_arm_without_proc(arm_root, arm, texts):
    """A root without /proc: the launcher unpacks to files, and removes them."""
    shutil.copy(arm, arm_root / "run")
    launch("umount", arm_root / "proc")
    try:
        assert text_of(in_arm(arm_root, "/run", *STORY)) == texts[STORY]
        assert os.listdir(arm_root / "tmp") == []
    finally:
        launch("mount", "-t", "proc", "proc", arm_root / "proc")


# --------------------------------------------------------------------------- assembling, downloads


def refused(*arguments):
    """Return the one line in which build.py must refuse."""
    command = [sys.executable, str(ROOT / "build.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=CLEAN, check=False)
    assert done.returncode == 1, done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "target, words",
    [
        ("macos-arm64", ["--python ARCHIVE", "build there"]),
        ("linux-riscv64", ["linux-riscv64", "known targets are"]),
        ("amiga-m68k", ["amiga-m68k", "known targets are"]),
    ],
)
def test_refusals(files, tmp_path, target, words):
    line = refused("--target", target, "--model", model(files), "-o", tmp_path / "out")
    for word in words:
        assert word in line
    assert os.listdir(tmp_path) == []


def test_offline(files, tmp_path, exe, monkeypatch):
    """With a warm cache nothing touches the network, and the same bytes come out."""
    monkeypatch.setitem(CLEAN, "PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    build(tmp_path / "again.exe", "--target", "windows-x86_64", "--model", model(files))
    assert (tmp_path / "again.exe").read_bytes() == exe.read_bytes()


@pytest.fixture
def index(monkeypatch, tmp_path):
    """A package index of one file, which counts its answers: [(status, bytes sent), ...]."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    answers, data = [], bytes(range(256)) * 1000

    class Reply:
        def __init__(self, url, headers):
            start = int(headers.get("Range", "bytes=0-")[6:-1])
            self.headers = {"content-type": "application/json"}
            self.status_code, self.body = 206 if start else 200, data[start:]
            if url.endswith("/f"):
                answers.append((self.status_code, len(self.body)))

        def json(self):
            return {"files": [{"filename": "f", "url": "http://index/f"}]}

        def raise_for_status(self):
            pass

        def iter_content(self, size):
            yield from (self.body[i : i + size] for i in range(0, len(self.body), size))

    class Session:
        def get(self, url, headers=None, stream=False):
            return Reply(url, headers or {})

    monkeypatch.setattr(fetch, "pip_session", lambda: (Session(), ["http://index"]))
    digest = universal.hashlib.sha256(data).hexdigest()
    return fetch.PyPI("project", "f", digest), data, answers


def test_fetch(index):
    item, data, answers = index
    assert fetch.fetch(item).read_bytes() == data
    assert fetch.fetch(item).read_bytes() == data
    assert answers == [(200, len(data))]


def test_fetch_at_once(index):
    """Builds that start together download a file once."""
    item, data, answers = index
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(fetch.fetch, [item] * 8))
    assert [path.read_bytes() for path in paths] == [data]
    assert answers == [(200, len(data))]


def test_fetch_resumes(index):
    item, data, answers = index
    (fetch.cache_dir() / "f.part").write_bytes(data[:1000])
    assert fetch.fetch(item).read_bytes() == data
    assert answers == [(206, len(data) - 1000)]


def test_fetch_mends_its_cache(index):
    item, data, _ = index
    (fetch.cache_dir() / "f").write_bytes(b"damaged")
    assert fetch.fetch(item).read_bytes() == data


@pytest.mark.usefixtures("index")
def test_fetch_refuses_other_bytes():
    with pytest.raises(fetch.FetchError, match="not used"):
        fetch.fetch(fetch.PyPI("project", "f", "0" * 64))
    assert os.listdir(fetch.cache_dir()) == [".f.lock"]


@pytest.mark.usefixtures("index")
def test_fetch_without_the_file():
    with pytest.raises(fetch.FetchError, match="does not list"):
        fetch.fetch(fetch.PyPI("project", "g", "0" * 64))


def test_archive_that_is_none(tmp_path, files):
    (tmp_path / "junk.tar.gz").write_bytes(b"junk")
    with pytest.raises(interpreters.AssembleError, match=r"cannot read .*junk\.tar\.gz"):
        interpreters.read_archive(tmp_path / "junk.tar.gz")
