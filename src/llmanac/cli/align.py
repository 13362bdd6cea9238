"""`llmanac align`: train a model on preferences or on a reward."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmanac.cli.options import Patches, Seed, SomeModel
from llmanac.cli.tune import AdapterName, Budget, Epochs, HeldOut, Length, Output, Rate, Resume, tuned
from llmanac.core.errors import SpecError

Method = Annotated[
    str,
    typer.Option("--method", "-m", help="grpo, ppo, rloo, ...; dpo, ipo, kto, simpo, orpo; bradley-terry."),
]
RewardName = Annotated[
    list[str] | None,
    typer.Option(help="exact-match, FILE.py:function, a reward model's folder, ...; repeatable, with =WEIGHT."),
]
Data = Annotated[
    str,
    typer.Argument(help="A .jsonl or .parquet file: prompt, chosen, rejected; prompt, completion, label; or prompt."),
]


def align_command(
    model: SomeModel, data: Data, method: Method = "grpo", output: Output = Path("aligned"),
    reward: RewardName = None, adapter: AdapterName = "lora", lr: Rate = None, steps: int | None = None,
    epochs: Epochs = None, budget: Budget = None, samples: int | None = None, max_tokens: int | None = None,
    temperature: float | None = None, kl: float | None = None, length: Length = None, held_out: HeldOut = None,
    set_: Patches = None, seed: Seed = 0, resume: Resume = False,
) -> None:  # fmt: skip
    """Align a model: to preferences, to a reward of its own answers, or train a reward model.

    Args:
        steps (from 1): Steps [100 with a reward; else those of --epochs].
        samples (from 1): Answers to each prompt [8].
        max_tokens (from 1): Longest answer [64].
        temperature: Of the sampled answers [1].
        kl: Weight of the KL penalty to the start [the method's].
    """
    from llmanac.core import spec
    from llmanac.recipes.align import AlignSpec

    rows = {"file": data, "epochs": epochs, "length": length, "held_out": held_out}
    fields: dict[str, Any] = {
        "model": model,
        "rows": {name: value for name, value in rows.items() if value is not None},
        "adapter": None if adapter == "full" else adapter,
        "objective": method,
        "reward": read_rewards(reward),
        "seed": seed,
    }
    asked = spec.make(AlignSpec, {name: value for name, value in fields.items() if value is not None})
    patches: dict[str, Any] = {
        "train.optimizer.lr": lr, "train.steps": steps, "sampling.samples": samples, "sampling.tokens": max_tokens,
        "objective.temperature": temperature, "budget": budget,
    }  # fmt: skip
    if kl is not None:
        if not 0 <= kl < float("inf"):
            raise SpecError(f"--kl: {kl} is no weight; give a number from 0")
        if not hasattr(asked.objective, "kl_weight"):
            raise SpecError(f"--kl: {asked.objective.name} has no KL penalty of its own weight; leave it out")
        patches |= {"objective.kl_weight": kl}
        if getattr(asked.objective, "kl", "") == "off" and kl > 0:
            patches = {"objective.kl": "k3-ratio", **patches}
    asked = spec.patch(asked, {name: value for name, value in patches.items() if value is not None})
    asked = spec.patch(asked, spec.parse_patches(set_ or ()))
    tuned(asked, output, resume)


def read_rewards(names: list[str] | None) -> Any:
    """`--reward` as a reward's fields: one, or a sum of several with their weights.

    Raises:
        SpecError: a name that is no reward, no function and no folder, or a weight that is no number.
    """
    if not names:
        return None
    found, weights = [], []
    for name in names:
        text, _, weight = name.rpartition("=") if "=" in name and "==" not in name else (name, "", "")
        try:
            weights.append(float(weight) if text and weight else 1.0)
        except ValueError:
            raise SpecError(f"--reward {name}: {weight!r} is no weight; write NAME=0.5") from None
        found.append(_reward(text or name))
    if len(found) == 1 and weights == [1.0]:
        return found[0]
    return {"name": "mix", "parts": found, "weights": weights}


def _reward(name: str) -> Any:
    from llmanac.core import registry
    from llmanac.core.errors import nearest

    if ".py:" in name:
        return {"name": "function", "file": name}
    if Path(name).is_dir():
        return {"name": "model", "path": name}
    known = registry.methods("reward")
    if name not in known:
        hint = nearest(name, known)
        raise SpecError(
            f"--reward: {name!r} is not known{hint}; give FILE.py:function, a folder, or {', '.join(known)}"
        )
    return name
