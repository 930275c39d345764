"""NumPy on all cores: a token times a large float32 matrix, its rows shared out among threads.

A dot product per row reads memory about twice as fast as OpenBLAS's matrix-vector product, but on
one core. NumPy lets go of Python's lock while it computes, so plain threads do.
"""

import queue
import threading

import numpy as np

from run import QuantizedTensor, Transformer, matmul

LARGE = 2**20  # weights: waking a thread takes as long as reading some hundred thousand


class Team:
    """Threads that wait for (rows of a matrix, x, where the result goes), and die with Python."""

    def __init__(self, size):
        self.size, self.jobs, self.done = size, queue.SimpleQueue(), queue.SimpleQueue()
        for _ in range(size - 1):  # the caller works too
            threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        with np.errstate(all="ignore"):  # as in Transformer.forward: every thread has its own
            while True:
                np.matmul(*self.jobs.get())
                self.done.put(None)

    def matmul(self, w, x):  # (out, in), (T, in) -> (T, out), as run.matmul
        """A share of the rows for each thread, if it is one token and a large matrix."""
        if len(x) > 1 or self.size == 1 or isinstance(w, QuantizedTensor) or w.size < LARGE:
            return matmul(w, x)
        y, share = np.empty((len(w), 1, 1), np.float32), -(-len(w) // self.size)
        shares = [(w[i : i + share, None], x.T, y[i : i + share]) for i in range(0, len(w), share)]
        for job in shares[1:]:
            self.jobs.put(job)
        np.matmul(*shares[0])
        for _ in shares[1:]:
            self.done.get()
        return y.reshape(1, -1)


class Threaded(Transformer):
    """A Transformer in NumPy whose large products run on several threads."""

    def __init__(self, config, weights, context, backend, threads):
        super().__init__(config, weights, context, backend)
        self.matmul = Team(threads).matmul
