"""Language models. `core.types.LanguageModel` is what each of them offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from llmanac.core.spec import Spec


@dataclass(frozen=True, kw_only=True)
class LanguageModelSpec(Spec):
    """`build(vocab_size=) -> LanguageModel`. estimated: whether it is counted, without steps of training."""

    kind = "lm"
    estimated: ClassVar[bool] = False

    def build(self, *args: Any, **dims: Any) -> Any:
        """vocab_size: tokens that the model knows."""
        raise NotImplementedError
