"""The same text as run.c and runq.c, through the command line, on both backends."""

import hashlib
import json
from pathlib import Path

import pytest

from golden import make
from support import models
from support.cli import ROOT, SHARED, VOCAB, run_cli

GOLDEN = Path(__file__).parent.parent / "golden"


def lines(path):
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def name(line):
    return "-".join([line["engine"], line["model"], *line["args"]])[:60].encode("ascii", "replace")


def mostly_slow(rows):
    """Return the rows as parameters; of four, three are slow: each starts a process."""
    marks = [pytest.mark.slow if i % 4 else () for i in range(len(rows))]
    return [
        pytest.param(row, id=name(row).decode(), marks=m)
        for row, m in zip(rows, marks, strict=True)
    ]


def assert_same_text(done, line):
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == line["stdout"]


@pytest.mark.parametrize("line", mostly_slow(lines(GOLDEN / "run_c.jsonl")))
def test_tiny_models(tmp_path, backend, line):
    """Files that tests/models.py writes, byte for byte those that the reference was given."""
    data = make.model_bytes(line["model"], line["group"])
    assert hashlib.sha256(data).hexdigest() == line["sha256"]
    (tmp_path / "tiny.bin").write_bytes(data)
    (tmp_path / "tiny.tok").write_bytes(models.write_tokenizer(VOCAB))
    files = (tmp_path / "tiny.bin", "-z", tmp_path / "tiny.tok")
    assert_same_text(run_cli(*files, "--backend", backend, *line["args"]), line)


@pytest.mark.parametrize("line", mostly_slow(lines(SHARED / "golden" / "run_c.jsonl")))
def test_stories260k(backend, line):
    files = (SHARED / "models" / line["model"], "-z", SHARED / "models" / "tok512.bin")
    assert_same_text(run_cli(*files, "--backend", backend, *line["args"]), line)


@pytest.mark.slow
@pytest.mark.parametrize("line", lines(GOLDEN / "default.jsonl"), ids=name)
def test_default_model(backend, line):
    """embed/model.bin, as long as it is the file that these lines were made with."""
    path = ROOT / "embed" / "model.bin"
    data = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(data).hexdigest() != line["sha256"]:
        pytest.skip("embed/model.bin is another model: tests/golden/make.py makes its lines")
    assert_same_text(run_cli("--backend", backend, *line["args"]), line)
