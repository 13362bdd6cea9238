"""GPT-2: learned positions, LayerNorm before each part, multi-head attention and a GELU layer, biases everywhere.

Its matrices are stored (inputs, outputs), q, k and v in one. Files of the hub leave out the `transformer.` prefix and
hold each layer's causal mask; both are read. Radford et al. 2019.
"""

from llmanac.models.families._config import Names, Table
from llmanac.models.families._table import ConfigEntry, Family, Key, Only, stack

ACTIVATIONS = {
    "gelu_new": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}

# what GPT-Neo shares with it
FURTHER: tuple[ConfigEntry, ...] = (
    Key("activation_function", "blocks.*.ffn.activation", ACTIVATIONS, default="gelu_new"),
    Key("layer_norm_epsilon", "norm.eps", float, default=1e-5),
    Key("tie_word_embeddings", "tied", bool, default=True),
)
NAMES: Table = {
    "model.embed_tokens": "transformer.wte",
    "model.position.embeddings": "transformer.wpe",
    "model.norm": "transformer.ln_f",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}

FAMILY = Family(
    architecture="GPT2LMHeadModel",
    spec=stack(mixer={"biases": "all"}, ffn={"name": "mlp", "biases": "all"}, position="learned", norm="layernorm"),
    entries=(
        Key("vocab_size", "vocab_size", default=50257),
        Key("n_embd", "dim", default=768),
        Key("n_inner", "blocks.*.ffn.width", default=None),
        Key("n_layer", "layers", default=12),
        Key("n_head", "blocks.*.mixer.heads", default=12),
        Key("n_positions", "position.rows", default=1024, paths=("max_length",)),
        *FURTHER,
        Only("scale_attn_weights", (True,)),
        Only("scale_attn_by_inverse_layer_idx", (False,)),
        Only("add_cross_attention", (False,)),
        Only("reorder_and_upcast_attn", (False, True)),  # the order of two multiplications
    ),
    names=(
        Names(
            layers="transformer.h.*.",
            table={
                **NAMES,
                ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"): "attn.c_attn",
                "self_attn.o_proj": "attn.c_proj",
            },
            transposed=frozenset({"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}),
        ),
    ),
    writes={"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ignored=(".attn.bias", ".attn.masked_bias"),
    prefix="transformer.",
)
