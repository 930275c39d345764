"""The first Python that runs in a Linux executable: makes the modules in app.pkg importable.

The launcher (launcher.c) passes this text to `python -c`, and as its first argument a table:
"fd offset pipe workers" of the executable, app.pkg in it, and the pipe on which each worker that
fills files sends a byte; then rows "type, number or path, name", separated by tabs:
z: the archive of modules (PYZ), m: one module, s: a script; numbers are offsets in app.pkg.
b: a shared library, ready; B: a large one, ready when all workers are done.
Until `install` is called only what is frozen, built in, or in base_library.zip can be imported.
"""

import _imp
import _signal
import marshal
import os
import posix
import sys
from _frozen_importlib import ModuleSpec  # importlib itself is not there yet
from _frozen_importlib_external import ExtensionFileLoader

EXTENSION_SUFFIXES = _imp.extension_suffixes()
MODULE, PACKAGE, _, NAMESPACE = range(4)  # kinds of entries in a PYZ


class Importer:
    """Finds and loads modules: byte code from the PYZ, extension modules from memory files."""

    def __init__(self, table):
        numbers, *rows = table.splitlines()
        self.fd, self.start, self.pipe, self.workers = map(int, numbers.split())
        self.extensions, self.libraries, self.modules, self.scripts = {}, [], {}, {}
        for kind, value, name in (row.split("\t") for row in rows):
            if kind == "z":
                self.modules.update(self.read_pyz(self.start + int(value)))
            elif kind == "m":
                self.modules[name] = (MODULE, self.start + int(value), 0)
            elif kind == "s":
                self.scripts[name] = self.start + int(value)
            elif name.endswith(tuple(EXTENSION_SUFFIXES[:-1])):  # not ".so": libraries have it too
                dotted = name.split("lib-dynload/")[-1].split(".")[0].replace("/", ".")
                self.extensions[dotted] = (value, kind == "B")
            else:
                self.libraries.append((value, kind == "B"))

    def read_pyz(self, start):
        """-> {module name: (kind, offset in the file, size)}"""
        offset = int.from_bytes(os.pread(self.fd, 4, start + 8), "big")
        size = 1 << 20  # far more than a table takes; marshal stops at its end
        rows = marshal.loads(os.pread(self.fd, size, start + offset))
        return {name: (kind, start + at, length) for name, (kind, at, length) in rows}

    def find_spec(self, name, path=None, target=None):
        if name in self.modules:
            package = self.modules[name][0] in (PACKAGE, NAMESPACE)
            origin = f"{sys.executable}/{name.replace('.', '/')}{'/__init__' * package}.py"
            spec = ModuleSpec(name, self, origin=origin, is_package=package)
            spec.has_location = True
            if package:
                spec.submodule_search_locations.append(os.path.dirname(origin))
            return spec
        if name in self.extensions:
            file, late = self.extensions[name]
            self.load_libraries(late)
            return ModuleSpec(name, ExtensionFileLoader(name, file), origin=file)
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        if code := self.get_code(module.__name__):
            exec(code, module.__dict__)

    def get_code(self, name):
        kind, offset, size = self.modules[name]
        if not size:  # a namespace has no code; a single module is not compressed
            return None if kind == NAMESPACE else marshal.loads(os.pread(self.fd, 1 << 20, offset))
        import zlib

        return marshal.loads(zlib.decompress(os.pread(self.fd, size, offset)))

    def load_libraries(self, late):
        """Loads the libraries that extension modules need, which then find them by their names."""
        while late and self.workers:
            self.workers -= len(os.read(self.pipe, self.workers))
        waiting = [file for file, is_late in self.libraries if is_late <= late]
        self.libraries = [row for row in self.libraries if row[0] not in waiting]
        for _ in range(len(waiting)):  # each after those that it needs: round by round
            waiting = [file for file in waiting if not self.loaded(file)]

    def loaded(self, file):
        """Loads a library by Python's only call of dlopen that needs no library itself."""
        try:
            _imp.create_dynamic(ModuleSpec("none", None, origin=file))
        except ImportError as error:
            self.error = str(error)
            return "PyInit_" in self.error  # loaded, and not a module: that is what is wanted
        return True


def install(table):
    """Makes the executable look as PyInstaller's do, and imports go to app.pkg."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGINT])  # blocked by the launcher
    base = os.environ.pop("PYTHONPATH")
    del os.environ["PYTHONHOME"]
    sys.path[:] = [base]
    sys.frozen, sys.executable = True, os.environ.pop("RUN_SELF")
    sys.argv[0] = sys.orig_argv[0]
    importer = Importer(table)
    sys.meta_path.append(importer)
    if not os.path.exists(sys.executable):  # deleted or replaced since it started
        sys.executable = f"/proc/self/fd/{importer.fd}"
    if not base.startswith("/proc/"):  # it has a name on disk: take what is in it, and delete it
        import zipimport

        for path in zipimport.zipimporter(base)._files:
            name = path.removesuffix(".pyc").removesuffix("/__init__").replace("/", ".")
            if name[:4] != "sre_" and name not in ("encodings.mbcs", "encodings.oem"):
                __import__(name)
        posix.unlink(base)
    return importer


def main():
    """Runs the last script of app.pkg, which is the program's own, as the main module."""
    importer = install(sys.argv.pop(1))
    script = list(importer.scripts.values())[-1]
    sys.modules["__main__"] = module = type(sys)("__main__")
    exec(marshal.loads(os.pread(importer.fd, 1 << 20, script)), module.__dict__)


main()
