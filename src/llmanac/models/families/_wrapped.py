"""Models that see too, of whose folder the language model is read: a family of its own in `text_config`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import PEER
from llmanac.models.families._table import Family

WRAPPED = {"gemma3": "gemma3_text", "mistral3": "mistral"}  # -> the language model's type where it is not said
LEFT_OUT = ("vision_tower.", "multi_modal_projector.")


def text_of(data: Mapping[str, Any], path: object) -> dict[str, Any]:
    """The language model's config. Raises CheckpointError where there is none."""
    text = data.get("text_config")
    if not isinstance(text, dict):
        raise CheckpointError(f"{path}: text_config is {shown(text)}, expected a table")
    kind = text.get("model_type", WRAPPED[data["model_type"]])
    known = PEER["families"].get(kind, {"keys": {}}) if isinstance(kind, str) else {"keys": {}}
    whole = {key: data[key] for key in ("tie_word_embeddings", "transformers_version") if key in data}
    return {**known["keys"], **text, **whole, "model_type": kind}  # what is the class's default may not be in the file


def inside(chosen: Family) -> Family:
    """The family as its files are named in those of the whole."""
    names = ("model.embed_tokens", "model.norm", "lm_head")
    top: dict[str | tuple[str, ...], str] = {name: f"language_model.{name}" for name in names}
    layouts = (replace(one, layers=f"language_model.{one.layers}", table={**one.table, **top}) for one in chosen.names)
    return replace(chosen, names=tuple(layouts), prefix="")
