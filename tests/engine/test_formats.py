"""One model in every format: the values read, the logits, and the text must be the same."""

import gguf
import numpy as np
import pytest

import run
from run.engine.blocks import TYPES
from support import models, reference
from support.cli import VOCAB, assert_close, missing_kernel, write_files

GGUF_TYPES = {name: name for name in models.TYPES} | {
    "Q4_K_M": models.Q4_K_M,
    "Q5_K_M": models.Q5_K_M,
    "mixed": {"*": "F16", "wq": "Q8_0", "wk": "Q4_0", "w2": "BF16", "tok_emb": "Q6_K"},
    "tied-mixed": {"*": "Q5_K", "tok_emb": "Q4_K"},
}
FLOATS = ("F32", "F16", "BF16")
INT8 = 5e-2  # as in test_engine


def name_of(kind):
    return kind.name


def values(tensor):
    """float32 values of a weight, whether it is an array, int8 groups or a GGUF's blocks."""
    if isinstance(tensor, run.QuantizedTensor):
        q = np.asarray(tensor.q, np.float32).reshape(tensor.shape[0], -1, tensor.group)
        return (q * np.asarray(tensor.scales)[..., None]).reshape(tensor.shape)
    return tensor[:]


def assert_tensor(got, want, rtol, kind):
    """Equal to the last bits, blocks too."""
    got, want = values(got), np.asarray(want)
    assert got.shape == want.shape
    slack = rtol * np.abs(want).max()
    assert (np.abs(got - want) <= slack).all(), f"{kind}: off by {np.abs(got - want).max()}"


def assert_weights(weights, model, rtol=1e-6, types="F32"):
    """Every tensor that read_model returned holds the model's values."""

    def check(got, want, name):
        assert_tensor(got, want, rtol, models.gguf_kind(types, name))

    check(weights.tok_emb, model.tensors["tok_emb"], "tok_emb")
    check(weights.wcls, model.wcls, "wcls" if "wcls" in model.tensors else "tok_emb")
    check(weights.final_norm, model.tensors["final_norm"], "final_norm")
    assert len(weights.layers) == model.shape.n_layers
    for n, layer in enumerate(weights.layers):
        for name in ("att_norm", "ffn_norm", *models.LAYER_TENSORS):
            check(getattr(layer, name), model.tensors[name][n], name)


def assert_config(config, shape):
    for name, value in vars(shape).items():
        if name not in ("shared", "norm_eps", "rope_base"):
            assert getattr(config, name) == value, name
    assert config.norm_eps == pytest.approx(shape.norm_eps)
    assert config.rope_base == pytest.approx(shape.rope_base)


@pytest.mark.parametrize("name", [name for name in models.SHAPES if name != "rope"])
@pytest.mark.parametrize("write", [models.write_v0, models.write_v1])
def test_float_files(name, write):
    model = models.build(name)
    file = run.read_model(write(model))
    config, weights, tokenizer = file.config, file.weights, file.tokenizer
    assert_config(config, model.shape)
    assert_weights(weights, model, rtol=0)
    assert tokenizer is None


@pytest.mark.parametrize(
    ("name", "group"),
    [("mha", 32), ("untied", 4), ("gqa", 16), ("odd", 2), ("blocks", 64), ("pairs", 2)],
)
def test_int8_file(name, group):
    data, exact = models.write_v2(models.build(name), group)
    file = run.read_model(data)
    config, weights = file.config, file.weights
    assert_config(config, exact.shape)
    assert_weights(weights, exact, rtol=0)
    assert weights.layers[0].wq.group == group


def test_a_group_that_straddles_rows_is_read_right():
    """Rows of 96 in groups of 64: legal for the exporter, garbage in runq.c, right here."""
    data, exact = models.write_v2(models.build("mha"), 64)
    assert_weights(run.read_model(data).weights, exact, rtol=0)


@pytest.mark.parametrize("kind", GGUF_TYPES)
@pytest.mark.parametrize("name", ["blocks", "blocks-gqa"])
def test_gguf_values(name, kind):
    """Every block type decodes to the values that it was packed from."""
    data, exact = models.write_gguf(models.build(name), GGUF_TYPES[kind], VOCAB)
    file = run.read_model(data)
    config, weights, tokenizer = file.config, file.weights, file.tokenizer
    assert_config(config, exact.shape)
    assert_weights(weights, exact, types=GGUF_TYPES[kind])
    assert tokenizer is not None


@pytest.mark.slow
@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_gguf_runs_like_its_values(tmp_path, backend, kind):
    """Logits against the reference on the values that the blocks hold.

    NumPy computes with these values. So does the kernel, which rounds activations in groups of 32
    where the weights are blocks: one that rounds the other way moves a logit, hence the tolerance.
    """
    types = GGUF_TYPES[kind]
    data, exact = models.write_gguf(models.build("blocks-gqa"), types, VOCAB)
    engine = run.load_model(write_files(tmp_path, data, vocab=None), backend=backend)
    tokens = np.random.RandomState(3).randint(3, 416, 40).tolist()
    in_floats = {k for k in exact.tensors if models.gguf_kind(types, k) in FLOATS}
    groups = {k: 0 if k in in_floats or backend == "numpy" else 32 for k in exact.tensors}
    want = reference.forward(exact, tokens, groups)
    tolerance = INT8 if any(groups.values()) else 2e-5
    assert_close(engine.forward(tokens, 0, last_only=False), want, tolerance)
    assert_close(engine.forward(tokens[-1:], 39), want[-1], tolerance)


def random_blocks(kind, shape, random):
    """Blocks of random bits (out, in / weights), their floats small enough for logits."""
    out, n = shape
    count = out * n // kind.weights
    blocks = np.frombuffer(random.bytes(count * kind.layout.itemsize), kind.layout).copy()
    steps = np.abs(kind.decode(tame_blocks(blocks, 1).reshape(1, -1))).mean()
    return tame_blocks(blocks, 0.05 / steps)


def tame_blocks(blocks, size):
    """The same blocks with scales and minima of about this size."""
    blocks = blocks.copy()
    for name in {"d", "m", "dmin"} & set(blocks.dtype.names):
        blocks[name] = np.linspace(0.5, 1.5, len(blocks)) * size
    return blocks


@pytest.mark.parametrize("kind", [kind for kind in TYPES.values() if kind.weights > 1], ids=name_of)
def test_every_type_of_blocks_runs(tmp_path, kind):
    """What the gguf package cannot write, too: the kernel gives about NumPy's logits.

    NumPy does not round activations: twice the tolerance.
    """
    if missing_kernel():
        pytest.skip(missing_kernel())
    model = models.build("blocks-gqa")
    random = np.random.RandomState(kind.number)
    tensors, _ = models.gguf_tensors(model, "F32")
    tensors = [
        (name, shape, kind.number, random_blocks(kind, shape, random).tobytes())
        if len(shape) == 2
        else (name, shape, number, raw)
        for name, shape, number, raw in tensors
    ]
    metadata = models.gguf_metadata(model.shape) | models.gguf_tokenizer(VOCAB)
    path = write_files(tmp_path, models.gguf_file(metadata, tensors), vocab=None)
    tokens = random.randint(3, 416, 20).tolist()
    plain, fast = (run.load_model(path, backend=backend) for backend in ("numpy", "c"))
    want = plain.forward(tokens, 0, last_only=False)
    assert_close(fast.forward(tokens, 0, last_only=False), want, 2 * INT8)
    assert_close(fast.forward(tokens[-1:], 19), want[-1], 2 * INT8)


def texts(directory, data, vocab, backend, **options):
    engine = run.load_model(write_files(directory, data, vocab), backend=backend, **options)
    return [
        "".join(run.generate(engine, prompt, steps=40, temperature=t, topp=0.9, seed=seed))
        for prompt, t, seed in (("", 0.0, 1), ("Once upon a time", 1.0, 2), ("The dog", 0.7, 3))
    ]


@pytest.mark.parametrize("name", ["mha", "untied", "gqa-tied", "mqa", "blocks-gqa"])
def test_all_float_formats_write_the_same_text(tmp_path, backend, name):
    model = models.build(name, vocab=VOCAB)
    want = texts(tmp_path, models.write_v0(model), VOCAB, backend)
    assert len(want[1]) > len("Once upon a time")
    for data, vocab in (
        (models.write_v1(model), VOCAB),
        (models.write_gguf(model, "F32", VOCAB)[0], None),
        (models.write_gguf(model, "F32", VOCAB, version=2)[0], None),
        (models.write_gguf(model, "F32", VOCAB, alignment=64)[0], None),
    ):
        assert texts(tmp_path, data, vocab, backend) == want


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_half_precision_writes_what_its_values_write(tmp_path, backend, kind):
    model = models.build("blocks-gqa", vocab=VOCAB)
    data, exact = models.write_gguf(model, kind, VOCAB)
    want = texts(tmp_path, models.write_v0(exact), VOCAB, backend)
    assert texts(tmp_path, data, None, backend) == want


def test_q8_0_writes_what_a_version_2_file_of_its_values_writes(tmp_path, backend):
    """Groups of 32 in both: the same numbers, scales rounded to float16.

    NumPy does not round activations for a GGUF's blocks, so there it is a float file's text.
    """
    model = models.build("blocks-gqa", vocab=VOCAB)
    data, exact = models.write_gguf(model, "Q8_0", VOCAB)
    again, same = models.write_v2(exact, 32)
    np.testing.assert_allclose(same.tensors["w1"], exact.tensors["w1"], rtol=0, atol=1e-3)
    if backend == "numpy":
        again = models.write_v0(exact)
    got, want = texts(tmp_path, data, None, backend), texts(tmp_path, again, VOCAB, backend)
    assert [text[:24] for text in got] == [text[:24] for text in want]


def test_int8_file_and_int8_at_load_write_the_same_text(tmp_path, backend):
    model = models.build("mha", vocab=VOCAB)
    data, _ = models.write_v2(model, 32)
    assert texts(tmp_path, data, VOCAB, backend) == texts(
        tmp_path, models.write_v0(model), VOCAB, backend, int8=True
    )


# --------------------------------------------------------------------------------------------------
# The public gguf package: its writer, its quantizers, its dequantizers


def write_with_gguf(path, model, types, vocab=VOCAB):
    """The package's own file; its own quantizers where it has them. Returns the values held."""
    shape, exact = model.shape, {}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(shape.seq_len)
    writer.add_embedding_length(shape.dim)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.hidden_dim)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_file_type(1)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    keys = models.gguf_tokenizer(vocab)
    writer.add_token_list(keys["tokenizer.ggml.tokens"][1])
    writer.add_token_scores(vocab.scores)
    writer.add_token_types(vocab.types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(True)
    for name, value in model.tensors.items():
        stacked = value if name in models.GGUF_NAMES else value[None]
        held = []
        for layer, tensor in enumerate(stacked):
            kind = gguf.GGMLQuantizationType[models.gguf_kind(types, name)]
            held.append(add_tensor(writer, models.gguf_name(name, layer), tensor, kind))
        exact[name] = np.array(held).reshape(value.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return models.Model(shape, exact)


def add_tensor(writer, name, tensor, kind):
    try:
        packed = gguf.quants.quantize(tensor, kind)
    except NotImplementedError:  # K-quants: the package only reads them
        raw = models.pack_tensor(tensor, kind.name)[1]
        packed = np.frombuffer(raw, np.uint8).reshape(len(tensor), -1)
    writer.add_tensor(name, packed, raw_dtype=kind)
    return np.asarray(gguf.quants.dequantize(packed, kind), np.float32)


@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_files_of_the_gguf_package(tmp_path, kind):
    model = models.build("blocks")
    path = tmp_path / "package.gguf"
    exact = write_with_gguf(path, model, GGUF_TYPES[kind])
    file = run.read_model(path.read_bytes())
    config, weights, tokenizer = file.config, file.weights, file.tokenizer
    assert_config(config, model.shape)
    assert_weights(weights, exact, types=GGUF_TYPES[kind])
    want = reference.encode(VOCAB, "Once upon a time 你 😀")
    assert tokenizer.encode("Once upon a time 你 😀") == want


@pytest.mark.parametrize("kind", models.TYPES)
def test_dequantizers_on_random_bytes(kind):
    """Any block is legal, every bit of it. The package and the naive reader agree with us."""
    model = models.build("blocks-gqa", n_layers=1)
    number, block, _ = models.TYPES[kind]
    random = np.random.RandomState(number)
    size = reference.DEQUANTIZE[kind][0]
    blocks = random.randint(0, 256, (256 * 256 // block, size)).astype(np.uint8)
    blocks = tame(blocks, kind, random)
    tensors, _ = models.gguf_tensors(model, "F32")
    name = "blk.0.attn_q.weight"
    tensors = [
        (n, shape, number, blocks.tobytes()) if n == name else (n, shape, num, raw)
        for n, shape, num, raw in tensors
    ]
    data = models.gguf_file(
        models.gguf_metadata(model.shape) | models.gguf_tokenizer(VOCAB), tensors
    )
    weights = run.read_model(data).weights
    got = values(weights.layers[0].wq).reshape(-1)
    step = max(1, len(blocks) // 64)
    want = np.array(reference.dequantize(blocks[::step].tobytes(), kind), float)
    some = got.reshape(len(blocks), -1)[::step].reshape(-1)
    assert_tensor(some, want, 1e-5, kind)
    kind_of_package = gguf.GGMLQuantizationType[kind]
    raw = blocks.reshape(256, -1)
    raw = raw.view({"F32": np.float32, "F16": np.float16}.get(kind, np.uint8))
    package = gguf.quants.dequantize(raw, kind_of_package).reshape(-1)
    assert_tensor(got, package, 1e-5, kind)


def tame(blocks, kind, random):
    """Keep the float fields of random blocks finite: exponents from the middle of their range."""
    fields = {"Q8_0": (0,), "Q4_0": (0,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
    if kind in ("F32", "F16", "BF16"):
        values = random.standard_normal(len(blocks)).astype(np.float32)
        return models.TYPES[kind][2](values[:, None])[0]
    for at in fields[kind]:
        scale = random.uniform(-2, 2, len(blocks)).astype("<f2")
        blocks[:, at : at + 2] = scale[:, None].view(np.uint8)
    return blocks


# --------------------------------------------------------------------------------------------------
# GGUF metadata


def test_optional_keys_have_defaults():
    model = models.build("mha")
    extra = {"llama.rope.freq_base": None, "llama.attention.head_count_kv": None}
    extra["llama.rope.dimension_count"] = None
    config = run.read_model(models.write_gguf(model, vocab=VOCAB, extra=extra)[0]).config
    assert config.n_kv_heads == config.n_heads
    assert config.rope_base == 10000


@pytest.mark.parametrize("kind", ["linear", "yarn", "longrope"])
def test_rope_scaling_is_refused_by_name(kind):
    """It changes the mathematics: better no text than a wrong one."""
    extra = {"llama.rope.scaling.type": ("str", kind), "llama.rope.scaling.factor": ("f32", 2.0)}
    data, _ = models.write_gguf(models.build("mha"), vocab=VOCAB, extra=extra)
    with pytest.raises(run.ModelError, match=kind):
        run.read_model(data)


def test_rope_factors_are_refused_by_name():
    """Llama 3's tensor of RoPE factors."""
    model = models.build("mha")
    tensors, _ = models.gguf_tensors(model, "F32")
    factors = ("rope_freqs.weight", (8,), 0, np.ones(8, "<f4").tobytes())
    metadata = models.gguf_metadata(model.shape) | models.gguf_tokenizer(VOCAB)
    with pytest.raises(run.ModelError, match="rope_freqs"):
        run.read_model(models.gguf_file(metadata, [*tensors, factors]))


def test_nested_arrays_are_skipped_or_refused():
    extra = {"x.nested": ("[[u8]]", [[1, 2], [], [3]])}
    try:
        run.read_model(models.write_gguf(models.build("mha"), vocab=VOCAB, extra=extra)[0])
    except run.ModelError as error:
        assert "9" in str(error)


def test_every_metadata_type_is_skipped_or_read():
    """Unknown keys of any type do not disturb."""
    extra = {f"x.{kind}": (kind, 1) for kind in models.SCALARS}
    extra |= {f"x.array.{kind}": (f"[{kind}]", [1, 0, 1]) for kind in models.SCALARS}
    extra |= {"x.strings": ("[str]", ["a", "é", ""]), "x.empty": ("[str]", [])}
    extra |= {"x.text": ("str", "é" * 1000)}
    data, exact = models.write_gguf(models.build("mha"), vocab=VOCAB, extra=extra)
    file = run.read_model(data)
    config, weights = file.config, file.weights
    assert_config(config, exact.shape)
    assert_weights(weights, exact)


def test_wider_number_types_are_fine():
    """Other writers store the counts as u64 or i32."""
    shape = models.SHAPES["gqa-tied"]
    for kind in ("u64", "i32", "i64", "u16"):
        extra = {
            key: (kind, value)
            for key, (was, value) in models.gguf_metadata(shape).items()
            if was == "u32"
        }
        data, exact = models.write_gguf(models.build("gqa-tied"), vocab=VOCAB, extra=extra)
        assert_config(run.read_model(data).config, exact.shape)


def test_tensor_order_does_not_matter():
    model = models.build("untied")
    tensors, exact = models.gguf_tensors(model, "F16")
    metadata = models.gguf_metadata(model.shape) | models.gguf_tokenizer(VOCAB)
    weights = run.read_model(models.gguf_file(metadata, tensors[::-1])).weights
    assert_weights(weights, exact)


def test_float32_weights_are_not_copied(tmp_path):
    """They are views of the buffer: loading must not double the memory."""
    model = models.build("blocks")
    for data in (
        models.write_v0(model),
        models.write_v1(model),
        models.write_gguf(model, "F32", VOCAB)[0],
    ):
        buffer = np.frombuffer(data, np.uint8)
        data = memoryview(data)  # as a mapped file is
        start, end = buffer.ctypes.data, buffer.ctypes.data + len(data)
        weights = run.read_model(data).weights
        for w in (weights.tok_emb, weights.wcls, *(layer.w1 for layer in weights.layers)):
            assert start <= w.ctypes.data < end


# ------------------------------------------------------------------------------------------------
# Files written in int8


@pytest.mark.parametrize(
    ("name", "group"), [("mha", 32), ("untied", 32), ("odd", 4), ("blocks", 64)]
)
def test_version_2_files_are_written_as_the_exporter_does(tmp_path, name, group):
    """Byte for byte what tests/models.py writes after the format's description."""
    file = run.read_model(models.write_v0(models.build(name)))
    config, weights = file.config, file.weights
    run.engine_module("quantize").write_v2(tmp_path / "int8.bin", config, weights)
    assert (tmp_path / "int8.bin").read_bytes() == models.write_v2(models.build(name), group)[0]


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "mixed"])
@pytest.mark.parametrize("alignment", [32, 64])
def test_ggufs_are_written_as_q8_0(tmp_path, kind, alignment):
    """Float matrices become Q8_0; the rest, metadata and tokenizer stay as they are."""
    types = GGUF_TYPES[kind]
    model = models.build("blocks", vocab=VOCAB)
    data, exact = models.write_gguf(model, types, VOCAB, "a template", alignment=alignment)
    path = tmp_path / "int8.gguf"
    run.engine_module("quantize").write_gguf(path, memoryview(data))
    file = run.read_model(path.read_bytes())
    weights, tokenizer = file.weights, file.tokenizer
    for name in models.LAYER_TENSORS:
        want = exact.tensors[name]
        got = np.array([values(getattr(layer, name)) for layer in weights.layers])
        steps = np.abs(want.reshape(-1, 32)).max(axis=1) / 127
        error = np.abs(got - want).reshape(-1, 32).max(axis=1)
        assert (error <= steps * 0.57).all()  # half a step, and a scale rounded to float16
    package = gguf.GGUFReader(path)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in package.tensors}
    assert kinds["output_norm.weight"] == "F32" and kinds["blk.0.attn_v.weight"] == "Q8_0"
    before = gguf.GGUFReader(write_files(tmp_path, data, vocab=None))
    assert list(package.fields) == list(before.fields)
    for name, field in before.fields.items():
        assert package.fields[name].contents() == field.contents()
    assert file.template == "a template"
    assert tokenizer.encode("Once upon") == reference.encode(VOCAB, "Once upon")


def test_int8_at_load_of_a_gguf(tmp_path, backend):
    """--int8 rounds what is float; what is int8 stays."""
    data, exact = models.write_gguf(models.build("blocks"), GGUF_TYPES["mixed"], VOCAB)
    engine = run.load_model(write_files(tmp_path, data, None), backend=backend, int8=True)
    tokens = np.random.RandomState(3).randint(3, 416, 30).tolist()
    want = reference.forward(exact, tokens)
    assert_close(engine.forward(tokens, 0, last_only=False), want, 0.15)
