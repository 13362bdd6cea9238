"""What two sides say: greedy answers to held-out prompts, scores, KL by token and perplexity, with intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from llmanac.core.spec import make_method
from llmanac.evaluate.divergence import SHORTEST, Windows, divergence, windows
from llmanac.metrics._intervals import Z, wilson_interval
from llmanac.recipes.tune_rows import encode_rows, read_rows
from llmanac.recipes.verifying.files import Finding, Probes
from llmanac.recipes.verifying.sides import Local, Prompt, Said

LENGTH, FEWEST = 256, 8  # tokens of a window of text; windows, of short texts shorter ones
TIE = 0.5  # nats between the two best tokens of the tuned model
OPENING = 12  # words of a text that a model is asked to go on with
TEXTS = (
    "It's 1234567 metres, or 3.14159 \N{MULTIPLICATION SIGN} 10^5 of them; I'LL don't WE'VE she'd.",
    "def f(x):\n    return {'a': x ** 2}  # naïve café, 東京, Ünïcode 🙂\n\n\n\tdone",
    '    indented   twice\n\n  and  again; e.g. U.S.A. -- "quoted" (bracketed) [1, 22, 333, 4444]',
)
PASSAGE = (
    "A lighthouse stands where the river meets the sea. Its keeper writes down the weather each morning: wind, rain, "
    "and how far one can see. In winter the lamp burns from four in the afternoon until eight in the morning, and in "
    "summer for six hours only. Ships that pass at night know it by two short flashes and a long one. When there is "
    "fog a horn sounds every thirty seconds. Nobody has lived in the tower since the lamp was made to light by itself, "
    "but people still climb the 212 steps to look at the water and at the town with its white houses."
)
QUESTIONS = (
    "What is the capital of France?", "Write a sentence about the sea.", "How many days has a week?",
    "Name two colors.", "What is 12 + 30?", "Translate 'good morning' into German.", "Say hello.",
    "Which animal barks?",
)  # fmt: skip
ANSWER = {"role": "assistant", "content": "Two of them, I think."}
FURTHER = {"role": "user", "content": "Why <not>?"}
SYSTEM = {"role": "system", "content": "Answer in one word."}


@dataclass
class Held:
    """What both sides are asked.

    Attributes:
        prompts: with the right answers in `golds`, None where there is none; said: the tuned model's answers.
        text: tokens in windows.
    """

    prompts: list[Prompt]
    golds: list[str | None]
    text: Windows
    probes: Probes
    said: list[Said] | None = None


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% interval, low <= high."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Answers:
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

    def beyond(self, *, identical: float | None, kl: float, score: float) -> list[str]:
        """The bounds that are exceeded, by the intervals."""
        out = []
        alike = round(self.identical.mean * self.prompts) + self.near_ties
        if identical is not None and wilson_interval(alike, self.prompts)[2] < identical:
            out.append(
                f"{self.identical.mean:.2f} of the answers are identical and {self.near_ties} part at near-ties, "
                f"below the bound of {identical:g}"
            )
        if self.kl is not None and not self.kl.low <= kl:
            out.append(f"KL is {self.kl.mean:.3g} nats a token, above the bound of {kl:g}")
        if self.score is not None and self.score.high < -score:
            out.append(f"the score falls by {-self.score.mean:.3f}, more than the bound of {score:g}")
        return out


def held_rows(tuned: Local, rows: str | Path | None, limit: int) -> Held:
    """Prompts, answers and text: of the rows, those that a tuning held out, or built-in ones.

    Raises:
        DataError: rows that cannot be read. TokenizerError: rows are chats, and the tuned model has no chat template.
    """
    kept = Path(tuned.name) / "data" / "held_out.jsonl"
    file = Path(rows) if rows is not None else kept if kept.is_file() and kept.stat().st_size else None
    tokenizer, longest = tuned.tokenizer, tuned.model.max_length or LENGTH
    if file is None:
        chats = tokenizer.chat_template is not None
        asked: list[Prompt] = [[{"role": "user", "content": text}] if chats else text for text in QUESTIONS]
        ids = torch.tensor(tokenizer.encode(PASSAGE))
        pairs: list[tuple[Prompt, str | None]] = [(prompt, None) for prompt in asked[:limit]]
        size, given = len(PASSAGE.encode()) / len(ids), []
    else:
        given = [row for _, row in islice(read_rows(file), limit)]
        pairs = list(filter(None, map(_asked, given)))
        encoded = encode_rows(make_method("objective", "chat").reader(tokenizer), file)
        ids = torch.cat([torch.as_tensor(own).long() for _, _, (own, _) in islice(encoded, limit)])
        size = len(tokenizer.decode(ids.tolist()).encode()) / len(ids)
    length = min(longest, LENGTH, max(SHORTEST, len(ids) // FEWEST))
    if len(ids) < length:
        text = windows([PASSAGE], tokenizer, length, FEWEST)
    else:
        count = min(4 * FEWEST, len(ids) // length)
        text = Windows(ids[: count * length].view(count, length), size)
    conversations = [row["messages"] for row in given if "messages" in row][:limit]
    probes = Probes([*TEXTS, *_texts(given)], [*_turns(), *((one, False) for one in conversations)])
    return Held([prompt for prompt, _ in pairs], [gold for _, gold in pairs], text, probes)


def _turns() -> Iterator[tuple[list[Any], bool]]:
    """Conversations in which templates differ, and whether the assistant is to speak next."""
    user = {"role": "user", "content": QUESTIONS[0]}
    for before in ([], [SYSTEM]):
        yield [*before, user], True
        yield [*before, user, ANSWER], False
        yield [*before, user, ANSWER, FURTHER], True


def _texts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    texts = (value for row in rows for value in row.values() if isinstance(value, str))
    return [text.strip() for text in texts if text.isascii()]


def _asked(row: Mapping[str, Any]) -> tuple[Prompt, str | None] | None:
    """The prompt of a row, and its right answer."""
    if "messages" in row:
        at = max((i for i, one in enumerate(row["messages"]) if one.get("role") == "assistant"), default=0)
        return (row["messages"][:at], str(row["messages"][at].get("content") or "")) if at else None
    if "prompt" in row:
        answer = row["completion"]
        return row["prompt"], answer if isinstance(answer, str) else str(answer[0].get("content") or "")
    return " ".join(str(row["text"]).split()[:OPENING]), None


def compared(tuned: Local, side: Any, held: Held, length: int) -> tuple[Answers, list[Finding]]:
    """What both say, and causes that only show there."""
    if held.said is None:
        held.said = tuned.answers(held.prompts, length)
    theirs, causes = side.answers(held.prompts, length), list[Finding]()
    both = list(zip(held.said, theirs, strict=True))
    pairs = [(a.text.strip(), b.text.strip()) for a, b in both]
    same = [a == b for a, b in pairs]
    counts = [(a.prompt, b.prompt) for a, b in both if a.prompt and b.prompt and a.prompt != b.prompt]
    ties = [_near_tie(tuned.tokenizer, a, b.text) for (a, b), equal in zip(both, same, strict=True) if not equal]
    if counts:
        causes.append(_read_otherwise(tuned, counts))
    graded = ((a.right(gold), b.right(gold)) for (a, b), gold in zip(both, held.golds, strict=True))
    right = [(bool(a), bool(b)) for a, b in graded if a is not None]
    comparable = side.runner != "server" and _vocabulary(side) == tuned.model.vocab_size
    found = divergence(tuned.model, side.model, held.text) if comparable else None
    first = next((i for i, equal in enumerate(same) if not equal), None)
    example = None if first is None else (str(held.prompts[first])[-200:], *pairs[first])
    return Answers(
        len(same),
        Interval(*wilson_interval(sum(same), len(same))),
        sum(ties),
        (sum(a for a, _ in right) / len(right), sum(b for _, b in right) / len(right)) if right else None,
        interval_of([float(b) - float(a) for a, b in right]) if right else None,
        None if found is None else interval_of([kl for _, kl in found.blocks]),
        None if found is None else (math.exp(min(found.before, 700)), math.exp(min(found.after, 700))),
        example,
    ), causes


def _near_tie(tokenizer: Any, mine: Said, theirs: str) -> bool:
    """Whether an answer parts from the tuned model's at a token that won by little."""
    pairs = enumerate(zip(mine.text, theirs, strict=False))
    shared = next((at for at, (a, b) in pairs if a != b), min(len(mine.text), len(theirs)))
    ids = [id for id, _ in mine.tokens]
    for at, (_, margin) in enumerate(mine.tokens):
        if len(tokenizer.decode(ids[: at + 1], skip_special=True)) > shared:
            return margin < TIE
    return bool(mine.tokens) and mine.tokens[-1][1] < TIE


def _vocabulary(side: Any) -> int:
    size = side.llm.n_vocab() if hasattr(side, "llm") else side.model.vocab_size
    return int(size)


def _read_otherwise(tuned: Local, counts: Sequence[tuple[int, int]]) -> Finding:
    """Why prompts are of other numbers of tokens there."""
    mine, theirs = counts[0]
    if tuned.tokenizer.bos_id is not None and all(b - a == 1 for a, b in counts):
        return Finding(
            "bos-twice", f"prompts are read with one token more ({theirs} for {mine}): the begin of a text twice"
        )
    return Finding(
        "template", f"a prompt is read as {theirs} tokens, by the tuned model as {mine}: another chat template"
    )


def interval_of(values: Sequence[float]) -> Interval:
    mean = statistics.fmean(values)
    half = Z * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Interval(mean, mean - half, mean + half)
