"""AdamW and Muon beside torch's own, step for step."""

from __future__ import annotations

import pytest
import torch

from llmanac.core import registry, spec
from llmanac.train.optimizers._base import parameter_roles
from llmanac.train.optimizers.muon import orthogonalise

SHAPES = [(70, 33), (33, 70), (48, 48), (300, 257), (19,), (1,)]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small models gain nothing from two, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def parameters(dtype=torch.float64, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(s, generator=generator, dtype=torch.float64) * 0.2 for s in shapes]
    return [torch.nn.Parameter(p.to(dtype)) for p in made]


def gradients(step, dtype, shapes=SHAPES):
    """Of every size from 1e-6 to 10, so that eps matters for some and not for others."""
    generator = torch.Generator().manual_seed(100 + step)
    sizes = [10.0 ** (i % 8 - 6) for i in range(step, step + len(shapes))]
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    return [(g * size).to(dtype) for g, size in zip(drawn, sizes, strict=True)]


def named(tensors, role="matrix"):
    return [(f"p{i}", p, role) for i, p in enumerate(tensors)]


@pytest.mark.parametrize("form", ["foreach", "one-pass", "torch"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("threads", [1, 2])
def test_adamw_equals_torch(form, dtype, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    ours, theirs = parameters(dtype), parameters(dtype)
    made = registry.build(
        "optimizer", "adam", lr=3e-3, beta1=0.8, beta2=0.97, eps=1e-6, weight_decay=0.3, decay="all", form=form,
        parameters=named(ours),
    )  # fmt: skip
    reference = torch.optim.AdamW(theirs, lr=3e-3, betas=(0.8, 0.97), eps=1e-6, weight_decay=0.3)
    start = [p.detach().clone() for p in ours]
    for step in range(30):
        rate = 1.0 - step / 40
        for group in reference.param_groups:
            group["lr"] = 3e-3 * rate
        for a, b, g in zip(ours, theirs, gradients(step, dtype), strict=True):
            a.grad, b.grad = g * 4, g
        made.step(rate, scale=0.25)
        reference.step()
        tolerance = 1e-12 if dtype == torch.float64 else 2e-6
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    torch.set_num_threads(before)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(ours, start, strict=True))


def test_adamw_counts_the_steps_of_each_parameter():
    """A parameter that gets a gradient only now and then is corrected by its own count, as torch does."""
    ours, theirs = parameters(), parameters()
    made = registry.build("optimizer", "adamw", lr=1e-2, decay="all", parameters=named(ours))
    reference = torch.optim.AdamW(theirs, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(12):
        for i, (a, b, g) in enumerate(zip(ours, theirs, gradients(step, torch.float64), strict=True)):
            a.grad, b.grad = (g, g.clone()) if (step + i) % 3 else (None, None)
        made.step()
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", ["original", "rms"])
def test_muon_equals_torch(scale):
    shapes = [(64, 32), (32, 64), (48, 48), (48, 48), (64, 32)]
    ours, theirs = parameters(torch.float32, shapes), parameters(torch.float32, shapes)
    start = [p.detach().clone() for p in ours]
    made = registry.build(
        "optimizer", "muon", lr=0.02, weight_decay=0.1, scale=scale, precision="bfloat16", parameters=named(ours)
    )
    adjust = "match_rms_adamw" if scale == "rms" else "original"
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn=adjust)
    for step in range(20):
        for a, b, g in zip(ours, theirs, gradients(step, torch.float32, shapes), strict=True):
            a.grad, b.grad = g, g.clone()
        made.step()
        reference.step()
    for a, b, s in zip(ours, theirs, start, strict=True):
        moved = (b - s).norm()
        assert moved > 0.5
        # the iteration is in bfloat16 (as torch's is), where a batched product rounds in another order
        assert (a - b).norm() < 0.02 * moved


def test_muon_makes_matrices_orthogonal_and_leaves_their_directions():
    generator = torch.Generator().manual_seed(0)
    for shape in [(3, 40, 24), (3, 24, 40), (1, 32, 32)]:
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        y = orthogonalise(x, torch.float64)
        values = torch.linalg.svdvals(y)
        assert values.min() > 0.3 and values.max() < 1.25  # a square random matrix has values near 0
        u, _, v = torch.linalg.svd(x, full_matrices=False)
        inside = u.mT @ y @ v.mT
        off = inside - torch.diag_embed(torch.diagonal(inside, dim1=-2, dim2=-1))
        assert off.abs().max() < 1e-10


def test_muon_takes_experts_one_by_one():
    """(E, rows, columns) is E matrices."""
    stack = torch.nn.Parameter(torch.randn(3, 16, 24) * 0.2)
    single = [torch.nn.Parameter(part.detach().clone()) for part in stack.unbind()]
    a = registry.build("optimizer", "muon", precision="float32", parameters=named([stack]))
    b = registry.build("optimizer", "muon", precision="float32", parameters=named(single))
    stack.grad = torch.randn(3, 16, 24)
    for p, g in zip(single, stack.grad.unbind(), strict=True):
        p.grad = g.clone()
    a.step()
    b.step()
    torch.testing.assert_close(stack.detach(), torch.stack([p.detach() for p in single]), rtol=1e-5, atol=1e-6)


def test_roles_of_a_real_model():
    chosen = {"name": "transformer", "dim": 32, "layers": 1, "position": "learned"}
    model = spec.make_method("lm", chosen).build(vocab_size=99)

    roles = {name: role for name, _, role in parameter_roles(model)}
    assert roles["model.embed_tokens.weight"] == "embedding"
    assert roles["model.position.embeddings.weight"] == "embedding"
    assert roles["model.layers.0.self_attn.q_proj.weight"] == "matrix"
    assert roles["model.layers.0.mlp.down_proj.weight"] == "matrix"
    assert roles["model.norm.weight"] == "vector"
    made = registry.build("optimizer", "muon", model=model)
    by_muon = {name for group in made.groups if group.rule == "muon" for name in group.names}
    assert by_muon == {name for name, role in roles.items() if role == "matrix"}
    assert {g.weight_decay for g in registry.build("optimizer", "adamw", model=model).groups} == {0.1, 0.0}
