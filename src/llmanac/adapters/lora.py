"""Low-rank adaptation: a frozen matrix plus a trained product of two thin ones.

    y = W x + s B A x        A (r, inputs), B (outputs, r); s = alpha / r, or alpha / sqrt(r) (rank-stabilized)
    y = g * (W x + s B A x)  g = m / |W + s B A|: weight-decomposed (DoRA); m (outputs,) is trained, |.| of each row

B starts at 0, so the model starts as it was, and A is uniform within inputs^-0.5, as in the paper's code. Only A and B
are trained: r (inputs + outputs) numbers in place of inputs x outputs, and no gradient or optimizer state of W. After
training, s B A is added to W, so that inference costs nothing more. With s = alpha / r the gradients shrink as r grows;
alpha / sqrt(r) keeps their size. Dropout applies to the x that A reads. DoRA trains the length of each row of the
matrix apart from its direction; m starts at |W|, and |W + s B A| counts as a constant in the gradient, as in the paper.

The matrix of `embed_tokens` is E^T (D, V), whose inputs are the columns of the identity that ids name.

Beside the products an adapter may train biases, rows of the embedding (`tokens`: those that a chat format adds) and
copies of whole modules (`copies`: embeddings, norms, the head), as PEFT's `bias`, `trainable_token_indices` and
`modules_to_save` do.

Shapes: x (..., inputs) -> A x (..., r) -> y (..., outputs). Names are PEFT's: `<layer>.lora_A.weight`, `lora_B` and
`lora_magnitude_vector`. Hu et al. 2021; Kalajdzievski 2023 for the scaling; Liu et al. 2024 for DoRA.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.adapters._config import together
from llmanac.adapters._copies import Copies, chosen_parameters
from llmanac.adapters._linear import (
    EMBEDDING,
    LinearTerm,
    LinearTransform,
    LinearTransformSpec,
    Merged,
    TokenRows,
    TokenTerm,
)
from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, PART, POSITIVE, within
from llmanac.models.layers import Changeable, Embedding, upcast
from llmanac.models.quantized import dense, product

CARD = {
    "title": "Low-rank adaptation (LoRA)",
    "paper": "Hu et al. 2021, arXiv:2106.09685; Kalajdzievski 2023, 2312.03732; Liu et al. 2024, 2402.09353",
    "reference": "PEFT's LoraModel on models of transformers: outputs, gradients, merged weights and files",
    "aliases": {"rslora": {"scaling": "rank-stabilized"}, "dora": {"form": "weight-decomposed"}},
    "titles": {"rslora": "Rank-stabilized LoRA", "dora": "Weight-decomposed low-rank adaptation (DoRA)"},
}


@dataclass(frozen=True, kw_only=True)
class Spec(LinearTransformSpec):
    """rank: r; alpha: size of the change; dropout: share of A's inputs dropped in training; scaling: what s is.

    form: a sum, or its rows' lengths trained too. sharing: `files` gives products that the files of the model's family
    keep as one matrix (GPT-2: q, k and v) one A, as PEFT on that matrix has it.
    bias: which biases are trained; tokens: ids whose embeddings are; copies: patterns of modules that are, whole.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    scaling: Literal["standard", "rank-stabilized"] = "standard"
    form: Literal["sum", "weight-decomposed"] = "sum"
    sharing: Literal["none", "files"] = "none"
    bias: Literal["none", "targets", "all"] = "none"
    tokens: tuple[int, ...] = ()
    copies: tuple[str, ...] = ()

    ranges = within(COUNT, "rank") | within(POSITIVE, "alpha") | within(PART, "dropout")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.tokens)) < len(self.tokens) or any(id < 0 for id in self.tokens):
            raise SpecError("tokens: expected ids from 0 on, each once")

    def scale(self, rank: int | None = None, alpha: float | None = None) -> float:
        """s."""
        rank, alpha = rank or self.rank, alpha or self.alpha
        return alpha / (rank if self.scaling == "standard" else rank**0.5)

    def build(self, *, seed: int = 0, **dims: Any) -> LoRA:
        return LoRA(self, seed)


class LoRA(LinearTransform):
    """See the module.

    Args:
        sizes: the rank and alpha of products that have others than the Spec's, by name.
        shared: a name for each product; those of one name have one A. By default as the Spec's `sharing` says.
        rows: the ids whose rows are trained, by the name of the embedding or head. By default the Spec's `tokens`.
        names: of parameters that are trained whole. By default those that the Spec's `bias` and `copies` mean.
    """

    spec: Spec
    copies: Copies | None = None

    def __init__(
        self,
        spec: Spec,
        seed: int = 0,
        *,
        sizes: Mapping[str, tuple[int, float]] | None = None,
        shared: Mapping[str, str] | None = None,
        rows: Mapping[str, tuple[int, ...]] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(spec, seed)
        self.sizes, self.shared, self.rows, self.names = dict(sizes or {}), shared, rows, names

    def attach(self, model: nn.Module) -> dict[str, nn.Module]:
        spec = self.spec
        names = self.names
        if names is None:
            names = chosen_parameters(model, self.targets_of(model), bias=spec.bias, patterns=spec.copies)
        copies = Copies(model, names) if names else None
        modules = super().attach(model)
        twice = sorted(name for name in self.parts if f"{name}.weight" in names)
        if twice:
            super().detach(model)
            raise SpecError(f"copies: {twice[0]} is among the targets or tokens too; leave one of them out")
        if copies is None:
            return modules
        self.copies = copies
        copies.exchange()
        return modules | copies.modules

    def detach(self, model: nn.Module) -> None:
        super().detach(model)
        if self.copies is not None:
            self.copies.exchange()
            self.copies = None

    @contextmanager
    def disabled(self) -> Iterator[None]:
        swapped = self.copies if self.enabled else None
        if swapped is not None:
            swapped.exchange()
        try:
            with super().disabled():
                yield
        finally:
            if swapped is not None:
                swapped.exchange()

    @torch.no_grad()
    def merge(self, *, repack: bool = False) -> Merged:
        model, copies = self._applied(), self.copies
        found = super().merge(repack=repack)  # which puts the model's own parameters back
        if copies is None:
            return found
        return Merged(found.errors | copies.keep(model), found.packed)

    def make_parts(self, model: nn.Module, layers: Mapping[str, Changeable]) -> dict[str, LinearTerm]:
        first: dict[str, Factor] = {}
        shared = self.shared or (together(model, list(layers)) if self.spec.sharing == "files" else {})
        parts: dict[str, LinearTerm] = {}
        for name, layer in layers.items():
            weight = layer.matrix
            rank, alpha = self.sizes.get(name, (self.spec.rank, self.spec.alpha))
            # held in float32 at least: the steps of training are too small for less
            options: Any = {
                "dtype": torch.float64 if weight.dtype == torch.float64 else torch.float32, "device": weight.device,
            }  # fmt: skip
            a = first.setdefault(shared.get(name, name), Factor(torch.empty(rank, weight.shape[1], **options)))
            b = Factor(torch.empty(weight.shape[0], rank, **options), zero=True)
            lengths = Lengths(layer, **options) if self.spec.form == "weight-decomposed" else None
            parts[name] = LowRank(self, a, b, self.spec.scale(rank, alpha), lengths)
        return parts | self._token_parts(model, parts)

    def _token_parts(self, model: Any, parts: Mapping[str, LinearTerm]) -> dict[str, LinearTerm]:
        given = self.rows
        if given is None:
            path = next((n for n, m in model.named_modules() if isinstance(m, Embedding) and n.endswith(EMBEDDING)), "")
            given = {path: self.spec.tokens} if self.spec.tokens else {}
        found: dict[str, LinearTerm] = {}
        for name, ids in given.items():
            layer = model.get_submodule(name) if name else None
            if not isinstance(layer, Changeable) or max(ids) >= len(layer.weight):
                raise SpecError(f"tokens: {max(ids)} is no token of this model")
            rows = TokenRows(layer, ids)
            found[name] = TokenTerm(self, rows)
            for other, module in model.named_modules():  # a head that is tied to the embedding
                if module is not layer and module._parameters.get("weight") is layer.weight and other not in given:
                    found[other] = TokenTerm(self, rows, follows=True)
        taken = sorted(found.keys() & parts.keys())
        if taken:
            raise SpecError(f"tokens: {taken[0]} is among the targets too; leave one of the two out")
        return found


class Factor(nn.Module):
    """A matrix whose initial values are uniform within inputs^-0.5, or zero."""

    def __init__(self, weight: Tensor, zero: bool = False) -> None:
        super().__init__()
        self.bound = 0.0 if zero else weight.shape[1] ** -0.5
        self.weight = nn.Parameter(weight)

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        drawn = torch.empty(parameter.shape, dtype=torch.float32)
        parameter.copy_(drawn.uniform_(-self.bound, self.bound, generator=generator) if self.bound else drawn.zero_())


class Lengths(nn.Module):
    """m (outputs,), initially the lengths of the rows of the layer's matrix."""

    def __init__(self, layer: Changeable, **options: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layer.matrix.shape[0], **options))
        self._of = [layer]  # in a list, so that the layer is no child
        self._squares: tuple[tuple[int, int], Tensor] | None = None

    @torch.no_grad()
    def squares(self) -> Tensor:
        """|w|^2 of each row of the frozen matrix, computed once."""
        weight = self._of[0].weight
        stamp = (id(weight), 0 if weight.is_inference() else weight._version)
        if self._squares is None or self._squares[0] != stamp:
            self._squares = stamp, upcast(dense(self._of[0].matrix)).square().sum(1)
        return self._squares[1]

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.copy_(self.squares().sqrt())


class LowRank(LinearTerm):
    """A and B of one layer, and m."""

    def __init__(self, transform: LoRA, a: Factor, b: Factor, scale: float, lengths: Lengths | None) -> None:
        modules: dict[str, nn.Module] = {"lora_A": a, "lora_B": b}
        super().__init__(transform, modules if lengths is None else modules | {"lora_magnitude_vector": lengths})
        self.a, self.b, self.lengths = a, b, lengths
        self.scale, self.dropout = scale, transform.spec.dropout

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.b.weight), self.a.weight.shape[1]

    def term(self, x: Tensor) -> tuple[Tensor, Tensor, float]:
        if not x.is_floating_point():
            return F.embedding(x, self.a.weight.t()), self.b.weight, self.scale
        read = F.dropout(x, self.dropout, self.a.training) if self.dropout else x
        return F.linear(read, self.a.weight.to(x.dtype)), self.b.weight.to(x.dtype), self.scale

    def factors(self) -> tuple[Tensor, Tensor, float, float] | None:
        if self.lengths is not None or not self.transform.enabled:
            return None
        return self.a.weight, self.b.weight, self.scale, self.dropout if self.a.training else 0.0

    def gain(self, weight: Tensor) -> Tensor | None:
        return None if self.lengths is None else self.lengths.weight / self._lengths(weight)

    @torch.no_grad()
    def _lengths(self, weight: Tensor) -> Tensor:
        """|W + s B A| of each row: |w|^2 + 2 s b (A w) + s^2 b (A A^T) b^T, without the matrix W + s B A."""
        assert self.lengths is not None
        a, b = self.a.weight, self.b.weight * self.scale
        crossed = 2 * product(a, weight).t() + b @ (a @ a.t())
        return (self.lengths.squares() + (b * crossed).sum(1)).sqrt()

    def merged(self, weight: Tensor) -> Tensor:
        exact = weight + upcast(self.b.weight @ self.a.weight) * self.scale
        if self.lengths is None:
            return exact
        return exact * (self.lengths.weight / exact.norm(dim=1))[:, None]
