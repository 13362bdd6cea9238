"""VQ-VAE: an image as a small grid of numbers from a codebook, which a language model can write.

    z = encoder(image) (h, h, d)    k = argmin_j |z - e_j|    image' = decoder(e_k)
    loss = |image - image'|^2 + beta |z - sg(e_k)|^2

The gradient passes the rounding as if it were not there (straight-through). The codebook has no gradient: each e_j is
the moving mean of the z that chose it,

    n_j = a n_j + (1 - a) #z    s_j = a s_j + (1 - a) sum z    e_j = s_j / n_j        (n_j smoothed towards 1)

It starts from the k-means of the first batch, and a code that is chosen less than `revive` times a batch is replaced by
a z of the batch: without both most codes are never used. Pixels (B, C, H, H) -> codes (B, h h), h = H / 2^(levels - 1).
van den Oord et al. 2017, arXiv:1711.00937; Razavi et al. 2019 (moving means); Dhariwal et al. 2020 (revival).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.core.errors import RequestError, SpecError
from llmanac.core.ranges import COUNT, NOT_NEGATIVE, PART, Range, within
from llmanac.core.spec import Spec as PlainSpec
from llmanac.core.types import LossSum
from llmanac.data.pictures import Pictures
from llmanac.models.images import MultimodalSpec
from llmanac.models.images._conv import Conv, ConvDecoder, ConvEncoder
from llmanac.models.images._model import MultimodalModel, check_pixels, full_precision

CARD = {
    "title": "Vector-quantized autoencoder",
    "paper": "van den Oord et al. 2017, arXiv:1711.00937",
    "reference": "vector-quantize-pytorch on the same codebook; ChameleonVQVAE in transformers for the encoder",
}
SMOOTHING = 1e-5
MOST_LEVELS = 8


@dataclass(frozen=True, kw_only=True)
class CodebookSpec(PlainSpec):
    """codes: K; dim: d of a code; decay: a of the moving means; revive: uses a batch below which a code is replaced.

    start: how the codes begin, the k-means of the first batch or normal numbers.
    """

    codes: int = 128
    dim: int = 16
    decay: float = 0.97
    revive: float = 1.0
    start: Literal["k-means", "normal"] = "k-means"

    ranges = within(Range(2), "codes") | within(COUNT, "dim") | within(PART, "decay") | within(NOT_NEGATIVE, "revive")


@dataclass(frozen=True, kw_only=True)
class Spec(MultimodalSpec):
    """image, channels: H and C; base: channels at full resolution; multipliers: of them, a level each.

    blocks: residual blocks a level; latent: channels of the encoder's output; groups: of the norms; attention: in the
    middle, or none; commitment: beta; codebook: see `CodebookSpec`.
    """

    image: int = 32
    channels: int = 3
    base: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 1
    latent: int = 16
    groups: int = 8
    attention: Literal["middle", "none"] = "none"
    commitment: float = 0.25
    codebook: CodebookSpec = field(default_factory=CodebookSpec)

    ranges = within(COUNT, "image channels base blocks latent groups multipliers")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.multipliers) <= MOST_LEVELS:
            raise SpecError(f"multipliers: from 1 to {MOST_LEVELS} numbers from 1 on, not {self.multipliers}")
        if self.base % self.groups:
            raise SpecError(f"groups: {self.groups} must divide base, {self.base}")
        if self.image % 2 ** (len(self.multipliers) - 1):
            raise SpecError(f"image: {self.image} cannot be halved {len(self.multipliers) - 1} times")

    @property
    def side(self) -> int:
        """h."""
        return self.image // 2 ** (len(self.multipliers) - 1)

    def build(self, *, vocab_size: int = 0, **dims: Any) -> VQVAE:
        return VQVAE(self)


class Codebook(nn.Module):
    """See the module. Its statistics are buffers: a training that is measured or resumed takes them along.

    Attributes:
        weight: (K, d) the codes; counts: (K,) and sums: (K, d), their moving means; started: whether they began.
    """

    weight: Tensor
    counts: Tensor
    sums: Tensor
    started: Tensor

    def __init__(self, spec: CodebookSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("weight", torch.zeros(spec.codes, spec.dim))
        self.register_buffer("counts", torch.ones(spec.codes))
        self.register_buffer("sums", torch.zeros(spec.codes, spec.dim))
        self.register_buffer("started", torch.zeros(()))

    def settle(self) -> None:
        """Begin the statistics from the codes, which were read from a file without any."""
        self.counts, self.sums = torch.ones_like(self.weight[:, 0]), self.weight.clone()
        self.started = torch.ones_like(self.weight[0, 0])

    def nearest(self, z: Tensor) -> Tensor:
        """(..., d) -> (...) the number of the nearest code."""
        flat = z.reshape(-1, z.shape[-1]).to(self.weight.dtype)
        with full_precision(z):
            distances = self.weight.square().sum(1) - 2 * flat @ self.weight.T
        return distances.argmin(1).view(z.shape[:-1])

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z (..., d) -> codes' vectors (..., d) with the gradient of z, their numbers (...), mean |z - e|^2 ()."""
        z = z.to(self.weight.dtype)
        flat = z.detach().reshape(-1, z.shape[-1])
        if self.training and not bool(self.started):
            self.begin(flat)
        numbers = self.nearest(z)
        found = self.weight[numbers]
        if self.training:
            self.update(flat, numbers.flatten())
        return z + (found - z).detach(), numbers, F.mse_loss(z, found.detach())

    @torch.no_grad()
    def begin(self, z: Tensor, rounds: int = 10) -> None:
        """Start from z (N, d): its k-means, or normal numbers of its mean and deviation."""
        count = self.spec.codes
        if self.spec.start == "normal":
            self.weight.copy_(z.mean(0) + z.std(0) * torch.randn_like(self.weight))
            self.counts.fill_(1.0)
        else:
            self.weight.copy_(z[_some(len(z), count, z.device)])
            for _ in range(rounds):
                numbers = self.nearest(z)
                self.counts.copy_(numbers.bincount(minlength=count))
                sums = torch.zeros_like(self.sums).index_add_(0, numbers, z)
                used = self.counts > 0
                self.weight[used] = sums[used] / self.counts[used, None]
        self.sums.copy_(self.weight * self.counts[:, None])
        self.started.fill_(1.0)

    @torch.no_grad()
    def update(self, z: Tensor, numbers: Tensor) -> None:
        """One step of the moving means from z (N, d) and the codes that they chose; then dead codes are replaced."""
        spec = self.spec
        self.counts.lerp_(numbers.bincount(minlength=spec.codes).to(z.dtype), 1 - spec.decay)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, numbers, z), 1 - spec.decay)
        total = self.counts.sum()
        smooth = (self.counts + SMOOTHING) / (total + spec.codes * SMOOTHING) * total
        self.weight.copy_(self.sums / smooth[:, None])
        dead = self.counts < spec.revive
        if bool(dead.any()):
            chosen = dead.nonzero()[:, 0][: len(z)]  # the rest at the next step
            self.weight[chosen] = z[_some(len(z), len(chosen), z.device)]
            self.counts[chosen] = max(spec.revive, SMOOTHING)
            self.sums[chosen] = self.weight[chosen] * self.counts[chosen, None]


def _some(total: int, count: int, device: torch.device) -> Tensor:
    """`count` different numbers below `total`, repeated where there are fewer."""
    if total >= count:
        return torch.randperm(total, device=device)[:count]
    return torch.randint(total, (count,), device=device)


class VQVAE(MultimodalModel):
    """See the module."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.encoder, self.decoder = ConvEncoder(spec), ConvDecoder(spec)
        self.quant_conv = Conv(spec.latent, spec.codebook.dim, 1)
        self.post_quant_conv = Conv(spec.codebook.dim, spec.latent, 1)
        self.codebook = Codebook(spec.codebook)
        self.begin()

    def latents(self, pixels: Tensor) -> Tensor:
        """(B, C, H, H) -> z (B, h, h, d)."""
        check_pixels(pixels, self.spec.channels, self.spec.image)
        pixels = pixels.to(self.dtype, memory_format=torch.channels_last)  # convolutions are a sixth faster on a CPU
        z: Tensor = self.quant_conv(self.encoder(pixels))
        return z.permute(0, 2, 3, 1)

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, C, H, H) -> codes (B, h h), row by row."""
        return self.codebook.nearest(self.latents(pixels)).flatten(1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h h) -> (B, C, H, H). Raises RequestError for codes that are not there."""
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.spec.codebook.codes:
            raise RequestError(f"codes: must be from 0 to {self.spec.codebook.codes - 1}")
        return self._decoded(self.codebook.weight[codes.view(len(codes), self.spec.side, self.spec.side)])

    def _decoded(self, found: Tensor) -> Tensor:
        y: Tensor = self.decoder(self.post_quant_conv(found.permute(0, 3, 1, 2)))
        return y

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, H) -> what is left of it, its codes (B, h, h), and mean |z - e|^2."""
        found, numbers, commitment = self.codebook(self.latents(pixels))
        return self._decoded(found), numbers, commitment

    def loss(self, batch: Pictures) -> LossSum:
        """The summed loss over images; the squared error, and how many different codes the batch uses."""
        rebuilt, numbers, commitment = self(batch.pixels)
        error = F.mse_loss(rebuilt, batch.pixels.to(rebuilt.dtype))
        total, rows = error + self.spec.commitment * commitment, len(batch)
        used = torch.tensor(len(numbers.unique()) / self.spec.codebook.codes)
        return total * rows, rows, {"squared_error": error.detach() * rows, "codes_used": used * rows}

    @torch.no_grad()
    def usage(self, pixels: Tensor, size: int = 256) -> Tensor:
        """(K,) how often each code is chosen for these images."""
        parts = [
            self.encode(part).flatten().bincount(minlength=self.spec.codebook.codes) for part in pixels.split(size)
        ]
        return torch.stack(parts).sum(0)
