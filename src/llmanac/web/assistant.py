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
    passages included), the tokens read are counted from that, else from the question."""

    def answer(self, question: str) -> Answer: ...


def prompt_of(assistant: Assistant, engine: Engine, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """The prompt's token ids, for the usage figures; no longer than the context."""
    prompt = getattr(assistant, "prompt", None)
    assert engine.tokenizer is not None
    ids = engine.tokenizer.encode(question_of(messages)) if prompt is None else prompt(messages)
    return list(ids)[: engine.model.max_length]


def question_of(messages: Sequence[Mapping[str, str]]) -> str:
    """The last user message. Raises ApiError where there is none."""
    question = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
    if not question.strip():
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
        job.extra = {"citations": [citation_json(c) for c in answer.citations], "refused": bool(answer.refused)}
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


def citation_json(citation: Any) -> dict[str, str]:
    """`{"title", "text"}` of a citation, whether it is a mapping or an object."""
    get = citation.get if isinstance(citation, Mapping) else lambda name: getattr(citation, name, "")
    return {"title": str(get("title") or ""), "text": str(get("text") or "")}
