"""Where the embedded model is: inside the executable or zipapp, or in embed/ beside run.py."""

import functools
import os
import sys
from pathlib import Path

from run import ModelError, open_buffer

from .archive import Archive, PackError


def running_archive():
    """-> path of the zip that this program runs from, None when it runs from its source."""
    if path := os.environ.get("RUN_ARCHIVE"):  # set by the universal file for its programs
        return Path(path)
    if getattr(sys, "frozen", False):
        return Path(sys.executable)
    zipapp = getattr(globals().get("__loader__"), "archive", None)
    return Path(zipapp) if zipapp else None


@functools.cache
def find_embedded():
    """The embedded files by name: model.bin, tokenizer.bin, args.txt and kernel libraries.

    Stored members are views into the memory-mapped executable, wherever in it they lie; deflated
    ones are read. Raises ModelError when the executable cannot be read.
    """
    path = running_archive()
    if path is None:
        here = Path(__file__).parent.parent
        return {p.name: open_buffer(p) for p in here.glob("*.bin")}
    try:
        archive, buffer = Archive(path), open_buffer(path)
        return {
            name.split("/")[-1]: memoryview(archive.read(name))
            if entry.method
            else buffer[entry.offset : entry.offset + entry.size]
            for name, entry in archive.entries.items()
            if name in ("model.bin", "tokenizer.bin", "args.txt") or "kernels-" in name
        }
    except PackError as error:
        raise ModelError(f"{path} holds no readable model: {error}") from None
