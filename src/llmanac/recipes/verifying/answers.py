"""What two sides say: greedy answers to held-out prompts, scores, KL by token and perplexity, with intervals."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from llmanac.core.files import read_toml
from llmanac.evaluate.divergence import SHORTEST, Windows, divergence
from llmanac.metrics import wilson_interval
from llmanac.metrics.statistics.estimates import Estimate, estimate
from llmanac.recipes.tune_rows import read_rows
from llmanac.recipes.verifying.files import CauseFound, Probes, finding
from llmanac.recipes.verifying.sides import LocalSide, Prompt, SideAnswer, tried

LENGTH, FEWEST = 256, 8  # tokens of a window of text; windows, of short texts shorter ones
Interval = tuple[float, float, float]  # a mean, and the ends of its 95% interval
SHORT, MORE = 48, 8  # tokens of an answer at least, and more than of the longest right one, which may go on
TIE = 0.5  # nats between the two best tokens of the tuned model
OPENING = 12  # words of a text that a model is asked to go on with
PROBES = read_toml(Path(__file__).with_name("probes.toml"))


@dataclass
class AskedTexts:
    """What both sides are asked.

    Attributes:
        prompts: with the right answers in `golds`, None where there is none; said: the tuned model's answers.
        text: tokens in windows; length: tokens of an answer, enough for the right ones.
    """

    prompts: list[Prompt]
    golds: list[str | None]
    text: Windows
    probes: Probes
    length: int = SHORT
    said: list[SideAnswer] | None = None


@dataclass(frozen=True)
class ComparedAnswers:
    """What was measured; None where a side cannot say it.

    Attributes:
        prompts: how many were asked; identical: share of equal greedy answers; near_ties: how many of the others part
            where the tuned model's two best tokens are within TIE, which any rounding may decide.
        scores: share of right answers of the tuned model and the export, where rows have one; score: the change.
        kl: KL(tuned || exported), nats a token, its interval over windows; perplexity: of both.
        example: the first prompt whose answers differ, with both.
    """

    prompts: int
    identical: Interval
    near_ties: int
    scores: tuple[float, float] | None
    score: Interval | None
    kl: Interval | None
    perplexity: tuple[float, float] | None
    example: tuple[str, str, str] | None

    def beyond(self, identical: float, kl: float, score: float) -> list[str]:
        """The bounds that are exceeded, by the intervals."""
        out = []
        alike = round(self.identical[0] * self.prompts) + self.near_ties
        if wilson_interval(alike, self.prompts)[2] < identical:
            out.append(
                f"{self.identical[0]:.2f} of the answers are identical and {self.near_ties} part at near-ties, "
                f"below the bound of {identical:g}"
            )
        if self.kl is not None and not self.kl[1] <= kl:
            out.append(f"KL is {self.kl[0]:.3g} nats a token, above the bound of {kl:g}")
        if self.score is not None and self.score[2] < -score:
            out.append(f"the score falls by {-self.score[0]:.3f}, more than the bound of {score:g}")
        return out


def held_rows(tuned: LocalSide, rows: str | Path | None, limit: int) -> AskedTexts:
    """Prompts, answers and text: of the rows, those that a tuning held out, or built-in ones.

    Raises:
        DataError: rows that cannot be read. TokenizerError: rows are chats, and the tuned model has no chat template.
    """
    kept = Path(tuned.name) / "data" / "held_out.jsonl"
    file = Path(rows) if rows is not None else kept if kept.is_file() and kept.stat().st_size else None
    tokenizer, chats = tuned.tokenizer, tuned.tokenizer.chat_template is not None
    given = [] if file is None else [row for _, row in islice(read_rows(file), limit)]
    pairs = list(filter(None, map(_asked, given)))
    if file is None:
        asked = PROBES["questions"][:limit]
        pairs = [([{"role": "user", "content": text}] if chats else text, None) for text in asked]
    ids = torch.tensor([id for row in [*given, {"text": PROBES["passage"]}] for id in _tokens(tokenizer, row)])
    length = min(tuned.model.max_length or LENGTH, LENGTH, max(SHORTEST, len(ids) // FEWEST))
    count = min(4 * FEWEST, len(ids) // length)
    ids = ids[: count * length].view(count, length)
    text = Windows(ids, len(tokenizer.decode(ids.flatten().tolist()).encode()) / ids.numel())
    conversations = [(row["messages"], False) for row in given if "messages" in row]
    texts = [
        str(value).strip() for row in given for value in row.values() if isinstance(value, str) and value.isascii()
    ]
    probes = [*PROBES["texts"], *texts], [*_turns(), *conversations]
    longest = max((len(tokenizer.encode(gold)) for _, gold in pairs if gold), default=0) + MORE
    longest = min(max(SHORT, longest), tuned.model.max_length or longest)
    return AskedTexts([prompt for prompt, _ in pairs], [gold for _, gold in pairs], text, probes, longest)


def _tokens(tokenizer: Any, row: Mapping[str, Any]) -> list[int]:
    """A row as the model reads it."""
    parts = row.get("messages") or [*row["prompt"], *row["completion"]] if "text" not in row else row["text"]
    if isinstance(parts, str) or isinstance(parts[0], str):
        return list(tokenizer.encode("".join(parts)))
    return list(tokenizer.chat_ids(parts))


def _turns() -> Iterator[tuple[list[Any], bool]]:
    """Conversations in which templates differ, and whether the assistant is to speak next."""
    roles = ("user", "assistant", "user")
    turns = [{"role": role, "content": text} for role, text in zip(roles, PROBES["turns"], strict=True)]
    for before in ([], [{"role": "system", "content": PROBES["system"]}]):
        yield from (([*before, *turns[:count]], count != 2) for count in (1, 2, 3))


def _asked(row: Mapping[str, Any]) -> tuple[Prompt, str | None] | None:
    """The prompt of a row, and its right answer."""
    if "messages" in row:
        at = max((i for i, one in enumerate(row["messages"]) if one.get("role") == "assistant"), default=0)
        return (row["messages"][:at], str(row["messages"][at].get("content") or "")) if at else None
    if "prompt" in row:
        answer = row["completion"]
        return row["prompt"], answer if isinstance(answer, str) else str(answer[0].get("content") or "")
    return " ".join(str(row["text"]).split()[:OPENING]), None


def compared(tuned: LocalSide, side: Any, held: AskedTexts, length: int) -> tuple[ComparedAnswers, list[CauseFound]]:
    """What both say, and causes that only show there."""
    if held.said is None:
        held.said = tuned.answers(held.prompts, length)
    theirs, causes = side.answers(held.prompts, length), list[CauseFound]()
    both = list(zip(held.said, theirs, strict=True))
    pairs = [(a.text.strip(), b.text.strip()) for a, b in both]
    same = [a.text.strip() == b.text.strip() or (bool(a.ids) and a.ids == b.ids) for a, b in both]
    counts = [(a.prompt, b.prompt) for a, b in both if a.prompt and b.prompt and a.prompt != b.prompt]
    ties = [_near_tie(tuned.tokenizer, a, b.text) for (a, b), equal in zip(both, same, strict=True) if not equal]
    if counts:
        begun = tuned.tokenizer.bos_id is not None and all(b - a == 1 for a, b in counts)
        causes.append(finding("bos-read" if begun else "template-read", here=counts[0][0], there=counts[0][1]))
    golds = ((a, b, gold.strip()) for (a, b), gold in zip(pairs, held.golds, strict=True) if gold is not None)
    right = [(a == gold, b == gold) for a, b, gold in golds]
    found = divergence(tuned.model, side.model, held.text) if side.size == tuned.size else None
    first = next((i for i, equal in enumerate(same) if not equal), None)
    return ComparedAnswers(
        len(same), wilson_interval(sum(same), len(same)), sum(ties),
        (sum(a for a, _ in right) / len(right), sum(b for _, b in right) / len(right)) if right else None,
        paired([b - a for a, b in right]) if right else None,
        None if found is None else _interval(estimate([kl for _, kl in found.blocks])),
        None if found is None else (math.exp(min(found.before, 700)), math.exp(min(found.after, 700))),
        None if first is None else (str(held.prompts[first])[-200:], *pairs[first]),
    ), causes  # fmt: skip


def _near_tie(tokenizer: Any, mine: SideAnswer, theirs: str) -> bool:
    """Whether an answer parts from the tuned model's at a token that won by little."""
    pairs = enumerate(zip(mine.text, theirs, strict=False))
    shared = next((at for at, (a, b) in pairs if a != b), min(len(mine.text), len(theirs)))
    for at, margin in enumerate(mine.margins):
        if len(tried(tokenizer.decode, mine.ids[: at + 1], skip_special=True) or "") > shared:
            return margin < TIE
    return bool(mine.margins) and mine.margins[-1] < TIE


def paired(changes: Sequence[int]) -> Interval:
    """The mean of changes of -1, 0 or 1, from Wilson's intervals of the shares of both signs (Tang et al. 2010).

    Unlike one from the standard deviation it has a width where nothing changed.
    """
    n = len(changes)
    (up, up_low, up_high), (down, down_low, down_high) = (wilson_interval(changes.count(one), n) for one in (1, -1))
    shared = math.sqrt(up * down / ((1 - up) * (1 - down))) if up < 1 and down < 1 else 0.0
    low, high = (
        math.sqrt(a * a + b * b + 2 * shared * a * b)
        for a, b in ((up - up_low, down_high - down), (up_high - up, down - down_low))
    )
    return up - down, up - down - low, up - down + high


def _interval(found: Estimate) -> Interval:
    return found.mean, found.low, found.high
