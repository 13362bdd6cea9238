"""What the tests of `llmanac data build` share: a small corpus, recipes, and the bytes of a folder."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from pathlib import Path
from typing import Any

STAGES = Path(__file__).parent / "stages"
WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "that",
    "is",
    "was",
    "for",
    "it",
    "with",
    "as",
    "his",
    "on",
    "be",
    "at",
    "by",
    "an",
    "this",
    "had",
    "not",
    "are",
    "but",
    "from",
    "or",
    "have",
]


RECIPE = """
name = "small"
budget = "600s"
data = { source = { name = "files", paths = ["text"] }, held_out = 0.2 }
tokenizer = { name = "bpe", vocab_size = 300 }
model = { name = "transformer", dim = 32, layers = 2, max_length = 128 }
evaluate = { baselines = "none" }
[train]
batch_tokens = 512
length = 64
optimizer = "adamw"
dtype = "float32"
attention = "sdpa"
compile = "never"
"""


def stage(name: str, **choices: Any) -> dict[str, Any]:
    """A stage of tests/stages as a recipe names it."""
    return {"name": str(STAGES / f"{name}.py"), **choices}


def small_recipe(steps: int, checkpoint_every: int, *more: str) -> str:
    """A recipe on the files of `text`, whose runs equal one another bit for bit; `more` are lines of `[train]`."""
    train = [f"steps = {steps}", f"checkpoint_every = {checkpoint_every}", *more]
    return RECIPE + "\n".join(train) + "\n"


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def make_inputs(folder: Path, documents: int = 400, seed: int = 0) -> Path:
    """Several formats, some copies, some short texts, some rubbish."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    texts = [text(rng, rng.choice([2, 7, 20, 40, 80])) for _ in range(documents)]
    texts[5::17] = [texts[3]] * len(texts[5::17])
    rows = [json.dumps({"text": t, "n": n}) for n, t in enumerate(texts)]
    half = len(rows) // 2
    (folder / "a.jsonl").write_text("\n".join([*rows[:half], "{broken", "[1, 2]", '{"text": " "}', *rows[half:]]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(rows[10:half]).encode(), mtime=0))
    for n in range(20):
        (folder / f"note-{n:02}.txt").write_text(text(rng, 30 + n) + "\r\n\r\n" + text(rng, 3) + "   \n")
    (folder / "page.html").write_text("<html><body><p>Hello</p></body></html>")
    return folder


def digests(folder: Path) -> dict[str, str]:
    """Every file of a build with its hash; the lock is no part of it."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def rows(folder: Path) -> list[dict[str, Any]]:
    """The documents of a build's output, in order."""
    from llmanac.data.pipeline.records import read_output

    return [row for path in sorted((folder / "data").iterdir()) for row in read_output(path)]


def dropped(folder: Path) -> list[dict[str, Any]]:
    """Every line of the lists of dropped documents."""
    lists = sorted((folder / "dropped").glob("*.jsonl"))
    return [json.loads(line) for path in lists for line in path.read_text("utf-8").splitlines()]
