"""What can be done to documents on their way into a training set: each stage keeps a document, changes it, or drops it
and says why.

A stage of the first sort (`Stage`) looks at one document at a time. A stage of the second sort (`CorpusStage`) needs
the corpus before it can decide (near-duplicates): it sees every shard twice, and only small summaries of the
shards meet in one place. Both are shard in, shard out, so shards may be worked on in any order, in any process, and
again after a kill, with the same bytes as the result.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from llmanac.core.spec import Spec
from llmanac.data.documents import Document


@dataclass(frozen=True)
class Dropped:
    """A document that does not go on: `reason` is one of the stage's few fixed words, `detail` what was measured."""

    document: Document
    reason: str
    detail: str = ""


class Stage:
    """Looks at documents one by one; what happens to one never depends on another."""

    def one(self, document: Document) -> Document | Dropped:
        """The document where it is kept (perhaps with another text or meta), or `Dropped`."""
        raise NotImplementedError

    def apply(self, documents: Iterable[Document]) -> Iterator[Document | Dropped]:
        """`one` of each document, in order. A stage that works on many at once has its own."""
        return map(self.one, documents)


class CorpusStage:
    """Decides over the corpus in three steps; every file it writes is deterministic."""

    def summarise(self, documents: Iterable[Document], summary: Path) -> None:
        """First pass, once a shard, in parallel: write what `decide` needs of this shard to the file `summary`."""
        raise NotImplementedError

    def decide(self, summaries: Sequence[Path], decisions: Sequence[Path], *, memory: int) -> dict[str, Any]:
        """Once, in one process: read every shard's summary (in shard order) and write one file of decisions a shard.

        Args:
            memory: bytes that may be held at once; what does not fit is worked through in files next to `decisions`.

        Returns:
            What the manifest should say about the stage (counts, rates), as JSON data.
        """
        raise NotImplementedError

    def apply(self, documents: Iterable[Document], decisions: Path) -> Iterator[Document | Dropped]:
        """Second pass, once a shard, in parallel: the shard's documents in order, each kept, changed or `Dropped`."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class StageSpec(Spec):
    """`build() -> Stage | CorpusStage`."""

    kind: ClassVar[str] = "stage"

    def build(self, **dims: Any) -> Stage | CorpusStage:
        """A stage has no dimensions."""
        raise NotImplementedError
