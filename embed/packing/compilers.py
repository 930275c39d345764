"""Compiles embed/kernels/kernel.c into the library that run.py loads, for this machine or for another one.

    python embed/packing/compilers.py                         # this machine: $CC, cc, clang, gcc or ziglang
    python embed/packing/compilers.py --target macos-aarch64  # any of TARGETS: pip install ziglang
    python embed/packing/compilers.py --target all

The result is embed/kernels/kernels-<system>-<machine>.<so|dylib|dll>; the same compiler gives the same
bytes.
"""

import argparse
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent / "kernels"
SOURCE = HERE / "kernel.c"
FLAGS = (
    "-O3 -std=gnu11 -ffp-contract=off -fno-math-errno -fno-trapping-math -fno-stack-protector "
    "-fvisibility=hidden"
).split()
SUFFIX = {"linux": "so", "freebsd": "so", "macos": "dylib", "windows": "dll"}
# Name: zig's triple, flags of its own. The Linux libraries name no C library, so that they load
# under glibc and under musl.
TARGETS = {
    "linux-x86_64": ("x86_64-linux-gnu.2.17", []),
    "linux-aarch64": ("aarch64-linux-gnu.2.17", ["-mno-outline-atomics"]),
    "linux-riscv64": ("riscv64-linux-gnu.2.27", []),
    "macos-x86_64": ("x86_64-macos.11.0", []),
    "macos-aarch64": ("aarch64-macos.11.0", []),
    "windows-x86_64": ("x86_64-windows-gnu", []),
    "windows-aarch64": ("aarch64-windows-gnu", []),
    "freebsd-x86_64": ("x86_64-freebsd", ["-lpthread"]),
}


class CompileError(Exception):
    """No compiler, or it failed: the message is one line for the user."""


def native_target() -> str:
    """The name of this machine's target, such as linux-x86_64."""
    system = {"Darwin": "macos"}.get(platform.system(), platform.system().lower())
    machine = platform.machine().lower()
    return f"{system}-{ {'amd64': 'x86_64', 'arm64': 'aarch64'}.get(machine, machine) }"


def library_name(target: str) -> str:
    """The file name that run.py looks for: kernels-linux-x86_64.so."""
    return f"kernels-{target}.{SUFFIX.get(target.split('-')[0], 'so')}"


def zig() -> list[str] | None:
    """The command of the PyPI package ziglang, or of a zig on the path."""
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang"]
    return [shutil.which("zig")] if shutil.which("zig") else None


def native_compiler() -> list[str] | None:
    """$CC if set, else the first of cc, clang and gcc that is installed."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    found = next((cc for cc in ("cc", "clang", "gcc") if shutil.which(cc)), None)
    return [found] if found else None


def commands(target: str | None, cc: str | None, out: str) -> list[list[str]]:
    """What to run, in a folder of its own, to get the library in the file out.

    A named target is for everybody and zig's affair; this machine's own is its compiler's.
    Raises CompileError without a compiler.
    """
    compiler = shlex.split(cc) if cc else native_compiler()
    here = target in (None, native_target())
    if compiler and (cc or (here and not (target and zig()))):
        return [[*compiler, *FLAGS, *"-fPIC -shared -pthread -s -o".split(), out, str(SOURCE)]]
    target = target or native_target()
    if target not in TARGETS:
        raise CompileError(f"unknown target {target!r}; choose from {', '.join(TARGETS)}")
    if not zig():
        raise CompileError("no C compiler found: install cc, clang or gcc, or pip install ziglang")
    triple, extra = TARGETS[target]
    build = [*zig(), "cc", "-target", triple, *FLAGS, "-g0", str(SOURCE)]
    if not target.startswith("linux"):
        return [[*build, "-shared", "-s", *extra, "-o", out]]
    part = f"{out}.o"
    link = [*zig(), *"ld.lld -shared -s --build-id=none".split(), *"-z now -z relro".split()]
    return [[*build, *extra, "-fPIC", "-c", "-o", part], [*link, part, "-o", str(out)]]


def compile_kernel(target: str | None = None, out_dir: Path = HERE, cc: str | None = None) -> Path:
    """Compiles kernels.c for target (this machine if None) and returns the library's path.

    It is written aside and renamed, so that a program using the old one is not disturbed.
    Raises CompileError with one line when there is no compiler or it fails.
    """
    name = target or native_target()
    final = Path(out_dir) / library_name(name)
    try:
        with tempfile.TemporaryDirectory(dir=out_dir) as aside:
            for command in commands(target, cc, final.name):
                run(command, name, aside)
            os.chmod(Path(aside) / final.name, 0o644)
            os.replace(Path(aside) / final.name, final)
    except OSError as error:
        raise CompileError(f"cannot write {final}: {error.strerror or error}") from None
    return final


def run(command: list[str], target: str, folder: str | None = None) -> None:
    """Runs one compiler command (in folder); its first error becomes a CompileError's message.

    In a folder and not with a path, as zig 0.15 links Windows libraries only there.
    """
    options = {"capture_output": True, "text": True, "errors": "replace", "check": False}
    try:
        done = subprocess.run(command, cwd=folder, **options)
    except OSError as error:
        raise CompileError(f"cannot run {command[0]}: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        first = next((line for line in lines if "error: " in line), lines[0])
        raise CompileError(f"compiling for {target} failed: {first.strip()}")


def main(argv: list[str] | None = None) -> int:
    """Compiles what the flags ask for; prints the paths. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Compile the C kernel that run.py loads.")
    parser.add_argument("--target", help=f"{', '.join(TARGETS)} or all; default: this machine")
    parser.add_argument("-o", "--out-dir", default=HERE, type=Path, help="default: here")
    parser.add_argument("--cc", help="the C compiler to use (default: $CC, cc, clang, gcc, zig)")
    args = parser.parse_args(argv)
    try:
        for target in TARGETS if args.target == "all" else [args.target]:
            print(compile_kernel(target, args.out_dir, args.cc))
    except CompileError as error:
        print(f"compile: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
