"""--embed: a copy of the running program with another model inside."""

import os
from pathlib import Path

from .archive import Archive, Member, PackError, model_member, opened, rewrite
from .carried import running_archive


def embed(model, tokenizer, output):
    """Writes a copy of the running program to `output` with another model in it -> what to say.

    tokenizer: path or None: a GGUF brings its own, any other model keeps the one that is there if
    it fits. Raises run.ModelError, before anything is written, if the two cannot be used.
    """
    from run import ModelError

    try:
        path = running_archive()
        if path is None:
            raise PackError(
                "--embed copies a built program, and this is its source: "
                f"use python build.py --model {model} -o {output or 'myrun'}"
            )
        if not output:
            raise PackError("--embed needs -o NAME, the executable to write")
        if os.path.exists(output) and os.path.samefile(output, path):
            raise PackError(f"{output} is the running program: choose another name with -o")
        archive = Archive(path)
        data = tokenizer_for(model, tokenizer, archive)
        changes = {"model.bin": model_member(Path(model))}
        changes["tokenizer.bin"] = Member("tokenizer.bin", data) if data else None
        rewrite(output, archive, changes, progress=True)
    except PackError as error:
        raise ModelError(str(error)) from None
    return f"{output} is written: {os.path.getsize(output) / 1e6:.1f} MB"


def tokenizer_for(model, tokenizer=None, archive=None):
    """Checks a model and its tokenizer -> bytes of tokenizer.bin, None if the model brings one.

    archive: an Archive whose tokenizer is used when neither brings one.
    """
    import run

    try:
        config, _, _, own = run.read_model(run.open_buffer(model))
    except run.ModelError as error:
        raise PackError(f"{model}: {error}") from None
    if tokenizer is None and own is not None:
        return None
    if tokenizer is not None:
        with opened(tokenizer) as file:
            data = file.read()
    elif archive and "tokenizer.bin" in archive.entries:
        tokenizer, data = "the tokenizer in this program", archive.read("tokenizer.bin")
    else:
        raise PackError(f"{model} has no tokenizer in it: name one (-z TOKENIZER)")
    try:
        found = len(run.read_tokenizer(data).pieces)
    except run.ModelError as error:
        raise PackError(f"{tokenizer}: {error}") from None
    if found != config.vocab_size:
        sizes = f"{found:,} tokens and {model} {config.vocab_size:,}"
        raise PackError(f"{tokenizer} has {sizes}: name the model's own tokenizer (-z)")
    return data
