"""Score a run's documentation assistant on natural questions (`evidence/docs_assistant/`).

    python tools/natural_questions.py runs/quickstart evidence/docs_assistant/work.jsonl [--by WAY...] [--json OUT.json]

Prints one row for each kind of question, and the same as one line of JSON; no question and no answer is shown. With
--json the scores are added to that file, next to those of other question files, with 95% intervals. Ways to answer:

- assistant: all that the run has. plain: without its vectors, where it has some.
- name: the entry whose name is written in the question, else in the turns before it; its first lines are shown.
- folder: the sentences that `llmanac ask` quotes from the run's documents, without a model; with vectors where their
  index has some.
- bm25: the three best entries by BM25, of each the line that shares most with the question. It never refuses.

A file of questions is JSON Lines: `id`, `kind`, `history` (earlier user turns, oldest first), `question`, `entries`
(every accepted entry), `answers` (accepted pieces of its text); both lists are empty where a refusal is wanted.

- right entry: one of `entries` is among those shown (cited, or named as nearest).
- right: the answer is quoted from one of `entries`; and what is quoted (three lines at most, and the signature and the
  summary that are shown with them), with runs of white space collapsed (docstrings are wrapped), contains one of
  `answers`, or a text of it is itself at least half of one, or shares words with one at F1 0.8 or more.
- line: the same of the first line alone.
- refused: the answer is a refusal, whatever entries are shown with it.
- invented: something is quoted that the documentation does not hold.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.apps.docs_assistant.assistant import CANDIDATES, Answer, Citation
from llmanac.apps.docs_assistant.choice import MOST_LINES
from llmanac.apps.docs_assistant.documents import FOLDER
from llmanac.core import files
from llmanac.core.errors import DataError
from llmanac.data.sources.python_docs import Spec
from llmanac.generate.load import load_assistant, load_engine
from llmanac.metrics._intervals import wilson_interval as proportion
from llmanac.metrics.answers import f1
from llmanac.models.locate import ASSISTANT
from llmanac.retrieve._words import code_words
from llmanac.retrieve.folder import FolderIndex
from llmanac.retrieve.folder.answers import FolderAssistant
from llmanac.retrieve.folder.index import WHERE

WAYS = ("assistant", "plain", "folder", "name", "bm25")
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


def score_answer(
    question: Question, answer: Any, documented: Mapping[str, str], public: Mapping[str, str] | None = None
) -> Score:
    """Score one answer of the assistant.

    Args:
        documented: by entry, all its text (name, signature and docstring), white space collapsed.
        public: by a public name, the entry that it stands for.
    """
    public = public or {}
    cited = [citation.name for citation in answer.citations]
    shown = {public.get(name, name) for name in (*cited, *(near.name for near in answer.nearest))}
    right = [c for c in answer.citations if public.get(c.name, c.name) in question.entries]
    quoted = not answer.refused and bool(right)
    lines = answer.text.split("\n")
    shown_with = [text for c in right for text in (c.title, c.summary)]
    return Score(
        entry=bool(shown & set(question.entries)),
        right=quoted and any(accepted(text, question.answers) for text in (*lines, answer.text, *shown_with)),
        line=quoted and accepted(lines[0], question.answers),
        refused=bool(answer.refused),
        invented=not answer.refused
        and not all(any(_documented(line, documented.get(name, "")) for name in cited) for line in lines),
    )


def _documented(said: str, text: str) -> bool:
    """Whether every word that is said stands in an entry's text, in this order: bullets and rulers between them are
    layout, and a label ("Raises ValueError:") or a default is put together from two places of it."""
    words, rest = re.findall(r"\w+", said.removesuffix("...")), iter(re.findall(r"\w+", text))
    return all(word in rest for word in words)


def run_scores(assistant: Any, source: Any, questions: Sequence[Question]) -> list[Score]:
    """Ask an assistant every question, with what was asked before it, and score its answers.

    Args:
        source: what it was made from; an entry that it shows under a public name counts as that entry.
    """
    documented = {entry.name: plain(f"{entry.name}{entry.signature} {entry.doc}") for entry in source.entries()}
    public = {name.name: name.entry for name in source.names() if name.entry}
    documented |= {name: f"{name} {documented[entry]}" for name, entry in public.items()}
    answers = assistant.answers([q.question for q in questions], [q.history for q in questions])
    return [score_answer(q, a, documented, public) for q, a in zip(questions, answers, strict=True)]


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


class Search:
    """A search of the assistant's text, by name alone or by BM25 alone."""

    def __init__(self, index: Any, by: str) -> None:
        self.index, self.by = index, by

    def answers(self, questions: Sequence[str], histories: Sequence[Sequence[str]]) -> list[Answer]:
        search = self._named if self.by == "name" else self._bm25
        return [search(*pair) for pair in zip(questions, histories, strict=True)]

    def _named(self, question: str, history: Sequence[str]) -> Answer:
        for turn in (question, *reversed(history)):
            words = sorted(re.findall(r"[A-Za-z_][\w.]*\w", turn), key=lambda w: ("." not in w, "_" not in w, -len(w)))
            entry = next((entry for word in words if (entry := self._entry(word.lower())) is not None), None)
            if entry is not None:
                lines = [line for passage in self.index.of(entry) for line in passage.lines][:MOST_LINES]
                return Answer("\n".join(lines), (self._cited(entry),), False)
        return Answer("There is no such name.", (), True)

    def _entry(self, word: str) -> int | None:
        """The entry of a name, in full or without its first parts; of several the shortest."""
        names = self.index.known_names.full
        alike = [word] if word in names else sorted((n for n in names if n.endswith(f".{word}")), key=len)
        return next((names[name].entry for name in alike if names[name].entry >= 0), None)

    def _bm25(self, question: str, history: Sequence[str]) -> Answer:
        query = " ".join([*history[-1:], question])
        wanted = set(code_words(query))
        shown: dict[int, str] = {}
        for hit in self.index.bm25.top(query, 10 * CANDIDATES):
            passage = self.index.passages[hit.position]
            if len(shown) < CANDIDATES and passage.entry not in shown:
                shared = {line: self._shared(line, wanted) for line in (*passage.lines, passage.title)}
                shown[passage.entry] = max(shared, key=lambda line: shared[line])
        return Answer("\n".join(shown.values()), tuple(map(self._cited, shown)), not shown)

    def _shared(self, line: str, wanted: set[str]) -> float:
        return sum(self.index.bm25.weight(word) for word in wanted & set(code_words(line)))

    def _cited(self, entry: int) -> Citation:
        first = self.index.first_passage(entry)
        return Citation(first.title, "", first.name, first.lines[0] if first.lines else "")


class Folder:
    """Answers from the documents of a run, as `llmanac ask` gives them."""

    def __init__(self, folder: Path) -> None:
        self.assistant = FolderAssistant(FolderIndex.open(folder / WHERE))

    def answers(self, questions: Sequence[str], histories: Sequence[Sequence[str]]) -> list[Answer]:
        return [self._answer(*pair) for pair in zip(questions, histories, strict=True)]

    def _answer(self, question: str, history: Sequence[str]) -> Answer:
        given = self.assistant.answer(question, history)
        cited = tuple(self._cited(one.passage) for one in given.citations)
        return Answer("\n".join(one.quote for one in given.citations) or given.text, cited, given.refused)

    def _cited(self, passage: Any) -> Citation:
        lines = [line for line in passage.text.split("\n") if line.strip() and not line.startswith("# ")]
        name = passage.heading.removeprefix("topic ").partition("(")[0]
        return Citation(passage.heading, passage.text, name, lines[0] if lines else "")


def way(assistant: Any, by: str, run: Path) -> Any:
    """The assistant, or a part of it that answers by itself."""
    if by == "folder":
        return Folder(run / ASSISTANT / FOLDER)
    if by in ("name", "bm25"):
        return Search(assistant.index, by)
    out = copy.copy(assistant)
    if by == "plain":
        out.index = copy.copy(out.index)
        out.index.dense = None
    return out


COLUMNS = tuple(Score.__dataclass_fields__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished quickstart run")
    parser.add_argument("questions", type=Path, nargs="+", help="files of questions")
    parser.add_argument("--json", type=Path, help="a file to put the scores into")
    parser.add_argument("--by", nargs="+", choices=WAYS, default=["assistant"], help="ways to answer [assistant]")
    choices = parser.parse_args()
    parts = {path: read_questions(path) for path in choices.questions}
    assistant = load_assistant(choices.run, load_engine(choices.run))
    if assistant is None:
        parser.error(f"{choices.run}: this run has no assistant")
    spec = Spec()
    for path, questions in parts.items():
        for by in choices.by:
            found = table(questions, run_scores(way(assistant, by, choices.run), spec, questions))
            print(f"{by:14}{'questions':>10}" + "".join(f"{name:>10}" for name in COLUMNS))
            for kind, row in found.items():
                print(f"{kind:14}{row['questions']:>10}" + "".join(f"{row[name]:>10}" for name in COLUMNS))
            print(json.dumps({"file": path.name, "by": by, "scores": found}), flush=True)
            if choices.json:
                keep(choices.json, f"{path.stem} {by}", found, choices.run, spec.version())


def keep(path: Path, name: str, found: Mapping[str, Mapping[str, float | int]], run: Path, version: str) -> None:
    """Add scores to a file, with their 95% intervals."""
    kept = files.read_json(path) if path.is_file() else {"files": {}}
    results = files.read_json(run / "results.json")
    kept |= {"run": "quickstart", "seed": results["seed"], "budget": results["budget"], "python": version}
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
