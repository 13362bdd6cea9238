"""The body of a chat request: messages, tools, and which of them the model may or must call."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from llmanac.web import _wire
from llmanac.web._errors import ApiError
from llmanac.web._wire import (
    MAX_TOP,
    NAME,
    UNREAD_BY_ASSISTANT,
    UNSUPPORTED,
    Body,
    Count,
    Sent,
    Text,
    check_length,
    refuse,
    whole,
)

MAX_MESSAGES = 4096  # of one conversation
MAX_TOOLS = 128
ROLES = ("system", "developer", "user", "assistant")
IMAGES = 'with a model of images {"url": "data:image/png;base64,..."}, in a part of the type image_url'
TOOL_ROLES = (*ROLES, "tool")  # where the chat template has a form of tool calls


class ImageUrl(Sent):
    """`image_url`: a data URL. `detail` changes nothing: each model has one size of images."""

    url: str


class Part(Sent):
    type: Annotated[str, WithJsonSchema({"type": "string", "const": "text"})]
    text: Annotated[str | None, WithJsonSchema({"type": "string", "maxLength": _wire.MAX_TEXT})] = None
    image_url: Annotated[ImageUrl | None, WithJsonSchema({"enum": [None], "description": IMAGES})] = None

    @property
    def known(self) -> bool:
        """Whether it is a text, or an image."""
        there = {"text": self.text is not None, "image_url": self.image_url is not None}
        return sum(there.values()) == 1 and there.get(self.type, False)


class Called(Sent):
    name: Annotated[str, Field(pattern=NAME)]
    arguments: Text


class ToolCall(Sent):
    """A call that the assistant made in an earlier turn."""

    id: Annotated[str, Field(max_length=256)] | None = None
    type: Literal["function"] = "function"
    function: Called


class Message(Sent):
    unsupported: ClassVar = UNSUPPORTED["message"]

    role: Annotated[str, WithJsonSchema({"type": "string", "enum": list(ROLES)})]
    content: Text | list[Part] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    reasoning_content: Text | None = None

    def check(self, where: str = "", roles: tuple[str, ...] = ROLES) -> None:
        super().check(where)
        if self.role not in roles:
            message = f"{where}role: {self.role[:60]!r} is not supported by this server; use one of {', '.join(roles)}"
            raise ApiError(400, message)
        if self.tool_calls and (self.role != "assistant" or "tool" not in roles):
            message = f"{where}tool_calls: only messages of the role assistant have it, where the model can call tools"
            raise ApiError(400, message, code="unsupported")
        if self.reasoning_content and self.role != "assistant":
            raise ApiError(400, f"{where}reasoning_content: only messages of the role assistant have it")
        for part in self.content if isinstance(self.content, list) else ():
            if not part.known:
                raise ApiError(400, f"{where}content: {part.type[:60]!r} parts are not supported; send text")
            if part.image_url is not None and self.role != "user":
                raise ApiError(400, f"{where}content: only messages of the user have images", code="unsupported")
        for i, call in enumerate(self.tool_calls or ()):
            call.check(f"{where}tool_calls.{i}.")

    @property
    def plain(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content)
        return self.content or ""

    def as_template_reads(self, where: str) -> dict[str, Any]:
        """The message for a chat template; the arguments of calls are tables there."""
        out: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": self.plain}
        parts = self.content if isinstance(self.content, list) else []
        if any(part.image_url is not None for part in parts):
            out["content"] = [
                {"type": "text", "text": part.text} if part.image_url is None else {"type": "image"} for part in parts
            ]
        if self.reasoning_content:
            out["reasoning_content"] = self.reasoning_content
        if self.tool_call_id is not None and self.role == "tool":
            out["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            out["tool_calls"] = [
                {"type": "function", "id": call.id, "function": {"name": call.function.name, "arguments": found}}
                for i, call in enumerate(self.tool_calls)
                for found in [_arguments(call.function.arguments, f"{where}tool_calls.{i}.function.arguments")]
            ]
        return out


def _arguments(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ApiError(400, f"{where}: is not a JSON object")
    return found


class Function(Sent):
    name: Annotated[str, Field(pattern=NAME)]
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Sent):
    type: Literal["function"]
    function: Function


class ChosenName(Sent):
    name: str


class ChosenTool(Sent):
    type: Literal["function"]
    function: ChosenName


class AllowedTools(Sent):
    mode: Literal["auto", "required"]
    tools: Annotated[list[ChosenTool], Field(min_length=1, max_length=MAX_TOOLS)]


class AllowedChoice(Sent):
    """A choice among some of the tools; the model is told of no others."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class ChatBody(Body):
    """POST /v1/chat/completions."""

    unsupported: ClassVar = {**UNSUPPORTED["both"], **UNSUPPORTED["chat"]}

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP), BeforeValidator(whole)] | None = None
    return_tokens_as_token_ids: bool | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    thinking_budget: Count | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    def check(self, where: str = "") -> None:
        super().check(where)
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise ApiError(400, "max_completion_tokens: give this or max_tokens, not both")
        if self.continue_final_message and self.add_generation_prompt:
            raise ApiError(400, "continue_final_message: not together with add_generation_prompt")
        if self.continue_final_message and self.messages[-1].role != "assistant":
            raise ApiError(400, "continue_final_message: the last message is not the assistant's")
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs: needs logprobs to be true")
        names = [tool.function.name for tool in self.tools or ()]
        chosen = self.chosen
        if len(set(names)) < len(names):
            raise ApiError(400, "tools: two functions have the same name")
        if chosen not in (None, "none", "auto") and not names:
            raise ApiError(400, "tool_choice: there are no tools to choose from")
        if (unknown := next((name for name in self._named if name not in names), None)) is not None:
            raise ApiError(400, f"tool_choice: no function is called {unknown[:60]!r}")

    def check_messages(self, roles: tuple[str, ...]) -> None:
        """Raise ApiError for a message that this server's model does not take."""
        for i, message in enumerate(self.messages):
            message.check(f"messages.{i}.", roles)

    @property
    def limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def chosen(self) -> str | ChosenTool | None:
        """How the model may choose among `callable_tools`."""
        choice = self.tool_choice
        return choice.allowed_tools.mode if isinstance(choice, AllowedChoice) else choice

    @property
    def _named(self) -> list[str]:
        """The functions that `tool_choice` names."""
        if isinstance(self.tool_choice, AllowedChoice):
            return [tool.function.name for tool in self.tool_choice.allowed_tools.tools]
        return [self.tool_choice.function.name] if isinstance(self.tool_choice, ChosenTool) else []

    @property
    def callable_tools(self) -> list[Tool]:
        """The tools that the model sees."""
        given = [] if self.tool_choice == "none" else self.tools or []
        allowed = isinstance(self.tool_choice, AllowedChoice)
        return [tool for tool in given if tool.function.name in self._named] if allowed else given

    def conversation(self) -> list[dict[str, Any]]:
        """Messages as a chat template reads them, with plain text. Raises ApiError for too much of it."""
        messages = [m.as_template_reads(f"messages.{i}.") for i, m in enumerate(self.messages)]
        calls = [call.function.arguments for m in self.messages for call in m.tool_calls or ()]
        thoughts = [m.reasoning_content or "" for m in self.messages]
        check_length("messages", [*(m.plain for m in self.messages), *calls, *thoughts])
        return messages

    def images(self) -> list[tuple[str, str]]:
        """The images of all messages, in order: the field of each and its URL."""
        return [
            (f"messages.{i}.content.{j}.image_url.url", part.image_url.url)
            for i, message in enumerate(self.messages)
            for j, part in enumerate(message.content if isinstance(message.content, list) else ())
            if part.image_url is not None
        ]

    def unread(self, *, history: bool) -> Iterator[str]:
        """What an assistant does not read. Raises ApiError for what it would have to answer differently for.

        Args:
            history: whether it reads the user's earlier messages.
        """
        sent = {name: getattr(self, name) for name in UNREAD_BY_ASSISTANT}
        refused = UNSUPPORTED["assistant"]
        refuse(self.model_dump(include=set(refused), exclude_none=True), refused)
        yield from (name for name in UNREAD_BY_ASSISTANT if sent[name] is not None)
        roles = ["system" if m.role == "developer" else m.role for m in self.messages]
        yield from (f"messages[role={role}]" for role in ("system", "assistant") if role in roles)
        if roles.count("user") > 1 and not history:
            yield "messages[earlier]"
