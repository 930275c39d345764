"""Feed run.py damaged files and report whatever is not a ModelError.

    python tests/fuzz.py 100000                    that many inputs, on every backend that is built
    python tests/fuzz.py 5000 --backend c --start 70000
    python tests/fuzz.py --reproduce 1234 --save bad.bin     one input again, with its traceback

Input number N is always the same file: a small valid one, damaged by a generator seeded with N.
Every input is loaded and, if that works, text is encoded and generated with it. Worker processes
run under limits of memory and time, so that a blow-up, a hang or a crash of the C kernel is found
too and costs one worker. Exit 1 if anything was found.
"""

import argparse
import contextlib
import itertools
import os
import random
import resource
import select
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

import run
from support import models

MEMORY = 1 << 30  # address space that an input may take on top of the interpreter's
RESIDENT = 300 << 20  # memory that it may touch
SECONDS = 4  # processor time for one input
STALL = 30  # time without a word from a worker: it hangs where no alarm reaches, in C
BATCH = 1000  # inputs per worker process

VOCAB = models.tiny_vocab(360)  # hardly any merges: small files
TEMPLATES = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}",
    "{% for m in messages %}<|user|>\n{{ m.content }}</s>\n<|assistant|>\n{% endfor %}",
    "[INST] {{ content }} [/INST]",
)

# ------------------------------------------------------------------------------------------------
# Inputs


def make_corpus():
    """Kind -> a small valid file. A tokenizer is a kind of its own."""
    small = {"dim": 32, "hidden_dim": 64, "n_layers": 1, "vocab_size": len(VOCAB), "seq_len": 32}
    model = models.build("gqa-tied", vocab=VOCAB, **small)
    untied = models.build("untied", vocab=VOCAB, **small)
    blocks = {"dim": 256, "hidden_dim": 256, "n_layers": 1, "vocab_size": len(VOCAB), "seq_len": 32}
    large = models.build("blocks-gqa", vocab=VOCAB, **blocks)
    corpus = {
        "tokenizer": models.write_tokenizer(VOCAB),
        "v0": models.write_v0(model),
        "v0-untied": models.write_v0(untied),
        "v1": models.write_v1(untied),
        "v2": models.write_v2(model, 32)[0],
        "v2-group4": models.write_v2(untied, 4)[0],
    }
    for number, kind in enumerate(models.TYPES):
        some = large if models.TYPES[kind][1] == 256 else model
        template = TEMPLATES[number % len(TEMPLATES)]
        version = 2 + number % 2
        corpus[f"gguf-{kind}"] = models.write_gguf(some, kind, VOCAB, template, version)[0]
    corpus["gguf-Q4_K_M"] = models.write_gguf(large, models.Q4_K_M, VOCAB)[0]
    return corpus


INTEGERS = [0, 1, 2, 3, 5, 7, 8, 9, 12, 30, 31, 64, 127, 255, 256, 65535, 65536, 10**6, 10**7]
INTEGERS += [2**k + d for k in (24, 31, 32, 62, 63, 64) for d in (-1, 0, 1)]
INTEGERS += [-1, -2, -32, -(2**31), -(2**63)]
FLOATS = [0.0, -0.0, 1e-45, 1e-30, 3e38, -1e38, float("inf"), -float("inf"), float("nan"), 1e300]


def landmarks(data):
    """Offsets where damage tells: the header, and around every name of a GGUF."""
    spots = list(range(48)) + [256]
    for word in (b"general.", b"llama.", b"tokenizer.", b".weight", b"<0x", b"\xe2\x96\x81"):
        at = data.find(word)
        while at >= 0 and len(spots) < 4000:
            end = at + len(word)
            spots += [at - 12, at - 8, at - 4, at, end, end + 4, end + 8, end + 12, end + 20]
            at = data.find(word, end)
    return [spot for spot in spots if 0 <= spot < len(data)]


def position(rng, data, spots):
    """Mostly somewhere that matters, sometimes anywhere."""
    if not data:
        return 0
    if rng.random() < 0.6:
        return min(len(data) - 1, max(0, rng.choice(spots) + rng.choice((0, 0, 0, 1, -1, 4, 8))))
    return rng.randrange(len(data))


def flip_bits(rng, data, spots, _):
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if data:
            data[position(rng, data, spots)] ^= 1 << rng.randrange(8)


def set_integer(rng, data, spots, _):
    form = rng.choice("BHIIIQQ")
    size = struct.calcsize(form)
    value = rng.choice(INTEGERS) & (256**size - 1)
    at = position(rng, data, spots)
    data[at : at + size] = struct.pack("<" + form, value)[: max(0, len(data) - at)]


def nudge_integer(rng, data, spots, _):
    """A value a little off, or doubled: consistent enough to get past the first check."""
    at = position(rng, data, spots) & ~3
    if at + 4 <= len(data):
        (value,) = struct.unpack_from("<I", data, at)
        value = rng.choice((value + 1, value - 1, value * 2, value // 2, -value)) & 0xFFFFFFFF
        struct.pack_into("<I", data, at, value)


def set_float(rng, data, spots, _):
    form = rng.choice("effd")
    at = position(rng, data, spots)
    if at + struct.calcsize(form) <= len(data):
        with contextlib.suppress(OverflowError):
            struct.pack_into("<" + form, data, at, rng.choice(FLOATS))


def truncate(rng, data, spots, _):
    del data[position(rng, data, spots) :]


def extend(rng, data, *_):
    data += rng.choice((b"\0", b"\xff", b"GGUF", rng.randbytes(8))) * rng.choice((1, 4, 100, 5000))


def delete(rng, data, spots, _):
    at = position(rng, data, spots)
    del data[at : at + rng.choice((1, 4, 8, 32, 256))]


def insert(rng, data, spots, _):
    at = position(rng, data, spots)
    data[at:at] = rng.choice((b"\0" * 4, b"\xff" * 8, rng.randbytes(rng.choice((1, 4, 32)))))


def splice(rng, data, spots, other):
    """A piece of another file, in place of as many bytes or in between."""
    if other:
        at, size = position(rng, data, spots), rng.choice((4, 8, 24, 256, 4096))
        start = rng.choice((0, rng.randrange(len(other))))
        gone = rng.choice((0, size, size))
        data[at : at + gone] = other[start : start + size]


def repeat(rng, data, spots, _):
    at, size = position(rng, data, spots), rng.choice((8, 24, 64, 1000))
    data[at:at] = data[at : at + size]


def garbage(rng, data, spots, _):
    at = position(rng, data, spots)
    size = min(rng.choice((4, 16, 64, 1024)), len(data) - at)
    data[at : at + size] = rng.randbytes(size)


def rename(rng, data, *_):
    """Change a word that the reader looks for, keeping its length."""
    words = (b"llama", b"token_embd", b"output", b"attn_q", b"blk.0", b"scores", b"tokens")
    words += (b"token_type", b"bos_token_id", b"head_count", b"<0x41>", b"im_start")
    word = rng.choice(words)
    at = data.find(word)
    if at >= 0:
        data[at : at + len(word)] = rng.choice(
            (rng.randbytes(len(word)), b"x" * len(word), word[::-1])
        )


DAMAGE = (flip_bits, flip_bits, set_integer, set_integer, set_integer, nudge_integer, set_float)
DAMAGE += (truncate, extend, delete, insert, splice, repeat, garbage, rename)


class Inputs:
    """The numbered inputs: a corpus and where to hit it."""

    def __init__(self):
        self.corpus = make_corpus()
        self.spots = {kind: landmarks(data) for kind, data in self.corpus.items()}

    def make(self, number):
        """Input `number`: (kind, bytes)."""
        rng = random.Random(number)
        kind = rng.choice(list(self.corpus))
        data, other = bytearray(self.corpus[kind]), self.corpus[rng.choice(list(self.corpus))]
        for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
            rng.choice(DAMAGE)(rng, data, self.spots[kind], other)
        return kind, bytes(data)


# ------------------------------------------------------------------------------------------------
# One input


class Hang(BaseException):
    """The alarm went off."""


def on_alarm(*_):
    raise Hang(f"no answer after {SECONDS} s of work")


TEXT = "Once upon a time é 你 😀 <s> <|im_start|>\n\x1b[0m the ball"


def use(directory, kind, data, number, backend):
    """Load the input as run.py would and write some text with it. ModelError is a good answer."""
    with contextlib.suppress(run.ModelError):
        path = directory / "model.bin"
        tokenizer = directory / "damaged.tok" if kind == "tokenizer" else None
        damaged = tokenizer or path
        damaged.unlink(missing_ok=True)  # a mapping of the last one may be alive: never write to it
        damaged.write_bytes(data)
        if tokenizer:
            path = directory / "good.bin"
        int8 = number % 7 == 0 and not kind.startswith("v2")
        model = run.load_model(
            path, tokenizer, backend=backend, threads=1, context=16 * (number % 2), int8=int8
        )
        words = TEXT if number % 3 else ""
        for piece in run.generate(model, words[: number % 9], steps=12, seed=number + 1):
            if not isinstance(piece, str) or "\x1b" in piece or "\0" in piece:
                raise AssertionError(f"generate yields {piece!r}")
        model.tokenizer.encode(TEXT)
        if number % 4 == 0:
            use_extras(directory, model, number)
        return "loaded"
    return "refused"


def use_extras(directory, model, number):
    """A turn or two of a conversation, the perplexity of a text, the report."""
    sampler = run.Sampler(1.0, 0.9, number + 1)
    talk = run.engine_module("chat").Chat(model, sampler, "Be brief.", notice=lambda text: None)
    for user in ("hi", TEXT):
        "".join(itertools.islice(talk.reply(user), 40))
    (directory / "text.txt").write_text(TEXT, encoding="utf-8")
    report = run.engine_module("report")
    report.perplexity(model, directory / "text.txt")
    report.info(model, directory / "model.bin", None)


def place(error):
    """Where an exception came from: the last line of run.py or embed/ in its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [f for f in frames if "/tests/" not in f.filename and "/lib/" not in f.filename]
    frame = (mine or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"


def attempt(directory, inputs, number, backend):
    """("loaded" or "refused", None), or ("found", what it was)."""
    kind, data = inputs.make(number)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        answer = use(directory, kind, data, number, backend)
    except (Exception, Hang) as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        return "found", f"{type(error).__name__} at {place(error)}: {str(error)[:120]!r}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > RESIDENT:
        return "found", f"memory: {grown >> 20} MiB touched"
    return answer, None


def limit_resources():
    """Address space on top of what is mapped now, no core files, warnings that count as errors."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("error")
    signal.signal(signal.SIGPROF, on_alarm)


# ------------------------------------------------------------------------------------------------
# Workers


class Worker:
    """A forked process that tries a range of inputs and reports a line for each."""

    def __init__(self, inputs, numbers, backend):
        self.next, self.stop, self.backend = numbers.start, numbers.stop, backend
        self.heard, self.buffer = time.monotonic(), b""
        self.pipe, out = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.pipe)
            work(inputs, numbers, backend, out)
        os.close(out)

    def read(self):
        """Lines that came since, without waiting; None at the end of the process."""
        data = os.read(self.pipe, 65536)
        self.heard = time.monotonic()
        if not data:
            return None
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        self.next += len(lines)
        return [line.decode(errors="replace").split("\t", 2) for line in lines]

    def end(self):
        """Reap it: None if it finished, else what killed it."""
        os.close(self.pipe)
        status = os.waitpid(self.pid, 0)[1]
        if self.next >= self.stop:
            return None
        if os.WIFSIGNALED(status):
            return f"crash: {signal.Signals(os.WTERMSIG(status)).name}"
        return f"exit {os.WEXITSTATUS(status)}"


def work(inputs, numbers, backend, out):
    """The body of a worker; it never returns."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        limit_resources()
        with tempfile.TemporaryDirectory(dir=scratch()) as directory:
            directory = Path(directory)
            write_good_files(directory, inputs)
            for number in numbers:
                answer, what = attempt(directory, inputs, number, backend)
                os.write(out, f"{number}\t{answer}\t{what or ''}\n".encode())
    finally:
        os._exit(0)


def write_good_files(directory, inputs):
    """What a damaged model or tokenizer is used with."""
    (directory / "tokenizer.bin").write_bytes(inputs.corpus["tokenizer"])
    (directory / "good.bin").write_bytes(inputs.corpus["v0"])


def scratch():
    """Memory rather than disk, where there is such a place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Campaign:
    """Runs the workers of one backend and gathers what they say."""

    def __init__(self, inputs, backend, start, count, jobs):
        self.inputs, self.backend, self.jobs = inputs, backend, jobs
        stop = start + count
        self.todo = [range(n, min(n + BATCH, stop)) for n in range(start, stop, BATCH)][::-1]
        self.counts = {"loaded": 0, "refused": 0, "found": 0}
        self.findings = {}  # what -> numbers of the inputs

    def find(self, number, what):
        self.counts["found"] += 1
        self.findings.setdefault(what, []).append(number)
        if len(self.findings[what]) == 1:
            kind = self.inputs.make(number)[0]
            print(f"\n{self.backend}: input {number} ({kind}): {what}", flush=True)

    def hear(self, worker):
        """Take a worker's lines. False when it is gone, and the rest of its range is put back."""
        lines = worker.read()
        if lines is not None:
            for number, answer, what in lines:
                if answer == "found":
                    self.find(int(number), what)
                else:
                    self.counts[answer] += 1
            return True
        if (what := worker.end()) is not None:
            self.find(worker.next, what)
            if worker.next + 1 < worker.stop:
                self.todo.append(range(worker.next + 1, worker.stop))
        return False

    def run(self):
        """Until every input was tried."""
        workers, shown = [], 0
        while workers or self.todo:
            while self.todo and len(workers) < self.jobs:
                workers.append(Worker(self.inputs, self.todo.pop(), self.backend))
            ready = select.select([worker.pipe for worker in workers], [], [], 1)[0]
            for worker in [worker for worker in workers if worker.pipe in ready]:
                if not self.hear(worker):
                    workers.remove(worker)
            for worker in workers:
                if time.monotonic() - worker.heard > STALL:
                    os.kill(worker.pid, signal.SIGKILL)
            if sys.stderr.isatty() and time.monotonic() - shown > 1:
                shown = time.monotonic()
                print(f"\r{self.backend}: {self.counts}", end="", file=sys.stderr, flush=True)

    def report(self):
        """The closing lines."""
        total = sum(self.counts.values())
        counts = ", ".join(f"{count:,} {name}" for name, count in self.counts.items())
        print(f"{self.backend}: {total:,} inputs: {counts}", flush=True)
        for what, numbers in sorted(self.findings.items(), key=lambda item: -len(item[1])):
            print(f"  {len(numbers):6} x {what}  (inputs {', '.join(map(str, numbers[:4]))})")


def backends():
    """NumPy, and the C kernel where it is built."""
    from support.cli import missing_kernel

    why = missing_kernel()
    if why:
        print(f"without the C kernel: {why}")
    return ["numpy"] if why else ["numpy", "c"]


def reproduce(inputs, number, backend, save):
    """One input in this process, without limits: its traceback shows."""
    kind, data = inputs.make(number)
    print(f"input {number}: {kind}, {len(data):,} bytes")
    if save:
        Path(save).write_bytes(data)
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        write_good_files(directory, inputs)
        print(use(directory, kind, data, number, backend or "numpy"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("count", nargs="?", type=int, default=10_000, help="inputs per backend")
    parser.add_argument("--start", type=int, default=0, help="the first input's number")
    parser.add_argument("--backend", choices=("numpy", "c"), help="only this one")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once")
    parser.add_argument("--reproduce", type=int, metavar="NUMBER", help="only this input")
    parser.add_argument("--save", metavar="FILE", help="where to keep the reproduced input")
    args = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    inputs = Inputs()
    if args.reproduce is not None:
        return reproduce(inputs, args.reproduce, args.backend, args.save)
    found = 0
    for backend in [args.backend] if args.backend else backends():
        campaign = Campaign(inputs, backend, args.start, args.count, args.jobs)
        campaign.run()
        campaign.report()
        found += campaign.counts["found"]
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
