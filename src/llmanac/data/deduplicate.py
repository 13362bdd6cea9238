"""Runs one corpus stage over a list of shards: summarise each, decide once, apply to each."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llmanac.core.errors import SpecError
from llmanac.core.progress import Progress, progress
from llmanac.core.spec import make_method
from llmanac.data.documents import Document
from llmanac.data.stages import CorpusStage, Dropped, StageSpec

Shard = Callable[[], Iterable[Document]]  # gives a shard's documents, the same ones each time
MEMORY = 2 << 30


def build_corpus_stage(stage: StageSpec | str | dict[str, Any]) -> CorpusStage:
    """A stage from its Spec, its name, or a table with its name. Raises SpecError for one that needs no corpus."""
    spec = stage if isinstance(stage, StageSpec) else make_method("stage", stage, "stage")
    made = spec.build()
    if not isinstance(made, CorpusStage):
        raise SpecError(f"stage: {spec.name!r} looks at one document at a time; it has nothing to decide over a corpus")
    return made


def run_corpus_stage(
    stage: CorpusStage,
    shards: Sequence[Shard],
    folder: Path,
    *,
    memory: int = MEMORY,
    sizes: Sequence[int] | None = None,
) -> tuple[list[Iterator[Document | Dropped]], dict[str, Any]]:
    """Run a stage over shards; its files go to `folder`, which the caller removes when the results have been read.

    Args:
        memory: bytes that deciding may hold.
        sizes: bytes of input of each shard, if progress is to know how much is left.

    Returns:
        For each shard its documents in order, kept, changed or `Dropped` (lazily), and the stage's report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summaries = [folder / f"summary-{i:05}" for i in range(len(shards))]
    decisions = [folder / f"decisions-{i:05}" for i in range(len(shards))]
    known = sizes is not None
    with progress("read", total=sum(sizes or ()) or None, unit="B" if known else "documents") as bar:
        for number, (shard, summary) in enumerate(zip(shards, summaries, strict=True)):
            stage.summarise(_counted(shard(), bar, sizes[number] if sizes else None), summary)
    report = stage.decide(summaries, decisions, memory=memory)
    return [stage.apply(shard(), path) for shard, path in zip(shards, decisions, strict=True)], report


def _counted(documents: Iterable[Document], bar: Progress, size: int | None) -> Iterator[Document]:
    """Documents of a shard while the bar moves on, by one each or by bytes of text up to `size` in all."""
    left = size
    for document in documents:
        yield document
        step = 1 if left is None else min(left, len(document.text))
        left = None if left is None else left - step
        bar.advance(step)
    bar.advance(left or 0)


def deduplicate(
    texts: Iterable[str], stage: StageSpec | str | dict[str, Any] = "minhash", *, memory: int = MEMORY
) -> tuple[list[str | None], dict[str, Any]]:
    """What one stage makes of texts in memory: each text (perhaps cut), None where it went; and the report."""
    documents = [Document(str(i), text, str(i)) for i, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        (results,), report = run_corpus_stage(
            build_corpus_stage(stage), [lambda: documents], Path(folder), memory=memory
        )
        return [None if isinstance(result, Dropped) else result.text for result in results], report
