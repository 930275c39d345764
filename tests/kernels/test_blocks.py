"""Every type of a GGUF's blocks, packed and multiplied, against the gguf package's values.

The kernel rounds activations to int8 in groups of 32; so does the reference, with runq.c's rule.
Then a product may be off by 2e-6 of the sum of the activations' absolute values times the largest
weight of its row: roundings of float32. Every instruction set must give the same bits.
"""

from ctypes import byref

import gguf
import numpy as np
import pytest
from kernel_harness import BlockMatrix, load, matmul, normal

from run.engine.blocks import TYPES

KINDS = [kind for kind in TYPES.values() if kind.name != "F32"]
HALVES = [kind for kind in KINDS if kind.weights == 1]
PACKED = [kind for kind in KINDS if kind.weights > 1]
BITS = {  # of a packed weight; in the file: 4.5 5 5.5 6 8.5 2.625 3.4375 4.5 5.5 6.5625 4.5 4.25
    "Q4_0": 4.5, "Q4_1": 5, "Q5_0": 5.5, "Q5_1": 6, "Q8_0": 8.5, "Q2_K": 3.125, "Q3_K": 3.625,
    "Q4_K": 4.625, "Q5_K": 5.625, "Q6_K": 6.625, "IQ4_NL": 4.5, "IQ4_XS": 4.375,
}  # fmt: skip


def named(kinds):
    return pytest.mark.parametrize("kind", kinds, ids=[kind.name for kind in kinds])


def random_case(rng, kind):
    """(out, in, T): tails of every kind."""
    unit = max(kind.weights, 32) if kind in PACKED else 1
    n = unit * int(rng.integers(1, 4 if unit == 256 else 20))
    t = int(rng.choice([1, 1, 2, 3, 4, 5, 6, 7, 12, 13, 47, 48, 49, 64, 70]))
    return int(rng.integers(1, 100)), n, t


def assert_product(got, matrix, x):
    """As the head of this file says."""
    sums = np.abs(matrix.rounded(x)).sum(1, keepdims=True)
    bound = sums * np.abs(matrix.exact).max(1) * 2e-6
    assert (np.abs(got - matrix.product(x)) <= bound + 1e-30).all()


@pytest.mark.parametrize("threads", [1, 2, 8])
@named(KINDS)
def test_products(kernel, rng, threads, kind):
    pool = kernel.pool_new(threads)
    for _ in range(8):
        out, n, t = random_case(rng, kind)
        matrix, x = BlockMatrix(kernel, rng, kind, out, n, pool), normal(rng, t, n)
        assert_product(matmul(kernel, matrix, x, pool), matrix, x)
    kernel.pool_free(pool)


@named(PACKED)
def test_large_matrices(best, rng, kind):
    """Many chunks of rows, more columns than a slab."""
    pool = best.pool_new(3)
    matrix, x = BlockMatrix(best, rng, kind, 707, 1280, pool), normal(rng, 9, 1280)
    assert_product(matmul(best, matrix, x, pool), matrix, x)
    assert_product(matmul(best, matrix, x[:1], pool), matrix, x[:1])
    best.pool_free(pool)


@named(PACKED)
def test_one_row_and_many_rows_are_the_same_numbers(kernel, library, rng, kind):
    """In every instruction set: a text does not depend on how a prompt is cut, or where it runs."""
    matrix, x = BlockMatrix(kernel, rng, kind, 53, 768), normal(rng, 50, 768)
    together = matmul(kernel, matrix, x)
    for row in range(0, 50, 7):
        assert np.array_equal(matmul(kernel, matrix, x[row : row + 1])[0], together[row])
    plain = load(library, "portable")
    assert np.array_equal(matmul(plain, matrix, x), together)


@named(KINDS)
def test_rows(best, rng, kind):
    """The plain reference in C gives the values of the package, packed by one thread or three."""
    pool = best.pool_new(3)
    matrix = BlockMatrix(best, rng, kind, 37, 512)
    if kind in PACKED:
        again = BlockMatrix(best, None, kind, 37, 512, pool, matrix.blocks)
        assert np.array_equal(matrix.data, again.data)
    y = np.empty(512, np.float32)
    for row in range(37):
        best.unpack_row(byref(matrix.c), row, y.ctypes.data)
        np.testing.assert_allclose(y, matrix.exact[row], rtol=1e-6, atol=1e-9)
    best.pool_free(pool)


@named(PACKED)
def test_sizes(best, kind):
    """Packed weights take about as many bits as in the file; rows fill up to 16."""
    number = best.tensor_type(kind.name.encode())
    assert best.packed_bytes(number, 32, 512, 0) * 8 / (32 * 512) == BITS[kind.name]
    assert best.packed_bytes(number, 17, 512, 0) == best.packed_bytes(number, 32, 512, 0)
    assert best.packed_scales(number, 32, 512, 0) == 0


def test_packed_bytes_do_not_depend_on_the_instruction_set(kernel, best, rng):
    for kind in PACKED:
        matrix = BlockMatrix(best, rng, kind, 21, 256)
        again = BlockMatrix(kernel, None, kind, 21, 256, None, matrix.blocks)
        assert np.array_equal(matrix.data, again.data)


@named(HALVES)
def test_every_half(kernel, kind):
    """Denormals, infinities and NaN of 16 bits are what NumPy takes them for."""
    numbers = np.arange(2**16, dtype=np.uint16).reshape(-1, 1)
    blocks = numbers.view(kind.layout)
    matrix = BlockMatrix(kernel, None, kind, 2**16, 1, None, blocks)
    with np.errstate(invalid="ignore"):
        y = matmul(kernel, matrix, np.ones((1, 1), np.float32))[0]
    assert np.array_equal(y, kind.decode(blocks)[:, 0], equal_nan=True)


@named(KINDS)
def test_nan_is_not_hidden(kernel, rng, kind):
    x = normal(rng, 8, 256)
    x[3, 40] = np.nan
    y = matmul(kernel, BlockMatrix(kernel, rng, kind, 20, 256), x)
    assert np.isnan(y[3]).all() and np.isfinite(np.delete(y, 3, 0)).all()


def test_the_packages_values_are_the_reference():
    """BlockMatrix takes them from the package, so that an error of ours cannot hide itself."""
    assert {kind.name for kind in KINDS} <= set(gguf.GGMLQuantizationType.__members__)
