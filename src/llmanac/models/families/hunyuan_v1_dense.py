"""Hunyuan's dense models: Llama's form with queries and keys normed after they are turned.

Their scaling `dynamic` with an `alpha` is a larger base of the rotation, the same for all lengths. Tencent 2025.
"""

from __future__ import annotations

from typing import Any

from llmanac.core.errors import CheckpointError
from llmanac.models.families._config import Config, Names
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Data, Family, Key, Only, at, stack
from llmanac.models.families.llama import BIASES, GATED, LENGTH, MIXER, SIZES, TIED

UNREAD = ("factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")  # beside an alpha


class AlphaRope(Rope):
    """Rotary settings, whose `alpha` becomes a part of the base."""

    def read(self, config: Config, data: Data) -> None:
        for key in ("rope_parameters", "rope_scaling"):
            table = config.data.get(key)
            if isinstance(table, dict) and table.get("alpha") is not None:
                config.data[key] = self._static(self.table(config, table, key), config, data)
        super().read(config, data)

    def _static(self, own: Config, config: Config, data: Data) -> Data:
        """The table without its alpha."""
        size = at(data, f"{MIXER}.head_dim") or data["dim"] // at(data, f"{MIXER}.heads")
        own.choose("rope_type" if "rope_type" in own.data else "type", {"dynamic": None}, None)
        alpha, base = own.number("alpha", float), config.number("rope_theta", float, self.theta)
        base = own.number("rope_theta", float, base)
        if size <= 2:
            raise CheckpointError(f"{own.path}: alpha needs heads of more than 2 numbers")
        rest = {key: value for key, value in own.data.items() if key not in ("alpha", "type", *UNREAD)}
        return {**rest, "rope_type": "default", "rope_theta": base * alpha ** (size / (size - 2))}


class HeadDim(Key):
    """`head_dim`, which transformers needs also where it follows from the width."""

    def write(self, data: Data) -> dict[str, Any]:
        heads = at(data, f"{MIXER}.heads")  # None: another kind of layer, which the family refuses
        return {self.name: at(data, self.path) or (data["dim"] // heads if heads else None)}


FAMILY = Family(
    architecture="HunYuanDenseV1ForCausalLM",
    spec=stack(mixer={"qk_norm": "rmsnorm", "qk_norm_at": "after"}),
    entries=(
        *SIZES[:-1],
        HeadDim("head_dim", f"{MIXER}.head_dim", default=None),
        *GATED,
        Key("attention_bias", f"{MIXER}.biases", BIASES, default=False),
        LENGTH,
        Key("rms_norm_eps", "norm.eps", float, default=1e-5, paths=(f"{MIXER}.qk_norm.eps",)),
        TIED,
        AlphaRope(),
        Only("use_qk_norm", (None, True)),
    ),
    names=(
        Names(table={"self_attn.q_norm": "self_attn.query_layernorm", "self_attn.k_norm": "self_attn.key_layernorm"}),
    ),
    neutral=frozenset({"attention_head_dim"}),  # the published files say head_dim twice
)
