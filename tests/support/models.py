"""Tiny seeded Llama models, and writers of every file format that run.py reads.

Nothing here imports run.py: the writers follow the format descriptions, so they are an
independent check of its readers. Weights come from a frozen random stream in exact float32
arithmetic, so that a name always stands for the same bytes.

    model = build("gqa")                        # Model: a Shape and named float32 arrays
    open("model.bin", "wb").write(write_v0(model))
    data, exact = write_gguf(model, "Q4_K")     # exact: the Model of the values that it holds
"""

import struct
from dataclasses import dataclass, field, replace

import numpy as np

# --------------------------------------------------------------------------------------------------
# Models

LAYER_TENSORS = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")
NORMS = ("att_norm", "ffn_norm", "final_norm")


@dataclass(frozen=True)
class Shape:
    """The numbers of a checkpoint's header, and the two that only GGUF stores."""

    dim: int = 64
    hidden_dim: int = 96
    n_layers: int = 2
    n_heads: int = 4
    n_kv_heads: int = 4
    vocab_size: int = 416
    seq_len: int = 64
    shared: bool = True
    norm_eps: float = 1e-5
    rope_base: float = 10000.0

    @property
    def head_size(self):
        return self.dim // self.n_heads

    @property
    def kv_dim(self):
        return self.n_kv_heads * self.head_size

    def tensor_shapes(self):
        """Name -> shape; the layers' tensors are stacked: (n_layers, out, in)."""
        dim, kv, hidden, layers = self.dim, self.kv_dim, self.hidden_dim, self.n_layers
        shapes = {
            "tok_emb": (self.vocab_size, dim),
            "att_norm": (layers, dim),
            "wq": (layers, dim, dim),
            "wk": (layers, kv, dim),
            "wv": (layers, kv, dim),
            "wo": (layers, dim, dim),
            "ffn_norm": (layers, dim),
            "w1": (layers, hidden, dim),
            "w2": (layers, dim, hidden),
            "w3": (layers, hidden, dim),
            "final_norm": (dim,),
        }
        return shapes if self.shared else shapes | {"wcls": (self.vocab_size, dim)}


@dataclass
class Model:
    """A shape and its float32 tensors, named as in Shape.tensor_shapes."""

    shape: Shape
    tensors: dict = field(default_factory=dict)

    @property
    def wcls(self):
        return self.tensors.get("wcls", self.tensors["tok_emb"])


SHAPES = {
    "mha": Shape(),
    "untied": Shape(shared=False),
    "gqa": Shape(n_heads=8, n_kv_heads=2, shared=False, seq_len=300),
    "gqa-tied": Shape(n_heads=4, n_kv_heads=2, n_layers=3),
    "mqa": Shape(n_heads=4, n_kv_heads=1, hidden_dim=128),
    "odd": Shape(dim=44, hidden_dim=60, n_heads=11, n_kv_heads=1, n_layers=1, shared=False),
    "wide-heads": Shape(dim=64, n_heads=1, n_kv_heads=1, hidden_dim=64, n_layers=1),
    "pairs": Shape(dim=32, n_heads=16, n_kv_heads=8, hidden_dim=32),  # heads of one RoPE pair
    "blocks": Shape(dim=256, hidden_dim=512, n_heads=8, n_kv_heads=8, shared=False),
    "blocks-gqa": Shape(dim=256, hidden_dim=256, n_heads=8, n_kv_heads=2, n_layers=3),
    "rope": Shape(norm_eps=3e-3, rope_base=500.0, n_kv_heads=2),  # only GGUF can say these two
}


def uniform(random, shape, scale):
    """Uniform in [-scale, scale): exact float32 steps of 2**-15, the same on every machine."""
    return (random.randint(-32768, 32768, shape).astype(np.float32) / 32768) * np.float32(scale)


def build(name="mha", seed=0, vocab=None, **changes):
    """The named model. With a `vocab`, what is not text becomes unlikely (see `add_bias`)."""
    shape = replace(SHAPES[name], **changes)
    model = fill(shape, 1000 * sorted(SHAPES).index(name) + seed)
    if vocab is not None:
        add_bias(model, [i for i, kind in enumerate(vocab.types) if kind != NORMAL])
    return model


def fill(shape, seed):
    """A Model of this shape with seeded weights."""
    random, model = np.random.RandomState(seed), Model(shape)
    for key, size in shape.tensor_shapes().items():
        if key in NORMS:
            model.tensors[key] = 1 + uniform(random, size, 0.25)
        elif key in ("tok_emb", "wcls"):
            model.tensors[key] = uniform(random, size, 0.35)
        else:
            model.tensors[key] = uniform(random, size, 3.0 / np.sqrt(size[-1]))
    return model


def add_bias(model, unlikely):
    """Channel 0 of the residual stream becomes a constant that marks `unlikely` tokens down."""
    tensors = model.tensors
    mark = np.full(model.shape.vocab_size, 2, np.float32)
    tensors["tok_emb"][:, 0] = mark
    mark[unlikely] = -2
    mark[1] = 0.25  # where the classifier is the embedding, BOS starts the constant: above zero
    model.wcls[:, 0] = mark
    tensors["wo"][:, 0] = 0
    tensors["w2"][:, 0] = 0
    tensors["final_norm"][0] = 12


def scripted(follow, vocab_size=416, seq_len=256, dim=128):
    """A model that answers token t by follow[t], whatever came before: its layers add nothing.

    Embeddings are random signs, nearly orthogonal, and the classifier's row of follow[t] points to
    t's embedding. A token without an entry is followed by nothing in particular.
    """
    shape = Shape(dim, 32, 1, 4, 4, vocab_size, seq_len, shared=False)
    random = np.random.RandomState(5)
    tensors = {key: np.zeros(size, np.float32) for key, size in shape.tensor_shapes().items()}
    for norm in NORMS:
        tensors[norm][:] = 1
    tensors["tok_emb"][:] = random.randint(0, 2, (vocab_size, dim)) * 2 - 1
    for token, after in follow.items():
        tensors["wcls"][after] += tensors["tok_emb"][token]
    return Model(shape, tensors)


# --------------------------------------------------------------------------------------------------
# Vocabularies

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # GGUF's token types

TEXT = """Once upon a time there was a little girl named Lily. She had a big red ball and she
liked to play with the ball in the park all day. One day the ball was lost, and Lily was very sad.
Her mom said that they would find the ball. They looked and looked, and then they saw the dog with
the ball."""


@dataclass
class Vocab:
    """Pieces as bytes, a space being a space; types as GGUF numbers them."""

    pieces: list
    scores: list
    types: list

    def __len__(self):
        return len(self.pieces)

    def id(self, piece):
        """The id of a piece given as text or bytes."""
        return self.pieces.index(piece.encode() if isinstance(piece, str) else piece)

    def add(self, piece, kind=NORMAL, score=0.0):
        """Append one more token and return its id."""
        self.pieces.append(piece.encode() if isinstance(piece, str) else piece)
        self.scores.append(score)
        self.types.append(kind)
        return len(self.pieces) - 1


def train_merges(text, count):
    """Byte-pair merges of `text`, most frequent pair first, alphabetical on ties, within words."""
    words = [tuple(f" {word}") for word in text.split()]
    merges = []
    while len(merges) < count:
        pairs = {}
        for word in words:
            for left, right in zip(word, word[1:], strict=False):
                pairs[left + right] = pairs.get(left + right, 0) + 1
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = [merge_word(word, best) for word in words]
    return merges


def merge_word(word, pair):
    out, i = [], 0
    while i < len(word):
        joined = i + 1 < len(word) and word[i] + word[i + 1] == pair
        out.append(pair if joined else word[i])
        i += 2 if joined else 1
    return tuple(out)


def tiny_vocab(size=416, with_bytes=True):
    """Llama 2's layout in small: <unk> <s> </s>, 256 bytes, merges by rank, then characters."""
    vocab = Vocab([], [], [])
    for piece, kind in (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)):
        vocab.add(piece, kind)
    for byte in range(256 if with_bytes else 0):
        vocab.add(f"<0x{byte:02X}>", BYTE)
    characters = [chr(code) for code in range(0x20, 0x7F)] + ["é", "ß", "你", "好"]
    room = size - len(vocab) - len(characters)
    for rank, piece in enumerate(train_merges(TEXT, room) + characters):
        vocab.add(piece, NORMAL, -float(rank))
    return vocab


def first_tokens(size):
    """The first tokens of the tiny vocabulary: <unk>, <s>, </s> and some bytes."""
    vocab = tiny_vocab()
    return Vocab(vocab.pieces[:size], vocab.scores[:size], vocab.types[:size])


def sentencepiece_vocab(processor):
    """The Vocab of a loaded sentencepiece.SentencePieceProcessor."""
    vocab = Vocab([], [], [])
    for i in range(processor.vocab_size()):
        kind = NORMAL
        for test, value in (
            (processor.is_unknown, UNKNOWN),
            (processor.is_control, CONTROL),
            (processor.is_byte, BYTE),
        ):
            kind = value if test(i) else kind
        piece = processor.id_to_piece(i)
        text = piece.replace("\u2581", " ") if kind == NORMAL else piece
        vocab.add(text, kind, processor.get_score(i))
    return vocab


def write_tokenizer(vocab):
    """tokenizer.bin: longest length, then score, length, bytes of each; <s> as llama2.c has it."""
    names = {b"<s>": b"\n<s>\n", b"</s>": b"\n</s>\n"}
    pieces = [
        names.get(piece, piece) if kind == CONTROL else piece
        for piece, kind in zip(vocab.pieces, vocab.types, strict=True)
    ]
    out = [struct.pack("<I", max(map(len, pieces)))]
    for piece, score in zip(pieces, vocab.scores, strict=True):
        out.append(struct.pack("<fi", score, len(piece)) + piece)
    return b"".join(out)


# --------------------------------------------------------------------------------------------------
# llama2.c files


def header(shape, vocab_sign=1):
    return struct.pack(
        "<7i",
        shape.dim,
        shape.hidden_dim,
        shape.n_layers,
        shape.n_heads,
        shape.n_kv_heads,
        shape.vocab_size * vocab_sign,
        shape.seq_len,
    )


def write_v0(model):
    """The legacy format: float32, RoPE tables before the classifier."""
    shape, tensors = model.shape, model.tensors
    order = ["tok_emb", "att_norm", *LAYER_TENSORS, "final_norm"]
    order.insert(6, "ffn_norm")
    parts = [header(shape, 1 if shape.shared else -1)]
    parts += [tensors[name].astype("<f4").tobytes() for name in order]
    angles = np.outer(
        np.arange(shape.seq_len),
        1e4 ** -(np.arange(0, shape.head_size, 2) / shape.head_size),
    )
    parts += [np.cos(angles).astype("<f4").tobytes(), np.sin(angles).astype("<f4").tobytes()]
    if not shape.shared:
        parts.append(tensors["wcls"].astype("<f4").tobytes())
    return b"".join(parts)


def write_v1(model):
    """Version 1: a 256-byte header, norms first, float32."""
    shape, tensors = model.shape, model.tensors
    head = struct.pack("<Ii", 0x616B3432, 1) + header(shape) + struct.pack("<B", shape.shared)
    order = [*NORMS, "tok_emb", *LAYER_TENSORS] + ([] if shape.shared else ["wcls"])
    return head.ljust(256, b"\0") + b"".join(tensors[k].astype("<f4").tobytes() for k in order)


def write_v2(model, group=32):
    """Version 2: int8 in groups. Returns (bytes, the Model of the values that they hold)."""
    shape, tensors = model.shape, model.tensors
    head = struct.pack("<Ii", 0x616B3432, 2) + header(shape)
    head += struct.pack("<Bi", shape.shared, group)
    parts = [head.ljust(256, b"\0")] + [tensors[k].astype("<f4").tobytes() for k in NORMS]
    exact = {k: tensors[k] for k in NORMS}
    for name in ["tok_emb", *LAYER_TENSORS] + ([] if shape.shared else ["wcls"]):
        stacked = tensors[name] if name in LAYER_TENSORS else tensors[name][None]
        values = []
        for tensor in stacked:
            q, scales = quantize_groups(tensor.reshape(-1, group))
            parts += [q.tobytes(), scales.astype("<f4").tobytes()]
            values.append((q.astype(np.float32) * scales[:, None]).reshape(tensor.shape))
        exact[name] = np.array(values).reshape(tensors[name].shape)
    return b"".join(parts), Model(shape, exact)


def quantize_groups(x):
    """runq.c's rule for float32 x (groups, size): int8 with halves away from zero, and scales."""
    scales = np.abs(x).max(axis=1) / np.float32(127)
    ratio = x / np.where(scales == 0, np.float32(1), scales)[:, None]
    return (np.sign(ratio) * np.floor(np.abs(ratio) + np.float32(0.5))).astype(np.int8), scales


# --------------------------------------------------------------------------------------------------
# GGUF blocks: each packs float32 x (n, block) into bytes (n, size) and says what they stand for


def as_half(x):
    """float16 rounding of x, as float32."""
    return x.astype(np.float16).astype(np.float32)


def half_bytes(x):
    return x.astype("<f2").reshape(-1, 1).view(np.uint8)


def pack_f32(x):
    return x.astype("<f4").view(np.uint8), x


def pack_f16(x):
    return x.astype("<f2").view(np.uint8), as_half(x)


def pack_bf16(x):
    """Truncation is a valid rounding: the top 16 bits of the float32."""
    top = (x.astype("<f4").view("<u4") >> 16).astype("<u2")
    return top.view(np.uint8), (top.astype("<u4") << 16).view("<f4")


def pack_q8_0(x):
    d = as_half(np.abs(x).max(axis=1) / 127)
    q = np.clip(np.rint(x / nonzero(d)), -128, 127).astype(np.int8)
    return np.hstack([half_bytes(d), q.view(np.uint8)]), d[:, None] * q


def pack_q4_0(x):
    d = as_half(-x[np.arange(len(x)), np.abs(x).argmax(axis=1)] / 8)
    q = np.clip(np.rint(x / nonzero(d)) + 8, 0, 15).astype(np.uint8)
    packed = q[:, :16] | q[:, 16:] << 4
    return np.hstack([half_bytes(d), packed]), d[:, None] * (q.astype(np.float32) - 8)


def nonzero(d):
    return np.where(d == 0, np.float32(1), d)[:, None]


def k_scales(x, levels):
    """Affine 6-bit scales for x (n, 256) in runs of 32: d, dmin, scales, mins, q (n, 8, 32)."""
    sub = x.reshape(-1, 8, 32)
    low = np.minimum(sub.min(axis=2), 0)
    step = (sub.max(axis=2) - low) / levels
    d, dmin = as_half(step.max(axis=1) / 63), as_half(-low.min(axis=1) / 63)
    scales = np.clip(np.rint(step / nonzero(d)), 0, 63).astype(np.uint8)
    mins = np.clip(np.rint(-low / nonzero(dmin)), 0, 63).astype(np.uint8)
    unit = (d[:, None] * scales)[..., None]
    offset = (dmin[:, None] * mins)[..., None]
    q = np.rint((sub + offset) / np.where(unit == 0, 1, unit))
    q = np.clip(q, 0, levels).astype(np.uint8)
    return d, dmin, scales, mins, q, (unit * q - offset).reshape(x.shape)


def pack_k_scales(scales, mins):
    """Eight 6-bit scales and mins in 12 bytes: 0-3 whole, the rest split over free bits."""
    low = scales[:, :4] | (scales[:, 4:] >> 4) << 6
    middle = mins[:, :4] | (mins[:, 4:] >> 4) << 6
    return np.hstack([low, middle, (scales[:, 4:] & 15) | (mins[:, 4:] & 15) << 4])


def pack_q4_k(x):
    d, dmin, scales, mins, q, values = k_scales(x, 15)
    nibbles = (q[:, 0::2] | q[:, 1::2] << 4).reshape(len(x), 128)
    parts = [half_bytes(d), half_bytes(dmin), pack_k_scales(scales, mins), nibbles]
    return np.hstack(parts), values


def pack_q5_k(x):
    d, dmin, scales, mins, q, values = k_scales(x, 31)
    high = np.zeros((len(x), 32), np.uint8)
    for j in range(8):
        high |= (q[:, j] >> 4) << j
    q = q & 15
    nibbles = (q[:, 0::2] | q[:, 1::2] << 4).reshape(len(x), 128)
    parts = [half_bytes(d), half_bytes(dmin), pack_k_scales(scales, mins), high, nibbles]
    return np.hstack(parts), values


def pack_q6_k(x):
    """Sixteen sub-blocks of 16 with int8 scales of either sign; weights -32..31."""
    sub = x.reshape(-1, 16, 16)
    step = np.abs(sub).max(axis=2) / 31
    step[:, 1::2] *= -1  # negative scales are legal
    d = as_half(np.abs(step).max(axis=1) / 127)
    scales = np.clip(np.rint(step / nonzero(d)), -128, 127).astype(np.int8)
    unit = (d[:, None] * scales)[..., None]
    q = np.clip(np.rint(sub / np.where(unit == 0, 1, unit)), -32, 31)
    codes = (q + 32).astype(np.uint8).reshape(len(x), 2, 4, 32)  # half, quarter, 32 weights
    low = np.concatenate([codes[:, :, 0:2] & 15 | (codes[:, :, 2:4] & 15) << 4], axis=2)
    high = sum((codes[:, :, part] >> 4) << 2 * part for part in range(4)).astype(np.uint8)
    parts = [low.reshape(len(x), 128), high.reshape(len(x), 64), scales.view(np.uint8)]
    return np.hstack([*parts, half_bytes(d)]), (unit * q).astype(np.float32).reshape(x.shape)


# name -> (GGUF's number, weights in a block, packer)
TYPES = {
    "F32": (0, 1, pack_f32),
    "F16": (1, 1, pack_f16),
    "BF16": (30, 1, pack_bf16),
    "Q8_0": (8, 32, pack_q8_0),
    "Q4_0": (2, 32, pack_q4_0),
    "Q4_K": (12, 256, pack_q4_k),
    "Q5_K": (13, 256, pack_q5_k),
    "Q6_K": (14, 256, pack_q6_k),
}


def pack_tensor(x, kind):
    """float32 x (out, in) -> (type number, bytes, values that they stand for)."""
    number, block, pack = TYPES[kind]
    packed, values = pack(np.ascontiguousarray(x, np.float32).reshape(-1, block))
    return number, packed.tobytes(), values.astype(np.float32).reshape(x.shape)


# --------------------------------------------------------------------------------------------------
# GGUF files

GGUF_NAMES = {
    "att_norm": "attn_norm",
    "wq": "attn_q",
    "wk": "attn_k",
    "wv": "attn_v",
    "wo": "attn_output",
    "ffn_norm": "ffn_norm",
    "w1": "ffn_gate",
    "w2": "ffn_down",
    "w3": "ffn_up",
}
SCALARS = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": 7}
SCALARS |= {"u64": 10, "i64": 11, "f64": 12}
STRUCTS = dict(zip(SCALARS, ("B", "b", "H", "h", "I", "i", "f", "?", "Q", "q", "d"), strict=True))


def gguf_string(text):
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_value(kind, value):
    """One metadata value with its type in front; "[u32]" is an array, "str" a string."""
    if kind == "str":
        return struct.pack("<I", 8) + gguf_string(value)
    if kind.startswith("["):
        items = [gguf_value(kind[1:-1], item)[4:] for item in value]
        inner = gguf_value(
            kind[1:-1], [] if kind.startswith("[[") else "" if kind == "[str]" else 0
        )[:4]
        return struct.pack("<I", 9) + inner + struct.pack("<Q", len(items)) + b"".join(items)
    return struct.pack("<I", SCALARS[kind]) + struct.pack("<" + STRUCTS[kind], value)


def gguf_metadata(shape, architecture="llama"):
    """Key -> (type, value) of the model's own keys."""
    prefix = architecture + "."
    return {
        "general.architecture": ("str", architecture),
        "general.name": ("str", "tiny"),
        prefix + "context_length": ("u32", shape.seq_len),
        prefix + "embedding_length": ("u32", shape.dim),
        prefix + "block_count": ("u32", shape.n_layers),
        prefix + "feed_forward_length": ("u32", shape.hidden_dim),
        prefix + "attention.head_count": ("u32", shape.n_heads),
        prefix + "attention.head_count_kv": ("u32", shape.n_kv_heads),
        prefix + "attention.layer_norm_rms_epsilon": ("f32", shape.norm_eps),
        prefix + "rope.freq_base": ("f32", shape.rope_base),
        prefix + "rope.dimension_count": ("u32", shape.head_size),
    }


def gguf_tokenizer(vocab, template=None):
    """Key -> (type, value) of the tokenizer's keys."""
    pieces = [
        piece.replace(b" ", "\u2581".encode()) if kind == NORMAL else piece
        for piece, kind in zip(vocab.pieces, vocab.types, strict=True)
    ]
    keys = {
        "tokenizer.ggml.model": ("str", "llama"),
        "tokenizer.ggml.tokens": ("[str]", pieces),
        "tokenizer.ggml.scores": ("[f32]", vocab.scores),
        "tokenizer.ggml.token_type": ("[i32]", vocab.types),
        "tokenizer.ggml.bos_token_id": ("u32", 1),
        "tokenizer.ggml.eos_token_id": ("u32", 2),
        "tokenizer.ggml.unknown_token_id": ("u32", 0),
    }
    return keys | ({"tokenizer.chat_template": ("str", template)} if template else {})


def gguf_file(metadata, tensors, version=3, alignment=32):
    """Assemble a file. tensors: (name, shape outermost first, type number, bytes)."""
    out = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(metadata))
    for key, (kind, value) in metadata.items():
        out += gguf_string(key) + gguf_value(kind, value)
    offset, data = 0, []
    for name, shape, number, raw in tensors:
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        out += gguf_string(name) + dims + struct.pack("<IQ", number, offset)
        data.append(raw + b"\0" * (-len(raw) % alignment))
        offset += len(data[-1])
    return out + b"\0" * (-len(out) % alignment) + b"".join(data)


def gguf_kind(types, name):
    """Which type a tensor gets: norms are always F32; `types` is one name or a table of names."""
    if name in NORMS:
        return "F32"
    return types if isinstance(types, str) else types.get(name, types["*"])


def gguf_tensors(model, types):
    """Pack every tensor: (list for gguf_file, Model of the values that they hold)."""
    tensors, exact = [], {}
    for name, value in model.tensors.items():
        stacked = value if name in GGUF_NAMES else value[None]
        values = []
        for layer, tensor in enumerate(stacked):
            number, raw, held = pack_tensor(tensor, gguf_kind(types, name))
            tensors.append((gguf_name(name, layer), tensor.shape, number, raw))
            values.append(held)
        exact[name] = np.array(values).reshape(value.shape)
    return tensors, Model(model.shape, exact)


def gguf_name(name, layer):
    top = {"tok_emb": "token_embd", "final_norm": "output_norm", "wcls": "output"}
    return f"{top[name]}.weight" if name in top else f"blk.{layer}.{GGUF_NAMES[name]}.weight"


# As llama.cpp mixes them: the sensitive tensors in 6 bits.
Q4_K_M = {"*": "Q4_K", "wv": "Q6_K", "w2": "Q6_K", "wcls": "Q6_K"}
Q5_K_M = {"*": "Q5_K", "wv": "Q6_K", "w2": "Q6_K", "wcls": "Q6_K"}


def write_gguf(model, types="F32", vocab=None, template=None, version=3, alignment=32, extra=None):
    """A GGUF file of the model: (bytes, Model of the values that it holds).

    `extra` overrides or adds metadata, key -> (type, value); a value of None takes a key away.
    """
    metadata = gguf_metadata(model.shape)
    if alignment != 32:
        metadata["general.alignment"] = ("u32", alignment)
    if vocab is not None:
        metadata |= gguf_tokenizer(vocab, template)
    metadata |= extra or {}
    metadata = {key: value for key, value in metadata.items() if value is not None}
    tensors, exact = gguf_tensors(model, types)
    return gguf_file(metadata, tensors, version, alignment), exact
