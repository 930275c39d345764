"""What the running program carries: a model, its tokenizer, default flags, the C kernel.

An executable, a zipapp and the universal file carry it in the zip behind them; a source tree and
an installed package have it in files of their own.
"""

import functools
import os
import sys
from pathlib import Path
from typing import Any

from run import ModelError, ModelFile, open_buffer, read_model, read_tokenizer

from .archive import Archive, ArchiveError

HOUSE = Path(__file__).resolve().parent.parent  # embed/, or run_llama/ where pip installed it
KERNELS = "embed/kernels/"  # where a zip has the kernel libraries
NAMES = "model.bin", "tokenizer.bin", "args.txt"


def running_archive() -> Path | None:
    """Return the path of the zip that this program runs from, None for a source tree."""
    if path := os.environ.get("RUN_ARCHIVE"):  # set by the universal file for its programs
        return Path(path)
    if getattr(sys, "frozen", False):
        return Path(sys.executable)
    zipapp = getattr(globals().get("__loader__"), "archive", None)
    return Path(zipapp) if zipapp else None


@functools.cache
def find_carried() -> dict[str, memoryview]:
    """Return the carried files by name: model.bin, tokenizer.bin, args.txt, kernel libraries.

    Stored members are views into the memory-mapped file, wherever in it they lie; deflated ones
    are read. Raises ModelError when the file cannot be read.
    """
    path = running_archive()
    if path is None:
        return {file.name: open_buffer(file) for file in HOUSE.glob("*.bin")}
    try:
        return members(path)
    except ArchiveError as error:
        raise ModelError(f"{path} holds no readable model: {error}") from None


def members(path: Path) -> dict[str, memoryview]:
    """Return what a zip has for the engine, by file name."""
    archive = Archive(path)
    buffer = open_buffer(path)
    found = {}
    for name, entry in archive.entries.items():
        if name not in NAMES and not name.startswith(KERNELS):
            continue
        if entry.method:
            data = memoryview(archive.read(name))
        else:
            data = buffer[entry.offset : entry.offset + entry.packed]
        found[name.rpartition("/")[2]] = data
    return found


def open_carried(path: None = None, tokenizer: Any = None) -> ModelFile:
    """Return the carried model with its tokenizer, or with the one that is named.

    ModelError if one of them is missing or cannot be used.
    """
    files = find_carried()
    where = "the embedded model"
    try:
        if "model.bin" not in files:
            raise ModelError("there is none: name a model file (-h shows how)")
        file = read_model(files["model.bin"])
        if tokenizer is not None:
            where = f"'{tokenizer}'"
            file.tokenizer = read_tokenizer(open_buffer(tokenizer), file.config.vocab_size)
        elif file.tokenizer is None:
            if "tokenizer.bin" not in files:
                raise ModelError("it has no tokenizer: give one with -z")
            file.tokenizer = read_tokenizer(files["tokenizer.bin"], file.config.vocab_size)
        return file
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from None
