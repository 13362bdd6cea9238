"""Draws by the inverse of the cumulative distribution, and prompts computed once, against what they replace."""

import numpy as np
import pytest
import torch
from _small_models import VOCABULARY, randomise, transformer

from llmanac.core.errors import LlmanacError
from llmanac.core.spec import make_method
from llmanac.generate.draws import PlainDraws, _compiled, _exact
from llmanac.generate.engine import Engine
from llmanac.objectives import policy_gradient
from llmanac.objectives._shared import sharing
from llmanac.objectives.policy_gradient import Rollout


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_draws_divide_the_unit_interval_as_the_softmax_does(temperature):
    logits = torch.randn(1, 2500, generator=torch.Generator().manual_seed(0)) * 3
    count = 4000
    rows, uniform = logits.expand(count, -1).contiguous().numpy(), (np.arange(count) + 0.5) / count
    p = (logits[0].double() / temperature).softmax(-1)
    for ids, numbers in (_compiled(rows, temperature, uniform), _exact(rows, temperature, uniform)):
        ids, numbers = torch.as_tensor(ids), torch.as_tensor(numbers)
        assert ((torch.bincount(ids, minlength=2500) - p * count).abs() < 1.02).all()
        own = torch.stack([logits[0].double().log_softmax(-1)[ids], p.log()[ids]], 1)
        torch.testing.assert_close(numbers, own, atol=2e-5, rtol=0)
    logits[0, 7] = float("nan")
    for draw in (_compiled, _exact):
        with pytest.raises(LlmanacError, match="not finite"):
            draw(logits.numpy(), temperature, uniform[:1])


def test_what_is_drawn_depends_on_seed_request_and_sample_alone():
    model = randomise(transformer()).eval()

    def drawn(rows, seed=3):
        engine = Engine(model, rows=rows)
        requests = [engine.request([1, 2, 3], n=4, max_new_tokens=6, stop_ids=[]) for _ in range(2)]
        return [tuple(completion.ids) for completion in engine.run(requests, PlainDraws(seed, 1.0))]

    found = drawn(8)
    assert found == drawn(4) and len(set(found)) == 8 and found != drawn(8, seed=4)


def test_a_prompt_computed_once_gives_the_gradient_of_complete_rows(monkeypatch):
    draw, rows = np.random.default_rng(0), []
    for group, length in enumerate((12, 1, 9)):
        prompt = tuple(draw.integers(0, VOCABULARY, length).tolist())
        for _ in range(4):
            n = int(draw.integers(1, 9))
            answer = tuple(draw.integers(0, VOCABULARY, n).tolist())
            more = {"logprobs": -draw.random(n), "advantages": np.full(n, draw.normal()), "group": group}
            rows.append(Rollout(prompt=prompt, completion=answer, **more))
    model, objective = randomise(transformer()).double(), make_method("objective", "grpo").build()
    batch = objective.collate(rows)
    assert batch.spans == ((0, 4, 11), (4, 8, 0), (8, 12, 8)) and sharing(model, batch.spans)

    def gradients():
        model.zero_grad()
        loss, _, metrics = objective.loss(model, batch)
        loss.backward()
        return [loss.detach(), *metrics.values(), *[p.grad.clone() for p in model.parameters()]]

    once = gradients()
    monkeypatch.setattr(policy_gradient, "sharing", lambda *given: False)
    for found, expected in zip(once, gradients(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
