"""Texts to ids and back: what `llmanac tokenizer encode` writes. From standard input a line at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TextIO

from llmanac.core.errors import DataError, TokenizerError
from llmanac.core.progress import progress
from llmanac.data import texts
from llmanac.data.command_problems import CommandProblems
from llmanac.recipes.vocabulary.shown import pieces
from llmanac.recipes.vocabulary.texts import Reading
from llmanac.tokenizers._base import Special, Tokenizer


def lines_of(paths: Sequence[str], reading: Reading, *, whole: bool, ids: bool) -> Iterator[tuple[str, str]]:
    """`(where, text)` of every line or row, or of every file as one text; no paths: standard input.

    Args:
        ids: lines of ids are wanted, which no table has.

    Raises:
        DataError: a file that is missing, cannot be read or is not UTF-8; it names the file and the line.
    """
    source = texts.files_of(paths or ["-"], column=reading.column, include=reading.include)
    problems = CommandProblems(column="--column")
    if ids:
        for path, _ in texts.inputs(source, problems):
            if not texts.is_plain(path):
                raise DataError(f"{path}: is no text file, and ids are read from lines of text")
    found = texts.whole(source, problems) if whole else texts.lines(source, problems, ends="")
    return ((f"{one.file}:{one.line}", one.text) for one in found)


def encode_lines(
    tokenizer: Tokenizer, texts: Iterator[tuple[str, str]], out: TextIO, *, special: Special, form: str, together:
    int = 0,
) -> tuple[int, int]:  # fmt: skip
    """Write a line of ids (`ids`), of tokens as text (`pieces`) or of both as JSON (`json`) a text.

    Args:
        together: characters of texts that are encoded together, which uses all cores; 0 to write each when it is read.

    Returns:
        Bytes read and tokens written.
    """
    size = tokens = 0
    with progress("encode", unit="B") as bar:
        for held in _groups(texts, together):
            for (_, text), ids in zip(held, _encoded(tokenizer, held, special), strict=True):
                if form == "json":
                    line = json.dumps({"ids": ids, "pieces": pieces(tokenizer, ids)}, ensure_ascii=False)
                else:
                    line = " ".join(pieces(tokenizer, ids) if form == "pieces" else map(str, ids))
                out.write(line + "\n")
                size += len(text.encode("utf-8", "replace"))
                tokens += len(ids)
            bar.update(size, tokens=tokens)
    return size, tokens


def _groups(texts: Iterator[tuple[str, str]], together: int) -> Iterator[list[tuple[str, str]]]:
    """The texts in lists of about so many characters; those before one that cannot be read come before its error."""
    held: list[tuple[str, str]] = []
    size = 0
    try:
        for where, text in texts:
            held.append((where, text))
            size += len(text)
            if size >= together or len(held) >= together:
                yield held
                held, size = [], 0
    except DataError:
        if held:
            yield held
        raise
    if held:
        yield held


def _encoded(tokenizer: Tokenizer, held: list[tuple[str, str]], special: Special) -> Iterator[list[int]]:
    if special == "never" and len(held) > 1:
        try:
            found = tokenizer.encode_batch([text for _, text in held])
        except TokenizerError:
            pass  # one by one, to say where
        else:
            yield from (ids.tolist() for ids in found)
            return
    for where, text in held:
        try:
            yield tokenizer.encode(text, special=special)
        except TokenizerError as error:
            raise TokenizerError(f"{where}: {error}") from None


def decode_lines(tokenizer: Tokenizer, lines: Iterator[tuple[str, str]], out: TextIO) -> None:
    """Write the text of every line of ids (blanks or commas between them, brackets around them or not).

    Raises:
        TokenizerError: what is no id of the tokenizer; it names the line.
    """
    with progress("decode", unit="lines") as bar:
        for where, line in lines:
            words = line.replace(",", " ").replace("[", " ").replace("]", " ").split()
            if not all(word.isascii() and word.isdigit() and len(word) < 12 for word in words):
                odd = next(word for word in words if not (word.isascii() and word.isdigit() and len(word) < 12))
                raise TokenizerError(f"{where}: {odd[:40]!r} is no token id")
            try:
                out.write(tokenizer.decode(map(int, words)) + "\n")
            except TokenizerError as error:
                raise TokenizerError(f"{where}: {error}") from None
            bar.advance()
