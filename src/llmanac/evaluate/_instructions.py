"""IFEval's 25 kinds of instructions that a program can verify: whether an answer follows each of them.

strict: the answer as it is. loose: also without its first or last line, and without asterisks; one of these is enough.

The rules are those of the published
checkers (Zhou et al. 2023, arXiv:2311.07911). Sentences and languages are told by the project's own means, which agree
with theirs on plain text only; a letter that is none (`#`) is counted, where they draw another one.

The language of a text, by its letters and by common words (`languages.toml`).
"""

import functools
import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import regex

from llmanac.core.errors import DataError, nearest, shown
from llmanac.core.files import read_toml
from llmanac.evaluate._jinja import SECONDS

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


RELATIONS = {"less than": operator.lt, "at least": operator.ge}
OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
TEXTS = (
    "keywords",
    "forbidden_words",
)  # fields that are lists of texts; num_..., ..._frequency and nth_... are numbers
PATTERNS = ("keyword", "section_spliter", "postscript_marker")  # texts that are regular expressions
_END = regex.compile(r"[.?!]+[\"'”’)\]]*(?=[\s*:;@({\[}]|\Z)")
_LOWER = regex.compile(r"\s+\p{Ll}")
_CLITIC = regex.compile(r"(?<=[^' ])(N'T|'LL|'RE|'VE|'S|'M|'D)(?!\w)")
_APART = regex.compile(r"[\]\[(){}<>;@#$%&?!\"“”‘’…*]|[,:](?=\D|$)|--|\.(?=\s|$)")


def _found(pattern: str, text: str, flags: int = regex.IGNORECASE) -> list[Any]:
    """Matches of a pattern, which comes with the data; none where it takes too long."""
    try:
        return regex.findall(pattern, text, flags, timeout=SECONDS)
    except TimeoutError:
        return []


def _sentences(text: str) -> int:
    """Ends of sentences, and a rest without one. None is after an abbreviation, or where lower case follows on dots."""
    count, start = 0, 0
    for match in _END.finditer(text):
        before = text[start : match.start()].split()
        word = before[-1].lower().lstrip("(\"'") if before else ""
        short = word in abbreviations() or (len(word) == 1 and word.isalpha() and word != "i")
        goes_on = (word.isdecimal() or ".." in match[0]) and _LOWER.match(text, match.end())
        if match[0].strip(".") == "" and ((short and match[0] == ".") or goes_on):
            continue
        count, start = count + 1, match.end()
    return count + bool(text[start:].strip())


def _pieces(parts: Sequence[str]) -> int:
    """Parts that are not empty; none where one between others is."""
    empty = [not part.strip() for part in parts]
    return 0 if any(empty[1:-1]) else len(parts) - (empty[0] + empty[-1] if len(parts) > 1 else empty[0])


def _json(text: str) -> bool:
    text = regex.sub(r"\A```(?:json|Json|JSON)?", "", text.strip())
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = text.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if nth_paragraph > count or not (words := parts[nth_paragraph - 1].split()):
        return False
    word = regex.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"').lower())[0]
    return bool(count == num_paragraphs and word == first_word.lower())


def _bullets(text: str) -> int:
    return sum(len(_found(pattern, text, regex.MULTILINE)) for pattern in (r"^\s*\*[^*].*$", r"^\s*-.*$"))


def _highlights(text: str) -> int:
    one, two = _found(r"\*[^\n*]*\*", text), _found(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(part.strip("*").strip()) for part in one) + sum(bool(part[2:-2].strip()) for part in two)


def _postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    pattern = {"P.P.S": r"p\.\s?p\.\s?s.*$", "P.S.": r"p\.\s?s\..*$"}.get(marker, marker.lower() + r".*$")
    return bool(_found(r"\s*" + pattern, text.lower(), regex.MULTILINE))


def _two(text: str) -> bool:
    parts = text.split("******")
    kept = [part.strip() for part in parts if part.strip()]
    return _pieces(parts) == 2 and len(set(kept)) == 2


def _bare(text: str) -> str:
    return text.strip().lower()


# of each kind its fields, and a function of the text and of them
KINDS: dict[str, tuple[str, Callable[..., bool]]] = {
    "keywords:existence": ("keywords", lambda text, words: all(_found(word, text) for word in words)),
    "keywords:frequency": ("keyword frequency relation", lambda text, word, n, how: RELATIONS[how](
        len(_found(word.strip(), text)), n)),
    "keywords:forbidden_words": ("forbidden_words", lambda text, words: not any(
        _found(rf"\b{word}\b", text) for word in words)),
    "keywords:letter_frequency": ("letter let_frequency let_relation", lambda text, letter, n, how: RELATIONS[how](
        text.lower().count(letter.strip().lower()), n)),
    "language:response_language": ("language", lambda text, code: language_of(text) in (code[:2].lower(), None)),
    "length_constraints:number_sentences": ("num_sentences relation", lambda text, n, how: RELATIONS[how](
        _sentences(text), n)),
    "length_constraints:number_paragraphs": ("num_paragraphs", lambda text, n: (
        _pieces(regex.split(r"\s?\*\*\*\s?", text)) == n)),
    "length_constraints:number_words": ("num_words relation", lambda text, n, how: RELATIONS[how](
        len(regex.findall(r"\w+", text)), n)),
    "length_constraints:nth_paragraph_first_word": ("num_paragraphs nth_paragraph first_word", _first_word),
    "detectable_content:number_placeholders": ("num_placeholders", lambda text, n: len(_found(r"\[.*?\]", text)) >= n),
    "detectable_content:postscript": ("postscript_marker", _postscript),
    "detectable_format:number_bullet_lists": ("num_bullets", lambda text, n: _bullets(text) == n),
    "detectable_format:constrained_response": ("", lambda text: any(one in text for one in OPTIONS)),
    "detectable_format:number_highlighted_sections": ("num_highlights", lambda text, n: _highlights(text) >= n),
    "detectable_format:multiple_sections": ("section_spliter num_sections", lambda text, mark, n: (
        len(_found(rf"\s?{mark.strip()}\s?\d+\s?", text, 0)) >= n)),
    "detectable_format:json_format": ("", _json),
    "detectable_format:title": ("", lambda text: any(
        one.lstrip("<").rstrip(">").strip() for one in _found(r"<<[^\n]+>>", text))),
    "combination:two_responses": ("", _two),
    "combination:repeat_prompt": ("prompt_to_repeat", lambda text, asked: _bare(text).startswith(_bare(asked))),
    "startend:end_checker": ("end_phrase", lambda text, end: text.strip().strip('"').lower().endswith(_bare(end))),
    "change_case:capital_word_frequency": ("capital_frequency capital_relation", lambda text, n, how: RELATIONS[how](
        sum(word.isupper() for word in _APART.sub(" ", _CLITIC.sub(r" \1", text)).split()), n)),
    "change_case:english_capital": ("", lambda text: text.isupper() and language_of(text) in ("en", None)),
    "change_case:english_lowercase": ("", lambda text: text.islower() and language_of(text) in ("en", None)),
    "punctuation:no_comma": ("", lambda text: "," not in text),
    "startend:quotation": ("", lambda text: len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"'),
}  # fmt: skip


def instructions_of(row: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The instructions of a row, each with its fields. Raises DataError for what no checker can use; it names it."""
    ids, given = row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(ids, list) or not isinstance(given, list) or len(ids) != len(given) or not ids:
        raise DataError("kwargs: needs a table of fields for each instruction of instruction_id_list")
    out = []
    for name, fields in zip(ids, given, strict=True):
        if not isinstance(fields, dict | None):
            raise DataError(f"kwargs: {shown(fields)} is no table of fields")
        if not isinstance(name, str) or name not in KINDS:
            raise DataError(f"instruction_id_list: {shown(name)} is not known{nearest(str(name), KINDS)}")
        found = {key: (fields or {}).get(key) for key in KINDS[name][0].split()}
        for key, value in found.items():
            if not _fits(key, value):
                raise DataError(f"kwargs.{key}: {shown(value)} does not fit {name}")
        out.append((name, found))
    return out


def _fits(key: str, value: Any) -> bool:
    if key.endswith("relation"):
        return isinstance(value, str) and value in RELATIONS
    if key in TEXTS:
        return isinstance(value, list) and bool(value) and all(_fits("keyword", one) for one in value)
    if key.startswith(("num_", "nth_")) or key.endswith("frequency"):
        return type(value) is int and value >= key.startswith("nth_")
    try:
        return isinstance(value, str) and bool(value.strip() and (key not in PATTERNS or regex.compile(value)))
    except (regex.error, RecursionError):
        return False


def followed(row: Mapping[str, Any], answer: str) -> tuple[list[bool], list[bool]]:
    """Of each instruction of a row whether an answer follows it: strictly, and loosely."""
    lines = answer.split("\n")
    parts = [answer, *("\n".join(cut).strip() for cut in (lines[1:], lines[:-1], lines[1:-1]))]
    loose = [text for part in parts for text in (part, part.replace("*", "")) if text.strip()]
    asked = [(KINDS[name][1], fields.values()) for name, fields in instructions_of(row)]
    strict = [bool(answer.strip()) and check(answer, *fields) for check, fields in asked]
    return strict, [any(check(text, *fields) for text in loose) for check, fields in asked]
