"""Round a model to int8 groups: in memory, as llama2.c's version 2, or as GGUF's Q8_0."""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from run import LAYER, MATRICES, Config, Layer, ModelError, ModelFile, QuantizedTensor, Weights
from run import quantize as quantize_groups

from .blocks import TYPES, BlockTensor, block_type
from .gguf import GGUF, TensorInfo, tensor_size
from .progress import shown

SIZES = "dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len"
FLOATS = "F32", "F16", "BF16"
Q8_0 = TYPES[8]
ROUNDED = 2**18  # weights that are rounded at a time


@np.errstate(all="ignore")  # a damaged weight gives a damaged group, and the sampler says so
def quantized(w: Any, group: int) -> QuantizedTensor:
    """Return a matrix (out, in), whose rows are read as float32, in int8 groups."""
    out, n = w.shape
    q = np.empty((out, n // group, group), np.int8)
    scales = np.empty((out, n // group), np.float32)
    step = max(1, ROUNDED // n)
    for i in range(0, out, step):
        some, their_scales = quantize_groups(w[i : i + step], group)
        q[i : i + step] = some
        scales[i : i + step] = their_scales[..., 0]
    return QuantizedTensor(q, scales)


def group_size(config: Config) -> int:
    """Return the largest of 64, 32, .. that divides every row, so that no group straddles two.

    ModelError if that is less than 4.
    """
    group = math.gcd(64, config.dim, config.hidden_dim)
    if group < 4:
        rows = f"dim {config.dim} and hidden_dim {config.hidden_dim}"
        raise ModelError(f"{rows} have no common group size of 4 or more: int8 is not possible")
    return group


def is_float(w: Any) -> bool:
    """Whether a matrix is float32, or of a shorter float type."""
    return isinstance(w, np.ndarray) or (isinstance(w, BlockTensor) and w.kind.name in FLOATS)


def to_int8(file: ModelFile) -> None:
    """Round every float matrix of a model to int8 groups. ModelError if no size fits."""
    group = group_size(file.config)
    weights = file.weights

    def rounded(w: Any) -> Any:
        return quantized(w, group) if is_float(w) else w

    tok_emb = rounded(weights.tok_emb)
    tied = weights.wcls is weights.tok_emb
    wcls = tok_emb if tied else rounded(weights.wcls)
    layers = []
    for layer in shown(weights.layers, "rounding the weights"):
        tensors = {name: getattr(layer, name) for name in LAYER}
        for name in MATRICES:
            tensors[name] = rounded(tensors[name])
        layers.append(Layer(**tensors))
    file.weights = Weights(tok_emb, layers, weights.final_norm, wcls)
    file.format += f", rounded to int8 groups of {group}"


def write_v2(path: Any, config: Config, weights: Weights) -> None:
    """Write a float32 model as llama2.c's version 2, a matrix at a time. ModelError, OSError."""
    group = group_size(config)
    shared = weights.wcls is weights.tok_emb
    norms = [layer.att_norm for layer in weights.layers]
    norms += [layer.ffn_norm for layer in weights.layers]
    norms.append(weights.final_norm)
    matrices = [weights.tok_emb]
    for name in MATRICES:
        matrices += [getattr(layer, name) for layer in weights.layers]
    if not shared:
        matrices.append(weights.wcls)
    with open(path, "wb") as file:
        sizes = [getattr(config, name) for name in SIZES]
        header = struct.pack("<Ii7iBi", 0x616B3432, 2, *sizes, shared, group)
        file.write(header.ljust(256, b"\0"))
        for norm in norms:
            file.write(norm.astype("<f4").tobytes())
        for w in shown(matrices, "rounding the weights"):
            int8 = quantized(w, group)
            file.write(int8.q.tobytes())
            file.write(int8.scales.astype("<f4").tobytes())


def write_gguf(path: Any, buffer: Any) -> int:
    """Write a GGUF with its float matrices as Q8_0, all else as it is. Return their number."""
    old = GGUF(buffer)
    infos = dict(old.infos)
    new = {name: as_q8_0(name, info) for name, info in infos.items()}
    with Path(path).open("wb") as file:
        file.write(old.buffer[: directory_start(old)])
        offset = 0
        for name, info in new.items():
            file.write(directory_entry(name, info, offset))
            offset += padded(tensor_size(name, info), old.alignment)
        for name, info in shown(list(new.items()), "rounding the weights"):
            file.write(bytes(-file.tell() % old.alignment))
            if info.kind == infos[name].kind:
                start = old.start + info.offset
                file.write(old.buffer[start : start + tensor_size(name, info)])
            else:
                matrix = old.tensor(name.removesuffix(".weight"), *info.shape)
                file.write(q8_0_blocks(matrix))
    return sum(info.kind != infos[name].kind for name, info in new.items())


def as_q8_0(name: str, info: TensorInfo) -> TensorInfo:
    """Return what a tensor becomes: Q8_0 if it is a float matrix of whole blocks."""
    floats = block_type(info.kind, name).name in FLOATS
    whole = len(info.shape) == 2 and info.shape[1] % Q8_0.weights == 0
    return TensorInfo(info.shape, Q8_0.number if floats and whole else info.kind, info.offset)


def padded(size: int, alignment: int) -> int:
    """Return the size with what fills it up to the next multiple."""
    return size + -size % alignment


def directory_start(old: GGUF) -> int:
    """Return where the directory of tensors begins: what is before it stays as it is."""
    entries = (directory_entry(name, info, 0) for name, info in old.infos.items())
    return old.offset - sum(map(len, entries))


def directory_entry(name: str, info: TensorInfo, offset: int) -> bytes:
    """Return the directory's entry of a tensor."""
    text = name.encode("utf-8", "surrogateescape")
    shape = info.shape[::-1]
    head = struct.pack("<Q", len(text)) + text + struct.pack("<I", len(shape))
    return head + struct.pack(f"<{len(shape)}QIQ", *shape, info.kind, offset)


def q8_0_blocks(matrix: Any) -> bytes:
    """Return a float matrix as blocks of a float16 scale and 32 int8."""
    int8 = quantized(matrix, Q8_0.weights)
    blocks = np.empty(int8.scales.shape, Q8_0.layout)
    blocks["d"] = int8.scales
    blocks["q"] = int8.q
    return blocks.tobytes()
