"""Texts to ids and back, a line at a time: what `llmanac tokenizer encode` writes, in memory of one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from llmanac.core.errors import DataError, TokenizerError
from llmanac.core.progress import progress
from llmanac.data.readers import open_binary
from llmanac.lab.vocabulary.shown import pieces
from llmanac.tokenizers._base import Special, Tokenizer


def lines_of(paths: Sequence[str], whole: bool) -> Iterator[tuple[str, str]]:
    """`(where, text)` of every line, its newline taken off, or of every file as one text; no paths: standard input.

    Raises:
        DataError: a file that is missing, cannot be read or is not UTF-8; it names the file and the line.
    """
    for path in paths or ["-"]:
        name = "standard input" if path == "-" else path
        if path != "-" and not Path(path).is_file():
            raise DataError(f"{path}: no such file")
        handle: Any = sys.stdin.buffer if path == "-" else open_binary(Path(path))
        number = 0
        try:
            for number, line in enumerate([handle.read()] if whole else handle, 1):
                text = line.decode("utf-8")
                yield f"{name}:{number}", text if whole else text.removesuffix("\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{name}:{number}: not UTF-8 at byte {error.start} of the line") from None
        except (OSError, EOFError) as error:
            raise DataError(f"{name}:{number}: cannot be read to its end ({error})") from None
        finally:
            if path != "-":
                handle.close()


def encode_lines(
    tokenizer: Tokenizer, texts: Iterator[tuple[str, str]], out: TextIO, *, special: Special, form: str
) -> tuple[int, int]:
    """Write a line of ids (`ids`), of tokens as text (`pieces`) or of both as JSON (`json`) a text.

    Returns:
        Bytes read and tokens written.
    """
    size = tokens = 0
    with progress("encode", unit="B") as bar:
        for where, text in texts:
            try:
                ids = tokenizer.encode(text, special=special)
            except TokenizerError as error:
                raise TokenizerError(f"{where}: {error}") from None
            if form == "json":
                line = json.dumps({"ids": ids, "pieces": pieces(tokenizer, ids)}, ensure_ascii=False)
            else:
                line = " ".join(pieces(tokenizer, ids) if form == "pieces" else map(str, ids))
            out.write(line + "\n")
            size += len(text.encode("utf-8", "replace"))
            tokens += len(ids)
            bar.update(size, tokens=tokens)
    return size, tokens


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
