"""EXAONE 4: norms after each part and of queries and keys; with windows, layers that see all have no positions.

LG AI Research 2025, arXiv:2507.11407.
"""

from typing import Any

from llmanac.models.blocks.sandwich import Spec as Sandwich
from llmanac.models.families._config import Config
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Data, Family, Key
from llmanac.models.families._windows import FULL, alternating
from llmanac.models.families.cohere2 import Unrotated
from llmanac.models.families.llama import GATED, LENGTH, MIXER, SIZES, TIED, UNDROPPED
from llmanac.models.ffn.gated import Spec as Gated
from llmanac.models.lm.transformer import Spec
from llmanac.models.mixers.softmax import Spec as Softmax
from llmanac.models.norms.rmsnorm import Spec as RMSNorm
from llmanac.models.positions.rope import Spec as RoPE


class WindowsOrNone(Unrotated):
    """`sliding_window`: null where all layers see all and are rotated."""

    def read(self, config: Config, data: Data) -> None:
        if "sliding_window" not in config.data or config.get("sliding_window") is not None:
            super().read(config, data)

    def write(self, data: Data) -> dict[str, Any]:
        rotated = all("position" not in block and block["mixer"].get("window") is None for block in data["blocks"])
        return {"sliding_window": None, "layer_types": [FULL] * data["layers"]} if rotated else {}


FAMILY = Family(
    model_type="exaone4",
    architecture="Exaone4ForCausalLM",
    spec=Spec(
        blocks=(Sandwich(mixer=Softmax(qk_norm=RMSNorm()), ffn=Gated(), norms="after"),),
        position=RoPE(),
        norm=RMSNorm(),
    ),
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
    writes=UNDROPPED,
)
