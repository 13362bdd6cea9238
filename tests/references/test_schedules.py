"""Schedules beside those of transformers. Theirs start at rate 0, which wastes a step; ours is one step ahead there."""

from __future__ import annotations

import pytest
import torch
import transformers

from llmanac.core import registry

STEPS = 200


def theirs(make, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer, **options)
    return scheduler.lr_lambdas[0]


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.333])
def test_constant_equals_transformers(warmup):
    ours = registry.build("schedule", "constant", warmup=warmup, steps=STEPS)
    first = round(warmup * STEPS)
    peer = theirs(transformers.get_constant_schedule_with_warmup, num_warmup_steps=first)
    for step in range(STEPS):
        assert ours(step) == pytest.approx(peer(step + 1), abs=1e-12)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.333])
def test_cosine_equals_transformers(warmup):
    ours = registry.build("schedule", "cosine", warmup=warmup, floor=0.0, steps=STEPS)
    first = round(warmup * STEPS)
    peer = theirs(transformers.get_cosine_schedule_with_warmup, num_warmup_steps=first, num_training_steps=STEPS)
    for step in range(STEPS):
        assert ours(step) == pytest.approx(peer(step + 1) if step < first else peer(step), abs=1e-12)
    floored = registry.build("schedule", "cosine", warmup=warmup, floor=0.2, steps=STEPS)
    least = theirs(
        transformers.get_cosine_with_min_lr_schedule_with_warmup,
        num_warmup_steps=first, num_training_steps=STEPS, min_lr_rate=0.2,
    )  # fmt: skip
    for step in range(first, STEPS):
        assert floored(step) == pytest.approx(least(step), abs=1e-12)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_wsd_equals_transformers(floor):
    ours = registry.build("schedule", "wsd", warmup=0.1, decay=0.4, floor=floor, steps=STEPS)
    peer = theirs(
        transformers.get_wsd_schedule, num_warmup_steps=20, num_decay_steps=80, num_training_steps=STEPS,
        min_lr_ratio=floor, decay_type="linear",
    )  # fmt: skip
    for step in range(20 if floor else 0, STEPS):  # theirs warms up from the floor, ours from 0
        assert ours(step) == pytest.approx(peer(step + 1) if step < 20 else peer(step), abs=1e-12)
    assert ours(STEPS - 1) > floor  # the last step is not wasted either
