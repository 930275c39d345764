"""The two halves of a layer and the classifier, of every instruction set, against float64."""

import threading
from ctypes import byref

import numpy as np
import pytest
from kernel_harness import CLayer, Matrix, Memory, Network, close_enough, normal

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
    model, _, cache = network.parts
    kernel.classify(model, cache, norm.ctypes.data, byref(wcls.c), *pointers)
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
    kernel.attention(*network.parts, y.ctypes.data, 9, 0)
    kernel.feed_forward(*network.parts, z.ctypes.data, 9)
    assert np.isnan(y[4:]).any(1).all() and np.isnan(y[4]).all()  # later ones attend to it
    assert np.isnan(z[4]).all() and np.isfinite(np.delete(z, 4, 0)).all()
    network.close()


# -------------------------------------------------------------------- conversations of one model
class Conversation:
    """Two layers of one model and a Cache of its own; says what came of each step, in bytes."""

    def __init__(self, network, seed):
        self.network, self.rng = network, np.random.default_rng(seed)
        self.memory = Memory(network.kernel, network.model, network.rope, 80)
        self.pos, self.results = 0, []

    def step(self, t):
        """Read t positions more."""
        kernel, model = self.network.kernel, byref(self.network.model)
        x = normal(self.rng, t, self.network.model.dim)
        for layer in self.network.layers:
            rest = byref(layer), byref(self.memory.c), x.ctypes.data, t
            kernel.attention(model, *rest, self.pos)
            kernel.feed_forward(model, *rest)
        assert np.isfinite(x).all()
        self.pos += t
        self.results.append(x.tobytes())


STEPS = 13, 1, 1, 5, 17, 1, 30, 1, 1, 1


@pytest.fixture
def two_layers(kernel, rng, request):
    """A Network with a second layer, which has the first one's weights and keys of its own."""
    network = Network(kernel, rng, 12, 2, 20, 136, request.param, threads=3)
    second = CLayer.from_buffer_copy(network.layer)
    second.index, network.model.n_layers = 1, 2
    network.layers = network.layer, second
    yield network
    network.close()


def alone(network, seed):
    """What a conversation is without another one."""
    conversation = Conversation(network, seed)
    for t in STEPS:
        conversation.step(t)
    return conversation.results


@pytest.mark.parametrize("two_layers", [0, 8], ids=["float", "int8"], indirect=True)
def test_two_conversations_take_turns(two_layers):
    expected = [alone(two_layers, seed) for seed in (1, 2)]
    assert expected[0] != expected[1]
    first, second = Conversation(two_layers, 1), Conversation(two_layers, 2)
    for t in STEPS:
        first.step(t)
        second.step(t)
    assert [first.results, second.results] == expected


@pytest.mark.parametrize("two_layers", [0, 8], ids=["float", "int8"], indirect=True)
def test_two_conversations_at_once(two_layers):
    """From two threads: one has the pool, the other computes alone, and no bit changes."""
    expected = [alone(two_layers, seed) for seed in (1, 2)]
    results = {1: [], 2: []}

    def talk(seed):
        results[seed].extend(alone(two_layers, seed) for _ in range(20))

    callers = [threading.Thread(target=talk, args=(seed,)) for seed in results]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == {1: [expected[0]] * 20, 2: [expected[1]] * 20}
