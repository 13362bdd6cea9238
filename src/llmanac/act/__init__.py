"""Acting: episodes in text environments, by tool calls in the server's format, which can be replayed exactly.

    environment = make_method("environment", "treasure").build()
    episodes = play(environment, ModelPolicy(engine, environment.tools), seeds=range(20))
    replay(environment, episodes[0])             # the same observations and rewards, or an error that names the step

An environment is a class with `tools`, `reset(seed)` and `step(name, arguments)`; the user's own is FILE.py:Class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from llmanac.core.errors import SpecError, shown, users_code
from llmanac.core.spec import Spec, make_method

MOST = 10_000  # calls of an episode


class Step(NamedTuple):
    """What a call led to: the text that the model reads next, a reward, and whether the episode is over."""

    text: str
    reward: float = 0.0
    done: bool = False


class Environment(Protocol):
    """A task in text.

    Attributes:
        tools: the functions that may be called, as OpenAI's API has them.
        most: calls after which an episode ends.
    """

    tools: Sequence[Mapping[str, Any]]
    most: int

    def reset(self, seed: int) -> str:
        """Begin again; the same seed begins alike. Returns the task as a text."""

    def step(self, name: str, arguments: Mapping[str, Any]) -> Step | tuple[str, float, bool]:
        """Call a function. The same calls after the same seed give the same steps."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentSpec(Spec):
    """`build() -> Environment`."""

    kind: ClassVar[str] = "environment"

    def build(self, **context: Any) -> Environment:
        raise NotImplementedError


def tool(name: str, description: str, **arguments: Any) -> dict[str, Any]:
    """A tool as OpenAI's API has it; each argument is its JSON Schema, and all are needed."""
    schema = {
        "type": "object", "properties": arguments, "required": list(arguments), "additionalProperties": False
    }  # fmt: skip
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def load_environment(name: str) -> Environment:
    """An environment by its name, or the class of a Python file (FILE.py:Class), which is run as the user's own code.

    Raises:
        SpecError: an unknown name, a file that does not run, a class that cannot be made without arguments or without
            `tools`, `reset` and `step`, tools that no grammar can be made of, or a `most` that is no number of calls.
    """
    if ".py:" not in name:
        return make_method("environment", name).build()
    from llmanac.generate.constrain.tools import calls_grammar
    from llmanac.rewards.function import load_function

    path, _, kind = name.rpartition(":")
    made_by = load_function(Path(path), kind)
    with users_code(f"{name}: making it without arguments", SpecError):
        made: Any = made_by()
        missing = [part for part in ("tools", "reset", "step") if not hasattr(made, part)]
        if not hasattr(made, "most"):
            made.most = 20
        tools, most = made.tools if "tools" not in missing else [], made.most
    if missing:
        raise SpecError(f"{name}: has no {missing[0]}; an environment has tools, reset(seed) and step(name, arguments)")
    if not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= MOST:
        raise SpecError(f"{name}: most is {shown(most)}; a number of calls from 1 to {MOST:,} is needed")
    if not isinstance(tools, (list, tuple)):
        raise SpecError(f"{name}: tools is {shown(tools)}; a list of tools as OpenAI's API has them is needed")
    try:
        calls_grammar(tools, "hermes")
    except SpecError as error:
        raise SpecError(f"{name}: {error}") from None
    return made
