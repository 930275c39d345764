"""Shared libraries of Linux: smaller, and what they ask of the system."""

import re
import shutil
import struct
import subprocess
from pathlib import Path

ELF64 = b"\x7fELF\2"
LOAD = 1  # the type of a segment that is mapped


def strip(source: Path, target: Path) -> Path:
    """Copy a library without its symbol tables and return the copy's path.

    Where strip is missing or breaks the library, as it does with OpenBLAS, `source` is returned.
    """
    tool = shutil.which("strip")
    if tool and Path(source).read_bytes()[:5] == ELF64:
        command = [tool, "--strip-unneeded", "-o", str(target), str(source)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode == 0 and can_be_mapped(target.read_bytes()):
            return target
    return source


def can_be_mapped(elf: bytes) -> bool:
    """Whether the segments of a 64-bit ELF file lie where its header says that they are mapped."""
    (start,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<2H", elf, 54)
    for at in range(start, start + size * count, size):
        kind, _, offset, address, _, _, _, align = struct.unpack_from("<2I6Q", elf, at)
        if kind == LOAD and (offset - address) % align:
            return False
    return True


def newest_glibc(files: list[bytes]) -> str:
    """Return the newest glibc that symbols in these files ask for, such as "2.35"; "" if none."""
    found = {(0, 0)}
    for data in files:
        for major, minor in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", data):
            found.add((int(major), int(minor)))
    major, minor = max(found)
    return f"{major}.{minor}" if major else ""
