"""Files that are not what they should be: one clear line, exit 1, no huge allocation."""

import contextlib
import os
import struct
import sys
import tracemalloc

import numpy as np
import pytest

import run
from support import models
from support.cli import (
    ROOT,
    VOCAB,
    assert_one_line_error,
    peak_memory,
    run_cli,
    run_shell,
    write_files,
)

MEMORY = 1 << 30  # address space for Python, NumPy and a tiny model: a huge allocation fails
TOKENIZER = models.write_tokenizer(VOCAB)


def make_files():
    """Every kind of model file, small."""
    model, blocks = models.build("gqa-tied", vocab=VOCAB), models.build("blocks-gqa", n_layers=1)
    return {
        "v0": models.write_v0(model),
        "v0-untied": models.write_v0(models.build("untied")),
        "v1": models.write_v1(model),
        "v2": models.write_v2(model, 32)[0],
        "gguf-f32": models.write_gguf(model, "F32", VOCAB)[0],
        "gguf-q8_0": models.write_gguf(model, "Q8_0", VOCAB)[0],
        "gguf-q4_k_m": models.write_gguf(blocks, models.Q4_K_M, VOCAB)[0],
    }


FILES = make_files()


def load(data):
    """What load_model does with the bytes; the message if it refuses them."""
    file = run.read_model(data)
    return run.Transformer(file, run.NumPyBackend(file.config), file.config.seq_len), file.tokenizer


def refuse(data, *words):
    """It must be refused by a ModelError of one line with these words, without much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(run.ModelError) as caught:
            load(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert "\n" not in message and 10 < len(message) < 300, message
    for word in words:
        assert str(word) in message, message
    assert peak < 64 << 20, f"{peak:,} bytes"


# --------------------------------------------------------------------------------------------------
# Sizes


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_truncated_anywhere(kind):
    """At every small offset, and at some hundred larger ones."""
    data = FILES[kind]
    offsets = {*range(300), *range(0, len(data), max(1, len(data) // 150)), len(data) - 1}
    for offset in sorted(offsets):
        refuse(data[:offset])


@pytest.mark.parametrize("kind", [kind for kind in FILES if not kind.startswith("gguf")])
@pytest.mark.parametrize("extra", [1, 4, 4096])
def test_too_long(kind, extra):
    """More bytes than the header promises: another model's header, or not a model."""
    refuse(FILES[kind] + b"\0" * extra)


def test_gguf_may_be_padded():
    load(FILES["gguf-f32"] + b"\0" * 17)


@pytest.mark.parametrize("cut", [0, 1, 3, 4, 7, 100, 3000, len(TOKENIZER) - 1])
def test_truncated_tokenizer(tmp_path, cut):
    path = write_files(tmp_path, FILES["v0"])
    (tmp_path / "tokenizer.bin").write_bytes(TOKENIZER[:cut])
    with pytest.raises(run.ModelError, match=r"tokenizer\.bin") as caught:
        run.load_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [300, 415, 417, 32000])
def test_tokenizer_of_another_model(tmp_path, size):
    """Both sizes are named, and what to do."""
    vocab = models.tiny_vocab()
    while len(vocab) < size:
        vocab.add(f"piece {len(vocab)}")
    vocab.pieces, vocab.scores, vocab.types = (
        column[:size] for column in (vocab.pieces, vocab.scores, vocab.types)
    )
    path = write_files(tmp_path, FILES["v0"], vocab)
    with pytest.raises(run.ModelError, match=f"{size}|{size:,}") as caught:
        run.load_model(path)
    assert "416" in str(caught.value) and "-z" in str(caught.value)


# --------------------------------------------------------------------------------------------------
# Headers

FIELDS = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
NASTY = (0, -1, 1, 3, 7, 65535, 2**20, 2**30, 2**31 - 1, -(2**31), -4)


@pytest.mark.parametrize("kind", ["v0", "v1", "v2"])
@pytest.mark.parametrize("field", FIELDS)
def test_header_numbers(kind, field):
    """No number may be believed: all of these contradict the file's size or each other."""
    data = bytearray(FILES[kind])
    at = (0 if kind == "v0" else 8) + 4 * FIELDS.index(field)
    right = struct.unpack_from("<i", data, at)[0]
    for value in NASTY:
        if value == right:
            continue
        struct.pack_into("<i", data, at, value)
        if field == "seq_len" and value > 0 and kind != "v0":
            continue  # nothing in the file depends on it: checked below
        if field == "n_heads" and 64 % max(2 * value, 1) == 0 and kind != "v0":
            continue
        refuse(bytes(data))


@pytest.mark.parametrize("kind", ["v1", "v2", "gguf-f32"])
def test_a_huge_context_is_not_allocated(kind, tmp_path):
    """seq_len is not checked by the file's size: the cache must not be made on its word."""
    model = models.build("gqa-tied", vocab=VOCAB, seq_len=2**31 - 1)
    data = {
        "v1": lambda: models.write_v1(model),
        "v2": lambda: models.write_v2(model, 32)[0],
        "gguf-f32": lambda: models.write_gguf(model, "F32", VOCAB)[0],
    }[kind]()
    path = write_files(tmp_path, data, VOCAB)
    done = run_cli(path, "-n", "8", "-s", "1", memory=MEMORY)
    assert b"Traceback" not in done.stderr
    if done.returncode:
        assert_one_line_error(done, "2,147,483,647")
    done = run_cli(path, "-n", "0", memory=MEMORY)
    assert_one_line_error(done, "2,147,483,647")


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_a_long_context_is_not_paid_for_in_advance(tmp_path):
    """A header may say 4 million tokens: memory is taken as the text grows."""
    model = models.build("gqa-tied", vocab=VOCAB, seq_len=1 << 22)
    path = write_files(tmp_path, models.write_v1(model))
    assert peak_memory(path, "-m", "chat") < 200e6


@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (4, 3), (2, 4), (64, 64), (5, 1)], ids=str)
def test_heads_that_do_not_fit(heads, kv_heads):
    """dim 64: not divisible, more key heads than heads, or heads of odd size."""
    for kind, at in (("v0", 12), ("v1", 20), ("v2", 20)):
        data = bytearray(FILES[kind])
        struct.pack_into("<ii", data, at, heads, kv_heads)
        refuse(bytes(data))


@pytest.mark.parametrize("group", [0, -1, -32, 5, 7, 63, 2**31 - 1, -(2**31)])
def test_group_sizes_that_do_not_fit(group):
    data = bytearray(FILES["v2"])
    struct.pack_into("<i", data, 37, group)
    refuse(bytes(data), group)


@pytest.mark.parametrize("version", [0, 3, 4, -1, 2**31 - 1])
def test_unknown_versions_are_named(version):
    for kind in ("v1", "v2"):
        data = bytearray(FILES[kind])
        struct.pack_into("<i", data, 4, version)
        refuse(bytes(data), version)


def test_versions_swapped():
    """A float32 file that claims int8, and the other way round."""
    for kind, version in (("v1", 2), ("v2", 1)):
        data = bytearray(FILES[kind])
        struct.pack_into("<i", data, 4, version)
        refuse(bytes(data))


@pytest.mark.parametrize("shared", [0, 2, 255])
def test_classifier_flag_that_contradicts_the_size(shared):
    for kind in ("v1", "v2"):
        data = bytearray(FILES[kind])
        data[36] = shared
        if shared == 0:
            refuse(bytes(data))
        else:
            try:
                load(bytes(data))
            except run.ModelError as error:
                assert str(shared) in str(error)


# --------------------------------------------------------------------------------------------------
# GGUF


def gguf(extra=None, drop=None, retype=None, **options):
    """A GGUF with metadata overridden, a tensor dropped, or a tensor's entry changed."""
    model = models.build("gqa-tied", vocab=VOCAB)
    metadata = models.gguf_metadata(model.shape) | models.gguf_tokenizer(VOCAB) | (extra or {})
    metadata = {key: value for key, value in metadata.items() if value is not None}
    tensors, _ = models.gguf_tensors(model, "F32")
    tensors = [(retype or (lambda *t: t))(*t) for t in tensors if t[0] != drop]
    return models.gguf_file(metadata, tensors, **options)


@pytest.mark.parametrize("version", [0, 1, 4, 2**31, 3 << 24])
def test_gguf_version(version):
    refuse(gguf(version=version), "version")


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "mixtral", "", "LLAMA", "x" * 5000])
def test_other_architectures_are_named(name):
    refuse(gguf({"general.architecture": ("str", name)}), name[:20])


def test_big_endian_magic_and_other_files():
    for data in (
        b"FUGG" + FILES["gguf-f32"][4:],
        b"PK\3\4" * 100,
        b"\x7fELF" * 100,
        b"\x93NUMPY" * 50,
    ):
        refuse(data)
    refuse(b'{"format": "pt"}' * 100)
    refuse(b"\0" * 4096)
    refuse(b"\xff" * 4096)
    refuse(os.urandom(10_000))


@pytest.mark.parametrize(
    "key", [k for k in models.gguf_metadata(models.Shape()) if "name" not in k]
)
def test_missing_gguf_keys(key):
    """Each is needed, or has a default; no KeyError."""
    data = gguf({key: None})
    try:
        load(data)
    except run.ModelError as error:
        assert key.removeprefix("llama.") in str(error) or key.endswith("head_count_kv")
    else:
        optional = ("head_count_kv", "freq_base", "dimension_count", "epsilon", "context_length")
        assert key.endswith(optional)


@pytest.mark.parametrize(
    "key", [k for k in models.gguf_metadata(models.Shape()) if "name" not in k]
)
@pytest.mark.parametrize(
    "value",
    [
        *(("u32", 0), ("i32", -1), ("u64", 2**63), ("u32", 2**32 - 1), ("f32", float("nan"))),
        *(("f32", float("inf")), ("f64", -1e300), ("f32", 2.5), ("bool", True), ("str", "x")),
        *(("[u32]", [64, 64]), ("[u32]", []), ("[str]", ["a"]), ("str", b"\xff\xfe")),
    ],
    ids=repr,
)
def test_gguf_values_of_the_wrong_kind(key, value):
    """Refused, or read as a number that means the same; never another exception."""
    data = gguf({key: value})
    try:
        engine, _ = load(data)
    except run.ModelError as error:
        assert "\n" not in str(error)
    else:
        assert np.isfinite(engine.forward([5], 0)).all()


@pytest.mark.parametrize("name", ["token_embd.weight", "output_norm.weight", "blk.2.ffn_up.weight"])
def test_missing_tensors_are_named(name):
    refuse(gguf(drop=name), name.removesuffix(".weight"))


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (24, "I8"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (39, "MXFP4"),
        (31, "31"),
        (4, "4"),
        (99, "99"),
        (2**32 - 1, "4294967295"),
    ],
)
def test_tensor_types_that_are_not_supported(number, name):
    def retype(tensor, shape, kind, raw):
        return tensor, shape, number if tensor == "blk.0.attn_q.weight" else kind, raw

    refuse(gguf(retype=retype), "blk.0.attn_q", f"has type {name}:")


@pytest.mark.parametrize(
    "shape",
    [
        (64, 32),
        (32, 64),
        (64,),
        (64, 64, 1),
        (64, 0),
        (0, 64),
        (2**62, 4),
        (2**32, 2**32),
        (4096,),
        (),
    ],
    ids=str,
)
def test_tensor_shapes_that_do_not_fit(shape):
    def reshape(name, was, kind, raw):
        return name, shape if name == "blk.1.attn_q.weight" else was, kind, raw

    refuse(gguf(retype=reshape), "blk.1.attn_q")


@pytest.mark.parametrize("alignment", [0, 3, 2**31, 2**32 - 1])
def test_alignment(alignment):
    data = gguf({"general.alignment": ("u32", alignment)})
    try:
        load(data)
    except run.ModelError as error:
        assert "\n" not in str(error)
    else:
        assert alignment not in (0, 2**31, 2**32 - 1)


def test_offsets_outside_the_file():
    data = gguf()
    name = models.gguf_string("blk.0.attn_q.weight")
    at = data.index(name) + len(name) + 4 + 16 + 4
    for offset in (len(data), 2**62, 2**64 - 1, 2**64 - 32, 1):
        broken = bytearray(data)
        struct.pack_into("<Q", broken, at, offset)
        if offset == 1:  # unaligned: refused or read; the float32 values are then garbage
            with contextlib.suppress(run.ModelError):
                load(bytes(broken))
        else:
            refuse(bytes(broken))


@pytest.mark.parametrize("count", [0, 1, 2**20, 2**31, 2**62, 2**64 - 1])
def test_counts_of_tensors_and_metadata(count):
    data = bytearray(gguf())
    for at in (8, 16):
        broken = data[:]
        struct.pack_into("<Q", broken, at, count)
        refuse(bytes(broken))


@pytest.mark.parametrize("length", [2**20, 2**40, 2**63, 2**64 - 1])
def test_lengths_of_strings_and_arrays(length):
    data = gguf()
    for key, skip in (
        ("general.name", 4),
        ("tokenizer.ggml.tokens", 8),
        ("tokenizer.ggml.scores", 8),
    ):
        name = models.gguf_string(key)
        at = data.index(name) + len(name) + skip
        broken = bytearray(data)
        struct.pack_into("<Q", broken, at, length)
        refuse(bytes(broken))


def test_deeply_nested_arrays_do_not_exhaust_the_stack():
    nested = struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 100_000
    data = gguf({"x.deep": ("u32", 0)})
    name = models.gguf_string("x.deep")
    at = data.index(name) + len(name)
    try:
        load(data[:at] + nested + data[at + 4 :])
    except run.ModelError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokens", ("[str]", ["a"])),
        ("tokens", ("[u32]", [1] * 416)),
        ("tokens", ("str", "abc")),
        ("tokens", None),
        ("scores", ("[f32]", [0.0])),
        ("scores", ("[str]", ["x"] * 416)),
        ("scores", ("[f32]", [float("nan")] * 416)),
        ("scores", ("u32", 7)),
        ("token_type", ("[i32]", [1])),
        ("token_type", ("[i32]", [99] * 416)),
        ("token_type", ("[i32]", [6] * 416)),
        ("token_type", ("str", "x" * 416)),
        ("bos_token_id", ("u32", 416)),
        ("bos_token_id", ("i32", -1)),
        ("bos_token_id", ("f32", 1.5)),
        ("bos_token_id", ("str", "x")),
        ("eos_token_id", ("u32", 2**32 - 1)),
        ("eos_token_id", ("[u32]", [2])),
        ("model", ("u32", 3)),
        ("model", ("str", "gpt2")),
        ("model", None),
        ("add_space_prefix", ("str", "yes")),
        ("chat_template", ("u32", 1)),
    ],
    ids=str,
)
def test_gguf_tokenizers_that_are_broken(tmp_path, key, value):
    """Refused in one line; or, where it still makes a tokenizer, text goes in and comes out."""
    prefix = "tokenizer." if key == "chat_template" else "tokenizer.ggml."
    path = write_files(tmp_path, gguf({prefix + key: value}), vocab=None)
    try:
        engine = run.load_model(path, backend="numpy")
        "".join(run.generate(engine, "The dog é 😀", steps=30, seed=1))
    except run.ModelError as error:
        assert "\n" not in str(error)


# --------------------------------------------------------------------------------------------------
# Tokenizer files


@pytest.mark.parametrize("length", [-1, -(2**31), 2**31 - 1, 2**20])
def test_lengths_in_tokenizers(length):
    data = bytearray(TOKENIZER)
    struct.pack_into("<i", data, 8, length)
    with pytest.raises(run.ModelError):
        run.read_tokenizer(bytes(data))


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_scores_in_tokenizers(score):
    data = bytearray(TOKENIZER)
    struct.pack_into("<f", data, 4, score)
    try:
        tokenizer = run.read_tokenizer(bytes(data))
    except run.ModelError as error:
        assert "\n" not in str(error)
    else:
        assert tokenizer.encode("the ball")


@pytest.mark.parametrize("length", [0, 1, 2**32 - 1])
def test_the_longest_length_is_not_believed(length):
    tokenizer = run.read_tokenizer(struct.pack("<I", length) + TOKENIZER[4:])
    assert tokenizer.encode("the ball") == [1, 261, 267]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_vocabularies_without_room_for_bos_and_eos(tmp_path, size):
    """Refused, or text comes: ids 1 and 2 are not believed to exist."""
    vocab = models.first_tokens(size)
    model = models.build("mha", vocab_size=size)
    for data, own in (
        (models.write_v0(model), vocab),
        (models.write_gguf(model, "F32", vocab)[0], None),
    ):
        try:
            engine = run.load_model(write_files(tmp_path, data, own), backend="numpy")
            "".join(run.generate(engine, "a", steps=5, seed=1))
        except run.ModelError as error:
            assert "\n" not in str(error)


# --------------------------------------------------------------------------------------------------
# The command line, with little memory


def special_paths(tmp_path):
    """Name -> a path that cannot be a model, and a word that the message must have."""
    (tmp_path / "empty.bin").touch()
    (tmp_path / "short.bin").write_bytes(FILES["v0"][:20])
    (tmp_path / "huge.bin").write_bytes(struct.pack("<7i", *[2**30] * 7) + b"\0" * 100)
    with open(tmp_path / "sparse.bin", "wb") as file:
        file.write(struct.pack("<7i", 64, 96, 2, 4, 4, 416, 64))
        file.truncate(1 << 33)
    with open(tmp_path / "layers.bin", "wb") as file:
        file.write(struct.pack("<7i", 64, 96, 2**30, 4, 4, 416, 64))
        file.truncate(1 << 33)
    (tmp_path / "text.bin").write_text("Once upon a time " * 100)
    (tmp_path / "odd\nname.bin").write_bytes(b"no model")
    (tmp_path / "dangling.bin").symlink_to(tmp_path / "nowhere.bin")
    return {
        "missing.bin": "missing.bin",
        "": "",
        ".": "directory",
        "empty.bin": "empty",
        "short.bin": "short.bin",
        "huge.bin": "huge.bin",
        "sparse.bin": "sparse.bin",
        "layers.bin": "layers.bin",
        "text.bin": "text.bin",
        "odd\nname.bin": "odd",
        "dangling.bin": "dangling.bin",
    }


@pytest.mark.slow
def test_paths_that_are_no_model(tmp_path):
    (tmp_path / "tokenizer.bin").write_bytes(TOKENIZER)
    for name, word in special_paths(tmp_path).items():
        done = run_cli(tmp_path / name if name else "", cwd=tmp_path, memory=MEMORY, timeout=60)
        assert_one_line_error(done, word)
        assert done.stdout == b""


def test_unreadable_file(tmp_path):
    path = write_files(tmp_path, FILES["v0"])
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads everything")
    assert_one_line_error(run_cli(path), "model.bin")


def test_devices_and_pipes(tmp_path):
    for path in ("/dev/null", "/dev/zero"):
        if os.path.exists(path):
            assert_one_line_error(run_cli(path, cwd=tmp_path, memory=MEMORY))
    command = f"{sys.executable} {ROOT / 'run.py'} <(cat /dev/null)"  # a pipe cannot be mapped
    done = run_shell(command)
    assert_one_line_error(done)


@pytest.mark.slow
def test_the_tokenizer_is_no_file(tmp_path):
    path = write_files(tmp_path, FILES["v0"])
    for bad, word in ((tmp_path, "directory"), (tmp_path / "no.tok", "no.tok"), ("/dev/null", "")):
        assert_one_line_error(run_cli(path, "-z", bad, memory=MEMORY), word)
    (tmp_path / "empty.tok").touch()
    assert_one_line_error(run_cli(path, "-z", tmp_path / "empty.tok", memory=MEMORY), "empty")
    (tmp_path / "model.tok").write_bytes(FILES["v0"])
    assert_one_line_error(run_cli(path, "-z", tmp_path / "model.tok", memory=MEMORY))
    assert_one_line_error(run_cli(path, "-z", path, memory=MEMORY))


def test_model_and_tokenizer_exchanged(tmp_path):
    path = write_files(tmp_path, FILES["v0"])
    done = run_cli(tmp_path / "tokenizer.bin", "-z", path, memory=MEMORY)
    assert_one_line_error(done, "tokenizer.bin")


@pytest.mark.parametrize("kind", FILES)
def test_half_a_file(tmp_path, kind):
    path = write_files(tmp_path, FILES[kind][: len(FILES[kind]) // 2])
    done = run_cli(path, memory=MEMORY)
    assert_one_line_error(done, "model.bin")
    assert done.stdout == b""


@pytest.mark.parametrize("mode", [[], ["--info"], ["--int8"], ["-m", "chat"], ["-t", "0"]])
def test_weights_that_are_not_numbers(tmp_path, backend, mode):
    """Never garbage text with exit 0."""
    model = models.build("mha", vocab=VOCAB)
    model.tensors["w1"][:] = np.nan
    path = write_files(tmp_path, model)
    done = run_cli(path, "-i", "The dog", "--backend", backend, *mode, stdin=b"hello\n")
    if mode == ["--info"]:
        assert b"Traceback" not in done.stderr
    else:
        assert_one_line_error(done, "NaN")


# --------------------------------------------------------------------------------------------------
# What a careful attacker found


@pytest.mark.parametrize(
    ("dim", "layers", "word"),
    [(2, 2**30, "16,384"), (2, 400_000, "16,384"), (64, 9999, "truncated")],
)
def test_layers_on_the_word_of_a_header(tmp_path, dim, layers, word):
    """More layers than any model has, or than the file can hold: refused before one is made."""
    data = struct.pack("<7i", dim, 1, layers, 1, 1, 1, 1)
    path = write_files(tmp_path, data)
    os.truncate(path, 20 << 20)
    assert_one_line_error(run_cli(path), "layers", word)


def test_a_file_that_was_not_copied_to_its_end(tmp_path):
    data = bytearray(models.write_v0(models.build("mha")))
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    assert_one_line_error(run_cli(write_files(tmp_path, bytes(data))), "zeros")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.rope.scaling.factor", ("f32", 4.0)),
        ("llama.rope.scale_linear", ("f32", 4.0)),
        ("llama.attention.causal", ("bool", False)),
        ("general.alignment", ("i32", -32)),
        ("general.alignment", ("u32", 1)),
        ("tokenizer.ggml.bos_token_id", ("i32", -1)),
        ("tokenizer.ggml.model", ("str", "gpt2")),
    ],
)
def test_metadata_that_would_change_the_text(tmp_path, key, value):
    data, _ = models.write_gguf(models.build("mha"), vocab=VOCAB, extra={key: value})
    path = write_files(tmp_path, data, vocab=None)
    assert_one_line_error(run_cli(path, "-n", "4"), path.name)


def test_names_in_a_file_do_not_reach_the_terminal_as_they_are(tmp_path):
    name = "!\x1b[2J\x1b]0;title\x07".ljust(10_016, "x")  # keeps the data aligned
    data = models.write_gguf(models.build("mha"), vocab=VOCAB)[0]
    infos = struct.pack("<Q", len(name)) + name.encode() + struct.pack("<IQIQ", 1, 1, 0, 0)
    count, start = struct.unpack("<Q", data[8:16])[0], data.index(b"token_embd.weight") - 8
    broken = data[:8] + struct.pack("<Q", count + 1) + data[16:start] + infos + data[start:]
    done = run_cli(write_files(tmp_path, broken, vocab=None))
    assert_one_line_error(done, "does not belong")
    assert b"\x1b" not in done.stderr and b"\x07" not in done.stderr and len(done.stderr) < 700


@pytest.mark.parametrize(("tokens", "pos"), [([1], -1), ([1], -(10**6)), ([1, 1, 1], -2), ([], 0)])
def test_positions_outside_the_context(tmp_path, backend, tokens, pos):
    engine = run.load_model(write_files(tmp_path, models.build("mha")), backend=backend)
    with pytest.raises(run.ModelError, match="context"):
        engine.forward(tokens, pos)


def test_a_prompt_far_longer_than_the_context(tmp_path):
    done = run_cli(write_files(tmp_path, models.build("mha")), "-i", "-", stdin=b"word " * 400_000)
    assert_one_line_error(done, "context", "64")


def test_usage_errors_are_one_line(tmp_path):
    for arguments in (["-x\nfoo\nbar"], ["a", "b\nc"], ["-j", "abc"], ["-j", "-1"]):
        assert_one_line_error(run_cli(*arguments), status=2)


def test_a_norm_of_signaling_nan_does_not_warn(tmp_path):
    """The line about the damaged weights is all there is on stderr."""
    data = bytearray(models.write_v0(models.build("mha")))
    shape = models.build("mha").shape
    end = len(data) - 4 * shape.seq_len * shape.head_size  # the tables stand behind the last norm
    data[end - 4 * shape.dim : end] = struct.pack("<I", 0x7F800001) * shape.dim
    assert_one_line_error(run_cli(write_files(tmp_path, bytes(data))), "NaN")
