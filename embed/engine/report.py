"""What --info and --ppl print."""

import hashlib
import math

import numpy as np

from run import LAYER, MAX_ROWS, ModelError, QuantizedTensor, open_buffer, progress

NAMES = {*LAYER, "tok_emb", "final_norm", "wcls"}


def tensors(weights):
    """Every matrix and vector of the model, each once."""
    owners = [*weights.layers, weights]
    found = {id(w): w for owner in owners for name, w in vars(owner).items() if name in NAMES}
    return found.values()


def memory(w, backend):
    """The bytes of a tensor in memory: NumPy computes int8 groups in float32."""
    return w.nbytes + (4 * math.prod(w.shape) if expanded(w, backend) else 0)


def expanded(w, backend):
    """Whether the backend keeps a float32 copy of this tensor."""
    return isinstance(w, QuantizedTensor) and not backend.startswith("c ")


def megabytes(size):
    """1234567 -> "1.2 MB"."""
    return f"{size / 1e6:,.1f} MB"


def info(model):
    """Describe a loaded model: format, shape, parameters, memory, backend, fingerprints."""
    c = model.config
    parameters = sum(math.prod(w.shape) for w in tensors(model.weights))
    weights = sum(memory(w, model.backend) for w in tensors(model.weights))
    cache = 8 * c.n_layers * c.kv_dim * model.context
    shape = "dim hidden_dim n_layers n_heads n_kv_heads head_size vocab_size seq_len".split()
    lines = [
        ("format", model.format),
        ("shape", ", ".join(f"{name} {getattr(c, name):,}" for name in shape)),
        ("classifier", "tied" if model.weights.wcls is model.weights.tok_emb else "untied"),
        ("numbers", f"RoPE base {c.rope_base:g}, RMSNorm epsilon {c.norm_eps:g}"),
        ("parameters", f"{parameters:,}"),
        ("weights", megabytes(weights)),
        ("KV cache", f"{megabytes(cache)} at the full context of {model.context:,} tokens"),
        ("memory", f"{megabytes(weights + cache)} and about 40 MB for Python and NumPy"),
        ("backend", model.backend),
    ]
    for name, buffer in model.files.items():
        if name in ("model.bin", "tokenizer.bin"):
            lines.append((f"{name.split('.')[0]} SHA-256", hashlib.sha256(buffer).hexdigest()))
    return "\n".join(f"{name:18}{value}" for name, value in lines)


def perplexity(model, path):
    """The perplexity of a UTF-8 text, in windows of the context, each starting with BOS."""
    try:
        text = bytes(open_buffer(path)).decode("utf-8", "surrogateescape")
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    tokens = model.tokenizer.encode(text, bos=False)
    if not tokens:
        raise ModelError(f"{path} has no text")
    size, loss = max(1, model.context - 1), 0.0
    for start in progress(range(0, len(tokens), size), "reading the text"):
        loss += window_loss(model, tokens[start : start + size])
    if not np.isfinite(loss) or loss > 700 * len(tokens):
        raise ModelError("the model computes NaN or infinity: its weights are damaged")
    bits = loss / np.log(2) / len(text.encode("utf-8", "surrogateescape"))
    return (
        f"perplexity {np.exp(loss / len(tokens)):.4f} per token, {bits:.4f} bits per byte "
        f"({len(tokens):,} tokens in windows of {model.context:,})"
    )


@np.errstate(all="ignore")  # a damaged model ends in NaN, and perplexity says so
def window_loss(model, tokens):
    """-log p of each token after BOS and the ones before it, added up."""
    inputs, loss = [model.tokenizer.bos, *tokens[:-1]], 0.0
    for pos in range(0, len(tokens), MAX_ROWS):  # not all logits at once: there are vocab_size each
        chosen = tokens[pos : pos + MAX_ROWS]
        logits = model.forward(inputs[pos : pos + MAX_ROWS], pos, last_only=False)
        logits = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(chosen)), chosen]
        loss += float(losses.sum())
    return loss
