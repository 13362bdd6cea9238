"""Gemma 3's language model: Gemma 2's form without caps, with normed queries and keys; most layers have a window.

Layers with a window have a rotation of their own, of shorter wavelengths. As five of six have one, it is the model's
position here; the other layers have theirs in their blocks. Gemma Team 2025, arXiv:2503.19786.
"""

from dataclasses import dataclass
from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import Config
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import ConfigEntry, Data, Family, Key, Only, at, stack
from llmanac.models.families._windows import FULL, SLIDING, alternating
from llmanac.models.families.gemma2 import CACHE, COMMON
from llmanac.models.families.llama import MIXER


@dataclass(frozen=True)
class Ropes(ConfigEntry):
    """A table for each kind of layer, or the keys before it: `rope_theta`, `rope_scaling`, and `local` of a window."""

    full: Rope
    sliding: Rope
    local: str = "rope_local_base_freq"

    def read(self, config: Config, data: Data) -> None:
        tables = config.get("rope_parameters", {})
        if not isinstance(tables, dict) or not set(tables) <= {FULL, SLIDING}:
            raise CheckpointError(
                f"{config.path}: rope_parameters is {shown(tables)}, expected tables of {FULL} and {SLIDING}"
            )
        older = {FULL: ("rope_theta", "rope_scaling"), SLIDING: (self.local, "")}
        found = {}
        for kind, rope in ((FULL, self.full), (SLIDING, self.sliding)):
            keys = {"rope_parameters": tables.get(kind), "max_position_embeddings": data["max_length"]}
            keys |= {new: config.get(old) for new, old in zip(("rope_theta", "rope_scaling"), older[kind], strict=True)}
            part = {"position": {"name": "rope"}, "max_length": data["max_length"]}
            rope.read(Config(keys, f"{config.path}: {kind}"), part)
            found[kind] = part
        data["position"], data["max_length"] = found[SLIDING]["position"], found[FULL]["max_length"]
        for block in data["blocks"]:
            if at(block, "mixer.window") is None:
                block["position"] = found[FULL]["position"]

    def write(self, data: Data) -> dict[str, Any]:
        own: Data = next((block["position"] for block in data["blocks"] if "position" in block), {})
        full, sliding = self.full.write({"position": own}), self.sliding.write(data)
        return (
            {
                "rope_parameters": {FULL: full["rope_parameters"], SLIDING: sliding["rope_parameters"]},
                "rope_theta": full["rope_theta"],
                "rope_scaling": full["rope_scaling"],
            }
            | {key: full[key] for key in ("max_position_embeddings",) if key in full}
            | ({self.local: sliding["rope_theta"]} if self.local else {})
        )

    def fields(self) -> dict[str, str]:
        return self.full.fields()


FAMILY = Family(
    architecture="Gemma3ForCausalLM",
    spec=stack(
        mixer={"qk_norm": {"name": "rmsnorm", "offset": 1.0}},
        block={"name": "sandwich"},
        norm={"name": "rmsnorm", "offset": 1.0},
    ),
    entries=(
        *COMMON,
        Key("rms_norm_eps", "norm.eps", float, default=1e-6, paths=(f"{MIXER}.qk_norm.eps",)),
        Key("max_position_embeddings", "max_length", default=131072),
        Only("attn_logit_softcapping", (None,)),  # transformers has the key, and no cap
        Key("final_logit_softcapping", "head.softcap", float, default=None, unset=None),
        alternating(6, 4096),
        Ropes(full=Rope(theta=1e6), sliding=Rope(theta=1e4)),
    ),
    neutral=CACHE | {"_sliding_window_pattern"},  # beside a list
)
