"""Choose the attention form by measuring, since which is fastest differs by machine, length and dtype."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from llmanac.models._context import ATTENTION_FORMS
from llmanac.train._step import Stepper

ROUNDS = 5
CLEARLY = 0.97  # a form must take less than this fraction of SDPA's time to replace it


def clock(device: torch.device) -> float:
    """Seconds to compare variants by: with one thread this process's CPU time, which other processes disturb least."""
    return time.process_time() if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def attention_form(
    model: Any, stepper: Stepper, rows: Sequence[Any], *, seconds: float
) -> tuple[Any, dict[str, float]]:
    """Forward and backward of one micro-batch under each form, in turns; `(the fastest, median seconds by form)`.

    Five turns, or as many as fit into `seconds`, but at least one.

    A model without the choice gives `("sdpa", {})`.
    """
    if not hasattr(model, "attention_form"):
        return "sdpa", {}
    before = model.attention_form
    taken: dict[str, list[float]] = {form: [] for form in ATTENTION_FORMS}
    one = list(rows[: stepper.micro_batch])

    def run(form: str) -> None:
        model.attention_form = form
        stepper.gradients(one)
        stepper.optimizer.zero_grad()

    try:
        for form in ATTENTION_FORMS:
            run(form)  # first calls allocate and build masks
        stop = time.perf_counter() + seconds
        for turn in range(ROUNDS):
            if turn and time.perf_counter() > stop:
                break
            for form in ATTENTION_FORMS if turn % 2 == 0 else ATTENTION_FORMS[::-1]:
                taken[form].append(_seconds(lambda form=form: run(form), stepper.device))  # type: ignore[misc]
    finally:
        model.attention_form = before
    medians = {form: statistics.median(times) for form, times in taken.items()}
    best = min(medians, key=medians.__getitem__)
    return (best if medians[best] < CLEARLY * medians["sdpa"] else "sdpa"), medians


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    synchronize(device)
    start = clock(device)
    run()
    synchronize(device)
    return clock(device) - start


def synchronize(device: torch.device) -> None:
    """Wait for what the device is still doing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
