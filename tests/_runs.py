"""Small runs on a text of a few words."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from _forked import executables

SMALL = {
    "name": "small",
    "budget": "60s",
    "data": {"source": {"name": "files", "paths": ["text"]}, "held_out": 0.2},
    "tokenizer": {"name": "bpe", "vocab_size": 400},
    "model": {"name": "transformer", "dim": 32, "layers": 2, "max_length": 128},
    "train": {
        "steps": 12,
        "batch_tokens": 256,
        "length": 64,
        "checkpoint_every": 4,
        "dtype": "float32",
        "attention": "plain",
        "compile": "never",
    },
}


def recipe(text: Path, **changes: object) -> dict[str, object]:
    data = json.loads(json.dumps(SMALL))
    data["data"]["source"]["paths"] = [str(text)]
    return {**data, **changes}


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([executables() / "llmanac", *words], cwd=cwd, capture_output=True, text=True, timeout=300)
