"""Ten specialists: SmolLM2-135M-Instruct tuned for one task each, on about 50,000 tokens.

{tasks} tasks, {seeds} seeds. Templates, names, schemas, tools, modules and catalogues of the training rows are none of
the test rows. A specialist is tuned by LoRA (`llmanac.recipes.tune`, rank {rank}), merged, exported as Q8_0 and Q4_K_M
and verified. It is compared with the same model that has {shots} training rows before the question, on the same {items}
test rows: greedy answers of at most {length} tokens, right where the text is the row's. Where labels are few, a naive
Bayes model of words (`bow`) stands beside it, on the same rows.

Targets that were set before the first cell: tuned beats the shots on at least 8 of 10 tasks, with an interval over
seeds that excludes 0; exact match of at least 0.75 on 6 of the 8 closed tasks; Q8_0 answers identically in 0.98 of the
rows; Q4_K_M within 2 points of the score.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evidence._pretrained import needed
from evidence._specialist_rows import CLOSED, MADE, SYNTHETIC, as_messages, rows_of
from llmanac.core.pages import Section, table
from llmanac.core.spec import make
from llmanac.lab.stats import interval, mean
from llmanac.metrics.answers import exact_match
from llmanac.recipes.merge import merge
from llmanac.recipes.specialize import convert
from llmanac.recipes.tune import TuneSpec, tune
from llmanac.recipes.verifying import CheckBounds, verify
from llmanac.recipes.verifying.sides import LocalSide
from llmanac.tokenizers.load import load_tokenizer

ROWS = ()
CLAIM = (
    "a 135M model tuned for one task on 50,000 tokens answers more held-out rows word for word than the same model "
    "with 16 of the rows in its prompt"
)
SEEDS = 5
PIECES = tuple(MADE)
PARTIAL = True
VERSION = 1
ARMS = ("16 shots", "tuned", "q8_0", "q4_k_m", "bow")
METRIC = "exact match of greedy answers on 300 held-out rows"
MARGIN = 0.0
TIMED = ("seconds",)
TOLERANCE = 1e-2
TOKENS, ITEMS, SHOTS, RANK, LENGTH = 50_000, 300, 16, 8, 48
PREFIXES = 256 << 20  # bytes: all prompts with shots begin alike
KINDS = ("q8_0", "q4_k_m")
TARGET, CLOSED_TARGET = 8, 6  # tasks


def measure(seed: int, size: str, piece: str = "") -> dict[str, Any]:
    """One task and seed; small: the rows of the tasks that need no file."""
    if size == "small":
        made = {(task, side): rows_of(task, side, 20, seed) for task in SYNTHETIC for side in ("train", "test")}
        return {f"{task} {side}": _digest(pairs) for (task, side), pairs in made.items()}
    base = needed()
    test, rows = rows_of(piece, "test", ITEMS, seed), _rows(piece, seed, load_tokenizer(base))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, pairs in (("train", rows), ("test", test)):
            _write(place / f"{name}.jsonl", pairs)
        shots = _shots(str(base), rows[:SHOTS], test)
        asked = make(TuneSpec, {
            "model": str(base), "rows": {"file": str(place / "train.jsonl")}, "adapter": {"name": "lora", "rank": RANK},
            "patience": 3, "seed": seed,
        })  # fmt: skip
        done = tune(asked, place / "tuned", device="cpu")
        merge(place / "tuned", place / "merged")
        files = [place / f"{kind}.gguf" for kind in KINDS]
        for kind, file in zip(KINDS, files, strict=True):
            texts = ["\n".join(pair) for pair in rows] if kind == "q4_k_m" else None
            convert(str(place / "merged"), file, "gguf", kind, calibration=texts)
        found = verify(
            str(place / "tuned"), [str(file) for file in files], rows=place / "test.jsonl",
            bounds=CheckBounds(limit=ITEMS, length=LENGTH), with_llama_cpp=False,
        )  # fmt: skip
        said = [one.answers for one in found if one.answers is not None and one.answers.scores is not None]
        scores = {kind: one.scores[1] for kind, one in zip(KINDS, said, strict=True) if one.scores}
        return {
            "16 shots": shots, "tuned": said[0].scores[0] if said[0].scores else 0.0, **scores, "bow": _bow(rows, test),
            "identical": {kind: one.identical[0] for kind, one in zip(KINDS, said, strict=True)},
            "faithful": {kind: one.faithful for kind, one in zip(KINDS, found, strict=True)},
            "rows": len(rows), "tokens": done.training.tokens, "steps": done.training.steps,
            "seconds": done.training.seconds,
        }  # fmt: skip


def _digest(pairs: Sequence[tuple[str, str]]) -> str:
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:12]


def _write(path: Path, pairs: Sequence[tuple[str, str]]) -> None:
    path.write_text("".join(json.dumps({"messages": as_messages([pair])}) + "\n" for pair in pairs))


def _rows(task: str, seed: int, tokenizer: Any) -> list[tuple[str, str]]:
    """As many rows as `TOKENS` read, rendered as chats."""
    some = rows_of(task, "train", 40, seed)
    each = mean([len(tokenizer.chat_ids(as_messages([pair]))) for pair in some])
    return rows_of(task, "train", max(SHOTS, int(TOKENS / each)), seed)


def _shots(base: str, rows: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]]) -> float:
    side = LocalSide(base)
    side.engine.keep_prefixes(PREFIXES)
    prompts = [as_messages([*rows, pair])[:-1] for pair in test]
    said = side.answers(prompts, LENGTH)
    return mean([float(exact_match(one.text.strip(), gold)) for one, (_, gold) in zip(said, test, strict=True)])


def _bow(rows: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]]) -> float | None:
    """The share that a naive Bayes model of words has right; None where answers are no labels."""
    labels = sorted({answer for _, answer in rows})
    if len(labels) > 10:
        return None
    from math import log

    counts: dict[str, dict[str, int]] = {label: {} for label in labels}
    for text, label in rows:
        for word in set(text.lower().split()):
            counts[label][word] = counts[label].get(word, 0) + 1
    total = {label: sum(answer == label for _, answer in rows) for label in labels}

    def score(label: str, text: str) -> float:
        seen = set(text.lower().split())
        return log(total[label]) + sum(log((counts[label].get(word, 0) + 1) / (total[label] + 2)) for word in seen)

    return mean([float(max(labels, key=lambda label: score(label, text)) == gold) for text, gold in test])


def _by_task(seeds: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {task: found for task in PIECES if (found := [seed[task] for seed in seeds if task in seed])}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """A row for each task, and what the targets say."""
    rows, wins, closed = [], 0, 0
    for task, found in _by_task(seeds).items():
        gains = [one["tuned"] - one["16 shots"] for one in found]
        low, high = interval(gains) if len(gains) > 1 else (float("nan"), float("nan"))
        tuned = mean([one["tuned"] for one in found])
        wins, closed = wins + (low > 0), closed + (task in CLOSED and tuned >= 0.75)
        cells = [f"{mean([one[arm] for one in found]):.3f}" for arm in ("16 shots", "tuned", *KINDS)]
        bow = "" if found[0]["bow"] is None else f"{mean([one['bow'] for one in found]):.3f}"
        same = [f"{mean([one['identical'][kind] for one in found]):.3f}" for kind in KINDS]
        rows.append([task, str(len(found)), *cells, bow, f"{mean(gains):+.3f} ({low:+.3f} to {high:+.3f})", *same])
    head = ["task", "seeds", "16 shots", "tuned", *KINDS, "bow", "gain, 95%", *(f"identical, {kind}" for kind in KINDS)]
    said = (
        f"Tuned is better than the shots on {wins} tasks (target: {TARGET} of {len(PIECES)}); at least 0.75 on "
        f"{closed} closed tasks (target: {CLOSED_TARGET} of {len(CLOSED)}). Where it does not pay is in the same table."
    )
    return [Section("Exact match by task", [said], [table(head, rows)])]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "tasks": len(_by_task(seeds)),
        "seeds": len(seeds),
        "rank": RANK,
        "shots": SHOTS,
        "items": ITEMS,
        "length": LENGTH,
    }
