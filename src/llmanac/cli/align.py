"""`llmanac align`: train a model on preferences or on a reward."""

from pathlib import Path
from typing import Any

from llmanac.cli.documented import sharing
from llmanac.cli.options import Patches, Processes, SomeModel, followed
from llmanac.cli.tune import _trained, asked_by, tuned
from llmanac.core.errors import SpecError


@sharing(_trained)
def align_command(
    model: SomeModel, data: str, method: str = "grpo", output: Path = Path("aligned"), reward: list[str] | None = None,
    adapter: str = "lora", kl: float | None = None, set_: Patches = None, resume: bool = False,
    processes: Processes = None, *, changes: dict[str, Any],
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
        kl: Weight of the KL penalty against the starting model [the method's].
    """
    from llmanac.core.spec import make_method
    from llmanac.objectives import policy_gradient
    from llmanac.recipes.align import AlignSpec
    from llmanac.rewards import read_rewards

    if followed():
        return None
    objective = make_method("objective", method)
    if kl is not None:
        if not 0 <= kl < float("inf"):
            raise SpecError(f"--kl: {kl} is no weight; give a number from 0")
        if not isinstance(objective, policy_gradient.Spec):
            raise SpecError(f"--kl: {objective.name} has no KL penalty of its own weight; leave it out")
        off = {"objective.kl": "k3-ratio"} if objective.kl == "off" and kl > 0 else {}
        changes = {**off, "objective.kl_weight": kl, **changes}
    fields = {"model": model, "adapter": adapter, "objective": objective, "reward": read_rewards(reward)}
    return tuned(asked_by(AlignSpec, fields, data, changes, set_, processes), output, resume, processes)
