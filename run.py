#!/usr/bin/env python3
"""Llama 2 in one file: the mathematics first, then text, then files, then the command line.

forward turns tokens into logits, the sampler draws the next token from them, the tokenizer makes
text of it. Copied alone, this file runs every llama2.c checkpoint; embed/engine/ beside it adds
GGUF, the C kernel, chat and more.

Letters: T tokens that are forwarded together; x the residual stream, (T, dim); w a matrix,
(out, in); q, k, v queries, keys and values; c a Config. All mathematics is float32 on purpose: one
float64 scalar would make everything after it float64, and ten times slower.
"""
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.24"]
# ///

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback

import argparse
import codecs
import functools
import importlib
import math
import mmap
import os
import re
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__version__ = "1.1.0"

# run.engine.gguf is embed/engine/gguf.py, whatever else is called embed; pip says run_llama.
HERE = os.path.dirname(os.path.abspath(__file__))
__path__ = [os.path.join(HERE, "embed"), os.path.join(HERE, "run_llama")]
sys.modules.setdefault("run", sys.modules[__name__])  # a script's rooms import run too


def engine_module(name: str, required: bool = True) -> Any:
    """Return the module embed/engine/NAME.py; without embed/ raise a ModelError or return None."""
    try:
        return importlib.import_module(f"run.engine.{name}")
    except ModuleNotFoundError as error:
        if error.name != "run.engine":  # embed/ is there, and something in it is not
            raise
    if required:
        raise ModelError(f"this needs embed/engine/{name}.py beside run.py, and it is not there")
    return None


early = engine_module("early", required=False) if __name__ == "__main__" else None
if early:
    early.limit_threads(sys.argv[1:])  # -j: OpenBLAS wants to know while NumPy loads

import numpy as np

Array = np.ndarray
MAX_ROWS = 128  # tokens forwarded at once: enough for fast products, little memory
printable = functools.partial(re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]").sub, "\ufffd")


# ---------------------------------------------------------------- configuration and weights
class ModelError(Exception):
    """What was given cannot be used: the message names it, the limit and the fix."""


@dataclass
class Config:
    """A model's shape. ModelError if it cannot be one."""

    dim: int  # of the residual stream
    hidden_dim: int  # of the feed-forward
    n_layers: int
    n_heads: int  # of queries
    n_kv_heads: int  # of keys and values: fewer where queries share them (GQA: Ainslie, 2023)
    vocab_size: int
    seq_len: int  # the longest context that it was trained for
    norm_eps: float = 1e-5  # these two are the same in all of llama2.c's files
    rope_base: float = 10000.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            limit = 2**14 if name == "n_layers" else 2**31  # a layer takes memory of its own
            if not 0 < value < limit:
                raise ModelError(f"{name} is {value} in the header; it must be below {limit:,}")
        if self.dim % (2 * self.n_heads) or self.n_heads % self.n_kv_heads:
            raise ModelError(f"{self.n_heads} and {self.n_kv_heads} heads do not divide {self.dim}")
        self.head_size = self.dim // self.n_heads
        self.kv_dim = self.head_size * self.n_kv_heads

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Return the shape (out, in) of each matrix of a layer, by its name in Layer."""
        dim, kv_dim, hidden_dim = self.dim, self.kv_dim, self.hidden_dim
        narrow, wide = (kv_dim, dim), (hidden_dim, dim)
        shapes = (dim, dim), narrow, narrow, (dim, dim), wide, (dim, hidden_dim), wide
        return dict(zip(MATRICES, shapes, strict=True))


@dataclass
class Layer:
    """The weights of one layer; a matrix is float32 or a QuantizedTensor."""

    att_norm: Array  # (dim,)
    wq: Any  # (dim, dim): queries
    wk: Any  # (kv_dim, dim): keys
    wv: Any  # (kv_dim, dim): values
    wo: Any  # (dim, dim): what attention found, back to the residual stream
    ffn_norm: Array  # (dim,)
    w1: Any  # (hidden_dim, dim): the gate
    w2: Any  # (dim, hidden_dim): back to the residual stream
    w3: Any  # (hidden_dim, dim): what the gate lets through


@dataclass
class Weights:
    """All weights of a model; they are never changed once it is loaded."""

    tok_emb: Any  # (vocab_size, dim)
    layers: list[Layer]
    final_norm: Array  # (dim,)
    wcls: Any  # (vocab_size, dim), the classifier: tok_emb itself where they are tied


@dataclass
class QuantizedTensor:
    """A matrix (out, in) in groups of int8, each with a scale."""

    q: Array  # (out, in / group, group) int8
    scales: Array  # (out, in / group) float32

    def __post_init__(self) -> None:
        out, groups, self.group = self.q.shape
        self.shape = out, groups * self.group

    def __getitem__(self, rows: Any) -> Array:
        """Return these rows as float32, (number of rows, in)."""
        return (self.q[rows] * self.scales[rows][..., None]).reshape(-1, self.shape[1])

    @functools.cached_property
    def floats(self) -> Array:
        """q as float32, (in / group, out, group): NumPy has no fast product of int8."""
        return np.ascontiguousarray(self.q.swapaxes(0, 1), np.float32)


# ------------------------------------------------------------------------------ mathematics
def rmsnorm(x: Array, weight: Array, eps: float) -> Array:
    """Return x (T, dim), each row with root mean square 1, times weight. (Zhang, Sennrich 2019)"""
    squares = np.add.accumulate(x * x, axis=-1)[:, -1:]  # added in order, as run.c does
    mean_square = squares / np.float32(x.shape[-1])
    return weight * (np.float32(1) / np.sqrt(mean_square + np.float32(eps)) * x)


def softmax(x: Array) -> Array:
    """Turn each row of x (..., n) into probabilities, in place."""
    x -= np.maximum.reduce(x, axis=-1, keepdims=True)  # the largest becomes 0: no overflow
    np.exp(x, out=x)
    x /= np.add.reduce(x, axis=-1, keepdims=True)
    return x


def silu(x: Array) -> Array:
    """Return x * sigmoid(x). (Elfwing et al., 2017)"""
    return x * (np.float32(1) / (1 + np.exp(-x)))


def unit_circle(angles: Array) -> Array:
    """Return cosines + i sines of float64 angles."""
    return np.cos(angles) + 1j * np.sin(angles)


def rope_table(c: Config, start: int, stop: int, circle: Any = unit_circle) -> Array:
    """Return the turns of positions, (stop - start, 1, head_size / 2). (RoPE: Su et al., 2021)"""
    parts = np.arange(0, c.head_size, 2, dtype=np.float32) / np.float32(c.head_size)
    powers = (c.rope_base ** parts.astype(np.float64)).astype(np.float32)
    angles = np.arange(start, stop, dtype=np.float32)[:, None, None] * (np.float32(1) / powers)
    return circle(angles.astype(np.float64)).astype(np.complex64)


def apply_rope(x: Array, turns: Array) -> Array:
    """Turn each pair of numbers of x (T, heads, head_size) by turns (T, 1, head_size / 2)."""
    return (x.view(np.complex64) * turns).view(np.float32)


def quantize(x: Array, group: int) -> tuple[Array, Array]:
    """Round groups of x to whole numbers (..., in / group, group), with scales (..., 1)."""
    x = x.reshape(*x.shape[:-1], -1, group)
    scales = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    ratio = x / np.where(scales == 0, np.float32(1), scales)
    whole = np.trunc(ratio)  # halves go away from zero, as in runq.c
    return whole + np.trunc((ratio - whole) * 2), scales


def matmul(w: Any, x: Array) -> Array:
    """Return x (T, in) times w (out, in) transposed, (T, out)."""
    if not isinstance(w, QuantizedTensor):
        return x.dot(w.T)
    whole, scales = quantize(x, w.group)  # x is rounded too, and groups are added in order
    sums = w.floats @ whole.transpose(1, 2, 0)  # (in / group, out, T), exact: whole numbers
    sums *= w.scales.T[..., None]
    sums *= scales.transpose(1, 2, 0)
    return np.ascontiguousarray(np.add.reduce(sums, axis=0).T)


# ------------------------------------------------------------------------------ transformer
class KVCache:
    """What one conversation owns: keys and values of what was read, and room to compute in."""

    def __init__(self, c: Config, context: int):
        self.context, self.turned = context, 0  # turned: positions whose turns are in rope
        self.x = np.empty((min(MAX_ROWS, context), c.dim), np.float32)
        try:  # the system gives the memory as the text grows
            shape = c.n_layers, c.n_kv_heads, context, c.head_size
            self.keys, self.values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
            self.rope = np.empty((context, 1, c.head_size // 2), np.complex64)
        except (MemoryError, ValueError):
            raise ModelError(f"no memory for a context of {context:,}: use -n") from None


class NumPyBackend:
    """How layers are computed: here in plain NumPy. Those of embed/engine/ replace what differs:
    threaded.py shares products out, exact.py rounds as runq.c does, kernel.py computes in C."""

    matmul = staticmethod(matmul)
    product: Any = staticmethod(np.matmul)
    softmax = staticmethod(softmax)
    silu = staticmethod(silu)
    rope_table = staticmethod(rope_table)
    apply_rope = staticmethod(apply_rope)
    new_cache = KVCache

    def __init__(self, config: Config, description: str = "numpy, without embed/"):
        self.config, self.description = config, description

    def attention(self, index: int, layer: Layer, x: Array, cache: Any, pos: int) -> None:
        """Add to x (T, dim), from position pos on, what each token finds in those up to it."""
        c = self.config
        end = pos + len(x)
        turns = cache.rope[pos:end]
        n = rmsnorm(x, layer.att_norm, c.norm_eps)
        q = self.matmul(layer.wq, n).reshape(-1, c.n_heads, c.head_size)
        k = self.matmul(layer.wk, n).reshape(-1, c.n_kv_heads, c.head_size)
        v = self.matmul(layer.wv, n).reshape(-1, c.n_kv_heads, c.head_size)
        keys, values = cache.keys[index], cache.values[index]
        keys[:, pos:end] = self.apply_rope(k, turns).swapaxes(0, 1)
        values[:, pos:end] = v.swapaxes(0, 1)
        mix = self.attend(self.apply_rope(q, turns), keys[:, :end], values[:, :end])
        x += self.matmul(layer.wo, mix)

    def attend(self, q: Array, keys: Array, values: Array) -> Array:
        """Return what each query mixes of the values, (T, dim). (Vaswani et al., 2017)"""
        T = len(q)
        n_kv_heads, end, head_size = keys.shape
        q = q.reshape(T, n_kv_heads, -1, head_size).transpose(1, 2, 0, 3)
        q = q.reshape(n_kv_heads, -1, head_size)  # heads that share keys are rows of one product
        scores = self.product(q, keys.swapaxes(1, 2)) / np.float32(math.sqrt(head_size))
        if T > 1:
            future = np.triu(np.full((T, T), -np.inf, np.float32), 1)
            scores.reshape(n_kv_heads, -1, T, end)[..., end - T :] += future
        mix = self.product(self.softmax(scores), values)  # (n_kv_heads, sharing * T, head_size)
        return mix.reshape(n_kv_heads, -1, T, head_size).transpose(2, 0, 1, 3).reshape(T, -1)

    def feed_forward(self, layer: Layer, x: Array, cache: Any) -> None:
        """Add w2 (silu(w1 x) * w3 x) to x (T, dim). (SwiGLU: Shazeer, 2020)"""
        n = rmsnorm(x, layer.ffn_norm, self.config.norm_eps)
        x += self.matmul(layer.w2, self.silu(self.matmul(layer.w1, n)) * self.matmul(layer.w3, n))

    def classify(self, weights: Weights, x: Array, cache: Any) -> Array:
        """Return the logits of what follows each of x (T, dim), (T, vocab_size)."""
        n = rmsnorm(x, weights.final_norm, self.config.norm_eps)
        return self.matmul(weights.wcls, n)


class Transformer:
    """A model that is ready to run: a ModelFile, a backend, and how many tokens fit."""

    def __init__(self, file: "ModelFile", backend: NumPyBackend, context: int):
        self.file, self.backend, self.context = file, backend, context
        self.config, self.weights, self.tokenizer = file.config, file.weights, file.tokenizer
        self.cache: KVCache | None = None  # of a forward that is given none

    def new_cache(self) -> KVCache:
        """Return an empty cache: one for each text that is read at the same time."""
        return self.backend.new_cache(self.config, self.context)

    def reserve(self, cache: KVCache, start: int, stop: int) -> None:
        """Prepare a cache for positions from start to stop. ModelError if they do not fit."""
        if stop > cache.context or not 0 <= start < stop:
            raise ModelError(f"{stop:,} tokens do not fit a context of {cache.context:,}: cut them")
        if stop > cache.turned:
            ahead = min(stop + MAX_ROWS, cache.context)
            turns = self.backend.rope_table(self.config, cache.turned, ahead)
            cache.rope[cache.turned : ahead], cache.turned = turns, ahead

    @np.errstate(all="ignore")  # damaged weights give NaN logits, and the sampler says so
    def forward(self, tokens: Any, pos: int, last_only: bool = True, cache: Any = None) -> Array:
        """Read tokens from pos on; return logits after the last (vocab_size,) or each (T, ...)."""
        tokens = list(tokens)
        if cache is None:
            cache = self.cache = self.cache or self.new_cache()
        self.reserve(cache, pos, pos + len(tokens))
        starts = range(0, len(tokens), MAX_ROWS)
        logits = []
        progress = engine_module("progress", required=False) if len(starts) > 1 else None
        for start in progress.shown(starts, "reading the prompt") if progress else starts:
            chunk = tokens[start : start + MAX_ROWS]
            x = cache.x[: len(chunk)]
            x[:] = self.weights.tok_emb[chunk]
            for index, layer in enumerate(self.weights.layers):
                self.backend.attention(index, layer, x, cache, pos + start)
                self.backend.feed_forward(layer, x, cache)
            logits.append(self.backend.classify(self.weights, x[-1:] if last_only else x, cache))
        return logits[-1][0] if last_only else np.concatenate(logits)


# -------------------------------------------------------------------------------- tokenizer
@dataclass
class Tokenizer:
    """SentencePiece's byte-pair encoding, as llama2.c's files and GGUFs of Llama 2 carry it."""

    pieces: list[bytes]  # the text of each token; where one stands for a byte, that byte
    scores: list[float]  # the higher, the sooner two neighbours are merged into this token
    special: dict[str, int]  # control tokens by their text (<s>): no merge makes them
    bos: int = 1  # begins a text
    eos: int = 2  # ends it
    prefix: str = " "  # stands before a text when it is encoded

    def __post_init__(self) -> None:
        self.stops = {self.bos, self.eos}
        self.byte_ids = [0] * 256  # 0 is <unk>, where a byte has no token
        for i, piece in enumerate(self.pieces):
            if len(piece) == 6 and re.fullmatch(rb"<0x[0-9A-F]{2}>", piece):
                self.pieces[i] = bytes.fromhex(piece[3:5].decode())
                self.byte_ids[int(piece[3:5], 16)] = i
        self.single = set(self.byte_ids)  # what stands for a byte is never merged
        hidden = self.single.union(self.special.values())
        known = [i for i in range(len(self.pieces)) if i not in hidden]
        self.ids = {self.pieces[i]: i for i in reversed(known)}  # the first of equals counts

    def encode(self, text: str, bos: bool = True, prefix: bool = True) -> list[int]:
        """Return the ids of text: "Hello, world!" is [1, 15043, 29892, 3186, 29991] in Llama 2."""
        text = self.prefix + text if prefix and text else text
        fast = engine_module("merge", required=False)  # the same in n log n steps
        tokens = fast.encode(self, text) if fast else self.merge(self.characters(text))
        return [self.bos, *tokens] if bos else tokens

    def characters(self, text: str) -> list[int]:
        """Return the token of each character, or those of its bytes."""
        tokens: list[int] = []
        for char in text:
            is_byte = "\udc80" <= char <= "\udcff"  # one of the command line that is not UTF-8
            data = char.encode("utf-8", "surrogateescape" if is_byte else "surrogatepass")
            tokens += [self.ids[data]] if data in self.ids else [self.byte_ids[b] for b in data]
        return tokens

    def merge(self, tokens: list[int]) -> list[int]:
        """Return tokens with neighbours merged, best score first, leftmost of equals."""
        while True:
            best = -math.inf
            for i in range(len(tokens) - 1):
                merged = self.ids.get(self.pieces[tokens[i]] + self.pieces[tokens[i + 1]])
                if merged is None or self.single.intersection(tokens[i : i + 2]):
                    continue
                if self.scores[merged] > best:
                    best, where, token = self.scores[merged], i, merged
            if best == -math.inf:
                return tokens
            tokens = [*tokens[:where], token, *tokens[where + 2 :]]

    def decode(self, prev: int | None, token: int) -> bytes:
        """Return the bytes of token, which follows prev; after BOS without encode's space."""
        piece = self.pieces[token]
        return piece[1:] if prev == self.bos and piece[:1] == b" " else piece


# ---------------------------------------------------------------------------------- sampler
@dataclass
class Sampler:
    """Draws tokens as run.c does. ModelError where a number is out of its range."""

    temperature: Any = 1.0  # 0 takes the likeliest token, 1 draws as the model says
    topp: Any = 0.9  # draws from the likeliest tokens of this probability together; 0, 1: from all
    seed: Any = None  # the same one draws the same tokens; None takes the time

    def __post_init__(self) -> None:
        if self.seed is None:
            self.seed = time.time_ns() % 2**32 + 1
        limits = {"temperature": (0, 100), "topp": (0, 1), "seed": (1, 2**64 - 1)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ModelError(f"{name} is {value}; it must be from {low} to {high}")
        self.temperature, self.topp = np.float32(self.temperature), np.float32(self.topp)
        self.state = int(self.seed)

    def random(self) -> float:
        """Return the next number in [0, 1), a multiple of 2^-24. (xorshift64*: Vigna, 2014)"""
        state = self.state ^ self.state >> 12
        state ^= state << 25 & 0xFFFFFFFFFFFFFFFF
        self.state = state ^ state >> 27
        return (self.state * 0x2545F4914F6CDD1D >> 40 & 0xFFFFFF) / 2**24

    @np.errstate(all="ignore")
    def sample(self, logits: Array) -> int:
        """Return a token drawn by logits (vocab_size,). ModelError if they are not finite."""
        best = int(logits.argmax())
        if not math.isfinite(logits[best]):
            raise ModelError("the model computes NaN or infinity: its weights are damaged")
        if self.temperature == 0:
            return best
        probs = np.exp((logits - logits[best]) / self.temperature)
        probs /= np.add.reduce(probs)
        if 0 < self.topp < 1:
            return self.sample_nucleus(probs)
        return min(int(np.cumsum(probs).searchsorted(self.random(), "right")), len(probs) - 1)

    def sample_nucleus(self, probs: Array) -> int:
        """Return one of the fewest tokens that have topp together. (Holtzman et al., 2019)"""
        floor = (1 - self.topp) / np.float32(len(probs) - 1)  # none below it can be in there
        tokens = np.flatnonzero(probs >= min(floor, probs.max()))
        tokens = tokens[np.argsort(-probs[tokens], kind="stable")]
        cdf = np.cumsum(probs[tokens])
        cdf = cdf[: cdf.searchsorted(self.topp, "right") + 1]
        drawn = int(cdf.searchsorted(self.random() * cdf[-1], "right"))
        return int(tokens[min(drawn, len(cdf) - 1)])


# --------------------------------------------------------------------------- files and loading
@dataclass
class ModelFile:
    """What a model's file holds, the same for every format."""

    config: Config
    weights: Weights
    format: str  # a description for people
    tokenizer: Any = None  # None where the file has none
    template: str = ""  # how the model was taught to chat, in Jinja


class Reader:
    """A cursor over a file in memory: never past its end, and nothing is copied."""

    def __init__(self, buffer: Any, offset: int = 0):
        self.buffer, self.offset = buffer, offset

    def data(self, what: str, size: int) -> Any:
        """Return the next size bytes. ModelError, which says what they are, if there are less."""
        left = max(0, len(self.buffer) - self.offset)
        if not 0 <= size <= left:
            where = f"{what}, at {self.offset:,}, which needs {size:,} bytes and has {left:,}"
            raise ModelError(f"the file ends in {where}: it is truncated, damaged or no model")
        self.offset += size
        return self.buffer[self.offset - size : self.offset]

    def unpack(self, what: str, form: str) -> tuple:
        """Return the next values of a struct format."""
        return struct.unpack(form, self.data(what, struct.calcsize(form)))

    def array(self, what: str, dtype: Any, *shape: int) -> Array:
        """Return the next array: a view where it is aligned, else a copy."""
        data = self.data(what, math.prod(shape) * np.dtype(dtype).itemsize)
        array = np.frombuffer(data, dtype).reshape(shape)
        return array if array.flags.aligned else array.copy()

    def int8_matrix(self, what: str, group: int, out: int, n: int) -> QuantizedTensor:
        """Return the next matrix (out, n): all its numbers, then a scale for each group."""
        part = math.gcd(group, n)  # a group that straddles rows is split, its scale repeated
        if group < 1 or part < 2 or out * n % group:
            raise ModelError(f"group size {group} does not fit rows of {n}: export with 32 or 64")
        q = self.array(what, np.int8, out, n // part, part)
        scales = self.array(what, "<f4", out * n // group).repeat(group // part)
        return QuantizedTensor(q, scales.reshape(out, n // part))


LAYER = "att_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3"
MATRICES = "wq", "wk", "wv", "wo", "w1", "w2", "w3"
IN_V0 = "tok_emb", *LAYER, "final_norm", "rope", "wcls"  # the order of the tensors
IN_V1 = "att_norm", "ffn_norm", "final_norm", "tok_emb", *MATRICES, "wcls"  # and in version 2


def read_llama2c(buffer: Any) -> ModelFile:
    """Read a checkpoint of llama2.c: float32 in versions 0 and 1, int8 in version 2."""
    file = Reader(buffer)
    if buffer[:4] == b"24ka":
        _, version, *sizes, shared, group = file.unpack("the header", "<Ii7iBi")
        file.offset = 256
        if version not in (1, 2) or shared > 1:
            raise ModelError(f"llama2.c version {version}, shared classifier {shared} is not known")
    else:  # version 0 has no magic number, and a negative vocab_size if a classifier follows
        version = group = 0
        sizes = list(file.unpack("the header", "<7i"))
        shared = sizes[5] > 0
        sizes[5] = abs(sizes[5])
    c = Config(*sizes)
    shapes: dict[str, tuple[int, ...]] = dict(c.matrices())
    layers_need = c.n_layers * sum(map(math.prod, shapes.values()))
    Reader(buffer).data("its layers", layers_need)  # before as many objects are made
    shapes["tok_emb"] = shapes["wcls"] = c.vocab_size, c.dim
    shapes["rope"] = c.seq_len, c.head_size  # tables, not used: they are computed
    tensors: dict[str, list] = {}  # of each kind, those of all layers stand together
    for name in (IN_V1 if version else IN_V0)[: -1 if shared else None]:
        shape = shapes.get(name, (c.dim,))
        rows = range(c.n_layers if name in LAYER else 1)
        if version == 2 and len(shape) == 2:
            tensors[name] = [file.int8_matrix(name, group, *shape) for _ in rows]
        else:
            tensors[name] = [file.array(name, "<f4", *shape) for _ in rows]
    left = len(buffer) - file.offset
    if left:
        raise ModelError(f"the file is {left:,} bytes too long: it is damaged or no model")
    layers = [Layer(*row) for row in zip(*(tensors[name] for name in LAYER), strict=True)]
    wcls = tensors.get("wcls", tensors["tok_emb"])[0]
    weights = Weights(tensors["tok_emb"][0], layers, tensors["final_norm"][0], wcls)
    groups = f", int8 groups of {group}" if group else ""
    return ModelFile(c, weights, f"llama2.c v{version}{groups}")


def read_tokenizer(buffer: Any, vocab_size: int | None = None) -> Tokenizer:
    """Read llama2.c's tokenizer.bin: a length, then score, length and bytes of each token."""
    file = Reader(buffer, 4)
    pieces, scores = list[bytes](), list[float]()
    while file.offset < len(buffer) and len(pieces) < 2**19:
        what = f"token {len(pieces)}"
        score, length = file.unpack(what, "<fi")
        pieces.append(bytes(file.data(what, length)))
        scores.append(score)
    if vocab_size not in (None, len(pieces)) or len(pieces) < 3:
        raise ModelError(f"{len(pieces)} tokens, but the model has {vocab_size}: fix -z")
    return Tokenizer(pieces, scores, {"<unk>": 0, "<s>": 1, "</s>": 2})


def open_buffer(path: Any) -> memoryview:
    """Map a file into memory: nothing is read before it is used. ModelError says why not."""
    try:
        with open(path, "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # ValueError: it is empty
        raise ModelError(getattr(error, "strerror", None) or str(error)) from None


def read_model(buffer: Any) -> ModelFile:
    """Read a model, whose first bytes tell its format. ModelError if it cannot be used."""
    foreign = bytes(buffer[:4]) in (b"GGUF", b"PK\3\4")
    file = engine_module("formats").read(buffer) if foreign else read_llama2c(buffer)
    if not np.count_nonzero(file.weights.final_norm):
        raise ModelError("its last norm is all zeros: it is damaged or was not copied whole")
    return file


def open_model(path: Any, tokenizer: Any = None) -> ModelFile:
    """Read a model and, if it is named or not in the model, its tokenizer.bin beside it."""
    where = path
    try:
        file = read_model(open_buffer(path))
        if tokenizer or file.tokenizer is None:
            where = tokenizer or os.path.join(os.path.dirname(path), "tokenizer.bin")
            if not tokenizer and not os.path.exists(where):
                raise ModelError("there is no tokenizer beside the model: give one with -z")
            file.tokenizer = read_tokenizer(open_buffer(where), file.config.vocab_size)
        return file
    except ModelError as error:
        raise ModelError(f"'{where}': {error}") from None


def load_model(
    path: Any = None, tokenizer: Any = None, *, backend="auto", threads=0, int8=False, context=0
) -> Transformer:
    """Return a model that is ready to run, from a file or (None) the one in this program.

    backend: "c", "numpy" or "auto"; threads: 0 for one per core; int8: round float weights;
    context: how many tokens fit, 0 for as many as it was trained for. ModelError says why not.
    """
    opened = open_model if path is not None else engine_module("carried").open_carried
    file = opened(path, tokenizer)
    if int8:
        engine_module("quantize").to_int8(file)
    backends = engine_module("backends", required=backend == "c")
    chosen = backends.choose(file, backend, threads) if backends else NumPyBackend(file.config)
    return Transformer(file, chosen, min(context or file.config.seq_len, file.config.seq_len))


# ------------------------------------------------------------------ the loop, the command line
def generate(model: Transformer, prompt: str = "", steps: int = 256, **sampling: Any) -> Iterator:
    """Yield the prompt, then the text of each token, until BOS, EOS or steps tokens in all.
    sampling: temperature, topp and seed, as in Sampler."""
    sampler = Sampler(**sampling)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a token may be half a character
    tokenizer, limit = model.tokenizer, model.config.seq_len
    tokens = tokenizer.encode(prompt[: (limit + 1) * max(map(len, tokenizer.pieces))])
    if len(tokens) > limit:
        raise ModelError(f"the prompt has more tokens than the context, {limit:,}: cut it")
    steps = min(steps, model.context) if steps > 0 else model.context
    yield printable(decoder.decode(b"".join(map(tokenizer.decode, tokens, tokens[1 : steps + 1]))))
    cache = model.new_cache()
    for pos in range(len(tokens), steps + 1):
        token = sampler.sample(model.forward(tokens, pos - len(tokens), cache=cache))
        if token in tokenizer.stops:
            break
        yield printable(decoder.decode(tokenizer.decode(tokens[-1], token)))
        tokens = [token]
    yield decoder.decode(b"", final=True)


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Return the command line; a usage error is one line and exits with status 2."""
    parser = argparse.ArgumentParser("run", description="Llama 2 in one file.")
    add = parser.add_argument
    add("model", nargs="?", metavar="FILE", help="a llama2.c checkpoint or GGUF (else: embedded)")
    add("-t", "--temperature", type=float, default=1.0, help="0: the likeliest text (1.0)")
    add("-p", "--top-p", type=float, default=0.9, dest="topp", help="sample from this share (0.9)")
    add("-s", "--seed", type=int, help="the same seed tells the same story (else: a new one)")
    add("-n", "--steps", type=int, help="tokens, prompt included; 0: all that fit (256; chat: 0)")
    add("-i", "--prompt", default="", help="the text to go on from; - reads it from stdin")
    add("-z", "--tokenizer", metavar="FILE", help="tokenizer.bin (else: in the model, beside it)")
    add("--backend", choices=("auto", "c", "numpy"), default="auto", help="C kernel or NumPy")
    add("-v", "--verbose", action="store_true", help="seed and backend on stderr")
    parser.set_defaults(task=tell, threads=0, int8=False)
    options = engine_module("options", required=False)
    hint = "-h lists the options" if options else "for more options put embed/ beside run.py"
    parser.error = lambda text: parser.exit(2, f"run: {' '.join(text.split())[:500]} ({hint})\n")  # type: ignore
    carried = options.add_to(parser) if options else []
    args = parser.parse_args(carried + argv)
    args.loading = {k: getattr(args, k) for k in ("tokenizer", "backend", "threads", "int8")}
    args.sampling = {k: getattr(args, k) for k in ("temperature", "topp", "seed")}
    args.sampling["seed"] = Sampler(**args.sampling).seed  # drawn here, so that it can be told
    return args


def tell(args: argparse.Namespace) -> None:
    """Print a story as it comes; then, on stderr, how fast it came."""
    steps = 256 if args.steps is None else args.steps
    model = load_model(args.model, context=max(0, steps), **args.loading)
    times = [time.perf_counter()]
    for text in generate(model, args.prompt, steps, **args.sampling):
        print(text, end="", flush=True)
        times.append(time.perf_counter())
    print(flush=True)
    if len(times) > 4:  # the start, the prompt, two tokens or more, the end
        print(f"achieved tok/s: {(len(times) - 4) / (times[-2] - times[2]):f}", file=sys.stderr)
    if args.verbose:
        print(f"seed {args.sampling['seed']}, {model.backend.description}", file=sys.stderr)


def prepare_streams() -> None:
    """Make the standard streams UTF-8, with the same bytes on every system."""
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 (print takes None for stdout)
    for stream, newline in (sys.stdin, None), (sys.stdout, "\n"), (sys.stderr, "\n"):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape", newline=newline)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status. Every failure is one line on stderr."""
    prepare_streams()
    args = None
    try:
        args = parse_args(sys.argv[1:] if argv is None else argv)
        if args.prompt == "-" and sys.stdin is None:
            raise ModelError("stdin is closed: give the prompt itself with -i")
        if args.prompt == "-":
            args.prompt = sys.stdin.read(2**24).removesuffix("\n")
        return args.task(args) or 0
    except (ModelError, OSError, MemoryError, ImportError, KeyboardInterrupt) as error:
        words = {KeyboardInterrupt: "interrupted", MemoryError: "out of memory: use less -n"}
        message = words.get(type(error)) or getattr(error, "strerror", None) or str(error)
        print("run:", printable(" ".join(message.split())[:500]), file=sys.stderr)
        if isinstance(error, OSError) and sys.stdout:  # what cannot be written goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, KeyboardInterrupt):
            return 130
        return 1 if args else 2


if __name__ == "__main__":
    sys.exit(early.interruptible(main) if early else main())
