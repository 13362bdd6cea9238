"""Weights that are not trained, stored in the dtype that the model computes in.

A layer casts its matrix to the dtype of its input, so a float32 matrix that no step changes is cast again each time.
Held in bfloat16 it takes half the memory, and where the model computes in bfloat16 its outputs are the same numbers.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TypeVar

import torch

from llmanac.core.errors import SpecError
from llmanac.models.layers import Embedding, Linear
from llmanac.models.lm import TrainedModel

Model = TypeVar("Model", bound=TrainedModel)


def freeze(model: Model, dtype: torch.dtype | None = None, *, trained: Iterable[str] | None = None) -> Model:
    """Store the matrices of linear layers and embeddings that are not trained in `dtype`; returns the model.

    Norms, which compute in float32, and all parameters that are trained keep their dtype. The model still computes in
    the dtype that it computed in before.

    Args:
        dtype: by default what the model computes in.
        trained: patterns of the names of parameters that are trained, all others are not (`"*.q_proj.*"`); None leaves
            `requires_grad` as it is.

    Raises:
        SpecError: a pattern that no parameter has, or a dtype that is not floating-point.
    """
    compute = model.dtype
    dtype = dtype or compute
    if not dtype.is_floating_point:
        raise SpecError(f"dtype: {dtype} is not a floating-point type")
    if trained is not None:
        names = [name for name, _ in model.named_parameters()]
        patterns = tuple(trained)
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise SpecError(f"trained: no parameter is named {pattern}; names are such as {names[-1]}")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in patterns))
    for module in model.modules():
        if isinstance(module, (Linear, Embedding)):
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)
    if compute != model.dtype:
        model.compute_dtype = compute
    return model
