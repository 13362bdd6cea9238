"""The documentation assistant: look passages up, let the model read the answer out of them, cite, or refuse.

`understanding` finds what a question is about; `prompt` is what the model sees and says. The model reads: it says what
the question asks for and which line of the passages answers it, or that none does. Where the question has words that
the model was not trained on, `choice` scores the lines by these words too. The line is the answer, word for word. A
refusal, or an answer that is not certain, comes with the nearest entries. The model knows nothing by itself; a question
for which no passage is found never reaches it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.apps.docs_assistant import choice as chosen
from llmanac.apps.docs_assistant.examples import example_questions
from llmanac.apps.docs_assistant.facts import parameters
from llmanac.apps.docs_assistant.forms import form_words
from llmanac.apps.docs_assistant.index import DocumentationIndex
from llmanac.apps.docs_assistant.names import Known
from llmanac.apps.docs_assistant.passages import Passage
from llmanac.apps.docs_assistant.prompt import (
    MARKS,
    NOT_SHOWN,
    Asked,
    Block,
    Sheet,
    prompt,
    said_ids,
    split_completion,
    stated_defaults,
)
from llmanac.apps.docs_assistant.questions import REFUSAL, Pair
from llmanac.apps.docs_assistant.ranking import Found, Served
from llmanac.apps.docs_assistant.understanding import Understood, understand
from llmanac.core import files
from llmanac.core.errors import CheckpointError, DataError, RequestError
from llmanac.generate._requests import TokenLogprob

PASSAGES = 3
CANDIDATES = 3  # entries that are quoted where a question names none
NEAREST = 3  # entries shown with an answer that is not certain, or with a refusal
PROMPT_TOKENS = 416
ANSWER_TOKENS = 6  # the kind of question, its parameter, a mark, and some spare
CAUTIONS = tuple(step / 4 for step in range(17))
COST = 0.02  # of the right answers about training modules, that caution may take away
LONGEST_QUESTION = 4000  # characters
APP = "docs-assistant"


@dataclass(frozen=True)
class Citation:
    """The source of an answer: the documented name with its signature, its summary, and the text shown of it."""

    title: str
    text: str
    name: str = ""
    summary: str = ""


@dataclass(frozen=True)
class Near:
    """A name that the question may be about: called as its signature says, and its summary, empty without docstring."""

    name: str
    signature: str
    summary: str


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        text: lines of the documentation, unchanged, the one that answers first; or why there are none.
        citations: the sources; none for a refusal.
        refused: whether it is a refusal.
        nearest: the entries nearest to the question, where it is refused or names nothing for certain.
    """

    text: str
    citations: tuple[Citation, ...]
    refused: bool
    nearest: tuple[Near, ...] = ()

    @property
    def line(self) -> str:
        """The line that answers, without the further ones."""
        return self.text.partition("\n")[0]


@dataclass(frozen=True)
class Reading:
    """What the model said to a question and a sheet.

    Attributes:
        query: what it understood, in the plainest form (`parameter length`).
        block, line: the block and the line that it points at; None where it points at nothing shown.
        doubt: log-probability that no line answers, less that of this line.
    """

    query: str
    block: Block | None = None
    line: str | None = None
    doubt: float = -math.inf

    @property
    def text(self) -> str:
        """The answer: the line, or the refusal."""
        return REFUSAL if self.line is None else self.line


class Assistant:
    """Answers questions with a reader, its tokenizer and an index of passages.

    Args:
        engine: of the fine-tuned model; anything with
            `generate(prompts, max_new_tokens=, allowed_ids=, stop_ids=, logprobs=)`.
        passages: how many passages the model is shown.
        prompt_tokens: how long a prompt may be; it was trained with this length.
        caution: added to the doubt of each reading: above 0 the assistant refuses (`calibrate`).
    """

    def __init__(
        self,
        engine: Any,
        index: DocumentationIndex,
        tokenizer: Any,
        *,
        passages: int = PASSAGES,
        prompt_tokens: int = PROMPT_TOKENS,
        caution: float = 0.0,
    ) -> None:
        self.engine, self.index, self.tokenizer = engine, index, tokenizer
        self.passages, self.prompt_tokens, self.caution = passages, prompt_tokens, caution
        self._common = chosen.common_stems(sorted(form_words()))
        self._marks, self._words = said_ids(tokenizer)

    def answer(self, question: str, history: Sequence[str] = ()) -> Answer:
        """Answer one question.

        Args:
            history: the user's earlier questions, oldest first: the name in the last of them still applies
                where the question names none.

        Raises:
            DataError: a blank question. RequestError: one that is too long.
        """
        return self.answers([question], [history])[0]

    def answers(self, questions: Sequence[str], histories: Sequence[Sequence[str]] | None = None) -> list[Answer]:
        """Answer several questions at once, each with the earlier ones of its conversation."""
        blank = next((i for i, q in enumerate(questions) if not q.strip()), None)
        if blank is not None:
            raise DataError(f"question {blank + 1} is blank; ask about a name of the documentation")
        return [self._answer(*one) for one in self._looked_up(questions, histories or [()] * len(questions))]

    def calibrate(self, answerable: Sequence[Pair]) -> None:
        """Set `caution` by questions about training modules: a small model answers too readily what nothing answers.

        The highest that costs at most `COST` of the answers that are right without it.
        """
        if not answerable:
            return
        looked_up = self._looked_up([pair.question for pair in answerable], [()] * len(answerable))
        right = {}
        for self.caution in CAUTIONS:
            given = (self._answer(*one) for one in looked_up)
            right[self.caution] = sum(a.line == p.answer for a, p in zip(given, answerable, strict=True))
        least = (1 - COST) * right[0.0]
        self.caution = max(caution for caution, count in right.items() if count >= least)

    def _looked_up(
        self, questions: Sequence[str], histories: Sequence[Sequence[str]]
    ) -> list[tuple[str, Understood, Reading | None]]:
        about = [self._understand(q, h) for q, h in zip(questions, histories, strict=True)]
        found = [self.index.find_asked(one.asked, self.passages) for one in about]
        readable = [i for i, f in enumerate(found) if self._readable(about[i], f)]
        readings = self.read([(found[i].asked, self._passages(found[i])) for i in readable])
        said = dict(zip(readable, readings, strict=True))
        return [(q, one, said.get(i)) for i, (q, one) in enumerate(zip(questions, about, strict=True))]

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """What the model is given for the last user message, passages included; a server counts its tokens."""
        *earlier, question = [m["content"] for m in messages if m["role"] == "user"] or [""]
        asked = self._understand(question, earlier).asked
        passages = self._passages(self.index.find_asked(asked, self.passages))
        return prompt(self.tokenizer, asked, Sheet.of(passages), limit=self.prompt_tokens)[0]

    def examples(self) -> list[str]:
        """Questions to begin with, about names that the index holds."""
        return example_questions(self.index.passages)

    def _understand(self, question: str, history: Sequence[str]) -> Understood:
        if len(question) > LONGEST_QUESTION:
            raise RequestError(
                f"messages: a question of {len(question):,} characters; at most {LONGEST_QUESTION:,} are looked up, so "
                "ask for one thing"
            )
        return understand(self.index, question, [turn[:LONGEST_QUESTION] for turn in history])

    def _readable(self, about: Understood, found: Found) -> bool:
        """Whether there is something for the model to read: passages that may answer, under a name that is there."""
        if about.unknown or (about.known and about.known.entry < 0):
            return False
        return bool(found.passages) and found.coverage >= self.index.threshold

    def _answer(self, question: str, about: Understood, reading: Reading | None) -> Answer:
        nearest = self._nearest(question, about)
        if reading and reading.doubt + self.caution > 0:
            reading = Reading(reading.query)
        if about.unknown:
            return Answer(f"There is no entry named {about.unknown}. {REFUSAL}", (), True, nearest)
        if about.known is None:
            return self._described(question, about, reading, nearest)
        entry = about.known.entry
        if entry < 0:
            return Answer(f"{about.known.name} has no docstring. {REFUSAL}", (), True, nearest)
        quoted = self._quoted(question, about, entry, reading)
        if not quoted:
            return Answer(REFUSAL, (), True, nearest)
        read = [p.lines for p in self.index.of(entry) if set(quoted) & set(p.lines)] or [self.index.of(entry)[0].lines]
        cited = tuple(self._cited(entry, lines) for lines in read)
        return Answer("\n".join(quoted), cited, False, nearest if about.how == "spelt" else ())

    def _described(
        self, question: str, about: Understood, reading: Reading | None, nearest: tuple[Near, ...]
    ) -> Answer:
        """The answer to a question that names nothing: what the model reads, then the entries that serve it best."""
        best = self.index.best(question, 4 * CANDIDATES)
        shown = [known.entry for known in self._named_once(best)][:CANDIDATES]
        vectors = self.index.dense is not None
        served = chosen.tells(question) and self.index.ranking.serves(question, best[:CANDIDATES], vectors=vectors)
        if chosen.opinion(question) or not served:
            return Answer(REFUSAL, (), True, nearest)
        block = None if reading is None else reading.block
        lines: dict[int, str] = {}
        if reading is not None and block is not None and block.entry in shown:
            lines[block.entry] = reading.text  # elsewhere the model, which knows few words, is not followed
        for entry in shown:
            lines.setdefault(entry, self._line(question, about, entry))
        cited = (self._cited(entry, [line]) for entry, line in lines.items())
        return Answer("\n".join(lines.values()), tuple(cited), False, nearest)

    def _line(self, question: str, about: Understood, entry: int) -> str:
        """The line of an entry that says most of what a question asks; its summary where none does."""
        quoted = self._quoted(question, about, entry, None)
        first = self.index.first_passage(entry)
        return quoted[0] if quoted else (*first.lines, first.title)[0]

    def _quoted(self, question: str, about: Understood, entry: int, reading: Reading | None) -> tuple[str, ...]:
        """The lines of an entry that answer."""
        first = self.index.first_passage(entry)
        lines = [line for passage in self.index.of(entry) for line in passage.lines]
        inside = reading and reading.block and reading.block.entry == entry
        asked = chosen.Asked(
            question,
            about.wanted,
            self._common | chosen.common_stems(parameters(first.title.removeprefix(first.name))),
            reading.query.partition(" ")[0] if reading else "",
            reading.line if reading and inside else None,
            reading is not None and reading.line is None,
        )
        return chosen.choose(self.index.ranking, asked, [first.title, *stated_defaults(first.title)], lines)

    def _cited(self, entry: int, lines: Sequence[str]) -> Citation:
        near = self._near(Known("", entry))
        return Citation(self.index.first_passage(entry).title, "\n".join(lines), near.name, near.summary)

    def _nearest(self, question: str, about: Understood) -> tuple[Near, ...]:
        """The entries to look at, the name that is asked about first."""
        likely = [about.known] if about.known else []
        if about.known and about.known.relative >= 0:
            likely.append(Known("", about.known.relative))
        likely += about.near
        if len(likely) <= NEAREST:
            likely += self._best(question)
        once = {(known.entry, known.name if known.entry < 0 else ""): known for known in reversed(likely)}
        shown = NEAREST + (about.known is not None)
        return tuple(self._near(known) for known in list(once.values())[::-1][:shown])

    def _best(self, question: str) -> list[Known]:
        """The entries that are for what a question is after, one of each name: `str.strip`, and not `bytes.strip`."""
        return self._named_once(self.index.best(question, 4 * NEAREST))[: NEAREST + 1]

    def _named_once(self, best: Sequence[Served]) -> list[Known]:
        once: dict[str, Known] = {}
        for one in best:
            if known := self.index.known(one.entry):
                once.setdefault(known.parts[-1], known)
        return list(once.values())

    def _near(self, known: Known) -> Near:
        if known.entry < 0:
            return Near(known.name, f"{known.name}{known.signature}", "")
        first = self.index.first_passage(known.entry)
        return Near(first.name, first.title, first.lines[0] if first.lines else "")

    def read(self, asked: Sequence[tuple[Asked, Sequence[Passage]]]) -> list[Reading]:
        """What the model says to (question, passages) pairs, without retrieval or refusing before it is asked."""
        made = [prompt(self.tokenizer, q, Sheet.of(shown), limit=self.prompt_tokens) for q, shown in asked]
        if not made:
            return []
        prompts = [ids for ids, _ in made]
        said = self.engine.generate(
            prompts, max_new_tokens=ANSWER_TOKENS, allowed_ids=self._words, stop_ids=self._marks, logprobs=len(MARKS)
        )
        return [self._reading(one.token_logprobs, sheet) for one, (_, sheet) in zip(said, made, strict=True)]

    def _reading(self, said: Sequence[TokenLogprob], sheet: Sheet) -> Reading:
        query, mark = split_completion(self.tokenizer, [token.id for token in said], sheet)
        found = sheet.read(mark) if mark else None
        if found is None:
            return Reading(query)
        at = next(token for token in said if token.id == self.tokenizer.special_tokens[mark])
        none = at.top.get(self.tokenizer.special_tokens[NOT_SHOWN], -math.inf)
        return Reading(query, *found, doubt=none - (at.logprob or 0.0))

    def _passages(self, found: Found) -> list[Passage]:
        return [self.index.passages[p] for p in found.passages]

    def save(self, folder: str | Path) -> None:
        """Write `assistant.json` and the index into a folder; the model and tokenizer are saved by the run."""
        folder = Path(folder)
        self.index.save(folder)
        own = {"passages": self.passages, "prompt_tokens": self.prompt_tokens, "caution": self.caution}
        choices = {"format_version": 1, "app": APP, **own}
        files.write_json(folder / "assistant.json", choices)

    @classmethod
    def load(cls, folder: str | Path, engine: Any, tokenizer: Any) -> Assistant:
        """Read an assistant back. Raises CheckpointError that names the file which is missing or damaged."""
        path = Path(folder) / "assistant.json"
        try:
            data = files.read_table(path)
            choices: dict[str, Any] = {"passages": int(data["passages"]), "prompt_tokens": int(data["prompt_tokens"])}
            choices["caution"] = float(data.get("caution", 0.0))  # older runs have none
        except (DataError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); this run has no assistant") from None
        return cls(engine, DocumentationIndex.load(folder), tokenizer, **choices)
