"""Feature-level distillation: the student's hidden states, projected, are drawn to the teacher's.

    loss = sum over t in answer of  (1 - w) * -log q(x_t | x_<t)  +  w * mean over pairs (i, j) of d(P_ij h_i, g_j)

h_i (B, T, D) is what the student's block i gives, g_j (B, T, D') what the teacher's block j gives, P_ij (D', D) a
linear map that is trained along. d is the mean squared difference over the mean square of g (no unit), or one minus
the cosine. The signal is rich, but somebody has to choose which layers correspond.

Papers: Romero et al. 2015, FitNets (https://arxiv.org/abs/1412.6550), section 2.2; Jiao et al. 2020, TinyBERT
(https://arxiv.org/abs/1909.10351), section 3.1 for even layers; Sanh et al. 2019 (https://arxiv.org/abs/1910.01108),
section 3 for the cosine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.core.ranges import SOME, within
from llmanac.core.rng import parameter_generator
from llmanac.core.types import IGNORE, Batch, LossSum, OutputRequest
from llmanac.models.layers import Linear
from llmanac.models.lm import TrainedModel
from llmanac.objectives import ObjectiveSpec
from llmanac.objectives.instruction import WithTeacher

CARD = {
    "title": "Feature-level distillation",
    "paper": "https://arxiv.org/abs/1412.6550",
    "reference": "the loss written out over transformers' hidden states; 0 where the student is the teacher",
    "test": "tests/references/test_distillation.py::test_features_equal_the_loss_written_out",
    "models": ["teacher"],
    "aliases": {"cosine-distillation": {"distance": "cosine"}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(ObjectiveSpec):
    """Attributes:
    layers: `last`; `even` (block i of n and block round(i m / n) of the teacher's m); or pairs such as ("1:2", "4:12"),
        student first, counted from 1, 0 for the embeddings.
    distance: d; projection: `linear`, or `none` where both have one width.
    share: w, 1 for features alone (the head then learns nothing).
    on: which tokens carry loss, as in instruction tuning.
    """

    layers: tuple[str, ...] = ("last",)
    distance: Literal["mse", "cosine"] = "mse"
    projection: Literal["linear", "none"] = "linear"
    share: float = 0.5
    on: Literal["completion", "assistant", "all"] = "completion"

    ranges = within(SOME, "share")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.layers:
            parts = name.split(":")
            if name not in ("last", "even") and not (len(parts) == 2 and all(part.isdecimal() for part in parts)):
                raise SpecError(f"layers: {name!r} is neither last, even, nor a pair such as 2:4")
        if not self.layers:
            raise SpecError("layers: needs at least one pair of layers")

    def pairs(self, own: int, other: int) -> list[tuple[int, int]]:
        """Numbers of blocks (student's, teacher's) of models with `own` and `other` blocks. Raises SpecError."""
        found: list[tuple[int, int]] = []
        for name in self.layers:
            if name == "last":
                found.append((own, other))
            elif name == "even":
                found += [(i, round(i * other / own)) for i in range(1, own + 1)]
            else:
                i, j = (int(part) for part in name.split(":"))
                if i > own or j > other:
                    raise SpecError(f"layers: {name}: the student has {own} blocks and the teacher {other}")
                found.append((i, j))
        return list(dict.fromkeys(found))

    def build(
        self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, student: Any = None, **dims: Any
    ) -> FeatureDistillation:
        """models: {"teacher": a language model that reads the same tokens}; student: the model to be trained.

        Without a student, one of the teacher's size is expected.
        """
        return FeatureDistillation(self, tokenizer, models or {}, student, dims.get("reader"))


class Projections(nn.Module):
    """P of each pair of layers; the identity to start with where both widths are one, else drawn by name."""

    def __init__(self, count: int, own: int, other: int) -> None:
        super().__init__()
        self.maps: Any = nn.ModuleList(Linear(own, other) for _ in range(count))
        for name, p in self.named_parameters():
            if own == other:
                nn.init.eye_(p)
            else:
                with torch.no_grad():
                    p.normal_(0, own**-0.5, generator=parameter_generator(0, f"projections.{name}", tuple(p.shape)))


class FeatureDistillation(WithTeacher):
    """See the module. The projections are trained along with the model and are in every checkpoint."""

    trainable = ("projections",)

    def __init__(
        self, spec: Spec, tokenizer: Any, models: dict[str, Any], student: Any = None, reader: Any = None
    ) -> None:
        teacher = models.get("teacher")
        student = teacher if student is None else student
        if teacher is not None:
            shapes = [_shape(model, name) for model, name in ((student, "student"), (teacher, "teacher"))]
            (own, own_dim), (other, other_dim) = shapes
            self.pairs = spec.pairs(own, other)
            if spec.projection == "none" and own_dim != other_dim:
                raise SpecError(f"projection: none needs one width, not {own_dim} and {other_dim}; use linear")
            if spec.projection == "linear":
                projections = Projections(len(self.pairs), own_dim, other_dim)
                models = {**models, "projections": projections.to(student.device)}
        super().__init__(spec, tokenizer, models, reader)

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """The sum over the places that carry loss; metrics: the distance, and the student's nll where it counts."""
        assert batch.targets is not None
        keep = batch.targets != IGNORE
        wanted, known = (tuple(dict.fromkeys(side)) for side in zip(*self.pairs, strict=True))
        output = model(batch, want=OutputRequest(layers=wanted, nll="sum" if self.spec.share < 1 else None))
        with torch.no_grad():
            seen = self.teacher(batch, want=OutputRequest(layers=known))
        total = torch.zeros((), device=keep.device)
        for number, (i, j) in enumerate(self.pairs):
            own, other = output.layers[wanted.index(i)][keep], seen.layers[known.index(j)][keep]
            if self.spec.projection == "linear":
                projections: Any = self.models["projections"]
                own = projections.maps[number](own)
            total = total + distance(self.spec.distance, own, other).sum() / len(self.pairs)
        units, metrics = keep.sum(), {"distance": total.detach()}
        total = self.spec.share * total
        if output.nll is not None:
            total = total + (1 - self.spec.share) * output.nll
            metrics["nll"] = output.nll.detach()
        return self.with_aux(total, units, output)[0], units, metrics


def distance(kind: str, own: Tensor, other: Tensor) -> Tensor:
    """d of N places: (N, D), (N, D) -> (N,), in float32 at least."""
    if own.dtype != torch.float64:
        own, other = own.float(), other.float()
    if kind == "cosine":
        return 1 - F.cosine_similarity(own, other, dim=-1)
    return (own - other).square().mean(-1) / other.square().mean(-1).clamp(min=1e-12)


def _shape(model: Any, name: str) -> tuple[int, int]:
    """Blocks and width of a model. Raises SpecError for one that has no blocks to ask for."""
    spec = model.spec if isinstance(model, TrainedModel) else None
    if spec is None or not spec.blocks:
        raise SpecError(f"{name}: a {type(model).__name__} has no blocks whose outputs can be compared")
    return spec.layers, spec.dim
