"""From a source to a corpus: read, pass through stages, split, count. Memory stays bounded.

`collect` reads a source in this process, cleaned and without exact duplicates; a corpus below `HELD_IN_MEMORY` bytes is
kept, a larger one is read again from its source for every pass. `collect_built` has `llmanac data build` put the text
through any stages into a folder, with a list of what each of them dropped and why, and reads it from there.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmanac.core.errors import DataError
from llmanac.core.progress import progress
from llmanac.core.spec import dump
from llmanac.data.dedup import drop_duplicates
from llmanac.data.documents import Document
from llmanac.data.manifest import Tally, manifest
from llmanac.data.quarantine import Problems
from llmanac.data.related import Relations
from llmanac.data.sources import SourceSpec
from llmanac.data.split import Rule, plan
from llmanac.data.stages import Dropped, StageSpec
from llmanac.data.stages.clean import Clean

HELD_IN_MEMORY = 1 << 29
LONGEST = 1 << 30  # bytes of a document
RELATED = 0.1
LISTED = 200  # names that the manifest lists


@dataclass(frozen=True)
class CorpusPart:
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
class _Built:
    """The documents that a build wrote; `holder` keeps a temporary folder until they are no longer needed."""

    paths: tuple[Path, ...]
    holder: Any

    def __iter__(self) -> Iterator[Document]:
        from llmanac.data.pipeline.records import read_output

        for path in self.paths:
            for row in read_output(path):
                yield Document(row["id"], row["text"], row["group"], row["meta"])


@dataclass(frozen=True)
class Corpus:
    """Documents to train on, held-out documents, and the manifest that says what they are."""

    train: CorpusPart
    held_out: CorpusPart
    manifest: dict[str, Any]


def _cleaned(documents: Iterable[Document], dropped: dict[str, int]) -> Iterator[Document]:
    """The same stage that `llmanac data build` runs, on one stream."""
    for answer in Clean().apply(documents):
        if isinstance(answer, Dropped):
            dropped[answer.reason] = dropped.get(answer.reason, 0) + 1
        else:
            yield answer


def collect(
    source: SourceSpec,
    *,
    held_out: float = 0.05,
    seed: int = 0,
    related: float = RELATED,
    problems: Problems | None = None,
) -> Corpus:
    """Read a source into a corpus, cleaned and without exact duplicates.

    Args:
        held_out: about which fraction of the groups to hold out; both sides always have text.
        seed: another seed holds out other groups.
        related: groups of which one has at least this fraction of another's eight-word sequences stay on one side
            (`data/related.py`); 0 looks for none.
        problems: the policy for unusable input; the source's own where it is not given.

    Raises:
        DataError: an empty corpus, or unusable input under the policy "fatal".
    """
    problems = source.problems() if problems is None else problems
    dropped = {"empty": 0, "duplicates": 0}
    cleaned = 0

    def counted(documents: Iterable[Document]) -> Iterator[Document]:
        nonlocal cleaned
        for document in documents:
            cleaned += 1
            yield document

    stream = drop_duplicates(counted(_cleaned(source.documents(problems), dropped)))
    found = _looked_at(stream, related, _Again(source, problems.on_error == "skip"))
    dropped["duplicates"] = cleaned - len(found.sizes)
    dropped["unusable"] = problems.total
    return _divided(found, source, held_out, seed, dropped)


def collect_built(
    source: SourceSpec,
    stages: Sequence[StageSpec],
    folder: Path | None,
    *,
    held_out: float = 0.05,
    seed: int = 0,
    related: float = RELATED,
) -> Corpus:
    """Build a source's corpus in a folder (`data/pipeline`), or take what was built there; divide it as `collect` does.
    Without a folder it is built in a temporary one.

    What cannot be read is dropped or fatal as the source's own `on_error` says.

    Raises:
        DataError: an empty corpus, unusable input under the policy "fatal", or input that is not what the folder was
            built from.
        LlmanacError: whatever a stage or the disk raises.
    """
    from llmanac.data.pipeline.build import build
    from llmanac.data.pipeline.recipe import BuildSpec, InputSpec, LimitSpec

    # a run's own text is trusted: no limit but one on a document's size
    limits = LimitSpec(max_bytes=LONGEST, timeout=3600.0, ratio=1e9, expanded=1 << 60)
    recipe = BuildSpec(
        inputs=(InputSpec(source=source),), stages=tuple(stages), limits=limits, on_error=source.problems().on_error
    )
    holder = tempfile.TemporaryDirectory() if folder is None else None
    place = Path(holder.name) if holder is not None else Path(str(folder))
    built = build(recipe, place)
    read, *later = [Counter(stage["dropped"]) for stage in built["stages"]]
    reasons = sum(later, Counter())
    dropped = {
        "empty": read.pop("empty", 0) + reasons.pop("empty", 0),
        "duplicates": reasons.pop("exact-duplicate", 0),
        "unusable": read.total(),
        **reasons,
    }
    documents = _Built(tuple(place / "data" / file["name"] for file in built["output"]["files"]), holder)
    counted = ("name", "documents_in", "documents_out", "bytes_in", "bytes_out")
    passed = [{key: stage[key] for key in counted} for stage in built["stages"]]
    return _divided(_looked_at(iter(documents), related, documents), source, held_out, seed, dropped, passed)


@dataclass(frozen=True)
class _Looked:
    """What one look at every document found: `(group, id, bytes)` of each, which groups are related, and where the
    documents are read from again."""

    sizes: list[tuple[str, str, int]]
    together: list[list[str]]
    documents: Iterable[Document]


def _looked_at(documents: Iterator[Document], related: float, again: Iterable[Document]) -> _Looked:
    if not 0 <= related <= 1:
        raise DataError(f"related: {related} is not a share from 0 to 1")
    kept: list[Document] | None = []
    sizes: list[tuple[str, str, int]] = []
    relations = Relations(related) if related else None
    total = 0
    with progress("collect", unit="documents") as bar:
        for document in documents:
            size = document.bytes
            sizes.append((document.group, document.id, size))
            total += size
            if relations is not None:
                relations.add(document.group, document.text)
            if kept is not None:
                kept.append(document)
                if total > HELD_IN_MEMORY:
                    kept = None
            bar.advance(1)
    together = [] if relations is None else [names for names in relations.components() if len(names) > 1]
    return _Looked(sizes, together, again if kept is None else kept)


def _divided(
    found: _Looked,
    source: SourceSpec,
    held_out: float,
    seed: int,
    dropped: dict[str, int],
    stages: Sequence[dict[str, Any]] = (),
) -> Corpus:
    rule = plan(found.sizes, held_out, seed=seed, related=found.together)
    parts = CorpusPart(found.documents, rule, "train"), CorpusPart(found.documents, rule, "held_out")
    tallies = Tally(), Tally()
    for part, tally in zip(parts, tallies, strict=True):
        for document in part:
            tally.add(document)
    if not all(tally.documents for tally in tallies):
        raise DataError("the corpus is too small to hold a part of it out; add text")
    how = {
        "unit": rule.unit,
        "share": held_out,
        "seed": seed,
        "names": sorted(rule.names)[:LISTED],
        "related": sorted(rule.together)[:LISTED],
        "related_groups": sum(map(len, rule.together)),
    }
    return Corpus(*parts, manifest(dump(source), *tallies, dropped=dropped, held_out_by=how, stages=stages))
