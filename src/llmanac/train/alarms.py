"""What goes wrong in a policy gradient, seen in what is sampled."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.train.metrics import read_log

WATCHED = ("groups_with_spread", "finished", "surprise")
WINDOW = 8  # draws that are compared with as many before them


def parted(scored: Sequence[tuple[float, float]]) -> bool:
    """Whether the reward rose by more than two standard errors from one window to the next, and the truth did not."""
    if len(scored) < 2 * WINDOW:
        return False
    both = np.array(scored).reshape(2, WINDOW, 2)
    reward, truth = both.mean(1)[1] - both.mean(1)[0]
    error = np.sqrt(both[:, :, 0].var(1, ddof=1).sum() / WINDOW)
    return bool(reward > 2 * error and truth <= 0)


class Alarms:
    """What goes wrong in a policy gradient, each a sentence that says what to do; each is said once in ten draws."""

    def __init__(self, report: Callable[[str], object] | None) -> None:
        self.report, self.said = report, dict[str, int]()
        self.recent: list[dict[str, Any]] = []
        self.scored: list[tuple[float, float]] = []  # reward and truth of each draw

    def state(self) -> dict[str, Any]:
        """What it remembers, so that a resumed training says what it would have said."""
        return {"said": dict(self.said), "recent": list(self.recent), "scored": [list(pair) for pair in self.scored]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a `state` back; a checkpoint of before has none."""
        self.said, self.recent = dict(state.get("said", {})), list(state.get("recent", []))
        self.scored = [(float(a), float(b)) for a, b in state.get("scored", [])]

    def look(self, line: Mapping[str, Any]) -> list[str]:
        """The alarms that are due after a draw."""
        self.recent = [*self.recent[-4:], {name: line[name] for name in WATCHED}]
        if line.get("truth") is not None:
            self.scored = [*self.scored[1 - 2 * WINDOW :], (line["reward"], line["truth"])]
        spread = [x["groups_with_spread"] for x in self.recent if x["groups_with_spread"] is not None]
        found = {
            "spread": bool(spread) and np.mean(spread) < 0.1
            and "reward: 9 of 10 groups of answers earn all the same and teach nothing; mix in prompts of another "
            "difficulty, sample more answers a prompt, or give a reward with more levels",
            "clipped": np.mean([x["finished"] for x in self.recent]) < 0.5
            and "length: more than half of the answers are cut off before their end; raise sampling.tokens, or set "
            "sampling.unfinished",
            "entropy": np.mean([x["surprise"] for x in self.recent]) < 0.02
            and "entropy: the policy has become certain (under 0.02 nats a token); lower the learning rate, raise the "
            "temperature, or hold it to a reference (kl)",
            "kl": line["kl_to_reference"] is not None and abs(line["kl_to_reference"]) > 100
            and "kl: the policy is more than 100 nats an answer from the reference; raise kl_weight or lower the rate",
            "gap": (line.get("engine_gap") or 0.0) > 0.5
            and "gap: the training reads a token over 0.5 nats from what it was drawn by; train in float32",
            "truth": parted(self.scored)
            and "truth: the reward rose over the last draws and the true reward did not; stop at an earlier "
            "checkpoint, raise kl_weight, or train the reward model on answers of this policy",
        }  # fmt: skip
        due = [str(text) for name, text in found.items() if text and line["draw"] - self.said.get(name, -10) >= 10]
        for name, text in found.items():
            if text and str(text) in due:
                self.said[name] = int(line["draw"])
        for text in due:
            if self.report is not None:
                self.report(f"alarm: {text}")
        return due


def heard(log: Path) -> dict[str, int]:
    """How often each alarm was said, of a file of draws; nothing where there is none."""
    return dict(Counter(text for line in read_log(log) for text in line.get("alarms", ())))
