"""4-bit codes with scales of groups, and their tensors in GPTQ checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from llmanac.core.errors import SpecError, shown
from llmanac.models._packed_files import Layout, Needs, Small, expect
from llmanac.models._quantized import Form, Quantized
from llmanac.models._weights import Entry


def nibbles(codes: Tensor) -> Tensor:
    """(..., bytes) -> (..., 2 x bytes), the low half of each byte first."""
    return torch.stack([codes & 15, codes >> 4], -1).flatten(-2)


@dataclass(frozen=True)
class Grouped(Form):
    """Codes two to a byte, the first in the low half. `group`: numbers a scale.

    Files may have further parts: `zero` (N, groups), the code of 0 where that is not 8, and `order` (K,), the group of
    each column where groups are not consecutive.
    """

    group: int
    name = "int4"

    @property
    def quantizer(self) -> dict[str, Any]:
        return {"name": "gptq", "group": self.group}

    def dense(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        return self._values(parts, slice(None), shape[1])

    def rows(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], ids: Tensor) -> Tensor:
        return self._values(parts, ids, shape[1])

    def _values(self, parts: Mapping[str, Tensor], rows: Any, columns: int) -> Tensor:
        def spread(groups: Tensor) -> Tensor:
            if "order" in parts:
                return groups[..., parts["order"].long()]
            return groups.repeat_interleave(self.group, -1)[..., :columns]

        values = nibbles(parts[""][rows]).float()
        values -= spread(parts["zero"][rows].float()) if "zero" in parts else 8
        return values * spread(parts["scale"][rows].float())


@dataclass(frozen=True)
class GPTQFiles(Layout):
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
    def reading(cls, config: Mapping[str, Any]) -> Self:
        expect(config, {"bits": 4})
        group = config.get("group_size", 128)
        if type(group) is not int or not (group == -1 or 1 <= group < 1 << 31):
            raise SpecError(f"group_size is {shown(group)}, expected -1 or a size")
        if config.get("dynamic"):
            raise SpecError(f"dynamic is {shown(config['dynamic'])}; only one setting for all modules is read")
        version = config.get("checkpoint_format", "gptq")
        if version not in ("gptq", "gptq_v2"):
            raise SpecError(f"checkpoint_format is {shown(version)}; only gptq and gptq_v2 are read")
        return cls(None if group == -1 else group, shift=1 if version == "gptq" else 0)

    @classmethod
    def holding(cls, weights: Sequence[Quantized]) -> Self | None:
        groups: set[int | None] = {getattr(weight.form, "group", 0) for weight in weights}
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

    def needs(self, parts: Mapping[str, Entry], small: Small) -> tuple[tuple[int, ...], Needs]:
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
