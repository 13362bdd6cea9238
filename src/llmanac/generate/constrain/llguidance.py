"""Constraints that the library llguidance follows, in place of our own engine (`pip install llmanac[llguidance]`).

    from llmanac.generate.constrain.llguidance import constraint
    engine.generate(prompt, constraint=constraint(engine, regex="[a-z]+"))

It reads the same options; of a JSON Schema it supports other keywords, and of Lark's form its own subset.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from llmanac.core.errors import RequestError
from llmanac.generate.constrain.vocabulary import vocabulary_of
from llmanac.generate.decoding import Array

if TYPE_CHECKING:
    from llmanac.generate.engine import Engine


class GuidanceFollower:
    """One text; see `generate.constraint.Constraint`."""

    def __init__(self, matcher: Any, ends: frozenset[int], size: int) -> None:
        self.matcher, self.ends, self.size = matcher, ends, size

    def mask(self) -> Array:
        """(V,) bool: tokens that may come next. Raises RequestError where the library has given up."""
        bits = np.frombuffer(self.matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.zeros(self.size, np.bool_)
        found = np.unpackbits(bits, bitorder="little")[: self.size]
        allowed[: len(found)] = found
        allowed[list(self.ends)] = self.accepting()
        return allowed

    def forced(self) -> int | None:
        """The one token that may come next, else None."""
        found = self.matcher.compute_ff_tokens()
        return int(found[0]) if found else None

    def advance(self, token: int) -> None:
        """Take a token that the mask allowed."""
        self.matcher.consume_token(token)
        self._check()

    def rewind(self, count: int) -> None:
        """Take back the last `count` tokens."""
        self.matcher.rollback(count)

    def copy(self) -> GuidanceFollower:
        """Another one at the same place."""
        return GuidanceFollower(self.matcher.deep_copy(), self.ends, self.size)

    def accepting(self) -> bool:
        """Whether the text may end."""
        return bool(self.matcher.is_accepting())

    def _check(self) -> None:
        if self.matcher.is_error():
            raise RequestError(f"constraint: llguidance: {self.matcher.get_error()}")


def constraint(
    engine: Engine, *, regex: str | None = None, grammar: str | None = None, schema: Mapping[str, Any] | None = None
) -> Callable[[], GuidanceFollower]:
    """What the engine's `constraint` option takes, for one of the three.

    Raises:
        RequestError: the library is not installed, or it refuses the constraint.
    """
    try:
        library: Any = importlib.import_module("llguidance")
        wrapper: Any = importlib.import_module("llguidance._tokenizer").TokenizerWrapper
    except ImportError:
        raise RequestError("llguidance is not installed; pip install llmanac[llguidance]") from None
    tokenizer: Any = engine.tokenizer
    if tokenizer is None or (regex, grammar, schema).count(None) != 2:
        raise RequestError("constraint: give one of regex, grammar and schema, to an engine with a tokenizer")
    words = vocabulary_of(tokenizer).token

    class Tokens:
        eos_token_id, bos_token_id = min(engine.eos_ids), None

        def __init__(self) -> None:
            self.tokens = [word or b"\xff<%d>" % i for i, word in enumerate(words)]
            self.special_token_ids = [i for i, word in enumerate(words) if not word]

        def __call__(self, text: Any) -> list[int]:
            return list(tokenizer.encode(text if isinstance(text, str) else text.decode()))

    made, kind = library.LLTokenizer(wrapper(Tokens())), library.LLMatcher
    if schema is not None:
        text = kind.grammar_from_json_schema(json.dumps(schema))
    else:
        text = kind.grammar_from_regex(regex) if regex is not None else kind.grammar_from_lark(grammar)
    wrong = kind.validate_grammar(text, made)
    if wrong:
        raise RequestError(f"constraint: llguidance: {wrong}")
    return lambda: GuidanceFollower(kind(made, text, log_level=0), engine.eos_ids, engine.model.vocab_size)
