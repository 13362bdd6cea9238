"""Measures what 13-gram overlap finds of leaked benchmarks, and writes docs/evidence/contamination.

    LLMANAC_SHARED_DATA=FOLDER python benchmarks/evidence_contamination.py

FOLDER holds the benchmark files (gsm8k, mmlu, math, mbpp, humaneval, hellaswag, piqa, nq_open) in the folders of those
names. Training text is the standard library and its documentation, WikiText-2 and Shakespeare. Takes a few minutes.
"""

from __future__ import annotations

import json
import os
import random
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from llmanac.core.spec import make_method
from llmanac.data.deduplicate import deduplicate
from llmanac.data.documents import Document
from llmanac.data.evaluation_items import Item, read_items
from llmanac.data.overlap import words
from llmanac.data.stages.decontamination import Spec
from llmanac.evaluate.baselines import ngram_bits
from llmanac.evaluate.contamination import contamination

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "evidence" / "contamination"
SETS: dict[str, tuple[str, list[str]]] = {
    "gsm8k": ("gsm8k/test.jsonl", ["question"]),
    "mmlu": ("mmlu/test/*.csv", ["question"]),
    "math500": ("math/math500.jsonl", ["problem"]),
    "mbpp": ("mbpp/mbpp.jsonl", ["text"]),
    "humaneval": ("humaneval/HumanEval.jsonl.gz", ["prompt"]),
    "hellaswag": ("hellaswag/hellaswag_val_full.txt.bz2", []),
    "piqa": ("piqa/valid.jsonl", ["goal"]),
    "nq_open": ("nq_open/NQ-open.dev.jsonl", ["question"]),
}
PLANTED = 100  # of each set


def training(data: Path) -> list[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    sources = [p.read_text("utf-8", "replace") for p in sorted(root.rglob("*.py")) if "site-packages" not in p.parts]
    documentation = [document.text for document in make_method("source", "python-docs").documents()]
    files = [data / "text" / name for name in ("wikitext2_test.txt", "wikitext2_valid.txt", "tinyshakespeare.txt")]
    return sources + documentation + [path.read_text("utf-8") for path in files]


def documents(texts: list[str]) -> list[Document]:
    return [Document(str(i), text, "") for i, text in enumerate(texts)]


def disguised(rng: random.Random, text: str) -> str:
    """The words of an item with other case, spaces and line breaks."""
    return "".join(
        (word.upper() if rng.random() < 0.2 else word) + rng.choice([" ", "  ", "\n", " "]) for word in text.split()
    )


def leaks(texts: list[str], name: str, items: list[Item], seed: int) -> dict[str, Any]:
    """Plant some items, and count which are found, at several lengths of n-gram."""
    rng = random.Random(seed)
    planted = set(rng.sample(range(len(items)), min(PLANTED, len(items) // 2)))
    mixed = list(texts)
    for number in sorted(planted):
        where = rng.randrange(len(mixed))
        mixed[where] += "\n\n" + disguised(rng, max(items[number].fields, key=len)) + "\n\n"
    row: dict[str, Any] = {"set": name, "items": len(items), "planted": len(planted)}
    own = " \n ".join(" ".join(words(max(items[k].fields, key=len))) for k in planted)
    for n in (8, 13, 20):
        clean = contamination(documents(texts), items, n=n)
        dirty = contamination(documents(mixed), items, n=n)
        able = {k for k in planted if dirty.items[k].looked.by != "too short"}
        others = [k for k, r in enumerate(dirty.items) if r.found and k not in planted]
        row[str(n)] = {
            "too_short": sum(r.looked.by == "too short" for r in dirty.items), "planted_able": len(able),
            "found_of_planted": sum(dirty.items[k].share == 1.0 for k in able),
            "found_before_planting": len(clean.found()), "found_before_wholly": len(clean.found(1 - 1e-9)),
            "found_beside_planted": len(others),
            "of_them_wholly_inside_a_planted_item": sum(
                dirty.items[k].share == 1.0 and f" {' '.join(words(max(items[k].fields, key=len)))} " in f" {own} "
                for k in others
            ),
        }  # fmt: skip
    return row


def memory_not_skill(items: list[Item], texts: list[str]) -> list[dict[str, Any]]:
    """Bits per byte of a byte 5-gram model on leaked items and on the others, before and after decontamination."""
    rng = random.Random(0)
    chosen = [max(item.fields, key=len) for item in items]
    leaked = set(rng.sample(range(len(chosen)), len(chosen) // 2))
    base = texts[:400]
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


def main() -> None:
    named = os.environ.get("LLMANAC_SHARED_DATA")
    if not named or not Path(named).is_dir():
        sys.exit("set LLMANAC_SHARED_DATA to the folder with the benchmark files")
    data = Path(named)
    texts = training(data)
    sets = {name: read_items(sorted(data.glob(pattern)), columns) for name, (pattern, columns) in SETS.items()}
    results = {
        "training_bytes": sum(len(text.encode("utf-8")) for text in texts), "training_documents": len(texts),
        "sets": [leaks(texts, name, items, seed) for seed, (name, items) in enumerate(sets.items())],
        "own_training_sets": {
            "gsm8k test in gsm8k train": across(read_items([data / "gsm8k/train.jsonl"], ["question"]), sets["gsm8k"]),
            "mmlu test in mmlu dev": across(
                read_items(sorted(data.glob("mmlu/dev/*.csv")), ["question"]), sets["mmlu"]
            ),
        },
        "memory": memory_not_skill(sets["gsm8k"], texts),
    }  # fmt: skip
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "results.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    print(json.dumps(results, indent=1))


def across(train: list[Item], items: list[Item]) -> dict[str, Any]:
    """One part of a benchmark looked for in another."""
    return contamination(documents([item.fields[0] for item in train]), items).summary()


if __name__ == "__main__":
    main()
