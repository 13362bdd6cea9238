"""The tensors of a model's folder: what its files say that they hold is checked before any of it is read.

A header is cheap: names, shapes and types of all tensors in a few kilobytes. So whether a config and its weights fit is
known before memory is taken, and what a config asks for can never cost more than what the files really hold.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llmanac.core import files
from llmanac.core.errors import CheckpointError, shown
from llmanac.models.folder import RECORD, SUMS, read_sums

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")  # safetensors' names of what may be a weight
MOST_HEADER = 1 << 24  # bytes
MOST_TENSORS = 100_000
PIECE = 1 << 20  # numbers that are looked at together


@dataclass(frozen=True)
class TensorEntry:
    """What a header says of a tensor."""

    path: Path
    shape: tuple[int, ...]
    dtype: str


class Weights:
    """The tensors of a folder, by name, read one at a time.

    Before the first tensor of a file is read, the file is compared with its checksum in llmanac.json, if it has one.

    Args:
        folder: holds model.safetensors, or an index and the shards that it names.
        ignored: endings of names that are no weights; skipped: beginnings of names that are not read.
        prefix: of their names, which a file may leave out.
        file: instead of model.safetensors; only that one is looked for an index of.

    Raises:
        CheckpointError: a file that is missing, cut off, damaged or changed, a tensor in two files, or one of a type
            that no weight has; the message names the file and the tensor.
    """

    types: tuple[str, ...] = FLOATS

    def __init__(
        self,
        folder: Path,
        ignored: tuple[str, ...] = (),
        prefix: str = "",
        file: str = WEIGHTS,
        skipped: tuple[str, ...] = (),
    ) -> None:
        self.folder, self.skipped = folder, skipped
        self.entries: dict[str, TensorEntry] = {}
        self._handles: dict[Path, Any] = {}
        self._sums = read_sums(folder)
        table = self._index() if file == WEIGHTS else {}
        for path in sorted({folder / name for name in table.values()}) or [folder / file]:
            self._add(path, ignored)
        lost = [name for name in table if name not in self.entries and not self._left_out(name, ignored)]
        if lost:
            raise CheckpointError(f"{folder / INDEX}: names {some(lost)}, which its files do not hold")
        # the hub's GPT-2 files leave out the prefix that transformers writes
        bare = bool(prefix) and not any(name.startswith(prefix) for name in self.entries)
        self.prefix = prefix if bare else ""
        self.unused = set(self.entries)

    def _left_out(self, name: str, ignored: tuple[str, ...]) -> bool:
        return name.endswith(ignored) or name.startswith(self.skipped)

    def _index(self) -> dict[str, str]:
        """`{name: file}` of the index, or an empty table where there is none."""
        path = self.folder / INDEX
        if not path.exists():
            return {}
        table = files.read_table(path, most=MOST_HEADER, error=CheckpointError).get("weight_map")
        if not isinstance(table, dict):
            raise CheckpointError(f"{path}: weight_map is missing")
        for name, file in table.items():
            if not isinstance(file, str) or not file or "\0" in file or Path(file).name != file:
                raise CheckpointError(f"{path}: {shown(name)} is in {shown(file)}, which is no file of this folder")
        home = Path(os.path.realpath(self.folder))
        if (self.folder / WEIGHTS).exists() and WEIGHTS not in table.values():
            raise CheckpointError(f"{path}: names other files than {WEIGHTS}, which is there too; remove one")
        homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]  # the hub's cache
        for file in sorted(set(table.values())):
            if Path(os.path.realpath(self.folder / file)).parent not in homes:
                raise CheckpointError(
                    f"{path}: {file} is a link to {os.path.realpath(self.folder / file)}, which is no file of this "
                    "folder; put the file itself there"
                )
        return table

    def _add(self, path: Path, ignored: tuple[str, ...]) -> None:
        handle = self._open(path)
        names = handle.keys()
        if len(self.entries) + len(names) > MOST_TENSORS:
            raise CheckpointError(f"{path}: has more than {MOST_TENSORS:,} tensors; no model that can be read has")
        for name in names:
            if self._left_out(name, ignored):
                continue
            if name in self.entries:
                raise CheckpointError(f"{path}: holds {shown(name)}, as {self.entries[name].path.name} does; keep one")
            about = handle.get_slice(name)
            self.entries[name] = TensorEntry(path, tuple(about.get_shape()), str(about.get_dtype()))
            if self.entries[name].dtype not in self.types:
                raise self.refusal(name, self.entries[name])

    def refusal(self, name: str, entry: TensorEntry) -> CheckpointError:
        """The error for a tensor of a type that no weight has."""
        return CheckpointError(
            f"{entry.path}: {shown(name)} has the type {entry.dtype}; weights are floating-point numbers "
            f"({', '.join(FLOATS)})"
        )

    def _open(self, path: Path) -> Any:
        if path not in self._handles:
            with files.open_regular(path, CheckpointError) as handle:
                size, length = os.fstat(handle.fileno()).st_size, int.from_bytes(handle.read(8), "little")
            if not 2 <= length <= min(MOST_HEADER, size - 8):
                raise CheckpointError(
                    f"{path}: not a whole safetensors file (its header claims {length:,} bytes; the file has {size:,}, "
                    f"and at most {MOST_HEADER:,} are read)"
                )
            try:
                self._handles[path] = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path}: not a whole safetensors file ({str(error)[:200]})") from error
        return self._handles[path]

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: str) -> bool:
        return self.name(name) in self.entries

    def name(self, name: str) -> str:
        """A family's name as this file spells it."""
        return name.removeprefix(self.prefix) if self.prefix else name

    def entry(self, name: str) -> TensorEntry:
        """What is said of the tensor of this name, which then counts as used."""
        self.unused.discard(self.name(name))
        return self.entries[self.name(name)]

    def take(self, name: str) -> Tensor:
        """The tensor of this name."""
        return self._read(self.entry(name).path, self.name(name))

    def take_part(self, name: str, window: tuple[slice, ...]) -> Tensor:
        """A copy of rows and columns of the tensor of this name; no others are read, and the file is not kept open."""
        path = self.entry(name).path
        self._check_sum(path)
        with safe_open(path, framework="pt") as file:  # what an open file has read stays in memory
            part: Tensor = file.get_slice(self.name(name))[window].clone()
        return part

    def _read(self, path: Path, name: str) -> Tensor:
        self._check_sum(path)
        tensor: Tensor = self._open(path).get_tensor(name)
        return tensor

    def _check_sum(self, path: Path) -> None:
        if path.name in self._sums and self._sums[path.name] != files.file_sha256(path):
            raise CheckpointError(
                f"{path}: was changed after it was written, its SHA-256 is not that of {self.folder / RECORD}; restore "
                f"the file or, where the change is meant, remove {path.name} from {SUMS} there"
            )
        self._sums.pop(path.name, None)  # once is enough


def check_finite(tensor: Tensor, whole: Tensor, entry: TensorEntry, name: str) -> None:
    """Raises CheckpointError where a tensor holds NaN or infinity; it says which and how many.

    Args:
        tensor: what is kept, in the dtype it is computed in.
        whole: all of the file's tensor, whose part it may be; what is wrong in it is counted.

    One sum tells in nearly all cases that there are none: either would be in it. Only a sum that is not finite (two
    large numbers may have one, too) is worth a look at each number.
    """
    if tensor.sum().isfinite():
        return
    nan = infinite = 0
    for part in whole.reshape(-1).split(PIECE):
        piece = part.to(tensor.dtype)
        nan += int(piece.isnan().sum())
        infinite += int(piece.isinf().sum())
    if nan or infinite:
        dtype = str(tensor.dtype).removeprefix("torch.")
        what = " and ".join(f"{n:,} {word}" for n, word in ((nan, "NaN"), (infinite, "infinite")) if n)
        raise CheckpointError(
            f"{entry.path}: {name} holds {what} of {whole.numel():,} numbers (stored as {entry.dtype}, read as "
            f"{dtype}); weights must be finite"
        )


def some(names: Iterable[str]) -> str:
    """The first five names, and how many there are more."""
    names = [name if len(name) <= 120 else f"{name[:120]}..." for name in names]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def to(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A copy of its own: a slice of a fused matrix, or of a mapped file, would keep all of it alive."""
    return tensor.to(device=device, dtype=dtype, copy=True).contiguous()


def check_tied(head: Tensor, embedding: Tensor, folder: Path) -> None:
    """Raises CheckpointError where a tied head is stored with other values than the embedding."""
    if head.shape != embedding.shape or not torch.equal(head.to(embedding), embedding):
        raise CheckpointError(
            f"{folder}: the config ties the head to the embedding, but lm_head.weight differs from it; "
            "set tie_word_embeddings to false"
        )
