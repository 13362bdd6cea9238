"""`layer_types`: which layers see all tokens and which a window, as a list or in the spellings before it."""

from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import Config
from llmanac.models.families._table import Data, Layered

FULL, SLIDING = "full_attention", "sliding_attention"


def _kinds(config: Config, default: list[str]) -> list[str]:
    """The kind of each layer, `default` where there is no list."""
    kinds = config.get("layer_types", default)
    if not isinstance(kinds, list) or any(kind not in (FULL, SLIDING) for kind in kinds):
        raise CheckpointError(f"{config.path}: layer_types is {shown(kinds)}, expected a list of {FULL} and {SLIDING}")
    return kinds


def _read(config: Config, data: Data, layers: int) -> list[Any]:
    """The window of each layer. Without a list, layers from `max_window_layers` on have one."""
    used = config.flag("use_sliding_window", False)
    config.get("sliding_window")
    window = config.number("sliding_window", int, 4096) if used else None
    first = config.get("max_window_layers", 28)
    if type(first) is not int or first < 0:
        raise CheckpointError(f"{config.path}: max_window_layers is {shown(first)}, expected a whole number")
    return sized(config, window, [SLIDING if window is not None and i >= first else FULL for i in range(layers)])


def sized(config: Config, window: int | None, default: list[str]) -> list[Any]:
    """The window of each layer, of `default` kinds where there is no list; None where windows are not used."""
    kinds = _kinds(config, default)
    if window is None and SLIDING in kinds:
        raise CheckpointError(f"{config.path}: layer_types has {SLIDING}, but use_sliding_window is not true")
    return [window if kind == SLIDING else None for kind in kinds]


def _listed(windows: list[Any]) -> dict[str, Any]:
    window = next((size for size in windows if size is not None), None)
    return {"sliding_window": window, "layer_types": [FULL if size is None else SLIDING for size in windows]}


def written(windows: list[Any]) -> dict[str, Any]:
    found = _listed(windows)
    window = found["sliding_window"]
    first = len(windows) if window is None else windows.index(window)
    return {"use_sliding_window": window is not None, "max_window_layers": first, **found}


WINDOWS = Layered("layer_types", "mixer.window", _read, written)


def alternating(every: int, window: int) -> Layered:
    """All layers have a window but each `every`-th, where the config has no list; `window` where it has no size."""

    def read(config: Config, data: Data, layers: int) -> list[Any]:
        own = config.get("sliding_window_pattern") is None or config.get("layer_types") is not None
        period = every if own else config.number("sliding_window_pattern", int, every)
        kinds = _kinds(config, [SLIDING if (i + 1) % period else FULL for i in range(layers)])
        config.get("sliding_window")
        if SLIDING not in kinds:
            return [None] * len(kinds)
        if config.data.get("sliding_window", window) is None:
            raise CheckpointError(f"{config.path}: sliding_window is not set, but layer_types has {SLIDING}")
        size = config.number("sliding_window", int, window)
        return [size if kind == SLIDING else None for kind in kinds]

    def listed(windows: list[Any]) -> dict[str, Any]:
        # transformers wants a size where no layer has a window too: its own default
        return {key: value for key, value in _listed(windows).items() if value is not None}

    return Layered("layer_types", "mixer.window", read, listed)
