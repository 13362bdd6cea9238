"""Rotary positions in a config: `rope_theta` with `rope_scaling`, and `rope_parameters` of transformers 5.

Both are read; the newer is written, with the older ones as well for older readers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import Config
from llmanac.models.families._table import Data, Entry

SIZES = {  # of a llama3 scaling: theirs, ours, kind
    "factor": ("factor", float),
    "low_freq_factor": ("low_frequency_factor", float),
    "high_freq_factor": ("high_frequency_factor", float),
    "original_max_position_embeddings": ("original_length", int),
}
SCALINGS = {"linear": ("factor",), "llama3": tuple(SIZES)}


@dataclass(frozen=True)
class Rope(Entry):
    """The model's position; `partial`: whether the family rotates a part of each head where the config says so."""

    theta: float = 10_000.0
    partial: bool = False

    def read(self, config: Config, data: Data) -> None:
        new, old = config.get("rope_parameters", {}), config.get("rope_scaling", {})
        for key, table in (("rope_parameters", new), ("rope_scaling", old)):
            if not isinstance(table, dict):
                raise CheckpointError(f"{config.path}: {key} is {shown(table)}, expected a table")
        if new and old and not _same(new, old):
            raise CheckpointError(
                f"{config.path}: rope_parameters ({shown(new)}) and rope_scaling ({shown(old)}) say different things; "
                "keep the one that the weights were trained with"
            )
        table, where = new or old, f"{config.path}: {'rope_parameters' if new else 'rope_scaling'}"
        own = Config(table, where)
        position = data["position"]
        position["theta"] = own.number("rope_theta", float, config.number("rope_theta", float, self.theta))
        if self.partial:
            fraction = own.number("partial_rotary_factor", float, config.number("partial_rotary_factor", float, 1.0))
            position["rotary_fraction"] = fraction
        else:  # transformers' model rotates all of each head whatever this says
            for place in (own, config):
                place.expect("partial_rotary_factor", 1.0)
        kind = own.get("rope_type", own.get("type", "default"))
        own.get("type")
        if kind not in ("default", *SCALINGS):
            known = ", ".join(("default", *SCALINGS))
            raise CheckpointError(f"{where}: rope_type {shown(kind)} is not supported (known: {known})")
        if kind != "default":
            sizes = {SIZES[name][0]: own.number(name, SIZES[name][1]) for name in SCALINGS[kind]}
            position["scaling"] = {"type": kind, **sizes}
        own.get("original_max_position_embeddings")
        own.finish()

    def write(self, data: Data) -> dict[str, Any]:
        position = data["position"]
        theta, scaling = position.get("theta", self.theta), position.get("scaling")
        stretch: dict[str, Any] = {"rope_type": "default"}
        if scaling is not None:
            # a type that is not known here has no sizes, and is refused when it is read again
            sizes = {theirs: scaling[SIZES[theirs][0]] for theirs in SCALINGS.get(scaling["type"], ())}
            stretch = {"rope_type": scaling["type"], **sizes}
        part = {"partial_rotary_factor": position.get("rotary_fraction", 1.0)} if self.partial else {}
        return {
            "rope_parameters": {**stretch, "rope_theta": theta, **part},
            "rope_theta": theta,
            "rope_scaling": stretch if scaling else None,
            **part,
        }

    def fields(self) -> dict[str, str]:
        stretch = "position.scaling"
        return {
            "position.theta": "rope_theta",
            f"{stretch}.low_frequency_factor": "low_freq_factor and high_freq_factor",
            f"{stretch}.original_length": "original_max_position_embeddings",
            f"{stretch}.factor": "factor",
            **({"position.rotary_fraction": "partial_rotary_factor"} if self.partial else {}),
        }


def _same(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """Whether both tables ask for one scaling; each may leave out what only the other's readers look for."""

    def scaling_of(table: dict[str, Any]) -> dict[str, Any]:
        rest = {k: v for k, v in table.items() if k not in ("type", "rope_type", "rope_theta", "partial_rotary_factor")}
        return {"rope_type": table.get("rope_type", table.get("type", "default")), **rest}

    return scaling_of(new) == scaling_of(old)
