"""`results.json` of a run: everything that the report says, from what the stages left."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np

from llmanac.core import spec
from llmanac.generate.load import ASSISTANT
from llmanac.recipes import measures
from llmanac.recipes.report import heading


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
