"""Masks of constrained decoding next to llguidance, on SmolLM2's vocabulary, and what constraints cost in decoding.

Needs a SmolLM2 GGUF file, as `decode.py` does. Both engines follow the same texts of the same JSON Schemas, token by
token, each from a cold start: compiled anew in every round, in a process that has compiled another schema before. A
token's time is its least over the rounds, in which the engines take turns.
"""

from __future__ import annotations

import functools
import gc
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _harness import Benchmark, Result, find_peer
from decode import absent, smollm2

bench = Benchmark("constrain", __doc__ or "")
ROUNDS = 5
TEXT = {"type": "string"}
NUMBER = {"type": "integer"}


def _object(required: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": required, "required": [*required], "additionalProperties": False, **more}


# compiled before each cold start: the forms of all numbers and strings are those of the process, not of a schema
OTHER = _object({"integer": NUMBER, "number": {"type": "number"}, "string": TEXT, "object": {"type": "object"}})
# name -> schema, and values of it
SCHEMAS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "person": (
        _object({
            "name": {"type": "string", "maxLength": 40}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": TEXT, "maxItems": 5}, "role": {"enum": ["admin", "user", "guest"]},
            "address": _object({"city": TEXT, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}}),
        }),
        [{"name": "Ann Lee", "age": 31, "tags": ["a b", "cc"], "role": "admin",
          "address": {"city": "New York", "zip": "10001"}}],
    ),
    "tool call": (
        {"anyOf": [
            _object({"name": {"const": "search"}, "arguments": _object({"query": TEXT, "limit": NUMBER})}),
            _object({"name": {"const": "send_mail"}, "arguments": _object({
                "to": {"type": "array", "items": {"type": "string", "pattern": "^[a-z.]+@[a-z]+[.][a-z]{2,3}$"}},
                "body": TEXT})}),
        ]},
        [{"name": "search", "arguments": {"query": "weather in Berlin on Tuesday", "limit": 3}},
         {"name": "send_mail", "arguments": {"to": ["ann.lee@mail.com"], "body": "Dear Ann,\nsee you \"soon\"."}}],
    ),
    "tree": (
        {"$ref": "#/$defs/node", "$defs": {"node": _object({
            "label": TEXT, "weight": {"type": "number"},
            "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}})}},
        [{"label": "root", "weight": 1.5, "children": [
            {"label": "left", "weight": -2, "children": [{"label": "leaf", "weight": 0.25, "children": []}]},
            {"label": "right", "weight": 10, "children": []}]}],
    ),
    "map": (
        {"type": "object", "additionalProperties": {"type": "array", "items": {"type": ["integer", "null"]}}},
        [{"first": [1, 2, None], "second one": [], "third": [30, 40, 50]}],
    ),
    "records": (
        {"type": "array", "items": _object({
            "id": NUMBER, "kind": {"enum": ["invoice", "order", "payment", "refund"]}, "paid": {"type": "boolean"},
            "total": {"type": "number"}, "date": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
            "note": {"type": ["string", "null"]}})},
        [[{"id": i, "kind": kind, "paid": bool(i % 2), "total": 12.5 * i, "date": f"2024-0{i}-15", "note": note}
          for i, kind, note in [(1, "order", None), (2, "refund", "broken on arrival"), (3, "invoice", None)]]],
    ),
}  # fmt: skip


@functools.cache
def tokenizers() -> tuple[Any, Any]:
    """Our tokenizer, and the peer's form of it (None where it is not installed)."""
    from llmanac.generate.constrain.vocabulary import vocabulary_of
    from llmanac.tokenizers.load import load_tokenizer

    source = smollm2()
    assert source is not None
    tokenizer = load_tokenizer(source)
    words = vocabulary_of(tokenizer).token
    llguidance, _ = find_peer("llguidance")
    if llguidance is None:
        return tokenizer, None
    from llguidance._tokenizer import TokenizerWrapper

    class Tokens:
        def __init__(self) -> None:
            self.eos_token_id, self.bos_token_id = tokenizer.eos_id, None
            self.tokens = [word or b"\xff<%d>" % i for i, word in enumerate(words)]
            self.special_token_ids = [i for i, word in enumerate(words) if not word]

        def __call__(self, text: Any) -> list[int]:
            return list(tokenizer.encode(text if isinstance(text, str) else text.decode()))

    return tokenizer, llguidance.LLTokenizer(TokenizerWrapper(Tokens()))


def ours(schema: dict[str, Any], ids: list[int]) -> list[float]:
    """Seconds of compiling and the first mask, then of each further mask."""
    from llmanac.generate.constrain import _json_numbers, _utf8, automaton, json_schema
    from llmanac.generate.constrain.matcher import MaskFollower, Matcher

    tokenizer, _ = tokenizers()
    for cached in (automaton.automaton_of, _utf8.byte_moves, _json_numbers.automaton):
        cached.cache_clear()
    automaton.compile_grammar(json_schema.grammar(OTHER))
    start = time.perf_counter()
    follower = MaskFollower(Matcher(json_schema.grammar(schema), tokenizer), [tokenizer.eos_id], tokenizer.vocab_size)
    follower.bits()
    taken = [time.perf_counter() - start]
    for token in ids:
        follower.advance(token)
        start = time.perf_counter()
        follower.bits()
        taken.append(time.perf_counter() - start)
    assert follower.accepting()
    return taken


def theirs(schema: dict[str, Any], ids: list[int]) -> list[float]:
    """The same of llguidance, which keeps to the same white space."""
    import llguidance
    import llguidance.numpy

    tokenizer, made = tokenizers()
    mask = llguidance.numpy.allocate_token_bitmask(1, tokenizer.vocab_size)
    white = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    start = time.perf_counter()
    matcher = llguidance.LLMatcher(made, llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), white))
    llguidance.numpy.fill_next_token_bitmask(matcher, mask, 0)
    taken = [time.perf_counter() - start]
    for token in ids:
        assert matcher.consume_token(token), matcher.get_error()
        start = time.perf_counter()
        llguidance.numpy.fill_next_token_bitmask(matcher, mask, 0)
        taken.append(time.perf_counter() - start)
    assert matcher.is_accepting()
    return taken


@functools.cache
def times() -> dict[str, dict[str, np.ndarray]]:
    """For each engine and schema the seconds of compiling and the first mask, then of each mask."""
    tokenizer, peer = tokenizers()
    engines: dict[str, Callable[[dict[str, Any], list[int]], list[float]]] = {"ours": ours}
    if peer is not None:
        engines["theirs"] = theirs
    found: dict[str, dict[str, list[list[float]]]] = {name: {} for name in engines}
    for turn in range(ROUNDS + 1):
        for schema, (definition, values) in SCHEMAS.items():
            for number, value in enumerate(values):
                ids = [int(i) for i in tokenizer.encode(json.dumps(value))]
                for name in list(engines) if turn % 2 else list(reversed(engines)):
                    gc.collect()
                    taken = engines[name](definition, ids)
                    if turn:  # the first round compiles our kernels
                        found[name].setdefault(f"{schema} {number}", []).append(taken)
    return {name: {key: np.min(rounds, axis=0) for key, rounds in own.items()} for name, own in found.items()}


def compared(
    name: str, unit: str, scale: float, figure: Callable[[dict[str, np.ndarray]], float], **more: Any
) -> Result:
    _, peer = find_peer("llguidance")
    figures = {engine: scale * figure(own) for engine, own in times().items()}
    return Result(name, unit, figures["ours"], peer, figures.get("theirs"), "lower", more)


def _masks(own: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([taken[1:] for taken in own.values()])


@bench.measure("mask-median")
def median() -> Result:
    """Microseconds of a mask, over all tokens of all texts."""
    if smollm2() is None:
        return absent("mask-median", "us")
    more = {}
    for engine, own in times().items():
        masks = 1e6 * _masks(own)
        more |= {f"{engine} {q}%": float(np.percentile(masks, q)) for q in (90, 99)}
        more |= {f"{engine} mean": float(masks.mean()), f"{engine} most": float(masks.max())}
    return compared("mask-median", "us", 1e6, lambda own: float(np.median(_masks(own))), **more)


@bench.measure("mask-first")
def first() -> Result:
    """Milliseconds of compiling a schema and making the first mask, the median over the schemas."""
    if smollm2() is None:
        return absent("mask-first", "ms")
    more = {f"{engine} {name}": 1e3 * float(taken[0]) for engine, own in times().items() for name, taken in own.items()}
    return compared(
        "mask-first", "ms", 1e3, lambda own: float(statistics.median(taken[0] for taken in own.values())), **more
    )


@bench.measure("json-overhead")
def overhead() -> Result:
    """Seconds a token of SmolLM2 with a schema, and without one, on the native runner; both read the same tokens."""
    source = smollm2()
    if source is None:
        return absent("json-overhead", "ms/token")
    import torch

    from llmanac.generate.constrain import json_schema
    from llmanac.generate.constrain.matcher import MaskFollower, Matcher
    from llmanac.generate.engine import Engine
    from llmanac.models.load import load_model

    torch.set_num_threads(1)
    tokenizer, _ = tokenizers()
    engine = Engine(load_model(source), tokenizer, runner="native")
    schema = SCHEMAS["records"][0]
    matcher_of = functools.partial(json_schema.grammar, schema)
    prompt = "Three invoices as JSON records, with notes:\n"

    class Unforced(MaskFollower):
        """Every token is chosen by the model, so that both runs make as many calls."""

        def forced(self) -> None:
            return None

    def run(constrained: bool) -> tuple[float, int]:
        start = time.perf_counter()
        asked: dict[str, Any] = {"max_new_tokens": 96, "stop_ids": [-1]}
        if constrained:
            matcher = Matcher(matcher_of(), tokenizer)
            asked["constraint"] = lambda: Unforced(matcher, [], tokenizer.vocab_size)
        done = engine.generate(prompt, **asked)[0]
        return (time.perf_counter() - start), len(done.ids)

    pairs = []
    for turn in range(6):
        found = {kind: run(kind) for kind in ((True, False) if turn % 2 else (False, True))}
        pairs.append({kind: seconds / count for kind, (seconds, count) in found.items()})
    pairs = pairs[1:]
    with_, without = (1e3 * statistics.median(pair[kind] for pair in pairs) for kind in (True, False))
    share = statistics.median(pair[True] / pair[False] for pair in pairs) - 1
    return Result("json-overhead", "ms/token", with_, "without a constraint", without, "lower", {"overhead": share})


if __name__ == "__main__":
    bench.main()
