"""generate(): what run.c prints, as str pieces; where it stops; what it makes of bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import run
from support import models
from support.cli import VOCAB, run_cli, write_files

BYTE = 3  # id of <0x00>


def script(*pieces, start=1, end=2):
    """follow-table: from `start` through the pieces (text, or int for a byte) to the id `end`."""
    ids = [BYTE + piece if isinstance(piece, int) else VOCAB.id(piece) for piece in pieces]
    assert len(set(ids)) == len(ids), "a token can be followed by one thing only"
    return dict(zip([start, *ids], [*ids, end], strict=True))


def load(tmp_path, model, **options):
    return run.load_model(write_files(tmp_path, model), **options)


def told(engine, prompt="", **options):
    return "".join(run.generate(engine, prompt, **{"temperature": 0.0} | options))


def test_pieces_are_strings_and_join_to_the_text(tmp_path):
    engine = load(tmp_path, models.scripted(script(" Once", "a", " the", "b")))
    pieces = list(run.generate(engine, "", temperature=0))
    assert all(isinstance(piece, str) for piece in pieces)
    assert "".join(pieces).rstrip("\n") == "Oncea theb"


def test_the_prompt_comes_first_as_run_c_prints_it(tmp_path):
    prompt = "Once upon a  time\n"
    engine = load(tmp_path, models.scripted(script("!", "?", start=VOCAB.pieces.index(b"<0x0A>"))))
    assert told(engine, prompt).rstrip("\n") == prompt + "!?"


@pytest.mark.parametrize("end", [1, 2], ids=["BOS", "EOS"])
def test_stops_at_bos_and_eos(tmp_path, end):
    engine = load(tmp_path, models.scripted(script("a", "b", end=end)))
    assert told(engine).rstrip("\n") == "ab"


def test_gguf_stops_at_its_own_eos(tmp_path):
    vocab = models.tiny_vocab()
    stop = vocab.add("<stop>", models.CONTROL)
    model = models.scripted(script("a", "b", end=stop) | {stop: VOCAB.id("c")}, len(vocab))
    extra = {"tokenizer.ggml.eos_token_id": ("u32", stop)}
    data, _ = models.write_gguf(model, vocab=vocab, extra=extra)
    engine = run.load_model(write_files(tmp_path, data, vocab=None))
    assert told(engine).rstrip("\n") == "ab"


@pytest.mark.parametrize(
    ("steps", "count"),
    [(1, 1), (2, 2), (10, 10), (0, 64), (-5, 64), (64, 64), (65, 64), (9999, 64)],
)
def test_steps_count_tokens_and_end_at_the_context(tmp_path, steps, count):
    """A model that says "a" for ever: one letter a step, and no step beyond the context."""
    follow = {1: VOCAB.id("a"), VOCAB.id("a"): VOCAB.id("a")}
    engine = load(tmp_path, models.scripted(follow, seq_len=64))
    assert told(engine, steps=steps).rstrip("\n") == "a" * count


@pytest.mark.parametrize("steps", [1, 2, 5, 6, 7, 20])
def test_steps_count_the_prompt_too(tmp_path, steps):
    """As run.c does: what `-n` leaves of the prompt is printed, then what is left is sampled."""
    model = models.build("gqa", vocab=VOCAB)
    engine = load(tmp_path, model)
    whole = told(engine, "Once upon a time", steps=40, temperature=1.0, seed=4)
    part = told(engine, "Once upon a time", steps=steps, temperature=1.0, seed=4)
    assert whole.startswith(part.rstrip("\n"))
    prompt = VOCAB_IDS[1 : steps + 1]
    assert part.startswith(engine_text(engine, prompt))


VOCAB_IDS = [1, 301, 317, 402, 397, 396, 395, 262, 259, 390, 394, 386]  # golden: Once upon a time


def engine_text(engine, ids):
    return b"".join(map(engine.tokenizer.decode, [1, *ids], ids)).decode()


def test_a_prompt_longer_than_the_context_is_refused_or_cut_with_a_word(tmp_path):
    path = write_files(tmp_path, models.build("mha", vocab=VOCAB))
    done = run_cli(path, "-i", "x" * 500, "-n", "0")
    assert b"Traceback" not in done.stderr
    assert b"64" in done.stderr
    engine = run.load_model(path)
    try:
        assert told(engine, "x" * 500, steps=0).startswith("x" * 60)
    except run.ModelError as error:
        assert "64" in str(error)


def test_a_prompt_that_just_fits(tmp_path):
    """BOS, a space and x...x: 64 tokens fill the context, and one more is sampled from the last."""
    engine = load(tmp_path, models.build("mha", vocab=VOCAB))
    for length in (60, 61, 62):
        text = told(engine, "x" * length, steps=0)
        assert text.startswith("x" * length) and len(text) > length


def test_seeds(tmp_path):
    engine = load(tmp_path, models.build("gqa", vocab=VOCAB))
    one = told(engine, temperature=1.0, seed=1)
    assert one == told(engine, temperature=1.0, seed=1)
    assert one != told(engine, temperature=1.0, seed=2)
    fresh = {told(engine, temperature=1.0, seed=None) for _ in range(3)}
    assert len(fresh) > 1


def test_generations_do_not_disturb_each_other(tmp_path):
    """A generator left half-way leaves nothing behind that the next text would notice."""
    engine = load(tmp_path, models.build("gqa", vocab=VOCAB))
    want = told(engine, "The dog", temperature=1.0, seed=3)
    half = run.generate(engine, "Once upon a time", temperature=1.0, seed=9)
    for _ in range(5):
        next(half)
    half.close()
    assert told(engine, "The dog", temperature=1.0, seed=3) == want


def test_broken_weights_are_reported(tmp_path):
    model = models.build("mha", vocab=VOCAB)
    for name, value in (("w2", np.nan), ("wq", np.inf), ("final_norm", np.nan)):
        broken = models.Model(model.shape, {k: v.copy() for k, v in model.tensors.items()})
        broken.tensors[name].flat[5] = value
        with pytest.raises(run.ModelError):
            told(load(tmp_path, broken))


# --------------------------------------------------------------------------------------------------
# Bytes into text


def stream(tmp_path, *pieces, steps=256):
    engine = load(tmp_path, models.scripted(script(*pieces)))
    return list(run.generate(engine, "", temperature=0, steps=steps))


def test_emoji_come_out_whole(tmp_path):
    """Four byte tokens make one character: no piece holds a part of it."""
    pieces = stream(tmp_path, "a", *"😀".encode(), "b", *"é".encode()[1:])
    text = "".join(pieces)
    assert text.startswith("a😀b")
    assert not any("\ufffd" in piece for piece in pieces[:5])


def test_invalid_bytes_become_the_replacement_character(tmp_path):
    assert "".join(stream(tmp_path, "a", 0xFF, "b", 0xC3, "c")).rstrip("\n") == "a\ufffdb\ufffdc"


def test_a_character_cut_off_at_the_end_is_not_lost_silently(tmp_path):
    assert "".join(stream(tmp_path, "a", 0xF0, 0x9F)).rstrip("\n") == "a\ufffd"


@pytest.mark.parametrize("byte", [*range(32), 0x7F])
def test_control_bytes_do_not_reach_the_terminal(tmp_path, byte):
    text = "".join(stream(tmp_path, "a", byte, "b"))
    assert text.startswith("a") and text.rstrip("\n").endswith("b")
    if byte not in b"\t\n\r":
        assert chr(byte) not in text


def test_c1_controls_do_not_reach_the_terminal(tmp_path):
    """U+009B is CSI in one character: some terminals obey it."""
    assert "\x9b" not in "".join(stream(tmp_path, "a", 0xC2, 0x9B, "b"))


def test_control_characters_of_the_prompt_do_not_either(tmp_path):
    engine = load(tmp_path, models.build("mha", vocab=VOCAB))
    text = told(engine, "a\x1b[31m\x07\x08b", temperature=1.0, seed=1)
    assert not {"\x1b", "\x07", "\x08"} & set(text)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=12))
def test_any_prompt_is_printed_as_it_is(engine, prompt):
    """Joined incrementally from byte tokens, nothing is lost."""
    assert told(engine, prompt, steps=0).startswith(prompt)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return load(tmp_path_factory.mktemp("tiny"), models.scripted({}, seq_len=256))
