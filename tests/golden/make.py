"""Write the golden files again: python tests/golden/make.py DIRECTORY

DIRECTORY holds llama2.c's run.c and runq.c. They are compiled there, fed with the files that
tests/models.py writes, and what they print is recorded.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from support import models

ONCE = "Once upon a time"
LONG = "Lily liked the ball, and the ball liked Lily. " * 5

# (engine, model, int8 group, flags); the model is models.build(model, vocab=tiny_vocab())
RUNS = [
    ("run", "mha", 0, ["-t", "0"]),
    ("run", "mha", 0, ["-s", "1", "-i", ONCE]),
    ("run", "mha", 0, ["-s", "22", "-n", "0", "-p", "0.5", "-i", "The"]),
    ("run", "mha", 0, ["-s", "21", "-n", "1"]),
    ("run", "mha", 0, ["-s", "21", "-n", "2"]),
    ("run", "mha", 0, ["-s", "4", "-n", "1000", "-i", "The Straße 你好 café"]),
    ("run", "gqa", 0, ["-s", "5", "-n", "4", "-i", LONG]),
    ("run", "untied", 0, ["-s", "6", "-t", "0.3"]),
    ("run", "untied", 0, ["-s", "7", "-t", "3.5", "-p", "0.95"]),
    ("run", "gqa", 0, ["-t", "0", "-i", ONCE]),
    ("run", "gqa", 0, ["-s", "8", "-n", "300", "-i", "She said"]),
    ("run", "gqa", 0, ["-s", "9", "-n", "0", "-p", "1.0", "-i", LONG]),
    ("run", "gqa-tied", 0, ["-s", "10", "-p", "0", "-t", "0.8"]),
    ("run", "gqa-tied", 0, ["-t", "0", "-i", "  two spaces\n\nand lines"]),
    ("run", "mqa", 0, ["-s", "2147483647", "-i", "The dog"]),
    ("run", "odd", 0, ["-s", "12", "-i", ONCE]),
    ("run", "wide-heads", 0, ["-s", "13", "-p", "0.01", "-i", ONCE]),
    ("run", "pairs", 0, ["-s", "14", "-i", ONCE]),
    ("run", "blocks-gqa", 0, ["-s", "15", "-n", "48"]),
    ("runq", "mha", 32, ["-t", "0", "-i", ONCE]),
    ("runq", "untied", 16, ["-s", "16"]),
    ("runq", "gqa", 32, ["-s", "17", "-n", "80", "-i", "She said"]),
    ("runq", "mqa", 64, ["-t", "0.5", "-s", "18"]),
    ("runq", "odd", 4, ["-s", "19", "-i", ONCE]),
    ("runq", "blocks", 256, ["-s", "20", "-n", "48"]),
    ("runq", "wide-heads", 8, ["-t", "0", "-i", "The dog"]),
]

TEXTS = [
    *("", " ", "  ", "a", ONCE, LONG, "\n", "\t tabs\nlines\r\n", "  leading", "trailing  "),
    *("Lily", " Lily", "LilyLily", "ballballball", "aaaaaaaaaaaaaaaa", "the the the the"),
    *("naïve café Straße", "你好", "你好，世界", "こんにちは", "Привет", "שלום", "مرحبا"),
    *(
        "😀",
        "👩‍👩‍👧‍👦 family",
        "a😀b",
        "e\u0301 combining",
        "\u00a0\u200b\ufeff",
        "\x01\x7f\x1b[0m",
    ),
    *("<s>", "</s>", "<0x41>", "<unk>", "[INST] hi [/INST]", "{}[]()<>|\\/~`", "0123456789"),
]

# (vocabulary, temperature, topp, seed, draws) of logits that `logits_for` makes. A tiny vocabulary
# with a small topp is left out: no token may reach run.c's cut-off, and it reads before its buffer.
SAMPLES = [
    (size, temperature, topp, 1 + index, 60)
    for index, (size, temperature, topp) in enumerate(
        (size, temperature, topp)
        for size in (2, 3, 50, 512)
        for temperature in (0.0, 0.1, 0.7, 1.0, 2.5)
        for topp in (0.0, 0.05, 0.5, 0.9, 0.999, 1.0)
    )
    if size > 3 or topp in (0.0, 0.9, 0.999, 1.0)
]


def logits_for(size, seed):
    """float32 logits (size,), all different."""
    random = np.random.RandomState(seed)
    values = random.permutation(1 << 15)[:size].astype(np.float32)
    return (values - 16384) / np.float32(2048)


def model_bytes(name, group):
    """The checkpoint of one line of run_c.jsonl."""
    model = models.build(name, vocab=models.tiny_vocab())
    return models.write_v2(model, group)[0] if group else models.write_v0(model)


# Flags for the default model: whole stories.
DEFAULT = [
    ["-t", "0", "-n", "300"],
    ["-s", "1", "-n", "350"],
    ["-s", "2", "-n", "350", "-i", "Once upon a time"],
    ["-s", "3", "-t", "0.7", "-p", "0.95", "-n", "0", "-i", "One day, a little"],
]


def compile_reference(directory):
    """run, runq and probe, in `directory`."""
    for name in ("run", "runq"):
        flags = ["-O3", "-o", name, f"{name}.c", "-lm"]
        subprocess.run(["gcc", *flags], cwd=directory, check=True)
    flags = ["-O3", "-I", ".", "-o", "probe", str(HERE / "probe.c"), "-lm"]
    subprocess.run(["gcc", *flags], cwd=directory, check=True)
    (directory / "tiny.tok").write_bytes(models.write_tokenizer(models.tiny_vocab()))


def ask(directory, *arguments, stdin=b""):
    command = [f"./{arguments[0]}", *map(str, arguments[1:])]
    return subprocess.run(
        command, cwd=directory, input=stdin, capture_output=True, check=True
    ).stdout


def record_runs(directory):
    for engine, name, group, flags in RUNS:
        data = model_bytes(name, group)
        (directory / "tiny.bin").write_bytes(data)
        stdout = ask(directory, engine, "tiny.bin", "-z", "tiny.tok", *flags)
        line = {"engine": engine, "model": name, "group": group, "args": flags}
        digest = hashlib.sha256(data).hexdigest()
        yield line | {"sha256": digest, "stdout": stdout.decode()}


def record_default(directory):
    """embed/model.bin, if it is of a version that the reference reads."""
    path = HERE.parent.parent / "embed" / "model.bin"
    data = path.read_bytes() if path.exists() else b"24ka\1"
    engine = "run" if data[:4] != b"24ka" else {2: "runq"}.get(data[4])
    for flags in DEFAULT if engine else []:
        files = (path, "-z", path.with_name("tokenizer.bin"))
        line = {"engine": engine, "model": "default", "args": flags}
        digest = hashlib.sha256(data).hexdigest()
        stdout = ask(directory, engine, *files, *flags)
        yield line | {"sha256": digest, "stdout": stdout.decode()}


def record_tokens(directory):
    for text in TEXTS:
        ids = ask(directory, "probe", "encode", "tiny.tok", 416, stdin=text.encode())
        yield {"text": text, "ids": [int(i) for i in ids.split()]}


def record_samples(directory):
    for case in SAMPLES:
        size, temperature, topp, seed, count = case
        stdin = logits_for(size, seed).astype("<f4").tobytes()
        ids = ask(directory, "probe", "sample", size, temperature, topp, seed, count, stdin=stdin)
        yield {"case": case, "ids": [int(i) for i in ids.split()]}


def main():
    directory = Path(sys.argv[1]).resolve()
    compile_reference(directory)
    for name, record in (
        ("run_c", record_runs),
        ("tokens", record_tokens),
        ("samples", record_samples),
        ("default", record_default),
    ):
        lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in record(directory)]
        (HERE / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}.jsonl: {len(lines)} lines")


if __name__ == "__main__":
    main()
