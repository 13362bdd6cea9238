"""What the studies of alignment share: the task of `llmanac run rlhf`, its start, training, and the known truth.

The task (`recipes/rlhf_task.py`) asks for words; its true reward is computable, and so is what raters like: the
truth and LIKING for each "indeed". Arms of a seed begin from the same weights and read prompts in the same order.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmanac.core.spec import make_method
from llmanac.data.pack import ListStream
from llmanac.generate.engine import Engine
from llmanac.lab.stats import mean
from llmanac.models.load import load_model
from llmanac.models.scalar import ScalarModel
from llmanac.objectives.policy_gradient import Rollout
from llmanac.recipes import rlhf_task
from llmanac.rewards import Reward, Sample, each
from llmanac.tokenizers.load import load_tokenizer
from llmanac.train._trained import optimized, trained_modules
from llmanac.train.rollouts import RolloutPrompt, Rollouts, Sampling, batched
from llmanac.train.step import Stepper

DIM, TOKENS, UNFINISHED = 48, 12, 0.0
SFT_STEPS, SFT_RATE, SFT_ROWS = 400, 5e-3, 16
ANSWERS = 8  # to each held-out prompt
SMALL = {"steps": 2, "prompts": 2, "samples": 2, "tokens": 4}


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """One seed's task: `random` weights, and `start` that was fine-tuned on demonstrations."""

    seed: int
    full: bool
    tokenizer: Any
    random: Any
    start: Any
    tables: Mapping[str, list[dict[str, Any]]]

    def prompts(self, name: str) -> list[RolloutPrompt]:
        """The prompts of a table, as the engine reads them."""
        return [
            RolloutPrompt(ids=tuple(map(int, self.tokenizer.framed(row["prompt"])[0])), text=row["prompt"], row=row)
            for row in self.tables[name]
        ]


@cache
def task(seed: int, size: str) -> Task:
    """The task, with its start fine-tuned."""
    full = size == "full"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "task"
        shape: dict[str, Any] = {} if full else {"instructions": 40, "compared": 12}
        rlhf_task.write_task(place, seed, dim=DIM if full else 16, **shape)
        model, tokenizer = load_model(place / "start", device="cpu"), load_tokenizer(place / "start")
        tables = {
            path.stem: list(map(json.loads, path.read_text("utf-8").splitlines())) for path in place.glob("*.jsonl")
        }
    start = copy.deepcopy(model)
    objective = make_method("objective", {"name": "instruction", "on": "completion"}).build(tokenizer=tokenizer)
    rows = ListStream(list(objective.encode_all(tables["instructions"])), rows=SFT_ROWS, seed=seed)
    fit(start, objective, lambda: rows.take(SFT_ROWS), SFT_STEPS if full else 2, SFT_RATE)
    return Task(seed, full, tokenizer, model, start, tables)


def fit(model: Any, objective: Any, take: Callable[[], Sequence[Any]], steps: int, lr: float,
        after: Callable[[Any], object] = lambda _: None,
        dtype: torch.dtype = torch.float32) -> list[dict[str, float]]:  # fmt: skip
    """Train in place with AdamW at a constant rate; the metrics of each step."""
    optimizer = make_method("optimizer", {"name": "adamw", "lr": lr, "weight_decay": 0.0}).build(
        model=optimized(trained_modules(model, objective))
    )
    model.train()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        step = Stepper(model, objective, optimizer, micro_batch=1 << 20, clip=1.0, dtype=dtype,
                       folder=Path(folder))  # fmt: skip
        for number in range(steps):
            done = step(take(), 1.0, number)
            found.append({"loss": done.loss, "norm": done.grad_norm, **done.metrics})
            after(done.metrics)
    model.eval()
    return found


def reinforced(start: Any, tokenizer: Any, prompts: Sequence[RolloutPrompt], reward: Reward, *, seed: int, draws: int,
               lr: float, sampling: Mapping[str, Any], truth: Reward | None = None, reference: Any = None,
               **fields: Any) -> dict[str, Any]:  # fmt: skip
    """A copy of `start` trained by a policy gradient.

    Args:
        draws: of `sampling`; a draw is read in one step, or in `epochs * minibatches`.
        reference: log-probabilities of rollouts, for the KL penalty; `start`'s by default.
        fields: of the objective.

    Returns: "model", "lines" of each draw, "steps" with their metrics, CPU "seconds", and sampled "tokens".
    """
    model = copy.deepcopy(start)
    models = {}
    if fields.get("advantage") == "gae":
        models["value"] = ScalarModel(copy.deepcopy(start), seed)
    objective = make_method("objective", {"name": "policy-gradient", **fields}).build(models=models or None)
    further: dict[str, Any] = {}
    if objective.spec.reads_reference or reference is not None:
        frozen = copy.deepcopy(start).requires_grad_(False)
        further["reference"] = reference or scorer(frozen)
    if models:
        further["values"] = batched(models["value"].values, objective, models["value"])
    asked = Sampling(**sampling)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        source = Rollouts(prompts, Engine(model, tokenizer, rows=asked.prompts * asked.samples), objective, reward,
                          asked, seed=seed, truth=truth, log=log, **further)  # fmt: skip
        steps = fit(
            model, objective, lambda: next(source), draws * asked.epochs * asked.minibatches, lr, source.stepped
        )
        lines = list(map(json.loads, log.read_text("utf-8").splitlines()))
    tokens = sum(line["tokens"] for line in lines) * asked.prompts * asked.samples
    return {"model": model, "lines": lines, "steps": steps, "seconds": time.process_time() - began, "tokens": tokens}


def scorer(model: Any) -> Any:
    """Log-probabilities (n,) of rollouts under a model."""
    objective: Any = make_method("objective", "policy-gradient").build()
    return batched(lambda batch: objective.log_probabilities(model, batch)[0], objective, model)


def truth_of(sample: Sample) -> float:
    return rlhf_task.truth(sample.text, sample.row)


def liked(sample: Sample) -> float:
    """What raters think of an answer before they mix anything up."""
    return truth_of(sample) + rlhf_task.LIKING * sample.text.split().count(rlhf_task.LIKED)


TRUTH, RATERS = each(truth_of), each(liked)


def sampled(task: Task, model: Any, table: str = "held-out", answers: int = ANSWERS, tokens: int = TOKENS,
            seed: int = 0) -> tuple[list[Sample], list[Rollout]]:  # fmt: skip
    """Answers to every prompt of a table."""
    prompts = task.prompts(table)
    if not task.full:
        prompts, answers, tokens = prompts[:2], 2, 4
    found = Engine(model, task.tokenizer, rows=64).generate(
        [list(p.ids) for p in prompts], n=answers, seed=seed, logprobs=0, temperature=1.0, max_new_tokens=tokens
    )
    samples, rows = [], []
    for number, (prompt, answer) in enumerate(zip([p for p in prompts for _ in range(answers)], found, strict=True)):
        ids = tuple(token.id for token in answer.token_logprobs)
        ended = answer.finish_reason == "stop"
        samples.append(Sample(row=prompt.row, prompt=prompt.text, text=answer.text, finished=ended, tokens=len(ids)))
        logs = np.array([token.sampled for token in answer.token_logprobs])
        rows.append(Rollout(prompt=prompt.ids, completion=ids, logprobs=logs, group=number // answers))
    return samples, rows


def measured(task: Task, model: Any) -> dict[str, float]:
    """Means over answers to the held-out prompts; KL is to the start, in nats an answer."""
    samples, rows = sampled(task, model)
    before = scorer(task.start)(rows)
    return {
        "truth": mean([truth_of(s) * s.finished for s in samples]),
        "raters": mean([liked(s) * s.finished for s in samples]),
        "indeed": mean([float(s.text.split().count(rlhf_task.LIKED)) for s in samples]),
        "kl": mean([float((row.logprobs - logs).sum()) for row, logs in zip(rows, before, strict=True)]),
        "surprise": mean([float(-row.logprobs.mean()) for row in rows]),
        "tokens": mean([float(s.tokens) for s in samples]),
        "finished": mean([float(s.finished) for s in samples]),
        "distinct": distinct(samples),
    }


def distinct(samples: Sequence[Sample]) -> float:
    """Different answers to one prompt, as a share of its answers; a mean over prompts."""
    texts: dict[str, list[str]] = {}
    for sample in samples:
        texts.setdefault(sample.prompt, []).append(sample.text)
    return mean([len(set(own)) / len(own) for own in texts.values()])
