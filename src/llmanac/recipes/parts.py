"""The stages of a recipe that a run and every arm of a comparison share, each made from what the stages before left.

    text -> tokenizer -> tokens;   tokens + objective -> rows;   model + rows -> training -> measurement

`stages.py` runs them one after the other in a run's folder; `lab/trials` runs the last ones for each arm, on text that
was prepared once. What is read, trained on and measured is the objective's choice (`objectives/_measured.py`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from llmanac.core import files
from llmanac.core.spec import patch
from llmanac.data.documents import Document
from llmanac.data.tokens import TokenDataset
from llmanac.metrics import ItemSums, Metric
from llmanac.objectives import TextSource
from llmanac.tokenizers.load import load_tokenizer


def make_tokenizer(recipe: Any, documents: Iterable[Document], place: Path) -> Any:
    """The recipe's tokenizer, trained on these documents and kept in `place`, or the one that is there."""
    if not (place / "tokenizer.json").is_file():
        with files.atomic_folder(place) as folder:
            tokenizer_of(recipe).train(recipe.data.vocabulary_texts(documents)).save(folder)
    return load_tokenizer(place)


def tokenizer_of(recipe: Any) -> Any:
    """The recipe's tokenizer, with the special tokens that its objective writes rows with."""
    needed, known = recipe.objective.special_tokens, recipe.tokenizer.special_tokens
    if not needed:
        return recipe.tokenizer
    return patch(recipe.tokenizer, {"special_tokens": list(dict.fromkeys((*known, *needed)))})


def make_tokens(documents: Iterable[Document], tokenizer: Any, place: Path) -> TokenDataset:
    """The documents as tokens, kept in `place`, or those that are there."""
    if not (place / "manifest.json").is_file():
        TokenDataset.write(place, documents, tokenizer)
    return TokenDataset(place)


@dataclass(frozen=True)
class TokenizedText:
    """Prepared text: what `TextSource` asks for and no more."""

    tokenizer: Any
    dataset: TokenDataset


class RecipeParts:
    """What a recipe builds on prepared text.

    Args:
        recipe: a resolved `RecipeSpec`.
        text: its tokenizer and its training text as tokens.
    """

    def __init__(self, recipe: Any, text: TextSource, device: torch.device) -> None:
        self.recipe, self.text, self.device = recipe, text, device

    @cached_property
    def objective(self) -> Any:
        """The recipe's objective."""
        return self.recipe.objective.build(tokenizer=self.text.tokenizer)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What the objective measures."""
        found: tuple[Metric, ...] = self.objective.metrics
        return found

    def model(self, seed: int) -> Any:
        """The model with its initial values, on the device, trained through a rounding where the recipe says so."""
        model = self.recipe.model.build(vocab_size=self.text.tokenizer.vocab_size).to(self.device)
        model.initialise(seed)
        if self.recipe.through is not None:
            self.recipe.through.build().attach(model)
        return model

    def rows(self, seed: int) -> Any:
        """The rows of every training step, as the objective reads them."""
        train = self.recipe.train
        return self.objective.source(self.text, length=train.length, rows=train.rows, seed=seed)

    def held_out(self, documents: Sequence[str]) -> Any:
        """Held-out documents as the objective measures them, in windows of the training length."""
        return self.objective.held_out(self.text, documents, length=self.recipe.train.length)

    def measure(self, model: Any, held_out: Any) -> dict[str, ItemSums]:
        """Each metric's values by item."""
        found: dict[str, ItemSums] = self.objective.evaluate(model, held_out)
        return found
