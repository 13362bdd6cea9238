"""Language models. `core.types.LanguageModel` is what each of them offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmanac.core.spec import Spec


@dataclass(frozen=True, kw_only=True)
class LanguageModelSpec(Spec):
    """`build(vocab_size=) -> LanguageModel`."""

    kind = "lm"

    def build(self, *args: Any, **dims: Any) -> Any:
        """vocab_size: tokens that the model knows."""
        raise NotImplementedError
