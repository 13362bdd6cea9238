"""GGUF files against transformers and the gguf package: models both ways, tokenizers, SmolLM2 as it was published."""

import functools
import math
from dataclasses import replace

import httpx
import numpy as np
import pytest
import torch
from _published import published
from _small_models import randomise
from _texts import made, real
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import llmanac
from llmanac.core.errors import CheckpointError, TokenizerError
from llmanac.core.spec import diff, make_method
from llmanac.generate.load import load_engine
from llmanac.guide import calculate
from llmanac.kernels.gguf import GGUF
from llmanac.kernels.gguf.file import Packable, write
from llmanac.models.families import FAMILIES, family
from llmanac.models.families._table import canonical
from llmanac.models.gguf.architectures import ARCHITECTURES, interleaved
from llmanac.models.gguf.read import PackedWeights
from llmanac.models.gguf.write import export_gguf
from llmanac.models.load import load_model
from llmanac.tokenizers import gguf
from llmanac.tokenizers._unigram import SentencePiece
from llmanac.tokenizers.load import load_tokenizer, train_tokenizer

TEXTS = ["the cat sat on the mat, the dog's hat was 12 345 years old\n\n  and naïve — £3.50", "日本語 the\tcat\r\n's"]
SIZES = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "bos_token_id": None,
    "eos_token_id": 0, "pad_token_id": None,
}  # fmt: skip
STRETCHED = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
LISTS = {
    "rope_theta": 1e4, "original_max_position_embeddings": 512,
    "short_factor": [1.0, 1.1, 1.3, 1.7, 2.0, 2.5, 3.0, 4.0],
    "long_factor": [1.0, 2.0, 5.0, 9.0, 12.0, 15.0, 20.0, 30.0],
}  # fmt: skip
HALF = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
CASES = {
    "llama": {},
    "llama, tied, biases": {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    "granite": {
        "embedding_multiplier": 12.0, "attention_multiplier": 0.3, "residual_multiplier": 0.22, "logits_scaling": 3.0,
    },
    "llama, llama3 rope": {"rope_parameters": STRETCHED, "head_dim": 32},
    "llama, linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}},
    "llama, yarn rope, own factor": {"rope_parameters": {**YARN, "attention_factor": 1.3}},
    "llama, longrope": {"rope_parameters": {**LISTS, "rope_type": "longrope"}, "max_position_embeddings": 2048},
    "qwen2, yarn rope": {"rope_parameters": YARN},
    "qwen2, yarn rope, own factor": {"rope_parameters": {**YARN, "attention_factor": 1.7}},
    "qwen3, yarn rope": {"head_dim": 128, "rope_parameters": YARN},
    "phi3, longrope": {
        "rope_parameters": {
            **{key: value[:4] if isinstance(value, list) else value for key, value in LISTS.items()},
            "rope_type": "longrope", "partial_rotary_factor": 0.5,
        },
        "original_max_position_embeddings": 512, "max_position_embeddings": 2048,
    },
    "gemma, yarn rope": {"head_dim": 24, "rope_parameters": YARN},
    "gemma2, yarn rope": {"head_dim": 24, "query_pre_attn_scalar": 24, "rope_parameters": YARN},
    "gemma3, yarn rope": {
        "head_dim": 24, "query_pre_attn_scalar": 24, "sliding_window": 7, "num_hidden_layers": 7,
        "rope_parameters": {
            "full_attention": {**YARN, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "qwen2": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "qwen3": {"head_dim": 128},  # the only size with which transformers reads such a file
    "phi3": {"partial_rotary_factor": 0.5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "gemma": {"head_dim": 24},
    "smollm3": {"num_hidden_layers": 6},
    "ernie4_5": {"head_dim": 32},
    "olmo2": {},
    "exaone4": {"sliding_window": None, "layer_types": ["full_attention"] * 3},
    "chatglm": {"head_dim": 16, **HALF},
    "glm4": {"head_dim": 16, **HALF},
    "starcoder2": {"sliding_window": None},
    "stablelm": HALF,
    "stablelm, parallel, biases": {"use_parallel_residual": True, "use_qkv_bias": True},
    "phi2": HALF,
    "command-r": {"logit_scale": 0.7},
    "cohere2": {"num_hidden_layers": 6, "sliding_window": 7, "logit_scale": 0.7},
    "nemotron": HALF,
    "hunyuan-dense": {"head_dim": 16},
    "gemma2": {"head_dim": 24, "query_pre_attn_scalar": 24, "sliding_window": 7},
    "gemma3": {
        "head_dim": 24, "query_pre_attn_scalar": 24, "sliding_window": 7, "num_hidden_layers": 7,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
}  # fmt: skip
# biases of llama, scalings, partial rotation and the scale of scores are in the file, and not read from it
CASES = {case: more for case, more in CASES.items() if ARCHITECTURES[case.partition(",")[0]].family in FAMILIES}
UNREAD_BY_PEER = (
    "granite", "smollm3", "ernie4_5", "olmo2", "exaone4", "chatglm", "glm4", "phi2", "command-r", "cohere2",
    "hunyuan-dense",
)  # fmt: skip
IGNORED_BY_PEER = (
    "stablelm",
    "stablelm, parallel, biases",
    "llama, tied, biases",
    "phi3",
    "phi3, longrope",
    "gemma2",
    "gemma3",
)


@pytest.fixture(scope="module")
def tokenizer():
    special = ("<|end|>", "<|pad|>", "<s>", "</s>", "<unk>", "<|endoftext|>")
    return train_tokenizer("bpe", TEXTS * 3, vocab_size=300, pattern="gpt2", special_tokens=special, eos="<|end|>")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(transformers' model, ours) of a case, with weights of standard deviation 0.2."""

    def made(case):
        table = ARCHITECTURES[case.partition(",")[0]]
        sizes = {key: value for key, value in SIZES.items() if key != "rms_norm_eps" or key in table.eps}
        config = AutoConfig.for_model(table.family, **{**sizes, **CASES[case]})
        theirs = randomise(AutoModelForCausalLM.from_config(config, attn_implementation="eager")).eval()
        folder = tmp_path_factory.mktemp("hf")
        theirs.save_pretrained(folder)
        return theirs, load_model(folder, device="cpu")

    return made


VARIED = [
    *TEXTS, "", " ", "  two", "ends in blanks  \n ", "DON'T we'LL I'm", "a1b22c333d4444", "x=[1,2];\n\treturn\r\n\r\n",
    "é e\u0301 ﬁ ½ ٣٤ ⅷ", "emoji 🙂👍🏽 zero\u200bwidth", "  \u3000 wide", "$+<=>^~|", "snake_case HTTPServer",
]  # fmt: skip
IDS = torch.arange(2, 42).reshape(2, 20) * 7 % 300


def test_the_memory_of_a_file_is_what_is_held_of_it(models, tokenizer, tmp_path):
    path = export_gguf(models("llama")[1], tokenizer, tmp_path / "m.gguf", "q8_0")
    described = calculate.read(path)
    used = calculate.bytes_of(described, length=8)
    numbers = sum(parameter.numel() for parameter in load_model(path, device="cpu").parameters())
    assert (used.weights, used.packed) == (0, path.stat().st_size) and "Q8_0" in described.packed.kinds
    assert calculate.bytes_of(described, length=8, dtype="float32").weights == 4 * numbers
    assert used.state == 2 * calculate.bytes_of(described, length=8, dtype="bfloat16").state
    assert used.peak - calculate.LIBRARIES == used.inference > used.packed
    assert calculate.bytes_of(described, length=8, dtype="bfloat16").packed == 0
    # a step reads the file's own bytes, not those of numbers that it was unpacked to
    machine = calculate.Machine(1e15, 1e9, "given")
    own, wide = (calculate.latency(described, machine, prompt=8, dtype=d)[1].bytes for d in (None, "float32"))
    assert own - used.state < described.packed.bytes < wide


@pytest.mark.parametrize("case", CASES)
def test_models_round_trip(case, models, tokenizer, tmp_path):
    """The file's keys give the same Spec, its tensors the same numbers, and the packed kinds nearly so."""
    theirs, ours = models(case)
    path = export_gguf(ours, tokenizer, tmp_path / "m.gguf", "f32")
    again = load_model(path, device="cpu")
    for field, (mine, read) in diff(canonical(ours.spec), canonical(again.spec)).items():
        assert field == "position.scaling.attention_factor" and read == pytest.approx(mine, rel=1e-6)  # 32 bits
    assert again.generation["eos_token_id"] == tokenizer.eos_id
    state = dict(again.named_parameters())
    exact = ARCHITECTURES[case.partition(",")[0]].shift == 0  # 1 + w in 32 bits
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(state[name], parameter, rtol=0, atol=0 if exact else 1e-6)
    expected = theirs(IDS).logits
    torch.testing.assert_close(again(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    kind = {"llama": "q8_0", "qwen2": "q4_1", "qwen3": "q4_0"}.get(case, "f16")
    packed = load_model(export_gguf(ours, tokenizer, tmp_path / "p.gguf", kind), device="cpu")
    off = (packed(IDS).logits - expected).abs().mean() / expected.abs().mean()
    assert 1e-6 < off < {"f16": 0.02, "q8_0": 0.1}.get(kind, 0.9)


@pytest.mark.parametrize("case", [case for case in CASES if case.partition(",")[0] not in UNREAD_BY_PEER])
def test_transformers_loads_what_is_written(case, models, tokenizer, tmp_path):
    pytest.importorskip("gguf", reason="transformers reads GGUF files with the gguf package")
    if case.partition(",")[0] == "gemma":
        pytest.skip("transformers reads no GGUF file of Gemma 1")
    theirs, ours = models(case)
    export_gguf(ours, tokenizer, tmp_path / "m.gguf", "f32")
    peer = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", attn_implementation="eager").eval()
    if case not in IGNORED_BY_PEER and "rope" not in case:
        torch.testing.assert_close(peer(IDS).logits, theirs(IDS).logits, rtol=1e-4, atol=1e-4)
    else:
        ours = dict(theirs.named_parameters())
        for name, parameter in peer.named_parameters():
            torch.testing.assert_close(parameter, ours[name])


def llama_cpp(path):
    """Asks llama.cpp's server, with this model, at one of its paths."""
    peer = pytest.importorskip("xllamacpp", reason="needs xllamacpp, llama.cpp as a package")
    chosen = peer.CommonParams()
    chosen.model.path, chosen.n_ctx, chosen.n_parallel, chosen.warmup, chosen.port = str(path), 128, 1, False, 0
    chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = 1
    server = peer.Server(chosen)
    return lambda place, **body: httpx.post(server.listening_address + place, json=body, timeout=60).json()


@pytest.mark.parametrize("case", CASES)
def test_llama_cpp_generates_the_same(case, models, tokenizer, tmp_path):
    _, ours = models(case)
    ask = llama_cpp(export_gguf(ours, tokenizer, tmp_path / "m.gguf", "f32"))
    found = ask("/completion", prompt="the cat", n_predict=12, temperature=0, return_tokens=True)["tokens"]
    mine = load_engine(tmp_path / "m.gguf", device="cpu").generate("the cat", max_new_tokens=12)[0]
    assert found == mine.ids and len(found) == 12
    for text in VARIED:
        assert ask("/tokenize", content=text, add_special=False, parse_special=False)["tokens"] == tokenizer.encode(
            text
        )


def test_names_are_those_of_the_gguf_package():
    gguf = pytest.importorskip("gguf", reason="needs the gguf package")
    for name, table in ARCHITECTURES.items():
        number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
        theirs = gguf.get_tensor_name_map(number, 4)
        known = {gguf.TENSOR_NAMES[kind] for kind in gguf.MODEL_TENSORS[number]}
        for own, ours in table.names.items():
            if f"blk.{{bid}}.{own}" in known:  # tables share lines that not all architectures have
                assert theirs.get_name(f"model.layers.2.{ours}") == f"blk.2.{own}"
                assert table.theirs(f"blk.2.{own}.weight") == f"model.layers.2.{ours}.weight"
                assert table.ours(f"model.layers.2.{ours}.weight") == f"blk.2.{own}.weight"


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("encoder-decoder", {}, "this model's form is encoder-decoder"),
        ("encoder", {}, "this model's form is encoder"),
        ("transformer", {"blocks": [{"name": "pre-norm", "ffn": "mlp"}]}, "llama: blocks.0.ffn.name is mlp"),
    ],
)
def test_one_reason_is_said_of_a_model_that_no_file_holds(name, fields, says, tokenizer, tmp_path):
    model = make_method("lm", {"name": name, "dim": 16, "max_length": 32, **fields}).build(vocab_size=300)
    with pytest.raises(CheckpointError, match=says) as error:
        export_gguf(model, tokenizer, tmp_path / "m.gguf")
    assert str(error.value).count(" is ") < 4 and not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("olmo2", {"tie_word_embeddings": True}, "olmo2: llama.cpp reads its files with a head of its own alone"),
        ("nemotron", {"tie_word_embeddings": True}, "nemotron: llama.cpp reads its files with a head of its own alone"),
        ("command-r", {"tie_word_embeddings": False}, "command-r: .* with the embedding as head alone"),
        ("gemma", {"tie_word_embeddings": False}, "gemma: .* with the embedding as head alone"),
        ("chatglm", {"head_dim": 24}, "chatglm: .* with heads that are together as wide as the model alone"),
        ("starcoder2", {"head_dim": 24}, "starcoder2: .* with heads that are together as wide as the model alone"),
        ("qwen3", {"attention_bias": True}, "biases is 'all', which a GGUF file of the architecture qwen3 cannot say"),
        ("olmo2", {"attention_bias": True}, "biases is 'all', which a GGUF file of the architecture olmo2 cannot say"),
        ("ernie4_5", {"use_bias": True}, "biases is 'all', which a GGUF file of the architecture ernie4_5 .* .only"),
    ],
)
def test_a_file_that_llama_cpp_would_not_load_is_not_written(name, fields, says, tokenizer, tmp_path):
    chosen = family(ARCHITECTURES[name].family)
    config = {**{key: value for key, value in SIZES.items() if value is not None}, **CASES[name], **fields}
    config.pop("rms_norm_eps" if ARCHITECTURES[name].eps[1] != "rms_norm_eps" else "", None)
    spec, size = chosen.to_spec(chosen.config(config, tmp_path))
    model = spec.build(vocab_size=size)
    model.family = ARCHITECTURES[name].family
    with pytest.raises(CheckpointError, match=says):
        export_gguf(model, tokenizer, tmp_path / "m.gguf", "f32")
    assert not (tmp_path / "m.gguf").exists()


def test_a_window_that_llama_cpp_leaves_out_is_said(tokenizer, tmp_path):
    """A Mistral with a window is a Phi-3 to GGUF files."""
    sizes = {key: SIZES[key] for key in SIZES if key != "pad_token_id"}
    config = AutoConfig.for_model("mistral", **sizes, sliding_window=9)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    windowed = load_model(tmp_path, device="cpu")
    with pytest.warns(UserWarning, match="llama.cpp reads phi3 files without their window of 9 tokens"):
        export_gguf(windowed, tokenizer, tmp_path / "m.gguf", "f32")


def test_packed_blocks_are_reordered_as_they_are(models, tokenizer, tmp_path):
    """What a native engine multiplies: blocks of Q8_0 in the family's order of rows."""
    _, ours = models("llama")
    path = export_gguf(ours, tokenizer, tmp_path / "m.gguf", "q8_0")
    packed, name = PackedWeights(path), "model.layers.1.self_attn.q_proj.weight"
    tensor = packed.tensor(name)
    assert (tensor.kind, tensor.shape, tensor.data.dtype) == ("Q8_0", (64, 64), np.uint8)
    np.testing.assert_array_equal(tensor.float32(), packed.take(name).numpy())
    stored = GGUF(path).tensor("blk.1.attn_q.weight").float32()
    np.testing.assert_array_equal(interleaved(tensor.float32(), 4), stored)
    assert (stored != tensor.float32()).any()


# ------------------------------------------------------------------------------------------------------ tokenizers
def ids_of_peer(folder, texts):
    peer = AutoTokenizer.from_pretrained(folder, gguf_file="t.gguf")
    return [peer(text, add_special_tokens=False).input_ids for text in texts]


def tokenizer_file(path, metadata):
    with open(path, "wb") as handle:
        write(handle, {"general.architecture": "llama", **metadata}, {})
    return path


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "gpt-4o", "tekken"])
def test_byte_level_ids_equal_transformers(pre, tmp_path):
    pattern = gguf.PATTERNS[pre][0]
    trained = train_tokenizer("bpe", VARIED * 2, vocab_size=420, pattern=pattern, special_tokens=("<|end|>",))
    trained.whole_pieces = pre in gguf.WHOLE
    metadata = {**gguf.keys(trained, 420), "tokenizer.ggml.pre": pre, "tokenizer.chat_template": "{{ eos_token }}"}
    ours = load_tokenizer(tokenizer_file(tmp_path / "t.gguf", metadata))
    assert [ours.encode(text) for text in VARIED] == ids_of_peer(tmp_path, VARIED)
    assert all(ours.decode(ours.encode(text)) == text for text in VARIED)
    assert (ours.eos_id, ours.adds_bos, ours.chat_template) == (0, False, "{{ eos_token }}")
    assert ours.encode("a<|end|>", special="all")[-1] == 0 and 0 not in ours.encode("a<|end|>")
    ours.save(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert [again.encode(text) for text in VARIED] == [ours.encode(text) for text in VARIED]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_ids_equal_the_library(prefix, tmp_path):
    """And, with the prefix that its class always writes, transformers."""
    sentencepiece = pytest.importorskip("sentencepiece")
    trained = train_tokenizer(
        "sentencepiece", VARIED * 3, model="bpe", vocab_size=420, normalizer="nfkc", add_dummy_prefix=prefix,
        special_tokens=("<s>", "</s>"),
    )  # fmt: skip
    rules = replace(trained.rules, name="identity", charsmap=b"")
    plain = SentencePiece(replace(trained.model, rules=rules), **trained._settings())
    metadata = gguf.keys(plain, 430)
    ours = load_tokenizer(tokenizer_file(tmp_path / "t.gguf", metadata))
    plain.save(tmp_path / "t.model")
    library = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "t.model"))
    assert [ours.encode(text) for text in VARIED] == [library.encode(text) for text in VARIED]
    assert ours.vocab_size == 430 and (ours.bos_id, ours.eos_id) == (1, 2)
    if prefix:
        texts = [text for text in VARIED if not text.startswith((" ", "\u3000"))]  # Metaspace adds no second one there
        assert [ours.encode(text) for text in texts] == ids_of_peer(tmp_path, texts)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tokenizer.ggml.pre", "viking", "tokenizer.ggml.pre: 'viking' is not known .known: gpt-2"),
        ("tokenizer.ggml.pre", ["gpt-2", "gpt-2"], r"tokenizer.ggml.pre: is \['gpt-2', 'gpt-2'\], expected text"),
        ("tokenizer.ggml.model", np.zeros(2, np.int32), "tokenizer.ggml.model: "),
        ("tokenizer.chat_template", [], r"tokenizer.chat_template: is \[\], expected text"),
        ("tokenizer.ggml.model", "bert", "tokenizer.ggml.model: 'bert' is not supported"),
        ("tokenizer.ggml.tokens", "a", "tokenizer.ggml.tokens: is 'a', expected a list of texts"),
        ("tokenizer.ggml.tokens", ["a", "a"], "tokenizer.ggml.tokens: 'a' is listed twice"),
        ("tokenizer.ggml.token_type", np.zeros(3, np.int32), "tokenizer.ggml.token_type: has 3, expected 300 numbers"),
        ("tokenizer.ggml.eos_token_id", np.uint32(999), "tokenizer.ggml.eos_token_id: 999 is no id below 300"),
        ("tokenizer.ggml.add_bos_token", "yes", "tokenizer.ggml.add_bos_token: is 'yes', expected true or false"),
        ("tokenizer.chat_template", 3.5, "tokenizer.chat_template: is 3.5, expected text"),
        ("tokenizer.ggml.merges", ["a"], r"tokenizer.ggml.merges\[0\]: expected two tokens"),
    ],
)
def test_tokenizers_that_are_refused(key, value, message, tokenizer, tmp_path):
    metadata = {**gguf.keys(tokenizer, 300), key: np.float32(value) if isinstance(value, float) else value}
    with pytest.raises(TokenizerError, match=rf"t\.gguf: {message}"):
        load_tokenizer(tokenizer_file(tmp_path / "t.gguf", metadata))


# ------------------------------------------------------------------------------------------------------------ keys
@functools.lru_cache(maxsize=1)
def held(source):
    kinds = {int: np.uint32, float: np.float32}
    file = GGUF(source)
    metadata = {name: kinds.get(type(old), lambda old: old)(old) for name, old in file.metadata.items()}
    tensors = {name: file.tensor(name) for name in file.names}
    return metadata, {name: Packable(t.kind, t.shape, lambda t=t: t.data) for name, t in tensors.items()}


def other(path, source, changes, tensors=()):
    """A file as `source`, with other keys (None for none of that name) and further tensors."""
    metadata, packed = held(source)
    metadata = {name: value for name, value in {**metadata, **changes}.items() if value is not None}
    with open(path, "wb") as handle:
        write(handle, metadata, packed | {name: Packable("F32", t.shape, lambda t=t: t) for name, t in tensors})
    return path


UNUSED = {  # keys of the specification that change nothing that these architectures compute, whatever they say
    "vocab_size",  # the embedding has as many rows
    "rope.scaling.finetuned",  # is shown
    "rope.scaling.original_context_length",  # without yarn or longrope
}
PROBES = [np.uint32(5), np.float32(0.5), np.bool_(True), "x", np.array([1, 2], np.uint32), ["x"]]


@pytest.mark.parametrize(
    ("name", "probes"),
    [("llama", PROBES)] + [
        pytest.param(name, probes, marks=pytest.mark.slow if probes is PROBES or number % 4 else ())
        for number, name in enumerate(ARCHITECTURES) for probes in (PROBES[:2], PROBES) if name != "llama"
    ],
    ids=lambda given: given if isinstance(given, str) else len(given),
)  # fmt: skip
def test_each_key_of_the_specification_is_used_or_refused(name, probes, models, tokenizer, tmp_path):
    """Values of every type for one architecture, numbers for some; the slow cases are the others."""
    gguf = pytest.importorskip("gguf", reason="needs the gguf package")

    def listed(kind):
        for value in vars(kind).values():
            yield from listed(value) if isinstance(value, type) else [value]

    keys = {str(key).removeprefix("{arch}.") for key in listed(gguf.Keys) if str(key).startswith("{arch}.")}
    keys = {key.format(dense="dense_2") for key in keys} | {"rope.scale_linear", "attention.value_scale"}
    keys -= {"rope.scale_linear"} if name == "gemma3" else set()  # the file has the newer key, which counts
    assert len(keys) > 100
    source = export_gguf(models(name)[1], tokenizer, tmp_path / "m.gguf", "f32")
    plain = PackedWeights(source).config
    used = set()
    for key in sorted(keys - UNUSED):
        for probe in [probe for probe in probes if key != "attention.causal" or probe is not PROBES[2]]:
            path = other(tmp_path / "other.gguf", source, {f"{name}.{key}": probe})
            try:
                config = PackedWeights(path).config
            except CheckpointError as error:
                related = [key, "rope.dimension_count", "rope.scaling"]  # with which it does not go together
                assert any(f"{name}.{part}" in str(error) for part in related), (key, probe, str(error))
            else:
                assert config != plain, (key, probe)
                used.add(key)
    assert used >= {"context_length", "embedding_length", "feed_forward_length", "rope.freq_base"}
    assert {"expert_count", "attention.clamp_kqv", "rope.scaling.yarn_beta_fast"}.isdisjoint(used)
    assert ("attention.scale" in used) == (name == "granite")


@pytest.mark.parametrize("name", ["qwen2", "llama"])
def test_rotary_keys_are_read_as_llama_cpp_reads_them(name, models, tokenizer, tmp_path):
    """Its default for a key that is absent is not always the family's."""
    source = export_gguf(models(name)[1], tokenizer, tmp_path / "m.gguf", "f32")

    def scaling(**changes):
        keys = {f"{name}.rope.{key.replace('__', '.')}": value for key, value in changes.items()}
        return load_model(other(tmp_path / "other.gguf", source, keys), device="cpu").spec.position.scaling

    four = np.float32(4)
    assert scaling(scaling__factor=four).type == "linear" and scaling(scale_linear=four).factor == 4
    assert scaling(scaling__type="none", scaling__factor=four) is None
    found = scaling(scaling__type="yarn", scaling__factor=four)
    assert (found.original_length, found.amplitude) == (128, 0.1 * math.log(4) + 1)
    trained = {"scaling__original_context_length": np.uint32(32), "scaling__attn_factor": np.float32(0.5)}
    found = scaling(scaling__type="yarn", scaling__factor=four, **trained)
    assert (found.original_length, found.amplitude) == (32, 0.5 * (0.1 * math.log(4) + 1))
    for changes in ({}, {"scaling__factor": four}, {"scaling__type": "none", "scaling__factor": four}):
        with pytest.raises(CheckpointError, match=rf"{name}.rope.scaling.attn_factor is 0.5"):
            scaling(**changes, scaling__attn_factor=np.float32(0.5))
    with pytest.raises(CheckpointError, match=rf"{name}.rope.scaling.type asks for 'dynamic'"):
        scaling(scaling__type="dynamic", scaling__factor=four)
    with pytest.raises(CheckpointError, match=r"rope_factors_short.weight is missing or wrong, expected 8 numbers"):
        scaling(scaling__type="longrope")


@pytest.mark.parametrize(("name", "period"), [("gemma2", 2), ("gemma3", 6)])
def test_which_layers_see_a_window(name, period, models, tokenizer, tmp_path):
    _, ours = models(name)
    source = export_gguf(ours, tokenizer, tmp_path / "m.gguf", "f32")
    for every in (None, 1, 2, 3, 0):
        key = {f"{name}.attention.sliding_window_pattern": None if every is None else np.uint32(every)}
        model = load_model(other(tmp_path / "other.gguf", source, key), device="cpu")
        every = period if every is None else every
        windows = [model.model.layers[i].self_attn.window for i in range(ours.spec.layers)]
        assert windows == [None if every and (i + 1) % every == 0 else 7 for i in range(len(windows))]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("rope.dimension_count", value) for value in (np.array([16, 16], np.uint32), "16", np.float32(16))),
        *(("attention.value_length", value) for value in (np.array([16, 16], np.uint32), "x")),
        *(("rope.scaling.type", value) for value in (["yarn", "yarn"], np.array([1, 2], np.uint32), np.uint32(1))),
        *(("rope.scaling.factor", value) for value in (np.array([2.0, 2.0], np.float32), "2")),
        *(("block_count", value) for value in (np.uint32(0), np.array([3, 3], np.uint32), "3")),
    ],
)  # fmt: skip
def test_a_key_of_another_kind_is_refused_by_name(key, value, models, tokenizer, tmp_path):
    _, ours = models("gemma2")
    path = export_gguf(ours, tokenizer, tmp_path / "m.gguf", "f32")
    kinds = {int: np.uint32, float: np.float32}
    metadata = {name: kinds.get(type(old), lambda old: old)(old) for name, old in GGUF(path).metadata.items()}
    with open(tmp_path / "other.gguf", "wb") as handle:
        write(handle, {**metadata, f"gemma2.{key}": value}, {})
    with pytest.raises(CheckpointError, match=rf"other\.gguf: gemma2\.{key} "):
        load_model(tmp_path / "other.gguf", device="cpu")


def test_bytes_without_merges_round_trip(tmp_path):
    plain = train_tokenizer("utf8", [])
    ours = load_tokenizer(tokenizer_file(tmp_path / "t.gguf", gguf.keys(plain, plain.vocab_size)))
    assert [ours.encode(text) for text in VARIED] == [plain.encode(text) for text in VARIED]
    assert (ours.special_tokens, ours.eos_id, ours.pad_id) == (plain.special_tokens, plain.eos_id, plain.pad_id)


def test_missing_pattern_is_llama_cpps_default(tokenizer, tmp_path):
    metadata = gguf.keys(tokenizer, 300)
    del metadata["tokenizer.ggml.pre"]
    ours = load_tokenizer(tokenizer_file(tmp_path / "t.gguf", metadata))
    text = "a$b 1234 x"
    assert ours.splitter.pieces(text) == [1, 2, 3, 4, 7, 8, 10]
    assert ours.decode(ours.encode(text)) == text


def test_what_has_no_form_is_refused_by_name(tokenizer, models, tmp_path):
    _, ours = models("llama")
    with pytest.raises(CheckpointError, match="type: 'q3_k_m' is not written"):
        export_gguf(ours, tokenizer, tmp_path / "m.gguf", "Q3_K_M")
    with pytest.raises(TokenizerError, match=r"no phi3 model whose tokenizer lacks <s> and <.endoftext.>"):
        export_gguf(models("phi3")[1], train_tokenizer("utf8", []), tmp_path / "m.gguf")
    unigram = train_tokenizer("unigram", VARIED * 3, vocab_size=400)
    with pytest.raises(TokenizerError, match="kind unigram has no form"):
        export_gguf(ours, unigram, tmp_path / "m.gguf")
    with pytest.raises(CheckpointError, match=r"no architecture .*llama: blocks.0.mixer.name is gru"):
        export_gguf(llmanac.build("lm", "gru", dim=8, layers=1, vocab_size=300), tokenizer, tmp_path / "m.gguf")
    relu = replace(ours.spec, blocks=tuple(replace(b, ffn=replace(b.ffn, activation="relu")) for b in ours.spec.blocks))
    with pytest.raises(CheckpointError, match=r"activation is 'relu', which a GGUF file .* cannot say"):
        export_gguf(randomise(relu.build(vocab_size=320)), tokenizer, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def in_parts(source, folder, count=3):
    """The file's tensors in several files, as llama.cpp's gguf-split writes them."""
    file = GGUF(source)
    folder.mkdir()
    for part in range(count):
        keys = {"split.no": np.uint16(part), "split.count": np.uint16(count)}
        keys["split.tensors.count"] = np.int32(len(file.names))
        names = file.names[part::count]
        tensors = {n: Packable(file.kind(n), file.shape(n), lambda n=n: file.tensor(n).data) for n in names}
        values = {
            key: np.float32(value) if isinstance(value, float) else np.uint32(value) if type(value) is int else value
            for key, value in file.metadata.items()
        }
        with open(folder / f"m-{part + 1:05}-of-{count:05}.gguf", "wb") as handle:
            write(handle, {**(values if part == 0 else {}), **keys}, tensors)
    return folder / f"m-00001-of-{count:05}.gguf"


def test_a_model_in_parts_is_read_as_one(models, tokenizer, tmp_path):
    """By torch, by the native runner alone and by llama.cpp, with its tokenizer."""
    source = export_gguf(models("llama")[1], tokenizer, tmp_path / "m.gguf", "f32")
    first = in_parts(source, tmp_path / "parts")
    ids = torch.arange(40)[None]
    assert torch.equal(load_model(first, device="cpu")(ids).logits, load_model(source, device="cpu")(ids).logits)
    for runner in ("native", "torch"):
        whole, parts = (load_engine(path, device="cpu", runner=runner) for path in (source, first))
        assert parts.generate(TEXTS[0], max_new_tokens=12)[0].ids == whole.generate(TEXTS[0], max_new_tokens=12)[0].ids
    assert GGUF(first).kinds() == GGUF(source).kinds() and set(GGUF(first).names) == set(GGUF(source).names)
    ask = llama_cpp(first)
    found = ask("/completion", prompt="the cat", n_predict=12, temperature=0, return_tokens=True)["tokens"]
    assert found == load_engine(first, device="cpu", runner="native").generate("the cat", max_new_tokens=12)[0].ids


def test_parts_that_are_missing_or_mixed_up_are_named(models, tokenizer, tmp_path):
    source = export_gguf(models("llama")[1], tokenizer, tmp_path / "m.gguf", "q8_0")
    first = in_parts(source, tmp_path / "parts")
    second, third = (first.with_name(f"m-0000{n}-of-00003.gguf") for n in (2, 3))
    with pytest.raises(CheckpointError, match=r"00002-of-00003\.gguf: split\.no is 1 of 3 parts, expected 0; give"):
        load_model(second, device="cpu")
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(CheckpointError, match=r"m-00002-of-00003\.gguf: no such file"):
        load_model(first, device="cpu")
    second.write_bytes(third.read_bytes())
    with pytest.raises(CheckpointError, match=r"00002-of-00003\.gguf: split\.no is 2 of 3 parts, .* are mixed up"):
        load_model(first, device="cpu")
    two = in_parts(source, tmp_path / "two", 2)
    second.write_bytes(two.with_name("m-00002-of-00002.gguf").read_bytes())
    with pytest.raises(CheckpointError, match=r"00002-of-00003\.gguf: split\.count is 2, expected 3, as in the first"):
        load_model(first, device="cpu")
    second.write_bytes(kept)
    renamed = first.rename(first.with_name("model.gguf"))
    with pytest.raises(CheckpointError, match=r"model\.gguf: is one of 3 parts, but its name does not end in -00001"):
        load_model(renamed, device="cpu")
    loaded = GGUF(renamed.rename(first))
    third.write_bytes(third.read_bytes())
    with pytest.raises(CheckpointError, match=r"00003-of-00003\.gguf: was written to since it was opened"):
        loaded.tensor(loaded.names[0])


def test_a_file_that_is_written_to_while_it_is_open_is_refused(models, tokenizer, tmp_path):
    path = export_gguf(models("llama")[1], tokenizer, tmp_path / "m.gguf", "q8_0")
    data, engine = path.read_bytes(), load_engine(path, device="cpu", runner="native")
    path.write_bytes(data[: len(data) // 2])  # in place: the mapping has lost its second half
    with pytest.raises(CheckpointError, match=r"m\.gguf: was written to since it was opened; load the model again"):
        engine.sync()
    again = export_gguf(models("qwen3")[1], tokenizer, tmp_path / "other.gguf", "q8_0")
    engine = load_engine(again, device="cpu", runner="native")
    before = engine.generate([3, 4, 5], max_new_tokens=4)[0].ids
    path.write_bytes(data)
    path.replace(again)  # a new file by the same name: what was opened is as it was
    engine.sync()
    assert engine.generate([3, 4, 5], max_new_tokens=4)[0].ids == before
    assert load_model(again, device="cpu").spec != engine.model.spec


# --------------------------------------------------------------------------------------------------- a real model
@pytest.fixture(scope="module")
def smollm2():
    pytest.importorskip("gguf", reason="transformers reads GGUF files with the gguf package")
    return published("smollm2")


PROMPTS = ["The capital of France is", "def fibonacci(n):\n", "Once upon a time, in a small village", "1, 2, 3, 4,"]
TIE = 1e-4


@pytest.mark.pretrained
def test_smollm2_greedy_tokens_equal_transformers(smollm2):
    engine = load_engine(smollm2, dtype="float32", device="cpu")
    peer = AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32).eval()
    ties = 0
    for prompt in PROMPTS:
        ids = engine.tokenizer.encode(prompt)
        with torch.no_grad():
            found = peer.generate(torch.tensor([ids]), max_new_tokens=32, do_sample=False, pad_token_id=2)[0].tolist()
            logits, own = peer(torch.tensor([found])).logits[0], engine.model(torch.tensor([found])).logits[0]
        torch.testing.assert_close(own, logits, rtol=0, atol=2e-3)
        top = logits.topk(2).values
        near = (top[:, 0] - top[:, 1]) < TIE
        assert (own.argmax(-1) == logits.argmax(-1))[~near].all()
        ties += int(near.sum())
        mine = [*ids, *engine.generate(ids, max_new_tokens=32)[0].ids]
        first = next((i for i, pair in enumerate(zip(mine, found, strict=False)) if pair[0] != pair[1]), None)
        assert first is None or near[first - 1], (prompt, first)
    assert ties <= 4


@pytest.mark.pretrained
def test_smollm2_tokenizer_equals_transformers(smollm2):
    ours = load_tokenizer(smollm2)
    peer = AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    # transformers leaves out what `smollm` says: digits one by one before the rest
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    peer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    texts = [*VARIED, *real(60, 4000), *made(200, seed=3)]
    compared = 0
    for text in texts:
        if "\0" in text or not all(ours.encode(text)):  # bytes without a token
            continue
        ids = ours.encode(text, special="all")  # some describe tokenizers and name special tokens
        assert ids == peer(text, add_special_tokens=False).input_ids, text[:80]
        compared += 1
    assert compared > 150
    turns = [{"role": "user", "content": "Hi <|im_end|>"}, {"role": "assistant", "content": "Yes?"}]
    for chat in (turns[:1], [{"role": "system", "content": "Be brief."}, *turns, *turns[:1]]):
        expected = peer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert ours.render_chat(chat, add_generation_prompt=True) == expected
    assert (ours.eos_id, ours.pad_id, ours.bos_id) == (peer.eos_token_id, peer.pad_token_id, peer.bos_token_id)


@pytest.mark.parametrize("changes", [{"rope.freq_base_swa": np.float32(1.0)}, {
    "rope.scaling.type": "none", "rope.scaling.factor": np.float32(4.0)}])  # fmt: skip
def test_what_llama_cpp_does_to_windows_alone_is_refused(changes, models, tokenizer, tmp_path):
    """No value of these keys is without effect there."""
    source = export_gguf(models("gemma2")[1], tokenizer, tmp_path / "m.gguf", "f32")
    path = other(tmp_path / "other.gguf", source, {f"gemma2.{key}": value for key, value in changes.items()})
    with pytest.raises(CheckpointError, match=r"gemma2\.rope\.(freq_base_swa|scaling\.factor)"):
        PackedWeights(path)
