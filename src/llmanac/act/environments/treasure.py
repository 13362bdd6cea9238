"""Treasure: four rooms in a row of doors; take the key, carry it to the chest, open it.

    rooms   kitchen, hall, study, attic in a row; go(direction: left or right), take(), open()
    return  1 where the chest is opened with the key within `most` calls, else 0

Key and chest are in different rooms, which the task names; the player begins in the hall. A wrong `take` or `open`
drops and breaks nothing but ends the episode, so that calls at random rarely succeed.
In the manner of TextWorld: Cote et al. 2018, arXiv:1806.11532.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmanac.act import Environment, EnvironmentSpec, Step, tool
from llmanac.core.rng import numpy_generator

CARD = {
    "title": "Key and chest in four rooms",
    "paper": "https://arxiv.org/abs/1806.11532",
    "reference": "the replay of its episodes; a shortest path for each of its tasks",
    "test": "tests/references/test_act.py::test_an_episode_is_replayed_exactly",
}
ROOMS = ("kitchen", "hall", "study", "attic")


@dataclass(frozen=True, kw_only=True)
class Spec(EnvironmentSpec):
    """Attributes: most: calls of an episode."""

    most: int = 10

    def build(self, **context: Any) -> Environment:
        return Treasure(self.most)


class Treasure:
    """See the module."""

    tools: Sequence[Mapping[str, Any]] = (
        tool("go", "Walk to the next room.", direction={"type": "string", "enum": ["left", "right"]}),
        tool("take", "Take the key that is in this room."),
        tool("open", "Open the chest that is in this room."),
    )

    def __init__(self, most: int) -> None:
        self.most = most
        self.at, self.key, self.chest, self.held = 1, 0, 0, False

    def reset(self, seed: int) -> str:
        draw = numpy_generator(seed, "treasure")
        self.key, self.chest = (int(i) for i in draw.choice(len(ROOMS), 2, replace=False))
        self.at, self.held = 1, False
        return f"Rooms: {', '.join(ROOMS)}. Key: {ROOMS[self.key]}. Chest: {ROOMS[self.chest]}. You: {ROOMS[self.at]}."

    def step(self, name: str, arguments: Mapping[str, Any]) -> Step:
        if name == "go":
            by = 1 if arguments["direction"] == "right" else -1
            if not 0 <= self.at + by < len(ROOMS):
                return Step("A wall.")
            self.at += by
            return Step(f"You: {ROOMS[self.at]}.")
        if name == "take":
            self.held = self.at == self.key and not self.held
            return Step("Key taken." if self.held else "No key here.", done=not self.held)
        opened = self.at == self.chest and self.held
        return Step("Open." if opened else "It stays closed.", float(opened), True)

    def solution(self) -> list[tuple[str, dict[str, Any]]]:
        """The calls of a shortest path, from the start of an episode."""
        out: list[tuple[str, dict[str, Any]]] = []
        for begin, end, act in ((1, self.key, "take"), (self.key, self.chest, "open")):
            out += [("go", {"direction": "right" if end > begin else "left"})] * abs(end - begin) + [(act, {})]
        return out
