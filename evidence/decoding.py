"""Decoding methods on one model: greedy, temperatures, top-k and top-p.

The model is that of `make demo`, in runs/quickstart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evidence._compared import WORK, compared, made_up, measured, shown
from llmanac.core.pages import Section
from llmanac.core.spec import make_method
from llmanac.lab.axis import Arm
from llmanac.lab.trials.decoding import DecodedModel, DecodingTrial, passages
from llmanac.recipes.classification import small_language_model

ROWS = ("decode/greedy", "decode/temperature", "decode/top-k", "decode/top-p")
CLAIM = "how a model is decoded decides what it writes: likeness to the document, repetition, variety"
SEEDS, REPLICATE = 1, "measurement"
TOLERANCE = 1e-3  # a float32 model
RUN = WORK.parent / "runs" / "quickstart"
FEW = ("greedy", {"name": "temperature", "temperature": 0.7}, {"name": "top-k", "k": 4}, {"name": "top-p", "p": 0.9})


def measure(seed: int, size: str) -> dict[str, Any]:
    """The comparison on the quickstart's model; small, four methods that continue made-up text."""
    if size == "full":
        return compared("decoding", artefact=RUN)
    texts = made_up()
    model, tokenizer = small_language_model(
        texts, steps=4, dim=32, layers=1, vocab_size=300, length=32, batch_tokens=64
    )
    artefact = DecodedModel("made up", model, tokenizer, "")
    documents = [(str(i), "\n".join(texts[i::3])) for i in range(3)]
    trial = DecodingTrial(artefact, passages(artefact, documents, 3))
    arms = [Arm(str(number), make_method("decoding", method), {}, {}) for number, method in enumerate(FEW)]
    return {arm.label: measured(trial.measure(arm, seed, Path()), trial.metrics) for arm in arms}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    return shown("decoding", seeds[0]["decoding"])
