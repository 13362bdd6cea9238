"""Anthropic's form: POST /v1/messages and /v1/messages/count_tokens.

A request becomes one of `/v1/chat/completions`, and is answered in this form, whole or as events. Thoughts are sent as
`thinking` blocks with an empty signature, since nothing here is encrypted.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from llmanac.generate.engine import Piece
from llmanac.web._errors import ApiError, messages_error
from llmanac.web._prepare import chat_asked
from llmanac.web._replies import ChatReply
from llmanac.web._service import Prepared, Service
from llmanac.web._wire import MAX_COUNT, NAME, Count, ModelName, Sent, Share, Stops, Text, Unsupported, read, whole
from llmanac.web._wire_chat import MAX_MESSAGES, MAX_TOOLS, ChatBody
from llmanac.web.asgi import named_event

STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class ImageSource(Sent):
    type: Literal["base64"]
    media_type: str
    data: str


class Block(Sent):
    """A part of a message; which fields it has follows from its type."""

    type: Literal["text", "image", "tool_use", "tool_result", "thinking"]
    text: Text | None = None
    source: ImageSource | None = None
    id: Annotated[str, Field(max_length=256)] | None = None
    name: Annotated[str, Field(pattern=NAME)] | None = None
    input: dict[str, Any] | None = None
    tool_use_id: Annotated[str, Field(max_length=256)] | None = None
    content: Text | list[dict[str, Any]] | None = None
    thinking: Text | None = None
    signature: str | None = None


class Turn(Sent):
    role: Literal["user", "assistant"]
    content: Text | Annotated[list[Block], Field(min_length=1)]


class MessageTool(Sent):
    name: Annotated[str, Field(pattern=NAME)]
    description: Text | None = None
    input_schema: dict[str, Any] | None = None
    type: Literal["custom"] | None = None


class MessageChoice(Sent):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingBody(Sent):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Count | None = None


class JsonFormat(Sent):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Sent):
    format: JsonFormat | None = None


class CountBody(Sent):
    """POST /v1/messages/count_tokens."""

    unsupported: ClassVar[Unsupported] = {
        "mcp_servers": [[]], "container": [], "context_management": [], "output_format": [],
    }  # fmt: skip

    model: ModelName
    messages: Annotated[list[Turn], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: Text | Annotated[list[Block], Field(min_length=1)] | None = None
    tools: Annotated[list[MessageTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: MessageChoice | None = None
    thinking: ThinkingBody | None = None
    output_config: OutputConfig | None = None

    def as_chat(self) -> dict[str, Any]:
        """The fields of a chat request. Raises ApiError for a block that lacks a part or is where it cannot be."""
        system = [{"role": "system", "content": _system(self.system)}] if self.system else []
        messages = [out for i, turn in enumerate(self.messages) for out in _messages(turn, f"messages.{i}")]
        found: dict[str, Any] = {"model": self.model, "messages": [*system, *messages]}
        if messages and messages[-1]["role"] == "assistant":
            found["continue_final_message"] = True
        if self.tools:
            found["tools"] = [
                {
                    "type": "function",
                    "function": {"name": t.name, "parameters": t.input_schema}
                    | ({"description": t.description} if t.description else {}),
                }
                for t in self.tools
            ]
        if self.tool_choice is not None:
            found |= _choice(self.tool_choice)
        if self.thinking is not None:
            off = self.thinking.type == "disabled"
            found |= {"reasoning_effort": "none"} if off else {"thinking_budget": self.thinking.budget_tokens}
        if self.output_config is not None and (form := self.output_config.format) is not None:
            found["response_format"] = {"type": form.type, "json_schema": {"schema": form.schema_}}
        return found


class MessagesBody(CountBody):
    """POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1, le=MAX_COUNT), BeforeValidator(whole)]
    stop_sequences: Stops | None = None
    stream: bool | None = None
    temperature: Share | None = None
    top_p: Share | None = None
    top_k: Count | None = None

    def as_chat(self) -> dict[str, Any]:
        given = self.model_dump(include={"max_tokens", "stream", "temperature", "top_p", "top_k"}, exclude_none=True)
        return {**super().as_chat(), **given, **({"stop": self.stop_sequences} if self.stop_sequences else {})}


def _system(given: str | list[Block]) -> str:
    return given if isinstance(given, str) else _texts([block.model_dump() for block in given], "system")


def _messages(turn: Turn, where: str) -> Iterator[dict[str, Any]]:
    """The messages of a turn, in a chat request's form: results of tools are messages of their own."""
    if isinstance(turn.content, str):
        yield {"role": turn.role, "content": turn.content}
        return
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    thought = ""
    for j, block in enumerate(turn.content):
        at = f"{where}.content.{j}"
        if (block.type in ("tool_use", "thinking")) != (turn.role == "assistant") and block.type != "text":
            raise ApiError(400, f"{at}: a turn of the {turn.role} has no {block.type} block")
        if block.type == "text":
            parts.append({"type": "text", "text": _needed(block.text, at, "text")})
        elif block.type == "image":
            source = _needed(block.source, at, "source")
            url = f"data:{source.media_type};base64,{source.data}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
        elif block.type == "thinking":
            thought += _needed(block.thinking, at, "thinking")
        elif block.type == "tool_use":
            written = json.dumps(_needed(block.input, at, "input"), ensure_ascii=False)
            function = {"name": _needed(block.name, at, "name"), "arguments": written}
            calls.append({"id": _needed(block.id, at, "id"), "type": "function", "function": function})
        else:
            said = block.content if isinstance(block.content, str) else _texts(block.content or [], f"{at}.content")
            yield {"role": "tool", "tool_call_id": _needed(block.tool_use_id, at, "tool_use_id"), "content": said}
    if parts or calls or thought:
        plain = all(part["type"] == "text" for part in parts)
        content: Any = "\n".join(part["text"] for part in parts) if plain else parts
        more: dict[str, Any] = {"tool_calls": calls} if calls else {}
        yield {"role": turn.role, "content": content, **more, **({"reasoning_content": thought} if thought else {})}


def _needed(value: Any, where: str, name: str) -> Any:
    if value is None:
        raise ApiError(400, f"{where}.{name}: is missing")
    return value


def _texts(parts: list[dict[str, Any]], where: str) -> str:
    for part in parts:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ApiError(400, f"{where}: only text is read here")
    return "\n".join(part["text"] for part in parts)


def _choice(choice: MessageChoice) -> dict[str, Any]:
    named = {"type": "function", "function": {"name": choice.name or ""}}
    found: dict[str, Any] = {"tool_choice": {"any": "required", "tool": named}.get(choice.type, choice.type)}
    if choice.disable_parallel_tool_use is not None:
        found["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return found


def messages(service: Service, data: bytes, until: float) -> Prepared:
    """What POST /v1/messages asks for."""
    body = read(MessagesBody, data)
    body.check()
    return chat_asked(service, ChatBody.model_validate(body.as_chat()), until, MessagesReply, body.ignored())


def count(service: Service, data: bytes, until: float) -> tuple[dict[str, Any], list[str]]:
    """The reply to POST /v1/messages/count_tokens."""
    body = read(CountBody, data)
    body.check()
    asked = chat_asked(service, ChatBody.model_validate({**body.as_chat(), "max_tokens": 1}), until)
    return {"input_tokens": len(asked.requests[0].prompt)}, body.ignored()


class MessagesReply(ChatReply):
    """The answer to /v1/messages: blocks of thinking, text and tool use, each opened, filled and closed in turn."""

    prefix = "msg"

    def whole(self, extra: dict[str, Any]) -> dict[str, Any]:
        told = self.told[0]
        done = self.finished()
        list(told.push(done.text, done.finish_reason))
        blocks: list[dict[str, Any]] = []
        if told.thought:
            blocks.append({"type": "thinking", "thinking": told.thought, "signature": ""})
        if told.content:
            blocks.append({"type": "text", "text": told.content})
        for call in told.made:
            function = call["function"]
            given = json.loads(function["arguments"] or "{}") if _whole(function["arguments"]) else {}
            blocks.append({"type": "tool_use", "id": call["id"], "name": function["name"], "input": given})
        return {**self._message(blocks), **self._stopped(), "usage": self.usage()}

    def usage(self) -> dict[str, Any]:
        found = super().usage()
        cached = found.get("prompt_tokens_details", {}).get("cached_tokens")
        read_here = found["prompt_tokens"] - (cached or 0)
        used = {"input_tokens": read_here, "output_tokens": found["completion_tokens"]}
        kept = {} if cached is None else {"cache_read_input_tokens": cached, "cache_creation_input_tokens": 0}
        return {**used, **kept}

    def opening(self) -> Iterator[dict[str, Any]]:
        self._open, self._count, self._kind = False, 0, ""
        empty = {"stop_reason": None, "stop_sequence": None, "usage": {**self.usage(), "output_tokens": 0}}
        yield {"type": "message_start", "message": {**self._message([]), **empty}}

    def chunks(self, prompt: int, piece: Piece, extra: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for delta in self.told[0].push(piece.text, piece.finish_reason):
            if "reasoning_content" in delta:
                yield from self._begin("thinking", {"thinking": "", "signature": ""})
                yield self._delta_of("thinking_delta", "thinking", delta["reasoning_content"])
            elif "content" in delta:
                yield from self._begin("text", {"text": ""})
                yield self._delta_of("text_delta", "text", delta["content"])
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    yield from self._end()
                    named = {"id": call["id"], "name": call["function"]["name"], "input": {}}
                    yield from self._begin("tool_use", named)
                if call["function"].get("arguments"):
                    yield self._delta_of("input_json_delta", "partial_json", call["function"]["arguments"])

    def closing(self, include_usage: bool, extra: dict[str, Any]) -> Iterator[bytes]:
        last = [*self._end(), {"type": "message_delta", "delta": self._stopped(), "usage": self.usage()}]
        yield b"".join(self.frame(chunk) for chunk in [*last, {"type": "message_stop"}])

    def frame(self, chunk: dict[str, Any]) -> bytes:
        return named_event(chunk)

    def ping(self) -> bytes:
        return self.frame({"type": "ping"})

    def failed(self, error: Exception) -> bytes:
        return self.frame(messages_error(error)[1])

    def _message(self, blocks: list[dict[str, Any]]) -> dict[str, Any]:
        named = {"id": self.head["id"], "type": "message", "role": "assistant", "model": self.head["model"]}
        return {**named, "content": blocks}

    def _stopped(self) -> dict[str, Any]:
        by = self.requests[0].sequences[0].text.stopped_by
        reason = "stop_sequence" if by is not None else STOPS.get(self.told[0].ended or "stop", "end_turn")
        return {"stop_reason": reason, "stop_sequence": by}

    def _begin(self, kind: str, fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if self._open and self._kind == kind:
            return
        yield from self._end()
        self._open, self._kind = True, kind
        yield {"type": "content_block_start", "index": self._count, "content_block": {"type": kind, **fields}}

    def _end(self) -> Iterator[dict[str, Any]]:
        if self._open:
            yield {"type": "content_block_stop", "index": self._count}
            self._open, self._count = False, self._count + 1

    def _delta_of(self, kind: str, field: str, text: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._count, "delta": {"type": kind, field: text}}


def _whole(arguments: str) -> bool:
    """Whether a call's arguments are complete; those that reached the limit of tokens are not."""
    try:
        return isinstance(json.loads(arguments or "{}"), dict)
    except (ValueError, RecursionError):
        return False
