"""Losses. An objective makes batches of rows and says what a model loses on them, as a sum over units.

Only the trainer divides, by the units of all micro-batches (and ranks) together, so that how a step is cut into pieces
never changes its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from llmanac.core.spec import Spec
from llmanac.objectives._rows import InstructionRows


@dataclass(frozen=True, kw_only=True)
class ObjectiveSpec(Spec):
    """Describes an objective. `build(tokenizer=..., models=...)` gives one."""

    kind = "objective"
    special_tokens: ClassVar[tuple[str, ...]] = ()  # that its rows are written with; a recipe's tokenizer gets them

    def reader(self, tokenizer: Any) -> Any:
        """What makes tokens and loss masks of rows of tuning for it (`_rows.py`), before any model is there."""
        return InstructionRows(tokenizer, getattr(self, "on", "assistant"))

    def build(self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any) -> Any:
        """The objective.

        Args:
            models: the further models that it needs, by name (reference, teacher, value).
            dims: what only some need, such as the `reader` of its rows where that is built already.
        """
        raise NotImplementedError
