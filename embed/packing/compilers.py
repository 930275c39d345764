"""Compiles what is in C: the kernel that run.py loads, and the launcher of Linux executables.

    python -m run.packing.compilers                       # for this machine, into embed/kernels
    python -m run.packing.compilers --target macos-arm64  # for any system: pip install ziglang
    python -m run.packing.compilers --target all

This machine's own kernel is compiled by $CC, cc, clang, gcc or zig, every other one by zig. The
same compiler gives the same bytes.
"""

import argparse
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from ..engine import archive, scratch
from ..engine.systems import SYSTEMS, kernel_file, this_system
from . import EMBED, BuildError

HERE = EMBED / "kernels"
SOURCE = HERE / "kernel.c"
LAUNCHER = EMBED / "launcher"
SCRATCH = "run-build-"  # begins the names of temporary directories
FLAGS = (
    "-O3 -std=gnu11 -ffp-contract=off -fno-math-errno -fno-trapping-math -fno-stack-protector "
    "-fvisibility=hidden"
).split()
NO_COMPILER = "no C compiler found: install cc, clang or gcc, or python -m pip install ziglang"


class CompileError(BuildError):
    """No compiler, or it failed: the message is one line for the user."""


def zig() -> list[str] | None:
    """Return the command of the PyPI package ziglang, or of a zig on the path.

    Not `python -m ziglang`: that would look for it in the directory where it runs first.
    """
    package = importlib.util.find_spec("ziglang")
    if package and package.origin:
        suffix = ".exe" if os.name == "nt" else ""
        return [str(Path(package.origin).with_name(f"zig{suffix}"))]
    found = shutil.which("zig")
    return [found] if found else None


def native_compiler() -> list[str] | None:
    """Return $CC if it is set, else the first of cc, clang and gcc that is installed."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for name in ("cc", "clang", "gcc"):
        if shutil.which(name):
            return [name]
    return None


# ------------------------------------------------------------------ the kernel


def compile_kernel(target: str | None = None, out_dir: Path = HERE, cc: str | None = None) -> Path:
    """Compile the kernel for a system (this one if None) and return the library's path.

    It is written aside and renamed, so that a program using the old one is not disturbed.
    Raises CompileError with one line when there is no compiler or it fails.
    """
    name = target or this_system()
    file = kernel_file(name)
    commands = kernel_commands(target, cc, file)
    final = Path(out_dir) / file
    try:
        with scratch.directory(SCRATCH) as folder:
            for command in commands:
                run(command, name, folder)
            data = (folder / file).read_bytes()
        with archive.aside(final, 0o644, len(data)) as out:
            out.write(data)
    except archive.ArchiveError as error:
        raise CompileError(str(error)) from None
    except OSError as error:
        raise CompileError(f"cannot compile for {name}: {error.strerror or error}") from None
    return final


def kernel_commands(target: str | None, cc: str | None, out: str) -> list[list[str]]:
    """Return what to run, in a folder of its own, to get the kernel in the file `out`.

    A named target is for everybody and zig's affair; this machine's own is its compiler's.
    Raises CompileError without a compiler.
    """
    compiler = shlex.split(cc) if cc else native_compiler()
    is_here = target in (None, this_system())
    prefer_zig = target and zig()
    if compiler and (cc or (is_here and not prefer_zig)):
        return [[*compiler, *FLAGS, *"-fPIC -shared -pthread -s -o".split(), out, str(SOURCE)]]
    return zig_commands(target or this_system(), out)


def zig_commands(target: str, out: str) -> list[list[str]]:
    """Return zig's commands for the kernel of a system. Raises CompileError without zig.

    Linux libraries are linked in a step of their own and name no C library, so that they load
    under glibc and under musl.
    """
    if target not in SYSTEMS:
        raise CompileError(f"unknown target {target!r}; choose from {', '.join(SYSTEMS)}")
    if not zig():
        raise CompileError(NO_COMPILER)
    system = SYSTEMS[target]
    build = [*zig(), "cc", "-target", system.triple, *FLAGS, "-g0", str(SOURCE)]
    build += system.kernel_flags
    if not target.startswith("linux"):
        return [[*build, "-shared", "-s", "-o", out]]
    part = f"{out}.o"
    link = [*zig(), *"ld.lld -shared -s --build-id=none -z now -z relro".split()]
    return [[*build, "-fPIC", "-c", "-o", part], [*link, part, "-o", out]]


# ------------------------------------------------------------------ the launcher


def compile_launcher(place: Path, target: str | None = None, preloaded: bool = False) -> Path:
    """Compile the launcher for this machine, or with zig for a Linux target; return its path.

    preloaded: as the shared library that takes over a program with Python linked into it.
    Raises CompileError.
    """
    out = Path(place).resolve() / ("launcher.so" if preloaded else "launcher")
    command = launcher_compiler(target)
    boot = LAUNCHER / "boot.py"
    command += ["-O2", "-s", "-Wall", f'-DBOOT="{boot}"', str(LAUNCHER / "launcher.c")]
    if preloaded:
        command += ["-DPRELOADED=1", "-shared", "-fPIC"]
    run([*command, "-o", str(out), "-ldl", "-lpthread"], target or "this machine", Path(place))
    return out


def launcher_compiler(target: str | None) -> list[str]:
    """Return the compiler's command: zig's where it is there, with an old glibc as the aim.

    A launcher for an old glibc can say that other parts need a newer one.
    """
    system = target or this_system()
    if zig() and system in SYSTEMS:
        return [*zig(), "cc", "-target", SYSTEMS[system].triple]
    if not target and native_compiler():
        return native_compiler()
    raise CompileError(NO_COMPILER)


# ------------------------------------------------------------------ running a compiler


def run(command: list[str], target: str, folder: Path) -> None:
    """Run one compiler command in a folder; its first error becomes a CompileError's message.

    In a folder and not with a path, as zig 0.15 links Windows libraries only there; what else the
    compiler writes goes there, too.
    """
    options = {"capture_output": True, "text": True, "errors": "replace", "check": False}
    options |= {"env": os.environ | temporary(folder), "pass_fds": scratch.for_children()}
    try:
        done = subprocess.run(command, cwd=folder, **options)
    except OSError as error:
        raise CompileError(f"cannot run {command[0]}: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        errors = [line for line in lines if "error: " in line] or lines
        raise CompileError(f"compiling for {target} failed: {errors[0].strip()}")


def temporary(folder: Path) -> dict[str, str]:
    """Return the variables that make programs put their temporary files into a folder."""
    return dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))


def main(argv: list[str] | None = None) -> int:
    """Compile the kernels that the flags ask for and print their paths; return the exit status."""
    parser = argparse.ArgumentParser(description="Compile the C kernel that run.py loads.")
    parser.add_argument("--target", help=f"{', '.join(SYSTEMS)} or all (else: this machine)")
    parser.add_argument("-o", "--out-dir", default=HERE, type=Path, help="else: embed/kernels")
    parser.add_argument("--cc", help="the C compiler to use (else: $CC, cc, clang, gcc, zig)")
    args = parser.parse_args(argv)
    try:
        for target in SYSTEMS if args.target == "all" else [args.target]:
            print(compile_kernel(target, args.out_dir, args.cc))
    except CompileError as error:
        print(f"compile: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
