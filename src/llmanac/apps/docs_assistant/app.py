"""The application as a run, the report and the server see it (`recipes/application.py`)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmanac.apps.docs_assistant.assistant import Assistant
from llmanac.apps.docs_assistant.evaluation import evaluate_assistant
from llmanac.apps.docs_assistant.material import Material, Row
from llmanac.apps.docs_assistant.prompt import SPECIAL
from llmanac.core import files
from llmanac.core.errors import SpecError
from llmanac.core.files import read_toml
from llmanac.core.pages import Section, markdown_table, table
from llmanac.core.progress import progress
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_engine
from llmanac.models.locate import ASSISTANT
from llmanac.recipes.application import Application, Pairs, ReportPart
from llmanac.recipes.pairs import mixture, pairs_stream, write_examples
from llmanac.recipes.timetable import questions_asked

TEXTS = {name: " ".join(text.split()) for name, text in read_toml(Path(__file__).with_name("report.toml")).items()}
LENGTH = 512  # of a row: the longest prompt, its answer, and further questions about the same passages
ROWS_A_SECOND = 20  # examples written for each second of the budget: more than two cores train on in it
FEWEST_ROWS, MOST_ROWS = 500, 40_000
WAYS = 5  # of asking a question: four of `evaluate_assistant`, and calibrating
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
        engine = Engine(run.model, run.tokenizer)
        assistant = Assistant(engine, self.material.index, run.tokenizer)
        most = max(FEWEST_QUESTIONS, int(QUESTIONS_A_SECOND * run.spec.budget_seconds))
        tried = [pair.question for pair in self.material.maker(held_out=True, salt=3).answerable(16)]
        asked = min(run.spec.evaluate.questions, most)
        questions = questions_asked(
            run, lambda count: assistant.answers(tried[:count]), asked, ways=WAYS, what="questions of each sort"
        )
        practised = Assistant(engine, self.material.practice, run.tokenizer)
        practised.calibrate(self.material.maker(held_out=False, salt=4).examination(questions))
        assistant.caution = practised.caution
        with files.atomic_folder(run.folder / ASSISTANT) as folder:
            assistant.save(folder)
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


def report_of(results: Mapping[str, Any]) -> ReportPart:
    """Scores next to those of simpler ways of answering, examples, and failures."""
    found = results["answers"]
    scores = [[name, f"{s['f1']:.3f}", f"{s['exact']:.3f}"] for name, s in found["scores"].items()]
    lines = "\n".join(markdown_table(table(["", "F1", "exact"], scores)))
    return ReportPart(
        what_it_is=TEXTS["what_it_is"],
        kept_weights=TEXTS["kept_weights"],
        scores={name: score["f1"] for name, score in found["scores"].items()},
        scores_title="answers about held-out modules, F1 (higher is better)",
        scores_caption="F1 of the assistant's answers beside what the same model, or the same retrieval, gives alone.",
        sections=tuple(section for section in (_answers(found), _examples(found), _wrong(found)) if section),
        card=f"\n## Answers on held-out modules\n\n{lines}\n",
    )


def _answers(found: Mapping[str, Any]) -> Section:
    head = ["held-out modules, question forms never seen in training", "F1", "exact", "questions"]
    rows = [[name, f"{s['f1']:.3f}", f"{s['exact']:.3f}", s["questions"]] for name, s in found["scores"].items()]
    by_sort = ", ".join(f"{sort} {share:.0%}" for sort, share in found["refused"].items())
    kinds = [[k, f"{s['f1']:.3f}", f"{s['exact']:.3f}", s["questions"]] for k, s in found["kinds"].items()]
    return Section(
        "Answers",
        [
            TEXTS["answers"],
            f"Questions the documentation cannot answer are refused {found['refused_unanswerable']:.0%} of the time; "
            f"answerable ones are refused {found['refused_answerable']:.0%}. By sort: {by_sort}.",
            TEXTS["which"],
            TEXTS["near_misses"],
        ],
        [table(head, rows, 0), table(["by kind, with retrieval", "F1", "exact", "questions"], kinds)],
    )


def _examples(found: Mapping[str, Any]) -> Section | None:
    examples = [_shown(example) for example in found["examples"]]
    return Section("Some answers, with their sources", answers=examples) if examples else None


def _wrong(found: Mapping[str, Any]) -> Section | None:
    """Two answers that miss, and two refusals, as they came."""
    shown = [
        {**_shown(example), "verdict": verdict}
        for key, verdict in (("misses", "not what was wanted"), ("refusals", "refused"))
        for example in found.get(key, ())
    ]
    return Section("Where it fails, and where it refuses", [TEXTS["failures"]], answers=shown) if shown else None


def _shown(example: Mapping[str, Any]) -> dict[str, Any]:
    expected = example.get("expected")
    return {**example, "note": f"In the documentation: {expected}" if expected else ""}


class DocsAssistant(Application):
    """Rows from docstrings, an evaluation on held-out modules, and an assistant that quotes."""

    special_tokens = SPECIAL

    def pairs(self, run: Any) -> Documentation:
        return Documentation(run)

    def report(self, results: Mapping[str, Any]) -> ReportPart | None:
        return report_of(results) if "answers" in results else None

    def assistant(self, folder: Path, engine: Engine) -> Assistant:
        reader = load_engine(folder / "model", device=str(getattr(engine.model, "device", "auto")))
        return Assistant.load(folder / ASSISTANT, reader, reader.tokenizer)


APPLICATION = DocsAssistant()
