"""The steps before a Unigram or character BPE model in a `tokenizer.json`: normalisers and pre-tokenizers.

Each follows Hugging Face `tokenizers`; an unsupported one is refused by name. A normaliser returns the text and
where each of its characters starts in the old one.
"""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import regex

from llmanac.core.errors import TokenizerError
from llmanac.tokenizers._added import WHITE_SPACE
from llmanac.tokenizers._normal import Placed, compose, in_form, lowered, marks, normalized
from llmanac.tokenizers._spm_normalizer import read_charsmap
from llmanac.tokenizers.hf import bert
from llmanac.tokenizers.hf.bert import BertNormalizer
from llmanac.tokenizers.hf.fields import pattern_of, prepend_scheme, steps_of, text_field
from llmanac.tokenizers.patterns.splitter import Pattern, TimeBudget, shown

SPACE = "\u2581"
Normalize = Callable[[str, TimeBudget], Placed]
Split = Callable[[str, bool], list[tuple[str, np.ndarray]]]
MOST_GROWTH, ROOM = 64, 4096  # how many times as long a text may become, and characters that it may anyway
SHORT_CLUSTER = 6  # bytes; longer grapheme clusters are looked up a character at a time


# ------------------------------------------------------------------------------------------------ normalisers
class Normalizer:
    """The normaliser of a file. Raises TokenizerError for a step that is not supported, by its name."""

    def __init__(self, part: Any) -> None:
        nodes = [(node, f"normalizer[{i}]") for i, node in enumerate(steps_of(part, "normalizer", "normalizers"))]
        self._steps = [_normal_step(node, where) for node, where in nodes]
        self._quick = [_quick_step(node) for node, _ in nodes]
        product = math.prod(max(1.0, grown(node)) for node, _ in nodes)
        if product > MOST_GROWTH:
            raise TokenizerError(
                f"normalizer: its steps can make a text {product:.3g} times as long; more than {MOST_GROWTH} is refused"
            )

    def __call__(self, text: str) -> Placed:
        placed: Placed = (text, None)
        budget = TimeBudget(len(text))
        for i, step in enumerate(self._steps):
            placed = compose(placed, step(placed[0], budget))
            self._check_growth(i, placed[0], text)
        return placed

    def text(self, text: str) -> str:
        """The normal form alone, without where its characters come from."""
        given, budget = text, TimeBudget(len(text))
        for i, (step, quick) in enumerate(zip(self._steps, self._quick, strict=True)):
            text = quick(text) if quick is not None else step(text, budget)[0]
            self._check_growth(i, text, given)
        return text

    def _check_growth(self, step: int, text: str, given: str) -> None:
        if len(text) > MOST_GROWTH * len(given) + ROOM:
            raise TokenizerError(
                f"normalizer[{step}]: makes a text of {len(given)} characters {len(text)} long, more than "
                f"{MOST_GROWTH} times; give another text, or drop the step from the tokenizer.json"
            )


def grown(node: Mapping[str, Any]) -> float:
    """How many times as long a Replace makes a text at most."""
    if node.get("type") != "Replace":
        return 1.0
    least, new = pattern_of(node, "normalizer").least, len(str(node["content"]))
    return new / least if least else 1.0 + new


def _quick_step(node: Mapping[str, Any]) -> Callable[[str], str] | None:
    """A step on the text alone, where Python has a fast form of it."""
    kind, pattern = node.get("type"), node.get("pattern")
    if kind == "Replace" and isinstance(pattern, Mapping) and pattern.get("String"):
        old, new = str(pattern["String"]), str(node["content"])
        return lambda text: text.replace(old, new)
    if kind == "Prepend":
        front = str(node["prepend"])
        return lambda text: front + text if text else text
    if kind in ("NFC", "NFD", "NFKC", "NFKD"):
        form: Any = kind
        return lambda text: normalized(form, text)
    if kind == "Lowercase":
        return lowered
    if kind == "BertNormalizer":
        return BertNormalizer(node, "normalizer").text
    return None


def _normal_step(node: Mapping[str, Any], where: str) -> Normalize:
    kind = node.get("type")
    if kind == "Precompiled":
        try:
            data = base64.b64decode(node.get("precompiled_charsmap") or "", validate=True)
        except (TypeError, ValueError):
            raise TokenizerError(f"{where}.precompiled_charsmap: is not base64") from None
        return Precompiled(data)
    if kind == "Replace":
        pattern, new = pattern_of(node, where), text_field(node, "content", where)
        return lambda text, budget: substituted(text, pattern, new, budget)
    if kind == "Prepend":
        new = text_field(node, "prepend", where)
        return lambda text, _: (
            _pieced([(new, 0), *((c, i) for i, c in enumerate(text))], len(text)) if text else (text, None)
        )
    if kind == "Strip":
        left, right = bool(node.get("strip_left", True)), bool(node.get("strip_right", True))
        return lambda text, _: _stripped(text, left, right)
    if kind in ("NFC", "NFD", "NFKC", "NFKD"):
        form: Any = kind
        return lambda text, _: in_form(form, text)
    if kind == "Lowercase":
        return lambda text, _: _each(text, lowered)
    if kind == "StripAccents":
        return lambda text, _: _each(text, lambda c: "" if c in marks() else c)
    if kind == "BertNormalizer":
        return BertNormalizer(node, where)
    known = "Precompiled, Replace, Prepend, Strip, NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, BertNormalizer"
    raise TokenizerError(f"{where}: {kind!r} is not supported (known: {known})")


def _pieced(parts: Sequence[tuple[str, int]], length: int) -> Placed:
    places = [start for text, start in parts for _ in text]
    return "".join(text for text, _ in parts), np.array([*places, length], np.int64)


def _each(text: str, change: Callable[[str], str]) -> Placed:
    return _pieced([(change(c), i) for i, c in enumerate(text)], len(text))


def substituted(text: str, pattern: Pattern, new: str, budget: TimeBudget) -> Placed:
    parts: list[tuple[str, int]] = []
    done = 0
    for start, stop in pattern.spans(shown(text), budget) if text else ():
        parts += [(text[i], i) for i in range(done, start)]
        parts.append((new, start))
        done = stop
    if not parts:
        return text, None
    return _pieced([*parts, *((text[i], i) for i in range(done, len(text)))], len(text))


def _stripped(text: str, left: bool, right: bool) -> Placed:
    start = len(text) - len(text.lstrip(WHITE_SPACE)) if left else 0
    stop = max(start, len(text.rstrip(WHITE_SPACE)) if right else len(text))
    return text[start:stop], np.arange(start, stop + 1)


class Precompiled:
    """A compiled map as `tokenizers` applies it: to short grapheme clusters at once, else character by character.

    The first key along the trie counts, not the longest; a cluster is replaced even if the key is only its start.
    """

    def __init__(self, data: bytes) -> None:
        units, blob = read_charsmap(data)
        self._units, self._blob = units.tolist(), blob.tobytes()
        self._known: dict[str, str | None] = {}

    def __call__(self, text: str, _: TimeBudget | None = None) -> Placed:
        parts: list[tuple[str, int]] = []
        changed, at = False, 0
        clusters = regex.findall(r"\X", text) if not text.isascii() or "\r\n" in text else text
        for cluster in clusters:
            new = self._new(cluster) if len(cluster.encode("utf-8")) < SHORT_CLUSTER else None
            if new is not None:
                parts.append((new, at))
                changed = True
            else:
                for i, character in enumerate(cluster):
                    one = self._new(character)
                    parts.append((character if one is None else one, at + i))
                    changed = changed or one is not None
            at += len(cluster)
        return _pieced(parts, len(text)) if changed else (text, None)

    def _new(self, text: str) -> str | None:
        if text not in self._known:
            if len(self._known) > 1 << 16:
                self._known.clear()
            self._known[text] = self._look_up(text.encode("utf-8"))
        return self._known[text]

    def _look_up(self, key: bytes) -> str | None:
        node, units = 0, self._units
        for byte in key:
            if not units or byte == 0:
                return None
            unit = units[node]
            node ^= ((unit >> 10) << ((unit & 512) >> 6)) ^ byte
            if node >= len(units) or units[node] & 0x800000FF != byte:
                return None
            unit = units[node]
            if unit & 256:
                value = units[node ^ ((unit >> 10) << ((unit & 512) >> 6))] & 0x7FFFFFFF
                return self._blob[value : self._blob.index(b"\0", value)].decode("utf-8")
        return None


# ------------------------------------------------------------------------------------------------ pre-tokenizers
def pre_tokenizer(part: Any) -> Split:
    """How a text is cut: `split(text, first)` gives each word and where its characters start in the text."""
    made = [
        _split_step(n, f"pre_tokenizer[{i}]") for i, n in enumerate(steps_of(part, "pre_tokenizer", "pretokenizers"))
    ]

    def run(text: str, first: bool) -> list[tuple[str, np.ndarray]]:
        words = [(text, np.arange(len(text) + 1))] if text else []
        budget = TimeBudget(len(text))
        for step in made:
            words = [new for word, where in words for new in step(word, where, first, budget)]
        return [(word, where) for word, where in words if word]

    return run


def check_first(normalizer: Any, pre_tokenizer: Any) -> None:
    """Refuse a mark for the first word only where that word need not be the beginning of the text.

    `tokenizers` goes by where a word's characters stood in the text given, and counts on after what was taken away.
    """
    taken = None
    for i, node in enumerate(steps_of(normalizer, "normalizer", "normalizers")):
        kind, pattern = node.get("type"), node.get("pattern")
        single = isinstance(pattern, Mapping) and len(str(pattern.get("String", ""))) == 1 and node.get("content")
        if (
            (kind == "Strip" and node.get("strip_left", True))
            or kind in ("StripAccents", "BertNormalizer")
            or (kind == "Replace" and not single)
        ):
            taken = taken or f"normalizer[{i}] ({kind})"
    for i, node in enumerate(steps_of(pre_tokenizer, "pre_tokenizer", "pretokenizers")):
        if node.get("type") != "Metaspace" or node.get("prepend_scheme") != "first":
            continue
        other = taken or ("a normalizer and another step before it" if i and normalizer is not None else None)
        if other is not None:
            raise TokenizerError(f"pre_tokenizer[{i}].prepend_scheme: 'first' beside {other} is not supported")


def _split_step(node: Mapping[str, Any], where: str) -> Callable[..., list[tuple[str, np.ndarray]]]:
    kind = node.get("type")
    if kind == "WhitespaceSplit":
        return lambda word, places, *_: [
            (m[0], places[m.start() : m.end() + 1]) for m in regex.finditer(f"[^{WHITE_SPACE}]+", word)
        ]
    if kind == "BertPreTokenizer":
        return bert.split
    if kind == "Metaspace":
        mark = node.get("replacement", SPACE)
        if not isinstance(mark, str) or len(mark) != 1:
            raise TokenizerError(f"{where}.replacement: {mark!r} is not one character")
        scheme = prepend_scheme(node)
        if scheme not in ("always", "never", "first"):
            raise TokenizerError(f"{where}.prepend_scheme: {scheme!r} is not one of always, first, never")
        return Metaspace(mark, scheme, node.get("split", True) is not False)
    if kind == "Split":
        return Parted(pattern_of(node, where), str(node.get("behavior")), node.get("invert") is True, where)
    raise TokenizerError(
        f"{where}: {kind!r} is not supported (known: Metaspace, WhitespaceSplit, Split, BertPreTokenizer)"
    )


class Parted:
    """A text cut at the matches of a pattern, which stay as pieces, go, or join one of their neighbours."""

    BEHAVIORS = ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous")

    def __init__(self, pattern: Pattern, behavior: str, invert: bool, where: str) -> None:
        if behavior not in self.BEHAVIORS:
            raise TokenizerError(f"{where}: Split with behavior {behavior!r} is not supported")
        self.pattern, self.behavior, self.invert = pattern, behavior, invert

    def __call__(self, word: str, places: np.ndarray, first: bool, budget: TimeBudget) -> list[tuple[str, np.ndarray]]:
        spans: list[tuple[int, int, bool]] = []
        done = 0
        for start, stop in self.pattern.spans(shown(word), budget):
            spans += [(done, start, self.invert)] * (start > done) + [(start, stop, not self.invert)]
            done = stop
        spans += [(done, len(word), self.invert)] * (done < len(word))
        return [(word[a:b], places[a : b + 1]) for a, b in self._cuts(spans) if b > a]

    def _cuts(self, spans: list[tuple[int, int, bool]]) -> list[tuple[int, int]]:
        if self.behavior in ("Isolated", "Removed"):
            return [(a, b) for a, b, found in spans if not found or self.behavior == "Isolated"]
        out: list[tuple[int, int]] = []
        before = False
        for start, stop, found in spans if self.behavior != "MergedWithNext" else reversed(spans):
            joins = found == before if self.behavior == "Contiguous" else found and not before
            if out and joins:
                out[-1] = (min(out[-1][0], start), max(out[-1][1], stop))
            else:
                out.append((start, stop))
            before = found
        return out if self.behavior != "MergedWithNext" else out[::-1]


class Metaspace:
    """Spaces become a mark, one is put in front, and a word begins at each mark."""

    def __init__(self, mark: str, scheme: str, split: bool) -> None:
        self.mark, self.scheme, self.split = mark, scheme, split

    def __call__(self, word: str, places: np.ndarray, first: bool, _: TimeBudget) -> list[tuple[str, np.ndarray]]:
        text = word.replace(" ", self.mark)
        begins = first and places[0] == 0
        if not text.startswith(self.mark) and (self.scheme == "always" or (self.scheme == "first" and begins)):
            text, places = self.mark + text, np.concatenate([places[:1], places])
        if not self.split:
            return [(text, places)]
        starts = [0, *(i for i, c in enumerate(text) if c == self.mark and i)]
        return [(text[a:b], places[a : b + 1]) for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
