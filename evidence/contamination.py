"""Contamination: what shared 13-grams find.

Items of eight benchmarks are planted in training text ({training_bytes:.1f} MB: the standard library's sources and
documentation, WikiText-2 and Shakespeare), {planted} of each (half of a set that has fewer than twice as many), at
random places, with changed case, spaces and line breaks. All items are searched in the text before and after planting.
One draw per set. `LLMANAC_SHARED_DATA` names the folder of the benchmark files (gsm8k, mmlu, math, mbpp, humaneval,
hellaswag, piqa, nq_open).

## What the numbers say

- Recall is {recall[0]:.3f} to {recall[1]:.3f} of the items that are long enough, over the lengths n. Items of fewer
  than four words are not searched and are reported as too short ({short}: {too_short:.0%}).
- Found before planting: at n = 13 {before[13]} of {items:,} items, at n = 8 {before[8]}, of which {noise} are
  {noisy}'s boilerplate. Thirteen is a good length.
- Other items that are found share 13 words with a planted one. In most sets these are few. In {most} they are {beside}:
  its items share templates and passages, so a leak of {leak:.1%} of it affects {touched:.0%} of it. The criterion "any
  shared 13-gram" then overestimates the leak {times:.0f} times; the fraction of an item's n-grams, which the report
  gives, separates the two (every planted item has 1.0).
- Between the parts of one set: of GSM8K's test questions {gsm8k[found]} share a 13-gram with its training questions,
  {gsm8k[found_wholly]} completely. Of MMLU's test questions {mmlu[found]} ({part:.0%}) share one with its
  {mmlu[documents]} development questions, {mmlu[found_wholly]} completely.

Memory, not skill: a byte 5-gram model (`evaluate/baselines.py`) is estimated on 400 documents, then with half of
GSM8K's test questions added, then after the stage `decontamination` was run on that. The leaked half costs {easier:.0%}
of the bits it cost before: the benchmark looks that much easier. The half that never leaked gains too ({other:.2f} bits
a byte), from similar text; the additional gain of the leaked half, {memory:.2f} bits a byte, is memory. Decontamination
removes both, to within {left:.4f}. This measures n-gram overlap only: a paraphrase or a translation of an item is not
found.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._corpora import library, needed_data
from evidence._messages import bytes_of
from evidence._page import with_interval
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method
from llmanac.data.deduplicate import deduplicate
from llmanac.data.documents import Document
from llmanac.data.evaluation_items import Item, read_items
from llmanac.data.overlap import words
from llmanac.data.stages.decontamination import Spec
from llmanac.evaluate.baselines import ngram_bits
from llmanac.evaluate.contamination_files import contamination

ROWS = ("benchmark/contamination",)
CLAIM = "a benchmark should measure generalisation, not memorisation: shared n-grams find what leaked"
SEEDS = 1  # a draw of planted items a set, and of the documents and the leaked half of the memory

SETS: dict[str, tuple[str, list[str]]] = {
    "gsm8k": ("gsm8k/test.jsonl", ["question"]), "mmlu": ("mmlu/test/*.csv", ["question"]),
    "math500": ("math/math500.jsonl", ["problem"]), "mbpp": ("mbpp/mbpp.jsonl", ["text"]),
    "humaneval": ("humaneval/HumanEval.jsonl.gz", ["prompt"]),
    "hellaswag": ("hellaswag/hellaswag_val_full.txt.bz2", []), "piqa": ("piqa/valid.jsonl", ["goal"]),
    "nq_open": ("nq_open/NQ-open.dev.jsonl", ["question"]),
}  # fmt: skip
TITLES = {
    "gsm8k": "GSM8K test", "mmlu": "MMLU test, questions", "math500": "MATH-500", "mbpp": "MBPP",
    "humaneval": "HumanEval", "hellaswag": "HellaSwag, lines", "piqa": "PIQA, goals", "nq_open": "NQ-open",
}  # fmt: skip
LENGTHS = ("8", "13", "20")
PLANTED = 100  # of each set


def measure(seed: int, size: str) -> dict[str, Any]:
    """Planted items found in each set, overlap between the parts of a set, and the effect of a leak."""
    if size == "small":
        rng = random.Random(0)
        pool = [f"{a}{b}{c}" for a in "bdklm" for b in "aeiou" for c in "nrst"]
        texts = [" ".join(rng.choices(pool, k=80)) for _ in range(30)]
        items = [Item(f"{i}", (" ".join(rng.choices(pool, k=3 + i)),)) for i in range(30)]
        return {"sets": [leaks(texts, "made up", items, 0)], "memory": memory_not_skill(items, texts, 0)}
    data = needed_data("gsm8k", "mmlu")
    texts = training(data)
    sets = {name: read_items(sorted(data.glob(pattern)), columns) for name, (pattern, columns) in SETS.items()}
    gsm8k, mmlu = [data / "gsm8k/train.jsonl"], sorted(data.glob("mmlu/dev/*.csv"))
    return {
        "training_bytes": bytes_of(texts), "training_documents": len(texts),
        "sets": [leaks(texts, name, items, seed * len(sets) + n) for n, (name, items) in enumerate(sets.items())],
        "own_training_sets": {
            "gsm8k test in gsm8k train": across(read_items(gsm8k, ["question"]), sets["gsm8k"]),
            "mmlu test in mmlu dev": across(read_items(mmlu, ["question"]), sets["mmlu"]),
        },
        "memory": memory_not_skill(sets["gsm8k"], texts, seed),
    }  # fmt: skip


def training(data: Path) -> list[str]:
    documentation = [document.text for document in make_method("source", "python-docs").documents()]
    files = [data / "text" / name for name in ("wikitext2_test.txt", "wikitext2_valid.txt", "tinyshakespeare.txt")]
    return library() + documentation + [path.read_text("utf-8") for path in files]


def documents(texts: Sequence[str]) -> list[Document]:
    return [Document(str(i), text, "") for i, text in enumerate(texts)]


def disguised(rng: random.Random, text: str) -> str:
    """The words of an item with other case, spaces and line breaks."""
    return "".join(
        (word.upper() if rng.random() < 0.2 else word) + rng.choice([" ", "  ", "\n", " "]) for word in text.split()
    )


def longest(item: Item) -> str:
    return max(item.fields, key=len)


def leaks(texts: Sequence[str], name: str, items: Sequence[Item], seed: int) -> dict[str, Any]:
    """Plant some items, and count which are found, at several lengths of n-gram."""
    rng = random.Random(seed)
    planted = set(rng.sample(range(len(items)), min(PLANTED, len(items) // 2)))
    mixed = list(texts)
    for number in sorted(planted):
        where = rng.randrange(len(mixed))
        mixed[where] += "\n\n" + disguised(rng, longest(items[number])) + "\n\n"
    row: dict[str, Any] = {"set": name, "items": len(items), "planted": len(planted)}
    own = " \n ".join(" ".join(words(longest(items[k]))) for k in planted)
    for n in LENGTHS:
        clean = contamination(documents(texts), items, n=int(n))
        dirty = contamination(documents(mixed), items, n=int(n))
        able = {k for k in planted if dirty.items[k].looked.by != "too short"}
        others = [k for k, r in enumerate(dirty.items) if r.found and k not in planted]
        row[n] = {
            "too_short": sum(r.looked.by == "too short" for r in dirty.items), "planted_able": len(able),
            "found_of_planted": sum(dirty.items[k].fraction == 1.0 for k in able),
            "found_before_planting": len(clean.found()), "found_before_wholly": len(clean.found(1 - 1e-9)),
            "found_beside_planted": len(others),
            "of_them_wholly_inside_a_planted_item": sum(
                dirty.items[k].fraction == 1.0 and f" {' '.join(words(longest(items[k])))} " in f" {own} "
                for k in others
            ),
        }  # fmt: skip
    return row


def memory_not_skill(items: Sequence[Item], texts: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """Bits per byte of a byte 5-gram model on leaked items and on the others, before and after decontamination."""
    rng = random.Random(seed)
    chosen = [longest(item) for item in items]
    leaked = set(rng.sample(range(len(chosen)), len(chosen) // 2))
    base = list(texts[:400]) if not seed else random.Random(seed).sample(list(texts), 400)
    dirty = [*base, *(chosen[k] for k in sorted(leaked))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "items.jsonl"
        path.write_text("".join(json.dumps({"q": text}) + "\n" for text in chosen), "utf-8")
        cleaned = [text for text in deduplicate(dirty, Spec(evaluation=(str(path),), columns=("q",)))[0] if text]
    rows = []
    for name, corpus in (("never leaked", base), ("leaked", dirty), ("leaked, then decontaminated", cleaned)):
        bits = [
            ngram_bits(corpus, [chosen[k] for k in range(len(chosen)) if (k in leaked) == side])
            for side in (True, False)
        ]
        rows.append({"training": name, "documents": len(corpus), "leaked_items": bits[0], "other_items": bits[1]})
    return rows


def across(train: Sequence[Item], items: Sequence[Item]) -> dict[str, Any]:
    """One part of a benchmark looked for in another."""
    return contamination(documents([item.fields[0] for item in train]), items).summary()


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    found = seeds[0]
    rows = []
    for row in found["sets"]:
        at = row["13"]
        lengths = [" / ".join(f"{row[n][key]:,}" for n in LENGTHS)
                   for key in ("found_before_planting", "found_beside_planted")]  # fmt: skip
        counts = [f"{n:,}" for n in (row["items"], at["too_short"], at["planted_able"], at["found_of_planted"])]
        rows.append([TITLES[row["set"]], *counts, *lengths])
    head = [
        "set", "items", "too short", "planted (long enough)", "found wholly", "found before planting, n = 8 / 13 / 20",
        "also found after planting, n = 8 / 13 / 20",
    ]  # fmt: skip
    worth = [
        [row["training"], *(with_interval([one["memory"][at][key] for one in seeds])
                            for key in ("leaked_items", "other_items"))] for at, row in enumerate(found["memory"])
    ]  # fmt: skip
    return [
        Section("Planted items, first draw", [], [table(head, rows)]),
        Section(
            f"Bits per byte of the questions, over {len(seeds)} draws",
            [],
            [table(["training text", "leaked half", "other half"], worth)],
        ),
    ]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found = seeds[0]
    sets, own = found["sets"], found["own_training_sets"]
    total = {(n, key): sum(row[n][key] for row in sets) for n in LENGTHS for key in sets[0][n]}
    recall = [total[n, "found_of_planted"] / total[n, "planted_able"] for n in LENGTHS]
    noisy = max(sets, key=lambda row: row["8"]["found_before_planting"])
    short = max(sets, key=lambda row: row["13"]["too_short"] / row["items"])
    most = max(sets, key=lambda row: row["13"]["found_beside_planted"])
    beside, leaked, mmlu = most["13"]["found_beside_planted"], most["planted"], own["mmlu test in mmlu dev"]
    clean, dirty, cleaned = found["memory"]
    gains = {key: clean[key] - dirty[key] for key in ("leaked_items", "other_items")}
    return {
        "training_bytes": found["training_bytes"] / 1e6, "planted": PLANTED, "recall": (min(recall), max(recall)),
        "short": TITLES[short["set"]], "too_short": short["13"]["too_short"] / short["items"],
        "before": {int(n): total[n, "found_before_planting"] for n in LENGTHS},
        "items": sum(row["items"] for row in sets), "noise": noisy["8"]["found_before_planting"],
        "noisy": TITLES[noisy["set"]], "most": TITLES[most["set"]], "beside": beside, "leak": leaked / most["items"],
        "touched": beside / most["items"], "times": beside / leaked, "gsm8k": own["gsm8k test in gsm8k train"],
        "mmlu": mmlu, "part": mmlu["found"] / mmlu["items"], "other": gains["other_items"],
        "easier": dirty["leaked_items"] / clean["leaked_items"], "memory": gains["leaked_items"] - gains["other_items"],
        "left": max(abs(cleaned[key] - clean[key]) for key in gains),
    }  # fmt: skip
