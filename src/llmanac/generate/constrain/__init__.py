"""Constraints on generated text: regular expressions, JSON Schema, grammars, templates."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Collection, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from llmanac.core.errors import LlmanacError, RequestError, SpecError, shown
from llmanac.generate.constrain.expressions import Grammar, Terminal

if TYPE_CHECKING:
    from llmanac.generate.constrain.matcher import Matcher
    from llmanac.tokenizers import Tokenizer

WAYS = ("constraint", "regex", "grammar", "schema", "template")
MOST_KEPT = 32  # matchers of an engine
Matchers = MutableMapping[tuple[str, str], "Matcher"]


def grammar_of(options: Mapping[str, Any]) -> tuple[tuple[str, str], Callable[[], Grammar]] | None:
    """What names the grammar that the options ask for, and a function that makes it; None where they ask for none.

    Raises:
        RequestError: more than one of `WAYS`, or one of a wrong type.
    """
    asked = [name for name in WAYS if options.get(name) is not None]
    if len(asked) > 1:
        raise RequestError(f"{asked[0]}: give only one of {', '.join(asked)}")
    if not asked or asked[0] in ("constraint", "template"):
        return None
    name, given = asked[0], options[asked[0]]
    if name == "schema":
        from llmanac.generate.constrain import json_schema

        try:
            schema = json_schema.schema_of(given)
            return (name, json.dumps(schema)), lambda: json_schema.grammar(schema)
        except (TypeError, ValueError, RecursionError) as error:
            why = str(error).removeprefix("schema: ")
            raise RequestError(f"schema: {why}") from None
    if name == "grammar" and isinstance(given, Grammar):
        return (name, repr(given)), lambda: given
    if not isinstance(given, str):
        raise RequestError(f"{name}: {shown(given)} is not a text")

    def from_text() -> Grammar:
        if name == "grammar":
            from llmanac.generate.constrain.lark import parse_lark

            return parse_lark(given)
        from llmanac.generate.constrain.regex import parse_regex

        return Grammar({"start": Terminal(parse_regex(given))}, "start")

    return (name, given), from_text


def constraint_of(
    options: Mapping[str, Any], tokenizer: Tokenizer | None, ends: Collection[int], size: int, known: Matchers
) -> Callable[[], Any] | None:
    """What makes a constraint for each sample, where the options ask for one by regex, grammar, schema or template.

    Args:
        ends: ids of end-of-text tokens; size: tokens of the model; known: matchers that were made before.
    """
    found = grammar_of(options)
    if options.get("template") is not None:
        from llmanac.generate.constrain.template import template_of

        if tokenizer is None:
            raise RequestError("template: this engine has no tokenizer, which it needs")
        return template_of(options["template"]).constraint(tokenizer, ends, size)
    if found is None:
        return None
    key, make = found
    shown = frozenset(options.get("shown_ids") or ())
    key = (key[0], key[1] + (f" {sorted(shown)}" if shown else ""))
    if tokenizer is None:
        raise RequestError(f"{key[0]}: this engine has no tokenizer, which it needs")
    from llmanac.generate.constrain._patience import limited
    from llmanac.generate.constrain.automaton import warm
    from llmanac.generate.constrain.matcher import MaskFollower, Matcher
    from llmanac.generate.constrain.vocabulary import vocabulary_of

    if key not in known:
        while len(known) >= MOST_KEPT:
            known.pop(next(iter(known)))
        warm()
        vocabulary_of(tokenizer, shown)  # made once, and not in the time of this constraint
        try:
            with limited(key[0]):
                known[key] = Matcher(make(), tokenizer, shown=shown)
        except (SpecError, RequestError) as error:
            named = re.match(r"\w+[:#]", str(error))
            raise RequestError(str(error) if named else f"{key[0]}: {error}") from None
    matcher = known[key]
    return lambda: MaskFollower(matcher, ends, size)


def compile_kernels(tokenizer: Tokenizer | None, ends: Collection[int], size: int) -> None:
    """Compile what constraints run on for this machine, which takes up to a minute where it was never done.

    Errors, as of a tokenizer that knows no bytes, are a request's.
    """
    warming: tuple[dict[str, Any], ...] = ({"regex": "a[bc]"}, {"schema": {"type": "object"}})
    for option in warming if tokenizer is not None else ():
        with contextlib.suppress(LlmanacError):
            make = constraint_of(option, tokenizer, ends, size, {})
            assert make is not None
            follower = make()
            follower.mask()
            follower.forced()


def parser_of(options: Mapping[str, Any]) -> Callable[[str], Any] | None:
    """What makes the object of a text for the options `schema` and `template`; None without them."""
    schema = options.get("schema")
    if options.get("template") is not None:
        from llmanac.generate.constrain.template import template_of

        return template_of(options["template"]).slots
    if schema is None:
        return None
    made: Callable[[str], Any] = getattr(schema, "model_validate_json", None) or json.loads
    return made
