"""Small models of images on scenes, trained by the one loop; what the multimodal studies share."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make, make_method
from llmanac.data.pictures import Pictures, PictureStream
from llmanac.data.pictures import scenes as s
from llmanac.recipes import multimodal_data as data
from llmanac.recipes.multimodal import WORDS
from llmanac.train import TrainSpec
from llmanac.train.loop import train

DIM, BATCH, LR = 64, 64, 2e-3
KEPT = 8  # drawings of each scene that is trained on
VISION = {"name": "vit", "image": s.SIDE, "patch": 8, "dim": DIM, "layers": 2}
TEXT = {"name": "transformer", "dim": DIM, "layers": 2, "position": "learned", "norm": "layernorm"}


class Kept:
    """A scene of which a few drawings are kept: drawing costs a fifth of a step of these small models."""

    def __init__(self, scene: Any) -> None:
        self.scene, self.caption = scene, scene.caption
        self.images: dict[int, np.ndarray] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scene, name)

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        number = int(generator.integers(KEPT))
        if number not in self.images:
            self.images[number] = self.scene.draw(numpy_generator(number, "kept", self.caption))
        return self.images[number]

    @classmethod
    def anew(cls, items: Sequence[Any]) -> list[Any]:
        """What draws new images."""
        return [item.scene if isinstance(item, cls) else item for item in items]


@cache
def material() -> data.PictureMaterial:
    """The scenes, of which 10 of 48 pairs of color and shape are held out, and the words of them and of pairs."""
    texts = [scene.caption for scene in s.all_scenes()] + [*s.QUESTIONS.values(), *s.RELATIONS]
    seen, held = s.split()
    tokenizer = make_method("tokenizer", WORDS).train(texts)
    return data.PictureMaterial([Kept(scene) for scene in seen], held, tokenizer, s.SIDE, 13, True)


def fit(
    name: str, fields: dict[str, Any], steps: int, seed: int, *, draw: Callable[..., Pictures] | None = None,
    prepare: Callable[[Any], Any] | None = None, of: data.PictureMaterial | None = None, lr: float = LR,
) -> tuple[Any, float]:  # fmt: skip
    """A trained model, and the CPU seconds of its training.

    Args:
        draw: the batches; those of the recipes by default. prepare: changes the model before it is trained, and returns
            what is trained: the model by default.
    """
    shown = of or material()
    spec = data.fitted(make_method("multimodal", {"name": name, **fields}), shown)
    model = spec.build(vocab_size=data.vocabulary(spec, shown)).initialise(seed)
    trained = (prepare(model) if prepare else None) or model
    return model, run(trained, draw or data.Draw(shown, spec), steps, seed, lr=lr)


def run(
    model: Any, draw: Callable[..., Pictures], steps: int, seed: int, *, rows: int = BATCH, lr: float = LR
) -> float:
    """Train a model in place; CPU seconds."""
    plan = make(TrainSpec, {
        "steps": steps, "length": 1, "batch_tokens": rows, "dtype": "float32", "attention": "sdpa", "compile": "never",
        "optimizer": {"name": "adamw", "lr": lr}, "checkpoint_every": steps,
    })  # fmt: skip
    stream = PictureStream(draw, rows=rows, seed=seed, name="study")
    objective = make_method("objective", "own-loss").build()
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        train(model, stream, objective, plan, folder, seed=seed, report=lambda _: None)
    model.eval()
    return time.process_time() - began


def drawn(items: Sequence[Any], seed: int) -> torch.Tensor:
    """New drawings of scenes, (B, 3, 32, 32)."""
    return material().pixels(Kept.anew(items), numpy_generator(seed, "study", "test"))


def right(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found == expected).double().mean())


def share(values: Any) -> float:
    return float(np.mean([float(v) for v in values]))
