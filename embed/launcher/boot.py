"""The first Python that runs in a Linux executable: makes the modules in app.pkg importable.

The launcher passes this text to `python -c`, and a table as its first argument: README.md says
what is in it. Until `install` is done only what is frozen into Python, built in, or in
base_library.zip can be imported; importlib itself is not there yet.
"""

import _imp
import _signal
import marshal
import os
import posix
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader

EXTENSION_SUFFIXES = _imp.extension_suffixes()
MODULE, PACKAGE, _, NAMESPACE = range(4)  # kinds of entries in a PYZ


class Importer:
    """Find and load modules: byte code from the PYZ, extension modules from memory files."""

    def __init__(self, table):
        numbers, *rows, _ = table.split("\n")
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
        """Return {module name: (kind, offset in the file, size)}."""
        offset = int.from_bytes(os.pread(self.fd, 4, start + 8), "big")
        size = 1 << 20  # far more than a table takes; marshal stops at its end
        rows = marshal.loads(os.pread(self.fd, size, start + offset))
        return {name: (kind, start + at, length) for name, (kind, at, length) in rows}

    def find_spec(self, name, path=None, target=None):
        """Find a module by its package's path, as it lies: the package may have another name.

        run.engine is embed.engine in app.pkg, as run's path is <executable>/embed.
        """
        stored = self.stored_name(name, path)
        if stored in self.modules:
            package = self.modules[stored][0] in (PACKAGE, NAMESPACE)
            origin = self.origin(stored, package)
            spec = ModuleSpec(name, self, origin=origin, loader_state=stored, is_package=package)
            spec.has_location = True
            if package:
                spec.submodule_search_locations.append(os.path.dirname(origin))
            return spec
        if stored in self.extensions:
            file, late = self.extensions[stored]
            self.load_libraries(late)
            return ModuleSpec(name, ExtensionFileLoader(name, file), origin=file)
        return None

    def stored_name(self, name, path):
        for folder in path or ():
            if folder.startswith(f"{sys.executable}/"):
                inside = folder.removeprefix(f"{sys.executable}/").replace("/", ".")
                return f"{inside}.{name.rpartition('.')[2]}"
        return name

    def origin(self, stored, package=False):
        """Return where a module would lie if the executable were a folder."""
        return f"{sys.executable}/{stored.replace('.', '/')}{'/__init__' * package}.py"

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        kind, offset, size = self.modules[module.__spec__.loader_state]
        if kind == NAMESPACE:
            return  # it has no code
        code = os.pread(self.fd, size or 1 << 20, offset)
        if size:  # in the PYZ; a single module is not compressed
            import zlib

            code = zlib.decompress(code)
        exec(marshal.loads(code), module.__dict__)

    def load_libraries(self, late):
        """Load the libraries that extension modules need, which then find them by their names."""
        while late and self.workers:
            self.workers -= len(os.read(self.pipe, self.workers))
        waiting = [file for file, is_late in self.libraries if is_late <= late]
        self.libraries = [row for row in self.libraries if row[0] not in waiting]
        for _ in range(len(waiting)):  # each after those that it needs: round by round
            waiting = [file for file in waiting if not self.loaded(file)]
        if waiting and is_memory(self.error):
            raise ImportError(self.error)

    def loaded(self, file):
        """Load a library by Python's only call of dlopen that needs no library itself."""
        try:
            _imp.create_dynamic(ModuleSpec("none", None, origin=file))
        except ImportError as error:
            self.error = str(error)
            return "PyInit_" in self.error  # loaded, and not a module: that is what is wanted
        return True


def take_interrupts():
    """Let Ctrl-C, which the launcher holds back, end the process, unless it came ignored."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGINT])


def take_base_library(path):
    """Import all of a base library that has a name on disk, and remove the name."""
    import zipimport

    for file in zipimport.zipimporter(path)._files:
        name = file.removesuffix(".pyc").removesuffix("/__init__").replace("/", ".")
        if name[:4] != "sre_" and name not in ("encodings.mbcs", "encodings.oem"):
            __import__(name)
    posix.unlink(path)


def install(table):
    """Make the executable look as PyInstaller's do, and let imports go to app.pkg."""
    base = os.environ.pop("PYTHONPATH")
    del os.environ["PYTHONHOME"]
    sys.path[:] = [base]
    sys.frozen, sys.executable = True, os.environ.pop("RUN_SELF")
    sys.argv[0] = sys.orig_argv[0]
    importer = Importer(table)
    sys.meta_path.append(importer)
    if not os.path.exists(sys.executable):  # deleted or replaced since it started
        sys.executable = f"/proc/self/fd/{importer.fd}"
    if not base.startswith("/proc/"):
        take_base_library(base)
    return importer


def run_program():
    """Run the last script of app.pkg, which is the program's own, as the main module."""
    importer = install(sys.argv.pop(1))
    name, start = list(importer.scripts.items())[-1]
    sys.modules["__main__"] = module = type(sys)("__main__")
    module.__file__ = importer.origin(name)
    exec(marshal.loads(os.pread(importer.fd, 1 << 20, start)), module.__dict__)


def main():
    """Run the program, and say in one line why it cannot be loaded."""
    take_interrupts()
    try:
        run_program()
    except (ImportError, MemoryError, OSError) as error:  # the program reports later ones
        os.write(2, f"run: it does not start: {reason(error)}\n".encode("utf-8", "replace"))
        posix._exit(1)


def is_memory(text):
    return "map segment" in text or "Cannot allocate" in text


def reason(error):
    """Return in one line what is behind an error: NumPy wraps the cause into pages of advice."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    text = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, MemoryError) or is_memory(text):
        text = f"there is no memory left, or less allowed (ulimit -v): {text}"
    return text


main()
