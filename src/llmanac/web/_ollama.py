"""Ollama's form: /api/chat, /api/generate, /api/embed, /api/tags, /api/show, /api/ps and /api/version.

A request becomes one of `/v1/chat/completions` or `/v1/completions`, and is answered line by line. A model's name may
end with `:latest`. Defaults are Ollama's: temperature 0.8, top_k 40, top_p 0.9, and streams.
"""

import base64
import binascii
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from llmanac.generate.engine import Piece
from llmanac.web._embeddings import vectors_asked
from llmanac.web._errors import ApiError, ollama_error
from llmanac.web._prepare import chat_asked, completion_asked
from llmanac.web._replies import ChatReply, CompletionReply
from llmanac.web._service import Prepared, Service, plain_name
from llmanac.web._thoughts import markers_of
from llmanac.web._wire import (
    MAX_COUNT,
    MAX_INPUTS,
    CompletionBody,
    EmbeddingBody,
    LocalSampling,
    ModelName,
    Sent,
    Text,
    Unsupported,
    read,
    refuse,
    whole,
)
from llmanac.web._wire_chat import MAX_MESSAGES, MAX_TOOLS, ChatBody, Tool

LATEST = ":latest"
DEFAULTS = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
NOT_CONTINUED: Unsupported = {"system": [""], "images": [[]], "think": [False]}  # by what only continues a text
STARTS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


class OllamaOptions(LocalSampling):
    """`options`; those of how a model is loaded (num_ctx, num_gpu, ...) change nothing here."""

    unsupported: ClassVar[Unsupported] = {"mirostat": [0], "tfs_z": [1]}

    num_predict: Annotated[int, Field(ge=-2, le=MAX_COUNT), BeforeValidator(whole)] | None = None

    def fields(self) -> dict[str, Any]:
        """The fields of the other API's request."""
        return self.drawn(DEFAULTS, "num_predict")


class OllamaBody(Sent):
    model: ModelName
    stream: bool | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    format: Literal["json", ""] | dict[str, Any] | None = None
    options: OllamaOptions | None = None
    keep_alive: str | float | None = None

    def check(self, where: str = "") -> None:
        super().check(where)
        if self.options is not None:
            self.options.check("options.")

    def shared(self) -> dict[str, Any]:
        """The fields that both requests have in the other API."""
        found = {**(self.options or OllamaOptions()).fields(), "model": plain_name(self.model)}
        found["stream"] = self.stream is not False
        if isinstance(self.format, dict):
            schema = {"name": "answer", "schema": self.format}
            found["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self.format:
            found["response_format"] = {"type": "json_object"}
        return found

    def effort(self) -> dict[str, Any]:
        if self.think is None:
            return {}
        effort = self.think if isinstance(self.think, str) else "medium" if self.think else "none"
        return {"reasoning_effort": effort}


class OllamaFunction(Sent):
    name: str
    arguments: dict[str, Any]


class OllamaCall(Sent):
    id: str | None = None
    function: OllamaFunction


class OllamaMessage(Sent):
    role: Literal["system", "user", "assistant", "tool"]
    content: Text | None = None
    thinking: Text | None = None
    images: list[str] | None = None
    tool_calls: Annotated[list[OllamaCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaChat(OllamaBody):
    """POST /api/chat."""

    messages: Annotated[list[OllamaMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None

    def as_chat(self) -> dict[str, Any]:
        tools = [tool.model_dump(exclude_none=True) for tool in self.tools or ()]
        messages = [_message(one, f"messages.{i}.", i) for i, one in enumerate(self.messages)]
        return {**self.shared(), **self.effort(), "messages": messages, **({"tools": tools} if tools else {})}


class OllamaGenerate(OllamaBody):
    """POST /api/generate. Without `raw` the prompt is a user's message where the model has a chat template."""

    unsupported: ClassVar[Unsupported] = {"template": [""], "context": [[]]}

    prompt: Text = ""
    suffix: Text | None = None
    system: Text | None = None
    raw: bool | None = None
    images: list[str] | None = None


class OllamaEmbed(Sent):
    """POST /api/embed."""

    model: ModelName
    input: Text | Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)]
    truncate: bool | None = None
    dimensions: Annotated[int, Field(ge=1, le=MAX_COUNT), BeforeValidator(whole)] | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | float | None = None


class OllamaShow(Sent):
    """POST /api/show."""

    model: ModelName


def _message(message: OllamaMessage, where: str, place: int) -> dict[str, Any]:
    out: dict[str, Any] = {"role": message.role, "content": message.content or ""}
    if message.images:
        text = [{"type": "text", "text": message.content}] if message.content else []
        out["content"] = [*_images(message.images, f"{where}images"), *text]
    if message.thinking:
        out["reasoning_content"] = message.thinking
    if message.tool_calls:
        out["tool_calls"] = [
            {
                "id": call.id or f"call_{place}_{j}",
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": json.dumps(call.function.arguments, ensure_ascii=False),
                },
            }
            for j, call in enumerate(message.tool_calls)
        ]
    if message.role == "tool":
        out["tool_call_id"] = message.tool_call_id or message.tool_name or "call"
    return out


def _images(images: list[str], where: str) -> list[dict[str, Any]]:
    """Parts of a message; the kind of each image is read from its first bytes."""
    parts = []
    for i, data in enumerate(images):
        try:
            head = base64.b64decode(data[:16], validate=True)
        except (binascii.Error, ValueError):
            raise ApiError(400, f"{where}.{i}: is not base64") from None
        kind = next((kind for start, kind in STARTS.items() if head.startswith(start)), "png")
        parts.append({"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{data}"}})
    return parts


def chat(service: Service, data: bytes, until: float) -> Prepared:
    """What POST /api/chat asks for."""
    body = read(OllamaChat, data)
    body.check()
    return chat_asked(service, ChatBody.model_validate(body.as_chat()), until, OllamaReply, body.ignored())


def generate(service: Service, data: bytes, until: float) -> Prepared:
    """What POST /api/generate asks for."""
    body = read(OllamaGenerate, data)
    body.check()
    if body.raw or body.suffix or not service.can_chat:
        refuse(body.model_dump(include={*NOT_CONTINUED}), NOT_CONTINUED)
        given = {**body.shared(), "prompt": body.prompt, "suffix": body.suffix}
        room = {} if "max_tokens" in given else {"max_tokens": service.engine.model.max_length or 1024}
        return completion_asked(service, CompletionBody.model_validate({**room, **given}), OllamaText, body.ignored())
    first = [{"role": "system", "content": body.system}] if body.system else []
    asked = OllamaMessage(role="user", content=body.prompt, images=body.images)
    messages = [*first, _message(asked, "", 0)]
    fields = {**body.shared(), **body.effort(), "messages": messages}
    return chat_asked(service, ChatBody.model_validate(fields), until, OllamaAnswer, body.ignored())


def embed(service: Service, data: bytes, until: float) -> tuple[dict[str, Any], list[str]]:
    """The reply to POST /api/embed, and what of the request was ignored."""
    begun = time.monotonic_ns()
    body = read(OllamaEmbed, data)
    body.check()
    more: dict[str, Any] = {} if body.dimensions is None else {"dimensions": body.dimensions}
    long = "refuse" if body.truncate is False else "cut"
    given = {"model": plain_name(body.model), "input": body.input, "on_long": long, **more}
    found = vectors_asked(service, EmbeddingBody.model_validate(given))
    rows, count = [one["embedding"] for one in found["data"]], found["usage"]["prompt_tokens"]
    took = {"total_duration": time.monotonic_ns() - begun, "load_duration": 0, "prompt_eval_count": count}
    return {"model": body.model, "embeddings": rows, **took}, body.ignored()


def show(service: Service, data: bytes, until: float) -> tuple[dict[str, Any], list[str]]:
    """The reply to POST /api/show, and what of the request was ignored."""
    body = read(OllamaShow, data)
    adapter = service.adapter_of(body.model)
    engine = service.engine
    can = ["completion", *(["tools"] if service.can_chat and service.assistant is None else [])]
    can += ["thinking"] if markers_of(engine.chat_template) else []
    info = {"general.architecture": "llmanac", "llmanac.context_length": engine.model.max_length}
    return {
        **card(adapter or service.model_name, service.created),
        "template": engine.chat_template or "",
        "parameters": "",
        "model_info": info,
        "capabilities": can,
    }, body.ignored()


def card(name: str, created: int) -> dict[str, Any]:
    """A model, as /api/tags and /api/ps list it."""
    name, made = name + LATEST, datetime.fromtimestamp(created, UTC)
    at = made.isoformat().replace("+00:00", "Z")
    details = {"format": "llmanac", "family": "", "families": [], "parameter_size": "", "quantization_level": ""}
    return {"name": name, "model": name, "modified_at": at, "size": 0, "digest": "", "details": details}


class Lines:
    """What Ollama's answers share: lines of JSON, each with the time; durations are in nanoseconds."""

    media_type = "application/x-ndjson"
    head: dict[str, Any]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._begun = time.monotonic_ns()
        self._first: int | None = None

    def frame(self, chunk: dict[str, Any]) -> bytes:
        return json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    def ping(self) -> bytes:
        return b""

    def failed(self, error: Exception) -> bytes:
        return self.frame(ollama_error(error)[1])

    def _line(self, **fields: Any) -> dict[str, Any]:
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        return {"model": self.head["model"], "created_at": at, **fields, "done": False}

    def _done(self, usage: dict[str, Any], reason: str | None) -> dict[str, Any]:
        now = time.monotonic_ns()
        first = now if self._first is None else self._first
        return {
            "done": True,
            "done_reason": "length" if reason == "length" else "stop",
            "total_duration": now - self._begun,
            "load_duration": 0,
            "prompt_eval_count": usage["prompt_tokens"],
            "prompt_eval_duration": first - self._begun,
            "eval_count": usage["completion_tokens"],
            "eval_duration": now - first,
        }

    def _timed(self) -> None:
        self._first = self._first or time.monotonic_ns()


class OllamaReply(Lines, ChatReply):
    """The answer to /api/chat. A tool call is sent once it is whole."""

    def whole(self, extra: dict[str, Any]) -> dict[str, Any]:
        told, done = self.told[0], self.finished()
        list(told.push(done.text, done.finish_reason))
        return {**self._said(told.content, told.thought, self._calls()), **self._done(self.usage(), told.ended)}

    def opening(self) -> Iterator[dict[str, Any]]:
        return iter(())

    def chunks(self, prompt: int, piece: Piece, extra: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self._timed()
        for delta in self.told[0].push(piece.text, piece.finish_reason):
            if "tool_calls" not in delta:
                yield self._said(delta.get("content", ""), delta.get("reasoning_content", ""), [])

    def closing(self, include_usage: bool, extra: dict[str, Any]) -> Iterator[bytes]:
        calls = self._calls()
        last = {**self._said("", "", []), **self._done(self.usage(), self.told[0].ended)}
        yield (self.frame(self._said("", "", calls)) if calls else b"") + self.frame(last)

    def _said(self, text: str, thought: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        more = {**({"thinking": thought} if thought else {}), **({"tool_calls": calls} if calls else {})}
        return self._line(message={**message, **more})

    def _calls(self) -> list[dict[str, Any]]:
        """The calls that are whole."""
        found = []
        for call in self.told[0].made:
            try:
                given = json.loads(call["function"]["arguments"] or "{}")
            except (ValueError, RecursionError):
                continue
            found.append({"function": {"name": call["function"]["name"], "arguments": given}})
        return found


class OllamaAnswer(OllamaReply):
    """The answer to /api/generate by a model that chats."""

    def _said(self, text: str, thought: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        return self._line(response=text, **({"thinking": thought} if thought else {}))


class OllamaText(Lines, CompletionReply):
    """The answer to /api/generate by a model that continues text."""

    def whole(self, extra: dict[str, Any]) -> dict[str, Any]:
        done = self.finished()
        line = self._line(response=done.text)
        return {**line, **self._done(self.usage(), done.finish_reason)}

    def chunks(self, prompt: int, piece: Piece, extra: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self._timed()
        if piece.text:
            yield self._line(response=piece.text)

    def closing(self, include_usage: bool, extra: dict[str, Any]) -> Iterator[bytes]:
        line = self._line(response="")
        reason = self.requests[0].sequences[0].finish_reason
        yield self.frame({**line, **self._done(self.usage(), reason)})
