"""Prompting: ask a language model which label continues the text. Nothing is trained.

    score(y | x) = sum_j log p(v(y)_j | template(x), v(y)_<j)            v(y): the words for label y
    label = argmax_y score(y | x)

`template` is the prompt, and `verbalizer` the words for each label. The log-probabilities of a word's tokens are
summed; `normalization = "length"` divides the sum by the word's characters, and "unconditional" subtracts the word's
log-likelihood after the start token alone, so that no label wins only because its word is frequent. `shots` puts the
first examples given to `fit`, taken in turn from each label, before the text (in-context learning).

Papers: Brown et al. 2020 (https://arxiv.org/abs/2005.14165), section 2.4 and appendix G for the three ways to compare;
Schick & Schuetze 2021 (https://arxiv.org/abs/2001.07676) for the verbaliser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from llmanac.core.errors import CheckpointError, DataError, SpecError
from llmanac.core.ranges import NOT_NEGATIVE, within
from llmanac.core.types import IGNORE, Batch
from llmanac.models.classifiers import ClassifierSpec
from llmanac.models.classifiers._base import Classifier, check_texts, need, open_model, read_model, write_model
from llmanac.models.pairs import encode_pair

CARD = {
    "title": "Classification by prompting",
    "paper": "Brown et al. 2020, arXiv:2005.14165",
    "reference": "lm-eval's log-likelihoods of multiple choice",
}

TEXT = "{text}"
TOKENS = 8192  # tokens scored at a time
CHARACTERS = 1 << 16  # of a text that are looked at; no context here holds more tokens than this


@dataclass(frozen=True, kw_only=True)
class Spec(ClassifierSpec):
    """Choices of prompting.

    Attributes:
        path: of the language model's folder (with its tokenizer), where `build` is not given the objects.
        template: of the prompt; `{text}` is the text. verbalizer: (label, its words) pairs; by default a blank and
            the label itself.
        normalization: of the log-likelihoods: their "sum", the sum per character ("length"), or the sum less that
            without the context ("unconditional").
        shots: examples shown first. separator: the text between them.
    """

    renamed: ClassVar[Mapping[str, str]] = {
        "words": "verbalizer", "compare": "normalization", "between": "separator",
    }  # fmt: skip

    path: str | None = None
    template: str = "{text}\nLabel:"
    verbalizer: tuple[tuple[str, ...], ...] = ()
    normalization: Literal["sum", "length", "unconditional"] = "sum"
    shots: int = 0
    separator: str = "\n\n"

    ranges = within(NOT_NEGATIVE, "shots")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template.count(TEXT) != 1:
            raise SpecError(f"template: {self.template!r} must have {TEXT} in one place, where the text goes")
        for pair in self.verbalizer:
            if len(pair) != 2 or not all(pair):
                raise SpecError(f"verbalizer: {list(pair)} is not a label and its words")
        if len({label for label, *_ in self.verbalizer}) != len(self.verbalizer):
            raise SpecError("verbalizer: a label appears twice")

    def build(self, *args: Any, model: Any = None, tokenizer: Any = None, **dims: Any) -> Prompting:
        """A classifier on this language model; with a `verbalizer` it can predict without `fit`."""
        return Prompting(self, *open_model(model, tokenizer, self.path))


class Prompting(Classifier):
    """See the module.

    Attributes:
        examples_shown: (text, label) pairs shown before each text.
    """

    learned = False

    def __init__(self, spec: Spec, model: Any, tokenizer: Any, path: str | None) -> None:
        super().__init__(spec)
        self.model, self.tokenizer, self.path = model, tokenizer, path
        self.labels = tuple(label for label, _ in spec.verbalizer) if len(spec.verbalizer) > 1 else ()
        self.examples_shown: list[tuple[str, str]] = []

    def prepare(self, texts: Sequence[str], labels: Sequence[str], seed: int) -> None:
        """Set the labels' names, and the examples to show.

        Raises:
            DataError: a label without words, where words are given.
        """
        spec = self.spec
        names = tuple(sorted(set(labels)))
        if spec.verbalizer:
            known = tuple(label for label, _ in spec.verbalizer)
            for name in names:
                if name not in known:
                    raise DataError(f"labels: {name!r} has no words (has: {', '.join(known)}); add it to `verbalizer`")
            names = known
        self.labels = names
        of_label = ([pair for pair in zip(texts, labels, strict=True) if pair[1] == name] for name in names)
        in_turn = (pair for row in zip_longest(*of_label) for pair in row if pair is not None)
        self.examples_shown = list(islice(in_turn, spec.shots))

    def word(self, label: str) -> str:
        """The words for a label."""
        return dict(self.spec.verbalizer).get(label, f" {label}")

    def prompt(self, text: str) -> str:
        """What the model reads before the label."""
        spec = self.spec
        shown = [spec.template.replace(TEXT, t) + self.word(label) for t, label in self.examples_shown]
        return spec.separator.join([*shown, spec.template.replace(TEXT, text)])

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """(N,) log p(continuation | context) in nats of each (context, continuation), summed over its tokens.

        See `models/pairs.py` for the tokens; a context too long for the model loses its start.

        Raises:
            SpecError: a continuation longer than the model can read.
            DataError: a continuation of no tokens.
        """
        model = need(self.model, "prompting")
        encoded = [self._encode(context, continuation) for context, continuation in pairs]
        out = np.zeros(len(pairs))
        order = sorted(range(len(pairs)), key=lambda i: -len(encoded[i][0]))
        at = 0
        while at < len(order):
            longest = len(encoded[order[at]][0]) - 1
            rows = order[at : at + max(1, TOKENS // longest)]
            at += len(rows)
            out[rows] = _score(model, [encoded[i] for i in rows])
        return out

    def _encode(self, context: str, continuation: str) -> tuple[list[int], int]:
        """`(ids of both, how many of them are the continuation)`."""
        start, rest = encode_pair(self.tokenizer, context, continuation)
        ids, said = [*start, *rest], len(rest)
        limit = self.model.max_length
        if limit is not None:
            if said > limit:
                raise SpecError(f"verbalizer: {continuation[:40]!r} has {said} tokens, the model reads at most {limit}")
            ids = ids[-(limit + 1) :]
        return ids, min(said, len(ids) - 1)

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """(N, C) nats."""
        self.check_fitted()
        checked = check_texts(texts)
        if not checked:
            return np.zeros((0, len(self.labels)))
        words = [self.word(label) for label in self.labels]
        prompts = [self.prompt(text[:CHARACTERS]) for text in checked]
        found = self.log_likelihoods([(prompt, word) for prompt in prompts for word in words])
        out = found.reshape(len(checked), len(words))
        normalization = self.spec.normalization
        if normalization == "length":
            out = out / np.array([len(word) for word in words])
        elif normalization == "unconditional":
            out = out - self.log_likelihoods([("", word) for word in words])
        return out

    def write(self, folder: Path) -> dict[str, Any]:
        """The examples shown, and the language model, unless `path` names the folder that it came from."""
        own: dict[str, Any] = {"examples": [list(pair) for pair in self.examples_shown]}
        if self.path is not None:
            return own
        need(self.model, "prompting")
        write_model(self.model, self.tokenizer, folder)
        dtype = next(self.model.parameters()).dtype if isinstance(self.model, nn.Module) else torch.float32
        return own | {"dtype": str(dtype).removeprefix("torch."), "own_model": True}

    def read(self, folder: Path, record: Mapping[str, Any]) -> None:
        pairs = record["examples"]
        if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
            raise CheckpointError(f"{folder}: examples are not pairs of a text and a label")
        self.examples_shown = [(str(text), str(label)) for text, label in pairs]
        if record.get("own_model"):
            self.model, self.tokenizer = read_model(folder, record)


@torch.no_grad()
def _score(model: Any, rows: Sequence[tuple[list[int], int]]) -> np.ndarray:
    """(N,) log-likelihoods of the last tokens of each row."""
    targets = [[IGNORE] * (len(tokens) - 1 - said) + tokens[-said:] for tokens, said in rows]
    batch = Batch.padded([tokens[:-1] for tokens, _ in rows], targets)
    if isinstance(model, nn.Module):
        model.eval()
        device = next((p.device for p in model.parameters()), None)
        batch = batch if device is None else batch.to(device)
    nll: np.ndarray = model.nll(batch, "none").double().sum(1).cpu().numpy()
    return -nll
