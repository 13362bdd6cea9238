"""Classifiers of a family: `architectures` ends with ForSequenceClassification or ForTokenClassification.

Their head is `heads/labels.py`'s in place of the family's own; the names of the labels are `id2label`'s. Decoders have
one matrix, `score`, which reads the last token.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import Config, Names, Table

SEQUENCE, TOKEN = "ForSequenceClassification", "ForTokenClassification"
MOST_LABELS = 100_000


@dataclass(frozen=True)
class Labels:
    """How a family's classifiers are stored.

    Attributes:
        sequence, token: their names of the head's product; no `token`: such models are not read.
        layer, norm: their names of what is before the product in sequence classification, "" where there is none.
        place, activation, biases: of the head in sequence classification; see `heads/labels.py`.
        head: `(config, data) -> further fields`, for both kinds; written: their keys.
        always: whether token classification has the layer too.
    """

    sequence: str = "score"
    token: str = ""
    layer: str = ""
    norm: str = ""
    place: str = "last"
    activation: str | None = None
    biases: str = "none"
    head: Callable[[Config, Any], Mapping[str, Any]] = lambda config, data: {}
    written: Callable[[Any], dict[str, Any]] = lambda head: {}
    always: bool = False

    def read(self, config: Config, data: dict[str, Any]) -> None:
        """The head of labels, where the config names one. Raises CheckpointError."""
        named = str(config.get("architectures", ""))
        each = TOKEN in named and bool(self.token)
        if SEQUENCE not in named and not each:
            return
        config.expect("problem_type", None, "single_label_classification", "regression")
        layered = self.activation is not None and (self.always or not each)
        head: dict[str, Any] = {
            "place": "each" if each else self.place,
            "biases": self.biases if layered or not each else "labels",
        }
        head |= {"activation": self.activation} if layered else {}
        further = self.head(config, data)  # read in any case
        data["head"] = {"name": "labels", "labels": _names(config), **head, **(further if layered else {})}
        if each:
            data["head"]["place"] = "each"
        data["tied"] = False

    def write(self, data: Mapping[str, Any], architecture: str) -> dict[str, Any]:
        """The keys that say so; none for another head."""
        head = data.get("head") or {}
        if head.get("name") != "labels" or not head.get("labels"):
            return {}
        kind = TOKEN if head.get("place") == "each" else SEQUENCE
        names = {str(i): name for i, name in enumerate(head["labels"])}
        return {
            **self.written(head),
            "architectures": [re.sub(r"(For[A-Z]\w+|LMHeadModel)$", kind, architecture)],
            "id2label": names,
            "label2id": {name: int(i) for i, name in names.items()},
        }

    def stored(
        self, names: tuple[Names, ...], ignored: tuple[str, ...], head: Any
    ) -> tuple[tuple[Names, ...], tuple[str, ...]]:
        """`(layouts, endings of names that are no parameters)` of a classifier's files."""
        own_names = {"lm_head.dense": self.layer, "lm_head.norm": self.norm}
        table: Table = {ours: theirs for ours, theirs in own_names.items() if theirs}
        table["lm_head"] = self.token if head.place == "each" else self.sequence
        layouts = tuple(
            replace(one, table=table | {k: v for k, v in one.table.items() if not str(k).startswith("lm_head")})
            for one in names
        )
        own = f"{self.layer}.weight", f"{self.layer}.bias"
        used = own if head.activation is not None and self.layer else ()
        return layouts, tuple(end for end in ignored if not any(name.endswith(end) for name in used))


def _names(config: Config) -> list[str]:
    """The labels' names, by number. Raises CheckpointError where numbers are missing or two have one name."""
    named, count = config.get("id2label"), config.get("num_labels")
    if named is None:
        count = 2 if count is None else count
        if type(count) is not int or not 1 <= count <= MOST_LABELS:
            raise CheckpointError(f"{config.path}: num_labels is {shown(count)}, expected 1 to {MOST_LABELS:,}")
        return [f"LABEL_{i}" for i in range(count)]
    found = [named.get(str(i)) for i in range(len(named))] if isinstance(named, dict) else [None]
    if not found or len(found) > MOST_LABELS or not all(isinstance(name, str) for name in found):
        raise CheckpointError(f"{config.path}: id2label is {shown(named)}, expected a name for each number from 0")
    if len(set(found)) < len(found):
        raise CheckpointError(f"{config.path}: id2label is {shown(named)}, which has a name twice")
    return [str(name) for name in found]
