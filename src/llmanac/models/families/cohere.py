"""Command R: both parts of a block read one LayerNorm without a bias, rotation in neighbouring pairs, a tied head.

Logits are multiplied by `logit_scale`; Command R+ norms queries and keys, each head with weights of its own. Cohere
2024.
"""

from dataclasses import dataclass, replace
from typing import Any

from llmanac.core.spec import dump
from llmanac.models.families._config import Config
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import ConfigEntry, Data, Family, Key, at, put, stack
from llmanac.models.families.llama import BIASES, GATED, MIXER, SIZES, HeadSize
from llmanac.models.norms.layernorm import Spec as LayerNorm
from llmanac.models.norms.rmsnorm import Spec as RMSNorm


@dataclass(frozen=True)
class NormedHeads(ConfigEntry):
    """`use_qk_norm`: a norm with the eps of the other norms, and what of the heads it is over."""

    norm: LayerNorm | RMSNorm
    over: str

    def read(self, config: Config, data: Data) -> None:
        if config.flag("use_qk_norm", False):
            put(data, f"{MIXER}.qk_norm", dump(replace(self.norm, eps=data["norm"]["eps"])))
            put(data, f"{MIXER}.qk_norm_over", self.over)

    def write(self, data: Data) -> dict[str, Any]:
        return {"use_qk_norm": at(data, f"{MIXER}.qk_norm") is not None}

    def fields(self) -> dict[str, str]:
        return {f"{MIXER}.qk_norm": "use_qk_norm"}


# what Cohere 2 shares with it
SHARED: tuple[ConfigEntry, ...] = (
    *SIZES[:-1],
    HeadSize(),
    *GATED,
    Key("attention_bias", f"{MIXER}.biases", BIASES, default=False),
    Key("max_position_embeddings", "max_length", default=8192),
    Key("layer_norm_eps", "norm.eps", float, default=1e-5),
    Key("logit_scale", "head.scale", float, default=0.0625),
    Key("tie_word_embeddings", "tied", bool, default=True),
)
SPEC = stack(
    block={"name": "parallel"}, position={"name": "rope", "layout": "pairs"}, norm={"name": "layernorm", "bias": "none"}
)

FAMILY = Family(
    architecture="CohereForCausalLM",
    spec=SPEC,
    entries=(*SHARED, NormedHeads(LayerNorm(bias="none"), "each-head"), Rope(theta=5e5)),
)
