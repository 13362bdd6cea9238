"""Acting in two text environments by tool calls: at random, untrained, shown solutions, trained on own episodes.

Success is a return above 0. A random policy draws a tool and its arguments uniformly. The model (two layers, width 64)
writes calls as text: untrained it is constrained to the tools' grammar. It is then trained on the calls of {shown}
solved episodes for {imitated} steps, and from there by the alignment loop (GRPO over episodes: {tasks} tasks of
{samples} episodes a step, {rl} steps) on other tasks, without a constraint, so that a text that is no call ends an
episode. All rows are measured on {episodes} tasks that nothing was trained on, sampled at temperature 1, with
Wilson's 95% intervals; every episode is replayed, and its return is the same.

Limits: one seed, two made-up tasks, few steps; the tasks' own solutions are the demonstrations. A first run with 90
steps on the shown calls gave 0 of {episodes} and was replaced by this one with {imitated}.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import llmanac
from llmanac.act import load_environment
from llmanac.act.episodes import RandomPolicy, Success, play, replay
from llmanac.act.training import EpisodeRollouts, ModelPolicy, Solution, as_text, demonstrations
from llmanac.core.pages import Section, table
from llmanac.core.spec import make, make_method
from llmanac.generate.engine import Engine
from llmanac.train import TrainSpec
from llmanac.train.loop import train
from llmanac.train.rollouts import Sampling
from llmanac.train.step import Stepper

ROWS = ("use/act",)
CLAIM = "success in a small text environment is above that of a random policy, without and with training"
SEEDS = 1
TOLERANCE = 0.05
NAMES = ("orders", "treasure")
SIZES: dict[str, dict[str, int]] = {
    "full": {"dim": 64, "layers": 2, "shown": 150, "imitated": 350, "rl": 6, "tasks": 4, "samples": 4, "episodes": 60,
             "random": 3000},
    "small": {"dim": 16, "layers": 1, "shown": 6, "imitated": 2, "rl": 1, "tasks": 1, "samples": 2, "episodes": 2,
              "random": 100},
}  # fmt: skip
SETTINGS = {"dtype": "float32", "compile": "never", "attention": "sdpa", "checkpoint_every": 1000, "batch_tokens": 1024}


@functools.cache
def tokenizer() -> Any:
    """Byte-pair encoding of solved episodes of both environments."""
    texts = []
    for name in NAMES:
        world = load_environment(name)
        for episode in play(world, Solution(world), range(40)):
            calls = "".join(as_text(call) + "\n" for call in episode.calls)
            texts.append(calls + "".join(str(m["content"]) + "\n" for m in episode.messages if m["content"]))
    return llmanac.train_tokenizer("bpe", texts, vocab_size=310, special_tokens=["<|endoftext|>"])


def new_model(seed: int, own: dict[str, int]) -> Any:
    fields = {"name": "transformer", "dim": own["dim"], "layers": own["layers"], "max_length": 768}
    model: Any = make_method("lm", fields).build(vocab_size=tokenizer().vocab_size)
    model.initialise(seed)
    model.generation = {"eos_token_id": tokenizer().eos_id}
    return model


def success(world: Any, policy: Any, own: dict[str, int], count: int | None = None) -> dict[str, Any]:
    """On tasks that are not trained on; every episode is replayed."""
    played = play(world, policy, range(100_000, 100_000 + (count or own["episodes"])), seed=3)
    for episode in played[:200]:
        assert replay(world, episode) == episode.value
    found = Success.of(played)
    calls = sum(len(episode.rewards) for episode in played) / len(played)
    low, high = found.interval
    return {"hits": found.hits, "of": found.total, "low": low, "high": high, "calls": calls}


def imitate(model: Any, rows: Sequence[Any], steps: int, seed: int) -> None:
    """Supervised training on the calls."""
    objective: Any = make_method("objective", "instruction").build(tokenizer=tokenizer())
    optimizer = make_method("optimizer", {"name": "adamw", "lr": 3e-3, "weight_decay": 0.0}).build(model=model)
    scale, rng = make_method("schedule", "cosine").build(steps=steps), np.random.default_rng(seed)
    model.train()
    with tempfile.TemporaryDirectory() as folder:
        step = Stepper(
            model, objective, optimizer, micro_batch=1 << 20, clip=1.0, dtype=torch.float32, folder=Path(folder)
        )
        for number in range(steps):
            step(
                [rows[int(i)] for i in rng.choice(len(rows), min(16, len(rows)), replace=False)], scale(number), number
            )
    model.eval()


def reinforce(world: Any, model: Any, own: dict[str, int], seed: int) -> list[float]:
    """The alignment loop over episodes; returns the success of each draw."""
    objective = make_method("objective", {"name": "policy-gradient", "advantage": "grpo"}).build()
    policy = ModelPolicy(Engine(model, tokenizer(), rows=64), world.tools, constrained=False, tokens=48)
    sampling = Sampling(prompts=own["tasks"], samples=own["samples"], tokens=48)
    source = EpisodeRollouts(world, policy, range(5000, 5200), objective, sampling, seed=seed)
    fields = {**SETTINGS, "steps": own["rl"], "micro_batch": 64, "optimizer": {"name": "adamw", "lr": 3e-4}}
    with tempfile.TemporaryDirectory() as folder:
        train(model, source, objective, make(TrainSpec, fields), folder, seed=seed, report=lambda line: None)
    model.eval()
    return source.successes


def measure(seed: int, size: str) -> dict[str, Any]:
    """Both environments."""
    return {name: one(name, seed, size) for name in NAMES[: 1 if size == "small" else None]}


def one(name: str, seed: int, size: str) -> dict[str, Any]:
    """Success in one environment, row by row."""
    own, world = SIZES[size], load_environment(name)
    model = new_model(seed, own)
    engine = Engine(model, tokenizer(), rows=64)
    rows = {"random calls": success(world, RandomPolicy(world.tools), own, own["random"])}
    rows["untrained, constrained"] = success(world, ModelPolicy(engine, world.tools), own)
    shown = demonstrations(world, engine, range(own["shown"]))
    imitate(model, shown, own["imitated"], seed)
    free = ModelPolicy(engine, world.tools, constrained=False, tokens=48)
    rows["shown solutions"] = success(world, free, own)
    draws = reinforce(world, model, own, seed)
    rows["then the alignment loop"] = success(world, free, own)
    rows["the same, constrained"] = success(world, ModelPolicy(engine, world.tools), own)
    return {"rows": rows, "draws": draws, **own}


def percent(row: dict[str, Any]) -> str:
    return f"{row['hits'] / row['of']:.1%} ({row['low']:.1%} to {row['high']:.1%})"


def above_random(seeds: Sequence[dict[str, Any]], name: str, arm: str) -> list[float]:
    """The share of episodes that succeed less that of random calls."""
    return [own["hits"] / own["of"] - base["hits"] / base["of"] for one in seeds
            for own, base in [(one[name]["rows"][arm], one[name]["rows"]["random calls"])]]  # fmt: skip


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """A table an environment."""
    out = []
    for name, found in seeds[0].items():
        rows = [[label, percent(row), f"{row['of']}", f"{row['calls']:.1f}"] for label, row in found["rows"].items()]
        draws = ", ".join(f"{x:.0%}" for x in found["draws"])
        heads = ["policy", "success (95%)", "episodes", "calls an episode"]
        out.append(Section(f"The environment {name}", [f"Success of the loop's draws: {draws}."], [table(heads, rows)]))
    return out


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = next(iter(seeds[0].values()))
    return {k: first[k] for k in ("shown", "imitated", "tasks", "samples", "rl", "episodes")}
