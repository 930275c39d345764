"""Threads: they change no bit, end when told, live through fork, and serve two callers."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from kernel_harness import Matrix, matmul, normal

ROOT = Path(__file__).resolve().parent.parent.parent


def test_threads_do_not_change_a_bit(best, rng):
    for group in 0, 32:
        matrix, x = Matrix(best, normal(rng, 1500, 320), group), normal(rng, 7, 320)
        alone = matmul(best, matrix, x)
        for threads in range(1, 9):
            pool = best.pool_new(threads)
            assert all(np.array_equal(matmul(best, matrix, x, pool), alone) for _ in range(20))
            best.pool_free(pool)


def test_two_callers_at_once(best, rng):
    """A pool in use does not make a second thread of the program wait or go wrong."""
    pool, matrix, x = best.pool_new(3), Matrix(best, normal(rng, 700, 320)), normal(rng, 2, 320)
    alone, wrong = matmul(best, matrix, x), []

    def work():
        wrong.extend(
            1 for _ in range(200) if not np.array_equal(matmul(best, matrix, x, pool), alone)
        )

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    best.pool_free(pool)
    assert not wrong


def own_threads():
    return set(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_pool_free_ends_its_threads(best, rng):
    for used in False, True:
        before = own_threads()
        pool = best.pool_new(5)
        new = own_threads() - before
        assert len(new) == 4
        if used:
            matmul(best, Matrix(best, normal(rng, 900, 320)), normal(rng, 1, 320), pool)
        best.pool_free(pool)
        deadline = time.monotonic() + 20  # a joined thread may be listed a moment longer
        while own_threads() & new and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not own_threads() & new
    best.pool_free(None)


FORK = """
import os, sys, threading
sys.path[:0] = [*sys.argv[1].split(":"), sys.argv[2]]
import numpy as np, pathlib
from kernel_harness import Matrix, load, matmul, normal
kernel, rng = load(pathlib.Path(sys.argv[3])), np.random.default_rng(1)
pool, matrix, x = kernel.pool_new(3), Matrix(kernel, normal(rng, 900, 320)), normal(rng, 2, 320)
expected = matmul(kernel, matrix, x, pool)
child = os.fork()
results = []
def work():
    results.extend(np.array_equal(matmul(kernel, matrix, x, pool), expected) for _ in range(50))
callers = [threading.Thread(target=work) for _ in range(2)]
[caller.start() for caller in callers]
[caller.join() for caller in callers]
same = len(results) == 100 and all(results)
threads = len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 3
kernel.pool_free(pool)
if child:
    same = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 and same
os._exit(0 if same and threads >= 3 else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork(library):
    """Parent and child both go on computing on a pool from before the fork, with all threads.

    Two threads come at once: one starts the child's threads anew, the other computes meanwhile.
    """
    paths = f"{ROOT}:{ROOT}/tests", ROOT / "tests" / "kernels", library
    done = subprocess.run([sys.executable, "-c", FORK, *map(str, paths)], check=False, timeout=60)
    assert done.returncode == 0


def test_exit_with_an_open_pool(library):
    """A program may end while the pool sleeps or spins."""
    code = FORK[: FORK.index("child =")]
    paths = f"{ROOT}:{ROOT}/tests", ROOT / "tests" / "kernels", library
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=False, timeout=60)
    assert done.returncode == 0
