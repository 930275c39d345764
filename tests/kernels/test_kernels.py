"""embed/kernels.c against NumPy in float64: every function, every instruction set of this machine.

Tolerances: a dot product of n numbers in float32 is off by no more than 2e-6 of the sum of the
absolute values of its terms; half of a layer by 1e-4 of its largest number. What is quantised must
be equal to the last bit.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import threading
import time
from ctypes import byref
from pathlib import Path

import numpy as np
import pytest

from run.engine.kernel import FUNCTIONS as BINDING
from run.engine.kernel import INT32, POINTER, CLayer, CModel, CTensor
from run.packing import compilers as compiler

ROOT = Path(__file__).resolve().parent.parent.parent
CHECKS = ROOT / "tests" / "kernels" / "check_kernels.c"
SETS = "avx512vnni", "avx512", "avxvnni", "avx2", "dotprod", "neon", "portable"
FUNCTIONS = BINDING | {  # what only the tests call
    "unpack_row": (None, POINTER, INT32, POINTER),
    "matmul": (None, POINTER, POINTER, POINTER, INT32, POINTER, POINTER),
}


# ------------------------------------------------------------------------------------ the library
@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The kernel, compiled afresh."""
    try:
        return compiler.compile_kernel(out_dir=tmp_path_factory.mktemp("kernel"))
    except compiler.CompileError as error:
        pytest.skip(str(error))


def load(library, isa=None):
    """The library as ctypes sees it, in the way that RUN_ISA names; skips where it is missing."""
    copy = library.with_name(f"{isa}-{os.getpid()}-{library.name}")  # a loaded file must stay
    shutil.copy(library, copy)
    with pytest.MonkeyPatch.context() as patch:
        if isa:
            patch.setenv("RUN_ISA", isa)
        kernel = ctypes.CDLL(str(copy))
        for name, (result, *arguments) in FUNCTIONS.items():
            getattr(kernel, name).restype, getattr(kernel, name).argtypes = result, arguments
        chosen = kernel.kernel_isa().decode()
    if isa and chosen != isa:
        pytest.skip(f"this processor has no {isa}")
    return kernel


@pytest.fixture(scope="session", params=SETS)
def kernel(request, library):
    return load(library, request.param)


@pytest.fixture(scope="session")
def best(library):
    return load(library)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


# ------------------------------------------------------------------------ weights and products
def quantize(x, group):
    """runq.c's rule on (rows, in) float32: int8 (rows, in) and float32 (rows, in / group)."""
    parts = x.reshape(len(x), -1, group)
    scales = (np.abs(parts).max(-1) / np.float32(127)).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = np.where(scales[..., None] > 0, parts / scales[..., None], 0)
    whole = np.trunc(exact)
    whole += (exact - whole >= 0.5).astype(np.float32) - (exact - whole <= -0.5)
    return whole.astype(np.int8).reshape(x.shape), scales


def dequantize(q, scales):
    """The float64 values of int8 (rows, in) with scales (rows, groups)."""
    groups = q.reshape(*scales.shape, -1).astype(np.float64)
    return (groups * scales[..., None]).reshape(q.shape)


class Matrix:
    """A tensor for the kernel (.c), and the float64 matrix that it stands for (.exact)."""

    def __init__(self, kernel, w, group=0):
        self.group, self.exact = group, w.astype(np.float64)
        if not group:
            self.data = np.ascontiguousarray(w)
            self.c = CTensor(self.data.ctypes.data, None, *w.shape, 0, 0)
            return
        q, scales = quantize(w, group)
        self.exact = dequantize(q, scales)
        self.data = np.empty(kernel.packed_bytes(*w.shape, group), np.uint8)
        self.scales = np.empty(kernel.packed_scales(*w.shape, group), np.float32)
        packed = self.data.ctypes.data, self.scales.ctypes.data
        kernel.pack(q.ctypes.data, scales.ctypes.data, *w.shape, group, *packed)
        self.c = CTensor(*packed, *w.shape, group, 0)

    def product(self, x):
        """x (T, in) float32 -> (T, out) float64, x quantised where the matrix is."""
        if self.group:
            x = dequantize(*quantize(x, self.group))
        return x.astype(np.float64) @ self.exact.T


def matmul(kernel, matrix, x, pool=None):
    """kernel.matmul as an array function: x (T, in) -> (T, out)."""
    y = np.full((len(x), matrix.c.out), np.nan, np.float32)
    scratch = np.empty(3 * x.size + 64, np.float32)
    x = np.ascontiguousarray(x)
    pointers = x.ctypes.data, len(x), y.ctypes.data, scratch.ctypes.data
    kernel.matmul(pool, byref(matrix.c), *pointers)
    return y


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def random_case(rng, threads):
    """(out, in, group, T): tails of every kind."""
    group = int(rng.choice([4, 6, 7, 12, 16, 32, 36, 64, 128, 256]))
    t = int(rng.choice([1, 1, 2, 3, 4, 5, 6, 7, 12, 13, 64, 70]))
    return int(rng.integers(1, 200)), group * int(rng.integers(1, 9)), group, t


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
def test_matmul(kernel, rng, threads, int8):
    pool = kernel.pool_new(threads)
    for _ in range(25):
        out, n, group, t = random_case(rng, threads)
        matrix = Matrix(kernel, normal(rng, out, n), group if int8 else 0)
        x = normal(rng, t, n)
        bound = np.abs(x) @ np.abs(matrix.exact.T) * 2e-6
        assert (np.abs(matmul(kernel, matrix, x, pool) - matrix.product(x)) <= bound).all()
    kernel.pool_free(pool)


@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
def test_long_rows_and_many_rows(kernel, rng, int8):
    """More columns than one cache block, more rows than one panel."""
    matrix = Matrix(kernel, normal(rng, 323, 3 * 1056), 32 if int8 else 0)
    x = normal(rng, 9, 3 * 1056)
    pool = kernel.pool_new(2)
    got = matmul(kernel, matrix, x, pool)
    kernel.pool_free(pool)
    assert (np.abs(got - matrix.product(x)) <= np.abs(x) @ np.abs(matrix.exact.T) * 3e-6).all()


@pytest.mark.parametrize("group", [4, 7, 16, 20, 32, 64, 256])
def test_activations_are_quantised_as_in_runq(kernel, rng, group):
    """The identity shows them: halves away from zero, zero groups, tiny and huge numbers."""
    n = 4 * group
    x = normal(rng, 6, n) * np.float32(10.0) ** rng.integers(-20, 20, (6, n)).astype(np.float32)
    steps = rng.integers(-254, 255, n).astype(np.float32) / 2
    steps[::group] = 127
    x = np.vstack([x, steps, -steps, np.zeros(n, np.float32), np.full(n, 3e38, np.float32)])
    identity = Matrix(kernel, np.eye(n, dtype=np.float32), group)
    identity_scale = np.float32(1) / np.float32(127)
    q, scales = quantize(x, group)
    sums = (q.astype(np.float32) * 127).reshape(*scales.shape, group)  # a weight of 1 is q = 127
    with np.errstate(over="ignore"):
        expected = sums * identity_scale * scales[..., None]
    assert np.array_equal(matmul(kernel, identity, x), expected.reshape(x.shape))


@pytest.mark.parametrize("group", [4, 7, 32, 36, 256])
def test_pack_and_unpack(kernel, rng, group):
    w = normal(rng, 37, 3 * group)
    q, scales = quantize(w, group)
    matrix = Matrix(kernel, w, group)
    for row in range(37):
        y = np.empty(3 * group, np.float32)
        kernel.unpack_row(byref(matrix.c), row, y.ctypes.data)
        expected = q[row].reshape(3, group) * scales[row][:, None]
        assert np.array_equal(y, expected.ravel())


def test_all_of_int8(kernel):
    """-128 occurs in files of others; the largest numbers of both signs do not overflow."""
    for value in -128, -127, 127:
        q, scales = np.full((16, 256), value, np.int8), np.ones((16, 1), np.float32)
        data = np.empty(kernel.packed_bytes(16, 256, 256), np.uint8)
        packed = np.empty(kernel.packed_scales(16, 256, 256), np.float32)
        pointers = data.ctypes.data, packed.ctypes.data
        kernel.pack(q.ctypes.data, scales.ctypes.data, 16, 256, 256, *pointers)
        matrix = Matrix.__new__(Matrix)
        matrix.c = CTensor(*pointers, 16, 256, 256, 0)
        for sign in 1, -1:
            y = matmul(kernel, matrix, np.full((1, 256), sign * 127, np.float32))
            assert (y == value * sign * 127 * 256).all()


def test_weights_at_odd_addresses(kernel, rng):
    """A model inside a zip can lie anywhere: float32 weights are read in place."""
    w, x = normal(rng, 21, 45), normal(rng, 3, 45)
    aligned = Matrix(kernel, w)
    data = np.frombuffer(b"!" + w.tobytes(), np.uint8)
    odd = Matrix.__new__(Matrix)
    odd.c = CTensor(data.ctypes.data + 1, None, 21, 45, 0, 0)
    assert np.array_equal(matmul(kernel, odd, x), matmul(kernel, aligned, x))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("group", [0, 32])
def test_nan_and_infinity_are_not_hidden(kernel, rng, group, bad):
    x = normal(rng, 8, 96)
    x[3, 40] = bad
    y = matmul(kernel, Matrix(kernel, normal(rng, 20, 96), group), x)
    assert not np.isfinite(y[3]).any()
    assert np.isfinite(np.delete(y, 3, 0)).all()


# ----------------------------------------------------------------------------------- one layer
class Network:
    """One layer with its caches, in C and in float64 NumPy."""

    def __init__(self, kernel, rng, heads, kv_heads, size, hidden, group, rows=70, threads=2):
        self.kernel, self.rng, dim, kv = kernel, rng, heads * size, kv_heads * size
        self.heads, self.kv_heads, self.size, context = heads, kv_heads, size, 80
        shapes = {"wq": (dim, dim), "wk": (kv, dim), "wv": (kv, dim), "wo": (dim, dim)}
        shapes |= {"w1": (hidden, dim), "w2": (dim, hidden), "w3": (hidden, dim)}
        self.w = {
            k: Matrix(kernel, normal(rng, *s) / s[1] ** 0.5, group) for k, s in shapes.items()
        }
        self.norms = [normal(rng, dim) for _ in range(3)]
        self.keys, self.values = np.zeros((2, kv_heads, context, size), np.float32)
        angles = np.outer(np.arange(context), 10000.0 ** -(np.arange(0, size, 2) / size))
        self.rope = np.stack([np.cos(angles), np.sin(angles)], -1).astype(np.float32)
        self.k64, self.v64 = np.zeros((2, context, kv_heads, size))
        norms = [norm.ctypes.data for norm in self.norms]
        self.layer = CLayer(*norms[:2])
        for name in shapes:
            setattr(self.layer, name, self.w[name].c)
        self.layer.keys, self.layer.values = self.keys.ctypes.data, self.values.ctypes.data
        self.pool = kernel.pool_new(threads)
        sizes = dim, hidden, heads, kv_heads, size, context, rows
        self.model = CModel(self.pool, None, self.rope.ctypes.data, *sizes, 1e-5)
        self.scratch = np.empty(kernel.scratch_floats(byref(self.model)), np.float32)
        self.model.scratch = self.scratch.ctypes.data

    def close(self):
        self.kernel.pool_free(self.pool)

    def normed(self, x, norm):
        x = x.astype(np.float64)
        y = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * norm
        return y.astype(np.float32)

    def rotated(self, x, pos):  # (T, heads, size)
        table = self.rope[pos : pos + len(x), None].astype(np.float64)
        pairs = x.reshape(*x.shape[:2], -1, 2)
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * (table[..., 0] + 1j * table[..., 1])
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    def attention(self, x, pos):
        """x (T, dim) float32 after attention: what C makes of it, and NumPy in float64."""
        y, t, end, group = x.copy(), len(x), pos + len(x), self.heads // self.kv_heads
        self.kernel.attention(byref(self.model), byref(self.layer), y.ctypes.data, t, pos)
        n = self.normed(x, self.norms[0])
        q = self.rotated(self.w["wq"].product(n).reshape(t, self.heads, self.size), pos)
        k = self.w["wk"].product(n).reshape(t, self.kv_heads, self.size)
        self.k64[pos:end] = self.rotated(k, pos)
        self.v64[pos:end] = self.w["wv"].product(n).reshape(t, self.kv_heads, self.size)
        keys, values = (np.repeat(a[:end], group, 1) for a in (self.k64, self.v64))
        scores = np.einsum("thd,shd->hts", q, keys) / np.sqrt(self.size)
        scores[:, np.arange(end)[None] > pos + np.arange(t)[:, None]] = -np.inf
        p = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hts,shd->thd", p / p.sum(-1, keepdims=True), values).reshape(t, -1)
        return y, x + self.w["wo"].product(mixed.astype(np.float32))

    def feed_forward(self, x):
        """The same for the feed-forward half."""
        y = x.copy()
        self.kernel.feed_forward(byref(self.model), byref(self.layer), y.ctypes.data, len(x))
        n = self.normed(x, self.norms[1])
        gate, up = self.w["w1"].product(n), self.w["w3"].product(n)
        with np.errstate(over="ignore"):
            hidden = (gate / (1 + np.exp(-gate)) * up).astype(np.float32)
        return y, x + self.w["w2"].product(hidden)


def close_enough(got, expected, int8):
    """1e-4 of the largest number; where a number is rounded to the other side of a half, a step."""
    error = np.abs(got - expected).max() / np.abs(expected).max()
    return error <= (2e-2 if int8 else 1e-4)


LAYERS = {  # heads, kv heads, head size, hidden
    "tiny": (8, 4, 8, 172),
    "odd": (6, 6, 6, 45),
    "gqa": (12, 2, 20, 136),
    "one": (1, 1, 2, 3),
    "wide": (2, 1, 128, 320),
    "stories15M": (6, 6, 48, 768),
}


@pytest.mark.parametrize("group", [0, 32], ids=["float", "int8"])
@pytest.mark.parametrize("shape", LAYERS)
def test_layer(kernel, rng, shape, group):
    """A prompt at once, then position by position, then some at once again."""
    heads, kv_heads, size, hidden = LAYERS[shape]
    if group:  # a group must divide both
        group = int(np.gcd(np.gcd(heads * size, hidden), 32))
    network = Network(kernel, rng, heads, kv_heads, size, hidden, group)
    for pos, t in (0, 13), (13, 1), (14, 1), (15, 2), (17, 61), (78, 1):
        x = normal(rng, t, heads * size)
        for half in network.attention(x, pos), network.feed_forward(x):
            assert close_enough(*half, group)
    network.close()


def test_groups_of_several_sizes_in_one_layer(kernel, rng):
    """As in Q4_K_M files: wv and w2 have other groups than the rest, wo is float32."""
    network = Network(kernel, rng, 4, 2, 16, 96, 32)
    for name, group in {"wk": 16, "wv": 4, "w3": 8, "w2": 12, "wo": 0}.items():
        out, n = network.w[name].exact.shape
        network.w[name] = Matrix(kernel, normal(rng, out, n) / 8, group)
        setattr(network.layer, name, network.w[name].c)
    for pos, t in (0, 7), (7, 1):
        x = normal(rng, t, 64)
        for half in network.attention(x, pos), network.feed_forward(x):
            assert close_enough(*half, True)
    network.close()


@pytest.mark.parametrize("group", [0, 32], ids=["float", "int8"])
def test_classify(kernel, rng, group):
    network = Network(kernel, rng, 4, 4, 16, 96, group)
    wcls, x = Matrix(kernel, normal(rng, 1003, 64), group), normal(rng, 5, 64)
    logits = np.empty((5, 1003), np.float32)
    norm, pointers = network.norms[2], (x.ctypes.data, 5, logits.ctypes.data)
    kernel.classify(byref(network.model), norm.ctypes.data, byref(wcls.c), *pointers)
    assert close_enough(logits, wcls.product(network.normed(x, norm)), group)
    network.close()


def test_steep_scores(kernel, rng):
    """Scores far apart neither overflow nor vanish: softmax subtracts the largest."""
    network = Network(kernel, rng, 4, 4, 16, 96, 0)
    network.norms[0][:] = 40
    got, expected = network.attention(normal(rng, 20, 64), 0)
    assert close_enough(got, expected, False)
    network.norms[1][:] = 300  # silu of hundreds
    assert close_enough(*network.feed_forward(normal(rng, 20, 64)), False)
    network.close()


@pytest.mark.parametrize("group", [0, 32], ids=["float", "int8"])
def test_nan_stays_where_it_is(kernel, rng, group):
    network = Network(kernel, rng, 4, 4, 16, 96, group)
    x = normal(rng, 9, 64)
    x[4, 7] = np.nan
    y, z = x.copy(), x.copy()
    kernel.attention(byref(network.model), byref(network.layer), y.ctypes.data, 9, 0)
    kernel.feed_forward(byref(network.model), byref(network.layer), z.ctypes.data, 9)
    assert np.isnan(y[4:]).any(1).all() and np.isnan(y[4]).all()  # later ones attend to it
    assert np.isnan(z[4]).all() and np.isfinite(np.delete(z, 4, 0)).all()
    network.close()


# ------------------------------------------------------------------------------------- threads
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
import os, sys
sys.path[:0] = [*sys.argv[1].split(":"), sys.argv[2]]
import numpy as np, pathlib
from test_kernels import Matrix, load, matmul, normal
kernel, rng = load(pathlib.Path(sys.argv[3])), np.random.default_rng(1)
pool, matrix, x = kernel.pool_new(3), Matrix(kernel, normal(rng, 900, 320)), normal(rng, 2, 320)
expected = matmul(kernel, matrix, x, pool)
child = os.fork()
same = all(np.array_equal(matmul(kernel, matrix, x, pool), expected) for _ in range(50))
threads = len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 3
kernel.pool_free(pool)
if child:
    same = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 and same
os._exit(0 if same and threads >= 3 else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork(library):
    """Parent and child both go on computing on a pool from before the fork, with all threads."""
    paths = f"{ROOT}:{ROOT}/tests", ROOT / "tests" / "kernels", library
    done = subprocess.run([sys.executable, "-c", FORK, *map(str, paths)], check=False, timeout=60)
    assert done.returncode == 0


def test_exit_with_an_open_pool(library):
    """A program may end while the pool sleeps or spins."""
    code = FORK[: FORK.index("child =")]
    paths = f"{ROOT}:{ROOT}/tests", ROOT / "tests" / "kernels", library
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=False, timeout=60)
    assert done.returncode == 0


# -------------------------------------------------------------------- not used when not right
@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("FMA(b[o], a, sums[r][o])", "FMA(b[o], -a, sums[r][o])", "wrong numbers"),
        ("/ scales[g];", "/ scales[g] * 2.0f;", "wrong numbers"),
        ("enum { ABI = ", "enum { ABI = 1000 + ", "version"),
    ],
)
def test_a_bad_kernel_is_not_used(tmp_path, monkeypatch, library, old, new, reason):
    from run import ModelError
    from run.engine import kernel

    source = compiler.SOURCE.read_text()
    assert source.count(old) == 1
    (tmp_path / "kernel.c").write_text(source.replace(old, new))
    monkeypatch.setattr(compiler, "SOURCE", tmp_path / "kernel.c")
    path = compiler.compile_kernel(out_dir=tmp_path)
    monkeypatch.setattr(kernel, "library_path", lambda name: path)
    with pytest.raises(ModelError, match=reason):
        kernel.load.__wrapped__()


# ----------------------------------------------------------------------------------- compiling
def test_compiling_twice_gives_the_same_bytes(library, tmp_path):
    assert compiler.compile_kernel(out_dir=tmp_path).read_bytes() == library.read_bytes()


@pytest.mark.parametrize("cc", ["gcc", "clang", "zig"])
def test_no_warnings(cc, tmp_path):
    command = (
        compiler.zig() and [*compiler.zig(), "cc"] if cc == "zig" else shutil.which(cc) and [cc]
    )
    if not command:
        pytest.skip(f"no {cc}")
    flags = [*compiler.FLAGS, *"-fPIC -Wall -Wextra -Werror -c".split()]
    sources = [str(compiler.SOURCE), "-o", str(tmp_path / "kernels.o")]
    done = subprocess.run([*command, *flags, *sources], check=False, capture_output=True, text=True)
    assert not done.returncode, done.stderr


def test_compile_errors_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "SOURCE", tmp_path / "broken.c")
    (tmp_path / "broken.c").write_text("int main(void) { return x; }\n")
    with pytest.raises(compiler.CompileError, match=r"failed: .*error.*x") as caught:
        compiler.compile_kernel(out_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.c"]


def test_compile_without_a_compiler(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "native_compiler", lambda: None)
    monkeypatch.setattr(compiler, "zig", lambda: None)
    with pytest.raises(compiler.CompileError, match="install cc, clang or gcc"):
        compiler.compile_kernel("linux-x86_64", tmp_path)
    with pytest.raises(compiler.CompileError, match="unknown target 'amiga'"):
        compiler.compile_kernel("amiga", tmp_path)


# ------------------------------------------------------------------ sanitizers and other machines
def run_checks(command, isa, expected=None):
    """Runs a compiled check_kernels.c; it says which instructions it used."""
    done = subprocess.run(
        command,
        check=False,
        env=os.environ | {"RUN_ISA": isa},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[0] == (expected or done.stdout.split()[0])
    assert done.stdout.endswith(" ok\n")


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitizers(sanitizer, tmp_path):
    cc, out = compiler.native_compiler(), tmp_path / "check"
    if not cc:
        pytest.skip("no C compiler found")
    flags = [f"-fsanitize={sanitizer}", *"-fno-sanitize-recover=all -g -O1 -pthread".split()]
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }\n")
    empty = [*cc, *flags, str(tmp_path / "empty.c"), "-o", str(out)]
    if subprocess.run(empty, check=False, capture_output=True).returncode:
        pytest.skip(f"{cc[0]} has no -fsanitize={sanitizer}")
    flags += ["-std=gnu11", "-fno-math-errno", str(CHECKS), "-o", str(out)]
    subprocess.run([*cc, *flags], check=True)
    for isa in SETS:  # one that the processor lacks stands for the best that it has
        run_checks([str(out)], isa)


@pytest.mark.parametrize(
    ("machine", "cpu", "isa"),
    [
        ("x86_64", "Nehalem", "portable"),
        ("x86_64", "Haswell", "avx2"),
        ("aarch64", "cortex-a53", "neon"),
        ("aarch64", "max", "dotprod"),
        ("riscv64", "rv64", "portable"),
    ],
)
def test_emulated_processors(machine, cpu, isa, tmp_path):
    """One program runs on the oldest processor of its kind, and is right there."""
    emulator = shutil.which(f"qemu-{machine}") or shutil.which(f"qemu-{machine}-static")
    if not emulator:
        pytest.skip(f"no qemu-{machine} (Debian: qemu-user)")
    if not compiler.zig():
        pytest.skip("no zig to cross-compile with (pip install ziglang)")
    out = tmp_path / "check"
    flags = ["cc", "-target", f"{machine}-linux-musl", *"-static -O1 -std=gnu11".split()]
    subprocess.run([*compiler.zig(), *flags, str(CHECKS), "-o", str(out)], check=True)
    run_checks([emulator, "-cpu", cpu, str(out)], "", isa)
