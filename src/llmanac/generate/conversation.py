"""A conversation within a model's context: which turns are sent, and how much room the answer has."""

from __future__ import annotations

from llmanac.core.errors import RequestError, too_long
from llmanac.generate.engine import Engine


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
