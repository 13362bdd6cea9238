"""Files on the command line, with or without a label: `corpus.txt`, `en=europarl/en de=europarl/de.jsonl.gz`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from llmanac.core.errors import DataError, SpecError
from llmanac.core.files import readable
from llmanac.data.command_problems import CommandProblems
from llmanac.data.sources.files import Spec as Files
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


def texts(paths: Sequence[str]) -> Iterator[str]:
    """The texts of files of any known format, one after the other. Raises DataError that names file and line."""
    return (document.text for document in Files(paths=tuple(paths)).documents(CommandProblems()))


class Texts:
    """The same, as often as wanted."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)

    def __iter__(self) -> Iterator[str]:
        return texts(self.paths)


def cut(paths: Sequence[str]) -> Iterator[str]:
    """The same in stretches of a few kilobytes, so that one large file can be dealt out in parts."""
    for text in texts(paths):
        yield from stretches(text)


def held_apart(groups: Mapping[str, Sequence[str]], every: int, limit: int) -> tuple[dict[str, list[str]], bool]:
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
        for number, text in enumerate(cut(paths)):
            if size >= limit:
                break
            if number % every == 0:
                kept.append(text)
                size += len(text.encode("utf-8"))
        if not kept:
            raise DataError(f"{label}: {', '.join(paths)} has no text")
        out[label] = kept
    return out, every > 1


def left_to_train(groups: Mapping[str, Sequence[str]], every: int) -> Iterator[str]:
    """The stretches that `held_apart` does not measure."""
    for paths in groups.values():
        yield from (text for number, text in enumerate(cut(paths)) if number % every)
