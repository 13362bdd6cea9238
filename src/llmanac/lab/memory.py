"""Bytes that fine-tuning takes, by formula from the shapes alone: nothing of the model is built or loaded.

    held = weights + adapter + gradients + optimizer                 16 a parameter of full training with AdamW
    peak = held before the backward pass + activations + workspace

A frozen matrix takes what its form takes: in NF4 with double quantization 4 + 8/64 + 32/(64 x 256) = 4.127 bits a
number. What is trained is float32, with a gradient and AdamW's two means. Activations are those of the worst moment of
a step, for blocks of attention and a gated layer (Llama's) with adapters; `_activations` counts them. Everything is
compared with the live tensors and with the allocator's events on small models, in tests/references/test_memory.py.

Dettmers et al. 2023, arXiv:2305.14314: QLoRA, whose figures for 65 billion parameters are 48 GB against 16 bytes each.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from llmanac.core.errors import SpecError
from llmanac.kernels.nn.cross_entropy import chunk_rows
from llmanac.models.blocks.pre_norm import Spec as PreNorm
from llmanac.models.ffn.gated import Spec as Gated
from llmanac.models.layers import Embedding, Linear, LinearMap
from llmanac.models.mixers.softmax import Spec as Softmax
from llmanac.models.quantized import PIECE
from llmanac.models.targets import find_targets
from llmanac.quant import nf4

RANDOM_STATE = 5056  # bytes of torch's generator, which a block that is computed again keeps


@dataclass(frozen=True)
class MemoryCost:
    """Bytes.

    Attributes:
        weights: of the model; adapter: trained besides; gradients, optimizer: of what is trained.
        activations: kept for the backward pass at the worst moment of a step, with gradients of activations.
        workspace: what that moment needs for a chunk of logits or a tile of a packed matrix.
        numbers: parameters of the model.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    workspace: int
    numbers: int

    @property
    def held(self) -> int:
        """Between the backward pass and the optimizer's step."""
        return self.weights + self.adapter + self.gradients + self.optimizer

    @property
    def peak(self) -> int:
        """At most at once. Gradients are complete when the activations are gone; both are counted, so it is a bound."""
        return self.held + self.activations + self.workspace


def memory(
    spec: Any, vocab_size: int, *, adapter: Any = None, quantizer: Any = None, dtype: torch.dtype = torch.float32,
    rows: int = 1, length: int = 512, recompute: Literal["none", "blocks"] = "blocks",
) -> MemoryCost:  # fmt: skip
    """What a step of fine-tuning takes.

    Args:
        spec: of a Transformer; adapter: a Spec, None for full fine-tuning; quantizer: None or NF4's Spec.
        dtype: what is computed in, and what frozen matrices are stored in.
        rows, length: of a micro-batch; 0 rows for what is held alone.
        recompute: as `Transformer.recompute`.

    Raises:
        SpecError: blocks or a quantizer for which there is no formula.
    """
    with torch.device("meta"):
        model = spec.build(vocab_size=vocab_size)
    numbers = sum(p.numel() for p in model.parameters())
    if adapter is None:
        if quantizer is not None:
            raise SpecError("quantizer: packed matrices carry no gradient; give an adapter too")
        weights = trained = 4 * numbers  # what is trained is float32
        added = 0
    else:
        weights = _weights(model, quantizer, dtype)
        added = trained = sum(p.nbytes for p in adapter.build().apply(model).parameters().values())
    activations = workspace = 0
    if rows:
        activations, workspace = _activations(
            model, vocab_size, quantizer, dtype, rows, length, recompute, 0 if adapter is None else 1
        )
    return MemoryCost(weights, added, trained, 2 * trained, activations, workspace, numbers)


def _weights(model: Any, quantizer: Any, dtype: torch.dtype) -> int:
    """Frozen: matrices packed or in `dtype`, vectors in float32."""
    packed: dict[int, int] = {}
    if quantizer is not None:
        if not isinstance(quantizer, nf4.Spec):
            raise SpecError(f"quantizer: there is no formula for {quantizer.name}; nf4 has one")
        for layer in find_targets(model, quantizer.targets, (LinearMap, Embedding)).values():
            packed[id(layer.weight)] = nf4.packed_bytes(tuple(layer.weight.shape), quantizer)
    narrow = {id(p) for m in model.modules() if isinstance(m, (Linear, Embedding)) for p in m.parameters(recurse=False)}
    total = 0
    for parameter in model.parameters():
        size = dtype.itemsize if id(parameter) in narrow or parameter.ndim > 1 else 4
        total += packed.get(id(parameter), parameter.numel() * size)
    return total


def _activations(
    model: nn.Module,
    vocab_size: int,
    quantizer: Any,
    dtype: torch.dtype,
    rows: int,
    length: int,
    recompute: str,
    adapted: int,
) -> tuple[int, int]:
    """The worst of three moments: the product of gate and up goes back, a packed matrix goes back, or the logits.

    A block keeps its input, both normed inputs, q, keys and values, what attention read, the stream between its parts
    (6 D + 2 K with the gradient that comes in for the input; K: the keys of a token), and gate, up and their product
    (3 F). Products with adapters (`adapted` is 1) make normed inputs and the product again (`models/low_rank.py`).
    """
    spec: Any = model.spec
    if any(type(b) is not PreNorm or type(b.mixer) is not Softmax or type(b.ffn) is not Gated for b in spec.blocks):
        raise SpecError("memory: activations are known for pre-norm blocks of softmax attention and a gated layer")
    blocks = [spec.blocks[i % len(spec.blocks)].resolved(spec.dim) for i in range(spec.layers)]
    dim, width, heads = spec.dim, max(b.ffn.width for b in blocks), max(b.mixer.heads for b in blocks)
    keys = max(b.mixer.kv_heads * b.mixer.head_dim for b in blocks)
    tokens, size, count = rows * length, dtype.itemsize, len(blocks)
    block = tokens * size * ((6 - 2 * adapted) * dim + 2 * keys) + 4 * tokens * (2 + heads)
    kept = (3 - adapted) * width
    turns = length * 2 * blocks[0].mixer.head_dim * size  # cosines and sines
    before = tokens * size * dim * count + RANDOM_STATE * count
    if recompute == "none":
        before = (count - 1) * (block + tokens * size * kept) + tokens * size * dim
    gated = block + tokens * size * 5 * width
    moments = [(before + turns + gated, 0)]
    if quantizer is not None:
        matrices = find_targets(model, quantizer.targets, (LinearMap, Embedding)).values()
        largest = max(min(layer.weight.numel(), max(PIECE, layer.weight.shape[1])) for layer in matrices)
        # values in float32, and what a product puts in another order
        moments.append((before + turns + block + tokens * size * (4 * width + dim), 6 * largest))
    logits = min(chunk_rows(vocab_size), tokens) * vocab_size * (4 + (size if size < 4 else 0))
    last = before if recompute == "blocks" else before + block + tokens * size * kept
    moments.append((last + turns + tokens * size * 3 * dim, logits))
    return max(moments, key=sum)
