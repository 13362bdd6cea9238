"""Mixture of experts against Mixtral's block, its load-balance loss, and the plain layer that it must become."""

from __future__ import annotations

import pytest
import torch
from _small_models import VOCABULARY, randomise, shifted, tokens
from test_recurrent import context_of

from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.core.types import Batch, ModelOutput, OutputRequest
from llmanac.objectives import NextToken
from llmanac.objectives.autoregressive import Spec as Autoregressive
from llmanac.train.step import Stepper, of_step

DIM = 16


def layer(**choices):
    torch.manual_seed(0)
    made = make_method("ffn", {"name": "experts", "expert": {"name": "gated", "width": 24}, **choices}).build(dim=DIM)
    made = made.double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.2)
    return made


def test_experts_equal_mixtral():
    transformers = pytest.importorskip("transformers")
    from transformers.models.mixtral import modeling_mixtral as mixtral

    ours = layer(experts=5, top_k=2)
    config = transformers.MixtralConfig(
        hidden_size=DIM, intermediate_size=24, num_local_experts=5, num_experts_per_tok=2, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, vocab_size=11,
    )  # fmt: skip
    config._experts_implementation = "eager"
    peer = mixtral.MixtralSparseMoeBlock(config).double()
    with torch.no_grad():
        peer.gate.weight.copy_(ours.router.weight)
        for i, expert in enumerate(ours.experts):
            peer.experts.gate_up_proj[i].copy_(torch.cat([expert.gate_proj.weight, expert.up_proj.weight]))
            peer.experts.down_proj[i].copy_(expert.down_proj.weight)
    x = torch.randn(2, 13, DIM, dtype=torch.float64, requires_grad=True)
    context = context_of(x)
    actual = ours(x, context)
    found = peer(x)
    expected = found[0] if isinstance(found, tuple) else found
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)  # Mixtral's router works in float32
    router = ours.router(x.flatten(0, 1))
    balance = mixtral.load_balancing_loss_func((router,), num_experts=5, top_k=2)
    torch.testing.assert_close(context.aux()["load-balance"], 0.01 * balance.double(), rtol=0, atol=1e-8)
    actual.sum().backward()
    assert all(p.grad is not None for p in ours.parameters())


@pytest.mark.parametrize("groups, top_groups", [(1, 1), (4, 2), (2, 2)])
def test_sigmoid_groups_and_correction_equal_deepseek(groups, top_groups):
    transformers = pytest.importorskip("transformers")
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek

    ours = layer(
        experts=8, top_k=3, scoring="sigmoid", router_bias="balancing", groups=groups, top_groups=top_groups,
        scale=2.5, shared={"name": "gated", "width": 48},
    )  # fmt: skip
    config = transformers.DeepseekV3Config(
        hidden_size=DIM, moe_intermediate_size=24, n_routed_experts=8, num_experts_per_tok=3, n_group=groups,
        topk_group=top_groups, n_shared_experts=2, routed_scaling_factor=2.5,
    )  # fmt: skip
    config._experts_implementation = "eager"
    peer = deepseek.DeepseekV3MoE(config).double()
    with torch.no_grad():
        peer.gate.weight.copy_(ours.router.weight)
        peer.gate.e_score_correction_bias.copy_(ours.correction)
        peer.shared_experts.load_state_dict(ours.shared.state_dict())
        for i, expert in enumerate(ours.experts):
            peer.experts.gate_up_proj[i].copy_(torch.cat([expert.gate_proj.weight, expert.up_proj.weight]))
            peer.experts.down_proj[i].copy_(expert.down_proj.weight)
    x = torch.randn(2, 33, DIM, dtype=torch.float64, requires_grad=True)
    context = context_of(x)
    actual, expected = ours(x, context), peer(x)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)  # their router works in float32
    found, wanted = (torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0] for y in (actual, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    (actual.sum() + context.aux()["load-balance"]).backward()
    assert ours.correction.grad is None and ours.router.weight.grad is not None
    with torch.no_grad():
        ours.correction.zero_()
    assert (ours(x, context_of(x)) - actual).abs().max() > 0.1  # it chooses other experts


def test_wrong_groups_name_the_field():
    for choices, message in (
        ({"groups": 3}, "groups: 8 experts are not 3 groups of one size"),
        ({"groups": 8}, "groups: 8 experts are not 8 groups of one size, of at least 2"),
        ({"groups": 2, "top_groups": 3}, "top_groups: 3 is not between 1 and groups, 2"),
        ({"groups": 4, "top_k": 3}, "top_k: 3 experts, but 1 groups have 2"),
        ({"scale": 0.0}, r"scale: 0\.0 must be above 0"),
    ):
        with pytest.raises(SpecError, match=message):
            layer(experts=8, **choices)


def test_one_expert_is_the_plain_layer_and_a_shared_one_is_added():
    one = layer(experts=1, top_k=1)
    x = torch.randn(2, 7, DIM, dtype=torch.float64)
    torch.testing.assert_close(one(x, context_of(x)), one.experts[0](x), rtol=0, atol=1e-12)
    both = layer(experts=3, top_k=3, shared={"name": "gated", "width": 8})
    weights = both.router(x).softmax(-1)
    expected = sum(weights[..., i, None] * e(x) for i, e in enumerate(both.experts)) + both.shared(x)
    torch.testing.assert_close(both(x, context_of(x)), expected, rtol=0, atol=1e-12)


def test_balance_is_part_of_the_loss_and_leaves_padding_out():
    spec = {
        "name": "transformer", "dim": 16, "layers": 2,
        "blocks": [{"name": "pre-norm", "ffn": {"name": "experts", "experts": 4, "balance": 0.5}}],
    }  # fmt: skip
    model = randomise(make_method("lm", spec).build(vocab_size=VOCABULARY)).double()
    batch = shifted(tokens(3, 12))
    output = model(batch, want=OutputRequest(nll="sum"))
    total, units, metrics = Autoregressive().build().loss(model, batch)
    assert units == 33
    torch.testing.assert_close(total, output.nll + 33 * output.aux["load-balance"])
    assert metrics["load-balance"] == pytest.approx(33 * output.aux["load-balance"].item())
    assert output.aux["load-balance"].item() >= 2 * 0.5 * 2 * (1 - 1e-9)  # k at perfect balance, for each layer
    padded = Batch(
        ids=torch.cat([batch.ids, tokens(3, 5, seed=4)], 1), lengths=torch.full((3,), 11),
        targets=torch.cat([batch.targets, torch.full((3, 5), -100)], 1),
    )  # fmt: skip
    again = model(padded, want=OutputRequest(nll="sum"))
    torch.testing.assert_close(again.nll, output.nll)
    torch.testing.assert_close(again.aux["load-balance"], output.aux["load-balance"])


@pytest.mark.parametrize("objective", [{"name": "autoregressive"}, {"name": "truncated-bptt", "steps": 4}])
def test_balance_is_that_of_the_step_whatever_the_micro_batch(objective):
    """Loss, norm and metric of one step; the first row, and with it a micro-batch, has no target."""
    block = {"name": "pre-norm", "ffn": {"name": "experts", "experts": 4, "balance": 1.0}}
    spec = {"name": "transformer", "dim": 16, "layers": 2, "blocks": [block]}
    rows = [(ids.tolist(), [bool(number)] * 9) for number, ids in enumerate(tokens(6, 9))]

    def step(micro_batch):
        model = randomise(make_method("lm", spec).build(vocab_size=VOCABULARY)).double()
        optimizer = make_method("optimizer", {"name": "sgd", "lr": 1.0}).build(model=model)
        made = Stepper(
            model, make_method("objective", objective).build(), optimizer, micro_batch=micro_batch, clip=0.0,
            dtype=torch.float64, folder=None,
        )  # fmt: skip
        found = made(rows, 1.0, 0)
        return found.loss, found.grad_norm, found.metrics["load-balance"]

    expected = step(6)
    for micro_batch in (1, 4):
        assert step(micro_batch) == pytest.approx(expected, rel=1e-12)


def test_the_counting_pass_sees_what_the_gradients_see():
    """With random numbers in the forward pass; it moves no random state."""
    model = torch.nn.Sequential(layer(experts=4))

    class Noisy(NextToken):
        def collate(self, rows):
            return torch.stack(rows)

        def loss(self, model, batch):
            x = torch.nn.functional.dropout(batch, 0.5)
            context = context_of(x)
            y = model[0](x, context)
            total, metrics = self.with_aux(y.sum(), 3, ModelOutput(aux=context.aux()))
            return total, 3, metrics

    x, counts = torch.randn(2, 1, 5, DIM, dtype=torch.float64), []
    torch.manual_seed(3)
    with of_step(model, objective := Noisy(), list(x), lambda b: objective.loss(model, b)[1], several=True) as cut:
        assert objective.step_units == 6 and model[0].of_step.tolist()[-1] == 10
        for batch in cut:
            model[0].seen = torch.zeros(5, dtype=torch.long)
            objective.loss(model, batch)
            counts.append(model[0].seen)
        assert torch.equal(sum(counts), model[0].of_step)
    assert objective.step_units is None and model[0].of_step is None and model[0].seen is None
