"""The application as a run, the report and the server see it (`recipes/application.py`).

The documentation is a folder, and its questions are those that it yields itself (`retrieve/folder/questions.py`). A
training question is looked up among the documents of training modules, as a user's would be; the model learns to point
at the sentence that answers, or at none. Held-out questions are about modules that it never saw; without an answer are
those that are asked where their module's documents are missing.
"""

import math
import random
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from llmanac.apps.docs_assistant.collect import collect
from llmanac.apps.docs_assistant.pointer import (
    END,
    NONE,
    NUMBERS,
    SPECIAL,
    PointerReader,
    check_marks,
    letters_of,
    question_ids,
    row_of,
    sheet_ids,
)
from llmanac.core import files
from llmanac.core.errors import CheckpointError, DataError, SpecError
from llmanac.core.files import read_toml
from llmanac.core.pages import Section, markdown_table, table
from llmanac.core.progress import progress
from llmanac.core.rng import seed_of
from llmanac.data.sources import python_docs
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_engine
from llmanac.metrics.answers import exact_match, f1
from llmanac.models.locate import ASSISTANT
from llmanac.recipes.application import Application, FineTuningPairs, ReportPart
from llmanac.recipes.pairs import mixture, pairs_stream, write_examples
from llmanac.recipes.timetable import questions_asked
from llmanac.retrieve.folder import FolderIndex
from llmanac.retrieve.folder.answers import FolderAnswer, FolderAssistant
from llmanac.retrieve.folder.index import WHERE
from llmanac.retrieve.folder.questions import FolderQuestion, asked_of, questions_of
from llmanac.retrieve.folder.reader import CHOICES

TEXTS = {name: " ".join(text.split()) for name, text in read_toml(Path(__file__).with_name("report.toml")).items()}
APP, DOCUMENTS = "docs-assistant", "documents"
QUOTES = 3  # sentences of an answer
LENGTH = 512  # of a row: a sheet, its question, and further ones about the same sentences
ROWS_A_SECOND = 20  # rows written for each second of the budget: more than two cores train on in it
FEWEST_ROWS, MOST_ROWS = 500, 40_000
PAIRS_SHARE = 0.1  # of the budget, for writing the rows; where that takes longer, there are fewer
REMOVED = 0.15  # of the rows lack the sentence that answers
FURTHER = 6  # further questions about the sentences of a row
QUESTIONS_A_SECOND, FEWEST_QUESTIONS = 0.5, 35  # of the budget, so that a short run is not mostly evaluation
WAYS = 6  # of asking a question: five in `measured`, and calibrating
COST = 0.02  # of the right answers about training modules, that caution may take away
EXAMPLES, MISSED, GUESS_TOKENS = 10, 0.5, 32
Row = tuple[np.ndarray, np.ndarray]


class Documentation(FineTuningPairs):
    """Questions about documented names, answered from the sentences that are found."""

    length = LENGTH
    chats = False  # rows are sheets of sentences, without the chat template

    def __init__(self, run: Any) -> None:
        if run.spec.finetune.practice_share and run.spec.train.length < LENGTH:
            raise SpecError(
                f"train.length: {run.spec.train.length} is shorter than a question with its passages; give at least "
                f"{LENGTH}, or finetune.practice_share=0"
            )
        if not isinstance(run.spec.data.source, python_docs.Spec):
            raise DataError("finetune.pairs: docstrings needs the source python-docs; give a file of pairs instead")
        self.run, self.seed = run, run.spec.seed
        held = {document.group for document in run.corpus.held_out}
        names = {entry.module in held for entry in run.spec.data.source.entries()}
        if names != {True, False}:
            raise DataError("the documentation has too few modules to hold one out")
        self.whole = FolderIndex.update(collect(run.spec.data.source, run.folder / "data" / "documents"))
        self.practice = FolderIndex.update(
            collect(run.spec.data.source, run.folder / "data" / "practice", without=held)
        )

    def questions(self, count: int, *, held_out: bool, salt: int = 0) -> list[FolderQuestion]:
        """Questions about training modules, or held-out ones."""
        if not held_out:
            return questions_of(self.practice, count, seed_of(self.seed, "training", salt))
        known = set(self.practice.documents)
        use = [passage.number for passage in self.whole.passages() if passage.document not in known]
        return questions_of(self.whole, count, seed_of(self.seed, "held out", salt), use)

    def write(self) -> None:
        """Encode questions with their sentences; only the answers carry loss, in fine-tuning and in practice."""
        check_marks(self.run.tokenizer)
        count = max(FEWEST_ROWS, min(MOST_ROWS, int(ROWS_A_SECOND * self.run.spec.budget_seconds)))
        most = PAIRS_SHARE * self.run.spec.budget_seconds
        asked = self.questions(count, held_out=False)
        rows = counted("write questions", self.rows(asked), count, fewest=FEWEST_ROWS, seconds=most)
        write_examples(self.run, "pairs", rows)

    def rows(self, questions: Sequence[FolderQuestion]) -> Iterator[Row]:
        """Rows `(ids, loss mask)`: a sheet, its question, and further ones about the same sentences."""
        assistant, rng = FolderAssistant(self.practice), random.Random(seed_of(self.seed, "rows"))
        tokenizer = self.run.tokenizer
        special = tokenizer.special_tokens
        for question in questions:
            asked, found, _ = assistant.found(question.text)
            quotes = assistant.ranker.quotes(asked, found)[:CHOICES]
            if rng.random() < REMOVED:
                quotes = [quote for quote in quotes if quote.text != question.gold]
            rows, gold = [row_of(quote) for quote in quotes], [quote.text for quote in quotes]
            turns = [(question.text, question.gold)]
            for quote in rng.sample(quotes, min(FURTHER, len(quotes))):
                if quote.text != question.gold:
                    turns.append((asked_of(quote.passage, quote.text, self.practice, rng), quote.text))
            letters = letters_of(" ".join(text for text, _ in turns), rows)
            ids, mask = sheet_ids(tokenizer, rows, letters), []
            mask = [False] * len(ids)
            for text, answer in turns:
                shown = question_ids(tokenizer, text, letters)
                said = [special[NUMBERS[gold.index(answer)] if answer in gold else NONE], special[END]]
                if len(ids) + len(shown) + len(said) > LENGTH:
                    break
                ids += shown + said
                mask += [False] * len(shown) + [True] * len(said)
            if any(mask):
                yield np.array(ids, np.int64), np.array(mask)

    def mixed_in(self, stream: Any) -> Any:
        """Pretraining rows mixed with questions and their sentences: a small model must see copying early."""
        share = self.run.spec.finetune.practice_share
        if not share:
            return stream
        practice = pairs_stream(self.run, length=stream.length, rows=stream.rows, name="practice")
        return mixture(self.run, {"text": stream, "practice": practice}, share, rows=stream.rows)

    def measure(self, run: Any) -> dict[str, Any]:
        """Ask about held-out modules; writes the assistant's files into the run's folder."""
        reader = PointerReader(Engine(run.model, run.tokenizer))
        assistant, practised = (FolderAssistant(index, reader=reader) for index in (self.whole, self.practice))
        most = max(FEWEST_QUESTIONS, int(QUESTIONS_A_SECOND * run.spec.budget_seconds))
        asked = min(run.spec.evaluate.questions, most)
        tried = self.questions(16, held_out=True, salt=3)
        count = questions_asked(
            run, lambda count: [assistant.answer(one.text) for one in tried[:count]], asked, ways=WAYS, what="questions"
        )
        calibrate(practised, reader, self.questions(count, held_out=False, salt=4))
        with files.atomic_folder(run.folder / ASSISTANT) as folder:
            FolderIndex.update(shutil.copytree(run.folder / "data" / "documents", folder / DOCUMENTS))
            files.write_json(folder / "assistant.json", {"format_version": 2, "app": APP, "caution": reader.caution})
        alone = Engine(run.base, run.tokenizer)
        return {"answers": measured(assistant, practised, self.questions(count, held_out=True), alone)}


def calibrate(assistant: FolderAssistant, reader: PointerReader, answerable: Sequence[FolderQuestion]) -> None:
    """Set the reader's caution by questions about training modules: a small model answers too readily.

    The highest that costs at most `COST` of the answers that are right without it.
    """
    reader.caution = 0.0
    given = [(assistant.answer(one.text), one.gold) for one in answerable]
    margins = [answer.margin for answer, gold in given if line_of(answer) == gold]
    reader.caution = max(0.0, float(np.quantile(margins, COST, method="lower"))) if margins else 0.0


def line_of(answer: FolderAnswer) -> str:
    """The first sentence that an answer quotes; a refusal's words."""
    return answer.citations[0].quote if answer.citations else answer.text


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


def measured(
    assistant: FolderAssistant, practised: FolderAssistant, questions: Sequence[FolderQuestion], alone: Any
) -> dict[str, Any]:
    """How good the answers are, on modules that training never shows.

    Args:
        practised: the same where the documents of held-out modules are missing, so that nothing answers.
        alone: the engine of the language model that answers without retrieval.

    Returns:
        scores: by way of answering: f1 and exact of the first quoted sentence, questions.
        kinds: by sort of question. refused_unanswerable, refused_answerable: fractions.
        examples, misses, refusals: question, answer, expected, citations.
    """
    ranked = FolderAssistant(assistant.index, weights=assistant.ranker.weights)
    with progress("ask", len(questions), "questions") as bar:
        given, declined, extracted = [], [], []
        for one in questions:
            given.append(assistant.answer(one.text))
            declined.append(practised.answer(one.text))
            extracted.append(ranked.answer(one.text))
            bar.advance()
    guesses = alone.generate([f"{one.text}\n" for one in questions], max_new_tokens=GUESS_TOKENS, stop="\n\n")
    closed = [next((line for line in one.text.split("\n") if line.strip()), "") for one in guesses]
    texts, pairs = [line_of(answer) for answer in given], list(zip(questions, given, strict=True))
    missed = [(q, a) for q, a in pairs if not a.refused and f1(line_of(a), q.gold) < MISSED]
    vain = [(replace(q, golds=(a.text,)), a) for q, a in zip(questions, declined, strict=True) if a.refused]
    return {
        "scores": {
            "retrieved, read by the model": _score(questions, texts),
            "retrieved, without the model": _score(questions, [line_of(answer) for answer in extracted]),
            "without retrieval": _score(questions, closed),
        },
        "kinds": {sort: _score(questions, texts, sort) for sort in sorted({one.sort for one in questions})},
        "refused_unanswerable": sum(answer.refused for answer in declined) / max(1, len(declined)),
        "refused_answerable": sum(answer.refused for answer in given) / max(1, len(given)),
        "examples": [_example(*one) for one in pairs[:EXAMPLES]],
        "misses": [_example(*one) for one in missed[:2]],
        "refusals": [_example(*one) for one in (*vain[:1], *[p for p in pairs if p[1].refused][:1])],
    }


def _score(questions: Sequence[FolderQuestion], texts: Sequence[str], sort: str = "") -> dict[str, float | int]:
    """Mean scores, of the questions of one sort where it is given."""
    chosen = [(text, one.gold) for one, text in zip(questions, texts, strict=True) if sort in ("", one.sort)]
    count = max(1, len(chosen))
    return {
        "f1": sum(f1(*one) for one in chosen) / count,
        "exact": sum(exact_match(*one) for one in chosen) / count,
        "questions": len(chosen),
    }


def _example(question: FolderQuestion, answer: FolderAnswer) -> dict[str, Any]:
    cited = [{"title": c.title, "text": c.text} for c in answer.citations[:1]]
    return {"question": question.text, "answer": line_of(answer), "expected": question.gold, "citations": cited}


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
        scores_caption="F1 of the assistant's answers beside what the same retrieval, or the same model, gives alone.",
        sections=tuple(section for section in (_answers(found), _examples(found), _wrong(found)) if section),
        card=f"\n## Answers on held-out modules\n\n{lines}\n",
    )


def _answers(found: Mapping[str, Any]) -> Section:
    rows = [[name, f"{s['f1']:.3f}", f"{s['exact']:.3f}", s["questions"]] for name, s in found["scores"].items()]
    kinds = [[k, f"{s['f1']:.3f}", f"{s['exact']:.3f}", s["questions"]] for k, s in found["kinds"].items()]
    return Section(
        "Answers",
        [
            TEXTS["answers"],
            f"Questions that nothing answers are refused {found['refused_unanswerable']:.0%} of the time; "
            f"answerable ones are refused {found['refused_answerable']:.0%}.",
        ],
        [
            table(["held-out modules", "F1", "exact", "questions"], rows, 0),
            table(["by sort, with retrieval", "F1", "exact", "questions"], kinds),
        ],
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


class DocumentationAssistant(FolderAssistant):
    """Answers from the documentation, with questions to begin with."""

    def examples(self) -> list[str]:
        """What three functions of modules do, those that other entries mention most."""
        lexical, names = self.ranker.lexical, dict[str, int]()
        for passage in self.index.passages():
            name = passage.heading.partition("(")[0]
            if name.count(".") == 1 and name.islower() and (number := lexical.vocabulary.get(name.replace("_", ""))):
                names[name] = int(lexical.starts[number + 1] - lexical.starts[number])
        return [f"What does {name} do?" for name in sorted(names, key=lambda name: (-names[name], name))[:3]]


class DocsAssistant(Application):
    """Rows from a folder of documentation, an evaluation on held-out modules, and an assistant that quotes."""

    special_tokens = SPECIAL

    def pairs(self, run: Any) -> Documentation:
        return Documentation(run)

    def report(self, results: Mapping[str, Any]) -> ReportPart | None:
        return report_of(results) if "answers" in results else None

    def assistant(self, folder: Path, engine: Engine) -> FolderAssistant:
        path = folder / ASSISTANT / "assistant.json"
        try:
            data = files.read_table(path)
            if data["format_version"] != 2:
                raise DataError(f"{path}: written by an earlier version")
            caution = float(data["caution"])
        except (DataError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); run the recipe again") from None
        device = "cpu" if engine.native else cast(Any, engine.model).device
        model = load_engine(folder / "model", device=str(device))
        index = FolderIndex.open(folder / ASSISTANT / DOCUMENTS / WHERE)
        return DocumentationAssistant(index, reader=PointerReader(model, caution), quotes=QUOTES)


APPLICATION = DocsAssistant()
