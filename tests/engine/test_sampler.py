"""The sampler against run.c's own draws, and against a float64 reference on thousands more."""

import json
from pathlib import Path

import numpy as np
import pytest

import run
from golden import make
from support import reference

GOLDEN = Path(__file__).parent.parent / "golden" / "samples.jsonl"
CASES = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
EDGE = 1e-5  # a coin that falls so close to an edge may land on either side in float32


@pytest.mark.parametrize("line", CASES, ids=lambda line: "-".join(map(str, line["case"])))
def test_same_draws_as_run_c(line):
    size, temperature, topp, seed, count = line["case"]
    logits = make.logits_for(size, seed)
    sampler = run.Sampler(temperature, topp, seed)
    assert [sampler.sample(logits.copy()) for _ in range(count)] == line["ids"]


@pytest.mark.slow
def test_thousands_of_random_logits():
    random = np.random.RandomState(0)
    compared = 0
    for case in range(4000):
        size = int(random.choice([2, 3, 10, 257, 600]))
        logits = (random.standard_normal(size) * random.choice([0.1, 1, 5, 30])).astype(np.float32)
        temperature = float(random.choice([0, 0.05, 0.5, 1, 1.7]))
        topp = float(random.choice([0, 0.1, 0.5, 0.9, 0.99, 1]))
        seed = int(random.randint(1, 2**31))
        want, _, margin = reference.sample(logits, temperature, topp, seed)
        got = run.Sampler(temperature, topp, seed).sample(logits.copy())
        if margin > EDGE:
            compared += 1
            assert got == want, (case, size, temperature, topp, seed)
    assert compared > 3600  # the edges are thin: nearly every case was compared


def test_a_long_run_of_one_generator():
    """The state moves by one coin per draw, whatever the flags."""
    random = np.random.RandomState(1)
    for topp in (0.0, 0.9):
        sampler, state = run.Sampler(1.0, topp, 987654321), 987654321
        for _ in range(500):
            logits = random.standard_normal(64).astype(np.float32) * 2
            want, state, margin = reference.sample(logits, 1.0, topp, state)
            got = sampler.sample(logits.copy())
            assert got == want or margin <= EDGE


def test_temperature_zero_draws_no_coin_and_takes_the_first():
    sampler = run.Sampler(0.0, 0.9, 5)
    logits = np.array([1, 7, 3, 7, 7], np.float32)
    assert [sampler.sample(logits.copy()) for _ in range(3)] == [1, 1, 1]
    want = reference.sample(np.arange(9.0), 1.0, 1.0, 5)[0]
    assert run.Sampler(1.0, 1.0, 5).sample(np.arange(9, dtype=np.float32)) == want


def test_equal_logits_are_drawn_evenly():
    sampler = run.Sampler(1.0, 1.0, 42)
    counts = np.bincount(
        [sampler.sample(np.zeros(8, np.float32)) for _ in range(4000)], minlength=8
    )
    assert counts.min() > 400 and counts.max() < 600


def test_topp_never_leaves_the_nucleus():
    logits = np.log(np.array([0.5, 0.3, 0.1, 0.05, 0.05], np.float32))
    sampler = run.Sampler(1.0, 0.6, 3)
    assert {sampler.sample(logits.copy()) for _ in range(500)} == {0, 1}
    sampler = run.Sampler(1.0, 1e-6, 3)
    assert {sampler.sample(logits.copy()) for _ in range(100)} == {0}


def test_topp_must_be_exceeded_not_reached():
    """Four tokens of exactly 1/4: two of them reach 0.5, the third exceeds it, as in run.c."""
    sampler = run.Sampler(1.0, 0.5, 3)
    assert {sampler.sample(np.zeros(4, np.float32)) for _ in range(200)} == {0, 1, 2}


def test_topp_of_equal_probabilities_has_a_candidate():
    """p = 1/n is below (1 - topp)/(n - 1) for a tiny topp: run.c would read before its buffer."""
    for topp in (1e-7, 1e-3, 0.01):
        got = run.Sampler(1.0, topp, 9).sample(np.zeros(4, np.float32))
        assert 0 <= got < 4


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("topp", [0.9, 1.0])
@pytest.mark.parametrize(
    "logits",
    [[np.nan] * 4, [1, np.nan, 2, 3], [np.inf, 1, 2, 3], [-np.inf] * 4, [np.inf, -np.inf, 0, 0]],
    ids=["nan", "one nan", "inf", "all -inf", "both"],
)
def test_broken_logits_are_refused(logits, temperature, topp):
    with pytest.raises(run.ModelError):
        run.Sampler(temperature, topp, 1).sample(np.array(logits, np.float32))


def test_minus_infinity_alone_is_a_token_that_never_comes():
    logits = np.array([-np.inf, 0, 0, -np.inf], np.float32)
    sampler = run.Sampler(1.0, 1.0, 4)
    assert {sampler.sample(logits.copy()) for _ in range(100)} == {1, 2}


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 100])
def test_extreme_temperatures_stay_finite(temperature):
    logits = np.array([10, 50, 20], np.float32)
    for topp in (0.9, 1.0):
        token = run.Sampler(temperature, topp, 4).sample(logits.copy())
        assert token == 1 or temperature == 100


@pytest.mark.parametrize(
    ("temperature", "topp", "seed"),
    [(-0.1, 0.9, 1), (np.nan, 0.9, 1), (np.inf, 0.9, 1), (1, -0.1, 1), (1, 1.1, 1), (1, np.nan, 1)],
)
def test_values_out_of_range(temperature, topp, seed):
    with pytest.raises(run.ModelError):
        run.Sampler(temperature, topp, seed)


def test_the_caller_keeps_its_logits():
    logits = np.array([1, 2, 3], np.float32)
    run.Sampler(0.5, 0.9, 1).sample(logits)
    assert logits.tolist() == [1, 2, 3]
