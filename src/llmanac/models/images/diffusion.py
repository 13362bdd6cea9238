"""Diffusion: a transformer learns to take noise away from an image, and images are made from noise alone.

    c = time(t) + sum of labels;  for each block, of patches h:
    h = h + g_1 attend((1 + s_1) norm(h) + b_1);   h = h + g_2 mlp((1 + s_2) norm(h) + b_2);   [b, s, g] = W silu(c)
    loss = mean w |model(x_t, t, labels) - target|^2    target: noise, image, velocity or flow, see `samplers`

An error of the image counts w = min(1 / (1 - a_t), `weight`): up to the bound it is that of the velocity, so that
times of little noise, where edges are made, count too (Li & He 2025, arXiv:2511.13720). Else w is 1.
The gates g start at 0, so that every block starts as the identity (adaLN-Zero). Labels are words of a caption or a
class; a row of no labels is the model without a condition, and guidance by w takes
    found = none + w (labels - none)                    w = 1 is the model itself
Pixels (B, C, H, H) from -1 to 1, labels (B, n) with -1 for none -> images.
Ho et al. 2020; Peebles & Xie 2022, arXiv:2212.09748 (DiT); Ho & Salimans 2022, arXiv:2207.12598 (guidance).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, PART, within
from llmanac.core.types import Batch, LossSum
from llmanac.data.pictures import Pictures
from llmanac.models.ffn.mlp import Spec as MLP
from llmanac.models.forward import Context
from llmanac.models.images import PatchesSpec
from llmanac.models.images._model import MultimodalModel, Patches, Vector, check_pixels, join
from llmanac.models.images.samplers import TRAINED, Predicts, SamplerSpec, Schedule, signal
from llmanac.models.images.samplers.ddim import Spec as DDIM
from llmanac.models.images.samplers.flow import Spec as Flow
from llmanac.models.layers import Embedding, Linear
from llmanac.models.masks import of_batch
from llmanac.models.mixers.softmax import Spec as Softmax
from llmanac.models.positions import Position

CARD = {
    "title": "Diffusion transformer",
    "paper": "Ho et al. 2020, arXiv:2006.11239; Peebles & Xie 2022, arXiv:2212.09748",
    "reference": "DiTTransformer2DModel and the schedulers of diffusers",
    "aliases": {"flow-matching": {"predicts": "flow"}},
    "titles": {"flow-matching": "Flow matching with a transformer"},
}
EPS = 1e-6
WAVES = 256  # of a time


@dataclass(frozen=True, kw_only=True)
class Spec(PatchesSpec):
    """image, patch, channels: H, p and C; dim: D; layers: L; heads: of attention; width: of the feed-forward layer.

    predicts: what the model finds; schedule: of the noise in training; drop: share of the rows that train without
    their labels, for guidance; weight: most that an error of the image counts, not used where something else is
    predicted;
    position: what tells patches apart, fixed waves or learned vectors (few patches have nearly the same waves).
    """

    patch: int = 4
    heads: int = 4
    width: int | None = None
    predicts: Predicts = "velocity"
    schedule: Schedule = "cosine"
    drop: float = 0.1
    weight: float = 1.0
    position: Literal["waves", "learned"] = "waves"

    ranges = within(COUNT, "heads weight") | within(PART, "drop")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim < 4 or self.dim % 4 or self.dim % self.heads:
            raise SpecError(f"dim: {self.dim} must be a multiple of 4 and of heads, {self.heads}")

    def build(self, *, vocab_size: int = 0, **dims: Any) -> Diffusion:
        """vocab_size: of labels; 0 for a model without a condition."""
        return Diffusion(self, vocab_size)


def grid_waves(dim: int, side: int) -> Tensor:
    """(side^2, dim) sines and cosines of column and row: two quarters each, of wavelengths from 2 pi to 2e4 pi."""
    rates = 10_000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    parts = [(at.flatten()[:, None] * rates) for at in (column, row)]
    return torch.cat([wave for part in parts for wave in (part.sin(), part.cos())], 1)


def time_waves(times: Tensor) -> Tensor:
    """Times (B,) -> (B, 256): cosines, then sines."""
    half = WAVES // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float64, device=times.device) / (half - 1))
    angles = times.double()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


class Time(nn.Module):
    """Times (B,) -> (B, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = Linear(WAVES, dim, bias=True), Linear(dim, dim, bias=True)

    def forward(self, times: Tensor) -> Tensor:
        y: Tensor = self.linear_2(F.silu(self.linear_1(time_waves(times).to(self.linear_1.weight.dtype))))
        return y


class ModulatedBlock(nn.Module):
    """Attention and a feed-forward layer, whose norms take shift, scale and gate from the condition."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.attn = Softmax(heads=spec.heads, biases="all").build(dim=spec.dim)
        self.mlp = MLP(activation="gelu-tanh", width=spec.width, biases="all").build(dim=spec.dim)
        self.modulation = Linear(spec.dim, 6 * spec.dim, bias=True, std=0.0)
        for part in (self.attn.o_proj, self.mlp.down_proj):
            part.std = part.in_features**-0.5  # the gate is 0 already

    def forward(self, x: Tensor, condition: Tensor, context: Context) -> Tensor:
        parts = self.modulation(F.silu(condition))[:, None].chunk(6, -1)
        x = x + parts[2] * self.attn(modulated(x, parts[0], parts[1]), context)
        return x + parts[5] * self.mlp(modulated(x, parts[3], parts[4]), context)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """A norm without weights of its own, then scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale) + shift


class Diffusion(MultimodalModel):
    """See the module."""

    waves: Tensor

    def __init__(self, spec: Spec, labels: int = 0) -> None:
        super().__init__(spec, labels)
        self.patches = Patches(spec.channels, spec.patch, spec.dim, bias=True)
        self.time = Time(spec.dim)
        self.labels = Embedding(labels + 1, spec.dim) if labels else None  # the last one is of no labels
        self.layers = nn.ModuleList(ModulatedBlock(spec) for _ in range(spec.layers))
        self.modulation = Linear(spec.dim, 2 * spec.dim, bias=True, std=0.0)
        self.head = Linear(spec.dim, spec.channels * spec.patch**2, bias=True, std=0.0)
        self.position = Position()
        side = spec.image // spec.patch
        self.places = Vector(side**2, spec.dim, std=0.5) if spec.position == "learned" else None
        self.register_buffer("waves", grid_waves(spec.dim, side).float(), persistent=False)
        self.begin()

    def condition(self, times: Tensor, labels: Tensor | None) -> Tensor:
        """Times (B,) and labels (B, n), -1 where there is none, or None -> c (B, D)."""
        c: Tensor = self.time(times)
        if self.labels is None:
            return c
        if labels is None:
            return c + self.labels.weight[-1]
        there = labels >= 0
        found = (self.labels(labels.clamp(min=0)) * there[..., None]).sum(1)
        return c + torch.where(there.any(1, keepdim=True), found, self.labels.weight[-1])

    def forward(self, pixels: Tensor, times: Tensor, labels: Tensor | None = None) -> Tensor:
        """x_t (B, C, H, H), times (B,) from 0 to T, labels (B, n) or None -> what the model predicts, like x_t."""
        check_pixels(pixels, self.spec.channels, self.spec.image)
        x = self.patches(pixels.to(self.dtype)) + (self.waves.to(self.dtype) if self.places is None else self.places())
        c = self.condition(times, labels)
        mask = of_batch(Batch(embeddings=x, mask="bidirectional"))
        context = Context(
            ids=None, positions=mask.queries, mask=mask, position=self.position, form=self.attention_form
        )  # fmt: skip
        for layer in self.layers:
            x = layer(x, c, context)
        shift, scale = self.modulation(F.silu(c))[:, None].chunk(2, -1)
        return join(self.head(modulated(x, shift, scale)), self.spec.patch, self.spec.image)

    def mixed(self, pixels: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Images, noise like them, times (B,) -> x_t and what the model must predict."""
        shape = (-1, 1, 1, 1)
        if self.spec.predicts == "flow":
            s = (times / TRAINED).to(pixels.dtype).view(shape)
            return (1 - s) * pixels + s * noise, noise - pixels
        a = signal(self.spec.schedule).to(times.device)[times.long()].to(pixels.dtype).view(shape)
        x = a.sqrt() * pixels + (1 - a).sqrt() * noise
        targets = {"noise": noise, "image": pixels, "velocity": a.sqrt() * noise - (1 - a).sqrt() * pixels}
        return x, targets[self.spec.predicts]

    def loss(self, batch: Pictures) -> LossSum:
        """The mean squared error of each image at a random time, summed over images. Labels are `ids` or `labels`."""
        pixels, rows = batch.pixels.to(self.dtype), len(batch)
        labels = batch.ids if batch.ids is not None else None if batch.labels is None else batch.labels[:, None]
        if labels is not None and self.spec.drop:
            labels = labels.masked_fill(torch.rand(rows, 1, device=labels.device) < self.spec.drop, -1)
        times = torch.rand(rows, device=pixels.device) * TRAINED
        times = times if self.spec.predicts == "flow" else times.floor()
        x, target = self.mixed(pixels, torch.randn_like(pixels), times)
        error = (self(x, times, labels) - target).square().mean((1, 2, 3))
        if self.spec.weight > 1 and self.spec.predicts == "image":
            noise = 1 - signal(self.spec.schedule).to(times.device)[times.long()].to(error.dtype)
            error = error / noise.clamp(min=1 / self.spec.weight)
        return error.sum(), rows, {}

    @torch.no_grad()
    def generate(
        self,
        labels: Tensor | None = None,
        *,
        rows: int | None = None,
        sampler: SamplerSpec | None = None,
        guidance: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Images (B, C, H, H) from noise, of labels (B, n), or `rows` of them without.

        Args:
            sampler: how; by default DDIM, or flow matching for a model of the flow, of 50 steps.
            guidance: w.
        """
        spec, count = self.spec, len(labels) if labels is not None else rows or 1
        sampler = sampler or (Flow() if spec.predicts == "flow" else DDIM())
        x = torch.randn(count, spec.channels, spec.image, spec.image, generator=generator).to(self.device, self.dtype)

        def denoise(x: Tensor, times: Tensor) -> Tensor:
            if labels is None or guidance == 1.0:
                found: Tensor = self(x, times, labels)
                return found
            both = torch.cat([labels, torch.full_like(labels, -1)])
            told, alone = self(torch.cat([x, x]), torch.cat([times, times]), both).chunk(2)
            return alone + guidance * (told - alone)

        made: Tensor = sampler.build(predicts=spec.predicts, schedule=spec.schedule).sample(denoise, x, generator)
        return made
