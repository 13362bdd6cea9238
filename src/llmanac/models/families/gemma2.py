"""Gemma 2: Gemma's form with norms before and after each part, soft caps, and a window in every second layer.

Scores are divided by the root of `query_pre_attn_scalar` in place of the head's size. Gemma Team 2024,
arXiv:2408.00118.
"""

from typing import Any

from llmanac.models.families._config import Config
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import (
    ACTIVATIONS,
    ConfigEntry,
    Data,
    Family,
    Fixed,
    Key,
    Only,
    at,
    put,
    stack,
    with_defaults,
)
from llmanac.models.families._windows import alternating
from llmanac.models.families.llama import BIASES, EPS, FFN, MIXER, SIZES


class Scale(ConfigEntry):
    """`query_pre_attn_scalar`: scores are multiplied by its -1/2-th power; left open where it is the head's size."""

    path = f"{MIXER}.score.scale"

    def read(self, config: Config, data: Data) -> None:
        size = config.number("query_pre_attn_scalar", int, 256)
        put(data, self.path, None if size == at(data, f"{MIXER}.head_dim") else size**-0.5)

    def write(self, data: Data) -> dict[str, Any]:
        scale = at(data, self.path)
        return {"query_pre_attn_scalar": at(data, f"{MIXER}.head_dim") if scale is None else round(scale**-2)}

    def fields(self) -> dict[str, str]:
        return {self.path: "query_pre_attn_scalar"}


# what Gemma 2 and 3 share
COMMON: tuple[ConfigEntry, ...] = (
    *with_defaults(SIZES, num_key_value_heads=4, head_dim=256),
    Scale(),
    Key("hidden_activation", f"{FFN}.activation", ACTIVATIONS, default="gelu_pytorch_tanh"),
    Only("hidden_act", (None, "gelu_pytorch_tanh")),
    Key("intermediate_size", f"{FFN}.width"),
    Key("attention_bias", f"{MIXER}.biases", BIASES, default=False),
    Key("tie_word_embeddings", "tied", bool, default=True),
    Fixed("embedding_scale", lambda data: float(data["dim"] ** 0.5)),
    Only("use_bidirectional_attention", (None, False)),
)
CACHE = frozenset({"cache_implementation"})

FAMILY = Family(
    architecture="Gemma2ForCausalLM",
    spec=stack(block={"name": "sandwich"}, norm={"name": "rmsnorm", "offset": 1.0}),
    entries=(
        *COMMON,
        EPS,
        Key("max_position_embeddings", "max_length", default=8192),
        Key("attn_logit_softcapping", f"{MIXER}.score.softcap", float, default=50.0, unset=None),
        Key("final_logit_softcapping", "head.softcap", float, default=30.0, unset=None),
        Rope(),
        alternating(2, 4096),
    ),
    neutral=CACHE,
)
