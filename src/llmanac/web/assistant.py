"""How an assistant answers a chat completion in place of the bare model."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmanac.generate.answers import Answer, Assistant, ask, citation_texts, nearest_texts
from llmanac.generate.engine import Engine, Request, TokenLogprob
from llmanac.web._errors import ApiError
from llmanac.web.worker import Job, Pieces


def prompt_of(assistant: Assistant, engine: Engine, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """The prompt's token ids, for the usage figures; no longer than the context."""
    prompt = getattr(assistant, "prompt", None)
    assert engine.tokenizer is not None
    ids = engine.tokenizer.encode(questions_of(messages)[-1]) if prompt is None else prompt(messages)
    return list(ids)[: engine.model.max_length]


def questions_of(messages: Sequence[Mapping[str, str]]) -> list[str]:
    """The user's messages that are not blank: the question is the last. Raises ApiError where there is none."""
    questions = [m["content"] for m in messages if m["role"] == "user" and m["content"].strip()]
    if not questions:
        raise ApiError(400, "messages: the assistant answers the last user message, and there is none")
    return questions


def answering_job(engine: Engine, request: Request, assistant: Assistant, questions: Sequence[str]) -> Job:
    """A job that asks the assistant the last question and sends its answer through the request's sequences.

    So the request's own `stop` and `max_new_tokens` hold for an answer too. Citations are left in `job.extra`.
    """
    assert engine.tokenizer is not None
    tokenizer = engine.tokenizer
    request.context = None  # the answer is there; no model goes on from it

    def work(job: Job) -> Pieces:
        answer = ask(assistant, questions[-1], questions[:-1])
        job.extra = said_with(answer)
        ids = [int(i) for i in tokenizer.encode(answer.text)]
        for sequence in request.sequences:
            for token in ids if request.max_new_tokens else ():
                sequence.push(TokenLogprob(token, None))
                if sequence.finish_reason:
                    break
                yield 0, sequence.take()
            if sequence.finish_reason is None:
                sequence.finish("stop" if request.max_new_tokens else "length")
            yield 0, sequence.take()

    return Job([request], work)


def said_with(answer: Answer) -> dict[str, Any]:
    """The reply's field `llmanac`: citations, whether it is a refusal, and the nearest entries where there are any."""
    out = {"citations": [citation_texts(c) for c in answer.citations], "refused": bool(answer.refused)}
    nearest = nearest_texts(answer)
    return {**out, "nearest": nearest} if nearest else out


def examples_of(assistant: Assistant | None) -> list[str]:
    """Questions for the chat page to begin with, from what the assistant knows; none where it offers none."""
    offered = getattr(assistant, "examples", None)
    return [str(question) for question in offered()] if callable(offered) else []
