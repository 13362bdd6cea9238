"""Episodes: what was observed, called and earned; played by a policy, replayed exactly.

An `Episode` holds its messages in OpenAI's format: the task as the user's message, calls as `tool_calls` of the
assistant, observations as messages of the role `tool`. Its return is the sum of its rewards.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from llmanac.act import Environment, Step
from llmanac.core.errors import DataError, SpecError, shown, users_code
from llmanac.core.progress import progress
from llmanac.core.rng import numpy_generator
from llmanac.generate.constrain.tools import FunctionCall
from llmanac.metrics import wilson_interval
from llmanac.rewards import LARGEST

INVALID = "That is no call of a tool."


@dataclass
class Episode:
    """One episode.

    Attributes:
        seed: of `reset`; rewards: of each call; done: whether the environment ended it.
        turns: what the policy read and wrote as token ids, where a model played: (prompt, completion) a call.
    """

    seed: int
    messages: list[dict[str, Any]]
    rewards: list[float] = field(default_factory=list)
    done: bool = False
    turns: list[tuple[tuple[int, ...], tuple[int, ...], np.ndarray]] = field(default_factory=list)

    @property
    def value(self) -> float:
        """Its return."""
        return float(sum(self.rewards))

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The calls in their order."""
        return [call["function"] for message in self.messages for call in message.get("tool_calls", ())]

    def as_json(self) -> dict[str, Any]:
        return {"seed": self.seed, "return": self.value, "rewards": self.rewards, "messages": self.messages}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Episode:
        """Raises DataError where the data is no episode."""
        try:
            return cls(int(data["seed"]), list(data["messages"]), [float(r) for r in data["rewards"]])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"episode: {error!r}; seed, messages and rewards are needed") from None


class Policy(Protocol):
    """Chooses the next call of each episode; None where what it wrote is no call, which ends the episode."""

    def __call__(self, episodes: Sequence[Episode], number: int, seed: int) -> list[FunctionCall | None]: ...


def play(environment: Environment, policy: Policy, seeds: Iterable[int], *, seed: int = 0) -> list[Episode]:
    """An episode for each seed; all of them move together, so that a model reads one batch a call.

    Raises:
        DataError: an exception in the environment, with the episode and the call.
    """
    worlds, episodes = [], []
    for number in seeds:
        world, task = begun(environment, number)
        worlds.append(world)
        episodes.append(Episode(number, [{"role": "user", "content": task}]))
    if not episodes:
        raise SpecError("episodes: give at least one seed")
    with progress("act", environment.most, "calls") as bar:
        for number in range(environment.most):
            going = [i for i, episode in enumerate(episodes) if not episode.done]
            if not going:
                break
            for i, call in zip(going, policy([episodes[i] for i in going], number, seed), strict=True):
                _move(worlds[i], episodes[i], call, number)
            bar.advance()
    return episodes


def begun(environment: Environment, seed: int) -> tuple[Environment, str]:
    """A copy of an environment that begins an episode, and its task.

    Raises:
        DataError: an exception in the copying or in `reset`, or a task that is no text.
    """
    with users_code("environment: to copy it (build in reset() what cannot be copied)"):
        world = copy.deepcopy(environment)
    with users_code(f"environment: reset({seed})"):
        task = world.reset(seed)
    if not isinstance(task, str):
        raise DataError(f"environment: reset({seed}) gave {shown(task)}; the task as a text is needed")
    return world, _readable(task, f"environment: reset({seed})")


def _readable(text: str, what: str) -> str:
    """A text that UTF-8 can write."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what} gave the half of a surrogate pair at character {error.start}") from None
    return text


def _move(world: Environment, episode: Episode, call: FunctionCall | None, number: int) -> None:
    if call is None:
        episode.done = True
        episode.messages.append({"role": "assistant", "content": INVALID})
        return
    name = f"call_{number}"
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    step = _stepped(world, episode.seed, number, call.name, json.loads(function["arguments"]))  # a copy, as in a replay
    calls = [{"id": name, "type": "function", "function": function}]
    episode.messages.append({"role": "assistant", "content": None, "tool_calls": calls})
    episode.messages.append({"role": "tool", "tool_call_id": name, "content": step.text})
    episode.rewards.append(step.reward)
    episode.done = step.done


def _stepped(world: Environment, seed: int, number: int, name: str, arguments: Mapping[str, Any]) -> Step:
    what = f"environment: step {number} of the episode with seed {seed}, {name}({shown(dict(arguments))}),"
    with users_code(what):
        found = world.step(name, arguments)
    number_like, bool_like = (int, float, np.integer, np.floating), (bool, np.bool_)
    text, reward, done = found if isinstance(found, tuple) and len(found) == 3 else (None, None, None)
    if (
        not isinstance(text, str)
        or not isinstance(done, bool_like)
        or (isinstance(reward, bool) or not isinstance(reward, number_like))
    ):
        given = f"{what} {type(world).__name__}.step returned {shown(found)}"
        raise DataError(f"{given}; (text, reward, done) is needed: a text, a number, and True or False")
    if not abs(reward) <= LARGEST:
        raise DataError(f"{what} gave the reward {shown(reward)}; a number of at most {LARGEST:g} is needed")
    return Step(_readable(text, what), float(reward), bool(done))


def replay(environment: Environment, episode: Episode) -> float:
    """Play an episode's calls again and return its return.

    Raises:
        DataError: an observation or reward that differs; it names the step.
    """
    world, task = begun(environment, episode.seed)
    if task != episode.messages[0]["content"]:
        raise DataError(
            f"episode {episode.seed}: begins with {episode.messages[0]['content']!r}, the replay with {task!r}"
        )
    seen = [message["content"] for message in episode.messages if message["role"] == "tool"]
    total = 0.0
    for number, (call, text, reward) in enumerate(zip(episode.calls, seen, episode.rewards, strict=True)):
        step = _stepped(world, episode.seed, number, call["name"], json.loads(call["arguments"]))
        if (step.text, step.reward) != (text, reward):
            raise DataError(
                f"episode {episode.seed}, step {number}: the replay gives {step.text!r} and reward {step.reward}, the "
                f"episode has {text!r} and {reward}; step() must depend on the seed and the calls alone"
            )
        total += step.reward
    return total


class RandomPolicy:
    """A tool at random, and each of its arguments at random among those that its schema allows."""

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        self.tools = [tool["function"] for tool in tools]

    def __call__(self, episodes: Sequence[Episode], number: int, seed: int) -> list[FunctionCall | None]:
        return [self._call(numpy_generator(seed, "random-policy", episode.seed, number)) for episode in episodes]

    def _call(self, draw: np.random.Generator) -> FunctionCall:
        chosen = self.tools[int(draw.integers(len(self.tools)))]
        properties = (chosen.get("parameters") or {}).get("properties", {})
        return FunctionCall(chosen["name"], {name: _value(name, schema, draw) for name, schema in properties.items()})


def _value(name: str, schema: Mapping[str, Any], draw: np.random.Generator) -> Any:
    if schema.get("enum"):
        return schema["enum"][int(draw.integers(len(schema["enum"])))]
    if schema.get("type") == "boolean":
        return bool(draw.integers(2))
    low, high = schema.get("minimum"), schema.get("maximum")
    if isinstance(low, int) and isinstance(high, int) and schema.get("type") == "integer" and _fits(low, high):
        return int(draw.integers(low, high + 1))
    raise SpecError(f"tools: argument {name!r} needs enum, boolean, or integer with minimum and maximum to be random")


def _fits(low: int, high: int) -> bool:
    return -(1 << 62) <= low <= high <= 1 << 62


@dataclass(frozen=True)
class Success:
    """How many episodes had a return above 0, with the 95% interval of their share (Wilson)."""

    hits: int
    total: int

    @property
    def share(self) -> float:
        return self.hits / self.total

    @property
    def interval(self) -> tuple[float, float]:
        _, low, high = wilson_interval(self.hits, self.total)
        return low, high

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> Success:
        return cls(sum(episode.value > 0 for episode in episodes), len(episodes))
