"""EXAONE 4: norms after each part and of queries and keys; with windows, layers that see all have no positions.

LG AI Research 2025, arXiv:2507.11407.
"""

from typing import Any

from llmanac.models.families._config import Config
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Data, Family, Key, stack
from llmanac.models.families._windows import FULL, alternating
from llmanac.models.families.cohere2 import Unrotated
from llmanac.models.families.llama import GATED, LENGTH, MIXER, SIZES, TIED


class WindowsOrNone(Unrotated):
    """`sliding_window`: null where all layers see all and are rotated."""

    def read(self, config: Config, data: Data) -> None:
        if "sliding_window" not in config.data or config.get("sliding_window") is not None:
            super().read(config, data)

    def write(self, data: Data) -> dict[str, Any]:
        rotated = all("position" not in block and block["mixer"].get("window") is None for block in data["blocks"])
        return {"sliding_window": None, "layer_types": [FULL] * data["layers"]} if rotated else {}


FAMILY = Family(
    architecture="Exaone4ForCausalLM",
    spec=stack(mixer={"qk_norm": "rmsnorm"}, block={"name": "sandwich", "norms": "after"}),
    entries=(
        *SIZES,
        *GATED,
        LENGTH,
        Key("rms_norm_eps", "norm.eps", float, default=1e-5, paths=(f"{MIXER}.qk_norm.eps",)),
        TIED,
        Rope(),
        alternating(4, 4096),
        WindowsOrNone(),
    ),
)
