"""Counted operations and allocated bytes against theory: slopes over the length, closed forms, and what loops say."""

from __future__ import annotations

import math

import pytest
import torch
from _small_models import randomise, tokens
from torch.utils.flop_counter import FlopCounterMode

from llmanac.core import registry
from llmanac.core.errors import SpecError
from llmanac.core.registry import build
from llmanac.core.spec import make_method
from llmanac.core.types import HIDDEN, Batch
from llmanac.kernels.nn import scan
from llmanac.lab import complexity

LENGTHS = (512, 1024, 2048, 4096)
LONG = (2048, 4096, 8192, 16384)  # for what has constant parts: tiles, pieces, filters
SMALL = {  # fields that make constant parts small
    "sliding-window": ("{window=16}", 64, LONG),
    "longformer": ("{window=16,global_tokens=4,block=32}", 64, LONG),
    "big-bird": ("{window=16,global_tokens=4,block=32,random_blocks=1}", 64, LONG),
    "multi-head@flash": ("", 64, (1024, 2048, 4096, 8192)),
    "s4": ("{states=4}", 16, LONG),
    "s4d": ("{states=4}", 16, LONG),
}


@pytest.mark.parametrize("name", complexity.mixers())
def test_slopes_are_those_of_theory(name):
    fields, dim, lengths = SMALL.get(name, ("", 16, LENGTHS))
    mixer, at, form = name.partition("@")
    text = mixer + fields + at + form
    rows = [complexity.measure(text, length, dim, timed=False) for length in lengths]
    theory = complexity.expected(text, lengths)
    assert set(theory) == set(complexity.COSTS)
    found = {cost: complexity.slope(lengths, [row[cost] for row in rows]) for cost in theory}
    assert found == pytest.approx(theory, abs=0.15)
