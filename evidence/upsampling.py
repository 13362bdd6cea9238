"""Upsampling of under-represented languages.

A byte-level BPE of {vocabulary:,} ids is trained on English documentation ({english:,.0f} kB) and the interface
messages of five languages ({sizes}). {messages} messages exist in all six; they are divided into {folds} parts, four
are used for training and one for measuring, in turn. Values are means over the parts, with 95% t intervals. The
fraction of a language in the text is p^alpha / sum p^alpha.

- Longer sequences: in the natural mixture, the same messages take {longer[0]:.2f} to {longer[1]:.2f} times the tokens
  of English.
- Upsampling with alpha 0.3 raises their bytes per token by {gains[0]:.0%} to {gains[1]:.0%}; they then take
  {after[0]:.2f} to {after[1]:.2f} times English's tokens.
- It {rises} with every step from alpha 1 to 0 in every language, as the fractions predict.
- It is not free: English loses {lost[0]:.1%} of its bytes per token at alpha 0.3 and {lost[1]:.1%} at 0.
- So whether it fixes the problem depends on the language: at alpha 0.3 {low} takes {after[0]:.2f}, {high} still
  {after[1]:.2f} times English's tokens, and {equal:.2f} even with equal fractions. There is much less text to learn it
  from, and repeating the same text does not change that.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from evidence._messages import bytes_of, documentation, messages
from evidence._page import with_interval
from llmanac.core.pages import Section, table
from llmanac.lab.stats import mean
from llmanac.tokenizers.load import mixture, stretches, train_tokenizer

ROWS = ("tokenizer/upsampling",)
CLAIM = "under-represented languages get longer sequences; upsampling fixes it"
SEEDS, REPLICATE, PACKAGES = 5, "fold", ("django",)

LANGUAGES = ("de", "fi", "ru", "hi", "ja")
ALPHAS = (1.0, 0.7, 0.5, 0.3, 0.0)
VOCABULARY = 8192


def measure(seed: int, size: str) -> dict[str, Any]:
    """Fractions, bytes a token and tokens relative to English, by alpha and language, of one part held out."""
    if size == "small":
        texts = {name: made_up(name) for name in ("aeiou", "äöüßé")}
        return learned(texts, ["the small table", "a large house"] * 20, seed, (1.0, 0.3), 300)
    return learned({name: messages(name) for name in LANGUAGES}, documentation(), seed, ALPHAS, VOCABULARY)


def made_up(vowels: str) -> dict[str, str]:
    """Thirty messages in an English and in a language with these vowels."""
    pairs = [a + b for a in "bdklmn" for b in "aeiou"]
    other = str.maketrans("aeiou", vowels)
    return {
        f"{a}{b} the {b}": f"{b}{a} {b}".translate(other) for a, b in zip(pairs, pairs[7:] + pairs[:7], strict=True)
    }


def learned(
    texts: Mapping[str, Mapping[str, str]], english: Sequence[str], fold: int, alphas: Sequence[float], vocab_size: int
) -> dict[str, Any]:
    shared = sorted(set.intersection(*map(set, texts.values())))
    held = [key for i, key in enumerate(shared) if i % SEEDS == fold]
    groups = {"en": [part for text in english for part in stretches(text)]}
    size = {"en": bytes_of(groups["en"])}
    groups["en"] += [key for key in shared if key not in set(held)]
    for name, found in texts.items():
        groups[name] = [text for key, text in found.items() if key not in set(held)]
        size[name] = bytes_of(groups[name])
    out: dict[str, Any] = {
        "messages": len(shared), "bytes": size, "shares": {}, "bytes per token": {}, "over English": {},
    }  # fmt: skip
    for alpha in alphas:
        mixed, key = mixture(groups, alpha=alpha), str(alpha)
        out["shares"][key] = {group.name: group.share for group in mixed.groups}
        tokenizer = train_tokenizer("bpe", list(mixed), vocab_size=vocab_size)
        asked = {"en": held, **{name: [found[key] for key in held] for name, found in texts.items()}}
        tokens = {name: sum(map(len, tokenizer.encode_batch(lines))) for name, lines in asked.items()}
        out["bytes per token"][key] = {name: bytes_of(lines) / tokens[name] for name, lines in asked.items()}
        out["over English"][key] = {name: tokens[name] / tokens["en"] for name in asked}
    return out


def by_language(seeds: Sequence[dict[str, Any]], what: str) -> dict[str, dict[str, list[float]]]:
    """`{alpha: {language: one value a fold}}`."""
    return {a: {n: [one[what][a][n] for one in seeds] for n in row} for a, row in seeds[0][what].items()}


def over_english(seeds: Sequence[dict[str, Any]], alpha: str, which: str) -> list[float]:
    """How much longer than English's the same messages are, in the language where it is least, or most."""
    pick = {"least": min, "most": max}[which]
    return [pick(v for name, v in one["over English"][alpha].items() if name != "en") - 1 for one in seeds]


def shortened(seeds: Sequence[dict[str, Any]], alpha: str) -> list[float]:
    """The relative change of that from alpha 1, in the language where it is least."""
    return [max(one["over English"][alpha][name] / v - 1 for name, v in one["over English"]["1.0"].items()
                if name != "en") for one in seeds]  # fmt: skip


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    last = seeds[-1]  # the shares that the last fold learned from
    head = ["alpha", *last["bytes"]]
    shares = [[alpha, *(f"{share:.1%}" for share in row.values())] for alpha, row in last["shares"].items()]
    rates, premium = (
        [[alpha, *map(with_interval, row.values())] for alpha, row in by_language(seeds, what).items()]
        for what in ("bytes per token", "over English")
    )
    return [
        Section("Fraction of each language in the text", [], [table(head, shares)]),
        Section("Bytes per token, held out", [], [table(head, rates)]),
        Section("Tokens for the same messages, as a multiple of English (1 would be fair)", [], [table(head, premium)]),
    ]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    last = seeds[-1]
    rates, premium = (
        {a: {n: mean(v) for n, v in row.items()} for a, row in by_language(seeds, what).items()}
        for what in ("bytes per token", "over English")
    )
    names = [name for name in last["bytes"] if name != "en"]
    longer, after = (sorted(premium[a][n] for n in names) for a in ("1.0", "0.3"))
    gains = sorted(rates["0.3"][n] / rates["1.0"][n] - 1 for n in names)
    low, high = (extreme(names, key=premium["0.3"].__getitem__) for extreme in (min, max))
    rises = all(rates[b][n] >= rates[a][n] for n in names for a, b in itertools.pairwise(rates))
    return {
        "vocabulary": VOCABULARY, "english": last["bytes"]["en"] / 1000, "messages": last["messages"],
        "sizes": ", ".join(f"{name} {last['bytes'][name] / 1000:,.0f} kB" for name in names), "folds": len(seeds),
        "longer": (longer[0], longer[-1]), "gains": (gains[0], gains[-1]), "after": (after[0], after[-1]),
        "rises": "rises" if rises else "does not always rise", "low": low, "high": high, "equal": premium["0.0"][high],
        "lost": [1 - rates[a]["en"] / rates["1.0"]["en"] for a in ("0.3", "0.0")],
    }  # fmt: skip
