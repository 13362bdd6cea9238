"""Cross-entropy of a linear head without its logits: values and gradients chunk by chunk.

    nll_i = log sum_v exp(h_i . w_v + b_v) - (h_i . w_y + b_y)        h (N, D), w (V, D), y (N,)

The logits (N, V) dominate the memory of a small model; here at most `chunk` rows of them exist at a time. For a sum the
gradients are made in the same pass, since the slope with respect to a logit, p - 1[v = y], needs only what is there
already. For values a row (`reduction="none"`) the slopes depend on what comes from above, so the backward pass computes
each chunk again. Places whose target is IGNORE are left out before the product with the vocabulary. With a soft cap a
the logits are a tanh(x / a); the slope of a chunk's, 1 - tanh^2(x / a), is kept with it.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from llmanac.core.errors import LlmanacError
from llmanac.core.types import IGNORE
from llmanac.kernels.nn.takes import fused, large, linear
from llmanac.kernels.nn.uncompiled import uncompiled

CHUNK_ELEMENTS = 1 << 21  # logits held at a time
PIECE_ROWS = 2048
CHUNK_ROWS = (256, 4096)  # below 256 rows, adding each chunk's gradient to the weight's costs more than making it
FROZEN_ROWS = 128  # where the weight gets none


class PackedHead(NamedTuple):
    """h (n, D) -> h W^T (n, V), and slopes (n, V) -> slopes W (n, D), of a W that is unpacked a piece at a time."""

    multiply: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


def chunk_rows(vocab_size: int, frozen: bool = False) -> int:
    """Rows of logits that are held at a time. `frozen`: the matrix of the head gets no gradient."""
    return min(max(CHUNK_ELEMENTS // vocab_size, FROZEN_ROWS if frozen else CHUNK_ROWS[0]), CHUNK_ROWS[1])


@uncompiled  # its loop and its selection of rows are nothing that a compiler improves
def fused_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    chunk: int | None = None,
    reduction: Literal["sum", "none"] = "sum",
    mixture: tuple[Tensor, Tensor] | None = None,
    fixed: int = 0,
    softcap: float | None = None,
    packed: PackedHead | None = None,
) -> Tensor:
    """Negative log-likelihood in nats of `targets` under softmax(hidden @ weight^T + bias).

    Args:
        hidden: (N, D); products are computed in its dtype (under autocast in autocast's), sums in float32 at least.
        weight: (V, D); bias: (V,) or None.
        targets: (N,) integers below V, or IGNORE.
        chunk: rows of logits held at a time; by default what makes 2^21 logits, at least 256 (128 of a frozen head).
        reduction: the sum () or each row's value (N,), 0 where the target is IGNORE.
        mixture: (a, b), each (N,): the target's log-probability becomes log(exp(a + log p) + exp(b)), how a pointer
            head joins what it copies (b) with the vocabulary (a is the log of its probability).
        fixed: leading columns of `weight` that get no gradient (zeros), which saves its product: a frozen matrix beside
            trained columns.
        softcap: a, the bound of the logits; None for none.
        packed: the products with a `weight` that is held in fewer bits, which gets no gradient.

    Raises:
        LlmanacError: a target that is neither IGNORE nor below V, or shapes that do not fit.
    """
    if hidden.ndim != 2 or targets.shape != hidden.shape[:1] or weight.shape[1:] != hidden.shape[1:]:
        raise LlmanacError(
            f"cross-entropy: hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)} and targets "
            f"{tuple(targets.shape)} must be (N, D), (V, D) and (N,)"
        )
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    rows = (targets != IGNORE).nonzero().squeeze(1)
    everything = len(rows) == len(targets)
    kept = targets if everything else targets[rows]
    if len(kept) and (int(kept.min()) < 0 or int(kept.max()) >= len(weight)):
        wrong = kept[(kept < 0) | (kept >= len(weight))][0]
        raise LlmanacError(f"targets: {int(wrong)} is not a token id below {len(weight)}, nor IGNORE ({IGNORE})")
    if not everything:
        hidden = hidden.index_select(0, rows)
        mixture = None if mixture is None else (mixture[0][rows], mixture[1][rows])
    if not torch.is_grad_enabled():  # needs_input_grad is set even where no gradient will be computed
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    gate, other = (None, None) if mixture is None else mixture
    loops = bias is None and softcap is None and fused(hidden, *(() if packed else (weight,)))
    size = chunk or chunk_rows(len(weight), not weight.requires_grad)
    with torch.autocast(hidden.device.type, enabled=False):
        if reduction == "sum":
            total: Tensor = _Sum.apply(hidden, weight, bias, kept, gate, other, size, fixed, softcap, loops, packed)
            return total
        values: Tensor = _Rows.apply(hidden, weight, bias, kept, gate, other, size, fixed, softcap, loops, packed)
    if everything:
        return values
    return values.new_zeros(targets.shape).index_copy(0, rows, values)


def _upcast(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class _Chunks:
    """The forward pass over chunks of rows, and the gradients of one chunk."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        size: int,
        softcap: float | None,
        loops: bool = False,
        packed: PackedHead | None = None,
    ) -> None:
        self.hidden, self.targets, self.size, self.softcap = hidden, targets, size, softcap
        self.loops, self.packed = loops, packed
        self.weight = weight if packed else weight.to(hidden.dtype)
        self.bias = None if bias is None else bias.to(_upcast(hidden.dtype))
        self.shape, self.dtype = weight.shape, _upcast(hidden.dtype)
        # every chunk is worked out in the same memory: one of these is the largest tensor of a small model's step
        rows = min(size, len(hidden))
        own = packed is not None or large(hidden[:rows], self.weight)  # products have memory of their own
        self.products = hidden.new_empty(0 if own else rows, len(weight))
        same = loops or self.dtype == hidden.dtype
        self.logits = self.products if same else hidden.new_empty(rows, len(weight), dtype=self.dtype)
        self.bend = None if softcap is None else hidden.new_empty(rows, len(weight), dtype=self.dtype)

    def multiply(self, rows: slice) -> Tensor:
        """The products of some rows with the matrix, whose memory the next ones may take."""
        hidden = self.hidden[rows]
        if self.packed is not None:
            return self.packed.multiply(hidden)
        if len(self.products) < len(hidden):
            return linear(hidden, self.weight)
        return torch.mm(hidden, self.weight.t(), out=self.products[: len(hidden)])

    def in_place(
        self, scale: Tensor | None, *, slopes: bool, gate: Tensor | None = None, other: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """For each chunk: its rows, the slopes of scale * value in the memory of its logits, the values, the scale."""
        from llmanac.kernels.nn._cross_entropy_loops import values_and_slopes_  # what is not trained needs no numba

        for first in range(0, len(self.hidden), self.size):
            rows = slice(first, min(first + self.size, len(self.hidden)))
            products = self.multiply(rows)
            above = None if scale is None else scale[rows]
            mixture = None if gate is None or other is None else (gate[rows], other[rows])
            found = values_and_slopes_(products, self.targets[rows], above, slopes=slopes, mixture=mixture)
            yield rows, products, *found
            del products

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """For each chunk: its rows, exp(logits - max) which the caller may overwrite, their sum, and the values."""
        for first in range(0, len(self.hidden), self.size):
            rows = slice(first, min(first + self.size, len(self.hidden)))
            count = rows.stop - rows.start
            logits = self.multiply(rows)
            if logits.dtype != self.dtype:
                logits = self.logits[:count].copy_(logits)
            if self.bias is not None:
                logits += self.bias
            if self.bend is not None and self.softcap is not None:
                torch.square(logits.div_(self.softcap).tanh_(), out=self.bend[:count]).neg_().add_(1)
                logits *= self.softcap
            logits -= logits.amax(dim=1, keepdim=True)
            hit = logits.gather(1, self.targets[rows, None]).squeeze(1)
            exponentials = logits.exp_()
            sums = exponentials.sum(dim=1)
            yield rows, exponentials, sums, sums.log() - hit
            del logits, exponentials

    def slopes(self, rows: slice, exponentials: Tensor, sums: Tensor, scale: Tensor | None) -> Tensor:
        """d(sum of scale * value) / d logits, in the dtype of the products; valid until the next chunk."""
        factor = sums.reciprocal() if scale is None else scale / sums
        slopes = exponentials.mul_(factor[:, None])
        minus = -slopes.new_ones(len(sums)) if scale is None else -scale
        slopes.scatter_add_(1, self.targets[rows, None], minus[:, None])
        if self.bend is not None:
            slopes.mul_(self.bend[: len(slopes)])
        if slopes.dtype == self.hidden.dtype:
            return slopes
        return slopes.to(self.hidden.dtype) if self.packed else self.products[: len(slopes)].copy_(slopes)

    def back(self, slopes: Tensor, out: Tensor) -> None:
        """Put the gradient of some rows of hidden into `out`."""
        if self.packed is not None:
            out.copy_(self.packed.back(slopes))
        elif len(self.weight) > PIECE_ROWS:
            out.copy_(linear(slopes, self.weight.t()))
        else:
            torch.mm(slopes, self.weight, out=out)


class _Grads:
    """Gradients with respect to hidden, weight and bias, filled chunk by chunk."""

    def __init__(self, chunks: _Chunks, wanted: tuple[bool, bool, bool], fixed: int) -> None:
        self.chunks, self.fixed = chunks, fixed
        dtype, device = chunks.dtype, chunks.hidden.device
        self.hidden = torch.empty_like(chunks.hidden) if wanted[0] else None
        self.weight = torch.zeros(chunks.shape, dtype=dtype, device=device) if wanted[1] else None
        self.bias = torch.zeros(chunks.shape[0], dtype=dtype, device=device) if wanted[2] else None

    def add(self, rows: slice, slopes: Tensor) -> None:
        if self.hidden is not None:
            self.chunks.back(slopes, self.hidden[rows])
        if self.weight is not None:
            weight, hidden = self.weight[:, self.fixed :], self.chunks.hidden[rows, self.fixed :]
            # a piece is copied: of a small vocabulary that would be as much again as the chunk
            if len(weight) > PIECE_ROWS and large(slopes.t()[:PIECE_ROWS], hidden.t()):
                for own, piece in zip(weight.split(PIECE_ROWS), slopes.t().split(PIECE_ROWS), strict=True):
                    own += linear(piece, hidden.t())
            elif slopes.dtype == weight.dtype:
                weight.addmm_(slopes.t(), hidden)
            else:
                product = slopes.t() @ hidden
                # a piece at a time: adding bfloat16 to float32 first makes a float32 copy of what is added
                for own, piece in zip(weight.split(PIECE_ROWS), product.split(PIECE_ROWS), strict=True):
                    own += piece
        if self.bias is not None:
            self.bias += slopes.sum(dim=0, dtype=self.bias.dtype)


def _mixed(values: Tensor, gate: Tensor | None, other: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The mixture's values, and how much of each target's probability the vocabulary carries."""
    if gate is None or other is None:
        return values, None
    total = torch.logaddexp(gate - values, other)
    return -total, (gate - values - total).exp()


def _mixture_gradients(carried: Tensor | None, above: Tensor) -> tuple[Tensor | None, Tensor | None]:
    if carried is None:
        return None, None
    return -carried * above, (carried - 1) * above


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, gate: Tensor | None,
        other: Tensor | None, size: int, fixed: int, softcap: float | None, loops: bool,
        packed: PackedHead | None,
    ) -> Tensor:  # fmt: skip
        chunks = _Chunks(hidden, weight, bias, targets, size, softcap, loops, packed)
        wanted = ctx.needs_input_grad[:3]
        grads = _Grads(chunks, wanted, fixed)
        total = torch.zeros((), dtype=chunks.dtype, device=hidden.device)
        carried = None if gate is None else torch.empty(len(hidden), dtype=chunks.dtype, device=hidden.device)
        walked = chunks.in_place(None, slopes=any(wanted), gate=gate, other=other) if loops else ()
        for rows, slopes, values, shares in walked:
            total += values.sum()
            if carried is not None:
                carried[rows] = shares
            if any(wanted):
                grads.add(rows, slopes)
            del slopes  # before the next chunk takes memory
        for rows, exponentials, sums, values in () if loops else chunks:
            part = None if gate is None else gate[rows]
            values, weights = _mixed(values, part, None if other is None else other[rows])
            total += values.sum()
            if carried is not None and weights is not None:
                carried[rows] = weights
            if any(wanted):
                grads.add(rows, chunks.slopes(rows, exponentials, sums, weights))
            del exponentials
        ctx.spent, ctx.fixed = False, fixed
        ctx.save_for_backward(grads.hidden, grads.weight, grads.bias, carried)
        ctx.dtypes = (weight.dtype, None if bias is None else bias.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (above,) = grads
        if ctx.spent:
            raise LlmanacError('cross-entropy: a sum runs backward once; use reduction="none" to do so again')
        ctx.spent = True
        hidden, weight, bias, carried = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        # in place: a second copy of the weight's gradient would cost as much as the head itself
        hidden = None if hidden is None else hidden.mul_(above)
        if weight is not None:
            weight[:, ctx.fixed :].mul_(above)
            weight = weight.to(weight_dtype)
        bias = None if bias is None else bias.mul_(above).to(bias_dtype)
        gate, other = _mixture_gradients(carried, above)
        return hidden, weight, bias, None, gate, other, None, None, None, None, None


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, gate: Tensor | None,
        other: Tensor | None, size: int, fixed: int, softcap: float | None, loops: bool,
        packed: PackedHead | None,
    ) -> Tensor:  # fmt: skip
        chunks = _Chunks(hidden, weight, bias, targets, size, softcap, loops, packed)
        values = torch.empty(len(hidden), dtype=chunks.dtype, device=hidden.device)
        for rows, _, _, part in () if loops else chunks:
            values[rows] = part
        for rows, _, part, _ in chunks.in_place(None, slopes=False) if loops else ():
            values[rows] = part
        ctx.size, ctx.fixed, ctx.softcap, ctx.loops = size, fixed, softcap, loops
        ctx.packed = packed
        values, carried = _mixed(values, gate, other)
        ctx.save_for_backward(hidden, weight, bias, targets, carried)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (above,) = grads
        hidden, weight, bias, targets, carried = ctx.saved_tensors
        chunks = _Chunks(hidden, weight, bias, targets, ctx.size, ctx.softcap, ctx.loops, ctx.packed)
        found = _Grads(chunks, ctx.needs_input_grad[:3], ctx.fixed)
        scale = above.to(chunks.dtype) if carried is None else above.to(chunks.dtype) * carried
        for rows, slopes, _, _ in chunks.in_place(scale, slopes=True) if ctx.loops else ():
            found.add(rows, slopes)
            del slopes
        for rows, exponentials, sums, _ in () if ctx.loops else chunks:
            found.add(rows, chunks.slopes(rows, exponentials, sums, scale[rows]))
            del exponentials
        gate, other = _mixture_gradients(carried, above)
        bias_grad = None if found.bias is None else found.bias.to(bias.dtype)
        weight_grad = None if found.weight is None else found.weight.to(weight.dtype)
        return found.hidden, weight_grad, bias_grad, None, gate, other, None, None, None, None, None
