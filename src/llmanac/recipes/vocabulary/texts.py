"""Files on the command line, with or without a label: `corpus.txt`, `en=europarl/en de=europarl/de.jsonl.gz`.

Whether a tokenizer was trained on the text it is measured on; its figures then say less about other text.
"""

import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, SpecError
from llmanac.core.files import read_json, readable
from llmanac.core.spec import make_method
from llmanac.data.command_problems import CommandProblems
from llmanac.data.texts import documents, files_of
from llmanac.tokenizers import Tokenizer
from llmanac.tokenizers.load import stretches


def labelled(items: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The paths of each label, in the order given; a path without one has its own name for a label.

    Raises:
        SpecError: nothing given, or a label or path that is empty.
    """
    found: dict[str, tuple[str, ...]] = {}
    for item in items:
        label, equals, path = ("", "", item) if Path(item).exists() else item.partition("=")
        if not equals:
            label, path = readable(Path(item).name.partition(".")[0] or item), item
        if not label or not path:
            raise SpecError(f"{item!r}: expected a path or label=path")
        found[label] = (*found.get(label, ()), path)
    if not found:
        raise SpecError("no text given; name files or folders, with a label where groups matter: en=en.txt de=de/")
    return found


def has_labels(items: Sequence[str]) -> bool:
    """Whether every item is `label=path`."""
    return all("=" in item and not Path(item).exists() for item in items)


@dataclass(frozen=True)
class Reading:
    """How files are read: the column of tables that holds the text, and which files of a folder are taken."""

    column: str = "text"
    include: tuple[str, ...] = ()

    def texts(self, paths: Sequence[str]) -> Iterator[str]:
        """The texts of files of any known format, one after the other. Raises DataError that names file and line."""
        source = files_of(paths, column=self.column, include=self.include)
        return (document.text for document in documents(source, CommandProblems(column="--column")))

    def cut(self, paths: Sequence[str]) -> Iterator[str]:
        """The same in stretches of a few kilobytes, so that one large file can be dealt out in parts."""
        for text in self.texts(paths):
            yield from stretches(text)


@dataclass(frozen=True)
class VocabularyTexts:
    """The texts of files, as often as wanted."""

    paths: Sequence[str]
    reading: Reading

    def __iter__(self) -> Iterator[str]:
        return self.reading.texts(self.paths)


def held_apart(
    groups: Mapping[str, Sequence[str]], every: int, limit: int, reading: Reading
) -> tuple[dict[str, list[str]], bool]:
    """`(texts of each group that are measured, whether others are left to train on)`.

    Args:
        every: one stretch in so many is measured; 1 takes all.
        limit: bytes of a group that are measured at most.

    Raises:
        DataError: a group without text.
    """
    out: dict[str, list[str]] = {}
    for label, paths in groups.items():
        kept, size = [], 0
        for number, text in enumerate(reading.cut(paths)):
            if size >= limit:
                break
            if number % every == 0:
                kept.append(text)
                size += len(text.encode("utf-8"))
        if not kept:
            raise DataError(f"{label}: {', '.join(paths)} has no text")
        out[label] = kept
    return out, every > 1


def left_to_train(groups: Mapping[str, Sequence[str]], every: int, reading: Reading) -> Iterator[str]:
    """The stretches that `held_apart` does not measure."""
    for paths in groups.values():
        yield from (text for number, text in enumerate(reading.cut(paths)) if number % every)


TRAINING = "training.json"  # next to a tokenizer: what it was trained on


def places(paths: Iterable[str]) -> list[str]:
    """Where text is read from, as real paths; for a pattern, the folder above its first wildcard."""
    found = []
    for path in paths:
        parts = Path(path).expanduser().parts
        plain = parts if os.path.exists(path) else itertools.takewhile(lambda part: not glob.has_magic(part), parts)
        found.append(os.path.realpath(os.path.join(*plain, "") if parts else "."))
    return found


def overlap(learned: Sequence[str], measured: Sequence[str]) -> str:
    """The first place that both read, or that is inside one of the others; empty where there is none."""
    for one in learned:
        for other in measured:
            if one == other or one.startswith(os.path.join(other, "")) or other.startswith(os.path.join(one, "")):
                return max(one, other, key=len)
    return ""


def note(label: str, item: str, tokenizer: Tokenizer, measured: Sequence[str]) -> str:
    """A warning if a finished tokenizer may have been trained on the measured text; else empty.

    Args:
        item: its folder or file.
        measured: real paths of what is measured on.
    """
    path = Path(item)
    about = _training(path if path.is_dir() else path.parent, tokenizer)
    learned = about.get("places")
    if about and not _learns(about):
        return ""
    if not isinstance(learned, list):
        return f"{label} is a finished tokenizer with unknown training text: it may have seen this text."
    if where := overlap([str(one) for one in learned], measured):
        return f"{label} learned from {where}, which it is measured on: other text takes more tokens."
    return ""


def _training(folder: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """What training.json says, if it is of this tokenizer."""
    try:
        about = read_json(folder / TRAINING)
    except DataError:
        return {}
    same = isinstance(about, dict) and about.get("fingerprint") == tokenizer.fingerprint()
    return about if same else {}


def _learns(about: dict[str, Any]) -> bool:
    try:
        return bool(type(make_method("tokenizer", about["tokenizer"]["name"], TRAINING)).learns)
    except (SpecError, KeyError, TypeError):  # of another version
        return True
