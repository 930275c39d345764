"""Round a model to int8 groups: in memory, as llama2.c's version 2, or as GGUF's Q8_0."""

import math
import struct

import numpy as np

from run import GGUF, GGUF_TYPES, ModelError, QuantizedTensor, progress

SIZES = "dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len"
FLOATS = 0, 1, 30  # F32, F16, BF16 among GGUF_TYPES
Q8_0 = np.dtype(GGUF_TYPES[8][2])


def group_size(config):
    """The largest of 64, 32, .. that divides every row, so that no group straddles two."""
    group = math.gcd(64, config.dim, config.hidden_dim)
    if group < 4:
        rows = f"dim {config.dim} and hidden_dim {config.hidden_dim}"
        raise ModelError(f"{rows} have no common group size of 4 or more: int8 is not possible")
    return group


def quantize_weights(config, weights):
    """Turn every float32 matrix into int8 groups and say so. ModelError if no size fits."""
    group = group_size(config)

    def convert(w):
        if isinstance(w, QuantizedTensor):
            return w
        return QuantizedTensor.from_rows(lambda i, j: w[i:j], w.shape, group)

    tok_emb = convert(weights.tok_emb)
    wcls = tok_emb if weights.wcls is weights.tok_emb else convert(weights.wcls)
    for layer in progress(weights.layers, "rounding the weights"):
        for name in config.shapes:
            setattr(layer, name, convert(getattr(layer, name)))
    vars(weights).update(tok_emb=tok_emb, wcls=wcls)
    return f", rounded to int8 groups of {group}"


def write_v2(path, config, weights):
    """Write a float32 model as llama2.c's version 2, a matrix at a time. ModelError, OSError."""
    group, shared = group_size(config), weights.wcls is weights.tok_emb
    sizes = [getattr(config, name) for name in SIZES]
    norms = [layer.att_norm for layer in weights.layers]
    norms += [layer.ffn_norm for layer in weights.layers] + [weights.final_norm]
    matrices = [weights.tok_emb]
    for name in config.shapes:
        matrices += [getattr(layer, name) for layer in weights.layers]
    with open(path, "wb") as file:
        header = struct.pack("<Ii7iBi", 0x616B3432, 2, *sizes, shared, group)
        file.write(header.ljust(256, b"\0"))
        for norm in norms:
            file.write(norm.astype("<f4").tobytes())
        for w in progress([*matrices, *([] if shared else [weights.wcls])], "rounding the weights"):
            int8 = QuantizedTensor.from_rows(lambda i, j, w=w: w[i:j], w.shape, group)
            file.write(int8.q.tobytes())
            file.write(int8.scales.astype("<f4").tobytes())


def write_gguf(path, buffer):
    """Write a GGUF with its float matrices as Q8_0 and all else unchanged -> how many they were."""
    old = GGUF(buffer)
    data, rows = old.buffer, []
    sizes = [len(name.encode("utf-8", "surrogateescape")) for name in old.infos]
    header = (
        old.offset - sum(24 + n for n in sizes) - 8 * sum(len(i[0]) for i in old.infos.values())
    )
    for name, (shape, kind, offset) in list(old.infos.items()):
        _, block, dtype, _ = GGUF_TYPES[kind]
        size = math.prod(shape) // block * np.dtype(dtype).itemsize
        to_int8 = kind in FLOATS and len(shape) == 2 and shape[1] % 32 == 0
        new = math.prod(shape) // 32 * Q8_0.itemsize if to_int8 else size
        rows.append((name, shape, 8 if to_int8 else kind, old.start + offset, size, new))
    align = old.meta.get("general.alignment", 32)
    with open(path, "wb") as file:
        file.write(data[:header])
        place = 0
        for name, shape, kind, _, _, new in rows:
            text = name.encode("utf-8", "surrogateescape")
            file.write(struct.pack("<Q", len(text)) + text + struct.pack("<I", len(shape)))
            file.write(struct.pack(f"<{len(shape)}QIQ", *shape[::-1], kind, place))
            place += new + -new % align
        for name, shape, kind, start, size, _ in progress(rows, "rounding the weights"):
            file.write(bytes(-file.tell() % align))
            if kind != old.infos[name][1]:
                matrix = old.tensor(name.removesuffix(".weight"), *shape)
                file.write(q8_0_blocks(matrix))
            else:
                file.write(data[start : start + size])
    return sum(new != size for *_, size, new in rows)


def q8_0_blocks(matrix):
    """A float32 matrix as GGUF's blocks of a float16 scale and 32 int8."""
    int8 = QuantizedTensor.from_rows(lambda i, j: matrix[i:j], matrix.shape, 32)
    blocks = np.empty(int8.scales.shape, Q8_0)
    blocks["d"], blocks["q"] = int8.scales, int8.q
    return blocks.tobytes()
