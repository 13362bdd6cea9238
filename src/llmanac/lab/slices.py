"""Failure slices: plain sentences and changed ones, and how a classifier does on each."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import DataError
from llmanac.data.command_problems import CommandProblems
from llmanac.data.readers import table_rows
from llmanac.models.classifiers.rules import Rulebook

FILE = Path(__file__).with_name("slices.toml")
PARTS = ("plain", "changed")
SUBJECT = "{x}"


@dataclass(frozen=True)
class SliceRule:
    """One kind of change.

    Attributes:
        items: (part, text, label), the part "plain" or "changed".
    """

    name: str
    about: str
    items: tuple[tuple[str, str, str], ...]

    def texts(self, part: str) -> list[str]:
        """The texts of one part."""
        return [text for own, text, _ in self.items if own == part]

    def accuracies(self, classifier: Any) -> dict[str, float]:
        """The accuracy on each part."""
        given = classifier.predict([text for _, text, _ in self.items])
        out = {}
        for part in PARTS:
            hits = [g == label for g, (p, _, label) in zip(given, self.items, strict=True) if p == part]
            out[part] = sum(hits) / len(hits)
        return out


def tone_names(labels: Sequence[str]) -> tuple[str, ...]:
    """What a data set calls negative and positive. Raises DataError unless its labels are those of sentiment."""
    return Rulebook.read("english-sentiment").names_for(sorted(set(labels)))


def sentiment_slices(labels: Sequence[str]) -> list[SliceRule]:
    """Our own slices, with the labels as a data set calls positive and negative.

    Raises:
        DataError: labels that are not those of sentiment.
    """
    names = dict(zip(("negative", "positive"), tone_names(labels), strict=True))
    data = files.read_toml(FILE)
    subjects = data.pop("subjects")
    out = []
    for name, table in data.items():
        items: dict[tuple[str, str, str], None] = {}
        for part, tone in product(PARTS, names):
            for template in table[part][tone]:
                for subject in subjects if SUBJECT in template else [""]:
                    items[part, template.replace(SUBJECT, subject), names[tone]] = None
        out.append(SliceRule(name, table["about"], tuple(items)))
    return out


def read_slices(path: Path) -> list[SliceRule]:
    """Custom slices: JSON lines with `slice`, `part` ("plain" or "changed"), `text` and `label`.

    Raises:
        DataError: a line that is something else, or a slice with one part only.
    """
    found: dict[str, list[tuple[str, str, str]]] = {}
    for row in table_rows(path, CommandProblems()):
        name, part, text, label = (row.values.get(key) for key in ("slice", "part", "text", "label"))
        if part not in PARTS or not isinstance(text, str) or None in (name, label):
            raise DataError(f"{path}:{row.line}: needs slice, text, label and part, which is plain or changed")
        found.setdefault(str(name), []).append((part, text, str(label)))
    for name, items in found.items():
        for part in PARTS:
            if not any(p == part for p, _, _ in items):
                raise DataError(f"{path}: slice {name!r} has no {part} text to compare with")
    if not found:
        raise DataError(f"{path}: has no slice")
    return [SliceRule(name, "", tuple(items)) for name, items in found.items()]
