"""One file that is a Windows program, a shell script, a zip and a Python program.

    build("run.com", windows=(bootloader, "app.pkg"), programs={"linux-x86_64": (launcher, pkg)},
          members=[pack.model_member("model.bin"), ...])

    [Windows bootloader][script][zip: programs, model.bin, ..., *.pkg, app.pkg][directory]

- Windows runs the bootloader, which finds the last archive of the file: app.pkg.
- A POSIX shell reads the first line. It stands in the DOS header, where Windows looks at nothing
  but "MZ" and the offset at 0x3c, and evaluates the script (universal.sh), which copies this
  machine's program to the user's cache and starts it. For Linux that program is the launcher
  alone: some tens of KB, which read Python (linux-*.pkg) and the model from the universal file.
- Python runs __main__.py out of the zip: that covers every other system.

The programs come first and at multiples of 4096: the script knows their offsets, and --embed
leaves them where they are when it replaces the model.
"""

import base64
import hashlib
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

from embed import pack

HERE = Path(__file__).resolve().parent
BLOCK = 4096  # programs start and end on such boundaries, for dd
SCRIPT = 4096  # bytes of the script
DOS = 0x3C  # bytes of the DOS header that the first line may use
INDEX = "universal.json"  # the member that says what --assimilate needs to know
FIRST_LINE = 'MZ=;eval "$(head -c%d "$0"|tail -c%d)";exit 1\n'

# system -> what `uname -sm` prints there, and the loader that its programs need
UNAME = {
    "linux-x86_64": ("Linux x86_64", "/lib64/ld-linux-x86-64.so.2"),
    "linux-aarch64": ("Linux aarch64", "/lib/ld-linux-aarch64.so.1"),
    "linux-riscv64": ("Linux riscv64", "/lib/ld-linux-riscv64-lp64d.so.1"),
    "macos-arm64": ("Darwin arm64", "/"),
    "macos-x86_64": ("Darwin x86_64", "/"),
}


class UniversalError(pack.PackError):
    """A universal file that cannot be made or taken apart; one line for the user."""


def build(output, windows, programs, members, *, progress=False):
    """Writes a universal file.

    Args: windows: (bytes of the bootloader, source of app.pkg), programs: {system: (bytes of the
    program, source of its PKG or None if it holds all it needs)}, members: the other members of
    the zip (model, tokenizer, what the zipapp needs). Sources are those of pack.Member.
    Raises UniversalError, pack.PackError.
    """
    for system in programs:
        if system not in UNAME:
            raise UniversalError(f"{system} has no place in a universal file ({', '.join(UNAME)})")
    boot, app = windows
    first = [aligned(f"program/{s}", padded(p)) for s, (p, _) in programs.items()]
    index = {"bootloader": len(boot), "dos": base64.b64encode(boot[:DOS]).decode()}
    last = [pack.Member(INDEX, json.dumps(index).encode())]
    last += [pack.Member(f"{s}.pkg", pkg) for s, (_, pkg) in programs.items() if pkg]
    last += [pack.Member("app.pkg", app)]
    head = boot + bytes(SCRIPT)
    head = with_script(boot, script(programs, offsets(head, first)))
    pack.write(output, head, [*first, *members, *last], progress=progress)


def padded(program):
    return program + bytes(-len(program) % BLOCK)


def aligned(name, data):
    return pack.Member(name, data, align=BLOCK)


def offsets(head, first):
    """-> {name: offset} of the first members, found by writing them once."""
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / "draft"
        pack.write(draft, head, first)
        return {name: entry.offset for name, entry in pack.Archive(draft).entries.items()}


def script(programs, offset):
    """-> the script, comments left out, with one line for each program."""
    rows = []
    for system, (program, pkg) in programs.items():
        name, loader = UNAME[system]
        data = padded(program)
        values = {
            "b": offset[f"program/{system}"] // BLOCK,
            "c": len(data) // BLOCK,
            "h": hashlib.sha256(data).hexdigest(),
            "l": loader,
            "RUN_PKG": f"{system}.pkg" if pkg else "",
        }
        rows.append(f'"{name}")' + "".join(f" {k}={v}" for k, v in values.items()) + " ;;")
    lines = (HERE / "universal.sh").read_text().replace("@PROGRAMS@", "\n".join(rows)).splitlines()
    return "".join(f"{line.strip()}\n" for line in lines if not line.strip().startswith("#"))


def with_script(boot, text):
    """-> the bootloader with the first line in its DOS header, and the script behind it."""
    line = (FIRST_LINE % (len(boot) + SCRIPT, SCRIPT)).encode()
    text = text.encode()
    if boot[:2] != b"MZ" or len(line) > DOS or len(text) > SCRIPT:
        raise UniversalError(f"no Windows bootloader, or a script of {len(text)} bytes")
    return line + boot[len(line) :] + text + b"\n" * (SCRIPT - len(text))


def program_of(path):
    """A file made by build.py -> (program, source of its PKG or None), for `programs`.

    A launcher reads a PKG of the universal file. Any other program stays as it is: one of macOS
    is signed as a whole.
    """
    archive = pack.Archive(path)
    with open(path, "rb") as file:
        head = file.read(archive.head_size)
        if b"RUN_PKG" in head and "app.pkg" in archive.entries:
            return head, archive.member("app.pkg").source
        return head + file.read(), None


def windows_of(path):
    """A Windows executable made by build.py -> (bytes of the bootloader, source of its PKG)."""
    archive = pack.Archive(path)
    with open(path, "rb") as file:
        head = file.read(archive.head_size)
    if "app.pkg" not in archive.entries or INDEX in archive.entries:
        raise UniversalError(f"{path} is no program that build.py made for Windows")
    return head, archive.member("app.pkg").source


# --------------------------------------------------------------------------- run.com --assimilate


def this_system():
    """-> the name of the system that runs this: linux-x86_64, windows-arm64, ..."""
    system = {"darwin": "macos", "win32": "windows"}.get(sys.platform, sys.platform)
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    if machine == "aarch64" and system != "linux":
        machine = "arm64"
    return f"{system}-{machine}"


def assimilate(output=None, archive=None):
    """Writes this machine's program with the model as a plain executable -> its path.

    archive: a universal file; None is the running one. Raises UniversalError, pack.PackError.
    """
    path = archive or pack.running_archive()
    archive = pack.Archive(path) if path else None
    if archive is None or INDEX not in archive.entries:
        raise UniversalError("--assimilate is for universal files: this program is a plain one")
    system = this_system()
    output = output or Path(path).stem + (".exe" if system.startswith("windows") else "")
    if os.path.exists(output) and os.path.samefile(output, path):
        raise UniversalError(f"{output} is the universal file: choose another name with -o")
    head, pkg = parts(archive, system)
    kernel = f"embed/kernels-{system.replace('arm64', 'aarch64')}."
    keep = ("model.bin", "tokenizer.bin", "args.txt", kernel)
    members = [archive.member(n) for n in archive.entries if n.startswith(keep)]
    if pkg:
        members.append(archive.member(pkg)._replace(name="app.pkg"))
    pack.write(output, head, members, progress=True)
    return output


def parts(archive, system):
    """-> (bytes of the program for a system, name of its PKG or None) out of a universal file."""
    if system.startswith("windows"):
        index = json.loads(archive.read(INDEX))
        with open(archive.path, "rb") as file:
            boot = file.read(index["bootloader"])
        return base64.b64decode(index["dos"]) + boot[DOS:], "app.pkg"
    if f"program/{system}" not in archive.entries:
        has = ", ".join(n.removeprefix("program/") for n in archive.entries if "program/" in n)
        raise UniversalError(f"no program for {system} is inside, only windows and {has}")
    pkg = f"{system}.pkg"
    return archive.read(f"program/{system}"), pkg if pkg in archive.entries else None
