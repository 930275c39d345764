"""Where the embedded model is: inside the executable or zipapp, or in embed/ beside run.py."""

import functools
import os
import struct
import sys
import zipfile
from pathlib import Path

from run import ModelError, open_buffer


def container():
    """The path of the zip that this program runs from, or None when it runs from a directory."""
    if archive := os.environ.get("RUN_ARCHIVE"):  # set by the universal file for its payload
        return archive
    if getattr(sys, "frozen", False):
        return sys.executable
    return getattr(globals().get("__loader__"), "archive", None)  # a zipapp


@functools.cache
def find_embedded():
    """The embedded files by name: model.bin, tokenizer.bin, args.txt and kernel libraries.

    Stored members are views into the memory-mapped executable, wherever in it they lie; deflated
    ones are read. Raises ModelError when the executable cannot be read.
    """
    path = container()
    if path is None:
        here = Path(__file__).parent
        return {p.name: open_buffer(p) for p in here.glob("*.bin")}
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if wanted(m.filename)]
            buffer = open_buffer(path)
            return {m.filename.split("/")[-1]: contents(archive, buffer, m) for m in members}
    except (OSError, zipfile.BadZipFile, struct.error) as error:
        raise ModelError(f"{path} holds no readable model: {error}") from None


def wanted(name):
    """Whether this member is for the engine (the rest is Python code, the packer's business)."""
    return name in ("model.bin", "tokenizer.bin", "args.txt") or "kernels-" in name


def contents(archive, buffer, member):
    """The bytes of a member: a view of the mapped file when it is stored."""
    if member.compress_type != zipfile.ZIP_STORED:
        return memoryview(archive.read(member))
    start = member.header_offset
    name_length, extra_length = struct.unpack_from("<HH", buffer, start + 26)
    start += 30 + name_length + extra_length
    return buffer[start : start + member.file_size]
