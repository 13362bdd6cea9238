"""What POST /v1/responses takes, and how it becomes a request of `/v1/chat/completions`."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from llmanac.web._errors import ApiError
from llmanac.web._wire import (
    MAX_COUNT,
    NAME,
    UNSUPPORTED,
    ModelName,
    Seed,
    Sent,
    Share,
    Temperature,
    Text,
    TopK,
    Unsupported,
    whole,
)
from llmanac.web._wire_chat import MAX_MESSAGES, MAX_TOOLS

TEXTS = ("input_text", "output_text", "text")


class ItemPart(Sent):
    type: Literal["input_text", "output_text", "text", "input_image", "refusal", "reasoning_text", "summary_text"]
    text: Text | None = None
    image_url: str | None = None
    refusal: Text | None = None


class Item(Sent):
    """A message, a function call, its output, or a thought of an earlier answer."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    id: str | None = None
    status: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Text | list[ItemPart] | None = None
    call_id: Annotated[str, Field(max_length=256)] | None = None
    name: Annotated[str, Field(pattern=NAME)] | None = None
    arguments: Text | None = None
    output: Text | list[ItemPart] | None = None
    summary: list[ItemPart] | None = None


class TextFormat(Sent):
    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(pattern=NAME)] | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(Sent):
    unsupported: ClassVar[Unsupported] = {"verbosity": ["medium"]}

    format: TextFormat | None = None


class ResponseTool(Sent):
    type: Literal["function"]
    name: Annotated[str, Field(pattern=NAME)]
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseChoice(Sent):
    type: Literal["function"]
    name: str

    def as_chat(self) -> dict[str, Any]:
        return {"type": "function", "function": {"name": self.name}}


class ResponseAllowed(Sent):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[ResponseChoice], Field(min_length=1, max_length=MAX_TOOLS)]


class Reasoning(Sent):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: str | None = None


class ResponsesBody(Sent):
    """POST /v1/responses."""

    unsupported: ClassVar[Unsupported] = UNSUPPORTED["responses"]

    model: ModelName
    input: Text | Annotated[list[Item], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: Text | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_COUNT), BeforeValidator(whole)] | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    stream: bool | None = None
    text: TextOptions | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponseChoice | ResponseAllowed | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    reasoning: Reasoning | None = None
    metadata: dict[str, str] | None = None
    seed: Seed | None = None
    top_k: TopK | None = None

    def check(self, where: str = "") -> None:
        super().check(where)
        if self.text is not None:
            self.text.check("text.")

    def as_chat(self, earlier: list[dict[str, Any]]) -> dict[str, Any]:
        """The fields of a chat request that goes on from earlier messages. Raises ApiError for an item that lacks a
        part."""
        sent: list[Item] | str = self.input
        said = [{"role": "user", "content": sent}] if isinstance(sent, str) else _messages(sent)
        first = [{"role": "system", "content": self.instructions}] if self.instructions else []
        found = self.model_dump(
            include={"model", "temperature", "top_p", "top_k", "seed", "stream", "parallel_tool_calls"},
            exclude_none=True,
        )
        found["messages"] = [*first, *_joined([*earlier, *said])]
        if self.max_output_tokens is not None:
            found["max_completion_tokens"] = self.max_output_tokens
        if self.tools:
            found["tools"] = [
                {"type": "function", "function": t.model_dump(exclude={"type"}, exclude_none=True)} for t in self.tools
            ]
        choice = self.tool_choice
        if isinstance(choice, ResponseChoice):
            found["tool_choice"] = choice.as_chat()
        elif isinstance(choice, ResponseAllowed):
            allowed = {"mode": choice.mode, "tools": [tool.as_chat() for tool in choice.tools]}
            found["tool_choice"] = {"type": "allowed_tools", "allowed_tools": allowed}
        elif choice is not None:
            found["tool_choice"] = choice
        if self.reasoning is not None and self.reasoning.effort is not None:
            found["reasoning_effort"] = self.reasoning.effort
        format = self.text.format if self.text is not None else None
        if format is not None and format.type == "json_schema":
            if format.schema_ is None:
                raise ApiError(400, "text.format.schema: is missing")
            named_schema = {"name": format.name or "answer", "schema": format.schema_}
            found["response_format"] = {"type": "json_schema", "json_schema": named_schema}
        elif format is not None:
            found["response_format"] = {"type": format.type}
        return found


def _messages(items: list[Item]) -> list[dict[str, Any]]:
    """Items as messages of a chat request."""
    out: list[dict[str, Any]] = []
    for i, item in enumerate(items):
        at = f"input.{i}"
        if item.type == "message":
            if item.role is None or item.content is None:
                raise ApiError(400, f"{at}: a message needs role and content")
            out.append({"role": item.role, "content": _content(item.content, at)})
        elif item.type == "function_call":
            if item.call_id is None or item.name is None or item.arguments is None:
                raise ApiError(400, f"{at}: a function call needs call_id, name and arguments")
            function = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            out.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif item.type == "function_call_output":
            if item.call_id is None or item.output is None:
                raise ApiError(400, f"{at}: the output of a call needs call_id and output")
            out.append({"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output, at)})
        else:
            parts = item.content if isinstance(item.content, list) else item.summary or []
            thought = "".join(part.text or "" for part in parts)
            out.append({"role": "assistant", "content": None, "reasoning_content": thought})
    return out


def _content(given: str | list[ItemPart], where: str) -> Any:
    """Text, or parts where there are images."""
    if isinstance(given, str):
        return given
    if all(part.type != "input_image" for part in given):
        return "".join(part.text or part.refusal or "" for part in given)
    parts = []
    for part in given:
        if part.type == "input_image" and part.image_url is None:
            raise ApiError(400, f"{where}.content: an image needs image_url, a data URL")
        url = {"type": "image_url", "image_url": {"url": part.image_url}}
        parts.append(url if part.type == "input_image" else {"type": "text", "text": part.text or ""})
    return parts


def _joined(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """An assistant's thought, text and calls, which are items of their own here, as one message."""
    out: list[dict[str, Any]] = []
    for message in messages:
        last = out[-1] if out else {}
        both = message["role"] == last.get("role") == "assistant"
        if both and not (last.get("content") and message.get("content")):
            calls = [*last.get("tool_calls", []), *message.get("tool_calls", [])]
            thought = last.get("reasoning_content", "") + message.get("reasoning_content", "")
            out[-1] = {
                "role": "assistant",
                "content": last.get("content") or message.get("content"),
                **({"tool_calls": calls} if calls else {}),
                **({"reasoning_content": thought} if thought else {}),
            }
        else:
            out.append(message)
    return out
