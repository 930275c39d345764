#!/usr/bin/env python3
"""Llama 2 in one file.

Read from the top: the mathematics (kernels, transformer), then text (tokenizer, sampler), then bytes
(llama2.c files, GGUF), then the loop and the command line. Data flows one way: bytes -> weights ->
forward -> logits -> sample -> decode -> the terminal. Extras live in embed/, imported when asked for.

Letters: T tokens forwarded together; x the residual stream; w a matrix (out, in); q, k, v queries,
keys, values (q is also the int8 part of a quantized matrix); hs head_size; c the Config.
All mathematics is float32: one stray float64 makes it ten times slower.
"""
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.24"]
# ///

import argparse
import codecs
import functools
import heapq
import importlib
import math
import mmap
import os
import re
import signal
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while NumPy loads: no traceback
    if _threads := re.search(r" (?:-j|--threads)[ =]?(\d+)", " ".join(sys.argv)):
        os.environ["OPENBLAS_NUM_THREADS"] = _threads[1]  # read once, when NumPy loads
import numpy as np

sys.modules.setdefault("run", sys.modules[__name__])  # the extras `import run`
__version__ = "1.0.0"
MAX_ROWS = 128  # tokens forwarded at once: enough for fast products, little memory


# ---------------------------------------------------------------- configuration and weights
class ModelError(Exception):
    """What was given cannot be used: the message names it, the limit and the fix."""


@dataclass
class Config:
    """A model's shape, by the names of llama2.c's header; ModelError if no model has it."""

    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    seq_len: int
    norm_eps: float = 1e-5
    rope_base: float = 10000.0
    rope_scale: float = 1.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if not 0 < value < 2**31:
                raise ModelError(f"{name} is {value} in the header; it must be from 1 to 2^31 - 1")
        dim, hidden_dim, n_heads, n_kv_heads = self.dim, self.hidden_dim, self.n_heads, self.n_kv_heads
        if dim % (2 * n_heads) or n_heads % n_kv_heads:
            shape = f"dim {dim}, n_heads {n_heads}, n_kv_heads {n_kv_heads}"
            raise ModelError(f"{shape} in the header: each must divide the one before, evenly")
        self.head_size = dim // n_heads
        self.kv_dim = kv_dim = self.head_size * n_kv_heads
        self.shapes = {"wq": (dim, dim), "wk": (kv_dim, dim), "wv": (kv_dim, dim), "wo": (dim, dim)}
        self.shapes |= {"w1": (hidden_dim, dim), "w2": (dim, hidden_dim), "w3": (hidden_dim, dim)}


def quantize(x, group):  # (..., in) -> whole numbers (..., in / group, group), scales (..., 1)
    """Round groups of neighbours to [-127, 127]: scale = max|x| / 127, halves away from 0 (runq.c)."""
    x = x.reshape(*x.shape[:-1], -1, group)
    scales = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    ratio = x / np.where(scales == 0, np.float32(1), scales)
    whole = np.trunc(ratio)
    return whole + np.trunc((ratio - whole) * 2), scales


class QuantizedTensor:
    """A matrix (out, in): int8 q (out, in / group, group) times float32 scales (out, in / group)."""

    def __init__(self, q, scales):
        self.q, self.scales, self.group = q, scales, q.shape[-1]
        self.shape, self.nbytes = (len(q), q.shape[1] * q.shape[2]), q.nbytes + scales.nbytes

    def __getitem__(self, rows):  # -> (len(rows), in) float32
        return (self.q[rows] * self.scales[rows][..., None]).reshape(-1, self.shape[1])

    @functools.cached_property
    def floats(self):
        """The whole matrix in float32: NumPy has no fast product for int8."""
        return self[:]

    @classmethod
    def from_rows(cls, rows, shape, group):
        """Quantize the float32 matrix that rows(start, stop) gives, a cacheful at a time."""
        q = np.empty((shape[0], shape[1] // group, group), np.int8)
        scales = np.empty(q.shape[:2], np.float32)
        step = max(1, 2**18 // shape[1])
        for i in range(0, shape[0], step):
            q[i : i + step], scale = quantize(rows(i, i + step), group)
            scales[i : i + step] = scale[..., 0]
        return cls(q, scales)


class Layer(SimpleNamespace):
    """att_norm, wq, wk, wv, wo, ffn_norm, w1, w2, w3; keys and values (n_kv_heads, context, hs)."""


class Weights(SimpleNamespace):
    """tok_emb, layers, final_norm, wcls. Matrices are (out, in), float32 or QuantizedTensor."""


def progress(items, what):
    """Yield the items; after a second, on a terminal, say on stderr how far it is."""
    start, line, items = time.monotonic(), "", list(items)
    for i, item in enumerate(items):
        yield item
        if time.monotonic() > start + 1 and sys.stderr is not None and sys.stderr.isatty():
            line = f"\r{what}: {100 * (i + 1) // len(items)}%"
            print(line, end="", file=sys.stderr, flush=True)
    if line:
        print("\r" + " " * len(line) + "\r", end="", file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------- kernels
def rmsnorm(x, weight, eps):  # (T, dim), (dim,) -> (T, dim)
    """Rows of unit root mean square, times weight. (Zhang and Sennrich, 2019)"""
    mean_square = np.add.reduce(x * x, axis=-1, keepdims=True) / np.float32(x.shape[-1])
    return x / np.sqrt(mean_square + np.float32(eps)) * weight


def softmax(x):  # (..., n) -> (..., n), in place
    """Positive numbers that sum to one; the maximum is subtracted first, against overflow."""
    x -= np.maximum.reduce(x, axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= np.add.reduce(x, axis=-1, keepdims=True)
    return x


def silu(x):
    """x * sigmoid(x), by way of tanh, which cannot overflow. (Elfwing et al., 2017)"""
    half = x * np.float32(0.5)
    return half + half * np.tanh(half)


def rope_table(config, context):  # -> (context, 1, hs / 2) complex64
    """e^(i angle) for every position and pair of numbers. (Su et al., 2021)"""
    frequencies = config.rope_base ** -(np.arange(0, config.head_size, 2) / config.head_size)
    angles = np.arange(context)[:, None] / config.rope_scale * frequencies
    return np.exp(1j * angles).astype(np.complex64)[:, None]


def apply_rope(x, table):  # (T, heads, hs), (T, 1, hs / 2) -> (T, heads, hs)
    """Turn each pair of neighbours by its position's angle: one complex product."""
    return (x.view(np.complex64) * table).view(np.float32)


def matmul(w, x):  # (out, in), (T, in) -> (T, out)
    """x times w transposed. For int8 weights x is rounded in groups as well, as runq.c does."""
    if isinstance(w, QuantizedTensor):
        whole, scales = quantize(x, w.group)
        x, w = (whole * scales).reshape(x.shape), w.floats
    return x @ w.T


# ------------------------------------------------------------------------------ transformer
class Transformer:
    """A model with its KV cache, computed by NumPy. ModelError if the cache cannot be had.

    attention, feed_forward and classify are what a faster backend replaces (embed/kernel.py).
    """

    backend = "numpy"

    def __init__(self, config, weights, context):
        self.config, self.weights, self.context = config, weights, context
        cache = (config.n_layers, 2, config.n_kv_heads, context, config.head_size)
        try:
            cache = np.zeros(cache, np.float32)  # memory is taken as the text grows
            self.rope = rope_table(config, context)
        except (MemoryError, ValueError):
            size = 4 * math.prod(cache) >> 20
            fix = "use a shorter one (-n)"
            raise ModelError(f"a context of {context} tokens needs {size:,} MB: {fix}") from None
        for layer, (layer.keys, layer.values) in zip(weights.layers, cache, strict=True):
            pass
        self.x = np.empty((min(MAX_ROWS, context), config.dim), np.float32)
        self.mask = np.triu(np.full((len(self.x),) * 2, -np.inf, np.float32), 1)

    @np.errstate(all="ignore")  # damaged weights give NaN logits, and the sampler says so
    def forward(self, tokens, pos, last_only=True):
        """Put tokens at positions pos.. into the KV cache and return the logits.

        They are the last token's (vocab_size,), or all tokens' (T, vocab_size).
        """
        if (end := pos + len(tokens)) > self.context:
            raise ModelError(f"{end:,} tokens do not fit a context of {self.context:,}: cut the text")
        chunks, logits = range(0, len(tokens), MAX_ROWS), []
        for i in chunks if len(chunks) == 1 else progress(chunks, "reading the prompt"):
            chunk = tokens[i : i + MAX_ROWS]
            x = self.x[: len(chunk)]  # (T, dim)
            x[:] = self.weights.tok_emb[chunk]
            for layer in self.weights.layers:
                self.attention(layer, x, pos + i)
                self.feed_forward(layer, x)
            if not last_only:
                logits.append(self.classify(x))
        return self.classify(x[-1:])[0] if last_only else np.concatenate(logits)

    def attention(self, layer, x, pos):  # (T, dim), in place
        """x += wo mix, where each token mixes the values of itself and of all before it."""
        c, T, end = self.config, len(x), pos + len(x)
        n, table = rmsnorm(x, layer.att_norm, c.norm_eps), self.rope[pos:end]
        q = apply_rope(matmul(layer.wq, n).reshape(T, c.n_heads, c.head_size), table)
        k = apply_rope(matmul(layer.wk, n).reshape(T, c.n_kv_heads, c.head_size), table)
        v = matmul(layer.wv, n).reshape(T, c.n_kv_heads, c.head_size)
        layer.keys[:, pos:end], layer.values[:, pos:end] = k.swapaxes(0, 1), v.swapaxes(0, 1)
        # Query heads that share a key head become rows of one product: no key is repeated.
        q = q.reshape(T, c.n_kv_heads, -1, c.head_size).transpose(1, 2, 0, 3)
        q = q.reshape(c.n_kv_heads, -1, c.head_size)  # (n_kv_heads, sharing * T, hs)
        scores = q @ layer.keys[:, :end].swapaxes(1, 2)  # (n_kv_heads, sharing * T, end)
        scores *= np.float32(1 / math.sqrt(c.head_size))
        if T > 1:
            scores.reshape(c.n_kv_heads, -1, T, end)[..., pos:] += self.mask[:T, :T]
        mix = softmax(scores) @ layer.values[:, :end]  # (n_kv_heads, sharing * T, hs)
        mix = mix.reshape(c.n_kv_heads, -1, T, c.head_size).transpose(2, 0, 1, 3)
        x += matmul(layer.wo, mix.reshape(T, c.dim))

    def feed_forward(self, layer, x):  # (T, dim), in place
        """x += w2 (silu(w1 x) * w3 x). (SwiGLU: Shazeer, 2020)"""
        n = rmsnorm(x, layer.ffn_norm, self.config.norm_eps)
        x += matmul(layer.w2, silu(matmul(layer.w1, n)) * matmul(layer.w3, n))

    def classify(self, x):  # (T, dim) -> (T, vocab_size)
        """The logits of the token after each."""
        n = rmsnorm(x, self.weights.final_norm, self.config.norm_eps)
        return matmul(self.weights.wcls, n)


# -------------------------------------------------------------------------------- tokenizer
class Tokenizer:
    """Byte-pair encoding by scores, as SentencePiece does it for Llama 2.

    pieces: the bytes of each id; byte_ids: the id of each byte; special: ids by their text (<s>),
    which no merge makes; stops: ids that end a text; template: how the model was taught to chat.
    """

    def __init__(self, pieces, scores, byte_ids, special, bos=1, eos=2, prefix=True, template=""):
        self.pieces, self.scores, self.byte_ids, self.special = pieces, scores, byte_ids, special
        self.bos, self.eos, self.stops = bos, eos, {bos, eos}
        self.prefix, self.template = " " * prefix, template
        hidden = set(byte_ids) | set(special.values())
        self.ids = {pieces[i]: i for i in reversed(range(len(pieces))) if i not in hidden}

    def encode(self, text, bos=True, prefix=True):
        """The ids of text: "Hello, world!" -> [1, 15043, 29892, 3186, 29991] for Llama 2.

        A character that is no token becomes its UTF-8 bytes. Then the pair of neighbours whose
        merge has the highest score, the leftmost on ties, is merged until no pair is a token.
        """
        tokens = []
        for char in self.prefix * (prefix and text != "") + text:
            escaped = "\udc80" <= char <= "\udcff"  # a byte of the command line, not UTF-8
            data = char.encode("utf-8", "surrogateescape" if escaped else "surrogatepass")
            token = self.ids.get(data)
            tokens += [self.byte_ids[byte] for byte in data] if token is None else [token]
        return [self.bos] * bos + self.merge(tokens)

    def merge(self, tokens):
        """Merge pairs, best first: a heap of candidates over a linked list, and no rescan."""
        n, heap, byte_ids = len(tokens), [], set(self.byte_ids)
        before, after = list(range(-1, n - 1)), list(range(1, n + 1))

        def consider(i, j):
            if i >= 0 and j < n and tokens[i] not in byte_ids and tokens[j] not in byte_ids:
                token = self.ids.get(self.pieces[tokens[i]] + self.pieces[tokens[j]])
                if token is not None:
                    heapq.heappush(heap, (-self.scores[token], i, j, tokens[i], tokens[j], token))

        for i in range(n - 1):
            consider(i, i + 1)
        while heap:
            _, i, j, left, right, token = heapq.heappop(heap)
            if after[i] != j or tokens[i] != left or tokens[j] != right:
                continue  # one of the two has merged with another neighbour meanwhile
            tokens[i], tokens[j], after[i] = token, None, after[j]
            if after[i] < n:
                before[after[i]] = i
            consider(before[i], i)
            consider(i, after[i])
        return [token for token in tokens if token is not None]

    def decode(self, prev, token):
        """The bytes of token; after BOS without the space that encode put in front."""
        piece = self.pieces[token]
        return piece[1:] if prev == self.bos and piece[:1] == b" " else piece


class TextStream:
    """Joins bytes into text as they come; control characters show as pictures (ESC is U+241B)."""

    pictures = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"}
    pictures |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)

    def __init__(self):
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def text(self, data, final=False):
        """The characters that data completes, maybe none."""
        return self.decoder.decode(data, final).translate(self.pictures)


# ---------------------------------------------------------------------------------- sampler
class Sampler:
    """Draws tokens: the likeliest at temperature 0, else from the nucleus topp (0 or 1: from all).

    The generator and its use are run.c's: the same seed tells the same story. ModelError if a
    value is out of range. (Nucleus: Holtzman et al., 2019; xorshift64*: Vigna, 2014)
    """

    def __init__(self, temperature=1.0, topp=0.9, seed=None):
        self.seed = time.time_ns() % 2**32 + 1 if seed is None else seed
        self.temperature, self.topp, self.state = temperature, np.float32(topp), self.seed
        limits = {"temperature": (0, 100), "topp": (0, 1), "seed": (1, 2**64 - 1)}
        for name, (low, high) in limits.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise ModelError(f"{name} is {value}; it must be from {low} to {high}")

    def random(self):
        """The next number in [0, 1), a multiple of 2^-24."""
        s = self.state
        s ^= s >> 12
        s ^= s << 25 & 0xFFFFFFFFFFFFFFFF
        self.state = s = s ^ s >> 27
        return (s * 0x2545F4914F6CDD1D >> 40 & 0xFFFFFF) / 2**24

    def sample(self, logits):  # (vocab_size,) -> token
        """The next token; ModelError if the logits are not finite."""
        best = int(logits.argmax())
        if not math.isfinite(logits[best]):
            raise ModelError("the model computes NaN or infinity: its weights are damaged")
        if self.temperature == 0:
            return best
        probs, coin = softmax(logits / np.float32(self.temperature)), self.random()
        if 0 < self.topp < 1:
            return self.sample_topp(probs, coin)
        return min(int(np.cumsum(probs).searchsorted(coin, "right")), len(probs) - 1)

    def sample_topp(self, probs, coin):
        """Draw among the likeliest tokens, as many as it takes for a sum above topp."""
        floor = (1 - self.topp) / np.float32(len(probs) - 1)  # below it none can be among them
        tokens = np.flatnonzero(probs >= floor)
        tokens = tokens[np.argsort(-probs[tokens], kind="stable")]
        cdf = np.cumsum(probs[tokens])
        cdf = cdf[: cdf.searchsorted(self.topp, "right") + 1]
        return int(tokens[min(int(cdf.searchsorted(coin * cdf[-1], "right")), len(cdf) - 1)])


# ---------------------------------------------------------------------------- llama2.c files
class Reader:
    """A cursor over a file in memory that never reads past its end and copies nothing."""

    def __init__(self, buffer, offset=0):
        self.buffer, self.offset = buffer, offset

    def take(self, what, dtype, *shape):
        """The next array of this dtype and shape, a view; ModelError if the file ends before."""
        dtype, count = np.dtype(dtype), math.prod(shape)
        size, left = count * dtype.itemsize, max(0, len(self.buffer) - self.offset)
        if size > left:
            where = f"{what}, which needs {size:,} bytes at {self.offset:,} and has {left:,}"
            raise ModelError(f"the file ends in {where}: it is truncated, damaged or no model")
        self.offset += size
        if count == 0:
            return np.empty(shape, dtype)
        array = np.frombuffer(self.buffer, dtype, count, self.offset - size).reshape(shape)
        return array if array.flags.aligned else array.copy()

    def unpack(self, what, form):
        """The next values of a struct format."""
        return struct.unpack(form, self.take(what, np.uint8, struct.calcsize(form)))

    def floats(self, what, *shape):
        """The next float32 array."""
        return self.take(what, "<f4", *shape)

    def groups(self, group, what, out, n):
        """The next matrix (out, n) in int8 groups: all numbers, then all scales."""
        part = math.gcd(group, n)  # a group that straddles rows is split, its scale repeated
        if group < 1 or part < 2 or out * n % group:
            raise ModelError(f"group size {group} does not fit rows of {n}: export with 32 or 64")
        q = self.take(what, np.int8, out, n // part, part)
        scales = self.take(what, "<f4", out * n // group).repeat(group // part)
        return QuantizedTensor(q, scales.reshape(out, n // part))


IN_V0 = "tok_emb att_norm wq wk wv wo ffn_norm w1 w2 w3 final_norm rope wcls"
IN_V1 = "att_norm ffn_norm final_norm tok_emb wq wk wv wo w1 w2 w3 wcls"


def read_llama2c(buffer):
    """llama2.c's formats: versions 0 and 1 in float32, version 2 in int8 groups.

    Seven int32 (0) or a header of 256 bytes, then each kind of tensor for all layers.
    """
    file, version, group = Reader(buffer), 0, 1
    if buffer[:4] == b"24ka":
        _, version, *numbers, shared, group = file.unpack("the header", "<Ii7iBi")
        file.offset = 256
    else:
        *numbers, vocab_size, seq_len = file.unpack("the header", "<7i")
        shared, numbers = vocab_size > 0, [*numbers, abs(vocab_size), seq_len]
    if version > 2 or shared not in (0, 1):
        raise ModelError(f"llama2.c version {version} is unknown: export version 0, 1 or 2")
    c = Config(*numbers)
    shapes = dict.fromkeys(("tok_emb", "wcls"), (c.vocab_size, c.dim)) | c.shapes
    shapes["rope"] = c.seq_len, c.head_size  # tables, not used: they are computed
    names, w = (IN_V1 if version else IN_V0).split()[: -1 if shared else None], Weights()
    w.layers = [Layer() for _ in range(min(c.n_layers, len(buffer)))]
    for name in names:
        shape = shapes.get(name, (c.dim,))
        for owner in w.layers if name in c.shapes or name in ("att_norm", "ffn_norm") else [w]:
            int8 = version == 2 and len(shape) == 2
            take = functools.partial(file.groups, group) if int8 else file.floats
            setattr(owner, name, take(name, *shape))
    if left := len(buffer) - file.offset:
        raise ModelError(f"the file is {left:,} bytes too long: it is damaged or no model")
    w.wcls = w.tok_emb if shared else w.wcls
    return c, w, f"llama2.c v{version}, " + (f"int8 groups of {group}" if int8 else "float32"), None


def read_tokenizer(buffer, vocab_size):
    """llama2.c's tokenizer.bin: the longest length, then score, length and bytes of each token."""
    file, pieces, scores = Reader(buffer, 4), [], []
    while file.offset < len(buffer):
        what = f"token {len(pieces)} of the tokenizer"
        score, length = file.unpack(what, "<fi")
        if length < 0 or not math.isfinite(score):
            raise ModelError(f"{what} has length {length}, score {score}: this is no tokenizer.bin")
        pieces.append(file.take(what, np.uint8, length).tobytes())
        scores.append(score)
    return make_tokenizer(vocab_size, pieces, scores, {"<unk>": 0, "<s>": 1, "</s>": 2})


def make_tokenizer(vocab_size, pieces, scores, special, **options):
    """A Tokenizer whose <0xXX> stand for bytes; ModelError if it is another model's."""
    if {len(pieces), len(scores)} != {vocab_size} or max(options.values(), default=2) >= vocab_size:
        counts = f"the tokenizer has {len(pieces):,} tokens, the model {vocab_size:,}"
        raise ModelError(f"{counts}: give the model's own tokenizer with -z")
    byte_ids = [0] * 256  # <unk>, where a byte has no token
    for i, piece in enumerate(pieces):
        if len(piece) == 6 and (match := re.fullmatch(rb"<0x([0-9A-F]{2})>", piece)):
            pieces[i] = bytes.fromhex(match[1].decode())
            byte_ids[pieces[i][0]] = i
    return Tokenizer(pieces, scores, byte_ids, special, **options)


# ------------------------------------------------------------------------------------- GGUF
def dequantize_k(blocks):  # Q4_K or Q5_K blocks (n,) -> (n, 8, 32)
    """w = d scale q - dmin min, in eight runs of 32 with six-bit scales and minima."""
    low, mid, high = (blocks["scales"][:, i : i + 4] for i in (0, 4, 8))
    scales = np.concatenate([low & 63, high & 15 | low >> 6 << 4], axis=1)
    mins = np.concatenate([mid & 63, high >> 4 | mid >> 6 << 4], axis=1)
    q = blocks["q"].reshape(-1, 4, 1, 32) >> np.array([[0], [4]], np.uint8) & 15
    q = q.reshape(-1, 8, 32)
    if "fifth" in blocks.dtype.names:
        q |= (blocks["fifth"][:, None] >> np.arange(8, dtype=np.uint8)[:, None] & 1) << 4
    d, dmin = (blocks[k].astype(np.float32)[:, None] for k in ("d", "dmin"))
    return (d * scales)[..., None] * q - (dmin * mins)[..., None]


def dequantize_q6_k(blocks):  # (n,) -> (n, 16, 16)
    """w = d scale (q - 32), in sixteen runs of 16 with int8 scales."""
    low = blocks["low"].reshape(-1, 2, 1, 64) >> np.array([[0], [4]], np.uint8) & 15
    high = blocks["high"].reshape(-1, 2, 1, 32) >> np.array([[0], [2], [4], [6]], np.uint8) & 3
    q = (low.reshape(-1, 2, 4, 32) | high << 4).astype(np.int8) - np.int8(32)
    scales = blocks["d"].astype(np.float32)[:, None] * blocks["scales"]
    return scales[..., None] * q.reshape(-1, 16, 16)


def nibbles(blocks):  # Q4_0 blocks (...,) -> (..., 32) int8
    """The low halves of sixteen bytes, then the high halves, minus 8."""
    return np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], -1).astype(np.int8) - np.int8(8)


K = [("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12)]
Q6_K = [("low", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), ("d", "<f2")]
GGUF_TYPES = {  # number: name, weights in a block, block, how int8 or float32 is made of it
    0: ("F32", 1, "<f4", lambda x: x),
    1: ("F16", 1, "<f2", lambda x: x.astype(np.float32)),
    30: ("BF16", 1, "<u2", lambda x: (x.astype(np.uint32) << 16).view(np.float32)),
    8: ("Q8_0", 32, [("d", "<f2"), ("q", "i1", 32)], lambda blocks: blocks["q"]),
    2: ("Q4_0", 32, [("d", "<f2"), ("q", "u1", 16)], nibbles),
    12: ("Q4_K", 256, [*K, ("q", "u1", 128)], dequantize_k),
    13: ("Q5_K", 256, [*K, ("fifth", "u1", 32), ("q", "u1", 128)], dequantize_k),
    14: ("Q6_K", 256, Q6_K, dequantize_q6_k),
}
GGUF_REFUSED = {3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 10: "Q2_K", 11: "Q3_K", 20: "IQ4_NL", 23: "IQ4_XS"}
GGUF_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
GGUF_NAMES = {  # ours: theirs
    "att_norm": "attn_norm", "wq": "attn_q", "wk": "attn_k", "wv": "attn_v", "wo": "attn_output",
    "ffn_norm": "ffn_norm", "w1": "ffn_gate", "w2": "ffn_down", "w3": "ffn_up",
}  # fmt: skip


class GGUF(Reader):
    """A GGUF file of version 2 or 3: metadata, where each tensor is, the aligned tensors."""

    def __init__(self, buffer):
        super().__init__(buffer)
        _, version, n_tensors, n_values = self.unpack("the header", "<4sIQQ")
        if version not in (2, 3):
            raise ModelError(f"GGUF version {version} is not supported: convert to version 3")
        self.meta = {self.value(8): self.value() for _ in range(n_values)}
        self.infos = {}  # name: shape, type, offset
        for _ in range(n_tensors):
            name, (n_dims,) = self.value(8), self.unpack("a tensor's shape", "<I")
            *shape, kind, offset = self.unpack("a tensor's shape", f"<{min(n_dims, 4)}QIQ")
            self.infos[name] = tuple(shape[::-1]), kind, offset
        alignment = int(self.number("general.alignment", 32)) or 1
        self.start = -(-self.offset // alignment) * alignment

    def value(self, kind=None):
        """The next value: a number, a string or a list; its type stands before it if not given."""
        kind = self.unpack("the metadata", "<I")[0] if kind is None else kind
        if kind in GGUF_SCALARS:
            return self.unpack("the metadata", "<" + GGUF_SCALARS[kind])[0]
        of, count = self.unpack("the metadata", "<IQ") if kind == 9 else (kind, 0)
        if kind == 8:
            data = self.take("the metadata", np.uint8, *self.unpack("the metadata", "<Q"))
            return data.tobytes().decode("utf-8", "surrogateescape")
        if of in GGUF_SCALARS:
            return self.take("the metadata", "<" + GGUF_SCALARS[of], count).tolist()
        if of != 8:
            raise ModelError(f"the metadata has a value of unknown type {of}: the file is damaged")
        return [self.value(8) for _ in range(count)]

    def number(self, key, default=None):
        """The number under this key; ModelError if there is none."""
        value = self.meta.get(key, default)
        if not isinstance(value, int | float) or not 0 <= value < 2**63:
            raise ModelError(f"{key} is {str(value)[:40]!r} in the GGUF; it must be a number")
        return value

    def tensor(self, name, *expected):
        """The tensor as float32 or QuantizedTensor: a view where its type allows."""
        shape, kind, offset = self.infos.pop(name + ".weight", ((), 0, 0))
        if shape != expected:
            raise ModelError(f"tensor {name} has shape {shape}; the header asks for {expected}")
        if kind not in GGUF_TYPES:
            known, kind = [entry[0] for entry in GGUF_TYPES.values()], GGUF_REFUSED.get(kind, kind)
            raise ModelError(f"tensor {name} has type {kind}: quantize to {', '.join(known)} instead")
        type_name, size, dtype, convert = GGUF_TYPES[kind]
        if shape[-1] % size or len(shape) < 2 and size > 1:
            raise ModelError(f"tensor {name} of shape {shape} cannot have type {type_name}")
        self.offset, self.kinds[type_name] = self.start + offset, self.kinds.get(type_name, 0) + 1
        blocks = self.take(name, dtype, *shape[:-1], shape[-1] // size)
        if size == 1:
            return convert(blocks)
        if size == 32:
            return QuantizedTensor(convert(blocks), blocks["d"].astype(np.float32))
        return QuantizedTensor.from_rows(
            lambda i, j: convert(blocks[i:j].ravel()).reshape(-1, shape[1]), shape, 32
        )

    def config(self, vocab_size):
        """The Config; what would change the mathematics in an unknown way is refused."""
        keys = "embedding_length", "feed_forward_length", "block_count", "attention.head_count"
        sizes = [int(self.number(f"llama.{key}")) for key in keys]
        sizes.append(int(self.number("llama.attention.head_count_kv", sizes[-1])))
        floats = {"attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 1e4, "rope.scaling.factor": 1}
        numbers = [self.number(f"llama.{key}", default) for key, default in floats.items()]
        config = Config(*sizes, vocab_size, int(self.number("llama.context_length")), *numbers)
        head_size = config.head_size
        only = {"rope.dimension_count": head_size, "attention.key_length": head_size, "expert_count": 0}
        for key, known in (only | {"attention.value_length": head_size}).items():
            if (value := self.meta.get(f"llama.{key}", known)) != known:
                raise ModelError(f"llama.{key} is {str(value)[:40]}; only {known} is supported")
        if (kind := self.meta.get("llama.rope.scaling.type", "none")) not in ("none", "linear"):
            raise ModelError(f"RoPE scaling {str(kind)[:40]} is not supported: only linear is")
        return config

    def tokenizer(self, vocab_size):
        """The Tokenizer inside, or None without one."""
        meta = {k[15:]: v for k, v in self.meta.items() if k.startswith("tokenizer.ggml.")}
        if (model := meta.get("model")) is None:
            return None
        if model != "llama":
            raise ModelError(f"tokenizer {model!r:.40} is not supported: only 'llama' (Llama 2) is")
        columns = meta.get("tokens"), meta.get("scores"), meta.get("token_type", [1] * vocab_size)
        for column, kind in zip(columns, (str, float, int), strict=True):
            if not isinstance(column, list) or [v for v in column if not isinstance(v, kind)]:
                raise ModelError("the tokenizer in the GGUF lacks tokens or scores: convert again")
        ids = {k: int(self.number(f"tokenizer.ggml.{k}_token_id", v)) for k, v in (("bos", 1), ("eos", 2))}
        special = {t: i for i, (t, k) in enumerate(zip(columns[0], columns[2])) if k in (2, 3, 4)}
        pieces = [
            b"" if kind == 3 else text.replace("\u2581", " ").encode("utf-8", "surrogateescape")
            for text, kind in zip(columns[0], columns[2], strict=False)  # control tokens are no text
        ]
        tokenizer = make_tokenizer(vocab_size, pieces, columns[1], special, **ids)
        tokenizer.prefix = " " * bool(meta.get("add_space_prefix", True))
        tokenizer.template = str(self.meta.get("tokenizer.chat_template", ""))
        return tokenizer


def read_gguf(buffer):
    """A GGUF of architecture llama: q and k rows are in llama2.c's order there."""
    file = GGUF(buffer)
    if (architecture := file.meta.get("general.architecture")) != "llama":
        raise ModelError(f"architecture {architecture!r:.40} is not supported: only 'llama' is")
    shape = file.infos.get("token_embd.weight", ((0,),))[0]
    c, w = file.config(shape[0]), Weights(layers=[])
    w.tok_emb, w.final_norm = file.tensor("token_embd", c.vocab_size, c.dim), file.tensor("output_norm", c.dim)
    tied = "output.weight" not in file.infos
    w.wcls = w.tok_emb if tied else file.tensor("output", c.vocab_size, c.dim)
    for i in progress(range(min(c.n_layers, len(file.infos))), "converting the weights"):
        shapes = {ours: c.shapes.get(ours, (c.dim,)) for ours in GGUF_NAMES}
        w.layers.append(Layer(**{k: file.tensor(f"blk.{i}.{GGUF_NAMES[k]}", *v) for k, v in shapes.items()}))
    if file.infos or len(w.layers) < c.n_layers:
        name = next(iter(file.infos), f"blk.{len(w.layers)}")
        raise ModelError(f"tensor {name} does not belong in a Llama of {c.n_layers} layers")
    return c, w, "GGUF: " + ", ".join(f"{n} {k}" for k, n in file.kinds.items()), file.tokenizer(c.vocab_size)


def read_model(buffer):
    """Recognize a model by its first bytes: -> Config, Weights, format, its Tokenizer or None."""
    known = {b"PK\3\4": "a zip or PyTorch file", b"\x7fELF": "a program", b"tjgg": "an old GGML file"}
    if (magic := bytes(buffer[:4])) in known:
        raise ModelError(f"this is {known[magic]}: export it with llama2.c or convert it to GGUF")
    return (read_gguf if magic == b"GGUF" else read_llama2c)(buffer)


def open_buffer(path):
    """The file's bytes, memory-mapped: nothing is read before it is used."""
    try:
        with open(path, "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise ModelError(f"it cannot be opened: {error.strerror}") from None
    except ValueError:
        raise ModelError("it is empty") from None


def extra(name):
    """The module embed/NAME.py, which run.py lacks when it was copied alone."""
    try:
        return importlib.import_module(f"embed.{name}")
    except ModuleNotFoundError:
        raise ModelError(f"this needs embed/{name}.py beside run.py, and it is not there") from None


def load_model(path=None, tokenizer=None, *, backend="auto", threads=0, int8=False, context=0):
    """A Transformer ready to run, from a file or (path None) from what is embedded.

    tokenizer: a tokenizer.bin for a model without its own; else the one beside the model or here.
    backend: auto, c or numpy. threads, context: 0 for all cores, for the model's whole seq_len.
    Raises ModelError for whatever cannot be used.
    """
    where = path or "the embedded model"
    try:
        files = {"model.bin": open_buffer(path)} if path else extra("payload").find_embedded()
        c, weights, kind, own = read_model(files["model.bin"])
        if tokenizer or (path and own is None):
            places = [Path(path or "").parent / "tokenizer.bin", Path("tokenizer.bin")]
            where = tokenizer or next((p for p in places if p.exists()), "tokenizer.bin")
            files["tokenizer.bin"] = open_buffer(where)
        if "tokenizer.bin" in files:
            own = read_tokenizer(files["tokenizer.bin"], c.vocab_size)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from None
    weights = extra("quantize").quantize_weights(c, weights) if int8 else weights
    context, model = min(context or c.seq_len, c.seq_len), None
    try:
        if backend != "numpy":
            model = extra("kernel").CTransformer(c, weights, context, threads)
    except ModelError as error:
        if backend == "c":
            raise
        Transformer.backend = f"numpy ({error})"
    model = model or Transformer(c, weights, context)
    model.tokenizer, model.format, model.files = own, kind, files
    return model


# ------------------------------------------------------------------ the loop, the command line
def generate(model, prompt="", steps=256, **sampling):
    """Yield the prompt, then the text of each token, up to steps tokens in all, BOS or EOS.

    sampling: temperature, topp and seed of the Sampler. Raises ModelError.
    """
    sampler, stream, tokenizer = Sampler(**sampling), TextStream(), model.tokenizer
    tokens, limit = tokenizer.encode(prompt), model.config.seq_len
    steps = min(steps, model.context) if steps > 0 else model.context
    if len(tokens) > limit:
        raise ModelError(f"the prompt has {len(tokens):,} tokens, the context {limit:,}: shorten it")
    echo = zip(tokens, tokens[1 : steps + 1], strict=False)
    yield stream.text(b"".join(tokenizer.decode(*pair) for pair in echo))
    logits = model.forward(tokens, 0) if len(tokens) <= steps else None
    token = tokens[-1]
    for pos in range(len(tokens), steps + 1):
        prev, token = token, sampler.sample(logits)
        if token in tokenizer.stops:
            break
        yield stream.text(tokenizer.decode(prev, token))
        if pos < steps:
            logits = model.forward([token], pos)
    yield stream.text(b"", final=True)


def tell(model, args, **sampling):
    """Print a story as it comes; then, on stderr, how fast it came."""
    times = [time.perf_counter()]
    for text in generate(model, args.prompt, 256 if args.steps is None else args.steps, **sampling):
        sys.stdout.write(text)
        sys.stdout.flush()
        times.append(time.perf_counter())
    print(flush=True)
    if len(times) > 4:  # start, prompt, a token each, end
        print(f"achieved tok/s: {(len(times) - 4) / (times[-2] - times[2]):f}", file=sys.stderr)
        if args.verbose:
            first = times[2] - times[0]
            print(f"seed: {args.seed}, first token after {first:.3f} s, {model.backend}", file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message):
        self.exit(2, f"run: {message} (-h lists the options)\n")


EXAMPLES = """examples:
  run.py                                    the embedded model tells a story
  run.py model.bin -i "Once upon a time"    a llama2.c checkpoint goes on from a prompt
  run.py model.gguf -t 0 -n 100             a GGUF, the likeliest text, 100 tokens
  run.py model.gguf -m chat -y "Be brief."  a conversation
  run.py model.bin -z tok.bin -i - < a.txt  another tokenizer, the prompt from stdin
  run.py model.bin --info                   what the file holds and needs
  run.py model.bin --ppl text.txt           how well the model knows a text
  run.py model.bin --int8 -j 4 -v           in int8, on four cores, with times
  run --embed model.gguf -o myrun           a new executable with another model inside"""


def parse_args(argv):
    """The command line, as a namespace; a usage error exits with status 2."""
    style = argparse.RawDescriptionHelpFormatter
    parser = Parser("run", description="Llama 2 in one file.", epilog=EXAMPLES, formatter_class=style)
    add = parser.add_argument
    add("model", nargs="?", metavar="FILE", help="a llama2.c checkpoint or GGUF (else: embedded)")
    add("-t", "--temperature", type=float, default=1.0, help="0: the likeliest text (1.0)")
    add("-p", "--top-p", type=float, default=0.9, help="sample from this share; 0, 1: all (0.9)")
    add("-s", "--seed", type=int, help="the same seed tells the same story (else: a new one)")
    add("-n", "--steps", type=int, help="tokens, prompt included; 0: all that fit (256; chat: 0)")
    add("-i", "--prompt", default="", help="the text to go on from; - reads it from stdin")
    add("-z", "--tokenizer", help="tokenizer.bin (else: in the model or beside it)")
    add("-m", "--mode", choices=("generate", "chat"), default="generate")
    add("-y", "--system-prompt", default="", help="what a chat should know beforehand")
    add("-j", "--threads", type=int, default=0, help="threads (else: one per core)")
    add("--backend", choices=("auto", "c", "numpy"), default="auto", help="C kernel or NumPy")
    add("--int8", action="store_true", help="round float weights to int8: less memory, faster")
    add("--info", action="store_true", help="describe the model and what it needs")
    add("--ppl", metavar="FILE", help="perplexity of a text under the model")
    add("--embed", metavar="MODEL", help="write a copy of this executable with MODEL inside")
    add("-o", "--output", help="the executable that --embed writes")
    add("-v", "--verbose", action="store_true", help="seed, times and backend on stderr")
    add("--version", action="version", version=f"run {__version__}")
    args = parser.parse_args(argv)
    try:  # the seed is drawn here, so that it can be told
        args.seed = Sampler(args.temperature, args.top_p, args.seed).seed
        if not 0 <= args.threads <= 1024:
            raise ModelError(f"threads is {args.threads}; it must be from 0 to 1024")
    except ModelError as error:
        parser.error(str(error))
    return args


def run(args):
    """Do what the command line asks for."""
    if args.embed:
        return extra("pack").embed(args.embed, args.tokenizer, args.output)
    if args.prompt == "-":
        args.prompt = sys.stdin.read() if sys.stdin else ""
    context = 0 if args.info or args.ppl else max(0, args.steps or 0)
    options = {"backend": args.backend, "threads": args.threads, "int8": args.int8}
    model = load_model(args.model, args.tokenizer, context=context, **options)
    sampling = {"temperature": args.temperature, "topp": args.top_p, "seed": args.seed}
    if args.info:
        print(extra("report").info(model))
    elif args.ppl:
        print(extra("report").perplexity(model, args.ppl))
    elif args.mode == "chat":
        extra("chat").talk(model, args.system_prompt, args.prompt, Sampler(**sampling))
    else:
        tell(model, args, **sampling)


def main(argv=None):
    """The command line; returns the exit status. Every failure is one line on stderr."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in filter(None, (sys.stdin, sys.stdout, sys.stderr)):
        errors = "surrogateescape" if stream is sys.stdin else "backslashreplace"
        stream.reconfigure(encoding="utf-8", errors=errors)
    try:
        run(parse_args(sys.argv[1:] if argv is None else argv))
        return 0
    except ModelError as error:
        status, message = 1, str(error)
    except KeyboardInterrupt:
        status, message = 130, "interrupted"
    except MemoryError:
        status, message = 1, "not enough memory: use a smaller model, --int8 or a shorter context (-n)"
    except BrokenPipeError:
        status, message = 1, "whoever read the output has closed it"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes nowhere
    except OSError as error:
        status, message = 1, f"{error.filename or 'output'}: {error.strerror}"
    print("run: " + " ".join(message.split()), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
