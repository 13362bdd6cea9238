"""A trial of a model that is estimated, not trained: it reads the training text once, and nothing in it is random.

It shares text, tokenizer, measure and costs with `TrainingTrial`, so that both can be in one comparison. It has no
steps, so nothing is settled, planned or tuned for it, and every seed gives the same numbers.
"""

import time
import tracemalloc
from collections.abc import Sequence
from typing import Any

from llmanac.core.errors import SpecError
from llmanac.core.spec import dump
from llmanac.data.tokens import TokenDataset
from llmanac.lab.axis import Arm
from llmanac.lab.costs import model_costs
from llmanac.lab.prepare import PreparedArms
from llmanac.lab.sources import run_key
from llmanac.lab.study import Measurement
from llmanac.models.pairs import start_token
from llmanac.objectives import TextSource
from llmanac.recipes.parts import RecipeParts

CODE = (TokenDataset.__module__,)


def is_estimated(arm: Arm) -> bool:
    """Whether an arm's model is estimated from the text at once."""
    return bool(arm.spec.model.estimated)


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


def parts(prepared: PreparedArms, arm: Arm, measure: int, tuning: bool) -> dict[str, Any]:
    """Everything that decides the numbers; no seed does."""
    return run_key(
        "estimating", [arm.spec.model, arm.spec.objective], CODE, measure=measure, model=dump(arm.spec.model),
        objective=dump(arm.spec.objective), length=arm.spec.train.length, data=prepared.identity, tuning=tuning,
    )  # fmt: skip


def measure(stages: RecipeParts, arm: Arm, held_out: Any, prompt: list[int]) -> Measurement:
    """Estimate and measure. Peak memory is measured in a second estimate, since counting slows it down."""
    start = time.perf_counter()
    model = _estimated(stages.text, arm)
    seconds = time.perf_counter() - start
    tracemalloc.start()
    try:
        _estimated(stages.text, arm)
        peak = float(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    found = stages.measure(model, held_out)
    costs = model_costs(model, prompt, len(stages.text.dataset), seconds) | {"peak_memory": peak}
    return Measurement({name: [items.mean] for name, items in found.items()}, costs)


def _estimated(text: TextSource, arm: Arm) -> Any:
    model = arm.spec.model.build(vocab_size=text.tokenizer.vocab_size)
    return model.estimate(text.dataset, start=start_token(text.tokenizer))
