"""What the tests of models share: weights large enough that masks and positions matter, and ragged inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmanac.core.spec import make_method
from llmanac.core.types import Batch

VOCABULARY = 61


def randomise(module: nn.Module, seed: int = 0, std: float = 0.2) -> nn.Module:
    """Every parameter normal with this deviation; norm weights stay near 1. At 0.02 attention would be uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.empty(parameter.shape).normal_(0, std, generator=generator))
            if parameter.ndim == 1 and ("norm" in name.lower() or "ln_" in name) and name.endswith("weight"):
                parameter.add_(1.0)
    return module


def transformer(*, vocab_size: int = VOCABULARY, dtype: torch.dtype = torch.float64, **choices: Any) -> Any:
    """A small Transformer of float64 with large weights; choices are fields of its Spec."""
    fields = {"name": "transformer", "dim": 32, "layers": 2, "max_length": 64, **choices}
    model = make_method("lm", fields).build(vocab_size=vocab_size)
    return randomise(model).to(dtype).eval()


def block(mixer: Any = "multi-head", ffn: Any = "swiglu") -> list[dict[str, Any]]:
    """The `blocks` field of a one-block pattern."""
    return [{"name": "pre-norm", "mixer": mixer, "ffn": ffn}]


def tokens(rows: int, length: int, seed: int = 1, below: int = VOCABULARY) -> Tensor:
    return torch.randint(below, (rows, length), generator=torch.Generator().manual_seed(seed))


def shifted(ids: Tensor, **extra: Any) -> Batch:
    """A batch whose targets are the next tokens."""
    return Batch(ids=ids[:, :-1], targets=ids[:, 1:], **extra)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def replaced(folder: Path) -> None:
    """Note that the weights of a folder were changed on purpose: without their checksums they are read as they are."""
    record = json.loads((folder / "llmanac.json").read_text())
    record.pop("sha256", None)
    (folder / "llmanac.json").write_text(json.dumps(record))
