"""GGUF files that are damaged or lie: refused in a sentence that names file and field, in bounded memory and time."""

import random
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from _small_models import randomise

import llmanac
from llmanac.core.errors import CheckpointError, LlmanacError, TokenizerError
from llmanac.generate._native_file import FileModel
from llmanac.generate._native_model import NativeModel
from llmanac.kernels.gguf import GGUF
from llmanac.kernels.gguf.file import MOST_HEADER, Packable, write
from llmanac.models.families import family
from llmanac.models.gguf.architectures import ARCHITECTURES, BOUNDS, OTHERS
from llmanac.models.gguf.write import export_gguf
from llmanac.models.load import load_model
from llmanac.tokenizers.load import load_tokenizer, train_tokenizer


def text(value):
    return struct.pack("<Q", len(value)) + value


def head(tensors=0, keys=0, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def tensor(name=b"t", shape=(32,), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


BIG, UP = (1 << 63) - 1, "model.layers.0.mlp.up_proj"
FILES = {
    "empty": (b"", "cannot be read as a GGUF file"),
    "magic": (b"GGML" + head()[4:], "is no GGUF file .it begins with b'GGML'"),
    "version": (head(version=1), r"version 1 is not read \(only 2 and 3\)"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is big-endian"),
    "short": (head()[:10], "tensor count needs 8 bytes at byte 8 of the header; the file ends there"),
    "tensor count": (head(tensors=BIG), "tensor count is 9,223,.*; at most 100,000 are read"),
    "key count": (head(keys=BIG), "key count is 9,223,.*; at most"),
    "long key": (head(keys=1) + struct.pack("<Q", BIG), "the name of key 0 needs 9,223,"),
    "key type": (head(keys=1) + text(b"k") + struct.pack("<I", 99), "key 'k' has the type 99, which is not known"),
    "long text": (head(keys=1) + text(b"k") + struct.pack("<IQ", 8, 1 << 40), "key 'k' needs 1,099,"),
    "no text": (head(keys=1) + text(b"k") + struct.pack("<I", 8) + text(b"\xff"), "key 'k' is not UTF-8"),
    "no flag": (head(keys=1) + text(b"k") + struct.pack("<IB", 7, 2), "key 'k' is 2, expected 0 or 1"),
    "twice": (head(keys=2) + 2 * (text(b"k") + struct.pack("<IB", 7, 1)), "key 'k' is given twice"),
    "long list": (head(keys=1) + text(b"k") + struct.pack("<IIQ", 9, 8, BIG), "key 'k' has 9,223,.* items; at most"),
    "short list": (head(keys=1) + text(b"k") + struct.pack("<IIQ", 9, 12, 1 << 20), "key 'k' needs 8,388,608 bytes"),
    "nested list": (head(keys=1) + text(b"k") + struct.pack("<IIQ", 9, 9, 1), "key 'k' is a list of the type 9"),
    "alignment": (
        head(keys=1) + text(b"general.alignment") + struct.pack("<II", 4, 33),
        "general.alignment is 33, expected a power of two",
    ),
    "axes": (head(tensors=1) + text(b"t") + struct.pack("<I", 1 << 31), "tensor 't': has 2,147,483,648 axes"),
    "no numbers": (head(tensors=1) + tensor(shape=(32, 0)), r"tensor 't': its shape \(0, 32\) has no numbers"),
    "kind": (head(tensors=1) + tensor(kind=99), "tensor 't': is of an unknown kind .number 99"),
    "unread kind": (head(tensors=1) + tensor(kind=16), "tensor 't': is IQ2_XXS .number 16., which is not read"),
    "rows": (head(tensors=1) + tensor(shape=(33,), kind=8), "tensor 't': rows of 33 are no multiple of Q8_0's blocks"),
    "offset": (head(tensors=1) + tensor(offset=8), "tensor 't': its offset 8 is no multiple of the alignment, 32"),
    "beyond": (head(tensors=1) + tensor(shape=(BIG, BIG, BIG)), "tensor 't': ends at byte .*was it cut off"),
    "far offset": (head(tensors=1) + tensor(offset=1 << 63), "tensor 't': ends at byte 9,223,"),
    "listed twice": (head(tensors=2) + 2 * tensor(), "tensor 't' is listed twice"),
    "overlap": (head(tensors=2) + tensor() + tensor(b"u", offset=32) + bytes(512), "tensor 'u': overlaps 't'"),
}


@pytest.mark.parametrize("case", FILES)
def test_damaged_containers(case, tmp_path):
    data, message = FILES[case]
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=rf"m\.gguf: {message}"):
        GGUF(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    for load in (load_model, load_tokenizer):
        with pytest.raises(LlmanacError, match=r"m\.gguf: "):
            load(path)


def test_a_long_header_is_read_to_a_bound_only(tmp_path):
    path = tmp_path / "m.gguf"
    with open(path, "wb") as handle:
        handle.write(head(keys=1) + text(b"k") + struct.pack("<IQ", 8, MOST_HEADER))
        handle.truncate(1 << 30)
    with pytest.raises(CheckpointError, match=r"key 'k' needs .* at most 67,108,864 bytes of it are read"):
        GGUF(path)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A model of one layer with its tokenizer, and what is in its file."""
    tokenizer = train_tokenizer("bpe", ["the cat sat on the mat"] * 3, vocab_size=264, pattern="gpt2")
    blocks = [{"name": "pre-norm", "mixer": {"name": "softmax", "heads": 2, "biases": "none"}}]
    spec = llmanac.build(
        "lm", "transformer", dim=32, layers=1, blocks=blocks, max_length=64, tied=True, vocab_size=264
    ).spec
    model = randomise(spec.build(vocab_size=264))
    path = export_gguf(model, tokenizer, tmp_path_factory.mktemp("gguf") / "good.gguf", "q8_0")
    read = GGUF(path)
    tensors = {
        name: Packable(read.kind(name), read.shape(name), lambda name=name: read.tensor(name).data)
        for name in read.names
    }
    metadata = {key: np.uint32(v) if type(v) is int else np.float32(v) if type(v) is float else v
                for key, v in read.metadata.items()}  # fmt: skip
    assert torch.isfinite(load_model(path, device="cpu")(torch.arange(9)[None]).logits).all()
    return path, metadata, tensors


LIES = {
    "general.architecture": ("bert", r"general.architecture is 'bert', which is not read \(known: llama"),
    "llama.embedding_length": (np.uint32(64), r"token_embd|llama.embedding_length"),
    "llama.block_count": (np.uint32(1 << 31), "llama.block_count is 2147483648, expected a whole number"),
    "llama.feed_forward_length": (None, "llama.feed_forward_length is missing"),
    "llama.attention.head_count": (np.uint32(0), "num_attention_heads|llama.attention.head_count"),
    "llama.attention.head_count_kv": (np.uint32(3), "llama.attention.head_count_kv"),
    "llama.attention.layer_norm_rms_epsilon": (np.float32("nan"), "rms_epsilon is nan, expected a number"),
    "llama.rope.freq_base": ("x", "llama.rope.freq_base is 'x', expected a"),
    "llama.rope.dimension_count": (np.uint32(8), "llama.rope.dimension_count is 8, but a head has 16"),
    "llama.rope.scaling.type": ("yarn", "llama.rope.scaling.factor is missing; yarn needs it"),
    "llama.expert_count": (np.uint32(8), "llama.expert_count is 8, which is not supported"),
    "llama.expert_used_count": (np.uint32(2), "llama.expert_used_count is 2, which is not supported"),
    "llama.vocab_size": (np.uint32(265), "llama.vocab_size is 265, but token_embd.weight has 264 rows"),
    "llama.attention.key_length": (np.uint32(17), "a head has 17 numbers .attention.key_length"),
    "llama.attention.value_length": (np.uint32(8), "llama.attention.value_length is 8, but a head has 16 numbers"),
    "tokenizer.ggml.tokens": (["a", "b"], "tokenizer.ggml.tokens has 2, expected 264 texts"),
    "tokenizer.ggml.fim_pre_token_id": (np.uint32(264), "fim_pre_token_id is 264, expected the id of a token below"),
    "llama.attention.causal": (False, "llama.attention.causal is False, which is not supported"),
    "tokenizer.ggml.eos_token_id": (np.uint32(264), "eos_token_id is 264, expected the id of a token below 264"),
}


@pytest.mark.parametrize("key", LIES)
def test_keys_that_lie(key, good, tmp_path):
    _, metadata, tensors = good
    value, message = LIES[key]
    metadata = {**metadata, key: value}
    path = tmp_path / "m.gguf"
    with open(path, "wb") as handle:
        write(handle, {k: v for k, v in metadata.items() if v is not None}, tensors)
    for read in (lambda path: load_model(path, device="cpu"), FileModel):
        with pytest.raises(CheckpointError, match=rf"m\.gguf: .*({message})"):
            read(path)


def fitting(heads, kv_heads, size):
    """Keys and tensors of attention that agree with each other."""
    rows = {"q": heads * size, "k": kv_heads * size, "v": kv_heads * size}
    shapes = {f"blk.0.attn_{name}.weight": (count, 32) for name, count in rows.items()}
    shapes["blk.0.attn_output.weight"] = (32, heads * size)
    counts = {
        "attention.head_count": heads, "attention.head_count_kv": kv_heads, "attention.key_length": size,
        "attention.value_length": size, "rope.dimension_count": size,
    }  # fmt: skip
    return {f"llama.{key}": np.uint32(count) for key, count in counts.items()}, {
        name: Packable("F32", shape, lambda shape=shape: np.full(shape, 0.1, np.float32))
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize(("sizes", "more", "message"), [
    ((4, 3, 8), {}, "llama.attention.head_count_kv is 3, which does not divide the 4 of head_count"),
    ((2, 4, 8), {}, "llama.attention.head_count_kv is 4, which does not divide the 2 of head_count"),
    ((2, 1, 17), {}, "llama.rope.dimension_count is 17, which is odd; a head has 17 numbers"),
    ((32, 32, 1), {}, "llama.rope.dimension_count is 1, which is odd; a head has 1 numbers"),
    ((2, 1, 16), {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": np.float32(0.5)},
     r"llama.rope.scaling.factor is 0.5, expected at least 1"),
    ((4, 2, 8), {}, None),
])  # fmt: skip
def test_sizes_that_agree_but_that_no_model_has(sizes, more, message, good, tmp_path):
    """Both readers refuse them: the compiled code of the native runner would read beside its memory."""
    _, metadata, tensors = good
    keys, changed = fitting(*sizes)
    path = tmp_path / "m.gguf"
    with open(path, "wb") as handle:
        write(handle, {**metadata, **keys, **more}, {**tensors, **changed})
    for read in (lambda path: load_model(path, device="cpu"), FileModel):
        if message is None:
            read(path)
            continue
        with pytest.raises(CheckpointError, match=rf"m\.gguf: {message}"):
            read(path)


@pytest.mark.parametrize("exponent", [252, 253, 254, 255])
def test_scales_of_mxfp4_whose_numbers_float32_cannot_hold(exponent, good, tmp_path):
    _, metadata, tensors = good
    place, blocks = "blk.0.ffn_up.weight", np.full((tensors["blk.0.ffn_up.weight"].shape[0], 17), 0x77, np.uint8)
    blocks[:, 0] = exponent
    tensors = {**tensors, place: Packable("MXFP4", tensors[place].shape, lambda: blocks)}
    path = tmp_path / "m.gguf"
    with open(path, "wb") as handle:
        write(handle, metadata, tensors)
    for read in (lambda path: load_model(path, device="cpu"), lambda path: FileModel(path).matrix(UP)):
        if exponent == 252:  # 12 x 2^124 is the largest
            read(path)
            continue
        with pytest.raises(CheckpointError, match=rf"m\.gguf: {UP}\.weight holds .*(NaN|infinit)"):
            read(path)


def test_a_token_of_millions_of_characters(good, tmp_path):
    _, metadata, tensors = good
    texts, types = list(metadata["tokenizer.ggml.tokens"]), metadata["tokenizer.ggml.token_type"].copy()
    texts[0], types[0] = "x" * 5_000_000, 4  # the first is the space, of which none is made
    path = tmp_path / "m.gguf"
    with open(path, "wb") as handle:
        write(handle, {**metadata, "tokenizer.ggml.tokens": texts, "tokenizer.ggml.token_type": types}, tensors)
    with pytest.raises(TokenizerError, match=r"m\.gguf: added tokens: have 5,000,\d\d\d characters, at most 4,194,304"):
        load_tokenizer(path)


MORE = {
    "qwen3": {"head_dim": 16}, "gemma": {"head_dim": 16}, "chatglm": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 7},
    "gemma3": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 7, "rope_local_base_freq": 1e4},
    "phi3": {"partial_rotary_factor": 0.5, "sliding_window": 7},
    "smollm3": {"num_hidden_layers": 5}, "starcoder2": {"sliding_window": 7},
    "exaone4": {"sliding_window": None, "layer_types": ["full_attention"] * 2},
}  # fmt: skip
WRONG = {
    "0": np.int32(0), "-1": np.int32(-1), "0.0": np.float32(0), "-1.0": np.float32(-1), "nan": np.float32("nan"),
    "inf": np.float32("inf"), "huge": np.uint64(BIG), "huge real": np.float64(1e300), "text": "x", "texts": ["x"],
    "flag": True, "list": np.array([2, 2, 2, 2], np.int32), "empty": np.array([], np.int32), "no texts": [],
}  # fmt: skip
POSSIBLE = {  # what may be, of all of these
    "phi3": {("attention.sliding_window", "0")},
    "starcoder2": {("attention.sliding_window", "0")},
    "gemma2": {("attention.sliding_window_pattern", "0")},
    "gemma3": {("attention.sliding_window_pattern", "0")},
}
CAPS = {("attn_logit_softcapping", "0.0"), ("final_logit_softcapping", "0.0")}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_key_with_every_value(name, tmp_path):
    """What a key cannot be is refused by the file, the key as it stands there, and the value."""
    chosen = family(ARCHITECTURES[name].family)
    sizes = {
        "vocab_size": 264, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "rms_norm_eps": 1e-5,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, **MORE.get(name, {}),
    }  # fmt: skip
    spec, _ = chosen.to_spec(chosen.config(sizes, name))
    special = ("<s>", "</s>", "<unk>", "<|endoftext|>")
    tokenizer = train_tokenizer("bpe", ["the cat sat"], vocab_size=264, pattern="gpt2", special_tokens=special)
    path = export_gguf(randomise(spec.build(vocab_size=264)), tokenizer, tmp_path / "good.gguf", "f32")
    read = GGUF(path)
    tensors = {
        own: Packable(read.kind(own), read.shape(own), lambda own=own: read.tensor(own).data) for own in read.names
    }
    kinds = {int: np.uint32, float: np.float32}
    metadata = {key: kinds.get(type(value), lambda same: same)(value) for key, value in read.metadata.items()}
    keys = [key for key in BOUNDS if key in (*OTHERS, *ARCHITECTURES[name].all_keys)]
    assert len(keys) >= 17
    accepted, wrong, path = set(), [], tmp_path / "m.gguf"
    for key in [*keys, "bos_token_id", "unknown_token_id", "seperator_token_id", "tokens"]:
        full = f"{name}.{key}" if key in BOUNDS else f"tokenizer.ggml.{key}"
        for label, value in WRONG.items():
            with open(path, "wb") as handle:
                write(handle, {**metadata, full: value}, tensors)
            try:
                load_model(path, device="cpu")
            except CheckpointError as error:
                said = str(error)
                if (key, label) == ("use_parallel_residual", "flag"):  # a good value, of which the tensors are not
                    said = said.replace("have no place", f"have no place by {full}")
                wrong += [] if said.startswith(f"{path}: ") and full in said else [(full, label, said)]
            else:
                accepted.add((key, label))
    first = {(f"{role}_token_id", "0") for role in ("bos", "unknown", "seperator")}
    always = {("rope.scaling.finetuned", "flag"), *first}
    caps = {cap for cap in CAPS if cap[0] in keys}
    assert not wrong and accepted == always | caps | POSSIBLE.get(name, set())


def test_tensors_that_do_not_fit(good, tmp_path):
    _, metadata, tensors = good
    path = tmp_path / "m.gguf"
    nan = Packable("F32", (32,), lambda: np.full(32, np.nan, np.float32))
    more = {"blk.0.attn_sinks.weight": nan}
    lost = {name: tensor for name, tensor in tensors.items() if name != "blk.0.ffn_up.weight"}
    for changed, message in [
        ({**tensors, **more}, "1 weights have no place in the model: tensor blk.0.attn_sinks.weight"),
        (lost, "1 weights are missing: model.layers.0.mlp.up_proj.weight"),
        ({**tensors, "output_norm.weight": nan}, "model.norm.weight holds 32 NaN of 32 numbers .stored as F32"),
        ({**tensors, "rope_freqs.weight": nan}, "rope_freqs.weight is no scaling as Llama 3 has it"),
    ]:
        with open(path, "wb") as handle:
            write(handle, metadata, changed)
        with pytest.raises(CheckpointError, match=rf"m\.gguf: {message}"):
            load_model(path, device="cpu")


def refusal(read, path):
    """What a reader refuses a file with, None where it reads it; any other error is one of the reader."""
    try:
        read(path)
    except LlmanacError as error:
        return error
    return None


def read_natively(path):
    """As the native runner reads it; what it leaves to torch is read there."""
    if FileModel.refusal(path) is not None:
        load_model(path, device="cpu")
    else:
        NativeModel(FileModel(path), threads=1, form="plain")


def test_changed_bytes_give_no_other_error(good, tmp_path):
    """Bytes of the header are flipped, set, cut and copied; a file that is still read gives a model."""
    original = good[0].read_bytes()
    start = min(original.find(name) for name in (b"blk.0.attn_norm", b"token_embd.weight"))
    places = [*range(24, 900), *range(start - 8, start + 1200)]  # keys before the vocabulary, and the table of tensors
    rng, path, refused = random.Random(7), tmp_path / "m.gguf", 0
    for _ in range(250):
        data = bytearray(original)
        for _ in range(rng.choice([1, 1, 2, 4])):
            at = rng.choice(places)
            data[at] = rng.choice([data[at] ^ 1 << rng.randrange(8), 0, 255, rng.randrange(256)])
        if rng.random() < 0.15:
            data = data[: rng.randrange(len(data))]
        path.write_bytes(data)
        both = [refusal(load_model, path), refusal(read_natively, path)]
        assert (both[0] is None) == (both[1] is None), both
        said = [error for error in (*both, refusal(load_tokenizer, path)) if error is not None]
        assert all("m.gguf" in str(error) for error in said)
        refused += bool(said)
    assert refused > 60


@pytest.mark.parametrize("texts", [
    [], [""], ["", ""], ["a\0b", "c"], ["\0"], ["é" * 1000, "\0\0", "x"], [str(i) for i in range(3000)],
    ["\U0001f600", ""],
])  # fmt: skip
def test_texts_are_read_as_they_were_written_and_cut_off_ones_are_refused(texts, tmp_path):
    path = tmp_path / "t.gguf"
    with open(path, "wb") as handle:
        write(handle, {"texts": texts, "after": np.uint32(7)}, {})
    assert GGUF(path).metadata == {"texts": texts, "after": 7}
    data = path.read_bytes()
    end = len(data.rstrip(b"\0")) + 3  # of the number 7 in four bytes
    for size in {*range(40, min(end, 90)), *range(max(40, end - 40), end)}:
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=r"texts|after|the file ends there"):
            GGUF(path)


def test_a_text_that_is_no_utf_8_is_named(tmp_path):
    path = tmp_path / "t.gguf"
    with open(path, "wb") as handle:
        write(handle, {"texts": ["ab", "cd", "ef"]}, {})
    path.write_bytes(path.read_bytes().replace(b"cd", b"\xc3d"))
    with pytest.raises(CheckpointError, match=r"texts'?\[1\] is not UTF-8"):
        GGUF(path)
