"""What the first bytes of a file say that llama2.c did not write."""

from typing import Any

from run import ModelError, ModelFile

from . import gguf


def zip_archive(buffer: Any) -> ModelFile:
    """PyTorch's files are zip archives."""
    raise ModelError("this is a zip or PyTorch file: export it for llama2.c or as GGUF")


READERS = {b"GGUF": gguf.read_gguf, b"PK\3\4": zip_archive}


def read(buffer: Any) -> ModelFile:
    """Read a model of one of these formats. ModelError if it cannot be used."""
    return READERS[bytes(buffer[:4])](buffer)
