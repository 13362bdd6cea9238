"""Measure the claim of row tokenizer/sentencepiece and write its page: docs/evidence/sentencepiece/page.md, page.json.

    python tools/sentencepiece_evidence.py

The claim: language-agnostic, byte fallback for unseen characters. The text is real and offline: the names of countries,
languages, currencies and time units that Babel carries for 20 languages in fourteen scripts, one in five held out,
and the English of Python's own documentation strings. Nothing is set for a language; every model has 1500 ids.
"""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llmanac.core.files import write_json, write_text
from llmanac.tokenizers.load import train_tokenizer

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "evidence" / "sentencepiece"
LANGUAGES = (
    "en", "de", "fr", "tr", "vi", "ru", "uk", "el", "ka", "ar", "fa", "he", "hi", "bn", "ta", "th", "zh", "ja", "ko",
    "am",
)  # fmt: skip
SIZE = 1500


def lines_of(language: str) -> list[str]:
    """The texts that Babel has for a language, in a fixed order, without repeats."""
    import babel

    locale = babel.Locale(language)
    found: dict[str, None] = {}
    for table in (locale.territories, locale.languages, locale.scripts, locale.currencies, locale.variants):
        found |= dict.fromkeys(str(text) for text in table.values() if text)
    return list(found)


def english() -> list[str]:
    """The first lines of the documentation strings of the standard library's modules."""
    import ast
    import sysconfig

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


def measures(tokenizer: Any, lines: list[str]) -> dict[str, float]:
    """Of lines: tokens a character, bytes a token, share that comes back exactly, share of tokens that are unknown."""
    ids = [array.tolist() for array in tokenizer.encode_batch(lines)]
    tokens = sum(map(len, ids))
    exact = sum(tokenizer.decode(i) == line for i, line in zip(ids, lines, strict=True))
    unknown = sum(i.count(tokenizer.unknown) for i in ids)
    return {
        "tokens_per_character": tokens / sum(map(len, lines)),
        "bytes_per_token": sum(len(line.encode()) for line in lines) / tokens,
        "exact": exact / len(lines),
        "unknown": unknown / tokens,
    }


def measure() -> dict[str, Any]:
    """All figures of the page."""
    texts = {language: lines_of(language) for language in LANGUAGES}
    train = {name: [t for i, t in enumerate(lines) if i % 5] for name, lines in texts.items()}
    held = {name: lines[::5] for name, lines in texts.items()}
    joined = [line for lines in train.values() for line in lines]
    settings = {"vocab_size": SIZE, "special_tokens": ()}
    foreign = train_tokenizer("sentencepiece", english(), **settings)
    without = train_tokenizer("sentencepiece", english(), byte_fallback=False, **settings)
    together = train_tokenizer("sentencepiece", joined, **(settings | {"vocab_size": 8000}))
    rows: dict[str, Any] = {}
    for name in LANGUAGES:
        own = train_tokenizer("sentencepiece", train[name], **settings)
        rows[name] = {
            "lines": len(held[name]),
            "bytes_per_character": sum(len(t.encode()) for t in held[name]) / sum(map(len, held[name])),
            "own": measures(own, held[name]), "together": measures(together, held[name]),
            "english": measures(foreign, held[name]), "english_without_bytes": measures(without, held[name]),
        }  # fmt: skip
        print(name, {k: round(v["tokens_per_character"], 3) for k, v in rows[name].items() if isinstance(v, dict)})
    return {"python": platform.python_version(), "babel": version("babel"), "vocabulary": SIZE, "rows": rows}


def page(found: dict[str, Any]) -> str:
    """The page as Markdown."""
    rows = found["rows"]
    heads = [
        "language", "lines", "bytes/character", "own: tokens/character", "together", "English", "English: exact",
        "no bytes: exact", "no bytes: unknown tokens",
    ]  # fmt: skip
    table = [heads, ["---"] * len(heads)]
    for name, row in rows.items():
        rates = [row[key]["tokens_per_character"] for key in ("own", "together", "english")]
        without = row["english_without_bytes"]
        cells = [f"{value:.2f}" for value in (row["bytes_per_character"], *rates)]
        cells += [f"{value:.0%}" for value in (row["english"]["exact"], without["exact"], without["unknown"])]
        table.append([name, str(row["lines"]), *cells])
    own = [row["own"]["tokens_per_character"] for row in rows.values()]
    foreign = [row["english"]["tokens_per_character"] for name, row in rows.items() if name != "en"]
    exact = min(min(row[k]["exact"] for k in ("own", "together", "english")) for row in rows.values())
    lost = [row["english_without_bytes"]["exact"] for name, row in rows.items() if name != "en"]
    return f"""# SentencePiece: language-agnostic, byte fallback for unseen characters

`python tools/sentencepiece_evidence.py` (Python {found["python"]}, Babel {found["babel"]}; deterministic)

Real text of 20 languages in fourteen scripts: the names of countries, languages, scripts and currencies that Babel
carries, one in five held out. Unigram models of {found["vocabulary"]} ids with the defaults (identity, byte fallback);
nothing is set for a language. *Own*: learned from the language's other lines. *Together*: one model of 8000 ids for
all. *English*: learned from Python's documentation strings only, so most scripts are unseen. All figures are of
held-out lines.

{chr(10).join("| " + " | ".join(cells) + " |" for cells in table)}

**Byte fallback holds.** With it, {exact:.0%} of lines come back exactly for every language and model, also where not
one character was seen in learning. The same English model without byte fallback brings back {min(lost):.0%} to
{max(lost):.0%} of the lines of the other languages.

**Language-agnostic holds for coverage, not for cost.** The same code with the same settings learns each of the 20
languages, with and without spaces between words: {min(own):.2f} to {max(own):.2f} tokens a character on held-out
lines. But a model costs what it has seen: the English one needs {min(foreign):.2f} to {max(foreign):.2f} tokens a
character elsewhere, up to about its number of bytes, where a language's own model needs {min(own):.2f} to
{max(own):.2f}. And it is not free of all knowledge of writing: pieces may not cross a change of script, which the
trainer reads off Unicode's names.
"""


def main() -> int:
    found = measure()
    write_json(FOLDER / "page.json", found)
    write_text(FOLDER / "page.md", page(found))
    print(f"{FOLDER / 'page.md'}: written; next: python benchmarks/tokenizer.py --only unigram-encode")
    return 0


if __name__ == "__main__":
    sys.exit(main())
