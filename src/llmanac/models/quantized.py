"""Weights in a packed form: a parameter that looks like the dense matrix and holds its codes and scales.

`product` and `lookup` are how layers use a weight; they read the packed form directly, and what they save for the
backward pass is the packed form too. Every other operation works on the dense matrix, computed when it is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llmanac.core.errors import SpecError
from llmanac.kernels.gguf.blocks import Array
from llmanac.kernels.infer import kinds
from llmanac.kernels.nn.takes import large, linear

aten = torch.ops.aten
PIECE = 1 << 20  # numbers that are made dense at a time


class PackedForm:
    """How codes and scales are a matrix; `parts` are its tensors by name (`""` is the codes)."""

    name: ClassVar[str]

    @property
    def quantizer(self) -> dict[str, Any]:
        """The quantizer whose matrices have this form: its name and fields; empty where no folder holds the form."""
        raise NotImplementedError

    def dense(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """The matrix, float32."""
        raise NotImplementedError

    def whole(self, weight: Quantized, dtype: torch.dtype) -> Tensor:
        """The matrix in a dtype."""
        return self.dense(weight.parts, tuple(weight.shape)).to(dtype)

    def rows(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], ids: Any) -> Tensor:
        """Rows (..., columns) of the matrix, float32; by default of all of it. `ids`: a tensor or a slice."""
        return self.dense(parts, shape)[ids]

    def blocks(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[str, Array]:
        """What compiled products read: the name of a kind of `kernels/infer/kinds.py` and its blocks, or of a dtype.

        By default 8-bit integers with a scale for 32 numbers, which round what the form says; float32 where a row is
        not made of 32s.
        """
        numbers = self.dense(parts, shape).numpy()
        return kinds.rounded(numbers) if shape[1] % kinds.LEAST == 0 else ("float32", numbers)

    def release(self) -> None:
        """Give back the memory of a file, of which a copy was made."""

    def pieces(self, weight: Quantized, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Rows that are made dense together, and which they are; by default all."""
        yield slice(None), weight.dense(dtype)

    def multiply(self, x: Tensor, weight: Quantized) -> Tensor:
        """x (..., inputs) W^T, in the dtype of x."""
        made: Tensor | None = None
        for piece, rows in self.pieces(weight, x.dtype):
            part = linear(x, rows)
            if part.shape[-1] == len(weight):
                return part
            made = x.new_empty(*x.shape[:-1], len(weight)) if made is None else made
            made[..., piece] = part
        return x.new_empty(*x.shape[:-1], 0) if made is None else made

    def multiply_back(self, above: Tensor, weight: Quantized) -> Tensor:
        """above (N, outputs) W, in its dtype: what the gradient of x is."""
        found: Tensor | None = None
        for piece, rows in self.pieces(weight, above.dtype):
            part = above[:, piece]
            if found is None:
                found = linear(part, rows.t())
            elif large(part, rows.t()):
                found += linear(part, rows.t())
            else:
                found.addmm_(part, rows)
        return above.new_zeros(len(above), weight.shape[1]) if found is None else found


class ByRows(PackedForm):
    """A form whose `rows` reads no others."""

    def dense(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        return self.rows(parts, shape, slice(0, shape[0]))

    def whole(self, weight: Quantized, dtype: torch.dtype) -> Tensor:
        made = torch.empty(weight.shape, dtype=dtype, device=weight.device)
        for piece, rows in self.pieces(weight, dtype):  # so that it is never there in float32 too
            made[piece] = rows
        return made

    def slices(self, weight: Quantized) -> Iterator[slice]:
        """Rows of about PIECE numbers."""
        step = max(1, PIECE // weight.shape[1])
        return (slice(at, min(at + step, len(weight))) for at in range(0, len(weight), step))

    def pieces(self, weight: Quantized, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        for piece in self.slices(weight):
            yield piece, self.rows(weight.parts, tuple(weight.shape), piece).to(dtype)


class Quantized(torch.Tensor):
    """A matrix of `shape` and `dtype` that is held as `parts`; carries no gradient.

    Attributes:
        form: what the parts mean; parts: tensors by name.
    """

    form: PackedForm
    parts: dict[str, Tensor]

    @staticmethod
    def __new__(
        cls, form: PackedForm, parts: Mapping[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype = torch.float32
    ) -> Quantized:
        device = next(iter(parts.values())).device
        made: Quantized = torch.Tensor._make_wrapper_subclass(
            cls, tuple(shape), dtype=dtype, device=device, requires_grad=False
        )
        made.form, made.parts = form, dict(parts)
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """The matrix as an ordinary tensor."""
        return self.form.whole(self, dtype or self.dtype)

    @property
    def requires_grad(self) -> bool:
        """False: a gradient would be left out of training without a word."""
        return False

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value:
            raise SpecError(
                f"a matrix packed as {self.form.name} is not trained: train an adapter beside it (--adapter lora), or "
                'the model before it was packed; a .gguf file is read dense with load_model(PATH, dtype="float32")'
            )

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Raises SpecError where a gradient is asked for."""
        self.requires_grad = requires_grad
        return self

    @property
    def stored(self) -> int:
        """Bytes of the packed form."""
        return sum(part.nbytes for part in self.parts.values())

    def moved(self, device: Any = None, dtype: torch.dtype | None = None) -> Quantized:
        """The same on another device, or as if of another dtype."""
        parts = self.parts if device is None else {name: part.to(device) for name, part in self.parts.items()}
        return Quantized(self.form, parts, tuple(self.shape), dtype or self.dtype)

    def __repr__(self, **options: Any) -> str:  # type: ignore[override]
        return f"Quantized({self.form.name}, {tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        parts = {name: part.clone() for name, part in self.parts.items()}
        made: Any = Quantized(self.form, parts, tuple(self.shape), self.dtype)
        return nn.Parameter(made, requires_grad=False) if isinstance(self, nn.Parameter) else made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.detach:  # as a Parameter is made; the dispatcher would import what it dispatches to
            return args[0].moved()
        if func is torch.Tensor.to and isinstance(args[0], Quantized):
            first = args[1] if len(args) > 1 else kwargs.get("device", kwargs.get("dtype"))
            if isinstance(first, torch.dtype):
                return args[0].dense(first)  # a layer casts its weight; a module that is moved names a device first
            dtype = args[2] if len(args) > 2 and isinstance(args[2], torch.dtype) else kwargs.get("dtype")
            return args[0].moved(first, dtype)
        with torch._C.DisableTorchFunctionSubclass():  # results are ordinary tensors
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in (aten.detach.default, aten.alias.default, aten.clone.default):
            return args[0].moved()
        if func._schema.is_mutable and isinstance(args[0], Quantized):  # what is changed would be a dense copy
            raise SpecError(f"a matrix packed as {args[0].form.name} is not changed in place; make another of it")
        plain = [value.dense() if isinstance(value, Quantized) else value for value in args]
        named = {k: value.dense() if isinstance(value, Quantized) else value for k, value in (kwargs or {}).items()}
        return func(*plain, **named)


def held(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Tensors by name; in the place of a packed one its parts."""
    for name, value in tensors:
        if isinstance(value, Quantized):
            yield from ((f"{name}:{part}", own) for part, own in value.parts.items())
        else:
            yield name, value


class _Product(torch.autograd.Function):
    """x W^T; W is packed in both passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Quantized) -> Tensor:
        ctx.weight = weight
        return weight.form.multiply(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> Any:
        return backward_product(above.flatten(0, -2), ctx.weight).view(*above.shape[:-1], -1), None


def backward_product(above: Tensor, weight: Tensor) -> Tensor:
    """above (N, outputs) W, in its dtype."""
    if isinstance(weight, Quantized):
        return weight.form.multiply_back(above, weight)
    return linear(above, weight.to(above.dtype).t())


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., inputs) W^T + b, computed in the dtype of `x`."""
    if not isinstance(weight, Quantized):
        return linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    y: Tensor = _Product.apply(x, weight)
    return y if bias is None else y + bias.to(y.dtype)


def lookup(ids: Tensor, weight: Tensor) -> Tensor:
    """Rows (..., dim) of a table."""
    if not isinstance(weight, Quantized):
        return F.embedding(ids, weight)
    return weight.form.rows(weight.parts, tuple(weight.shape), ids).to(weight.dtype)


def dense(weight: Tensor) -> Tensor:
    """The weight as an ordinary tensor."""
    return weight.dense() if isinstance(weight, Quantized) else weight


def stored_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters as they are held; a tied matrix counts once."""
    return sum(p.stored if isinstance(p, Quantized) else p.nbytes for p in model.parameters())
