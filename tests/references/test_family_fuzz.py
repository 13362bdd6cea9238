"""Random legal configs of the families: logits, files in both directions, and what is generated, against transformers.

Sizes and options are drawn for each family; a draw that transformers itself cannot build would fail the test.
"""

from __future__ import annotations

import random

import pytest
import torch
from _families import EAGER, double_norms, ours_of
from _small_models import randomise, tokens
from transformers import AutoConfig, AutoModelForCausalLM

from llmanac.core.spec import make_method
from llmanac.generate.engine import Engine
from llmanac.models.families._table import canonical
from llmanac.models.load import load_model
from llmanac.models.save import export_model

DRAWS, GENERATED = 12, 3
FLAG = (False, True)
ACTS = ("silu", "gelu", "gelu_pytorch_tanh", "relu")
FULL, SLIDING = "full_attention", "sliding_attention"


def llama(rng, **more):
    """Sizes under the names that most families have."""
    heads = rng.choice((2, 3, 4, 6))
    size = rng.choice((4, 6, 8))
    return {
        "vocab_size": rng.choice((40, 61, 67)), "hidden_size": heads * size, "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([n for n in (1, 2, 3, heads) if heads % n == 0]),
        "intermediate_size": rng.choice((20, 33, 56)), "num_hidden_layers": rng.choice((1, 2, 3)),
        "max_position_embeddings": 64, "hidden_act": rng.choice(ACTS), "tie_word_embeddings": rng.choice(FLAG),
        "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
        **{key: value(rng) if callable(value) else value for key, value in more.items()},
    }  # fmt: skip


def gpt(rng, **more):
    heads = rng.choice((2, 3, 4))
    size = rng.choice((4, 6, 8))
    return {
        "vocab_size": rng.choice((40, 61)), "n_embd": heads * size, "n_head": heads, "n_layer": rng.choice((1, 2, 3)),
        "n_positions": 64, "n_inner": rng.choice((None, 24, 40)), "tie_word_embeddings": rng.choice(FLAG),
        "activation_function": rng.choice(("gelu_new", "gelu", "relu")), "layer_norm_epsilon": rng.choice((1e-5, 1e-3)),
        "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None,
        **{key: value(rng) if callable(value) else value for key, value in more.items()},
    }  # fmt: skip


def one(*values):
    return lambda rng: rng.choice(values)


def rope(*fractions):
    return lambda rng: {
        "rope_type": "default", "rope_theta": rng.choice((1e3, 1e4, 5e5)),
        **({"partial_rotary_factor": rng.choice(fractions)} if fractions else {}),
    }  # fmt: skip


def even(rng, **more):
    """With heads of 8, so that a quarter of them is even too."""
    found = llama(rng, **more)
    return {**found, "hidden_size": 8 * found["num_attention_heads"]}


def windowed(rng, **more):
    found = llama(rng, sliding_window=one(3, 9, 30), **more)
    return {**found, "layer_types": [rng.choice((FULL, SLIDING)) for _ in range(found["num_hidden_layers"])]}


def sparse(rng, **more):
    experts = rng.choice((2, 3, 5))
    return llama(rng, num_experts_per_tok=rng.randint(1, experts), **{more.pop("name"): experts}, **more)


def lfm2(rng):
    found = llama(
        rng, num_hidden_layers=one(2, 3, 4), full_attn_idxs=one([0], [1], [0, 1]), conv_bias=one(*FLAG),
        conv_L_cache=one(2, 3, 4), block_auto_adjust_ff_dim=one(*FLAG), block_multiple_of=one(8, 16),
        block_ffn_dim_multiplier=one(1.0, 1.3), norm_eps=one(1e-5, 1e-3), rope_parameters=rope(),
    )  # fmt: skip
    return {key: value for key, value in found.items() if key not in ("hidden_act", "rms_norm_eps")}


def gpt_neo(rng):
    found = llama(rng)
    kinds = [rng.choice(("global", "local")) for _ in range(found["num_hidden_layers"])]
    return {
        **{key: found[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "tie_word_embeddings")},
        "num_layers": len(kinds), "num_heads": found["num_attention_heads"], "attention_types": [[kinds, 1]],
        "window_size": rng.choice((3, 9)), "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip


def falcon(rng):
    found = llama(rng)
    names = ("vocab_size", "hidden_size", "num_attention_heads", "num_hidden_layers", "tie_word_embeddings")
    return {
        **{key: found[key] for key in (*names, "max_position_embeddings")}, "multi_query": rng.choice(FLAG),
        "parallel_attn": rng.choice(FLAG), "bias": rng.choice(FLAG), "ffn_hidden_size": rng.choice((None, 20, 56)),
        "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip


def exaone4(rng):
    found = windowed(rng)
    if rng.random() < 0.4:
        found |= {"sliding_window": None, "layer_types": [FULL] * found["num_hidden_layers"]}
    return found


def olmo3(rng):
    return windowed(rng, attention_bias=one(*FLAG), rope_parameters={FULL: rope()(rng), SLIDING: rope()(rng)})


GRANITE = {
    "attention_bias": one(*FLAG), "embedding_multiplier": one(1.0, 12.0), "attention_multiplier": one(0.1, 0.5),
    "residual_multiplier": one(0.22, 0.7), "logits_scaling": one(0.7, 3.0), "rope_parameters": rope(),
}  # fmt: skip
CONFIGS = {
    "granite": lambda rng: llama(rng, mlp_bias=one(*FLAG), **GRANITE),
    "granitemoe": lambda rng: sparse(rng, name="num_local_experts", **GRANITE),
    "starcoder2": lambda rng: llama(
        rng, use_bias=one(*FLAG), sliding_window=one(None, 9), norm_epsilon=one(1e-5, 1e-3)
    ),
    "stablelm": lambda rng: even(
        rng, use_qkv_bias=one(*FLAG), use_parallel_residual=one(*FLAG), rope_parameters=rope(0.25, 0.5, 1.0)
    ),
    "phi": lambda rng: even(rng, rope_parameters=rope(0.25, 0.5, 1.0)),
    "cohere": lambda rng: llama(
        rng, use_qk_norm=one(*FLAG), attention_bias=one(*FLAG), logit_scale=one(0.5, 1.5), rope_parameters=rope()
    ),
    "cohere2": lambda rng: windowed(rng, attention_bias=one(*FLAG), logit_scale=one(0.5, 1.5), rope_parameters=rope()),
    "olmo": lambda rng: llama(rng, clip_qkv=one(None, 0.8), attention_bias=one(*FLAG), rope_parameters=rope()),
    "olmo2": lambda rng: llama(rng, attention_bias=one(*FLAG), rope_parameters=rope()),
    "olmo3": olmo3,
    "nemotron": lambda rng: even(
        rng, hidden_act=one("relu2", "gelu"), attention_bias=one(*FLAG), mlp_bias=one(*FLAG),
        rope_parameters=rope(0.5, 1.0),
    ),
    "glm": lambda rng: llama(rng, head_dim=8, attention_bias=one(*FLAG), rope_parameters=rope(0.25, 0.5, 1.0)),
    "glm4": lambda rng: llama(rng, head_dim=8, attention_bias=one(*FLAG), rope_parameters=rope(0.25, 0.5, 1.0)),
    "gpt_neo": gpt_neo,
    "gptj": lambda rng: gpt(rng, rotary_dim=one(2, 4)),
    "gpt_bigcode": lambda rng: gpt(rng, multi_query=one(*FLAG)),
    "exaone4": exaone4,
    "ernie4_5": lambda rng: llama(rng, head_dim=one(6, 8), use_bias=one(*FLAG), rope_parameters=rope()),
    "falcon": falcon,
    "hunyuan_v1_dense": lambda rng: llama(
        rng, head_dim=one(6, 8), attention_bias=one(*FLAG),
        rope_parameters=one(
            {"rope_type": "default", "rope_theta": 5e5},
            {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 1000.0, "factor": 1.0},
        ),
    ),
    "lfm2": lfm2,
    "olmoe": lambda rng: sparse(
        rng, name="num_experts", norm_topk_prob=one(*FLAG), attention_bias=one(*FLAG), rope_parameters=rope(),
    ),
    "glm4_moe": lambda rng: sparse(
        rng, name="n_routed_experts", head_dim=8, moe_intermediate_size=one(12, 24), n_shared_experts=one(1, 2),
        first_k_dense_replace=one(0, 1, 2), num_hidden_layers=one(2, 3), use_qk_norm=one(*FLAG),
        routed_scaling_factor=one(1.0, 1.7), attention_bias=one(*FLAG), rope_parameters=rope(0.25, 0.5, 1.0),
    ),
    "qwen2_moe": lambda rng: sparse(
        rng, name="num_experts", moe_intermediate_size=one(12, 24), shared_expert_intermediate_size=one(9, 20),
        norm_topk_prob=one(*FLAG), decoder_sparse_step=one(1, 1, 2), num_hidden_layers=one(2, 3), qkv_bias=one(*FLAG),
        rope_parameters=rope(),
    ),
}  # fmt: skip


def pair(kind, seed, folder, attention="eager"):
    """transformers' model of a random config in float64, and ours from its files."""
    config = AutoConfig.for_model(kind, **CONFIGS[kind](random.Random(f"{kind} {seed}")))
    peer = randomise(AutoModelForCausalLM.from_config(config, **{**EAGER, "attn_implementation": attention}), seed)
    peer.tie_weights()
    peer = peer.double().eval()
    return peer, ours_of(peer, folder)


@pytest.mark.parametrize("seed", range(DRAWS))
@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_and_files_of_random_configs(kind, seed, tmp_path, monkeypatch):
    peer, ours = pair(kind, seed, tmp_path / "theirs")
    if kind == "glm4_moe":  # whose routers carry the rounding of float32 norms on
        double_norms(peer, kind, monkeypatch)
    ids = tokens(2, 30, seed, ours.vocab_size)
    expected = peer(ids).logits.double()
    assert (ours(ids).logits - expected).abs().max() < 1e-6 * expected.abs().max()
    assert (randomise(ours, seed=99)(ids).logits - expected).abs().max() > 0.1 * expected.abs().max()
    ours = load_model(tmp_path / "theirs", dtype="float64", device="cpu")
    export_model(ours, tmp_path / "ours", family=kind)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float64, **EAGER).eval()
    torch.testing.assert_close(again(ids).logits.double(), expected, rtol=0, atol=1e-9)
    assert canonical(load_model(tmp_path / "ours", device="cpu").spec) == canonical(ours.spec)
    again.config.save_pretrained(tmp_path / "ours")
    assert canonical(load_model(tmp_path / "ours", device="cpu").spec) == canonical(ours.spec)


@pytest.mark.parametrize("seed", range(DRAWS, DRAWS + GENERATED))
@pytest.mark.parametrize("kind", CONFIGS)
def test_what_random_models_write(kind, seed, tmp_path):
    """Rows of several lengths at once, with a cache: greedy, and by beams; transformers pads them on the left."""
    # its eager form rounds masks of float64 to float32, where padding then gives NaN
    peer, ours = pair(kind, seed, tmp_path, "eager" if kind == "gpt_neo" else "sdpa")
    prompts = [tokens(1, n, n + seed, ours.vocab_size)[0].tolist() for n in (9, 4, 14)]
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    options = {
        "attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0,
    }  # fmt: skip
    engine = Engine(ours)
    found = engine.generate(prompts, max_new_tokens=8, stop_ids=())
    assert [one.ids for one in found] == peer.generate(ids, **options)[:, width:].tolist()
    beams = make_method("decoding", {"name": "beam", "beams": 3})
    found = engine.generate(prompts, max_new_tokens=8, stop_ids=(), decoding=[beams])
    assert [one.ids for one in found] == peer.generate(ids, num_beams=3, **options)[:, width:].tolist()
