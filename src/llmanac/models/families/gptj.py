"""GPT-J: both parts of a block read one LayerNorm, the first `rotary_dim` of each head rotate in neighbouring pairs.

Attention has no biases, the GELU layer and the head have some. Wang & Komatsuzaki 2021.
"""

from typing import Any

from llmanac.core.errors import CheckpointError
from llmanac.models.families._config import Config, Names
from llmanac.models.families._table import ConfigEntry, Data, Family, Key, Only, at, stack
from llmanac.models.families.gpt2 import ACTIVATIONS
from llmanac.models.families.llama import MIXER


class RotaryDim(ConfigEntry):
    """`rotary_dim`, how many numbers of each head are rotated."""

    def read(self, config: Config, data: Data) -> None:
        turned, size = config.number("rotary_dim", int, 64), data["dim"] // at(data, f"{MIXER}.heads")
        if turned > size:
            raise CheckpointError(f"{config.path}: rotary_dim is {turned:,}, but a head has {size:,} numbers")
        data["position"]["rotary_fraction"] = turned / size

    def write(self, data: Data) -> dict[str, Any]:
        size = data["dim"] // (at(data, f"{MIXER}.heads") or 1)
        return {"rotary_dim": int(size * data["position"].get("rotary_fraction", 1.0))}

    def fields(self) -> dict[str, str]:
        return {"position.rotary_fraction": "rotary_dim"}


FAMILY = Family(
    architecture="GPTJForCausalLM",
    spec=stack(
        ffn={"name": "mlp", "biases": "all"},
        block={"name": "parallel"},
        position={"name": "rope", "layout": "pairs"},
        norm="layernorm",
        head={"name": "linear", "bias": "learned"},
    ),
    entries=(
        Key("vocab_size", "vocab_size", default=50400),
        Key("n_embd", "dim", default=4096, aliases=("hidden_size",)),
        Key("n_inner", "blocks.*.ffn.width", default=None),
        Key("n_layer", "layers", default=28, aliases=("num_hidden_layers",)),
        Key("n_head", f"{MIXER}.heads", default=16, aliases=("num_attention_heads",)),
        Key("n_positions", "max_length", default=2048, aliases=("max_position_embeddings",)),
        Key("activation_function", "blocks.*.ffn.activation", ACTIVATIONS, default="gelu_new"),
        Key("layer_norm_epsilon", "norm.eps", float, default=1e-5),
        Key("tie_word_embeddings", "tied", bool, default=False),
        RotaryDim(),
        Only("rotary", (None, True)),
        Only("scale_attn_weights", (None, True)),
    ),
    names=(
        Names(
            layers="transformer.h.*.",
            table={
                "model.embed_tokens": "transformer.wte",
                "model.norm": "transformer.ln_f",
                "input_layernorm": "ln_1",
                "self_attn.o_proj": "attn.out_proj",
                "self_attn": "attn",
                "mlp.up_proj": "mlp.fc_in",
                "mlp.down_proj": "mlp.fc_out",
            },
        ),
    ),
    writes={"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ignored=(".attn.bias", ".attn.masked_bias"),
)
