"""Samplers step by step against diffusers' schedulers, the denoiser against its DiT, and what generation does."""

from __future__ import annotations

import pytest
import torch
from _pictures import close
from _small_models import randomise

from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.data.pictures import Pictures
from llmanac.models.images._model import cut
from llmanac.models.images.samplers import signal

diffusers = pytest.importorskip("diffusers", reason="needs diffusers, of the [test] extra")
BETAS = {"linear": {"beta_schedule": "linear"}, "cosine": {"beta_schedule": "squaredcos_cap_v2"}}
KINDS = {"noise": "epsilon", "image": "sample", "velocity": "v_prediction"}


def start(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)


def found(x, time):
    """A stand-in for a denoiser that depends on both."""
    return torch.sin(x * 1.3 + 0.01 * time) + 0.2 * x


@pytest.mark.parametrize("predicts", KINDS)
@pytest.mark.parametrize(
    ("name", "choices", "schedule"),
    [
        ("ddpm", {}, "linear"),
        ("ddpm", {"clip": 0.0}, "cosine"),
        ("ddim", {}, "cosine"),
        ("ddim", {"eta": 0.7, "clip": 0.0}, "linear"),
    ],
)
def test_steps_equal_diffusers(name, choices, schedule, predicts):
    """Every step of ten, from the same x, with the same noise."""
    sampler = make_method("sampler", {"name": name, "steps": 10, **choices}).build(predicts=predicts, schedule=schedule)
    clip = choices.get("clip", 1.0)
    theirs = getattr(diffusers, f"{name.upper()}Scheduler")(
        prediction_type=KINDS[predicts], clip_sample=bool(clip), **BETAS[schedule]
    )
    theirs.set_timesteps(10)
    assert sampler.times == [float(t) for t in theirs.timesteps]
    torch.testing.assert_close(sampler.a.float(), theirs.alphas_cumprod, rtol=2e-5, atol=2e-6)
    theirs.alphas_cumprod, theirs.one = sampler.a, torch.tensor(1.0, dtype=torch.float64)
    theirs.betas, theirs.alphas = 1 - sampler.a, sampler.a  # in float64 where they are read
    extra = {"eta": choices.get("eta", 0.0)} if name == "ddim" else {}
    for number, time in enumerate(theirs.timesteps):
        x = start(number)
        answer = found(x, float(time))
        expected = theirs.step(
            answer, int(time), x, generator=torch.Generator().manual_seed(number), **extra
        ).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(number), dtype=x.dtype)
        actual = sampler.step(answer, number, x, noise if sampler.noisy(number) else None)
        close(actual, expected, 0.1)
        assert (actual - x).abs().max() > 1e-3


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_steps_equal_diffusers(shift):
    sampler = make_method("sampler", {"name": "flow", "steps": 7, "shift": shift}).build()
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(7)
    torch.testing.assert_close(torch.tensor(sampler.levels_of), theirs.sigmas, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.tensor(sampler.times), theirs.timesteps, rtol=1e-4, atol=1e-3)
    theirs.sigmas = torch.tensor(sampler.levels_of, dtype=torch.float64)
    x = start()
    for number, time in enumerate(theirs.timesteps):
        answer = found(x, float(time))
        expected = theirs.step(answer, time, x).prev_sample.double()
        torch.testing.assert_close(sampler.step(answer, number, x), expected, rtol=1e-6, atol=1e-6)
        x = expected


def model(**choices):
    fields = {"name": "diffusion", "image": 8, "patch": 2, "dim": 32, "layers": 2, **choices}
    return randomise(make_method("multimodal", fields).build(vocab_size=5)).double().eval()


def test_denoiser_equals_dit_of_diffusers():
    ours = model()
    theirs = diffusers.DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=3, out_channels=3, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=5, norm_eps=1e-6,
    ).double().eval()  # fmt: skip
    state, own = theirs.state_dict(), dict(ours.named_parameters())
    order = torch.arange(12).view(3, 2, 2).permute(1, 2, 0).flatten()  # their patches have the channel last
    pairs = {
        "pos_embed.proj.": "patches.", "proj_out_1.": "modulation.",
        **{f"transformer_blocks.{i}.{a}": b.format(i) for i in range(2) for a, b in {
            "norm1.emb.timestep_embedder.": "time.", "norm1.emb.class_embedder.embedding_table.": "labels.",
            "norm1.linear.": "layers.{}.modulation.", "attn1.to_q.": "layers.{}.attn.q_proj.",
            "attn1.to_k.": "layers.{}.attn.k_proj.", "attn1.to_v.": "layers.{}.attn.v_proj.",
            "attn1.to_out.0.": "layers.{}.attn.o_proj.", "ff.net.0.proj.": "layers.{}.mlp.up_proj.",
            "ff.net.2.": "layers.{}.mlp.down_proj."}.items()},
    }  # fmt: skip
    given = {}
    for name in state:
        for a, b in pairs.items():
            if name.startswith(a):
                given[name] = own[b + name.removeprefix(a)].detach()
    for end in ("weight", "bias"):
        given[f"proj_out_2.{end}"] = own[f"head.{end}"].detach()[order]
    left = [name for name in state if name not in given]
    assert left == [] or left == ["pos_embed.pos_embed"], left
    theirs.load_state_dict({**state, **given})
    x, times, labels = start(), torch.tensor([3, 40]), torch.tensor([4, 1])
    expected = theirs(x, timestep=times, class_labels=labels).sample
    actual = ours(x, times, labels[:, None])
    close(actual, expected, 0.3, 1e-5)  # their waves of time and place are float32
    assert (actual - ours(x, times, None)).abs().max() > 0.01


def test_training_reads_time_and_label_and_guidance_moves_the_image():
    ours = model(predicts="velocity", drop=0.0)
    torch.manual_seed(0)
    loss, units, _ = ours.loss(Pictures(pixels=start().clamp(-1, 1), labels=torch.tensor([0, 3])))
    loss.backward()
    assert units == 2 and all(p.grad is not None and p.grad.abs().max() > 0 for p in ours.parameters())
    x, e, times = start(1), start(2), torch.tensor([10.0, 900.0])
    for predicts in ("noise", "image", "velocity"):
        noisy, target = model(predicts=predicts).mixed(x, e, times)
        sampler = make_method("sampler", {"name": "ddim", "clip": 0.0}).build(predicts=predicts)
        a = signal("cosine")[times.long()].view(-1, 1, 1, 1)
        clean, noise = sampler.image(target, noisy, a)  # the right answer gives both back
        torch.testing.assert_close(clean, x, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(noise, e, rtol=1e-6, atol=1e-6)
    labels = torch.tensor([[1, 2], [3, -1]])
    made = [
        ours.generate(
            labels,
            guidance=w,
            sampler=make_method("sampler", {"name": "ddim", "steps": 4}),
            generator=torch.Generator().manual_seed(5),
        )
        for w in (1.0, 1.0, 3.0)
    ]
    assert made[0].shape == (2, 3, 8, 8) and torch.equal(made[0], made[1]) and (made[0] - made[2]).abs().max() > 1e-3
    with pytest.raises(SpecError, match="predicts: flow matching needs a model of the flow"):
        make_method("sampler", "flow").build(predicts="noise")


def test_a_weighted_error_of_the_image_is_that_of_the_velocity_up_to_its_bound():
    ours = model(predicts="image", drop=0.0, weight=8.0)
    images, labels = start().clamp(-1, 1).repeat(16, 1, 1, 1), torch.arange(32) % 5
    torch.manual_seed(3)
    loss, units, _ = ours.loss(Pictures(pixels=images, labels=labels))
    torch.manual_seed(3)
    times = (torch.rand(32) * 1000).floor()
    x, clean = ours.mixed(images, torch.randn_like(images), times)
    a = signal("cosine")[times.long()].view(-1, 1, 1, 1)
    velocity = [(a.sqrt() * x - image) / (1 - a).sqrt() for image in (ours(x, times, labels[:, None]), clean)]
    expected = (velocity[0] - velocity[1]).square().mean((1, 2, 3))
    little = (1 - a.flatten()) < 1 / 8
    assert 0 < little.sum() < 32 and units == 32
    expected = torch.where(little, expected * 8 * (1 - a.flatten()), expected)
    torch.testing.assert_close(loss, expected.sum(), rtol=1e-6, atol=1e-9)
    with pytest.raises(SpecError, match=r"weight: 0.5 must be at least 1"):
        model(weight=0.5)
    others = []
    for weight in (1.0, 8.0):  # of the noise's error nothing is weighted
        torch.manual_seed(3)
        others.append(model(predicts="noise", weight=weight).loss(Pictures(pixels=images, labels=labels))[0])
    torch.testing.assert_close(*others, rtol=0, atol=0)


def test_learned_places_tell_equal_patches_apart():
    ours, x = model(patch=4, position="learned"), torch.ones(2, 3, 8, 8, dtype=torch.float64)

    def patches():
        return cut(ours(x, torch.tensor([3, 40]), torch.tensor([[4], [1]])), 4)

    assert ours.places.weight.shape == (4, 32) and model(patch=4).places is None
    assert (patches() - patches()[:, :1]).abs().amax((0, 2))[1:].min() > 1e-3
    ours.places.weight.data.zero_()
    torch.testing.assert_close(patches(), patches()[:, :1].expand(-1, 4, -1))
