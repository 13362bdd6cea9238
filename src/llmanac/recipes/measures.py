"""What a run measures of its language model: bits per byte next to every baseline, and a few continuations.

`results.json` of a run: everything that the report says, from what the stages left.
"""

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core import files, spec
from llmanac.core.progress import progress
from llmanac.evaluate.baselines import baselines
from llmanac.evaluate.bits_per_byte import score_texts
from llmanac.generate.engine import Engine
from llmanac.generate.load import ASSISTANT
from llmanac.recipes import measures
from llmanac.recipes.report import heading
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


def results_of(run: Any) -> dict[str, Any]:
    """What `results.json` of a run holds (`stages.Pipeline`, every stage done)."""
    shards = {side: int(np.asarray(data.offsets)[-1]) for side, data in run.data.items()}
    out: dict[str, Any] = {
        **heading(run.spec.name, run.spec.seed),
        "budget": run.spec.budget,
        "seconds": run.seconds,
        "data": run.corpus.manifest,
        "tokens": {**shards, "vocabulary": run.tokenizer.vocab_size},
        "model": {"parameters": sum(p.numel() for p in run.model.parameters()), **spec.dump(run.spec.model)},
    }
    for stage in ("pretrain", "finetune"):
        if stage in run.planned:
            known = run.planned[stage]
            settled = {key: known["train"][key] for key in ("dtype", "attention")}
            out[stage] = {**known, **settled, "curve": measures.loss_curve(run.folder / stage)}
    out |= run.measured
    out["tokens"]["bytes_per_token"] = run.measured["bytes_per_token"]
    out["next"] = _next(run)
    return out


def _next(run: Any) -> list[str]:
    """Commands to go on with."""
    chats = run.spec.finetune is not None and ((run.folder / ASSISTANT).is_dir() or run.practice.chats)
    begin = next(iter(run.measured["completions"]), {"prompt": "The"})["prompt"].split("\n")[0][:40]
    return [
        *([f"llmanac chat {run.folder}"] if chats else []),
        f"llmanac generate {run.folder} --prompt {shlex.quote(begin or 'The')}",
        f"llmanac serve {run.folder}",
        "llmanac compare position --arms rope,learned,none --budget 10m",
    ]


def counts(manifest: dict[str, Any]) -> str:
    """How much text there is on both sides of the split, and what was left out."""
    train, held_out = manifest["train"], manifest["held_out"]
    left_out = "".join(f", {count:,} {reason}" for reason, count in manifest["dropped"].items() if count)
    return (
        f"{train['documents']:,} documents, {train['bytes'] / 1e6:.2f} MB to train on; "
        f"{held_out['documents']:,} held out, {held_out['bytes'] / 1e3:.0f} kB"
        + (f"; left out{left_out[1:]}" if left_out else "")
    )
