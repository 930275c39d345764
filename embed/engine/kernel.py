"""The C kernel behind the operations of run.NumPyBackend: it computes whole halves of a layer.

KernelBackend packs the weights once, in the order that the kernel reads; afterwards a layer costs
two calls. The structures are those of embed/kernels/kernel.h.
"""

import contextlib
import ctypes
import mmap
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from run import (
    LAYER,
    MATRICES,
    MAX_ROWS,
    Config,
    KVCache,
    Layer,
    ModelError,
    ModelFile,
    QuantizedTensor,
    Weights,
)

from .blocks import BlockTensor
from .exact import Exact
from .progress import shown

ABI = 4  # of embed/kernels/kernel.h
CACHE_LINE = 64
POINTER, INT32, INT64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
SIZES = "dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "head_size", "max_rows"
FUNCTIONS = {  # name: result, arguments
    "kernel_abi": (INT32,),
    "kernel_isa": (ctypes.c_char_p,),
    "pool_new": (POINTER, INT32),
    "pool_free": (None, POINTER),
    "tensor_type": (INT32, ctypes.c_char_p),
    "packed_bytes": (INT64, INT32, INT32, INT32, INT32),
    "packed_scales": (INT64, INT32, INT32, INT32, INT32),
    "pack_int8": (None, POINTER, POINTER, INT32, INT32, INT32, POINTER, POINTER),
    "pack_blocks": (None, POINTER, INT32, POINTER, INT32, INT32, POINTER),
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
    """What the kernel must know of a model."""

    _fields_ = [("pool", POINTER), *((name, INT32) for name in SIZES), ("eps", ctypes.c_float)]


class CCache(ctypes.Structure):
    """One conversation: all that a forward pass writes but x and the logits."""

    _fields_ = [(name, POINTER) for name in ("keys", "values", "rope", "scratch")]
    _fields_ += [("context", INT32)]


def aligned(size: int) -> np.ndarray:
    """Return so many bytes that begin on a cache line."""
    memory = np.empty(size + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + size]


def whole_lines(size: int) -> int:
    """Return a size filled up to whole cache lines."""
    return size + -size % CACHE_LINE


class Room:
    """Memory for all packed blocks of a model, in one piece, so that its pages can be huge."""

    def __init__(self, size: int):
        self.used = 0
        try:
            self.memory = anonymous(size) if size else np.empty(0, np.uint8)
        except (MemoryError, OSError, OverflowError, ValueError):
            raise ModelError(f"no memory for {size:,} bytes of weights") from None

    def take(self, size: int) -> np.ndarray:
        """Return the next so many bytes; they begin on a cache line."""
        start = self.used
        self.used += whole_lines(size)
        return self.memory[start : start + size]


def anonymous(size: int) -> np.ndarray:
    """Return so many bytes from the system, in huge pages where it has them: a tenth faster."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return aligned(size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def give_back(array: np.ndarray) -> None:
    """Tell the system that an array's pages, if they are of a mapped file, are not needed now.

    Whoever reads them again gets them from the file. Only an mmap is asked: what lies in other
    memory would be lost.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    file = base.obj if isinstance(base, memoryview) else base
    if not isinstance(file, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    start = array.ctypes.data - np.frombuffer(file, np.uint8).ctypes.data
    end = (start + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    start += -start % mmap.PAGESIZE
    if start < end:
        file.madvise(mmap.MADV_DONTNEED, start, end - start)


@dataclass
class PackedTensor:
    """A matrix as the kernel reads it."""

    shape: tuple[int, int]
    nbytes: int
    view: CTensor
    memory: tuple  # what the view points into
    is_embedding: bool = False  # a classifier that is the embedding, too


class PackedLayer(Layer):
    """A layer whose matrices are PackedTensors; pointer is that of its CLayer."""

    def __init__(self, index: int, **tensors: Any):
        super().__init__(**tensors)
        self.view = CLayer(self.att_norm.ctypes.data, self.ffn_norm.ctypes.data, index=index)
        for name in MATRICES:
            setattr(self.view, name, tensors[name].view)
        self.pointer = ctypes.addressof(self.view)


class KernelCache(KVCache):
    """A KVCache whose keys and values lie as the kernel wants them."""

    def __init__(self, backend: "KernelBackend", context: int):
        kernel, model = backend.kernel, backend.pointer
        self.context = context
        self.turned = 0
        try:  # the system gives the memory as the text grows
            self.keys = aligned(4 * kernel.keys_floats(model, context))
            self.values = aligned(4 * kernel.values_floats(model, context))
            self.scratch = aligned(4 * kernel.scratch_floats(model, context))
            self.rope = np.empty((context, 1, backend.config.head_size // 2), np.complex64)
        except (MemoryError, ValueError):
            raise ModelError(f"no memory for a context of {context:,}: use -n") from None
        self.x = np.empty((min(MAX_ROWS, context), backend.config.dim), np.float32)
        self.x_pointer = self.x.ctypes.data
        parts = self.keys, self.values, self.rope, self.scratch
        self.view = CCache(*(part.ctypes.data for part in parts), context)
        self.pointer = ctypes.addressof(self.view)


def matrices(weights: Weights) -> Iterator[Any]:
    """Yield the matrices that are packed."""
    for layer in weights.layers:
        for name in MATRICES:
            yield getattr(layer, name)
    yield weights.wcls


class KernelBackend(Exact):
    """Attention, feed-forward and classifier in C, on a pool of threads that it owns."""

    def __init__(self, file: ModelFile, kernel: Any, threads: int):
        isa = kernel.kernel_isa().decode()
        super().__init__(file.config, f"c ({isa}, threads: {threads})")
        self.kernel = kernel
        self.pool = kernel.pool_new(threads)
        # Not at exit: a daemon thread may still compute then, and the memory goes anyway.
        weakref.finalize(self, kernel.pool_free, self.pool).atexit = False
        sizes = vars(file.config) | {"max_rows": MAX_ROWS}
        self.c_model = CModel(self.pool, *(sizes[name] for name in SIZES), file.config.norm_eps)
        self.pointer = ctypes.addressof(self.c_model)
        file.weights = self.pack_weights(file.weights)

    def new_cache(self, config: Config, context: int) -> KVCache:  # type: ignore[override]
        """Return an empty cache for context positions. ModelError if there is no memory for it."""
        return KernelCache(self, context)

    def pack_weights(self, weights: Weights) -> Weights:
        """Return the weights packed, each layer in place of its source."""
        layers = weights.layers
        self.room = Room(sum(map(self.room_for, matrices(weights))))
        for index in shown(range(len(layers)), "preparing the weights"):
            tensors = {name: getattr(layers[index], name) for name in LAYER}
            for name in MATRICES:
                tensors[name] = self.pack(tensors[name])
            layers[index] = PackedLayer(index, **tensors)
        wcls = self.pack(weights.wcls)
        wcls.is_embedding = weights.wcls is weights.tok_emb  # of which rows are read where it is
        return Weights(weights.tok_emb, layers, weights.final_norm, wcls)

    def type_of(self, w: Any) -> int:
        """Return the kernel's number for the type of a matrix."""
        name = "float32"
        if isinstance(w, QuantizedTensor):
            name = "int8"
        elif isinstance(w, BlockTensor):
            name = w.kind.name
        return self.kernel.tensor_type(name.encode())

    def room_for(self, w: Any) -> int:
        """Return the bytes of the room that a matrix takes, if it is one of blocks."""
        if not isinstance(w, BlockTensor) or w.kind.weights == 1:
            return 0
        return whole_lines(self.kernel.packed_bytes(self.type_of(w), *w.shape, 0))

    def pack(self, w: Any) -> PackedTensor:
        """Return a matrix as the kernel reads it; floats of any width stay where they are."""
        if isinstance(w, QuantizedTensor):
            return self.pack_int8(w)
        if isinstance(w, BlockTensor) and w.kind.weights > 1:
            return self.pack_blocks(w)
        array = w.blocks if isinstance(w, BlockTensor) else w
        view = CTensor(array.ctypes.data, None, *w.shape, 0, self.type_of(w))
        return PackedTensor(w.shape, w.nbytes, view, (array,))

    def pack_blocks(self, w: BlockTensor) -> PackedTensor:
        """Return blocks in the kernel's order, and give the pages back that they were read from."""
        kind = self.type_of(w)
        data = self.room.take(self.kernel.packed_bytes(kind, *w.shape, 0))
        blocks = np.ascontiguousarray(w.blocks)
        self.kernel.pack_blocks(self.pool, kind, blocks.ctypes.data, *w.shape, data.ctypes.data)
        give_back(w.blocks)
        view = CTensor(data.ctypes.data, None, *w.shape, 0, kind)
        return PackedTensor(w.shape, data.nbytes, view, (data,))

    def pack_int8(self, w: QuantizedTensor) -> PackedTensor:
        """Return int8 groups in the kernel's order."""
        kind = self.type_of(w)
        shape = (*w.shape, w.group)
        data = aligned(self.kernel.packed_bytes(kind, *shape))
        scales = aligned(4 * self.kernel.packed_scales(kind, *shape))
        q = np.ascontiguousarray(w.q)
        s = np.ascontiguousarray(w.scales)
        self.kernel.pack_int8(
            q.ctypes.data, s.ctypes.data, *shape, data.ctypes.data, scales.ctypes.data
        )
        view = CTensor(data.ctypes.data, scales.ctypes.data, *shape, kind)
        return PackedTensor(w.shape, data.nbytes + scales.nbytes, view, (data, scales))

    def attention(self, index: int, layer: Any, x: np.ndarray, cache: Any, pos: int) -> None:
        """As in NumPyBackend; x is what cache.x_pointer points to."""
        self.kernel.attention(
            self.pointer, layer.pointer, cache.pointer, cache.x_pointer, len(x), pos
        )

    def feed_forward(self, layer: Any, x: np.ndarray, cache: Any) -> None:
        """As in NumPyBackend."""
        self.kernel.feed_forward(
            self.pointer, layer.pointer, cache.pointer, cache.x_pointer, len(x)
        )

    def classify(self, weights: Weights, x: np.ndarray, cache: Any) -> np.ndarray:
        """As in NumPyBackend."""
        logits = np.empty((len(x), self.config.vocab_size), np.float32)
        norm = weights.final_norm.ctypes.data
        wcls = ctypes.addressof(weights.wcls.view)
        self.kernel.classify(
            self.pointer, cache.pointer, norm, wcls, x.ctypes.data, len(x), logits.ctypes.data
        )
        return logits
