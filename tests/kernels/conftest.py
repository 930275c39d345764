"""The kernel's fixtures: the library compiled afresh, and every instruction set of this machine."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from kernel_harness import SETS, load

from run.engine.systems import kernel_file, this_system
from run.packing import compilers as compiler

BUILT = compiler.HERE / kernel_file(this_system())


def is_fresh():
    """Whether the built kernel is newer than what it is made of, as make sees it."""
    sources = [*compiler.HERE.glob("*.[ch]"), Path(compiler.__file__)]
    newest = max(source.stat().st_mtime for source in sources)
    return BUILT.exists() and BUILT.stat().st_mtime > newest


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The kernel as its sources are now: the built one if it is newer, else compiled afresh."""
    place = tmp_path_factory.mktemp("kernel")
    if is_fresh():
        return Path(shutil.copy(BUILT, place))
    try:
        return compiler.compile_kernel(out_dir=place)
    except compiler.CompileError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", params=SETS)
def kernel(request, library):
    return load(library, request.param)


@pytest.fixture(scope="session")
def best(library):
    return load(library)


@pytest.fixture
def rng():
    return np.random.default_rng(7)
