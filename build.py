#!/usr/bin/env python3
"""Makes one file that carries a model and everything needed to run it.

    python build.py                                    dist/run, with the model in embed/
    python build.py --model m.gguf -o storyteller      another model
    python build.py --zipapp                           dist/run.pyz, for any Python with NumPy
    python build.py --universal                        dist/run.com, for Linux, macOS and Windows

The steps: check the model, compile the C kernel, collect Python and NumPy (packing/freeze.py), or
for another system put them together from packages (packing/assemble.py), and write the file, with
the model where it can be mapped (engine/archive.py). `make build` installs what this needs;
embed/packing/README.md tells the rest.
"""

import argparse
import importlib.util
import marshal
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

try:
    import run
except ModuleNotFoundError as error:
    sys.exit(f"build: {error.name} is missing: `make build` installs it, or pip install numpy")

from run.engine import archive, programs, scratch, systems
from run.engine.archive import Member
from run.packing import EMBED, ROOT, BuildError, compilers, engine_files, freeze, interpreters

Options = argparse.Namespace
DIST = ROOT / "dist"
PAGE = 4096  # the kernel starts on one, though it is copied before it is loaded
ZIPAPP_HEAD = b"#!/usr/bin/env python3\n"
ZIPAPP_MAIN = b"import sys\n\nimport run\n\nsys.exit(run.main())\n"


def say(text: object) -> None:
    print(f"build: {text}", file=sys.stderr, flush=True)


# ------------------------------------------------------------------ what goes into the file


def model_members(options: Options, place: Path) -> list[Member]:
    """Check model, tokenizer and default flags; return the Members that hold them."""
    model = model_path(options)
    tokenizer = options.tokenizer or tokenizer_beside(model)
    data = programs.tokenizer_for(model, tokenizer)
    source = to_int8(model, place) if options.int8 else model
    members = [programs.model_member(source)]
    if data:
        members.append(Member("tokenizer.bin", data))
    if options.args:
        check_flags(options.args)
        members.append(Member("args.txt", options.args.encode() + b"\n"))
    return members


def model_path(options: Options) -> Path:
    model = Path(options.model or EMBED / "model.bin")
    if not model.is_file() and not options.model:
        raise BuildError("there is no embed/model.bin: name a model with --model FILE")
    return model


def tokenizer_beside(model: Path) -> Path | None:
    """Return the tokenizer.bin in the model's directory, None without one and for a GGUF."""
    beside = model.with_name("tokenizer.bin")
    return beside if beside.is_file() and not is_gguf(model) else None


def is_gguf(model: Path) -> bool:
    with archive.opened(model) as file:
        return file.read(4) == b"GGUF"


def check_flags(text: str) -> None:
    """End the build with one line if run.py would refuse these default flags."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BuildError(f"--args {text!a}: this is not UTF-8") from None
    try:
        run.parse_args(shlex.split(text))
    except (ValueError, run.ModelError) as error:
        raise BuildError(f"--args {text}: {error}") from None


def to_int8(model: Path, place: Path) -> Path:
    """Write the model with its float matrices in int8; return its path, or that of the old one."""
    from run.engine import quantize

    say("rounding the weights to int8")
    target = place / "model.int8.bin"
    try:
        buffer = run.open_buffer(model)
        file = run.read_model(buffer)
        if is_gguf(model):
            changed = quantize.write_gguf(target, buffer)
        else:
            changed = not isinstance(file.weights.tok_emb, run.QuantizedTensor)
            if changed:
                quantize.write_v2(target, file.config, file.weights)
    except run.ModelError as error:
        raise BuildError(f"{model}: {error}") from None
    if changed:
        return target
    say(f"with {model} as it is: it holds no float matrices ({file.format})")
    return model


def compiled_kernels(targets: Iterable[str], place: Path) -> dict[str, Path]:
    """Compile the C kernel for each target; one that fails is left out, aloud."""
    kernels = {}
    for target in targets:
        try:
            kernels[target] = compilers.compile_kernel(target, place)
        except compilers.CompileError as error:
            say(f"without the C kernel for {target}, NumPy does its work: {error}")
    return kernels


def kernel_members(kernels: dict[str, Path]) -> list[Member]:
    return [Member(f"embed/kernels/{path.name}", path, PAGE) for path in kernels.values()]


def source_members() -> list[Member]:
    """Return what makes a zip a Python program, with byte code for this Python's version."""
    members = [Member("__main__.py", ZIPAPP_MAIN)]
    for path in engine_files():
        name = path.relative_to(ROOT).as_posix()
        source = path.read_bytes()
        code = compile(source, name, "exec", dont_inherit=True)
        header = importlib.util.MAGIC_NUMBER + bytes([1]) + bytes(11)  # never compared with a time
        members.append(Member(f"{name}c", header + marshal.dumps(code)))
        members.append(Member(name, source))
    return members


# ------------------------------------------------------------------ the kinds of files


def build_native(options: Options, place: Path) -> None:
    """Make the executable for this system, from the running Python."""
    system = systems.this_system()
    output = output_path(options, systems.executable_name("run", system))
    members = model_members(options, place)
    say("compiling")
    members += kernel_members(compiled_kernels([system], place))
    launcher = native_launcher(place)
    say("collecting Python and NumPy, about 15 seconds")
    pkg = freeze.freeze(place, small=options.small, bootloader=launcher is None)
    members.append(Member("app.pkg", pkg))
    write(output, launcher or freeze.bootloader(), members)
    version = freeze.glibc(pkg, *([launcher] if launcher else []))
    if version:
        say(f"it needs glibc {version} or newer (ldd --version tells); --portable needs less")


def native_launcher(place: Path) -> Path | None:
    """Return the launcher for this system, None where PyInstaller's bootloader takes its place."""
    if sys.platform != "linux":
        return None
    try:
        return compilers.compile_launcher(place)
    except compilers.CompileError as error:
        say(f"with PyInstaller's bootloader, which starts slower: {error}")
        return None


def build_target(options: Options, place: Path, name: str = "") -> None:
    """Make the executable for another system, from packages."""
    target = options.target
    interpreters.check(target, options.python)
    output = output_path(options, systems.executable_name(name or f"run-{target}", target))
    members = model_members(options, place)
    kernels = compiled_kernels([target], place)
    head, pkg = assembled(target, place, options, kernels)
    write(output, head, [*members, *kernel_members(kernels), Member("app.pkg", pkg)])


def build_portable(options: Options, place: Path) -> None:
    """Make the executable for this system, from packages that old distributions can run."""
    options.target = systems.this_system()
    if not options.target.startswith("linux"):
        raise BuildError("--portable is about glibc, which only Linux has: leave it out")
    build_target(options, place, "run")


def build_universal(options: Options, place: Path) -> None:
    """Make one file for Windows, Linux and whatever has Python with NumPy, and given programs."""
    from run.packing import universal

    given = given_programs(options.payload)
    universal.check_systems(given.keys() - {"windows-x86_64"})
    output = output_path(options, "run.com")
    members = model_members(options, place)
    kernels = compiled_kernels(systems.SYSTEMS, place)
    members += kernel_members(kernels) + source_members()
    options.python = None  # one interpreter cannot serve three systems
    inside = {}
    for system, path in given.items():
        take = universal.windows_of if system == "windows-x86_64" else universal.program_of
        inside[system] = take(path)
    for system in interpreters.PINNED:
        if system not in inside:
            inside[system] = assembled(system, place, options, kernels)
    windows = inside.pop("windows-x86_64")
    universal.build(output, windows, inside, members, progress=True)
    report(output)


def given_programs(payloads: list[str]) -> dict[str, str]:
    """Return the values of --payload: {system: path}."""
    given = {}
    for payload in payloads:
        system, equals, path = payload.partition("=")
        if not equals:
            raise BuildError(f"--payload {payload} must be SYSTEM=FILE, as macos-arm64=run-macos")
        given[system] = path
    return given


def build_zipapp(options: Options, place: Path) -> None:
    """Make the program as a zip that Python runs, with kernels for every system zig knows."""
    output = output_path(options, "run.pyz")
    targets = list(systems.SYSTEMS)
    if not compilers.zig():
        say("only this system's kernel goes in: python -m pip install ziglang for the others")
        targets = [systems.this_system()]
    say("compiling the kernel for " + ", ".join(targets))
    kernels = compiled_kernels(targets, place)
    members = source_members() + kernel_members(kernels) + model_members(options, place)
    write(output, ZIPAPP_HEAD, members)
    if output.stat().st_size >= archive.LIMIT:
        say("above 4 GB only Python 3.13 and newer can start it")


def build_kernel() -> None:
    """Compile the C kernel for this system, into embed/kernels, for `python run.py`."""
    say(f"{compilers.compile_kernel()} is compiled")


def assembled(
    target: str, place: Path, options: Options, kernels: dict[str, Path]
) -> tuple[bytes, Path]:
    """Return the program and the archive for a system, put together from packages."""
    from run.packing import assemble

    say(f"putting Python and NumPy for {target} together")
    folder = place / target
    folder.mkdir()
    return assemble.assemble(
        target, folder, kernel=kernels.get(target), python=options.python, small=options.small
    )


def output_path(options: Options, name: str) -> Path:
    """Return where to write: what the user named, else `name` in dist/.

    Refuses what could not be written at the end, and what the build reads.
    """
    if not options.output:
        DIST.mkdir(exist_ok=True)
    output = Path(options.output or DIST / name)
    archive.check_output(output, inputs(options))
    if output.exists():
        say(f"{output} is there already and will be replaced")
    return output


def inputs(options: Options) -> list[Path]:
    """Return the files that a build reads."""
    model = model_path(options)
    named = [options.tokenizer, options.python, *given_programs(options.payload).values()]
    beside = None if options.tokenizer else model.with_name("tokenizer.bin")
    return [Path(path) for path in (model, beside, *named, *sources()) if path]


def sources() -> list[Path]:
    """Return the files of this project that a build reads."""
    rooms = (path for path in EMBED.glob("*/*") if path.suffix != ".bin")
    return [Path(__file__), ROOT / "run.py", *rooms]


def write(output: Path, head: bytes | Path, members: list[Member]) -> None:
    archive.write(output, head, members, progress=True)
    report(output)


def report(output: Path) -> None:
    """Say what was written and how large its parts are."""
    total = output.stat().st_size
    model = archive.Archive(output).entries["model.bin"].packed
    say(f"{output}: {total / 1e6:.1f} MB, {model / 1e6:.1f} of them the model")


# ------------------------------------------------------------------ the command line


def parse_args(argv: list[str] | None) -> Options:
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
    kinds.add_argument("--kernel", action="store_true", help="only compile the C kernel")
    return parser.parse_args(argv)


def build(options: Options, place: Path) -> None:
    """Make what the command line asks for."""
    archive.stamp()  # a SOURCE_DATE_EPOCH of no use is known before any work
    if options.target:
        build_target(options, place)
    elif options.portable:
        build_portable(options, place)
    elif options.zipapp:
        build_zipapp(options, place)
    elif options.universal:
        build_universal(options, place)
    elif options.kernel:
        build_kernel()
    else:
        build_native(options, place)


def main(argv: list[str] | None = None) -> int:
    """Build, and return the exit status; every failure is one line on stderr."""
    options = parse_args(argv)
    try:
        with scratch.directory(compilers.SCRATCH) as place:
            build(options, place)
        return 0
    except (BuildError, archive.ArchiveError, run.ModelError) as error:
        say(error)
    except OSError as error:
        say(f"{error.filename or 'writing'}: {error.strerror}")
    except KeyboardInterrupt:
        say("interrupted: nothing was written")
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
