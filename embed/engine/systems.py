"""The systems and processors that this project knows: one table, and one name for each.

The name stands in --target and --payload, in the names of executables and kernel libraries, in
the universal file and in the release workflow. To support a system, begin with a row here.
"""

import platform
from typing import NamedTuple


class System(NamedTuple):
    """One system on one processor."""

    name: str  # what this project calls it
    uname: str  # system and machine as `uname -sm` prints them, on Windows as Python has them
    suffix: str  # ends the names of its shared libraries
    triple: str  # what zig calls it, with the oldest version that is served
    kernel_flags: tuple[str, ...] = ()  # for zig, besides those that every system gets
    loader: str = ""  # a file that its programs need; none: it has no place in a universal file
    runner: str = ""  # the machine of the release workflow that builds for it; none: nothing does


SYSTEMS = {
    row.name: row
    for row in (
        System(
            name="linux-x86_64",
            uname="Linux x86_64",
            suffix=".so",
            triple="x86_64-linux-gnu.2.17",
            loader="/lib64/ld-linux-x86-64.so.2",
            runner="ubuntu-22.04",
        ),
        System(
            name="linux-aarch64",
            uname="Linux aarch64",
            suffix=".so",
            triple="aarch64-linux-gnu.2.17",
            kernel_flags=("-mno-outline-atomics",),
            loader="/lib/ld-linux-aarch64.so.1",
            runner="ubuntu-22.04-arm",
        ),
        System(
            name="linux-riscv64",
            uname="Linux riscv64",
            suffix=".so",
            triple="riscv64-linux-gnu.2.27",
            loader="/lib/ld-linux-riscv64-lp64d.so.1",
        ),
        System(
            name="macos-arm64",
            uname="Darwin arm64",
            suffix=".dylib",
            triple="aarch64-macos.11.0",
            loader="/",  # its programs need nothing that could be missing
            runner="macos-15",
        ),
        System(
            name="macos-x86_64",
            uname="Darwin x86_64",
            suffix=".dylib",
            triple="x86_64-macos.11.0",
            loader="/",
            runner="macos-15-intel",
        ),
        System(
            name="windows-x86_64",
            uname="Windows AMD64",
            suffix=".dll",
            triple="x86_64-windows-gnu",
            runner="windows-2022",
        ),
        System(
            name="windows-arm64",
            uname="Windows ARM64",
            suffix=".dll",
            triple="aarch64-windows-gnu",
        ),
        System(
            name="freebsd-x86_64",
            uname="FreeBSD amd64",
            suffix=".so",
            triple="x86_64-freebsd",
            kernel_flags=("-lpthread",),
        ),
    )
}


def this_system() -> str:
    """Return the name of the system that runs this; one that is not in the table gets its own."""
    uname = f"{platform.system()} {platform.machine()}"
    for system in SYSTEMS.values():
        if system.uname == uname:
            return system.name
    return uname.lower().replace(" ", "-")


def kernel_file(system: str) -> str:
    """Return the file name of the C kernel for a system, such as kernels-linux-x86_64.so."""
    suffix = SYSTEMS[system].suffix if system in SYSTEMS else ".so"
    return f"kernels-{system}{suffix}"


def executable_name(stem: str, system: str) -> str:
    """Return the file name of a program for a system: run, or run.exe."""
    return f"{stem}.exe" if system.startswith("windows") else stem
