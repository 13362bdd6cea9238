"""Transforms that come before the tokens of every row; `models/soft_prompt.py` has what a model does with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.adapters._transform import AdapterSpec, Transform
from llmanac.core.errors import SpecError
from llmanac.core.ranges import Range, within
from llmanac.core.types import capabilities
from llmanac.models.layers import Linear, init_normal
from llmanac.models.lm.transformer import Transformer
from llmanac.models.state import DecodingState

NAME = "prompt_encoder"  # of the child of the model that holds what is trained
MOST = 1 << 16  # places


@dataclass(frozen=True, kw_only=True)
class SoftPromptSpec(AdapterSpec):
    """tokens: n, places before each row; start: what they hold at first.

    `text`: what the model makes of tokens that are drawn from its vocabulary; `normal`: numbers of deviation 0.02.
    """

    tokens: int = 20
    start: Literal["text", "normal"] = "text"

    ranges = within(Range(1, MOST), "tokens")


class SoftPromptEncoder(nn.Module):
    """What is trained: a table (n, width)."""

    def __init__(self, soft_prompt: SoftPromptTransform, rows: int, width: int, **options: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width, **options))
        self._soft_prompt = [soft_prompt]  # in a list, so that a copy of the model copies it, and it is no module

    def forward(self) -> Tensor:
        """(n, width)."""
        return self.weight

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        soft_prompt = self._soft_prompt[0]
        if soft_prompt.spec.start == "normal" or soft_prompt.model is None:
            init_normal(parameter, 0.02, generator)
        else:
            ids = torch.randint(soft_prompt.model.vocab_size, (1, parameter.shape[0]), generator=generator)
            parameter.copy_(soft_prompt.of_text(soft_prompt.model, ids.to(parameter.device)))


class Projected(nn.Module):
    """A table of narrow vectors and two layers that make the rows of it; once it is trained the rows are all."""

    def __init__(self, rows: int, inner: int, hidden: int, width: int, **options: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, inner, **options))
        self.inner = Linear(inner, hidden, bias=True).to(**options)
        self.outer = Linear(hidden, width, bias=True).to(**options)

    def forward(self) -> Tensor:
        """(n, width)."""
        found: Tensor = self.outer(torch.tanh(self.inner(self.weight)))
        return found

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        init_normal(parameter, 1.0, generator)


class SoftPromptTransform(Transform):
    """See the module. A subclass says how wide its rows are and what the model makes of text."""

    spec: SoftPromptSpec
    model: Any

    @property
    def tokens(self) -> int:
        """n."""
        return self.spec.tokens

    def make(self, model: Transformer, **options: Any) -> nn.Module:
        """The module that is trained; called without inputs it gives the rows (n, width)."""
        raise NotImplementedError

    def of_text(self, model: Transformer, ids: Tensor) -> Tensor:
        """The rows that the model makes of tokens (1, n)."""
        raise NotImplementedError

    def rows(self, dtype: torch.dtype) -> Tensor:
        """(n, width)."""
        found: Tensor = self.modules[NAME]()
        return found.to(dtype)

    def attach(self, model: nn.Module) -> dict[str, nn.Module]:
        name = self.spec.name
        if not isinstance(model, Transformer) or not capabilities(model).soft_prompts:
            raise SpecError(f"{name}: comes before text that a decoder continues; a {type(model).__name__} is none")
        if model.soft_prompt is not None:
            raise SpecError(f"{name}: the model has another one before its tokens; remove() that first")
        if model.lm_head.remembers:
            raise SpecError(f"{name}: a pointer head copies from tokens, and what is trained here is none")
        limit = model.model.position.limit
        if limit is not None and self.tokens >= limit:
            raise SpecError(f"tokens: {self.tokens} leave no place for text; only {limit} positions were learned")
        weight = model.embedding.weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        module = self.make(model, dtype=dtype, device=weight.device).train(model.training)
        model.add_module(NAME, module)
        model.soft_prompt = self
        return {NAME: module}

    def detach(self, model: nn.Module) -> None:
        model.soft_prompt = None  # type: ignore[assignment]
        delattr(model, NAME)

    def past(self, dtype: torch.dtype) -> list[tuple[Tensor, ...] | None] | None:
        """See `models/soft_prompt.py`."""
        return None

    def vectors(self, dtype: torch.dtype) -> Tensor:
        """See `models/soft_prompt.py`."""
        return self.rows(dtype)


def state_without(transform: SoftPromptTransform, model: Transformer, ids: Tensor) -> DecodingState:
    """The state of a model that has read ids (1, n) without the Transform."""
    with transform.disabled(), torch.no_grad():
        state = model.start(1)
        model(ids, state)
    return state
