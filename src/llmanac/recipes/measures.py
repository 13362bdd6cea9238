"""What a run measures of its language model: bits per byte next to every baseline, and a few continuations."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.progress import progress
from llmanac.evaluate.baselines import baselines
from llmanac.evaluate.bits_per_byte import score_texts
from llmanac.generate.engine import Engine
from llmanac.train.metrics import read_metrics

NAMES = {
    "gzip": "gzip -9",
    "xz": "xz -9e",
    "xz-trained": "xz -9e, after the training text",
    "bigram": "byte bigram",
    "ngram-5": "order-5 byte n-gram (Kneser-Ney)",
}
CONTINUED = 3  # held-out documents whose beginnings are continued in the report
BASELINE_BYTES = 64 << 20  # of training text that the baselines get; xz slows down beyond


def some_texts(texts: Iterable[str], most: int) -> list[str]:
    """Whole texts in their order, as many as fit into `most` bytes; the beginning of the first where none fits."""
    out, size, first = [], 0, b""
    for text in texts:
        data = text.encode("utf-8")
        first = first or data
        if size + len(data) <= most:
            out.append(text)
            size += len(data)
    return out or ([first[:most].decode("utf-8", errors="ignore")] if first else [])


def language(run: Any, held_out: list[str]) -> dict[str, Any]:
    """Bits per byte of the base model, the fine-tuned one and the baselines on the same held-out documents."""
    place = run.folder / "baselines.json"
    with progress("measure", 3, "parts") as bar:
        base = score_texts(run.base, run.tokenizer, held_out)
        bar.advance()
        kept: dict[str, float] = {"base": base.bits_per_byte}
        if run.model is not run.base:
            kept["after fine-tuning"] = score_texts(run.model, run.tokenizer, held_out).bits_per_byte
        bar.advance()
        scores: dict[str, float] = {}
        if run.spec.evaluate.baselines == "all":
            if not place.is_file():
                seen = some_texts(run.corpus.train.texts(), BASELINE_BYTES)
                files.write_json(place, baselines(seen, held_out))
            kept_scores, fix = files.read_table(place), "delete the file, and it is measured again"
            scores = {title: files.field(kept_scores, name, float, place, fix) for name, title in NAMES.items()}
        bar.advance()
    return {
        "bits_per_byte": {"this model": base.bits_per_byte, **scores},
        "base_kept": kept,
        "held_out_scored": {"documents": len(held_out), "bytes": base.bytes, "tokens": base.tokens},
        "bytes_per_token": base.bytes_per_token,
        "completions": _continuations(run, held_out),
    }


def _continuations(run: Any, held_out: list[str]) -> list[dict[str, str]]:
    texts = [text[:80].rsplit(" ", 1)[0] for text in held_out[:CONTINUED]]
    context = run.base.max_length or sys.maxsize
    new = min(48, max(1, context // 2))
    ids = [[int(i) for i in run.tokenizer.encode(text)][: max(1, context - new)] for text in texts]
    prompts = [run.tokenizer.decode(row) for row in ids]
    found = Engine(run.base, run.tokenizer).generate(ids, max_new_tokens=new)
    return [{"prompt": prompt, "text": one.text} for prompt, one in zip(prompts, found, strict=True)]


def loss_curve(folder: Path, points: int = 400) -> list[dict[str, Any]]:
    """The losses of a training, `{"step", "loss", "held_out"}`, thinned to about `points`; those held out all stay."""
    curve: list[dict[str, Any]] = []
    for line in read_metrics(folder):
        if "loss" in line:
            curve.append({"step": line["step"], "loss": line["loss"]})
        elif curve and "evaluate_loss" in line:
            curve[-1]["held_out"] = line["evaluate_loss"]
    every = max(1, len(curve) // points)
    return [p for i, p in enumerate(curve) if i % every == 0 or "held_out" in p or i == len(curve) - 1]
