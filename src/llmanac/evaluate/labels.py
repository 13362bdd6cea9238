"""Classifiers and rerankers that were trained elsewhere: a model whose head gives labels, and its tokenizer.

    labeller = Labeller.load("distilbert-base-uncased-finetuned-sst-2-english")
    labeller.predict(["A fine film."])                  # its label
    Labeller.load("bge-reranker-base").relevance("who?", ["a text", "another"])

A reranker (cross-encoder) reads question and text as one pair and gives one number; its sigmoid, from 0 to 1, says how
well the text answers. It is slower than vectors, which are made once a text, and sees both at once.
Nogueira & Cho 2019, arXiv:1901.04085.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmanac.core.errors import CheckpointError, RequestError
from llmanac.core.types import HIDDEN, Batch
from llmanac.evaluate.embed import BATCH_TOKENS, Embedder, Pooling, batches, pool
from llmanac.models.classifiers.load import explain_by_leaving_out

SEQUENCE = "ForSequenceClassification"
POOLS: dict[str, Pooling] = {"first": "cls", "last": "last", "mean": "mean"}


class Labeller(Embedder):
    """See the module. As a classifier it has what those of `models/classifiers` have, but `fit` and `save`.

    Attributes:
        labels: their names, in the order of the scores; a reranker has one.
        place: where an answer is read: first, last, mean, or each token.
    """

    book = None

    def __init__(self, model: Any, tokenizer: Any = None, **options: Any) -> None:
        super().__init__(model, tokenizer, **options)
        head = model.spec.head
        self.labels: tuple[str, ...] = () if head is None else head.labels
        if not self.labels:
            raise CheckpointError(f"{model.origin}: gives no labels (no {SEQUENCE} in its config's architectures)")
        self.place = head.place

    @torch.inference_mode()
    def logits(self, rows: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None) -> list[Tensor]:
        """The scores (C,) of each row of ids, or (T, C) where each token has its own.

        Args:
            types: which text of a pair each token is of.
        """
        out: list[Any] = [None] * len(rows)
        for chosen in batches([len(row) for row in rows], BATCH_TOKENS):
            batch = self._padded([list(rows[i]) for i in chosen])
            if types is not None and self.model.typed:
                kinds: Any = Batch.padded([list(types[i]) for i in chosen], device=self.model.device).ids
                batch = replace(batch, token_types=kinds.clamp(max=self.model.spec.token_types - 1))
            hidden = self.model(batch, want=HIDDEN).hidden
            if self.place != "each":
                lengths = torch.tensor([len(rows[i]) for i in chosen], device=hidden.device)
                hidden = pool(hidden, lengths, POOLS[self.place])[:, None]
            for i, found in zip(chosen, self.model.lm_head.logits(hidden, None), strict=True):
                out[i] = found[: len(rows[i])] if self.place == "each" else found[0]
        return out

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """(N, C) the scores of texts; the highest is the label's. Texts that are too long are cut.

        Raises:
            RequestError: a model that labels each token.
        """
        return self._whole(self.tokens(texts)[0])

    def relevance(self, query: str, texts: Sequence[str]) -> np.ndarray:
        """(N,) how well each text answers the query, from 0 to 1; of a pair that is too long the longer is cut first.

        Raises:
            RequestError: a model of several labels.
        """
        return self.related(query, texts)[0]

    def related(self, query: str, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """`relevance`, and how many tokens were read."""
        if len(self.labels) != 1:
            raise RequestError(f"{self.model.origin}: has {len(self.labels)} labels; a reranker has one")
        first, *others = (one.tolist() for one in self.tokenizer.encode_batch([query, *texts]))
        room = None if self.most is None else self.most - len(self.tokenizer.template.apply([], [])[0])
        pairs = [self.tokenizer.template.apply(*_shortened(first, second, room)) for second in others]
        found = self._whole([ids for ids, _ in pairs], [types for _, types in pairs])[:, 0]
        return 1 / (1 + np.exp(-found)), sum(len(ids) for ids, _ in pairs)

    def _whole(self, rows: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None) -> np.ndarray:
        if self.place == "each":
            raise RequestError(f"{self.model.origin}: labels each token, not texts; `Labeller.each` gives these")
        found = self.logits(rows, types)
        return torch.stack(found).double().cpu().numpy() if found else np.empty((0, len(self.labels)))

    def each(self, text: str) -> list[tuple[str, str, float]]:
        """`(piece of the text, label, probability)` of each token of a text, of a model that labels tokens."""
        ids, places = self.tokenizer.encode_with_offsets(text)
        around = self.tokenizer.template.apply(ids)[0]
        before = next(i for i in range(len(around)) if around[i : i + len(ids)] == ids)
        best = self.logits([around])[0].softmax(-1)[before : before + len(ids)].max(-1)
        labels = [self.labels[i] for i in best.indices.tolist()]
        return [(text[a:b], label, p) for (a, b), label, p in zip(places, labels, best.values.tolist(), strict=True)]

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The label of each text."""
        return [self.labels[i] for i in self.scores(texts).argmax(1)] if len(texts) else []

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """(N, C): softmax of the scores, of a single label the sigmoid."""
        found = torch.from_numpy(self.scores(texts))
        return (found.sigmoid() if len(self.labels) == 1 else found.softmax(-1)).numpy()

    def explain(self, text: str) -> Any:
        """What leaving out each word changes; see `Classifier.explain`."""
        return explain_by_leaving_out(self, text, text.split())

    def against(self, scores: np.ndarray, best: int | None = None) -> tuple[int, int]:
        """See `Classifier.against`."""
        first, second = np.argsort(-scores, kind="stable")[:2].tolist() if len(scores) > 1 else (0, 0)
        return first, second


def open_embedder(path: str) -> Embedder:
    """A `Labeller` where the model's head gives labels, else an `Embedder`; see `Embedder.load`."""
    found = Embedder.load(path)
    head = found.model.spec.head
    return (
        found
        if head is None or not head.labels
        else Labeller(found.model, found.tokenizer, most=found.most, settings=found.settings)
    )


def _shortened(first: list[int], second: list[int], room: int | None) -> tuple[list[int], list[int]]:
    """A pair cut to `room` tokens, from the longer text first, as `tokenizers` cuts them."""
    if room is None or len(first) + len(second) <= room:
        return first, second
    short, half = min(len(first), len(second)), max(0, room) // 2
    short = min(short, half)
    longer = max(0, room) - short
    return (first[:short], second[:longer]) if len(first) <= len(second) else (first[:longer], second[:short])
