"""Checkpoints of every family against transformers: logits, gradients, files in both directions, refusals."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from _small_models import block, gradients, randomise, tokens, transformer
from safetensors.torch import load_file, save_file
from test_wordpiece import PROCESSORS, both
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from llmanac.core.errors import CheckpointError, RequestError
from llmanac.core.types import ALL, IGNORE, LAST, Batch, Want
from llmanac.generate.engine import Engine
from llmanac.models.families import FAMILIES, Config, family
from llmanac.models.families._table import canonical
from llmanac.models.load import load_model
from llmanac.models.save import export_model

LLAMA = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
GPT2 = {"vocab_size": 61, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
SHORTER, LONGER = [1.0, 1.1, 1.3, 1.7], [1.0, 2.0, 5.0, 9.0]
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
MAMBA = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "state_size": 6,
    "residual_in_fp32": False,
    "use_associative_scan": False,
}
EXPERTS = {**LLAMA, "num_hidden_layers": 2, "num_experts_per_tok": 2}
GEMMA = {**LLAMA, "head_dim": 12, "pad_token_id": None}
WINDOWS = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
BERT = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": 64,
}
BASES = {
    "bert": BERT,
    "roberta": BERT,
    "modernbert": {**BERT, "pad_token_id": 0},
    "t5": {"vocab_size": 61, "d_model": 32, "d_kv": 12, "d_ff": 56, "num_layers": 2, "num_heads": 4},
    "gpt2": {**GPT2, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "mixtral": {**EXPERTS, "num_local_experts": 4},
    "qwen3": {**LLAMA, "head_dim": 12},
    "qwen3_moe": {**EXPERTS, "num_experts": 5, "moe_intermediate_size": 24, "norm_topk_prob": True},
    "gemma": GEMMA,
    "gemma2": {**GEMMA, "query_pre_attn_scalar": 20},
    "gemma3_text": {**GEMMA, "query_pre_attn_scalar": 20},
    "glm4": {**LLAMA, "head_dim": 12, "pad_token_id": None, "eos_token_id": 2},
    "gpt_oss": {**EXPERTS, "head_dim": 12, "num_local_experts": 5, "sliding_window": 9},
    "deepseek_v3": {
        **EXPERTS,
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "first_k_dense_replace": 1,
        "q_lora_rank": 12,
        "kv_lora_rank": 10,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 6,
        "n_routed_experts": 8,
        "n_group": 4,
        "topk_group": 2,
        "moe_intermediate_size": 24,
        "n_shared_experts": 2,
    },
    "smollm3": {**LLAMA, "pad_token_id": None},
    "phi3": {**LLAMA, "pad_token_id": None},
    "mamba": MAMBA,
    "gpt_neox": {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"},
    "olmo2": {**LLAMA, "pad_token_id": None},
    "mamba2": {**MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 2},
    "minimax": {**EXPERTS, "num_hidden_layers": 4, "num_local_experts": 4},
    "opt": {
        "vocab_size": 61,
        "hidden_size": 32,
        "ffn_dim": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "pad_token_id": None,
        "dropout": 0.0,
    },
    "bloom": {"vocab_size": 61, "hidden_size": 32, "n_layer": 3, "n_head": 4},
    "mpt": {"vocab_size": 61, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 64},
}
CASES = {
    "llama, grouped": {},
    "llama, multi-head, tied": {"num_key_value_heads": 4, "tie_word_embeddings": True},
    "llama, multi-query": {"num_key_value_heads": 1},
    "llama, biases": {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-3},
    "llama, head_dim": {"head_dim": 20},
    "llama, llama3 rope": {"rope_parameters": STRETCHED},
    "llama, linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}},
    "llama, dynamic rope": {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}, "max_position_embeddings": 16,
    },
    "llama, yarn rope": {"rope_parameters": YARN},
    "llama, yarn rope of two scales, exact": {
        "rope_parameters": {
            **YARN, "beta_fast": 8, "beta_slow": 0.5, "truncate": False, "mscale": 0.7, "mscale_all_dim": 1.0,
        },
    },
    "llama, longrope": {
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": SHORTER, "long_factor": LONGER,
            "original_max_position_embeddings": 16, "attention_factor": 1.2,
        },
    },
    "llama, geglu": {"hidden_act": "gelu_pytorch_tanh"},
    "gpt2": {},
    "gpt2, untied": {"tie_word_embeddings": False},
    "gpt2, inner width, relu": {"n_inner": 48, "activation_function": "relu", "layer_norm_epsilon": 1e-3},
    "mistral": {"sliding_window": 9},
    "mistral, no window, tied": {"sliding_window": None, "tie_word_embeddings": True, "head_dim": 12},
    "qwen2": {},
    "qwen2, windows": {**WINDOWS, "num_hidden_layers": 4},
    "qwen3": {},
    "qwen3, windows, biases": {
        **WINDOWS, "attention_bias": True, "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "mixtral": {},
    "mixtral, window, one expert a token": {"sliding_window": 9, "num_experts_per_tok": 1},
    "qwen3_moe": {},
    "phi3": {},
    "phi3, partial rotation, window": {
        "sliding_window": 9,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    },
    "phi3, longrope": {
        "original_max_position_embeddings": 16,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": SHORTER, "long_factor": LONGER,
        },
    },
    "gemma": {},
    "gemma, untied, biases": {"tie_word_embeddings": False, "attention_bias": True},
    "gemma2": {"num_hidden_layers": 4, "sliding_window": 9},
    "gemma2, low caps, untied, biases": {
        "sliding_window": 7, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 12,
        "tie_word_embeddings": False, "attention_bias": True,
    },
    "gemma2, no caps, no windows": {
        "attn_logit_softcapping": None, "final_logit_softcapping": None, "layer_types": ["full_attention"] * 3,
    },
    "gemma3_text": {"num_hidden_layers": 7, "sliding_window": 9},
    "gemma3_text, two scalings, cap, untied, biases": {
        "sliding_window": 7, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
            "sliding_attention": {**YARN, "rope_theta": 100.0},
        },
        "final_logit_softcapping": 9.0, "query_pre_attn_scalar": 60, "tie_word_embeddings": False,
        "attention_bias": True,
    },
    "gemma3_text, llama3 rope, no windows": {
        "layer_types": ["full_attention"] * 3, "rope_parameters": {"full_attention": STRETCHED},
    },
    "glm4": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "glm4, all of a head, no biases, yarn rope": {
        "rope_parameters": {**YARN, "partial_rotary_factor": 1.0}, "attention_bias": False,
    },
    "gpt_oss": {},
    "gpt_oss, low limit, yarn rope": {
        "swiglu_limit": 0.3, "num_hidden_layers": 3, "rope_parameters": {**YARN, "truncate": False},
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"], "attention_bias": False,
    },
    "deepseek_v3": {},
    "deepseek_v3, no latent queries, halves, one group, all sparse, yarn rope of two scales": {
        "q_lora_rank": None, "rope_interleave": False, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 0,
        "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7}, "routed_scaling_factor": 1.3,
    },
    "smollm3": {"num_hidden_layers": 4},
    "smollm3, every second, untied": {
        "num_hidden_layers": 4, "no_rope_layer_interval": 2, "tie_word_embeddings": False, "mlp_bias": True,
    },
    "mamba": {},
    "mamba, wide, untied": {"expand": 3, "intermediate_size": 96, "time_step_rank": 5, "tie_word_embeddings": False},
    "gpt_neox": {},
    "gpt_neox, one part after the other, tied, half rotated": {
        "use_parallel_residual": False, "tie_word_embeddings": True, "attention_bias": False, "rotary_pct": 0.5,
        "rotary_emb_base": 500, "hidden_act": "gelu_pytorch_tanh",
    },
    "olmo2": {},
    "olmo2, multi-query, biases, head_dim, tied, llama3 rope": {
        "num_key_value_heads": 1, "attention_bias": True, "head_dim": 12, "tie_word_embeddings": True,
        "rope_parameters": STRETCHED,
    },
    "bloom": {},
    "bloom, six heads, untied": {
        "n_head": 6, "hidden_size": 24, "tie_word_embeddings": False, "layer_norm_epsilon": 1e-3,
        "apply_residual_connection_post_layernorm": True,
    },
    "mpt": {},
    "mpt, six heads, untied": {"n_heads": 6, "d_model": 24, "tie_word_embeddings": False, "layer_norm_epsilon": 1e-3},
    "mamba2": {},
    "mamba2, wide, tied": {
        "expand": 3, "num_heads": 6, "head_dim": 16, "n_groups": 1, "conv_kernel": 3, "tie_word_embeddings": True,
        "layer_norm_epsilon": 1e-3,
    },
    "minimax": {},
    "minimax, weights, head_dim, tied": {
        "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
        "full_attn_alpha_factor": 2.5, "full_attn_beta_factor": 0.5, "linear_attn_alpha_factor": 3.5,
        "linear_attn_beta_factor": 0.75, "mlp_alpha_factor": 1.5, "mlp_beta_factor": 1.25, "head_dim": 12,
        "tie_word_embeddings": True, "sliding_window": 9,
    },
    "opt": {},
    "opt, no biases, untied, gelu": {
        "enable_bias": False, "tie_word_embeddings": False, "activation_function": "gelu",
    },
    "bert": {},
    "bert, one type, relu": {
        "type_vocab_size": 1, "hidden_act": "relu", "layer_norm_eps": 1e-3,
    },
    "bert, bare": {},
    "roberta": {"type_vocab_size": 1},
    "roberta, bare, padding 5": {"pad_token_id": 5},
    "modernbert": {"local_attention": 12, "num_hidden_layers": 4},
    "modernbert, untied, biases, other layers": {
        "tie_word_embeddings": False,
        "local_attention": 9, "attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True,
        "decoder_bias": False, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 5e4},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e3},
        },
    },
    "modernbert, bare": {"local_attention": 12},
    "t5": {"num_decoder_layers": 3},
    "t5, gated, tied without a scale": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}  # fmt: skip
ENCODERS = ("bert", "roberta", "modernbert")


EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}
LLAMA_EPS = 1e-6  # transformers' default, where a norm does not keep its own


def kind_of(case):
    return case.partition(",")[0]


def auto(case):
    """transformers' class of a case."""
    if "bare" in case:
        return AutoModel
    if kind_of(case) in ENCODERS:
        return AutoModelForMaskedLM
    return AutoModelForSeq2SeqLM if kind_of(case) == "t5" else AutoModelForCausalLM


def values(out):
    """What is compared: logits, or the hidden states of a model without a head."""
    names = ("logits", "last_hidden_state", "hidden")
    return next(found for name in names if (found := getattr(out, name, None)) is not None)


SOURCE = tokens(3, 13, seed=5), torch.tensor([13, 4, 9])


def ours_batch(case, ids, **fields):
    """The batch that our model of a case reads: encoders see both sides, T5 a source for each row."""
    rows = torch.arange(len(ids)) % 3
    if kind_of(case) == "t5":
        fields["source"] = Batch(ids=SOURCE[0][rows], lengths=SOURCE[1][rows])
    return Batch(ids=ids, mask="bidirectional" if kind_of(case) in ENCODERS else "causal", **fields)


def ours_on(model, case, ids, **fields):
    want = Want(hidden=True) if "bare" in case else ALL
    return values(model(ours_batch(case, ids, **fields), want=want))


def theirs_on(model, case, ids, mask=None, first=0):
    """The outputs of transformers' model for the same rows, of which the first is `first`."""
    rows = (torch.arange(len(ids)) + first) % 3
    mask = None if mask is None else mask.long()
    if kind_of(case) != "t5":
        return values(model(ids, attention_mask=mask))
    real = (torch.arange(13) < SOURCE[1][rows][:, None]).long()
    return values(model(input_ids=SOURCE[0][rows], attention_mask=real, decoder_input_ids=ids))


def theirs(case, attention="eager"):
    """transformers' model of a case in float64, with large weights."""
    kind = kind_of(case)
    config = AutoConfig.for_model(kind, **{**BASES.get(kind, LLAMA), **CASES[case]})
    options = {"add_pooling_layer": False} if "bare" in case and kind != "modernbert" else {}
    built = auto(case).from_config(config, **{**EAGER, "attn_implementation": attention}, **options)
    built = randomise(built)
    built.tie_weights()
    for module in built.modules():
        if hasattr(module, "e_score_correction_bias"):
            module.e_score_correction_bias.copy_(torch.linspace(0.3, -0.3, module.num_experts))
        if hasattr(module, "scalar_embed_scale"):  # else it is rounded to float32 first
            module.embed_scale = torch.tensor(module.scalar_embed_scale, dtype=torch.float64)
    return built.double().eval()


def ours_of(model, folder, **options):
    model.save_pretrained(folder, **options)
    return load_model(folder, dtype="float64", device="cpu")


def ragged(case):
    """Three rows of different lengths, padded on the right, and which places are real."""
    lengths = torch.tensor([48, 31, 5])
    ids = tokens(3, 48)
    if kind_of(case) in ENCODERS:  # transformers takes a padding id for padding wherever it is
        ids = ids.clamp(min=6)
    return ids, (torch.arange(48) < lengths[:, None])


def double_norms(model, case, monkeypatch):
    """transformers computes norms in float32 even in a float64 model; torch's own function does not."""
    offset = float(kind_of(case).startswith("gemma"))
    for kind in {type(module) for module in model.modules() if type(module).__name__.endswith("RMSNorm")}:
        monkeypatch.setattr(
            kind,
            "forward",
            lambda self, x: F.rms_norm(
                x, self.weight.shape, self.weight + offset, getattr(self, "variance_epsilon", LLAMA_EPS)
            ),
        )


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_within_1e_6(case, tmp_path, monkeypatch):
    """Not 1e-12, since transformers' norms, softmax and scans are float32 in places even in a float64 model.

    Its rows are computed one by one: where a window has padding alone, it gives NaN. The shortest comes first, since
    its `dynamic` scaling remembers a longer one.
    """
    model = theirs(case)
    if kind_of(case).startswith("gemma"):  # scaled embeddings are large, and so is the rounding of the norms
        double_norms(model, case, monkeypatch)
    ours = ours_of(model, tmp_path)
    ids, real = ragged(case)
    rows = list(enumerate(zip(ids, real, strict=True)))[::-1]
    expected = torch.cat([theirs_on(model, case, row[keep][None], first=i)[0] for i, (row, keep) in rows][::-1])
    actual = ours_on(ours, case, ids, lengths=real.sum(1))[real]
    assert expected.std() > (0.1 if kind_of(case) == "t5" else 0.5)
    assert (actual - expected).abs().max() < 1e-6 * expected.abs().max()
    other = randomise(ours, seed=1)  # other weights give other logits
    assert (ours_on(other, case, ids)[real] - expected).abs().max() > 0.1 * expected.abs().max()


@pytest.mark.parametrize("case", [case for case in CASES if kind_of(case) not in ENCODERS])
def test_ragged_rows_with_a_state_equal_one_pass(case, tmp_path):
    """Chunks of rows of different lengths, and then token by token."""
    ours = ours_of(theirs(case), tmp_path)
    rows = [tokens(1, n, seed=n)[0] for n in (31, 18, 25)]
    with torch.inference_mode():
        source = ours_batch(case, tokens(3, 1)).source
        alone = [None if source is None else Batch(ids=source.ids[[i]], lengths=source.lengths[[i]]) for i in range(3)]
        expected = [ours(Batch(ids=row[None], source=alone[i])).logits[0, -1] for i, row in enumerate(rows)]
        state = ours.start(3)
        state.plan([len(row) for row in rows])  # counts where frequencies depend on a row's length
        for first, last in ((0, 11), (11, 17), *((i, i + 1) for i in range(17, 31))):
            parts = [row[first:last] for row in rows]
            lengths = torch.tensor([len(part) for part in parts])
            ids = torch.stack([F.pad(part, (0, last - first - len(part))) for part in parts])
            logits = ours(Batch(ids=ids, lengths=lengths, source=None if first else source), state, LAST).logits
            for i, row in enumerate(rows):
                if first < len(row) <= last:
                    torch.testing.assert_close(logits[i, -1], expected[i], rtol=1e-9, atol=1e-9)


# transformers computes them in float32 in places that no argument reaches: softmax, routers and scans
SINGLE = ("mamba", "mixtral", "qwen3_moe", "bloom", "mpt", "mamba2", "minimax", "modernbert", "t5")
BY_ROW = ("gemma2", "gpt_oss", "deepseek_v3")  # these without padding
ATTENTION = dict.fromkeys(("mamba", "bloom", "mpt", "mamba2"), "eager")  # else torch's own


@pytest.mark.parametrize("case", [case for case in CASES if kind_of(case) in SINGLE])
def test_gradients_equal_where_transformers_is_float32_in_places(case, tmp_path):
    compare_gradients(theirs(case, ATTENTION.get(kind_of(case), "sdpa")), case, tmp_path, 1e-5, 1e-4)


@pytest.mark.parametrize("case", [case for case in CASES if kind_of(case) not in SINGLE + BY_ROW])
def test_logits_and_gradients_equal_in_float64_throughout(case, tmp_path, monkeypatch):
    """With its float32 islands lifted: torch's own SDPA and rms_norm inside transformers' model."""
    model = theirs(case, "sdpa")
    double_norms(model, case, monkeypatch)
    compare_gradients(model, case, tmp_path, 1e-9, 1e-8)


def compare_gradients(model, case, folder, exact, close):
    """Logits, losses and the gradient of every parameter, of padded rows."""
    ours = ours_of(model, folder)
    ids, real = ragged(case)
    targets = ids.roll(-1, 1).masked_fill(~real, IGNORE)
    logits = theirs_on(model, case, ids, real).double()
    lengths = real.sum(1) if kind_of(case) in (*ENCODERS, "t5") else None  # a decoder's padding comes after
    torch.testing.assert_close(ours_on(ours, case, ids, lengths=lengths)[real], logits[real], rtol=exact, atol=exact)
    if "bare" in case:
        return
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    actual = ours.nll(ours_batch(case, ids, targets=targets, lengths=lengths))
    torch.testing.assert_close(actual, expected, rtol=exact / 10, atol=exact / 10)
    expected.backward()
    actual.backward()
    found = gradients(model)
    shapes = {name: tuple(p.shape) for name, p in ours.named_parameters()}
    layouts = [names.place(shapes, ours.spec) for names in family(kind_of(case)).names]
    sources = max(layouts, key=lambda sources: sum(source.name in found for source in sources.values()))
    for name, gradient in gradients(ours).items():
        scale = found[sources[name].name].abs().max().clamp(min=0.01)  # that of a router with one expert is 0
        assert (gradient - sources[name].take(found[sources[name].name])).abs().max() < close * scale, name
    assert len(gradients(ours)) == len(list(ours.parameters()))


@pytest.mark.parametrize("case", [case for case in CASES if kind_of(case) in BY_ROW])
def test_gradients_equal_row_by_row(case, tmp_path, monkeypatch):
    model = theirs(case)
    double_norms(model, case, monkeypatch)
    ours = ours_of(model, tmp_path)
    ids, real = ragged(case)
    targets = ids.roll(-1, 1).masked_fill(~real, IGNORE)
    for row, wanted, keep in zip(ids, targets, real, strict=True):
        F.cross_entropy(model(row[keep][None]).logits[0], wanted[keep], reduction="sum").backward()
    ours.nll(Batch(ids=ids, targets=targets, lengths=real.sum(1))).backward()
    found = gradients(model)
    shapes = {name: tuple(p.shape) for name, p in ours.named_parameters()}
    layouts = [names.place(shapes, ours.spec) for names in family(kind_of(case)).names]
    sources = max(layouts, key=lambda sources: sum(source.name in found for source in sources.values()))
    for name, gradient in gradients(ours).items():
        expected = sources[name].take(found[sources[name].name])
        assert (gradient - expected).abs().max() < 1e-4 * found[sources[name].name].abs().max() + 1e-6, name
    trained = [name for name, p in ours.named_parameters() if p.requires_grad]
    assert trained == list(gradients(ours)) and len(trained) >= len(shapes) - 3


@pytest.mark.parametrize("case", CASES)
def test_what_we_save_transformers_loads(case, tmp_path):
    ours = ours_of(theirs(case), tmp_path / "theirs")
    export_model(ours, tmp_path / "ours", family=kind_of(case))
    options = {"add_pooling_layer": False} if "bare" in case and kind_of(case) != "modernbert" else {}
    again, info = auto(case).from_pretrained(
        tmp_path / "ours", dtype=torch.float64, output_loading_info=True, **EAGER, **options
    )
    computed = family(kind_of(case)).ignored  # buffers that follow from the config
    assert all(key.endswith(computed) for key in info["missing_keys"]) and not info["unexpected_keys"]
    ids = tokens(2, 40)
    assert torch.equal(theirs_on(again.eval(), case, ids), theirs_on(theirs(case), case, ids))
    assert canonical(load_model(tmp_path / "ours", device="cpu").spec) == canonical(ours.spec)
    again.config.save_pretrained(tmp_path / "ours")  # as transformers' own class writes it
    assert canonical(load_model(tmp_path / "ours", device="cpu").spec) == canonical(ours.spec)


@pytest.mark.parametrize("case", CASES)
def test_names_of_a_state_dict_are_read_too(case, tmp_path):
    """Where experts are stacked, and a tied head is written twice."""
    model = theirs(case)
    ids = tokens(2, 20)
    expected = ours_on(ours_of(model, tmp_path), case, ids)
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, tmp_path / "model.safetensors")
    assert torch.equal(ours_on(load_model(tmp_path, dtype="float64", device="cpu"), case, ids), expected)


@pytest.mark.parametrize("case", ["llama, dynamic rope", "llama, longrope", "phi3, longrope", "llama, yarn rope"])
def test_a_short_prompt_after_a_long_one_is_as_it_is_alone(case, tmp_path):
    """In one model object, in one batch and in the engine; trained at 16 tokens."""
    model = theirs(case)
    ours, (short, long) = ours_of(model, tmp_path), (tokens(1, 7), tokens(1, 40, seed=5))
    alone = [ours_of(model, tmp_path)(ids).logits for ids in (short, long)]
    for ids, expected in ((long, alone[1]), (short, alone[0]), (long, alone[1])):
        assert torch.equal(ours(ids).logits, expected)
    both = ours(Batch.padded([long[0].tolist(), short[0].tolist()])).logits
    torch.testing.assert_close(both[1:, :7], alone[0], rtol=0, atol=1e-12)
    prompts = [long[0].tolist(), short[0].tolist(), long[0, 3:].tolist()]
    engine = Engine(ours)
    together = [answer.ids for answer in engine.generate(prompts, max_new_tokens=6)]
    assert together == [engine.generate(prompt, max_new_tokens=6)[0].ids for prompt in prompts]


def test_embeddings_of_gemma_are_scaled_in_their_own_dtype(tmp_path):
    """sqrt(32) is 5.65625 in bfloat16, which the models were trained with; given embeddings are scaled already."""
    model = theirs("gemma")
    model.save_pretrained(tmp_path)
    ours = load_model(tmp_path, dtype="bfloat16", device="cpu")
    ids = tokens(1, 9)
    peer = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert torch.equal(ours.embed(ids), peer.get_input_embeddings()(ids))
    assert torch.equal(ours(Batch(embeddings=ours.embed(ids))).logits, ours(ids).logits)


@pytest.mark.parametrize("kind", FAMILIES)
def test_each_family_saves_as_itself_or_as_a_simpler_one(kind, tmp_path):
    case = next(case for case in CASES if kind_of(case) == kind)
    ours = ours_of(theirs(case), tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    written = json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"]
    assert written == {"phi3": "llama"}.get(kind, kind)
    again = load_model(tmp_path / "ours", dtype="float64", device="cpu")
    assert torch.equal(ours_on(again, case, tokens(2, 20)), ours_on(ours, case, tokens(2, 20)))


def test_what_we_train_from_scratch_transformers_loads(tmp_path):
    """Specs that leave sizes open, as a recipe does."""
    for name, choices in (
        ("llama", {"blocks": [{"name": "pre-norm", "mixer": "grouped-query", "ffn": "swiglu"}]}),
        (
            "gpt2",
            {
                "blocks": [
                    {
                        "name": "pre-norm",
                        "mixer": {"name": "multi-head", "biases": "all"},
                        "ffn": {"name": "gelu-tanh", "biases": "all"},
                    }
                ],
                "position": "learned",
                "norm": "layernorm",
            },
        ),
    ):
        model = transformer(**choices)
        model.generation = {"bos_token_id": 3, "eos_token_id": [4, 5]}
        model.save_pretrained(tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["model_type"] == name and config["bos_token_id"] == 3
        peer = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float64, attn_implementation="eager")
        ids = tokens(2, 30)
        expected = peer.eval()(ids).logits
        assert (model(ids).logits - expected).abs().max() < 1e-6 * expected.abs().max()
        assert peer.generation_config.eos_token_id == [4, 5]
        again = load_model(tmp_path / name, dtype="float64", device="cpu")
        assert torch.equal(again(ids).logits, model(ids).logits) and again.generation == model.generation


@pytest.mark.parametrize("case", ["llama, grouped", "gpt2"])
def test_shards_are_read_and_written(case, tmp_path):
    model = theirs(case)
    ours = ours_of(model, tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").is_file()
    ids = tokens(2, 20)
    single = ours_of(model, tmp_path / "single")
    assert torch.equal(ours(ids).logits, single(ids).logits)
    export_model(ours, tmp_path / "again", family=kind_of(case), shard_bytes=20_000)
    assert len(list((tmp_path / "again").glob("model-*.safetensors"))) > 3
    again = load_model(tmp_path / "again", dtype="float64", device="cpu")
    assert torch.equal(again(ids).logits, ours(ids).logits)
    peer = AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float64, attn_implementation="eager")
    assert torch.equal(peer.eval()(ids).logits, model(ids).logits)
    ours.save_pretrained(tmp_path / "again")  # the same folder as one file: no shard is left behind
    assert [p.name for p in (tmp_path / "again").glob("model*")] == ["model.safetensors"]


def test_hub_files_of_gpt2(tmp_path):
    """The hub's own file: no prefix, no head, and the causal masks stored with the weights."""
    model = theirs("gpt2")
    expected = ours_of(model, tmp_path)(tokens(1, 9)).logits
    state = load_file(tmp_path / "model.safetensors")
    state = {k.removeprefix("transformer."): v for k, v in state.items() if k != "lm_head.weight"}
    for layer in range(3):
        state[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
        state[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(state, tmp_path / "model.safetensors")
    assert torch.equal(load_model(tmp_path, dtype="float64", device="cpu")(tokens(1, 9)).logits, expected)


def test_types_of_tokens_tell_a_pair_apart(tmp_path):
    model = theirs("bert")
    ours = ours_of(model, tmp_path)
    ids, real = ragged("bert")
    kinds = (torch.arange(48) > 3).long().expand(3, -1)
    expected = model(ids, attention_mask=real.long(), token_type_ids=kinds).logits[real]
    actual = ours_on(ours, "bert", ids, lengths=real.sum(1), token_types=kinds)[real]
    assert (actual - expected).abs().max() < 1e-6 * expected.abs().max()
    assert (actual - ours_on(ours, "bert", ids, lengths=real.sum(1))[real]).abs().max() > 1e-3
    with pytest.raises(RequestError, match="token_types: must be from 0 to 1"):
        ours_on(ours, "bert", ids, token_types=kinds + 1)
    with pytest.raises(RequestError, match="token_types: this model has none"):
        transformer()(Batch(ids=ids, token_types=kinds))


def test_hub_files_of_bert(tmp_path):
    """The hub's own file: a pooler, a next-sentence layer, positions, and gamma and beta for the norms' parameters."""
    model = theirs("bert")
    expected = ours_on(ours_of(model, tmp_path), "bert", tokens(1, 9))
    state = load_file(tmp_path / "model.safetensors")
    state = {k.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v for k, v in state.items()}
    state |= {"bert.pooler.dense.weight": torch.ones(32, 32), "bert.pooler.dense.bias": torch.ones(32)}
    state |= {"cls.seq_relationship.weight": torch.ones(2, 32), "cls.seq_relationship.bias": torch.ones(2)}
    save_file({**state, "bert.embeddings.position_ids": torch.ones(1, 64)}, tmp_path / "model.safetensors")
    assert torch.equal(ours_on(load_model(tmp_path, dtype="float64", device="cpu"), "bert", tokens(1, 9)), expected)


@pytest.mark.parametrize("case", ["bert", "roberta", "modernbert, untied, biases, other layers", "t5"])
def test_a_training_step_reaches_every_parameter(case, tmp_path):
    """With the initial weights, whose blocks are identities; and the loss goes down."""
    ours = ours_of(theirs(case), tmp_path).initialise(0)
    ids = tokens(3, 48).clamp(min=6)
    batch = ours_batch(case, ids, targets=ids.masked_fill(torch.arange(48) % 5 > 0, IGNORE))
    optimizer, losses = torch.optim.SGD(ours.parameters(), lr=1e-4), []
    for _ in range(3):
        optimizer.zero_grad()
        loss = ours.nll(batch)
        loss.backward()
        assert gradients(ours).keys() == dict(ours.named_parameters()).keys()
        losses.append(loss.item())
        optimizer.step()
    assert losses[2] < losses[1] < losses[0]
    assert all(g.abs().max() > 0 for name, g in gradients(ours).items() if not name.endswith("k_proj.bias"))


def test_t5_writes_what_transformers_generates(tmp_path):
    """Greedy, with a cache, for rows of different lengths; a text is given to the encoder with its end."""
    model = theirs("t5, gated, tied without a scale")
    model.save_pretrained(tmp_path)
    tokenizer, _ = both(tmp_path, post_processor=PROCESSORS["bert"])
    ours = load_model(tmp_path, dtype="float64", device="cpu")
    engine = Engine(ours, tokenizer)
    sources = [SOURCE[0][i, :n].tolist() for i, n in enumerate(SOURCE[1].tolist())]
    found = engine.generate(sources, max_new_tokens=12, stop_ids=())
    for source, completion in zip(sources, found, strict=True):
        options = {"do_sample": False, "max_new_tokens": 12, "min_new_tokens": 12, "eos_token_id": None}
        options["decoder_start_token_id"] = 0
        assert [0, *completion.ids] == model.generate(torch.tensor([source]), **options)[0].tolist()
    assert len({tuple(completion.ids) for completion in found}) > 1
    framed = [2, *tokenizer.encode("a"), 3]
    by_text, by_ids = (engine.generate([prompt], max_new_tokens=5, stop_ids=())[0].ids for prompt in ("a", framed))
    assert by_text == by_ids


def test_an_encoder_refuses_what_it_cannot_do(tmp_path):
    ours = ours_of(theirs("bert, bare"), tmp_path)
    for call, message in (
        (lambda: ours(Batch(ids=tokens(1, 5))), 'is no causal model; give mask="bidirectional"'),
        (lambda: ours.start(1), "does not write"),
        (lambda: ours(tokens(1, 5)), "logits: this model has no head"),
        (lambda: ours(tokens(1, 65), want=Want(hidden=True)), "65 tokens, but only 64 positions"),
    ):
        with pytest.raises(RequestError, match=message):
            call()
    packed = Batch(
        ids=torch.cat([tokens(1, 9), tokens(1, 5, seed=2)], 1), mask="bidirectional",
        segments=torch.tensor([[0] * 9 + [1] * 5]), positions=torch.tensor([[*range(9), *range(5)]]),
    )  # fmt: skip
    alone = torch.cat([ours_on(ours, "bert, bare", ids) for ids in (tokens(1, 9), tokens(1, 5, seed=2))], 1)
    torch.testing.assert_close(ours(packed, want=Want(hidden=True)).hidden, alone, rtol=0, atol=1e-10)


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
    "qwen3_moe": ("norm_topk_prob", None, "norm_topk_prob is not set; only True is supported"),
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
    "t5": ("decoder_start_token_id", -1, "decoder_start_token_id is -1, expected a token.s id"),
}
ACTIVATION = {"modernbert": "hidden_activation", "t5": "feed_forward_proj"}


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
                model(ours_batch(kind, tokens(1, 3)), want=Want(hidden=True))
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
    "layernorm": ({"norm": "layernorm"}, "norm.name is layernorm, llama's is rmsnorm"),
    "relu": ({"blocks": block(ffn="relu")}, "blocks.0.ffn.name is mlp, llama's is gated"),
    "window": ({"blocks": block("sliding-window"), "position": "none"}, "position.name is none, llama's is rope"),
    "a window alone": (
        {"blocks": block("sliding-window"), "norm": {"name": "rmsnorm", "offset": 0.5}},
        r"blocks.0.mixer.window is 128, llama's is not set",
    ),
    "offset": ({"norm": {"name": "rmsnorm", "offset": 0.5}}, "norm.offset is 0.5, llama's is 0.0"),
    "hybrid": ({"blocks": [*block("sliding-window"), *block()]}, "blocks.1.ffn.name is gated, llama's is not set"),
    "fraction": ({"position": {"name": "rope", "rotary_fraction": 0.5}, "norm": "layernorm"}, "norm.name"),
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
    with pytest.raises(CheckpointError, match="family: 'qwen9' is not a family"):
        export_model(transformer(), "nowhere", family="qwen9")
    with pytest.raises(CheckpointError, match="x: vocab_size is missing"):
        family("llama").to_spec(Config({"num_attention_heads": 4, "intermediate_size": 8}, "x"))
