"""Instruction tuning: the next-token loss on the answers only, never on what the user says.

    loss = - sum over t in answer of log p(x_t | x_1 ... x_{t-1})

The prompt is read and conditions the answer, but carries no loss: the model learns to answer, not to ask. The end of
the answer (end of text, or the turn's end mark) is part of it, or the model would never learn to stop.

Rows are those of TRL, and so are the masks:

    {"prompt": text, "completion": text}            the completion and an end of text carry loss
    {"prompt": messages, "completion": messages}    rendered by the chat template; the completion carries loss
    {"messages": messages}                          on = "completion": the last message; on = "assistant": every
                                                    assistant turn with its end mark (alias `chat`)

The prompt ends where the tokens of the prompt alone and of the whole row part: a merge across the boundary belongs to
the answer.

Papers: Wei et al. 2022 (https://arxiv.org/abs/2109.01652); Ouyang et al. 2022 (https://arxiv.org/abs/2203.02155),
section 3; for chat, Touvron et al. 2023 (https://arxiv.org/abs/2307.09288), section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import DataError, SpecError
from llmanac.objectives import ObjectiveSpec
from llmanac.objectives._base import NextToken

CARD = {
    "title": "Instruction tuning",
    "paper": "https://arxiv.org/abs/2203.02155",
    "reference": "TRL's SFTTrainer: labels of the same rows",
    "aliases": {"chat": {"on": "assistant"}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(ObjectiveSpec):
    """Attributes: on: which tokens carry loss; "all" is plain language modelling of the same rows."""

    on: Literal["completion", "assistant", "all"] = "completion"

    def build(self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any) -> Instruction:
        """The objective over rows that `tokenizer` encodes."""
        if tokenizer is None:
            raise SpecError("objective: instruction needs a tokenizer")
        return Instruction(self, tokenizer)


class Instruction(NextToken):
    """The objective; see the module's rows."""

    def __init__(self, spec: Spec, tokenizer: Any) -> None:
        super().__init__()
        self.spec, self.tokenizer = spec, tokenizer

    def encode(self, row: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """A row to `(ids (n,), loss mask (n,))`.

        Raises:
            DataError: columns that are none of the three forms, or a row in which nothing carries loss.
        """
        if not isinstance(row, Mapping):
            return super().encode(row)
        ids, mask = self._encode(row)
        if self.spec.on == "all":
            mask = np.ones(len(ids), np.bool_)
        if not mask[1:].any():
            raise DataError(f"nothing in this row carries loss (on = {self.spec.on!r}): {str(dict(row))[:80]}")
        return ids, mask

    def examples(self, rows: Iterable[Mapping[str, Any]], *, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows for `TokenDataset.write_examples`; one with no loss in its first `length` + 1 tokens is left out."""
        for row in rows:
            ids, mask = self.encode(row)
            if mask is not None and mask[1 : length + 1].any():
                yield ids[: length + 1], mask[: length + 1]

    def _encode(self, row: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        if "messages" in row:
            messages = row["messages"]
            if not isinstance(messages, (list, tuple)) or not messages:
                raise DataError(f"messages: a list of messages was expected, not {str(messages)[:60]!r}")
            if self.spec.on != "completion":
                return self._assistant(messages)
            return self._after(messages[:-1], messages)
        if "prompt" not in row or "completion" not in row:
            raise DataError(f"columns {sorted(row)}: expected `messages`, or `prompt` and `completion`")
        prompt, completion = row["prompt"], row["completion"]
        if isinstance(prompt, str) and isinstance(completion, str):
            return self._text(prompt, completion)
        if isinstance(prompt, str) or isinstance(completion, str):
            raise DataError("prompt and completion: both must be text, or both lists of messages")
        whole = [*prompt, *completion]
        ids, after = self._after(prompt, whole)
        return (ids, after & self._assistant(whole)[1]) if self.spec.on == "assistant" else (ids, after)

    def _assistant(self, messages: Any) -> tuple[np.ndarray, np.ndarray]:
        ids, mask = self.tokenizer.encode_chat(messages)
        return np.asarray(ids, np.int64), np.asarray(mask, np.bool_)

    def _after(self, prompt: Any, whole: Any) -> tuple[np.ndarray, np.ndarray]:
        ids = np.asarray(self.tokenizer.encode_chat(whole)[0], np.int64)
        alone = self.tokenizer.encode_chat(prompt, add_generation_prompt=True)[0] if prompt else []
        return ids, np.arange(len(ids)) >= common_prefix(alone, ids)

    def _text(self, prompt: str, completion: str) -> tuple[np.ndarray, np.ndarray]:
        tokenizer = self.tokenizer
        before = [tokenizer.bos_id] if tokenizer.adds_bos else []
        after = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        whole = [*before, *tokenizer.encode(prompt + completion), *after]
        start = common_prefix([*before, *tokenizer.encode(prompt)], whole)
        return np.asarray(whole, np.int64), np.arange(len(whole)) >= start


def common_prefix(a: Any, b: Any) -> int:
    """How many tokens the two sequences share at their start."""
    short = min(len(a), len(b))
    same = np.asarray(a[:short]) == np.asarray(b[:short])
    return short if bool(np.all(same)) else int(np.argmin(same))
