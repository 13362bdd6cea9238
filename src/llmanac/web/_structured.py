"""What a reply must be: `response_format`, `structured_outputs` and forced tool calls as options of the engine."""

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from llmanac.core.errors import LlmanacError, RequestError
from llmanac.generate.constrain import constraint_of
from llmanac.generate.constrain.expressions import Choice, Grammar, Ref, Terminal
from llmanac.generate.constrain.json_schema import grammar as json_grammar
from llmanac.generate.constrain.regex import parse_regex
from llmanac.generate.constrain.tools import calls_grammar, form_named
from llmanac.generate.constrain.triggered import Triggered
from llmanac.generate.engine import Options
from llmanac.web._errors import ApiError, Busy
from llmanac.web._service import Service
from llmanac.web._thoughts import Around
from llmanac.web._wire import MAX_STRUCTURE, Body
from llmanac.web._wire_chat import ChatBody, ChosenTool

MOST_KEPT = 8  # structures that stay compiled
PATIENCE = 15.0  # seconds to wait for another request's structure

PLAIN = parse_regex(r"(\s*[^{\s][\s\S]*)?")  # a text that does not begin as a JSON object

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
            raise ApiError(400, "response_format.json_schema: is missing")
        field = "response_format.json_schema.schema"
        option = {"schema": _schema(asked.json_schema.schema_, field)}
    given = body.structured_outputs
    if given is not None:
        names = [name for name in FORMS if getattr(given, name) is not None]
        if len(names) != 1 or option is not None:
            message = "structured_outputs: give one of json, regex, grammar and choice, and no other response_format"
            raise ApiError(400, message)
        field, option = f"structured_outputs.{names[0].rstrip('_')}", _structured(names[0], getattr(given, names[0]))
    if option is None:
        return None
    size = max(len(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)) for v in option.values())
    if size > MAX_STRUCTURE:
        message = f"{field}: {size:,} characters are more than the {MAX_STRUCTURE:,} that it may have"
        raise ApiError(400, message, code="structure_too_large")
    return field, option


def calls_structure(
    form: str, tools: list[dict[str, Any]], body: ChatBody, asked: tuple[str, dict[str, Any]] | None
) -> tuple[str, dict[str, Any]] | None:
    """As `structure_of`, for a reply of tool calls.

    Where the model may choose, the grammar is that of what follows the marker. Without a marker, or with a structure
    that was `asked` for, it is that of either: calls, or a text that does not begin as they do.

    Raises:
        ApiError: a tool's parameters are no schema that can be followed, or the structure is not one of JSON.
    """
    chosen, marker = body.chosen, form_named(form).marker
    free = chosen in (None, "auto")
    name = chosen.function.name if isinstance(chosen, ChosenTool) else None
    most = 1 if name is not None or body.parallel_tool_calls is False else None
    if free and asked is not None and "schema" not in asked[1]:
        raise ApiError(400, f"{asked[0]}: with tools only JSON by a schema can be asked for; leave one of them out")
    try:
        calls = calls_grammar(tools, form, name=name, most=most, marked=free and asked is None and bool(marker))
        if not free or (asked is None and marker):
            return "tools", {"grammar": calls}
        plain = Grammar({"text": Terminal(PLAIN)}, "text")
        text = plain if asked is None else json_grammar(asked[1]["schema"], name="text.")
    except LlmanacError as error:
        raise ApiError(400, str(error), param="tools") from error
    either = Choice((Ref(text.start), Ref(calls.start)))
    return "tools", {"grammar": Grammar({**text.rules, **calls.rules, "either": either}, "either")}


def constrain(
    service: Service,
    options: Options,
    asked: tuple[str, dict[str, Any]] | None,
    *,
    marker: str = "",
    around: Around | None = None,
) -> None:
    """Put what `structure_of` found into the options, as a constraint.

    Args:
        marker: text is free until it, and the structure follows it; without one all of the text has the structure.
        around: makes a constraint of one that holds for a part of the text, or of None.

    Raises:
        ApiError: what cannot be followed, by its field.
    """
    if asked is None:
        if around is not None:
            options["constraint"] = lambda: around(None)
        return
    field, option = asked
    engine, known = service.engine, service.structures
    ends = engine.eos_ids | frozenset(options.get("stop_ids") or ())
    size, tokenizer = engine.model.vocab_size, engine.tokenizer
    if not service.compiling.acquire(timeout=PATIENCE):
        raise Busy("the server is compiling an earlier request's structure; try again in a moment")
    try:
        while len(known) >= MOST_KEPT:
            known.pop(next(iter(known)))
        shown = options.get("shown_ids")
        made = constraint_of({**option, "shown_ids": shown}, tokenizer, ends, size, known)
    except (LlmanacError, RecursionError) as error:
        message = error.reason if isinstance(error, LlmanacError) and error.field in OPTIONS else str(error)
        raise ApiError(400, f"{field}: {message}") from error
    finally:
        service.compiling.release()
    assert made is not None and tokenizer is not None
    make = made

    def whole() -> Any:
        answer = Triggered(tokenizer, marker, make, size) if marker else make()
        return answer if around is None else around(answer)

    options["stop_ids"] = list(ends)  # a text that is complete has to end
    options["constraint"] = lambda: Shielded(whole(), min(ends, default=0), size, field)


class Shielded:
    """A constraint whose failure ends its own request, and no other that runs with it.

    Attributes:
        error: what went wrong, by the request's `field`; from then on only `end` may come.
    """

    def __init__(self, inner: Any, end: int, size: int, field: str) -> None:
        self.error: LlmanacError | None = None
        self._inner, self._end, self._size, self._field = inner, end, size, field

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def mask(self) -> np.ndarray:
        found = self._try(self._inner.mask)
        if found is None:
            found = np.zeros(self._size, np.bool_)
            found[self._end] = True
        return found

    def forced(self) -> int | None:
        found: int | None = self._try(self._inner.forced)
        return found

    def advance(self, token: int) -> None:
        self._try(lambda: self._inner.advance(token))

    def _try(self, work: Callable[[], Any]) -> Any:
        if self.error is not None:
            return None
        try:
            return work()
        except LlmanacError as error:
            self.error = RequestError(f"{self._field}: {error.reason if error.field == 'constraint' else error}")
            return None


def _structured(name: str, value: Any) -> dict[str, Any]:
    if name == "choice":
        return {"regex": "|".join(re.escape(text) for text in value)}
    if name == "json_":
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise ApiError(400, "structured_outputs.json: is not JSON") from None
        if not isinstance(value, (dict, bool)):
            raise ApiError(400, "structured_outputs.json: expected a schema, an object")
        return {"schema": _schema(value, "structured_outputs.json")}
    return {name: value}


def _schema(value: dict[str, Any] | bool, field: str) -> dict[str, Any]:
    if value is False:
        raise ApiError(400, f"{field}: no value satisfies it")
    return {} if value is True else value
