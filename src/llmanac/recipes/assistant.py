"""The documentation assistant: look passages up, let the model read the answer out of them, cite, or refuse.

What the model sees and says is in `quickstart_prompt`. The model does the reading: what is asked, which line of the
passages answers it, or that none does. The line it points at is the answer, word for word. It knows nothing by itself;
a question for which nothing is found never reaches it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import CheckpointError, DataError, RequestError
from llmanac.recipes.questions import REFUSAL
from llmanac.recipes.quickstart_examples import example_questions
from llmanac.recipes.quickstart_index import DocumentationIndex, Found
from llmanac.recipes.quickstart_passages import Passage
from llmanac.recipes.quickstart_prompt import (
    ASKED,
    MARKS,
    PARAMETERS,
    Asked,
    Block,
    Sheet,
    check_marks,
    prompt,
    split_completion,
)

PASSAGES = 3
PROMPT_TOKENS = 416
ANSWER_TOKENS = 6  # what is asked, of which parameter, a mark; and a little over
LONGEST_QUESTION = 4000  # characters


@dataclass(frozen=True)
class Citation:
    """Where an answer was read: the documented name with its signature, and the text that was shown of it."""

    title: str
    text: str


@dataclass(frozen=True)
class Answer:
    """An answer, where it was read, and whether it is a refusal (then it was read nowhere)."""

    text: str
    citations: tuple[Citation, ...]
    refused: bool


@dataclass(frozen=True)
class Reading:
    """What the model said to a question and a sheet.

    Attributes:
        query: what is asked, as it understood it, in its plainest form (`parameter length`).
        mark: of the line it points at.
        block, line: where that stands and what it says; None where it points at nothing shown.
        sheet: what was shown to it.
    """

    query: str
    mark: str | None
    sheet: Sheet
    block: Block | None = None
    line: str | None = None

    @property
    def text(self) -> str:
        """The answer: the line, or the refusal."""
        return REFUSAL if self.line is None else self.line


class Assistant:
    """Answers questions with a reader, its tokenizer and an index of passages.

    Args:
        engine: of the fine-tuned model; anything with `generate(prompts, max_new_tokens=, allowed_ids=, stop_ids=)`.
        passages: how many passages the model is shown.
        prompt_tokens: how long a prompt may be; it was trained with this length.
    """

    def __init__(
        self,
        engine: Any,
        index: DocumentationIndex,
        tokenizer: Any,
        *,
        passages: int = PASSAGES,
        prompt_tokens: int = PROMPT_TOKENS,
    ) -> None:
        self.engine, self.index, self.tokenizer = engine, index, tokenizer
        self.passages, self.prompt_tokens = passages, prompt_tokens
        check_marks(tokenizer)
        self._marks = [tokenizer.special_tokens[token] for token in MARKS]
        self._words = [*self._marks, *(tokenizer.special_tokens[token] for token in (*ASKED.values(), *PARAMETERS))]

    def answer(self, question: str) -> Answer:
        """Answer one question. Raises DataError for a blank one, RequestError for one that is too long."""
        return self.answers([question])[0]

    def answers(self, questions: Sequence[str]) -> list[Answer]:
        """Answer several questions at once."""
        blank = next((i for i, q in enumerate(questions) if not q.strip()), None)
        if blank is not None:
            raise DataError(f"question {blank + 1} is blank; ask about a name of the documentation")
        found = [self._find(question) for question in questions]
        readable = [i for i, f in enumerate(found) if f.passages and f.coverage >= self.index.threshold]
        readings = self.read([(found[i].asked, self._passages(found[i])) for i in readable])
        out = [Answer(REFUSAL, (), True) for _ in questions]
        for i, reading in zip(readable, readings, strict=True):
            out[i] = _answer(reading)
        return out

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """What the model is given for the last user message, passages included; a server counts its tokens."""
        question = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
        found = self._find(question)
        return prompt(self.tokenizer, found.asked, Sheet.of(self._passages(found)), limit=self.prompt_tokens)[0]

    def examples(self) -> list[str]:
        """Questions to begin with, about names that the index holds."""
        return example_questions(self.index.passages)

    def _find(self, question: str) -> Found:
        if len(question) > LONGEST_QUESTION:
            raise RequestError(
                f"messages: a question of {len(question):,} characters; at most {LONGEST_QUESTION:,} are looked up, so "
                "ask for one thing"
            )
        return self.index.find(question, self.passages)

    def read(self, asked: Sequence[tuple[Asked, Sequence[Passage]]]) -> list[Reading]:
        """What the model says to (question, passages) pairs, without retrieval or refusing before it is asked."""
        made = [prompt(self.tokenizer, q, Sheet.of(shown), limit=self.prompt_tokens) for q, shown in asked]
        if not made:
            return []
        prompts = [ids for ids, _ in made]
        said = self.engine.generate(
            prompts, max_new_tokens=ANSWER_TOKENS, allowed_ids=self._words, stop_ids=self._marks
        )
        return [self._reading(one.ids, sheet) for one, (_, sheet) in zip(said, made, strict=True)]

    def _reading(self, ids: Sequence[int], sheet: Sheet) -> Reading:
        query, mark = split_completion(self.tokenizer, ids, sheet)
        block, line = (sheet.read(mark) if mark else None) or (None, None)
        return Reading(query, mark, sheet, block, line)

    def _passages(self, found: Found) -> list[Passage]:
        return [self.index.passages[p] for p in found.passages]

    def save(self, folder: str | Path) -> None:
        """Write `assistant.json` and the index into a folder; the model and tokenizer are saved by the run."""
        folder = Path(folder)
        self.index.save(folder)
        choices = {"format_version": 1, "passages": self.passages, "prompt_tokens": self.prompt_tokens}
        files.write_json(folder / "assistant.json", choices)

    @classmethod
    def load(cls, folder: str | Path, engine: Any, tokenizer: Any) -> Assistant:
        """Read an assistant back. Raises CheckpointError that names the file which is missing or damaged."""
        path = Path(folder) / "assistant.json"
        try:
            data = files.read_table(path)
            choices = {"passages": int(data["passages"]), "prompt_tokens": int(data["prompt_tokens"])}
        except (DataError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); this run has no assistant") from None
        return cls(engine, DocumentationIndex.load(folder), tokenizer, **choices)


def _answer(reading: Reading) -> Answer:
    if reading.block is None:
        return Answer(REFUSAL, (), True)
    cited = Citation(reading.block.title, "\n".join(reading.block.lines))
    return Answer(reading.text, (cited,), False)
