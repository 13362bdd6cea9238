"""The documentation assistant as part of a run: its rows for training, its files, its measurements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.progress import progress
from llmanac.data.pack import PackedStream
from llmanac.data.tokens import TokenDataset
from llmanac.generate.engine import Engine
from llmanac.recipes.assistant import ANSWER_TOKENS, PROMPT_TOKENS, Assistant
from llmanac.recipes.quickstart_evaluation import evaluate_assistant
from llmanac.recipes.quickstart_material import Material, Row

LENGTH = PROMPT_TOKENS + ANSWER_TOKENS  # of a fine-tuning row: the longest prompt and the longest answer
ROWS = 12_000  # examples made for fine-tuning; more than a budget of minutes reads
PRACTICE_ROWS = 8_000
PRACTICE_PROMPT = 0.7  # share of a pretraining row that a practice prompt may take, so that its answer fits too


class Documentation:
    """Questions about documented names, answered from retrieved passages; see `quickstart_material`."""

    length = LENGTH

    def __init__(self, run: Any) -> None:
        self.tokenizer, self.folder = run.tokenizer, run.folder
        self.material = material(run)

    def examples(self) -> Iterator[Row]:
        """Rows for fine-tuning: the answer carries loss, the passages and the question do not."""
        yield from counted("write questions", self.material.rows(self.tokenizer, ROWS), ROWS)

    def measure(self, run: Any) -> dict[str, Any]:
        """Ask about held-out modules; leaves the assistant's files in the run's folder."""
        assistant = Assistant(Engine(run.model, self.tokenizer), self.material.index, self.tokenizer)
        with files.atomic_folder(self.folder / "assistant") as folder:
            assistant.save(folder)
        return {"answers": evaluate_assistant(assistant, self.material, questions=run.spec.evaluate.questions)}


def material(run: Any) -> Material:
    """The run's entries and indexes, built once."""
    if not hasattr(run, "material"):
        run.material = Material.collect(run.spec.data.source, run.corpus, seed=run.spec.seed)
    made: Material = run.material
    return made


def practice_stream(run: Any) -> PackedStream:
    """Questions with passages and answers as plain text rows for pretraining: every token carries loss."""
    place = run.folder / "data" / "practice"
    length = run.spec.train.length
    if not (place / "manifest.json").is_file():
        rows = material(run).rows(run.tokenizer, PRACTICE_ROWS, limit=int(PRACTICE_PROMPT * length), salt=1)
        short = ((ids[: length + 1], None) for ids, _ in counted("write practice", rows, PRACTICE_ROWS))
        TokenDataset.write_examples(
            place, short, vocab_size=run.tokenizer.vocab_size, fingerprint=run.tokenizer.fingerprint()
        )
    return PackedStream(
        TokenDataset(place),
        length=length,
        rows=run.spec.train.rows,
        seed=run.spec.seed,
        packing="whole",
        name="practice",
    )


def open_assistant(folder: Path, engine: Engine) -> Assistant | None:
    """The assistant that a run left in its folder; None where it has none. Raises CheckpointError for a damaged one."""
    place = folder / "assistant"
    return Assistant.load(place, engine, engine.tokenizer) if place.is_dir() else None


def counted(label: str, rows: Iterator[Row], total: int) -> Iterator[Row]:
    """The same rows, with progress."""
    with progress(label, total, "rows") as bar:
        for row in rows:
            yield row
            bar.advance()
