"""BLOOM: ALiBi, a LayerNorm of the embeddings and one before each part, a GELU layer, biases everywhere.

The rows of q, k and v are one matrix, head by head. Files of the hub may leave out the `transformer.` prefix. There is
no longest context; `seq_length`, which transformers does not read, holds the length that the model was trained at.
BigScience 2022, arXiv:2211.05100.
"""

from llmanac.models.families._config import Config, Names
from llmanac.models.families._table import UNDROPPED, Data, Family, Key, Only, stack
from llmanac.models.families.llama import MIXER

BLOCKS = {False: "pre-norm", True: "normed-residual"}
# which kernels computed it in training
NEUTRAL = """
attention_softmax_in_fp32 bias_dropout_fusion masked_softmax_fusion offset_alibi skip_bias_add skip_bias_add_qkv
"""


class BloomResidual(Key):
    """Which of two blocks: they share the mixer and the layer after it."""

    def read(self, config: Config, data: Data) -> None:
        super().read(config, data)
        data["blocks"] = [{key: block[key] for key in ("name", "mixer", "ffn")} for block in data["blocks"]]


FAMILY = Family(
    architecture="BloomForCausalLM",
    spec=stack(
        mixer={"biases": "all"},
        ffn={"name": "mlp", "activation": "gelu-tanh", "biases": "all"},
        position="alibi",
        norm="layernorm",
        embedding_norm="layernorm",
    ),
    entries=(
        Key("vocab_size", "vocab_size", default=250880),
        Key("hidden_size", "dim", default=64, aliases=("n_embed",)),
        Key("n_layer", "layers", default=2, aliases=("num_hidden_layers",)),
        Key("n_head", f"{MIXER}.heads", default=8, aliases=("num_attention_heads",)),
        Key("seq_length", "max_length", default=2048),
        Key("layer_norm_epsilon", "norm.eps", float, default=1e-5, paths=("embedding_norm.eps",)),
        Key("tie_word_embeddings", "tied", bool, default=True),
        BloomResidual("apply_residual_connection_post_layernorm", "blocks.*.name", BLOCKS, default=False),
        Only("slow_but_exact", (False,)),
    ),
    names=(
        Names(
            layers="transformer.h.*.",
            table={
                "model.embed_tokens": "transformer.word_embeddings",
                "model.embed_norm": "transformer.word_embeddings_layernorm",
                "model.norm": "transformer.ln_f",
                ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"): "self_attention.query_key_value",
                "self_attn.o_proj": "self_attention.dense",
                "mlp.up_proj": "mlp.dense_h_to_4h",
                "mlp.down_proj": "mlp.dense_4h_to_h",
            },
            interleaved=frozenset({"self_attention.query_key_value"}),
        ),
    ),
    writes={**UNDROPPED, "hidden_dropout": 0.0},
    neutral=frozenset(NEUTRAL.split()),
    ignored=(),
    prefix="transformer.",
)
