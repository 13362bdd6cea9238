"""The documentation assistant: look passages up, let the model read the answer out of them, cite, or refuse.

What the model sees and says is in `quickstart_prompt`. The model does the reading: which of the passages speaks of what
was asked, which line answers it, or that none does; it says which line it reads, and that line is the citation. It
knows nothing by itself; a question for which nothing is found never reaches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import CheckpointError, DataError
from llmanac.recipes.questions import REFUSAL
from llmanac.recipes.quickstart_index import DocumentationIndex, Found
from llmanac.recipes.quickstart_passages import Passage
from llmanac.recipes.quickstart_prompt import Asked, Sheet, prompt, special_ids, split_completion

PASSAGES = 3
PROMPT_TOKENS = 416
ANSWER_TOKENS = 96


@dataclass(frozen=True)
class Citation:
    """Where an answer was read: the documented name with its signature, and the text that was shown of it."""

    title: str
    text: str


@dataclass(frozen=True)
class Answer:
    """An answer, where it was read (the line's own entry first), and whether it is a refusal."""

    text: str
    citations: tuple[Citation, ...]
    refused: bool


@dataclass(frozen=True)
class Reading:
    """What the model said to a question and a sheet.

    Attributes:
        query: the question as it understood it, in its plainest form (`returns shutil.copytree`).
        mark: of the line it read.
        text: its answer.
        sheet: what was shown to it.
    """

    query: str
    mark: str
    text: str
    sheet: Sheet


class Assistant:
    """Answers questions with an engine, its tokenizer and an index of passages.

    Args:
        engine: anything with `generate(prompts, max_new_tokens=, stop_ids=)`.
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
        self._stop = list(special_ids(tokenizer).values())

    def answer(self, question: str) -> Answer:
        """Answer one question. Raises DataError for a blank one."""
        return self.answers([question])[0]

    def answers(self, questions: Sequence[str]) -> list[Answer]:
        """Answer several questions at once."""
        blank = next((i for i, q in enumerate(questions) if not q.strip()), None)
        if blank is not None:
            raise DataError(f"question {blank + 1} is blank; ask about a name of the documentation")
        found = [self.index.find(question, self.passages) for question in questions]
        readable = [i for i, f in enumerate(found) if f.passages and f.coverage >= self.index.threshold]
        readings = self.read([(found[i].asked, self._passages(found[i])) for i in readable])
        out = [Answer(REFUSAL, (), True) for _ in questions]
        for i, reading in zip(readable, readings, strict=True):
            out[i] = _answer(reading)
        return out

    def read(self, asked: Sequence[tuple[Asked, Sequence[Passage]]]) -> list[Reading]:
        """What the model says to (question, passages) pairs, without retrieval or refusing before it is asked."""
        made = [prompt(self.tokenizer, q, Sheet.of(shown), limit=self.prompt_tokens) for q, shown in asked]
        if not made:
            return []
        prompts = [ids for ids, _ in made]
        said = self.engine.generate(prompts, max_new_tokens=ANSWER_TOKENS, stop_ids=self._stop)
        return [self._reading(one.ids, sheet) for one, (_, sheet) in zip(said, made, strict=True)]

    def _reading(self, ids: Sequence[int], sheet: Sheet) -> Reading:
        said = self.tokenizer.decode(without_loop([i for i in ids if i not in self._stop]))
        return Reading(*split_completion(said), sheet)

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
            data = files.read_json(path)
            choices = {"passages": int(data["passages"]), "prompt_tokens": int(data["prompt_tokens"])}
        except (DataError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); this run has no assistant") from None
        return cls(engine, DocumentationIndex.load(folder), tokenizer, **choices)


def _answer(reading: Reading) -> Answer:
    if not reading.text or is_refusal(reading.text):
        return Answer(REFUSAL, (), True)
    line = reading.sheet.read(reading.mark)
    blocks = [line[0]] if line else []
    blocks += [b for b in reading.sheet.blocks if b not in blocks and any(reading.text in text for text in b.lines)]
    cited = tuple(Citation(block.lines[0], "\n".join(block.lines[1:])) for block in blocks)
    return Answer(reading.text, cited, False)


def is_refusal(text: str) -> bool:
    """Whether an answer says that the documentation does not say."""
    return text.strip().rstrip(".").lower() == REFUSAL.rstrip(".").lower()


def without_loop(ids: Sequence[int]) -> list[int]:
    """The tokens, a loop at their end cut: a run that stands there three times or more stays once."""
    ids = list(ids)
    for period in range(1, len(ids) // 3 + 1):
        run = ids[-period:]
        times = 1
        while ids[-period * (times + 1) : -period * times] == run:
            times += 1
        if times >= 3:
            return ids[: len(ids) - period * (times - 1)]
    return ids
