"""Convolutional parts of image autoencoders: residual blocks, attention between places, encoder and decoder.

The layout is VQGAN's (Esser et al. 2021, arXiv:2012.09841): at each level residual blocks, then half the resolution;
in the middle two residual blocks with attention between them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.models.layers import init_normal


class Conv(nn.Conv2d):
    """A convolution that is initialised by name: normal, fan_in^-0.5 (0 for `last`), biases 0."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, *, stride: int = 1, padding: int | None = None,
                 groups: int = 1, bias: bool = True, last: bool = False) -> None:  # fmt: skip
        padding = size // 2 if padding is None else padding
        super().__init__(inputs, outputs, size, stride, padding, groups=groups, bias=bias)
        self.last = last

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        std = 0.0 if self.last or name == "bias" else parameter[0].numel() ** -0.5
        init_normal(parameter, std, generator)


class GroupNorm(nn.GroupNorm):
    """Group normalisation, weights 1 and biases 0 to start with."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__(groups, channels, eps=1e-6)

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.fill_(1.0 if name == "weight" else 0.0)


class ResidualConv(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); the first path through one 1 x 1 product where channels change."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(groups, inputs), Conv(inputs, outputs)
        self.norm2, self.conv2 = GroupNorm(groups, outputs), Conv(outputs, outputs, last=True)
        self.nin_shortcut = None if inputs == outputs else Conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        short: Tensor = x if self.nin_shortcut is None else self.nin_shortcut(x)
        return short + y


class ConvAttention(nn.Module):
    """x + W_o attend(q, k, v) between all places of an image, in one head."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels)
        self.q, self.k, self.v = (Conv(channels, channels, 1) for _ in range(3))
        self.proj_out = Conv(channels, channels, 1, last=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (part(y).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v))
        read = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(read)


class Middle(nn.Module):
    """A residual block, attention, a residual block."""

    def __init__(self, channels: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.block_1, self.block_2 = ResidualConv(channels, channels, groups), ResidualConv(channels, channels, groups)
        self.attn_1 = ConvAttention(channels, groups) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return y


class Down(nn.Module):
    """Half the resolution: a convolution of stride 2 with a place of padding after the image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 3, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return y


class Up(nn.Module):
    """Twice the resolution: each place four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y


class ConvLevel(nn.Module):
    """The residual blocks of one resolution, and what leads to the next."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, groups: int, change: nn.Module | None, name: str
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResidualConv(inputs if i == 0 else outputs, outputs, groups) for i in range(blocks))
        self.change = None if change is None else name
        if change is not None:
            self.add_module(name, change)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x if self.change is None else self.get_submodule(self.change)(x)


class ConvEncoder(nn.Module):
    """(B, C, H, H) -> (B, latent, h, h), h = H / 2^(levels - 1)."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        widths = [spec.base * m for m in spec.multipliers]
        before = [spec.base, *widths[:-1]]
        self.conv_in = Conv(spec.channels, spec.base)
        self.down = nn.ModuleList(
            ConvLevel(a, b, spec.blocks, spec.groups, Down(b) if i + 1 < len(widths) else None, "downsample")
            for i, (a, b) in enumerate(zip(before, widths, strict=True))
        )
        self.mid = Middle(widths[-1], spec.groups, spec.attention == "middle")
        self.norm_out = GroupNorm(spec.groups, widths[-1])
        self.conv_out = Conv(widths[-1], spec.latent)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        y: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return y


class ConvDecoder(nn.Module):
    """(B, latent, h, h) -> (B, C, H, H): the encoder's levels in the other order."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        widths = [spec.base * m for m in reversed(spec.multipliers)]
        before = [widths[0], *widths[:-1]]
        self.conv_in = Conv(spec.latent, widths[0])
        self.mid = Middle(widths[0], spec.groups, spec.attention == "middle")
        self.up = nn.ModuleList(
            ConvLevel(a, b, spec.blocks, spec.groups, Up(b) if i + 1 < len(widths) else None, "upsample")
            for i, (a, b) in enumerate(zip(before, widths, strict=True))
        )
        self.norm_out = GroupNorm(spec.groups, widths[-1])
        self.conv_out = Conv(widths[-1], spec.channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in self.up:
            x = level(x)
        y: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return y
