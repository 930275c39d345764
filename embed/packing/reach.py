"""Which modules a program needs: what its byte code can import, from its roots on.

found = reach(code, ["run", *ROOTS])    # {"run": code object, "numpy.linalg._umath_linalg": None}
"""

import dis
import types
from collections.abc import Iterable, Iterator

from . import unneeded
from .interpreters import EMPTY, Code

# Needed before PyInstaller's importer is there: these go into base_library.zip.
BASE = set(
    """
    _collections_abc _weakrefset abc codecs collections copyreg encodings enum functools
    genericpath io heapq keyword linecache locale ntpath operator os posixpath re reprlib stat
    traceback types weakref warnings sre_compile sre_constants sre_parse
    """.split()
)
BASE_PACKAGES = "encodings", "collections", "re"  # with all of their modules

# Imported by C code or by a computed name, so that no instruction of byte code shows them.
HIDDEN = ["datetime", "struct", "pickle", *(f"encodings.{name}" for name in unneeded.ENCODINGS)] + [
    f"numpy.{core}.{module}"
    for core in ("core", "_core")
    for module in """_add_newdocs _dtype _dtype_ctypes _exceptions _internal _methods
                     _multiarray_tests""".split()
]
ROOTS = ["numpy", *BASE, *HIDDEN]

# NumPy 1 has its core in numpy.core, and run.py is the root here.
EXCLUDED = {*unneeded.EXCLUDES, *unneeded.ONLY_FOR_REACH} - {"numpy.core", "run"}


def reach(code: Code, roots: Iterable[str]) -> dict[str, types.CodeType | None]:
    """Return all modules that can be reached by imports, by name; extensions have no code."""
    found = {}
    queue = list(roots)
    while queue:
        name = queue.pop()
        if name in found or is_excluded(name):
            continue
        if name in code.modules:
            found[name] = code.code(name)
            package = name if code.is_package(name) else name.rpartition(".")[0]
            queue += imported(found[name], package)
        elif name in code.extensions:
            found[name] = None
        else:
            continue  # built into the interpreter, of another system, or an attribute
        if "." in name:
            queue.append(name.rpartition(".")[0])
    return found


def is_excluded(name: str) -> bool:
    """Whether a module, or a package that it is in, is left out."""
    parts = name.split(".")
    parents = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    return name not in EMPTY and ("tests" in parts or bool(parents & EXCLUDED))


def imported(code: types.CodeType, package: str) -> Iterator[str]:
    """Yield the dotted names that a module in `package` may import, anywhere in its code."""
    constants = []
    for op in dis.get_instructions(code):
        if op.opname == "LOAD_CONST":
            constants.append(op.argval)
        elif op.opname == "IMPORT_NAME":
            level, names = constants[-2:]  # the compiler loads both just before
            module = absolute(op.argval, level, package)
            yield module
            for name in names or ():
                yield f"{module}.{name}"
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from imported(constant, package)


def absolute(name: str, level: int, package: str) -> str:
    """Return the full name of what a module in `package` imports: ("archive", 1) -> "p.archive"."""
    if not level:
        return name
    parts = package.split(".")
    base = parts[: len(parts) - level + 1]
    return ".".join([*base, name] if name else base)
