"""NumPy on all cores: a token times a large float32 matrix, its rows shared out among threads.

A dot product per row reads memory about twice as fast as OpenBLAS's matrix-vector product, but on
one core. NumPy lets go of Python's lock while it computes, so plain threads do.
"""

import threading
import weakref
from types import SimpleNamespace

import numpy as np

from run import QuantizedTensor, Transformer, matmul

LARGE = 2**20  # weights: waking a thread takes as long as reading some hundred thousand


class Team:
    """Threads that wait for a job, the arguments of np.matmul, and end with the team."""

    def __init__(self, size):
        self.size, self.workers = size, [SimpleNamespace() for _ in range(size - 1)]
        for worker in self.workers:
            worker.start, worker.done = threading.Semaphore(0), threading.Semaphore(0)
            threading.Thread(target=self.work, args=[worker], daemon=True).start()
        weakref.finalize(self, self.dismiss, self.workers)

    @staticmethod
    @np.errstate(all="ignore")  # as in Transformer.forward: every thread has its own
    def work(worker):
        while True:
            worker.start.acquire()
            job, worker.job = worker.job, None
            if job is None:
                return
            np.matmul(*job)
            del job  # it must not keep the weights alive
            worker.done.release()

    @staticmethod
    def dismiss(workers):
        for worker in workers:
            worker.job = None
            worker.start.release()

    def matmul(self, w, x):  # (out, in), (T, in) -> (T, out), as run.matmul
        """A share of the rows for each thread, if it is one token and a large matrix."""
        if len(x) > 1 or self.size == 1 or isinstance(w, QuantizedTensor) or w.size < LARGE:
            return matmul(w, x)
        y, share = np.empty((len(w), 1, 1), np.float32), -(-len(w) // self.size)
        jobs = [(w[i : i + share, None], x.T, y[i : i + share]) for i in range(0, len(w), share)]
        helpers = self.workers[: len(jobs) - 1]  # the caller works too
        for worker, worker.job in zip(helpers, jobs[1:], strict=True):
            worker.start.release()
        np.matmul(*jobs[0])
        for worker in helpers:
            worker.done.acquire()
        return y.reshape(1, -1)


class Threaded(Transformer):
    """A Transformer in NumPy whose large products run on several threads."""

    def __init__(self, config, weights, context, backend, threads):
        super().__init__(config, weights, context, backend)
        self.matmul = Team(threads).matmul
