"""Upsampling of under-represented languages.

Each language's messages are divided in five; four parts are learned from and one is measured, in turn. What a language
costs is told by messages that exist in all six languages: tokens of the same messages, over those of English.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from evidence._messages import documentation, messages
from evidence._page import bullets, with_interval
from llmanac.lab.report import Section, table
from llmanac.lab.stats import mean
from llmanac.tokenizers.load import mixture, stretches, train_tokenizer

ROWS = ("tokenizer/upsampling",)
CLAIM = "under-represented languages get longer sequences; upsampling mends it"
SEEDS, REPLICATE, PACKAGES = 5, "fold", ("django",)

LANGUAGES = ("de", "fi", "ru", "hi", "ja")
ALPHAS = (1.0, 0.7, 0.5, 0.3, 0.0)
VOCABULARY = 8192


def measure(seed: int, size: str) -> dict[str, Any]:
    """Shares, bytes a token and tokens over English's, by alpha and language, of one part held out."""
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
        "messages": len(shared),
        "bytes": size,
        "shares": {},
        "bytes per token": {},
        "over English": {},
    }
    for alpha in alphas:
        mixed, key = mixture(groups, alpha=alpha), str(alpha)
        out["shares"][key] = {group.name: group.share for group in mixed.groups}
        tokenizer = train_tokenizer("bpe", list(mixed), vocab_size=vocab_size)
        asked = {"en": held, **{name: [found[key] for key in held] for name, found in texts.items()}}
        tokens = {name: sum(map(len, tokenizer.encode_batch(lines))) for name, lines in asked.items()}
        out["bytes per token"][key] = {name: bytes_of(lines) / tokens[name] for name, lines in asked.items()}
        out["over English"][key] = {name: tokens[name] / tokens["en"] for name in asked}
    return out


def bytes_of(texts: Sequence[str]) -> int:
    return sum(len(text.encode("utf-8")) for text in texts)


def by_language(seeds: Sequence[dict[str, Any]], what: str) -> dict[str, dict[str, list[float]]]:
    """`{alpha: {language: one value a fold}}`."""
    return {a: {n: [one[what][a][n] for one in seeds] for n in row} for a, row in seeds[0][what].items()}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    last = seeds[-1]  # of the texts, the sizes that the last fold learned from
    rates, premium = by_language(seeds, "bytes per token"), by_language(seeds, "over English")
    head = ["alpha", *last["bytes"]]
    sizes = ", ".join(f"{name} {size / 1000:,.0f} kB" for name, size in last["bytes"].items() if name != "en")
    shares = [[alpha, *(f"{share:.1%}" for share in row.values())] for alpha, row in last["shares"].items()]
    return [
        Section(
            "",
            [
                f"A byte-level BPE of {VOCABULARY:,} ids learns from English documentation "
                f"({last['bytes']['en'] / 1000:,.0f} kB) and the interface messages of five languages ({sizes}). "
                f"{last['messages']} messages exist in all six; they are divided in {len(seeds)}, four parts are "
                "learned from and one is measured, in turn. Values are means over the parts, with 95% t intervals.",
                bullets(findings(rates, premium)),
            ],
        ),
        Section(
            "Share of each language in the text",
            ["p^alpha / sum p^alpha; the reference test has that they are exact."],
            [table(head, shares)],
        ),
        Section(
            "Bytes per token, held out",
            [],
            [table(head, [[alpha, *map(with_interval, row.values())] for alpha, row in rates.items()])],
        ),
        Section(
            "Tokens for the same messages, as a multiple of English",
            ["The text says the same, so 1 would be fair."],
            [table(head, [[alpha, *map(with_interval, row.values())] for alpha, row in premium.items()])],
        ),
    ]


def findings(rates: Mapping[str, Any], premium: Mapping[str, Any]) -> list[str]:
    names = [name for name in rates["1.0"] if name != "en"]
    longer, after, equal = ({n: mean(premium[a][n]) for n in names} for a in ("1.0", "0.3", "0.0"))
    gains = [mean(rates["0.3"][n]) / mean(rates["1.0"][n]) - 1 for n in names]
    lost = {a: 1 - mean(rates[a]["en"]) / mean(rates["1.0"]["en"]) for a in ("0.3", "0.0")}
    rises = all(mean(rates[b][n]) >= mean(rates[a][n]) for n in names for a, b in itertools.pairwise(rates))
    low, high = min(after, key=after.__getitem__), max(after, key=after.__getitem__)
    return [
        f"Longer sequences: as the text is, the same messages take {min(longer.values()):.2f} to "
        f"{max(longer.values()):.2f} times the tokens that English takes.",
        f"Upsampling with alpha 0.3 raises their bytes per token by {min(gains):.0%} to {max(gains):.0%}; what is left "
        f"is {after[low]:.2f} to {after[high]:.2f} times English's tokens.",
        f"It {'rises' if rises else 'does not rise'} with every step from alpha 1 to 0 in "
        f"{'every language' if rises else 'all languages'}, as the shares predict.",
        f"It is not free: English loses {lost['0.3']:.1%} of its bytes per token at alpha 0.3 and {lost['0.0']:.1%} at "
        "0.",
        f"So whether it mends depends on the language: at alpha 0.3 {low} is at {after[low]:.2f}, {high} still at "
        f"{after[high]:.2f} of English, and at {equal[high]:.2f} even with equal shares. There is much less text to "
        "learn it from, which counting the same text more often does not change.",
    ]
