"""SentencePiece: language-agnostic, byte fallback for unseen characters.

Real text of {languages} languages in fourteen scripts: the names of countries, languages, scripts and currencies in
Babel, one in five held out. Unigram models of {vocabulary} ids with the defaults (identity, byte fallback); nothing is
set for a language. *Own*: trained on the language's other lines. *Together*: one model of {together} ids for all.
*English*: trained on Python's documentation strings only, so most scripts are unseen. All figures are for held-out
lines; there is no randomness.

**Byte fallback {holds}.** With it, {exact:.0%} of lines are restored exactly for every language and model, also if no
character was seen in training. The same English model without byte fallback restores {lost[0]:.0%} to {lost[1]:.0%} of
the lines of the other languages.

**Language-agnostic holds for coverage, not for cost.** The same code with the same settings learns each of the
languages, with and without spaces between words: {own[0]:.2f} to {own[1]:.2f} tokens a character on held-out lines. But
the cost depends on the training text: the English model needs {foreign[0]:.2f} to {foreign[1]:.2f} tokens a character
elsewhere, up to about the number of bytes. And it does use some knowledge of writing: pieces may not cross a change of
script, which the trainer reads from Unicode's names.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core.pages import Section, table
from llmanac.tokenizers.load import train_tokenizer

ROWS = ("tokenizer/sentencepiece",)
CLAIM = "language-agnostic, byte fallback for unseen characters"
SEEDS, PACKAGES = 1, ("babel",)  # nothing is drawn

LANGUAGES = (
    "en", "de", "fr", "tr", "vi", "ru", "uk", "el", "ka", "ar", "fa", "he", "hi", "bn", "ta", "th", "zh", "ja", "ko",
    "am",
)  # fmt: skip
VOCABULARY, TOGETHER = 1500, 8000


def measure(seed: int, size: str) -> dict[str, Any]:
    """Rates of each language under a model of its own, one of all languages, and English ones with and without "
    "bytes."""
    if size == "small":
        vowels = {"la": "aeiou", "el": "αεηιο"}
        texts = {
            name: [f"{a}{v}{b} {b}{w}{a}" for a in letters for b in letters[::-1] for v in v_[:3] for w in v_[2:]]
            for (name, v_), letters in zip(vowels.items(), ("bdklm", "βδκλμ"), strict=True)
        }
        return compared(texts, texts["la"], 290, 300)
    return compared({language: names_in(language) for language in LANGUAGES}, english(), VOCABULARY, TOGETHER)


def names_in(language: str) -> list[str]:
    """The texts that Babel has for a language, in a fixed order, without repeats."""
    import babel

    locale = babel.Locale(language)
    found: dict[str, None] = {}
    for names in (locale.territories, locale.languages, locale.scripts, locale.currencies, locale.variants):
        found |= dict.fromkeys(str(text) for text in names.values() if text)
    return list(found)


def english() -> list[str]:
    """The lines of the documentation strings of the standard library's modules."""
    out: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        try:
            tree = ast.parse(path.read_text("utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)):
                out += (ast.get_docstring(node) or "").split("\n")
    return [line for line in out if line.strip()]


def compared(
    texts: Mapping[str, Sequence[str]], english: Sequence[str], vocab_size: int, together: int
) -> dict[str, Any]:
    train = {name: [text for i, text in enumerate(lines) if i % 5] for name, lines in texts.items()}

    def learn(lines: Sequence[str], size: int = vocab_size, **choices: Any) -> Any:
        return train_tokenizer("sentencepiece", lines, vocab_size=size, special_tokens=(), **choices)

    models = {
        "together": learn([line for lines in train.values() for line in lines], together),
        "english": learn(english),
        "english without bytes": learn(english, byte_fallback=False),
    }
    rows: dict[str, Any] = {}
    for name, lines in texts.items():
        held = list(lines[::5])
        rates = {key: rates_of(model, held) for key, model in {"own": learn(train[name]), **models}.items()}
        size = sum(len(text.encode()) for text in held) / sum(map(len, held))
        rows[name] = {"lines": len(held), "bytes per character": size, **rates}
    return rows


def rates_of(tokenizer: Any, lines: Sequence[str]) -> dict[str, float]:
    """Tokens a character, share of lines that come back exactly, share of tokens that are unknown."""
    ids = [array.tolist() for array in tokenizer.encode_batch(lines)]
    tokens = sum(map(len, ids))
    return {
        "tokens per character": tokens / sum(map(len, lines)),
        "exact": sum(tokenizer.decode(i) == line for i, line in zip(ids, lines, strict=True)) / len(lines),
        "unknown": sum(i.count(tokenizer.unknown) for i in ids) / tokens,
    }


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    (found,) = seeds
    rows = []
    for name, row in found.items():
        rates = [row[key]["tokens per character"] for key in ("own", "together", "english")]
        without = row["english without bytes"]
        shares = (row["english"]["exact"], without["exact"], without["unknown"])
        numbers = [f"{value:.2f}" for value in (row["bytes per character"], *rates)]
        rows.append([name, str(row["lines"]), *numbers, *(f"{value:.0%}" for value in shares)])
    head = [
        "language", "lines", "bytes/character", "own: tokens/character", "together", "English", "English: exact",
        "no bytes: exact", "no bytes: unknown tokens",
    ]  # fmt: skip
    return [Section("By language", [], [table(head, rows)])]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (found,) = seeds
    others = [row for name, row in found.items() if name != "en"]
    exact = min(row[key]["exact"] for row in found.values() for key in ("own", "together", "english"))
    spans = {
        "own": [row["own"]["tokens per character"] for row in found.values()],
        "foreign": [row["english"]["tokens per character"] for row in others],
        "lost": [row["english without bytes"]["exact"] for row in others],
    }
    return {
        "languages": len(found), "vocabulary": VOCABULARY, "together": TOGETHER, "exact": exact,
        "holds": "holds" if exact == 1 > max(spans["lost"]) else "does not hold",
        **{name: (min(values), max(values)) for name, values in spans.items()},
    }  # fmt: skip
