"""Configs of every family: older spellings, defaults, and what is refused by name."""

from __future__ import annotations

import json
import re
import runpy
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from _families import BASES, CASES, EAGER, LLAMA, READING, ours_batch, ours_of, ours_on, theirs
from _small_models import block, tokens, transformer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from llmanac.cli import main
from llmanac.core import files
from llmanac.core.errors import CheckpointError, LlmanacError, RequestError
from llmanac.core.types import Batch, OutputRequest
from llmanac.models.families import FAMILIES, Config, family
from llmanac.models.families._config import PEER
from llmanac.models.families._table import canonical
from llmanac.models.load import load_model
from llmanac.models.save import export_model
from llmanac.tokenizers.load import train_tokenizer


def test_an_encoder_refuses_what_it_cannot_do(tmp_path):
    ours = ours_of(theirs("bert, bare"), tmp_path)
    for call, message in (
        (lambda: ours(Batch(ids=tokens(1, 5))), 'is no causal model; .* from Python with mask="bidirectional"'),
        (lambda: ours.start(1), "does not write"),
        (lambda: ours(tokens(1, 5)), "logits: this model has no head"),
        (lambda: ours(tokens(1, 65), want=OutputRequest(hidden=True)), "65 tokens, but only 64 positions"),
    ):
        with pytest.raises(RequestError, match=message):
            call()
    packed = Batch(
        ids=torch.cat([tokens(1, 9), tokens(1, 5, seed=2)], 1), mask="bidirectional",
        segments=torch.tensor([[0] * 9 + [1] * 5]), positions=torch.tensor([[*range(9), *range(5)]]),
    )  # fmt: skip
    alone = torch.cat([ours_on(ours, "bert, bare", ids) for ids in (tokens(1, 9), tokens(1, 5, seed=2))], 1)
    torch.testing.assert_close(ours(packed, want=OutputRequest(hidden=True)).hidden, alone, rtol=0, atol=1e-10)


def test_older_spellings_of_rope(tmp_path):
    """`rope_theta` and `rope_scaling` of transformers 4, with its `type` key, are the same model."""
    reference = ours_of(theirs("llama, llama3 rope"), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    scaling = config.pop("rope_parameters")
    for key in ("rope_type", "type"):
        old = {k: v for k, v in scaling.items() if k not in ("rope_type", "rope_theta")} | {key: "llama3"}
        path.write_text(json.dumps({**config, "rope_theta": scaling["rope_theta"], "rope_scaling": old}))
        assert load_model(tmp_path, device="cpu").spec == reference.spec
    path.write_text(json.dumps({**config, "rope_theta": 123.0, "rope_scaling": None}))
    assert load_model(tmp_path, device="cpu").spec.position.theta == 123.0


def test_layers_that_all_differ_are_counted_before_they_are_built(tmp_path):
    """Each lightning layer of MiniMax has a slope of its own."""
    ours_of(theirs("minimax"), tmp_path)
    path = tmp_path / "config.json"
    config = {k: v for k, v in json.loads(path.read_text()).items() if k != "layer_types"}
    path.write_text(json.dumps({**config, "num_hidden_layers": 5000}))
    with pytest.raises(CheckpointError, match="num_hidden_layers asks for 5,000 layers of 5,000 tensors in all, but"):
        load_model(tmp_path, device="cpu")


def test_the_limits_of_a_step_of_mamba2(tmp_path):
    """None at all, in either spelling of infinity; others are refused."""
    reference = ours_of(theirs("mamba2"), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "time_step_limit": [0.0, float("inf")]}))
    assert load_model(tmp_path, device="cpu").spec == reference.spec
    path.write_text(json.dumps({**config, "time_step_limit": [0.0, 0.1]}))
    with pytest.raises(CheckpointError, match=r"time_step_limit = \[0.0, 0.1\] is not supported"):
        load_model(tmp_path, device="cpu")


def test_older_spellings_of_gpt_neox(tmp_path):
    """`rotary_pct` and `rotary_emb_base`, the tanh GELU by a third name, and what is absent is the 20B model's."""
    reference = ours_of(theirs("gpt_neox, one part after the other, tied, half rotated"), tmp_path)
    path = tmp_path / "config.json"
    config = {k: v for k, v in json.loads(path.read_text()).items() if k != "rope_parameters"}
    old = {**config, "rotary_pct": 0.5, "rotary_emb_base": 500, "hidden_act": "gelu_fast"}
    path.write_text(json.dumps(old))
    assert load_model(tmp_path, device="cpu").spec == reference.spec
    path.write_text(json.dumps(config))
    assert load_model(tmp_path, device="cpu").spec.position.rotary_fraction == 0.25


OLDER = {  # keys of the first files, in place of those of today
    "gemma2": {"layer_types": None, "rope_parameters": None, "rope_theta": 1e4, "hidden_act": "gelu_pytorch_tanh"},
    "gemma3_text": {
        "layer_types": None, "rope_parameters": None, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
        "sliding_window_pattern": 6, "rope_scaling": None, "cache_implementation": "hybrid",
    },
    "glm4": {"rope_parameters": None, "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    "gpt_oss": {"layer_types": None, "rope_parameters": None, "initial_context_length": 4096, "experts_per_token": 2},
    "deepseek_v3": {
        "rope_parameters": None, "rope_theta": 1e4, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "ep_size": 1,
        "moe_layer_freq": 1, "num_nextn_predict_layers": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", OLDER)
def test_older_configs_are_the_same_models(kind, tmp_path):
    ours = ours_of(theirs(kind), tmp_path)
    path = tmp_path / "config.json"
    changed = {**json.loads(path.read_text()), **OLDER[kind]}
    gone = [key for key, value in OLDER[kind].items() if value is None]
    path.write_text(json.dumps({key: value for key, value in changed.items() if key not in gone}))
    again = load_model(tmp_path, dtype="float64", device="cpu")
    assert canonical(again.spec) == canonical(ours.spec)
    peer = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64, **EAGER)
    assert torch.equal(peer.eval()(tokens(1, 20)).logits, theirs(kind)(tokens(1, 20)).logits)


def test_a_config_may_leave_out_what_has_a_default(tmp_path):
    expected = ours_of(theirs("llama, multi-head, tied"), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for key in ("num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "attention_bias", "rope_parameters"):
        config.pop(key, None)
    config["torch_dtype"] = config.pop("dtype", "float32")
    path.write_text(json.dumps(config))
    loaded = load_model(tmp_path, dtype="float64", device="cpu")
    assert torch.equal(loaded(tokens(1, 9)).logits, expected(tokens(1, 9)).logits)


REFUSED = {
    "rope_parameters": ({"rope_type": "proportional", "factor": 2.0}, "rope_type 'proportional' is not supported"),
    "rope_scaling": ({"type": "longrope", "short_factor": [1.0, 0.0]}, "short_factor has 0.0, expected numbers above"),
    "hidden_act": ("quick_gelu", "hidden_act = 'quick_gelu' is not supported"),
    "attn_logit_softcapping": (50.0, "attn_logit_softcapping = 50.0 is not known"),
    "quantization_config": ({"bits": 4}, "quantization_config = "),
    "sliding_window": (4096, "sliding_window = 4096 is not known"),
    "num_key_value_heads": (3, "kv_heads: 3 must divide heads, 4"),
    "hidden_size": ("wide", "hidden_size is 'wide', expected a number above 0"),
    "num_hidden_layers": (2.5, "num_hidden_layers is 2.5, expected a whole number"),
    "model_type": ("mistrall", "'mistrall' is not a family that can be read"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(key, tmp_path):
    ours_of(theirs("llama, grouped"), tmp_path)
    path = tmp_path / "config.json"
    value, message = REFUSED[key]
    config = json.loads(path.read_text())
    if key == "rope_scaling":
        config.pop("rope_parameters")
    path.write_text(json.dumps({**config, key: value}))
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(tmp_path, device="cpu")
    assert str(path) in str(error.value)


def test_neutral_and_empty_keys_are_accepted(tmp_path):
    ours_of(theirs("llama, grouped"), tmp_path)
    path = tmp_path / "config.json"
    extra = {"pretraining_tp": 2, "sliding_window": None, "use_cache": False, "attention_dropout": 0.1, "foo": False}
    path.write_text(json.dumps({**json.loads(path.read_text()), **extra}))
    load_model(tmp_path, device="cpu")


@pytest.mark.parametrize("key, value", [("scale_attn_weights", False), ("scale_attn_by_inverse_layer_idx", True)])
def test_gpt2_variants_are_refused(key, value, tmp_path):
    ours_of(theirs("gpt2"), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=f"{key} = {value} is not supported"):
        load_model(tmp_path, device="cpu")


OTHERS = {  # of each further family: what it has a key for and we have no form for, or what its own values must be
    "mistral": ("rope_parameters", {"rope_type": "linear", "rope_theta": 1e4}, "factor is missing"),
    "qwen2": ("layer_types", ["sliding_attention"] * 3, "use_sliding_window is not true"),
    "qwen3": ("layer_types", ["full_attention"] * 2, "layer_types lists 2 layers, the model has 3"),
    "mixtral": ("num_experts_per_tok", 9, "num_experts_per_tok: .*top_k: 9 is not between 1 and experts, 4"),
    "qwen3_moe": ("mlp_only_layers", [2], r"mlp_only_layers is \[2\], expected numbers of layers"),
    "phi3": ("rope_scaling", {"type": "linear", "factor": 2.0}, "rope_type 'linear' is not supported"),
    "gemma": ("hidden_activation", "relu", "hidden_activation = 'relu' is not supported"),
    "gemma2": ("sliding_window", None, "sliding_window is not set, but layer_types has sliding_attention"),
    "gemma3_text": ("attn_logit_softcapping", 50.0, "attn_logit_softcapping = 50.0 is not supported"),
    "glm4": ("partial_rotary_factor", "half", "partial_rotary_factor is 'half', expected a number"),
    "gpt_oss": ("quantization_config", {"quant_method": "mxfp4"}, "quantization_config = .*mxfp4"),
    "deepseek_v3": ("topk_method", "greedy", "topk_method = 'greedy' is not supported"),
    "smollm3": ("no_rope_layers", [1, 2, 1, 0], "no_rope_layers is .* expected a list of 0 and 1"),
    "mamba": ("intermediate_size", 65, "intermediate_size is 65, but expand x hidden_size is 64"),
    "gpt_neox": ("use_parallel_residual", "both", "use_parallel_residual is 'both', expected true or false"),
    "olmo2": ("clip_qkv", 8.0, "clip_qkv = 8.0 is not known"),
    "minimax": ("layer_types", ["full_attention"] * 2, "layer_types lists 2 layers, the model has 4"),
    "opt": ("word_embed_proj_dim", 16, "word_embed_proj_dim = 16 is not supported"),
    "bloom": ("slow_but_exact", True, "slow_but_exact = True is not supported"),
    "mamba2": ("num_heads", 9, "num_heads is 9, but expand x hidden_size / head_dim is 64 / 8"),
    "mpt": ("attn_config", {"clip_qkv": 6.0}, r"attn_config: clip_qkv = 6.0 is not supported \(only None\)"),
    "bert": ("position_embedding_type", "relative_key", "position_embedding_type = 'relative_key' is not supported"),
    "roberta": ("pad_token_id", 63, "pad_token_id is 63, expected an id below 63"),
    "modernbert": ("layer_types", ["chunked"] * 3, "layer_types is .*, expected 4 times full_attention or"),
    "distilbert": ("n_heads", 5, "n_heads and dim: heads: 5 must divide dim, 32"),
    "xlm-roberta": ("pad_token_id", 63, "pad_token_id is 63, expected an id below 63"),
    "mpnet": ("relative_attention_num_buckets", 64, "relative_attention_num_buckets = 64 is not supported"),
    "electra": ("embedding_size", 0, "embedding_size is 0, expected a number above 0"),
    "deberta-v2": ("share_att_key", False, "share_att_key = False is not supported"),
    **dict.fromkeys(
        ("t5", "mt5", "mbart"), ("decoder_start_token_id", -1, "decoder_start_token_id is -1, expected a token.s id")
    ),
    "bart": ("tie_word_embeddings", False, "tie_word_embeddings = False is not supported|False, expected"),
    "marian": ("share_encoder_decoder_embeddings", False, "_decoder_embeddings = False is not supported"),
    "pegasus": ("scale_embedding", False, "scale_embedding = False is not supported"),
}
ACTIVATION = {"modernbert": "hidden_activation", "t5": "feed_forward_proj", "distilbert": "activation"}
ACTIVATION |= {"mt5": "feed_forward_proj", **dict.fromkeys(READING[2:], "activation_function")}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_further_families_cannot_honour_is_refused_by_name(kind, tmp_path):
    ours_of(theirs(kind), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for key, value, message in [
        OTHERS[kind],
        ("attention_multiplier", 0.5, "attention_multiplier = 0.5 is not known"),
        (ACTIVATION.get(kind, "hidden_act"), "quick_gelu", "act.* = 'quick_gelu' is|proj = 'quick_gelu' is"),
    ]:
        changed = {**config, key: value}
        if key == "rope_scaling":
            changed.pop("rope_parameters")
        path.write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=message) as error:
            load_model(tmp_path, device="cpu")
        assert str(path) in str(error.value)


@pytest.mark.parametrize(("key", "value"), [("dense_act_fn", "relu"), ("is_gated_act", False)])
def test_an_activation_of_t5_that_is_said_twice_has_to_agree(key, value, tmp_path):
    ours_of(theirs("t5, gated, tied without a scale"), tmp_path)
    path = tmp_path / "config.json"
    config = {**json.loads(path.read_text()), "dense_act_fn": "gelu_new", "is_gated_act": True}
    path.write_text(json.dumps(config))
    load_model(tmp_path, device="cpu")
    path.write_text(json.dumps({**config, key: value}))
    with pytest.raises(CheckpointError, match=f"{key} = {value!r} is not supported"):
        load_model(tmp_path, device="cpu")


WRONG = [[], "x", True, -1, 0, 1, 1.5, float("nan"), 2**70, ["a"], {"a": 1}]


@pytest.mark.parametrize("kind", OTHERS)
def test_any_value_of_any_key_is_honoured_or_refused(kind, tmp_path):
    export_model(ours_of(theirs(kind), tmp_path), tmp_path, family=kind)
    path = tmp_path / "config.json"
    config, loaded = json.loads(path.read_text()), 0
    for key in config:
        for value in WRONG:
            path.write_text(json.dumps({**config, key: value}))
            try:
                model = load_model(tmp_path, device="cpu")
            except CheckpointError as error:
                assert str(tmp_path) in str(error) and len(str(error)) < 1500, (key, value)
            else:
                model(ours_batch(kind, tokens(1, 3)), want=OutputRequest(hidden=True))
                loaded += 1
    assert 0 < loaded < len(config) * len(WRONG) / 2


def test_missing_unused_and_misshapen_weights_are_named(tmp_path):
    ours_of(theirs("llama, grouped"), tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    lost = "model.layers.1.mlp.up_proj.weight"
    save_file({k: v for k, v in state.items() if k != lost}, path)
    with pytest.raises(CheckpointError, match=f"1 weights are missing: {lost}"):
        load_model(tmp_path, device="cpu")
    save_file({**state, "model.layers.0.extra": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"1 weights have no place in the model: model.layers.0.extra"):
        load_model(tmp_path, device="cpu")
    save_file({**state, lost: state[lost][:5].clone()}, path)
    with pytest.raises(CheckpointError, match=rf"{lost} gives \(5, 32\) for .*asks for \(56, 32\)"):
        load_model(tmp_path, device="cpu")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model.safetensors: not a whole safetensors file"):
        load_model(tmp_path, device="cpu")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors: no such file"):
        load_model(tmp_path, device="cpu")


def test_a_tied_config_with_another_head_is_refused(tmp_path):
    ours_of(theirs("llama, multi-head, tied"), tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    save_file({**state, "lm_head.weight": state["model.embed_tokens.weight"].clone()}, path)
    load_model(tmp_path, device="cpu")  # a copy is no contradiction
    save_file({**state, "lm_head.weight": state["model.embed_tokens.weight"] + 1}, path)
    with pytest.raises(CheckpointError, match=r"ties the head to the embedding, but lm_head.weight differs"):
        load_model(tmp_path, device="cpu")


def test_a_lost_shard_is_named(tmp_path):
    ours_of(theirs("gpt2"), tmp_path, max_shard_size="20KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name}: no such file"):
        load_model(tmp_path, device="cpu")


MISFITS = {
    "pointer": ({"head": "pointer"}, "head.name is pointer, llama's is linear"),
    "sinusoidal": ({"position": "sinusoidal"}, "position.name is sinusoidal, llama's is rope"),
    "layernorm": ({"norm": {"name": "layernorm", "offset": 0.5}}, "norm.name is layernorm, llama's is rmsnorm"),
    "relu": ({"blocks": block(ffn="relu")}, "blocks.0.ffn.name is mlp, llama's is gated"),
    "window": ({"blocks": block("sliding-window"), "position": "none"}, "position.name is none, llama's is rope"),
    "a window alone": (
        {"blocks": block("sliding-window"), "norm": {"name": "rmsnorm", "offset": 0.5}},
        r"blocks.0.mixer.window is 128, llama's is not set",
    ),
    "offset": ({"norm": {"name": "rmsnorm", "offset": 0.5}}, "norm.offset is 0.5, llama's is 0.0"),
    "hybrid": (
        {"blocks": [*block("sliding-window"), *block()], "embedding_scale": 3.0},
        "blocks.1.ffn.name is gated, llama's is not set",
    ),
    "fraction": (
        {"position": {"name": "rope", "rotary_fraction": 0.5}, "norm": {"name": "layernorm", "offset": 0.5}},
        "norm.name",
    ),
    "dynamic": (
        {"position": {"name": "rope", "scaling": {"type": "dynamic", "factor": 2.0, "original_length": 16}}},
        "max_length is 64, llama's is 32",
    ),
    "scale": ({"embedding_scale": 3.0}, "embedding_scale is 3.0, llama's is not set"),
    "gru": ({"blocks": block("gru")}, "blocks.0.mixer.name is gru, llama's is softmax"),
    "positions of a block": (
        {"blocks": [{**block()[0], "position": "learned"}]},
        r"blocks.0.position.name is learned, llama's is not set",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_no_family_holds_is_our_own_and_says_why(name, tmp_path):
    choices, reason = MISFITS[name]
    model = transformer(**choices)
    with pytest.raises(CheckpointError, match=f"cannot be written as llama: .*{reason}"):
        export_model(model, tmp_path / "export", family="llama")
    assert not (tmp_path / "export").exists()
    model.save_pretrained(tmp_path / "own")
    assert json.loads((tmp_path / "own" / "config.json").read_text())["model_type"] == "llmanac"
    again = load_model(tmp_path / "own", dtype="float64", device="cpu")
    ids = tokens(2, 20)
    assert again.spec == model.spec and torch.equal(again(ids).logits, model(ids).logits)


def test_every_family_offers_the_same_parts():
    for name in FAMILIES:
        assert family(name).model_type == name and set(family(name).fields) >= {"layers", "dim", "vocabulary", "tied"}
    with pytest.raises(CheckpointError, match="did you mean 'llama'"):
        family("lama")
    with pytest.raises(CheckpointError, match="family: qwen9 is not supported"):
        export_model(transformer(), "nowhere", family="qwen9")
    with pytest.raises(CheckpointError, match="x: vocab_size is missing"):
        family("llama").to_spec(Config({"num_attention_heads": 4, "intermediate_size": 8}, "x"))


# a key and its value, and whether transformers computes the same with it
TWICE = [
    ("mpt", {"num_hidden_layers": 3}, True), ("mpt", {"num_hidden_layers": 0}, False),
    ("bloom", {"num_hidden_layers": 0}, False), ("bloom", {"num_attention_heads": 4}, True),
    ("modernbert", {"sliding_window": 6}, True), ("modernbert", {"sliding_window": 0}, False),
    ("deepseek_v3", {"head_dim": 4}, True), ("deepseek_v3", {"head_dim": 2}, False),
]  # fmt: skip


@pytest.mark.parametrize("kind, extra, same", TWICE)
def test_keys_that_say_a_thing_twice_must_agree(kind, extra, same, tmp_path):
    ours = ours_of(theirs(kind), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **extra}))
    if same:
        assert load_model(tmp_path, device="cpu").spec == ours.spec
        return
    with pytest.raises(CheckpointError, match=next(iter(extra))):
        load_model(tmp_path, device="cpu")


def test_an_empty_table_of_rotary_settings_of_gpt_oss_asks_for_no_scaling(tmp_path):
    ours_of(theirs("gpt_oss"), tmp_path)
    path = tmp_path / "config.json"
    config = {k: v for k, v in json.loads(path.read_text()).items() if not k.startswith("rope_")}
    for table, kind in (({}, None), (None, "yarn")):
        path.write_text(json.dumps({**config, "rope_parameters": table}))
        scaling = load_model(tmp_path, device="cpu").spec.position.scaling
        assert (scaling and scaling.type) == kind
        theirs_kind = AutoConfig.from_pretrained(tmp_path).rope_parameters["rope_type"]
        assert theirs_kind == (kind or "default")


# ------------------------------------------------------------------------------------------- keys that nobody reads
NOTHING = {  # of files on the hub: how they were trained, stored and labelled
    "unsloth_fixed": True, "unsloth_version": "2024.9", "_num_labels": 3, "keys_to_ignore_at_inference": ["past"],
    "layer_types": ["full_attention"] * 3, "_sliding_window_pattern": 6, "attn_implementation": "flash_attention_2",
    "license": "mit", "merge_method": "slerp", "mergekit": {"models": 2}, "base_model": "a/b", "language": ["en"],
    "tags": ["x"], "datasets": ["c4"], "training_args": {"lr": 1}, "wandb_project": "p", "model_name": "m",
    "_commit_hash": "abc", "_flash_attn_2_enabled": True, "max_sequence_length": 2048, "trust_remote_code": True,
    "num_params": 7, "save_step": 10, "epochs": 3, "learning_rate": 1e-4, "lora_r": 8, "peft_type": "LORA",
    "library_name": "transformers", "pipeline_tag": "text-generation", "bos_token": "<s>", "author": "me",
}  # fmt: skip
COMPUTES = {  # of other models
    "attention_multiplier": 0.5, "clip_qkv": 8.0, "logit_scale": 0.5, "residual_multiplier": 0.3, "num_experts": 8,
    "use_qk_norm": True, "alibi": True, "multi_query": True, "sliding_window": 64, "attn_logit_softcapping": 50.0,
    "auto_map": {"AutoModelForCausalLM": "modeling_other.OtherForCausalLM"},
    "compression_config": {"format": "dense"},
}  # fmt: skip


PUBLISHED = {("hunyuan_v1_dense", "use_qk_norm")}  # what their first files say of what the family always does


def changed(path, config, **keys):
    path.write_text(json.dumps({key: value for key, value in {**config, **keys}.items() if value is not ...}))
    return path.parent


@pytest.mark.parametrize("kind", FAMILIES)
def test_keys_that_nothing_reads_are_ignored_with_a_note(kind, tmp_path):
    """And those that some model computes with are not, nor any of a newer transformers."""
    case = kind if kind in CASES else f"{kind}, grouped"
    ours = ours_of(theirs(case), tmp_path)
    path = tmp_path / "config.json"
    # the installed transformers may be newer than the one whose keys are kept
    config = json.loads(path.read_text()) | {"transformers_version": PEER["version"]}
    extra = {key: value for key, value in NOTHING.items() if key not in config}
    with pytest.warns(
        UserWarning, match=r"config\.json: unsloth_fixed, .*: ignored; no model of transformers computes"
    ):
        again = load_model(changed(path, config, **extra), dtype="float64", device="cpu")
    assert again.spec == ours.spec
    refused = 0
    for key, value in COMPUTES.items():
        if key not in config and (kind, key) not in PUBLISHED:
            with pytest.raises(CheckpointError, match=key if key != "num_experts" else "num_"):
                load_model(changed(path, config, **{key: value}), device="cpu")
            refused += 1
    assert refused >= 9
    with pytest.raises(CheckpointError, match="epochs = 3 is not known"):
        load_model(changed(path, config, epochs=3, transformers_version="99.0.0"), device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = config["model_type"].removesuffix("_text").replace("-", "_")
        own = {"AutoModel": f"modeling_{file}.{type(theirs(case)).__name__}"}
        if kind != "hunyuan_v1_dense":  # its published files have other names
            assert load_model(changed(path, config, auto_map=own), device="cpu").spec == ours.spec
        ignore = ["clip_qkv", "epochs"]
    name = own["AutoModel"]
    for auto_map in ({"AutoModel": f"other/repo--{name}"}, {"AutoModel": name.replace(file, "custom", 1)}):
        with pytest.raises(CheckpointError, match="auto_map"):
            load_model(changed(path, config, auto_map=auto_map), device="cpu")
    for version in ("x", 5, ""):
        with pytest.raises(CheckpointError, match="epochs = 3 is not known"):
            load_model(changed(path, config, epochs=3, transformers_version=version), device="cpu")
    if "is_causal" not in config:
        with pytest.raises(CheckpointError, match="is_causal = False"):
            load_model(changed(path, config, is_causal=False), device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = changed(path, config, clip_qkv=8.0, epochs=3, transformers_version="99.0.0")
        assert load_model(folder, device="cpu", ignore=ignore).spec == ours.spec
    with pytest.raises(CheckpointError, match="ignore: no key typo in its config"):
        load_model(folder, device="cpu", ignore=[*ignore, "typo"])


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_key_of_the_class_that_is_not_read_has_its_default(kind, tmp_path):
    """And another spelling of a key says the same."""
    case = kind if kind in CASES else f"{kind}, grouped"
    ours = ours_of(theirs(case), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    own = PEER["families"][kind]
    for other, key in own["same"].items():
        if other not in config and key in config:
            assert load_model(changed(path, config, **{other: config[key]}), device="cpu").spec == ours.spec
            with pytest.raises(CheckpointError, match=f"{other}|{key}"):
                load_model(changed(path, config, **{other: 13}), device="cpu")
    if kind not in READING:
        assert load_model(changed(path, config, is_encoder_decoder=False), device="cpu").spec == ours.spec
        with pytest.raises(CheckpointError, match="is_encoder_decoder = True is not known"):
            load_model(changed(path, config, is_encoder_decoder=True), device="cpu")


def test_the_kept_keys_are_those_of_transformers():
    tool = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "family_keys.py"))
    if transformers.__version__ != PEER["version"]:
        pytest.skip(f"the kept keys are those of transformers {PEER['version']}")
    now = {"families": {kind: tool["family_keys"](kind) for kind in FAMILIES}}
    now |= {"computing": tool["read_names"](), "types": sorted(CONFIG_MAPPING)}
    assert tool["changes"](PEER, now) == []
    assert len(tool["changes"]({}, now)) > 1000


def test_the_commands_leave_keys_out(tmp_path, capsys):
    model = transformer(vocab_size=300, dtype=torch.float32)
    model.save_pretrained(tmp_path / "m")
    train_tokenizer("utf8", []).save(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    changed(path, json.loads(path.read_text()), clip_qkv=8.0)
    for command in (["convert", str(path.parent), str(tmp_path / "out")], ["generate", str(path.parent), "a"]):
        for more, code in ((), 2), (("--ignore-config", "clip_qkv"), 0):
            with pytest.raises(SystemExit) as ended:
                main([*command, *more])
            said = capsys.readouterr().err
            assert ended.value.code == code and ("clip_qkv = 8.0 is not known" in said) == bool(code)
    again = load_model(path.parent, device="cpu", ignore=["clip_qkv"])
    assert load_model(tmp_path / "out", device="cpu").spec == again.spec


# ---------------------------------------------------------------------------------------------------------- messages
def test_a_model_type_that_is_not_built_is_no_misspelt_one():
    others = [kind for kind in PEER["types"].split() if kind not in FAMILIES]
    assert len(others) > 300 and {"llama4", "jamba", "phimoe", "falcon_h1"} <= set(others)
    for kind in [*others, "mamba3", "phi4", "qwen4"]:
        with pytest.raises(CheckpointError, match=f"model_type: {kind} is not supported") as error:
            family(kind)
        assert "did you mean" not in str(error.value)


@pytest.mark.parametrize("case", ["llama, grouped", "bert", "t5", "gpt2"])
def test_weights_in_pickles_are_refused_with_the_command_that_converts_them(case, tmp_path):
    peer = theirs(case)
    ours_of(peer, tmp_path)
    torch.save(peer.state_dict(), tmp_path / "pytorch_model.bin")
    load_model(tmp_path, device="cpu")  # beside a safetensors file it is in nobody's way
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin\), which can run any program and is not") as error:
        load_model(tmp_path, device="cpu")
    command = re.search('python -c "(.*)"$', str(error.value))[1]
    assert f"t.{type(peer).__name__}." in command
    exec(command)
    load_model(tmp_path, device="cpu")


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "bert"])
def test_a_classification_head_is_called_by_its_name(kind, tmp_path):
    config = AutoConfig.for_model(kind, **{**BASES.get(kind, LLAMA), "num_labels": 3, "pad_token_id": 0})
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    load_model(tmp_path, device="cpu")
    path = tmp_path / "config.json"
    changed(path, json.loads(path.read_text()), architectures=...)  # so that nothing says whose head it is
    with pytest.raises(CheckpointError, match=r"(score|classifier)\.weight is a classification head"):
        load_model(tmp_path, device="cpu")


def test_a_refusal_at_writing_names_no_temporary_file(tmp_path, monkeypatch):
    model = transformer(vocab_size=300, dtype=torch.float32)

    def full(*args, **more):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("llmanac.models.save.save_file", full)
    with pytest.raises(LlmanacError, match="cannot write") as error:
        model.save_pretrained(tmp_path / "m")
    assert ".tmp-" not in str(error.value) and str(tmp_path / "m") in str(error.value)
    with pytest.raises(LlmanacError) as error, files.atomic_folder(tmp_path / "x") as folder:
        raise LlmanacError(f"{folder / 'a'}: cannot be written")
    assert str(error.value) == f"{tmp_path / 'x' / 'a'}: cannot be written"
