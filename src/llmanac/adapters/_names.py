"""Where the linear maps of a model are in the files of its family; PEFT's names are those of the family's modules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from llmanac.models.families import FAMILIES, Misfit, Names, WeightSource, family
from llmanac.models.lm import TrainedModel


def family_of(model: Any) -> str | None:
    """The family that a model was read from, else the first that can hold it; None for no family."""
    if not isinstance(model, TrainedModel):
        return None
    if model.family is not None:
        return model.family
    for name in FAMILIES:
        try:
            family(name).to_config(model.spec, model.vocab_size)
            return name
        except Misfit:
            continue
    return None


def places(model: Any, kind: str | None) -> dict[str, WeightSource]:
    """Where each parameter is in the files of family `kind`; under its own name for None."""
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if ".lora_" not in name}
    spec = model.spec if isinstance(model, TrainedModel) else None
    if spec is not None and spec.tied:
        shapes["lm_head.weight"] = tuple(model.embedding.weight.shape)
    names = Names() if kind is None else family(kind).names[0]
    return names.place(shapes, spec)


def together(model: nn.Module, layers: Iterable[str]) -> dict[str, str]:
    """The name of each layer's matrix in the family's files: layers of one name are one matrix there."""
    found = places(model, family_of(model))
    return {name: found[f"{name}.weight"].name for name in layers if found[f"{name}.weight"].expert is None}
