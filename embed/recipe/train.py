"""Train the default model from scratch on the stories of stories.py (make model).

Needs `pip install torch`, nothing else that `run.py` does not.  It writes model.bin (llama2.c's
format v2, int8 in groups of 64) and tokenizer.bin into embed/, and with --work FOLDER it keeps
checkpoints there.  Stories and weights start from --seed; other threads, machines or versions of
PyTorch round differently.

Stories are made while training, from a new seed each, so no story is seen twice.  The matrices
learn by Muon (Jordan, 2024), which needs about half the steps of Adam here, the embedding and the
norms by Adam.  The learning rate warms up, stays, and falls in a straight line over the last --cool
steps.  So a run can be stopped (SIGTERM, Ctrl-C) and continued with --resume at any time, and ended
sooner: `--resume --steps S`, S at least --cool steps after the checkpoint's.
"""

import argparse
import io
import math
import os
import signal
import struct
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning is waste on a busy machine

import torch
import torch.nn.functional as F
from torch import nn

HERE = Path(__file__).resolve().parent
EMBED = HERE.parent
sys.path.insert(0, str(EMBED.parent))

from run.recipe.stories import story
from run.recipe.vocabulary import Encoder, rng_for, train_tokenizer

GROUP = 64  # weights that share a scale


@dataclass
class Shape:
    """The seven numbers in the header of a llama2.c file."""

    dim: int = 256
    hidden_dim: int = 512
    n_layers: int = 6
    n_heads: int = 8
    n_kv_heads: int = 4
    vocab_size: int = 2048
    seq_len: int = 512


# ------------------------------------------------------------------------------------- data


def make_encoder(args):
    """The tokenizer; in the folder of the checkpoints it is kept, so that --resume has the same."""
    kept = args.work and args.work / "pieces.pt"
    if args.resume and kept.exists():
        return Encoder(*torch.load(kept))
    made = train_tokenizer(args.vocab, args.vocab_stories)
    if kept:
        buffer = io.BytesIO()
        torch.save(made, buffer)
        write_atomically(kept, buffer.getvalue())
    return Encoder(*made)


class Stream:
    """Windows of `length` + 1 tokens cut from an endless row of different stories."""

    def __init__(self, encoder, split, length, held_out=False):
        self.encoder, self.split, self.length = encoder, split, length
        self.held_out, self.number = held_out, 0

    def batch(self, rows):
        """(inputs, targets) of shape (rows, length).  Each row begins with a story."""
        table = torch.empty(rows, self.length + 1, dtype=torch.long)
        for row in range(rows):
            tokens = []
            while len(tokens) <= self.length:
                text = story(rng_for(self.split, self.number), self.held_out)
                tokens += self.encoder.encode(text)
                self.number += 1
            table[row] = torch.tensor(tokens[: self.length + 1])
        return table[:, :-1].contiguous(), table[:, 1:].contiguous()


# ------------------------------------------------------------------------------------ model


class Block(nn.Module):
    """One layer of Llama 2: attention with rotary positions, then SwiGLU."""

    def __init__(self, s):
        super().__init__()
        self.n_heads, self.n_kv_heads = s.n_heads, s.n_kv_heads
        kv_dim = s.dim // s.n_heads * s.n_kv_heads
        self.att_norm, self.ffn_norm = nn.RMSNorm(s.dim, 1e-5), nn.RMSNorm(s.dim, 1e-5)
        self.wq, self.wo = (nn.Linear(s.dim, s.dim, bias=False) for _ in range(2))
        self.wk, self.wv = (nn.Linear(s.dim, kv_dim, bias=False) for _ in range(2))
        self.w1, self.w3 = (nn.Linear(s.dim, s.hidden_dim, bias=False) for _ in range(2))
        self.w2 = nn.Linear(s.hidden_dim, s.dim, bias=False)

    def rotate(self, x, heads, cos, sin):
        """(B, T, heads * head_size) -> (B, heads, T, head_size), pairs (0,1), (2,3) ... turned."""
        x = x.unflatten(-1, (heads, -1, 2)).transpose(1, 2)
        a, b = x.unbind(-1)
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)

    def forward(self, x, cos, sin):
        h = self.att_norm(x)
        q = self.rotate(self.wq(h), self.n_heads, cos, sin)
        k = self.rotate(self.wk(h), self.n_kv_heads, cos, sin)
        v = self.wv(h).unflatten(-1, (self.n_kv_heads, -1)).transpose(1, 2)
        k, v = (w.repeat_interleave(self.n_heads // self.n_kv_heads, 1) for w in (k, v))
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


def export(model, encoder, out, version=2):
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "model.bin", model_bytes(model, version))
    write_atomically(out / "tokenizer.bin", encoder.file)


# ----------------------------------------------------------------------------------- training


def learning_rate(step, args):
    """Warm up, stay, and fall in a straight line to a hundredth at the end."""
    fall = min(1.0, (args.steps - step) / args.cool)
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


def make_optimizers(model):
    """Muon for what multiplies vectors, Adam for the rest; --lr means the same to both."""
    matrices = tensors(model)[1][1:]
    rest = [model.tok_emb.weight, *tensors(model)[0]]
    muon = torch.optim.Muon(matrices, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(rest, weight_decay=0.0, betas=(0.9, 0.98), fused=True)
    return [muon, adam]


class Training:
    """A model on its way: what a checkpoint holds, and what goes on around it."""

    def __init__(self, args):
        torch.manual_seed(args.seed)
        torch.set_num_threads(args.threads)
        self.args, self.encoder = args, make_encoder(args)
        sizes = (args.dim, args.hidden, args.layers, args.heads, args.kv_heads, len(self.encoder))
        self.shape = Shape(*sizes, seq_len=args.window)
        self.model = Llama(self.shape)
        self.optimizers = make_optimizers(self.model)
        self.data, self.step = Stream(self.encoder, f"train {args.seed}", args.window), 0
        self.batches = [
            Stream(self.encoder, "held-out", args.window, held_out).batch(12)
            for held_out in (False, True)
        ]
        if args.resume and self.checkpoint.exists():
            self.load()

    @property
    def checkpoint(self):
        return self.args.work / "checkpoint.pt"

    def load(self):
        """Continue as if nothing had happened."""
        state = torch.load(self.checkpoint)
        self.model.load_state_dict(state["model"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.step, self.data.number = state["step"], state["stories"]

    def save(self, stories):
        """Write a checkpoint, and the model as it is, into --work."""
        state = {"model": self.model.state_dict(), "step": self.step, "stories": stories}
        buffer = io.BytesIO()
        torch.save({**state, "optimizers": [o.state_dict() for o in self.optimizers]}, buffer)
        write_atomically(self.checkpoint, buffer.getvalue())
        export(self.model, self.encoder, self.args.work)

    def learn(self, step_loss, batch):
        """One step of the optimizers; returns the loss before it."""
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(self.step, self.args)
        with torch.autocast("cpu", torch.bfloat16):
            loss = step_loss(*batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def run(self):
        """All steps that are left; prints the losses and saves a checkpoint now and then."""
        args = self.args
        step_loss = torch.compile(self.model) if args.compile else self.model
        losses, last = [], time.time()
        with ThreadPoolExecutor(1) as pool:  # the next batch is made while this one is learned
            upcoming = pool.submit(self.data.batch, args.batch)
            while self.step < args.steps:
                batch, used = upcoming.result(), self.data.number
                upcoming = pool.submit(self.data.batch, args.batch)
                losses.append(self.learn(step_loss, batch))
                if self.step % args.report == 0 or self.step == args.steps:
                    self.tell(losses, time.time() - last, used)
                    losses, last = [], time.time()
                if args.work and (self.step % args.save_every == 0 or self.step == args.steps):
                    self.save(used)

    def tell(self, losses, seconds, stories):
        """A line of progress: losses in nats a token, of told plots and of plots kept out."""
        rate = len(losses) * self.args.batch * self.args.window / seconds
        told, kept = (held_out_loss(self.model, [batch]) for batch in self.batches)
        print(
            f"{time.strftime('%H:%M')} step {self.step}/{self.args.steps}  "
            f"train {sum(losses) / len(losses):.4f}  held-out {told:.4f}, plots {kept:.4f}  "
            f"{rate:.0f} tokens/s  {stories:,} stories",
            flush=True,
        )


def train(args):
    """From the first step, or from the checkpoint's, to the files in --out."""
    started = time.time()
    if args.work:
        args.work.mkdir(parents=True, exist_ok=True)
    training = Training(args)
    n = sum(p.numel() for p in training.model.parameters())
    print(f"{training.shape}\n{n:,} parameters, after {time.time() - started:.0f} s", flush=True)
    training.run()
    export(training.model, training.encoder, args.out, 0 if args.float32 else 2)
    before = held_out_loss(training.model, training.batches)
    round_trip(training.model)
    after = held_out_loss(training.model, training.batches)
    print(f"held-out loss: float {before:.4f}, int8 {after:.4f}, difference {after - before:+.4f}")
    print(f"{time.time() - started:.0f} s wall, {time.process_time():.0f} s CPU; wrote {args.out}")


NUMBERS = {  # what the committed model was trained with
    "steps": (11000, "steps of the optimizer"),
    "batch": (4, "windows a step"),
    "window": (512, "tokens a window"),
    "lr": (5e-3, "highest learning rate"),
    "warmup": (200, "steps to reach it"),
    "cool": (3500, "steps at the end in which it falls"),
    "vocab": (2048, "tokens of the vocabulary"),
    "vocab-stories": (5000, "stories that the tokenizer is trained on"),
    "dim": (256, "width of the model"),
    "hidden": (512, "width of its feed-forward layers"),
    "layers": (6, "layers"),
    "heads": (8, "attention heads"),
    "kv-heads": (4, "heads of keys and values"),
    "seed": (1, "another number, another model"),
    "threads": (2, "threads of PyTorch"),
    "report": (100, "steps between two lines of progress"),
    "save-every": (200, "steps between two checkpoints"),
}


def parse_args():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, (default, text) in NUMBERS.items():
        p.add_argument(f"--{name}", type=type(default), default=default, help=f"{text} ({default})")
    yes_or_no = argparse.BooleanOptionalAction
    p.add_argument("--compile", action=yes_or_no, default=True, help="needs a C++ compiler")
    p.add_argument("--float32", action="store_true", help="write v0 float32 instead of v2 int8")
    p.add_argument("--out", type=Path, default=EMBED, help="where to write the end (embed/)")
    p.add_argument("--work", type=Path, help="folder to keep checkpoints in (none)")
    p.add_argument("--resume", action="store_true", help="continue from the checkpoint in --work")
    args = p.parse_args()
    if args.resume and not args.work:
        p.error("--resume needs the folder to continue from: --work FOLDER")
    return args


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM: --resume continues"))
    train(parse_args())


if __name__ == "__main__":
    main()
