"""DeepSeek-V3: latent attention, and experts that are scored by a sigmoid, in groups, with one that sees every token.

The first layers are dense. Experts are a matrix each in files of the hub, stacked in memory; weights in FP8 and those
of multi-token prediction are not read. DeepSeek-AI 2024, arXiv:2412.19437.
"""

import functools
import math
from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import Config, Names
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import ACTIVATIONS, Data, Equal, Family, Key, Layered, Only, at, put, stack
from llmanac.models.families.llama import MIXER, SIZES, TIED
from llmanac.models.families.mixtral import STACKED

# of a layer with experts: theirs -> ours, kind
SPARSE: dict[str, tuple[str, Any]] = {
    "n_routed_experts": ("experts", int),
    "num_experts_per_tok": ("top_k", int),
    "n_group": ("groups", int),
    "topk_group": ("top_groups", int),
    "routed_scaling_factor": ("scale", float),
    "moe_intermediate_size": ("expert.width", int),
}
DEFAULTS: Data = {
    "n_routed_experts": 256, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5,
    "moe_intermediate_size": 2048, "first_k_dense_replace": 3, "intermediate_size": 18432,
}  # fmt: skip
OWN: dict[str | tuple[str, ...], str] = {
    "mlp.router": "mlp.gate",
    "mlp.correction": "mlp.gate.e_score_correction_bias",
    "mlp.shared": "mlp.shared_experts",
}
FIXED: dict[str, tuple[Any, ...]] = {"norm_topk_prob": (True,), "moe_layer_freq": (None, 1)}
FIXED |= {"scoring_func": (None, "sigmoid"), "topk_method": (None, "noaux_tc")}
NEUTRAL = "qk_head_dim output_router_logits ep_size aux_loss_alpha seq_aux"


class DeepSeekScaling(Rope):
    """`mscale_all_dim` of a `yarn` scaling changes the scale of the scores too."""

    def read(self, config: Config, data: Data) -> None:
        super().read(config, data)
        table = Config(config.get("rope_parameters") or config.get("rope_scaling") or {}, config.path)
        if "scaling" in data["position"] and table.get("mscale_all_dim"):
            wanted = table.number("mscale_all_dim", float)
            grown = 0.1 * wanted * math.log(data["position"]["scaling"]["factor"]) + 1
            put(data, f"{MIXER}.scale", grown * grown)

    def write(self, data: Data) -> dict[str, Any]:
        found, scaling = super().write(data), data["position"].get("scaling") or {}
        grown = math.sqrt(at(data, f"{MIXER}.scale") or 1.0)
        if grown != 1 and scaling.get("type") == "yarn" and scaling["factor"] > 1:
            for table in (found["rope_parameters"], found["rope_scaling"]):
                table["mscale_all_dim"] = round((grown - 1) / (0.1 * math.log(scaling["factor"])), 9)
        return found


class Stack(Layered):
    """First layers that are dense, then layers with experts; `defaults` are those of a config that does not say."""

    def __init__(self, defaults: Data) -> None:
        super().__init__("first_k_dense_replace", "ffn", functools.partial(_read, defaults), _written)

    def fields(self) -> dict[str, str]:
        return {"width": "intermediate_size", **{f"ffn.{ours}": name for name, (ours, _) in SPARSE.items()}}


def _read(defaults: Data, config: Config, data: Data, layers: int) -> list[Any]:
    first, gated = config.get("first_k_dense_replace", defaults["first_k_dense_replace"]), {"name": "gated"}
    gated["activation"] = config.choose("hidden_act", ACTIVATIONS, "silu")
    if type(first) is not int or first < 0:
        raise CheckpointError(f"{config.path}: first_k_dense_replace is {shown(first)}, expected a whole number")
    sparse: Data = {"name": "experts", "scoring": "sigmoid", "router_bias": "balancing", "balance": 0.0}
    for name, (path, kind) in SPARSE.items():
        put(sparse, path, config.number(name, kind, defaults[name]))
    sparse["expert"] |= gated
    sparse["shared"] = {**gated, "width": sparse["expert"]["width"] * config.number("n_shared_experts", int, 1)}
    dense = {**gated, "width": config.number("intermediate_size", int, defaults["intermediate_size"])}
    return [sparse if i >= first else dense for i in range(layers)]


def _written(ffns: list[Any]) -> dict[str, Any]:
    sparse = next((ffn for ffn in ffns if ffn["name"] == "experts"), None)
    dense: Data = next((ffn for ffn in ffns if ffn["name"] != "experts"), {})
    found: Data = {"first_k_dense_replace": len(ffns) if sparse is None else ffns.index(sparse)}
    activation = dense.get("activation") or at(sparse, "expert.activation")
    found["hidden_act"] = next((theirs for theirs, ours in ACTIVATIONS.items() if ours == activation), None)
    found |= {"intermediate_size": dense["width"]} if dense.get("width") else {}
    if sparse is not None:
        found |= {name: at(sparse, path) for name, (path, _) in SPARSE.items()}
        found["n_shared_experts"] = (at(sparse, "shared.width") or 0) // (at(sparse, "expert.width") or 1)
    return found


FAMILY = Family(
    architecture="DeepseekV3ForCausalLM",
    spec=stack(mixer={"name": "latent"}),
    entries=(
        *SIZES[:-2],
        Equal("num_key_value_heads", f"{MIXER}.heads"),
        Key("qk_nope_head_dim", f"{MIXER}.head_dim", default=128),
        Key("qk_rope_head_dim", f"{MIXER}.rotary_dim", default=64),
        Equal("head_dim", f"{MIXER}.rotary_dim"),  # by which transformers makes the frequencies
        Key("v_head_dim", f"{MIXER}.value_dim", default=128),
        Key("kv_lora_rank", f"{MIXER}.latent", default=512),
        Key("q_lora_rank", f"{MIXER}.query_latent", default=1536, unset=None),
        Key("max_position_embeddings", "max_length", default=4096),
        Key("rms_norm_eps", "norm.eps", float, default=1e-6),
        Key("rope_interleave", "position.layout", {True: "pairs", False: "halves"}, default=True),
        TIED,
        Key("attention_bias", f"{MIXER}.biases", {False: "none", True: "latent"}, default=False),
        DeepSeekScaling(),
        Stack(DEFAULTS),
        *(Only(name, values) for name, values in FIXED.items()),
    ),
    names=(Names(table=OWN), Names(table={**OWN, **STACKED.table})),
    neutral=frozenset(NEUTRAL.split()),
    further="num_nextn_predict_layers",
)
