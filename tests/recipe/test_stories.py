"""The stories of the grammar: what they are composed of, what no story may do, and the model files.

Many seeds stand for all stories.  Worlds are made in which all persons are girls, or all boys, and
things have words that no other thing has, so a name that drifts, an object that changes or a "he"
who becomes "she" is seen.
"""

import functools
import hashlib
import math
import random
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import run
from run.recipe import judge, stories, vocabulary

EMBED = Path(stories.__file__).parent.parent
SAMPLE = [stories.story(random.Random(f"test/{i}")) for i in range(1200)]
BLOCK = "wq wk wv wo w1 w2 w3".split()
PLOTS = stories.plots()

# Beats in which somebody else than hero, friend, elder and the third is called "he" or "she".
OTHERS = """judge|old man|woman|who|beard|fished alone|d nothing|not say a word|kept quiet
|tiny man|small man|little man|tiny boy|little boy""".replace("\n", "")


@functools.cache
def drawn():
    """Many plans, and the random numbers to tell each with."""
    seeds = [(f"plan/{i}", i % 8 == 0) for i in range(1600)]
    return [(seed, stories.draw_plan(random.Random(seed), held_out)) for seed, held_out in seeds]


# ------------------------------------------------------------------------------- the grammar


def test_plots_fit_together():
    """Every slot is known, every state is reached and left, every bracket is closed."""
    assert not stories.check()


def test_a_mistake_in_plots_is_found():
    text = 'want > lost\n{hero} saw {nothing}. "{he} ran."\n\nmore lost > nowhere\n<no_list>'
    wrong = "\n".join(stories.check(stories.Plots(text)))
    for part in ("{nothing}", "no_list", "{he} in a speech", "no turn leads out of 'lost'"):
        assert part in wrong


def test_variety():
    """Three times the 66 plots of old, each of which has several openings, complications, ends."""
    ways = {(w.where, t.where) for w in PLOTS.of("want") for t in stories.turns_after(w)}
    assert len(ways) > 3 * 66
    assert len(PLOTS.of("more")) > 50
    assert len(PLOTS.of("open")) > 100
    assert {turn.target for turn in PLOTS.of("turn")} == set(stories.OUTCOMES)
    assert all(PLOTS.of("end", outcome) for outcome in stories.OUTCOMES)


def test_the_same_seed_tells_the_same_story_in_any_process():
    command = [sys.executable, EMBED / "recipe" / "stories.py", "--count", "5", "--seed", "3"]
    printed = {
        subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
        for env in (
            {"PYTHONHASHSEED": "1", "PYTHONUTF8": "1"},
            {"PYTHONHASHSEED": "2", "PYTHONUTF8": "1"},
        )
    }
    again = [stories.story(random.Random(f"3/{i}")) for i in range(5)]
    assert printed == {"".join(text + "\n\n" for text in again)}


def test_no_two_stories_are_equal_nor_begin_alike():
    assert len(set(SAMPLE)) == len(SAMPLE)
    openings = {" ".join(text.split()[:25]) for text in SAMPLE}
    assert len(openings) > 0.99 * len(SAMPLE)


def test_length():
    lengths = [len(text.split()) for text in SAMPLE]
    assert min(lengths) >= 55
    assert max(lengths) <= 330
    assert 130 <= sorted(lengths)[len(lengths) // 2] <= 200


@pytest.mark.parametrize(
    "slip",
    [
        r"[][{}<>|@_=]",  # notation left over
        r"\b[Aa] (?!uni|one\b|use|eu)[aeiouAEIOU]",
        r"\b[Aa]n (?!hour)[b-df-hj-np-tv-z]",
        r"  | $|^ | [,.!?;:]",
        r"[,;:][.,!?]|(?<!\.)\.\.(?!\.)|[?!][.,]",
        r"(?<!\.)[.!?] [a-z]|\.\" [a-z]|^[a-z]",  # a sentence without its capital
        r"\b(?!had|wait|tweet)(\w{3,}) \1\b",  # a word twice
        r"\bthe an?\b|\ban? the\b|\ban? an?\b",
        r"\b(They|We|they|we) (is|was|has)\b",
        r"(^|[.!?] |, and )(He|She|It|he|she|it) (are|were|have)\b",
        r"\bI (is|are|has)\b|(?<!if )(?<!and )I were|\bI's\b|\b(said|asked|cried) I\b(?! )",
        r"\w$",  # the end without a mark
        r"named (his|her|my)\b",
    ],
)
def test_no_slips(slip):
    found = [text for text in SAMPLE if re.search(slip, text, re.M)]
    assert not found, f"{len(found)}: {re.search(slip, found[0], re.M)} in {found[0]}"


def test_quotes_open_and_close():
    for text in SAMPLE:
        marks = [m.start() for m in re.finditer('"', text)]
        assert len(marks) % 2 == 0, text
        for opening, closing in zip(marks[::2], marks[1::2], strict=True):
            assert opening == 0 or text[opening - 1] in " \n", text
            assert text[closing + 1 : closing + 2] in ("", " ", "\n", "!", ","), text


def a_world(plan, rng, he):
    """A world in which everybody is "he" (or she), with a name and a thing that nobody else has."""
    world = stories.make_world(rng, plan)
    words = stories.HE if he == "he" else stories.SHE
    people = zip(world.people, ("Zibo", "Kalu", "Vepi"), strict=True)
    for person, name in people:
        person.name = person.short = name
        person.words, person.named = words, True
        person.kind = {"he": "boy", "she": "girl"}[he]
    world.kin, world.evoc = {"he": ("dad", "Dad"), "she": ("mom", "Mom")}[he]
    world.elder_words = words
    world.set_words()
    world.fill_in(PLOTS.lists, stories.KINDS_OF_THING)
    world.values.update(adj="teal", noun="gizmo", thing="teal gizmo", a_thing="a teal gizmo")
    return world


@pytest.mark.parametrize("beat", PLOTS.of("turn"), ids=lambda beat: f"line {beat.where}")
def test_everybody_keeps_name_and_pronouns(beat):
    """In a world of girls nobody is "he", in a world of boys nobody is "she"."""
    having = [(seed, plan) for seed, plan in drawn() if beat in plan.beats]
    assert having
    for seed, plan in having[:5]:
        rng = random.Random(seed)
        for he in ("he", "she"):
            text = stories.tell(plan, a_world(plan, rng, he))
            assert text.count("Zibo") >= 2 or "I" in plan.needs, text
            strangers = {"he": "she|her|hers|herself", "she": "he|him|his|himself"}[he]
            if not re.search(OTHERS, text) and "I" not in plan.needs:
                assert not re.search(rf"\b({strangers})\b", text, re.I), f"{he} in {text}"


def test_things_come_back_and_keep_their_colour():
    seen = 0
    for seed in range(300):
        rng = random.Random(f"things/{seed}")
        plan = stories.draw_plan(rng, False)
        if plan.slots & {"thing", "a_thing"} and not plan.needs & {"I"}:
            text = stories.tell(plan, a_world(plan, rng, "she"))
            seen += 1
            assert "teal gizmo" in text, text
            before = set(re.findall(r"(\w+) gizmo\b", text)) - {"teal"}
            assert not before & set(PLOTS.lists["colour"] + PLOTS.lists["look"]), text
    assert seen > 50


def test_a_story_of_its_own_voice():
    """Told by the hero there is no "he" for the hero: the name is what others say."""
    told = [text for text in SAMPLE if text.startswith("My name is")]
    assert len(told) > 10
    for text in told:
        name = re.match(r"My name is ([^,.]*)", text)[1]
        narration = re.sub(r'"[^"]*"', "", text).replace(name, "", 1)
        about = rf"\b{re.escape(name)} (was|had|went|looked|ran|said)\b"
        assert not re.search(about, narration), text


def test_what_the_opening_gave_comes_back():
    """The name in all stories, the year in half of those that begin with one."""
    years = [text for text in SAMPLE if re.match(r"In the year \d+", text)]
    back = [text for text in years if text.count(re.search(r"\d+", text)[0]) > 1]
    assert len(years) > 20
    assert len(back) > 0.4 * len(years)


def test_no_name_of_the_judge_is_told():
    names = stories.unseen_names()
    assert len(names) == len(set(names)) == 100
    assert sum(not name.isascii() for name in names) >= 30
    assert sum(bool(re.search("[ -]", name)) for name in names) >= 30
    words = set(re.findall(r"[^\W\d_]+", " ".join(SAMPLE)))
    singles = {name for name in names if not re.search("[ -]", name)}
    assert not words & singles
    assert not [n for n in set(names) - singles if any(n in text for text in SAMPLE)]


def test_held_out_plots_are_not_told_in_training():
    rng = random.Random(1)
    kept = {stories.is_held_out(stories.draw_plan(rng, True).beats) for _ in range(50)}
    told = {stories.is_held_out(stories.draw_plan(rng, False).beats) for _ in range(300)}
    assert (kept, told) == ({True}, {False})


def test_the_grammar_passes_the_judge(capsys):
    """It cannot teach what it does not do: sentences seldom recur, no two stories are alike."""
    judge.judge_variety(SAMPLE[:300])
    said = capsys.readouterr().out
    recur, most = (float(x) for x in re.findall(r"([\d.]+)% ?(?:\(35|of the)", said))
    assert recur <= 33
    assert most <= 50


@pytest.mark.parametrize(
    "name, told, right",
    [
        ("Zed", "Zed was happy.", True),
        ("Zed", "Zedo was happy. Zed slept.", False),
        ("Priya", "Pri was happy. So was Priya.", False),
        ("Priya", "Ben was happy.", False),
        ("Maria Lopez", "Maria was happy.", True),
        ("Jean-Luc", "Jean-Luc slept, and Ben was happy.", True),
        ("Jean-Luc", "Jean-Lu slept.", False),
    ],
)
def test_the_judge_sees_a_name_go_wrong(name, told, right):
    prompt = f"My name is {name}"
    assert judge.spelled_right(name, prompt, f"{prompt}. {told}") is right
    assert not judge.spelled_right(name, prompt, f"{prompt}o. {told}")


# ------------------------------------------------------------------------------- the tokenizer


@pytest.fixture(scope="module")
def encoder():
    return vocabulary.Encoder(*vocabulary.train_tokenizer(1024, 300))


def test_vocabulary_has_its_size_and_no_piece_twice(encoder):
    pieces = encoder.tokenizer.pieces
    assert len(pieces) == 1024
    assert len(set(pieces[259:])) == 1024 - 259


def test_training_sees_the_tokens_that_run_will_make(encoder):
    for text in SAMPLE[:100]:
        assert encoder.encode(text) == encoder.tokenizer.encode(text)


@pytest.mark.parametrize("name", ["Priya", "Łukasz", "Wilhelmina", "Nguyễn", "Søren", "美咲"])
def test_a_name_is_spelled_alike_wherever_it_stands(encoder, name):
    """At the start, after a space, a mark and a line: but for a space that is part of a piece."""

    def pieces(text):
        ids = encoder.encode(text)[1:]
        return [piece for i in ids if (piece := encoder.tokenizer.pieces[i].strip(b" "))]

    own = pieces(name)
    for text in (f"So {name} ran.", f'"{name}!" said Tom.', f"So.\n{name}'s hat.", f"({name})"):
        found = pieces(text)
        assert any(found[i : i + len(own)] == own for i in range(len(found))), (own, found)


# ----------------------------------------------------------------------------- the model files


@pytest.fixture(scope="module")
def model():
    return run.load_model(backend="numpy")


def test_model_file():
    """A v2 header, numbers that fit together, exactly as many bytes as they say, at most 4.5 MB."""
    data = (EMBED / "model.bin").read_bytes()
    magic, version = struct.unpack_from("<Ii", data)
    assert (magic, version) == (0x616B3432, 2)
    dim, hidden, layers, heads, kv_heads, vocab, context = struct.unpack_from("<7i", data, 8)
    shared, group = struct.unpack_from("<Bi", data, 36)
    assert (shared, context) == (1, 512)
    assert dim % heads == 0 and heads % kv_heads == 0
    assert dim % group == 0 and hidden % group == 0
    kv_dim = dim // heads * kv_heads
    matrices = dim * (vocab + layers * (2 * dim + 2 * kv_dim + 3 * hidden))
    norms = (2 * layers + 1) * dim
    assert len(data) == 256 + 4 * norms + matrices + 4 * matrices // group
    assert not any(data[41:256])
    assert len(data) + (EMBED / "tokenizer.bin").stat().st_size <= 4_500_000


def test_tokenizer_file():
    """<unk>, BOS, EOS, 256 bytes, then pieces whose scores fall, as SentencePiece writes them."""
    data = (EMBED / "tokenizer.bin").read_bytes()
    longest, at, tokens, scores = struct.unpack_from("<I", data)[0], 4, [], []
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        tokens.append(data[at + 8 : at + 8 + length])
        scores.append(score)
        at += 8 + length
    assert at == len(data)
    assert longest == max(map(len, tokens))
    vocab = struct.unpack_from("<i", (EMBED / "model.bin").read_bytes(), 28)[0]
    assert len(tokens) == vocab == len(set(tokens))
    assert tokens[1:3] == [b"\n<s>\n", b"\n</s>\n"]
    assert tokens[3:259] == [b"<0x%02X>" % byte for byte in range(256)]
    assert scores[259:] == sorted(scores[259:], reverse=True)
    assert " " in [token.decode() for token in tokens[259:]]


def test_weights_are_sane(model):
    layers = model.weights.layers
    tensors = [model.weights.tok_emb, *(getattr(layer, n) for layer in layers for n in BLOCK)]
    for tensor in tensors:
        values = np.asarray(tensor[: len(tensor.q)] if hasattr(tensor, "q") else tensor)
        assert np.isfinite(values).all()
        assert 0.005 < values.std() < 2


def test_stories_survive_the_tokenizer_and_fit_the_context(model):
    tokenizer = model.tokenizer
    for text in SAMPLE[:200]:
        ids = tokenizer.encode(text)
        pairs = zip(ids, ids[1:], strict=False)
        data = b"".join(tokenizer.decode(before, token) for before, token in pairs)
        if b"<0x0A>" in data:  # a tokenizer that names its bytes instead of giving them
            data = data.replace(b"<0x0A>", b"\n")
        assert data.decode() == text
        assert len(ids) <= model.config.seq_len


# The model of version 1.0.0, which an earlier recipe made: it does not know these stories.
EARLIER = "9dfcb9c25a894f69393a716b044a03e78d905c62e7beb5a75135010737a80952"


def test_the_model_knows_stories_that_it_never_saw(model):
    """Mean loss of held-out stories, in nats a token: a tenth of what chance gives."""
    if hashlib.sha256((EMBED / "model.bin").read_bytes()).hexdigest() == EARLIER:
        pytest.skip("embed/model.bin was made by an earlier recipe than this one")
    losses = []
    for i in range(12):
        ids = model.tokenizer.encode(stories.story(random.Random(f"held-out/{i}")))
        logits = np.asarray(model.forward(ids[:-1], 0, last_only=False), np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = logits[np.arange(len(ids) - 1), ids[1:]]
        losses.append(np.mean(np.log(np.exp(logits).sum(axis=1)) - chosen))
    assert np.mean(losses) < math.log(model.config.vocab_size) / 10
