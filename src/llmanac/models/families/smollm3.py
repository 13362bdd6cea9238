"""SmolLM3: Llama's form, with layers that have no positions (by default every fourth). Bakouch et al. 2025.

Where windows are used and no list says which layers have one, those without positions do.
"""

from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import Config
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Data, Family, Key, Layered
from llmanac.models.families._windows import FULL, SLIDING, sized, written
from llmanac.models.families.llama import BIASES, EPS, FFN, GATED, MIXER, SIZES
from llmanac.models.families.llama import FAMILY as LLAMA
from llmanac.models.families.qwen2 import LENGTH

NONE = {"name": "none"}


def _read(config: Config, data: Data, layers: int) -> list[Any]:
    """None for a layer that is rotated, else the position method of its own."""
    every, turned = config.number("no_rope_layer_interval", int, 4), config.get("no_rope_layers")
    if turned is None:
        turned = [int((i + 1) % every != 0) for i in range(layers)]
    if not isinstance(turned, list) or any(value not in (0, 1) for value in turned):
        raise CheckpointError(f"{config.path}: no_rope_layers is {shown(turned)}, expected a list of 0 and 1")
    return [None if value else NONE for value in turned]


def _written(positions: list[Any]) -> dict[str, Any]:
    return {"no_rope_layers": [int(position != NONE) for position in positions]}


def _windows(config: Config, data: Data, layers: int) -> list[Any]:
    used = config.flag("use_sliding_window", False) and config.get("sliding_window") is not None
    config.get("sliding_window")
    window = config.number("sliding_window", int) if used else None
    positions = [data["blocks"][i % len(data["blocks"])].get("position") for i in range(layers)]
    return sized(config, window, [SLIDING if used and position == NONE else FULL for position in positions])


FAMILY = Family(
    architecture="SmolLM3ForCausalLM",
    spec=LLAMA.spec,
    entries=(
        *SIZES,
        *GATED,
        Key("attention_bias", f"{MIXER}.biases", BIASES, default=False),
        Key("mlp_bias", f"{FFN}.biases", BIASES, default=False),
        LENGTH,
        EPS,
        Key("tie_word_embeddings", "tied", bool, default=True),
        Rope(theta=2e6),
        Layered("no_rope_layers", "position", _read, _written),
        Layered("layer_types", "mixer.window", _windows, written),
    ),
    neutral=frozenset({"max_window_layers"}),  # Qwen's, without effect
)
