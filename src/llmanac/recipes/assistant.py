"""The documentation assistant: look passages up, let the model read the answer out of them, cite, or refuse.

The prompt is `<|doc|>passage ... <|user|>question<|assistant|>`. The model first says
what it speaks of, then the answer:

    shutil.copyfileobj
    copy data from file-like object fsrc to file-like object fdst<|end|>

The model does the reading: which of the passages speaks of what was asked, which line answers it, or that none does. It
knows nothing by itself; a question for which nothing is found never reaches it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import CheckpointError, DataError, TokenizerError, nearest
from llmanac.recipes.questions import REFUSAL
from llmanac.recipes.quickstart_index import DocumentationIndex, Found
from llmanac.recipes.quickstart_passages import Passage

DOC, USER, ASSISTANT, END = "<|doc|>", "<|user|>", "<|assistant|>", "<|end|>"
PASSAGES = 3
PROMPT_TOKENS = 448
ANSWER_TOKENS = 96


@dataclass(frozen=True)
class Citation:
    """A passage that was shown to the model."""

    title: str
    text: str


@dataclass(frozen=True)
class Answer:
    """An answer, the passages it was read from (best first), and whether it is a refusal."""

    text: str
    citations: tuple[Citation, ...]
    refused: bool


def completion(name: str, answer: str) -> str:
    """What the model is to say: what it speaks of on a line of its own, where there is a name, then the answer."""
    return f"{name}\n{answer}" if name else answer


def special_ids(tokenizer: Any) -> dict[str, int]:
    """The ids of the four marks of a prompt. Raises TokenizerError that names the one which is missing."""
    known = tokenizer.special_tokens
    for mark in (DOC, USER, ASSISTANT, END):
        if mark not in known:
            raise TokenizerError(
                f"the tokenizer has no {mark!r}{nearest(mark, known)}; train it with the assistant's marks"
            )
    return {mark: known[mark] for mark in (DOC, USER, ASSISTANT, END)}


def prompt_ids(tokenizer: Any, question: str, passages: Sequence[Passage], *, limit: int = PROMPT_TOKENS) -> list[int]:
    """The prompt as token ids, at most `limit` of them: the longest passage loses lines from its end until it fits.

    Marks are put in by id; a mark spelled out in the question or a passage stays plain text.
    """
    marks = special_ids(tokenizer)
    asked = [marks[USER], *list(tokenizer.encode(question))[: limit // 2], marks[ASSISTANT]]
    shown = [[list(tokenizer.encode(line + "\n")) for line in (p.title, *p.lines)] for p in passages]
    room = limit - len(asked) - len(shown)
    while sum(len(line) for lines in shown for line in lines) > room and any(len(lines) > 1 for lines in shown):
        max(shown, key=lambda lines: sum(map(len, lines)) if len(lines) > 1 else 0).pop()
    ids: list[int] = []
    for lines in shown:
        flat = [i for line in lines for i in line]
        if len(ids) + 1 + len(flat) + len(asked) <= limit:
            ids += [marks[DOC], *flat]
    return ids + asked


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
        texts = self.read([(found[i].question, self._passages(found[i])) for i in readable])
        out = [Answer(REFUSAL, (), True) for _ in questions]
        for i, text in zip(readable, texts, strict=True):
            out[i] = self._answer(text, found[i])
        return out

    def read(self, asked: Sequence[tuple[str, Sequence[Passage]]]) -> list[str]:
        """What the model says to (question, passages) pairs, without retrieval or refusing before it is asked."""
        prompts = [prompt_ids(self.tokenizer, q, passages, limit=self.prompt_tokens) for q, passages in asked]
        if not prompts:
            return []
        completions = self.engine.generate(prompts, max_new_tokens=ANSWER_TOKENS, stop_ids=self._stop)
        return [self._said(completion.ids)[1] for completion in completions]

    def _said(self, ids: Sequence[int]) -> tuple[str, str]:
        """`(what the model says it speaks of, its answer)`."""
        ids = [i for i in ids if i not in self._stop]
        name, newline, text = self.tokenizer.decode(without_loop(ids)).partition("\n")
        return (name.strip(), " ".join(text.split())) if newline else ("", " ".join(name.split()))

    def _passages(self, found: Found) -> list[Passage]:
        return [self.index.passages[p] for p in found.passages]

    def _answer(self, text: str, found: Found) -> Answer:
        if not text or is_refusal(text):
            return Answer(REFUSAL, (), True)
        shown = self._passages(found)
        # cited first: the passage that holds the answer, then the others in the order of their rank
        order = sorted(range(len(shown)), key=lambda i: (not _holds(shown[i], text), i))
        cited = tuple(
            Citation(shown[i].title, "\n".join(shown[i].lines))
            for i in order
            if i == order[0] or _holds(shown[i], text)
        )
        return Answer(text, cited, False)

    def stream(self, question: str) -> Iterator[Answer]:
        """One answer, for interfaces that take pieces; the text comes whole, since it is short."""
        yield self.answer(question)

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


def is_refusal(text: str) -> bool:
    """Whether an answer says that the documentation does not say."""
    return text.strip().rstrip(".").lower() == REFUSAL.rstrip(".").lower()


def _holds(passage: Passage, text: str) -> bool:
    return " ".join(text.split()) in " ".join(passage.text.split())
