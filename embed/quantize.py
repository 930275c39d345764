"""Round a float32 model to int8 groups, as llama2.c's version 2 stores it."""

import math
import struct

from run import ModelError, QuantizedTensor, progress

SIZES = "dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len"


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
