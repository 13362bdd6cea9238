"""What a memory takes from 330 new messages: facts told, replaced, taken back, and messages that state nothing.

`memory_lines.jsonl` was written before anything was run on it, by somebody who had not seen the rules: 200 messages
that tell something, 40 that replace and 30 that take back something of `before`, 60 without a fact. A line is scored
by what the memory does at `say`, after it has read `before`:

- right: a value of `holds` that a new fact says (told); the new value is there and no fact with the `ended` value is
  left as it was (replaced, one for the line); such a fact was there and is not left, and of what the user wants out of
  the memory (`gone`) no fact says it (taken back, one for the line);
- missed: what should have been done and was not;
- wrong: a new fact that says none of these values (where something ended, one that denies it is neither), and a fact
  of `before` that is gone although nobody said so.

True facts that the line's writer did not list count as wrong, for every reader alike. Each reader is scored once:

    python -m evidence._memory_lines NAME [MODEL]    # writes docs/evidence/chat_memory/lines/NAME.json
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from evidence._paraphrases import says
from evidence.run import ROOT
from llmanac.core import files
from llmanac.core.errors import LlmanacError
from llmanac.generate.load import load_engine
from llmanac.generate.prefix_cache import DEFAULT_BYTES
from llmanac.metrics.statistics.intervals import wilson_interval
from llmanac.retrieve.memory import Memory
from llmanac.retrieve.memory.extract import FactExtractor

FILE = ROOT / "evidence" / "memory_lines.jsonl"
RECORDS = ROOT / "docs" / "evidence" / "chat_memory" / "lines"
KINDS = ("told", "replaced", "taken back", "not a fact")
NOT = re.compile(r"(?i)\b(?:no|not|never|former|formerly|died|stopped|left|quit|gave up|sold|retired)\b|n['’]t\b")
Read = Callable[[Memory, str], object]


def lines() -> list[dict[str, Any]]:
    """The rows, in order."""
    return [json.loads(text) for text in FILE.read_text("utf-8").splitlines()]


def score_line(row: Mapping[str, Any], read: Read) -> tuple[int, int, int]:
    """(right, wrong, missed) of one line."""
    with tempfile.TemporaryDirectory(dir=_fast()) as folder, Memory(Path(folder) / "memory.sqlite") as memory:
        for text in row["before"]:
            read(memory, text)
        before = memory.facts()
        read(memory, row["say"])
        after = memory.facts()
    texts, known = [fact.text for fact in after], [fact.text for fact in before]
    new, lost = [text for text in texts if text not in known], [text for text in known if text not in texts]
    old, told = row["ended"] + row["gone"], [value for value in row["holds"] if says(row["say"], value)]
    stays = any(says(text, value) for text in known if text in texts for value in old)
    if row["kind"] == "told":
        wanted, right = len(told), sum(any(says(text, value) for text in new) for value in told)
    elif row["kind"] == "replaced":
        wanted, right = 1, int(not stays and any(says(text, value) for text in texts for value in told))
    elif row["kind"] == "taken back":
        was = any(says(text, value) for text in known for value in old)
        there = any(says(text, value) for text in texts for value in row["gone"])
        wanted, right = 1, int(was and not stays and not there)
    else:
        wanted = right = 0
    wrong = sum(not any(says(text, value) for value in told) and not _denies(text, row["ended"]) for text in new)
    wrong += sum(not any(says(text, value) for value in old) for text in lost)
    return right, wrong, wanted - right


def _fast() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # each change is synced to the disk


def _denies(text: str, ended: Sequence[str]) -> bool:
    return NOT.search(text) is not None and any(says(text, value) for value in ended)


def score(read: Read) -> list[tuple[int, int, int]]:
    """Of every line."""
    return [score_line(row, read) for row in lines()]


def summary(found: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Precision, recall and F1 over all lines, and by kind the lines without a fault, of how many."""
    right, wrong, missed = map(sum, zip(*found, strict=True))
    kinds = [row["kind"] for row in lines()]
    clean = {k: [not (w or m) for kind, (_, w, m) in zip(kinds, found, strict=True) if kind == k] for k in KINDS}
    return {
        "right": right, "wrong": wrong, "missed": missed, "precision": right / max(1, right + wrong),
        "recall": right / max(1, right + missed), "f1": 2 * right / max(1, 2 * right + wrong + missed),
        "without fault": {kind: [sum(hits), len(hits)] for kind, hits in clean.items()},
    }  # fmt: skip


def records() -> dict[str, dict[str, Any]]:
    """What was measured, by reader."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(RECORDS.glob("*.json"))}


def table_of(read: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of summaries, with Wilson's intervals of the lines without a fault."""
    rows = []
    for name, found in read.items():
        shares = ("{:.2f} ({:.2f} to {:.2f})".format(*wilson_interval(*found["without fault"][kind])) for kind in KINDS)
        rows.append([name, *(f"{found[key]:.2f}" for key in ("precision", "recall", "f1")), *shares])
    return ["reader", "precision", "recall", "F1", *(f"{kind}, no fault" for kind in KINDS)], rows


def main(name: str, model: str = "") -> None:
    out = RECORDS / f"{name}.json"
    if out.exists():
        raise LlmanacError(f"{out}: this reader was scored, and each is scored once")
    reader = None
    if model:
        torch.set_num_threads(1)
        engine = load_engine(model, device="cpu", runner="native")
        engine.keep_prefixes(DEFAULT_BYTES)
        reader = FactExtractor(engine)

    def read(memory: Memory, text: str) -> None:
        memory.reader = reader
        memory.read(text)

    found = score(read)
    files.write_text(out, json.dumps({"lines": found}) + "\n")
    print(json.dumps(summary(found), indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
