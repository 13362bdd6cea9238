"""Whether an encoder's checkpoint has a head for masked tokens, which only `architectures` tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmanac.models.families._config import Config
from llmanac.models.families._table import ConfigEntry, Data


@dataclass(frozen=True)
class MaskedHeadNames(ConfigEntry):
    """The head, where `architectures` names a model that has one; read after all that its fields follow from.

    Attributes:
        masked, bare: the architectures that are written; read: `(config, data) -> the head's fields`; written: their
        keys of a head's fields; untied: whether the head may have a matrix of its own.
    """

    masked: str
    bare: str
    read_head: Callable[[Config, Data], Data]
    written: Callable[[Data], dict[str, Any]] = lambda head: {}
    untied: bool = False

    def read(self, config: Config, data: Data) -> None:
        named = config.get("architectures")
        named = [str(name) for name in named] if isinstance(named, list) else []
        head = {"name": "masked", **self.read_head(config, data)}
        tied = config.flag("tie_word_embeddings", True)
        if not tied and not self.untied:
            config.expect("tie_word_embeddings", True)
        if any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in named):
            data |= {"head": head, "tied": tied}
        else:
            data["tied"] = False

    def write(self, data: Data) -> dict[str, Any]:
        head = data.get("head")
        if head is None:
            return {"architectures": [self.bare], "tie_word_embeddings": True}
        return {"architectures": [self.masked], "tie_word_embeddings": data["tied"], **self.written(head)}

    def fields(self) -> dict[str, str]:
        return {"tied": "tie_word_embeddings"}
