"""What the server sends back: the same choices whole, or as the chunks of a stream.

Rules that real clients depend on: a chunk without choices is sent only as the usage chunk that the client asked for;
the last chunk of every choice has its finish_reason; what is held back (half a character, the beginning of a stop
string) is never sent.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any

from llmanac import __version__
from llmanac.generate.engine import Piece, Request, TokenLogprob, completions
from llmanac.web._logprobs import CompletionLogprobs, TokenTexts, chat_logprobs


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
        choices = [
            self.choice(i * self.per_prompt + s.index, request, s.index)
            for i, request in enumerate(self.requests)
            for s in request.sequences
        ]
        body = {**self.head, "object": self.whole_object, "choices": choices, "usage": usage_of(self.requests)}
        return {**body, **({"llmanac": extra} if extra else {})}

    def opening(self) -> Iterator[dict[str, Any]]:
        """Chunks before the first token."""
        return iter(())

    def chunk(self, *choices: dict[str, Any]) -> dict[str, Any]:
        return {**self.head, "object": self.chunk_object, "choices": list(choices)}

    def usage_chunk(self) -> dict[str, Any]:
        return {**self.chunk(), "usage": usage_of(self.requests)}

    def choice(self, index: int, request: Request, sample: int) -> dict[str, Any]:
        raise NotImplementedError

    def chunks(self, prompt: int, piece: Piece, extra: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks for one piece; none where nothing may be shown yet."""
        raise NotImplementedError


class CompletionReply(Reply):
    """/v1/completions. `echo` holds the text of each prompt where the client wants it back."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(
        self,
        model_name: str,
        requests: list[Request],
        texts: TokenTexts,
        *,
        echo: list[str] | None = None,
        logprobs: int | None = None,
    ) -> None:
        super().__init__(model_name, requests, texts)
        self.echo, self.logprobs = echo, logprobs
        self._logs: dict[int, CompletionLogprobs] = {}
        self._late: dict[int, tuple[str, list[TokenLogprob]]] = {}

    def choice(self, index: int, request: Request, sample: int) -> dict[str, Any]:
        done = completions(request)[sample]
        echo = self.echo[index // self.per_prompt] if self.echo is not None else ""
        scores = [*(done.prompt_token_logprobs if self.echo is not None else ()), *done.token_logprobs]
        return {
            "index": index,
            "text": echo + done.text,
            "logprobs": None if self.logprobs is None else CompletionLogprobs(self.texts).render(scores),
            "finish_reason": done.finish_reason,
        }

    def chunks(self, prompt: int, piece: Piece, extra: dict[str, Any]) -> Iterator[dict[str, Any]]:
        index = prompt * self.per_prompt + piece.index
        if index not in self._logs:
            self._logs[index] = CompletionLogprobs(self.texts)
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
    """/v1/chat/completions. `alternatives` is how many to show with each token; None shows no log-probabilities."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(
        self, model_name: str, requests: list[Request], texts: TokenTexts, *, alternatives: int | None = None
    ) -> None:
        super().__init__(model_name, requests, texts)
        self.alternatives = alternatives
        self._late: dict[int, list[TokenLogprob]] = {}

    def choice(self, index: int, request: Request, sample: int) -> dict[str, Any]:
        done = completions(request)[sample]
        return {
            "index": index,
            "message": {"role": "assistant", "content": done.text, "refusal": None},
            "logprobs": self._logprobs(list(done.token_logprobs)),
            "finish_reason": done.finish_reason,
        }

    def opening(self) -> Iterator[dict[str, Any]]:
        for index in range(self.per_prompt):
            yield self._delta(index, {"role": "assistant", "content": ""}, [])

    def chunks(self, prompt: int, piece: Piece, extra: dict[str, Any]) -> Iterator[dict[str, Any]]:
        scores = [*self._late.pop(piece.index, []), *piece.token_logprobs]
        if piece.text or (piece.finish_reason and self.alternatives is not None):
            yield self._delta(piece.index, {"content": piece.text}, scores)
        else:
            self._late[piece.index] = scores
        if piece.finish_reason:
            last = self._delta(piece.index, {}, [], finish_reason=piece.finish_reason)
            yield {**last, **({"llmanac": extra} if extra else {})}

    def _delta(
        self, index: int, delta: dict[str, Any], scores: list[TokenLogprob], finish_reason: str | None = None
    ) -> dict[str, Any]:
        logprobs = self._logprobs(scores) if scores else None
        return self.chunk({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason})

    def _logprobs(self, scores: list[TokenLogprob]) -> dict[str, Any] | None:
        return None if self.alternatives is None else chat_logprobs(scores, self.texts, self.alternatives)
