"""A trial of a model that is estimated, not trained: it reads the training text once, and nothing in it is random.

It shares text, tokenizer, measure and costs with `TrainingTrial`, so that both can be in one comparison. It has no
steps, so nothing is settled, planned or tuned for it, and every seed gives the same numbers.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from typing import Any

from llmanac.core.errors import SpecError
from llmanac.core.spec import dump
from llmanac.data.tokens import TokenDataset
from llmanac.evaluate.bits_per_byte import score_texts
from llmanac.lab.axis import Arm
from llmanac.lab.cache import versions
from llmanac.lab.costs import decode_speed, model_bytes, state_bytes
from llmanac.lab.prepare import Prepared
from llmanac.lab.sources import fingerprint
from llmanac.lab.study import Measurement
from llmanac.models._pairs import start_token

CODE = (TokenDataset.__module__, score_texts.__module__)


def is_estimated(arm: Arm) -> bool:
    """Whether an arm's model is estimated from the text at once."""
    return bool(getattr(arm.spec.model, "estimated", False))


def trained(arms: Sequence[Arm]) -> list[Arm]:
    """The arms that are trained in steps."""
    return [arm for arm in arms if not is_estimated(arm)]


def refuse(arms: Sequence[Arm], hold: str) -> None:
    """Raise SpecError if `--hold` needs steps and an arm has none."""
    found = [arm.label for arm in arms if is_estimated(arm)]
    if found and hold != "tokens":
        raise SpecError(
            f"--hold {hold}: {', '.join(found)} reads the text once and has the size that follows; use --hold tokens"
        )


def parts(prepared: Prepared, arm: Arm, measure: int, tuning: bool) -> dict[str, Any]:
    """Everything that decides the numbers; no seed does."""
    return {
        "trial": "estimating", "measure": measure, "model": dump(arm.spec.model), "length": arm.spec.train.length,
        "data": prepared.identity, "tuning": tuning, "sources": fingerprint([arm.spec.model], CODE),
        "versions": versions(),
    }  # fmt: skip


def measure(prepared: Prepared, arm: Arm, texts: Sequence[str], prompt: list[int]) -> Measurement:
    """Estimate and measure. Peak memory is measured in a second estimate, since counting slows it down."""
    start = time.perf_counter()
    model = _estimated(prepared, arm)
    seconds = time.perf_counter() - start
    tracemalloc.start()
    try:
        _estimated(prepared, arm)
        peak = float(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    score = score_texts(model, prepared.tokenizer, texts, window=arm.spec.train.length)
    tokens = len(prepared.dataset)
    costs: dict[str, float | None] = {
        "parameters": model.parameter_count(), "tokens": tokens, "seconds": seconds,
        "train_tokens_per_second": tokens / seconds, "decode_tokens_per_second": decode_speed(model, prompt),
        "state_bytes_per_token": state_bytes(model), "model_bytes": model_bytes(model), "peak_memory": peak,
    }  # fmt: skip
    return Measurement({"bits_per_byte": [score.bits_per_byte]}, costs)


def _estimated(prepared: Prepared, arm: Arm) -> Any:
    model = arm.spec.model.build(vocab_size=prepared.tokenizer.vocab_size)
    return model.estimate(prepared.dataset, start=start_token(prepared.tokenizer))
