"""The short causal convolution in front of a selective state space, and the first values of its step sizes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def last_inputs(stream: Tensor, lengths: Tensor | None, count: int) -> Tensor:
    """The last `count` real inputs of (B, E, count + T), of which the first `count` came before."""
    if lengths is None:
        return stream[..., stream.shape[-1] - count :]
    index = lengths[:, None] + torch.arange(count, device=stream.device)
    return stream.gather(2, index[:, None].expand(-1, stream.shape[1], -1))


class Convolution(nn.Module):
    """A causal depthwise convolution of (B, E, kernel - 1 + T) -> (B, E, T) that does not cross documents."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, stream: Tensor, segments: Tensor | None) -> Tensor:
        weight, bias = self.weight.to(stream.dtype), self.bias.to(stream.dtype)
        if segments is None:
            return F.conv1d(stream, weight, bias, groups=len(weight))
        kernel, length = weight.shape[-1], segments.shape[1]
        padded = F.pad(segments, (kernel - 1, 0), value=-1)
        total = bias[:, None].expand(len(stream), -1, length)
        for tap in range(kernel):
            same = padded[:, tap : tap + length] == segments
            total = total + stream[..., tap : tap + length] * same[:, None] * weight[:, 0, tap, None]
        return total

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        if name == "bias":
            parameter.zero_()
        else:
            parameter.copy_(
                torch.empty(parameter.shape).uniform_(-1, 1, generator=generator) * parameter.shape[-1] ** -0.5
            )


@torch.no_grad()
def init_step(parameter: Tensor, generator: torch.Generator) -> None:
    """A bias of which softplus gives 0.001 to 0.1, evenly in the log."""
    drawn = torch.empty(parameter.shape, dtype=torch.float64).uniform_(generator=generator)
    step = torch.exp(drawn * math.log(100) + math.log(0.001))
    parameter.copy_(step + torch.log(-torch.expm1(-step)))
