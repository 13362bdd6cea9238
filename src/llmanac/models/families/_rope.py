"""Rotary positions in a config: `rope_theta` with `rope_scaling`, and `rope_parameters` of transformers 5.

Both are read; the newer is written, with the older ones as well for older readers. Lengths that a scaling leaves out
follow from `max_position_embeddings`, which is read before.
"""

import math
from dataclasses import dataclass
from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import Config
from llmanac.models.families._table import ConfigEntry, Data
from llmanac.models.folder import LARGEST, LEAST, MOST, TRAINED

NUMBERS: dict[str, dict[str, tuple[str, float | None]]] = {  # of each scaling: theirs -> ours, and its default
    "linear": {"factor": ("factor", None)},
    "dynamic": {"factor": ("factor", None)},
    "yarn": {"beta_slow": ("low_frequency_factor", 1.0), "beta_fast": ("high_frequency_factor", 32.0)},
    "llama3": {
        "factor": ("factor", None),
        "low_freq_factor": ("low_frequency_factor", None),
        "high_freq_factor": ("high_frequency_factor", None),
    },
    "longrope": {},
}
LISTS = {"short_factor": "short_factors", "long_factor": "long_factors"}
OLDER = {"su": "longrope"}  # names of the first files


@dataclass(frozen=True)
class Rope(ConfigEntry):
    """The model's position.

    Attributes:
        theta: where the config does not say; partial: whether the family rotates a part of each head where the config
            says so, and `fraction` where it does not.
        kinds: scalings that the family has; trained: the length that it was trained at where the config, outside of
            the scaling's own table, does not say; None where that is found in the table alone.
    """

    theta: float = 10_000.0
    partial: bool = False
    fraction: float = 1.0
    kinds: tuple[str, ...] = tuple(NUMBERS)
    trained: int | None = None

    def read(self, config: Config, data: Data) -> None:
        tables = {key: config.get(key, {}) for key in ("rope_parameters", "rope_scaling")}
        for key, table in tables.items():
            if not isinstance(table, dict):
                raise CheckpointError(f"{config.path}: {key} is {shown(table)}, expected a table")
        given = {key: self.table(config, table, key) for key, table in tables.items() if table}
        kinds = [_kind(own.data) for own in given.values()]
        differ = kinds[1:] != kinds[:1] and len(kinds) == 2
        found = [] if differ else [self.scaling(own, config, data["max_length"]) for own in given.values()]
        if differ or (len(found) == 2 and found[0] != found[1]):
            raise CheckpointError(
                f"{config.path}: rope_parameters ({shown(tables['rope_parameters'])}) and rope_scaling "
                f"({shown(tables['rope_scaling'])}) say different things; keep the one that the weights were trained "
                "with"
            )
        own = next(iter(given.values()), self.table(config, {}, "rope_parameters"))
        position = data["position"]
        position["theta"] = own.number("rope_theta", float, config.number("rope_theta", float, self.theta))
        if self.partial:
            fraction = own.number(
                "partial_rotary_factor", float, config.number("partial_rotary_factor", float, self.fraction)
            )
            position["rotary_fraction"] = fraction
        else:  # transformers' model rotates all of each head whatever this says
            config.expect("partial_rotary_factor", 1.0)
        if found and found[0]:
            position["scaling"] = found[0]
            if found[0]["type"] == "dynamic":  # their key is the trained length, and rows may be `factor` times as long
                data["max_length"] = min(int(data["max_length"] * found[0]["factor"]), MOST)
        for own in given.values():
            own.get("rope_theta")
            if self.partial:
                own.get("partial_rotary_factor")
            else:
                own.expect("partial_rotary_factor", 1.0)
            own.finish()
        config.get(TRAINED)

    def table(self, config: Config, table: dict[str, Any], key: str) -> Config:
        """A table of rotary settings, to be read."""
        return Config(table, f"{config.path}: {key}", frozenset({"finetuned"}))

    def scaling(self, own: Config, config: Config, longest: int) -> Data | None:
        """The scaling that a table asks for in a model of `longest` positions, as our Spec's data; None for none."""
        kind = _kind(own.data)
        own.get("rope_type")
        own.get("type")
        if kind not in ("default", *self.kinds):
            known = ", ".join(("default", *self.kinds))
            raise CheckpointError(f"{own.path}: rope_type {shown(kind)} is not supported (known: {known})")
        own.get(TRAINED)
        if kind == "default":
            return None
        found: Data = {"type": kind}
        if kind != "linear":  # transformers measures `dynamic` by the longest row, and prefers what is outside
            outside = config.number(TRAINED, int, self.trained or own.number(TRAINED, int, longest))
            found["original_length"] = longest if kind == "dynamic" else outside
        for name, (field, default) in NUMBERS[kind].items():
            found[field] = own.number(name, float, default)
        if kind in ("yarn", "longrope"):
            ratio = longest / found["original_length"]  # below 1 is no scaling, which transformers would compute
            ratio = max(1.0, ratio) if kind == "longrope" else ratio
            found["factor"] = own.number("factor", float, ratio)
            attention = _attention(own, kind, found["factor"])
            found |= {} if attention is None else {"attention_factor": attention}
        if kind == "yarn":
            found["ramp"] = "whole" if own.flag("truncate", True) else "exact"
        if kind == "longrope":
            found |= {field: _numbers(own, name) for name, field in LISTS.items()}
        return found

    def write(self, data: Data) -> dict[str, Any]:
        position = data["position"]
        theta, scaling = position.get("theta", self.theta), position.get("scaling")
        stretch = written(scaling)
        part = {"partial_rotary_factor": position.get("rotary_fraction", 1.0)} if self.partial else {}
        found = {
            "rope_parameters": {**stretch, "rope_theta": theta, **part},
            "rope_theta": theta,
            "rope_scaling": stretch if scaling else None,
            **part,
        }
        if stretch["rope_type"] == "dynamic":
            found["max_position_embeddings"] = scaling["original_length"]
        if self.trained is not None and TRAINED in stretch:
            found[TRAINED] = stretch[TRAINED]
        return found

    def fields(self) -> dict[str, str]:
        stretch = "position.scaling"
        names = {field: name for numbers in NUMBERS.values() for name, (field, _) in numbers.items()}
        names |= {field: name for name, field in LISTS.items()}
        names |= {
            "low_frequency_factor": "low_freq_factor and high_freq_factor, or beta_slow and beta_fast",
            "original_length": TRAINED,
            "attention_factor": "attention_factor",
        }
        return {
            "position.theta": "rope_theta",
            **{f"{stretch}.{field}": name for field, name in names.items()},
            **({"position.rotary_fraction": "partial_rotary_factor"} if self.partial else {}),
        }


def _kind(table: Data) -> Any:
    kind = next((table[key] for key in ("rope_type", "type") if table.get(key) is not None), "default")
    return OLDER.get(kind, kind) if isinstance(kind, str) else kind


def written(scaling: Data | None) -> dict[str, Any]:
    """Our scaling as a table of theirs, which is refused when it is read where the family does not have it."""
    if scaling is None:
        return {"rope_type": "default"}
    kind = scaling["type"]
    names = {name: field for name, (field, _) in NUMBERS[kind].items()} | {"factor": "factor"}
    names |= {} if kind in ("linear", "dynamic") else {TRAINED: "original_length"}
    names |= {"attention_factor": "attention_factor"} if scaling.get("attention_factor") is not None else {}
    table = {"rope_type": kind} | {name: scaling[field] for name, field in names.items()}
    if kind == "yarn":
        table["truncate"] = scaling.get("ramp", "whole") == "whole"
    if kind == "longrope":
        table |= {name: list(scaling[field]) for name, field in LISTS.items()}
    return table


def _attention(own: Config, kind: str, factor: float) -> float | None:
    """What cosines and sines are multiplied by where the table says so: by itself, or as a ratio of two scales."""
    scales = ("mscale", "mscale_all_dim") if kind == "yarn" else ()
    given = [own.get(name) for name in scales]
    if own.get("attention_factor") is not None:
        return float(own.number("attention_factor", float))
    if not given or not all(given):
        return None
    above, below = (0.1 * own.number(name, float) * math.log(max(factor, 1.0)) + 1 for name in scales)
    return float(above / below)


def _numbers(own: Config, name: str) -> list[float]:
    """A list of numbers above 0."""
    values = own.get(name)
    if not isinstance(values, list) or not values:
        raise CheckpointError(f"{own.path}: {name} is {shown(values)}, expected a list of numbers")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not LEAST <= value <= LARGEST:
            raise CheckpointError(f"{own.path}: {name} has {shown(value)}, expected numbers above 0")
    return [float(value) for value in values]
