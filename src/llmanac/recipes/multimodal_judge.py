"""A small classifier of scenes, which judges generated and reconstructed images, and distances in its features."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from llmanac.core import files
from llmanac.core.progress import Report
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make, make_method
from llmanac.core.types import LossSum
from llmanac.data.pictures import Pictures, PictureStream, scenes
from llmanac.train import TrainSpec
from llmanac.train.loop import train

COLORS, SHAPES = list(scenes.COLORS), list(scenes.SHAPES)
STEPS, ROWS = 1000, 64
JUDGE = "judge.safetensors"
CHECKED = 768  # real images on which it is tested


class Judge(nn.Module):
    """(B, 3, 32, 32) -> color and shape; three convolutions and a layer of 64 features."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            widths = (3, 16, 32, 64)
            self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
            self.hidden = nn.Linear(64 * 16, 64)
            self.head = nn.Linear(64, len(COLORS) + len(SHAPES))

    def features(self, pixels: Tensor) -> Tensor:
        """(B, 64)."""
        x = pixels.clamp(-1, 1).to(self.hidden.weight.dtype)
        for layer in self.convolutions:
            x = F.max_pool2d(F.relu(layer(x)), 2)
        return F.relu(self.hidden(x.flatten(1)))

    def vectors(self, pixels: Tensor) -> Tensor:
        """(B, 64) features of one length, in which distances are measured."""
        return F.normalize(self.features(pixels), dim=1) * 8

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of colors (B, 8) and of shapes (B, 6)."""
        scores = self.head(self.features(pixels))
        return scores[:, : len(COLORS)], scores[:, len(COLORS) :]

    def loss(self, batch: Pictures) -> LossSum:
        """Cross-entropy of both; a label is color * 6 + shape."""
        assert batch.labels is not None
        pairs = zip(self(batch.pixels), (batch.labels // len(SHAPES), batch.labels % len(SHAPES)), strict=True)
        total: Any = sum(F.cross_entropy(scores, label, reduction="sum") for scores, label in pairs)
        return total, len(batch), {}

    @torch.no_grad()
    def right(self, pixels: Tensor, items: Sequence[Any]) -> Tensor:
        """(B,) bool: color and shape are those of the scenes."""
        colors, shapes = self(pixels)
        label = labels(items).to(pixels.device)
        return (colors.argmax(1) == label // len(SHAPES)) & (shapes.argmax(1) == label % len(SHAPES))


def labels(items: Sequence[Any]) -> Tensor:
    """(B,) color and shape of scenes in one number."""
    return torch.tensor([COLORS.index(s.color) * len(SHAPES) + SHAPES.index(s.shape) for s in items])


def draw(generator: Any, rows: int) -> Pictures:
    """Random scenes of all combinations."""
    every = scenes.all_scenes()
    items = [every[i] for i in generator.integers(0, len(every), rows)]
    return Pictures(pixels=scenes.pixels_of([s.draw(generator) for s in items]), labels=labels(items))


def load_judge(place: Path, report: Report, steps: int | None = None) -> tuple[Judge, float]:
    """The judge, trained in `place` where it is not there yet, and the fraction of real images that it reads right."""
    judge, kept = Judge(), place / JUDGE
    if kept.is_file():
        judge.load_state_dict(load_file(kept))
    else:
        spec = make(TrainSpec, {
            "steps": steps or STEPS, "length": 1, "batch_tokens": ROWS, "dtype": "float32", "attention": "sdpa",
            "compile": "never", "optimizer": {"name": "adamw", "lr": 2e-3},
        })  # fmt: skip
        stream = PictureStream(draw, rows=ROWS, seed=0, name="judge")
        objective = make_method("objective", "own-loss").build()
        train(judge, stream, objective, spec, place / "training", seed=0, label="judge", report=report)
        files.write_bytes(kept, save(judge.state_dict()))
    judge.eval()
    batch = draw(numpy_generator(0, "judge", "test"), CHECKED)
    assert batch.labels is not None
    with torch.no_grad():
        colors, shapes = judge(batch.pixels)
    right = colors.argmax(1) * len(SHAPES) + shapes.argmax(1) == batch.labels
    return judge, float(right.float().mean())


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """KID of features (N, d) and (M, d): the unbiased squared MMD with the kernel (x y / d + 1)^3."""
    a, b = a.double(), b.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.trace()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())
