"""The transformer against the float64 reference: every shape, backend and way to feed it."""

import ctypes
import gc
import itertools
import math
import platform
import queue
import threading
from concurrent import futures

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import run
from run.engine import blocks, exact, merge, threaded
from support import models, reference
from support.cli import VOCAB, assert_close, missing_kernel, write_files

FLOAT32 = 2e-5  # of the largest logit: float32 sums over at most 512 products and 3 layers
INT8 = 5e-2  # an activation that rounds the other way moves a logit by about 1/127 of a product


def load(tmp_path, model, backend, **options):
    return run.load_model(write_files(tmp_path, model), backend=backend, **options)


def tokens_for(model, count, seed=0):
    random = np.random.RandomState(seed)
    return random.randint(3, model.shape.vocab_size, count).tolist()


@pytest.mark.parametrize("name", models.SHAPES)
def test_decode_token_by_token(tmp_path, backend, name):
    """rmsnorm and RoPE constants come from GGUF, so every shape goes through one."""
    model = models.build(name)
    data, _ = models.write_gguf(model, vocab=VOCAB)
    engine = load(tmp_path, data, backend)
    tokens = tokens_for(model, 24)
    want = reference.forward(model, tokens)
    for pos, token in enumerate(tokens):
        got = engine.forward([token], pos)
        assert got.dtype == np.float32
        assert_close(got, want[pos], FLOAT32)


@pytest.mark.parametrize("name", models.SHAPES)
def test_prefill_equals_reference(tmp_path, backend, name):
    model = models.build(name)
    data, _ = models.write_gguf(model, vocab=VOCAB)
    engine = load(tmp_path, data, backend)
    tokens = tokens_for(model, model.shape.seq_len if name != "gqa" else 60)
    want = reference.forward(model, tokens)
    assert_close(engine.forward(tokens, 0, last_only=False), want, FLOAT32)
    assert_close(engine.forward(tokens, 0), want[-1], FLOAT32)


@pytest.mark.slow
@pytest.mark.parametrize(
    "lengths", [[300], [128, 128, 44], [127, 1, 130, 42], [129, 171], [1, 299]]
)
def test_long_prompts_in_pieces(tmp_path, backend, lengths):
    """More rows than one chunk holds, split anywhere, up to the last position of the context."""
    model = models.build("gqa")
    engine = load(tmp_path, model, backend)
    tokens = tokens_for(model, 300)
    want = long_reference(model, tokens)
    pos = 0
    for length in lengths:
        piece = tokens[pos : pos + length]
        got = engine.forward(piece, pos, last_only=False)
        assert_close(got, want[pos : pos + length], FLOAT32)
        pos += length


def long_reference(model, tokens, known={}):  # noqa: B006
    """The reference takes a second for 300 tokens: it is asked once."""
    if not known:
        known["logits"] = reference.forward(model, tokens)
    return known["logits"]


def test_going_back_overwrites_the_cache(tmp_path, backend):
    model = models.build("gqa-tied")
    engine = load(tmp_path, model, backend)
    first, second = tokens_for(model, 40, 1), tokens_for(model, 12, 2)
    engine.forward(first, 0)
    got = engine.forward(second, 5)
    want = reference.forward(model, first[:5] + second)[-1]
    assert_close(got, want, FLOAT32)


def test_two_models_do_not_share_state(tmp_path, backend):
    model, other = models.build("mha"), models.build("mha", seed=1)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one, two = load(tmp_path / "a", model, backend), load(tmp_path / "b", other, backend)
    tokens = tokens_for(model, 20)
    first = one.forward(tokens[:10], 0).copy()
    two.forward(tokens, 0)
    assert_close(first, reference.forward(model, tokens[:10])[-1], FLOAT32)
    assert_close(one.forward(tokens[10:], 10), reference.forward(model, tokens)[-1], FLOAT32)


def test_beyond_the_context_is_refused(tmp_path, backend):
    model = models.build("mha")
    engine = load(tmp_path, model, backend)
    with pytest.raises(run.ModelError, match="64"):
        engine.forward([5], 64)
    with pytest.raises(run.ModelError, match="64"):
        engine.forward(tokens_for(model, 65), 0)
    engine.forward(tokens_for(model, 64), 0)


def test_a_shorter_context_on_request(tmp_path, backend):
    model = models.build("mha")
    engine = load(tmp_path, model, backend, context=16)
    tokens = tokens_for(model, 16)
    assert_close(engine.forward(tokens, 0), reference.forward(model, tokens)[-1], FLOAT32)
    with pytest.raises(run.ModelError, match="16"):
        engine.forward([5], 16)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("mha", 32),
        ("mha", 16),
        ("mha", 2),
        ("mha", 64),  # straddles the rows of w2, which are 96 long
        ("untied", 8),
        ("gqa", 32),
        ("mqa", 64),
        ("odd", 4),
        ("wide-heads", 64),
        ("blocks", 256),
        ("blocks-gqa", 128),
    ],
)
def test_int8_files(tmp_path, backend, name, group):
    """Version 2: weights exactly as stored, activations rounded per group as runq.c does."""
    data, exact = models.write_v2(models.build(name), group)
    engine, model = load(tmp_path, data, backend), exact
    tokens = tokens_for(exact, 30)
    want = reference.forward(exact, tokens, group)
    got = np.array([engine.forward([token], pos) for pos, token in enumerate(tokens)])
    assert_close(got, want, INT8)
    assert_close(engine.forward(tokens, 0, last_only=False), want, INT8)
    # Rounding differs only where a value sits on an edge: the less there are, the better it agrees.
    rows = np.abs(got - want).max(axis=1) / np.abs(want).max()
    assert rows.min() < 1e-5
    assert model.shape.dim > 64 or np.median(rows) < INT8 / 10


@pytest.mark.parametrize("name", ["mha", "gqa", "odd", "blocks"])
def test_int8_at_load(tmp_path, backend, name):
    """--int8 is what export.py and runq.c would do: groups of 64, halved until they fit."""
    model = models.build(name)
    group = 64
    while model.shape.dim % group or model.shape.hidden_dim % group:
        group //= 2
    _, exact = models.write_v2(model, group)
    engine = load(tmp_path, model, backend, int8=True)
    tokens = tokens_for(model, 30)
    want = reference.forward(exact, tokens, group)
    assert_close(engine.forward(tokens, 0, last_only=False), want, INT8)


def test_threads_do_not_change_the_result(tmp_path, backend):
    model = models.build("gqa")
    tokens = tokens_for(model, 40)
    results = []
    for threads in (1, 2, 3, 7):
        engine = load(tmp_path, model, backend, threads=threads)
        results.append(engine.forward(tokens, 0).copy())
    for result in results[1:]:
        assert_close(result, results[0], 1e-6)


def test_zero_activations(tmp_path, backend):
    """A group of zeros has scale zero: it must not become NaN."""
    model = models.build("mha")
    model.tensors["tok_emb"][7] = 0
    for data in (models.write_v0(model), models.write_v2(model, 32)[0]):
        engine = load(tmp_path, data, backend)
        assert np.isfinite(engine.forward([7, 7, 7], 0)).all()


@st.composite
def any_shape(draw):
    """A small legal shape: nothing is a multiple of what a vector register holds."""
    kv_heads, repeat, pairs = (draw(st.integers(1, 5)) for _ in range(3))
    return models.Shape(
        dim=kv_heads * repeat * pairs * 2,
        hidden_dim=draw(st.integers(1, 70)),
        n_layers=draw(st.integers(1, 2)),
        n_heads=kv_heads * repeat,
        n_kv_heads=kv_heads,
        vocab_size=draw(st.integers(3, 70)),
        seq_len=draw(st.integers(1, 20)),
        shared=draw(st.booleans()),
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("any")


def assert_every_way(place, data, exact, group, tolerance):
    """Token by token and at once, on each backend, against the reference."""
    tokens = tokens_for(exact, exact.shape.seq_len) if exact.shape.vocab_size > 3 else [1, 2]
    tokens = tokens[: exact.shape.seq_len]
    want = reference.forward(exact, tokens, group)
    path = write_files(place, data, vocab=models.first_tokens(exact.shape.vocab_size))
    for backend in ["numpy"] if missing_kernel() else ["numpy", "c"]:
        engine = run.load_model(path, backend=backend, threads=2)
        assert_close(engine.forward(tokens, 0, last_only=False), want, tolerance)
        got = [engine.forward([token], pos) for pos, token in enumerate(tokens)]
        assert_close(np.array(got), want, tolerance)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(shape=any_shape(), seed=st.integers(0, 1000))
def test_any_shape_in_float32(place, shape, seed):
    model = models.fill(shape, seed)
    assert_every_way(place, models.write_v0(model), model, 0, 1e-4)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(shape=any_shape(), seed=st.integers(0, 1000), data=st.data())
def test_any_shape_in_int8(place, shape, seed, data):
    """Any group size that fits: it may straddle rows, or be the whole row."""
    groups = [g for g in range(2, 65) if fits(g, shape)]
    if groups:
        group = data.draw(st.sampled_from(groups))
        file, exact = models.write_v2(models.fill(shape, seed), group)
        assert_every_way(place, file, exact, group, 0.15)


def fits(group, shape):
    """Whether every tensor has whole groups, and every row a part of one above a single weight."""
    matrices = [size for name, size in shape.tensor_shapes().items() if name not in models.NORMS]
    whole = all(math.prod(size[-2:]) % group == 0 for size in matrices)
    return whole and all(math.gcd(row, group) > 1 for row in (shape.dim, shape.hidden_dim))


# ------------------------------------------------------------------ fast paths and their references
def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 4), m=st.integers(1, 5), k=st.integers(2, 70), o=st.integers(2, 40))
def test_products_in_order(n, m, k, o):
    """The same numbers as a plain loop to the last bit, and as BLAS but for rounding.

    Not with o = 1: that is the score of a single key, whose softmax is 1 in any order.
    """
    a, keys = noise(n, m, k), noise(n, o, k, seed=1)
    for b in keys.swapaxes(1, 2), np.ascontiguousarray(keys.swapaxes(1, 2)):
        total = np.zeros((n, m, o), np.float32)
        for i in range(k):
            total += a[:, :, i, None] * b[:, None, i]
        got = exact.product(a, b)
        assert got.dtype == np.float32
        assert (got == total).all()
        assert_close(np.matmul(a, b), got, 1e-6 * k)


@pytest.mark.parametrize("groups", [3, 9, 40, 200])
def test_a_matrix_of_one_row_is_summed_in_order(groups):
    """NumPy would add its groups in pairs, and so another last bit now and then."""
    for seed in range(20):
        w = run.QuantizedTensor(*int8_groups(noise(1, 32 * groups, seed=seed)))
        x = noise(1, 32 * groups, seed=seed + 100)
        x8, x_scales = run.quantize(x, 32)
        total = np.float32(0)
        for g in range(groups):
            dot = np.float32(np.dot(w.q[0, g].astype(int), x8[0, g].astype(int)))
            total += dot * w.scales[0, g] * x_scales[0, g, 0]
        assert exact.matmul(w, x)[0, 0] == total


def int8_groups(matrix):
    whole, scales = run.quantize(matrix, 32)
    return whole.astype(np.int8), scales[..., 0]


def test_rope_in_order():
    """run.c's four products and two sums, each rounded, and the complex product near it."""
    x, table = noise(7, 3, 10), run.rope_table(run.Config(30, 8, 1, 3, 3, 9, 64), 5, 12)
    expected = np.empty_like(x)
    for t, head, i in np.ndindex(7, 3, 5):
        v0, v1 = x[t, head, 2 * i : 2 * i + 2]
        cos, sin = table[t, 0, i].real, table[t, 0, i].imag
        expected[t, head, 2 * i : 2 * i + 2] = v0 * cos - v1 * sin, v0 * sin + v1 * cos
    assert (exact.apply_rope(x, table) == expected).all()
    assert_close(run.apply_rope(x, table), expected, 1e-6)


def c_library():
    """glibc's own functions, or a reason to skip."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("compares with glibc, and this system has another C library")
    libm = ctypes.CDLL("libm.so.6")
    for function in libm.expf, libm.cosf, libm.sinf, libm.powf:
        function.restype = ctypes.c_float
        function.argtypes = [ctypes.c_float] * (2 if function is libm.powf else 1)
    return libm


def test_exponentials_are_those_of_the_c_library():
    libm, x = c_library(), noise(40_000) * 8
    want = np.array([libm.expf(value) for value in x.tolist()], np.float32)
    assert (exact.expf(x) == want).all()
    assert exact.expf(np.array([np.nan, -np.inf, 0, -200], np.float32))[1:].tolist() == [0, 1, 0]
    rows = noise(3, 2, 50) * 5
    assert_close(run.softmax(rows.copy()), exact.softmax(rows), 1e-6)
    assert_close(run.silu(rows), exact.silu(rows), 1e-6)


@pytest.mark.parametrize("head_size", [2, 8, 32, 48, 128])
def test_turns_are_those_of_the_c_library(head_size):
    """The table as run.c computes it at each position: powf, a float product, cosf and sinf."""
    libm, config = c_library(), run.Config(head_size, 8, 1, 1, 1, 9, 2048)
    table = exact.Exact.rope_table(config, 0, 600)
    for i in range(head_size // 2):
        part = np.float32(2 * i) / np.float32(head_size)
        frequency = np.float32(1) / np.float32(libm.powf(10000.0, part))
        for pos in range(600):
            angle = np.float32(pos) * frequency
            assert table[pos, 0, i].real == libm.cosf(angle)
            assert table[pos, 0, i].imag == libm.sinf(angle)
    plain = run.rope_table(config, 0, 600)
    assert_close(plain.view(np.float32), table.view(np.float32), 1e-6)


def threads_backend(threads):
    return threaded.Threaded(run.Config(64, 96, 1, 4, 2, 40, 8), "numpy, in a test", threads)


@pytest.mark.parametrize("out", [1, 3, 64, 257, 1021])
@pytest.mark.parametrize("n", [2, 63, 64, 260, 1031])
def test_matmul_of_every_size(out, n):
    """Small, row by row, and large: the same product for one token or more."""
    w, x = noise(out, n), noise(3, n, seed=1)
    want = x.astype(float) @ w.T.astype(float)
    for matmul in run.matmul, threads_backend(2).matmul:
        assert_close(matmul(w, x), want, 1e-5)
        for t in range(3):
            got = matmul(w, x[t : t + 1])
            assert got.shape == (1, out) and got.dtype == np.float32
            assert_close(got, want[t : t + 1], 1e-5)
    assert 257 * 64 < threaded.ROW_BY_ROW_MIN < 257 * 260 < threaded.SHARED_MIN < 1021 * 1031


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize(("out", "n"), [(1025, 1024), (5, 300_000), (2, 600_000), (1, 1_100_000)])
def test_matmul_on_threads(threads, out, n):
    """Every row once, whatever the number of threads; small ones and batches as run.matmul does."""
    w, backend = noise(out, n), threads_backend(threads)
    for rows in (1, 2):
        x = noise(rows, n, seed=rows)
        assert_close(backend.matmul(w, x), x.astype(float) @ w.T.astype(float), 1e-4)
    small = w[:, :7].copy()
    assert (backend.matmul(small, x[:1, :7]) == run.matmul(small, x[:1, :7])).all()


@pytest.mark.parametrize("kind", blocks.TYPES.values(), ids=lambda kind: kind.name)
@pytest.mark.parametrize(("out", "n", "threads"), [(3, 256, 1), (70, 512, 2), (600, 2048, 3)])
def test_matmul_of_blocks(kind, out, n, threads):
    """A matrix in a GGUF's blocks is read a few rows at a time, for one token or more."""
    random = np.random.default_rng(out)
    raw = random.integers(0, 256, (out, n // kind.weights * kind.layout.itemsize), np.uint8)
    data = raw.view(kind.layout).copy()
    for field in {"d", "m", "dmin"} & set(data.dtype.names or ()):
        data[field] = random.normal(size=data.shape)
    if kind.layout.names is None:
        data = random.normal(size=(out, n)).astype("<f4").view("<u2")[:, 1::2].copy()
        data = data if kind.name == "BF16" else data.view("u2").astype(kind.layout)
    w, x = blocks.BlockTensor(kind, data), noise(3, n, seed=1)
    want = x.astype(float) @ w[:].T.astype(float)
    backend = threads_backend(threads)
    assert_close(backend.matmul(w, x), want, 1e-4)
    assert_close(backend.matmul(w, x[:1]), want[:1], 1e-4)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=80), seed=st.integers(0, 5))
def test_fast_merging_equals_the_simple_one(text, seed):
    """The heap of embed/engine/merge.py makes the tokens of Tokenizer.merge."""
    tokenizer = run.read_tokenizer(models.write_tokenizer(VOCAB))
    random = np.random.RandomState(seed)
    tokenizer.scores = random.randint(-9, 0, len(tokenizer.scores)).astype(float).tolist()
    known = list(tokenizer.ids)
    text += b"".join(known[i] for i in random.randint(0, len(known), 9)).decode("utf-8", "replace")
    tokens = [tokenizer.byte_ids[byte] for byte in text.encode()[:5]]
    tokens += [tokenizer.ids.get(char.encode(), 3) for char in text]
    assert merge.merge(tokenizer, tokens) == tokenizer.merge(list(tokens))


def test_threads_do_not_warn_of_nan(recwarn):
    w = np.full((1025, 1024), np.inf, np.float32)
    w[::2] = -np.inf
    with np.errstate(all="ignore"):
        assert np.isnan(threads_backend(2).matmul(w, noise(1, 1024))).all()
    assert not recwarn.list


def test_threads_end_with_their_model(tmp_path):
    before = set(threading.enumerate())  # some of them may be ending, of an earlier test's model
    engine = run.load_model(write_files(tmp_path, models.build("mha")), backend="numpy", threads=5)
    team = set(threading.enumerate()) - before
    assert len(team) == 4
    del engine
    gc.collect()
    for thread in team:
        thread.join(10)
        assert not thread.is_alive()


def test_a_job_that_was_interrupted_disturbs_no_other():
    """Ctrl-C may end a product before its threads have: the next one waits for its own."""
    w, x, backend = noise(1025, 1024), noise(1, 1024), threads_backend(2)
    stale = queue.SimpleQueue()
    big = noise(4000, 1024)
    for _ in range(20):
        backend.team.jobs.put((np.matmul, (big, x.T), stale))
    assert_close(backend.matmul(w, x), x.astype(float) @ w.T.astype(float), 1e-4)


# --------------------------------------------------------------------- several texts of one model
def test_texts_that_take_turns_are_each_right(tmp_path, backend):
    """Two generators of one model, a token each in turn: neither disturbs the other."""
    engine = load(tmp_path, models.build("gqa", vocab=VOCAB), backend)
    prompts = "Once upon a time", "The dog sat"
    alone = ["".join(run.generate(engine, p, steps=60, seed=3)) for p in prompts]
    both = [run.generate(engine, p, steps=60, seed=3) for p in prompts]
    texts = ["", ""]
    for pieces in itertools.zip_longest(*both, fillvalue=""):
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
    assert texts == alone


@pytest.mark.slow
@pytest.mark.parametrize("int8", [False, True])
def test_texts_in_two_threads_are_each_right(tmp_path, backend, int8):
    engine = load(tmp_path, models.build("blocks", vocab=VOCAB), backend, int8=int8, threads=2)
    prompts = "Once upon a time", "The dog sat", "A", ""

    def tell(prompt):
        return list(run.generate(engine, prompt, steps=80, seed=5))

    alone = list(map(tell, prompts))
    with futures.ThreadPoolExecutor(len(prompts)) as pool:
        for _ in range(5):
            assert list(pool.map(tell, prompts)) == alone


def test_weights_are_never_changed(tmp_path, backend):
    path = write_files(tmp_path, models.write_v2(models.build("gqa", vocab=VOCAB), 32)[0])
    engine = run.load_model(path, backend=backend)
    before = [vars(layer).copy() for layer in engine.weights.layers]
    list(run.generate(engine, "Once", steps=50, seed=1))
    assert [vars(layer) for layer in engine.weights.layers] == before


def test_a_cache_of_one_s_own(tmp_path, backend):
    engine = load(tmp_path, models.build("gqa"), backend)
    tokens = tokens_for(models.build("gqa"), 20)
    want = engine.forward(tokens, 0).copy()
    mine = engine.new_cache()
    engine.forward(tokens[:9], 0, cache=mine)
    engine.forward(tokens[::-1], 0)
    assert_close(engine.forward(tokens[9:], 9, cache=mine), want, FLOAT32)
    assert_close(engine.forward(tuple(tokens), 0), want, FLOAT32)
