"""The plain truth, slowly: what run.py computes, written straight from the mathematics.

Float64 throughout, one token, one head, one weight at a time. Nothing here imports run.py.
"""

import math
import struct

import numpy as np

# --------------------------------------------------------------------------------------------------
# Llama


def rmsnorm(x, weight, eps):
    return weight * x / math.sqrt(np.mean(x * x) + eps)


def rotate(x, pos, shape):
    """RoPE: pairs (2i, 2i+1) of each head turn by pos / base**(2i / head_size)."""
    out = x.copy()
    for i in range(0, len(x), 2):
        angle = pos / shape.rope_base ** ((i % shape.head_size) / shape.head_size)
        c, s = math.cos(angle), math.sin(angle)
        out[i], out[i + 1] = x[i] * c - x[i + 1] * s, x[i] * s + x[i + 1] * c
    return out


def attend(q, keys, values, shape):
    """Softmax attention of one query over all keys so far; query head h reads head h // repeat."""
    size, repeat = shape.head_size, shape.n_heads // shape.n_kv_heads
    out = np.zeros(shape.dim)
    for head in range(shape.n_heads):
        mine = slice(head * size, (head + 1) * size)
        theirs = slice(head // repeat * size, (head // repeat + 1) * size)
        scores = np.array([q[mine] @ key[theirs] for key in keys]) / math.sqrt(size)
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        for weight, value in zip(weights, values, strict=True):
            out[mine] += weight * value[theirs]
    return out


def rounded(x, group):
    """x as int8 in groups stands for it, by runq.c's rule; float64 in and out.

    A group that does not divide the row is taken as their greatest common divisor.
    """
    group = math.gcd(group, len(x))
    groups = x.astype(np.float32).reshape(-1, group)
    scale = np.abs(groups).max(axis=1, keepdims=True) / np.float32(127)
    ratio = groups / np.where(scale == 0, np.float32(1), scale)
    q = np.sign(ratio) * np.floor(np.abs(ratio) + np.float32(0.5))
    return (q.astype(float) * scale).reshape(x.shape)


def forward(model, tokens, group=0):
    """Logits (len(tokens), vocab_size) in float64.

    With `group`, every activation that enters a matrix is rounded to int8 groups first, as runq.c
    does; the weights are taken as they are. A table gives the group of each matrix, 0 for none.
    """
    shape, w = model.shape, {k: v.astype(float) for k, v in model.tensors.items()}
    classifier = "wcls" if "wcls" in w else "tok_emb"

    def product(name, matrix, x):
        size = group[name] if isinstance(group, dict) else group
        return matrix @ (rounded(x, size) if size else x)

    keys = [[] for _ in range(shape.n_layers)]
    values = [[] for _ in range(shape.n_layers)]
    logits = []
    for pos, token in enumerate(tokens):
        x = w["tok_emb"][token].copy()
        for n in range(shape.n_layers):
            h = rmsnorm(x, w["att_norm"][n], shape.norm_eps)
            keys[n].append(rotate(product("wk", w["wk"][n], h), pos, shape))
            values[n].append(product("wv", w["wv"][n], h))
            query = rotate(product("wq", w["wq"][n], h), pos, shape)
            x += product("wo", w["wo"][n], attend(query, keys[n], values[n], shape))
            h = rmsnorm(x, w["ffn_norm"][n], shape.norm_eps)
            gate = product("w1", w["w1"][n], h)
            hidden = gate / (1 + np.exp(-gate)) * product("w3", w["w3"][n], h)
            x += product("w2", w["w2"][n], hidden)
        final = rmsnorm(x, w["final_norm"], shape.norm_eps)
        logits.append(product(classifier, w[classifier], final))
    return np.array(logits)


# --------------------------------------------------------------------------------------------------
# Tokenizer


def encode(vocab, text, bos=True):
    """run.c's encoder: characters or bytes, then the best pair is merged until none is left."""
    index = {}
    for i, (piece, kind) in enumerate(zip(vocab.pieces, vocab.types, strict=True)):
        if kind in (1, 4):
            index.setdefault(piece, i)
    tokens = [index[b" "]] if text else []
    for character in text:
        raw = character.encode()
        tokens += [index[raw]] if raw in index else [byte + 3 for byte in raw]
    while True:
        best, where, merged = -math.inf, None, None
        for i in range(len(tokens) - 1):
            found = index.get(vocab.pieces[tokens[i]] + vocab.pieces[tokens[i + 1]])
            if found is not None and vocab.scores[found] > best:
                best, where, merged = vocab.scores[found], i, found
        if where is None:
            return [1] * bos + tokens
        tokens[where : where + 2] = [merged]


def decode(vocab, tokens):
    """What the tokens stand for: <0xXX> is a byte, one space goes after BOS, BOS is silent."""
    out = b""
    for previous, token in zip(tokens, tokens[1:], strict=False):
        piece = vocab.pieces[token]
        if vocab.types[token] == 6:
            piece = bytes([int(piece[3:5], 16)])
        elif vocab.types[token] == 3:
            piece = b""
        out += piece[1:] if previous == 1 and piece[:1] == b" " else piece
    return out


# --------------------------------------------------------------------------------------------------
# Sampler

MASK = (1 << 64) - 1


def random_u32(state):
    """xorshift*: (next state, 32 random bits)."""
    state ^= state >> 12
    state ^= (state << 25) & MASK
    state ^= state >> 27
    return state, ((state * 0x2545F4914F6CDD1D) & MASK) >> 32


def random_f32(state):
    state, bits = random_u32(state)
    return state, (bits >> 8) / 16777216


def sample(logits, temperature, topp, state):
    """run.c's sample in float64: (token, next state, how far the coin fell from an edge).

    A coin that falls within rounding of an edge may land on either side in float32, and so may a
    candidate at the cut: the last number is the smallest such distance, so that tests can skip it.
    """
    if temperature == 0:
        top = np.sort(logits)[-2:]
        return int(np.argmax(logits)), state, 1.0 if top[0] == top[1] else top[1] - top[0]
    logits = np.asarray(logits, float) / temperature
    p = np.exp(logits - logits.max())
    p /= p.sum()
    state, coin = random_f32(state)
    order, margin, coin_range = list(range(len(p))), 1.0, 1.0
    if 0 < topp < 1:
        cutoff = (1 - topp) / (len(p) - 1)
        margin = np.min(np.abs(p - cutoff)) / cutoff
        order = [i for i in sorted(order, key=lambda i: (-p[i], i)) if p[i] >= cutoff]
        total, kept = 0.0, []
        for i in order:
            total += p[i]
            kept.append(i)
            margin = min(margin, abs(total - topp))
            if total > topp:
                break
        order, coin_range = kept or [int(np.argmax(p))], total  # run.c fails if none is kept
    cdf, chosen, r = 0.0, None, coin * coin_range
    for i in order:
        cdf += p[i]
        margin = min(margin, abs(cdf - r))
        if chosen is None and r < cdf:
            chosen = i
    return order[-1] if chosen is None else chosen, state, margin


# --------------------------------------------------------------------------------------------------
# GGUF blocks, one weight at a time: bytes -> list of floats


def half(raw, at):
    return struct.unpack_from("<e", raw, at)[0]


def dequantize_f32(raw):
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


def dequantize_f16(raw):
    return list(struct.unpack(f"<{len(raw) // 2}e", raw))


def dequantize_bf16(raw):
    return [struct.unpack("<f", b"\0\0" + raw[i : i + 2])[0] for i in range(0, len(raw), 2)]


def dequantize_q8_0(raw):
    return [half(raw, 0) * q for q in struct.unpack_from("<32b", raw, 2)]


def dequantize_q4_0(raw):
    return [half(raw, 0) * ((raw[2 + i % 16] >> 4 * (i // 16) & 15) - 8) for i in range(32)]


def k_scale_min(packed, j):
    """The j-th 6-bit scale and min of the 12 bytes."""
    if j < 4:
        return packed[j] & 63, packed[j + 4] & 63
    scale = packed[j + 4] & 15 | packed[j - 4] >> 6 << 4
    return scale, packed[j + 4] >> 4 | packed[j] >> 6 << 4


def dequantize_q4_k(raw, high=None, at=16):
    d, dmin, out = half(raw, 0), half(raw, 2), []
    for i in range(256):
        j, lane = i // 32, i % 32
        q = raw[at + 32 * (j // 2) + lane] >> 4 * (j % 2) & 15
        if high is not None:
            q += 16 * (high[lane] >> j & 1)
        scale, low = k_scale_min(raw[4:16], j)
        out.append(d * scale * q - dmin * low)
    return out


def dequantize_q5_k(raw):
    return dequantize_q4_k(raw, high=raw[16:48], at=48)


def dequantize_q6_k(raw):
    d, out = half(raw, 208), []
    for i in range(256):
        side, rest = divmod(i, 128)
        quarter, lane = divmod(rest, 32)
        low = raw[64 * side + 32 * (quarter % 2) + lane] >> 4 * (quarter // 2) & 15
        top = raw[128 + 32 * side + lane] >> 2 * quarter & 3
        scale = struct.unpack_from("b", raw, 192 + i // 16)[0]
        out.append(d * scale * (low + 16 * top - 32))
    return out


# name -> (bytes in a block, its reader)
DEQUANTIZE = {
    "F32": (4, dequantize_f32),
    "F16": (2, dequantize_f16),
    "BF16": (2, dequantize_bf16),
    "Q8_0": (34, dequantize_q8_0),
    "Q4_0": (18, dequantize_q4_0),
    "Q4_K": (144, dequantize_q4_k),
    "Q5_K": (176, dequantize_q5_k),
    "Q6_K": (210, dequantize_q6_k),
}


def dequantize(raw, kind):
    """Every weight of `raw`, whole blocks of one type."""
    size, read = DEQUANTIZE[kind]
    return [value for at in range(0, len(raw), size) for value in read(raw[at : at + size])]
