"""Faults in rows that another trainer has tokenized: `input_ids`, `labels` (-100: no loss), `attention_mask`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError
from llmanac.recipes.linting.rules import Rule, rules_of

RULES: list[Rule] = []
rule = rules_of(RULES)
IGNORED = -100
MOST = 0.8  # of the rows, from which on something is their convention
PADDED = 3  # equal tokens at an end that are padding, where no mask says it


@dataclass
class Tokens:
    """Tokenized rows; `size`: of the model's vocabulary, where it is known."""

    path: Path
    rows: list[tuple[int, Mapping[str, Any]]]
    tokenizer: Any
    size: int | None

    @cached_property
    def read(self) -> list[tuple[int, list[int], list[int], int]]:
        """`(line, ids, labels, tokens before the padding)`. Raises DataError for a row whose columns do not fit."""
        out = []
        for line, values in self.rows:
            ids = list(values["input_ids"])
            labels = list(values["labels"]) if values.get("labels") is not None else list(ids)
            if len(labels) != len(ids):
                raise DataError(f"{self.path}:{line}: has {len(ids)} input_ids and {len(labels)} labels")
            mask = values.get("attention_mask")
            out.append((line, ids, labels, sum(mask) if mask is not None else _unpadded(ids)))
        return out

    @cached_property
    def end(self) -> int | None:
        """The token with which most rows end, before the padding."""
        ends = Counter(ids[size - 1] for _, ids, _, size in self.read if size)
        token, count = ends.most_common(1)[0] if ends else (None, 0)
        return token if len(self.read) > 1 and count >= MOST * len(self.read) / 2 else None

    def at(self, lines: list[int], what: str) -> Iterator[str]:
        """A sentence on rows, where there are some."""
        if lines:
            yield f"{self.path}:{lines[0]}: {what} ({len(lines):,} of {len(self.rows):,} rows)"


def _unpadded(ids: list[int]) -> int:
    size = len(ids)
    while size > 1 and ids[size - 1] == ids[-1]:
        size -= 1
    return size + 1 if len(ids) - size >= PADDED else len(ids)  # one of them may end the text


@rule("no-loss", "huggingface/trl#4201")
def _no_loss(rows: Tokens) -> Iterator[str]:
    none = [line for line, _, labels, _ in rows.read if all(label == IGNORED for label in labels)]
    yield from rows.at(none, "all labels are -100, so that nothing is learned; where the mask is of a chat template, "
                             "it needs {% generation %}")  # fmt: skip


@rule("end-untrained", "huggingface/trl#976")
def _end_untrained(rows: Tokens) -> Iterator[str]:
    end = getattr(rows.tokenizer, "eos_id", None)
    end = rows.end if end is None else end
    if end is None:
        return
    given = [line for line, ids, _, size in rows.read if end in ids[:size] and ids[size - 1] == end]
    trained = any(label == end for _, _, labels, _ in rows.read for label in labels)
    some = any(label != IGNORED for _, _, labels, _ in rows.read for label in labels)
    if given and some and not trained:
        yield from rows.at(given, f"the token that ends a text ({end}) never carries loss, so that nobody learns "
                                  "to stop; is it the padding token too")  # fmt: skip


@rule("bos-twice", "huggingface/trl#1400")
def _begins_twice(rows: Tokens) -> Iterator[str]:
    twice = [line for line, ids, _, _ in rows.read if len(ids) > 2 and ids[0] == ids[1] != ids[2]]
    if len(twice) >= MOST * len(rows.read):
        yield from rows.at(twice, "begins with the same token twice: the chat template and the tokenizer both add it")


@rule("answers-cut", "hiyouga/LlamaFactory#3945")
def _cut(rows: Tokens) -> Iterator[str]:
    longest = max(len(ids) for _, ids, _, _ in rows.read)
    cut = [line for line, ids, _, size in rows.read if size == len(ids) == longest and ids[-1] != rows.end]
    if rows.end is not None and len(cut) > 1:
        yield from rows.at(cut, f"is cut at {longest:,} tokens, without the end of a text ({rows.end}); raise the "
                                "length or drop such rows")  # fmt: skip


@rule("labels-shifted", "huggingface/transformers#44642")
def _shifted(rows: Tokens) -> Iterator[str]:
    shifted = []
    for line, ids, labels, _ in rows.read:
        pairs = [
            (label, here, after) for label, here, after in zip(labels, ids, ids[1:], strict=False) if label != IGNORED
        ]
        if len(pairs) > 2 and all(label == after for label, _, after in pairs) and any(a != b for a, b, _ in pairs):
            shifted.append(line)
    yield from rows.at(shifted, "labels are the next tokens already, and models shift them once more; give input_ids")


@rule("padding-trained", "01-ai/Yi#110")
def _padding(rows: Tokens) -> Iterator[str]:
    trained = [line for line, ids, labels, size in rows.read
               if len(ids) - size >= 2 and all(label != IGNORED for label in labels[size:])]  # fmt: skip
    yield from rows.at(trained, "padding carries loss, so that the model learns to pad; set its labels to -100")


@rule("ids-out-of-vocabulary", "ggml-org/llama.cpp#8445")
def _beyond(rows: Tokens) -> Iterator[str]:
    if rows.size is not None:
        beyond = [line for line, ids, _, _ in rows.read if max(ids, default=0) >= rows.size or min(ids, default=0) < 0]
        yield from rows.at(beyond, f"has an id that the model's {rows.size:,} tokens lack; tokenize with its tokenizer")
