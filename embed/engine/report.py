"""What --info and --ppl print."""

import hashlib
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from run import (
    LAYER,
    MAX_ROWS,
    ModelError,
    QuantizedTensor,
    Transformer,
    Weights,
    open_buffer,
    read_model,
)

from . import carried
from .kernel import PackedTensor
from .progress import shown

SHAPE = "dim hidden_dim n_layers n_heads n_kv_heads head_size vocab_size seq_len".split()


# ------------------------------------------------------------------------------------- --info
def info(model: Transformer, path: Any, tokenizer: Any) -> str:
    """Describe a loaded model: format, shape, parameters, memory, backend, fingerprints.

    path, tokenizer: what load_model was given.
    """
    c = model.config
    weights = sum(map(memory, tensors(model.weights)))
    cache = 8 * c.n_layers * c.kv_dim * model.context
    lines = {
        "format": model.file.format,
        "shape": ", ".join(f"{name} {getattr(c, name):,}" for name in SHAPE),
        "classifier": "tied" if is_tied(model.weights) else "untied",
        "numbers": f"RoPE base {c.rope_base:g}, RMSNorm epsilon {c.norm_eps:g}",
        "parameters": f"{parameters(model):,}",
        "weights": megabytes(weights),
        "KV cache": f"{megabytes(cache)} at the full context of {model.context:,} tokens",
        "memory": f"{megabytes(weights + cache)} and about 40 MB for Python and NumPy",
        "backend": model.backend.description,
    }
    for name, buffer in sources(path, tokenizer).items():
        lines[f"{name} SHA-256"] = hashlib.sha256(buffer).hexdigest()
    return "\n".join(f"{name:18}{value}" for name, value in lines.items())


def is_tied(weights: Weights) -> bool:
    """Whether the classifier is the embedding, be it packed or not."""
    wcls = weights.wcls
    return wcls is weights.tok_emb or (isinstance(wcls, PackedTensor) and wcls.is_embedding)


def tensors(weights: Weights) -> Iterator[Any]:
    """Yield every matrix and norm that is in memory, each once."""
    yield weights.tok_emb
    yield weights.final_norm
    if weights.wcls is not weights.tok_emb:
        yield weights.wcls
    for layer in weights.layers:
        for name in LAYER:
            yield getattr(layer, name)


def parameters(model: Transformer) -> int:
    """Return how many numbers a model has; a tied classifier has none of its own."""
    c = model.config
    layer = 2 * c.dim + sum(map(math.prod, c.matrices().values()))
    vocabularies = 1 if is_tied(model.weights) else 2
    return c.n_layers * layer + c.dim + vocabularies * c.vocab_size * c.dim


def memory(w: Any) -> int:
    """Return the bytes that a tensor takes: NumPy computes int8 groups in float32."""
    if isinstance(w, QuantizedTensor):
        return w.q.nbytes + w.scales.nbytes + 4 * math.prod(w.shape)
    return w.nbytes


def megabytes(size: int) -> str:
    """Return 1234567 as "1.2 MB"."""
    return f"{size / 1e6:,.1f} MB"


def sources(path: Any, tokenizer: Any) -> dict[str, Any]:
    """Return the bytes of the model and, where it has a file of its own, of the tokenizer."""
    files = carried.find_carried() if path is None else {"model.bin": open_buffer(path)}
    found = {"model": files["model.bin"]}
    if tokenizer is None and read_model(found["model"]).tokenizer is not None:
        return found
    if tokenizer is None and path is None:
        return found | {"tokenizer": files["tokenizer.bin"]}
    beside = os.path.join(os.path.dirname(path or ""), "tokenizer.bin")
    return found | {"tokenizer": open_buffer(tokenizer or beside)}


# -------------------------------------------------------------------------------------- --ppl
def perplexity(model: Transformer, path: Any) -> str:
    """Return the perplexity of a UTF-8 text, in windows of the context, each begun with BOS."""
    try:
        text = bytes(open_buffer(path)).decode("utf-8", "surrogateescape")
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    tokens = model.tokenizer.encode(text, bos=False)
    if not tokens:
        raise ModelError(f"{path} has no text")
    size = max(1, model.context - 1)
    loss = 0.0
    for start in shown(range(0, len(tokens), size), "reading the text"):
        loss += window_loss(model, tokens[start : start + size])
    if not np.isfinite(loss) or loss > 700 * len(tokens):
        raise ModelError("the model computes NaN or infinity: its weights are damaged")
    bits = loss / np.log(2) / len(text.encode("utf-8", "surrogateescape"))
    return (
        f"perplexity {np.exp(loss / len(tokens)):.4f} per token, {bits:.4f} bits per byte "
        f"({len(tokens):,} tokens in windows of {model.context:,})"
    )


@np.errstate(all="ignore")  # a damaged model ends in NaN, and perplexity says so
def window_loss(model: Transformer, tokens: list[int]) -> float:
    """Return -log p of each token after BOS and the ones before it, added up."""
    inputs = [model.tokenizer.bos, *tokens[:-1]]
    loss = 0.0
    for pos in range(0, len(tokens), MAX_ROWS):  # not all logits at once: there are vocab_size each
        chosen = tokens[pos : pos + MAX_ROWS]
        logits = model.forward(inputs[pos : pos + MAX_ROWS], pos, last_only=False)
        logits = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(chosen)), chosen]
        loss += float(losses.sum())
    return loss
