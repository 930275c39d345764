"""The tokenizer against run.c's ids, a naive encoder and the public sentencepiece package."""

import io
import json
import random as stdlib_random
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

import run
from support import models, reference
from support.cli import SHARED, VOCAB

GOLDEN = Path(__file__).parent.parent / "golden" / "tokens.jsonl"
LINES = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
TINY = run.read_tokenizer(models.write_tokenizer(VOCAB))


def from_gguf(vocab, **keys):
    """The Tokenizer of a GGUF file that holds this vocabulary."""
    model = models.build("mha", vocab_size=len(vocab))
    extra = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    return run.read_model(models.write_gguf(model, vocab=vocab, extra=extra)[0]).tokenizer


TINY_GGUF = from_gguf(VOCAB)


def decode(tokenizer, tokens):
    return b"".join(map(tokenizer.decode, tokens, tokens[1:]))


@pytest.mark.parametrize("line", LINES, ids=lambda line: ascii(line["text"][:20]))
def test_same_ids_as_run_c(line):
    assert TINY.encode(line["text"]) == line["ids"]
    assert TINY_GGUF.encode(line["text"]) == line["ids"]
    assert reference.encode(VOCAB, line["text"]) == line["ids"]
    assert TINY.encode(line["text"], bos=False) == line["ids"][1:]


@pytest.mark.skipif(not (SHARED / "golden").is_dir(), reason="no ../shared/golden here")
def test_same_ids_as_sentencepiece_for_llama_2():
    data = (SHARED / "models" / "tok32000.bin").read_bytes()
    tokenizer = run.read_tokenizer(data)
    lines = (SHARED / "golden" / "tokens.jsonl").read_text(encoding="utf-8").splitlines()
    for line in map(json.loads, lines):
        assert tokenizer.encode(line["text"]) == line["ids"], line["text"]
        assert decode(tokenizer, line["ids"]).decode() == line["text"]


# --------------------------------------------------------------------------------------------------
# SentencePiece, trained here


def corpus():
    """Some thousand lines with every script that the tests use."""
    words = (models.TEXT + " naïve café Straße Привет мир 你好世界 こんにちは").split()
    shuffle = stdlib_random.Random(7)
    return [
        " ".join(shuffle.choices(words, k=shuffle.randint(1, 12))) + shuffle.choice(".!?\n")
        for _ in range(1500)
    ]


@pytest.fixture(scope="module")
def trained():
    """A SentencePiece model made as Llama 2's was: BPE, bytes for the rest, digits split."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.99,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.fixture(scope="module")
def both(trained):
    """The same vocabulary as tokenizer.bin and inside a GGUF file."""
    vocab = models.sentencepiece_vocab(trained)
    return run.read_tokenizer(models.write_tokenizer(vocab)), from_gguf(vocab)


def assert_like_sentencepiece(trained, both, text):
    want = trained.encode(text, add_bos=True)
    for tokenizer in both:
        assert tokenizer.encode(text) == want, ascii(text)
        assert decode(tokenizer, want).decode() == text


def test_sentencepiece_on_its_corpus(trained, both):
    for text in corpus()[:300] + [line["text"] for line in LINES]:
        assert_like_sentencepiece(trained, both, text)


# U+2581 is SentencePiece's own sign for a space; NUL ends its strings' C copies.
TEXTS = st.text(st.characters(exclude_characters="\u2581\0", codec="utf-8"))
WORDS = st.lists(
    st.sampled_from(
        ["Once", " ", "  ", "ball", "the", "é", "ß", "你", "好", "世", "1", "\n", "😀"]
    ),
    max_size=40,
).map("".join)


@settings(deadline=None, max_examples=400)
@given(st.one_of(TEXTS, WORDS))
def test_sentencepiece_on_any_text(trained, both, text):
    assert_like_sentencepiece(trained, both, text)


@pytest.mark.slow
def test_sentencepiece_on_100_kilobytes(trained, both):
    shuffle = stdlib_random.Random(1)
    long = " ".join(corpus())[:100_000]
    mixed = "".join(shuffle.choices("aehl tbOn .\n你é😀", k=40_000))
    for text in (long, mixed, "a" * 50_000, " " * 20_000, "the" * 20_000, "ball " * 10_000):
        assert_like_sentencepiece(trained, both, text)


# --------------------------------------------------------------------------------------------------
# Round trips and the naive encoder


@settings(deadline=None, max_examples=300)
@given(st.text(st.characters(codec="utf-8")))
def test_round_trip(text):
    for tokenizer in (TINY, TINY_GGUF):
        tokens = tokenizer.encode(text)
        assert tokens[0] == 1 and all(0 <= token < len(VOCAB) for token in tokens)
        assert 1 not in tokens[1:] and 2 not in tokens
        assert decode(tokenizer, tokens).decode() == text


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="abelhtOndy .L你é\n", max_size=60))
def test_naive_encoder_on_mergeable_text(text):
    want = reference.encode(VOCAB, text)
    assert TINY.encode(text) == TINY_GGUF.encode(text) == want
    assert decode(TINY, want) == reference.decode(VOCAB, want)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_naive_encoder_on_any_vocabulary(data):
    """Pieces and scores that no trainer would make: ties, gaps, merges that lead nowhere."""
    pieces = st.text(alphabet="ab c", min_size=2, max_size=5)
    vocab = models.tiny_vocab(260 + 100)
    vocab.pieces, vocab.scores, vocab.types = (
        vocab.pieces[:259],
        vocab.scores[:259],
        vocab.types[:259],
    )
    for piece in [" ", "a", "b", "c", *data.draw(st.lists(pieces, unique=True, max_size=25))]:
        vocab.add(piece, models.NORMAL, float(data.draw(st.integers(-3, 3))))
    text = data.draw(st.text(alphabet="ab c", max_size=30))
    tokenizer = run.read_tokenizer(models.write_tokenizer(vocab))
    assert tokenizer.encode(text) == reference.encode(vocab, text)


@given(st.text(st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF), min_size=1, max_size=5))
def test_lone_surrogates_do_not_fail(text):
    """Python hands bytes of the command line that are not UTF-8 over as these."""
    tokens = TINY.encode(f"a{text}b")
    assert decode(TINY, tokens)[:1] == b"a"


def test_bytes_of_the_command_line_stay_bytes():
    text = b"a\xff\xfeb".decode("utf-8", "surrogateescape")
    assert decode(TINY, TINY.encode(text)) == b"a\xff\xfeb"


# --------------------------------------------------------------------------------------------------
# Special tokens, odd vocabularies


@pytest.mark.parametrize(
    "text", ["</s>", "<s>", "<unk>", "\n<s>\n", "\n</s>\n", "<0x41>", "<0x0A>"]
)
def test_text_never_becomes_a_special_token(text):
    """Not even where merges lead up to one: a prompt must not be able to end the text."""
    vocab = models.tiny_vocab()
    for start in range(1, len(text)):
        for piece in {text[start:], text[:start]} - {text}:
            if piece.encode() not in vocab.pieces:
                vocab.add(piece, models.NORMAL, 5.0)
    for tokenizer in (
        run.read_tokenizer(models.write_tokenizer(vocab)),
        from_gguf(vocab),
    ):
        tokens = tokenizer.encode(text + text, bos=False)
        assert not {0, 1, 2} & set(tokens)
        assert decode(tokenizer, [1, *tokens]).decode() == text + text
        assert all(vocab.types[token] == models.NORMAL for token in tokens[1:] if text[0] != "\n")


def test_every_byte_token_decodes_to_its_byte():
    for byte in range(256):
        for tokenizer in (TINY, TINY_GGUF):
            assert tokenizer.decode(300, byte + 3) == bytes([byte])


def test_one_space_goes_after_bos_and_only_there():
    space, the = VOCAB.id(" "), VOCAB.id(" the")
    for tokenizer in (TINY, TINY_GGUF):
        assert tokenizer.decode(1, the) == b"the"
        assert tokenizer.decode(the, the) == b" the"
        assert tokenizer.decode(1, space) == b""


def test_a_vocabulary_without_bytes_or_space():
    vocab = models.Vocab([], [], [])
    for piece, kind in (("<unk>", 2), ("<s>", 3), ("</s>", 3), ("a", 1), ("b", 1), ("ab", 1)):
        vocab.add(piece, kind)
    for tokenizer in (
        run.read_tokenizer(models.write_tokenizer(vocab)),
        from_gguf(vocab),
    ):
        tokens = tokenizer.encode("ab?é")
        assert tokens[0] == 1 and all(0 <= token < 6 for token in tokens)
        assert 5 in tokens


def test_duplicate_pieces_do_not_fail():
    vocab = models.tiny_vocab()
    first = vocab.id(" the")
    vocab.add(" the", models.NORMAL, 9.0)
    for tokenizer in (
        run.read_tokenizer(models.write_tokenizer(vocab)),
        from_gguf(vocab),
    ):
        assert tokenizer.encode("the")[-1] in (first, len(vocab) - 1)
        assert decode(tokenizer, tokenizer.encode("the the")) == b"the the"


def test_gguf_without_space_prefix():
    tokenizer = from_gguf(VOCAB, add_space_prefix=("bool", False))
    assert tokenizer.encode("a") == [1, VOCAB.id("a")]


def test_gguf_with_other_bos_and_eos():
    """Ids 1 and 2 are a convention, not a rule."""
    vocab = models.tiny_vocab()
    start, stop = vocab.add("<start>", models.CONTROL), vocab.add("<stop>", models.CONTROL)
    tokenizer = from_gguf(vocab, bos_token_id=("u32", start), eos_token_id=("u32", stop))
    assert tokenizer.encode("a")[0] == start
    assert tokenizer.decode(start, vocab.id(" the")) == b"the"


def test_gguf_scores_and_types_may_be_missing_or_refused():
    """Without scores there is no merge order: refused by name, or read as equal; no crash."""
    for key in ("scores", "token_type"):
        try:
            tokenizer = from_gguf(VOCAB, **{key: None})
        except run.ModelError as error:
            assert key in str(error)
        else:
            assert decode(tokenizer, tokenizer.encode("the ball")) == b"the ball"


def test_other_gguf_tokenizers_are_refused_by_name():
    with pytest.raises(run.ModelError, match="gpt2"):
        from_gguf(VOCAB, model=("str", "gpt2"))
