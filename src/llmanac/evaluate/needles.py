"""The needle grid: facts hidden at a depth of a long text, and whether the model finds them; tasks of RULER.

    needle    One of the special magic numbers for amber-falcon is: 4817203.
    question  What are all the special magic numbers for amber-falcon mentioned in the provided text?

    task           needles in the text                     asked for
    single         one                                     its number
    multi-key      `MANY`, each with a key of its own      the number of one key
    multi-value    `VALUES` with one key                   all its numbers
    multi-query    `VALUES`, each with a key of its own    the numbers of all of them

A prompt, template and answer's beginning included, has as many of the model's own tokens as asked for, less at most one
sentence of the filler. Depth is the share of the filler before the (asked) needle. Scores: `recall` is the share of the
numbers that the answer names, as numbers of their own (12 is not in 123); `exact` asks for all, and for no other.
Hsieh et al. 2024, arXiv:2404.06654 (RULER); Liu et al. 2023, arXiv:2307.03172 (lost in the middle).
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmanac.core.errors import RequestError, SpecError, nearest
from llmanac.core.progress import progress

TASKS = ("single", "multi-key", "multi-value", "multi-query")
MANY, VALUES = 8, 4
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
HEAD = "Some special magic numbers are hidden within the following text. Memorize them; you will be asked for them.\n\n"
_COLORS = "amber azure coral crimson ivory jade lilac maroon olive pearl ruby scarlet silver teal umber violet"
COLORS = _COLORS.split()
_THINGS = """anchor badger canyon falcon garden harbor island ladder meadow otter pebble quarry river saddle tunnel
willow"""
THINGS = _THINGS.split()
ANSWER = 8  # tokens for each number of an answer


@dataclass(frozen=True)
class Prompt:
    """ids: for the model; wanted: the numbers; keys: that are asked for; text: what the user's turn is."""

    ids: list[int]
    wanted: tuple[str, ...]
    keys: tuple[str, ...]
    text: str
    most: int


@dataclass(frozen=True)
class Cell:
    """One square of the grid: means over its samples, and the tokens of its longest prompt."""

    task: str
    length: int
    depth: float
    samples: int
    recall: float
    exact: float
    tokens: int


def make_prompt(tokenizer: Any, task: str, length: int, depth: float, seed: int, *, chat: bool | None = None) -> Prompt:
    """A prompt of `length` tokens, its answer's room included.

    Keys, numbers and the places of the other needles are drawn by task, length, depth and seed together.

    Args:
        chat: by the tokenizer's template; by default where it has one.

    Raises:
        SpecError: an unknown task, a depth outside 0 to 1. RequestError: a length too short for the needles.
    """
    if task not in TASKS:
        raise SpecError(f"--task: {task!r} is not one of {', '.join(TASKS)}{nearest(task, TASKS)}")
    if not 0 <= depth <= 1:
        raise SpecError(f"--depths: {depth} is not between 0 and 1")
    chat = tokenizer.chat_template is not None if chat is None else chat
    rng = random.Random(f"{task} {length} {float(depth)} {seed}")
    keys = rng.sample([f"{color}-{thing}" for color in COLORS for thing in THINGS], MANY)
    keys = keys[: {"single": 1, "multi-value": 1, "multi-query": VALUES}.get(task, MANY)]
    per = VALUES if task == "multi-value" else 1
    numbers = [str(n) for n in rng.sample(range(1_000_000, 10_000_000), per * len(keys))]
    needles = [f"One of the special magic numbers for {keys[i // per]} is: {n}." for i, n in enumerate(numbers)]
    asked = tuple(keys if task == "multi-query" else keys[:1])
    wanted = tuple(numbers if task == "multi-query" else numbers[:per])
    named = ", ".join(asked)
    plural = ("are all", "numbers") if len(wanted) > 1 else ("is", "number")
    question = f"\n\nWhat {plural[0]} the special magic {plural[1]} for {named} mentioned in the provided text?"
    begin = f"The special magic {plural[1]} for {named} mentioned in the provided text {plural[0].split()[0]}"
    others = [(rng.random(), needle) for needle in needles[1:]]  # the first needle is at `depth`
    sentences = re.findall(r"[^.]+\.", FILLER)
    most = ANSWER * len(wanted)

    def built(count: int) -> tuple[list[int], str]:
        rows = [sentences[i % len(sentences)].strip() for i in range(count)]
        for place, needle in sorted([(depth, needles[0]), *others], key=lambda one: -one[0]):
            rows.insert(round(place * count), needle)
        text = HEAD + " ".join(rows) + question
        if not chat:
            return [int(i) for i in tokenizer.encode(f"{text} {begin}")], text
        ids = list(tokenizer.encode_chat([{"role": "user", "content": text}], add_generation_prompt=True)[0])
        return [*ids, *(int(i) for i in tokenizer.encode_batch([begin])[0])], text

    room = length - most
    low, high = 0, max(1, length)
    if len(built(0)[0]) > room:
        raise RequestError(f"--lengths: {length} tokens have no room for the needles and the question of {task}")
    while low < high:  # the most sentences that fit
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(built(middle)[0]) <= room else (low, middle - 1)
    ids, text = built(low)
    return Prompt(ids, wanted, asked, text, most)


def score(answer: str, wanted: Sequence[str]) -> tuple[float, float]:
    """(recall, exact) of an answer."""
    named = re.findall(r"\d+", re.sub(r"(?<=\d),(?=\d{3}\b)", "", answer))
    found = sum(number in named for number in wanted)
    return found / len(wanted), float(set(named) == set(wanted))


def grid(
    engine: Any,
    *,
    tasks: Sequence[str] = ("single",),
    lengths: Sequence[int] = (512, 1024, 2048),
    depths: Sequence[float] = DEPTHS,
    samples: int = 2,
    seed: int = 0,
    chat: bool | None = None,
    each: Callable[[Cell], object] = lambda cell: None,
) -> list[Cell]:
    """The cells of the grid, by task, length and depth; greedy answers.

    Args:
        each: is given every cell as soon as it is measured.

    Raises:
        RequestError: a length beyond the model's context.
    """
    limit = engine.model.max_length
    for length in lengths:
        if limit is not None and length > limit:
            raise RequestError(f"--lengths: {length} is more than the {limit} tokens of the model's context")
    out = []
    total = sum(lengths) * len(depths) * len(tasks) * samples
    with progress("needles", total, "tokens") as bar:
        for task in tasks:
            for length in lengths:
                for depth in depths:
                    made = [
                        make_prompt(engine.tokenizer, task, length, depth, seed + i, chat=chat) for i in range(samples)
                    ]
                    scores = []
                    for prompt in made:  # one at a time: a long prompt's state alone may be large
                        [answer] = engine.generate([prompt.ids], max_new_tokens=prompt.most)
                        scores.append(score(answer.text, prompt.wanted))
                        bar.advance(length)
                    recall, exact = (sum(values) / samples for values in zip(*scores, strict=True))
                    out.append(Cell(task, length, depth, samples, recall, exact, max(len(p.ids) for p in made)))
                    each(out[-1])
    return out
