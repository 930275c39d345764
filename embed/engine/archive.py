"""A program and, behind it, a zip of stored members: reading and writing such a file.

    [program][model.bin][tokenizer.bin][args.txt][kernel][app.pkg][central directory]

The program is whatever the system starts: a launcher, a bootloader, a shell script, nothing at all
for a zipapp. Stored means that a member's bytes are the file's bytes, so the model is mapped where
it lies and never unpacked. `app.pkg`, the interpreter, comes last: PyInstaller's bootloaders search
for it from the end. Every zip tool can list the file, and `zip -0` can change the model in it.

This knows nothing of the engine or of what the members hold, and uses the standard library only.

    archive = Archive("run")                          # archive.entries, archive.read("args.txt")
    write("run", launcher, [Member("model.bin", Path("model.bin"), align=64), ...])
    rewrite("new", archive, {"args.txt": None})       # the same without args.txt
"""

import contextlib
import errno
import os
import struct
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

CHUNK = 1 << 20
ZEROS = bytes(CHUNK)
LIMIT = 0xFFFFFFFF  # sizes and offsets from here on need the zip64 fields
LOCAL = struct.Struct("<4s5H3I2H")
CENTRAL = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")
END64 = struct.Struct("<4sQ2H2I4Q")
LOCATOR = struct.Struct("<4sIQI")
ZIP64 = 1  # the extra field with 64-bit sizes and offsets
PADDING = 0xD935  # the extra field that zipalign invented: alignment, then zeros
DEFLATED = 8  # the one method of compression that is read
UNPACKED = 4  # a compressed member may be this many times as large as the whole file
ENCRYPTED = 1  # a flag
UTF8 = 0x800  # the flag for names in UTF-8
UNIX = 0x300  # made there: the file's mode counts
FIRST_DATE = 315532800  # 1980, in seconds since 1970
LAST_DATE = 4354819198  # the end of 2107, the last that a zip can hold
NO_ROOM = errno.ENOSPC, errno.EDQUOT, errno.EFBIG


class ArchiveError(Exception):
    """A file that cannot be read or written; the message is one line: what, and what to do."""


class Slice(NamedTuple):
    """Part of a file, as a source of bytes."""

    path: Path
    offset: int
    size: int


Source = bytes | str | Path | Slice  # what can be written into a file


class Member(NamedTuple):
    """One file for the zip.

    Byte `skew` of the data lands on a multiple of `align` in the output. `raw`: (method, crc, size)
    of a source that is compressed already and is copied as it is.
    """

    name: str
    source: Source
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
    """The zip at the end of a file. Raises ArchiveError if there is none.

    path, size: of the file. entries: {name: Entry} in the order of the file. head_size: the length
    of what stands before the zip.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            with opened(self.path) as file:
                self.read_directory(file)
        except (struct.error, ValueError, OSError, OverflowError, MemoryError):
            raise ArchiveError(f"{path}: its zip directory is damaged: copy it again") from None

    def read_directory(self, file):
        """Find all entries, and where their data stand."""
        self.size = file.seek(0, os.SEEK_END)
        count, start, shift = self.find_directory(file)
        file.seek(start)
        found = sorted((self.read_entry(file, shift) for _ in range(count)), key=lambda e: e.header)
        self.entries = {e.name: self.locate(file, e) for e in found}
        self.head_size = min((e.header for e in found), default=start)

    def find_directory(self, file):
        """Return how many entries there are, where they begin, and what to add to their offsets."""
        size = self.size
        file.seek(max(0, size - 65557))  # the end record and the longest comment
        tail = file.read()
        at = tail.rfind(b"PK\5\6")
        if at < 0 or len(tail) - at < END.size:
            raise ArchiveError(f"{self.path} holds no zip: it is not a program made by build.py")
        *_, count, length, start, _ = END.unpack_from(tail, at)
        end = size - len(tail) + at
        if LIMIT in (length, start) or count == 0xFFFF:
            file.seek(end - LOCATOR.size)
            _, _, end, _ = LOCATOR.unpack(file.read(LOCATOR.size))
            file.seek(end)
            *_, count, length, start = END64.unpack(file.read(END64.size))
        return count, end - length, end - length - start

    def read_entry(self, file, shift):
        """Read one row of the directory: an Entry that does not know yet where its data stand."""
        fields = CENTRAL.unpack(file.read(CENTRAL.size))
        if fields[0] != b"PK\1\2":
            raise struct.error("no entry here")
        method = -1 if fields[3] & ENCRYPTED else fields[4]
        crc, packed, size, name_length, extra_length, comment_length = fields[7:13]
        header = fields[16]
        name = file.read(name_length).decode()
        wide = iter(extra_field(file.read(extra_length), ZIP64))
        file.seek(comment_length, os.SEEK_CUR)
        # What does not fit into 32 bits stands in the zip64 field, in this order.
        if size == LIMIT:
            size = next(wide, size)
        if packed == LIMIT:
            packed = next(wide, packed)
        if header == LIMIT:
            header = next(wide, header)
        return Entry(name, method, crc, packed, size, header + shift)

    def locate(self, file, entry):
        """Add where the data stand: the local header may be longer than the central one says."""
        file.seek(entry.header)
        *_, name, extra = LOCAL.unpack(file.read(LOCAL.size))
        file.seek(name, os.SEEK_CUR)
        padding = extra_field(file.read(extra), PADDING, "<H")
        offset = entry.header + LOCAL.size + name + extra
        if offset + entry.packed > self.size:
            raise ValueError("a member behind the end")
        return entry._replace(offset=offset, align=padding[0] if padding else 1)

    def read(self, name: str) -> bytes:
        """Return the bytes of a member, unpacked."""
        entry = self.entries[name]
        with opened(self.path) as file:
            file.seek(entry.offset)
            data = file.read(entry.packed)
        return self.unpacked(entry, data) if entry.method else data

    def unpacked(self, entry, data):
        """Return the bytes of a deflated member. ArchiveError if they are not what the zip says."""
        name = f"{entry.name} in {self.path}"
        if entry.method != DEFLATED:
            raise ArchiveError(f"{name} is compressed by an unknown method: store it with zip -0")
        if entry.size > UNPACKED * self.size + CHUNK:
            raise ArchiveError(f"{name} unpacks to {entry.size:,} bytes: store it with zip -0")
        unpacker = zlib.decompressobj(-15)
        try:
            data = unpacker.decompress(data, entry.size + 1)
        except zlib.error:
            data = b""
        if len(data) != entry.size or zlib.crc32(data) != entry.crc:
            raise ArchiveError(f"{name} is damaged: copy it again")
        return data

    def member(self, name: str) -> Member:
        """Return a Member that copies this one into another archive as it is."""
        entry = self.entries[name]
        source = Slice(self.path, entry.offset, entry.packed)
        raw = (entry.method, entry.crc, entry.size) if entry.method else None
        return Member(name, source, entry.align, raw=raw)


def extra_field(extra, wanted, form="<Q"):
    """Return the numbers of the field `wanted` in the extra bytes of a header, () without it."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<2H", extra)
        if kind == wanted:
            width = struct.calcsize(form)
            data = extra[4 : 4 + size - size % width]
            return [number for (number,) in struct.iter_unpack(form, data)]
        extra = extra[4 + size :]
    return ()


def opened(path: str | Path) -> BinaryIO:
    """Open a file for reading; ArchiveError says why it cannot be."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise ArchiveError(f"cannot read {path}: {error.strerror}") from None


# ------------------------------------------------------------------ writing


def write(
    output: str | Path,
    head: Source,
    members: Iterable[Member],
    *,
    mode: int = 0o755,
    progress: bool = False,
) -> None:
    """Write `head`, then the members; `output` appears when complete.

    The same input gives the same bytes. Raises ArchiveError for what cannot be read or written.
    """
    members = list(members)
    total = size_of(head) + sum(size_of(member.source) for member in members)
    check_output(output, files_of([head, *(member.source for member in members)]))
    with aside(output, mode, total) as file:
        meter = Meter(output, total if progress else 0)
        copy(head, file, meter)
        directory(file, [add(file, member, meter) for member in members])
        meter.end()


def draft(head: Source, members: Iterable[Member]) -> list[Entry]:
    """Return where `write` would put the members, by writing them into a file without a name."""
    import tempfile  # late: every program reads this file as it starts

    with tempfile.TemporaryFile() as file:
        meter = Meter("draft", 0)
        copy(head, file, meter)
        return [add(file, member, meter) for member in members]


def rewrite(
    output: str | Path,
    archive: Archive,
    changes: dict[str, Member | None],
    *,
    progress: bool = False,
) -> None:
    """Copy an Archive to `output`, with changes {name: Member, or None to leave it out}.

    What stands before the first change is copied byte for byte: offsets into it stay true. New
    members go before the last one, which is the interpreter.
    """
    names = list(archive.entries)
    first = first_change(names, changes)
    kept = [archive.entries[name] for name in names[:first]]
    end = archive.entries[names[first]].header if names else archive.head_size
    members = changed_members(archive, names[first:], changes)
    total = end + sum(size_of(member.source) for member in members)
    check_output(output, [archive.path, *files_of(member.source for member in members)])
    mode = archive.path.stat().st_mode & 0o777
    with aside(output, mode, total) as file:
        meter = Meter(output, total if progress else 0)
        copy(Slice(archive.path, 0, end), file, meter)
        directory(file, kept + [add(file, member, meter) for member in members])
        meter.end()


def first_change(names, changes):
    """Return the index of the first member that has to be written again; the last always is."""
    touched = [i for i, name in enumerate(names) if name in changes]
    return min([*touched, max(0, len(names) - 1)])


def changed_members(archive, names, changes):
    """Return the members to write in place of those named, the new ones before the last."""
    members = [changes.get(name, archive.member(name)) for name in names]
    added = [member for name, member in changes.items() if name not in archive.entries]
    members[-1:-1] = added
    return [member for member in members if member]


def files_of(sources: Iterable[Source]) -> list[str | Path]:
    """Return the files from which sources are read."""
    found = (source.path if isinstance(source, Slice) else source for source in sources)
    return [path for path in found if not isinstance(path, bytes)]


def size_of(source: Source) -> int:
    """Return the number of bytes of a source."""
    if isinstance(source, bytes):
        return len(source)
    if isinstance(source, Slice):
        return source.size
    try:
        return os.stat(source).st_size
    except OSError as error:
        raise ArchiveError(f"cannot read {source}: {error.strerror}") from None


def copy(source: Source, file: BinaryIO, meter: "Meter") -> int:
    """Append a source to a file and return its CRC-32. Blocks of zeros become holes."""
    if isinstance(source, bytes):
        file.write(source)
        return zlib.crc32(source)
    if not isinstance(source, Slice):
        source = Slice(Path(source), 0, size_of(source))
    crc = 0
    left = source.size
    with opened(source.path) as stream:
        stream.seek(source.offset)
        while left:
            block = stream.read(min(CHUNK, left))
            if not block:
                raise ArchiveError(f"{source.path} became shorter while it was copied")
            crc = zlib.crc32(block, crc)
            left -= len(block)
            if block == ZEROS:
                file.seek(CHUNK, os.SEEK_CUR)
            else:
                file.write(block)
            meter.add(len(block))
    return crc


def add(file: BinaryIO, member: Member, meter: "Meter") -> Entry:
    """Write the local header and the data of a Member at the end of a file; return its Entry."""
    header = file.tell()
    name = member.name.encode()
    packed = size_of(member.source)
    method, crc, size = member.raw or (0, 0, packed)
    extra = local_extra(header + LOCAL.size + len(name), member, packed, size)
    offset = header + LOCAL.size + len(name) + len(extra)
    file.write(bytes(offset - header))  # the header needs the CRC, so it comes after the data
    found = copy(member.source, file, meter)
    if not member.raw:
        crc = found
    end = file.tell()
    entry = Entry(member.name, method, crc, packed, size, header, offset, member.align)
    file.seek(header)
    file.write(local_header(entry, len(extra)) + name + extra)
    file.seek(end)
    return entry


def local_extra(start, member, packed, size):
    """Return the extra bytes, at `start` in the file, that put the data where the Member wants."""
    extra = b""
    if max(size, packed) >= LIMIT:
        extra = struct.pack("<2H2Q", ZIP64, 16, size, packed)
    if member.align > 1:
        data = start + len(extra) + 6  # without padding: 6 bytes are its field's own
        zeros = bytes(-(data + member.skew) % member.align)
        extra += struct.pack("<3H", PADDING, 2 + len(zeros), member.align) + zeros
    return extra


def local_header(entry, extra):
    """Return what stands before the name, the `extra` bytes and the data of a member."""
    packed, size, version = entry.packed, entry.size, 20
    if max(packed, size) >= LIMIT:
        packed, size, version = LIMIT, LIMIT, 45
    name = len(entry.name.encode())
    return LOCAL.pack(
        b"PK\3\4", version, UTF8, entry.method, *stamp(), entry.crc, packed, size, name, extra
    )


def directory(file: BinaryIO, entries: list[Entry]) -> None:
    """Write the central directory and the end records, and cut the file there."""
    start = file.tell()
    for entry in entries:
        file.write(central_header(entry))
    end = file.tell()
    length = end - start
    count = len(entries)
    if end >= LIMIT:
        file.write(END64.pack(b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, start))
        file.write(LOCATOR.pack(b"PK\6\7", 0, end, 1))
    file.write(END.pack(b"PK\5\6", 0, 0, count, count, length, min(start, LIMIT), 0))
    file.truncate()


def central_header(entry):
    """Return the row of the directory for an Entry."""
    name = entry.name.encode()
    wide = [v for v in (entry.size, entry.packed, entry.header) if v >= LIMIT]
    extra, version = b"", 20
    if wide:
        extra = struct.pack(f"<2H{len(wide)}Q", ZIP64, 8 * len(wide), *wide)
        version = 45
    packed, size, header = (min(v, LIMIT) for v in (entry.packed, entry.size, entry.header))
    row = CENTRAL.pack(
        b"PK\1\2", UNIX | version, version, UTF8, entry.method, *stamp(), entry.crc, packed, size,
        len(name), len(extra), 0, 0, 0, 0o644 << 16, header,
    )  # fmt: skip
    return row + name + extra


def stamp():
    """Return the time and date of every member: SOURCE_DATE_EPOCH, else a zip's first."""
    text = os.environ.get("SOURCE_DATE_EPOCH") or "0"
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ArchiveError(f"SOURCE_DATE_EPOCH={text} is no number of seconds since 1970: fix it")
    t = time.gmtime(min(max(int(text), FIRST_DATE), LAST_DATE))
    clock = t.tm_hour << 11 | t.tm_min << 5 | t.tm_sec // 2
    return clock, (t.tm_year - 1980) << 9 | t.tm_mon << 5 | t.tm_mday


# ------------------------------------------------------------------ the file that is written


def check_output(output: str | Path, inputs: Iterable[str | Path] = ()) -> None:
    """Raise ArchiveError if `output` cannot be written, or is one of the files that are read."""
    folder = Path(output).parent
    if os.path.islink(output):
        raise ArchiveError(
            f"cannot write {output}: it is a link to {os.readlink(output)}: "
            "name the file itself, or remove the link"
        )
    if not folder.is_dir():
        raise ArchiveError(f"cannot write {output}: there is no directory {folder}")
    if not os.path.lexists(output):
        return
    if not os.path.isfile(output):
        raise ArchiveError(f"cannot write {output}: it is not a file")
    for path in inputs:
        if os.path.exists(path) and os.path.samefile(output, path):
            also = "" if os.fspath(path) == os.fspath(output) else f" (as {path})"
            raise ArchiveError(f"{output} is read for this{also}: choose another name with -o")


@contextlib.contextmanager
def aside(output: str | Path, mode: int, size: int) -> Iterator[BinaryIO]:
    """Give a file to write that takes its name only when it is complete; else nothing is left.

    On Linux the file has no name before, so that not even a killed process leaves one behind.
    Elsewhere its name is random, and nothing that had the name before is used. Links are not
    followed. mode: without what the umask takes away.
    """
    check_output(output)
    output = Path(os.path.realpath(Path(output).parent), Path(output).name)
    part = None
    try:
        file = nameless(output.parent)
        if file is None:
            file, part = named(output.parent)
        with file:
            yield file
            file.flush()
            if os.chmod in os.supports_fd:
                os.chmod(file.fileno(), mode & ~umask())
            os.fsync(file.fileno())
            if part is None:
                part = linked(file, output)
        if part:
            os.replace(part, output)
            part = None
    except OSError as error:
        room = room_left(output.parent, size) if error.errno in NO_ROOM else ""
        raise ArchiveError(f"cannot write {output}: {error.strerror}{room}") from None
    finally:
        if part:
            part.unlink(missing_ok=True)


def umask() -> int:
    """Return the permissions that this process's new files do not get."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def part_name(folder: Path) -> Path:
    return folder / f".run-{os.urandom(8).hex()}.part"


def nameless(folder: Path) -> BinaryIO | None:
    """Return a file that has no name yet, None where the system has no such thing."""
    if not (hasattr(os, "O_TMPFILE") and os.path.exists("/proc/self/fd")):
        return None
    try:
        return open(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "w+b")
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
            return None
        raise


def named(folder: Path) -> tuple[BinaryIO, Path]:
    """Return a new file, and the name that nobody could foresee."""
    part = part_name(folder)
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0)
    return open(os.open(part, flags, 0o600), "w+b"), part


def linked(file: BinaryIO, output: Path) -> Path | None:
    """Give a nameless file its name; where that is taken return another one, to be renamed."""
    source = f"/proc/self/fd/{file.fileno()}"
    with contextlib.suppress(FileExistsError):
        os.link(source, output, src_dir_fd=0)
        return None
    part = part_name(output.parent)
    os.link(source, part, src_dir_fd=0)
    return part


def room_left(directory: Path, size: int) -> str:
    """Return how much room a file of that size needs, and how much there is."""
    import shutil  # late: it brings a lot, and every program reads this file as it starts

    free = shutil.disk_usage(directory).free
    return f": it needs {size / 1e6:.0f} MB and {free / 1e6:.0f} MB are free there"


class Meter:
    """Shows on a terminal, for large files, how many percent are written."""

    def __init__(self, output, total):
        self.name = Path(output).name
        self.total = total if total > 64 * CHUNK and sys.stderr.isatty() else 0
        self.done = 0
        self.shown = 0

    def add(self, n):
        self.done += n
        percent = 100 * self.done // self.total if self.total else 0
        if percent > self.shown:
            self.shown = percent
            print(f"\rwriting {self.name}: {percent:3d}%", end="", file=sys.stderr, flush=True)

    def end(self):
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
