"""Named randomness. A stream is a hash of (seed, names), so two runs that share a name share its numbers.

This is what pairs the arms of a comparison: a parameter's initial values depend on the seed, its name and its shape,
never on which other parameters the model has or in what order they were made.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def seed_of(seed: int, *names: object) -> int:
    """A 63-bit seed from a run's seed and a path of names."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def torch_generator(seed: int, *names: object, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator for the stream `names`."""
    import torch

    return torch.Generator(device=device).manual_seed(seed_of(seed, *names))


def numpy_generator(seed: int, *names: object) -> np.random.Generator:
    """A numpy generator (PCG64) for the stream `names`."""
    return np.random.Generator(np.random.PCG64(seed_of(seed, *names)))


def parameter_generator(seed: int, name: str, shape: tuple[int, ...]) -> torch.Generator:
    """The generator that draws one parameter's initial values: always on the CPU, so devices agree."""
    return torch_generator(seed, "init", name, tuple(shape))
