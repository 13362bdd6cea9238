"""Training: one loop for every objective, optimizers, schedules, checkpoints, the plan made before the first step."""

from dataclasses import dataclass, field
from typing import Literal

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, NOT_NEGATIVE, within
from llmanac.core.spec import Spec, make_method
from llmanac.train.optimizers import OptimizerSpec
from llmanac.train.schedules import ScheduleSpec
from llmanac.train.trackers import TrackerSpec


@dataclass(frozen=True, kw_only=True)
class TrainSpec(Spec):
    """How to train. `auto` values and steps left open are settled by `plan` before the first step, by measuring.

    Attributes:
        steps: optimizer steps; None where a time budget decides them.
        batch_tokens: tokens of one step, over all micro-batches.
        length: tokens of a row.
        micro_batch: rows computed at a time; None takes as many as hold 8192 tokens. Does not change the result,
            up to roundings. Where experts balance their load, several cost a forward pass more: the statistics are
            those of the step, so its tokens are counted first.
        clip: the largest gradient norm (of the mean loss over tokens); 0 for no clipping.
        dtype: what matrices are multiplied in; weights and optimizer state stay float32. In bfloat16 on a CPU the rest
            of a step takes one pass over memory (`kernels/nn/pointwise.py`): its numbers are rounded once, by 2^-8 at
            most.
        attention: how attention is computed; all forms give the same result, up to the roundings of `dtype`.
        compile: whether torch.compile is used; `auto` does for runs above ten minutes where there is a C++ compiler.
        checkpoint_every: steps between checkpoints; None for a tenth of those that were planned first.
        keep: how many of the newest checkpoints stay; the best one stays too.
        recompute: `blocks` keeps only what enters each block and computes the rest again in the backward pass: less
            memory, up to a third more time, the same result.
        trackers: where the numbers of `metrics.jsonl` go as well; None for TensorBoard where it is installed.
    """

    steps: int | None = None
    batch_tokens: int = 2048
    length: int = 256
    micro_batch: int | None = None
    optimizer: OptimizerSpec = field(default_factory=lambda: make_method("optimizer", "adamw"))
    schedule: ScheduleSpec = field(default_factory=lambda: make_method("schedule", "wsd"))
    clip: float = 1.0
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    attention: Literal["auto", "sdpa", "plain", "blocks", "flash"] = "auto"
    compile: Literal["auto", "never", "always"] = "auto"
    checkpoint_every: int | None = None
    keep: int = 2
    recompute: Literal["none", "blocks"] = "none"
    trackers: tuple[TrackerSpec, ...] | None = None

    ranges = within(COUNT, "steps batch_tokens length micro_batch checkpoint_every keep") | within(NOT_NEGATIVE, "clip")

    @property
    def rows(self) -> int:
        """Rows of one step. Raises SpecError where there is none; a tuning knows its length when its rows are read."""
        if self.batch_tokens < self.length:
            raise SpecError(f"train.batch_tokens: {self.batch_tokens} is less than one row of length {self.length}")
        return self.batch_tokens // self.length
