"""Writes the one file that carries a model: a program and, behind it, a zip of stored members.

    [program][model.bin][tokenizer.bin][args.txt][kernel][app.pkg][central directory]

The program is whatever the system starts: a launcher, a bootloader, a shell script, nothing at all
for a zipapp. Stored means that a member's bytes are the file's bytes, so the model is mapped where
it lies and never unpacked. `app.pkg`, the interpreter, comes last: PyInstaller's bootloaders search
for it from the end. Every zip tool can list the file, and `zip -0` can change the model in it.

Only the standard library is used: `./run --embed` runs this on machines that have no Python.
"""

import contextlib
import errno
import os
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import NamedTuple

CHUNK = 1 << 20
ZEROS = bytes(CHUNK)
LIMIT = 0xFFFFFFFF  # sizes and offsets from here on need the zip64 fields
LOCAL = struct.Struct("<4s5H3I2H")
CENTRAL = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")
END64 = struct.Struct("<4sQ2H2I4Q")
LOCATOR = struct.Struct("<4sIQI")
PADDING = 0xD935  # the extra field that zipalign invented: alignment, then zeros
MODEL_ALIGN = 64  # a cache line, and what the widest vector loads like best


class PackError(Exception):
    """A file that cannot be read or written; the message is one line: what, and what to do."""


class Slice(NamedTuple):
    """Part of a file, as a source of bytes."""

    path: Path
    offset: int
    size: int


class Member(NamedTuple):
    """One file for the zip. `source`: bytes, a Path or a Slice.

    Byte `skew` of the data lands on a multiple of `align` in the output. `raw`: (method, crc, size)
    of a source that is compressed already and is copied as it is.
    """

    name: str
    source: object
    align: int = 1
    skew: int = 0
    raw: tuple | None = None


class Entry(NamedTuple):
    """One member of a zip: where it stands, in offsets from the start of the file."""

    name: str
    method: int
    crc: int
    packed: int  # bytes in the file
    size: int  # bytes unpacked
    header: int  # offset of the local header
    offset: int = 0  # offset of the data
    align: int = 1


# ------------------------------------------------------------------ reading


class Archive:
    """The zip at the end of a file. `entries`: {name: Entry} in the order of the file.

    `head_size`: length of what stands before the zip. PackError if there is no zip.
    """

    def __init__(self, path):
        self.path = Path(path)
        try:
            with opened(self.path) as file:
                self.read_directory(file)
        except (struct.error, ValueError, OSError, OverflowError, MemoryError):
            raise PackError(f"{path}: its zip directory is damaged: copy it again") from None

    def read_directory(self, file):
        """Finds all entries, and where their data stand."""
        count, start, shift = self.find_directory(file)
        file.seek(start)
        found = sorted((self.read_entry(file, shift) for _ in range(count)), key=lambda e: e.header)
        self.entries = {e.name: self.locate(file, e) for e in found}
        self.head_size = min((e.header for e in found), default=start)

    def find_directory(self, file):
        """-> number of entries, offset of the first, and what to add to every offset in them."""
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 65557))  # the end record and the longest comment
        tail = file.read()
        at = tail.rfind(b"PK\5\6")
        if at < 0 or len(tail) - at < END.size:
            raise PackError(f"{self.path} holds no zip: it is not a program made by build.py")
        *_, count, length, start, _ = END.unpack_from(tail, at)
        end = size - len(tail) + at
        if LIMIT in (length, start) or count == 0xFFFF:
            file.seek(end - LOCATOR.size)
            _, _, end, _ = LOCATOR.unpack(file.read(LOCATOR.size))
            file.seek(end)
            *_, count, length, start = END64.unpack(file.read(END64.size))
        return count, end - length, end - length - start

    def read_entry(self, file, shift):
        fields = CENTRAL.unpack(file.read(CENTRAL.size))
        if fields[0] != b"PK\1\2":
            raise struct.error("no entry here")
        method, crc, packed, size = fields[4], *fields[7:10]
        lengths, header = fields[10:13], fields[16]
        name = file.read(lengths[0]).decode()
        wide = iter(extra_field(file.read(lengths[1]), 1))
        size, packed, header = (next(wide, v) if v == LIMIT else v for v in (size, packed, header))
        file.seek(lengths[2], os.SEEK_CUR)
        return Entry(name, method, crc, packed, size, header + shift)

    def locate(self, file, entry):
        """Reads the local header, which may be longer than the central one says."""
        file.seek(entry.header)
        *_, name, extra = LOCAL.unpack(file.read(LOCAL.size))
        file.seek(name, os.SEEK_CUR)
        padding = extra_field(file.read(extra), PADDING, "<H")
        offset = entry.header + LOCAL.size + name + extra
        return entry._replace(offset=offset, align=padding[0] if padding else 1)

    def read(self, name):
        """-> bytes of a member."""
        entry = self.entries[name]
        with opened(self.path) as file:
            file.seek(entry.offset)
            data = file.read(entry.packed)
        return zlib.decompress(data, -15) if entry.method else data

    def member(self, name):
        """-> Member that copies this one into another archive as it is."""
        e = self.entries[name]
        raw = (e.method, e.crc, e.size) if e.method else None
        return Member(name, Slice(self.path, e.offset, e.packed), e.align, raw=raw)


def extra_field(extra, wanted, form="<Q"):
    """Extra bytes of a header -> the numbers of the field `wanted`, () without it."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<2H", extra)
        if kind == wanted:
            width = struct.calcsize(form)
            return [
                struct.unpack_from(form, extra, 4 + i)[0] for i in range(0, size - width + 1, width)
            ]
        extra = extra[4 + size :]
    return ()


def opened(path):
    """Opens a file for reading; PackError says why it cannot be."""
    try:
        return open(path, "rb")
    except OSError as e:
        raise PackError(f"cannot read {path}: {e.strerror}") from None


# ------------------------------------------------------------------ writing


def write(output, head, members, *, mode=0o755, progress=False):
    """Writes `head` (bytes, Path or Slice), then the members; `output` appears when complete.

    The same input gives the same bytes. PackError on anything that cannot be read or written.
    """
    members = list(members)
    total = sum(size_of(m.source) for m in members) + size_of(head)
    with aside(output, mode, total) as file:
        meter = Meter(output, total if progress else 0)
        copy(head, file, meter)
        directory(file, [add(file, m, meter) for m in members])
        meter.end()


def rewrite(output, archive, changes, *, progress=False):
    """Copies an Archive to `output`, with changes {name: Member, or None to leave it out}.

    What stands before the first change is copied byte for byte: offsets into it stay true. New
    members go before the last one.
    """
    names = list(archive.entries)
    added = [m for n, m in changes.items() if n not in names and m]
    touched = [i for i, n in enumerate(names) if n in changes] + [len(names) - 1]
    first = min(touched) if names else 0
    kept = [archive.entries[n] for n in names[:first]]
    end = archive.entries[names[first]].header if names else archive.head_size
    members = [changes.get(n, archive.member(n)) for n in names[first:]]
    members = [m for m in members[:-1] + added + members[-1:] if m]
    total = end + sum(size_of(m.source) for m in members)
    mode = archive.path.stat().st_mode & 0o777
    with aside(output, mode, total) as file:
        meter = Meter(output, total if progress else 0)
        copy(Slice(archive.path, 0, end), file, meter)
        directory(file, kept + [add(file, m, meter) for m in members])
        meter.end()


def model_member(source, name="model.bin"):
    """Member for a model, aligned. llama2.c's first format has 28 bytes before the weights."""
    path, offset = (source.path, source.offset) if isinstance(source, Slice) else (source, 0)
    with opened(path) as file:
        file.seek(offset)
        magic = file.read(4)
    return Member(name, source, MODEL_ALIGN, 0 if magic in (b"GGUF", b"24ka") else 28)


def size_of(source):
    """-> bytes of a source."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return len(source)
    if isinstance(source, Slice):
        return source.size
    try:
        return os.stat(source).st_size
    except OSError as e:
        raise PackError(f"cannot read {source}: {e.strerror}") from None


def copy(source, file, meter):
    """Appends a source to a file -> CRC-32. Blocks of zeros become holes."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        file.write(source)
        return zlib.crc32(source)
    path, offset, left = source if isinstance(source, Slice) else (source, 0, size_of(source))
    crc = 0
    with opened(path) as stream:
        stream.seek(offset)
        while left:
            block = stream.read(min(CHUNK, left))
            if not block:
                raise PackError(f"{path} became shorter while it was copied")
            crc, left = zlib.crc32(block, crc), left - len(block)
            if block == ZEROS:
                file.seek(CHUNK, os.SEEK_CUR)
            else:
                file.write(block)
            meter.add(len(block))
    return crc


def add(file, member, meter):
    """Writes local header and data of a Member at the end of a file -> Entry."""
    header, packed, name = file.tell(), size_of(member.source), member.name.encode()
    method, crc, size = member.raw or (0, 0, packed)
    wide = struct.pack("<2H2Q", 1, 16, size, packed) if max(size, packed) >= LIMIT else b""
    extra = wide
    if member.align > 1:
        start = header + LOCAL.size + len(name) + len(wide) + 6
        pad = -(start + member.skew) % member.align
        extra += struct.pack("<3H", PADDING, 2 + pad, member.align) + bytes(pad)
    offset = header + LOCAL.size + len(name) + len(extra)
    file.write(bytes(offset - header))  # the header needs the CRC, so it comes after the data
    found = copy(member.source, file, meter)
    end = file.tell()
    crc = crc if member.raw else found
    file.seek(header)
    sizes = (LIMIT, LIMIT) if wide else (packed, size)
    version = 45 if wide else 20
    file.write(
        LOCAL.pack(b"PK\3\4", version, 0x800, method, *stamp(), crc, *sizes, len(name), len(extra))
    )
    file.write(name + extra)
    file.seek(end)
    return Entry(member.name, method, crc, packed, size, header, offset, member.align)


def directory(file, entries):
    """Writes the central directory and the end records, and cuts the file there."""
    start = file.tell()
    for e in entries:
        fields = [e.packed, e.size, e.header]
        wide = [v for v in (e.size, e.packed, e.header) if v >= LIMIT]  # in this order
        extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        packed, size, header = (min(v, LIMIT) for v in fields)
        name, version = e.name.encode(), 45 if wide else 20
        file.write(
            CENTRAL.pack(
                b"PK\1\2", 0x300 | version, version, 0x800, e.method, *stamp(), e.crc, packed, size,
                len(name), len(extra), 0, 0, 0, 0o644 << 16, header,
            )
        )  # fmt: skip
        file.write(name + extra)
    end = file.tell()
    length, count = end - start, len(entries)
    if end >= LIMIT:
        file.write(END64.pack(b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, start))
        file.write(LOCATOR.pack(b"PK\6\7", 0, end, 1))
    file.write(END.pack(b"PK\5\6", 0, 0, count, count, length, min(start, LIMIT), 0))
    file.truncate()


def stamp():
    """-> (time, date) of every member: SOURCE_DATE_EPOCH, else the first that a zip can hold."""
    seconds = max(int(os.environ.get("SOURCE_DATE_EPOCH") or 0), 315532800)
    t = time.gmtime(seconds)
    return t[3] << 11 | t[4] << 5 | t[5] // 2, (t[0] - 1980) << 9 | t[1] << 5 | t[2]


@contextlib.contextmanager
def aside(output, mode, size):
    """A file to write that takes its name only when it is complete; else nothing is left.

    On Linux the file has no name before, so that not even a killed process leaves one behind.
    """
    output = Path(os.path.realpath(output))
    if not output.parent.is_dir():
        raise PackError(f"cannot write {output}: there is no directory {output.parent}")
    if output.exists() and not output.is_file():
        raise PackError(f"cannot write {output}: it is not a file")
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        file = nameless(output.parent) or open(part, "w+b")  # noqa: SIM115
        with file:
            yield file
            file.flush()
            os.chmod(file.fileno() if os.chmod in os.supports_fd else part, mode)
            os.fsync(file.fileno())
            if not part.exists():
                os.link(f"/proc/self/fd/{file.fileno()}", part, src_dir_fd=0)
        os.replace(part, output)
    except OSError as e:
        room = ""
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            import shutil  # late: it brings a lot, and every program reads this file as it starts

            free = shutil.disk_usage(output.parent).free
            room = f": it needs {size / 1e6:.0f} MB and {free / 1e6:.0f} MB are free there"
        raise PackError(f"cannot write {output}: {e.strerror}{room}") from None
    finally:
        part.unlink(missing_ok=True)


def nameless(directory):
    """-> a file in a directory that has no name yet, None where the system has no such thing."""
    if not (hasattr(os, "O_TMPFILE") and os.path.exists("/proc/self/fd")):
        return None
    try:
        return open(os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "w+b")
    except OSError as e:
        if e.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
            return None
        raise


class Meter:
    """Percent done, on a terminal."""

    def __init__(self, output, total):
        self.name = Path(output).name
        self.total = total if total > 64 * CHUNK and sys.stderr.isatty() else 0
        self.done = self.shown = 0

    def add(self, n):
        self.done += n
        percent = 100 * self.done // self.total if self.total else 0
        if percent > self.shown:
            self.shown = percent
            print(f"\rwriting {self.name}: {percent:3d}%", end="", file=sys.stderr, flush=True)

    def end(self):
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
