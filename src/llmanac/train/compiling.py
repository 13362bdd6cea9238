"""torch.compile, where it is wanted and possible: on the CPU it builds C++ code, so it needs a compiler."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile can build code here: on the CPU it needs a C++ compiler."""
    if device.type != "cpu":
        return True
    chosen = os.environ.get("CXX")
    return any(shutil.which(name) for name in ([chosen] if chosen else ["g++", "clang++", "cl"]))


def compile_model(model: nn.Module) -> None:
    """Compile a model in place: its blocks where it lists them (one compilation serves all), else the whole of it."""
    inner = getattr(model, "model", model)
    layers = getattr(inner, "layers", None)
    if isinstance(layers, nn.ModuleList):
        for layer in layers:
            layer.compile()
    else:
        model.compile()
