"""The small model of the guide's explorables: `python tools/guide_model.py [--steps N]`.

It is trained here, offline, on the project's own prose (chapters, questions and the pages of docs), and written as one
classic script, `src/llmanac/guide/explore/model.js`: merges of the tokenizer, and each matrix in int8 with a float32
scale a row. The script holds what it was made from: the hash of the text, the seed, the steps, and the loss on every
97th row of that text before and after rounding. An export only copies it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmanac.core.types import Batch, OutputRequest
from llmanac.models.load import load_model
from llmanac.recipes.run import run
from llmanac.tokenizers.load import load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "src/llmanac/guide/explore/model.js"
HEAD, LENGTH, SEED = "var guideModel = ", 128, 50
PROSE = ("short", "long", "why", "ask")  # of a question


def prose() -> list[str]:
    """The texts, in one order: chapters and pages of docs, then what questions say, a text a file."""
    guide = ROOT / "src/llmanac/guide"
    found = [
        path.read_text("utf-8")
        for path in [*sorted((guide / "chapters").glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
    ]
    for path in sorted((guide / "questions").glob("*.toml")):
        bank = tomllib.loads(path.read_text("utf-8"))
        found.append("\n\n".join(q[part].strip() for q in bank.values() for part in PROSE))
    return found


def recipe(folder: Path, steps: int) -> dict[str, Any]:
    return {
        "name": "guide-model", "seed": SEED, "budget": "1h",
        "data": {"source": {"name": "files", "paths": [str(folder)], "piece": 4000}, "held_out": 0.05},
        "tokenizer": {"name": "bpe", "vocab_size": 1024, "pattern": "gpt2"},
        "model": {"name": "transformer", "dim": 128, "layers": 4, "max_length": LENGTH,
                  "blocks": [{"name": "pre-norm", "mixer": {"name": "multi-head", "heads": 4},
                              "ffn": {"name": "swiglu", "width": 320}}]},
        "train": {"steps": steps, "length": LENGTH, "batch_tokens": 4096, "trackers": [],
                  "optimizer": {"name": "muon", "embedding_lr": 6e-3}},
    }  # fmt: skip


def packed(weight: torch.Tensor) -> tuple[dict[str, Any], torch.Tensor]:
    """A tensor as the script has it, and what it stands for: int8 with a scale a row; vectors stay float32."""
    x = weight.detach().float()
    if x.ndim == 1:
        return {"shape": list(x.shape), "float32": _base64(x.numpy())}, x
    scale = (x.abs().amax(1) / 127).numpy().astype(np.float32)
    codes = np.rint(x.numpy() / scale[:, None]).astype(np.int8)
    made = {"shape": list(x.shape), "int8": _base64(codes), "scale": _base64(scale)}
    return made, torch.from_numpy(codes * scale[:, None])


def _base64(numbers: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(numbers).tobytes()).decode()


def loss(model: Any, rows: list[list[int]]) -> float:
    """Mean nats a token of rows that are cut to the model's length."""
    total = count = 0.0
    with torch.inference_mode():
        for ids in rows:
            logits = model(Batch(ids=torch.tensor([ids[:-1]])), want=OutputRequest(logits="all")).logits[0].float()
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))
            count += len(ids) - 1
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=800)
    steps = parser.parse_args().steps
    texts = prose()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "text"
        folder.mkdir()
        for number, text in enumerate(texts):
            (folder / f"{number:03}.txt").write_text(text, "utf-8")
        place = Path(made) / "run"
        run(recipe(folder, steps), folder=place, report=lambda line: print(line, file=sys.stderr))
        model, tokenizer = load_model(place).eval(), load_tokenizer(place)
        weights = {name: value for name, value in model.state_dict().items() if not name.startswith("lm_head")}
        text = "\n\n".join(texts)
        ids = [int(i) for i in tokenizer.encode(text)]
        rows = [ids[at : at + LENGTH + 1] for at in range(0, len(ids) - LENGTH, 97 * LENGTH)]
        before = loss(model, rows)
        tensors = {}
        for name, value in weights.items():
            tensors[name], rounded = packed(value)
            value.copy_(rounded)
        after = loss(model, rows)
        special = len(tokenizer.special_tokens)  # they take the first ids
        vocabulary = [tokenizer.token_bytes(i).hex() for i in range(tokenizer.vocab_size)]
    record = {"text": hashlib.sha256(text.encode()).hexdigest(), "characters": len(text), "seed": SEED, "steps": steps,
              "parameters": sum(v.numel() for v in weights.values()), "loss": round(before, 4),
              "loss in int8": round(after, 4)}  # fmt: skip
    data = {
        "made": record,
        "heads": 4,
        "length": LENGTH,
        "special": special,
        "vocabulary": vocabulary,
        "tensors": tensors,
    }
    FILE.write_text(f"{HEAD}{json.dumps(data, separators=(',', ':'))};\n", "utf-8")
    print(json.dumps(record), f"{FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
