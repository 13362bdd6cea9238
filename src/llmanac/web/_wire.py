"""What clients send: the fields that are understood, with their bounds, and what to do with the rest.

A field that the server does not know is ignored, and named in the response header `x-llmanac-ignored` unless its value
asks for nothing (null, 0, empty). A field that would change the meaning of the reply and is not supported is an error.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from llmanac.generate.engine import Options
from llmanac.web._errors import ApiError

MAX_STOPS = 4
MAX_CHOICES = 128  # n
MAX_TOP = 20  # alternatives a token
MAX_ROWS = 4096  # prompts times n of one request

Probability = Annotated[float, Field(ge=0, le=1)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    include_usage: bool | None = None


class Body(BaseModel):
    """What both endpoints take. top_k, stop_token_ids and ignore_eos are not OpenAI's; other servers have them too."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    model: str | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def ignored(self) -> list[str]:
        """Names of unknown fields that asked for something."""
        return sorted(k for k, v in (self.model_extra or {}).items() if v not in (None, 0, "", [], {}))

    def refuse(self, name: str, value: Any) -> None:
        """An error for a field whose meaning the server cannot honour, where it is set."""
        if value not in (None, 0, "", [], {}):
            raise ApiError(400, f"{name}: not supported by this server; leave it out", param=name, code="unsupported")

    def options(self, eos_ids: frozenset[int]) -> Options:
        """Engine options, with OpenAI's defaults: temperature 1 and, without a seed, a fresh one."""
        options = Options(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p,
            top_k=self.top_k if self.top_k is not None and self.top_k > 0 else None,
            n=self.n or 1,
            seed=secrets.randbits(48) if self.seed is None else self.seed,
            stop=[self.stop] if isinstance(self.stop, str) else self.stop or [],
        )
        if self.ignore_eos or self.stop_token_ids:
            ends = () if self.ignore_eos else eos_ids
            options["stop_ids"] = [*ends, *(self.stop_token_ids or [])]
        return options


class CompletionBody(Body):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]] = ""
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP)] | None = None
    return_tokens_as_token_ids: bool | None = None
    best_of: int | None = None
    suffix: str | None = None
    logit_bias: dict[str, float] | None = None

    def check(self) -> None:
        self.refuse("suffix", self.suffix)
        self.refuse("logit_bias", self.logit_bias)
        if self.best_of not in (None, 1, self.n or 1):
            self.refuse("best_of", self.best_of)

    def prompts(self) -> list[str | list[int]]:
        """The prompts, one or several. Raises ApiError for none, or too many."""
        one = isinstance(self.prompt, str) or (self.prompt and isinstance(self.prompt[0], int))
        prompts: list[Any] = [self.prompt] if one else list(self.prompt)
        if not prompts:
            raise ApiError(400, "prompt: the list is empty; give at least one prompt", param="prompt")
        if len(prompts) * (self.n or 1) > MAX_ROWS:
            raise ApiError(400, f"prompt: more than {MAX_ROWS} completions in one request; send fewer", param="prompt")
        return prompts


class Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    type: str
    text: str | None = None


class Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    role: str
    content: str | list[Part] | None = None


class ChatBody(Body):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP)] | None = None
    return_tokens_as_token_ids: bool | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    logit_bias: dict[str, float] | None = None

    def check(self) -> None:
        self.refuse("logit_bias", self.logit_bias)
        if self.tool_choice != "none":
            self.refuse("tools", self.tools)
        if self.response_format and self.response_format.get("type") != "text":
            self.refuse("response_format", self.response_format)
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs: needs logprobs to be true", param="top_logprobs")

    @property
    def limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def conversation(self) -> list[dict[str, str]]:
        """Messages as `{"role", "content"}` with plain text. Raises ApiError for anything that is not text."""
        return [
            {"role": "system" if m.role == "developer" else m.role, "content": _text_of(m, i)}
            for i, m in enumerate(self.messages)
        ]


def _text_of(message: Message, index: int) -> str:
    if message.content is None:
        return ""
    if isinstance(message.content, str):
        return message.content
    for part in message.content:
        if part.type != "text" or part.text is None:
            where = f"messages.{index}.content"
            raise ApiError(400, f"{where}: {part.type!r} parts are not supported; send text", param=where)
    return "".join(part.text or "" for part in message.content)
