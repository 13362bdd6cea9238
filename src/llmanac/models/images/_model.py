"""What the models of images share: initial weights by name, a stack of blocks over vectors, patches of an image."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.core.errors import RequestError
from llmanac.core.types import IGNORE, Batch, Capabilities, LossSum, MaskKind, OutputRequest
from llmanac.data.pictures import Pictures
from llmanac.models.forward import AttentionForm, Context, SourceMemory, run_layers
from llmanac.models.layers import Linear, init_normal
from llmanac.models.lm import DrawnModel
from llmanac.models.masks import AttentionMask, of_batch


class MultimodalModel(DrawnModel):
    """Base of the models: `initialise(seed)`, `parameter_count()` and `save_pretrained(folder)`, as language models.

    Attributes:
        spec, vocab_size: what it was built from.
        attention_form: how attention is computed; settable.
    """

    def __init__(self, spec: Any, vocab_size: int = 0) -> None:
        super().__init__()
        self.spec, self.vocab_size = spec, vocab_size
        self.attention_form: AttentionForm = "sdpa"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(settings=frozenset({"attention_form"}))

    def begin(self) -> None:
        """Give the parameters the initial weights of seed 0 (none on the meta device)."""
        if self.device.type != "meta":
            self.initialise(0)

    def settle(self) -> None:
        """Begin what is no parameter from those that were read from a file without it."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def save_pretrained(self, folder: str | Path, family: str | None = None) -> Path:
        """Write config.json, model.safetensors and llmanac.json; see `load.save_multimodal`."""
        from llmanac.models.images.load import save_multimodal

        return save_multimodal(self, folder, family)


class Writing(MultimodalModel):
    """Base of models that write answers to images."""

    def loss(self, batch: Pictures) -> LossSum:
        """Nats of the answers' tokens, and how many they are."""
        if batch.ids is None or batch.targets is None:
            raise RequestError(f"{self.spec.name}: training needs ids and targets")
        found = self(
            batch.ids, batch.pixels, lengths=batch.lengths, targets=batch.targets, want=OutputRequest(nll="sum")
        )
        return found.nll, (batch.targets != IGNORE).sum(), {}


class Choosing(MultimodalModel):
    """Base of models that choose among answers: their scores (B, K)."""

    def loss(self, batch: Pictures) -> LossSum:
        """Cross-entropy of the answers (`labels`), how many there are, and how many are right."""
        if batch.ids is None or batch.labels is None:
            raise RequestError(f"{self.spec.name}: training needs ids and labels")
        scores = self(batch.ids, batch.pixels, batch.lengths)
        right = (scores.argmax(1) == batch.labels).sum()
        return F.cross_entropy(scores, batch.labels, reduction="sum"), len(batch), {"accuracy": right}


class Vector(nn.Module):
    """One trained vector (or a few, (rows, dim)): a class token, queries, a gate."""

    def __init__(self, *shape: int, start: float | None = None, std: float = 0.02) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.value, self.std = start, std

    def forward(self) -> Tensor:
        return self.weight

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        if self.value is not None:
            parameter.fill_(self.value)
        else:
            init_normal(parameter, self.std, generator)


class Patches(nn.Module):
    """Squares of p x p pixels as vectors: (B, C, H, W) -> (B, H / p * W / p, D), row by row of the image.

    It is a convolution of stride p, computed as one matrix product.
    """

    def __init__(self, channels: int, patch: int, dim: int, *, bias: bool) -> None:
        super().__init__()
        self.patch = patch
        self.weight = nn.Parameter(torch.empty(dim, channels, patch, patch))
        self.bias = nn.Parameter(torch.empty(dim)) if bias else None

    def forward(self, pixels: Tensor) -> Tensor:
        return F.linear(cut(pixels, self.patch), self.weight.flatten(1), self.bias)

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        init_normal(parameter, parameter[0].numel() ** -0.5 if name == "weight" else 0.0, generator)


def cut(pixels: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, H / p * W / p, C * p * p)."""
    batch, channels, height, width = pixels.shape
    grid = pixels.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch * patch)


def join(patches: Tensor, patch: int, height: int) -> Tensor:
    """The inverse of `cut` for an image `height` pixels high."""
    batch, count, size = patches.shape
    rows = height // patch
    grid = patches.reshape(batch, rows, count // rows, size // patch**2, patch, patch)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(batch, size // patch**2, height, -1)


def check_pixels(pixels: Tensor, channels: int, image: int) -> None:
    """Raises RequestError where images are not (B, channels, image, image) of floating-point numbers."""
    expected = (channels, image, image)
    if pixels.ndim != 4 or tuple(pixels.shape[1:]) != expected or not pixels.is_floating_point():
        raise RequestError(
            f"pixels: expected floating-point numbers of shape (batch, {channels}, {image}, {image}), got "
            f"{tuple(pixels.shape)} {pixels.dtype}; see data/pictures/preprocess.py"
        )


def run_stack(
    part: Any,
    x: Tensor,
    *,
    real: Tensor | None = None,
    mask: MaskKind = "bidirectional",
    memory: SourceMemory | None = None,
    wanted: tuple[int, ...] = (),
    form: AttentionForm = "sdpa",
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Vectors (B, T, D) through the blocks of a module with `position` and `layers`; see `_pass.run_layers`.

    Args:
        real: (B, T) bool: places that are seen; None for all.
        memory: what cross-attention of the blocks reads.
    """
    made = of_batch(Batch(embeddings=x, mask=mask))
    positions = made.queries
    if real is not None:
        made = AttentionMask.of_source(real, x.shape[1])
    context = Context(ids=None, positions=positions, mask=made, position=part.position, form=form, memory=memory)
    return run_layers(part.layers, x, context.at(part.position, x.dtype), None, wanted)


def full_precision(x: Tensor) -> torch.autocast:
    """Without autocast, for what a short type does not hold."""
    return torch.autocast(x.device.type, enabled=False)


def everything(hidden: Tensor) -> SourceMemory:
    """A memory all of whose places are real."""
    return SourceMemory(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device))


def reading(memory: SourceMemory, position: Any, form: AttentionForm) -> Context:
    """A context for queries without places that read a memory."""
    mask = AttentionMask.of_source(memory.real, 1)
    return Context(ids=None, positions=mask.queries, mask=mask, position=position, form=form, memory=memory)


def spread(stack: nn.Module, layers: int) -> None:
    """Let the blocks of an encoder begin with effect: normal, (2 layers fan_in)^-0.5 in place of 0.

    Blocks that begin as the identity give every image the same class token and every text the same last one. Where all
    vectors are equal a contrastive loss has no gradient.
    """
    for module in stack.modules():
        if isinstance(module, Linear) and module.std == 0.0:
            module.std = (2 * layers * module.in_features) ** -0.5
