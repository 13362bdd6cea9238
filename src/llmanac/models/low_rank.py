"""Products with frozen matrices and low-rank terms, as one step of autograd that keeps little for the backward pass.

    y_i = x W_i^T + b_i + s_i (x' A_i^T) B_i^T       x' is x, or x with a share p of it dropped and the rest 1 / (1 - p)

Kept are x, which the gradients of the A_i need, and which numbers were dropped, a byte each; in place of an x that is
cheap to make again, what it is made of (`remade`). Casts of the W_i to the dtype of x, the columns x' A_i^T and x' are
computed again. Maps of one x share it, and x A^T and the gradients that it enters are one product for all of them. A W
may be packed: it is dequantized tile by tile in both passes.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llmanac.kernels.nn.takes import Again, again, large, linear
from llmanac.models.quantized import Quantized, backward_product

EACH = 4  # tensors of a term


class Term(NamedTuple):
    """W (outputs, inputs) without a gradient, b (outputs,) or None, A (r, inputs), B (outputs, r), s and p."""

    weight: Tensor
    bias: Tensor | None
    a: Tensor
    b: Tensor
    scale: float
    dropout: float = 0.0


def low_rank(x: Tensor, *terms: Term) -> tuple[Tensor, ...]:
    """The y_i (..., outputs) of x (..., inputs)."""
    numbers = [(term.scale, term.dropout) for term in terms]
    found: tuple[Tensor, ...] = _LowRank.apply(x, again(x), numbers, *(y for term in terms for y in term[:EACH]))
    return found


class _LowRank(torch.autograd.Function):
    """See the module."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, made: Again | None, numbers: list[tuple[float, float]], *flat: Any
    ) -> tuple[Tensor, ...]:
        terms = _terms(flat, numbers)
        kept = [_kept(x, term.dropout) for term in terms]
        found = []
        for term, columns in zip(terms, _columns(x, kept, terms), strict=True):
            y = _product(x, term)
            y.view(-1, y.shape[-1]).addmm_(columns, term.b.t().to(x.dtype))
            found.append(y)
        ctx.again, ctx.numbers, ctx.shape = None if made is None else made.run, numbers, x.shape
        ctx.weights = [term.weight for term in terms]  # a packed one is no tensor that autograd keeps
        thin = [y for term in terms for y in (term.a, term.b)]
        ctx.save_for_backward(*thin, *kept, *((x,) if made is None else made.given))
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *above: Tensor) -> Any:
        n, saved = len(ctx.numbers), ctx.saved_tensors
        kept, given = saved[2 * n : 3 * n], saved[3 * n :]
        x = (given[0] if ctx.again is None else ctx.again(*given)).flatten(0, -2)
        flat = [y for i in range(n) for y in (ctx.weights[i], None, saved[2 * i], saved[2 * i + 1])]
        terms, wanted = _terms(flat, ctx.numbers), ctx.needs_input_grad
        kept = [y if y is None else y.flatten(0, -2) for y in kept]
        rows = [y.flatten(0, -2) for y in above]
        below = [linear(y, term.b.to(y.dtype).t()) * term.scale for y, term in zip(rows, terms, strict=True)]
        grads: list[Tensor | None] = [None] * (EACH * n)
        for i, columns in enumerate(_columns(x, kept, terms)):
            if wanted[3 + EACH * i + 1]:
                grads[EACH * i + 1] = rows[i].sum(0)
            if wanted[3 + EACH * i + 3]:
                grads[EACH * i + 3] = _crossed(rows[i], columns).to(terms[i].b.dtype)
        for i, slope in enumerate(_slopes(x, kept, terms, below)):
            if wanted[3 + EACH * i + 2]:
                grads[EACH * i + 2] = slope.to(terms[i].a.dtype)
        del x
        inputs = None
        if wanted[0]:
            for y, term in zip(rows, terms, strict=True):
                part = backward_product(y, term.weight)
                inputs = part if inputs is None else inputs.add_(part)
            assert inputs is not None
            _add_thin(inputs, kept, terms, below)
            inputs = inputs.view(ctx.shape)
        return inputs, None, None, *grads


def _terms(flat: Any, numbers: list[tuple[float, float]]) -> list[Term]:
    each = [flat[i : i + EACH] for i in range(0, len(flat), EACH)]
    return [Term(weight, bias, a, b, *own) for (weight, bias, a, b), own in zip(each, numbers, strict=True)]


def _kept(x: Tensor, dropout: float) -> Tensor | None:
    """Which numbers are not dropped."""
    if not dropout:
        return None
    return torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - dropout)


def _product(x: Tensor, term: Term) -> Tensor:
    """x W^T + b in memory of its own."""
    bias = None if term.bias is None else term.bias.to(x.dtype)
    if not isinstance(term.weight, Quantized):
        return linear(x, term.weight.to(x.dtype), bias)
    y = term.weight.form.multiply(x, term.weight)
    return y if bias is None else y.add_(bias)


def _read(x: Tensor, kept: Tensor | None, dropout: float) -> Tensor:
    return x if kept is None else x * kept / (1 - dropout)


def _columns(x: Tensor, kept: Any, terms: list[Term]) -> list[Tensor]:
    """s x' A^T (N, r) of each term."""
    if any(y is not None for y in kept):
        reads = [_read(x, own, term.dropout) for own, term in zip(kept, terms, strict=True)]
        parts = [linear(y, term.a.to(y.dtype)).flatten(0, -2) for y, term in zip(reads, terms, strict=True)]
    else:
        parts = list(linear(x, _joined(terms, x.dtype)).flatten(0, -2).split([len(term.a) for term in terms], -1))
    return [part * term.scale for part, term in zip(parts, terms, strict=True)]


def _joined(terms: list[Term], dtype: torch.dtype) -> Tensor:
    """The A of all terms (sum of r, inputs)."""
    return terms[0].a.to(dtype) if len(terms) == 1 else torch.cat([term.a.to(dtype) for term in terms])


def _slopes(x: Tensor, kept: Any, terms: list[Term], below: list[Tensor]) -> list[Tensor]:
    """The gradients of the A (r, inputs)."""
    if any(y is not None for y in kept):
        reads = (_read(x, own, term.dropout) for own, term in zip(kept, terms, strict=True))
        return [linear(own.t(), y.t()) for own, y in zip(below, reads, strict=True)]
    return list(linear(torch.cat(below, -1).t(), x.t()).split([len(term.a) for term in terms]))


def _crossed(rows: Tensor, columns: Tensor) -> Tensor:
    """rows^T columns (outputs, r): the few columns first where that is the faster order."""
    if large(columns.t(), rows.t()):
        return linear(columns.t(), rows.t()).t()
    return rows.t() @ columns


def _add_thin(inputs: Tensor, kept: Any, terms: list[Term], below: list[Tensor]) -> None:
    """Add the terms' part of the gradient of x (N, inputs)."""
    if all(y is None for y in kept):
        inputs.addmm_(torch.cat(below, -1), _joined(terms, inputs.dtype))
        return
    for own, term, columns in zip(kept, terms, below, strict=True):
        part = columns @ term.a.to(columns.dtype)
        inputs.add_(part if own is None else part.mul_(own), alpha=1 / (1 - term.dropout))
