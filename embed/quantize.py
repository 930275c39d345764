"""Round a float32 model to int8 groups, as llama2.c's version 2 stores it."""

import math

from run import ModelError, QuantizedTensor, progress


def group_size(config):
    """The largest of 64, 32, .. that divides every row, so that no group straddles two."""
    group = math.gcd(64, config.dim, config.hidden_dim)
    if group < 4:
        rows = f"dim {config.dim} and hidden_dim {config.hidden_dim}"
        raise ModelError(f"{rows} have no common group size of 4 or more: int8 is not possible")
    return group


def quantize_weights(config, weights):
    """The same weights with every float32 matrix in int8 groups. ModelError if none fits."""
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
    return weights
