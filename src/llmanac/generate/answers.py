"""An assistant as the terminal and the server see it: an object that answers from documents that it looks up itself.

A conversation within a model's context: which turns are sent, and how much room the answer has.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from llmanac.core.errors import RequestError, too_long
from llmanac.generate.engine import Engine


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


def fitting(engine: Engine, messages: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[int]]:
    """The newest turns that leave a quarter of the context for the answer, and their token ids.

    Raises:
        RequestError: not even the last message fits.
    """
    tokenizer, context = engine.tokenizer, engine.model.max_length
    if tokenizer is None:
        raise RequestError("chat: the engine has no tokenizer")
    system = [m for m in messages[:1] if m["role"] == "system"]
    turns = messages[len(system) :]
    while True:
        kept = [*system, *turns]
        ids = list(tokenizer.encode_chat(kept, add_generation_prompt=True)[0])
        if context is None or len(ids) <= context * 3 // 4 or len(turns) <= 1:
            break
        turns = turns[2:] if len(turns) > 2 else turns[-1:]  # a question goes with its answer
    if context is not None and len(ids) >= context:
        raise too_long("prompt", len(ids), context)
    return kept, ids


def room(engine: Engine, prompt: int) -> int:
    """How many tokens an answer may have after a prompt of so many."""
    return 1024 if engine.model.max_length is None else max(1, engine.model.max_length - prompt)
