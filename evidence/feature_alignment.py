"""Feature distillation with and without alignment: a trained map or a fixed one, the right pair of layers or another.

The task, the teacher and the student are those of [distillation](../distillation/page.md), at equal tokens. The student
learns from the rows alone, or from them and the teacher's hidden states, half each:

- trained map: the student's last layer, through a map that is trained along, against the teacher's last layer.
- fixed map: the same, and the map stays as it was drawn.
- other layer: a trained map, against the teacher's embeddings.

A map that is needed makes the loss of the fixed one higher; a pair of layers that matters, that of the other one. The
best step of each is chosen on other rows. Limits: one task, one ratio of sizes, one share; the student and the teacher
have two layers each, so there are few pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evidence._page import with_interval
from evidence._synthetic import over, percent
from evidence.distillation import LEVELS, SIZES, loss, model_of, right, taught, train
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method

ROWS = ("distill/feature",)
CLAIM = "features need alignment: a map that is trained along, and the pair of layers that correspond"
ARMS = ("data", "trained map", "fixed map", "other layer")
METRIC, SEEDS, MARGIN, TOLERANCE = "nats a token of new rows", 10, 0.01, 0.05


def measure(seed: int, size: str) -> dict[str, Any]:
    """Loss and right answers of each arm."""
    sizes = SIZES[size]
    tokenizer, plain, teacher, (rows, validation, test) = taught(seed, sizes)
    found: dict[str, Any] = {"teacher": loss(teacher, plain, test)}
    for arm in ARMS:
        student = model_of(sizes["student"], 2, tokenizer.vocab_size, seed)
        objective = plain
        if arm != "data":
            spec = LEVELS["feature"] | ({"layers": ("2:0",)} if arm == "other layer" else {})
            objective = make_method("objective", spec).build(
                tokenizer=tokenizer, models={"teacher": teacher}, student=student
            )
        if arm == "fixed map":
            objective.trainable = ()
        train(student, objective, rows, sizes["steps"], seed, sizes, validation)
        found[arm] = {"loss": loss(student, plain, test), "right": right(student, tokenizer, test)}
    return found


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    rows = [[arm, with_interval(over(seeds, arm, "loss")), percent(over(seeds, arm, "right"))] for arm in ARMS]
    return [Section("At equal tokens", [], [table(["", METRIC, "percent right"], rows)])]
