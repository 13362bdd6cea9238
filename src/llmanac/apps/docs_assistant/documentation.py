"""The documentation assistant as part of a run: its rows for training, its files, its measurements."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

from llmanac.apps.docs_assistant.assistant import Assistant
from llmanac.apps.docs_assistant.evaluation import evaluate_assistant
from llmanac.apps.docs_assistant.material import Material, Row
from llmanac.core import files
from llmanac.core.errors import SpecError
from llmanac.core.progress import progress
from llmanac.generate.engine import Engine
from llmanac.models.locate import ASSISTANT
from llmanac.recipes.application import Pairs
from llmanac.recipes.pairs import mixture, pairs_stream, write_examples
from llmanac.recipes.timetable import questions_asked

LENGTH = 512  # of a row: the longest prompt, its answer, and further questions about the same passages
ROWS_A_SECOND = 20  # examples written for each second of the budget: more than two cores train on in it
FEWEST_ROWS, MOST_ROWS = 500, 40_000
WAYS = 4  # of asking a held-out question: `evaluate_assistant`
PAIRS_SHARE = 0.1  # of the budget, for writing the rows; where that takes longer, there are fewer
QUESTIONS_A_SECOND = 0.5  # of the budget, so that a short run is not mostly evaluation
FEWEST_QUESTIONS = 35


class Documentation(Pairs):
    """Questions about documented names, answered from retrieved passages; see `material`."""

    length = LENGTH
    chats = False  # rows are sheets of lines, without the chat template

    def __init__(self, run: Any) -> None:
        if run.spec.finetune.practice_share and run.spec.train.length < LENGTH:
            raise SpecError(
                f"train.length: {run.spec.train.length} is shorter than a question with its passages; give at least "
                f"{LENGTH}, or finetune.practice_share=0"
            )
        self.run = run
        self.material = Material.collect(run.spec.data.source, run.corpus, seed=run.spec.seed)

    def write(self) -> None:
        """Encode questions with their passages; only the answers carry loss, in fine-tuning and in practice."""
        count = max(FEWEST_ROWS, min(MOST_ROWS, int(ROWS_A_SECOND * self.run.spec.budget_seconds)))
        rows = self.material.rows(self.run.tokenizer, count, length=LENGTH)
        most = PAIRS_SHARE * self.run.spec.budget_seconds
        write_examples(self.run, "pairs", counted("write questions", rows, count, fewest=FEWEST_ROWS, seconds=most))

    def mixed_in(self, stream: Any) -> Any:
        """Pretraining rows mixed with questions and their passages: a small model must see copying early."""
        share = self.run.spec.finetune.practice_share
        if not share:
            return stream
        practice = pairs_stream(self.run, length=stream.length, rows=stream.rows, name="practice")
        return mixture(self.run, {"text": stream, "practice": practice}, share, rows=stream.rows)

    def measure(self, run: Any) -> dict[str, Any]:
        """Ask about held-out modules; writes the assistant's files into the run's folder."""
        assistant = Assistant(Engine(run.model, run.tokenizer), self.material.index, run.tokenizer)
        with files.atomic_folder(run.folder / ASSISTANT) as folder:
            assistant.save(folder)
        most = max(FEWEST_QUESTIONS, int(QUESTIONS_A_SECOND * run.spec.budget_seconds))
        tried = [pair.question for pair in self.material.maker(held_out=True, salt=3).answerable(16)]
        asked = min(run.spec.evaluate.questions, most)
        questions = questions_asked(
            run, lambda count: assistant.answers(tried[:count]), asked, ways=WAYS, what="questions of each sort"
        )
        alone = Engine(run.base, run.tokenizer)
        return {"answers": evaluate_assistant(assistant, self.material, alone=alone, questions=questions)}


def counted(
    label: str, rows: Iterator[Row], total: int, *, fewest: int = 0, seconds: float = math.inf
) -> Iterator[Row]:
    """The same rows, with a progress bar; after `seconds` it stops at `fewest` rows and prints that."""
    begin = time.monotonic()
    with progress(label, total, "rows") as bar:
        for number, row in enumerate(rows):
            if number >= fewest and time.monotonic() - begin > seconds:
                print(f"{label}: {number:,} rows, not {total:,}: time is short")
                return
            yield row
            bar.advance()
