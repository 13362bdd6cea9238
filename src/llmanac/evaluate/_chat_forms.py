"""The forms in which servers are asked in chats: OpenAI's (llama.cpp's and vLLM's too), Ollama's, Anthropic's.

A form has several ways to hold an answer to one of some texts, of which a server knows one or none.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Held = Callable[[Sequence[str]], dict[str, Any]]


def schema_of(choices: Sequence[str]) -> dict[str, Any]:
    """A JSON Schema of an object whose `answer` is one of the choices."""
    answer = {"answer": {"type": "string", "enum": list(choices)}}
    return {"type": "object", "properties": answer, "required": ["answer"], "additionalProperties": False}


@dataclass(frozen=True)
class Form:
    """path: of chats; models: of the list of models, and where it names them; key_header, headers: of requests.

    body: fields of a request (model, messages, stop, length); text: where the text is; ended: where it says why
    the answer ended; tokens: where the numbers of tokens read and written are; held: by name, fields that hold an
    answer to choices; others: by name of a field what to send in its place to a server that refuses the request, one
    change after another; None leaves it out.
    """

    path: str
    models: tuple[str, str, str]
    body: Callable[[str, list[Any], list[str], int], dict[str, Any]]
    text: tuple[str | int, ...]
    ended: tuple[str | int, ...]
    tokens: tuple[tuple[str, ...], tuple[str, ...]]
    held: Mapping[str, Held]
    others: tuple[Mapping[str, str | None], ...]
    key_header: str = "Authorization"
    headers: Mapping[str, str] = field(default_factory=dict)


def _openai(model: str, messages: list[Any], stop: list[str], length: int) -> dict[str, Any]:
    plain = {"model": model, "messages": messages, "max_tokens": length, "temperature": 0}
    return {**plain, **({"stop": stop} if stop else {})}


def _ollama(model: str, messages: list[Any], stop: list[str], length: int) -> dict[str, Any]:
    options = {"temperature": 0, "num_predict": length, **({"stop": stop} if stop else {})}
    return {"model": model, "messages": messages, "stream": False, "options": options}


def _anthropic(model: str, messages: list[Any], stop: list[str], length: int) -> dict[str, Any]:
    stop = [one for one in stop if one.strip()]  # it refuses stop texts of white space
    plain = {"model": model, "messages": messages, "max_tokens": length, "temperature": 0}
    return {**plain, **({"stop_sequences": stop} if stop else {})}


def _schema_format(choices: Sequence[str]) -> dict[str, Any]:
    named = {"name": "choice", "strict": True, "schema": schema_of(choices)}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


OPENAI = Form(
    "chat/completions", ("models", "data", "id"), _openai, ("choices", 0, "message", "content"),
    ("choices", 0, "finish_reason"),
    (("usage", "prompt_tokens"), ("usage", "completion_tokens")),
    # a bare choice first, as a model in this process is held: within JSON the same model chooses otherwise
    {"structured_outputs": lambda choices: {"structured_outputs": {"choice": list(choices)}},
     "guided_choice": lambda choices: {"guided_choice": list(choices)},
     "grammar": lambda choices: {"grammar": "root ::= " + " | ".join(json.dumps(one) for one in choices)},
     "response_format": _schema_format},
    ({"max_tokens": "max_completion_tokens"}, {"max_tokens": "max_completion_tokens", "temperature": None}),
)  # fmt: skip
OLLAMA = Form(
    "chat", ("tags", "models", "name"), _ollama, ("message", "content"), ("done_reason",),
    (("prompt_eval_count",), ("eval_count",)), {"format": lambda choices: {"format": schema_of(choices)}}, (),
)  # fmt: skip
ANTHROPIC = Form(
    "messages", ("models", "data", "id"), _anthropic, ("content",), ("stop_reason",),
    (("usage", "input_tokens"), ("usage", "output_tokens")),
    {"output_config": lambda choices: {"output_config": {"format": {
        "type": "json_schema", "schema": schema_of(choices)}}}},
    ({"temperature": None},), "x-api-key", {"anthropic-version": "2023-06-01"},
)  # fmt: skip
FORMS = {"/chat/completions": OPENAI, "/api/chat": OLLAMA, "/api": OLLAMA, "/messages": ANTHROPIC}  # by a path's end


def form_of(path: str) -> tuple[Form, str]:
    """`(form, path)` of an address's path: that of the form without what names it."""
    for end, form in FORMS.items():
        if path.endswith(end):
            return form, path.removesuffix("/" + form.path)
    return OPENAI, path.removesuffix("/completions") or "/v1"


def at(answer: Any, place: Sequence[str | int]) -> Any:
    """What an answer has at a place; None where it has nothing there. Of a list of blocks the joined texts."""
    for step in place:
        try:
            answer = answer[step]
        except (KeyError, IndexError, TypeError):
            return None
    if isinstance(answer, list):
        texts = [str(one.get("text", "")) for one in answer if isinstance(one, dict) and one.get("type") == "text"]
        return "".join(texts) if texts else None
    return answer
