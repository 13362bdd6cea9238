"""`layer_types`: which layers see all tokens and which a window, as a list or in the spellings before it."""

from __future__ import annotations

from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import Config
from llmanac.models.families._table import Data, Layered

FULL, SLIDING = "full_attention", "sliding_attention"


def _read(config: Config, data: Data, layers: int) -> list[Any]:
    """The window of each layer. Without a list, layers from `max_window_layers` on have one."""
    used = config.flag("use_sliding_window", False)
    config.get("sliding_window")
    window = config.number("sliding_window", int, 4096) if used else None
    kinds = config.get("layer_types")
    first = config.get("max_window_layers", 28)
    if kinds is None:
        if type(first) is not int or first < 0:
            raise CheckpointError(f"{config.path}: max_window_layers is {shown(first)}, expected a whole number")
        kinds = [SLIDING if window is not None and i >= first else FULL for i in range(layers)]
    if not isinstance(kinds, list) or any(kind not in (FULL, SLIDING) for kind in kinds):
        raise CheckpointError(f"{config.path}: layer_types is {shown(kinds)}, expected a list of {FULL} and {SLIDING}")
    if window is None and SLIDING in kinds:
        raise CheckpointError(f"{config.path}: layer_types has {SLIDING}, but use_sliding_window is not true")
    return [window if kind == SLIDING else None for kind in kinds]


def _written(windows: list[Any]) -> dict[str, Any]:
    window = next((size for size in windows if size is not None), None)
    return {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": len(windows) if window is None else windows.index(window),
        "layer_types": [FULL if size is None else SLIDING for size in windows],
    }


WINDOWS = Layered("layer_types", "mixer.window", _read, _written)
