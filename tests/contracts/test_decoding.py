"""What every decoding method must do, whatever it is."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from llmanac.core import registry
from llmanac.core.spec import dump, make_method
from llmanac.generate.decoding import DecodingSpec, compose

NAMES = sorted(registry.methods("decoding"))


@pytest.fixture(params=NAMES)
def spec(request) -> DecodingSpec:
    return make_method("decoding", request.param)


def logits_of(dtype=torch.float64) -> torch.Tensor:
    return (torch.randn(5, 97, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3).to(dtype)


def built(spec):
    """A method over tensors."""
    return lambda logits, *texts: torch.from_numpy(spec.build()(logits.numpy(), *texts))


class Text(NamedTuple):
    prompt_ids: tuple
    ids: list


def test_the_four_methods_are_there():
    assert {"greedy", "temperature", "top-k", "top-p"} <= set(NAMES)


def test_round_trip(spec):
    assert make_method("decoding", dump(spec)) == spec
    assert hash(spec) == hash(make_method("decoding", dump(spec)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_dtype_and_input_untouched(spec, dtype):
    logits = logits_of(dtype)
    before = logits.clone()
    out = built(spec)(logits)
    assert out.shape == logits.shape and out.dtype == dtype
    assert torch.equal(logits, before)


def test_every_row_keeps_its_best_token_and_the_order_of_what_is_left(spec):
    logits = logits_of()
    if spec.name == "logit-bias":
        return
    out = built(spec)(logits)
    assert torch.equal(out.argmax(-1), logits.argmax(-1)) or spec.name == "typical"
    for row, was in zip(out, logits, strict=True):
        kept = (row > -torch.inf).nonzero()[:, 0]
        assert torch.equal(row[kept].argsort(), was[kept].argsort())


def test_rows_do_not_know_of_each_other(spec):
    logits, warp = logits_of(), built(spec)
    whole = warp(logits)
    for i in range(len(logits)):
        assert torch.equal(warp(logits[i : i + 1])[0], whole[i])
    assert torch.equal(warp(logits.flip(0)).flip(0), whole)


def test_what_was_cut_stays_cut(spec):
    logits = logits_of().masked_fill(torch.arange(97) % 3 == 0, -torch.inf)
    assert bool((built(spec)(logits)[:, ::3] == -torch.inf).all())


def test_a_constant_added_to_the_logits_changes_no_probability(spec):
    logits, warp = logits_of(), built(spec)
    torch.testing.assert_close(warp(logits + 40).softmax(-1), warp(logits).softmax(-1), rtol=1e-9, atol=1e-12)


def test_it_does_something(spec):
    chosen = {"temperature": {"temperature": 0.5}, "count-penalty": {"presence": 1.0}}.get(
        spec.name, {}
    )  # T = 1 is the identity by definition
    active = make_method("decoding", {"name": spec.name, **chosen})
    logits = logits_of()
    text = [Text((1, 2, 3), [1, 2, 3, 4, 1, 2])] * len(logits) if spec.reads_text else ()
    assert not torch.allclose(built(active)(logits, text).softmax(-1), logits.softmax(-1))


def test_a_method_that_says_it_does_not_draw_leaves_one_token(spec):
    left = (built(spec)(logits_of()) > -torch.inf).sum(-1)
    assert spec.stochastic or bool((left == 1).all())


def test_compose_applies_from_left_to_right():
    first, second = make_method("decoding", {"name": "top-k", "k": 3}), make_method("decoding", "greedy")
    logits = logits_of()
    assert torch.equal(torch.from_numpy(compose((first, second))(logits.numpy())), built(second)(built(first)(logits)))
    assert torch.equal(torch.from_numpy(compose(())(logits.numpy())), logits)
