"""What a reply must be: `response_format`, `structured_outputs` and forced tool calls as options of the engine."""

from __future__ import annotations

import json
import re
from typing import Any

from llmanac.generate.engine import Options
from llmanac.web._errors import ApiError
from llmanac.web._tools import Form
from llmanac.web._wire import MAX_STRUCTURE, Body
from llmanac.web._wire_chat import ChatBody

OPTIONS = ("schema", "regex", "grammar")  # of the engine
FORMS = ("json_", "regex", "grammar", "choice")


def structure_of(body: Body) -> tuple[str, dict[str, Any]] | None:
    """The field that asks for a structure, and the engine's option for it; None where the text is free.

    Raises:
        ApiError: more than one structure, a part that is missing, or one that is too large.
    """
    asked = body.response_format
    field: str = "response_format"
    option: dict[str, Any] | None = None
    if asked is not None and asked.type == "json_object":
        option = {"schema": {"type": "object"}}
    elif asked is not None and asked.type == "json_schema":
        if asked.json_schema is None:
            raise ApiError(400, "response_format.json_schema: is missing", param="response_format.json_schema")
        field, option = "response_format.json_schema.schema", {"schema": asked.json_schema.schema_}
    given = body.structured_outputs
    if given is not None:
        names = [name for name in FORMS if getattr(given, name) is not None]
        if len(names) != 1 or option is not None:
            message = "structured_outputs: give one of json, regex, grammar and choice, and no other response_format"
            raise ApiError(400, message, param="structured_outputs")
        field, option = f"structured_outputs.{names[0].rstrip('_')}", _structured(names[0], getattr(given, names[0]))
    if option is None:
        return None
    size = max(len(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)) for v in option.values())
    if size > MAX_STRUCTURE:
        message = f"{field}: {size:,} characters are more than the {MAX_STRUCTURE:,} that it may have"
        raise ApiError(400, message, param=field, code="structure_too_large")
    return field, option


def calls_structure(form: Form, body: ChatBody) -> tuple[str, dict[str, Any]] | None:
    """As `structure_of`, for tool calls that must be made; None where the model may choose."""
    chosen = body.tool_choice
    if chosen in (None, "none", "auto"):
        return None
    raise ApiError(400, "tool_choice: not supported by this server yet", param="tool_choice", code="unsupported")


def structure(options: Options, asked: tuple[str, dict[str, Any]] | None) -> str | None:
    """Put what `structure_of` found into the options; returns the field that asked for it."""
    if asked is None:
        return None
    field, option = asked
    for name in option:
        if name not in Options.__annotations__:
            raise ApiError(400, f"{field}: not supported by this server", param=field, code="unsupported")
    options.update(option)  # type: ignore[typeddict-item]
    return field


def _structured(name: str, value: Any) -> dict[str, Any]:
    if name == "choice":
        return {"regex": "|".join(re.escape(text) for text in value)}
    if name == "json_":
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                message = "structured_outputs.json: is not JSON"
                raise ApiError(400, message, param="structured_outputs.json") from None
        if not isinstance(value, (dict, bool)):
            message = "structured_outputs.json: expected a schema, an object"
            raise ApiError(400, message, param="structured_outputs.json")
        return {"schema": value}
    return {name: value}
