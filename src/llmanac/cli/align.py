"""`llmanac align`: train a model on preferences or on a reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmanac.cli.documented import sharing
from llmanac.cli.options import Patches, SomeModel
from llmanac.cli.tune import _trained, asked_by, tuned
from llmanac.core.errors import SpecError


@sharing(_trained)
def align_command(
    model: SomeModel, data: str, method: str = "grpo", output: Path = Path("aligned"), reward: list[str] | None = None,
    adapter: str = "lora", kl: float | None = None, set_: Patches = None, resume: bool = False, *,
    changes: dict[str, Any],
) -> Any:  # fmt: skip
    """Align a model: to preferences, to a reward of its own answers, or train a reward model.

    Args:
        data: A .jsonl or .parquet file: prompt, chosen, rejected; prompt, completion, label; or prompt.
        method (-m): grpo, ppo, rloo, ...; dpo, ipo, kto, simpo, orpo; bradley-terry.
        reward: exact-match, FILE.py:function, a reward model's folder, ...; repeatable, with =WEIGHT.
        steps (int sets train.steps, from 1): Steps [100 with a reward; else those of --epochs].
        samples (int sets sampling.samples, from 1): Answers to each prompt [8].
        max_tokens (int sets sampling.tokens, from 1): Longest answer [64].
        temperature (float sets objective.temperature): Of the sampled answers [1].
        kl: Weight of the KL penalty to the start [the method's].
    """
    from llmanac.core.spec import make_method
    from llmanac.recipes.align import AlignSpec

    objective = make_method("objective", method)
    if kl is not None:
        if not 0 <= kl < float("inf"):
            raise SpecError(f"--kl: {kl} is no weight; give a number from 0")
        if not hasattr(objective, "kl_weight"):
            raise SpecError(f"--kl: {objective.name} has no KL penalty of its own weight; leave it out")
        off = {"objective.kl": "k3-ratio"} if getattr(objective, "kl", "") == "off" and kl > 0 else {}
        changes = {**off, "objective.kl_weight": kl, **changes}
    fields = {"model": model, "adapter": adapter, "objective": objective, "reward": read_rewards(reward)}
    return tuned(asked_by(AlignSpec, fields, data, changes, set_), output, resume)


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
