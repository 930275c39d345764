"""The kernel's fixtures: the library compiled afresh, and every instruction set of this machine."""

import numpy as np
import pytest
from kernel_harness import SETS, load

from run.packing import compilers as compiler


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The kernel, compiled afresh."""
    try:
        return compiler.compile_kernel(out_dir=tmp_path_factory.mktemp("kernel"))
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
