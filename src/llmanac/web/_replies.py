"""What the server sends back: the same choices whole, or as the chunks of a stream.

Rules that real clients depend on: a chunk without choices is sent only as the usage chunk that the client asked for;
the last chunk of every choice has its finish_reason; what is held back (half a character, the beginning of a stop
string) is never sent.

What a chat model's text tells, whatever API asks: thoughts, text and tool calls, as it grows.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from llmanac import __version__
from llmanac.generate.engine import Completion, Piece, Request, TokenLogprob, completions
from llmanac.web._errors import error_body
from llmanac.web._logprobs import CompletionLogprobs, TokenTexts, chat_logprobs, prompt_logprobs
from llmanac.web._thoughts import Thoughts
from llmanac.web._tools import Calls
from llmanac.web.asgi import DONE, PING, event

Delta = dict[str, Any]


class Told:
    """Reads one choice.

    Args:
        thoughts, calls: what reads its thought and its tool calls, where it may have any.

    Attributes:
        content: the text outside thoughts and calls.
        ended: the finish_reason in OpenAI's words, once it is over.
    """

    def __init__(self, thoughts: Thoughts | None, calls: Calls | None) -> None:
        self.thoughts, self.calls = thoughts, calls
        self.content = ""
        self.ended: str | None = None

    @property
    def thought(self) -> str:
        return "" if self.thoughts is None else self.thoughts.thought

    @property
    def made(self) -> list[dict[str, Any]]:
        """The tool calls so far, as `message.tool_calls` has them."""
        return [] if self.calls is None else self.calls.made

    def push(self, text: str, reason: str | None) -> Iterator[Delta]:
        """The deltas that more text brings, as OpenAI has them: `{"content": ...}`, `{"reasoning_content": ...}` or
        `{"tool_calls": [...]}`.

        Args:
            reason: why the engine ended the choice; None while it goes on.
        """
        last = reason is not None
        parts: list[tuple[bool, str]] = [(False, text)]
        if self.thoughts is not None:
            parts = list(self.thoughts.push(text, last=last))
        for thought, said in parts:
            if thought:
                yield {"reasoning_content": said}
            elif self.calls is None:
                yield from self._say(said)
            else:
                yield from self._called(said, False)
        if last and self.calls is not None:
            yield from self._called("", True)
        if last:
            self.ended = "tool_calls" if reason == "stop" and self.made else reason

    def _called(self, text: str, last: bool) -> Iterator[Delta]:
        assert self.calls is not None
        for delta in self.calls.push(text, last=last):
            self.content += delta.get("content", "")
            yield delta

    def _say(self, text: str) -> Iterator[Delta]:
        self.content += text
        if text:
            yield {"content": text}


def usage_of(requests: list[Request]) -> dict[str, Any]:
    """Tokens read and written; and, with a prefix cache, how many of those read were not computed again."""
    prompt = sum(len(r.prompt) for r in requests)
    written = sum(len(s.token_logprobs) for r in requests for s in r.sequences)
    usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
    cached = [r.cached_tokens for r in requests if r.cached_tokens is not None]
    if cached:
        usage["prompt_tokens_details"] = {"cached_tokens": sum(cached)}
    return usage


class Reply:
    """One reply, with the fields that all its forms share; `choice` and `chunks` are each endpoint's own."""

    prefix = ""
    whole_object = chunk_object = ""
    media_type = "text/event-stream"
    best: int | None = None
    prompt_logprobs: int | None = None  # alternatives to show with each token of a prompt

    def __init__(self, model_name: str, requests: list[Request], texts: TokenTexts) -> None:
        self.requests, self.texts = requests, texts
        self.per_prompt = len(requests[0].sequences)
        self.head = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model_name,
            "system_fingerprint": f"llmanac-{__version__}",
        }

    def whole(self, extra: dict[str, Any]) -> dict[str, Any]:
        """The reply when everything is done."""
        done = [completion for request in self.requests for completion in self.shown(completions(request))]
        choices = [self.choice(index, completion) for index, completion in enumerate(done)]
        body = {**self.head, "object": self.whole_object, "choices": choices, "usage": self.usage()}
        return {**body, **({"llmanac": extra} if extra else {})}

    def opening(self) -> Iterator[dict[str, Any]]:
        """Chunks before the first token."""
        return iter(())

    def frame(self, chunk: dict[str, Any]) -> bytes:
        """A chunk as it is sent."""
        return event(chunk)

    def ping(self) -> bytes:
        """What is sent where nothing else was for some seconds."""
        return PING

    def closing(self, include_usage: bool, extra: dict[str, Any]) -> Iterator[bytes]:
        """What is sent behind the last chunk."""
        if include_usage:
            yield event(self.usage_chunk())
        yield DONE

    def failed(self, error: Exception) -> bytes:
        """What ends a stream that failed."""
        return event(error_body(error)[1])

    def chunk(self, *choices: dict[str, Any]) -> dict[str, Any]:
        return {**self.head, "object": self.chunk_object, "choices": list(choices)}

    def usage_chunk(self) -> dict[str, Any]:
        return {**self.chunk(), "usage": self.usage()}

    def usage(self) -> dict[str, Any]:
        return usage_of(self.requests)

    def prompt_scores(self, prompt: int) -> dict[str, Any]:
        """The field `prompt_logprobs` of a prompt, where it was asked for."""
        if self.prompt_logprobs is None:
            return {}
        scores = self.requests[prompt].prompt_token_logprobs
        return {"prompt_logprobs": prompt_logprobs(scores, self.texts, self.prompt_logprobs)}

    def finished(self) -> Completion:
        """The first sample, when everything is done."""
        return completions(self.requests[0])[0]

    def shown(self, samples: list[Completion]) -> list[Completion]:
        """Those of a prompt's samples that are sent: the `best` by log-probability a token, or all of them."""
        if self.best is None or self.best >= len(samples):
            return samples

        def mean(sample: Completion) -> float:
            found = [value for value in sample.logprobs if value is not None]
            return sum(found) / len(found) if found else 0.0

        return sorted(samples, key=mean, reverse=True)[: self.best]

    def choice(self, index: int, done: Completion) -> dict[str, Any]:
        raise NotImplementedError

    def chunks(self, prompt: int, piece: Piece, extra: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks for one piece; none where nothing may be shown yet."""
        raise NotImplementedError


class CompletionReply(Reply):
    """/v1/completions. `echo` holds the text of each prompt where the client wants it back; of the samples of a prompt
    the `best` are sent, by log-probability a token, or all of them."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(
        self,
        model_name: str,
        requests: list[Request],
        texts: TokenTexts,
        *,
        echo: list[str] | None = None,
        logprobs: int | None = None,
        best: int | None = None,
    ) -> None:
        super().__init__(model_name, requests, texts)
        self.echo, self.logprobs, self.best = echo, logprobs, best
        self._logs: dict[int, CompletionLogprobs] = {}
        self._late: dict[int, tuple[str, list[TokenLogprob]]] = {}

    def choice(self, index: int, done: Completion) -> dict[str, Any]:
        prompt = index // (self.best or self.per_prompt)
        echo = self.echo[prompt] if self.echo is not None else ""
        scores = [*(done.prompt_token_logprobs if self.echo is not None else ()), *done.token_logprobs]
        return {
            "index": index,
            "text": echo + done.text,
            "logprobs": None if self.logprobs is None else self._logprobs(prompt).render(scores),
            "finish_reason": done.finish_reason,
            **self.prompt_scores(prompt),
        }

    def _logprobs(self, prompt: int) -> CompletionLogprobs:
        if self.echo is None:
            return CompletionLogprobs(self.texts)
        return CompletionLogprobs(self.texts, (self.echo[prompt], self.requests[prompt].prompt))

    def chunks(self, prompt: int, piece: Piece, extra: dict[str, Any]) -> Iterator[dict[str, Any]]:
        index = prompt * self.per_prompt + piece.index
        if index not in self._logs:
            self._logs[index] = self._logprobs(prompt)
            echoed = (
                (self.echo[prompt], self.requests[prompt].prompt_token_logprobs) if self.echo is not None else ("", [])
            )
            self._late[index] = (echoed[0], list(echoed[1]))
        text, scores = self._late[index]
        text, scores = text + piece.text, [*scores, *piece.token_logprobs]
        shown = bool(text or piece.finish_reason)
        self._late[index] = ("", []) if shown else (text, scores)
        if shown:
            logprobs = None if self.logprobs is None else self._logs[index].render(scores)
            yield self.chunk({"index": index, "text": text, "logprobs": logprobs, "finish_reason": piece.finish_reason})


class ChatReply(Reply):
    """/v1/chat/completions.

    Args:
        alternatives: how many to show with each token; None shows no log-probabilities.
        told: makes what reads a choice's text.
        closing_id: the token that ends a thought, where there is one: those before it are counted apart.
    """

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(
        self,
        model_name: str,
        requests: list[Request],
        texts: TokenTexts,
        *,
        told: Callable[[], Told],
        alternatives: int | None = None,
        best: int | None = None,
        closing_id: int | None = None,
    ) -> None:
        super().__init__(model_name, requests, texts)
        self.alternatives, self.best, self.closing_id = alternatives, best, closing_id
        self._late: dict[int, list[TokenLogprob]] = {}
        self.told = [told() for _ in range(self.per_prompt)]

    def whole(self, extra: dict[str, Any]) -> dict[str, Any]:
        return {**super().whole(extra), **self.prompt_scores(0)}

    def usage(self) -> dict[str, Any]:
        if self.closing_id is None:
            return super().usage()
        thought = 0
        for sequence in self.requests[0].sequences:
            ids = [token.id for token in sequence.token_logprobs]
            thought += ids.index(self.closing_id) if self.closing_id in ids else 0
        return {**super().usage(), "completion_tokens_details": {"reasoning_tokens": thought}}

    def choice(self, index: int, done: Completion) -> dict[str, Any]:
        told = self.told[index]
        list(told.push(done.text, done.finish_reason))
        message: dict[str, Any] = {"role": "assistant", "content": told.content, "refusal": None}
        if told.thought:
            message["reasoning_content"] = told.thought
        if told.made:
            message |= {"content": told.content or None, "tool_calls": told.made}
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(list(done.token_logprobs)),
            "finish_reason": told.ended,
        }

    def opening(self) -> Iterator[dict[str, Any]]:
        for index in range(self.per_prompt):
            yield self._delta(index, {"role": "assistant", "content": ""}, [])

    def chunks(self, prompt: int, piece: Piece, extra: dict[str, Any]) -> Iterator[dict[str, Any]]:
        scores = [*self._late.pop(piece.index, []), *piece.token_logprobs]
        told = self.told[piece.index]
        deltas = list(told.push(piece.text, piece.finish_reason))
        reason = told.ended
        if not deltas and reason and self.alternatives is not None:
            deltas = [{}]
        for delta in deltas:
            yield self._delta(piece.index, delta, scores)
            scores = []
        if scores:
            self._late[piece.index] = scores
        if reason:
            last = self._delta(piece.index, {}, [], finish_reason=reason)
            yield {**last, **({"llmanac": extra} if extra else {})}

    def _delta(
        self, index: int, delta: dict[str, Any], scores: list[TokenLogprob], finish_reason: str | None = None
    ) -> dict[str, Any]:
        logprobs = self._logprobs(scores) if scores else None
        return self.chunk({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason})

    def _logprobs(self, scores: list[TokenLogprob]) -> dict[str, Any] | None:
        return None if self.alternatives is None else chat_logprobs(scores, self.texts, self.alternatives)
