"""Checkpoints in parts: each rank writes what it has of the weights and the optimizer's state into its own file.

    step-00000500/parts/rank-00003.safetensors     "model.<name>", "optimizer.<what>.<name>": slices of tensors

The files are those of torch.distributed.checkpoint's safetensors writer. Each rank calls it for itself (`no_dist`), so
that no pickled messages are exchanged: the mesh says which rank has which slice, and a slice that several ranks hold is
written by the first of them. The reader puts slices together. All ranks, and whoever resumes, must see the folder.
"""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed import checkpoint
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from llmanac.core.errors import CheckpointError, TrainingError
from llmanac.core.files import TEMPORARY, file_sha256

FAILURES = (OSError, ValueError, KeyError, SafetensorError, checkpoint.CheckpointException)


def write(tensors: Mapping[str, Tensor], folder: Path, rank: int) -> dict[str, str]:
    """Write a rank's slices: DTensors, or tensors that are complete. `{file: its checksum}`; nothing for no tensors.

    Raises:
        TrainingError: the disk refused, or the folder is not there.
    """
    if not tensors:
        return {}
    own, target = folder / f"{TEMPORARY}{rank}", folder / f"rank-{rank:05d}.safetensors"
    try:
        if not folder.is_dir():
            raise OSError("there is no such folder")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that nothing is agreed on with other ranks
            writer = HuggingFaceStorageWriter(str(own), save_distributed=True)
            checkpoint.save(dict(tensors), storage_writer=writer, no_dist=True)
        (file,) = own.glob("*.safetensors")
        os.replace(file, target)
        own.rmdir()
        return {target.name: file_sha256(target)}
    except (OSError, SafetensorError, checkpoint.CheckpointException) as error:
        raise TrainingError(
            f"parallel.checkpoints: rank {rank} cannot write {target} ({error}); parts need a disk that all ranks see"
        ) from error


def dtypes(folder: Path) -> dict[str, torch.dtype]:
    """The names of the tensors in the files of all ranks. Raises as `read`."""
    try:
        about: dict[str, Any] = dict(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)
        return {name: one.properties.dtype for name, one in about.items()}
    except FAILURES as error:
        raise CheckpointError(f"{folder}: cannot be read ({error})") from error


def read(folder: Path, wanted: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """The complete tensors of the files of all ranks; or those that are `wanted` (DTensors too), filled in place.

    Raises:
        CheckpointError: files that do not fit each other.
    """
    try:
        reader = HuggingFaceStorageReader(str(folder))
        sizes: dict[str, Any] = dict(reader.read_metadata().state_dict_metadata)
        found: dict[str, Tensor] = dict(wanted or {})
        if wanted is None:
            found = {name: torch.empty(m.size, dtype=m.properties.dtype) for name, m in sizes.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoint.load(found, storage_reader=reader, no_dist=True)
    except FAILURES as error:
        raise CheckpointError(f"{folder}: cannot be read ({error})") from error
    return found
