"""Granite 3: Llama's form with four factors: of embeddings, of scores, of what a part adds, and of the logits.

IBM Granite Team 2024, Granite 3.0 language models.
"""

from dataclasses import dataclass
from typing import Any

from llmanac.models.families._config import Config
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import ConfigEntry, Data, Family, Key, at, put
from llmanac.models.families.llama import BIASES, EPS, FFN, GATED, LENGTH, MIXER, SIZES, TIED
from llmanac.models.families.llama import FAMILY as LLAMA


@dataclass(frozen=True)
class Divisor(ConfigEntry):
    """A number of theirs that divides what our field at `path` multiplies."""

    name: str
    path: str

    def read(self, config: Config, data: Data) -> None:
        put(data, self.path, 1.0 / config.number(self.name, float, 1.0))

    def write(self, data: Data) -> dict[str, Any]:
        scale = at(data, self.path)
        return {self.name: 1.0 if scale is None else float(f"{1.0 / scale:.12g}")}

    def fields(self) -> dict[str, str]:
        return {self.path: self.name}


# what the mixture of experts shares with it
SHARED: tuple[ConfigEntry, ...] = (
    *SIZES,
    Key("attention_bias", f"{MIXER}.biases", BIASES, default=False),
    LENGTH,
    EPS,
    TIED,
    Key("embedding_multiplier", "embedding_scale", float, default=1.0),
    Key("attention_multiplier", f"{MIXER}.score.scale", float, default=1.0),
    Key("residual_multiplier", "blocks.*.branch_scale", float, default=1.0),
    Divisor("logits_scaling", "head.scale"),
    Rope(),
)

FAMILY = Family(
    architecture="GraniteForCausalLM",
    spec=LLAMA.spec,
    entries=(*SHARED, *GATED, Key("mlp_bias", f"{FFN}.biases", BIASES, default=False)),
)
