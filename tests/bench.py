"""How fast run.py is here: one table, medians of runs that take turns.

    python tests/bench.py                                 # NumPy, C float32, C int8; all models
    python tests/bench.py --models 15M,110M --rounds 5
    python tests/bench.py --vs "./run {model} -t 0"       # any program that prints tok/s, too
    python tests/bench.py --vs "./runq {model8} -z {tokenizer} -t 0"

Models are random weights in the shapes of tinyllamas and TinyLlama: the speed does not depend on
the values. {model} is a llama2.c file of version 0 (float32), {model8} one of version 2 (int8),
{tokenizer} a tokenizer.bin for both. Every number is from a process of its own. GB/s is what a
token must read of the weights times tokens/s; the share is of what memchr() reads with all cores.
"""

import argparse
import ctypes
import json
import os
import re
import shlex
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

SHAPES = {  # dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len
    "15M": (288, 768, 6, 6, 6, 32000, 256),
    "42M": (512, 1376, 8, 8, 8, 32000, 1024),
    "110M": (768, 2048, 12, 12, 12, 32000, 1024),
    "1.1B": (2048, 5632, 22, 32, 4, 32000, 2048),
}
BACKENDS = {"NumPy": "numpy", "C float32": "c", "C int8": "c"}
PROMPT, GROUP = 128, 32


# ------------------------------------------------------------------------------------- the models
def random_rows(rng, out, n):
    """(out, n) float32 of a trained model's size; the same block again where it is long."""
    block = rng.standard_normal(1 << 20, dtype=np.float32) * np.float32(n**-0.5)
    return np.resize(block, (out, n))


def tensors(shape):
    """What one model holds: the embedding, then (name, out, in) of one layer."""
    dim, hidden, _, heads, kv_heads, vocab, _ = shape
    kv = dim // heads * kv_heads
    layer = ("wq", dim, dim), ("wk", kv, dim), ("wv", kv, dim), ("wo", dim, dim)
    return (vocab, dim), (*layer, ("w1", hidden, dim), ("w2", dim, hidden), ("w3", hidden, dim))


def write_models(shape, plain, int8):
    """Writes the same random model as version 0 (float32) and version 2 (int8 groups)."""
    dim, _, n_layers, heads, _, _, seq_len = shape
    rng, ones = np.random.default_rng(1), np.ones(dim, np.float32)
    embedding, layer = tensors(shape)
    with open(plain, "wb") as f, open(int8, "wb") as f8:
        f.write(struct.pack("<7i", *shape))
        f8.write(struct.pack("<Ii7iBi", 0x616B3432, 2, *shape, 1, GROUP).ljust(256, b"\0"))
        f8.write(ones.tobytes() * (2 * n_layers + 1))
        write(f, f8, random_rows(rng, *embedding))
        for i, (_, out, n) in enumerate(layer):
            if i in (0, 4):  # the norms of attention stand before wq, those of the rest before w1
                f.write(ones.tobytes() * n_layers)
            for _ in range(n_layers):
                write(f, f8, random_rows(rng, out, n))
        f.write(ones.tobytes() + bytes(4 * seq_len * (dim // heads)))


def write(f, f8, rows):
    """One matrix, to both files."""
    f.write(rows)
    groups = rows.reshape(-1, GROUP)
    scales = np.abs(groups).max(1) / np.float32(127)
    f8.write(np.rint(groups / scales[:, None]).astype(np.int8))
    f8.write(scales)


def write_tokenizer(path, size):
    """A tokenizer.bin of words that nobody reads."""
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n"] + [b"<0x%02X>" % i for i in range(256)]
    pieces += [b" word%d" % i for i in range(size - len(pieces))]
    with open(path, "wb") as f:
        f.write(struct.pack("<I", max(map(len, pieces))))
        for piece in pieces[:size]:
            f.write(struct.pack("<fi", 0.0, len(piece)) + piece)


class Bench:
    """One model to measure: its files, and the bytes that a token reads, by backend."""

    def __init__(self, name, folder):
        self.name, self.plain, self.int8 = name, folder / f"{name}.bin", folder / f"{name}.q8.bin"
        self.tokenizer = folder / "tokenizer.bin"
        if name not in SHAPES:
            self.given(name)
            return
        embedding, layer = tensors(SHAPES[name])
        weights = np.prod(embedding) + SHAPES[name][2] * sum(out * n for _, out, n in layer)
        self.reads = {"NumPy": 4 * weights, "C float32": 4 * weights, "C int8": 1.125 * weights}
        if not self.plain.exists():
            print(f"writing {name} ...", file=sys.stderr)
            part = folder / f"{name}.part"
            write_models(SHAPES[name], part, self.int8)
            part.rename(self.plain)
        if not self.tokenizer.exists():
            write_tokenizer(self.tokenizer, 32000)

    def given(self, name):
        """A real model: the one in embed/, or stories260K where the tests have it."""
        shared = ROOT.parent / "shared" / "models"
        known = {
            "default": (ROOT / "embed" / "model.bin", ROOT / "embed" / "tokenizer.bin"),
            "260K": (shared / "stories260K.v0.bin", shared / "tok512.bin"),
        }
        if name not in known:
            sys.exit(f"bench: no model {name!r}: choose from {', '.join([*known, *SHAPES])}")
        self.plain, self.tokenizer = known[name]
        self.int8, self.reads = None, {}

    def command(self, backend, tokens):
        """The command that measures this model in a process of its own."""
        file = self.int8 if backend == "C int8" and self.int8 else self.plain
        extra = ["--int8"] if backend == "C int8" and not self.int8 else []
        files = ["--worker", str(file), "--tokenizer", str(self.tokenizer)]
        options = ["--backend", BACKENDS[backend], "--tokens", str(tokens)]
        return [sys.executable, __file__, *files, *options, *extra]


# -------------------------------------------------------------------------------------- measuring
def worker(args):
    """Measures one model in this process; prints a line of JSON."""
    start = time.perf_counter()
    from run import Sampler, load_model

    options = {"backend": args.backend, "threads": args.threads, "int8": args.int8}
    model = load_model(args.worker, args.tokenizer, **options)
    sampler = Sampler(0)
    token = sampler.sample(model.forward([1], 0))
    result = {"first": time.perf_counter() - start, "backend": model.backend.description}
    limit = min(model.context, 256)
    prompt = [3 + i % 200 for i in range(min(PROMPT, limit - 1))]
    result["prefill"] = len(prompt) / statistics.median(repeated(model.forward, prompt, args))
    count, pos, start = 0, 1, time.perf_counter()
    while count < args.tokens and (count < 8 or time.perf_counter() - start < args.seconds):
        token = sampler.sample(model.forward([token], pos))
        count, pos = count + 1, pos % (limit - 1) + 1
    result["decode"] = count / (time.perf_counter() - start)
    result["memory"] = peak_memory()
    print(json.dumps(result))


def peak_memory():
    """The most memory that this process had, in MB; None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()  # not getrusage: that counts the parent's
        return int(re.search(r"VmHWM:\s*(\d+)", status)[1]) / 1024
    except (OSError, TypeError):
        return None


def repeated(forward, prompt, args):
    """The seconds of each of many readings of the prompt, after one to warm up."""
    times, end = [], time.perf_counter() + args.seconds
    while len(times) < 4 or time.perf_counter() < end:
        start = time.perf_counter()
        forward(prompt, 0)
        times.append(time.perf_counter() - start)
    return times[1:]


def measure(command):
    """The worker's numbers, or None and a line on stderr."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"bench: {(done.stderr.strip() or command[0]).splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def measure_other(template, bench):
    """The last number before or after `tok/s` that another program prints, or None."""
    files = {"model": bench.plain, "model8": bench.int8, "tokenizer": bench.tokenizer}
    command = [part.format(**files, name=bench.name) for part in shlex.split(template)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    text = done.stdout + done.stderr
    found = re.findall(r"tok/s[:=]?\s*([\d.]+)|([\d.]+)\s*tok/s", text)
    if done.returncode or not found:
        print(f"bench: no tok/s from: {shlex.join(command)}", file=sys.stderr)
        return None
    return {"decode": float(found[-1][0] or found[-1][1])}


def read_bandwidth(threads, megabytes=512):
    """GB/s that all threads together read: memchr() for a byte that is not there."""
    block = np.ones(megabytes << 20, np.uint8)
    libc = ctypes.CDLL(None) if os.name == "posix" else ctypes.cdll.msvcrt
    libc.memchr.argtypes, libc.memchr.restype = (
        [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t],
        ctypes.c_void_p,
    )
    part, best = len(block) // threads, 0
    for _ in range(5):
        readers = [
            threading.Thread(target=libc.memchr, args=(block.ctypes.data + i * part, 7, part))
            for i in range(threads)
        ]
        start = time.perf_counter()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        best = max(best, len(block) / (time.perf_counter() - start) / 1e9)
    return best


# -------------------------------------------------------------------------------------- the table
def run_rounds(benches, backends, others, args, threads):
    """{(model, column): [numbers of each round]}, and the bandwidth of each round."""
    results, bandwidth = {}, []
    for i in range(args.rounds):
        print(f"round {i + 1} of {args.rounds} ...", file=sys.stderr)
        bandwidth.append(read_bandwidth(threads))
        for bench in benches:
            for backend in backends:
                command = [*bench.command(backend, args.tokens), "--threads", str(args.threads)]
                command += ["--seconds", str(args.seconds)]
                results.setdefault((bench, backend), []).append(measure(command))
            for other in others:
                results.setdefault((bench, other), []).append(measure_other(other, bench))
    return results, bandwidth


def median(rounds, key):
    values = [r[key] for r in rounds if r and r.get(key) is not None]
    return statistics.median(values) if values else None


def number(value, form="{:,.0f}"):
    return "-" if value is None else form.format(value)


def print_table(results, bandwidth):
    bandwidth = statistics.median(bandwidth)
    print(f"\nread bandwidth, all cores: {bandwidth:.1f} GB/s (median)\n")
    print("| model | what | decode tok/s | GB/s | share | prefill tok/s | first token ms | MB |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for (bench, column), rounds in results.items():
        decode, reads = median(rounds, "decode"), bench.reads.get(column)
        rate = decode * reads / 1e9 if decode and reads else None
        first = median(rounds, "first")
        cells = [
            bench.name,
            column.split()[0] + " ..." if column not in BACKENDS else column,
            number(decode, "{:,.0f}" if decode and decode > 100 else "{:,.1f}"),
            number(rate, "{:.1f}"),
            number(rate and rate / bandwidth, "{:.0%}"),
            number(median(rounds, "prefill")),
            number(first and first * 1000),
            number(median(rounds, "memory")),
        ]
        print("|", " | ".join(cells), "|")


def parse_args():
    parser = argparse.ArgumentParser(description="Measure run.py on this machine.")
    add = parser.add_argument
    add("--models", default="default,260K,15M,42M,110M,1.1B", help="which, with commas")
    add("--backends", default=",".join(BACKENDS), help="which, with commas")
    add("--rounds", type=int, default=3, help="runs of everything, in turns (3)")
    add("--seconds", type=float, default=1.0, help="at most so long a decode run (1)")
    add("--tokens", type=int, default=100_000, help="at most so many tokens a decode run")
    add("-j", "--threads", type=int, default=0, help="threads (all cores)")
    add("--vs", action="append", default=[], metavar="CMD", help="another program, see above")
    add("--dir", type=Path, help="keep the models here (a temporary folder)")
    for option in ("--worker", "--tokenizer", "--backend"):
        add(option, help=argparse.SUPPRESS)
    add("--int8", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = parse_args()
    if args.worker:
        worker(args)
        return
    from run.engine.cores import available_cpus

    threads = args.threads or available_cpus()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        if args.dir:
            args.dir.mkdir(parents=True, exist_ok=True)
        benches = [Bench(name, args.dir or Path(folder)) for name in args.models.split(",")]
        benches = [bench for bench in benches if bench.plain.exists()]
        backends = args.backends.split(",")
        print_table(*run_rounds(benches, backends, args.vs, args, threads))


if __name__ == "__main__":
    main()
