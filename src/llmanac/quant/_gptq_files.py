"""4-bit codes with scales of groups, and their tensors in GPTQ checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from llmanac.core.errors import SpecError, shown
from llmanac.kernels.gguf.blocks import Array
from llmanac.kernels.infer import kinds
from llmanac.models.packed_files import Needs, PackedLayout, Small, expect
from llmanac.models.quantized import ByRows, Quantized
from llmanac.models.weights import TensorEntry


def nibbles(codes: Tensor, high: bool = False) -> Tensor:
    """(..., bytes) -> (..., 2 x bytes), the low half of each byte first, or the high one."""
    halves = [codes & 15, codes >> 4]
    return torch.stack(halves[::-1] if high else halves, -1).flatten(-2)


@dataclass(frozen=True)
class Grouped(ByRows):
    """Codes two to a byte, the first in the low half. `group`: numbers a scale.

    Files may have further parts: `zero` (N, groups), the code of 0 where that is not 8, and `order` (K,), the group of
    each column where groups are not consecutive.
    """

    group: int
    name = "int4"

    @property
    def quantizer(self) -> dict[str, Any]:
        return {"name": "gptq", "group": self.group}

    def blocks(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[str, Array]:
        size = kinds.reach(shape[1], self.group)
        if "order" in parts or not size:
            return super().blocks(parts, shape)
        of = torch.arange(0, shape[1], size) // self.group
        codes, scale = nibbles(parts[""]).numpy(), parts["scale"].float()[:, of]
        if "zero" not in parts:
            return kinds.blocks("int4", codes, scale.numpy())
        return kinds.blocks("int4-zero", codes, scale.numpy(), (-scale * parts["zero"][:, of]).numpy())

    def rows(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], ids: Any) -> Tensor:
        def spread(groups: Tensor) -> Tensor:
            if "order" in parts:
                return groups[..., parts["order"].long()]
            return groups.repeat_interleave(self.group, -1)[..., : shape[1]]

        values = nibbles(parts[""][ids]).float()
        values -= spread(parts["zero"][ids].float()) if "zero" in parts else 8
        return values * spread(parts["scale"][ids].float())


def group_size(config: Mapping[str, Any], default: int = -1, where: str = "") -> int | None:
    """Numbers a scale; None for a scale a row. Raises SpecError."""
    group = config.get("group_size", default)
    if type(group) is not int or not (group == -1 or 1 <= group < 1 << 31):
        raise SpecError(f"{where}group_size is {shown(group)}, expected -1 or a size")
    return None if group == -1 else group


@dataclass(frozen=True)
class GPTQFiles(PackedLayout):
    """qweight int32 (K/8, N) and qzeros (groups, N/8), eight codes a number; scales (groups, N); g_idx (K,).

    Attributes:
        group: numbers a scale, None for a scale a row; ordered: whether groups may be of any columns.
        symmetric: whether the code of 0 is always 8; shift: what is added to the zeros of the file.
    """

    codes = "qweight"
    optional = ("g_idx",)
    group: int | None
    ordered: bool = False
    symmetric: bool = True
    shift: int = 1

    @classmethod
    def reading(cls, config: Mapping[str, Any]) -> PackedLayout:
        if config.get("quant_method") == "awq":
            return AWQFiles.reading(config)
        expect(config, {"bits": 4})
        group = group_size(config, 128)
        if config.get("dynamic"):
            raise SpecError(f"dynamic is {shown(config['dynamic'])}; only one setting for all modules is read")
        version = config.get("checkpoint_format", "gptq")
        if version not in ("gptq", "gptq_v2"):
            raise SpecError(f"checkpoint_format is {shown(version)}; only gptq and gptq_v2 are read")
        return cls(group, shift=1 if version == "gptq" else 0)

    @classmethod
    def holding(cls, weights: Sequence[Quantized]) -> Self | None:
        groups: set[int | None] = {weight.form.group for weight in weights if isinstance(weight.form, Grouped)}
        if any(not isinstance(w.form, Grouped) or w.shape[0] % 8 or w.shape[1] % 8 for w in weights):
            return None
        if len(groups) > 1:
            if any(weight.parts["scale"].shape[1] > 1 for weight in weights):
                return None
            groups = {None}
        ordered = any("order" in weight.parts for weight in weights)
        return cls(groups.pop(), ordered, not any("zero" in weight.parts for weight in weights))

    def config(self, skipped: list[str]) -> dict[str, Any]:
        return {
            "quant_method": "gptq", "bits": 4, "group_size": -1 if self.group is None else self.group,
            "desc_act": self.ordered, "sym": self.symmetric, "lm_head": "lm_head" not in skipped,
            "checkpoint_format": "gptq",
        }  # fmt: skip

    def needs(self, parts: Mapping[str, TensorEntry], small: Small) -> tuple[tuple[int, ...], Needs]:
        codes = parts["qweight"].shape
        if len(codes) != 2 or codes[1] % 8 or not codes[0]:
            raise ValueError(f"qweight has the shape {list(codes)}, expected inputs / 8 and a multiple of 8")
        columns, rows = 8 * codes[0], codes[1]
        groups = -(-columns // (self.group or columns))
        return (rows, columns), {
            "qweight": (("I32",), codes),
            "qzeros": (("I32",), (groups, rows // 8)),
            "scales": (("F16", "BF16", "F32"), (groups, rows)),
            "g_idx": (("I32",), (columns,)),
        }

    def read(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Quantized:
        scale = tensors["scales"].t().contiguous()
        parts = {
            "": tensors["qweight"].t().flatten().view(torch.uint8).view(shape[0], -1),
            "scale": scale,
        }  # low codes first
        zero = nibbles(tensors["qzeros"].view(torch.uint8)).t() + self.shift & 15
        if bool((zero != 8).any()):
            parts["zero"] = zero.contiguous()
        group = self.group or shape[1]
        order = tensors.get("g_idx")
        if order is not None and not torch.equal(order, torch.arange(shape[1], dtype=torch.int32) // group):
            least, most = int(order.min()), int(order.max())
            if least < 0 or most >= scale.shape[1]:
                raise ValueError(f"g_idx names groups from {least} to {most}, there are {scale.shape[1]}")
            parts["order"] = order
        return Quantized(Grouped(group), parts, shape, dtype)

    def write(self, weight: Quantized) -> dict[str, Tensor]:
        parts, (rows, columns) = weight.parts, weight.shape
        groups = parts["scale"].shape[1]
        zero = parts.get("zero", torch.full((rows, groups), 8, dtype=torch.uint8)).t() - self.shift & 15
        group = self.group or columns
        return {
            "qweight": parts[""].flatten().view(torch.int32).view(rows, -1).t(),
            "qzeros": (zero[:, 0::2] | zero[:, 1::2] << 4).flatten().view(torch.int32).view(groups, -1),
            "scales": parts["scale"].t(),
            "g_idx": parts.get("order", torch.arange(columns, dtype=torch.int32) // group),
        }


@dataclass(frozen=True)
class AWQFiles(PackedLayout):
    """qweight int32 (K, N/8), qzeros (groups, N/8), scales (groups, N); eight codes a number, the even ones first.

    What is read is saved as `GPTQFiles`, as is that of `PackQuantized`.
    """

    codes = "qweight"
    group: int | None

    @classmethod
    def reading(cls, config: Mapping[str, Any]) -> PackedLayout:
        given = {"zero_point": True, **config, "version": str(config.get("version", "gemm")).lower()}
        expect(given, {"bits": 4, "zero_point": True, "version": "gemm"})
        return cls(group_size(config, 128))

    def needs(self, parts: Mapping[str, TensorEntry], small: Small) -> tuple[tuple[int, ...], Needs]:
        codes = parts["qweight"].shape
        if len(codes) != 2 or codes[0] % 2:
            raise ValueError(f"qweight has the shape {list(codes)}, expected an even number of inputs and outputs / 8")
        groups = -(-codes[0] // (self.group or codes[0] or 1))
        return (8 * codes[1], codes[0]), {
            "qweight": (("I32",), codes),
            "qzeros": (("I32",), (groups, codes[1])),
            "scales": (("F16", "BF16", "F32"), (groups, 8 * codes[1])),
        }

    def read(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Quantized:
        codes, zero = (
            nibbles(tensors[name].view(torch.uint8)).unflatten(1, (-1, 2, 4)).transpose(2, 3).flatten(1).t()
            for name in ("qweight", "qzeros")
        )
        parts = {
            "": (codes[:, 0::2] | codes[:, 1::2] << 4).contiguous(), "scale": tensors["scales"].t().contiguous(),
            "zero": zero.contiguous(),
        }  # fmt: skip
        return Quantized(Grouped(self.group or shape[1]), parts, shape, dtype)


@dataclass(frozen=True)
class PackQuantized(PackedLayout):
    """compressed-tensors' `pack-quantized` of 4 bits: weight_packed int32 (N, K/8), weight_scale (N, groups), and where
    it is not symmetric weight_zero_point int32 (N/8, groups)."""

    codes = "weight_packed"
    group: int | None
    symmetric: bool

    @classmethod
    def of_group(cls, group: Mapping[str, Any]) -> PackedLayout:
        """From the group of a compressed-tensors config."""
        weights = expect(group.get("weights"), {"num_bits": 4, "type": "int", "actorder": None}, "weights: ")
        expect(group, {"input_activations": None})
        if weights.get("strategy") not in ("group", "channel"):
            raise SpecError(f"weights: strategy is {shown(weights.get('strategy'))}; only group and channel are read")
        size = group_size(weights, where="weights: ") if weights["strategy"] == "group" else None
        return cls(size, weights.get("symmetric", True) is not False)

    def needs(self, parts: Mapping[str, TensorEntry], small: Small) -> tuple[tuple[int, ...], Needs]:
        codes = parts["weight_packed"].shape
        shape = tuple(small("weight_shape").tolist())
        if len(codes) != 2 or shape != (codes[0], 8 * codes[1]) or codes[0] % 8:
            raise ValueError(f"weight_packed has the shape {list(codes)}, which is not 1/8 of {list(shape)}")
        groups = -(-shape[1] // (self.group or shape[1] or 1))
        found: Needs = {
            "weight_packed": (("I32",), codes),
            "weight_scale": (("F16", "BF16", "F32"), (shape[0], groups)),
            "weight_shape": (("I64", "I32"), (2,)),
        }
        if not self.symmetric:
            found["weight_zero_point"] = ("I32",), (shape[0] // 8, groups)
        return shape, found

    def read(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Quantized:
        parts = {"": tensors["weight_packed"].view(torch.uint8).view(shape[0], -1), "scale": tensors["weight_scale"]}
        if not self.symmetric:
            zero = tensors["weight_zero_point"].t().contiguous().view(torch.uint8)
            parts["zero"] = nibbles(zero).t().contiguous()
        return Quantized(Grouped(self.group or shape[1]), parts, shape, dtype)
