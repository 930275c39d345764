"""Collects this Python, NumPy and the engine into one archive, app.pkg, with PyInstaller.

    pkg = freeze(scratch, small=False)

PyInstaller finds what run.py imports and writes the archive; this leaves out what no model needs,
strips the libraries, and stores everything: unpacking is what makes PyInstaller's files slow.
"""

import _imp
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from ..engine.scratch import for_children
from . import EMBED, ROOT, BuildError, compilers, engine_files, libraries, module_name
from .unneeded import EMPTIED, ENCODINGS, EXCLUDES, NOT_FOR_THE_LAUNCHER

HIDDEN = ["datetime"]  # imported by NumPy's C code
# How the program's Python starts: always in UTF-8, and without docstrings (O twice; NumPy 1 misses
# them otherwise).
OPTIONS = [("X utf8=1", None, "OPTION"), ("O", None, "OPTION"), ("O", None, "OPTION")]
LARGE_KINDS = "BINARY", "DATA", "EXTENSION"  # what --small compresses
KINDS = (*LARGE_KINDS, *"EXECUTABLE PYMODULE PYSOURCE PYZ SPLASH SYMLINK ZIPFILE".split())

# What PyInstaller runs. Sorting makes the archive the same on every machine with the same files.
SPEC = """
import sys
sys.path.insert(0, {root!r})
import run
from run.packing import freeze
a = Analysis([{script!r}], optimize=2, pathex=[{root!r}], hiddenimports=freeze.hidden(),
             excludes={excludes!r}, runtime_hooks={hooks!r})
pure = freeze.modules(a.pure, {scratch!r})
datas = freeze.data(a.datas, {scratch!r})
binaries = freeze.stripped(a.binaries, {scratch!r})
EXE(PYZ(pure), a.scripts, binaries, datas, {options!r}, name="app",
    append_pkg=False, upx=False, cdict={compress!r})
"""


class FreezeError(BuildError):
    """The program cannot be collected; the message is one line: why, and what to do."""


def freeze(scratch: Path, *, small: bool = False, bootloader: bool = False) -> Path:
    """Collect run.py and what it imports; return the path of the archive app.pkg in `scratch`.

    small: compresses the libraries. bootloader: the archive is for PyInstaller's own bootloader.
    Raises FreezeError.
    """
    if importlib.util.find_spec("PyInstaller") is None:
        raise FreezeError(
            "PyInstaller is missing: `make build` sets it up, or python -m pip install pyinstaller"
        )
    scratch = Path(scratch).resolve()
    spec = scratch / "app.spec"
    spec.write_text(spec_text(scratch, small, bootloader), encoding="utf-8")
    done = subprocess.run(
        pyinstaller_command(spec, scratch),
        cwd=scratch,  # where nobody else can put a PyInstaller of theirs
        env=os.environ | settings(scratch, small),
        pass_fds=for_children(),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    pkg = scratch / "work" / "app" / "app.pkg"
    if done.returncode or not pkg.is_file():
        raise FreezeError(explain(done.stderr))
    return pkg


def spec_text(scratch: Path, small: bool, bootloader: bool) -> str:
    """Return PyInstaller's instructions."""
    excludes = EXCLUDES
    hooks = []
    if bootloader:
        excludes = [name for name in EXCLUDES if name not in NOT_FOR_THE_LAUNCHER]
        hooks = [str(EMBED / "launcher" / "sweep.py")]
    return SPEC.format(
        root=str(ROOT),
        script=str(ROOT / "run.py"),
        scratch=str(scratch),
        options=OPTIONS,
        hooks=hooks,
        excludes=excludes,
        compress={kind: small and kind in LARGE_KINDS for kind in KINDS},
    )


def pyinstaller_command(spec: Path, scratch: Path) -> list[str]:
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level=ERROR"]
    return command + [f"--distpath={scratch}", f"--workpath={scratch / 'work'}", str(spec)]


def settings(scratch: Path, small: bool) -> dict[str, str]:
    """Return the environment that makes PyInstaller write the same bytes each time."""
    return {
        "PYTHONHASHSEED": "0",  # the order of sets in byte code
        "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", "315532800"),
        "PYINSTALLER_CONFIG_DIR": str(scratch / "config"),
        **compilers.temporary(scratch),
        "PYINSTALLER_ZLIB_COMPRESSION_LEVEL": "9" if small else "0",
    }


def explain(output: str) -> str:
    """Turn what PyInstaller printed into one line."""
    if re.search("(?i)python.* shared library", output):
        return (
            f"this Python ({sys.executable}) has no shared library to bundle: use the system's "
            "(Debian: apt install python3-venv libpython3-dev), or with pyenv build one by "
            "PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install 3.11"
        )
    lines = [line for line in output.splitlines() if line.strip()] or ["no message"]
    return f"PyInstaller failed: {lines[-1].strip()}"


def bootloader() -> Path:
    """Return the path of PyInstaller's own program, for where there is no launcher."""
    from PyInstaller import HOMEPATH, PLATFORM

    name = "run.exe" if sys.platform == "win32" else "run"
    return Path(HOMEPATH) / "PyInstaller" / "bootloader" / PLATFORM / name


def glibc(pkg: Path, *others: Path) -> str:
    """Return the newest glibc that a program needs, given its archive and other files of it."""
    from PyInstaller.archive.readers import CArchiveReader

    archive = CArchiveReader(str(pkg))
    files = [archive.extract(name) for name, entry in archive.toc.items() if entry[4] == "b"]
    return libraries.newest_glibc(files + [Path(path).read_bytes() for path in others])


# ------------------------------------------------------------------ called by the instructions


def modules(entries: list, scratch: str) -> list:
    """Return PyInstaller's modules (name, path, kind); those in EMPTIED lose what is in them."""
    nothing = Path(scratch) / "empty.py"
    nothing.write_text("")
    rows = []
    for name, source, kind in sorted(entries):
        rows.append((name, str(nothing) if name in EMPTIED else source, kind))
    return rows


def hidden() -> list[str]:
    """Return the modules that no import statement names: run.py imports the engine by name."""
    engine = [module_name(path) for path in engine_files()[1:]]
    return HIDDEN + engine


def data(entries, scratch: str) -> list[tuple[str, str, str]]:
    """Return PyInstaller's data files [(name, path, kind)], with less in the base library."""
    found = []
    for name, source, kind in sorted(entries):
        if name == "base_library.zip":
            source = trim(source, Path(scratch) / name)
        found.append((name, source, kind))
    return found


def trim(source: str, target: Path) -> str:
    """Copy the base library without what is never read from it; return the copy's path."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for item in sorted(old.infolist(), key=name_of):
            if is_read(item.filename.removesuffix(".pyc").replace("/", ".")):
                new.writestr(zipfile.ZipInfo(item.filename), old.read(item))
    return str(target)


def name_of(item: zipfile.ZipInfo) -> str:
    return item.filename


def is_read(name: str) -> bool:
    """Whether Python reads this from the base library: few encodings, nothing that is frozen."""
    package, _, last = name.rpartition(".")
    if package == "encodings":
        return last in ENCODINGS
    return not _imp.is_frozen(name)


def stripped(entries, scratch: str) -> list[tuple[str, str, str]]:
    """Return PyInstaller's shared libraries [(name, path, kind)], without symbol tables."""
    found = []
    for name, source, kind in sorted(entries):
        target = Path(scratch) / "stripped" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        found.append((name, str(libraries.strip(Path(source), target)), kind))
    return found
