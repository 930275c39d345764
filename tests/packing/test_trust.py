"""What is written, replaced and removed: only what is this project's own, whoever is beside it."""

import os
import random
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from packed import (
    STORY,
    limited,
    one_line,
    start,
    universal_file,
)

import build
import run
from run.engine import archive, carried, library, programs, scratch
from run.engine.archive import Archive, ArchiveError, Member
from run.packing import compilers, fetch, universal
from support import models
from support.cli import CLEAN, ROOT, write_files

posix = pytest.mark.skipif(os.name != "posix", reason="this is about POSIX systems")
linux = pytest.mark.skipif(sys.platform != "linux", reason="these programs are for Linux")
LONG_AGO = 1e9


@pytest.fixture
def files(tmp_path):
    """A tiny model and its tokenizer, in a directory of their own."""
    (tmp_path / "files").mkdir()
    return write_files(tmp_path / "files", models.build()).parent


def contents(folder):
    """Return what lies in a directory and below: {path: bytes, or None for a directory}."""
    found = sorted(Path(folder).rglob("*"))
    return {str(p.relative_to(folder)): None if p.is_dir() else p.read_bytes() for p in found}


# ------------------------------------------------------------------ temporary directories


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The directory of temporary files."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(place))
    return place


def left_behind(place, name="run-build-abcdefgh", text=scratch.TEXT):
    """Make what a killed process leaves."""
    place /= name
    place.mkdir(mode=0o700)
    (place / scratch.MARK).write_bytes(text)
    (place / scratch.MARK).chmod(0o600)
    (place / "deep").mkdir()
    (place / "deep" / "file").write_bytes(b"file")
    return place


def sweep():
    with scratch.directory("run-build-"):
        pass


def test_what_a_killed_process_left_is_removed(temporary):
    left_behind(temporary)
    (temporary / "run-build-abcdefgh" / "deep").chmod(0o500)
    sweep()
    assert os.listdir(temporary) == []


@pytest.mark.parametrize("name", ["run-build-notes-2024", "run-build-1-2", "run-build-abc", "mine"])
def test_other_names_stay(temporary, name):
    left_behind(temporary, name)
    before = contents(temporary)
    sweep()
    assert contents(temporary) == before


@posix
@pytest.mark.parametrize(
    "what", ["no mark", "other text", "longer", "link", "open", "owner", "mark"]
)
def test_what_is_not_provably_ours_stays(temporary, tmp_path, what):
    place = left_behind(temporary)
    mark = place / scratch.MARK
    if what == "no mark":
        mark.unlink()
    elif what == "other text":
        mark.write_bytes(b"mine")
    elif what == "longer":
        mark.write_bytes(scratch.TEXT * 2)
    elif what == "link":
        place.rename(tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
    elif what == "open":
        place.chmod(0o777)
    elif what == "owner":
        if os.geteuid():
            pytest.skip("needs root")
        os.chown(place, 12345, 12345)
    elif what == "mark":
        mark.rename(tmp_path / "mark")
        mark.symlink_to(tmp_path / "mark")
    before = contents(temporary), contents(tmp_path)
    sweep()
    assert (contents(temporary), contents(tmp_path)) == before


HOLD = """
import sys, time
sys.path[:0] = sys.argv[1:2]
import run
from run.engine import scratch
place, _ = scratch.create("run-build-")
print(place, flush=True)
time.sleep(60)
"""


def test_a_directory_at_work_stays(temporary):
    env = CLEAN | {"TMPDIR": str(temporary), "TEMP": str(temporary)}
    command = [sys.executable, "-c", HOLD, ROOT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        place = Path(process.stdout.readline().strip())
        try:
            sweep()
            assert place.parent == temporary and (place / scratch.MARK).exists()
        finally:
            process.kill()
    sweep()
    assert os.listdir(temporary) == []


@posix
def test_a_child_that_goes_on_keeps_it(temporary):
    """A killed build's compiler may still write there."""
    place, mark = scratch.create("run-build-")
    child = subprocess.Popen(["sleep", "60"], pass_fds=scratch.for_children())
    scratch.held.remove(mark)
    os.close(mark)  # as if this process had ended
    sweep()
    assert place.exists()
    child.kill()
    child.wait()
    sweep()
    assert os.listdir(temporary) == []


COPIES = """
import sys
sys.path[:0] = sys.argv[1:2]
import run
from run.engine import library
for i in range(60):
    path = library.temporary_copy("kernel", b"data")
    assert path.read_bytes() == b"data", path
    library.remove_copies()
"""


def test_kernels_of_concurrent_starts_stay(temporary):
    env = CLEAN | {"TMPDIR": str(temporary), "TEMP": str(temporary)}
    command = [sys.executable, "-c", COPIES, ROOT]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE, env=env) for _ in range(6)]
    for child in children:
        _, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors.decode()[-500:]
    assert os.listdir(temporary) == []


def test_a_kernel_that_does_not_load_is_removed(temporary, monkeypatch):
    monkeypatch.setattr(library, "library_path", lambda name: library.temporary_copy(name, b"junk"))
    with pytest.raises(run.ModelError, match="cannot be loaded"):
        library.load.__wrapped__()
    assert os.name != "posix" or os.listdir(temporary) == []


# ------------------------------------------------------------------ files that are written


@pytest.fixture(params=["nameless", "named"])
def way(request, monkeypatch):
    """Both ways to write a file aside: without a name (Linux), and with a random one."""
    if request.param == "named":
        monkeypatch.setattr(archive, "nameless", lambda folder: None)
    return request.param


def written(output, data=b"data"):
    archive.write(output, b"head", [Member("member", data)])
    assert Archive(output).read("member") == data


@pytest.mark.usefixtures("way")
def test_a_planted_partial_file_is_not_used(tmp_path):
    planted = tmp_path / f".new.{os.getpid()}.part"
    planted.write_bytes(b"owned")
    written(tmp_path / "new")
    assert contents(tmp_path).keys() == {"new", planted.name}
    assert planted.read_bytes() == b"owned"


@pytest.mark.usefixtures("way")
def test_a_name_that_is_taken_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "part_name", lambda folder: folder / ".part")
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / ".part").symlink_to(tmp_path / "precious")
    (tmp_path / "new").write_bytes(b"old")
    with pytest.raises(ArchiveError, match="File exists"):
        written(tmp_path / "new")
    want = {"precious": b"precious", ".part": b"precious", "new": b"old"}
    assert contents(tmp_path) == want


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("target", ["precious", "nowhere"])
def test_links_are_not_followed(tmp_path, target):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "new").symlink_to(target)
    with pytest.raises(ArchiveError, match=f"a link to {target}"):
        written(tmp_path / "new")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["new", "precious"]


@posix
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("mask, mode", [(0o022, 0o755), (0o077, 0o700), (0o027, 0o750)])
def test_the_umask_counts(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        written(tmp_path / "new")
        written(tmp_path / "new")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode


@pytest.mark.usefixtures("way")
def test_nothing_is_left_by_an_error(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"x")
    with pytest.raises(ArchiveError, match="became shorter"):
        archive.write(tmp_path / "new", b"", [Member("m", archive.Slice(source, 0, 9))])
    assert os.listdir(tmp_path) == ["source"]


@posix
def test_another_user_cannot_plant_the_output(tmp_path):
    """As the issue had it: nobody's file was renamed to root's output, and stayed nobody's."""
    if os.geteuid():
        pytest.skip("needs root")
    planted = tmp_path / f".new.{os.getpid()}.part"
    planted.write_bytes(b"owned")
    os.chown(planted, 65534, 65534)
    written(tmp_path / "new")
    assert (tmp_path / "new").stat().st_uid == 0


# ------------------------------------------------------------------ what is read is not replaced


def refused(capsys, *arguments):
    """Return the last line of a build that must be refused."""
    assert build.main(list(map(str, arguments))) == 1
    return capsys.readouterr().err.splitlines()[-1]


LINKS = {"itself": None, "hard link": os.link}


@pytest.mark.parametrize("kind", [[], ["--zipapp"], ["--universal"], ["--portable"]])
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("name", ["model.bin", "tokenizer.bin", "given", "payload"])
def test_build_does_not_replace_what_it_reads(files, capsys, kind, link, name):
    for other in "given", "payload":
        (files / other).write_bytes(b"x")
    before = contents(files)
    output = files / name
    if LINKS[link]:
        output = files / "other"
        LINKS[link](files / name, output)
    inputs = ["--model", files / "model.bin", "--python", files / "given"]
    inputs += ["--payload", f"macos-arm64={files / 'payload'}"]
    assert "is read for this" in refused(capsys, *kind, *inputs, "-o", output)
    assert all(contents(files)[key] == value for key, value in before.items())


def test_build_does_not_replace_itself(files, capsys):
    model = ["--model", files / "model.bin"]
    for path in "build.py", "run.py", "embed/engine/archive.py", "embed/packing/pins.json":
        before = (ROOT / path).read_bytes()
        assert "is read for this" in refused(capsys, *model, "-o", ROOT / path)
        assert (ROOT / path).read_bytes() == before


@pytest.fixture
def running(tmp_path, files, monkeypatch):
    """A file that --embed takes for the running program: a zip with a model."""
    program = tmp_path / "program"
    tokenizer = Member("tokenizer.bin", files / "tokenizer.bin")
    model = programs.model_member(files / "model.bin")
    archive.write(program, b"head", [model, tokenizer, Member("app.pkg", b"pkg")])
    monkeypatch.setattr(programs, "running_archive", lambda: program)
    return program


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("name", ["model.bin", "tokenizer.bin"])
def test_embed_does_not_replace_what_it_reads(files, link, name):
    output = files / name
    if LINKS[link]:
        output = files / "other"
        LINKS[link](files / name, output)
    before = contents(files)
    with pytest.raises(run.ModelError, match="is read for this"):
        programs.embed(files / "model.bin", files / "tokenizer.bin", output)
    assert contents(files) == before


@pytest.mark.usefixtures("running")
def test_embed_says_what_it_replaces(files, tmp_path):
    assert "in place of" not in programs.embed(files / "model.bin", None, tmp_path / "new")
    assert "in place of" in programs.embed(files / "model.bin", None, tmp_path / "new")


def test_build_says_what_it_replaces(files, capsys, monkeypatch):
    monkeypatch.setattr(build, "model_members", lambda *_: exec("raise build.BuildError('stop')"))
    (files / "new").write_bytes(b"old")
    build.main(["--model", str(files / "model.bin"), "-o", str(files / "new")])
    assert "new is there already and will be replaced" in capsys.readouterr().err


def test_assimilate_needs_a_name(tmp_path, monkeypatch):
    archive.write(tmp_path / "run.com", b"head", [Member(programs.INDEX, b"{}")])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").write_bytes(b"precious")
    with pytest.raises(run.ModelError, match="needs -o"):
        programs.assimilate(None, tmp_path / "run.com")
    assert (tmp_path / "run").read_bytes() == b"precious"


# ------------------------------------------------------------------ where a build is started


def test_a_target_is_no_path(tmp_path, files, capsys, monkeypatch):
    monkeypatch.setattr(build, "DIST", tmp_path / "dist")
    for target in tmp_path / "made", "../made", "linux-x86_64/../made", "":
        model = ["--model", files / "model.bin"]
        error = refused(capsys, "--target", f"{target}/", *model)
        assert "known targets are" in error
        assert "known targets are" in refused(capsys, "--target", target or "/", *model)
        with pytest.raises(compilers.CompileError, match="unknown target"):
            compilers.compile_kernel(f"{target}/", tmp_path)
    assert os.listdir(tmp_path) == ["files"]


def test_zig_is_not_looked_for_where_it_runs():
    pytest.importorskip("ziglang", reason="ziglang is not installed")
    (command,) = compilers.zig()
    assert os.path.isabs(command) and os.access(command, os.X_OK)


@linux
def test_a_planted_pyinstaller_is_not_run(executable):
    """The executable was built in a directory with a PyInstaller and a ziglang in it."""
    planted = executable.parent / "planted"
    assert sorted(os.listdir(planted)) == ["PyInstaller", "encodings", "numpy.py", "ziglang"]
    assert start(executable, *STORY).returncode == 0


# ------------------------------------------------------------------ what cannot be read


METHODS = {"lzma": zipfile.ZIP_LZMA, "bzip2": zipfile.ZIP_BZIP2}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["model.bin", "tokenizer.bin", "args.txt"])
def test_members_compressed_in_other_ways(running, files, method, name):
    pytest.importorskip({"bzip2": "bz2"}.get(method, method))
    archive.rewrite(files / "edited", Archive(running), {name: None})
    with zipfile.ZipFile(files / "edited", "a") as edited:
        edited.writestr(name, b"data" * 1000, compress_type=METHODS[method])
    with pytest.raises(ArchiveError, match=f"{name} in .* zip -0"):
        carried.members(files / "edited")


def edited_zip(path, change, name="args.txt", data=b"data" * 1000):
    """Write a zip with one deflated member, then change its bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, data)
    raw = bytearray(path.read_bytes())
    change(raw, raw.index(b"PK\1\2"))
    path.write_bytes(raw)
    return path


def flip(raw, _):
    raw[40] ^= 0x55  # in the data


def encrypt(raw, central):
    raw[central + 8] |= 1


def larger(raw, central):
    raw[central + 24] ^= 1


def huge(raw, central):
    raw[central + 24 : central + 28] = b"\xf0\xff\xff\xff"


def far(raw, central):
    raw[central + 20 : central + 24] = b"\xf0\xff\xff\x7f"


def checksum(raw, central):
    raw[central + 16] ^= 1


@pytest.mark.parametrize("change", [flip, encrypt, larger, huge, far, checksum])
def test_damaged_members(tmp_path, change):
    path = edited_zip(tmp_path / "zip", change)
    with pytest.raises(ArchiveError) as caught:
        Archive(path).read("args.txt")
    assert "\n" not in str(caught.value)


def test_a_small_member_does_not_unpack_to_gigabytes(tmp_path):
    path = edited_zip(tmp_path / "zip", lambda *_: None, data=bytes(64 << 20))
    assert path.stat().st_size < 100_000
    with pytest.raises(ArchiveError, match="unpacks to 67,108,864 bytes"):
        Archive(path).read("args.txt")


@pytest.mark.parametrize("value", ["abc", "-1", "1e9", "٣", "9" * 5000, " 5", "1.5"])
def test_source_date_epoch_of_no_use(files, capsys, monkeypatch, value):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
    model = ["--model", files / "model.bin", "-o", files / "new"]
    assert "SOURCE_DATE_EPOCH=" in refused(capsys, *model)
    assert not (files / "new").exists()


@pytest.mark.parametrize("value", ["", "0", "1700000000", "4354819199", "9" * 19])
def test_any_source_date_epoch(tmp_path, monkeypatch, value):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
    written(tmp_path / "new")
    with zipfile.ZipFile(tmp_path / "new") as file:
        assert file.testzip() is None


def test_flags_that_are_no_utf_8(files, capsys):
    model = ["--model", files / "model.bin", "-o", files / "new"]
    assert "UTF-8" in refused(capsys, *model, "--args", "-i \udcff")


# ------------------------------------------------------------------ downloads


@posix
@pytest.mark.parametrize("name", ["f.part", ".f.lock"])
@pytest.mark.parametrize("link", ["symbolic", "hard", "dangling"])
def test_planted_links_in_the_cache(tmp_path, monkeypatch, name, link):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    precious = tmp_path / "precious"
    path = fetch.cache_dir() / name
    if link != "dangling":
        precious.write_bytes(b"precious")
    os.link(precious, path) if link == "hard" else path.symlink_to(precious)
    monkeypatch.setattr(fetch, "checked", lambda item, path: os.close(fetch.own_file(path)))
    with pytest.raises(fetch.FetchError, match="cannot use"):
        fetch.fetch(fetch.PyPI("project", "f.part" if name == "f.part" else "f", ""))
    assert link == "dangling" or precious.read_bytes() == b"precious"
    assert precious.exists() == (link != "dangling")


@posix
def test_a_cache_open_to_others(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fetch.cache_dir().chmod(0o777)
    with pytest.raises(fetch.FetchError, match="open to others"):
        fetch.cache_dir()


# ------------------------------------------------------------------ the universal file's cache


HASH = "0123456789abcdef" * 4


@pytest.fixture
def home(tmp_path):
    """The environment of a user with empty directories of their own, and the cache's path."""
    for name in "cache", "tmp", "work":
        (tmp_path / name).mkdir()
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "tmp")}
    return CLEAN | env, tmp_path / "cache" / "run"


def first_start(com, home, tmp_path, *words):
    """Start the universal file; return what it says besides the story."""
    env, _ = home
    done = start("sh", com, *STORY, env=env, cwd=tmp_path / "work")
    assert done.returncode == 0 and len(done.stdout) > 20, done.stderr
    assert os.listdir(tmp_path / "work") == []
    said = [line for line in done.stderr.splitlines() if line.startswith("run: ")]
    for word, line in zip(words, said, strict=True):
        assert word in line
    return said


@linux
def test_only_own_names_are_removed(com, home, tmp_path):
    cache = home[1]
    cache.mkdir(mode=0o700)
    stay = ["notes", "abc.new.1", "x.new.y", HASH[:-1], HASH + "0", HASH.upper(), HASH[1:] + "g"]
    stay += [
        f"x{HASH}",
        f"{HASH}.old",
        f"deep/{HASH}",
        f"deep/{HASH}.new.abcdef",
        f"{HASH[::-1]}/a",
    ]
    stay += [".new.abcdef", f".{HASH}", f"{HASH[1:]}.new.abcdef", "*", f"{HASH}\n"]
    go = [HASH, f"{HASH}.new.abcdef", f"{HASH}.new.12345"]
    for name in stay + go:
        (cache / name).parent.mkdir(exist_ok=True)
        (cache / name).write_bytes(b"old")
        os.utime(cache / name, (LONG_AGO, LONG_AGO))
    link = cache / HASH.replace("0", "1")
    link.symlink_to(cache / "notes")
    os.utime(link, (LONG_AGO, LONG_AGO), follow_symlinks=False)
    young = [HASH.replace("0", "2"), HASH.replace("0", "2") + ".new.abcdef"]
    for name in young:
        (cache / name).write_bytes(b"young")
    first_start(com, home, tmp_path)
    for name in stay + young:
        assert (cache / name).is_file(), name
    assert link.is_symlink()
    for name in go:
        assert not (cache / name).exists(), name


@linux
@pytest.mark.parametrize("what", ["directory", "link to a directory"])
def test_the_programs_name_is_a_directory(com, home, tmp_path, what):
    first_start(com, home, tmp_path)
    cache = home[1]
    (kept,) = cache.iterdir()
    kept.unlink()
    if what == "directory":
        kept.mkdir()
    else:
        (tmp_path / "elsewhere").mkdir()
        kept.symlink_to(tmp_path / "elsewhere")
    first_start(com, home, tmp_path, "is a directory")
    assert os.listdir(cache) == [kept.name] and os.listdir(kept) == []
    assert first_start(com, home, tmp_path) == []  # it is in the next place


# ------------------------------------------------------------------ a universal file cut short


def layout(com):
    """Return where the parts of a universal file end: header, bootloader, script, programs."""
    entries = Archive(com).entries
    head = Archive(com).head_size
    program = entries["program/linux-x86_64"]
    return {
        "second line": 0x108,
        "bootloader": head - universal.SCRIPT,
        "script": head,
        "program": program.offset + program.packed,
        "model": entries["model.bin"].offset + entries["model.bin"].packed,
        "all": com.stat().st_size,
    }


def cuts(com):
    """Return lengths of every class, {length: what is said}."""
    ends = layout(com)
    rng = random.Random(4)
    found = {}
    for (_, start_at), (name, end) in zip([("", 0x100), *ends.items()], ends.items(), strict=False):
        for length in {start_at + 1, end - 1, rng.randrange(start_at + 1, end)}:
            found[length] = "damaged" if name == "program" else "cut short"
    code = com.read_bytes()[ends["bootloader"] : ends["script"]].rstrip(b"\n")
    script_end = ends["bootloader"] + len(code)
    found |= dict.fromkeys(range(ends["bootloader"], script_end, 173), "cut short")
    found[script_end - 1] = "cut short"
    for length in [n for n in found if script_end <= n <= ends["script"]]:
        del found[length]
    found[script_end] = "damaged"  # the script is all there, and the program is not
    return found


@linux
@pytest.mark.parametrize("shell", ["sh", "bash", "zsh", "ksh", "busybox sh"])
def test_a_universal_file_that_was_cut_short(com, home, tmp_path, shell):
    program, *words = shell.split()
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    env, _ = home
    copy = shutil.copy(com, tmp_path / "cut.com")
    for length, word in sorted(cuts(com).items(), reverse=True):
        os.truncate(copy, length)
        done = start(program, *words, copy, *STORY, env=env, cwd=tmp_path / "work", timeout=20)
        if length < 0x108:  # in the second line: the shell may have its say
            assert done.returncode and not done.stdout, (length, done)
        else:
            line = one_line(done)
            assert "cut short" in line or word in line, (length, line)
        assert os.listdir(tmp_path / "work") == [], length


@linux
def test_one_cut_short_for_python(com, home, tmp_path):
    """On a system without a program inside: Python must not take it for its source."""
    env, _ = home
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "uname").write_text("#!/bin/sh\necho Darwin arm64\n")
    (tmp_path / "bin" / "uname").chmod(0o755)
    env |= {"PATH": f"{tmp_path / 'bin'}:{env['PATH']}"}
    copy = shutil.copy(com, tmp_path / "cut.com")
    ends = layout(com)
    for length in ends["program"], ends["model"], ends["all"] - 1:
        os.truncate(copy, max(length, 0))
        assert "cut short" in one_line(start("sh", copy, env=env))


def test_the_bootloader_comes_back(com):
    """Only bytes that Windows does not look at were changed, and --assimilate has the old ones."""
    head = com.read_bytes()
    boot = universal_file.bootloader
    assert head[:2] == b"MZ" and head[0x3C:0x40] == boot[0x3C:0x40]
    assert head[0x108 : len(boot)] == boot[0x108:]
    assert programs.windows_program(Archive(com)) == boot


@pytest.mark.parametrize("boot", [b"", b"MZ", b"MZ" + bytes(500), b"\x7fELF" * 100])
def test_what_is_no_bootloader(boot):
    with pytest.raises(universal.UniversalError):
        universal.with_script(boot, "")


# ------------------------------------------------------------------ limits


PLENTY = "the story"
LIMITS = [  # (limit, what is said, or that the story may be told as well)
    ("-v 10000", ["ulimit -v"]),
    ("-v 30000", ["ulimit -v"]),
    ("-v 60000", ["ulimit -v"]),
    ("-v 100000", ["memory", "Memory"]),
    ("-v 150000", ["memory", "Memory"]),
    ("-v 200000", ["memory", "Memory", PLENTY]),
    ("-v 4000000", [PLENTY]),
    ("-n 5", ["ulimit -n"]),
    ("-n 20", ["ulimit -n"]),
    ("-n 40", ["ulimit -n", PLENTY]),
    ("-n 256", [PLENTY]),
    ("-f 1", ["ulimit -f"]),
    ("-f 20000", ["ulimit -f", PLENTY]),
    ("-f 4000000", [PLENTY]),
    ("-s 256", [PLENTY]),
    ("-t 60", [PLENTY]),
    ("-c 0", [PLENTY]),
]


@linux
@pytest.mark.parametrize("limit, allowed", LIMITS, ids=[row[0] for row in LIMITS])
def test_limits(executable, story, limit, allowed):
    """With each the text, or one line that names the right thing."""
    done = start("sh", "-c", f'ulimit {limit}; exec "$0" "$@"', executable, *STORY)
    if done.returncode == 0:
        assert PLENTY in allowed and done.stdout == story
        return
    assert done.returncode in (1, 2), done
    (line,) = done.stderr.splitlines()
    assert any(word in line for word in allowed), line


MOUNTS = {
    "nothing": ("", PLENTY),
    "tmpfs full": (
        "for d in /tmp /dev/shm /var/tmp; do mount -t tmpfs -o size=4k none $d; done",
        PLENTY,
    ),
    "read-only": (
        "for d in /tmp /dev/shm /var/tmp; do mount -t tmpfs -o ro none $d; done",
        PLENTY,
    ),
    "noexec": (
        "for d in /tmp /dev/shm /var/tmp; do mount -t tmpfs -o noexec none $d; done",
        PLENTY,
    ),
    "no /proc": ("mount -t tmpfs none /proc", PLENTY),
    "no /proc, noexec": (
        "for d in /tmp /dev/shm /var/tmp; do mount -t tmpfs -o noexec none $d; done; "
        "mount -t tmpfs none /proc",
        "TMPDIR",
    ),
    "no /proc, full": (
        "for d in /tmp /dev/shm /var/tmp; do mount -t tmpfs -o size=8k none $d; done; "
        "mount -t tmpfs none /proc",
        "No space left",
    ),
    "no /proc, read-only": (
        "for d in /tmp /dev/shm /var/tmp; do mount -t tmpfs -o ro none $d; done; "
        "mount -t tmpfs none /proc",
        "TMPDIR",
    ),
}


@linux
@pytest.mark.parametrize("name", MOUNTS)
def test_limits_of_the_file_system(executable, story, name):
    limits, word = MOUNTS[name]
    script = f'mount -t tmpfs none /mnt; cp "$0" /mnt/run; {limits or ":"}; exec /mnt/run "$@"'
    done = mounted(script, executable, *STORY)
    if word == PLENTY:
        assert (done.returncode, done.stdout) == (0, story), done.stderr
    else:
        assert word in one_line(done)


def mounted(script, *arguments):
    """Run a shell script that mounts things which nobody else sees; skips where it may not."""
    if start("unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt").returncode:
        pytest.skip("mounts are not allowed here")
    env = {key: value for key, value in CLEAN.items() if key != "TMPDIR"}
    return start("unshare", "-m", "sh", "-ec", script, *arguments, env=env)


@linux
def test_a_limit_of_processes(executable, story, tmp_path_factory):
    """As ulimit -u and the pids limit of a container: threads cannot be started."""
    if os.geteuid():
        pytest.skip("needs root, to become a user whom the limit binds")
    with scratch.directory("run-build-") as place:
        place.chmod(0o755)
        copy = shutil.copy(executable, place / "run")
        done = start(copy, *STORY, preexec_fn=limited)
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (0, story) or one_line(done)


# ------------------------------------------------------------------ a model that shrinks


@linux
def test_a_model_that_becomes_shorter(executable, files):
    command = [executable, files / "model.bin", "-m", "chat", "--backend", "numpy"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env=CLEAN, text=True, **pipes) as process:
        process.stdout.read(5)  # it is loaded, and waits
        time.sleep(0.2)
        os.truncate(files / "model.bin", 4096)
        _, errors = process.communicate("Hello\n", timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1] == (
        "run: a file in use became shorter, or cannot be read any more"
    )
