"""Every sum and rounding as in runq.c: where int8 rounds activations, a last bit can change a word.

BLAS adds in another order than C does, NumPy's complex products skip roundings, and glibc's expf,
cosf and sinf round one number in a hundred to ten thousand the other way. These are slower. Each
has the signature of its reference in run.py.
"""

import functools
from typing import Any

import numpy as np

from run import NumPyBackend, QuantizedTensor, rope_table
from run import matmul as run_matmul


def coefficients(text: str) -> list[float]:
    """Return the numbers of a polynomial, the highest power first."""
    return [float.fromhex(number) for number in text.split()]


# The polynomials of glibc's expf (of r, in 32nds of a power of two), cosf and sinf (of r * r); the
# same in musl's expf and Arm's routines: https://github.com/ARM-software/optimized-routines
EXP = coefficients("0x1.c6af84b912394p-20 0x1.ebfce50fac4f3p-13 0x1.62e42ff0c52d6p-6 1")
COS = coefficients(
    "0x1.99343027bf8c3p-16 -0x1.6c087e89a359dp-10 0x1.55553e1068f19p-5 -0x1.ffffffd0c621cp-2 1"
)
SIN = coefficients("-0x1.994eb3774cf24p-13 0x1.1107605230bc4p-7 -0x1.555545995a603p-3 1")
QUARTERS = np.array([1, 1j, -1, -1j])


def expf(x: np.ndarray) -> np.ndarray:
    """Return e^x = 2^(k / 32) times a polynomial of what is left, in float64, rounded once."""
    z = np.clip(x.astype(np.float64) * (32 / np.log(2)), -4800, 4800)  # 0 and infinity
    k = np.rint(z)
    return (np.polyval(EXP, z - k) * np.exp2(k / 32)).astype(np.float32)


def unit_circle(angles: np.ndarray) -> np.ndarray:
    """Return cosf + i sinf of float64 angles: quarters of a turn, a polynomial of what is left."""
    k = np.rint(angles * (2 / np.pi))
    r = angles - k * (np.pi / 2)
    turned = np.polyval(COS, r * r) + 1j * (r * np.polyval(SIN, r * r))
    return QUARTERS[k.astype(np.int64) & 3] * turned


def matmul(w: Any, x: np.ndarray) -> np.ndarray:
    """Return x (T, in) times w (out, in) transposed: a matrix of one row is summed in order, too.

    NumPy adds a single column in pairs, and several row by row.
    """
    if len(x) * w.shape[0] > 1:
        return run_matmul(w, x)
    return run_matmul(twice(w), x)[:, :1]


def twice(w: Any) -> Any:
    """Return a matrix of one row with that row twice."""
    if isinstance(w, QuantizedTensor):
        return QuantizedTensor(w.q.repeat(2, axis=0), w.scales.repeat(2, axis=0))
    return w.repeat(2, axis=0)


def apply_rope(x: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Turn each pair of numbers: four products and two sums, each rounded."""
    even, odd = x[..., ::2], x[..., 1::2]
    cos, sin = turns.real, turns.imag
    turned = np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape)


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a (..., m, k) @ b (..., k, n), each sum from its first to its last product."""
    rows = (np.multiply(a[..., i, :, None], b, order="C") for i in range(a.shape[-2]))
    return np.stack([np.add.reduce(row, axis=-2) for row in rows], axis=-2)


def softmax(x: np.ndarray) -> np.ndarray:
    """Return each row of x (..., n) as probabilities."""
    x = expf(x - np.maximum.reduce(x, axis=-1, keepdims=True))
    return x / np.add.accumulate(x, axis=-1)[..., -1:]


def silu(x: np.ndarray) -> np.ndarray:
    """Return x * sigmoid(x)."""
    return x * (np.float32(1) / (np.float32(1) + expf(-x)))


class Exact(NumPyBackend):
    """NumPy that computes what runq.c computes, to the last bit."""

    matmul = staticmethod(matmul)
    rope_table = staticmethod(functools.partial(rope_table, circle=unit_circle))
    apply_rope = staticmethod(apply_rope)
    product = staticmethod(product)
    softmax = staticmethod(softmax)
    silu = staticmethod(silu)
