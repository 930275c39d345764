"""Puts one-file executables for other systems together, here, without running their code.

    program, pkg = assemble("windows-x86_64", scratch)

PyInstaller collects what the running interpreter imports, so it builds for its own system only.
But its executables are a program and an archive, and both can be had for any system: the program
is our launcher compiled by zig (Linux) or PyInstaller's bootloader out of its wheel; the archive
comes from PyInstaller's own writers, filled with an interpreter for that system and NumPy's wheel
for it (interpreters.py), as far as they are needed (reach.py), and with the engine.

The byte code goes in as this interpreter compiles it: it must be of the pinned Python's version.
"""

import importlib.util
import marshal
import struct
import sys
import types
import zipfile
from pathlib import Path

from . import EMBED, ROOT, compilers, engine_files, module_name
from .fetch import fetch
from .interpreters import (
    LAYOUTS,
    PYTHON,
    AssembleError,
    Code,
    Layout,
    add_numpy,
    check,
    interpreter,
    pinned,
    read_zip,
)
from .reach import BASE, BASE_PACKAGES, ROOTS, reach

LOADER_MODULES = "archive", "importers", "ctypes", "pywin32"  # PyInstaller's own, in this order


def assemble(
    name: str,
    scratch: Path,
    *,
    kernel: Path | None = None,
    python: str | None = None,
    small: bool = False,
) -> tuple[bytes, Path]:
    """Make the two parts of the one-file executable for a system.

    Args: the system's name; a scratch directory; the compiled kernel for it; an archive with an
    interpreter instead of the pinned one; `small` compresses.
    Returns the bytes of the program and the path of the PKG archive: the executable is the program,
    then a zip with the model, the kernel, and last the PKG as app.pkg.
    Raises AssembleError, FetchError, CompileError: one line for the user.
    """
    check(name, python)
    archive_writer, pyz_writer = writers()
    layout, scratch = LAYOUTS[name], Path(scratch)
    code = interpreter(name, scratch, python)
    add_numpy(code, name)
    engine = add_engine(code)
    found = reach(code, [*engine, *ROOTS])
    base = base_modules(found)
    program, entries = start_of(name, scratch, code)
    entries += scripts(scratch, ROOT / "run.py")
    entries.append(("base_library.zip", base_library(scratch, code, found, base), small, "x"))
    for path, data in sorted(bundled(code, found, layout, kernel).items()):
        file = write_file(scratch, f"files/{path}", data)
        entries.append((path.replace("/", layout.separator), file, small, "b"))
    pyz = write_pyz(scratch, small_or_not(pyz_writer, small), code, found, base)
    entries += [("PYZ.pyz", pyz, False, "z"), ("X utf8=1", "", False, "o")]
    archive_writer(str(scratch / "app.pkg"), entries, layout.library)
    return program, scratch / "app.pkg"


def writers() -> tuple[type, type]:
    """Return PyInstaller's two archive writers. Raises AssembleError if they are of no use here."""
    if sys.version_info[:2] != PYTHON:
        raise AssembleError(
            "the pinned interpreters are Python 3.11 and their byte code is compiled here, by "
            f"{sys.version_info[0]}.{sys.version_info[1]}: run build.py with Python 3.11"
        )
    try:
        from PyInstaller.archive.writers import CArchiveWriter, ZlibArchiveWriter
    except ImportError:
        raise AssembleError("PyInstaller is missing: python -m pip install pyinstaller") from None
    return CArchiveWriter, ZlibArchiveWriter


def small_or_not(writer: type, small: bool) -> type:
    """Return PyInstaller's writer of modules, made to compress or to store."""
    return type("Writer", (writer,), {"_COMPRESSION_LEVEL": 9 if small else 0})


def add_engine(code: Code) -> list[str]:
    """Add run.py and embed/engine, which are in the source tree; return the modules' names."""
    for path in engine_files():
        code.add(path.relative_to(ROOT).as_posix(), path.read_bytes(), "")
    return [module_name(path) for path in engine_files()]


# ------------------------------------------------------------------ what starts the program


def start_of(name: str, scratch: Path, code: Code) -> tuple[bytes, list[tuple]]:
    """Return the program for a system, and the PKG entries that go before our own."""
    if LAYOUTS[name].bootloader:
        return bootloader(scratch, name, code)
    return compilers.compile_launcher(scratch, name).read_bytes(), []


def bootloader(scratch: Path, name: str, code: Code) -> tuple[bytes, list[tuple]]:
    """Return PyInstaller's program, and the PKG entries of its own modules and of our hooks."""
    wheel = read_zip(fetch(pinned("pyinstaller", name)))
    program = wheel["PyInstaller/bootloader/" + LAYOUTS[name].bootloader]
    modules = {"struct": code.code("struct")}
    for number, module in enumerate(LOADER_MODULES, start=1):
        module = f"pyimod{number:02}_{module}"
        source = wheel[f"PyInstaller/loader/{module}.py"]
        modules[module] = compile(source, f"{module}.py", "exec", dont_inherit=True)
    entries = []
    for module, compiled in modules.items():
        file = write_file(scratch, f"{module}.pyc", pyc(compiled, f"{module}.py"))
        entries.append((module, file, False, "m"))
    boot = wheel["PyInstaller/loader/pyiboot01_bootstrap.py"]
    entries.append(("pyiboot01_bootstrap", write_file(scratch, "boot.py", boot), False, "s"))
    hooks = scripts(scratch, EMBED / "launcher" / "sweep.py", EMBED / "launcher" / "console.py")
    return program, entries + hooks


def scripts(scratch: Path, *paths: Path) -> list[tuple]:
    """Return the PKG entries of scripts, which run one after the other."""
    return [(p.stem, write_file(scratch, p.name, p.read_bytes()), False, "s") for p in paths]


# ------------------------------------------------------------------ what the program imports


def base_modules(found: dict) -> list[str]:
    """Return those of the modules that Python needs before it can read the PYZ."""
    return sorted(n for n in found if n in BASE or n.split(".")[0] in BASE_PACKAGES)


def base_library(scratch: Path, code: Code, found: dict, base: list[str]) -> str:
    """Write base_library.zip, the byte code of the modules that Python needs to start."""
    path = scratch / "base_library.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in base:
            file = name.replace(".", "/") + ("/__init__.py" if code.is_package(name) else ".py")
            archive.writestr(zipfile.ZipInfo(f"{file}c"), pyc(found[name], file))
    return str(path)


def write_pyz(scratch: Path, writer: type, code: Code, found: dict, base: list[str]) -> str:
    """Write PYZ.pyz with every module that is not in the base library; return its path."""
    path = scratch / "PYZ.pyz"
    entries = [("embed", "-", "PYMODULE")]  # a folder, not a package with code
    for name in sorted(found):
        if found[name] is not None and name not in base and name != "run":
            file = "__init__.py" if code.is_package(name) else f"{name}.py"
            entries.append((name, file, "PYMODULE"))
    writer(str(path), entries, code_dict=found)
    return str(path)


def bundled(code: Code, found: dict, layout: Layout, kernel: Path | None) -> dict[str, bytes]:
    """Return extensions, libraries and perhaps the kernel: {path in the PKG: bytes}.

    Where a bootloader unpacks the PKG into a directory, the kernel can be loaded from there; the
    launcher unpacks into memory, and the kernel is a member of the zip.
    """
    files = dict(code.extensions[name] for name in found if found[name] is None)
    files |= code.libraries
    if layout.bootloader and kernel:
        files[kernel_path(kernel)] = kernel.read_bytes()
    return files


def kernel_path(kernel: Path) -> str:
    """Return where a packed file has a kernel library, in its zip or in its PKG."""
    return f"embed/kernels/{kernel.name}"


# ------------------------------------------------------------------ files


def pyc(code: types.CodeType, filename: str) -> bytes:
    """Return the bytes of a .pyc that is never compared with its source."""
    header = importlib.util.MAGIC_NUMBER + struct.pack("<III", 1, 0, 0)
    return header + marshal.dumps(code.replace(co_filename=filename))


def write_file(scratch: Path, name: str, data: bytes) -> str:
    """Write a file into the scratch directory and return its path, a str as PyInstaller wants."""
    path = Path(scratch) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)
