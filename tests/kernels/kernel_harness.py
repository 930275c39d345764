"""What the kernel's tests share: the library as ctypes sees it, matrices, and one layer twice.

Everything is there in C and in NumPy in float64. Tolerances: a dot product of n numbers in float32
is off by no more than 2e-6 of the sum of the absolute values of its terms; half of a layer by 1e-4
of its largest number. What is quantised must be equal to the last bit.
"""

import ctypes
import functools
import os
import shutil
from ctypes import byref

import gguf
import numpy as np
import pytest

from run.engine.kernel import FUNCTIONS as BINDING
from run.engine.kernel import INT32, POINTER, CCache, CLayer, CModel, CTensor

SETS = "avx512vnni", "avx512", "avxvnni", "avx2", "dotprod", "neon", "portable"
FUNCTIONS = BINDING | {  # what only the tests call
    "unpack_row": (None, POINTER, INT32, POINTER),
    "matmul": (None, POINTER, POINTER, POINTER, INT32, POINTER, POINTER),
}
FLOAT32, INT8 = 0, 1  # tensor types, as in embed/kernels/kernel.h


@functools.cache
def load(library, isa=None):
    """The library as ctypes sees it, in the way that RUN_ISA names; skips where it is missing."""
    copy = library.with_name(f"{isa}-{os.getpid()}-{library.name}")  # a loaded file must stay
    shutil.copy(library, copy)
    with pytest.MonkeyPatch.context() as patch:
        if isa:
            patch.setenv("RUN_ISA", isa)
        kernel = ctypes.CDLL(str(copy))
        for name, (result, *arguments) in FUNCTIONS.items():
            getattr(kernel, name).restype, getattr(kernel, name).argtypes = result, arguments
        chosen = kernel.kernel_isa().decode()
    if isa and chosen != isa:
        pytest.skip(f"this processor has no {isa}")
    return kernel


def quantize(x, group):
    """runq.c's rule on (rows, in) float32: int8 (rows, in) and float32 (rows, in / group)."""
    parts = x.reshape(len(x), -1, group)
    scales = (np.abs(parts).max(-1) / np.float32(127)).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = np.where(scales[..., None] > 0, parts / scales[..., None], 0)
    whole = np.trunc(exact)
    whole += (exact - whole >= 0.5).astype(np.float32) - (exact - whole <= -0.5)
    return whole.astype(np.int8).reshape(x.shape), scales


def dequantize(q, scales):
    """The float64 values of int8 (rows, in) with scales (rows, groups)."""
    groups = q.reshape(*scales.shape, -1).astype(np.float64)
    return (groups * scales[..., None]).reshape(q.shape)


class Matrix:
    """A tensor for the kernel (.c), and the float64 matrix that it stands for (.exact)."""

    def __init__(self, kernel, w, group=0):
        self.group, self.exact = group, w.astype(np.float64)
        if not group:
            self.data = np.ascontiguousarray(w)
            self.c = CTensor(self.data.ctypes.data, None, *w.shape, 0, FLOAT32)
            return
        q, scales = quantize(w, group)
        self.exact = dequantize(q, scales)
        self.data = np.empty(kernel.packed_bytes(INT8, *w.shape, group), np.uint8)
        self.scales = np.empty(kernel.packed_scales(INT8, *w.shape, group), np.float32)
        packed = self.data.ctypes.data, self.scales.ctypes.data
        kernel.pack_int8(q.ctypes.data, scales.ctypes.data, *w.shape, group, *packed)
        self.c = CTensor(*packed, *w.shape, group, INT8)

    def product(self, x):
        """x (T, in) float32 -> (T, out) float64, x quantised where the matrix is."""
        if self.group:
            x = dequantize(*quantize(x, self.group))
        return x.astype(np.float64) @ self.exact.T


def random_blocks(rng, kind, out, n):
    """(out, n / weights) blocks of random bits; their numbers of half precision are small."""
    shape = out, n // kind.weights
    if kind.weights == 1:
        floats = normal(rng, *shape)
        brain_floats = (floats.view("<u4") >> 16).astype("<u2")
        return brain_floats if kind.name == "BF16" else floats.astype("<f2")
    blocks = np.frombuffer(rng.bytes(out * n // kind.weights * kind.layout.itemsize), kind.layout)
    blocks = blocks.reshape(shape).copy()
    for name in {"d", "m", "dmin"} & set(kind.layout.names):
        blocks[name] = normal(rng, *shape) / 64
    return blocks


class BlockMatrix:
    """A matrix of a GGUF's blocks for the kernel (.c), and what the gguf package says it holds."""

    group = 32

    def __init__(self, kernel, rng, kind, out, n, pool=None, blocks=None):
        self.blocks = random_blocks(rng, kind, out, n) if blocks is None else blocks
        self.floats = kind.weights == 1
        raw = np.ascontiguousarray(self.blocks).view(np.uint8).reshape(out, -1)
        raw = raw.view(np.float16) if kind.name == "F16" else raw
        with np.errstate(invalid="ignore"):
            values = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind.name])
            self.exact = values.astype(np.float64)
        number = kernel.tensor_type(kind.name.encode())
        self.data = self.blocks
        if not self.floats:
            self.data = np.full(kernel.packed_bytes(number, out, n, 0), 0xEE, np.uint8)
            pointers = self.blocks.ctypes.data, out, n, self.data.ctypes.data
            kernel.pack_blocks(pool, number, *pointers)
        self.c = CTensor(self.data.ctypes.data, None, out, n, 0, number)

    def rounded(self, x):
        """x (T, in) as the product takes it."""
        return x.astype(np.float64) if self.floats else dequantize(*quantize(x, self.group))

    def product(self, x):
        """x (T, in) float32 -> (T, out) float64."""
        return self.rounded(x) @ self.exact.T


def matmul(kernel, matrix, x, pool=None):
    """kernel.matmul as an array function: x (T, in) -> (T, out)."""
    y = np.full((len(x), matrix.c.out), np.nan, np.float32)
    scratch = np.empty(3 * x.size + 64 + 16 * len(x), np.float32)
    x = np.ascontiguousarray(x)
    pointers = x.ctypes.data, len(x), y.ctypes.data, scratch.ctypes.data
    kernel.matmul(pool, byref(matrix.c), *pointers)
    return y


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


class Memory:
    """A conversation: a Cache (.c) with its keys, values and scratch memory, full of rubbish."""

    def __init__(self, kernel, model, rope, context):
        sizes = kernel.keys_floats, kernel.values_floats, kernel.scratch_floats
        parts = [np.full(size(byref(model), context), np.nan, np.float32) for size in sizes]
        self.keys, self.values, self.scratch = parts
        keys, values, scratch = (part.ctypes.data for part in parts)
        self.c = CCache(keys, values, rope.ctypes.data, scratch, context)


class Network:
    """One layer with a conversation's memory, in C and in float64 NumPy."""

    def __init__(self, kernel, rng, heads, kv_heads, size, hidden, group, rows=70, threads=2):
        self.kernel, self.rng, dim, kv = kernel, rng, heads * size, kv_heads * size
        self.heads, self.kv_heads, self.size, context = heads, kv_heads, size, 80
        shapes = {"wq": (dim, dim), "wk": (kv, dim), "wv": (kv, dim), "wo": (dim, dim)}
        shapes |= {"w1": (hidden, dim), "w2": (dim, hidden), "w3": (hidden, dim)}
        self.w = {
            k: Matrix(kernel, normal(rng, *s) / s[1] ** 0.5, group) for k, s in shapes.items()
        }
        self.norms = [normal(rng, dim) for _ in range(3)]
        angles = np.outer(np.arange(context), 10000.0 ** -(np.arange(0, size, 2) / size))
        self.rope = np.stack([np.cos(angles), np.sin(angles)], -1).astype(np.float32)
        self.k64, self.v64 = np.zeros((2, context, kv_heads, size))
        norms = [norm.ctypes.data for norm in self.norms]
        self.layer = CLayer(*norms[:2], index=0)
        for name in shapes:
            setattr(self.layer, name, self.w[name].c)
        self.pool = kernel.pool_new(threads)
        sizes = dim, hidden, 1, heads, kv_heads, size, rows
        self.model = CModel(self.pool, *sizes, 1e-5)
        self.memory = Memory(kernel, self.model, self.rope, context)
        self.parts = byref(self.model), byref(self.layer), byref(self.memory.c)

    def close(self):
        self.kernel.pool_free(self.pool)

    def normed(self, x, norm):
        x = x.astype(np.float64)
        y = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * norm
        return y.astype(np.float32)

    def rotated(self, x, pos):  # (T, heads, size)
        table = self.rope[pos : pos + len(x), None].astype(np.float64)
        pairs = x.reshape(*x.shape[:2], -1, 2)
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * (table[..., 0] + 1j * table[..., 1])
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    def attention(self, x, pos):
        """x (T, dim) float32 after attention: what C makes of it, and NumPy in float64."""
        y, t, end, group = x.copy(), len(x), pos + len(x), self.heads // self.kv_heads
        self.kernel.attention(*self.parts, y.ctypes.data, t, pos)
        n = self.normed(x, self.norms[0])
        q = self.rotated(self.w["wq"].product(n).reshape(t, self.heads, self.size), pos)
        k = self.w["wk"].product(n).reshape(t, self.kv_heads, self.size)
        self.k64[pos:end] = self.rotated(k, pos)
        self.v64[pos:end] = self.w["wv"].product(n).reshape(t, self.kv_heads, self.size)
        keys, values = (np.repeat(a[:end], group, 1) for a in (self.k64, self.v64))
        scores = np.einsum("thd,shd->hts", q, keys) / np.sqrt(self.size)
        scores[:, np.arange(end)[None] > pos + np.arange(t)[:, None]] = -np.inf
        p = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hts,shd->thd", p / p.sum(-1, keepdims=True), values).reshape(t, -1)
        return y, x + self.w["wo"].product(mixed.astype(np.float32))

    def feed_forward(self, x):
        """The same for the feed-forward half."""
        y = x.copy()
        self.kernel.feed_forward(*self.parts, y.ctypes.data, len(x))
        n = self.normed(x, self.norms[1])
        gate, up = self.w["w1"].product(n), self.w["w3"].product(n)
        with np.errstate(over="ignore"):
            hidden = (gate / (1 + np.exp(-gate)) * up).astype(np.float32)
        return y, x + self.w["w2"].product(hidden)


def close_enough(got, expected, int8):
    """1e-4 of the largest number; where a number is rounded to the other side of a half, a step."""
    error = np.abs(got - expected).max() / np.abs(expected).max()
    return error <= (2e-2 if int8 else 1e-4)
