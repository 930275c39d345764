#!/usr/bin/env python3
"""Llama 2 in one file: the mathematics first, then text, then files, then the command line.

Bytes -> weights -> forward -> logits -> sample -> decode -> the terminal; extras are in embed/.
Letters: T tokens forwarded together; x the residual stream; w a matrix (out, in); q, k, v queries,
keys, values (q: also a matrix's int8 part); hs head_size; c the Config. All mathematics is float32.
"""
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.24"]
# ///

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback
import argparse, codecs, functools, heapq, importlib, math, mmap, os, re, struct, sys, time
from types import SimpleNamespace

if __name__ == "__main__" and (j := re.search(r" (?:-j|--threads)[ =]?(\d+)", " ".join(sys.argv))):
    os.environ["OPENBLAS_NUM_THREADS"] = j[1]  # read once, when NumPy loads
import numpy as np

sys.modules.setdefault("run", sys.modules[__name__])  # the extras `import run`
__path__ = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "embed")]  # run.engine
__version__ = "1.0.0"
MAX_ROWS = 128  # tokens forwarded at once: enough for fast products, little memory
CONTROL = "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"  # characters that could take over a terminal
ROW_BY_ROW = range(2**16, 2**20)  # weights: not in a cache, nor split among BLAS's threads
Weights = SimpleNamespace  # tok_emb, layers, final_norm, wcls; att_norm, wq, ... in each layer


# ---------------------------------------------------------------- configuration and weights
class ModelError(Exception):
    """What was given cannot be used: the message names it, the limit and the fix."""


class Config(SimpleNamespace):
    """A model's shape: what stands in llama2.c's header, and two numbers of GGUF files."""

    def __init__(self, *sizes, norm_eps=1e-5, rope_base=10000.0):
        names = "dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len"
        vars(self).update(zip(names, sizes, strict=True), norm_eps=norm_eps, rope_base=rope_base)
        for name, value in vars(self).items():
            if not 0 < value < 2**31:
                raise ModelError(f"{name} is {value} in the header; it must be above 0, below 2^31")
        dim, hidden_dim, _, n_heads, n_kv_heads, *_ = sizes
        if dim % (2 * n_heads) or n_heads % n_kv_heads:
            raise ModelError(f"dim {dim}, heads {n_heads}, KV heads {n_kv_heads} do not divide")
        self.head_size, self.kv_dim = dim // n_heads, dim // n_heads * n_kv_heads
        square, narrow, wide = (dim, dim), (self.kv_dim, dim), (hidden_dim, dim)  # (out, in)
        self.shapes = {"wq": square, "wk": narrow, "wv": narrow, "wo": square, "w1": wide}
        self.shapes |= {"w2": wide[::-1], "w3": wide}


def quantize(x, group):  # (..., in) -> whole numbers (..., in / group, group), scales (..., 1)
    """Round each group to [-127, 127]: scale = max|x| / 127, halves away from zero (runq.c)."""
    x = x.reshape(*x.shape[:-1], -1, group)
    scales = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    ratio = x / np.where(scales == 0, np.float32(1), scales)
    whole = np.trunc(ratio)
    return whole + np.trunc((ratio - whole) * 2), scales


class QuantizedTensor:
    """A matrix (out, in): int8 q (out, in / group, group) times scales (out, in / group)."""

    def __init__(self, q, scales):
        self.q, self.scales, self.group = q, scales, q.shape[-1]
        self.shape, self.nbytes = (len(q), q.shape[1] * q.shape[2]), q.nbytes + scales.nbytes

    def __getitem__(self, rows):  # -> (len(rows), in) float32
        return (self.q[rows] * self.scales[rows][..., None]).reshape(-1, self.shape[1])

    @functools.cached_property
    def floats(self):  # (in / group, out, group): NumPy has no fast product for int8
        return np.ascontiguousarray(self.q.swapaxes(0, 1), np.float32)

    @classmethod
    @np.errstate(all="ignore")
    def from_rows(cls, rows, shape, group):  # rows(start, stop) gives float32 rows
        q = np.empty((shape[0], shape[1] // group, group), np.int8)
        scales = np.empty((*q.shape[:2], 1), np.float32)
        for i in range(0, shape[0], step := max(1, 2**18 // shape[1])):
            q[i : i + step], scales[i : i + step] = quantize(rows(i, i + step), group)
        return cls(q, scales[..., 0])


def progress(items, what):
    """Yield the items; after a second, on a terminal, say on stderr how far it is."""
    start, n = time.monotonic(), len(items)
    for i, item in enumerate(items, start=1):
        yield item
        if time.monotonic() > start + 1 and sys.stderr and sys.stderr.isatty():
            print(f"{what}: {100 * i // n}%", end="\r\x1b[K" if i == n else "\r", file=sys.stderr)


# ---------------------------------------------------------------------------------- kernels
def rmsnorm(x, weight, eps):  # (T, dim), (dim,) -> (T, dim)
    """Rows of unit root mean square, times weight; run.c's order. (Zhang and Sennrich, 2019)"""
    mean_square = np.add.accumulate(x * x, axis=-1)[:, -1:] / np.float32(x.shape[-1])
    return weight * (np.float32(1) / np.sqrt(mean_square + np.float32(eps)) * x)


def softmax(x):  # (..., n) -> (..., n), in place
    """Each row as probabilities; the largest is taken off first, against overflow."""
    x -= np.maximum.reduce(x, axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= np.add.reduce(x, axis=-1, keepdims=True)
    return x


def silu(x):
    """x * sigmoid(x). (Elfwing et al., 2017)"""
    return x * (np.float32(1) / (1 + np.exp(-x)))


def rope_table(c, start, stop, circle=lambda a: np.cos(a) + 1j * np.sin(a)):
    """Turns of every position (stop - start, 1, hs / 2), complex64. (RoPE: Su et al., 2021)"""
    parts = np.arange(0, c.head_size, 2, dtype=np.float32) / np.float32(c.head_size)
    powers = (c.rope_base ** parts.astype(np.float64)).astype(np.float32)
    angles = np.arange(start, stop, dtype=np.float32)[:, None, None] * (np.float32(1) / powers)
    return circle(angles.astype(np.float64)).astype(np.complex64)


def apply_rope(x, table):  # (T, heads, hs), (T, 1, hs / 2) -> (T, heads, hs)
    """Turn each pair of numbers by its angle: a complex product."""
    return (x.view(np.complex64) * table).view(np.float32)


def matmul(w, x):  # (out, in), (T, in) -> (T, out)
    """x times w transposed; for int8 weights x is rounded too, and groups are summed in order."""
    if not isinstance(w, QuantizedTensor):
        if len(x) == 1 and w.size in ROW_BY_ROW:  # a dot product a row reads memory faster
            return (w[:, None] @ x.T).reshape(1, -1)
        return x.dot(w.T)
    whole, scales = quantize(x, w.group)  # (T, in / group, group), (T, in / group, 1)
    sums = w.floats @ whole.transpose(1, 2, 0)  # (in / group, out, T), exact: whole numbers
    sums *= w.scales.T[..., None]
    sums *= scales.transpose(1, 2, 0)
    return np.ascontiguousarray(np.add.reduce(sums, axis=0).T)


# ------------------------------------------------------------------------------ transformer
class Transformer:
    """A model and its KV cache; embed/kernel.py, in_order.py and threaded.py replace parts."""

    rope_table, apply_rope, matmul = map(staticmethod, (rope_table, apply_rope, matmul))
    product, softmax, silu = staticmethod(np.matmul), staticmethod(softmax), staticmethod(silu)

    def __init__(self, config, weights, context, backend="numpy"):
        self.config, self.weights, self.context, self.backend = config, weights, context, backend
        shape = config.n_layers, 2, config.n_kv_heads, context, config.head_size
        try:  # memory is taken as the text grows
            cache, self.turned = np.zeros(shape, np.float32), 0
            self.rope = np.empty((context, 1, config.head_size // 2), np.complex64)
        except (MemoryError, ValueError):
            raise ModelError(f"no memory for a context of {context:,}: use -n") from None
        for layer, (keys, values) in zip(weights.layers, cache, strict=True):
            layer.keys, layer.values = keys, values
        self.x = np.empty((min(MAX_ROWS, context), config.dim), np.float32)

    @np.errstate(all="ignore")  # damaged weights give NaN logits, and the sampler says so
    def forward(self, tokens, pos, last_only=True):
        """Read tokens from position pos on -> the last one's logits, or all (T, vocab_size)."""
        if (end := pos + len(tokens)) > self.context or not 0 <= pos < end:
            raise ModelError(f"{end:,} tokens do not fit a context of {self.context:,}: cut them")
        if end > self.turned:
            start, self.turned = self.turned, min(end + MAX_ROWS, self.context)
            self.rope[start : self.turned] = self.rope_table(self.config, start, self.turned)
        chunks, logits = range(0, len(tokens), MAX_ROWS), []
        for i in chunks if len(chunks) == 1 else progress(chunks, "reading the prompt"):
            x = self.x[: len(chunk := tokens[i : i + MAX_ROWS])]  # (T, dim)
            x[:] = self.weights.tok_emb[chunk]
            for layer in self.weights.layers:
                self.attention(layer, x, pos + i)
                self.feed_forward(layer, x)
            logits.append(self.classify(x[-1:] if last_only else x))
        return logits[-1][0] if last_only else np.concatenate(logits)

    def attention(self, layer, x, pos):  # (T, dim), in place
        """x += wo mix, where each token mixes the values of itself and of all before it."""
        c, T, end = self.config, len(x), pos + len(x)
        n, table = rmsnorm(x, layer.att_norm, c.norm_eps), self.rope[pos:end]
        q, k, v = (self.matmul(w, n) for w in (layer.wq, layer.wk, layer.wv))
        q, k, v = (y.reshape(T, -1, c.head_size) for y in (q, k, v))
        q, k = self.apply_rope(q, table), self.apply_rope(k, table)
        layer.keys[:, pos:end], layer.values[:, pos:end] = k.swapaxes(0, 1), v.swapaxes(0, 1)
        # Query heads that share a key head become rows of one product: no key is repeated.
        q = q.reshape(T, c.n_kv_heads, -1, c.head_size).transpose(1, 2, 0, 3)
        q = q.reshape(c.n_kv_heads, -1, c.head_size)  # (n_kv_heads, sharing * T, hs)
        scores = self.product(q, layer.keys[:, :end].swapaxes(1, 2))  # (..., sharing * T, end)
        scores /= np.float32(math.sqrt(c.head_size))
        if T > 1:
            future = np.triu(np.full((T, T), -np.inf, np.float32), 1)
            scores.reshape(c.n_kv_heads, -1, T, end)[..., pos:] += future
        mix = self.product(self.softmax(scores), layer.values[:, :end])  # (..., sharing * T, hs)
        mix = mix.reshape(c.n_kv_heads, -1, T, c.head_size).transpose(2, 0, 1, 3)
        x += self.matmul(layer.wo, mix.reshape(T, c.dim))

    def feed_forward(self, layer, x):  # (T, dim), in place
        """x += w2 (silu(w1 x) * w3 x). (SwiGLU: Shazeer, 2020)"""
        n = rmsnorm(x, layer.ffn_norm, self.config.norm_eps)
        x += self.matmul(layer.w2, self.silu(self.matmul(layer.w1, n)) * self.matmul(layer.w3, n))

    def classify(self, x):  # (T, dim) -> (T, vocab_size), the logits of the token after each
        n = rmsnorm(x, self.weights.final_norm, self.config.norm_eps)
        return self.matmul(self.weights.wcls, n)


# -------------------------------------------------------------------------------- tokenizer
class Tokenizer:
    """SentencePiece's byte-pair encoding; special: ids by their text (<s>), made by no merge."""

    def __init__(self, pieces, scores, special, bos=1, eos=2, prefix=" ", template=""):
        self.pieces, self.scores, self.special = pieces, scores, special
        self.bos, self.eos, self.prefix, self.template = bos, eos, prefix, template
        self.stops, self.byte_ids = {bos, eos}, [0] * 256  # <unk>, where a byte has no token
        for i, piece in enumerate(pieces):
            if len(piece) == 6 and re.fullmatch(rb"<0x[0-9A-F]{2}>", piece):
                pieces[i] = bytes([int(piece[3:5], 16)])
                self.byte_ids[pieces[i][0]] = i
        hidden = {*self.byte_ids, *special.values()}
        self.ids = {pieces[i]: i for i in reversed(range(len(pieces))) if i not in hidden}

    def encode(self, text, bos=True, prefix=True):
        """The ids of text: "Hello, world!" -> [1, 15043, 29892, 3186, 29991] for Llama 2."""
        tokens = []
        for char in self.prefix * (prefix and text != "") + text:
            escaped = "\udc80" <= char <= "\udcff"  # a byte of the command line, not UTF-8
            data = char.encode("utf-8", "surrogateescape" if escaped else "surrogatepass")
            tokens += [self.ids[data]] if data in self.ids else [self.byte_ids[b] for b in data]
        return [self.bos] * bos + self.merge(tokens)

    def merge(self, tokens):  # best score first, leftmost on ties: a heap over a linked list
        n, heap, single = len(tokens), [], {*self.byte_ids, None}  # None: merged, or an end
        before, after, tokens = [*range(-1, n)], [*range(1, n + 1)], [*tokens, None]

        def consider(i):  # the pair that begins at i
            left, right = tokens[i], tokens[after[i]]
            if left in single or right in single:
                return
            if (token := self.ids.get(self.pieces[left] + self.pieces[right])) is not None:
                heapq.heappush(heap, (-self.scores[token], i, left, right, token))

        for i in range(n):
            consider(i)
        while heap:
            _, i, left, right, token = heapq.heappop(heap)
            if (tokens[i], tokens[j := after[i]]) == (left, right):  # else it is outdated
                tokens[i], tokens[j], after[i], before[after[j]] = token, None, after[j], i
                consider(before[i])
                consider(i)
        return [token for token in tokens if token is not None]

    def decode(self, prev, token):  # -> bytes; after BOS without encode's space
        piece = self.pieces[token]
        return piece[1:] if prev == self.bos and piece[:1] == b" " else piece


def text_stream():
    """A function from bytes to the text they complete; control characters become U+FFFD."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    return lambda data, final=False: re.sub(CONTROL, "\ufffd", decode(data, final))


# ---------------------------------------------------------------------------------- sampler
class Sampler:
    """Draws as run.c does: the likeliest (temperature 0) or from the nucleus (Holtzman, 2019)."""

    def __init__(self, temperature=1.0, topp=0.9, seed=None):
        self.seed = self.state = time.time_ns() % 2**32 + 1 if seed is None else seed
        self.temperature, self.topp = np.float32(temperature), np.float32(topp)
        for name, low, high in ("temperature", 0, 100), ("topp", 0, 1), ("seed", 1, 2**64 - 1):
            if not low <= (value := getattr(self, name)) <= high:
                raise ModelError(f"{name} is {value}; it must be from {low} to {high}")

    def random(self):  # a multiple of 2^-24 in [0, 1) (xorshift64*: Vigna, 2014)
        s = self.state ^ self.state >> 12
        s ^= s << 25 & 0xFFFFFFFFFFFFFFFF
        self.state = s ^ s >> 27
        return (self.state * 0x2545F4914F6CDD1D >> 40 & 0xFFFFFF) / 2**24

    @np.errstate(all="ignore")
    def sample(self, logits):  # (vocab_size,) -> token; ModelError if they are not finite
        best = int(logits.argmax())
        if not math.isfinite(logits[best]):
            raise ModelError("the model computes NaN or infinity: its weights are damaged")
        if self.temperature == 0:
            return best
        probs = np.exp((logits - logits[best]) / self.temperature)
        probs, coin = probs / np.add.reduce(probs), self.random()
        if not 0 < self.topp < 1:
            return min(int(np.cumsum(probs).searchsorted(coin, "right")), len(probs) - 1)
        floor = (1 - self.topp) / np.float32(len(probs) - 1)  # none below it can be in there
        tokens = np.flatnonzero(probs >= min(floor, probs.max()))
        tokens = tokens[np.argsort(-probs[tokens], kind="stable")]
        cdf = np.cumsum(probs[tokens])
        cdf = cdf[: cdf.searchsorted(self.topp, "right") + 1]
        return int(tokens[min(int(cdf.searchsorted(coin * cdf[-1], "right")), len(cdf) - 1)])


# ---------------------------------------------------------------------------- llama2.c files
class Reader:
    """A cursor over a file in memory: never past its end, and nothing is copied."""

    def __init__(self, buffer, offset=0):
        self.buffer, self.offset = buffer, offset

    def data(self, what, size):  # the next bytes
        if size > (left := max(0, len(self.buffer) - self.offset)) or size < 0:
            where = f"{what}, at {self.offset:,}, which needs {size:,} bytes and has {left:,}"
            raise ModelError(f"the file ends in {where}: it is truncated, damaged or no model")
        self.offset += size
        return self.buffer[self.offset - size : self.offset]

    def unpack(self, what, form):  # the next values of a struct format
        return struct.unpack(form, self.data(what, struct.calcsize(form)))

    def array(self, what, dtype, *shape):  # the next array, a view where it is aligned
        data = self.data(what, math.prod(shape) * np.dtype(dtype).itemsize)
        array = np.frombuffer(data, dtype).reshape(shape)
        return array if array.flags.aligned else array.copy()

    def groups(self, what, group, out, n):  # a matrix: all its numbers, then its scales
        part = math.gcd(group, n)  # a group that straddles rows is split, its scale repeated
        if group < 1 or part < 2 or out * n % group:
            raise ModelError(f"group size {group} does not fit rows of {n}: export with 32 or 64")
        q = self.array(what, np.int8, out, n // part, part)
        scales = self.array(what, "<f4", out * n // group).repeat(group // part)
        return QuantizedTensor(q, scales.reshape(out, n // part))


LAYER = "att_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3"
IN_V0 = "tok_emb", *LAYER, "final_norm", "rope", "wcls"
IN_V1 = "att_norm", "ffn_norm", "final_norm", "tok_emb", *LAYER[1:5], *LAYER[6:], "wcls"


def read_llama2c(buffer):
    """Versions 0 and 1 in float32, 2 in int8: a header, then each kind of tensor, all layers."""
    file, version, group = Reader(buffer), 0, 1
    if buffer[:4] == b"24ka":
        _, version, *sizes, shared, group = file.unpack("the header", "<Ii7iBi")
        file.offset = 256
    else:
        sizes = [*file.unpack("the header", "<7i")]
        shared, sizes[5] = sizes[5] > 0, abs(sizes[5])
    if not 0 <= version <= 2 or shared > 1:
        raise ModelError(f"llama2.c version {version}, shared classifier {shared} is not known")
    c = Config(*sizes)
    shapes = c.shapes | dict.fromkeys(("tok_emb", "wcls"), (c.vocab_size, c.dim))
    shapes["rope"] = c.seq_len, c.head_size  # tables, not used: they are computed
    Reader(buffer).data("its layers", c.n_layers * sum(map(math.prod, c.shapes.values())))
    weights = Weights(layers=[Weights() for _ in range(c.n_layers)])
    for name in (IN_V1 if version else IN_V0)[: -1 if shared else None]:
        shape = shapes.get(name, (c.dim,))
        take, form = (file.groups, group) if version == 2 and shape[1:] else (file.array, "<f4")
        for owner in weights.layers if name in LAYER else [weights]:
            setattr(owner, name, take(name, form, *shape))
    if left := len(buffer) - file.offset:
        raise ModelError(f"the file is {left:,} bytes too long: it is damaged or no model")
    weights.wcls = weights.tok_emb if shared else weights.wcls
    return c, weights, f"llama2.c v{version}" + f", int8 groups of {group}" * (version == 2), None


def read_tokenizer(buffer):  # the greatest length, then score, length and bytes of each token
    file, pieces, scores = Reader(buffer, 4), [], []
    while file.offset < len(buffer) and len(pieces) < 2**19:
        score, length = file.unpack(f"token {len(pieces)}", "<fi")
        pieces.append(bytes(file.data(f"token {len(pieces)}", length)))
        scores.append(score)
    return Tokenizer(pieces, scores, {"<unk>": 0, "<s>": 1, "</s>": 2})


# ------------------------------------------------------------------------------------- GGUF
def dequantize_k(blocks):  # Q4_K, Q5_K (rows, n) -> (rows, n * 256): w = d scale q - dmin min
    low, mid, high = np.split(blocks["scales"], 3, axis=-1)
    scales = np.concatenate([low & 63, high & 15 | low >> 6 << 4], axis=-1)
    mins = np.concatenate([mid & 63, high >> 4 | mid >> 6 << 4], axis=-1)
    q = blocks["q"].reshape(*blocks.shape, 4, 1, 32) >> np.array([[0], [4]], np.uint8) & 15
    q = q.reshape(*blocks.shape, 8, 32)
    if "fifth" in blocks.dtype.names:
        q |= (blocks["fifth"][..., None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1) << 4
    d, dmin = (blocks[k].astype(np.float32)[..., None] for k in ("d", "dmin"))
    return ((d * scales)[..., None] * q - (dmin * mins)[..., None]).reshape(len(blocks), -1)


def dequantize_q6_k(blocks):  # (rows, n) -> (rows, n * 256): w = d scale (q - 32), 16 runs of 16
    low = blocks["low"].reshape(-1, 2, 1, 64) >> np.array([[0], [4]], np.uint8) & 15
    high = blocks["high"].reshape(-1, 2, 1, 32) >> np.array([[0], [2], [4], [6]], np.uint8) & 3
    q = (low.reshape(-1, 2, 4, 32) | high << 4).astype(np.int8) - np.int8(32)
    scales = blocks["d"].astype(np.float32)[..., None] * blocks["scales"]
    return (scales[..., None] * q.reshape(*scales.shape, 16)).reshape(len(blocks), -1)


K, Q4_0 = [("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12)], [("d", "<f2"), ("q", "u1", 16)]
Q6_K = [("low", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), ("d", "<f2")]
GGUF_TYPES = {  # number: name, weights in a block, block, how int8 or float32 is made of it
    0: ("F32", 1, "<f4", lambda x: x),
    1: ("F16", 1, "<f2", lambda x: x.astype(np.float32)),
    30: ("BF16", 1, "<u2", lambda x: (x.astype(np.uint32) << 16).view(np.float32)),
    8: ("Q8_0", 32, [("d", "<f2"), ("q", "i1", 32)], lambda blocks: blocks["q"]),
    2: ("Q4_0", 32, Q4_0, lambda x: (np.concatenate([x["q"] & 15, x["q"] >> 4], 2) - 8).view("i1")),
    12: ("Q4_K", 256, [*K, ("q", "u1", 128)], dequantize_k),
    13: ("Q5_K", 256, [*K, ("fifth", "u1", 32), ("q", "u1", 128)], dequantize_k),
    14: ("Q6_K", 256, Q6_K, dequantize_q6_k),
}
GGUF_REFUSED = {3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 10: "Q2_K", 11: "Q3_K", 20: "IQ4_NL"}
GGUF_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
GGUF_LAYER = "attn_norm attn_q attn_k attn_v attn_output ffn_norm ffn_gate ffn_down ffn_up"
GGUF_SIZES = "embedding_length feed_forward_length block_count attention.head_count"


class GGUF(Reader):
    """A GGUF file of version 2 or 3: metadata, where each tensor is, the aligned tensors."""

    def __init__(self, buffer):
        super().__init__(buffer)
        _, version, n_tensors, n_values = self.unpack("the header", "<4sIQQ")
        if version not in (2, 3):
            raise ModelError(f"GGUF version {version} is not supported: convert to version 3")
        self.meta = {self.value(8): self.value() for _ in range(min(n_values, 2**16))}
        self.infos, self.types = {}, set()  # infos: shape, type, offset by name
        for _ in range(min(n_tensors, 2**16)):
            name, (n_dims,) = self.value(8), self.unpack("a tensor's shape", "<I")
            *shape, kind, offset = self.unpack("a tensor's shape", f"<{min(n_dims, 4)}QIQ")
            self.infos[name] = tuple(shape[::-1]), kind, offset
        if (align := self.meta.get("general.alignment", 32)) % 8 or align < 8:
            raise ModelError(f"general.alignment is {align!r:.40}; it must be a multiple of 8")
        self.start = self.offset + -self.offset % align

    def value(self, kind=None):  # a number, string or list; its type stands before it
        kind = self.unpack("the metadata", "<I")[0] if kind is None else kind
        of, count = self.unpack("the metadata", "<IQ") if kind == 9 else (kind, 1)
        count = min(count, 2**20)  # no model has more; a damaged file may say so
        if of in GGUF_SCALARS:
            values = self.array("the metadata", "<" + GGUF_SCALARS[of], count).tolist()
        elif of == 8:
            texts = (self.data("a string", *self.unpack("a string", "<Q")) for _ in range(count))
            values = [str(text, "utf-8", "surrogateescape") for text in texts]
        else:
            raise ModelError(f"the metadata has a value of unknown type {of}: the file is damaged")
        return values if kind == 9 else values[0]

    def tensor(self, name, *expected):  # -> float32 or QuantizedTensor, a view if it can be
        shape, kind, offset = self.infos.pop(name + ".weight", ((), 0, 0))
        if kind not in GGUF_TYPES:
            known, kind = [t[0] for t in GGUF_TYPES.values()], GGUF_REFUSED.get(kind, kind)
            raise ModelError(f"tensor {name} has type {kind}: convert it to one of {known}")
        type_name, size, dtype, convert = GGUF_TYPES[kind]
        if shape != expected or shape[-1] % size or (size > 1 and len(shape) == 1):
            raise ModelError(f"tensor {name} is {type_name} {shape}; it should be {expected}")
        self.offset = self.start + offset
        self.types.add(type_name)
        blocks = self.array(name, dtype, *shape[:-1], shape[-1] // size)
        if size == 1:
            return convert(blocks)
        if size == 32:
            return QuantizedTensor(convert(blocks), blocks["d"].astype(np.float32))
        return QuantizedTensor.from_rows(lambda i, j: convert(blocks[i:j]), shape, 32)

    def config(self, vocab_size):  # -> Config; refuses what would change the mathematics
        meta = {key.removeprefix("llama."): value for key, value in self.meta.items()}
        if (name := meta["general.architecture"]) != "llama":
            raise ModelError(f"architecture {name!r:.40} is not supported: only 'llama' is")
        sizes = [int(meta[key]) for key in GGUF_SIZES.split()]
        sizes += int(meta.get("attention.head_count_kv", sizes[-1])), vocab_size
        eps, base = meta["attention.layer_norm_rms_epsilon"], meta.get("rope.freq_base", 1e4)
        c = Config(*sizes, int(meta["context_length"]), norm_eps=eps, rope_base=base)
        only = {"expert_count": 0, "rope.scaling.type": "none", "tokenizer.ggml.model": "llama"}
        only |= {"rope.scaling.factor": 1, "rope.scale_linear": 1, "attention.causal": True}
        only |= dict.fromkeys(("rope.dimension_count", "attention.key_length"), c.head_size)
        for key, known in only.items():
            if meta.get(key, known) != known:
                raise ModelError(f"{key} is {meta[key]!r:.40}; supported is only {known}")
        return c

    def tokenizer(self):  # -> the Tokenizer inside, or None
        meta = {"bos_token_id": 1, "eos_token_id": 2, "add_space_prefix": True}
        meta |= {k.split(".")[-1]: v for k, v in self.meta.items() if k[:10] == "tokenizer."}
        if (texts := meta.get("tokens")) is None:
            return None
        types = meta.get("token_type", [1] * len(texts))
        pieces = [text.replace("\u2581", " ").encode("utf-8", "surrogateescape") for text in texts]
        pieces = [b"" if types[i] == 3 else piece for i, piece in enumerate(pieces)]  # mute control
        special = {text: i for i, text in enumerate(texts) if types[i] in (2, 3, 4)}
        bos, eos = (range(len(texts)).index(meta[f"{name}_token_id"]) for name in ("bos", "eos"))
        prefix, template = " " * bool(meta["add_space_prefix"]), str(meta.get("chat_template", ""))
        return Tokenizer(pieces, [*map(float, meta["scores"])], special, bos, eos, prefix, template)


def read_gguf(buffer):
    """A GGUF of architecture llama: the rows of its wq and wk are in llama2.c's order."""
    file, weights = GGUF(buffer), Weights(layers=[])
    c = file.config(file.infos["token_embd.weight"][0][0])
    weights.tok_emb = file.tensor("token_embd", c.vocab_size, c.dim)
    weights.final_norm = file.tensor("output_norm", c.dim)
    tied = "output.weight" not in file.infos
    weights.wcls = weights.tok_emb if tied else file.tensor("output", c.vocab_size, c.dim)
    for i in progress(range(c.n_layers), "converting the weights"):
        weights.layers.append(layer := Weights())
        for name, theirs in zip(LAYER, GGUF_LAYER.split(), strict=True):
            setattr(layer, name, file.tensor(f"blk.{i}.{theirs}", *c.shapes.get(name, (c.dim,))))
    if file.infos:
        raise ModelError(f"tensor {min(file.infos)!r:.60} does not belong in a Llama of this shape")
    return c, weights, "GGUF, " + ", ".join(sorted(file.types)), file.tokenizer()


def read_model(buffer):
    """Recognize a model by its first bytes: -> Config, Weights, format, its Tokenizer or None."""
    if (magic := bytes(buffer[:4])) == b"PK\3\4":
        raise ModelError("this is a zip or PyTorch file: export it for llama2.c or as GGUF")
    try:
        return (read_gguf if magic == b"GGUF" else read_llama2c)(buffer)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise ModelError(f"its metadata is incomplete or damaged: {str(error)[:80]}") from None


def open_buffer(path):  # memory-mapped: nothing is read before it is used
    try:
        with open(path, "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # ValueError: it is empty
        raise ModelError(getattr(error, "strerror", "") or f"{error}") from None


def extra(name, otherwise=None):  # the module embed/NAME.py, which run.py lacks when it is alone
    try:
        return importlib.import_module(f"run.engine.{name}")
    except ModuleNotFoundError:
        if otherwise:
            return otherwise
        raise ModelError(f"this needs embed/engine/{name}.py beside run.py, and it is not there") from None


def load_model(path=None, tokenizer=None, *, backend="auto", threads=0, int8=False, context=0):
    """A Transformer from a file or what is embedded; threads, context 0: all. Raises ModelError."""
    inside, where = path is None, "the embedded model" if path is None else f"'{path}'"
    try:
        files = extra("carried").find_embedded() if inside else {"model.bin": open_buffer(path)}
        if "model.bin" not in files:
            raise ModelError("there is none: name a model file (-h shows how)")
        c, weights, kind, own = read_model(files["model.bin"])
        if tokenizer or (own is None and not inside):
            where = tokenizer or os.path.join(os.path.dirname(path), "tokenizer.bin")
            if not tokenizer and not os.path.exists(where):
                raise ModelError("there is no tokenizer beside the model: give one with -z")
            files["tokenizer.bin"] = open_buffer(where)
        own = read_tokenizer(files["tokenizer.bin"]) if "tokenizer.bin" in files else own
        if own and not len(own.pieces) == len(own.scores) == c.vocab_size > max(own.stops):
            raise ModelError(f"{len(own.pieces)} tokens, but the model has {c.vocab_size}: fix -z")
        if not np.count_nonzero(weights.final_norm):
            raise ModelError("its last norm is all zeros: it is damaged or was not copied whole")
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from None
    kind += extra("quantize").quantize_weights(c, weights) if int8 else ""
    context = min(context or c.seq_len, c.seq_len)
    try:
        model = extra("kernel").choose(c, weights, context, threads, backend, kind)
    except ModelError as reason:
        if backend == "c":
            raise
        model = Transformer(c, weights, context, f"numpy, {reason}")
    model.tokenizer, model.format, model.files = own, kind, files
    return model


# ------------------------------------------------------------------ the loop, the command line
def generate(model, prompt="", steps=256, **sampling):
    """Yield the prompt, then the text of each token, until BOS, EOS or steps tokens in all."""
    sampler, text, tokenizer = Sampler(**sampling), text_stream(), model.tokenizer
    limit = model.config.seq_len
    tokens = tokenizer.encode(prompt[: (limit + 1) * max(map(len, tokenizer.pieces))])
    steps = min(steps, model.context) if steps > 0 else model.context
    if len(tokens) > limit:
        raise ModelError(f"the prompt has more tokens than the context, {limit:,}: cut it")
    yield text(b"".join(map(tokenizer.decode, tokens, tokens[1 : steps + 1])))
    for pos in range(len(tokens), steps + 1):
        token = sampler.sample(model.forward(tokens, pos - len(tokens)))
        if token in tokenizer.stops:
            break
        yield text(tokenizer.decode(tokens[-1], token))
        tokens = [token]
    yield text(b"", final=True)


def parse_args(argv):
    """The command line, as a namespace; a usage error is one line and exits with status 2."""
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
    parser.set_defaults(task=tell, int8=False, threads=0)
    alone = Weights(add_to=lambda parser: [], HINT="for more options put embed/ beside run.py")
    options = extra("options", alone)
    end = f" ({options.HINT})\n"
    parser.error = lambda text: parser.exit(2, "run: " + " ".join(text.split())[:500] + end)
    args = parser.parse_args(options.add_to(parser) + argv)
    args.loading = {k: vars(args)[k] for k in ("tokenizer", "backend", "threads", "int8")}
    args.sampling = {k: vars(args)[k] for k in ("temperature", "topp", "seed")}
    args.sampling["seed"] = Sampler(**args.sampling).seed  # drawn here, so that it can be told
    return args


def tell(args):  # print a story as it comes; then, on stderr, how fast it came
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
        print(f"seed {args.sampling['seed']}, {model.backend}", file=sys.stderr)


def main(argv=None):
    """The command line; returns the exit status. Every failure is one line on stderr."""
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 (print takes None for stdout)
    for stream, ends in (sys.stdin, None), (sys.stdout, "\n"), (sys.stderr, "\n"):
        if hasattr(stream, "reconfigure"):  # UTF-8 and the same bytes on every system
            stream.reconfigure(encoding="utf-8", errors="surrogateescape", newline=ends)
    args = None
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        args = parse_args(sys.argv[1:] if argv is None else argv)
        if args.prompt == "-":
            if sys.stdin is None:
                raise ModelError("stdin is closed: give the prompt itself with -i")
            args.prompt = sys.stdin.read(2**24).removesuffix("\n")
        return args.task(args) or 0
    except (ModelError, OSError, MemoryError, KeyboardInterrupt) as error:
        words = {KeyboardInterrupt: "interrupted", MemoryError: "out of memory: use less -n"}
        message = words.get(type(error)) or getattr(error, "strerror", None) or str(error)
        print("run:", re.sub(CONTROL, "\ufffd", " ".join(message.split())[:500]), file=sys.stderr)
        if isinstance(error, OSError) and sys.stdout:  # what cannot be written goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 130 if isinstance(error, KeyboardInterrupt) else 1 if args else 2


if __name__ == "__main__":
    sys.exit(main())
