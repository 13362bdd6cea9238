"""EfficientNet: convolutions, each channel by itself, between products of channels; the image encoder of ALIGN.

    block: y = project(gate(depthwise(expand(x))));  x = x + y where the shape stays      (B, C, H, W) -> (B, C', ..)
    gate(h) = h sigmoid(W_2 silu(W_1 mean(h)))        pooled = mean over places, (B, dim)

One number scales the widths of all stages and one their depths (B0 is 1 and 1). Batch norms keep running means.
Tan & Le 2019, arXiv:1905.11946; Jia et al. 2021, arXiv:2102.05918.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.core.ranges import COUNT, POSITIVE, Range, within
from llmanac.models.images import MultimodalSpec
from llmanac.models.images._conv import Conv
from llmanac.models.images._model import MultimodalModel, check_pixels

CARD = {
    "title": "EfficientNet",
    "paper": "Tan & Le 2019, arXiv:1905.11946",
    "reference": "AlignVisionModel in transformers, inside AlignModel",
    "test": "tests/references/test_clip.py::test_logits_and_loss_equal_transformers",
}
# inputs, outputs, kernel, stride, expansion, repeats
STAGES = (
    (32, 16, 3, 1, 1, 1), (16, 24, 3, 2, 6, 2), (24, 40, 5, 2, 6, 2), (40, 80, 3, 2, 6, 3), (80, 112, 5, 1, 6, 3),
    (112, 192, 5, 2, 6, 4), (192, 320, 3, 1, 6, 1),
)  # fmt: skip
SQUEEZE = 0.25


@dataclass(frozen=True, kw_only=True)
class Spec(MultimodalSpec):
    """image, channels: H and C; width, depth: factors of the stages; divisor: of all widths; eps: of the norms."""

    image: int = 64
    channels: int = 3
    width: float = 0.5
    depth: float = 0.5
    divisor: int = 8
    eps: float = 1e-3

    ranges = (
        within(COUNT, "image channels divisor")
        | within(Range(0, 16, above=True), "width depth")
        | within(POSITIVE, "eps")
    )

    def channels_of(self, count: int) -> int:
        """A stage's width: the nearest multiple of `divisor`, not more than a tenth below."""
        exact = count * self.width
        found = max(self.divisor, int(exact + self.divisor / 2) // self.divisor * self.divisor)
        return found + self.divisor if found < 0.9 * exact else found

    @property
    def dim(self) -> int:
        """Width of the output."""
        return self.channels_of(STAGES[-1][1])

    def build(self, *, vocab_size: int = 0, **dims: Any) -> EfficientNet:
        return EfficientNet(self)


class BatchNorm(nn.Module):
    """Each channel to mean 0 and variance 1 over batch and places; running means where it is not trained."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(channels)), nn.Parameter(torch.empty(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.01, self.eps
        )  # fmt: skip

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.fill_(1.0 if name == "weight" else 0.0)


class Stem(nn.Module):
    """Half the resolution."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        width = spec.channels_of(STAGES[0][0])
        self.convolution = Conv(spec.channels, width, 3, stride=2, padding=0, bias=False)
        self.batchnorm = BatchNorm(width, spec.eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.batchnorm(self.convolution(F.pad(x, (0, 1, 0, 1)))))


class Expansion(nn.Module):
    """More channels."""

    def __init__(self, inputs: int, outputs: int, eps: float) -> None:
        super().__init__()
        self.expand_conv, self.expand_bn = Conv(inputs, outputs, 1, bias=False), BatchNorm(outputs, eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.expand_bn(self.expand_conv(x)))


class Depthwise(nn.Module):
    """Each channel by itself."""

    def __init__(self, channels: int, kernel: int, stride: int, eps: float) -> None:
        super().__init__()
        half = kernel // 2
        self.pad = (half - 1, half, half - 1, half) if stride == 2 else (half, half, half, half)
        self.depthwise_conv = Conv(channels, channels, kernel, stride=stride, padding=0, groups=channels, bias=False)
        self.depthwise_norm = BatchNorm(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.depthwise_norm(self.depthwise_conv(F.pad(x, self.pad))))


class SqueezeExcite(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.reduce, self.expand = Conv(channels, inner, 1), Conv(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * torch.sigmoid(self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True)))))
        return y


class ChannelProjection(nn.Module):
    """Fewer channels."""

    def __init__(self, inputs: int, outputs: int, eps: float) -> None:
        super().__init__()
        self.project_conv, self.project_bn = Conv(inputs, outputs, 1, bias=False), BatchNorm(outputs, eps)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project_bn(self.project_conv(x))
        return y


class InvertedResidual(nn.Module):
    """See the module."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, first: bool, eps: float
    ) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expansion = Expansion(inputs, wide, eps) if expansion != 1 else None
        self.depthwise_conv = Depthwise(wide, kernel, stride, eps)
        self.squeeze_excite = SqueezeExcite(wide, max(1, int(inputs * SQUEEZE)))
        self.projection = ChannelProjection(wide, outputs, eps)
        self.same = not first

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expansion is None else self.expansion(x)
        y = self.projection(self.squeeze_excite(self.depthwise_conv(y)))
        return x + y if self.same else y


class EfficientNet(MultimodalModel):
    """See the module."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.embeddings = Stem(spec)
        blocks = []
        for inputs, outputs, kernel, stride, expansion, repeats in STAGES:
            before, after = spec.channels_of(inputs), spec.channels_of(outputs)
            for i in range(math.ceil(spec.depth * repeats)):
                kinds = (before, stride) if i == 0 else (after, 1)
                blocks.append(InvertedResidual(kinds[0], after, kernel, kinds[1], expansion, i == 0, spec.eps))
        self.encoder: Any = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})
        self.begin()

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, C, H, H) -> (B, places, dim)."""
        check_pixels(pixels, self.spec.channels, self.spec.image)
        x = self.embeddings(pixels.to(self.dtype))
        for block in self.encoder["blocks"]:
            x = block(x)
        return x.flatten(2).transpose(1, 2)

    def pool(self, x: Tensor) -> Tensor:
        """(B, places, dim) -> (B, dim)."""
        return x.mean(1)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, H, H) -> (B, dim)."""
        return self.pool(self.encode(pixels))
