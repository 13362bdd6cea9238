"""A trial that trains: the arm's recipe with the one training loop, then bits per byte on documents held out.

Everything but the axis is shared: prepared text, rows in one order, initial values by name, and the planned precision,
attention form and micro-batch. The replicate is the seed, which names both the initial values and the order of rows.
"""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import torch

from llmanac.core.device import resolve_device
from llmanac.core.spec import dump
from llmanac.data.pack import PackedStream
from llmanac.data.tokens import TokenDataset
from llmanac.evaluate.bits_per_byte import score_texts
from llmanac.lab.axis import Arm
from llmanac.lab.budget import Speed
from llmanac.lab.cache import versions
from llmanac.lab.costs import TRAINING_COSTS, decode_speed, model_bytes, peak_memory, state_bytes
from llmanac.lab.pairing import RecordingStream, hash_parameters, initial_tensors
from llmanac.lab.prepare import Prepared
from llmanac.lab.sources import fingerprint
from llmanac.lab.stats import Metric
from llmanac.lab.study import Measurement
from llmanac.lab.trials import estimating
from llmanac.train.loop import MAY_CHANGE, train
from llmanac.train.metrics import read_metrics

BITS_PER_BYTE = Metric("bits_per_byte", "bit/B", "lower", "bits per byte, held out")
MEASURE_VERSION = 2  # raise it when what is measured below changes its meaning
CURVE_POINTS = 8
CURVE_BYTES = 12_000  # of held-out text that the learning curve is measured on
CODE = (train.__module__, PackedStream.__module__, TokenDataset.__module__, score_texts.__module__)


class TrainingTrial:
    """Trains an arm under a seed, or estimates it where its model has no steps (`trials/estimating.py`).

    With `tuning`, the result is measured on the tuning texts.
    """

    metrics: tuple[Metric, ...] = (BITS_PER_BYTE,)
    costs: tuple[Metric, ...] = TRAINING_COSTS
    replicate = "seed"

    def __init__(self, prepared: Prepared, device: str = "auto", *, tuning: bool = False) -> None:
        self.prepared, self.device, self.tuning = prepared, resolve_device(device), tuning
        self.texts = prepared.tuning if tuning else prepared.report

    def parts(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Everything that decides an arm's numbers."""
        if estimating.is_estimated(arm):
            return estimating.parts(self.prepared, arm, MEASURE_VERSION, self.tuning)
        recipe = arm.spec
        settings = {k: v for k, v in dump(recipe.train).items() if k not in MAY_CHANGE}
        return {
            "trial": "training",
            "measure": MEASURE_VERSION,
            "model": dump(recipe.model),
            "objective": dump(recipe.objective),
            "train": settings,
            "seed": seed,
            "data": self.prepared.identity,
            "tuning": self.tuning,
            "sources": fingerprint([recipe.model, recipe.objective, recipe.train], CODE),
            "versions": versions(),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
        }

    def build(self, arm: Arm, seed: int) -> tuple[Any, Any, Any]:
        """`(model with its initial values, source, objective)` of an arm."""
        recipe, model = arm.spec, self._model(arm, seed)

        def fresh() -> PackedStream:
            return PackedStream(self.prepared.dataset, length=recipe.train.length, rows=recipe.train.rows, seed=seed)

        return model, RecordingStream(fresh(), fresh), recipe.objective.build(tokenizer=self.prepared.tokenizer)

    def _model(self, arm: Arm, seed: int) -> Any:
        model = arm.spec.model.build(vocab_size=self.prepared.tokenizer.vocab_size).to(self.device)
        model.initialise(seed)
        return model

    def initial(self, arm: Arm, seed: int) -> dict[str, Any]:
        """The tensors that an arm starts from, built again."""
        return initial_tensors(self._model(arm, seed))

    def measure(self, arm: Arm, seed: int, work: Path) -> Measurement:
        """Train, or go on with a training that was killed, then measure."""
        if estimating.is_estimated(arm):
            return estimating.measure(self.prepared, arm, self.texts, self._prompt())
        every = max(1, arm.spec.train.steps // CURVE_POINTS)
        spec = dataclasses.replace(arm.spec.train, checkpoint_every=arm.spec.train.checkpoint_every or every)
        model, source, objective = self.build(arm, seed)
        parameters = hash_parameters(model)
        done = train(
            model, source, objective, spec, work, seed=seed,
            evaluate=lambda model: self._curve_score(model, spec.length), evaluate_every=every, watch="bits_per_byte",
            label=f"{arm.label}, seed {seed}",
        )  # fmt: skip
        model.eval()
        score = score_texts(model, self.prepared.tokenizer, self.texts, window=spec.length)
        flops = model.flops_per_token(spec.length) * done.tokens
        costs: dict[str, float | None] = {
            "parameters": model.parameter_count(), "train_flops": flops, "tokens": done.tokens, "seconds": done.seconds,
            "steps": done.steps, "train_tokens_per_second": done.tokens / done.seconds,
            "decode_tokens_per_second": decode_speed(model, self._prompt()),
            "state_bytes_per_token": state_bytes(model), "model_bytes": model_bytes(model),
        }  # fmt: skip
        curve = _curve(read_metrics(work))
        pairing = {"parameters": parameters, "rows": source.hashes}
        costs["peak_memory"] = peak_memory(model, objective, done.spec, next(self.build(arm, seed)[1]), work)
        return Measurement({"bits_per_byte": [score.bits_per_byte]}, costs, curve, pairing)

    def rehearse(self, arm: Arm, steps: int, work: Path) -> list[float]:
        """Seconds of each step of a short run with nothing else in it, the first ones left out."""
        model, source, objective = self.build(arm, 0)
        spec = dataclasses.replace(arm.spec.train, steps=steps, checkpoint_every=steps)
        train(model, source, objective, spec, work, seed=0, resume=False, label=f"calibrate {arm.label}")
        return [line["seconds"] for line in read_metrics(work) if "seconds" in line][min(5, steps // 3) :]

    def _prompt(self) -> list[int]:
        ids = self.prepared.tokenizer.encode(self.texts[0])
        return [int(i) for i in ids[:16]] or [0]

    def _curve_score(self, model: Any, window: int) -> dict[str, float]:
        """Bits per byte on a small part of the held-out text, for the curve only."""
        texts, left = [], CURVE_BYTES
        for text in self.texts:
            data = text.encode("utf-8")[:left]
            texts.append(data.decode("utf-8", errors="ignore"))
            left -= len(data)
            if left <= 0:
                break
        return {"bits_per_byte": score_texts(model, self.prepared.tokenizer, texts, window=window).bits_per_byte}


def _curve(lines: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Points of the held-out curve, with the tokens and the training seconds that led to each."""
    points, tokens, seconds = [], 0, 0.0
    for line in lines:
        if "seconds" in line:
            tokens, seconds = line["tokens"], seconds + line["seconds"]
        if line.get("evaluate_bits_per_byte") is not None:
            value = line["evaluate_bits_per_byte"]
            points.append({"step": line["step"], "tokens": tokens, "seconds": round(seconds, 3), "value": value})
    return points


def calibrate(
    trial: TrainingTrial, arms: list[Arm], work: Path, *, steps: int = 20, turns: int = 2
) -> dict[str, Speed]:
    """Each arm's step time, measured in interleaved rounds, and what a run costs outside its steps.

    The fixed part is a complete short trial, measured once for each arm: it evaluates as often as a long one. An
    estimated arm has no steps, so all its time is fixed.
    """
    import time

    taken: dict[str, list[float]] = {arm.label: [] for arm in arms}
    stepping = estimating.trained(arms)
    for turn in range(turns):
        for arm in stepping if turn % 2 == 0 else stepping[::-1]:
            taken[arm.label] += trial.rehearse(arm, max(2, steps), work / "calibrate")
    speed: dict[str, Speed] = {}
    for arm in arms:
        short = dataclasses.replace(arm, spec=_with_steps(arm.spec, CURVE_POINTS))
        begin = time.perf_counter()
        trial.measure(short, 0, work / f"fixed-{len(speed)}")
        step = statistics.fmean(taken[arm.label]) if taken[arm.label] else 0.0
        fixed = time.perf_counter() - begin - CURVE_POINTS * step
        speed[arm.label] = Speed(step, max(0.0, fixed))
    return speed


def _with_steps(recipe: Any, steps: int) -> Any:
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, steps=steps))
