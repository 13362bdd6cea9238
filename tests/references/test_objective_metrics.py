"""What an objective measures, item by item: bits per byte of documents, accuracy of examples, a loss of rows."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from _small_models import VOCABULARY, randomise

from llmanac.core import registry
from llmanac.core.errors import DataError, RequestError
from llmanac.core.types import IGNORE, BagOfWords, Batch
from llmanac.data.examples import Examples
from llmanac.evaluate.bits_per_byte import score_texts
from llmanac.metrics import ItemSums, Metric
from llmanac.objectives import MeasuredObjective, NextToken

DOCUMENTS = ["a first document of some length, longer than one window", "short", "the third one, " * 9]


class Bytes:
    """One token a byte, in a vocabulary that is smaller than that."""

    vocab_size, bos_id, eos_id = VOCABULARY, None, 0

    def encode_array(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int64) % VOCABULARY


@pytest.fixture(scope="module")
def model() -> Any:
    return randomise(registry.build("lm", "transformer", dim=16, layers=1, max_length=16, vocab_size=VOCABULARY)).eval()


TEXT: Any = SimpleNamespace(tokenizer=Bytes(), dataset=None)


def test_bits_per_byte_by_document_are_those_of_the_documents_alone(model: Any) -> None:
    objective = registry.build("objective", "autoregressive")
    found = objective.evaluate(model, objective.held_out(TEXT, DOCUMENTS, length=16))["bits_per_byte"]
    alone = [score_texts(model, TEXT.tokenizer, [text], window=16).bits_per_byte for text in DOCUMENTS]
    assert found.values == pytest.approx(alone, rel=1e-6)
    together = score_texts(model, TEXT.tokenizer, DOCUMENTS, window=16).bits_per_byte
    assert found.mean == pytest.approx(together, rel=1e-6)
    assert found.mean != pytest.approx(sum(found.values) / 3, rel=1e-3)  # long documents count more
    with pytest.raises(RequestError, match="window: 32 places, but the model reads at most 16"):
        objective.evaluate(model, objective.held_out(TEXT, DOCUMENTS, length=32))
    with pytest.raises(DataError, match="the texts are empty"):
        objective.held_out(TEXT, [""], length=16)


def test_an_objective_without_a_measure_of_its_own_is_measured_by_its_loss(model: Any) -> None:
    class Right(NextToken):
        """Next tokens, and how often the most probable one is right."""

        metrics = (Metric("right", "", "higher"), *MeasuredObjective.metrics)
        held_out, evaluate = MeasuredObjective.held_out, MeasuredObjective.evaluate

        def loss(self, model: Any, batch: Batch) -> Any:
            total, units, more = super().loss(model, batch)
            assert batch.targets is not None
            hits = (model(batch).logits.argmax(-1) == batch.targets) & (batch.targets != IGNORE)
            return total, units, more | {"right": hits.sum()}

    objective = Right()
    rows = objective.held_out(TEXT, DOCUMENTS, length=8)
    sizes = [len(TEXT.tokenizer.encode_array(text)) for text in DOCUMENTS]
    assert len(rows) == sum(-(-size // 8) for size in sizes)
    found = objective.evaluate(model, rows)
    assert list(found) == ["right", "loss"] and found["loss"].units == found["right"].units
    assert sum(found["loss"].units) == sum(sizes)  # every token is a target once
    ids = torch.tensor([[0, *TEXT.tokenizer.encode_array(DOCUMENTS[1])]])
    logits = model(ids[:, :-1]).logits.detach()
    place = -(-sizes[0] // 8)  # the row of the short document
    expected = torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum")
    assert found["loss"].sums[place] == pytest.approx(float(expected), rel=1e-5)
    assert found["right"].sums[place] == float((logits[0].argmax(-1) == ids[0, 1:]).sum())


def test_classification_is_measured_by_the_accuracy_of_each_example() -> None:
    class Scores(torch.nn.Module):
        """The class of a bag is its first id."""

        def forward(self, batch: BagOfWords) -> torch.Tensor:
            starts = torch.cumsum(batch.lengths, 0) - batch.lengths
            return torch.nn.functional.one_hot(batch.ids[starts], 3).float()

    objective = registry.build("objective", "classification")
    rows = Examples.of([[0, 1], [1], [2, 0], [1, 1]], [0, 1, 0, 2])
    found = objective.evaluate(Scores(), rows)
    assert found["accuracy"].values == [1, 1, 0, 0] and found["accuracy"].mean == 0.5
    assert [m.better for m in objective.metrics] == ["higher", "lower"]
    right, wrong = (math.log(math.e + 2) - score for score in (1, 0))
    assert found["loss"].values == pytest.approx([right, right, wrong, wrong])
    with pytest.raises(DataError, match="no class"):
        objective.evaluate(Scores(), Examples.of([[0]], None))


def test_items_without_units_have_no_value() -> None:
    found = ItemSums([2.0, 0.0, 3.0], [4.0, 0.0, 1.0])
    assert found.mean == 1.0 and found.values[::2] == [0.5, 3.0] and math.isnan(found.values[1])
    assert math.isnan(ItemSums([], []).mean)
