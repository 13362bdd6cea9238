"""Encoders of random legal configs against transformers: logits of padded rows, and files in both directions."""

from __future__ import annotations

import json
import random

import pytest
import torch
from _families import EAGER, ours_of, ours_on, theirs
from _small_models import randomise, tokens
from safetensors.torch import save_file
from test_family_fuzz import DRAWS, FLAG, one
from transformers import AutoConfig, AutoModelForMaskedLM

from llmanac.core.errors import CheckpointError
from llmanac.core.types import Batch
from llmanac.models.families._table import canonical
from llmanac.models.load import load_model
from llmanac.models.save import export_model

ACTS = ("gelu", "relu", "gelu_new", "silu")
PADDING = 1


def bert(rng, **more):
    heads = rng.choice((2, 3, 4))
    return {
        "vocab_size": rng.choice((40, 61, 67)), "hidden_size": heads * rng.choice((4, 6, 8)),
        "num_attention_heads": heads, "intermediate_size": rng.choice((20, 33, 56)),
        "num_hidden_layers": rng.choice((1, 2, 3)), "hidden_act": rng.choice(ACTS),
        "max_position_embeddings": rng.choice((40, 64)), "type_vocab_size": rng.choice((1, 2)),
        "layer_norm_eps": rng.choice((1e-12, 1e-5)), "pad_token_id": PADDING, "hidden_dropout_prob": 0.0,
        **{key: value(rng) for key, value in more.items()},
    }  # fmt: skip


def distilbert(rng):
    found = bert(rng)
    return {
        "vocab_size": found["vocab_size"], "dim": found["hidden_size"], "n_heads": found["num_attention_heads"],
        "hidden_dim": found["intermediate_size"], "n_layers": found["num_hidden_layers"], "pad_token_id": PADDING,
        "activation": rng.choice(("gelu", "relu")), "max_position_embeddings": found["max_position_embeddings"],
    }  # fmt: skip


def deberta(rng):
    return bert(
        rng, relative_attention=one(True), share_att_key=one(True), pos_att_type=one(["p2c", "c2p"], ["c2p", "p2c"]),
        norm_rel_ebd=one("layer_norm"), position_biased_input=one(False), position_buckets=one(4, 8, 16),
        max_relative_positions=one(-1, 50, 100), type_vocab_size=one(0),
    )  # fmt: skip


def modernbert(rng):
    found = bert(rng)
    kept = ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers")
    return {
        **{key: found[key] for key in (*kept, "max_position_embeddings", "pad_token_id")}, "norm_eps": 1e-5,
        "hidden_size": found["num_attention_heads"] * rng.choice((4, 8)), "local_attention": rng.choice((6, 12)),
        "global_attn_every_n_layers": rng.choice((1, 2, 3)), "norm_bias": rng.choice(FLAG),
        "mlp_bias": rng.choice(FLAG), "attention_bias": rng.choice(FLAG), "decoder_bias": rng.choice(FLAG),
    }  # fmt: skip


CONFIGS = {
    "bert": bert,
    "roberta": bert,
    "xlm-roberta": bert,
    "mpnet": lambda rng: {key: value for key, value in bert(rng).items() if key != "type_vocab_size"},
    "modernbert": modernbert,
    "electra": lambda rng: bert(rng, embedding_size=one(12, 20)),
    "distilbert": distilbert,
    "deberta-v2": deberta,
    "nomic_bert": lambda rng: bert(
        rng, head_dim=one(6, 8), rope_parameters=one({"rope_type": "default", "rope_theta": 1e3},
                                                     {"rope_type": "default", "rope_theta": 1e4}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("seed", range(DRAWS))
@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_and_files_of_random_configs(kind, seed, tmp_path):
    config = AutoConfig.for_model(kind, **CONFIGS[kind](random.Random(f"{kind} {seed}")))
    peer = randomise(AutoModelForMaskedLM.from_config(config, **EAGER), seed)
    peer.tie_weights()
    peer = peer.double().eval()
    ours = ours_of(peer, tmp_path / "theirs")
    ids, lengths = tokens(3, 30, seed, ours.vocab_size).clamp(min=PADDING + 1), torch.tensor([30, 7, 19])
    real = torch.arange(30) < lengths[:, None]
    given = Batch(ids=ids, lengths=lengths, mask="bidirectional")
    rows = [row[:length][None] for row, length in zip(ids, lengths.tolist(), strict=True)]
    # one by one: where a window has padding alone, transformers gives NaN
    expected = torch.cat([peer(row).logits[0] for row in rows]).double()
    assert (ours(given).logits[real] - expected).abs().max() < 1e-6 * expected.abs().max()
    assert (randomise(ours, seed=99)(given).logits[real] - expected).abs().max() > 0.1 * expected.abs().max()
    ours = load_model(tmp_path / "theirs", dtype="float64", device="cpu")
    export_model(ours, tmp_path / "ours", family=kind)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "ours", dtype=torch.float64, **EAGER).eval()
    found = torch.cat([again(row).logits[0] for row in rows]).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert canonical(load_model(tmp_path / "ours", device="cpu").spec) == canonical(ours.spec)
    again.config.save_pretrained(tmp_path / "ours")
    assert canonical(load_model(tmp_path / "ours", device="cpu").spec) == canonical(ours.spec)


def test_nomic_berts_first_files_and_config(tmp_path):
    """As on the hub before transformers had the family: `n_embd`, one matrix of q, k and v, `fc11` is not the gate."""
    peer = theirs("nomic_bert, bare")
    config = json.loads(peer.config.to_json_string())
    names = {
        "n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
        "n_inner": "intermediate_size", "n_positions": "max_position_embeddings",
        "layer_norm_epsilon": "layer_norm_eps",
    }  # fmt: skip
    first = {new: config[old] for new, old in names.items()} | {
        "model_type": "nomic_bert", "architectures": ["NomicBertModel"], "activation_function": "swiglu",
        "vocab_size": config["vocab_size"], "type_vocab_size": 2, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False, "prenorm": False, "qkv_proj_bias": False, "causal": False,
        "mlp_fc1_bias": False, "mlp_fc2_bias": False, "use_rms_norm": False, "max_trained_positions": 2048,
        "fused_bias_fc": True, "use_flash_attn": True, "summary_type": "cls_index", "pad_vocab_size_multiple": 64,
        "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"},
    }  # fmt: skip
    renamed = {
        "embeddings.LayerNorm": "emb_ln", "layers.": "encoder.layers.", "self_attn.o_proj": "attn.out_proj",
        "up_proj": "fc11", "gate_proj": "fc12", "down_proj": "fc2", "post_attention_layernorm": "norm1",
        "post_mlp_layernorm": "norm2",
    }  # fmt: skip
    weights = {}
    for name, value in peer.state_dict().items():
        if ".self_attn.k_proj" in name or ".self_attn.v_proj" in name:
            continue
        if ".self_attn.q_proj" in name:
            value = torch.cat([peer.state_dict()[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            name = name.replace("self_attn.q_proj", "attn.Wqkv")
        for old, new in renamed.items():
            name = name.replace(old, new)
        weights[name] = value.contiguous()
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(first))
    ours = load_model(tmp_path, dtype="float64", device="cpu")
    ids = torch.tensor([[5, 9, 30, 2, 7]])
    found = ours_on(ours, "nomic_bert, bare", ids)
    torch.testing.assert_close(found, peer(ids).last_hidden_state, rtol=1e-9, atol=1e-9)
    for key, value in (("prenorm", True), ("rotary_emb_fraction", 0.5), ("rotary_scaling_factor", 2)):
        (tmp_path / "config.json").write_text(json.dumps({**first, key: value}))
        with pytest.raises(CheckpointError, match=key):
            load_model(tmp_path)
    for base, theta in ((10000, 1000.0), (None, 5e4)):  # a base of null is none
        given = {"rotary_emb_base": base, "rope_parameters": {"rope_type": "default", "rope_theta": theta}}
        (tmp_path / "config.json").write_text(json.dumps(first | given))
        if base is None:
            assert load_model(tmp_path, device="cpu").spec.position.theta == theta
        else:
            with pytest.raises(CheckpointError, match="rotary_emb_base"):
                load_model(tmp_path, device="cpu")
