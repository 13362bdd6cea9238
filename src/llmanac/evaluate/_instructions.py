"""IFEval's 25 kinds of instructions that a program can verify: whether an answer follows each of them.

strict: the answer as it is. loose: also without its first or last line, and without asterisks; one of these is enough.

An instruction's fields are the parameters of its function after the text. The rules are those of the published
checkers (Zhou et al. 2023, arXiv:2311.07911). Sentences and languages are told by the project's own means, which agree
with theirs on plain text only; a letter that is none (`#`) is counted, where they draw another one.
"""

from __future__ import annotations

import inspect
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import regex

from llmanac.core.errors import DataError, nearest, shown
from llmanac.evaluate._jinja import SECONDS
from llmanac.evaluate._languages import abbreviations, language_of

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
    text = text.strip()
    for mark in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(mark)
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


def _capitals(text: str) -> int:
    return sum(word.isupper() for word in _APART.sub(" ", _CLITIC.sub(r" \1", text)).split())


def _english(text: str) -> bool:
    return language_of(text) in ("en", None)


KINDS: dict[str, Callable[..., bool]] = {
    "keywords:existence": lambda text, keywords: all(_found(one, text) for one in keywords),
    "keywords:frequency": lambda text, keyword, frequency, relation: RELATIONS[relation](
        len(_found(keyword.strip(), text)), frequency),
    "keywords:forbidden_words": lambda text, forbidden_words: not any(
        _found(rf"\b{word}\b", text) for word in forbidden_words),
    "keywords:letter_frequency": lambda text, letter, let_frequency, let_relation: RELATIONS[let_relation](
        text.lower().count(letter.strip().lower()), let_frequency),
    "language:response_language": lambda text, language: language_of(text) in (language[:2].lower(), None),
    "length_constraints:number_sentences": lambda text, num_sentences, relation: RELATIONS[relation](
        _sentences(text), num_sentences),
    "length_constraints:number_paragraphs": lambda text, num_paragraphs: (
        _pieces(regex.split(r"\s?\*\*\*\s?", text)) == num_paragraphs),
    "length_constraints:number_words": lambda text, num_words, relation: RELATIONS[relation](
        len(regex.findall(r"\w+", text)), num_words),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda text, num_placeholders: (
        len(_found(r"\[.*?\]", text)) >= num_placeholders),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": lambda text, num_bullets: _bullets(text) == num_bullets,
    "detectable_format:constrained_response": lambda text: any(one in text for one in OPTIONS),
    "detectable_format:number_highlighted_sections": lambda text, num_highlights: _highlights(text) >= num_highlights,
    "detectable_format:multiple_sections": lambda text, section_spliter, num_sections: (
        len(_found(rf"\s?{section_spliter.strip()}\s?\d+\s?", text, 0)) >= num_sections),
    "detectable_format:json_format": _json,
    "detectable_format:title": lambda text: any(
        one.lstrip("<").rstrip(">").strip() for one in _found(r"<<[^\n]+>>", text)),
    "combination:two_responses": _two,
    "combination:repeat_prompt": lambda text, prompt_to_repeat: (
        text.strip().lower().startswith(prompt_to_repeat.strip().lower())),
    "startend:end_checker": lambda text, end_phrase: (
        text.strip().strip('"').lower().endswith(end_phrase.strip().lower())),
    "change_case:capital_word_frequency": lambda text, capital_frequency, capital_relation: RELATIONS[capital_relation](
        _capitals(text), capital_frequency),
    "change_case:english_capital": lambda text: text.isupper() and _english(text),
    "change_case:english_lowercase": lambda text: text.islower() and _english(text),
    "punctuation:no_comma": lambda text: "," not in text,
    "startend:quotation": lambda text: len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"',
}  # fmt: skip


def instructions_of(row: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The instructions of a row, each with its fields. Raises DataError for what no checker can use; it names it."""
    ids, given = row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(ids, list) or not isinstance(given, list) or len(ids) != len(given) or not ids:
        raise DataError("kwargs: needs a table of fields for each instruction of instruction_id_list")
    out = []
    for name, fields in zip(ids, given, strict=True):
        if name not in KINDS:
            raise DataError(f"instruction_id_list: {shown(name)} is not known{nearest(str(name), KINDS)}")
        wanted = list(inspect.signature(KINDS[name]).parameters)[1:]
        found = {key: (fields or {}).get(key) for key in wanted}
        for key, value in found.items():
            if not _fits(key, value):
                raise DataError(f"kwargs.{key}: {shown(value)} does not fit {name}")
        out.append((name, found))
    return out


def _fits(key: str, value: Any) -> bool:
    if key.endswith("relation"):
        return value in RELATIONS
    if key in TEXTS:
        return isinstance(value, list) and bool(value) and all(_fits("keyword", one) for one in value)
    if key.startswith(("num_", "nth_")) or key.endswith("frequency"):
        return type(value) is int and value >= key.startswith("nth_")
    if key in PATTERNS and isinstance(value, str):
        try:
            regex.compile(value)
        except (regex.error, RecursionError):
            return False
    return isinstance(value, str) and bool(value.strip())


def followed(row: Mapping[str, Any], answer: str) -> tuple[list[bool], list[bool]]:
    """Of each instruction of a row whether an answer follows it: strictly, and loosely."""
    lines = answer.split("\n")
    parts = [answer, *("\n".join(cut).strip() for cut in (lines[1:], lines[:-1], lines[1:-1]))]
    loose = [text for part in parts for text in (part, part.replace("*", "")) if text.strip()]
    asked = [(KINDS[name], fields) for name, fields in instructions_of(row)]
    return (
        [bool(answer.strip()) and check(answer, **fields) for check, fields in asked],
        [any(check(text, **fields) for text in loose) for check, fields in asked],
    )
