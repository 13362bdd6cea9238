"""Orders: look up prices in a shop that has no sums, and say the total of an order.

    look_up(item: one of eight) -> its price      answer(total: 0 to 40)
    return  1 where the answer is the total of the two items that the order names, else 0

Prices are new in every episode, so that nothing can be known without asking; an answer ends the episode.
Tool use with lookups: Schick et al. 2023, arXiv:2302.04761; Yao et al. 2022, arXiv:2210.03629 (ReAct).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmanac.act import Environment, EnvironmentSpec, Step, tool
from llmanac.core.rng import numpy_generator

CARD = {
    "title": "The total of an order, prices looked up",
    "paper": "https://arxiv.org/abs/2302.04761",
    "reference": "the replay of its episodes; the sum of the prices",
    "test": "tests/references/test_act.py::test_an_episode_is_replayed_exactly",
}
ITEMS = ("apple", "bread", "candle", "drum", "eraser", "fork", "glove", "hat")
DEAREST = 9


@dataclass(frozen=True, kw_only=True)
class Spec(EnvironmentSpec):
    """Attributes: most: calls of an episode."""

    most: int = 6

    def build(self, **context: Any) -> Environment:
        return Orders(self.most)


class Orders:
    """See the module."""

    tools: Sequence[Mapping[str, Any]] = (
        tool("look_up", "The price of an item.", item={"type": "string", "enum": list(ITEMS)}),
        tool("answer", "Say the total.", total={"type": "integer", "minimum": 0, "maximum": 40}),
    )

    def __init__(self, most: int) -> None:
        self.most = most
        self.prices: dict[str, int] = {}
        self.wanted: list[str] = []

    def reset(self, seed: int) -> str:
        draw = numpy_generator(seed, "orders")
        self.prices = {item: int(draw.integers(1, DEAREST + 1)) for item in ITEMS}
        self.wanted = [ITEMS[int(i)] for i in draw.choice(len(ITEMS), 2, replace=False)]
        return f"Order: {' and '.join(self.wanted)}. Say the total."

    def step(self, name: str, arguments: Mapping[str, Any]) -> Step:
        if name == "look_up":
            return Step(f"Price: {self.prices[arguments['item']]}.")
        right = arguments["total"] == sum(self.prices[item] for item in self.wanted)
        return Step("Right." if right else "Wrong.", float(right), True)

    def solution(self) -> list[tuple[str, dict[str, Any]]]:
        """The calls that find the total."""
        total = sum(self.prices[item] for item in self.wanted)
        return [*(("look_up", {"item": item}) for item in self.wanted), ("answer", {"total": total})]
