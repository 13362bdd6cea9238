"""Texts of sentences in which a few facts are hidden, for models that read a sentence a place, and for retrieval.

    fact      My color is Aldera.             (color, Aldera)
    filler    The river is loud.              (river, loud)
    near      The color there is loud.        (color, loud): one sentence in `NEAR`
    question  What is my color?               (color, ?)         answer: Aldera

A place of a model is the sum of the embeddings of the two words. A text has up to `len(SUBJECTS)` facts at random
places among its sentences; its questions come at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evidence._synthetic import Rows
from llmanac.core.types import IGNORE

_KINDS = (
    "color song dish book city teacher sport tool flower game drink island boat street season number",
    "Aldera Bovin Cresto Dalmir Estova Fenlow Garrin Holvek Istran Jolmar Kestin Lormas Mirrel Norvik Ostan Prell",
    "river harbor garden meadow canyon lantern bridge window kitchen market tower valley",
    "loud calm bright narrow old warm steep empty quiet green broken tall",
)
SUBJECTS, VALUES, THINGS, QUALITIES = (line.split() for line in _KINDS)
WORDS = [*SUBJECTS, *VALUES, *THINGS, *QUALITIES, "?"]
FIRST = {"value": len(SUBJECTS), "thing": 2 * len(SUBJECTS), "quality": 2 * len(SUBJECTS) + len(THINGS)}
ASK = len(WORDS) - 1
NEAR = 8


@dataclass(frozen=True)
class Texts:
    """places: (B, T, 2) words of every sentence; facts: (B, F) where they are; subjects, values: (B, F) words."""

    places: np.ndarray
    facts: np.ndarray
    subjects: np.ndarray
    values: np.ndarray

    def rows(self) -> Rows:
        """Texts and then all their questions: ids (B, 2 (T + F)) and targets (B, T + F)."""
        asked = np.stack([self.subjects, np.full_like(self.subjects, ASK)], 2)
        ids = np.concatenate([self.places, asked], 1).reshape(len(self.places), -1)
        quiet = np.full(self.places.shape[:2], IGNORE)
        return ids, np.concatenate([quiet, self.values], 1)

    def sentences(self, row: int) -> list[str]:
        """The text in words."""
        return [sentence(*pair) for pair in self.places[row].tolist()]


def sentence(first: int, second: int) -> str:
    """A place in words."""
    a, b = WORDS[first], WORDS[second]
    if second == ASK:
        return f"What is my {a}?"
    if second < FIRST["thing"]:
        return f"My {a} is {b}."
    return f"The {a} is {b}." if first >= FIRST["thing"] else f"The {a} there is {b}."


def draw(rng: np.random.Generator, rows: int, length: int, facts: int, *, depth: float | None = None) -> Texts:
    """Texts of `length` sentences; the first fact is at a `depth` of 0 to 1, the others (all, by default) anywhere."""
    near = rng.random((rows, length)) < 1 / NEAR
    things = rng.integers(FIRST["thing"], FIRST["quality"], (rows, length))
    first = np.where(near, rng.integers(0, len(SUBJECTS), (rows, length)), things)
    places = np.stack([first, rng.integers(FIRST["quality"], ASK, (rows, length))], 2)
    at = rng.random((rows, length)).argsort(1)[:, :facts]
    if depth is not None:
        chosen = round(depth * (length - 1))
        at[:, 1:][at[:, 1:] == chosen] = at[:, 0].repeat((at[:, 1:] == chosen).sum(1))
        at[:, 0] = chosen
    subjects = rng.random((rows, len(SUBJECTS))).argsort(1)[:, :facts]
    values = rng.integers(FIRST["value"], FIRST["thing"], subjects.shape)
    np.put_along_axis(places[:, :, 0], at, subjects, 1)
    np.put_along_axis(places[:, :, 1], at, values, 1)
    return Texts(places, at, subjects, values)


def embed(model: Any, places: np.ndarray) -> Tensor:
    """(B, T, D) of places (B, T, 2)."""
    out: Tensor = model.embed(torch.from_numpy(np.ascontiguousarray(places))).sum(2)
    return out
