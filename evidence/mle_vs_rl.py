"""Likelihood against reward: the same start, the same number of answers, two ways to learn from them.

Words: the task of `llmanac run rlhf`, whose true reward is computed. From one fine-tuned start ({parameters:,}
parameters) every arm takes {steps} steps of {batch} answers: demonstrations like those of the start (three words in
four are right), demonstrations without a mistake, or answers that the policy samples and that earn the true reward.

A known source: texts of {length} tokens whose next token depends on the last {order}, so that KL(source || model) is
exact after every prefix. Exposure bias is the divergence after the model's own prefixes less that after the source's. A
transformer of {small:,} parameters is fitted to {texts} texts; from there it reads {more:,} new texts, or samples as
many and is rewarded with their log-probability under the source, without or with its own entropy (which makes the
reward -KL(model || source)).

{seeds} seeds, one rate for all arms; ± is half a 95% interval over seeds.

Limits: two small tasks with rewards that are dense for this start; see `policy_gradient` for a start that is never
right.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evidence._alignment import SMALL, TOKENS, TRUTH, Task, fit, measured, reinforced, task
from evidence._page import with_interval
from evidence._synthetic import Answers, average, over
from llmanac.core.pages import Section, table
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.generate.engine import Engine
from llmanac.lab.complexity import one_thread
from llmanac.lab.stats import interval, mean
from llmanac.recipes import rlhf_task
from llmanac.rewards import Sample, each
from llmanac.tokenizers.load import train_tokenizer
from llmanac.train.rollouts import RolloutPrompt

ROWS = ("rl/mle-vs-rl",)
CLAIM = (
    "RL optimises the metric itself and learns on its own prefixes; likelihood is stable, cheaper, and keeps variety"
)
SEEDS = 3
TIMED = ("seconds",)
TOLERANCE = 1e-3

STEPS, PROMPTS, SAMPLES, RATE = 60, 8, 8, 3e-3
BATCH = PROMPTS * SAMPLES
FIRST_ID = 3  # of the tokenizer's bytes
VOCABULARY, ORDER, LENGTH, PEAKED = 6, 3, 12, 0.4
TEXTS, FIRST, FIRST_RATE, LATER, PREFIXES = 256, 200, 5e-3, 80, 512


@one_thread()
def measure(seed: int, size: str) -> dict[str, Any]:
    """Both tasks."""
    return {"words": words(seed, size), "source": source_arms(seed, size)}


def words(seed: int, size: str) -> dict[str, Any]:
    made, out = task(seed, size), {}
    sampling = {"prompts": PROMPTS, "samples": SAMPLES, "tokens": TOKENS, "unfinished": 0.0}
    if not made.full:
        sampling |= {key: SMALL[key] for key in ("prompts", "samples", "tokens")}
    steps = STEPS if made.full else 2
    found = reinforced(made.start, made.tokenizer, made.prompts("prompts"), TRUTH, seed=seed, draws=steps, lr=RATE,
                       sampling=sampling, advantage="rloo", surrogate="reinforce")  # fmt: skip
    out["RL"] = {**ends(made, found["model"]), "seconds": found["seconds"], "tokens_seen": found["tokens"]}
    for name, skill, liked in (("likelihood", 0.75, 0.03), ("likelihood, no mistakes", 1.0, 0.0)):
        model = copy.deepcopy(made.start)
        objective = make_method("objective", {"name": "instruction", "on": "completion"}).build(
            tokenizer=made.tokenizer
        )
        count = sampling["prompts"] * sampling["samples"]
        rows = list(objective.encode_all(demonstrations(made, "prompts", steps * count, skill, liked)))
        turns, began = iter(range(steps)), time.process_time()
        fit(model, objective, lambda rows=rows, turns=turns: batch_of(rows, next(turns), steps), steps, RATE)
        seen = sum(int(mask.sum()) for _, mask in rows)
        out[name] = {**ends(made, model), "seconds": time.process_time() - began, "tokens_seen": seen}
    out["start"] = ends(made, made.start)
    return {"parameters": made.start.parameter_count(), "arms": out}


def batch_of(rows: Sequence[Any], number: int, count: int) -> Sequence[Any]:
    size = len(rows) // count
    return rows[number * size : (number + 1) * size]


def demonstrations(made: Task, name: str, count: int, skill: float, liked: float) -> list[dict[str, Any]]:
    """Prompts of a table with answers of the given skill."""
    draw = random.Random(made.seed + 1000)
    rows = [draw.choice(made.tables[name]) for _ in range(count)]
    return [{"prompt": row["prompt"], "completion": rlhf_task.answer(row, draw, skill, liked)} for row in rows]


def ends(made: Task, model: Any) -> dict[str, float]:
    """`measured`, and nats a token of demonstrations for the held-out prompts."""
    objective = make_method("objective", {"name": "instruction", "on": "completion"}).build(tokenizer=made.tokenizer)
    rows = list(objective.encode_all(demonstrations(made, "held-out", 200 if made.full else 4, 0.75, 0.03)))
    with torch.no_grad():
        loss, units, _ = objective.loss(model, objective.collate(rows))
    return {**measured(made, model), "nll": float(loss / units)}


class Source:
    """Texts whose next token depends on the last `order` ones; before a text there is the token V.

    table: (V + 1, ..., V + 1, V), the probabilities of the next token after each context.
    """

    def __init__(self, seed: int, vocabulary: int = VOCABULARY, order: int = ORDER) -> None:
        draw = numpy_generator(seed, "source")
        self.vocabulary, self.order = vocabulary, order
        gamma = draw.gamma(PEAKED, size=(vocabulary + 1,) * order + (vocabulary,)) + 1e-3
        self.table = gamma / gamma.sum(-1, keepdims=True)

    def after(self, ids: np.ndarray) -> np.ndarray:
        """(N, T) -> (N, T, V): the distribution at each place, given what is before it."""
        before = np.concatenate([np.full((len(ids), self.order), self.vocabulary), ids], 1)
        return self.table[tuple(before[:, n : n + ids.shape[1]] for n in range(self.order))]

    def sample(self, draw: np.random.Generator, count: int, length: int) -> np.ndarray:
        ids = np.zeros((count, 0), np.int64)
        for _ in range(length):
            p = self.after(np.concatenate([ids, np.zeros((count, 1), np.int64)], 1))[:, -1]
            ids = np.concatenate([ids, (p.cumsum(1) < draw.random((count, 1))).sum(1, keepdims=True)], 1)
        return np.minimum(ids, self.vocabulary - 1)

    def log_probability(self, ids: np.ndarray) -> np.ndarray:
        """(N, T) -> (N,), nats."""
        return np.log(np.take_along_axis(self.after(ids), ids[..., None], 2)).sum((1, 2))


@torch.no_grad()
def divergences(model: Any, source: Source, ids: np.ndarray) -> np.ndarray:
    """(N, T): KL(source || model) of the next token in nats, after each prefix of texts (N, T)."""
    p, q = source.after(ids), predicted(model, source, ids).numpy()
    return (p * (np.log(p) - q)).sum(-1)


def predicted(model: Any, source: Source, ids: np.ndarray) -> Tensor:
    """(N, T, V): log-probabilities of the model after each prefix; the token V begins a text and is never next."""
    inputs = np.stack([row for row, _ in rows_of(source, ids)])
    logits = model(Batch(ids=torch.from_numpy(inputs))).logits
    return logits[..., FIRST_ID : FIRST_ID + source.vocabulary].double().log_softmax(-1)


def source_arms(seed: int, size: str) -> dict[str, Any]:
    full, source, draw = size == "full", Source(seed), numpy_generator(seed, "texts")
    tokenizer = train_tokenizer("utf8", [])
    start = make_method("lm", {"name": "transformer", "dim": 32, "layers": 2, "max_length": 2 * LENGTH}).build(
        vocab_size=FIRST_ID + VOCABULARY + 1, seed=seed
    )

    texts = source.sample(draw, TEXTS if full else 8, LENGTH)
    pick = numpy_generator(seed, "order")
    fit(
        start,
        Answers(),
        lambda: rows_of(source, texts[pick.integers(len(texts), size=32)]),
        FIRST if full else 2,
        FIRST_RATE,
    )
    steps, count = (LATER, BATCH) if full else (2, 4)
    out = {"start": exposure(start, source, seed, full)}
    model, began = copy.deepcopy(start), time.process_time()
    fit(model, Answers(), lambda: rows_of(source, source.sample(draw, count, LENGTH)), steps, RATE)
    out["likelihood"] = {**exposure(model, source, seed, full), "seconds": time.process_time() - began}
    prompt = [RolloutPrompt(ids=(FIRST_ID + source.vocabulary,), text="", row={})]
    for name, fields in (
        ("RL", {}),
        ("RL, entropy", {"kl": "k1-reward", "kl_weight": 1.0}),
    ):  # fmt: skip
        uniform = lambda rows: [np.full(len(row.completion), -np.log(source.vocabulary)) for row in rows]  # noqa: E731
        found = reinforced(
            start, tokenizer, prompt, each(partial(likelihood, source)), seed=seed, draws=steps, lr=RATE,
            sampling={"prompts": 1, "samples": count, "tokens": LENGTH}, reference=uniform, advantage="rloo",
            surrogate="reinforce", **fields,
        )  # fmt: skip
        out[name] = {**exposure(found["model"], source, seed, full), "seconds": found["seconds"]}
    return {"arms": out, "parameters": start.parameter_count()}


def rows_of(source: Source, ids: np.ndarray) -> list[Any]:
    """Inputs and targets (T,) of each text, as ids of the tokenizer."""
    start = np.full((len(ids), 1), source.vocabulary)
    return list(zip(np.concatenate([start, ids[:, :-1]], 1) + FIRST_ID, ids + FIRST_ID, strict=True))


def likelihood(source: Source, sample: Sample) -> float:
    """Log-probability of a text; one with a token that the source does not have gets that of a rare one."""
    ids = [ord(character) for character in sample.text]
    if len(ids) != sample.tokens or any(i >= source.vocabulary for i in ids):
        return -8.0 * LENGTH
    return float(source.log_probability(np.array([ids]))[0])


def exposure(model: Any, source: Source, seed: int, full: bool) -> dict[str, float]:
    """Divergence after the source's prefixes and after the model's own; log-probability of its texts, and entropy."""
    count = PREFIXES if full else 8
    draw = numpy_generator(seed, "prefixes")
    gold = source.sample(draw, count, LENGTH)
    found = Engine(model, train_tokenizer("utf8", []), rows=64).generate(
        [[FIRST_ID + source.vocabulary]],
        n=count,
        seed=seed,
        logprobs=0,
        temperature=1.0,
        max_new_tokens=LENGTH,
        stop_ids=[],
    )
    ids = np.array([[token.id - FIRST_ID for token in answer.token_logprobs] for answer in found])
    fine = ((ids >= 0) & (ids < source.vocabulary)).all(1)
    if not fine.any():  # of a model that has not learned which tokens there are
        fine, ids = ~fine, ids.clip(0, source.vocabulary - 1)
    own = ids[fine]
    after_gold, after_own = divergences(model, source, gold), divergences(model, source, own)
    late = slice(ORDER, None)
    logs = np.array([[token.sampled for token in answer.token_logprobs] for answer in found]).sum(1)
    return {
        "gold": float(after_gold[:, late].mean()), "own": float(after_own[:, late].mean()),
        "metric": float(source.log_probability(own).mean()), "entropy": float(-logs.mean()),
        "reverse": float((logs[fine] - source.log_probability(own)).mean()),
        "valid": len(own) / count, "distinct": len({tuple(row) for row in own.tolist()}) / count,
    }  # fmt: skip


WORDS_ARMS = ("likelihood", "likelihood, no mistakes", "RL")
SOURCE_ARMS = ("likelihood", "RL", "RL, entropy")


def change(seeds: Sequence[dict[str, Any]], task: str, arm: str, key: str, base: str = "start") -> str:
    """The mean difference to another arm, paired by seed, with its interval."""
    low, high = interval(differences(seeds, task, arm, key, base))
    return f"{mean(differences(seeds, task, arm, key, base)):+.3f} (95% interval {low:+.3f} to {high:+.3f})"


def differences(seeds: Sequence[dict[str, Any]], task: str, arm: str, key: str, base: str = "start") -> list[float]:
    both = over(seeds, task, "arms", arm, key), over(seeds, task, "arms", base, key)
    return [a - b for a, b in zip(*both, strict=True)]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    columns = {
        "words": {"truth": ("true reward", 3), "nll": ("nats a token of demonstrations", 3), "surprise": ("entropy a "
        "token", 2),
                  "distinct": ("different answers", 2), "kl": ("KL to the start", 2), "tokens_seen": ("tokens "
                  "learned from", 0)},
        "source": {"gold": ("KL after the source's prefixes", 4), "own": ("after own prefixes", 4),
                   "metric": ("log-probability under the source", 2), "reverse": ("KL(model || source) of a text", 2),
                   "entropy": ("entropy of a text", 2), "distinct": ("different texts", 2)},
    }  # fmt: skip
    out = []
    for name, keys in columns.items():
        rows = []
        for arm in ("start", *(WORDS_ARMS if name == "words" else SOURCE_ARMS)):
            found = seeds[0][name]["arms"][arm]
            cells = [
                with_interval(over(seeds, name, "arms", arm, k), d) if k in found else "" for k, (_, d) in keys.items()
            ]
            rows.append(
                [arm, *cells, f"{average(seeds, name, 'arms', arm, 'seconds'):.1f}" if "seconds" in found else ""]
            )
        title = "Words" if name == "words" else "A known source"
        said = (
            []
            if name == "words"
            else ["Nats. Divergences of the next token are means over places with a full context."]
        )
        out.append(Section(title, said, [table(["", *(text for text, _ in keys.values()), "seconds"], rows)]))
    return out


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "parameters": seeds[0]["words"]["parameters"], "small": seeds[0]["source"]["parameters"], "steps": STEPS,
        "batch": BATCH,
        "length": LENGTH, "order": ORDER, "texts": TEXTS, "more": LATER * BATCH, "seeds": len(seeds),
    }  # fmt: skip
