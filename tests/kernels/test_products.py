"""Matrix products and packed weights, of every instruction set, against float64."""

from ctypes import byref

import numpy as np
import pytest
from kernel_harness import FLOAT32, INT8, CTensor, Matrix, matmul, normal, quantize


def random_case(rng, threads):
    """(out, in, group, T): tails of every kind."""
    group = int(rng.choice([4, 6, 7, 12, 16, 32, 36, 64, 128, 256]))
    t = int(rng.choice([1, 1, 2, 3, 4, 5, 6, 7, 12, 13, 64, 70]))
    return int(rng.integers(1, 200)), group * int(rng.integers(1, 9)), group, t


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
def test_matmul(kernel, rng, threads, int8):
    pool = kernel.pool_new(threads)
    for _ in range(25):
        out, n, group, t = random_case(rng, threads)
        matrix = Matrix(kernel, normal(rng, out, n), group if int8 else 0)
        x = normal(rng, t, n)
        bound = np.abs(x) @ np.abs(matrix.exact.T) * 2e-6
        assert (np.abs(matmul(kernel, matrix, x, pool) - matrix.product(x)) <= bound).all()
    kernel.pool_free(pool)


@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
def test_long_rows_and_many_rows(kernel, rng, int8):
    """More columns than one cache block, more rows than one panel."""
    matrix = Matrix(kernel, normal(rng, 323, 3 * 1056), 32 if int8 else 0)
    x = normal(rng, 9, 3 * 1056)
    pool = kernel.pool_new(2)
    got = matmul(kernel, matrix, x, pool)
    kernel.pool_free(pool)
    assert (np.abs(got - matrix.product(x)) <= np.abs(x) @ np.abs(matrix.exact.T) * 3e-6).all()


@pytest.mark.parametrize("group", [4, 7, 16, 20, 32, 64, 256])
def test_activations_are_quantised_as_in_runq(kernel, rng, group):
    """The identity shows them: halves away from zero, zero groups, tiny and huge numbers."""
    n = 4 * group
    x = normal(rng, 6, n) * np.float32(10.0) ** rng.integers(-20, 20, (6, n)).astype(np.float32)
    steps = rng.integers(-254, 255, n).astype(np.float32) / 2
    steps[::group] = 127
    x = np.vstack([x, steps, -steps, np.zeros(n, np.float32), np.full(n, 3e38, np.float32)])
    identity = Matrix(kernel, np.eye(n, dtype=np.float32), group)
    identity_scale = np.float32(1) / np.float32(127)
    q, scales = quantize(x, group)
    sums = (q.astype(np.float32) * 127).reshape(*scales.shape, group)  # a weight of 1 is q = 127
    with np.errstate(over="ignore"):
        expected = sums * identity_scale * scales[..., None]
    assert np.array_equal(matmul(kernel, identity, x), expected.reshape(x.shape))


@pytest.mark.parametrize("group", [4, 7, 32, 36, 256])
def test_pack_and_unpack(kernel, rng, group):
    w = normal(rng, 37, 3 * group)
    q, scales = quantize(w, group)
    matrix = Matrix(kernel, w, group)
    for row in range(37):
        y = np.empty(3 * group, np.float32)
        kernel.unpack_row(byref(matrix.c), row, y.ctypes.data)
        expected = q[row].reshape(3, group) * scales[row][:, None]
        assert np.array_equal(y, expected.ravel())


def test_types_and_their_sizes(best):
    """Types have the numbers that this file takes them to have, and sizes count what fills up."""
    assert best.tensor_type(b"float32") == FLOAT32 and best.tensor_type(b"int8") == INT8
    assert best.tensor_type(b"int7") == -1
    assert best.packed_bytes(FLOAT32, 17, 30, 0) == 17 * 30 * 4
    assert best.packed_scales(FLOAT32, 17, 30, 0) == 0
    assert best.packed_bytes(INT8, 17, 30, 15) == 32 * (16 + 16)
    assert best.packed_scales(INT8, 17, 30, 15) == 32 * 2


def test_rows_of_float32(kernel, rng):
    matrix, y = Matrix(kernel, normal(rng, 5, 37)), np.empty(37, np.float32)
    for row in range(5):
        kernel.unpack_row(byref(matrix.c), row, y.ctypes.data)
        assert np.array_equal(y, matrix.data[row])


def test_all_of_int8(kernel):
    """-128 occurs in files of others; the largest numbers of both signs do not overflow."""
    for value in -128, -127, 127:
        q, scales = np.full((16, 256), value, np.int8), np.ones((16, 1), np.float32)
        data = np.empty(kernel.packed_bytes(INT8, 16, 256, 256), np.uint8)
        packed = np.empty(kernel.packed_scales(INT8, 16, 256, 256), np.float32)
        pointers = data.ctypes.data, packed.ctypes.data
        kernel.pack_int8(q.ctypes.data, scales.ctypes.data, 16, 256, 256, *pointers)
        matrix = Matrix.__new__(Matrix)
        matrix.c = CTensor(*pointers, 16, 256, 256, INT8)
        for sign in 1, -1:
            y = matmul(kernel, matrix, np.full((1, 256), sign * 127, np.float32))
            assert (y == value * sign * 127 * 256).all()


def test_weights_at_odd_addresses(kernel, rng):
    """A model inside a zip can lie anywhere: float32 weights are read in place."""
    w, x = normal(rng, 21, 45), normal(rng, 3, 45)
    aligned = Matrix(kernel, w)
    data = np.frombuffer(b"!" + w.tobytes(), np.uint8)
    odd = Matrix.__new__(Matrix)
    odd.c = CTensor(data.ctypes.data + 1, None, 21, 45, 0, FLOAT32)
    assert np.array_equal(matmul(kernel, odd, x), matmul(kernel, aligned, x))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("group", [0, 32])
def test_nan_and_infinity_are_not_hidden(kernel, rng, group, bad):
    x = normal(rng, 8, 96)
    x[3, 40] = bad
    y = matmul(kernel, Matrix(kernel, normal(rng, 20, 96), group), x)
    assert not np.isfinite(y[3]).any()
    assert np.isfinite(np.delete(y, 3, 0)).all()
