"""Where the compiled kernel is, and whether it can be trusted on this machine.

A library that is missing, foreign, stale or wrong on a tiny model is not used, and the reason is
told.
"""

import ctypes
import functools
import itertools
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from run import (
    Config,
    Layer,
    ModelError,
    ModelFile,
    NumPyBackend,
    QuantizedTensor,
    Transformer,
    Weights,
)

from .blocks import TYPES, BlockTensor
from .carried import find_carried
from .kernel import ABI, FUNCTIONS, KernelBackend
from .quantize import quantized
from .systems import kernel_file, this_system

Q4_0 = TYPES[2]
PREFIX = "run-kernel-"  # of temporary directories
copies: list[tuple[Path, int]] = []  # those of this process


@functools.cache
def load() -> Any:
    """Return the library, its functions declared. ModelError says why there is none."""
    name = kernel_file(this_system())
    try:
        kernel = ctypes.CDLL(str(library_path(name)))
        declare(kernel)
    except (OSError, AttributeError) as error:
        raise ModelError(f"{name} cannot be loaded: {error}") from None
    finally:
        if os.name == "posix":  # a loaded library needs no name
            remove_copies()
    if kernel.kernel_abi() != ABI:
        raise ModelError(f"{name} is of another version: compile it again (make kernel)")
    if not probe(kernel):
        raise ModelError(f"{name} computes wrong numbers on this machine")
    return kernel


def declare(kernel: Any) -> None:
    """Tell ctypes what the functions take and give."""
    for function, (result, *arguments) in FUNCTIONS.items():
        getattr(kernel, function).restype = result
        getattr(kernel, function).argtypes = arguments


def library_path(name: str) -> Any:
    """Return the library's path; out of a zip it goes into memory first: nothing loads from one."""
    path = Path(__file__).parent.parent / "kernels" / name
    if path.exists():
        return path
    files = find_carried()
    if name not in files:
        raise ModelError(f"there is no embed/kernels/{name}: compile it with make kernel")
    memory = memory_file(name)
    if memory is None:
        return temporary_copy(name, files[name])
    os.write(memory, files[name])
    return f"/proc/self/fd/{memory}"


def memory_file(name: str) -> int | None:
    """Return a file without a place on disk; None where there are none, or they are forbidden."""
    if not os.path.exists("/proc/self/fd"):
        return None
    create = getattr(os, "memfd_create", None)
    if create is None and os.name == "posix":  # a Python for an older system than this one
        create = getattr(ctypes.CDLL(None), "memfd_create", None)
    file = create(name.encode(), 0) if create else -1
    return file if file >= 0 else None


def temporary_copy(name: str, data: Any) -> Path:
    """Return a file with this content, for systems without files in memory; load removes it.

    Windows keeps a loaded library's file: there a later run removes it.
    """
    from . import scratch  # not at the start: it brings tempfile, which few systems need here

    copies.append(scratch.create(PREFIX))
    path = copies[-1][0] / name
    path.write_bytes(data)
    return path


def remove_copies() -> None:
    """Remove the copies of the library that this process made."""
    while copies:
        from . import scratch

        scratch.remove(*copies.pop())


def probe(kernel: Any) -> bool:
    """Whether the kernel agrees with NumPy on a tiny model: in float32, in int8, in blocks."""
    return all(agrees(kernel, *probe) for probe in PROBES)


def in_groups(matrix: np.ndarray) -> Any:
    """Return a matrix in int8 groups of 32."""
    return quantized(matrix, 32)


def in_nibbles(matrix: np.ndarray) -> QuantizedTensor:
    """Return a matrix in groups of 32 numbers of four bits, their scales of 16."""
    groups = matrix.reshape(len(matrix), -1, Q4_0.weights)
    scales = (np.abs(groups).max(axis=-1) / 7).astype(np.float16).astype(np.float32)
    q = np.rint(groups / scales[..., None]).clip(-8, 7)
    return QuantizedTensor(q.astype(np.int8), scales)


def in_blocks(matrix: np.ndarray) -> BlockTensor:
    """Return what in_nibbles returns as a GGUF has it."""
    nibbles = in_nibbles(matrix)
    low, high = np.split(nibbles.q.view(np.uint8) + np.uint8(8), 2, axis=-1)
    blocks = np.empty(nibbles.scales.shape, Q4_0.layout)
    blocks["d"] = nibbles.scales
    blocks["q"] = low | high << 4
    return BlockTensor(Q4_0, blocks)


# How matrices are made for NumPy, and for the kernel; what logits may be off by.
PROBES = (
    (np.asarray, np.asarray, 1e-4),
    (in_groups, in_groups, 1e-2),
    (in_nibbles, in_blocks, 1e-2),
)


def agrees(kernel: Any, plainly: Any, packed: Any, tolerance: float) -> bool:
    """Whether the logits of three tokens are those of NumPy, for matrices made by two functions."""
    tokens = [1, 2, 3]
    file = tiny_model(plainly)
    plain = Transformer(file, NumPyBackend(file.config), 8)
    expected = plain.forward(tokens, 0, last_only=False)
    file = tiny_model(packed)
    fast = Transformer(file, KernelBackend(file, kernel, 1), 8)
    logits = [fast.forward(tokens[:2], 0, last_only=False)]
    logits.append(fast.forward(tokens[2:], 2, last_only=False))
    return np.allclose(np.concatenate(logits), expected, atol=tolerance)


def tiny_model(make: Any) -> ModelFile:
    """Return a model of one layer; waves stand in for numpy.random, which executables lack."""
    config = Config(64, 96, 1, 4, 2, 40, 8)
    count = itertools.count(1)

    def matrix(*shape: int) -> np.ndarray:
        waves = np.sin(np.arange(math.prod(shape)) * 1.7 * next(count))
        return (waves * 0.2).astype(np.float32).reshape(shape)

    matrices = {name: make(matrix(*shape)) for name, shape in config.matrices().items()}
    layer = Layer(att_norm=matrix(64) + 1, ffn_norm=matrix(64) + 1, **matrices)
    tok_emb = make(matrix(40, 64))
    return ModelFile(config, Weights(tok_emb, [layer], matrix(64) + 1, tok_emb), "a tiny model")
