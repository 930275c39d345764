"""GGUF files of version 2 and 3: metadata, where each tensor is, then the tensors, aligned.

    file = read_gguf(run.open_buffer("model.gguf"))  # -> run.ModelFile

Metadata is read by accessors that know what a value must be; whatever is not asked for is skipped.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from run import Config, Layer, ModelError, ModelFile, Reader, Tokenizer, Weights

from .blocks import BlockTensor, BlockType, block_type
from .progress import shown

SCALARS = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?"}
SCALARS |= {10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
MOST_ENTRIES = 2**16  # keys, and tensors: no model has more, but a damaged file may say so
MOST_ITEMS = 2**20  # of an array
LONGEST_NAME = 60  # characters of a name that a message shows

# Config's fields by their keys, and the tensors of a layer by run.py's names.
SIZES = {
    "dim": "llama.embedding_length",
    "hidden_dim": "llama.feed_forward_length",
    "n_layers": "llama.block_count",
    "n_heads": "llama.attention.head_count",
    "seq_len": "llama.context_length",
}
TENSORS = {
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
CONTROL_TYPES = 2, 3, 4  # of tokens: unknown, control, user-defined
MUTE = 3  # control tokens are not part of a text


@dataclass
class TensorInfo:
    """Where a tensor is, and what."""

    shape: tuple[int, ...]  # the rows last, as in NumPy
    kind: int  # the number of a BlockType
    offset: int  # from the first tensor


def tensor_size(name: str, info: TensorInfo) -> int:
    """Return the bytes of a tensor."""
    kind = block_type(info.kind, name)
    return math.prod(info.shape) // kind.weights * kind.layout.itemsize


class GGUF(Reader):
    """A file's metadata by key, and its tensors by name."""

    def __init__(self, buffer: Any):
        super().__init__(buffer)
        _, version, n_tensors, n_keys = self.unpack("the header", "<4sIQQ")
        if version not in (2, 3):
            raise ModelError(f"GGUF version {version} is not supported: convert to version 3")
        self.types: set[str] = set()  # of the tensors that were read
        self.spans: list[tuple[int, int, str]] = []  # where they begin and end, and their names
        self.meta = {}
        for _ in range(min(n_keys, MOST_ENTRIES)):
            key = self.string()
            self.meta[key] = self.value()
        self.alignment = self.whole("general.alignment", 32)
        if self.alignment % 8 or self.alignment < 8:
            raise ModelError(f"general.alignment is {self.alignment}; it must be a multiple of 8")
        self.infos = {}
        for _ in range(min(n_tensors, MOST_ENTRIES)):
            name = self.string()
            self.infos[name] = self.tensor_info()
        self.start = self.offset + -self.offset % self.alignment

    # ---- what stands in the file
    def string(self) -> str:
        """Return the next string; bytes that are not UTF-8 survive as surrogates."""
        (length,) = self.unpack("a string", "<Q")
        return str(self.data("a string", length), "utf-8", "surrogateescape")

    def value(self) -> Any:
        """Return the next value: a number, a string, an array of numbers, a list of strings."""
        (kind,) = self.unpack("the metadata", "<I")
        if kind == ARRAY:
            of, count = self.unpack("the metadata", "<IQ")
            return self.values(of, min(count, MOST_ITEMS))
        (value,) = self.values(kind, 1)
        return value.item() if isinstance(value, np.generic) else value

    def values(self, kind: int, count: int) -> Any:
        """Return the next values of one type."""
        if kind == STRING:
            return [self.string() for _ in range(count)]
        if kind not in SCALARS:
            raise ModelError(f"the metadata has a value of unknown type {kind}: it is damaged")
        return self.array("the metadata", SCALARS[kind], count)

    def tensor_info(self) -> TensorInfo:
        """Return what the directory says of the next tensor."""
        (n_dims,) = self.unpack("a tensor's shape", "<I")
        *shape, kind, offset = self.unpack("a tensor's shape", f"<{min(n_dims, 4)}QIQ")
        return TensorInfo(tuple(shape[::-1]), kind, offset)

    # ---- metadata by key
    def wanted(self, key: str, default: Any, types: tuple, expected: str) -> Any:
        """Return the value of a key, if it has one of the types."""
        value = self.meta.get(key, default)
        if value is None:
            raise ModelError(f"the metadata has no {key}: the file is incomplete")
        if type(value) not in types:  # not isinstance: a truth value is no number
            found = repr(value)[:LONGEST_NAME]
            raise ModelError(f"{key} is {found}; it must be {expected}")
        return value

    def whole(self, key: str, default: int | None = None) -> int:
        """Return a whole number."""
        return int(self.wanted(key, default, (int,), "a whole number"))

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number."""
        return float(self.wanted(key, default, (int, float), "a number"))

    def flag(self, key: str, default: bool) -> bool:
        """Return a truth value."""
        return bool(self.wanted(key, default, (bool,), "true or false"))

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string."""
        return self.wanted(key, default, (str,), "a string")

    def texts(self, key: str) -> list[str]:
        """Return a list of strings."""
        return self.wanted(key, None, (list,), "a list of strings")

    def numbers(self, key: str, default: Any = None) -> np.ndarray:
        """Return an array of numbers."""
        return self.wanted(key, default, (np.ndarray,), "a list of numbers")

    # ---- tensors by name
    def tensor(self, name: str, *expected: int) -> Any:
        """Return float32, or a BlockTensor, of a tensor that has this shape. ModelError else."""
        info = self.infos.pop(f"{name}.weight", None)
        if info is None:
            raise ModelError(f"tensor {name} is missing: the file is incomplete")
        kind = block_type(info.kind, name)
        if info.shape != expected or not self.fits(kind, info.shape):
            raise ModelError(f"tensor {name} is {kind.name} {info.shape}; it should be {expected}")
        if info.offset % self.alignment:
            rule = f"it must be a multiple of {self.alignment}"
            raise ModelError(f"tensor {name} is at {info.offset}; {rule}")
        self.spans.append((info.offset, info.offset + tensor_size(name, info), name))
        self.types.add(kind.name)
        self.offset = self.start + info.offset
        blocks = self.array(name, kind.layout, *expected[:-1], expected[-1] // kind.weights)
        if kind.name == "F32":
            return blocks
        return BlockTensor(kind, blocks) if len(expected) == 2 else kind.decode(blocks)

    def check_spans(self) -> None:
        """Raise a ModelError where a tensor that was read begins inside another one."""
        end = 0
        for start, stop, name in sorted(self.spans):
            if start < end:
                raise ModelError(f"tensor {name} at {start} begins inside another: it is damaged")
            end = stop

    @staticmethod
    def fits(kind: BlockType, shape: tuple[int, ...]) -> bool:
        """Whether rows are whole blocks, and norms no blocks at all."""
        return shape[-1] % kind.weights == 0 and (kind.weights == 1 or len(shape) == 2)


def read_gguf(buffer: Any) -> ModelFile:
    """Read a GGUF of architecture llama: the rows of its wq and wk are in llama2.c's order."""
    file = GGUF(buffer)
    c = config(file)
    tok_emb = file.tensor("token_embd", c.vocab_size, c.dim)
    final_norm = file.tensor("output_norm", c.dim)
    wcls = tok_emb
    if "output.weight" in file.infos:
        wcls = file.tensor("output", c.vocab_size, c.dim)
    shapes: dict[str, tuple[int, ...]] = dict(c.matrices())
    layers = []
    for i in shown(range(c.n_layers), "reading the weights"):
        tensors = {}
        for name, theirs in TENSORS.items():
            tensors[name] = file.tensor(f"blk.{i}.{theirs}", *shapes.get(name, (c.dim,)))
        layers.append(Layer(**tensors))
    file.check_spans()
    if file.infos:
        name = min(file.infos)[:LONGEST_NAME]
        raise ModelError(f"tensor {name!r} does not belong in a Llama of this shape")
    weights = Weights(tok_emb, layers, final_norm, wcls)
    template = file.text("tokenizer.chat_template", "")
    kind = f"GGUF, {', '.join(sorted(file.types))}"
    return ModelFile(c, weights, kind, tokenizer(file, c), template)


def config(file: GGUF) -> Config:
    """Return the model's shape. ModelError for what would change the mathematics."""
    architecture = file.text("general.architecture")
    if architecture != "llama":
        name = repr(architecture)[:LONGEST_NAME]
        raise ModelError(f"architecture {name} is not supported: only 'llama' is")
    sizes = {name: file.whole(key) for name, key in SIZES.items()}
    sizes["n_kv_heads"] = file.whole("llama.attention.head_count_kv", sizes["n_heads"])
    embedding = file.infos.get("token_embd.weight")
    if embedding is None:
        raise ModelError("tensor token_embd is missing: the file is incomplete")
    c = Config(
        **sizes,
        vocab_size=embedding.shape[0] if embedding.shape else 0,
        norm_eps=file.number("llama.attention.layer_norm_rms_epsilon"),
        rope_base=file.number("llama.rope.freq_base", 10000.0),
    )
    refuse_unknown_mathematics(file, c)
    return c


def refuse_unknown_mathematics(file: GGUF, c: Config) -> None:
    """Raise a ModelError, which names the key, if a model needs what is not computed here."""
    only: dict[str, Any] = {
        "llama.expert_count": 0,
        "llama.rope.scaling.type": "none",
        "llama.rope.scaling.factor": 1,
        "llama.rope.scale_linear": 1,
        "llama.attention.causal": True,
        "llama.rope.dimension_count": c.head_size,
        "llama.attention.key_length": c.head_size,
        "tokenizer.ggml.model": "llama",
    }
    for key, supported in only.items():
        found = file.meta.get(key, supported)
        if not np.array_equal(found, supported):
            found = repr(found)[:LONGEST_NAME]
            raise ModelError(f"{key} is {found}; supported is only {supported}")


def tokenizer(file: GGUF, c: Config) -> Tokenizer | None:
    """Return the tokenizer inside, None without one."""
    prefix = "tokenizer.ggml."
    if f"{prefix}tokens" not in file.meta:
        return None
    texts = file.texts(f"{prefix}tokens")
    scores = file.numbers(f"{prefix}scores")
    types = file.numbers(f"{prefix}token_type", np.ones(len(texts), np.int32)).tolist()
    if not len(texts) == len(scores) == len(types) == c.vocab_size:
        lengths = f"{len(texts)} tokens, {len(scores)} scores, {len(types)} types"
        raise ModelError(f"{lengths}, but the model has {c.vocab_size} tokens")
    pieces = [text.replace("\u2581", " ").encode("utf-8", "surrogateescape") for text in texts]
    for i, kind in enumerate(types):
        if kind == MUTE:
            pieces[i] = b""
    special = {text: i for i, text in enumerate(texts) if types[i] in CONTROL_TYPES}
    bos = token_id(file, f"{prefix}bos_token_id", 1, c)
    eos = token_id(file, f"{prefix}eos_token_id", 2, c)
    before = " " if file.flag(f"{prefix}add_space_prefix", True) else ""
    return Tokenizer(pieces, scores.astype(float).tolist(), special, bos, eos, before)


def token_id(file: GGUF, key: str, default: int, c: Config) -> int:
    """Return the id of a token. ModelError if the vocabulary has none of that number."""
    token = file.whole(key, default)
    if not 0 <= token < c.vocab_size:
        raise ModelError(f"{key} is {token}; it must be from 0 to {c.vocab_size - 1}")
    return token
