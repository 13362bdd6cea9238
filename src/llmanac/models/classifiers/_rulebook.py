"""Rules as data: read from TOML, found in a text, written back. See `rules.py` for the file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import DataError, nearest
from llmanac.models.classifiers._bags import words_of

FOLDER = Path(__file__).with_name("rulebooks")
ENTRY = re.compile(r'"([^"]+)"|(\S+)')
KEYS = ("title", "labels", "bias", "group", "weights", "negation", "strength")
LONGEST_PHRASE = 8
LONGEST_WINDOW = 20
NOT = "not"  # the first word of a negated match's name


@dataclass
class Rulebook:
    """Rules.

    Attributes:
        labels: what can be answered. others: other names of each label.
        weights: each word's or phrase's weight, (1,) for two labels (to the second), else (C,).
        bias: as long as each weight.
        negators, window, factor, stops: a match within `window` words after a negator counts `factor` times, unless a
            stop comes between.
        strength: words that multiply the match right after them.
    """

    labels: tuple[str, ...]
    weights: dict[str, tuple[float, ...]]
    bias: tuple[float, ...]
    others: dict[str, tuple[str, ...]] = field(default_factory=dict)
    negators: tuple[str, ...] = ()
    window: int = 3
    factor: float = -1.0
    stops: tuple[str, ...] = ()
    strength: dict[str, float] = field(default_factory=dict)
    title: str = ""

    def __post_init__(self) -> None:
        self.order = {name: number for number, name in enumerate(self.weights)}
        self._exact = {" ".join(words_of(name)): name for name in self.weights if not name.endswith("*")}
        self._stems = {name[:-1].lower(): name for name in self.weights if name.endswith("*")}
        self._longest = max((key.count(" ") + 1 for key in self._exact), default=1)
        self._negators, self._stops = frozenset(self.negators), frozenset(self.stops)

    @classmethod
    def of_weights(cls, labels: Sequence[str], weights: Mapping[str, float], bias: float) -> Rulebook:
        """Two labels, with the weights of the second."""
        if len(labels) != 2:
            raise DataError(f"labels: {len(labels)} given; weights of one number each are for two labels")
        return cls(tuple(labels), {str(k): (float(v),) for k, v in weights.items()}, (float(bias),))

    def weight(self, feature: str) -> tuple[float, ...]:
        """The weight of a match, from its name: `not very good` is factor x strength(very) x weight(good)."""
        scale = 1.0
        while feature not in self.weights:
            first, _, rest = feature.partition(" ")
            if first == NOT and rest:
                scale *= self.factor
            elif first in self.strength and rest:
                scale *= self.strength[first]
            else:
                return (0.0,) * len(self.bias)
            feature = rest
        return tuple(scale * value for value in self.weights[feature]) if scale != 1.0 else self.weights[feature]

    def find(self, words: Sequence[str]) -> dict[str, float]:
        """The matches in a text's words: name -> count. The longest phrase wins."""
        found: dict[str, float] = {}
        negated = 0  # words that the last negator still reaches
        stronger: list[str] = []
        at = 0
        while at < len(words):
            name, length = self._match(words, at)
            if name is not None:
                parts = [NOT] if negated > 0 else []
                full = " ".join([*parts, *stronger, name])
                found[full] = found.get(full, 0.0) + 1.0
            word = words[at]
            if name is None and word in self.strength:
                stronger = [*stronger, word][-2:]
            else:
                stronger = []
            if length == 1 and word in self._negators:  # also one with a weight of its own: "lacks charm"
                negated = self.window
            elif word in self._stops:
                negated = 0
            else:
                negated -= length
            at += length
        return found

    def _match(self, words: Sequence[str], at: int) -> tuple[str | None, int]:
        for length in range(min(self._longest, len(words) - at), 0, -1):
            key = " ".join(words[at : at + length]) if length > 1 else words[at]
            if key in self._exact:
                return self._exact[key], length
        if self._stems:
            word = words[at]
            for end in range(len(word), 1, -1):
                if word[:end] in self._stems:
                    return self._stems[word[:end]], 1
        return None, 1

    def names_for(self, given: Sequence[str]) -> tuple[str, ...]:
        """The labels as the given ones call them. Raises DataError for one that is no name of any label."""
        known = {other.lower(): label for label in self.labels for other in (label, *self.others.get(label, ()))}
        chosen: dict[str, str] = {}
        for name in given:
            label = known.get(name.lower())
            if label is None:
                raise DataError(
                    f"labels: {name!r} is not a label of these rules ({', '.join(self.labels)})"
                    f"{nearest(name, known)}; give rules of your own"
                )
            if label in chosen:
                raise DataError(f"labels: {chosen[label]!r} and {name!r} are both {label!r} to these rules")
            chosen[label] = name
        return tuple(chosen.get(label, label) for label in self.labels)

    @classmethod
    def read(cls, name: str) -> Rulebook:
        """A rulebook by the name of one of ours, or by its path.

        Raises:
            DataError: no such rules, or a file with other content; the message names the key.
        """
        own = FOLDER / f"{name.replace('-', '_')}.toml"
        path = own if re.fullmatch(r"[\w-]+", name) and own.is_file() else Path(name)
        if not path.is_file():
            known = [p.stem.replace("_", "-") for p in sorted(FOLDER.glob("*.toml"))]
            raise DataError(
                f"{name}: no such rules{nearest(name, known)}; give a TOML file, or one of {', '.join(known)}"
            )
        return _RuleReader(path, files.read_toml(path)).book()

    def to_toml(self) -> str:
        """The rules as a file, every word on a line of its own."""
        out = [f"title = {_text(self.title)}\n"] if self.title else []
        out.append(f"bias = {_numbers(self.bias)}\n\n[labels]\n")
        out += [
            f"{_text(name)} = {json.dumps(list(self.others.get(name, ())), ensure_ascii=False)}\n"
            for name in self.labels
        ]
        if self.negators:
            out.append("\n[negation]\n")
            out.append(f"words = {json.dumps(list(self.negators), ensure_ascii=False)}\n")
            out.append(f"window = {self.window}\nfactor = {self.factor!r}\n")
            out.append(f"stops = {json.dumps(list(self.stops), ensure_ascii=False)}\n")
        if self.strength:
            out.append("\n[strength]\n")
            out += [f"{_text(word)} = {value!r}\n" for word, value in self.strength.items()]
        out.append("\n[weights]\n")
        if len(self.labels) == 2:
            out += [f"{_text(word)} = {values[0]!r}\n" for word, values in self.weights.items()]
        else:
            for number, label in enumerate(self.labels):
                out.append(f"\n[weights.{_text(label)}]\n")
                # a weight of 0 is written for the first label, so that every word keeps its place in w
                rows = [(w, v[number]) for w, v in self.weights.items() if v[number] or number == 0]
                out += [f"{_text(word)} = {value!r}\n" for word, value in rows]
        return "".join(out)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _numbers(values: Sequence[float]) -> str:
    return repr(values[0]) if len(values) == 1 else "[" + ", ".join(map(repr, values)) + "]"


class _RuleReader:
    """One rulebook's TOML, checked key by key."""

    def __init__(self, path: Path, data: Mapping[str, Any]) -> None:
        self.path, self.data = path, data

    def book(self) -> Rulebook:
        for key in self.data:
            if key not in KEYS:
                raise self.wrong(key, f"no such key{nearest(key, KEYS)} (known: {', '.join(KEYS)})")
        labels = self.data.get("labels")
        if isinstance(labels, list):
            labels = {name: [] for name in labels if isinstance(name, str)}
        if not isinstance(labels, Mapping) or len(labels) < 2:
            raise self.wrong("labels", "needs two or more labels, each with a list of its other names")
        self.labels = tuple(labels)
        self.size = 1 if len(labels) == 2 else len(labels)
        others = {name: tuple(self.words(f"labels.{name}", names)) for name, names in labels.items()}
        bias = self.data.get("bias", 0.0)
        biases = [self.number("bias", b) for b in (bias if isinstance(bias, list) else [bias] * self.size)]
        if len(biases) != self.size:
            raise self.wrong("bias", f"{len(biases)} numbers, but there are {self.size} scores")
        negation = self.table("negation", ("words", "window", "factor", "stops"))
        window = negation.get("window", 3)
        if not isinstance(window, int) or not 0 <= window <= LONGEST_WINDOW:
            raise self.wrong("negation.window", f"{window!r} is not an integer from 0 to {LONGEST_WINDOW}")
        strength = self.mapping("strength")
        return Rulebook(
            self.labels,
            self.weights(),
            tuple(biases),
            others,
            tuple(self.words("negation.words", negation.get("words", []))),
            window,
            self.number("negation.factor", negation.get("factor", -1.0)),
            tuple(self.words("negation.stops", negation.get("stops", []))),
            {str(word).lower(): self.number(f"strength.{word}", v) for word, v in strength.items()},
            str(self.data.get("title", "")),
        )

    def weights(self) -> dict[str, tuple[float, ...]]:
        found: dict[str, list[float]] = {}
        groups = self.data.get("group", [])
        if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
            raise self.wrong("group", "expected [[group]] tables")
        for number, group in enumerate(groups):
            where = f"group {number + 1}"
            for key in group:
                if key not in ("weight", "words", "label"):
                    raise self.wrong(f"{where}.{key}", "no such key (known: weight, words, label)")
            value = self.number(f"{where}.weight", group.get("weight", 1.0))
            for word in self.words(f"{where}.words", group.get("words", [])):
                self.add(found, where, word, value, group.get("label"))
        for word, value in self.mapping("weights").items():
            if isinstance(value, Mapping):
                for inner, number in value.items():
                    self.add(found, f"weights.{word}", inner, self.number(f"weights.{word}.{inner}", number), word)
            else:
                self.add(found, "weights", word, self.number(f"weights.{word}", value), None)
        if not found:
            raise self.wrong("group", "it has no word with a weight")
        return {word: tuple(values) for word, values in found.items()}

    def add(self, found: dict[str, list[float]], where: str, word: str, value: float, label: Any) -> None:
        if not words_of(word) or word.count(" ") >= LONGEST_PHRASE:
            raise self.wrong(where, f"{word[:40]!r} is not a word or a phrase of at most {LONGEST_PHRASE} words")
        if label is not None and label not in self.labels:
            raise self.wrong(where, f"label {label!r} is not one of {', '.join(self.labels)}")
        values = found.setdefault(word.lower(), [0.0] * self.size)
        if self.size == 1:
            values[0] = -value if label == self.labels[0] else value
        elif label is None:
            raise self.wrong(where, f"{word!r} needs a label, one of {', '.join(self.labels)}")
        else:
            values[self.labels.index(label)] = value

    def words(self, where: str, value: Any) -> list[str]:
        if isinstance(value, str):
            return [(quoted or plain).lower() for quoted, plain in ENTRY.findall(value)]
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            return [word.lower() for word in value]
        raise self.wrong(where, "expected words: one text with blanks between them, or a list")

    def number(self, where: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.wrong(where, f"{value!r} is not a number")
        return float(value)

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.data.get(key, {})
        if not isinstance(value, Mapping):
            raise self.wrong(key, "expected a table")
        return value

    def table(self, key: str, known: Sequence[str]) -> Mapping[str, Any]:
        value = self.mapping(key)
        for name in value:
            if name not in known:
                raise self.wrong(f"{key}.{name}", f"no such key{nearest(name, known)} (known: {', '.join(known)})")
        return value

    def wrong(self, where: str, why: str) -> DataError:
        return DataError(f"{self.path}: {where}: {why}")
