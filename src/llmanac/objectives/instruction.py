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
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


ROWS = 64  # encoded together


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

    def __init__(self, spec: Any, tokenizer: Any, models: Mapping[str, Any] | None = None) -> None:
        super().__init__(models)
        self.spec, self.tokenizer = spec, tokenizer

    def encode(self, row: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """A row to `(ids (n,), loss mask (n,))`.

        Raises:
            DataError: columns that are none of the four forms, or a row in which nothing carries loss.
        """
        return next(self.encode_all([row]))

    def examples(self, rows: Iterable[Mapping[str, Any]], *, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows for `TokenDataset.write_examples`; one with no loss in its first `length` + 1 tokens is left out."""
        waiting = iter(rows)
        while some := list(itertools.islice(waiting, ROWS)):
            for ids, mask in self.encode_all(some):
                if mask is not None and mask[1 : length + 1].any():
                    yield ids[: length + 1], mask[: length + 1]

    def encode_all(self, rows: Sequence[Any]) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """`encode` of each row, with all their conversations rendered together."""
        encoded = self.tokenizer.encode_chats(itertools.chain.from_iterable(map(self._chats, rows)))
        for row in rows:
            chats = [next(encoded) for _ in self._chats(row)]
            if not isinstance(row, Mapping):
                yield super().encode(row)
                continue
            ids, mask = self._with_loss(row, chats)
            if self.spec.on == "all":
                mask = np.ones(len(ids), np.bool_)
            if not mask[1:].any():
                spoken = {str(m.get("role")) for m in row.get("messages") or () if isinstance(m, Mapping)}
                why = f"; no message has the role 'assistant', but {', '.join(sorted(spoken))}" if spoken else ""
                why = "" if "assistant" in spoken else why
                raise DataError(f"nothing in this row carries loss (on = {self.spec.on!r}){why}: {str(dict(row))[:80]}")
            yield ids, mask

    def _chats(self, row: Any) -> list[tuple[Any, bool]]:
        """The conversations that a row is encoded from: all of it, and what comes before the completion."""
        if not isinstance(row, Mapping) or isinstance(row.get("text"), str):
            return []
        if "messages" in row:
            messages = row["messages"]
            if not isinstance(messages, (list, tuple)) or not messages:
                raise DataError(f"messages: a list of messages was expected, not {str(messages)[:60]!r}")
            if self.spec.on != "completion":
                return [(messages, False)]
            end = len(messages)
            while end and isinstance(messages[end - 1], Mapping) and messages[end - 1].get("role") != "assistant":
                end -= 1
            if not end:
                raise DataError(
                    f"messages: has no assistant message to learn from (on = 'completion'): {messages!s:.60}"
                )
            prompt, whole = messages[: end - 1], messages[:end]
        elif isinstance(row.get("text"), (int, float, list, tuple, Mapping)):
            raise DataError(f"text: a text was expected, not {type(row['text']).__name__}")
        elif "prompt" not in row or "completion" not in row:
            raise DataError(f"columns {sorted(row)}: expected `messages`, `prompt` and `completion`, or `text`")
        elif isinstance(row["prompt"], str) and isinstance(row["completion"], str):
            return []
        elif isinstance(row["prompt"], str) or isinstance(row["completion"], str):
            raise DataError("prompt and completion: both must be text, or both lists of messages")
        else:
            prompt, whole = row["prompt"], [*row["prompt"], *row["completion"]]
        return [(whole, False), (prompt, True)] if prompt else [(whole, False)]

    def _with_loss(self, row: Mapping[str, Any], chats: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of a row and which of them carry loss, by its encoded conversations."""
        if not chats:
            plain = isinstance(row.get("text"), str)
            return self._text("", row["text"]) if plain else self._text(row["prompt"], row["completion"])
        ids, by_assistant = np.asarray(chats[0][0], np.int64), np.asarray(chats[0][1], np.bool_)
        if "messages" in row and self.spec.on != "completion":
            return ids, by_assistant
        alone = chats[1][0] if len(chats) > 1 else []
        after = np.arange(len(ids)) >= common_prefix(alone, ids)
        return ids, after & by_assistant if self.spec.on == "assistant" else after

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
