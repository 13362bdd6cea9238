"""Open and write n-gram models of words, as ARPA or as a binary file."""

import shlex
from pathlib import Path

from llmanac.core.errors import DataError
from llmanac.models.ngrams.arpa import GZIP, read_arpa, write_arpa
from llmanac.models.ngrams.binary import read_binary, write_binary
from llmanac.models.ngrams.words import WordModel


def is_arpa(path: Path) -> bool:
    """Whether a file's name says ARPA."""
    return path.name.lower().removesuffix(".gz").endswith(".arpa")


def load(path: str | Path, *, full: bool = False) -> WordModel:
    """A word model from an ARPA file or a binary one, detected by content.

    Args:
        full: check every value of a binary model, not a sample of them.

    Raises:
        DataError: a file that is neither, or a model of tokens.
        CheckpointError: a binary model that is damaged.
    """
    path = Path(path)
    try:
        with open(path, "rb") as handle:
            begin = handle.read(9)
    except OSError as error:
        if path.is_dir():
            raise DataError(
                f"{path}: is a folder, and `llmanac ngram` takes files that count words; a model of tokens is scored "
                f"with `llmanac score {shlex.quote(str(path))} TEXT` and continued with `llmanac generate`"
            ) from None
        raise DataError(f"{path}: cannot read it ({error.strerror or error})") from None
    if is_arpa(path) or begin.startswith(GZIP) or begin[8:] != b"{":
        return read_arpa(path)
    found = read_binary(path, full=full)
    if not isinstance(found, WordModel):
        raise DataError(f"{path}: counts a tokenizer's tokens, not words; use llmanac score or generate on its folder")
    return found


def save(model: WordModel, path: Path) -> None:
    """Write a model in the format that its name says."""
    if is_arpa(path):
        write_arpa(model, path)
    else:
        write_binary(model.trie, path, model)
