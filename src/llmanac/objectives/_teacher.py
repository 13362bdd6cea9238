"""What objectives with a frozen teacher have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.core.types import ALL, HIDDEN, OutputRequest
from llmanac.models.lm.transformer import Transformer
from llmanac.objectives.instruction import Instruction


class WithTeacher(Instruction):
    """Rows and masks of instruction tuning, and a frozen teacher that reads the same tokens."""

    def __init__(self, spec: Any, tokenizer: Any, models: Mapping[str, nn.Module], reader: Any = None) -> None:
        teacher = models.get("teacher")
        if teacher is None:
            raise SpecError(f"objective: {spec.name} needs a teacher; give models={{'teacher': a language model}}")
        own, other = None if tokenizer is None else tokenizer.vocab_size, teacher.vocab_size
        if own is not None and own > other:
            raise SpecError(
                f"teacher: its vocabulary has {other} tokens and the student's {own}; this level compares token by "
                "token, so both need one tokenizer. Distill by sequence or response instead"
            )
        super().__init__(spec, reader or spec.reader(tokenizer), models)

    @property
    def teacher(self) -> Any:
        """The frozen model."""
        return self.models["teacher"]


def reading(model: Any) -> tuple[OutputRequest, Callable[[Tensor], Tensor]]:
    """What to ask of a model, and how its logits (n, V) follow from n places of that.

    The hidden states, where the head looks at one place alone; else the logits themselves.
    """
    if not isinstance(model, Transformer) or model.lm_head.remembers:
        return ALL, lambda logits: logits
    return HIDDEN, lambda hidden: model.lm_head.logits(hidden[None], cast(Any, None))[0]
