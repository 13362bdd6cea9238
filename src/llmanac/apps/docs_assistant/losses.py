"""The fine-tuning loss by kind of row."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from llmanac.apps.docs_assistant.material import Example, Material
from llmanac.apps.docs_assistant.prompt import Sheet, Turn, prompt, query_ids, question_ids, said
from llmanac.apps.docs_assistant.questions import REFUSAL
from llmanac.core.types import IGNORE, Batch

FRESH = 97  # salt of rows that training has not drawn
UNDERSTAND = "what is asked, nothing shown"
REFUSE = "refusals"


def losses(model: Any, tokenizer: Any, material: Material, *, limit: int, count: int = 120) -> dict[str, Any]:
    """Nats a token on fresh rows about training modules, by kind of row.

    Args:
        limit: the longest prompt, in tokens.
        count: how many rows; the first question of each is scored.

    Returns:
        by kind: `loss`, nats a token of the completion; `tokens`, their number.
    """
    total: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    device = next(model.parameters()).device
    with torch.no_grad():
        for example in material.examples(count, salt=FRESH):
            kind, before, after = _row(tokenizer, material, example, limit)
            ids = torch.tensor([before + after], device=device)
            targets = torch.full_like(ids, IGNORE)
            targets[0, len(before) - 1 : -1] = ids[0, len(before) :]
            total[kind][0] += float(model.nll(Batch(ids=ids, targets=targets)))
            total[kind][1] += len(after)
    return {kind: {"loss": nats / tokens, "tokens": int(tokens)} for kind, (nats, tokens) in sorted(total.items())}


def _row(tokenizer: Any, material: Material, example: Example, limit: int) -> tuple[str, list[int], list[int]]:
    """A row's kind, its prompt and its completion."""
    passages, turns = example
    first: Turn = next(iter(turns))
    asked, entry, query, answer = first
    if not passages:
        sheet = Sheet.of([material.practice.first_passage(entry)] if entry >= 0 else [])
        return UNDERSTAND, question_ids(tokenizer, asked, sheet), query_ids(tokenizer, sheet, entry, query)
    ids, sheet = prompt(tokenizer, asked, Sheet.of(passages), limit=limit)
    kind = REFUSE if answer == REFUSAL else query.partition(" ")[0]
    return kind, ids, said(tokenizer, sheet, first)
