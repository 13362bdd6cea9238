"""A vocabulary from a mixture of domains.

A byte-level BPE of {vocabulary:,} ids is trained on one domain (Python sources, English documentation, web templates
and scripts), on all three in equal parts, or on all in their natural proportions ({sizes}); the number of training
bytes is the same each time. Files are divided into {folds} parts, four are used for training and one for measuring, in
turn. Values are means over the parts, with 95% t intervals.

{each}

The effect depends on the pair: documentation and code lose {near[0]:.0%} and {near[1]:.0%} by each other's vocabulary
(docstrings are in both, held-out ones included, so they are more similar here than elsewhere); web loses and costs far
more. The natural mixture gives sequences as short as a domain's own vocabulary if there is more training text in total:
the mixture is the cheap solution.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from evidence._messages import bytes_of, documentation
from evidence._page import bullets, with_interval
from llmanac.core.pages import Section, table
from llmanac.lab.stats import mean
from llmanac.tokenizers.load import mixture, stretches, train_tokenizer

ROWS = ("tokenizer/domain-mixing",)
CLAIM = "different domains need different tokens"
SEEDS, REPLICATE, PACKAGES = 5, "fold", ("django",)

VOCABULARY = 8192


def measure(seed: int, size: str) -> dict[str, Any]:
    """Bytes a token of each domain, by what the vocabulary learned from; `seed` is the part held out."""
    if size == "small":
        made = {"words": "the cat sat on mat {}\n", "code": "for i_{0} in range({0}): x[{0}] += {0}\n"}
        return learned({k: [line.format(i) * (1 + i % 3) for i in range(40)] for k, line in made.items()}, seed, 300)
    return learned(texts(), seed, VOCABULARY)


def texts() -> dict[str, list[str]]:
    """The files of each domain."""
    import django

    library, root = Path(sysconfig.get_paths()["stdlib"]), Path(django.__file__).parent
    web = [p for suffix in ("html", "js", "css") for p in sorted(root.rglob(f"*.{suffix}")) if ".min." not in p.name]
    return {
        "code": [p.read_text("utf-8", errors="replace") for p in sorted(library.glob("*.py"))],
        "documentation": documentation(),
        "web": [p.read_text("utf-8") for p in web],
    }


def learned(found: Mapping[str, Sequence[str]], fold: int, vocab_size: int) -> dict[str, Any]:
    mixes: dict[str, dict[str, float] | None] = {name: {n: float(n == name) for n in found} for name in found}
    mixes |= {"equal": dict.fromkeys(found, 1.0), "as it is": None}
    groups = {
        name: [part for i, text in enumerate(lines) if i % SEEDS != fold for part in stretches(text)]
        for name, lines in found.items()
    }
    rates: dict[str, dict[str, float]] = {}
    for mix, weights in mixes.items():
        tokenizer = train_tokenizer("bpe", list(mixture(groups, weights=weights)), vocab_size=vocab_size)
        rates[mix] = {}
        for name, lines in found.items():
            held = [text for i, text in enumerate(lines) if i % SEEDS == fold]
            rates[mix][name] = bytes_of(held) / sum(map(len, tokenizer.encode_batch(held)))
    return {"bytes": {name: bytes_of(lines) for name, lines in found.items()}, "bytes per token": rates}


def by_mix(seeds: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """`{mixture: {domain: bytes per token, one a fold}}`."""
    found = [one["bytes per token"] for one in seeds]
    return {mix: {n: [one[mix][n] for one in found] for n in row} for mix, row in found[0].items()}


def own_against_others(seeds: Sequence[dict[str, Any]]) -> list[float]:
    """How many more bytes a token a domain has by its own vocabulary than by another's: the least of all pairs."""
    return [min(own[a][a] / own[b][a] - 1 for a, b in permutations(one["bytes"], 2))
            for one in seeds for own in [one["bytes per token"]]]  # fmt: skip


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    rows = [[mix, *map(with_interval, row.values())] for mix, row in by_mix(seeds).items()]
    return [Section("Bytes per token, held out", [], [table(["vocabulary learned from", *seeds[-1]["bytes"]], rows)])]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    sizes = seeds[-1]["bytes"]
    means = {mix: {n: mean(values) for n, values in row.items()} for mix, row in by_mix(seeds).items()}
    lost = {(n, mix): 1 - row[n] / means[n][n] for mix, row in means.items() for n in sizes}
    worst = {n: max((mix for mix in sizes if mix != n), key=lambda mix, n=n: lost[n, mix]) for n in sizes}
    each = [
        f"{n}: its own vocabulary gives {means[n][n]:.2f} bytes a token; {worst[n]}'s loses {lost[n, worst[n]]:.0%} of "
        f"that, the equal mixture {lost[n, 'equal']:.0%}."
        for n in sizes
    ]
    return {
        "vocabulary": VOCABULARY, "sizes": ", ".join(f"{n} {size / 1000:,.0f} kB" for n, size in sizes.items()),
        "folds": len(seeds), "each": bullets(each),
        "near": (lost["documentation", "code"], lost["code", "documentation"]),
    }  # fmt: skip
