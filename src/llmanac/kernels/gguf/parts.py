"""A model in several GGUF files, NAME-00001-of-00003.gguf and so on: the first has the keys, each has tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmanac.core.errors import CheckpointError, shown

MOST_PARTS = 1000
ENDING = "-{:05}-of-{:05}.gguf"


def part_path(first: Path, number: int) -> Path:
    """The file of part `number` (from 0), next to the first."""
    of = len(ENDING.format(0, 0))
    return first.with_name(f"{first.name[:-of]}-{number + 1:05}{first.name[6 - of :]}")


def count_parts(path: Path, metadata: Mapping[str, Any], number: int = 0, total: int | None = None) -> int:
    """Of how many parts a file is one. Raises CheckpointError where it is not part `number` (from 0) of `total`."""
    count, found = metadata.get("split.count", 1), metadata.get("split.no", 0)
    if type(count) is not int or not 0 <= count <= MOST_PARTS or (total is not None and count != total):
        expected = f"up to {MOST_PARTS:,}" if total is None else f"{total:,}, as in the first part"
        raise CheckpointError(f"{path}: split.count is {shown(count)}, expected {expected}")
    if count > 1 and found != number:
        advice = "give the first one" if total is None else "the files of the parts are mixed up"
        raise CheckpointError(f"{path}: split.no is {shown(found)} of {count} parts, expected {number}; {advice}")
    if count > 1 and not path.name.endswith(ending := ENDING.format(number + 1, count)):
        raise CheckpointError(
            f"{path}: is one of {count} parts, but its name does not end in {ending}, by which the others are found"
        )
    return count
