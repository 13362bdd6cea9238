"""Procedural scenes: one or two plain objects with a caption that is exactly true, drawn without any file.

An object has a color, a shape, a size and a position; a scene of two has a relation between them (left of, above).
Color, size, position and background vary around what the caption says. `held_out` combinations of color and shape are
never in training: whether they are described and drawn right is compositional generalization.

    a small red circle in the top left         a red circle left of a blue square

The words are a fixed vocabulary (`WORDS`), a word a token. Drawing is numpy alone: each pixel is the share of a 3 x 3
grid of points inside it that are in the shape. Scenes depend on the generator alone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from llmanac.core.errors import DataError
from llmanac.core.rng import numpy_generator
from llmanac.data.pictures import Pictures

COLORS = {
    "red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "yellow": (230, 210, 50),
    "purple": (150, 60, 190), "orange": (240, 140, 30), "cyan": (60, 200, 210), "gray": (130, 130, 130),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
SIZES = {"small": 5.0, "large": 9.0}
POSITIONS = {"top left": (9, 9), "top right": (23, 9), "bottom left": (9, 23), "bottom right": (23, 23)}
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
QUESTIONS = {
    "size": "what size is it",
    "color": "what color is it",
    "shape": "what shape is it",
    "position": "where is it",
}
SPECIAL = ("<pad>", "<begin>", "<end>", "<image>")
WORDS = (
    *SPECIAL, "a", "in", "the", "top", "bottom", "left", "right", "of", "above", "below", "what", "color", "shape",
    "size", "is", "it", "where", *SIZES, *COLORS, *SHAPES,
)  # fmt: skip
NUMBER = {word: number for number, word in enumerate(WORDS)}
PAD, BEGIN, END, IMAGE = range(4)
SIDE = 32  # pixels
JITTER_COLOR, JITTER_PLACE, JITTER_SIZE = 18.0, 2.0, 1.0
Points = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Scene:
    """One object; `question` of `QUESTIONS` asks for a field of it."""

    size: str
    color: str
    shape: str
    position: str

    @property
    def caption(self) -> str:
        return f"a {self.size} {self.color} {self.shape} in the {self.position}"

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """(32, 32, 3) uint8."""
        return _paint([(self.color, self.shape, SIZES[self.size], POSITIONS[self.position])], generator)


@dataclass(frozen=True)
class PairScene:
    """Two objects of different colors and shapes, the first `relation` the second."""

    colors: tuple[str, str]
    shapes: tuple[str, str]
    relation: str

    @property
    def caption(self) -> str:
        (a, b), (c, d) = self.colors, self.shapes
        return f"a {a} {c} {self.relation} a {b} {d}"

    def swapped(self, what: str) -> PairScene:
        """What is not there: with the objects in each other's place (`objects`), or with their colors (`colors`)."""
        if what == "colors":
            return PairScene(self.colors[::-1], self.shapes, self.relation)
        return PairScene(self.colors[::-1], self.shapes[::-1], self.relation)

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """(32, 32, 3) uint8."""
        dx, dy = RELATIONS[self.relation]
        other = generator.uniform(-3, 3)
        centres = [(16 + s * 8 * dx + other * abs(dy), 16 + s * 8 * dy + other * abs(dx)) for s in (1, -1)]
        parts = [(c, s, 5.5, p) for c, s, p in zip(self.colors, self.shapes, centres, strict=True)]
        return _paint(parts, generator)


def all_scenes() -> list[Scene]:
    """The 384 scenes of one object."""
    return [Scene(*parts) for parts in itertools.product(SIZES, COLORS, SHAPES, POSITIONS)]


def split(held_out: int = 10, seed: int = 0) -> tuple[list[Scene], list[Scene]]:
    """(seen, held out): scenes whose color and shape are among `held_out` random pairs of the 48 are never trained on.

    Raises:
        DataError: no pair would be left.
    """
    pairs = list(itertools.product(COLORS, SHAPES))
    if not 0 <= held_out < len(pairs):
        raise DataError(f"held_out: {held_out} of {len(pairs)} pairs of color and shape; at least one must be seen")
    chosen = numpy_generator(seed, "scenes", "held out").permutation(len(pairs))[:held_out]
    held = {pairs[i] for i in chosen}
    scenes = all_scenes()
    return (
        [scene for scene in scenes if (scene.color, scene.shape) not in held],
        [scene for scene in scenes if (scene.color, scene.shape) in held],
    )


def random_pair(generator: np.random.Generator) -> PairScene:
    """A scene of two objects."""
    colors = generator.choice(list(COLORS), 2, replace=False).tolist()
    shapes = generator.choice(SHAPES, 2, replace=False).tolist()
    return PairScene((colors[0], colors[1]), (shapes[0], shapes[1]), str(generator.choice(list(RELATIONS))))


def _paint(parts: list[tuple[str, str, float, tuple[float, float]]], generator: np.random.Generator) -> np.ndarray:
    grid = (np.arange(SIDE * 3) + 0.5) / 3
    points: Points = (grid[None], grid[:, None])
    image = np.broadcast_to(generator.uniform(235, 255, 3), (SIDE, SIDE, 3)).copy()
    for color, shape, radius, (x, y) in parts:
        dx, dy = generator.uniform(-JITTER_PLACE, JITTER_PLACE, 2)
        size = radius + generator.uniform(-JITTER_SIZE, JITTER_SIZE)
        paint = np.clip(np.array(COLORS[color]) + generator.uniform(-JITTER_COLOR, JITTER_COLOR, 3), 0, 255)
        inside = _inside(shape, points[0] - x - dx, points[1] - y - dy, size)
        share = inside.reshape(SIDE, 3, SIDE, 3).mean((1, 3))[..., None]
        image = image * (1 - share) + paint * share
    return np.rint(image).astype(np.uint8)


def _inside(shape: str, x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    """Which points, relative to the center, are in the shape of radius r."""
    if shape in ("circle", "ring"):
        far = x**2 + y**2
        return (far <= r**2) & (far >= (0.55 * r) ** 2 if shape == "ring" else far >= 0)
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.9 * r
    if shape == "triangle":
        return (y <= r) & (2 * abs(x) <= y + r)
    if shape == "diamond":
        return abs(x) + abs(y) <= r
    wide, narrow = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
    return (wide <= r) & (narrow <= r / 3)


def encode(text: str, length: int | None = None) -> list[int]:
    """Words -> their numbers with begin and end, padded to `length`. Raises DataError for a word that is not known."""
    unknown = [word for word in text.split() if word not in NUMBER]
    if unknown:
        raise DataError(f"{unknown[0]!r} is not a word of the scenes (known: {' '.join(WORDS[4:])})")
    ids = [BEGIN, *(NUMBER[word] for word in text.split()), END]
    if length is not None and len(ids) > length:
        raise DataError(f"{text!r} has {len(ids)} tokens with begin and end; at most {length} fit")
    return ids + [PAD] * ((length or len(ids)) - len(ids))


def decode(ids: list[int]) -> str:
    """Numbers -> words, up to the end."""
    ids = ids[: ids.index(END)] if END in ids else ids
    return " ".join(WORDS[i] for i in ids if i >= len(SPECIAL))


def pixels_of(images: list[np.ndarray]) -> torch.Tensor:
    """uint8 images -> (B, 3, H, W) from -1 to 1."""
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)


def pictures(
    scenes: list[Scene] | list[PairScene], generator: np.random.Generator, rows: int | None = None, length: int = 12
) -> Pictures:
    """Drawings of `rows` random scenes (or of each) with their captions; labels are numbers in `scenes`."""
    total = len(scenes)
    chosen = np.arange(total) if rows is None else generator.integers(0, total, rows)
    images = [scenes[i].draw(generator) for i in chosen]
    ids = torch.tensor([encode(scenes[i].caption, length) for i in chosen])
    return Pictures(
        pixels=pixels_of(images), ids=ids, lengths=(ids != PAD).sum(1), labels=torch.from_numpy(chosen).long()
    )
