"""Which backend computes a model: the C kernel, or NumPy as it fits the model's weights."""

from run import ModelError, ModelFile, NumPyBackend, QuantizedTensor

from .cores import available_cpus
from .exact import Exact
from .threaded import Threaded

MOST_THREADS = 1024


def choose(file: ModelFile, wanted: str, threads: int) -> NumPyBackend:
    """Return the backend for a file: "c", "numpy", or "auto", which is C where it can be had.

    file.weights are prepared for it. ModelError if C is wanted and cannot be had.
    """
    if not 0 <= threads <= MOST_THREADS:
        raise ModelError(f"threads is {threads}; it must be from 0 (all cores) to {MOST_THREADS}")
    threads = threads or available_cpus()
    if wanted == "numpy":
        return numpy_backend(file, threads, "as asked")
    try:
        return c_backend(file, threads)
    except ModelError as reason:
        if wanted == "c":
            raise
        return numpy_backend(file, threads, str(reason))


def c_backend(file: ModelFile, threads: int) -> NumPyBackend:
    """Return the C kernel. ModelError if there is none that works here."""
    try:
        from . import kernel, library
    except ImportError as error:
        raise ModelError(f"the C kernel needs ctypes, which this Python lacks: {error}") from None
    return kernel.KernelBackend(file, library.load(), threads)


def numpy_backend(file: ModelFile, threads: int, reason: str) -> NumPyBackend:
    """Return the NumPy backend for a file's weights; int8 groups are computed as runq.c does."""
    description = f"numpy, {reason}"
    if isinstance(file.weights.tok_emb, QuantizedTensor):
        return Exact(file.config, description)
    return Threaded(file.config, description, threads)
