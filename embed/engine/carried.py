"""What the running program carries: a model, its tokenizer, default flags, the C kernel.

An executable, a zipapp and the universal file carry it in the zip behind them; a source tree and
an installed package have it in files of their own.
"""

import functools
import os
import sys
from pathlib import Path

from run import ModelError, open_buffer

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
