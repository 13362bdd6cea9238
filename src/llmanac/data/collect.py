"""From a source to a corpus: read, clean, drop exact duplicates, split, count. Memory stays bounded.

A corpus below `HELD_IN_MEMORY` bytes is kept; a larger one is read again from its source for every pass, so that only
one 16-byte hash a document and one size a group stay in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from llmanac.core.errors import DataError
from llmanac.core.progress import progress
from llmanac.core.spec import dump
from llmanac.data.dedup import drop_duplicates
from llmanac.data.documents import Document
from llmanac.data.manifest import Tally, manifest
from llmanac.data.quarantine import Problems
from llmanac.data.sources import SourceSpec
from llmanac.data.split import Rule, plan
from llmanac.data.stages import Dropped
from llmanac.data.stages.clean import Clean

HELD_IN_MEMORY = 1 << 29


@dataclass(frozen=True)
class Part:
    """One side of a corpus: iterate it as often as needed."""

    documents: Iterable[Document]
    rule: Rule
    side: Literal["train", "held_out"]

    def __iter__(self) -> Iterator[Document]:
        index = 0 if self.side == "train" else 1
        for document in self.documents:
            part = self.rule.divide(document)[index]
            if part is not None and part.text.strip():
                yield part

    def texts(self) -> Iterator[str]:
        """Only the texts."""
        return (document.text for document in self)


@dataclass(frozen=True)
class _Again:
    """Documents read from their source anew each time, cleaned and deduplicated as the first time."""

    source: SourceSpec
    skip: bool

    def __iter__(self) -> Iterator[Document]:
        problems = Problems("skip" if self.skip else "fatal")
        return drop_duplicates(_cleaned(self.source.documents(problems), {}))


@dataclass(frozen=True)
class Corpus:
    """Documents to train on, documents held out whole, and the manifest that says what they are."""

    train: Part
    held_out: Part
    manifest: dict[str, Any]


def _cleaned(documents: Iterable[Document], dropped: dict[str, int]) -> Iterator[Document]:
    """The same stage that `llmanac data build` runs, on one stream."""
    for answer in Clean().apply(documents):
        if isinstance(answer, Dropped):
            dropped[answer.reason] = dropped.get(answer.reason, 0) + 1
        else:
            yield answer


def collect(source: SourceSpec, *, held_out: float = 0.05, seed: int = 0, problems: Problems | None = None) -> Corpus:
    """Read a source into a corpus.

    Args:
        held_out: about which share of the groups to hold out; both sides always have text.
        seed: another seed holds out other groups.
        problems: the policy for unusable input; the source's own where it is not given.

    Raises:
        DataError: an empty corpus, or unusable input under the policy "fatal".
    """
    problems = source.problems() if problems is None else problems
    dropped = {"empty": 0, "duplicates": 0}
    kept: list[Document] | None = []
    sizes: list[tuple[str, str, int]] = []
    total = cleaned = 0

    def counted(documents: Iterable[Document]) -> Iterator[Document]:
        nonlocal cleaned
        for document in documents:
            cleaned += 1
            yield document

    with progress("collect", unit="documents") as bar:
        for document in drop_duplicates(counted(_cleaned(source.documents(problems), dropped))):
            size = document.bytes
            sizes.append((document.group, document.id, size))
            total += size
            if kept is not None:
                kept.append(document)
                if total > HELD_IN_MEMORY:
                    kept = None
            bar.advance(1)
    dropped["duplicates"] = cleaned - len(sizes)
    dropped["unusable"] = problems.total
    rule = plan(sizes, held_out, seed=seed)
    documents: Iterable[Document] = kept if kept is not None else _Again(source, problems.on_error == "skip")
    parts = Part(documents, rule, "train"), Part(documents, rule, "held_out")
    tallies = Tally(), Tally()
    for part, tally in zip(parts, tallies, strict=True):
        for document in part:
            tally.add(document)
    if not all(tally.documents for tally in tallies):
        raise DataError("the corpus is too small to hold a part of it out; add text")
    how = {"unit": rule.unit, "share": held_out, "seed": seed, "names": sorted(rule.names)[:200]}
    return Corpus(*parts, manifest(dump(source), *tallies, dropped=dropped, held_out_by=how))
