"""The parameterised pieces that every part shares: a linear map and an embedding that know how they are initialised.

Weights are kept in their own dtype (float32 while training); a layer computes in the dtype of its input and casts its
weights to it. So the one cast at the embedding sets the precision of the model, without autocast.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llmanac.kernels.nn.takes import linear
from llmanac.models.low_rank import Term, low_rank
from llmanac.models.quantized import Quantized, dense, lookup, product


class LinearChange(Protocol):
    """What a Transform adds to a product x W^T; see `adapters`.

    Attributes:
        transform: the Transform, None where each row of a batch may have another.
        served: whether it belongs to requests of an engine, not to the model.
        enabled: whether the model computes with it.
    """

    transform: Any
    served: bool
    enabled: bool

    def columns(self, x: Tensor) -> tuple[Tensor, Tensor, float] | None:
        """c (..., r), U (outputs, r) and s of the further term s c U^T, in the dtype of `x`; None for no term."""

    def factors(self) -> tuple[Tensor, Tensor, float, float] | None:
        """A, B, s and the dropout of a low-rank term alone, see `models/layers.py`; None for another form."""

    def gain(self, weight: Tensor) -> Tensor | None:
        """What the product and its term, without the bias, are multiplied by: (outputs,) or as they are; or None."""


class Changeable(nn.Module):
    """A module that computes a linear map with `weight`. Transforms apply to it.

    Attributes:
        change: what a Transform adds, or None. Whoever computes with `weight` uses `changed` or `joined` too.
    """

    weight: nn.Parameter
    bias: Tensor | None  # (outputs,), of those that have one
    change: LinearChange | None = None

    @property
    def own_change(self) -> LinearChange | None:
        """The change that belongs to the model."""
        return None if self.change is None or self.change.served else self.change

    @property
    def matrix(self) -> Tensor:
        """W (outputs, inputs)."""
        return self.weight

    def changed(self, y: Tensor, x: Tensor) -> Tensor:
        """The map of x, given y = x W^T (..., outputs) with the bias, where there is one.

        x: (..., inputs), or ids (...) for rows of the identity.
        """
        found = None if self.change is None else self.change.columns(x)
        if found is None:
            return y
        columns, weight, scale = found
        term = F.linear(columns, weight) * scale
        gain = self.change.gain(self.matrix)  # type: ignore[union-attr]
        if gain is None:
            return y + term
        gain = gain.to(y.dtype)
        if self.bias is None:
            return gain * (y + term)
        bias = self.bias.to(y.dtype)
        return torch.addcmul(bias, gain, y - bias + term)


class LinearMap(Changeable):
    """A module that multiplies its input with `weight` (outputs, inputs): a `Linear` or a head.

    Attributes:
        through: how a `Linear` is trained through the rounding of a quantizer; None for the product itself.
    """

    through: Callable[[Tensor, Tensor], Tensor] | None = None  # (x, weight) -> product, in place of x W^T

    def joined(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x' (..., inputs + r) and W' (outputs, inputs + r) with x' W'^T the product: [x, s c] [W, U]^T."""
        found = None if self.change is None else self.change.columns(x)
        own = self.weight.dense(x.dtype) if isinstance(self.weight, Quantized) else self.weight
        if found is None:
            return x, own
        columns, weight, scale = found
        joined = torch.cat([own.to(weight.dtype), weight], -1)
        gain = self.change.gain(self.weight)  # type: ignore[union-attr]
        joined = joined if gain is None else joined * gain[:, None].to(joined.dtype)
        return torch.cat([x, columns * scale], -1), joined

    @property
    def fixed(self) -> int:
        """How many leading columns of the W' of `joined` need no gradient: those of a frozen W."""
        if self.change is None or self.weight.requires_grad or self.change.gain(self.weight) is not None:
            return 0
        return self.weight.shape[1]


class Linear(LinearMap):
    """`y = x W^T + b`, computed in the dtype of `x`.

    Args:
        inputs, outputs: widths; `weight` is (outputs, inputs).
        bias: whether there is a `b` (outputs,).
        std: standard deviation of the initial weights; by default `inputs ** -0.5`.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False, std: float | None = None) -> None:
        super().__init__()
        self.packed: Packed | bool = False  # True: `fuse` allows it, and the first call packs it
        self.in_features, self.out_features = inputs, outputs
        self.std = inputs**-0.5 if std is None else std
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        if (term := self.frozen_with_term()) is not None:
            return low_rank(x, term)[0]
        if self.through is None:
            return self.changed(product(x, self.weight, self.bias), x)
        y = self.through(x, self.weight)
        return self.changed(y if self.bias is None else y + self.bias.to(y.dtype), x)

    def frozen_with_term(self) -> Term | None:
        """What `low_rank` computes, where this is a frozen matrix with a low-rank term that is trained now."""
        if self.change is None or self.through is not None or self.weight.requires_grad:
            return None
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        factors = self.change.factors()
        return None if factors is None else Term(self.weight, self.bias, *factors)

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        init_normal(parameter, self.std if name == "weight" else 0.0, generator)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Embedding(Changeable):
    """Rows of a table: (...) integers -> (..., dim)."""

    def __init__(self, rows: int, dim: int, *, std: float = 0.02) -> None:
        super().__init__()
        self.std = std
        self.weight, self.bias = nn.Parameter(torch.empty(rows, dim)), None

    @property
    def matrix(self) -> Tensor:
        return dense(self.weight).t()

    def forward(self, ids: Tensor) -> Tensor:
        return self.changed(lookup(ids, self.weight), ids)

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        init_normal(parameter, self.std, generator)


DRAWN = 1 << 20  # numbers that are drawn at a time: more would be there twice


@torch.no_grad()
def init_normal(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    """Normal numbers with this standard deviation (zeros for 0), drawn on the CPU in float32 whatever the parameter."""
    if std == 0.0:
        parameter.zero_()
        return
    if parameter.numel() < 2 * DRAWN or not parameter.is_contiguous():
        parameter.copy_(torch.empty(parameter.shape, dtype=torch.float32).normal_(0.0, std, generator=generator))
        return
    flat, last = parameter.view(-1), parameter.numel() // DRAWN - 1
    for number in range(last + 1):  # the same numbers, since torch draws sixteen at a time
        piece = flat[number * DRAWN : (number + 1) * DRAWN if number < last else None]
        piece.copy_(torch.empty(piece.shape, dtype=torch.float32).normal_(0.0, std, generator=generator))


def linear_all(x: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """Several linear maps of one input: one product where `fuse` allows it or all have low-rank terms, else one each.

    Layers that something has replaced (a quantized form) are called one by one.
    """
    terms = [layer.frozen_with_term() for layer in layers if isinstance(layer, Linear)]
    trained = [term for term in terms if term is not None]
    if len(trained) == len(layers):
        return low_rank(x, *trained)
    first: Any = layers[0]
    packed = isinstance(first, Linear) and first.packed
    if packed is False or torch.compiler.is_compiling():
        return tuple(layer(x) for layer in layers)
    if packed is True or packed.layers != tuple(layers):
        if not _alike(layers):
            return tuple(layer(x) for layer in layers)
        packed = first.packed = Packed(layers)
    return tuple(layer.changed(y, x) for layer, y in zip(packed.layers, packed.products(x), strict=True))


def fuse(model: nn.Module) -> nn.Module:
    """Compute linear maps of one input (q, k and v; gate and up) as one product from now on; returns the model.

    Nothing but speed changes: parameters keep their names, and their values become views of one tensor.
    """
    for layer in model.modules():
        if isinstance(layer, Linear) and layer.packed is False:
            layer.packed = True
    return model


@torch.no_grad()
def unfuse(model: nn.Module) -> nn.Module:
    """Undo `fuse`: each parameter has memory of its own again; returns the model."""
    for layer in model.modules():
        if isinstance(layer, Linear) and layer.packed is not False:
            if isinstance(layer.packed, Packed):
                for part in layer.packed.layers:
                    part.weight.data = part.weight.data.clone()
            layer.packed = False
    return model


def _alike(layers: Sequence[nn.Module]) -> bool:
    """Whether the layers can be packed: all Linear and allowed to, of one dtype and device, all or none with a bias."""
    if not all(isinstance(layer, Linear) and layer.packed is not False for layer in layers):
        return False
    if any(isinstance(layer.weight, Quantized) or layer.through is not None for layer in layers):
        return False
    kinds = {(layer.weight.dtype, layer.weight.device, layer.bias is None) for layer in layers}
    return len(kinds) == 1


class Packed:
    """The weights of several Linears of one input in one tensor (all outputs, inputs), of whose rows they are views."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers: tuple[Any, ...] = tuple(layers)
        self.sizes = [layer.out_features for layer in layers]
        self._pack()

    def products(self, x: Tensor) -> tuple[Tensor, ...]:
        """x (..., inputs) W_i^T + b_i of each layer."""
        if not self._current():
            self._pack()
        biases = [layer.bias for layer in self.layers]
        bias = None if biases[0] is None else torch.cat(biases).to(x.dtype)
        if torch.is_grad_enabled():
            y: Tensor = _PackedProduct.apply(x, bias, self.weight, *(layer.weight for layer in self.layers))
        else:
            y = linear(x, self.weight.to(x.dtype), bias)
        return y.split(self.sizes, dim=-1)

    def _current(self) -> bool:
        """Whether the parameters are still views: moving, casting or replacing them gives them other memory."""
        own, start = self.weight, self.weight.data_ptr()
        for layer in self.layers:
            weight = layer.weight
            if weight.data_ptr() != start or weight.dtype != own.dtype or weight.device != own.device:
                return False
            start += weight.numel() * weight.element_size()
        return True

    def _pack(self) -> None:
        with torch.inference_mode(False), torch.no_grad():
            self.weight = torch.cat([layer.weight.detach() for layer in self.layers])
            for layer, rows in zip(self.layers, self.weight.split(self.sizes), strict=True):
                layer.weight.data = rows


class _PackedProduct(torch.autograd.Function):
    """x W^T + b where the rows of W belong to several parameters, each of which gets its part of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, packed: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, packed)
        ctx.sizes = [len(weight) for weight in weights]
        return linear(x, packed.to(x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> Any:
        x, packed = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        rows = above.flatten(0, -2)
        grads: list[Tensor | None] = [None] * len(ctx.sizes)
        if any(wanted[3:]):
            product = linear(rows.t(), x.flatten(0, -2).to(rows.dtype).t())
            grads = list(product.to(packed.dtype).split(ctx.sizes))
        inputs = linear(above, packed.to(above.dtype).t()) if wanted[0] else None
        return inputs, rows.sum(0) if wanted[1] else None, None, *grads


def upcast(x: Tensor) -> Tensor:
    """`x` in at least float32: what norms, softmax and losses are computed in."""
    return x if x.dtype == torch.float64 else x.float()
