"""OPT: GPT-3's form: learned positions, LayerNorm before each part, a ReLU layer, biases everywhere.

The first two rows of the table of positions belong to none. The 350m model, which norms after each part and has
narrower embeddings, is not supported. Zhang et al. 2022, arXiv:2205.01068.
"""

from dataclasses import dataclass
from typing import Any

from llmanac.models.families._config import Config, Names
from llmanac.models.families._table import (
    ACTIVATIONS,
    UNDROPPED,
    ConfigEntry,
    Data,
    Equal,
    Family,
    Key,
    Only,
    stack,
    with_defaults,
)
from llmanac.models.families.llama import BIASES, FFN, MIXER, SIZES

OFFSET = 2


@dataclass(frozen=True)
class OPTPositions(ConfigEntry):
    """`max_position_embeddings`, without the rows that are no positions; `absent` where the config does not say."""

    absent: int = 2048

    def read(self, config: Config, data: Data) -> None:
        data["max_length"] = config.number("max_position_embeddings", int, self.absent)
        data["position"]["rows"] = data["max_length"] + OFFSET

    def write(self, data: Data) -> dict[str, Any]:
        return {"max_position_embeddings": data["max_length"]}

    def fields(self) -> dict[str, str]:
        return {"position.rows": "max_position_embeddings", "max_length": "max_position_embeddings"}


FAMILY = Family(
    architecture="OPTForCausalLM",
    spec=stack(
        ffn={"name": "mlp"}, position={"name": "learned", "rows": 1 + OFFSET, "offset": OFFSET}, norm="layernorm"
    ),
    entries=(
        *with_defaults(SIZES[:4], vocab_size=50272, hidden_size=768, num_hidden_layers=12, num_attention_heads=12),
        Key("ffn_dim", f"{FFN}.width", default=3072),
        Key("activation_function", f"{FFN}.activation", ACTIVATIONS, default="relu"),
        Key("enable_bias", f"{MIXER}.biases", BIASES, default=True, paths=(f"{FFN}.biases",)),
        Key("tie_word_embeddings", "tied", bool, default=True),
        OPTPositions(),
        Equal("word_embed_proj_dim", "dim"),
        Only("do_layer_norm_before", (True,)),
        Only("layer_norm_elementwise_affine", (True,)),
        Only("_remove_final_layer_norm", (False,)),
    ),
    names=(
        Names(
            layers="model.decoder.layers.*.",
            table={
                "model.embed_tokens": "model.decoder.embed_tokens",
                "model.position.embeddings": "model.decoder.embed_positions",
                "model.norm": "model.decoder.final_layer_norm",
                "input_layernorm": "self_attn_layer_norm",
                "post_attention_layernorm": "final_layer_norm",
                "self_attn.o_proj": "self_attn.out_proj",
                "mlp.up_proj": "fc1",
                "mlp.down_proj": "fc2",
            },
        ),
    ),
    writes={**UNDROPPED, "dropout": 0.0},
    neutral=frozenset({"dropout", "layerdrop", "init_std", "activation_dropout"}),
    ignored=(),
)
