"""Score answers from a folder of documentation on natural questions (`evidence/docs_assistant/`).

    python tools/natural_questions.py FOLDER FILE.jsonl... [--encoder E] [--model M] [--mode MODE] [--json OUT.json]

FOLDER is what `python -m llmanac.apps.docs_assistant.collect FOLDER` wrote, or a finished run of the quickstart, whose
own reader is used then. Prints one row for each kind of question, and the same as one line of JSON; no question and no
answer is shown. With --json the scores are added to that file, next to those of other question files, with 95%
intervals.

A file of questions is JSON Lines: `id`, `kind`, `history` (earlier user turns, oldest first), `question`, `entries`
(every accepted entry), `answers` (accepted pieces of its text); both lists are empty where a refusal is wanted.

- right entry: one of `entries` is among those shown (cited, or named as nearest).
- right: the answer is quoted from one of `entries`; and what is quoted (three lines at most, and the heading and the
  first sentence that are shown with them), with runs of white space collapsed (docstrings are wrapped), contains one of
  `answers`, or a text of it is itself at least half of one, or shares words with one at F1 0.8 or more.
- line: the same of the first line alone.
- refused: the answer is a refusal, whatever entries are shown with it.
- invented: something is quoted that the documentation does not hold.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.apps.docs_assistant.app import QUOTES
from llmanac.apps.docs_assistant.collect import name_of
from llmanac.core import files
from llmanac.core.errors import DataError
from llmanac.data.sources.python_docs import Spec
from llmanac.generate.load import load_assistant, load_engine
from llmanac.metrics.answers import f1
from llmanac.metrics.statistics.intervals import wilson_interval as proportion
from llmanac.retrieve.dense import Spec as Encoder
from llmanac.retrieve.folder import FolderIndex
from llmanac.retrieve.folder.answers import FolderAnswer, FolderAssistant
from llmanac.retrieve.folder.quotes import spans

KINDS = ("named", "unnamed", "typo", "followup", "unanswerable")
NAMING = ("named", "typo", "followup")
ANSWERABLE = ("named", "unnamed", "typo", "followup")
OVERLAP = 0.8  # word F1 from which a line is an accepted answer in other words' order
HALF = 0.5  # of an accepted answer that a line must be, where it is a piece of one


@dataclass(frozen=True)
class Question:
    """One question of a file; see the module's text."""

    id: str
    kind: str
    question: str
    history: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Score:
    """What became of one question."""

    entry: bool
    right: bool
    line: bool
    refused: bool
    invented: bool


def read_questions(path: str | Path) -> list[Question]:
    """A file of questions. Raises DataError that names the line and the field."""
    found = []
    for number, line in enumerate(Path(path).read_text("utf-8").splitlines(), 1):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not JSON ({error.msg})") from None
        if not isinstance(row, dict) or not all(isinstance(row.get(k), str) for k in ("id", "kind", "question")):
            raise DataError(f"{where}: a question needs the texts id, kind and question")
        if row["kind"] not in KINDS:
            raise DataError(f"{where}: kind is {row['kind']!r}; one of {', '.join(KINDS)}")
        lists = {}
        for name in ("history", "entries", "answers"):
            value = row.get(name, [])
            if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
                raise DataError(f"{where}: {name} must be a list of texts")
            lists[name] = tuple(value)
        if bool(lists["entries"]) != (row["kind"] in ANSWERABLE):
            raise DataError(f"{where}: entries: {row['kind']} questions have {'none' if lists['entries'] else 'some'}")
        found.append(Question(row["id"], row["kind"], row["question"], **lists))
    return found


def plain(text: str) -> str:
    """The text with runs of white space collapsed."""
    return " ".join(text.split())


def accepted(quoted: str, answers: Sequence[str]) -> bool:
    """Whether a quoted text is, holds, or is most of one of the accepted answers."""
    said = plain(quoted)
    for answer in map(plain, answers):
        piece = said.removesuffix("...").strip()
        if answer in said or (piece and piece in answer and len(piece) >= HALF * len(answer)):
            return True
        if f1(said, answer) >= OVERLAP:
            return True
    return False


def score_answer(question: Question, answer: FolderAnswer, documented: Mapping[str, str]) -> Score:
    """Score one answer.

    Args:
        documented: by entry, all its text (name, signature and docstring), white space collapsed.
    """
    shown = {name_of(passage.heading) for passage in answer.shown[:QUOTES]} if answer.refused else set()
    shown |= {name_of(citation.passage.heading) for citation in answer.citations}
    right = [c for c in answer.citations if name_of(c.passage.heading) in question.entries]
    shown_with = [text for c in right for text in (c.passage.heading, _first(c.passage.text))]
    quoted = not answer.refused and bool(right)
    return Score(
        entry=bool(shown & set(question.entries)),
        right=quoted and any(accepted(text, question.answers) for text in (*(c.quote for c in right), *shown_with)),
        line=quoted and right[0] is answer.citations[0] and accepted(right[0].quote, question.answers),
        refused=answer.refused,
        invented=not all(plain(c.quote) in documented.get(name_of(c.passage.heading), "") for c in answer.citations),
    )


def _first(text: str) -> str:
    """The first sentence of a passage below its heading."""
    return next((text[a:b] for a, b in spans(text) if not text[a:b].startswith("# ")), "")


def run_scores(assistant: Any, source: Any, questions: Sequence[Question]) -> list[Score]:
    """Ask an assistant every question, with what was asked before it, and score its answers.

    Args:
        source: the `python-docs` source that the documents were made from.
    """
    documented: dict[str, str] = defaultdict(str)
    for entry in source.entries():
        documented[entry.name] += plain(f"{entry.name}{entry.signature} {entry.doc} ")
    return [score_answer(q, assistant.answer(q.question, q.history), documented) for q in questions]


def table(questions: Sequence[Question], scores: Sequence[Score]) -> dict[str, dict[str, float | int]]:
    """By kind, and for all answerable and all naming questions: counts and shares."""
    groups: dict[str, list[Score]] = defaultdict(list)
    for question, score in zip(questions, scores, strict=True):
        groups[question.kind].append(score)
        if question.kind in ANSWERABLE:
            groups["answerable"].append(score)
        if question.kind in NAMING:
            groups["naming"].append(score)
    order = [name for name in (*KINDS[:-1], "answerable", "naming", "unanswerable") if name in groups]
    return {
        name: {
            "questions": len(groups[name]),
            **{field: sum(getattr(s, field) for s in groups[name]) for field in Score.__dataclass_fields__},
        }
        for name in order
    }


def assistant_of(place: Path, encoder: str | None, model: str | None, mode: str | None) -> Any:
    """What answers from a folder of documents, or a run."""
    if (place / "model").is_dir():
        return load_assistant(place, load_engine(place))
    spec = None if encoder is None else Encoder(model=str(Path(encoder).resolve()))
    engine = None if model is None else load_engine(model, device="cpu", runner="native")
    method = None if encoder else "bm25"
    return FolderAssistant(FolderIndex.update(place, encoder=spec), engine, mode=mode, method=method, quotes=QUOTES)


COLUMNS = tuple(Score.__dataclass_fields__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of documents, or a finished quickstart run")
    parser.add_argument("questions", type=Path, nargs="+", help="files of questions")
    parser.add_argument("--encoder", help="a model's folder")
    parser.add_argument("--model", help="what reads, in the mode quote unless --mode names another")
    parser.add_argument("--mode")
    parser.add_argument("--json", type=Path, help="a file to put the scores into")
    given = parser.parse_args()
    mode = given.mode or ("quote" if given.model else None)
    assistant, spec = assistant_of(given.folder, given.encoder, given.model, mode), Spec()
    ways = (assistant.mode, given.encoder and Path(given.encoder).name, given.model and Path(given.model).name)
    by = " ".join(part for part in ways if part)
    for path in given.questions:
        questions = read_questions(path)
        found = table(questions, run_scores(assistant, spec, questions))
        print(f"{by:14}{'questions':>10}" + "".join(f"{name:>10}" for name in COLUMNS))
        for kind, row in found.items():
            print(f"{kind:14}{row['questions']:>10}" + "".join(f"{row[name]:>10}" for name in COLUMNS))
        print(json.dumps({"file": path.name, "by": by, "scores": found}), flush=True)
        if given.json:
            keep(given.json, f"{path.stem} {by}", found, spec.version())


def keep(path: Path, name: str, found: Mapping[str, Mapping[str, float | int]], version: str) -> None:
    """Add scores to a file, with their 95% intervals."""
    kept = files.read_json(path) if path.is_file() else {"files": {}}
    kept["python"] = version
    kept["files"][name] = {
        kind: dict(row)
        | {
            f"{column} interval": [round(x, 3) for x in proportion(int(row[column]), int(row["questions"]))[1:]]
            for column in COLUMNS
        }
        for kind, row in found.items()
    }
    files.write_json(path, kept)


if __name__ == "__main__":
    main()
