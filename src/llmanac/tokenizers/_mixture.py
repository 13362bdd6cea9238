"""How much of each language or domain a tokenizer is trained on, for any tokenizer: a wrapper over labelled text.

A vocabulary goes to what is frequent in its training text, so a language with little text there gets few tokens of its
own and long sequences. Two ways to say otherwise, both as fractions q of the training text:

    weights     q_i = w_i / sum_j w_j                    the mixture as stated (domains: 70 % code, 30 % prose)
    alpha       q_i = p_i^alpha / sum_j p_j^alpha        p: the fractions of the data; alpha 1 keeps them, 0 makes all
                                                         equal (Conneau and Lample 2019, section 3.1; XLM-R takes 0.3)

The budget (as much text as there is, unless `total` says otherwise) is divided by largest remainders, so that the
parts add up exactly. Within a group every document is taken m = its part / its size times on average: floor(m) or
floor(m) + 1 times, spread evenly in the order of the stream, so no document counts much more than another. Counted in
documents, a group's part is met exactly; counted in bytes, to half a document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import inf
from numbers import Real
from typing import Any, Literal

from llmanac.core.errors import DataError, SpecError, nearest
from llmanac.core.progress import progress
from llmanac.core.spec import Spec

Unit = Literal["bytes", "documents"]
MOST_TIMES = 1000  # how often a group's text is repeated at most to fill a `total` above what there is
Labelled = Callable[[], Iterable[tuple[str, str]]]


@dataclass(frozen=True, kw_only=True)
class VocabularyMixtureSpec(Spec):
    """The mixture of a recipe's training text that its vocabulary is learned from.

    Attributes:
        by: what labels a document: `folder` (the first folder of its path), `group` (the column or file that documents
            are held out by), or an entry of its metadata.
        alpha: the exponent of the fractions, 0 to 1 to upsample small groups; not together with weights.
        weights: `name=number` for every group, e.g. `["code=0.7", "prose=0.3"]`.
        unit: what is counted.
    """

    by: str = "folder"
    alpha: float | None = None
    weights: tuple[str, ...] = ()
    unit: Unit = "bytes"

    def __post_init__(self) -> None:
        if self.alpha is not None and self.weights:
            raise SpecError("alpha: give alpha or weights, not both")
        parse_weights(self.weights)

    def over(self, labelled: Labelled) -> Mixture:
        """The mixture of a labelled stream."""
        weights = parse_weights(self.weights) if self.weights else None
        return Mixture(labelled, weights=weights, alpha=self.alpha, unit=self.unit)


@dataclass(frozen=True)
class MixtureGroup:
    """One language or domain: what there is of it, and how much of it is trained on.

    Attributes:
        share: its fraction of the training text.
        taken: that part, in the unit of the mixture.
    """

    name: str
    documents: int
    bytes: int
    share: float
    taken: int

    def times(self, unit: Unit) -> float:
        """How often each of its documents is taken on average."""
        return self.taken / (self.bytes if unit == "bytes" else self.documents)


class Mixture:
    """Texts of labelled groups, each as often as its fraction requires; can be iterated repeatedly.

    Args:
        labelled: gives the `(group, text)` stream anew at each call; it is read once for the sizes, then for the texts.
        weights: the fraction of each group, in any scale; every group needs one. `alpha`: see the module. Without
            either the fractions are those of the data.
        unit: whether bytes or documents are counted.
        total: how much is taken in all, in that unit; as much as there is, if not given. No group's text is repeated
            more than `MOST_TIMES` times to fill more than that.

    Raises:
        SpecError: invalid weights, or weights that do not fit the groups. DataError: a group without text.
    """

    def __init__(
        self,
        labelled: Labelled,
        *,
        weights: Mapping[str, float] | None = None,
        alpha: float | None = None,
        unit: Unit = "bytes",
        total: int | None = None,
    ) -> None:
        if unit not in ("bytes", "documents"):
            raise SpecError(f"unit: {unit!r} is neither 'bytes' nor 'documents'")
        if total is not None and (type(total) is not int or total < 1):
            raise SpecError(f"total: {total!r} is not a whole number of {unit} above 0")
        self._labelled, self.unit = labelled, unit
        documents: dict[str, int] = {}
        sizes: dict[str, int] = {}
        with progress("measure the groups", unit="texts") as bar:
            for label, text in self._stream():
                documents[label] = documents.get(label, 0) + 1
                sizes[label] = sizes.get(label, 0) + _bytes(text)
                bar.advance()
        if not documents:
            raise DataError("mixture: there is no text in any group")
        amounts = sizes if unit == "bytes" else documents
        found = shares(amounts, weights=weights, alpha=alpha)
        taken = apportion(found, self._bounded(total, amounts, found))
        self.groups = tuple(
            MixtureGroup(name, documents[name], sizes[name], float(found[name]), taken[name]) for name in documents
        )

    def _bounded(self, total: int | None, amounts: Mapping[str, int], parts: Mapping[str, Fraction]) -> int:
        """How much is taken in all. Raises SpecError for a `total` that would repeat a group's text without end."""
        there_is = sum(amounts.values())
        if total is None or total <= there_is:
            return there_is if total is None else total
        limits = {name: int(MOST_TIMES * amounts[name] / part) for name, part in parts.items() if part}
        name = min(limits, key=limits.__getitem__)
        most = max(limits[name], there_is)
        if total > most:
            raise SpecError(
                f"total: {total:,} {self.unit} would repeat the text of {name!r} more than {MOST_TIMES:,} times; "
                f"take {most:,} at most, or give it more text"
            )
        return total

    def _stream(self) -> Iterator[tuple[str, str]]:
        for label, text in self._labelled():
            if not isinstance(text, str):
                raise DataError(f"mixture: a text of {label!r} is {type(text).__name__}, not str")
            if text:
                yield label, text

    def __iter__(self) -> Iterator[str]:
        counters = {group.name: _Spread(group.taken, self._size(group)) for group in self.groups}
        for label, text in self._stream():
            for _ in range(counters[label].take(_bytes(text) if self.unit == "bytes" else 1)):
                yield text

    def _size(self, group: MixtureGroup) -> int:
        return group.bytes if self.unit == "bytes" else group.documents

    def as_json(self) -> list[dict[str, Any]]:
        """A row a group, as a report shows it."""
        return [
            {"group": g.name, "documents": g.documents, "bytes": g.bytes, "share": g.share}
            | {f"{self.unit}_taken": g.taken, "times": g.times(self.unit)}
            for g in self.groups
        ]


class _Spread:
    """Deals `taken` units out over documents of `size` units in all, evenly and exactly, in whole documents."""

    def __init__(self, taken: int, size: int) -> None:
        self._whole, self._taken, self._size = taken // size, taken, size
        self._owed = 0  # units that are due and not dealt yet, times `size`

    def take(self, units: int) -> int:
        """How often the next document, of so many units, is taken."""
        self._owed += (self._taken - self._whole * self._size) * units
        one_more = 2 * self._owed >= units * self._size
        if one_more:
            self._owed -= units * self._size
        return self._whole + one_more


def shares(
    amounts: Mapping[str, float], *, weights: Mapping[str, float] | None = None, alpha: float | None = None
) -> dict[str, Fraction]:
    """The fraction of each group, adding up to 1 exactly; see the module for the formulas.

    Args:
        amounts: how much text there is of each group.

    Raises:
        SpecError: both weights and alpha, a group without weight or the reverse, a number that is no weight.
    """
    if weights is not None and alpha is not None:
        raise SpecError("alpha: give alpha or weights, not both")
    if weights is None:
        exponent = 1.0 if alpha is None else alpha
        if isinstance(exponent, bool) or not isinstance(exponent, Real) or not 0 <= exponent <= 16:
            raise SpecError(f"alpha: {alpha!r} is not an exponent; 0 makes all groups equal, 1 leaves them as they are")
        total_amount = sum(map(Fraction, amounts.values()))
        parts = {name: Fraction(amount) / total_amount for name, amount in amounts.items()}
        raw = (
            parts if exponent == 1 else {name: Fraction(float(part) ** float(exponent)) for name, part in parts.items()}
        )
    else:
        raw = _weights(amounts, weights)
    total = sum(raw.values())
    return {name: value / total for name, value in raw.items()}


def _weights(amounts: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, Fraction]:
    for name in weights:
        if name not in amounts:
            raise SpecError(
                f"weights: there is no group {name!r}{nearest(name, amounts)} (there is: {', '.join(amounts)})"
            )
    for name in amounts:
        if name not in weights:
            raise SpecError(f"weights: the group {name!r} has none; give it one, 0 to leave it out")
        value = weights[name]
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < inf:
            raise SpecError(f"weights: {name}={str(value)[:40]} is not a number from 0 on")
    if not any(weights.values()):
        raise SpecError("weights: all are 0, so there is nothing to learn from")
    return {name: Fraction(weights[name]) for name in amounts}


def apportion(parts: Mapping[str, Fraction | float], total: int) -> dict[str, int]:
    """Whole numbers in proportion to the parts that add up to `total`, by largest remainders (ties: first come)."""
    exact = {name: Fraction(part) for name, part in parts.items()}
    scale = total / sum(exact.values())
    out = {name: int(part * scale) for name, part in exact.items()}
    order = sorted(exact, key=lambda name: out[name] - exact[name] * scale)  # stable, so ties keep their order
    for name in order[: total - sum(out.values())]:
        out[name] += 1
    return out


def parse_weights(items: Sequence[str]) -> dict[str, float]:
    """`["de=0.3", "en=0.7"]` -> numbers by name. Raises SpecError for what is no such pair."""
    out: dict[str, float] = {}
    for item in items:
        name, equals, number = item.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise SpecError(f"weights: {item!r} is no group=number, for example code=0.7")
        if name in out:
            raise SpecError(f"weights: {name!r} is given twice")
        out[name] = value
    return out


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
