"""Models of images against their peers on one CPU thread: training a CLIP, a ViT's forward pass, a sampler's steps.

Every contestant computes the same: equal weights where the peer can take them, equal shapes and precision elsewhere.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from _harness import Benchmark, Result, find_peer, interleave

from llmanac.core.device import resolve_dtype
from llmanac.core.spec import make_method
from llmanac.data.pictures import Pictures
from llmanac.models.images.load import load_multimodal
from llmanac.train.step import Stepper

bench = Benchmark("multimodal", __doc__ or "")
ROWS, LENGTH, WORDS = 128, 16, 64
VISION = {"image": 32, "patch": 8, "dim": 128, "layers": 4}
TEXT = {"dim": 128, "layers": 2}


def clip_step(ours: bool, precision: str, compiled: bool) -> tuple[Callable[[], Any] | None, str]:
    """One training step of the same CLIP: ours by `own-loss`, or open_clip's model, loss and AdamW."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pixels, ids = torch.randn(ROWS, 3, 32, 32), torch.randint(3, WORDS, (ROWS, LENGTH))
    ids[:, -1] = WORDS - 1  # open_clip reads the place of the largest id
    if ours:
        spec = make_method("multimodal", {
            "name": "clip", "dim": 64, "vision": {"name": "vit", **VISION},
            "text": {"name": "transformer", **TEXT, "max_length": LENGTH, "position": "learned", "norm": "layernorm"},
        })  # fmt: skip
        model = spec.build(vocab_size=WORDS).train()
        stepper = Stepper(
            model, make_method("objective", "own-loss").build(),
            make_method("optimizer", {"name": "adamw", "lr": 1e-3}).build(model=model), micro_batch=ROWS, clip=1.0,
            dtype=getattr(torch, precision), folder=None,  # type: ignore[arg-type]
        )  # fmt: skip
        batch = Pictures(pixels=pixels, ids=ids)
        return lambda: stepper(batch, 1.0, 0), ""  # type: ignore[arg-type]
    open_clip, peer = find_peer("open_clip", "open_clip_torch")
    if open_clip is None:
        return None, peer
    from open_clip.loss import ClipLoss
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    theirs: Any = CLIP(
        64, CLIPVisionCfg(layers=4, width=128, head_width=32, patch_size=8, image_size=32),
        CLIPTextCfg(context_length=LENGTH, vocab_size=WORDS, width=128, heads=4, layers=2),
    ).train()  # fmt: skip
    run = torch.compile(theirs) if compiled else theirs
    optimizer, loss = torch.optim.AdamW(theirs.parameters(), lr=1e-3), ClipLoss()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            images, texts, scale = run(pixels, ids)[:3]
            found = loss(images, texts, scale)
        found.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step, peer


def trained(name: str, ours: str, theirs: str, compiled: bool = False) -> Result:
    mine, _ = clip_step(True, ours, False)
    other, peer = clip_step(False, theirs, compiled)
    runs = {"ours": mine} | ({"theirs": other} if other else {})
    seconds = interleave(runs, rounds=7, clock=time.process_time)  # type: ignore[arg-type]
    return Result.rate(name, ROWS, seconds, unit="pairs/s", peer=f"{peer}, {theirs}")


@bench.measure("clip-train")
def clip_train() -> Result:
    """Pairs a second in the precision that a recipe takes on this machine, against open_clip's default, float32."""
    ours = str(resolve_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
    return trained("clip-train", ours, "float32")


# The same in float32 on both sides, neither compiled.
bench.add("clip-train-equal", trained, "float32", "float32")


@bench.measure("vit-forward")
def vit_forward() -> Result:
    """Images a second through ViT-S/16 of 6 layers at 224 pixels, with the same weights."""
    torch.set_num_threads(1)
    transformers, peer = find_peer("transformers")
    if transformers is None:
        return Result("vit-forward", "images/s", None, peer)

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536, num_labels=10,
        attn_implementation="sdpa",
    )  # fmt: skip
    theirs: Any = transformers.ViTForImageClassification(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load_multimodal(folder, device="cpu")
    pixels = torch.randn(4, 3, 224, 224)
    with torch.inference_mode():
        assert torch.allclose(ours(pixels), theirs(pixels).logits, atol=1e-4)
        seconds = interleave({"ours": lambda: ours(pixels), "theirs": lambda: theirs(pixels)}, clock=time.process_time)
    return Result.rate("vit-forward", len(pixels), seconds, unit="images/s", peer=peer)


@bench.measure("sampler")
def sampler() -> Result:
    """Images a second of 20 DDIM steps with one small transformer as the denoiser on both sides: what is around it."""
    torch.set_num_threads(1)
    diffusers, peer = find_peer("diffusers")

    model = make_method("multimodal", {"name": "diffusion", "patch": 8, "dim": 64, "layers": 2}).build()
    noise, steps = torch.randn(16, 3, 32, 32), 20
    method = make_method("sampler", {"name": "ddim", "steps": steps}).build(predicts="velocity", schedule="cosine")

    def ours() -> Any:
        return method.sample(lambda x, times: model(x, times), noise)

    runs: dict[str, Callable[[], Any]] = {"ours": ours}
    if diffusers is not None:
        scheduler = diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
        scheduler.set_timesteps(steps)

        def theirs() -> Any:
            x = noise
            for time_step in scheduler.timesteps:
                found = model(x, time_step.expand(len(x)).float())
                x = scheduler.step(found, time_step, x).prev_sample
            return x

        runs["theirs"] = theirs
    with torch.no_grad():
        if "theirs" in runs:
            assert torch.allclose(runs["ours"](), runs["theirs"](), atol=1e-3)
        seconds = interleave(runs, clock=time.process_time)
    return Result.rate("sampler", len(noise), seconds, unit="images/s", peer=peer)


if __name__ == "__main__":
    bench.main()
