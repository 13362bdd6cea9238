"""How rows of tuning become tokens and loss masks: a reader needs a tokenizer and no model; losses take its output."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import DataError

TOGETHER = 64  # rows encoded together
Encoded = tuple[np.ndarray, np.ndarray]  # ids (n,), and which of them carry loss (n,)
On = Literal["completion", "assistant", "all"]


class RowReader:
    """Base of readers."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def encode(self, row: Any) -> Any:
        """One row. Raises DataError for one that cannot be read."""
        return next(self.encode_all([row]))

    def encode_all(self, rows: Sequence[Any]) -> Iterator[Any]:
        """Each row, with all their conversations rendered together."""
        raise NotImplementedError


class InstructionRows(RowReader):
    """Rows in the four forms of `instruction.py`, as `(ids, loss mask)`; `on` says which tokens carry loss."""

    def __init__(self, tokenizer: Any, on: On) -> None:
        super().__init__(tokenizer)
        self.on = on

    def encode_all(self, rows: Sequence[Any]) -> Iterator[Encoded]:
        """See the base. Raises DataError: columns of none of the four forms, or a row in which nothing carries loss."""
        encoded = self.tokenizer.encode_chats(itertools.chain.from_iterable(map(self._chats, rows)))
        for row in rows:
            ids, mask = self._with_loss(row, [next(encoded) for _ in self._chats(row)])
            if self.on == "all":
                mask = np.ones(len(ids), np.bool_)
            if not mask[1:].any():
                spoken = {str(m.get("role")) for m in row.get("messages") or () if isinstance(m, Mapping)}
                why = f"; no message has the role 'assistant', but {', '.join(sorted(spoken))}" if spoken else ""
                why = "" if "assistant" in spoken else why
                raise DataError(f"nothing in this row carries loss (on = {self.on!r}){why}: {str(dict(row))[:80]}")
            yield ids, mask

    def examples(self, rows: Iterable[Mapping[str, Any]], *, length: int) -> Iterator[Encoded]:
        """Rows for `TokenDataset.write_examples`; one with no loss in its first `length` + 1 tokens is left out."""
        waiting = iter(rows)
        while some := list(itertools.islice(waiting, TOGETHER)):
            for ids, mask in self.encode_all(some):
                if mask[1 : length + 1].any():
                    yield ids[: length + 1], mask[: length + 1]

    def _chats(self, row: Mapping[str, Any]) -> list[tuple[Any, bool]]:
        """The conversations that a row is encoded from: all of it, and what comes before the completion."""
        if isinstance(row.get("text"), str):
            return []
        if "messages" in row:
            messages = row["messages"]
            if not isinstance(messages, (list, tuple)) or not messages:
                raise DataError(f"messages: a list of messages was expected, not {str(messages)[:60]!r}")
            if self.on != "completion":
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

    def _with_loss(self, row: Mapping[str, Any], chats: Sequence[Any]) -> Encoded:
        """Ids of a row and which of them carry loss, by its encoded conversations."""
        if not chats:
            plain = isinstance(row.get("text"), str)
            return self._text("", row["text"]) if plain else self._text(row["prompt"], row["completion"])
        ids, by_assistant = np.asarray(chats[0][0], np.int64), np.asarray(chats[0][1], np.bool_)
        if "messages" in row and self.on != "completion":
            return ids, by_assistant
        alone = chats[1][0] if len(chats) > 1 else []
        after = np.arange(len(ids)) >= common_prefix(alone, ids)
        return ids, after & by_assistant if self.on == "assistant" else after

    def _text(self, prompt: str, completion: str) -> Encoded:
        tokenizer = self.tokenizer
        before = [tokenizer.bos_id] if tokenizer.adds_bos else []
        after = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        whole = [*before, *tokenizer.encode(prompt + completion), *after]
        start = common_prefix([*before, *tokenizer.encode(prompt)], whole)
        return np.asarray(whole, np.int64), np.arange(len(whole)) >= start


class AnswerRows(RowReader):
    """Rows of a prompt with answers, texts or lists of messages; an answer with its end carries loss.

    Args:
        columns: the answers of a row, in the order of a batch.
    """

    def __init__(self, tokenizer: Any, columns: tuple[str, ...]) -> None:
        super().__init__(tokenizer)
        self.columns = columns
        self.rows = InstructionRows(tokenizer, "completion")

    def encode_all(self, rows: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """`(ids, loss mask)` of each answer, after the prompt that they share, and then what `further` says of the row.

        Raises:
            DataError: columns that are missing, or an answer without a token.
        """
        further = [self.further(row) for row in rows]
        encoded = self.rows.encode_all([pair for row in rows for pair in self.completions(row)])
        for more in further:
            yield (*itertools.islice(encoded, len(self.columns)), *more)

    def further(self, row: Any) -> tuple[Any, ...]:
        """What else the loss reads of a row. Raises DataError where it is missing."""
        return ()

    def sizes(self, encoded: tuple[Any, ...]) -> list[int]:
        """Tokens of each answer of an encoded row."""
        return [len(ids) for ids, _ in encoded[: len(self.columns)]]

    def completions(self, row: Any) -> list[dict[str, Any]]:
        """The row's answers as rows of instruction tuning. A row without `prompt` has it as its answers' start."""
        if not isinstance(row, Mapping) or any(name not in row for name in self.columns):
            has = ", ".join(sorted(map(str, row))) if isinstance(row, Mapping) else type(row).__name__
            raise DataError(f"needs the columns prompt, {', '.join(self.columns)} (has: {has})")
        answers = [row[name] for name in self.columns]
        if len(answers) > 1 and all(answer == answers[0] for answer in answers):
            raise DataError(f"{' and '.join(self.columns)} are the same: {str(answers[0])[:60]!r}")
        if "prompt" in row:
            return [{"prompt": row["prompt"], "completion": answer} for answer in answers]
        if not all(isinstance(answer, (list, tuple)) and len(answer) > 1 for answer in answers):
            raise DataError("without `prompt`, each answer must be a conversation: a list of messages")
        shared = 0
        while shared < min(map(len, answers)) - 1 and all(a[shared] == answers[0][shared] for a in answers):
            shared += 1
        return [{"prompt": list(a[:shared]), "completion": list(a[shared:])} for a in answers]


def common_prefix(a: Any, b: Any) -> int:
    """How many tokens the two sequences share at their start."""
    short = min(len(a), len(b))
    same = np.asarray(a[:short]) == np.asarray(b[:short])
    return short if bool(np.all(same)) else int(np.argmin(same))
