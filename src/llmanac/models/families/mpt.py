"""MPT: ALiBi, LayerNorm and linear maps without biases, a GELU layer of four times the width.

q, k and v are one matrix, one below the other. `clip_qkv` and other changes of attention are not supported. MosaicML
2023.
"""

from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import Config, Names
from llmanac.models.families._table import ConfigEntry, Data, Family, Key, Only, stack
from llmanac.models.families.llama import MIXER

# dropout, how a model is initialised and trained, and positions that ALiBi replaces
NEUTRAL = """
emb_pdrop embedding_fraction init_config init_device learned_pos_emb tokenizer_name verbose
"""
# transformers' model has these, whatever its config says
ATTENTION = (
    Only("alibi", (True,)),
    Only("alibi_bias_max", (8,)),
    Only("attn_type", ("multihead_attention",)),
    Only("attn_uses_sequence_id", (False,)),
    Only("clip_qkv", (None,)),
    Only("prefix_lm", (False,)),
    Only("qk_ln", (False,)),
    Only("softmax_scale", (None,)),
)


class MPTAttention(ConfigEntry):
    """`attn_config`, a table."""

    def read(self, config: Config, data: Data) -> None:
        table = config.get("attn_config", {})
        if not isinstance(table, dict):
            raise CheckpointError(f"{config.path}: attn_config is {shown(table)}, expected a table")
        own = Config(table, f"{config.path}: attn_config", frozenset({"attn_impl"}))
        for entry in ATTENTION:
            entry.read(own, data)
        own.finish()

    def write(self, data: Data) -> dict[str, Any]:
        table: dict[str, Any] = {"attn_pdrop": 0}
        for entry in ATTENTION:
            table |= entry.write(data)
        return {"attn_config": table}


FAMILY = Family(
    architecture="MptForCausalLM",
    spec=stack(ffn={"name": "mlp", "activation": "gelu"}, position="alibi", norm={"name": "layernorm", "bias": "none"}),
    entries=(
        Key("vocab_size", "vocab_size", default=50368),
        Key("d_model", "dim", default=2048, aliases=("hidden_size",)),
        Key("n_layers", "layers", default=24, aliases=("num_hidden_layers",)),
        Key("n_heads", f"{MIXER}.heads", default=16, aliases=("num_attention_heads",)),
        Key("max_seq_len", "max_length", default=2048),
        Key("layer_norm_epsilon", "norm.eps", float, default=1e-5),
        Key("tie_word_embeddings", "tied", bool, default=True),
        MPTAttention(),
        Only("expansion_ratio", (4,)),
        Only("logit_scale", (None,)),
        Only("no_bias", (True,)),
        Only("norm_type", ("low_precision_layernorm", "layernorm")),
    ),
    names=(
        Names(
            layers="transformer.blocks.*.",
            table={
                "model.embed_tokens": "transformer.wte",
                "model.norm": "transformer.norm_f",
                "input_layernorm": "norm_1",
                "post_attention_layernorm": "norm_2",
                ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"): "attn.Wqkv",
                "self_attn.o_proj": "attn.out_proj",
                "mlp": "ffn",
            },
        ),
    ),
    writes={"resid_pdrop": 0.0, "emb_pdrop": 0.0},
    neutral=frozenset(NEUTRAL.split()),
    ignored=(),
)
