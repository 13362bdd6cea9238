"""The OpenAPI document: what this server takes and says, exact enough to generate requests from.

Bodies come from the classes that check them, with this server's own bounds (its model's name, its vocabulary); replies
from `replies.toml`, the rest from `openapi.toml`. All schemas are in `components`, so every reference resolves inside
the document.
"""

import tomllib
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from llmanac import __version__
from llmanac.web._infill import ExtraFile, InfillBody
from llmanac.web._messages import CountBody, MessagesBody, Turn
from llmanac.web._ollama import (
    OllamaBody,
    OllamaChat,
    OllamaEmbed,
    OllamaGenerate,
    OllamaMessage,
    OllamaOptions,
    OllamaShow,
)
from llmanac.web._responses_body import ResponsesBody
from llmanac.web._service import Service
from llmanac.web._wire import (
    UNREAD_BY_ASSISTANT,
    UNSUPPORTED,
    WITHOUT_EFFECT,
    Body,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    RerankBody,
    Sent,
    StreamOptions,
    TokenizeBody,
)
from llmanac.web._wire_chat import TOOL_ROLES, ChatBody, Message, Part

REF = "#/components/schemas/"
OLLAMA: tuple[type[Sent], ...] = (OllamaChat, OllamaGenerate, OllamaEmbed, OllamaShow)
OTHERS: tuple[type[Sent], ...] = (ResponsesBody, MessagesBody, CountBody, *OLLAMA)
OWN: tuple[type[Sent], ...] = (
    CompletionBody, ChatBody, TokenizeBody, DetokenizeBody, EmbeddingBody, RerankBody, InfillBody,
)  # fmt: skip
BODIES = (*OWN, *OTHERS)
STREAMED: tuple[type[Sent], ...] = (Body, ResponsesBody, MessagesBody, InfillBody)
NESTED: tuple[type[Sent], ...] = (Message, Part, StreamOptions, Turn, OllamaMessage, OllamaOptions, ExtraFile)
SAID = tomllib.loads(Path(__file__).with_name("openapi.toml").read_text("utf-8"))
REPLIES = tomllib.loads(Path(__file__).with_name("replies.toml").read_text("utf-8"))
ALWAYS = (400, 401, 403, 405, 408, 413, 500)
OF_A_BODY = (404, 415, 429, 503, 504)

TEXT = {"type": "string"}
ASKED = {"type": "string", "pattern": r"\S"}
EVENT = {
    "type": "object",
    "description": "one server-sent event: its data is a chunk of the reply as JSON, an error, or [DONE]",
    "properties": {"data": {"type": "string"}},
}


def document(title: str, service: Service) -> dict[str, Any]:
    """The OpenAPI 3.1 document of this server."""
    schemas = {**REPLIES, **_bodies(service)}
    paths = {}
    for path, page in SAID["pages"].items():
        paths[path] = {page["method"]: _operation(path, page)}
        if "delete" in page:
            paths[path]["delete"] = _operation(path, page["delete"])
    info = {"title": title, "version": __version__}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": REF + schema}}}


def _operation(path: str, page: dict[str, Any]) -> dict[str, Any]:
    body = next((kind for kind in BODIES if kind.__name__ == page.get("body")), None)
    content: dict[str, Any] = {"text/plain" if path == "/metrics" else "text/html": {"schema": TEXT}}
    if "reply" in page:
        content = _json(page["reply"])
    headers: dict[str, Any] = {"x-request-id": {"required": True, "schema": TEXT}}
    out: dict[str, Any] = {"summary": page["summary"]}
    if "{name}" in path:
        out["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    if body is not None:
        out["requestBody"] = {"required": True, "content": _json(body.__name__)}
        headers["x-llmanac-ignored"] = {"description": "fields that were not read", "schema": TEXT}
        if issubclass(body, STREAMED):
            content["text/event-stream"] = {"schema": EVENT}
        if issubclass(body, OllamaBody):
            content["application/x-ndjson"] = {"schema": TEXT}
    statuses = sorted({*ALWAYS, *page.get("statuses", ()), *(OF_A_BODY if body else ())})
    out["responses"] = {
        "200": {"description": "done", "headers": headers, "content": content},
        **{
            str(s): {"description": SAID["errors"][str(s)], "content": _json(page.get("error", "Error"))}
            for s in statuses
        },
    }
    return out


def _field(one: dict[str, Any]) -> dict[str, Any]:
    if "values" in one:
        return {"enum": [None, *one["values"]], "description": one["description"]}  # TOML has no null
    shape = {"type": one["type"]} if "type" in one else {"enum": one["choices"]}
    return {**shape, "description": one["description"]}


def _bodies(service: Service) -> dict[str, Any]:
    """Schemas of the bodies, with what this server alone knows."""
    _, made = models_json_schema([(kind, "validation") for kind in BODIES], ref_template=REF + "{model}")
    schemas: dict[str, Any] = made["$defs"]
    size = service.engine.model.vocab_size
    for kind in (*BODIES, *NESTED):
        properties = schemas[kind.__name__]["properties"]
        for base in kind.__mro__:
            properties |= {name: _field(one) for name, one in SAID["plain"].get(base.__name__, {}).items()}
        for name, neutral in kind.unsupported.items():
            properties[name] = {"enum": [None, *neutral], "description": "not supported"}
        if "model" in properties:
            vectors = kind in (EmbeddingBody, RerankBody, OllamaEmbed)
            unnamed = [] if "model" in schemas[kind.__name__].get("required", ()) else [None]
            properties["model"] = {"enum": [service.embedding_name] if vectors else [*service.names, *unnamed]}
            unread = [name for name in WITHOUT_EFFECT if name not in kind.model_fields]
            properties |= {name: {"description": "not read"} for name in unread}
        if issubclass(kind, Body):
            properties["logit_bias"]["anyOf"][0]["propertyNames"] = {"pattern": numbers_below(size)}
            values = properties["logit_bias"]["anyOf"][0].pop("patternProperties").values()
            properties["logit_bias"]["anyOf"][0]["additionalProperties"] = next(iter(values))
    schemas["Part"]["required"] = ["type", "text"]
    chat = schemas["ChatBody"]
    for kind in BODIES:  # so many messages are a body that is too large as well, which is another error
        if "messages" in kind.model_fields:
            told = schemas[kind.__name__]["properties"]["messages"]
            told["description"] = f"at most {told.pop('maxItems')}"
    message = schemas["Message"]["properties"]
    if service.assistant is not None:
        message |= {name: {"enum": [None], "description": "not supported"} for name in ("tool_calls", "tool_call_id")}
    else:
        message["role"]["enum"] = list(TOOL_ROLES)
    # alternatives need log-probabilities
    chat["anyOf"] = [
        {"properties": {"top_logprobs": {"enum": [None, 0]}}},
        {"properties": {"logprobs": {"const": True}}, "required": ["logprobs"]},
    ]
    _bound_ids(schemas["CompletionBody"]["properties"]["prompt"], service.engine.model.vocab_size)
    if service.engine.tokenizer is not None:
        _bound_ids(schemas["DetokenizeBody"]["properties"]["tokens"], service.engine.tokenizer.vocab_size)
    if service.assistant is not None:
        for name, neutral in UNSUPPORTED["assistant"].items():
            chat["properties"][name] = {"enum": [None, *neutral], "description": "not supported"}
        for name in UNREAD_BY_ASSISTANT:
            chat["properties"][name]["description"] = "not read"
        question = {"required": ["role", "content"], "properties": {"role": {"const": "user"}, "content": ASKED}}
        chat["properties"]["messages"]["contains"] = question
    return schemas


def numbers_below(size: int) -> str:
    """A regular expression of the decimal numbers 0 to size - 1, without leading zeros."""
    top = str(size - 1)
    found = [rf"[1-9]\d{{{n}}}" for n in range(len(top) - 1)] + (["0"] if len(top) > 1 else [])
    for i, digit in enumerate(top):
        least = 1 if i == 0 and len(top) > 1 else 0
        if int(digit) > least:
            found.append(rf"{top[:i]}[{least}-{int(digit) - 1}]\d{{{len(top) - 1 - i}}}")
    return f"^({'|'.join([*found, top])})$"


def _bound_ids(schema: Any, size: int) -> None:
    """Every id in a schema is one of the vocabulary."""
    if isinstance(schema, dict):
        if schema.get("type") == "integer":
            schema["maximum"] = size - 1
        for part in schema.values():
            _bound_ids(part, size)
    elif isinstance(schema, list):
        for part in schema:
            _bound_ids(part, size)
