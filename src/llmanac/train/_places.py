"""Tensors that a rank has parts of: from what it has to all of it, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from llmanac.train.optimizers._base import ParameterLayout


def local_of(p: Any) -> Tensor:
    with torch.no_grad():
        value: Tensor = p.to_local() if isinstance(p, DTensor) else p
        return value.detach()


def part_of(full: Tensor, p: Any) -> Tensor:
    """This rank's part of a tensor that is laid out as a parameter is."""
    if not isinstance(p, DTensor):
        return full
    return distribute_tensor(full, p.device_mesh, p.placements, src_data_rank=None).to_local()


def window_of(p: Any) -> tuple[slice, ...]:
    """Where this rank's part of a parameter is in all of it."""
    sizes, starts = p.shape, (0,) * p.ndim
    if isinstance(p, DTensor):
        (own,) = p.__create_chunk_list__()  # what torch's distributed checkpoints ask
        sizes, starts = own.sizes, own.offsets
    return tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))


def full_of(local: Tensor, p: Any) -> Tensor:
    made = sharded_as(local, p)
    return made.full_tensor() if isinstance(made, DTensor) else made


def sharded_as(local: Tensor, p: Any) -> Tensor:
    """A tensor that is laid out as a parameter is, of which this rank has `local`."""
    own = local.detach()
    if not isinstance(p, DTensor):
        return own
    return DTensor.from_local(own, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride())


def cut_over(p: Any) -> set[str]:
    """The axes of the mesh over which a parameter is divided."""
    if not isinstance(p, DTensor):
        return set()
    names = p.device_mesh.mesh_dim_names or ()
    return {name for name, place in zip(names, p.placements, strict=True) if not place.is_replicate()}


class DividedLayout(ParameterLayout):
    """Of the parameters that a rank has parts of, by name."""

    def __init__(self, places: Mapping[str, Any]) -> None:
        self.places = places

    def shape(self, name: str, own: Tensor) -> torch.Size:
        shape: torch.Size = self.places[name].shape
        return shape

    def whole(self, name: str, own: Tensor) -> Tensor:
        return full_of(own, self.places[name])

    def part(self, name: str, whole: Tensor) -> Tensor:
        return part_of(whole, self.places[name])
