"""LFM2: gated short convolutions in most layers, attention with normed queries and keys in the others.

Liquid AI 2025, arXiv:2511.23404.
"""

from copy import deepcopy
from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import Config, Names
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import ConfigEntry, Data, Family, Key, Layered, Only, at, put, stack
from llmanac.models.families.llama import FFN, MIXER, SIZES
from llmanac.models.families.qwen3 import MIXED

FULL, CONV = "full_attention", "conv"
HEADS = (
    Key("num_attention_heads", f"{MIXER}.heads", default=32),
    Key("num_key_value_heads", f"{MIXER}.kv_heads", default=8),
)


AGAIN = {
    "block_dim": "dim", "conv_dim": "dim", "conv_dim_out": "dim", "num_heads": f"{MIXER}.heads",
    "block_norm_eps": "norm.eps",
}  # fmt: skip
NEUTRAL = "block_mlp_init_scale block_out_init_scale block_use_xavier_init conv_use_xavier_init"


class Width(ConfigEntry):
    """`intermediate_size`, of which a config may say that two thirds are taken, rounded up."""

    def read(self, config: Config, data: Data) -> None:
        width = config.number("block_ff_dim", int, config.number("intermediate_size", int, 12288))
        adjusted = config.flag("block_auto_adjust_ff_dim", True)
        factor, size = (
            config.number("block_ffn_dim_multiplier", float, 1.0),
            config.number("block_multiple_of", int, 256),
        )
        if adjusted:
            width = size * -(-int(factor * int(2 * width / 3)) // size)
        put(data, f"{FFN}.width", width)

    def write(self, data: Data) -> dict[str, Any]:
        return {"intermediate_size": at(data, f"{FFN}.width"), "block_auto_adjust_ff_dim": False}

    def fields(self) -> dict[str, str]:
        return {f"{FFN}.width": "intermediate_size"}


class Untied(ConfigEntry):
    """`tie_word_embeddings`, by its first name `tie_embedding` too; and sizes that published configs say again."""

    def read(self, config: Config, data: Data) -> None:
        for name, path in AGAIN.items():
            config.expect(name, at(data, path))
        data["tied"] = config.flag("tie_embedding", config.flag("tie_word_embeddings", True))

    def write(self, data: Data) -> dict[str, Any]:
        return {"tie_word_embeddings": data["tied"]}

    def fields(self) -> dict[str, str]:
        return {"tied": "tie_word_embeddings"}


def _read(config: Config, data: Data, layers: int) -> list[Any]:
    own = config.get("full_attn_idxs")
    full = list(range(layers)) if own is None else own
    if not isinstance(full, list) or any(type(i) is not int for i in full):
        raise CheckpointError(f"{config.path}: full_attn_idxs is {shown(full)}, expected numbers of layers")
    kinds = config.get("layer_types") or [FULL if i in full else CONV for i in range(layers)]
    if not isinstance(kinds, list) or any(kind not in (FULL, CONV) for kind in kinds):
        raise CheckpointError(f"{config.path}: layer_types is {shown(kinds)}, expected a list of {FULL} and {CONV}")
    attention = data["blocks"][0]["mixer"]
    biases = "all" if config.flag("conv_bias", False) else "none"
    conv = {"name": "short-conv", "kernel": config.number("conv_L_cache", int, 3), "biases": biases}
    return [deepcopy(attention) if kind == FULL else conv for kind in kinds]


def _written(mixers: list[Any]) -> dict[str, Any]:
    kinds = [CONV if mixer["name"] == "short-conv" else FULL for mixer in mixers]
    conv = mixers[kinds.index(CONV)] if CONV in kinds else {}
    found = {"layer_types": kinds, "conv_L_cache": conv.get("kernel", 3), "conv_bias": conv.get("biases") == "all"}
    if FULL in kinds:  # of the first layer that has attention, which need not be the model's first
        for key in HEADS:
            found |= key.write({"blocks": [{"mixer": mixers[kinds.index(FULL)]}]})
    return found


FAMILY = Family(
    architecture="Lfm2ForCausalLM",
    spec=stack(mixer=MIXED),
    entries=(
        *SIZES[:3],
        *HEADS,
        Width(),
        Key("max_position_embeddings", "max_length", default=128_000),
        Key("norm_eps", "norm.eps", float, default=1e-5, paths=(f"{MIXER}.qk_norm.eps",)),
        Untied(),
        Rope(theta=1e6),
        Layered("layer_types", "mixer", _read, _written),
        Only("block_use_swiglu", (None, True)),
        Only("use_pos_enc", (None, True)),
    ),
    names=(
        Names(
            table={
                "model.norm": "model.embedding_norm",
                "input_layernorm": "operator_norm",
                "post_attention_layernorm": "ffn_norm",
                "self_attn.o_proj": "self_attn.out_proj",
                "self_attn.q_norm": "self_attn.q_layernorm",
                "self_attn.k_norm": "self_attn.k_layernorm",
                "self_attn.in_proj": "conv.in_proj",
                "self_attn.conv1d": "conv.conv",
                "self_attn.out_proj": "conv.out_proj",
                "mlp.gate_proj": "feed_forward.w1",
                "mlp.up_proj": "feed_forward.w3",
                "mlp.down_proj": "feed_forward.w2",
            }
        ),
    ),
    writes={},
    neutral=frozenset(NEUTRAL.split()),
)
