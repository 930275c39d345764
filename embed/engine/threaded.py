"""NumPy on all cores: a token times a large matrix, its rows shared out among threads.

A dot product per row reads memory about twice as fast as OpenBLAS's matrix-vector product, but on
one core. NumPy lets go of Python's lock while it computes, so plain threads do.
"""

import contextlib
import os
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from run import Config, NumPyBackend, QuantizedTensor, matmul

from .blocks import BlockTensor

ROW_BY_ROW_MIN = 2**16  # weights of a matrix that no cache holds: a dot product a row is faster
SHARED_MIN = 2**20  # weights that are worth a second thread
DECODED = 2**16  # weights of blocks that are made float32 at a time: they stay in a cache


class Team:
    """Threads that wait for jobs: (a function, its arguments, where to say that it is done)."""

    def __init__(self, size: int):
        self.wanted = size
        self.start()

    def start(self) -> None:
        """Start as many threads as the system gives; a forked child, which has none, its own."""
        self.process = os.getpid()
        self.size = 1  # the caller works too
        self.jobs: queue.SimpleQueue = queue.SimpleQueue()
        with contextlib.suppress(RuntimeError):  # no more threads to be had
            while self.size < self.wanted:
                threading.Thread(target=work, args=[self.jobs], daemon=True).start()
                weakref.finalize(self, self.jobs.put, None)
                self.size += 1

    def share(self, function: Callable, rows: int) -> None:
        """Call function(start, stop) for the rows, a share for each thread, and wait for all."""
        if self.process != os.getpid():
            self.start()
        size = -(-rows // self.size)
        starts = range(0, rows, size)
        done: queue.SimpleQueue = queue.SimpleQueue()  # new: what a Ctrl-C left is nobody's
        for start in starts[1:]:
            self.jobs.put((function, (start, min(start + size, rows)), done))
        function(0, min(size, rows))
        for _ in starts[1:]:
            done.get()


@np.errstate(all="ignore")  # as in Transformer.forward: every thread has its own
def work(jobs: queue.SimpleQueue) -> None:
    """Do what comes, until None comes: the team is gone."""
    for function, arguments, done in iter(jobs.get, None):
        function(*arguments)
        done.put(None)


class Threaded(NumPyBackend):
    """Plain NumPy, with the products of large matrices on several threads."""

    def __init__(self, config: Config, description: str, threads: int):
        super().__init__(config, description)
        self.team = Team(threads)

    def matmul(self, w: Any, x: np.ndarray) -> np.ndarray:
        """Return x (T, in) times w (out, in) transposed, (T, out), as run.matmul."""
        if isinstance(w, BlockTensor):
            return self.block_matmul(w, x)
        if isinstance(w, QuantizedTensor) or len(x) > 1 or w.size < ROW_BY_ROW_MIN:
            return matmul(w, x)
        y = np.empty((len(w), 1, 1), np.float32)

        def some_rows(start: int, stop: int) -> None:
            np.matmul(w[start:stop, None], x.T, out=y[start:stop])

        self.share(some_rows, w)
        return y.reshape(1, -1)

    def block_matmul(self, w: BlockTensor, x: np.ndarray) -> np.ndarray:
        """Return the product with a matrix in blocks, which become float32 a few at a time."""
        y = np.empty((len(x), w.shape[0]), np.float32)
        step = max(1, DECODED // w.shape[1])

        def some_rows(start: int, stop: int) -> None:
            for i in range(start, stop, step):
                end = min(i + step, stop)
                np.matmul(x, w[i:end].T, out=y[:, i:end])

        self.share(some_rows, w)
        return y

    def share(self, some_rows: Callable, w: Any) -> None:
        """Compute all rows of w: on the team if they are many, else here."""
        rows, n = w.shape
        if rows * n < SHARED_MIN:
            some_rows(0, rows)
        else:
            self.team.share(some_rows, rows)
