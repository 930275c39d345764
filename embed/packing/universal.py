"""One file that is a Windows program, a shell script, a zip and a Python program.

    build("run.com", windows=(bootloader, "app.pkg"), programs={"linux-x86_64": (launcher, pkg)},
          members=[model_member("model.bin"), ...])

    [Windows bootloader][script][zip: programs, model.bin, ..., *.pkg, app.pkg][directory]

- Windows runs the bootloader, which finds the last archive of the file: app.pkg.
- A POSIX shell reads the first line. It stands in the DOS header, where Windows looks at nothing
  but "MZ" and the offset at 0x3c, and evaluates the second, which stands where DOS had its own
  program. That evaluates the script (universal.sh) if it has its first and its last line: of a
  file that is cut short nothing else is ever read as shell. The script copies this machine's
  program to the user's cache and starts it. For Linux that program is the launcher alone: some
  tens of KB, which read Python (linux-*.pkg) and the model from the universal file.
- Python runs __main__.py out of the zip: that covers every other system.

The programs come first and at multiples of 4096: the script knows their offsets, and --embed
leaves them where they are when it replaces the model. engine/programs.py takes the file apart
again (--assimilate).
"""

import base64
import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path

from ..engine import archive
from ..engine.programs import INDEX
from ..engine.systems import SYSTEMS
from . import BuildError

SCRIPT_SOURCE = Path(__file__).with_name("universal.sh")
BLOCK = 4096  # programs start and end on such boundaries, for dd
SCRIPT = 4096  # bytes of the script
PE = 0x3C  # where a DOS header has the offset of the Windows header; the first line ends there
SECOND = 0x40  # where the second line begins, which ends at the Windows header
# Not tail before head: ksh says so when a pipe is closed early.
FIRST_LINE = 'MZ=;eval "$(head -c%d "$0"|tail -c+65)";echo cut>&2;exit 1\n'
SECOND_LINE = (
    'x=$(head -c%d "$0"|tail -c+%d);case $x in "%s"*"%s")eval "$x";;'
    '*)echo "run: $0 is cut short: copy it again">&2;exit 1;esac\n'
)
BEGIN, END = ": run", ": end"  # the first and the last line of the script

# The bytes of a program, and its PKG, None if it holds all it needs.
Program = tuple[bytes, archive.Source | None]


class UniversalError(BuildError):
    """A universal file that cannot be made; one line for the user."""


def build(
    output: Path,
    windows: Program,
    programs: dict[str, Program],
    members: list[archive.Member],
    *,
    progress: bool = False,
) -> None:
    """Write a universal file.

    Args: the bootloader and app.pkg for Windows; the programs of other systems; the other members
    of the zip (model, tokenizer, what the zipapp needs).
    Raises UniversalError, ArchiveError.
    """
    check_systems(programs)
    boot, app = windows
    first = [program_member(system, program) for system, (program, _) in programs.items()]
    index = {"bootloader": len(boot), "dos": base64.b64encode(dos_part(boot)).decode()}
    last = [archive.Member(INDEX, json.dumps(index).encode())]
    last += [archive.Member(f"{system}.pkg", pkg) for system, (_, pkg) in programs.items() if pkg]
    last += [archive.Member("app.pkg", app)]
    head = boot + bytes(SCRIPT)
    head = with_script(boot, script(programs, offsets(head, first)))
    archive.write(output, head, [*first, *members, *last], progress=progress)


def check_systems(programs: Iterable[str]) -> None:
    """Raise UniversalError for a system that the script cannot tell from others."""
    known = [system.name for system in SYSTEMS.values() if system.loader]
    for system in programs:
        if system not in known:
            raise UniversalError(f"{system} has no place in a universal file ({', '.join(known)})")


def program_member(system: str, program: bytes) -> archive.Member:
    return archive.Member(f"program/{system}", padded(program), align=BLOCK)


def padded(program: bytes) -> bytes:
    return program + bytes(-len(program) % BLOCK)


def offsets(head: bytes, first: list[archive.Member]) -> dict[str, int]:
    """Return where the first members lie, found by writing them once."""
    return {entry.name: entry.offset for entry in archive.draft(head, first)}


# ------------------------------------------------------------------ the script


def script(programs: dict[str, Program], offset: dict[str, int]) -> str:
    """Return the script, comments left out, with one line for each program."""
    rows = [
        script_row(system, program, pkg, offset[f"program/{system}"])
        for system, (program, pkg) in programs.items()
    ]
    text = SCRIPT_SOURCE.read_text().replace("@PROGRAMS@", "\n".join(rows))
    text = text.replace("@ZIP_END@", "PK\5\6")
    lines = [line.strip() for line in text.splitlines()]
    lines = [BEGIN, *(line for line in lines if not line.startswith("#")), END]
    return "".join(f"{line}\n" for line in lines)


def script_row(system: str, program: bytes, pkg: archive.Source | None, offset: int) -> str:
    """Return what the script must know of one program; universal.sh says what the letters mean."""
    data = padded(program)
    values = {
        "b": offset // BLOCK,
        "c": len(data) // BLOCK,
        "h": hashlib.sha256(data).hexdigest(),
        "l": SYSTEMS[system].loader,
        "RUN_PKG": f"{system}.pkg" if pkg else "",
    }
    settings = " ".join(f"{name}={value}" for name, value in values.items())
    return f'"{SYSTEMS[system].uname}") {settings} ;;'


def with_script(boot: bytes, text: str) -> bytes:
    """Return the bootloader with the two lines in its DOS part, and the script behind it."""
    room = len(dos_part(boot)) - SECOND
    first = (FIRST_LINE % (SECOND + room)).encode()
    second = (SECOND_LINE % (len(boot) + SCRIPT, len(boot) + 1, BEGIN, END)).encode()
    code = text.encode()
    if len(first) > PE or len(second) > room or len(code) > SCRIPT:
        raise UniversalError(
            f"no room in the bootloader for {len(second)} bytes, or in {SCRIPT} for {len(code)}"
        )
    second += b"\n" * (room - len(second))
    head = first + boot[len(first) : SECOND] + second
    return head + boot[len(head) :] + code + b"\n" * (SCRIPT - len(code))


def dos_part(boot: bytes) -> bytes:
    """Return what a program for Windows has before its Windows header."""
    (start,) = struct.unpack_from("<I", boot.ljust(SECOND), PE)
    if boot[:2] != b"MZ" or boot[start : start + 4] != b"PE\0\0":
        raise UniversalError("the program for Windows is none: it has no Windows header")
    return boot[:start]


# ------------------------------------------------------------------ programs that are there already


def program_of(path: str | Path) -> Program:
    """Return what a file made by build.py has for `programs`.

    A launcher reads a PKG of the universal file. Any other program stays as it is: one of macOS
    is signed as a whole.
    """
    found = archive.Archive(path)
    with open(path, "rb") as file:
        head = file.read(found.head_size)
        if b"RUN_PKG" in head and "app.pkg" in found.entries:
            return head, found.member("app.pkg").source
        return head + file.read(), None


def windows_of(path: str | Path) -> Program:
    """Return the bootloader and app.pkg of a Windows executable made by build.py."""
    found = archive.Archive(path)
    with open(path, "rb") as file:
        head = file.read(found.head_size)
    if "app.pkg" not in found.entries or INDEX in found.entries:
        raise UniversalError(f"{path} is no program that build.py made for Windows")
    return head, found.member("app.pkg").source
