"""Fine-tuning on the user's own pairs: rows as `llmanac tune` reads them (`tune_rows.py`), part of them held out."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core import registry
from llmanac.core.errors import DataError
from llmanac.core.types import IGNORE
from llmanac.data.pack import MixedRows, PackedStream
from llmanac.data.tokens import TokenDataset
from llmanac.objectives import collate_ragged
from llmanac.recipes.application import FineTuningPairs, find_application
from llmanac.recipes.spec import RecipeSpec
from llmanac.recipes.timetable import questions_asked
from llmanac.recipes.tune_rows import held_out, read_rows
from llmanac.train import TrainSpec

HELD_OUT = 0.05


def load_pairs(run: Any) -> FineTuningPairs:
    """The material that `finetune.pairs` names: an application's, or a file."""
    application = find_application(run.spec.finetune.pairs)
    return FilePairs(run) if application is None else application.pairs(run)


def write_examples(run: Any, name: str, examples: Iterable[Any]) -> None:
    """Encode examples into the run's `data/<name>`, unless they are there."""
    place = run.folder / "data" / name
    if not (place / "manifest.json").is_file():
        tokenizer = run.tokenizer
        TokenDataset.write_examples(
            place, examples, vocab_size=tokenizer.vocab_size, fingerprint=tokenizer.fingerprint()
        )


def pairs_stream(run: Any, *, length: int, rows: int, name: str) -> PackedStream:
    """The rows that `write_examples` wrote to `data/pairs`; no row is cut."""
    data = TokenDataset(run.folder / "data" / "pairs")
    return PackedStream(data, length=length, rows=rows, seed=run.spec.seed, packing="whole", name=name)


def mixture(run: Any, parts: Mapping[str, Any], fraction: float, *, rows: int) -> MixedRows:
    """Two streams by name; `fraction` of the rows are of the second."""
    weights = dict(zip(parts, (1 - fraction, fraction), strict=True))
    return MixedRows(dict(parts), weights, rows=rows, seed=run.spec.seed)


def finetune_spec(recipe: RecipeSpec, length: int) -> TrainSpec:
    """The training of the fine-tuning: pretraining's settings with smaller rates, its own length and steps."""
    assert recipe.finetune is not None
    scale = recipe.finetune.learning_rate_scale
    optimizer = recipe.train.optimizer
    rates = {
        f.name: getattr(optimizer, f.name) * scale
        for f in dataclasses.fields(optimizer)
        if (f.name == "lr" or f.name.endswith("_lr")) and getattr(optimizer, f.name) is not None
    }
    return dataclasses.replace(
        recipe.train,
        steps=recipe.finetune.steps,
        length=length,
        batch_tokens=max(length, recipe.train.batch_tokens),
        micro_batch=None,
        optimizer=dataclasses.replace(optimizer, **rates),
        attention="auto",
        checkpoint_every=None,
    )


class FilePairs(FineTuningPairs):
    """Pairs from a file; every twentieth, chosen by a hash of its text, is held out and scored at the end.

    Raises:
        DataError: no file, no usable columns (the message names those there are), or too few rows.
    """

    def __init__(self, run: Any) -> None:
        path = Path(run.spec.finetune.pairs)
        if not path.exists():
            apps = ", ".join(registry.applications())
            raise DataError(f"finetune.pairs: {path}: no such file; give a .jsonl or .parquet file, or one of {apps}")
        self.run, self.length = run, run.spec.train.length
        self.reader = run.spec.finetune.objective.reader(run.tokenizer)
        rows = [row for _, row in read_rows(path)]
        if len(rows) < 2:
            raise DataError(f"{path}: {len(rows)} rows are too few to train on and to hold out; give at least 2")
        self.chats = any("messages" in row or isinstance(row.get("prompt"), list) for row in rows)
        held = held_out(rows, HELD_OUT, run.spec.seed)
        held[0] |= not any(held)  # all rows are equal
        self.train = [row for row, h in zip(rows, held, strict=True) if not h]
        self.held_out = [row for row, h in zip(rows, held, strict=True) if h]

    def write(self) -> None:
        """Encode the training rows with their loss masks."""
        write_examples(self.run, "pairs", self.reader.examples(self.train, length=self.length))

    def measure(self, run: Any) -> dict[str, Any]:
        """Nats a token on held-out answers, before and after fine-tuning."""
        encoded = list(self.reader.examples(self.held_out, length=self.length))
        few = questions_asked(
            run, lambda count: self._loss(run.model, encoded[:count]), len(encoded), ways=2, what="held-out pairs",
            report=run.report,
        )  # fmt: skip
        encoded = encoded[:few]
        return {
            "pairs": {
                "train": len(self.train),
                "held_out": few,
                "loss_before": self._loss(run.base, encoded),
                "loss_after": self._loss(run.model, encoded),
            }
        }

    def _loss(self, model: Any, encoded: list[tuple[np.ndarray, np.ndarray]]) -> float | None:
        import torch

        nats, tokens = 0.0, 0
        with torch.no_grad():
            for row in encoded:
                batch = collate_ragged([row]).to(model.device)
                assert batch.targets is not None
                nats += float(model.nll(batch))
                tokens += int((batch.targets != IGNORE).sum())
        return nats / tokens if tokens else None
