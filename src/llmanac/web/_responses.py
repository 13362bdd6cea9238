"""POST /v1/responses, OpenAI's newer form: answered by items, whole or as events.

The items are a thought, a message and function calls. With `store` (on unless it is false) the answer is kept in
memory, and a later request may go on from it.
"""

import functools
import secrets
import time
from collections.abc import Iterator
from typing import Any

from llmanac.generate.engine import Piece
from llmanac.web._errors import ApiError, error_body
from llmanac.web._prepare import chat_asked
from llmanac.web._replies import ChatReply
from llmanac.web._responses_body import ResponsesBody
from llmanac.web._service import Kept, KeptReplies, Prepared, Service
from llmanac.web._wire import Sent, read
from llmanac.web._wire_chat import ChatBody
from llmanac.web.asgi import named_event


def responses(service: Service, data: bytes, until: float) -> Prepared:
    """What POST /v1/responses asks for."""
    body = read(ResponsesBody, data)
    body.check()
    earlier: list[dict[str, Any]] = []
    if body.previous_response_id is not None:
        earlier = kept_reply(service, body.previous_response_id, "previous_response_id").messages
    fields = body.as_chat(earlier)
    asked = fields["messages"][1:] if body.instructions else fields["messages"]
    reply = functools.partial(ResponsesReply, body=body, asked=asked, kept=service.kept)
    return chat_asked(service, ChatBody.model_validate(fields), until, reply, body.ignored())


def kept_reply(service: Service, name: str, field: str = "response_id") -> Kept:
    """A kept answer. Raises ApiError (404) where there is none of this id."""
    found = service.kept.get(name)
    if found is None:
        message = f"{field}: no response {name[:80]!r} is kept here; the latest ones are, with store, until a restart"
        raise ApiError(404, message, code="response_not_found")
    return found


class ResponsesReply(ChatReply):
    """The answer to /v1/responses: items, each added, filled and done in turn."""

    prefix = "resp"

    def __init__(
        self, *args: Any, body: ResponsesBody, asked: list[dict[str, Any]], kept: KeptReplies, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.body, self._asked, self._kept = body, asked, kept
        self._output: list[dict[str, Any]] = []
        self._item: dict[str, Any] | None = None
        self._number = 0

    def whole(self, extra: dict[str, Any]) -> dict[str, Any]:
        done = self.finished()
        for _ in self._events(done.text, done.finish_reason):
            pass
        return self._over()

    def opening(self) -> Iterator[dict[str, Any]]:
        begun = self._response("in_progress")
        yield {"type": "response.created", "response": begun}
        yield {"type": "response.in_progress", "response": begun}

    def chunks(self, prompt: int, piece: Piece, extra: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from self._events(piece.text, piece.finish_reason)

    def closing(self, include_usage: bool, extra: dict[str, Any]) -> Iterator[bytes]:
        over = self._over()
        yield self.frame({"type": f"response.{over['status']}", "response": over})

    def frame(self, chunk: dict[str, Any]) -> bytes:
        numbered = {**chunk, "sequence_number": self._number}
        self._number += 1
        return named_event(numbered)

    def failed(self, error: Exception) -> bytes:
        told = error_body(error)[1]["error"]
        failed = {
            **self._response("failed"),
            "error": {"code": told["code"] or "server_error", "message": told["message"]},
        }
        return self.frame({"type": "response.failed", "response": failed})

    def usage(self) -> dict[str, Any]:
        found = super().usage()
        thought = found.get("completion_tokens_details", {}).get("reasoning_tokens", 0)
        return {
            "input_tokens": found["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": found.get("prompt_tokens_details", {}).get("cached_tokens", 0)},
            "output_tokens": found["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": thought},
            "total_tokens": found["total_tokens"],
        }

    def _response(self, status: str) -> dict[str, Any]:
        body, head = self.body, self.head
        text = body.text.model_dump(by_alias=True, exclude_none=True) if body.text is not None else {}
        reasoning = body.reasoning.model_dump() if body.reasoning is not None else {"effort": None, "summary": None}
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        tools = [{"description": None, "strict": False, "parameters": None} | t.model_dump() for t in body.tools or ()]
        choice = body.tool_choice
        return {
            "id": head["id"],
            "object": "response",
            "created_at": head["created"],
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "error": None,
            "incomplete_details": cut,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": head["model"],
            "output": list(self._output),
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": reasoning,
            "store": body.store is not False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": {"type": "text"}, **text},
            "tool_choice": choice.model_dump() if isinstance(choice, Sent) else choice or "auto",
            "tools": tools,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": self.usage() if status in ("completed", "incomplete") else None,
        }

    def _over(self) -> dict[str, Any]:
        """The whole answer; kept where it is to be."""
        told = self.told[0]
        reply = self._response("incomplete" if told.ended == "length" else "completed")
        if self.body.store is not False:
            said: dict[str, Any] = {"role": "assistant", "content": told.content or None}
            calls = [{k: call[k] for k in ("id", "type", "function")} for call in told.made]
            self._kept.keep(reply, [*self._asked, {**said, **({"tool_calls": calls} if calls else {})}])
        return reply

    def _events(self, text: str, reason: str | None) -> Iterator[dict[str, Any]]:
        """The events that more text brings."""
        for delta in self.told[0].push(text, reason):
            if "reasoning_content" in delta:
                yield from self._begin("reasoning")
                yield from self._grow(delta["reasoning_content"])
            elif "content" in delta:
                yield from self._begin("message")
                yield from self._grow(delta["content"])
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    yield from self._end()
                    yield from self._begin("function_call", call["id"], call["function"]["name"])
                if call["function"].get("arguments"):
                    yield from self._grow(call["function"]["arguments"])
        if reason is not None:
            if not self._output and self._item is None:  # an answer without a character is an empty message
                yield from self._begin("message")
            yield from self._end("incomplete" if reason == "length" else "completed")

    def _begin(self, kind: str, call: str = "", name: str = "") -> Iterator[dict[str, Any]]:
        if self._item is not None and self._item["type"] == kind:
            return
        yield from self._end()
        prefix = {"message": "msg", "reasoning": "rs", "function_call": "fc"}[kind]
        item: dict[str, Any] = {"id": f"{prefix}_{secrets.token_hex(12)}", "type": kind, "status": "in_progress"}
        if kind == "function_call":
            item |= {"call_id": call, "name": name, "arguments": ""}
        else:
            item |= {"role": "assistant", "content": []} if kind == "message" else {"summary": [], "content": []}
        self._item = item
        yield {"type": "response.output_item.added", "output_index": len(self._output), "item": dict(item)}
        if kind != "function_call":
            part = _part(kind, "")
            yield {"type": "response.content_part.added", **self._place(), "content_index": 0, "part": part}
            item["content"] = [part]

    def _grow(self, text: str) -> Iterator[dict[str, Any]]:
        item = self._item
        assert item is not None
        if item["type"] == "function_call":
            item["arguments"] += text
            yield {"type": "response.function_call_arguments.delta", **self._place(), "delta": text}
            return
        item["content"] = [_part(item["type"], item["content"][0]["text"] + text)]
        more: dict[str, Any] = {"logprobs": []} if item["type"] == "message" else {}
        yield {"type": f"response.{_named(item)}.delta", **self._place(), "content_index": 0, "delta": text, **more}

    def _end(self, status: str = "completed") -> Iterator[dict[str, Any]]:
        item = self._item
        if item is None:
            return
        item["status"] = status
        if item["type"] == "function_call":
            done = {"name": item["name"], "arguments": item["arguments"]}
            yield {"type": "response.function_call_arguments.done", **self._place(), **done}
        else:
            part = item["content"][0]
            more: dict[str, Any] = {"logprobs": []} if item["type"] == "message" else {}
            at = {**self._place(), "content_index": 0}
            yield {"type": f"response.{_named(item)}.done", **at, "text": part["text"], **more}
            yield {"type": "response.content_part.done", **at, "part": part}
        yield {"type": "response.output_item.done", "output_index": len(self._output), "item": dict(item)}
        self._output.append(item)
        self._item = None

    def _place(self) -> dict[str, Any]:
        assert self._item is not None
        return {"item_id": self._item["id"], "output_index": len(self._output)}


def _named(item: dict[str, Any]) -> str:
    return "output_text" if item["type"] == "message" else "reasoning_text"


def _part(kind: str, text: str) -> dict[str, Any]:
    if kind == "message":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "reasoning_text", "text": text}
