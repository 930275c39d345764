"""NumPy on all cores: a token times a large float32 matrix, its rows shared out among threads.

A dot product per row reads memory about twice as fast as OpenBLAS's matrix-vector product, but on
one core. NumPy lets go of Python's lock while it computes, so plain threads do.
"""

import queue
import threading
import weakref

import numpy as np

from run import ROW_BY_ROW, QuantizedTensor, Transformer, matmul


class Team:
    """Threads that wait for jobs, (the arguments of np.matmul, where to say that it is done)."""

    def __init__(self, size):
        self.size, self.jobs = size, queue.SimpleQueue()
        for _ in range(size - 1):  # the caller works too
            threading.Thread(target=work, args=[self.jobs], daemon=True).start()
            weakref.finalize(self, self.jobs.put, None)

    def matmul(self, w, x):  # (out, in), (T, in) -> (T, out), as run.matmul
        """A share of the rows for each thread, if it is one token and a large matrix."""
        if len(x) > 1 or isinstance(w, QuantizedTensor) or w.size < ROW_BY_ROW.stop:
            return matmul(w, x)
        y, share = np.empty((len(w), 1, 1), np.float32), -(-len(w) // self.size)
        jobs = [(w[i : i + share, None], x.T, y[i : i + share]) for i in range(0, len(w), share)]
        done = queue.SimpleQueue()  # a new one: what a Ctrl-C left behind is nobody's
        for job in jobs[1:]:
            self.jobs.put((job, done))
        np.matmul(*jobs[0])
        for _ in jobs[1:]:
            done.get()
        return y.reshape(1, -1)


@np.errstate(all="ignore")  # as in Transformer.forward: every thread has its own
def work(jobs):
    """Do what comes, until None comes: the team is gone."""
    for job, done in iter(jobs.get, None):
        np.matmul(*job)
        done.put(None)


class Threaded(Transformer):
    """A Transformer in NumPy whose large products run on several threads."""

    def __init__(self, config, weights, context, backend, threads):
        super().__init__(config, weights, context, backend)
        self.matmul = Team(threads).matmul
