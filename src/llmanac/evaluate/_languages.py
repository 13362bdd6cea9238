"""The language of a text, by its letters and by common words (`languages.toml`)."""

import functools
import re
from collections import Counter
from pathlib import Path
from typing import Any

from llmanac.core.files import read_toml

WORD = re.compile(r"[^\W\d_][\w\u0900-\u097F]*")  # marks of vowels belong to the word
SHARE_OF_KANA = 0.1  # of the letters: Japanese writes kana among Han characters
MOST = 20_000  # characters that are looked at


@functools.cache
def _tables() -> tuple[dict[str, re.Pattern[str]], dict[str, Any]]:
    found = read_toml(Path(__file__).with_name("languages.toml"))
    scripts = {name: "".join("-".join(rf"\U{end:>08}" for end in part.split("-")) for part in parts)
               for name, parts in found.pop("scripts").items()}  # fmt: skip
    return {name: re.compile(f"[{ranges}]") for name, ranges in scripts.items()}, found


def abbreviations() -> list[str]:
    """English ones after whose full stop a sentence goes on, without it."""
    return str(_tables()[1]["abbreviations"]["en"]).split()


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of a text's language; `und` where no word is known, None where there are no letters."""
    scripts, tables = _tables()
    text = text[:MOST].lower()
    letters = Counter({name: len(pattern.findall(text)) for name, pattern in scripts.items()})
    script, most = letters.most_common(1)[0]
    if not most:
        return None
    if script == "han" and letters["kana"] > SHARE_OF_KANA * most:
        script = "kana"
    if script in tables["one"]:
        return str(tables["one"][script])
    words = Counter(WORD.findall(text))
    scores = {code: sum(words[word] for word in set(known.split())) for code, known in tables[script].items()}
    best = max(scores, key=lambda code: scores[code])
    return best if scores[best] else "und"
