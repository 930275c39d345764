"""Collects this Python, NumPy and the engine into one archive, app.pkg, with PyInstaller.

    pkg = freeze(scratch, small=False)          # the archive
    launcher = compile_launcher(scratch)        # what goes before it on Linux

PyInstaller finds what run.py imports and writes the archive; this leaves out what no model needs,
strips the libraries, and stores everything: unpacking is what makes PyInstaller's files slow.
"""

import _imp
import importlib.util
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

from embed import compile as compiler

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

# The modules of embed/ that only builds and training use.
TOOLS = "assemble boot compile fetch freeze stories sweep train".split()

# Nothing here is needed to read a model and write text.
EXCLUDES = """
    numpy.random numpy.fft numpy.polynomial numpy.ma numpy.testing numpy.f2py numpy.typing numpy.rec
    numpy.char numpy.strings numpy.distutils numpy.core numpy.matlib numpy._core._multiarray_tests
    numpy._core.tests _multiarray_tests
    ssl _ssl _hashlib lzma _lzma bz2 _bz2 decimal _decimal _pydecimal fractions statistics
    unittest doctest email http urllib.request urllib.error urllib.response xml xmlrpc html wsgiref
    multiprocessing asyncio concurrent socketserver socket _socket ftplib mimetypes
    tkinter turtle sqlite3 curses readline pdb bdb cmd code codeop pydoc webbrowser ctypes.test
    lib2to3 distutils setuptools pkg_resources pip ensurepip idlelib venv test py_compile
    unicodedata stringprep getpass netrc tarfile gzip _strptime calendar csv _csv
    _codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp _codecs_kr _codecs_tw _multibytecodec
    importlib.metadata importlib.resources importlib.readers logging
    _sysconfigdata sysconfig pytest _pytest yaml run
    zipfile numpy.ctypeslib pprint threadpoolctl tracemalloc
""".split()
OPTIONS = [("X utf8=1", None, "OPTION"), ("O", None, "OPTION"), ("O", None, "OPTION")]
HIDDEN = ["datetime"]  # imported by NumPy's C code
ENCODINGS = """__init__ aliases ascii charmap cp1252 cp437 latin_1 mbcs oem raw_unicode_escape
    unicode_escape utf_16 utf_16_be utf_16_le utf_32 utf_8 utf_8_sig""".split()
KINDS = "BINARY DATA EXECUTABLE EXTENSION PYMODULE PYSOURCE PYZ SPLASH SYMLINK ZIPFILE".split()

# What PyInstaller runs. Without docstrings (optimize=2, and the options O, without which NumPy 1
# misses them). Sorting makes the archive the same on every machine with the same files.
SPEC = """
import sys
sys.path.insert(0, {root!r})
from embed import freeze
a = Analysis([{script!r}], optimize=2, pathex=[{root!r}], hiddenimports=freeze.hidden(),
             excludes={excludes!r}, runtime_hooks={hooks!r})
a.pure.sort()
datas = freeze.data(a.datas, {scratch!r})
binaries = freeze.libraries(a.binaries, {scratch!r})
EXE(PYZ(a.pure), a.scripts, binaries, datas, {options!r}, name="app",
    append_pkg=False, upx=False, cdict={compress!r})
"""


ELF64 = b"\x7fELF\2"


class FreezeError(Exception):
    """The program cannot be collected; the message is one line: why, and what to do."""


def freeze(scratch, *, small=False, bootloader=False):
    """Collects run.py and what it imports -> path of the archive app.pkg in `scratch`.

    small: compresses the libraries. bootloader: the archive is for PyInstaller's own bootloader.
    Raises FreezeError.
    """
    if importlib.util.find_spec("PyInstaller") is None:
        raise FreezeError(
            "PyInstaller is missing: `make build` sets it up, or python -m pip install pyinstaller"
        )
    scratch = Path(scratch)
    spec = scratch / "app.spec"
    values = {
        "root": str(ROOT),
        "script": str(ROOT / "run.py"),
        "scratch": str(scratch),
        "options": OPTIONS,
        "hooks": [str(HERE / "sweep.py")] if bootloader else [],
        # PyInstaller's own hooks import zipfile; the launcher does not run them
        "excludes": [name for name in EXCLUDES if name != "zipfile" or not bootloader],
        "compress": {k: small and k in ("BINARY", "DATA", "EXTENSION") for k in KINDS},
    }
    spec.write_text(SPEC.format(**values))
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level=ERROR"]
    command += [f"--distpath={scratch}", f"--workpath={scratch / 'work'}", str(spec)]
    settings = {
        "PYTHONHASHSEED": "0",  # the order of sets in byte code
        "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", "315532800"),
        "PYINSTALLER_CONFIG_DIR": str(scratch / "config"),
        "PYINSTALLER_ZLIB_COMPRESSION_LEVEL": "9" if small else "0",
    }
    done = subprocess.run(
        command,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    pkg = scratch / "work" / "app" / "app.pkg"
    if done.returncode or not pkg.is_file():
        raise FreezeError(explain(done.stderr))
    return pkg


def explain(output):
    """What PyInstaller printed -> one line."""
    if re.search("(?i)python.* shared library", output):
        return (
            f"this Python ({sys.executable}) has no shared library to bundle: use the system's "
            "(Debian: apt install python3-venv libpython3-dev), or with pyenv build one by "
            "PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install 3.11"
        )
    lines = [line for line in output.splitlines() if line.strip()] or ["no message"]
    return f"PyInstaller failed: {lines[-1].strip()}"


def runtime_modules():
    """-> the modules of embed/ that the program may import."""
    return [f"embed.{p.stem}" for p in sorted(HERE.glob("*.py")) if p.stem not in TOOLS]


def hidden():
    """-> the modules that no import statement names: run.py imports embed/ by name."""
    return HIDDEN + runtime_modules()


def bootloader():
    """-> path of PyInstaller's own program, for where there is no launcher."""
    from PyInstaller import HOMEPATH, PLATFORM

    name = "run.exe" if sys.platform == "win32" else "run"
    return Path(HOMEPATH) / "PyInstaller" / "bootloader" / PLATFORM / name


def data(entries, scratch):
    """PyInstaller's data files, with less in the base library."""
    return sorted(
        (name, trim(source, Path(scratch) / name) if name == "base_library.zip" else source, kind)
        for name, source, kind in entries
    )


def trim(source, target):
    """Copies the base library without encodings that nothing reads -> its path.

    What is frozen into the interpreter itself is not read from there either.
    """
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for item in sorted(old.infolist(), key=lambda i: i.filename):
            name = item.filename.removesuffix(".pyc").replace("/", ".")
            package, _, last = name.rpartition(".")
            if last in ENCODINGS if package == "encodings" else not _imp.is_frozen(name):
                new.writestr(zipfile.ZipInfo(item.filename), old.read(item))
    return str(target)


def libraries(entries, scratch):
    """PyInstaller's shared libraries [(name, path, kind)], stripped."""
    found = []
    for name, source, kind in sorted(entries):
        target = Path(scratch) / "stripped" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        found.append((name, strip(source, target), kind))
    return found


def strip(source, target):
    """Copies a library without its symbol tables -> path; unchanged where strip breaks it."""
    tool = shutil.which("strip")
    if tool and Path(source).read_bytes()[:5] == ELF64:
        command = [tool, "--strip-unneeded", "-o", str(target), str(source)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode == 0 and loads(target.read_bytes()):
            return str(target)
    return str(source)


def loads(elf):
    """Whether the segments of a 64-bit ELF file can be mapped: auditwheel's and strip's break."""
    start, size, count = *struct.unpack_from("<Q", elf, 32), *struct.unpack_from("<2H", elf, 54)
    for at in range(start, start + size * count, size):
        kind, _, offset, address, _, _, _, align = struct.unpack_from("<2I6Q", elf, at)
        if kind == 1 and (offset - address) % align:
            return False
    return True


def glibc(pkg, *others):
    """The newest glibc that symbols in these files ask for, such as "2.35"; "" if none.

    pkg: an archive, whose libraries may be compressed.
    """
    from PyInstaller.archive.readers import CArchiveReader

    archive = CArchiveReader(str(pkg))
    files = [archive.extract(name) for name, entry in archive.toc.items() if entry[4] == "b"]
    files += [Path(path).read_bytes() for path in others]
    found = {tuple(map(int, v)) for f in files for v in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", f)}
    return ".".join(map(str, max(found))) if found else ""


def compile_launcher(scratch, target=None, preloaded=False):
    """Compiles launcher.c for this machine, or with zig for a target -> path. CompileError.

    preloaded: as the shared library that takes over a program with Python linked into it.
    """
    out = Path(scratch) / ("launcher.so" if preloaded else "launcher")
    triple, _ = compiler.TARGETS.get(target or compiler.native_target(), ("", []))
    if compiler.zig() and triple:  # for an old glibc, so that it can say if others need a new one
        command = [*compiler.zig(), "cc", "-target", triple]
    elif not target and compiler.native_compiler():
        command = [*compiler.native_compiler()]
    else:
        raise compiler.CompileError("no C compiler: install cc, or python -m pip install ziglang")
    command += ["-O2", "-s", "-Wall", f'-DBOOT="{HERE / "boot.py"}"', str(HERE / "launcher.c")]
    command += ["-DPRELOADED=1", "-shared", "-fPIC"] if preloaded else []
    compiler.run([*command, "-o", str(out), "-ldl", "-lpthread"], target or "this machine")
    return out
