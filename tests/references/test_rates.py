"""`llmanac bench`: rows that are counted are rows that run."""

from __future__ import annotations

import pytest

from llmanac.core.errors import RequestError
from llmanac.core.spec import make_method
from llmanac.generate import bench, schedule
from llmanac.generate.engine import Engine
from llmanac.quant import Quantizer


def small(**fields):
    spec = make_method("lm", {"name": "transformer", "dim": 32, "layers": 1, "max_length": 256, **fields})
    return spec.build(vocab_size=64).eval()


def test_more_rows_than_one_step_reads(monkeypatch):
    monkeypatch.setattr(schedule, "READ_TOKENS", 64)  # so that the first rows decode while others are read
    monkeypatch.setattr(bench, "READ_TOKENS", 64)
    found = bench.rates(Engine(small()), rows=(1, 12), context=40)
    assert found["decode"].keys() == {1, 12} and found["read"] > 0
    assert all(rate > 0 for rate in found["decode"].values())
    with pytest.raises(RequestError, match="context"):
        bench.rates(Engine(small()), rows=(1,), context=250)


def test_the_context_fits_the_model():
    assert 1 <= bench.rates(Engine(small()), rows=(1,))["context"] < 256


def test_bytes_are_those_that_are_held():
    made = small()
    quantizer: Quantizer = make_method("quantizer", "int8").build()
    report = quantizer.apply(made)
    assert bench.rates(Engine(made), rows=(1,), context=8)["weights_bytes"] == report.now
    assert report.now < report.before
