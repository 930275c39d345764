"""The modules that a packed file leaves out: nothing that reads a model and writes text uses them.

Each group has its reason. freeze.py gives the names to PyInstaller; reach.py follows imports itself
and stops at them. To leave out more, add a name and run tests/packing/test_build.py.
"""

# Parts of NumPy that neither its start nor the engine needs.
NUMPY = """
    numpy.random numpy.fft numpy.polynomial numpy.ma numpy.testing numpy.f2py numpy.typing numpy.rec
    numpy.char numpy.strings numpy.distutils numpy.core numpy.matlib numpy.ctypeslib
    numpy._core._multiarray_tests numpy._core.tests _multiarray_tests
""".split()

# Networks and their formats: the program opens no connection. ssl and _hashlib would bring
# OpenSSL; hashlib has SHA-256 without it.
NETWORK = """
    ssl _ssl _hashlib email http urllib.request urllib.error urllib.response xml xmlrpc html wsgiref
    socketserver socket _socket ftplib mimetypes netrc webbrowser getpass
""".split()

# Compression and archives: the engine reads its own zip, and nothing in it is compressed.
COMPRESSION = "lzma _lzma bz2 _bz2 gzip tarfile".split()

# PyInstaller's own hooks import zipfile; the launcher does not run them.
NOT_FOR_THE_LAUNCHER = ["zipfile"]

# Tools of those who write Python, which other modules import in functions that are never called.
DEVELOPMENT = """
    unittest doctest pdb bdb cmd code codeop pydoc lib2to3 distutils setuptools pkg_resources pip
    ensurepip idlelib venv test ctypes.test py_compile tracemalloc threadpoolctl pprint logging
    importlib.metadata importlib.resources importlib.readers _sysconfigdata sysconfig
    pytest _pytest yaml typing_extensions
""".split()

# Windows and terminals of their own: the program prints.
SCREENS = "tkinter turtle curses readline sqlite3".split()

# Other processes and event loops: threads are the kernel's, and a program starts no other.
PROCESSES = "multiprocessing asyncio concurrent subprocess selectors select ctypes.util".split()

# Numbers, dates and tables that nothing here computes with.
NUMBERS = "decimal _decimal _pydecimal fractions statistics calendar _strptime csv _csv".split()

# Encodings of Asia and the database of Unicode, all of them large: text here is UTF-8.
TEXT = """
    _codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp _codecs_kr _codecs_tw _multibytecodec
    unicodedata stringprep
""".split()

# What others import as they start, and no program here uses: NumPy's documentation, and addresses
# of the internet, which paths of files are told from. They stay, without what is in them.
EMPTIED = "numpy._core._add_newdocs numpy._core._add_newdocs_scalars ipaddress".split()

# The import system: every Python has it inside, as _frozen_importlib and its like.
INSIDE_PYTHON = ["importlib._bootstrap", "importlib._bootstrap_external"]

# run.py is the script itself: as a module it would be there twice.
SCRIPT = ["run"]

EXCLUDES = [
    *NUMPY,
    *NETWORK,
    *COMPRESSION,
    *NOT_FOR_THE_LAUNCHER,
    *DEVELOPMENT,
    *SCREENS,
    *PROCESSES,
    *NUMBERS,
    *TEXT,
    *INSIDE_PYTHON,
    *SCRIPT,
]

# PyInstaller leaves these out by itself, or never meets them; reach.py does meet them. The names
# with "core" are NumPy's own tests, in version 1 and in version 2.
ONLY_FOR_REACH = """
    numpy.array_api numpy.conftest numpy._pyinstaller numpy._build_utils numpy.core.setup
    numpy.core._simd numpy.core._umath_tests numpy.core._rational_tests
    numpy.core._operand_flag_tests numpy.core._struct_ufunc_tests numpy._core._simd
    numpy._core._umath_tests numpy._core._rational_tests numpy._core._operand_flag_tests
    numpy._core._struct_ufunc_tests rlcompleter zoneinfo imp zipapp _aix_support _osx_support
""".split()

# The encodings that stay: Windows needs its code pages, Python a few to start.
ENCODINGS = """
    __init__ aliases ascii charmap cp1252 cp437 latin_1 mbcs oem raw_unicode_escape
    unicode_escape utf_16 utf_16_be utf_16_le utf_32 utf_8 utf_8_sig
""".split()
