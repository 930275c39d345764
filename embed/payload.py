"""Where the embedded model is: inside the executable or zipapp, or in embed/ beside run.py."""

import functools
from pathlib import Path

from embed.pack import Archive, PackError, running_archive
from run import ModelError, open_buffer


@functools.cache
def find_embedded():
    """The embedded files by name: model.bin, tokenizer.bin, args.txt and kernel libraries.

    Stored members are views into the memory-mapped executable, wherever in it they lie; deflated
    ones are read. Raises ModelError when the executable cannot be read.
    """
    path = running_archive()
    if path is None:
        here = Path(__file__).parent
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
