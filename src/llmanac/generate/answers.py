"""An assistant as the terminal and the server see it: an object that answers from documents that it looks up itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Answer(Protocol):
    """An answer: its text, the passages it was read from (title and text), and whether it is a refusal to answer.

    It may have `nearest`: entries (name, signature, summary) to look at instead.
    """

    @property
    def text(self) -> str: ...
    @property
    def citations(self) -> Sequence[Any]: ...
    @property
    def refused(self) -> bool: ...


class Assistant(Protocol):
    """Retrieves, answers, cites.

    It may have more: `answer(question, history)` also reads the user's earlier questions; `prompt(messages)` gives the
    token ids that the model is given, retrieved passages included (else the question's are counted); `examples()` gives
    questions to begin with.
    """

    def answer(self, question: str) -> Answer: ...


def reads_history(assistant: Assistant) -> bool:
    """Whether the user's earlier questions are the assistant's to read."""
    return "history" in inspect.signature(assistant.answer).parameters


def ask(assistant: Assistant, question: str, earlier: Sequence[str] = ()) -> Answer:
    """The answer to a question, with the user's earlier ones where the assistant reads them."""
    read: dict[str, Any] = {"history": list(earlier)} if earlier and reads_history(assistant) else {}
    return assistant.answer(question, **read)


def citation_texts(citation: Any) -> dict[str, str]:
    """`title` and `text` of a citation, a mapping or an object; and the entry's `summary` where there is one."""
    return {**_texts(citation, "title", "text"), **{k: v for k, v in _texts(citation, "summary").items() if v}}


def nearest_texts(answer: Answer) -> list[dict[str, str]]:
    """`name`, `signature` and `summary` of the entries nearest to a question, where its answer has them."""
    return [_texts(entry, "name", "signature", "summary") for entry in getattr(answer, "nearest", None) or ()]


def _texts(thing: Any, *names: str) -> dict[str, str]:
    get = thing.get if isinstance(thing, Mapping) else lambda name: getattr(thing, name, "")
    return {name: str(get(name) or "") for name in names}
