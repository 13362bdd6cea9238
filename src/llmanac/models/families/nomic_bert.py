"""Nomic's BERT: BERT with rotary positions, gated feed-forward layers and no biases but those of norms.

Its own first files and config (`n_embd`, `Wqkv`, `fc11`) are read as well as transformers'. Nussbaum et al. 2024,
arXiv:2402.01613.
"""

import re
from typing import Any

from llmanac.models.families._config import Config, Names, Table
from llmanac.models.families._labels import Labels
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import ACTIVATIONS, Data, Family, Key, Only, stack
from llmanac.models.families.bert import FFN, HEAD, MIXER, masked_head

# what the first config says of a form that this one is: every other value is refused
FORM: dict[str, tuple[Any, ...]] = {
    "causal": (None, False), "prenorm": (None, False), "parallel_block": (None, False), "use_rms_norm": (None, False),
    "qkv_proj_bias": (None, False), "mlp_fc1_bias": (None, False), "mlp_fc2_bias": (None, False),
    "rotary_emb_fraction": (None, 1.0), "rotary_emb_interleaved": (None, False), "rotary_emb_scale_base": (None,),
    "rotary_scaling_factor": (None,), "scale_attn_weights": (None, True), "parallel_block_tied_norm": (None, False),
    "scale_attn_by_inverse_layer_idx": (None, False),
}  # fmt: skip
NEUTRAL = """
hidden_dropout_prob attention_probs_dropout_prob classifier_dropout attn_pdrop embd_pdrop resid_pdrop dense_seq_output
fused_bias_fc fused_dropout_add_ln max_trained_positions pad_vocab_size_multiple reorder_and_upcast_attn use_xentropy
summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj use_flash_attn
"""
# of its first files
CODE = re.compile(r"(nomic-ai/nomic-bert-2048--)?(configuration|modeling)_hf_nomic_bert\.NomicBert\w+")
EMBEDDINGS: Table = {
    "model.embed_tokens": "embeddings.word_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "embed_norm": "embeddings.LayerNorm",
}
MASKED: Table = {**HEAD, "lm_head.norm": "cls.predictions.transform.layer_norm"}
FIRST: Table = {
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"): "attn.Wqkv",
    "self_attn.o_proj": "attn.out_proj",
    "mlp.up_proj": "mlp.fc11",
    "mlp.gate_proj": "mlp.fc12",
    "mlp.down_proj": "mlp.fc2",
    "post_attention_layernorm": "norm1",
    "post_feedforward_layernorm": "norm2",
}


class Theta(Rope):
    """`rotary_emb_base` is `rope_theta`'s first name; the code that such a config names computes this form."""

    def read(self, config: Config, data: Data) -> None:
        named = config.data.get("auto_map")
        if isinstance(named, dict) and all(isinstance(n, str) and CODE.fullmatch(n) for n in named.values()):
            config.get("auto_map")
        Rope(theta=config.number("rotary_emb_base", float, self.theta)).read(config, data)
        config.expect("rotary_emb_base", data["position"]["theta"])  # said twice, it must be the same


FAMILY = Family(
    architecture="NomicBertForMaskedLM",
    spec=stack(
        kind="encoder", block={"name": "post-norm"}, position={"name": "rope", "theta": 1000.0},
        norm={"name": "layernorm", "eps": 1e-12},
    ),
    entries=(
        Key("vocab_size", "vocab_size", default=30528),
        Key("hidden_size", "dim", default=768, aliases=("n_embd",)),
        Key("num_hidden_layers", "layers", default=12, aliases=("n_layer",)),
        Key("num_attention_heads", f"{MIXER}.heads", default=12, aliases=("n_head",)),
        Key("head_dim", f"{MIXER}.head_dim", default=None),
        Key("intermediate_size", f"{FFN}.width", default=3072, aliases=("n_inner",)),
        Key("hidden_act", f"{FFN}.activation", {**ACTIVATIONS, "swiglu": "silu"}, default="silu",
            aliases=("activation_function",)),
        Key("type_vocab_size", "token_types", default=2),
        Key("layer_norm_eps", "norm.eps", float, default=1e-12, aliases=("layer_norm_epsilon",)),
        Key("max_position_embeddings", "max_length", default=2048, aliases=("n_positions",)),
        Theta(theta=1000.0),
        *(Only(name, values) for name, values in FORM.items()),
        masked_head("NomicBert"),
    ),
    names=(
        Names(layers="nomic_bert.layers.*.", table={
            **{ours: f"nomic_bert.{theirs}" for ours, theirs in EMBEDDINGS.items()},
            "post_feedforward_layernorm": "post_mlp_layernorm", **MASKED,
        }),
        Names(layers="nomic_bert.encoder.layers.*.", table={
            **{ours: f"nomic_bert.{theirs}" for ours, theirs in EMBEDDINGS.items()}, **FIRST, **MASKED,
            "embed_norm": "nomic_bert.emb_ln",
        }),
    ),
    writes={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    neutral=frozenset(NEUTRAL.split()),
    ignored=("pooler.dense.weight", "pooler.dense.bias", "cls.predictions.decoder.bias"),
    prefix="nomic_bert.",
    biases=("cls.predictions.bias", "cls.predictions.decoder.bias"),
    labels=Labels("classifier", "classifier", "nomic_bert.pooler.dense", "", "first", "tanh", "all"),
)  # fmt: skip
