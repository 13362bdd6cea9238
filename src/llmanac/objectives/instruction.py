"""Instruction tuning: the next-token loss on the answers only, never on what the user says.

    loss = - sum over t in answer of log p(x_t | x_1 ... x_{t-1})

The prompt is read and conditions the answer, but carries no loss: the model learns to answer, not to ask. The end of
the answer (end of text, or the turn's end mark) is part of it, or the model would never learn to stop.

Rows are those of TRL, and so are the masks:

    {"prompt": text, "completion": text}            the completion and an end of text carry loss
    {"prompt": messages, "completion": messages}    rendered by the chat template; the completion carries loss
    {"messages": messages}                          on = "completion": the last assistant message, what follows it is
                                                    left out; on = "assistant": every assistant turn with its
                                                    end mark (alias `chat`)
    {"text": text}                                  all of it and an end of text carry loss

The prompt ends where the tokens of the prompt alone and of the complete row first differ: a merge across the boundary
belongs to the answer.

Papers: Wei et al. 2022 (https://arxiv.org/abs/2109.01652); Ouyang et al. 2022 (https://arxiv.org/abs/2203.02155),
section 3; for chat, Touvron et al. 2023 (https://arxiv.org/abs/2307.09288), section 3.1.

What objectives with a frozen teacher have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.core.types import ALL, HIDDEN, OutputRequest
from llmanac.models.lm.transformer import Transformer
from llmanac.objectives import ObjectiveSpec
from llmanac.objectives._base import InstructionRows, NextToken, On

CARD = {
    "title": "Instruction tuning",
    "paper": "https://arxiv.org/abs/2203.02155",
    "reference": "TRL's SFTTrainer: labels of the same rows",
    "aliases": {"chat": {"on": "assistant"}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(ObjectiveSpec):
    """Attributes: on: which tokens carry loss; "all" is plain language modelling of the same rows."""

    on: On = "completion"

    def build(
        self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, reader: Any = None, **dims: Any
    ) -> Instruction:
        """The objective over rows that `tokenizer` encodes."""
        if tokenizer is None and reader is None:
            raise SpecError("objective: instruction needs a tokenizer")
        return Instruction(self, reader or self.reader(tokenizer))


class Instruction(NextToken):
    """The objective; see the module's rows."""

    def __init__(self, spec: Any, reader: InstructionRows, models: Mapping[str, Any] | None = None) -> None:
        super().__init__(models)
        self.spec, self.reader = spec, reader

    def encode(self, row: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """A row to `(ids (n,), loss mask (n,))`. Raises DataError for one that cannot be read."""
        return next(self.encode_all([row]))

    def encode_all(self, rows: Sequence[Any]) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """`encode` of each row, with all their conversations rendered together."""
        read = self.reader.encode_all([row for row in rows if isinstance(row, Mapping)])
        for row in rows:
            yield next(read) if isinstance(row, Mapping) else super().encode(row)


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
