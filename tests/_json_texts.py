"""Texts of JSON values, texts drawn from a grammar, and whether a grammar matches a text."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator

import numpy as np
from _engine_models import ByteTokenizer

from llmanac.generate.constrain import expressions as ex
from llmanac.generate.constrain._json_strings import ends
from llmanac.generate.constrain.matcher import Matcher


class Reader:
    """Whether texts match a grammar, by the recognizer that generation uses."""

    def __init__(self, grammar: ex.Grammar) -> None:
        self.matcher = Matcher(grammar, ByteTokenizer())

    def state(self, text: str) -> int:
        data = np.frombuffer(text.encode() + b" ", np.uint8).copy()
        state = self.matcher.follow(-1, data, 0, len(data) - 1)
        if state < -1:  # its memory is used up
            self.matcher.clear()
            state = self.matcher.follow(-1, data, 0, len(data) - 1)
            assert state >= -1
        return state

    def alive(self, text: str) -> bool:
        """Whether a text may go on or end."""
        return self.state(text) >= 0

    def __call__(self, text: str) -> bool:
        state = self.state(text)
        return state >= 0 and self.matcher.accepts(state)


def texts(value: object, layout: tuple[str, str] = (", ", ": "), limit: int = 60) -> list[str]:
    """The texts of a value in every order of its keys, up to a limit."""
    comma, colon = layout

    def written(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for order in itertools.permutations(value):
                for parts in itertools.product(*(list(itertools.islice(written(value[k]), 8)) for k in order)):
                    pairs = zip(order, parts, strict=True)
                    yield "{" + comma.join(json.dumps(k, ensure_ascii=False) + colon + v for k, v in pairs) + "}"
        elif isinstance(value, list):
            for parts in itertools.product(*(list(itertools.islice(written(v), 8)) for v in value)):
                yield "[" + comma.join(parts) + "]"
        elif isinstance(value, float):
            if value == int(value):
                yield str(int(value))
            yield format(value, "f") if abs(value) > 1e16 or "e" in repr(value) else repr(value)
        else:
            yield json.dumps(value, ensure_ascii=False)

    return list(itertools.islice(written(value), limit))


class Cut(Exception):
    """A drawn text got too long."""


def drawn(grammar: ex.Grammar, rng: random.Random, size: int = 400) -> str:
    """A text of a grammar, drawn at random. Raises Cut: it got too long, or an expression has no text to draw."""
    alphabet = 'aZ09 -._:/@é😀"\\\n\u0001~%'
    used: list[set[str]] = [set()]
    left = size

    def spend() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Cut

    def character(ranges: tuple[tuple[int, int], ...]) -> str:
        good = [c for c in alphabet if any(a <= ord(c) <= b for a, b in ranges)]
        if good and rng.random() < 0.7:
            return rng.choice(good)
        low, high = rng.choice(ranges)
        code = rng.choice([low, high, rng.randint(low, high)])
        return chr(code) if not 0xD800 <= code <= 0xDFFF else "é"

    def regex(item: ex.Regex) -> str:
        spend()
        match item:
            case ex.Chars(ranges):
                return character(ranges)
            case ex.Concat(items):
                return "".join(map(regex, items))
            case ex.Union(items):
                if not items:
                    raise Cut
                return regex(rng.choice(items))
            case ex.Repeat(inner, least, most):
                more = rng.choice([0, 0, 1, 1, 2, 3])
                count = least + (more if most is None else min(more, most - least))
                return "".join(regex(inner) for _ in range(count))
            case ex.And(items):
                positive = [i for i in items if not isinstance(i, ex.Not)] or [ex.Repeat(ex.Chars(((97, 98),)), 0, 4)]
                for _ in range(60):
                    text = regex(rng.choice(positive))
                    if all(len(text) in ends(i, text) for i in items):
                        return text
                raise Cut
        for _ in range(20):
            text = "".join(rng.choice(alphabet[:4]) for _ in range(rng.randint(0, 4)))
            if len(text) in ends(item, text):
                return text
        raise Cut

    def node(item: ex.Node) -> str:
        spend()
        match item:
            case ex.Terminal(inner):
                return regex(inner)
            case ex.Fresh(inner):
                for _ in range(20):
                    text = regex(inner)
                    if text not in used[-1]:
                        used[-1].add(text)
                        return text
                raise Cut
            case ex.Scope(inner):
                used.append(set())
                text = node(inner)
                used.pop()
                return text
            case ex.Ref(name):
                return node(grammar.rules[name])
            case ex.Choice(items):
                if not items:
                    raise Cut
                return node(rng.choice(items))
            case ex.Concatenation(items):
                return "".join(map(node, items))
        more = rng.choice([0, 0, 1, 2, 3])
        count = item.least + (more if item.most is None else min(more, item.most - item.least))
        return "".join(node(item.node) for _ in range(count))

    try:
        return node(ex.Ref(grammar.start))
    except RecursionError:
        raise Cut from None
