"""Train the default model from scratch on the stories of stories.py: `python embed/train.py`.

Needs `pip install torch sentencepiece`; nothing else in the project does.  It writes model.bin
(llama2.c's format v2, int8 in groups of 64) and tokenizer.bin beside itself.  Stories and
weights start from --seed; other threads, machines or versions of PyTorch round differently.

Stories are made while training, from a new seed each, so no story is seen twice.  In every second
one all names are equally likely, in the others some are common and some rare, as in life.  The
matrices learn by Muon (Jordan, 2024), which needs about half the steps of Adam here, the embedding
and the norms by Adam.  The learning rate warms up, stays, and falls in a straight line over the
last part of the run.  SIGTERM or Ctrl-C stops without writing; --resume continues the last
checkpoint.
"""

import argparse
import io
import math
import os
import random
import signal
import struct
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning is waste on a busy machine

import sentencepiece
import torch
import torch.nn.functional as F
from torch import nn

try:
    from stories import story
except ImportError:  # imported as run.recipe.train
    from .stories import story

HERE = Path(__file__).resolve().parent
EMBED = HERE.parent
BOS, GROUP = 1, 64


@dataclass
class Shape:
    """The seven numbers in the header of a llama2.c file."""

    dim: int = 192
    hidden_dim: int = 512
    n_layers: int = 6
    n_heads: int = 6
    n_kv_heads: int = 6
    vocab_size: int = 2048
    seq_len: int = 512


# ------------------------------------------------------------------------------- tokenizer


def make_tokenizer(args):
    """The tokenizer; beside the checkpoint it is kept, so that --resume need not train it again."""
    kept = args.checkpoint and args.checkpoint.with_suffix(".tokenizer")
    if args.resume and kept.exists():
        return sentencepiece.SentencePieceProcessor(model_file=str(kept))
    sp = train_tokenizer(args.vocab, args.vocab_stories)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, sp.serialized_model_proto())
    return sp


def train_tokenizer(vocab_size, n_stories):
    """A SentencePiece BPE model with byte fallback, set up as llama2.c's are."""
    text = io.BytesIO()
    texts = (story(rng_for("vocab", i), flat=True) for i in range(n_stories))
    lines = (line for text in texts for line in text.split("\n"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=text,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        split_digits=True,
        character_coverage=1.0,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=text.getvalue())


def tokenizer_bytes(sp):
    """tokenizer.bin: the longest token, then (score, length, bytes) of each."""
    special = {1: "\n<s>\n", 2: "\n</s>\n"}
    pieces = [special.get(i, sp.id_to_piece(i)).replace("\u2581", " ") for i in range(len(sp))]
    tokens = [piece.encode() for piece in pieces]
    out = [struct.pack("<I", max(map(len, tokens)))]
    for i, token in enumerate(tokens):
        out.append(struct.pack("<fI", sp.get_score(i), len(token)) + token)
    return b"".join(out)


# ------------------------------------------------------------------------------------- data


def rng_for(split, number):
    """Training, vocabulary and held-out stories come from seeds that never meet."""
    return random.Random(f"{split}/{number}")


class Stream:
    """Windows of `length` + 1 tokens cut from an endless row of different stories."""

    def __init__(self, sp, split, length):
        self.sp, self.split, self.length, self.number = sp, split, length, 0

    def batch(self, rows):
        """(inputs, targets) of shape (rows, length).  Each row begins with a story."""
        table = torch.empty(rows, self.length + 1, dtype=torch.long)
        for row in range(rows):
            tokens = []
            while len(tokens) <= self.length:
                text = story(rng_for(self.split, self.number), flat=self.number % 2 == 0)
                tokens += [BOS, *self.sp.encode(text)]
                self.number += 1
            table[row] = torch.tensor(tokens[: self.length + 1])
        return table[:, :-1].contiguous(), table[:, 1:].contiguous()


# ------------------------------------------------------------------------------------ model


class Block(nn.Module):
    """One layer of Llama 2: attention with rotary positions, then SwiGLU."""

    def __init__(self, s):
        super().__init__()
        self.n_heads, self.head_size = s.n_heads, s.dim // s.n_heads
        self.att_norm, self.ffn_norm = nn.RMSNorm(s.dim, 1e-5), nn.RMSNorm(s.dim, 1e-5)
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(s.dim, s.dim, bias=False) for _ in range(4))
        self.w1, self.w3 = (nn.Linear(s.dim, s.hidden_dim, bias=False) for _ in range(2))
        self.w2 = nn.Linear(s.hidden_dim, s.dim, bias=False)

    def rotate(self, x, cos, sin):
        """(B, T, dim) -> (B, n_heads, T, head_size), the pairs (0,1), (2,3) ... turned."""
        x = x.unflatten(-1, (self.n_heads, -1, 2)).transpose(1, 2)
        a, b = x.unbind(-1)
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)

    def forward(self, x, cos, sin):
        h = self.att_norm(x)
        q, k = (self.rotate(w(h), cos, sin) for w in (self.wq, self.wk))
        v = self.wv(h).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        att = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        x = x + self.wo(att.transpose(1, 2).flatten(-2))
        h = self.ffn_norm(x)
        return x + self.w2(F.silu(self.w1(h)) * self.w3(h))


class Llama(nn.Module):
    """tokens, targets (B, T) -> mean cross entropy, in nats per token."""

    def __init__(self, s):
        super().__init__()
        self.shape = s
        self.tok_emb = nn.Embedding(s.vocab_size, s.dim)
        self.layers = nn.ModuleList(Block(s) for _ in range(s.n_layers))
        self.final_norm = nn.RMSNorm(s.dim, 1e-5)
        half = s.dim // s.n_heads // 2
        angle = torch.outer(torch.arange(s.seq_len), 10000.0 ** (-torch.arange(half) / half))
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                deep = name.endswith(("wo.weight", "w2.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * s.n_layers) if deep else 0.02)

    def forward(self, tokens, targets):
        t = tokens.shape[1]
        x = self.tok_emb(tokens)
        for layer in self.layers:
            x = layer(x, self.cos[:t], self.sin[:t])
        logits = F.linear(self.final_norm(x), self.tok_emb.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


# ----------------------------------------------------------------------------------- export


def tensors(model):
    """(norms, matrices) in the order of the file: all layers of one kind, then the next."""
    norms = [getattr(b, n).weight for n in ("att_norm", "ffn_norm") for b in model.layers]
    names = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")
    matrices = [getattr(b, n).weight for n in names for b in model.layers]
    return [*norms, model.final_norm.weight], [model.tok_emb.weight, *matrices]


def quantize(w):
    """Weights -> (int8, float32 scale per group): scale = max |w| / 127, rounded."""
    groups = w.detach().float().reshape(-1, GROUP)
    scales = groups.abs().amax(1, keepdim=True) / 127.0
    return (groups / scales.clamp_min(1e-12)).round().to(torch.int8), scales


def header(shape, version):
    ints = [getattr(shape, field) for field in Shape.__dataclass_fields__]
    if version == 0:
        return struct.pack("<7i", *ints)
    head = struct.pack("<Ii7iBi", 0x616B3432, version, *ints, 1, GROUP)
    return head.ljust(256, b"\0")


def floats(w):
    return w.detach().float().numpy().astype("<f4").tobytes()


def model_bytes(model, version):
    """The model as a llama2.c file, v2 (int8 groups) or v0 (float32)."""
    norms, matrices = tensors(model)
    out = [header(model.shape, version)]
    if version == 2:
        out += map(floats, norms)
        for q, scales in map(quantize, matrices):
            out += [q.numpy().tobytes(), floats(scales)]
        return b"".join(out)
    n, per_layer = model.shape.n_layers, matrices[1:]
    out += map(floats, [matrices[0], *norms[:n], *per_layer[: 4 * n], *norms[n : 2 * n]])
    out += map(floats, [*per_layer[4 * n :], norms[-1], model.cos, model.sin])
    return b"".join(out)


def write_atomically(path, data):
    """Write beside `path` and rename, so that a reader never sees half a file."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def export(model, sp, out, version=2):
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "model.bin", model_bytes(model, version))
    write_atomically(out / "tokenizer.bin", tokenizer_bytes(sp))


# ----------------------------------------------------------------------------------- training


def learning_rate(step, args):
    """Warm up, stay, and fall in a straight line to a hundredth at the end."""
    fall = min(1.0, (args.steps - step) / max(1, int(args.steps * args.decay)))
    return args.lr * min(1.0, (step + 1) / args.warmup) * max(0.01, fall)


@torch.no_grad()
def held_out_loss(model, batches):
    with torch.autocast("cpu", torch.bfloat16):
        return sum(model(*batch).item() for batch in batches) / len(batches)


@torch.no_grad()
def round_trip(model):
    """Replace the matrices by what their int8 groups give back."""
    for w in tensors(model)[1]:
        q, scales = quantize(w)
        w.copy_((q * scales).reshape(w.shape))


def make_optimizers(model, args):
    """Muon for what multiplies vectors, Adam for the rest; --lr means the same to both."""
    matrices = tensors(model)[1][1:]
    rest = [model.tok_emb.weight, *tensors(model)[0]]
    muon = torch.optim.Muon(matrices, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(rest, weight_decay=0.0, betas=(0.9, 0.98), fused=True)
    return [muon, adam]


def save(path, model, optimizers, step, stories):
    """A checkpoint that --resume continues as if nothing had happened."""
    state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
    buffer = io.BytesIO()
    torch.save({**state, "step": step, "stories": stories}, buffer)
    write_atomically(path, buffer.getvalue())


def train(args):
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    started, sp = time.time(), make_tokenizer(args)
    shape = Shape(args.dim, args.hidden, args.layers, args.heads, args.heads, len(sp))
    model = Llama(shape)
    optimizers = make_optimizers(model, args)
    data, step = Stream(sp, f"train {args.seed}", args.window), 0
    if args.resume and args.checkpoint.exists():
        state = torch.load(args.checkpoint)
        model.load_state_dict(state["model"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        step, data.number = state["step"], state["stories"]
    held_out = Stream(sp, "held-out", args.window)
    batches = [held_out.batch(24) for _ in range(args.eval_batches)]
    n = sum(p.numel() for p in model.parameters())
    print(f"{shape}\n{n:,} parameters, tokenizer after {time.time() - started:.0f} s", flush=True)
    run_steps(args, model, optimizers, sp, data, batches, step)
    export(model, sp, args.out, 0 if args.float32 else 2)
    before = held_out_loss(model, batches)
    round_trip(model)
    after = held_out_loss(model, batches)
    print(f"held-out loss: float {before:.4f}, int8 {after:.4f}, difference {after - before:+.4f}")
    print(
        f"{data.number:,} stories, {time.time() - started:.0f} s wall, "
        f"{time.process_time():.0f} s CPU; wrote {args.out}/model.bin, tokenizer.bin"
    )


def learn(step_loss, model, optimizers, batch):
    """One step of the optimizers; returns the loss before it."""
    with torch.autocast("cpu", torch.bfloat16):
        loss = step_loss(*batch)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


def run_steps(args, model, optimizers, sp, data, batches, first):
    """Steps `first`.. of args.steps; prints the losses and saves a checkpoint now and then."""
    step_loss = torch.compile(model) if args.compile else model
    started = last = time.time()
    losses = []
    with ThreadPoolExecutor(1) as pool:  # the next batch is made while this one is learned
        upcoming = pool.submit(data.batch, args.batch)
        for done in range(first + 1, args.steps + 1):
            batch, used = upcoming.result(), data.number
            upcoming = pool.submit(data.batch, args.batch)
            for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                group["lr"] = learning_rate(done - 1, args)
            losses.append(learn(step_loss, model, optimizers, batch))
            if done % args.report == 0 or done == args.steps:
                rate = len(losses) * batch[0].numel() / (time.time() - last)
                left = (args.steps - done) * (time.time() - started) / (done - first) / 60
                held_out = held_out_loss(model, batches)
                print(
                    f"step {done}/{args.steps}  train {sum(losses) / len(losses):.4f}  "
                    f"held-out {held_out:.4f}  {rate:.0f} tokens/s  {used:,} stories  "
                    f"{left:.0f} min left",
                    flush=True,
                )
                losses, last = [], time.time()
            if args.checkpoint and done % args.save_every == 0:
                save(args.checkpoint, model, optimizers, done, used)
                export(model, sp, args.checkpoint.parent)


NUMBERS = {  # what the committed model was trained with
    "steps": (9000, "steps of the optimizer"),
    "batch": (4, "windows a step"),
    "window": (512, "tokens a window"),
    "lr": (5e-3, "highest learning rate"),
    "warmup": (200, "steps to reach it"),
    "decay": (0.4, "the part of the run in which it falls"),
    "vocab": (2048, "tokens of the vocabulary"),
    "vocab-stories": (20000, "stories that the tokenizer is trained on"),
    "dim": (192, "width of the model"),
    "hidden": (512, "width of its feed-forward layers"),
    "layers": (6, "layers"),
    "heads": (6, "attention heads"),
    "seed": (1, "another number, another model"),
    "threads": (2, "threads of PyTorch"),
    "report": (100, "steps between two lines of progress"),
    "save-every": (500, "steps between two checkpoints"),
    "eval-batches": (2, "batches of 24 windows to measure the held-out loss on"),
}


def parse_args():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, (default, text) in NUMBERS.items():
        p.add_argument(f"--{name}", type=type(default), default=default, help=f"{text} ({default})")
    yes_or_no = argparse.BooleanOptionalAction
    p.add_argument("--compile", action=yes_or_no, default=True, help="needs a C++ compiler")
    p.add_argument("--float32", action="store_true", help="write v0 float32 instead of v2 int8")
    p.add_argument("--out", type=Path, default=EMBED, help="where to write (embed/)")
    p.add_argument("--checkpoint", type=Path, help="file to keep checkpoints in (none)")
    p.add_argument("--resume", action="store_true", help="continue from --checkpoint")
    args = p.parse_args()
    if args.resume and not args.checkpoint:
        p.error("--resume needs the file to continue from: --checkpoint FILE")
    return args


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM: nothing written"))
    train(parse_args())


if __name__ == "__main__":
    main()
