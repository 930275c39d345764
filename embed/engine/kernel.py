"""The C kernel: embed/kernels, compiled, behind the same three functions as run.Transformer.

CTransformer hands the kernel pointers once; afterwards a layer costs two calls. A library that is
missing, foreign, stale or wrong on a tiny model is not used, and the reason is told.
"""

import ctypes
import functools
import itertools
import math
import os
import platform
import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np

from run import Config, ModelError, QuantizedTensor, Transformer, Weights, extra, progress

from .exact import InOrder

ABI = 3  # of embed/kernels/kernel.h
PREFIX = "run-kernel-"  # of temporary directories
MATRICES = "wq", "wk", "wv", "wo", "w1", "w2", "w3"
SIZES = "dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "head_size", "max_rows"
POINTER, INT32, INT64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
FUNCTIONS = {  # name: result, arguments
    "kernel_abi": (INT32,),
    "kernel_isa": (ctypes.c_char_p,),
    "pool_new": (POINTER, INT32),
    "pool_free": (None, POINTER),
    "tensor_type": (INT32, ctypes.c_char_p),
    "packed_bytes": (INT64, INT32, INT32, INT32, INT32),
    "packed_scales": (INT64, INT32, INT32, INT32, INT32),
    "pack_int8": (None, POINTER, POINTER, INT32, INT32, INT32, POINTER, POINTER),
    "keys_floats": (INT64, POINTER, INT32),
    "values_floats": (INT64, POINTER, INT32),
    "scratch_floats": (INT64, POINTER, INT32),
    "attention": (None, POINTER, POINTER, POINTER, POINTER, INT32, INT32),
    "feed_forward": (None, POINTER, POINTER, POINTER, POINTER, INT32),
    "classify": (None, POINTER, POINTER, POINTER, POINTER, POINTER, INT32, POINTER),
}


class CTensor(ctypes.Structure):
    """A matrix of a tensor_type(): float32 in place, or int8 groups in the kernel's own order."""

    _fields_ = [("data", POINTER), ("scales", POINTER)]
    _fields_ += [(name, INT32) for name in ("out", "in_", "group", "type")]


class CLayer(ctypes.Structure):
    """The pointers of one layer, and which one it is."""

    _fields_ = [(name, POINTER) for name in ("att_norm", "ffn_norm")]
    _fields_ += [(name, CTensor) for name in MATRICES]
    _fields_ += [("index", INT32)]


class CModel(ctypes.Structure):
    """What the kernel must know of a Transformer."""

    _fields_ = [("pool", POINTER), *((name, INT32) for name in SIZES), ("eps", ctypes.c_float)]


class CCache(ctypes.Structure):
    """One conversation: all that a forward pass writes but x and the logits."""

    _fields_ = [(name, POINTER) for name in ("keys", "values", "rope", "scratch")]
    _fields_ += [("context", INT32)]


class CTransformer(InOrder):
    """A Transformer whose attention, feed_forward and classify run in C on a pool of threads."""

    def __init__(self, config, weights, context, threads=0, kernel=None):
        super().__init__(config, weights, context)
        self.kernel, self.memory = kernel or load(), []  # memory: what the kernel points into
        threads = threads or available_cpus()
        self.backend = f"c ({self.kernel.kernel_isa().decode()}, threads: {threads})"
        pool = self.kernel.pool_new(threads)
        weakref.finalize(self, self.kernel.pool_free, pool)
        sizes = vars(config) | {"max_rows": len(self.x)}
        self.c_model = CModel(pool, *(sizes[name] for name in SIZES), config.norm_eps)
        self.pointer, self.x_pointer = ctypes.addressof(self.c_model), self.x.ctypes.data
        self.c_cache = self.new_cache(context)
        self.cache_pointer = ctypes.addressof(self.c_cache)
        for index, layer in enumerate(progress(weights.layers, "preparing the weights")):
            self.prepare(layer, index)
        self.wcls = self.tensor(weights.wcls)

    def new_cache(self, context):
        """Memory for one conversation; it is taken from the system as the text grows."""
        parts = self.kernel.keys_floats, self.kernel.values_floats, self.kernel.scratch_floats
        try:
            keys, values, scratch = (self.aligned(4 * f(self.pointer, context)) for f in parts)
        except MemoryError:
            raise ModelError(f"no memory for a context of {context:,}: use -n") from None
        return CCache(keys, values, self.rope.ctypes.data, scratch, context)

    def prepare(self, layer, index):
        """Build the C view of a layer; what is packed is not kept twice."""
        view = CLayer(layer.att_norm.ctypes.data, layer.ffn_norm.ctypes.data)
        view.index = index
        for name in MATRICES:
            w = getattr(layer, name)
            setattr(view, name, self.tensor(w))
            if isinstance(w, QuantizedTensor):
                w.q = w.scales = None
        self.memory.append(view)
        layer.pointer = ctypes.addressof(view)

    def aligned(self, size):
        """The address of that many bytes, on a cache line, that live as long as the model."""
        self.memory.append(np.empty(size + 64, np.uint8))
        address = self.memory[-1].ctypes.data
        return address + -address % 64

    def tensor(self, w):
        """The C view of a matrix; int8 groups are packed, once."""
        if not isinstance(w, QuantizedTensor):
            return CTensor(w.ctypes.data, None, *w.shape, 0, self.kernel.tensor_type(b"float32"))
        shape, int8 = (*w.shape, w.group), self.kernel.tensor_type(b"int8")
        data = self.aligned(self.kernel.packed_bytes(int8, *shape))
        scales = self.aligned(4 * self.kernel.packed_scales(int8, *shape))
        q, s = np.ascontiguousarray(w.q), np.ascontiguousarray(w.scales)
        self.kernel.pack_int8(q.ctypes.data, s.ctypes.data, *shape, data, scales)
        return CTensor(data, scales, *shape, int8)

    def attention(self, layer, x, pos):
        self.kernel.attention(*self.half(layer), len(x), pos)

    def feed_forward(self, layer, x):
        self.kernel.feed_forward(*self.half(layer), len(x))

    def half(self, layer):
        """The arguments that both halves of a layer begin with."""
        return self.pointer, layer.pointer, self.cache_pointer, self.x_pointer

    def classify(self, x):
        logits = np.empty((len(x), self.config.vocab_size), np.float32)
        arguments = ctypes.addressof(self.wcls), x.ctypes.data, len(x), logits.ctypes.data
        norm = self.weights.final_norm.ctypes.data
        self.kernel.classify(self.pointer, self.cache_pointer, norm, *arguments)
        return logits


def choose(config, weights, context, threads, backend, kind):
    """The Transformer to use: in C, or in NumPy with the reason; ModelError if it must be C."""
    try:
        if backend == "numpy":
            raise ModelError("as asked")
        return CTransformer(config, weights, context, threads)
    except ModelError as reason:
        if backend == "c":
            raise
        arguments = config, weights, context, f"numpy, {reason}"
        if not isinstance(weights.tok_emb, QuantizedTensor):
            return extra("threaded").Threaded(*arguments, threads or available_cpus())
        return (InOrder if kind.startswith("llama2.c") else Transformer)(*arguments)


def available_cpus():
    """How many cores this process may use: its affinity, and its cgroup's quota."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cpus = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cpus, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cpus


def file_name():
    """The name of this machine's kernel library."""
    systems = {"Darwin": ("macos", "dylib"), "Windows": ("windows", "dll")}
    system, suffix = systems.get(platform.system(), (platform.system().lower(), "so"))
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    return f"kernels-{system}-{machine}.{suffix}"


@functools.cache
def load():
    """The library, its functions declared. ModelError says why there is none."""
    name = file_name()
    try:
        path = Path(library_path(name))
        kernel = ctypes.CDLL(str(path))
        if path.parent.name.startswith(PREFIX) and os.name == "posix":
            shutil.rmtree(path.parent)  # a loaded library needs no name
        for function, (result, *arguments) in FUNCTIONS.items():
            getattr(kernel, function).restype = result
            getattr(kernel, function).argtypes = arguments
    except (OSError, AttributeError) as error:
        raise ModelError(f"embed/{name} cannot be loaded: {error}") from None
    if kernel.kernel_abi() != ABI:
        raise ModelError(f"embed/{name} is of another version: compile it again (make kernel)")
    if not probe(kernel):
        raise ModelError(f"embed/{name} computes wrong numbers on this machine")
    return kernel


def library_path(name):
    """The library's path; out of a zipapp it goes into memory first: nothing loads from a zip."""
    path = Path(__file__).parent.parent / "kernels" / name
    if path.exists():
        return path
    files = extra("carried").find_embedded()
    if name not in files:
        raise ModelError(f"there is no embed/{name}: compile it with make kernel")
    system = ctypes.CDLL(None) if os.name == "posix" else None
    create = getattr(os, "memfd_create", None) or getattr(system, "memfd_create", None)
    memory = create(name.encode(), 0) if create and os.path.exists("/proc/self/fd") else -1
    if memory < 0:  # there are none here, or they are forbidden
        return temporary_copy(name, files[name])
    os.write(memory, files[name])
    return f"/proc/self/fd/{memory}"


def temporary_copy(name, data):
    """A file with this content, for systems without files in memory. load() removes it again.

    Windows keeps a loaded library's file: there the ones of earlier runs are removed instead.
    """
    for old in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        shutil.rmtree(old, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=PREFIX)) / name
    path.write_bytes(data)
    return path


def probe(kernel):
    """Whether the kernel agrees with NumPy on a tiny random model, in float32 and in int8."""
    config, count = Config(64, 96, 1, 4, 2, 40, 8), itertools.count(1)

    def matrix(*shape):  # waves stand in for numpy.random, which executables leave out
        waves = np.sin(np.arange(math.prod(shape)) * 1.7 * next(count))
        return (waves * 0.2).astype(np.float32).reshape(shape)

    for int8 in False, True:
        make = tiny_int8 if int8 else np.asarray
        layer = Weights(att_norm=matrix(64) + 1, ffn_norm=matrix(64) + 1)
        vars(layer).update({name: make(matrix(*shape)) for name, shape in config.shapes.items()})
        tok_emb = make(matrix(40, 64))
        weights = Weights(tok_emb=tok_emb, layers=[layer], final_norm=matrix(64) + 1, wcls=tok_emb)
        expected = Transformer(config, weights, 8).forward([1, 2, 3], 0, last_only=False)
        model = CTransformer(config, weights, 8, 1, kernel)
        logits = model.forward([1, 2], 0, last_only=False)
        logits = np.concatenate([logits, model.forward([3], 2, last_only=False)])
        if not np.allclose(logits, expected, atol=1e-2 if int8 else 1e-4):
            return False
    return True


def tiny_int8(matrix):
    """The matrix in int8 groups of 32."""
    return QuantizedTensor.from_rows(lambda i, j: matrix[i:j], matrix.shape, 32)
