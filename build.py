#!/usr/bin/env python3
"""Makes one file that carries a model and everything needed to run it.

    python build.py                                    dist/run, with the model in embed/
    python build.py --model m.gguf -o storyteller      another model
    python build.py --zipapp                           dist/run.pyz, for any Python with NumPy
    python build.py --universal                        dist/run.com, for Linux, macOS and Windows

The steps: check the model, compile the C kernel, collect Python and NumPy (embed/freeze.py), or
for another system put them together from packages (embed/assemble.py), and write the file, with
the model where it can be mapped (embed/pack.py). `make build` installs what this needs.
"""

import argparse
import contextlib
import importlib.util
import marshal
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from embed import compile as compiler
from embed import freeze, pack
from embed.pack import Member

ROOT = Path(__file__).resolve().parent
EMBED = ROOT / "embed"
DIST = ROOT / "dist"
PAGE = 4096  # the kernel starts on one, though it is copied before it is loaded
ZIPAPP_HEAD = b"#!/usr/bin/env python3\n"
ZIPAPP_MAIN = b"import sys\n\nimport run\n\nsys.exit(run.main())\n"


class BuildError(Exception):
    """The build cannot go on; the message is one line: what, and what to do."""


def say(text):
    print(f"build: {text}", file=sys.stderr, flush=True)


# ------------------------------------------------------------------ what goes into the file


def model_members(options, scratch):
    """Checks model, tokenizer and default flags -> the Members that hold them."""
    engine = import_engine()
    model, tokenizer = Path(options.model or EMBED / "model.bin"), options.tokenizer
    if not model.is_file() and not options.model:
        raise BuildError("there is no embed/model.bin: name a model with --model FILE")
    beside = model.with_name("tokenizer.bin")
    try:
        with open(model, "rb") as file:
            is_gguf = file.read(4) == b"GGUF"
    except OSError as error:
        raise BuildError(f"cannot read {model}: {error.strerror}") from None
    if tokenizer is None and not is_gguf and beside.is_file():
        tokenizer = beside
    data = pack.tokenizer_for(model, tokenizer)
    source = to_int8(engine, model, is_gguf, scratch) if options.int8 else model
    members = [pack.model_member(source)]
    if data:
        members.append(Member("tokenizer.bin", data))
    if options.args:
        try:
            engine.parse_args(shlex.split(options.args))  # a bad flag ends the build with one line
        except (ValueError, engine.ModelError) as error:
            raise BuildError(f"--args {options.args}: {error}") from None
        members.append(Member("args.txt", options.args.encode() + b"\n"))
    return members


def import_engine():
    """-> the module run; BuildError if NumPy, which it needs, is missing."""
    try:
        import run
    except ImportError as error:
        raise BuildError(f"{error}: `make build` installs what is needed") from None
    return run


def to_int8(engine, model, is_gguf, scratch):
    """Writes a model with its float matrices in int8 -> its path; one in int8 already stays."""
    from embed import quantize

    say("rounding the weights to int8")
    target, buffer = Path(scratch) / "model.int8.bin", engine.open_buffer(model)
    try:
        config, weights, kind, _ = engine.read_model(buffer)
        if is_gguf:
            changed = quantize.write_gguf(target, buffer)
        elif changed := not isinstance(weights.tok_emb, engine.QuantizedTensor):
            quantize.write_v2(target, config, weights)
    except engine.ModelError as error:
        raise BuildError(f"{model}: {error}") from None
    if not changed:
        say(f"with {model} as it is: it holds no float matrices ({kind})")
    return target if changed else model


def kernel_members(targets, scratch):
    """Compiles the C kernel for each target -> Members; a target that fails is left out, aloud."""
    members = []
    for target in targets:
        try:
            path = compiler.compile_kernel(target, Path(scratch))
            members.append(Member(f"embed/{path.name}", path, PAGE))
        except compiler.CompileError as error:
            say(f"without the C kernel for {target}, NumPy does its work: {error}")
    return members


def source_members():
    """-> the Members that make a zip a Python program, with byte code for this Python's version."""
    modules = [EMBED / f"{name.removeprefix('embed.')}.py" for name in freeze.runtime_modules()]
    members = [Member("__main__.py", ZIPAPP_MAIN), Member("embed/__init__.py", b"")]
    for path in [ROOT / "run.py", *modules]:
        name = path.relative_to(ROOT).as_posix()
        source = path.read_bytes()
        code = compile(source, name, "exec", dont_inherit=True)
        header = importlib.util.MAGIC_NUMBER + bytes([1]) + bytes(11)  # never compared with a time
        members += [Member(name + "c", header + marshal.dumps(code)), Member(name, source)]
    return members


# ------------------------------------------------------------------ the kinds of files


def build_native(options, scratch):
    """The executable for this system, from the running Python."""
    output = output_path(options, "run.exe" if os.name == "nt" else "run")
    members = model_members(options, scratch)
    say("compiling")
    members += kernel_members([compiler.native_target()], scratch)
    head = None
    if sys.platform == "linux":
        try:
            head = freeze.compile_launcher(scratch)
        except compiler.CompileError as error:
            say(f"with PyInstaller's bootloader, which starts slower: {error}")
    say("collecting Python and NumPy, about 15 seconds")
    pkg = freeze.freeze(scratch, small=options.small, bootloader=head is None)
    members.append(Member("app.pkg", pkg))
    write(output, head or freeze.bootloader(), members)
    if version := freeze.glibc(pkg, *([head] if head else [])):
        say(f"it needs glibc {version} or newer (ldd --version tells); --portable needs less")


def build_target(options, scratch, target):
    """The executable for another system, from packages."""
    suffix = ".exe" if target.startswith("windows") else ""
    output = output_path(options, f"run-{target}{suffix}")
    members = model_members(options, scratch)
    head, pkg = assembled(target, scratch, options)
    members += kernel_members([kernel_target(target)], scratch)
    write(output, head, [*members, Member("app.pkg", pkg)])


def build_portable(options, scratch):
    """The executable for this system, from packages that old distributions can run."""
    target = compiler.native_target()
    if not target.startswith("linux"):
        raise BuildError("--portable is about glibc, which only Linux has: leave it out")
    options.output = output_path(options, "run")
    build_target(options, scratch, target)


def build_universal(options, scratch):
    """One file for Windows, Linux and whatever has Python with NumPy, and for given programs."""
    from embed import universal

    output = output_path(options, "run.com")
    members = model_members(options, scratch)
    members += kernel_members(compiler.TARGETS, scratch)
    members += source_members()
    given = {}
    for payload in options.payload:
        system, equals, path = payload.partition("=")
        if not equals:
            raise BuildError(f"--payload {payload} must be SYSTEM=FILE, as macos-arm64=run-macos")
        given[system] = path
    windows_file = given.pop("windows-x86_64", None)
    programs = {system: universal.program_of(path) for system, path in given.items()}
    options.python = None  # one interpreter cannot serve three systems
    for target in sorted({"linux-x86_64", "linux-aarch64"} - set(programs)):
        programs[target] = assembled(target, scratch, options)
    if windows_file:
        windows = universal.windows_of(windows_file)
    else:
        windows = assembled("windows-x86_64", scratch, options)
    universal.build(output, windows, programs, members, progress=True)
    report(output)


def build_zipapp(options, scratch):
    """The program as a zip that Python runs, with kernels for every system zig compiles for."""
    output = output_path(options, "run.pyz")
    targets = compiler.TARGETS if compiler.zig() else [compiler.native_target()]
    if not compiler.zig():
        say("only this system's kernel goes in: python -m pip install ziglang for the others")
    say("compiling the kernel for " + ", ".join(targets))
    members = source_members() + kernel_members(targets, scratch) + model_members(options, scratch)
    write(output, ZIPAPP_HEAD, members)
    if output.stat().st_size >= pack.LIMIT:
        say("above 4 GB only Python 3.13 and newer can start it")


def build_kernel(options, scratch):
    """The C kernel for this system, into embed/, for `python run.py`."""
    say(f"{compiler.compile_kernel()} is compiled")


def assembled(target, scratch, options):
    """-> (program, archive) of embed/assemble.py."""
    from embed import assemble

    say(f"putting Python and NumPy for {target} together")
    place = Path(scratch) / target
    place.mkdir()
    try:
        return assemble.assemble(target, place, python=options.python, small=options.small)
    except (assemble.AssembleError, assemble.FetchError) as error:
        raise BuildError(str(error)) from None


def kernel_target(target):
    """assemble.py says arm64 where a system does; kernels always say aarch64."""
    return target.replace("arm64", "aarch64")


def output_path(options, name):
    """-> where to write: what the user named, else `name` in dist/."""
    if options.output:
        return Path(options.output)
    DIST.mkdir(exist_ok=True)
    return DIST / name


def write(output, head, members):
    pack.write(output, head, members, progress=True)
    report(output)


def report(output):
    """Says what was written and how large its parts are."""
    entries = pack.Archive(output).entries
    total, model = output.stat().st_size, entries["model.bin"].packed
    say(f"{output}: {total / 1e6:.1f} MB, {model / 1e6:.1f} of them the model")


# ------------------------------------------------------------------ the command line


def parse_args(argv):
    parser = argparse.ArgumentParser(
        "build.py", description="Makes one file that carries a model and runs it."
    )
    add = parser.add_argument
    add("--model", metavar="FILE", help="a llama2.c checkpoint or a GGUF (embed/model.bin)")
    add("--tokenizer", "-z", metavar="FILE", help="its tokenizer.bin; a GGUF needs none")
    add("--output", "-o", metavar="FILE", help="where to write (dist/run)")
    add("--int8", action="store_true", help="store the weights in int8, a quarter of float32")
    add("--args", metavar="FLAGS", help='default flags of run, such as "-t 0.8 -m chat"')
    add("--small", action="store_true", help="compress: a third of the size, a slower start")
    add("--python", metavar="ARCHIVE", help="for --target: an interpreter that runs there")
    add("--payload", metavar="SYSTEM=FILE", action="append", default=[],
        help="a program built there, for --universal: macos-arm64=run-macos-arm64")  # fmt: skip
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--portable", action="store_true", help="run on older Linux systems too")
    kinds.add_argument("--zipapp", action="store_true", help="run.pyz, for Python with NumPy")
    kinds.add_argument("--target", metavar="SYSTEM", help="windows-x86_64, linux-aarch64, ...")
    kinds.add_argument("--universal", action="store_true", help="one file for all systems")
    kinds.add_argument("--kernel", action="store_true", help="only compile embed/kernels.c")
    return parser.parse_args(argv)


def build(options, scratch):
    """Makes what the command line asks for."""
    if options.target:
        return build_target(options, scratch, options.target)
    kinds = {
        "portable": build_portable,
        "zipapp": build_zipapp,
        "universal": build_universal,
        "kernel": build_kernel,
    }
    chosen = next((make for name, make in kinds.items() if getattr(options, name)), build_native)
    return chosen(options, scratch)


@contextlib.contextmanager
def scratch_directory():
    """A directory for what is in between; those that killed builds left are removed."""
    place = Path(tempfile.gettempdir())
    for left in place.glob("run-build-*-*"):
        if os.name == "posix" and not alive(left.name.split("-")[2]):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"run-build-{os.getpid()}-") as scratch:
        yield scratch


def alive(pid):
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass  # somebody else's
    return True


def main(argv=None):
    """Returns the exit status; every failure is one line on stderr."""
    options = parse_args(argv)
    try:
        with scratch_directory() as scratch:
            build(options, scratch)
        return 0
    except (BuildError, pack.PackError, freeze.FreezeError, compiler.CompileError) as error:
        say(error)
    except OSError as error:
        say(f"{error.filename or 'writing'}: {error.strerror}")
    except KeyboardInterrupt:
        say("interrupted: nothing was written")
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
