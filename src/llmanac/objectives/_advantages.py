"""From rewards of sampled answers to advantages: what each token's log-probability is multiplied by.

    none             A = r
    moving-average   A = r - b,  b an average of earlier steps' rewards
    rloo             A_i = r_i - mean of the other answers to the prompt
    grpo             A_i = (r_i - mean of the group) / (standard deviation of the group + 1e-4)
    dr-grpo          A_i = r_i - mean of the group
    optimal          A = r - E[w r] / E[w],  w the squared norm of the sample's score: the constant of least variance
    gae              A_t = sum_l (gamma lambda)^l (r_t+l + gamma V_t+l+1 - V_t+l), of rewards by token

`none`, `moving-average`, `rloo`, and `optimal` with a constant from other samples leave the gradient unbiased. The mean
of a group contains r_i: the expected gradient of `dr-grpo` is (1 - 1/n) times the true one. The standard deviation of
`grpo` weighs prompts by their difficulty.

Papers: Kool et al. 2019 (rloo); Shao et al. 2024, arXiv:2402.03300 (grpo); Liu et al. 2025, arXiv:2503.20783 (dr-grpo);
Hao et al. 2025, arXiv:2505.23585 (optimal); Schulman et al. 2016, arXiv:1506.02438 (gae).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Advantage = Literal["none", "moving-average", "rloo", "grpo", "dr-grpo", "optimal", "gae"]
GROUPED = ("rloo", "grpo", "dr-grpo")
EPSILON = 1e-4  # TRL's


def by_group(kind: str, rewards: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """rloo, grpo and dr-grpo of answers (N,) to the prompts that `groups` (N,) names. One answer alone gets 0.

    Shapes: (N,), (N,) -> (N,) float64.
    """
    rewards, names = np.asarray(rewards, np.float64), np.asarray(groups)
    out = np.zeros_like(rewards)
    for group in np.unique(names):
        here = np.flatnonzero(names == group)
        own, n = rewards[here], len(here)
        if n < 2:
            continue
        out[here] = own - own.mean()
        if kind == "rloo":
            out[here] *= n / (n - 1)
        elif kind == "grpo":
            out[here] /= own.std(ddof=1) + EPSILON
    return out


def optimal_constant(rewards: np.ndarray, weights: np.ndarray) -> float:
    """E[w r] / E[w] of samples (N,); weights: squared norms of their scores, or what is proportional to them."""
    total = float(np.sum(weights))
    return float(np.sum(weights * rewards) / total) if total > 0 else float(np.mean(rewards))


def gae(rewards: np.ndarray, values: np.ndarray, gamma: float, decay: float) -> tuple[np.ndarray, np.ndarray]:
    """Advantages and returns (n,) of an answer's tokens, of rewards (n,) and values (n,); after the end V is 0.

    V_t is of the state before token t. decay 1 gives the return minus V, decay 0 the one-step error.
    """
    advantages, ahead, following = np.zeros(len(rewards)), 0.0, 0.0
    for t in range(len(rewards) - 1, -1, -1):
        ahead = rewards[t] + gamma * following - values[t] + gamma * decay * ahead
        advantages[t], following = ahead, values[t]
    return advantages, advantages + np.asarray(values, np.float64)


def group_spread(rewards: np.ndarray, groups: Sequence[int]) -> float:
    """The share of groups in which some answers earn more than others; groups without spread teach nothing."""
    rewards, owners = np.asarray(rewards, np.float64), np.asarray(groups)
    names = np.unique(owners)
    return float(np.mean([np.ptp(rewards[owners == name]) > 0 for name in names])) if len(names) else 0.0
