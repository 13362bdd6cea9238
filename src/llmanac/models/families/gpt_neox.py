"""GPT-NeoX and Pythia: a part of each head rotated, LayerNorm, biases; by default both parts of a block at once.

The rows of q, k and v are one matrix, head by head. Black et al. 2022, arXiv:2204.06745.
"""

from dataclasses import dataclass, replace
from typing import Any

from llmanac.models.families._config import Config, Names
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import ACTIVATIONS, UNDROPPED, ConfigEntry, Data, Family, Key, stack
from llmanac.models.families.llama import BIASES, FFN, LENGTH, MIXER, SIZES, TIED

# what the first files call two values of Rope: their key, its key, the default
OLDER = (("rotary_emb_base", "rope_theta", 10_000.0), ("rotary_pct", "partial_rotary_factor", 0.25))


@dataclass(frozen=True)
class NeoXRotary(Rope):
    """Rope with the keys of the first files too, which it writes as well."""

    partial: bool = True

    def read(self, config: Config, data: Data) -> None:
        for old, new, default in OLDER:
            value = config.number(old, float, default)
            if config.data.get(new) is None:
                config.data[new] = value
        super().read(config, data)

    def write(self, data: Data) -> dict[str, Any]:
        written = super().write(data)
        return {**written, **{old: written[new] for old, new, _ in OLDER}}


@dataclass(frozen=True)
class Residual(ConfigEntry):
    """A flag that says whether both parts of a block read the same stream: a parallel block, else a pre-norm block."""

    name: str
    default: bool

    def read(self, config: Config, data: Data) -> None:
        if not config.flag(self.name, self.default):
            for block in data["blocks"]:
                block["name"] = "pre-norm"
                del block["norms"]

    def write(self, data: Data) -> dict[str, Any]:
        return {self.name: data["blocks"][0]["name"] == "parallel"}

    def fields(self) -> dict[str, str]:
        return {"blocks.*.norms": self.name}


LAYOUT = Names(
    layers="gpt_neox.layers.*.",
    table={
        "model.embed_tokens": "gpt_neox.embed_in",
        "model.norm": "gpt_neox.final_layer_norm",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"): "attention.query_key_value",
        "self_attn.o_proj": "attention.dense",
        "mlp.up_proj": "mlp.dense_h_to_4h",
        "mlp.down_proj": "mlp.dense_4h_to_h",
        "lm_head": "embed_out",
    },
    interleaved=frozenset({"attention.query_key_value"}),
)

FAMILY = Family(
    architecture="GPTNeoXForCausalLM",
    spec=stack(
        mixer={"biases": "all"},
        ffn={"name": "mlp", "biases": "all"},
        block={"name": "parallel", "norms": "two"},
        norm="layernorm",
    ),
    entries=(
        *SIZES[:-2],
        Key("hidden_act", f"{FFN}.activation", {**ACTIVATIONS, "gelu_fast": "gelu-tanh"}, default="gelu"),
        Key("intermediate_size", f"{FFN}.width"),
        Key("attention_bias", f"{MIXER}.biases", BIASES, default=True),
        LENGTH,
        Key("layer_norm_eps", "norm.eps", float, default=1e-5),
        TIED,
        NeoXRotary(),
        Residual("use_parallel_residual", True),
    ),
    # of the hub, and of transformers' state in memory
    names=(LAYOUT, replace(LAYOUT, table={k: v for k, v in LAYOUT.table.items() if k != "lm_head"})),
    writes={**UNDROPPED, "hidden_dropout": 0.0},
    neutral=frozenset({"classifier_dropout", "is_decoder"}),
    ignored=(".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"),
)
