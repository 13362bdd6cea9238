"""Packed matrices in safetensors files: what a `quantization_config` says, and the tensors of each layout.

A layout belongs to a quantizer, whose file has it; this file has what they share and a layout of our own, for what no
other project's can hold. Headers are checked first: of each matrix they give the shape, and the types and shapes of all
its tensors must follow from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from llmanac.core.errors import CheckpointError, SpecError, shown
from llmanac.core.spec import dump, make_method
from llmanac.models.quantized import Quantized
from llmanac.models.weights import FLOATS, TensorEntry, Weights

KEY, OWN = "quantization_config", "llmanac"
METHODS = {
    "awq": "gptq", "bitsandbytes": "nf4", "bitnet": "ternary", "compressed-tensors": "int8", "fp8": "int8",
    "gptq": "gptq",
}  # fmt: skip
TYPES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8", torch.int8: "I8",
    torch.int32: "I32", torch.int64: "I64",
}  # fmt: skip
INTEGERS, FLOAT8 = ("U8", "I8", "I32", "I64"), "F8_E4M3"
SMALL = 4096  # numbers of a tensor that is read to learn a shape
LONGEST = 1 << 22  # rows or columns of a matrix of our own layout
Needs = dict[str, tuple[tuple[str, ...], tuple[int, ...]]]
Small = Callable[[str], Tensor]


class PackedLayout:
    """How a project's files hold packed matrices; endings are what follows a module's name.

    Attributes:
        codes: the ending whose tensor, of integers, shows that a matrix is packed.
        optional: endings that files may have or not.
    """

    codes: ClassVar[str] = "weight"
    optional: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def reading(cls, config: Mapping[str, Any]) -> PackedLayout:
        """From a quantization_config, whose own layout it may be. Raises SpecError for what is not read.

        The message begins with the key.
        """
        raise NotImplementedError

    @classmethod
    def holding(cls, weights: Sequence[Quantized]) -> Self | None:
        """The layout that holds all of these; None where there is none."""
        raise NotImplementedError

    def config(self, skipped: list[str]) -> dict[str, Any]:
        """The quantization_config; `skipped` are modules that stay dense."""
        raise NotImplementedError

    def needs(self, parts: Mapping[str, TensorEntry], small: Small) -> tuple[tuple[int, ...], Needs]:
        """The matrix's shape (N, K), and the types and shape that each ending's tensor must have.

        Args:
            small: reads a tensor of at most SMALL numbers.

        Raises:
            ValueError: what is wrong.
        """
        raise NotImplementedError

    def read(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Quantized:
        """The matrix. Raises ValueError where its tensors hold what they may not."""
        raise NotImplementedError

    def write(self, weight: Quantized) -> dict[str, Tensor]:
        """The inverse of `read`."""
        raise NotImplementedError


@dataclass(frozen=True)
class OwnLayout(PackedLayout):
    """`quant_method: llmanac`: each part of a packed matrix under its own name, and the matrix's shape."""

    quantizer: Any

    @classmethod
    def reading(cls, config: Mapping[str, Any]) -> PackedLayout:
        table = config.get("quantizer")
        if not isinstance(table, (dict, str)):
            raise SpecError(f"quantizer is {shown(table)}, expected a table")
        made = make_method("quantizer", table, "quantizer").build()
        if made.layout is None:
            raise SpecError(f"quantizer is {shown(table)}, which packs no matrices")
        return cls(made)

    @classmethod
    def holding(cls, weights: Sequence[Quantized]) -> Self | None:
        forms = {weight.form for weight in weights}
        if len(forms) > 1:
            return None
        made = cls(make_method("quantizer", forms.pop().quantizer).build())
        same = all(set(made._model(tuple(weight.shape)).parts) == set(weight.parts) for weight in weights)
        return made if same else None

    def config(self, skipped: list[str]) -> dict[str, Any]:
        table = {key: value for key, value in dump(self.quantizer.spec).items() if key != "targets"}
        return {"quant_method": OWN, "quantizer": table}

    def _model(self, shape: tuple[int, ...]) -> Quantized:
        """What the quantizer makes of a matrix of this shape, without memory."""
        if why := self.quantizer.check(shape):
            raise ValueError(why)
        made: Quantized = self.quantizer.pack(torch.empty(shape, device="meta"))
        return made

    def needs(self, parts: Mapping[str, TensorEntry], small: Small) -> tuple[tuple[int, ...], Needs]:
        if "weight.shape" in parts and parts["weight.shape"].dtype != "I64":
            raise ValueError(f"weight.shape is {parts['weight.shape'].dtype}, expected I64")
        shape = tuple(small("weight.shape").tolist())
        fits = len(shape) == 2 and min(shape) >= 1 and max(shape) <= LONGEST
        if not fits or shape[0] * shape[1] > 8 * numbers(parts["weight"]):
            raise ValueError(f"weight.shape is {shown(list(shape))}, which its codes cannot fill")
        model = self._model(shape)
        found: Needs = {_ending(name): ((TYPES[p.dtype],), tuple(p.shape)) for name, p in model.parts.items()}
        return shape, {**found, "weight.shape": (("I64",), (2,))}

    def read(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Quantized:
        model = self._model(shape)
        return Quantized(model.form, {name: tensors[_ending(name)] for name in model.parts}, shape, dtype)

    def write(self, weight: Quantized) -> dict[str, Tensor]:
        parts = {_ending(name): part for name, part in weight.parts.items()}
        return {**parts, "weight.shape": torch.tensor(weight.shape)}


def _ending(part: str) -> str:
    return f"weight.{part}" if part else "weight"


def matrix(parts: Mapping[str, TensorEntry]) -> tuple[int, ...]:
    """The shape of the tensor `weight`. Raises ValueError for what is no matrix."""
    shape = parts["weight"].shape
    if len(shape) != 2:
        raise ValueError(f"weight has {len(shape)} axes")
    return shape


def numbers(entry: TensorEntry) -> int:
    """How many a tensor has."""
    return math.prod(entry.shape)


def expect(table: Any, wanted: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Refuse a table in which one of these keys has another value; a key that is absent is false or null."""
    if not isinstance(table, dict):
        raise SpecError(f"{where or 'config: '}is {shown(table)}, expected a table")
    for key, value in wanted.items():
        if table.get(key) != value and not (value is False and table.get(key) is None):
            raise SpecError(f"{where}{key} is {shown(table.get(key))}; only {value!r} is read")
    return table


def layout_of(path: Path, config: Any) -> PackedLayout:
    """The layout that a quantization_config names. Raises CheckpointError that names the file and the key."""
    method = config.get("quant_method") if isinstance(config, dict) else None
    if method == OWN:
        kind: type[PackedLayout] = OwnLayout
    elif isinstance(method, str) and method in METHODS:
        kind = make_method("quantizer", METHODS[method]).build().layout
    else:
        known = ", ".join([*METHODS, OWN])
        raise CheckpointError(f"{path}: {KEY} = {shown(config)} is not supported (quant_method: {known})")
    try:
        return kind.reading(config)
    except SpecError as error:
        raise CheckpointError(f"{path}: {KEY}: {error}") from error


def pack_state(state: Mapping[str, Tensor], foreign: bool) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of a file and its quantization_config, None where nothing is packed.

    Args:
        foreign: whether the names are those that other projects know.

    Raises:
        CheckpointError: matrices that no one layout holds.
    """
    packed = {name: tensor for name, tensor in state.items() if isinstance(tensor, Quantized)}
    if not packed:
        return dict(state), None
    kinds: list[type[PackedLayout]] = [OwnLayout]
    if foreign and not any("embed" in name for name in packed):  # elsewhere only linear maps are packed
        kinds.insert(0, make_method("quantizer", next(iter(packed.values())).form.quantizer).build().layout)
    layout = next(filter(None, (kind.holding(list(packed.values())) for kind in kinds)), None)
    if layout is None:
        found = sorted({repr(weight.form) for weight in packed.values()})
        raise CheckpointError(f"a folder holds matrices of one method, this model has {' and '.join(found)}")
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name not in packed:
            tensors[name] = tensor
            continue
        base = name.removesuffix(".weight")
        tensors |= {f"{base}.{ending}": part.contiguous() for ending, part in layout.write(packed[name]).items()}
    dense = [n.removesuffix(".weight") for n, t in state.items() if t.ndim == 2 and n not in packed]
    skipped = dict.fromkeys([*dense, *([] if "lm_head.weight" in packed else ["lm_head"])])
    return tensors, layout.config(list(skipped))


class QuantizedWeights(Weights):
    """The tensors of a folder in which matrices are packed.

    Raises:
        CheckpointError: as of `Weights`, and packed matrices whose tensors do not fit each other.
    """

    types: tuple[str, ...] = (*FLOATS, *INTEGERS)

    def __init__(self, folder: Path, layout: PackedLayout, *names: Any, **more: Any) -> None:
        super().__init__(folder, *names, **more)
        self.layout, self.headers = layout, dict(self.entries)
        self.parts: dict[str, dict[str, str]] = {}  # of each packed matrix: ending -> the tensor's name
        bases: dict[str, dict[str, str]] = {
            name.removesuffix(layout.codes): {}
            for name, entry in self.entries.items()
            if name.endswith(f".{layout.codes}") and entry.dtype in (*INTEGERS, FLOAT8)
        }
        for name in self.entries:
            for at, character in enumerate(name):
                if character == "." and name[: at + 1] in bases:
                    bases[name[: at + 1]][name[at + 1 :]] = name
        for base, own in bases.items():
            self._group(base, own)
        self.unused = set(self.entries)
        for name, entry in self.entries.items():
            if name not in self.parts and entry.dtype not in FLOATS:
                raise self.refusal(name, entry)

    def _group(self, base: str, own: Mapping[str, str]) -> None:
        """Replace the tensors of a packed matrix by one entry of the matrix's shape."""
        parts = {ending: self.headers[name] for ending, name in own.items()}
        codes = parts[self.layout.codes]

        def small(ending: str) -> Tensor:
            if ending not in parts:
                raise ValueError(f"{ending} is missing")
            if numbers(parts[ending]) > SMALL:
                raise ValueError(f"{ending} has {numbers(parts[ending]):,} numbers")
            return self._tensor(own[ending])

        try:
            shape, needs = self.layout.needs(parts, small)
            for ending, (types, wanted) in needs.items():
                found = parts.get(ending)
                if found is None and ending not in self.layout.optional:
                    raise ValueError(f"{ending} is missing")
                if found is not None and (found.dtype not in types or found.shape != wanted):
                    said = f"{found.dtype} {shown(list(found.shape))}"
                    raise ValueError(f"{ending} is {said}, expected {' or '.join(types)} {list(wanted)}")
        except CheckpointError:
            raise
        except (ValueError, SpecError, RuntimeError, OverflowError) as error:
            raise self._wrong(base, error) from error
        self.parts[f"{base}weight"] = {ending: own[ending] for ending in needs if ending in own}
        for name in self.parts[f"{base}weight"].values():
            del self.entries[name]
        self.entries[f"{base}weight"] = TensorEntry(codes.path, shape, codes.dtype)

    def _wrong(self, base: str, error: Exception) -> CheckpointError:
        path = self.headers[base + self.layout.codes].path
        return CheckpointError(f"{path}: {shown(base.removesuffix('.'))} is no packed matrix: {str(error)[:300]}")

    def _tensor(self, name: str) -> Tensor:
        return self._read(self.headers[name].path, name)

    def drop_zero_biases(self) -> None:
        """Count zeros as used: GPTQ's writers give each packed matrix a bias, whether the model has one or not."""
        for name in sorted(self.unused):
            packed = name.endswith(".bias") and name.removesuffix("bias") + "weight" in self.parts
            if packed and not bool(self._tensor(name).any()):
                self.unused.discard(name)

    def is_packed(self, name: str) -> bool:
        """Whether the matrix of this name is."""
        return self.name(name) in self.parts

    def packed(self, name: str, dtype: torch.dtype) -> Quantized:
        """The matrix of this name in its packed form."""
        own = self.parts[self.name(name)]
        self.unused.discard(self.name(name))
        tensors = {ending: self._tensor(theirs).clone() for ending, theirs in own.items()}
        base = self.name(name).removesuffix("weight")
        for ending, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
                raise self._wrong(base, ValueError(f"{ending} holds NaN or infinity; weights must be finite"))
        try:
            return self.layout.read(tensors, self.entries[self.name(name)].shape, dtype)
        except ValueError as error:
            raise self._wrong(base, error) from error

    def take(self, name: str) -> Tensor:
        return self.packed(name, torch.float32).dense() if self.is_packed(name) else super().take(name)
