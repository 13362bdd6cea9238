"""From a request's options to its decoding methods, in the order in which they apply.

Decoding from a part of the vocabulary: whatever is not allowed gets no probability.

What a request may be constrained by: which tokens may come next, as a state that follows the text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypedDict

import numpy as np

from llmanac.core.errors import RequestError, SpecError
from llmanac.core.spec import make_method
from llmanac.generate.constrain.expressions import Grammar
from llmanac.generate.decoding import Array, DecodingSpec, LogitsProcessor, Sequences, beam, cut, greedy, nothing


class Constraint(Protocol):
    """One sequence's constraint (a regular expression, a JSON Schema, a grammar); the engine makes one a sample.

    It may have `copy()`, an independent constraint in the same state. Beams fork; without it a fork takes all tokens of
    its text again.
    """

    def mask(self) -> Array:
        """(V,) bool: tokens that may come next; at least one. End-of-text is allowed where the text may end."""

    def forced(self) -> int | None:
        """The one token that may come next, where there is no choice and none has to be drawn; else None."""

    def advance(self, token: int) -> None:
        """Take a token that the mask allowed."""


if TYPE_CHECKING:
    from llmanac.generate.constrain.template import Template


class Options(TypedDict, total=False):
    """What `Engine.generate`, `Engine.stream` and `Engine.request` take, all optional.

    max_new_tokens: at most this many tokens; 0 only scores the prompt. Default 64.
    temperature: 0 (the default) decodes greedily; 1 samples from the model's own distribution.
    top_k: keep the k most probable tokens.
    top_p: keep the most probable tokens up to this mass.
    min_p: keep the tokens with at least this fraction of the best token's probability.
    typical_p: keep the tokens whose surprise is nearest to the expected one, up to this mass.
    repetition_penalty: divide the logits of tokens that the text has already by this.
    presence_penalty, frequency_penalty: taken off the logits of generated tokens, once and for each occurrence.
    no_repeat_ngram: no so many tokens in a row occur twice.
    logit_bias: a table of token ids and what is added to their logits.
    seed: an integer. With the prompt's ids and the sample's number it names the random stream, so a request's tokens
        do not depend on what else is in the batch; the same prompt twice with one seed gives the same text twice.
    stop: one string or several; the text ends before the first to be complete. A special token's text works too.
    stop_ids: token ids that end a sequence, in place of the tokenizer's and the model's own end-of-text tokens.
    min_new_tokens: no token ends a sequence before it has so many; stop strings still do. Default 0.
    allowed_ids: the only token ids that may be generated, before any other method has its say.
    n: samples a prompt; with beams, its best texts.
    beams: beam search with so many (see `decoding/beam.py`); the other methods then act on log-probabilities.
    length_penalty: texts are ranked by log-probability / length ** this; 1 by default.
    early_stopping: False (the default), True or "never", as transformers ends a search.
    beam_groups, diversity: so many groups of the beams, and what a group's tokens lose for each earlier group's beam
        that takes the same token.
    logprobs: how many alternatives to report with each generated token's own log-probability.
    prompt_logprobs: score the prompt's tokens too, with this many alternatives each.
    decoding: decoding methods in order, as Specs or names, in place of all of these (but the options of beams).
    regex: a regular expression that the text matches as a unit (`constrain/regex.py` has the syntax).
    grammar: a context-free grammar of the text in Lark's form (`constrain/lark.py`), or a `Grammar`.
    schema: a JSON Schema of the text, or a class with `model_json_schema`; `Completion.parsed` is then the object.
    template: fixed text and slots (`constrain/template.py`); `Completion.parsed` is then a dict of the slots' values.
    constraint: makes a new `Constraint` for each sample; only what it allows is generated.
    shown_ids: special tokens whose text is part of the text; special tokens have none else.
    adapter: the name of one of the engine's adapters, or None for the model alone.
    speculative: False: without the engine's drafter, where it has one. The tokens are the same.
    images: the images of the prompt, as `Seeing.chat` gives them with its ids (`generate/images.py`).
    """

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    no_repeat_ngram: int | None
    logit_bias: Mapping[int, float] | None
    seed: int
    stop: str | Items[str]
    stop_ids: Items[int] | None
    min_new_tokens: int | None
    allowed_ids: Items[int] | None
    n: int
    logprobs: int | None
    prompt_logprobs: int | None
    beams: int | None
    length_penalty: float | None
    early_stopping: bool | str | None
    beam_groups: int | None
    diversity: float | None
    decoding: Items[DecodingSpec | str] | None
    regex: str | None
    grammar: str | Grammar | None
    schema: Mapping[str, Any] | type | None
    template: Template | str | None
    constraint: Callable[[], Constraint] | None
    shown_ids: Items[int] | None
    adapter: str | None
    speculative: bool
    images: Any


def decoding_of(options: Options, ends: Items[int] = ()) -> tuple[DecodingSpec, ...]:
    """What the options ask for: the allowed tokens, then temperature, top-k and top-p, or the methods given; `ends` are
    the tokens that end a text."""
    least = whole("min_new_tokens", options.get("min_new_tokens") or 0, least=0)
    if least and ends:
        return NotBefore(ends=tuple(sorted(ends)), least=least), *decoding_of({**options, "min_new_tokens": 0})
    given = options.get("allowed_ids")
    if given is None:
        return _methods(options)
    try:
        ids = tuple(sorted({whole("allowed_ids", getattr(i, "item", lambda i=i: i)(), least=0) for i in given}))
    except TypeError:
        raise RequestError(f"allowed_ids: {given!r} is not a list of token ids") from None
    if not ids:
        raise RequestError("allowed_ids: nothing may be generated; leave it out, or give at least one id")
    return Allowed(ids=ids), *_methods(options)


# option -> its method, the field, and the value that leaves everything as it is; applied in this order
METHODS: dict[str, tuple[str, str, Any]] = {
    "repetition_penalty": ("repetition-penalty", "penalty", 1),
    "presence_penalty": ("count-penalty", "presence", 0),
    "frequency_penalty": ("count-penalty", "frequency", 0),
    "no_repeat_ngram": ("no-repeat-ngram", "n", 0),
    "temperature": ("temperature", "temperature", 1),
    "top_k": ("top-k", "k", None),
    "top_p": ("top-p", "p", 1),
    "min_p": ("min-p", "m", 0),
    "typical_p": ("typical", "p", 1),
}
BEAM = {"beams": "beams", "length_penalty": "length_penalty", "beam_groups": "groups", "diversity": "diversity",
        "early_stopping": "early_stopping"}  # fmt: skip
STOPPING = {True: "first", False: "heuristic"}  # transformers' values
BOUNDS = {"repetition_penalty": (0.01, 100.0)}
COLDEST = 1e-5  # the smallest temperature above 0: logits divided by it are finite in float32
LARGEST_BIAS = 1e30  # so is what other methods make of a logit with it
CUTS = ("temperature", "top_k", "top_p", "min_p", "typical_p")  # nothing is drawn from what they leave where T = 0


def _methods(options: Options) -> tuple[DecodingSpec, ...]:
    asked = {name: options.get(name) for name in (*METHODS, "logit_bias") if options.get(name) is not None}
    given = options.get("decoding")
    if given is not None:
        if asked:
            raise RequestError(f"decoding: give either decoding or {', '.join(asked)}, not both")
        return _given(given, options)
    heat = _number("temperature", options.get("temperature", 0.0), 0, math.inf)
    if 0 < heat < COLDEST:
        raise RequestError(f"temperature: {heat} is not 0 (greedy), and not at least {COLDEST:g}")
    search = _beam(options)
    if search is not None and heat > 0:
        raise RequestError("temperature: beam search draws nothing; leave out temperature or beams")
    fields: dict[str, dict[str, Any]] = {}
    for name, (method, field_name, neutral) in METHODS.items():
        value = asked.get(name)
        if value is None or value == neutral or (heat == 0 and name == "temperature"):
            continue
        counted = name in ("top_k", "no_repeat_ngram")
        fields.setdefault(method, {})[field_name] = (
            whole(name, value, least=1) if counted else _number(name, value, *BOUNDS.get(name, (-math.inf, math.inf)))
        )
    specs = _bias(asked.get("logit_bias"))
    for method, values in fields.items():
        try:
            specs.append(make_method("decoding", {"name": method, **values}))
        except SpecError as error:
            names = [name for name, (own, _, _) in METHODS.items() if own == method and name in asked]
            raise RequestError(f"{' or '.join(names)}: {str(error).partition(': ')[2]}") from None
    if search is not None:
        return (*specs, search)
    if heat == 0:
        cuts = {METHODS[name][0] for name in CUTS}
        return (*(spec for spec in specs if spec.name not in cuts), greedy.Spec())
    return tuple(specs)


def _given(given: Items[DecodingSpec | str], options: Options) -> tuple[DecodingSpec, ...]:
    """The methods of `decoding`; a beam search is the last of them, and the options of beams set its fields."""
    try:
        specs = [make_method("decoding", one) if isinstance(one, str) else one for one in given]
    except SpecError as error:
        raise RequestError(f"decoding: {error}") from None
    if any(spec.searches for spec in specs[:-1]):
        raise RequestError("decoding: a beam search must be the last method")
    last = specs[-1] if specs and isinstance(specs[-1], beam.Spec) else None
    found = _beam(options, last)
    return (*(specs if last is None else specs[:-1]), *([] if found is None else [found]))


def _beam(options: Options, base: beam.Spec | None = None) -> beam.Spec | None:
    """The beam search that the options ask for, or None; `base` with what they change."""
    asked: dict[str, Any] = {name: options.get(name) for name in BEAM if options.get(name) is not None}
    for name, value in asked.items():
        if name in ("beams", "beam_groups"):
            whole(name, value, least=1)
        elif name == "early_stopping":
            asked[name] = STOPPING[value] if isinstance(value, bool) else value
        else:
            asked[name] = _number(name, value, -math.inf, math.inf)
    if base is None and asked.get("beams", 1) == 1:
        others = [name for name in asked if name != "beams"]
        if others:
            raise RequestError(f"{others[0]}: is of beam search; give beams, at least 2")
        return None
    fields = {BEAM[name]: value for name, value in asked.items()}
    try:
        return beam.Spec.from_data({**({} if base is None else vars(base)), **fields})
    except SpecError as error:
        field_name, _, what = str(error).partition(": ")
        shown = {own: name for name, own in BEAM.items()}.get(field_name, field_name)
        raise RequestError(f"{shown}: {what}") from None


def _bias(given: Any) -> list[DecodingSpec]:
    """The method for `{id: bias}`; ids may be text, as in JSON. Raises RequestError for other keys."""
    if not given:
        return []
    try:
        found = {_id(key): _number("logit_bias", value, -LARGEST_BIAS, LARGEST_BIAS) for key, value in given.items()}
        return [make_method("decoding", {"name": "logit-bias", "ids": [*found], "biases": [*found.values()]})]
    except (AttributeError, ValueError, SpecError) as error:
        raise RequestError(f"logit_bias: expected a table of token ids and numbers ({error})") from None


def _id(key: Any) -> int:
    return whole("logit_bias", int(key) if isinstance(key, str) and key.isascii() and key.isdigit() else key, least=0)


def whole(name: str, value: Any, *, least: int | None = None, most: int | None = None) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise RequestError(f"{name}: {value!r} is not a whole number")
    if (least is not None and value < least) or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"between {least} and {most}"
        raise RequestError(f"{name}: {value} is not {bounds}")
    return int(value)


def optional(name: str, value: Any, *, least: int, most: int | None = None) -> int | None:
    return None if value is None else whole(name, value, least=least, most=most)


def _number(name: str, value: Any, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
        raise RequestError(f"{name}: {value!r} is not a finite number")
    if not least <= value <= most:
        bounds = f"between {least} and {most}" if math.isfinite(most) else f"at least {least}"
        raise RequestError(f"{name}: {value} is not {bounds}")
    return float(value)


@dataclass(frozen=True, kw_only=True)
class NotBefore(DecodingSpec):
    """The tokens `ends` have no probability before a text has `least` tokens, unless nothing else is left."""

    reads_text: ClassVar[bool] = True
    ends: tuple[int, ...]
    least: int

    def build(self, **dims: Any) -> LogitsProcessor:
        ends = np.array(self.ends, np.int64)

        def forbid(logits: Array, sequences: Sequences = ()) -> Array:
            rows = np.array([len(sequence.ids) < self.least for sequence in sequences], bool)
            dropped = np.zeros(logits.shape, bool)
            dropped[np.ix_(rows, ends)] = True
            dropped &= ((logits > -np.inf) & ~dropped).any(-1, keepdims=True)
            return cut(logits, dropped)

        return forbid


@dataclass(frozen=True, kw_only=True)
class Forced(DecodingSpec):
    """The first token of an answer is `first`, and its token number `most` is `last`, as transformers'
    `forced_bos_token_id` and `forced_eos_token_id`; None forces nothing."""

    reads_text: ClassVar[bool] = True
    first: int | None
    last: int | None
    most: int

    def build(self, **dims: Any) -> LogitsProcessor:
        def force(logits: Array, sequences: Sequences = ()) -> Array:
            logits = logits.copy()
            for row, sequence in enumerate(sequences):
                at = len(sequence.ids) + 1
                token = self.last if at == self.most and self.last is not None else self.first if at == 1 else None
                if token is not None:
                    logits[row] = -np.inf
                    logits[row, token] = 0.0
            return logits

        return force


@dataclass(frozen=True, kw_only=True)
class Allowed(DecodingSpec):
    """Only these token ids may be generated; the rest of the logits become -inf."""

    ids: tuple[int, ...]

    def build(self, **dims: Any) -> LogitsProcessor:
        index = np.array(self.ids, np.int64)

        def keep(logits: Array, sequences: Sequences = ()) -> Array:
            kept = nothing(logits)
            kept[:, index] = logits[:, index]
            return kept

        return keep
