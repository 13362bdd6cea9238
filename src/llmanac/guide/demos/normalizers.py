"""What the four ways of dividing GRPO's loss do to its gradient, on a policy of four answers whose groups are all
enumerated, so that there is no sampling noise. Dividing by an answer's own length makes long wrong answers cheaper than
short ones, and by a group's length groups with long ones. The true gradient of the expected reward is p (r - E r) for
the logit of each answer."""

import itertools
import math
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.guide.demos import Field, _html, in_time
from llmanac.objectives.policy_gradient import by_group

CARD = {
    "title": "The four normalizers of GRPO",
    "rows": ["rl/", "rlhf/", "objective/policy-gradient", "objective/grpo", "objective/dr-grpo", "objective/rloo"],
}
WAYS = ("sequence", "tokens", "micro-tokens", "constant")
FIELDS = (
    Field("probabilities", "Probabilities of the answers", "0.4 0.3 0.2 0.1"),
    Field("lengths", "Their lengths in tokens", "4 20 8 40"),
    Field("rewards", "Their rewards", "1 0 1 0"),
    Field("group", "Answers a group", "3", low=2, high=4),
    Field("advantage", "Advantages", "grpo", choices=("grpo", "dr-grpo", "rloo")),
)


def _numbers(label: str, text: str, low: float, high: float) -> np.ndarray:
    try:
        found = np.array([float(part) for part in text.replace(",", " ").split()])
    except ValueError:
        raise SpecError(f"{label}: {text!r} is not a list of numbers") from None
    if not 2 <= len(found) <= 4 or not all(math.isfinite(v) and low <= v <= high for v in found):
        raise SpecError(f"{label}: two to four numbers between {low:g} and {high:g} are needed")
    return found


def run(values: dict[str, Any], models: Any, until: float) -> list[Markup]:
    """The expected step of each answer's logit, by way, and its angle to the true gradient."""
    shares = _numbers("Probabilities", values["probabilities"], 1e-6, 1.0)
    lengths = _numbers("Lengths", values["lengths"], 1, 1000).astype(int)
    rewards = _numbers("Rewards", values["rewards"], -100, 100)
    if not len(shares) == len(lengths) == len(rewards):
        raise SpecError("Probabilities, lengths and rewards: each answer needs one of each")
    shares = shares / shares.sum()
    true = shares * (rewards - shares @ rewards)
    most, columns = int(lengths.max()), {}
    for way in WAYS:
        choices = {"aggregation": way, "advantage": values["advantage"], "constant": most}
        objective = make_method("objective", {"name": "policy-gradient", **choices}).build()
        step, count = np.zeros(len(shares)), 0.0  # as a step over many groups sums them: the loss, and its units
        for group in itertools.product(range(len(shares)), repeat=values["group"]):
            in_time(until)
            chosen = np.array(group)
            advantages = by_group(values["advantage"], rewards[chosen], [0] * len(chosen))
            mask = torch.zeros(len(chosen), most, dtype=torch.float64)
            for row, length in enumerate(lengths[chosen]):
                mask[row, :length] = 1
            _, units, weight = objective.aggregate(mask, mask, mask.sum(1))
            pull = advantages * weight.expand(len(chosen), 1)[:, 0].numpy()
            inner = np.zeros((len(chosen), len(shares)))
            inner[np.arange(len(chosen)), chosen] = 1
            step += np.prod(shares[chosen]) * (pull @ (inner - shares))
            count += np.prod(shares[chosen]) * float(units)
        columns[way] = step / count
    norms = {way: float(np.linalg.norm(step)) for way, step in columns.items()}
    cosine = {way: float(step @ true) / max(1e-300, norms[way] * float(np.linalg.norm(true)))
              for way, step in columns.items()}  # fmt: skip
    rows = [
        (f"answer {k + 1}: p {shares[k]:.3g}, {lengths[k]} tokens, reward {rewards[k]:g}", f"{true[k]:+.4f}",
         *(f"{columns[way][k] / (norms[way] or 1) * np.linalg.norm(true):+.4f}" for way in WAYS))
        for k in range(len(shares))
    ]  # fmt: skip
    rows.append(("cosine with the true gradient", "1", *(f"{cosine[way]:.4f}" for way in WAYS)))
    told = f"Expected step of each logit over {len(shares) ** values['group']} groups, scaled to one length"
    chart = _html.bars([(way, cosine[way]) for way in WAYS], "Cosine with the gradient of the expected reward")
    return [_html.table(told, ("", "true gradient", *WAYS), rows), chart]
