"""Measure what the choice of a vocabulary's text, and of its segmentation, does; pages under docs/evidence/.

python tools/vocabulary_evidence.py upsampling      languages with little text, before and after upsampling (a minute)
python tools/vocabulary_evidence.py domains         bytes per token of each domain under different mixtures (a minute)
python tools/vocabulary_evidence.py dropout         models trained on fixed and on sampled segmentations (minutes)

The text is what Python and the test dependency Django bring along: the standard library's sources, the documentation in
it, Django's message catalogues, templates and scripts.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import platform
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gettext_catalogues

from llmanac.core.files import write_json, write_text
from llmanac.core.spec import make_method
from llmanac.data.collect import collect
from llmanac.lab.stats import interval, mean
from llmanac.tokenizers._sampled import Sampled
from llmanac.tokenizers.load import mixture, stretches, train_tokenizer

EVIDENCE = Path(__file__).resolve().parent.parent / "docs" / "evidence"
FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=["upsampling", "domains", "dropout"])
    parser.add_argument("--seeds", type=int, default=3, help="of the models that dropout trains")
    parser.add_argument("--steps", type=int, default=1000, help="of each of them")
    given = parser.parse_args()
    for name in given.names:
        if name == "dropout":
            dropout(range(given.seeds), given.steps)
        else:
            {"upsampling": upsampling, "domains": domains}[name]()


# ------------------------------------------------------------------------------------------------ languages
LANGUAGES = ("de", "fi", "ru", "hi", "ja")
ALPHAS = (1.0, 0.7, 0.5, 0.3, 0.0)


def documentation() -> list[str]:
    """English: the help topics and docstrings of the standard library."""
    source = make_method("source", {"name": "python-docs"})
    return [document.text for document in collect(source, held_out=0.05).train]


def upsampling(vocab_size: int = 8192) -> None:
    """Each language's messages are divided in five; four parts are trained on, one is measured, in turn."""
    english = [part for text in documentation() for part in stretches(text)]
    shared = sorted(set.intersection(*(set(gettext_catalogues.messages(name)) for name in LANGUAGES)))
    rows: dict[str, dict[str, list[float]]] = {str(alpha): {} for alpha in ALPHAS}
    premium: dict[str, dict[str, list[float]]] = {str(alpha): {} for alpha in ALPHAS}
    shares: dict[str, dict[str, float]] = {}
    for fold in range(FOLDS):
        held = [key for i, key in enumerate(shared) if i % FOLDS == fold]
        groups: dict[str, list[str]] = {"en": [*english, *(key for key in shared if key not in set(held))]}
        for name in LANGUAGES:
            groups[name] = [text for key, text in gettext_catalogues.messages(name).items() if key not in set(held)]
        for alpha in ALPHAS:
            mixed = mixture(groups, alpha=alpha)
            shares[str(alpha)] = {group.name: group.share for group in mixed.groups}
            tokenizer = train_tokenizer("bpe", list(mixed), vocab_size=vocab_size)
            in_english = sum(map(len, tokenizer.encode_batch(held)))
            for name in ("en", *LANGUAGES):
                texts = held if name == "en" else [gettext_catalogues.messages(name)[key] for key in held]
                tokens = sum(map(len, tokenizer.encode_batch(texts)))
                size = sum(len(text.encode("utf-8")) for text in texts)
                rows[str(alpha)].setdefault(name, []).append(size / tokens)
                premium[str(alpha)].setdefault(name, []).append(tokens / in_english)
    head = ["alpha", "en", *LANGUAGES]
    lines = [
        "# Upsampling of under-represented languages",
        "",
        "    python tools/vocabulary_evidence.py upsampling",
        "",
        _versions("django"),
        "",
        f"A byte-level BPE of {vocab_size:,} ids learns from English documentation ({_kilobytes(english)} kB) and the "
        f"interface messages of five languages ({', '.join(f'{n} {_kilobytes(groups[n])} kB' for n in LANGUAGES)}). "
        f"{len(shared)} messages exist in all six; they are divided in {FOLDS}, four parts are learned from and one is "
        "measured, in turn. Values are means over the parts, with 95 % t intervals.",
        "",
        "Share of each language in the text that is learned from, p^alpha / sum p^alpha (exact, see the test):",
        "",
        *_table(head, [[alpha, *(f"{share:.1%}" for share in found.values())] for alpha, found in shares.items()]),
        "",
        "Bytes per token, held out:",
        "",
        *_table(head, [[alpha, *map(_with_interval, found.values())] for alpha, found in rows.items()]),
        "",
        "Tokens for the same messages, as a multiple of English (the text says the same, so 1 would be fair):",
        "",
        *_table(head, [[alpha, *map(_with_interval, found.values())] for alpha, found in premium.items()]),
        "",
        *_upsampling_words(rows, premium),
    ]
    _write("upsampling", lines, {"bytes_per_token": rows, "tokens_over_english": premium, "shares": shares})


def _upsampling_words(rows: Mapping[str, Any], premium: Mapping[str, Any]) -> list[str]:
    as_is, mended, equal = rows["1.0"], rows["0.3"], rows["0.0"]
    longer = {n: mean(premium["1.0"][n]) for n in LANGUAGES}
    gains = {n: mean(mended[n]) / mean(as_is[n]) - 1 for n in LANGUAGES}
    lost = {name: mean(found["en"]) / mean(as_is["en"]) - 1 for name, found in (("0.3", mended), ("0", equal))}
    monotone = all(
        mean(rows[str(b)][n]) >= mean(rows[str(a)][n]) for n in LANGUAGES for a, b in itertools.pairwise(ALPHAS)
    )
    after = {n: mean(premium["0.3"][n]) for n in LANGUAGES}
    low, high = min(after, key=after.__getitem__), max(after, key=after.__getitem__)
    return [
        "The claim: under-represented languages get longer sequences; upsampling mends it.",
        "",
        f"- Longer sequences: as the text is, the same messages take {min(longer.values()):.2f} to "
        f"{max(longer.values()):.2f} times the tokens that English takes.",
        f"- Upsampling with alpha 0.3 raises their bytes per token by {min(gains.values()):.0%} to "
        f"{max(gains.values()):.0%}; what is left is {min(after.values()):.2f} to {max(after.values()):.2f} times "
        "English's tokens.",
        f"- It {'rises' if monotone else 'does not rise'} with every step from alpha 1 to 0 in "
        f"{'every language' if monotone else 'all languages'}, as the shares predict.",
        f"- It is not free: English loses {-lost['0.3']:.1%} of its bytes per token at alpha 0.3 and {-lost['0']:.1%} "
        "at 0.",
        f"- So whether it mends depends on the language: at alpha 0.3 {low} is at {after[low]:.2f}, {high} still at "
        f"{after[high]:.2f} of English, and at {mean(premium['0.0'][high]):.2f} even with equal shares. There is much "
        "less text to learn it from, which counting the same text more often does not change.",
    ]


# ------------------------------------------------------------------------------------------------ domains
def domain_texts() -> dict[str, list[str]]:
    """Three kinds of text: Python sources, English documentation, web templates and scripts; a list of files each."""
    import django

    library = Path(sysconfig.get_paths()["stdlib"])
    root = Path(django.__file__).parent
    web = [p for suffix in ("html", "js", "css") for p in sorted(root.rglob(f"*.{suffix}")) if ".min." not in p.name]
    return {
        "code": [p.read_text("utf-8", errors="replace") for p in sorted(library.glob("*.py"))],
        "documentation": documentation(),
        "web": [p.read_text("utf-8") for p in web],
    }


def domains(vocab_size: int = 8192) -> None:
    """Files are divided in five; four parts are learned from and one is measured, in turn."""
    found = domain_texts()
    names = list(found)
    mixes: dict[str, dict[str, float] | None] = {name: {n: float(n == name) for n in names} for name in names}
    mixes |= {"equal": dict.fromkeys(names, 1.0), "as it is": None}
    rows: dict[str, dict[str, list[float]]] = {mix: {name: [] for name in names} for mix in mixes}
    for fold in range(FOLDS):
        held = {name: [text for i, text in enumerate(texts) if i % FOLDS == fold] for name, texts in found.items()}
        groups = {
            name: [part for i, text in enumerate(texts) if i % FOLDS != fold for part in stretches(text)]
            for name, texts in found.items()
        }
        for mix, weights in mixes.items():
            tokenizer = train_tokenizer("bpe", list(mixture(groups, weights=weights)), vocab_size=vocab_size)
            for name, texts in held.items():
                tokens = sum(map(len, tokenizer.encode_batch(texts)))
                rows[mix][name].append(sum(len(text.encode("utf-8")) for text in texts) / tokens)
    head = ["vocabulary learned from", *names]
    losses = {n: 1 - mean(rows[other][n]) / mean(rows[n][n]) for n in names for other in [_worst(rows, n)]}
    pair = (("documentation", "code"), ("code", "documentation"))
    near = [1 - mean(rows[other][own]) / mean(rows[own][own]) for other, own in pair]
    shared = {n: 1 - mean(rows["equal"][n]) / mean(rows[n][n]) for n in names}
    lines = [
        "# A vocabulary from a mixture of domains",
        "",
        "    python tools/vocabulary_evidence.py domains",
        "",
        _versions("django"),
        "",
        f"A byte-level BPE of {vocab_size:,} ids learns from one domain, from all three in equal parts, or from all as "
        f"they come ({', '.join(f'{n} {_kilobytes(texts)} kB' for n, texts in found.items())}); the number of bytes "
        f"learned from is the same each time. Files are divided in {FOLDS}, four parts are learned from and one is "
        "measured, in turn. Values are means over the parts, with 95 % t intervals.",
        "",
        "Bytes per token, held out:",
        "",
        *_table(head, [[mix, *map(_with_interval, values.values())] for mix, values in rows.items()]),
        "",
        "The claim: different domains need different tokens.",
        "",
        *(
            f"- {n}: its own vocabulary gives {mean(rows[n][n]):.2f} bytes a token; {_worst(rows, n)}'s loses "
            f"{losses[n]:.0%} of that, the equal mixture {shared[n]:.0%}."
            for n in names
        ),
        "",
        f"How much it matters depends on the pair: code and documentation lose {near[0]:.0%} and {near[1]:.0%} by each "
        "other's vocabulary (docstrings are in both, held-out ones included, so they are nearer here than elsewhere); "
        "web loses and costs far more. All three as they come give as short sequences as a domain's own vocabulary "
        "wherever there is more text to learn from in all: the mixture is the cheap way out.",
    ]
    _write("domain_mixing", lines, {"bytes_per_token": rows})


def _worst(rows: Mapping[str, Mapping[str, Sequence[float]]], name: str) -> str:
    return min((other for other in rows if other in rows[name] and other != name), key=lambda o: mean(rows[o][name]))


# ------------------------------------------------------------------------------------------------ BPE-dropout
DROPPED = (0.0, 0.1, 0.3, 0.5)
TRAINED_WITH = 0.1
SMALLER = {
    "model.dim": 64, "model.layers": 2, "model.max_length": 128,
    "train.length": 128, "train.batch_tokens": 1024, "train.dtype": "float32", "train.attention": "sdpa",
}  # fmt: skip
PASSES = 4  # sampled encodings of the training text, one after the other


def dropout(seeds: Sequence[int], steps: int) -> None:
    """The same model, text and number of steps; one arm reads `encode`, the other a new segmentation each pass."""
    import dataclasses

    from llmanac.data.pack import PackedStream
    from llmanac.data.tokens import TokenDataset
    from llmanac.evaluate.bits_per_byte import score_texts
    from llmanac.lab.compare import BASE
    from llmanac.recipes.spec import load_recipe
    from llmanac.train.loop import train

    recipe = load_recipe(str(BASE), SMALLER).spec
    corpus = collect(recipe.data.source, held_out=recipe.data.held_out, seed=0)
    tokenizer = recipe.tokenizer.train(corpus.train.texts())
    held = [text for text in corpus.held_out.texts() if len(text) < 20_000][:60]
    training = list(corpus.train.texts())
    spec = dataclasses.replace(recipe.train, steps=steps, checkpoint_every=steps, keep=1)
    found: dict[str, dict[str, list[float]]] = {}
    tokens: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as work:
        for arm, p in (("fixed", 0.0), ("sampled", TRAINED_WITH)):
            read_as = Sampled(tokenizer, seed=10_000_001, dropout=p) if p else tokenizer
            texts = training * PASSES if p else training
            dataset = TokenDataset.write(Path(work) / arm / "tokens", texts, read_as)
            tokens[arm] = len(dataset)
            for seed in seeds:
                model = recipe.model.build(vocab_size=tokenizer.vocab_size).initialise(seed)
                stream = PackedStream(dataset, length=spec.length, rows=spec.rows, seed=seed)
                objective = recipe.objective.build(tokenizer=tokenizer)
                train(model, stream, objective, spec, Path(work) / arm / str(seed), seed=seed, label=f"{arm} {seed}")
                model.eval()
                for q in DROPPED:
                    reader = Sampled(tokenizer, seed=78, dropout=q) if q else tokenizer
                    score = score_texts(model, reader, held, window=spec.length)
                    found.setdefault(arm, {}).setdefault(str(q), []).append(score.bits_per_byte)
                print(arm, seed, {q: values[-1] for q, values in found[arm].items()}, flush=True)
    size = sum(len(text.encode("utf-8")) for text in held)
    differences = {
        q: [b - a for a, b in zip(found["fixed"][q], found["sampled"][q], strict=True)] for q in found["fixed"]
    }
    head = ["bits per byte, segmentations drawn with p", *(f"{q:g}" for q in DROPPED)]
    lines = [
        "# BPE-dropout: a model trained on several segmentations",
        "",
        f"    python tools/vocabulary_evidence.py dropout --seeds {len(seeds)} --steps {steps}",
        "",
        _versions("torch"),
        "",
        f"The base recipe of `llmanac compare`, made smaller ({recipe.model.layers} layers of dimension "
        f"{recipe.model.dim}, BPE of {tokenizer.vocab_size} ids, text from the standard library), {steps} steps of "
        f"{spec.batch_tokens} tokens. `fixed` reads the one segmentation of BPE, `sampled` {PASSES} passes over the "
        f"text with p = {TRAINED_WITH}, each document cut anew. Both are scored on {len(held)} held-out documents "
        f"({size:,} bytes), cut by BPE (p = 0) and perturbed. Values are means over {len(seeds)} seeds, with the 95 % "
        "t interval; differences are paired by seed.",
        "",
        *_table(head, [[arm, *map(_with_interval, values.values())] for arm, values in found.items()]),
        *_table([], [["sampled - fixed", *map(_with_interval, differences.values())]])[2:],
        "",
        "The claim: training on multiple segmentations makes the model robust to them.",
        "",
        *_dropout_words(found, differences),
        "",
        f"A sampled segmentation is longer ({tokens['sampled'] / PASSES / tokens['fixed']:.2f} times the tokens), so "
        "at equal tokens the sampled arm has read less text. Bits of a sampled segmentation bound the text's from "
        "above: they pay for the choice of the segmentation too.",
    ]
    _write("bpe_dropout", lines, {"bits_per_byte": found, "differences": differences, "steps": steps})


def _dropout_words(found: Mapping[str, Any], differences: Mapping[str, Sequence[float]]) -> list[str]:
    rise = {arm: mean(values["0.3"]) - mean(values["0.0"]) for arm, values in found.items()}
    low, high = interval(differences["0.0"])
    plain = "worse" if low > 0 else "better" if high < 0 else "not clearly different"
    low, high = interval(differences["0.3"])
    robust = "better" if high < 0 else "worse" if low > 0 else "not clearly different"
    return [
        f"- At p = 0.3 the fixed arm needs {rise['fixed']:.3f} bits per byte more than on the text as BPE cuts it, the "
        f"sampled arm {rise['sampled']:.3f} more.",
        f"- On perturbed text (p = 0.3) the sampled arm is {robust} ({mean(differences['0.3']):+.3f} bits per byte).",
        f"- On the text as BPE cuts it, it is {plain} ({mean(differences['0.0']):+.3f} bits per byte): robustness has "
        + ("a price here." if plain == "worse" else "no clear price here."),
    ]


# ------------------------------------------------------------------------------------------------ pages
def _kilobytes(texts: Sequence[str]) -> str:
    return f"{sum(len(text.encode('utf-8')) for text in texts) / 1000:,.0f}"


def _versions(*packages: str) -> str:
    found = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return f"Python {platform.python_version()}, {found}."


def _with_interval(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{mean(values):.3f}"
    low, high = interval(values)
    return f"{mean(values):.3f} ± {(high - low) / 2:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(row) + " |" for row in rows)]


def _write(name: str, lines: Sequence[str], data: Mapping[str, Any]) -> None:
    folder = EVIDENCE / name
    write_json(folder / "result.json", dict(data))
    write_text(folder / "page.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
