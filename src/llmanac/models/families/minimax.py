"""MiniMax-01: lightning attention in most layers, softmax attention in the others, experts, and weighted residuals.

Its parts add to their normed inputs. A lightning layer forgets the slower the higher it is. Experts as in Mixtral.
MiniMax 2025, arXiv:2501.08313.
"""

from copy import deepcopy
from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.core.spec import dump
from llmanac.models.families._config import Config
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import MOST_LAYERS, ConfigEntry, Data, Family, Key, Only, stack
from llmanac.models.families.llama import FFN, MIXER, SIZES, TIED
from llmanac.models.families.mixtral import EXPERTS, HUB, STACKED
from llmanac.models.mixers.lightning import Spec as Lightning

FULL, LINEAR = "full_attention", "linear_attention"
WEIGHTS = {"mixer_residual": "alpha_factor", "mixer_scale": "beta_factor"}
PREFIXES = {FULL: "full_attn", LINEAR: "linear_attn"}


class MiniMaxLayers(ConfigEntry):
    """`layer_types`, with what differs between the two kinds. It is read after all that is set in every block."""

    def read(self, config: Config, data: Data) -> None:
        layers = data["layers"]
        if layers > MOST_LAYERS:
            raise CheckpointError(f"{config.path}: layer_types: lists for {layers:,} layers are not read")
        kinds = config.get("layer_types", [LINEAR if i % 2 else FULL for i in range(layers)])
        if not isinstance(kinds, list) or any(kind not in (FULL, LINEAR) for kind in kinds):
            raise CheckpointError(
                f"{config.path}: layer_types is {shown(kinds)}, expected a list of {FULL} and {LINEAR}"
            )
        if len(kinds) != layers:
            raise CheckpointError(f"{config.path}: layer_types lists {len(kinds):,} layers, the model has {layers:,}")
        block = data["blocks"][0]
        size = block["mixer"].get("head_dim")
        lightning = {**dump(Lightning()), "heads": block["mixer"]["heads"], **({"head_dim": size} if size else {})}
        weights = {
            kind: {ours: config.number(f"{prefix}_{key}", float, 1.0) for ours, key in WEIGHTS.items()}
            for kind, prefix in PREFIXES.items()
        }
        data["blocks"] = []
        for i, kind in enumerate(kinds):
            own = {**deepcopy(block), **weights[kind]}
            if kind == LINEAR:
                own["mixer"] = {**lightning, "slope": 1 - i / (layers - 1 + 1e-5) + 1e-5}
            data["blocks"].append(own)

    def write(self, data: Data) -> dict[str, Any]:
        blocks = [data["blocks"][i % len(data["blocks"])] for i in range(data["layers"])]
        kinds = [LINEAR if block.get("mixer", {}).get("name") == "lightning" else FULL for block in blocks]
        written: dict[str, Any] = {"layer_types": kinds}
        for kind, prefix in PREFIXES.items():
            own = blocks[kinds.index(kind)] if kind in kinds else {}
            written |= {f"{prefix}_{key}": own.get(ours, 1.0) for ours, key in WEIGHTS.items()}
            if kind == FULL:
                mixer = own.get("mixer", {})
                written |= {"num_key_value_heads": mixer.get("kv_heads"), "sliding_window": mixer.get("window")}
        return written

    def fields(self) -> dict[str, str]:
        return {f"blocks.*.{ours}": f"full_attn_{key} and linear_attn_{key}" for ours, key in WEIGHTS.items()}


FAMILY = Family(
    architecture="MiniMaxForCausalLM",
    spec=stack(ffn={"name": "experts", "expert": "gated"}, block={"name": "normed-residual"}),
    entries=(
        *SIZES,
        *EXPERTS,
        Key("num_local_experts", f"{FFN}.experts", default=8, aliases=("num_experts",)),
        Key("num_experts_per_tok", f"{FFN}.top_k", default=2),
        Key("intermediate_size", f"{FFN}.expert.width"),
        Key("sliding_window", f"{MIXER}.window", default=None, unset=None),
        Key("max_position_embeddings", "max_length", default=4096 * 32),
        Key("rms_norm_eps", "norm.eps", float, default=1e-5),
        Key("mlp_alpha_factor", "blocks.*.ffn_residual", float, default=1.0),
        Key("mlp_beta_factor", "blocks.*.ffn_scale", float, default=1.0),
        TIED,
        Rope(theta=1e6),
        MiniMaxLayers(),
        Only("hidden_act", ("silu", "swish")),  # of lightning attention too
        Only("output_router_logits", (False, True)),
    ),
    names=(HUB, STACKED),
    neutral=frozenset({"router_jitter_noise", "block_size"}),  # the size of blocks changes no value
    # what follows from a layer's slope
    ignored=(".rotary_emb.inv_freq", ".slope_rate", ".query_decay", ".key_decay", ".diagonal_decay"),
)
