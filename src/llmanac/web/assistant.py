"""What the server needs of an assistant: an object that answers questions from documents that it looks up itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from llmanac.generate.engine import Engine, Request, Score
from llmanac.web._errors import ApiError
from llmanac.web.worker import Job, Pieces


class Answer(Protocol):
    """An answer: its text, the passages it was read from (title and text), and whether it is a refusal to answer."""

    @property
    def text(self) -> str: ...
    @property
    def citations(self) -> Sequence[Any]: ...
    @property
    def refused(self) -> bool: ...


class Assistant(Protocol):
    """Retrieves, answers, cites. Where it has `prompt(messages) -> token ids` (what the model is given, retrieved
    passages included), the tokens read are counted from that, else from the question. Where it has `examples()`, the
    chat page offers those questions; where an answer has `nearest` (name, signature, summary), the reply has them too.
    """

    def answer(self, question: str) -> Answer: ...


def prompt_of(assistant: Assistant, engine: Engine, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """The prompt's token ids, for the usage figures; no longer than the context."""
    prompt = getattr(assistant, "prompt", None)
    assert engine.tokenizer is not None
    ids = engine.tokenizer.encode(question_of(messages)) if prompt is None else prompt(messages)
    return list(ids)[: engine.model.max_length]


def question_of(messages: Sequence[Mapping[str, str]]) -> str:
    """The last user message that is not blank. Raises ApiError where there is none."""
    question = next((m["content"] for m in reversed(messages) if m["role"] == "user" and m["content"].strip()), None)
    if question is None:
        raise ApiError(
            400, "messages: the assistant answers the last user message, and there is none", param="messages"
        )
    return question


def answering_job(engine: Engine, request: Request, assistant: Assistant, question: str) -> Job:
    """A job that asks the assistant and sends its answer through the request's sequences.

    So the request's own `stop` and `max_new_tokens` hold for an answer too. Citations are left in `job.extra`.
    """
    assert engine.tokenizer is not None
    tokenizer = engine.tokenizer
    request.context = None  # the answer is there; no model goes on from it

    def work(job: Job) -> Pieces:
        answer = assistant.answer(question)
        job.extra = said_with(answer)
        ids = [int(i) for i in tokenizer.encode(answer.text)]
        for sequence in request.sequences:
            for token in ids if request.max_new_tokens else ():
                sequence.push(Score(token, None))
                if sequence.finish_reason:
                    break
                yield 0, sequence.take()
            if sequence.finish_reason is None:
                sequence.finish("stop" if request.max_new_tokens else "length")
            yield 0, sequence.take()

    return Job([request], work)


def said_with(answer: Answer) -> dict[str, Any]:
    """The reply's field `llmanac`: citations, whether it is a refusal, and the nearest entries where there are any."""
    out = {"citations": [citation_json(c) for c in answer.citations], "refused": bool(answer.refused)}
    nearest = [_texts_of(entry, ("name", "signature", "summary")) for entry in getattr(answer, "nearest", None) or ()]
    return {**out, "nearest": nearest} if nearest else out


def examples_of(assistant: Assistant | None) -> list[str]:
    """Questions for the chat page to begin with, from what the assistant knows; none where it offers none."""
    offered = getattr(assistant, "examples", None)
    return [str(question) for question in offered()] if callable(offered) else []


def citation_json(citation: Any) -> dict[str, str]:
    """`{"title", "text"}` of a citation, whether it is a mapping or an object."""
    return _texts_of(citation, ("title", "text"))


def _texts_of(thing: Any, names: Sequence[str]) -> dict[str, str]:
    get = thing.get if isinstance(thing, Mapping) else lambda name: getattr(thing, name, "")
    return {name: str(get(name) or "") for name in names}
