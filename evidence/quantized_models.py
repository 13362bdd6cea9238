"""What fewer bits cost models that people use, by document.

SmolLM2-135M-Instruct (Q4_1) and Qwen2.5-Coder-0.5B-Instruct (Q4_K_M; its header says that it was made from AWQ weights)
read the first {length} tokens of {documents} articles of WikiText-2's test part. The original is what a file holds, in
float32: its numbers lie on grids of 4 to 8 bits already, so that another grid of 4 bits can cost more here than it
would of numbers that were never rounded. Each form was made of the original: bf16, int8, nf4, int4 and gptq replace the
layers' matrices and compute in float32 (GPTQ saw {calibration:,} tokens of the validation part); q8_0, q6_k, q4_k_m and
q4_0 are files, written and read by the native runner, which multiplies with activations in 8 bits. Losses are nats a
token, differences are paired by article: {made} of {pairs} forms and models are made so far. `LLMANAC_SHARED_DATA`
names the folder of the texts.

{findings}
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks._corpora import needed_data
from evidence._pretrained import needed
from evidence.quantized_serving import logits
from evidence.speculation import random_lm
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method
from llmanac.evaluate.divergence import windows
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_engine
from llmanac.lab.complexity import one_thread
from llmanac.lab.stats import interval
from llmanac.models.gguf.write import export_gguf

ROWS = ("quant/bf16", "quant/int8", "quant/nf4", "serve/quantized")
CLAIM = "16 and 8 bits lose next to nothing of a pretrained model, 4 bits something"
FORMS = ("float32", "bf16", "int8", "nf4", "int4", "gptq", "q8_0", "q6_k", "q4_k_m", "q4_0")
ARMS = FORMS
METRIC = "loss in nats a token of each article, less that of the original"
MARGIN = "1% of the original's loss; nf4 against int8: none"
SEEDS, REPLICATE = 1, "model: its articles are the replicates"
FILES = FORMS[6:]
DOCUMENTS, LENGTH, CALIBRATION = 60, 256, 16
MODELS = {"smollm2": DOCUMENTS, "qwen": DOCUMENTS // 2}
PIECES = tuple(f"{model}_{form}" for model in MODELS for form in FORMS)
PARTIAL = True


@one_thread()
def measure(seed: int, size: str, piece: str = "") -> dict[str, Any]:
    """The loss of each article in one form."""
    if size == "small":
        model = random_lm(256, 32, 1, seed)
        make_method("quantizer", "int8").build().apply(model)
        return {PIECES[0]: losses(Engine(model), [[1, 2, 3, 4], [9, 8, 7]])}
    name, form = piece.split("_", 1)
    data = needed_data("text")
    engine = load_engine(str(needed(name)), device="cpu", dtype="float32", runner="torch")
    rows = [list(engine.tokenizer.encode(text))[:LENGTH] for text in articles(data / "text" / "wikitext2_test.txt")]
    with tempfile.TemporaryDirectory(prefix="llmanac-quantized-") as folder:
        return losses(formed(engine, form, Path(folder), data), rows[: MODELS[name]])


def articles(path: Path) -> list[str]:
    """The articles of a file of WikiText: each begins with a line ` = Title = `."""
    parts = re.split(r"(?m)^ = [^=\n]+ = \n", path.read_text("utf-8"))
    return [part.strip() for part in parts if len(part) > 2000]


def formed(engine: Engine, form: str, folder: Path, data: Path) -> Engine:
    """An engine of the model in a form."""
    model: Any = engine.model
    if form in FILES:
        path = export_gguf(model, engine.tokenizer, folder / "model.gguf", form)
        return load_engine(path, device="cpu", runner="native")
    if form != "float32":
        text = articles(data / "text" / "wikitext2_valid.txt")
        seen = windows(text, engine.tokenizer, LENGTH, CALIBRATION)
        make_method("quantizer", form).build().apply(model, list(seen.batches()))
    return Engine(model, engine.tokenizer)


def losses(engine: Engine, rows: Sequence[list[int]]) -> dict[str, Any]:
    """Mean nats a token of each row, of which the first token is not predicted."""
    found = []
    for row in rows:
        picked = logits(engine, row).gather(-1, torch.tensor(row[1:])[:, None])
        found.append(round(-float(picked.double().mean()), 5))
    return {"loss": found}


def loses(seeds: Sequence[dict[str, Any]], model: str, form: str, other: str = "float32") -> list[float]:
    """By article, how much more a form costs than another, as a part of the original's mean loss."""
    found = seeds[0]
    one, two, first = (found[f"{model}_{name}"]["loss"] for name in (form, other, "float32"))
    return [(a - b) / fmean(first) for a, b in zip(one, two, strict=True)]


def made(seeds: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Models and forms, beside the originals, whose cells and original are there."""
    pairs = [tuple(piece.split("_", 1)) for piece in PIECES if piece in seeds[0]]
    return [(model, form) for model, form in pairs if form != "float32" and f"{model}_float32" in seeds[0]]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    rows = []
    for model, form in made(seeds):
        own, first = (seeds[0][f"{model}_{name}"]["loss"] for name in (form, "float32"))
        gap = [a - b for a, b in zip(own, first, strict=True)]
        low, high = interval(gap) if len(gap) > 1 else (gap[0], gap[0])
        rows.append([model, form, f"{fmean(own):.4f}", f"{fmean(gap):+.4f} ({low:+.4f} to {high:+.4f})",
                     f"{100 * fmean(gap) / fmean(first):+.2f}%", str(len(gap))])  # fmt: skip
    head = ["model", "form", "loss, nats a token", "more than the original, 95%", "of its loss", "articles"]
    return [Section("Losses", [], [table(head, rows)])]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    lines = []
    for model in MODELS:
        said = [f"{form} {100 * fmean(loses(seeds, model, form)):+.2f}%" for name, form in made(seeds) if name == model]
        if said:
            lines.append(f"- {model}: of the loss more than the original: {', '.join(said)}.")
    return {"length": LENGTH, "documents": DOCUMENTS, "calibration": CALIBRATION * LENGTH, "made": len(made(seeds)),
            "pairs": len(PIECES) - len(MODELS), "findings": "\n".join(lines)}  # fmt: skip
