"""The ranks of a training: this process alone, or those of a mesh, whose code is imported only then."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from llmanac.core.errors import LlmanacError, TrainingError
from llmanac.parallel import ParallelSpec

if TYPE_CHECKING:
    from llmanac.train.team import Team


@contextlib.contextmanager
def team(spec: ParallelSpec, device: torch.device) -> Iterator[Team | None]:
    """The ranks of a mesh, until the end of the block; None for a mesh of one.

    Raises:
        SpecError: this process is not one of as many as the mesh has.
    """
    if spec.ranks == 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield None
        return
    from llmanac.train.team import Team  # torch.distributed takes a second or two

    made = Team(spec, device)
    try:
        yield made
        made.mesh.dismiss()
    except TrainingError:  # a rank was lost, or the training was: the others see that rank 0 has stopped
        raise
    except (LlmanacError, KeyboardInterrupt):
        made.mesh.dismiss(1.0)
        raise
    finally:
        made.mesh.close()
