"""Cases of every family: transformers' model, ours, and what is compared."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from _small_models import randomise, tokens
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from llmanac.core.types import ALL, Batch, OutputRequest
from llmanac.models.load import load_model

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
UNPADDED = {**LLAMA, "pad_token_id": None}
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
BART = {
    "vocab_size": 61,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 56,
    "decoder_ffn_dim": 56,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 3,
    "pad_token_id": None,
    "forced_eos_token_id": None,
}
BASES = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "mpnet": BERT,
    "electra": {**BERT, "embedding_size": 20},
    "deberta-v2": {
        **BERT,
        "relative_attention": True,
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "position_buckets": 8,
        "type_vocab_size": 0,
    },
    "distilbert": {
        "vocab_size": 61,
        "dim": 32,
        "n_layers": 3,
        "n_heads": 4,
        "hidden_dim": 56,
        "max_position_embeddings": 64,
    },
    "modernbert": {**BERT, "pad_token_id": 0},
    "nomic_bert": {**BERT, "pad_token_id": 0},
    "mt5": {"vocab_size": 61, "d_model": 32, "d_kv": 12, "d_ff": 56, "num_layers": 2, "num_heads": 4},
    **dict.fromkeys(("bart", "mbart"), BART),
    "marian": {**BART, "scale_embedding": True},
    "pegasus": {**BART, "scale_embedding": True},
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
    "granite": {
        **UNPADDED,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.7,
        "logits_scaling": 0.9,
    },
    "granitemoe": {
        **EXPERTS,
        "num_local_experts": 5,
        "pad_token_id": None,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.7,
        "logits_scaling": 0.9,
    },
    **dict.fromkeys(("starcoder2", "cohere2", "exaone4", "olmo3", "nemotron", "stablelm", "phi", "olmo"), UNPADDED),
    **{kind: {**UNPADDED, "logit_scale": 0.8} for kind in ("cohere", "cohere2")},
    **{kind: {**UNPADDED, "head_dim": 12, "eos_token_id": 2} for kind in ("glm", "ernie4_5")},
    "gpt_neo": {
        **{key: UNPADDED[key] for key in ("vocab_size", "hidden_size", "max_position_embeddings", "intermediate_size")},
        "num_layers": 3,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1], [["global"], 1]],
        "window_size": 9,
    },
    "gptj": {**GPT2, "rotary_dim": 4},
    "gpt_bigcode": {**GPT2, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "falcon": {
        **{key: UNPADDED[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")},
        "max_position_embeddings": 128,
    },
    "hunyuan_v1_dense": {**UNPADDED, "head_dim": 8},
    "qwen2_moe": {
        **EXPERTS,
        "num_experts": 5,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 20,
    },
    "lfm2": {**UNPADDED, "num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "conv"]},
    "olmoe": {**EXPERTS, "num_experts": 5, "pad_token_id": None},
    "glm4_moe": {
        **EXPERTS,
        "num_hidden_layers": 3,
        "n_routed_experts": 6,
        "moe_intermediate_size": 24,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
    },
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
    "qwen3_moe, gates as they are": {"norm_topk_prob": False},
    "qwen3_moe, dense layers": {"num_hidden_layers": 4, "mlp_only_layers": [1]},
    "qwen3_moe, every second layer, gates as they are": {
        "num_hidden_layers": 4, "decoder_sparse_step": 2, "norm_topk_prob": False, "tie_word_embeddings": True,
    },
    "qwen3_moe, every third layer and not the last": {
        "num_hidden_layers": 7, "decoder_sparse_step": 3, "mlp_only_layers": [5, 0],
    },
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
    "smollm3, windows without positions": {
        "num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 7, "no_rope_layer_interval": 2,
    },
    "smollm3, listed windows": {
        "use_sliding_window": True, "sliding_window": 7, "no_rope_layers": [1, 0, 1],
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    },
    "mamba": {},
    "mamba, biases": {"use_bias": True},
    "mamba2, biases": {"use_bias": True},
    "deepseek_v3, biases": {"attention_bias": True},
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
    "granite": {},
    "granite, biases, tied, llama3 rope": {
        "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "rope_parameters": STRETCHED,
        "logits_scaling": 1.5,
    },
    "granitemoe": {},
    "granitemoe, biases, tied": {"attention_bias": True, "tie_word_embeddings": True, "num_experts_per_tok": 3},
    "starcoder2": {},
    "starcoder2, window, no biases, untied": {"use_bias": False, "sliding_window": 9, "tie_word_embeddings": False},
    "stablelm": {},
    "stablelm, parallel, biases, half rotated": {
        "use_parallel_residual": True, "use_qkv_bias": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    },
    "phi": {},
    "phi, multi-query, tied": {"num_key_value_heads": 1, "tie_word_embeddings": True, "hidden_act": "gelu"},
    "cohere": {},
    "cohere, normed heads, biases, untied": {
        "use_qk_norm": True, "attention_bias": True, "tie_word_embeddings": False, "layer_norm_eps": 1e-3,
    },
    "cohere2": {"num_hidden_layers": 5, "sliding_window": 9},
    "cohere2, biases, other layers": {
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"], "sliding_window": 7,
        "attention_bias": True,
    },
    "olmo": {},
    "olmo, clipped, biases, tied": {"clip_qkv": 0.8, "attention_bias": True, "tie_word_embeddings": True},
    "olmo3": {"num_hidden_layers": 5, "sliding_window": 9},
    "olmo3, yarn rope, biases, tied": {
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"], "sliding_window": 7,
        "attention_bias": True, "tie_word_embeddings": True,
        "rope_parameters": {
            "full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "nemotron": {},
    "nemotron, all of a head, biases, tied": {
        "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "hidden_act": "gelu",
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}, "head_dim": 12,
    },
    "glm": {},
    "glm, all of a head, no biases": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
        "attention_bias": False,
    },
    "gpt_neo": {},
    "gpt_neo, all windows, untied, relu": {
        "attention_types": [[["local"], 3]], "tie_word_embeddings": False, "activation_function": "relu",
    },
    "gptj": {},
    "gptj, all of a head, inner width, tied": {"rotary_dim": 8, "n_inner": 48, "tie_word_embeddings": True},
    "gpt_bigcode": {},
    "gpt_bigcode, multi-head, untied": {"multi_query": False, "tie_word_embeddings": False, "n_inner": 48},
    "exaone4": {"num_hidden_layers": 5, "sliding_window": 9},
    "exaone4, no windows, tied": {
        "sliding_window": None, "layer_types": ["full_attention"] * 3, "tie_word_embeddings": True,
    },
    "exaone4, no windows and no positions": {"layer_types": ["full_attention"] * 3},
    "ernie4_5": {},
    "ernie4_5, biases, untied": {"use_bias": True, "tie_word_embeddings": False},
    "falcon": {},
    "falcon, multi-head, one part after the other, biases, untied": {
        "multi_query": False, "parallel_attn": False, "bias": True, "tie_word_embeddings": False,
        "ffn_hidden_size": 56,
    },
    "hunyuan_v1_dense": {},
    "hunyuan_v1_dense, alpha, tied, biases, head_dim": {
        "tie_word_embeddings": True, "attention_bias": True, "head_dim": 12,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 50.0, "factor": 1.0},
    },
    "qwen2_moe": {},
    "qwen2_moe, dense layers, no biases, shares": {
        "num_hidden_layers": 4, "mlp_only_layers": [1], "decoder_sparse_step": 2, "qkv_bias": False,
        "norm_topk_prob": True,
    },
    "lfm2": {},
    "lfm2, biases, kernel 4, adjusted width, untied": {
        "conv_bias": True, "conv_L_cache": 4, "block_multiple_of": 8, "tie_word_embeddings": False,
        "layer_types": ["full_attention", "conv", "conv", "full_attention"], "norm_eps": 1e-3,
        "block_dim": 32, "conv_dim": 32, "conv_dim_out": 32, "num_heads": 4, "block_norm_eps": 1e-3,
        "use_pos_enc": True, "block_use_swiglu": True, "block_mlp_init_scale": 1.0, "conv_use_xavier_init": True,
    },
    "olmoe": {},
    "olmoe, shares, biases, one key-value head": {
        "norm_topk_prob": True, "attention_bias": True, "num_key_value_heads": 1, "tie_word_embeddings": True,
    },
    "glm4_moe": {},
    "glm4_moe, normed queries, groups, biases, all sparse": {
        "use_qk_norm": True, "attention_bias": True, "n_group": 3, "topk_group": 2, "first_k_dense_replace": 0,
        "routed_scaling_factor": 1.6, "head_dim": 12, "rms_norm_eps": 1e-3,
    },
    "bert": {},
    "bert, one type, relu": {
        "type_vocab_size": 1, "hidden_act": "relu", "layer_norm_eps": 1e-3,
    },
    "bert, untied": {"tie_word_embeddings": False},
    "bert, bare": {},
    "roberta": {"type_vocab_size": 1},
    "roberta, untied": {"tie_word_embeddings": False},
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
    "nomic_bert": {},
    "nomic_bert, one type, gelu, wide heads": {
        "type_vocab_size": 1, "hidden_act": "gelu", "layer_norm_eps": 1e-3, "head_dim": 12,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "nomic_bert, bare": {},
    "distilbert": {},
    "distilbert, untied, relu": {"tie_word_embeddings": False, "activation": "relu"},
    "distilbert, bare": {},
    "xlm-roberta": {"type_vocab_size": 1},
    "xlm-roberta, untied": {"tie_word_embeddings": False},
    "xlm-roberta, bare, padding 5": {"pad_token_id": 5},
    "mpnet": {},
    "mpnet, relu, long": {"hidden_act": "relu", "max_position_embeddings": 200, "layer_norm_eps": 1e-3},
    "mpnet, bare": {},
    "electra": {},
    "electra, as wide, untied": {"embedding_size": 32, "tie_word_embeddings": False, "type_vocab_size": 1},
    "electra, bare": {},
    "deberta-v2": {},
    "deberta-v2, no buckets, types, relu": {
        "position_buckets": -1, "max_relative_positions": 20, "type_vocab_size": 2, "hidden_act": "relu",
    },
    "deberta-v2, bare, far buckets": {"position_buckets": 20, "max_relative_positions": 300},
    "mt5": {},
    "bart": {"decoder_layers": 3},
    "bart, scaled, relu, other sizes": {
        "scale_embedding": True, "activation_function": "relu",
        "encoder_attention_heads": 2, "decoder_ffn_dim": 40,
    },
    "mbart": {"scale_embedding": True},
    "marian": {},
    "pegasus": {},
    "t5": {"num_decoder_layers": 3},
    "t5, gated, tied without a scale": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}  # fmt: skip
ENCODERS = (
    "bert", "roberta", "modernbert", "distilbert", "xlm-roberta", "mpnet", "electra", "deberta-v2", "nomic_bert",
)  # fmt: skip
READING = ("t5", "mt5", "bart", "mbart", "marian", "pegasus")  # a source


EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}
LLAMA_EPS = 1e-6  # transformers' default, where a norm does not keep its own


def kind_of(case):
    return case.partition(",")[0]


POOLED = ("bert", "roberta", "xlm-roberta", "mpnet")  # whose bare class has a layer that is left out


def auto(case):
    """transformers' class of a case."""
    if "bare" in case:
        return AutoModel
    if kind_of(case) in ENCODERS:
        return AutoModelForMaskedLM
    return AutoModelForSeq2SeqLM if kind_of(case) in READING else AutoModelForCausalLM


def values(out):
    """What is compared: logits, or the hidden states of a model without a head."""
    names = ("logits", "last_hidden_state", "hidden")
    return next(found for name in names if (found := getattr(out, name, None)) is not None)


SOURCE = tokens(3, 13, seed=5), torch.tensor([13, 4, 9])


def ours_batch(case, ids, **fields):
    """The batch that our model of a case reads: encoders see both sides, others a source for each row."""
    rows = torch.arange(len(ids)) % 3
    if kind_of(case) in READING:
        fields["source"] = Batch(ids=SOURCE[0][rows], lengths=SOURCE[1][rows])
    return Batch(ids=ids, mask="bidirectional" if kind_of(case) in ENCODERS else "causal", **fields)


def ours_on(model, case, ids, **fields):
    want = OutputRequest(hidden=True) if "bare" in case else ALL
    return values(model(ours_batch(case, ids, **fields), want=want))


def theirs_on(model, case, ids, mask=None, first=0):
    """The outputs of transformers' model for the same rows, of which the first is `first`."""
    rows = (torch.arange(len(ids)) + first) % 3
    mask = None if mask is None else mask.long()
    if kind_of(case) not in READING:
        return values(model(ids, attention_mask=mask))
    real = (torch.arange(13) < SOURCE[1][rows][:, None]).long()
    return values(model(input_ids=SOURCE[0][rows], attention_mask=real, decoder_input_ids=ids))


def fixed(model):
    """Set the sines of positions again, which were drawn with the parameters."""
    for module in model.modules():
        if hasattr(module, "create_weight"):
            module.weight.data.copy_(module.create_weight())


def theirs(case, attention="eager"):
    """transformers' model of a case in float64, with large weights."""
    kind = kind_of(case)
    config = AutoConfig.for_model(kind, **{**BASES.get(kind, LLAMA), **CASES[case]})
    options = {"add_pooling_layer": False} if "bare" in case and kind in POOLED else {}
    built = auto(case).from_config(config, **{**EAGER, "attn_implementation": attention}, **options)
    built = randomise(built)
    built.tie_weights()
    fixed(built)
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
