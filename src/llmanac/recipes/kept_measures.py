"""What a tuning measured before its training, kept so that a resumed one does not measure again.

It is used again only for the rows and the reward that it was of, and once there is a checkpoint, which says that the
model is the one that the training began with.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.named import named_files
from llmanac.core.spec import dump
from llmanac.data.pack import digest
from llmanac.metrics import ItemSums
from llmanac.rewards import RewardSpec


def decides(rows: Sequence[Any], reward: RewardSpec | None) -> str:
    """A hash of what is measured: held-out rows, and a reward with the files that it names."""
    return digest([list(rows), None if reward is None else [dump(reward), named_files(reward)]])


def kept(place: Path, training: Path, of: str) -> tuple[ItemSums | None, int | None] | None:
    """`(what was measured, of how many rows)` from its file; None where it has to be measured.

    A file of an earlier version does not say what it is of.
    """
    if not place.is_file() or not any((training / "checkpoints").glob("step-*")):
        return None
    stored = files.read_table(place)
    if stored.get("of", of) != of:
        return None
    return (ItemSums(stored["sums"], stored["units"]) if stored["sums"] else None), stored.get("rows")


def keep(place: Path, found: ItemSums, rows: int, of: str) -> None:
    """Write what was measured."""
    files.write_json(place, {"sums": list(found.sums), "units": list(found.units), "rows": rows, "of": of})
