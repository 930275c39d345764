"""New programs out of the running one: --embed and --assimilate.

embed("model.gguf", None, "myrun")   # a copy of the running program with another model in it
assimilate("run")                    # out of a universal file, the program of this system alone
"""

import base64
import json
import os
from pathlib import Path

import run
from run import ModelError

from . import systems
from .archive import Archive, ArchiveError, Member, Slice, check_output, opened, rewrite, write
from .carried import KERNELS, NAMES, running_archive

MODEL_ALIGN = 64  # a cache line, and what the widest vector loads like best
V0_HEADER = 28  # bytes before the weights of llama2.c's first format, which has no magic number
MAGICS = b"GGUF", b"24ka"  # the other formats keep their own alignment
INDEX = "universal.json"  # what a universal file has of its bootloader's head, which it changes


# ------------------------------------------------------------------ a model for a program


def model_member(source: Path | Slice) -> Member:
    """Return the Member that holds a model, with its weights on a cache line."""
    if isinstance(source, Slice):
        path, offset = source.path, source.offset
    else:
        path, offset = source, 0
    with opened(path) as file:
        file.seek(offset)
        magic = file.read(4)
    skew = 0 if magic in MAGICS else V0_HEADER
    return Member("model.bin", source, MODEL_ALIGN, skew)


def tokenizer_for(
    model: str | Path, tokenizer: str | Path | None = None, archive: Archive | None = None
) -> bytes | None:
    """Check that a model can be used, and return its tokenizer.bin, None if it brings its own.

    archive: where a tokenizer is taken from when neither names or brings one.
    Raises ModelError.
    """
    try:
        file = run.read_model(run.open_buffer(model))
    except ModelError as error:
        raise ModelError(f"{model}: {error}") from None
    if tokenizer is None and file.tokenizer is not None:
        return None
    if tokenizer is not None:
        with opened(tokenizer) as stream:
            data = stream.read()
    elif archive and "tokenizer.bin" in archive.entries:
        tokenizer = "the tokenizer in this program"
        data = archive.read("tokenizer.bin")
    else:
        raise ModelError(f"{model} has no tokenizer in it: name one (-z TOKENIZER)")
    check_size(tokenizer, data, model, file.config.vocab_size)
    return data


def check_size(tokenizer: str | Path, data: bytes, model: str | Path, vocab_size: int) -> None:
    """Raise ModelError unless a tokenizer.bin has as many tokens as the model."""
    try:
        run.read_tokenizer(data, vocab_size)
    except ModelError as error:
        raise ModelError(f"{tokenizer}, for {model}: {error}") from None


# ------------------------------------------------------------------ --embed


def embed(model: str | Path, tokenizer: str | Path | None, output: str | Path) -> str:
    """Write a copy of the running program with another model in it; return what to say.

    tokenizer: a path or None: a GGUF brings its own, any other model keeps the one that is there
    if it fits. Raises ModelError, before anything is written, if the two cannot be used.
    """
    path = running_archive()
    if path is None:
        raise ModelError(
            "--embed copies a built program, and this is its source: "
            f"use python build.py --model {model} -o {output or 'myrun'}"
        )
    if not output:
        raise ModelError("--embed needs -o NAME, the executable to write")
    if same_file(output, path):
        raise ModelError(f"{output} is the running program: choose another name with -o")
    try:
        check_output(output, [model, *([tokenizer] if tokenizer else [])])
        old = replaces(output)
        archive = Archive(path)
        data = tokenizer_for(model, tokenizer, archive)
        changes = {"model.bin": model_member(Path(model)), "tokenizer.bin": None}
        if data:
            changes["tokenizer.bin"] = Member("tokenizer.bin", data)
        rewrite(output, archive, changes, progress=True)
    except ArchiveError as error:
        raise ModelError(str(error)) from None
    return f"{output} is written: {os.path.getsize(output) / 1e6:.1f} MB{old}"


def same_file(output: str | Path, path: str | Path) -> bool:
    return os.path.exists(output) and os.path.samefile(output, path)


def replaces(output: str | Path) -> str:
    """Return what to add to the message that a file is written."""
    return ", in place of the file that was there" if os.path.exists(output) else ""


# ------------------------------------------------------------------ --assimilate


def assimilate(output: str | Path | None, path: str | Path | None = None) -> str:
    """Write this system's program, with the model, as a plain executable; return what to say.

    path: a universal file; None is the running one. Raises ModelError.
    """
    path = path or running_archive()
    system = systems.this_system()
    try:
        archive = Archive(path) if path else None
        if path is None or archive is None or INDEX not in archive.entries:
            raise ModelError("--assimilate is for universal files: this program is a plain one")
        if not output:
            raise ModelError("--assimilate needs -o NAME, the executable to write")
        if same_file(output, path):
            raise ModelError(f"{output} is the universal file: choose another name with -o")
        check_output(output)
        old = replaces(output)
        head, pkg = program_for(system, archive)
        write(output, head, members_for(system, archive, pkg), progress=True)
    except ArchiveError as error:
        raise ModelError(str(error)) from None
    return f"{output} is written{old}"


def program_for(system: str, archive: Archive) -> tuple[bytes, str | None]:
    """Return a system's program out of a universal file, and the name of its PKG if it has one."""
    if system.startswith("windows"):
        return windows_program(archive), "app.pkg"
    if f"program/{system}" not in archive.entries:
        inside = [name for name in archive.entries if name.startswith("program/")]
        has = ", ".join(name.removeprefix("program/") for name in inside)
        raise ModelError(f"no program for {system} is inside, only windows and {has}")
    pkg = f"{system}.pkg"
    return archive.read(f"program/{system}"), pkg if pkg in archive.entries else None


def windows_program(archive: Archive) -> bytes:
    """Return the bootloader that is the head of a universal file, with its own DOS part."""
    try:
        index = json.loads(archive.read(INDEX))
        with opened(archive.path) as file:
            head = file.read(index["bootloader"])
        own = base64.b64decode(index["dos"])
    except (ValueError, KeyError, TypeError):
        raise ArchiveError(f"{INDEX} in {archive.path} is damaged: copy it again") from None
    return own + head[len(own) :]


def members_for(system: str, archive: Archive, pkg: str | None) -> list[Member]:
    """Return what a plain executable needs of a universal file's members, the PKG last."""
    wanted = [*NAMES, KERNELS + systems.kernel_file(system)]
    members = [archive.member(name) for name in archive.entries if name in wanted]
    if pkg:
        members.append(archive.member(pkg)._replace(name="app.pkg"))
    return members
