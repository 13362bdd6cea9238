"""ModernBERT's layers: which see a window and how wide, what each kind rotates by, and that the first has no norm."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import Config
from llmanac.models.families._table import ConfigEntry, Data
from llmanac.models.families._windows import FULL, SLIDING

MOST_LAYERS = 1000
THETAS = {FULL: ("global_rope_theta", 160_000.0), SLIDING: ("local_rope_theta", 10_000.0)}


class LocalLayers(ConfigEntry):
    """Which layers see a window, how wide it is, and what each kind rotates by."""

    def read(self, config: Config, data: Data) -> None:
        layers, every = data["layers"], config.number("global_attn_every_n_layers", int, 3)
        if layers > MOST_LAYERS:
            raise CheckpointError(f"{config.path}: num_hidden_layers is {layers:,}; at most {MOST_LAYERS:,} are read")
        half = config.number("local_attention", int, 128) // 2
        config.expect("sliding_window", half)  # by which transformers would set the other
        window = half + 1
        kinds = config.get("layer_types") or [SLIDING if i % every else FULL for i in range(layers)]
        if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in (FULL, SLIDING) for kind in kinds):
            raise CheckpointError(
                f"{config.path}: layer_types is {shown(kinds)}, expected {layers} times {FULL} or {SLIDING}"
            )
        thetas = {kind: self._theta(config, kind) for kind in THETAS}
        data["position"]["theta"] = thetas[FULL]
        block = data["blocks"][0]
        data["blocks"] = [deepcopy(block) for _ in kinds]
        for made, kind in zip(data["blocks"], kinds, strict=True):
            if kind == SLIDING:
                made["mixer"]["window"] = window
                made["position"] = {"name": "rope", "theta": thetas[SLIDING]}
        data["blocks"][0]["first_norm"] = "none"

    def _theta(self, config: Config, kind: str) -> float:
        old, default = THETAS[kind]
        tables = config.get("rope_parameters", {})
        table = tables.get(kind) or {} if isinstance(tables, dict) else None
        if not isinstance(table, dict):
            raise CheckpointError(f"{config.path}: rope_parameters is {shown(tables)}, expected a table for each kind")
        own = Config(table, f"{config.path}: rope_parameters.{kind}")
        own.expect("rope_type", "default")
        theta: float = own.number("rope_theta", float, config.number(old, float, default))
        own.finish()
        return theta

    def write(self, data: Data) -> dict[str, Any]:
        blocks, thetas = data["blocks"], {FULL: data["position"].get("theta")}
        blocks = [blocks[i % len(blocks)] for i in range(data["layers"])]
        windows = [block.get("mixer", {}).get("window") for block in blocks]
        local: Data = next((block for block, window in zip(blocks, windows, strict=True) if window), {})
        thetas[SLIDING] = (local.get("position") or {}).get("theta", THETAS[SLIDING][1])
        return {
            "layer_types": [SLIDING if window else FULL for window in windows],
            "local_attention": 2 * (next(filter(None, windows), 65) - 1),
            "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()},
        }
