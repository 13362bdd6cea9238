"""Families of models of images: their config.json as our Spec and their parameter names as ours.

A family is a file with a `FAMILY` (`_family.py`). Towers of text are read by the tables of `models/families`.
"""

import importlib
from dataclasses import replace
from typing import Any

from llmanac.core.errors import CheckpointError, nearest, shown
from llmanac.models.images.families._family import ImageFamily

__all__ = ["FAMILIES", "WRITTEN", "ImageFamily", "family"]

FAMILIES = (
    "vit", "clip", "siglip", "align", "llava", "paligemma", "instructblip", "idefics", "vilt", "bridgetower",
    "chameleon",
)  # fmt: skip

WRITTEN = ("vit", "clip", "siglip", "llava", "paligemma", "vilt")  # in the order in which a save tries them


def family(name: Any, where: str = "model_type") -> ImageFamily:
    """The table of a family. Raises CheckpointError for one that is not known."""
    if name not in FAMILIES:
        near = nearest(name, FAMILIES) if isinstance(name, str) else ""
        raise CheckpointError(f"{where}: {shown(name)} is no family of images that can be read{near} ({FAMILIES})")
    found: ImageFamily = importlib.import_module(f"{__name__}.{name}").FAMILY
    return replace(found, model_type=name)
