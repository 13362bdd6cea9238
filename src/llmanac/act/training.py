"""Training a policy on its own episodes by the alignment loop: every call of an episode is a rollout of its return.

    advantage of a call = (return of its episode - mean over the episodes of the same task) / deviation

A draw takes tasks (seeds of the environment), plays `samples` episodes of each without a constraint, so that what is
trained is what was sampled from, and gives every call as (conversation so far, call). A text that is no call ends an
episode with what it has earned. Demonstrations (`demonstrations`) are pairs of the same form, for a start by supervised
training: a model that writes no call at all earns nothing and learns nothing.
Shao et al. 2024, arXiv:2402.03300 (GRPO); episodes of several turns as in arXiv:2504.20073 (RAGEN).

A model as a policy: it reads the conversation and writes the next tool call, constrained to the tools' grammar.

Where the model's chat template has Hermes' or Llama 3's form of tool calls, that is what it reads. For any other model
the conversation is written out line by line, calls in Hermes' form.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from llmanac.act import Environment
from llmanac.act.episodes import Episode, Policy, Success, begun, play
from llmanac.core.errors import DataError, SpecError, users_code
from llmanac.core.rng import numpy_generator
from llmanac.generate.constrain.tools import FORMS, FunctionCall, calls_grammar, form_of, parse_calls
from llmanac.generate.engine import Engine
from llmanac.objectives.policy_gradient import Rollout, by_group
from llmanac.rewards import each
from llmanac.train.rollouts import RolloutPrompt, Rollouts, Sampling


class ModelPolicy:
    """See the module.

    Args:
        tools: of the environment; temperature: of sampling; tokens: of the longest call.
        constrained: whether only calls that the tools allow can be written. Without it a text that is no call ends the
            episode.

    Raises:
        SpecError: an engine without a tokenizer, or tools whose schemas cannot be a grammar.
    """

    def __init__(
        self, engine: Engine, tools: Sequence[Mapping[str, Any]], *, temperature: float = 1.0, tokens: int = 96,
        constrained: bool = True,
    ) -> None:  # fmt: skip
        if engine.tokenizer is None:
            raise SpecError("act: this engine has no tokenizer")
        self.engine, self.tools, self.temperature, self.tokens = engine, tools, temperature, tokens
        found = form_of(engine.chat_template)
        self.chat, self.form = found is not None, found or "hermes"
        self.grammar = calls_grammar(tools, self.form)
        form = FORMS[self.form]
        self.options: dict[str, Any] = {"grammar": self.grammar} if constrained else {}
        if not constrained and form.end:
            self.options = {"stop": (form.end,)}
        self.options["shown_ids"] = sorted(form.special(engine.tokenizer.special_tokens))

    def __call__(self, episodes: Sequence[Episode], number: int, seed: int) -> list[FunctionCall | None]:
        requests = []
        for episode in episodes:
            own = int(numpy_generator(seed, "act", episode.seed, number).integers(1 << 62))
            requests.append((self.prompt(episode.messages), {"seed": own}))
        done = self.engine.sample(requests, temperature=self.temperature, max_new_tokens=self.tokens, **self.options)
        calls = []
        for episode, (ids, _), ((one,), _) in zip(episodes, requests, done, strict=True):
            logs = np.array([token.sampled for token in one.token_logprobs])
            episode.turns.append((tuple(ids), tuple(one.ids), logs))
            calls.append(self._read(one.text))
        return calls

    def _read(self, text: str) -> FunctionCall | None:
        """The call of a text; None where it is none that the tools allow."""
        end = FORMS[self.form].end
        try:
            (call,) = parse_calls(text if not end or end in text else text + end, self.form)
        except (DataError, ValueError):
            return None
        schemas = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in self.tools}
        return call if call.name in schemas and _allowed(call.arguments, schemas[call.name]) else None

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The token ids of a conversation, up to where the next call begins."""
        tokenizer = self.engine.tokenizer
        assert tokenizer is not None
        if self.chat:
            turns = [_as_template_reads(message) for message in messages]
            return [int(i) for i in tokenizer.chat_ids(turns, add_generation_prompt=True, tools=list(self.tools))]
        return [int(i) for i in tokenizer.encode("".join(self.written(message) for message in messages))]

    def written(self, message: Mapping[str, Any]) -> str:
        """A message as text, for models without a template."""
        if message.get("tool_calls"):
            return "".join(as_text(call["function"], self.form) + "\n" for call in message["tool_calls"])
        return f"{message['content']}\n"


def as_text(function: Mapping[str, Any], form: str = "hermes") -> str:
    """A call as a model writes it."""
    chosen = FORMS[form]
    arguments = json.dumps(json.loads(function["arguments"]), ensure_ascii=False)
    head, tail = chosen.written(function["name"])
    return f"{chosen.marker}{chosen.opening}{head}{arguments}{tail}{chosen.closing}"


def _as_template_reads(message: Mapping[str, Any]) -> dict[str, Any]:
    """Templates read the arguments of calls as tables, as the server gives them."""
    out = {**message, "content": message["content"] or ""}
    for call in out.get("tool_calls", ()):
        function = {**call["function"], "arguments": json.loads(call["function"]["arguments"])}
        out["tool_calls"] = [{**call, "function": function}]
    return out


def _allowed(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Whether arguments have the names that a schema needs, and values of its enums and bounds."""
    known = schema.get("properties", {})
    if set(arguments) - set(known) or set(schema.get("required", ())) - set(arguments):
        return False
    for name, value in arguments.items():
        own = known[name]
        if "enum" in own and value not in own["enum"]:
            return False
        if own.get("type") == "integer":
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or not own.get("minimum", value) <= value <= own.get("maximum", value):
                return False
    return True


class EpisodeRollouts(Rollouts):
    """A `Source` of the calls of sampled episodes; see the module.

    Args:
        tasks: seeds of the environment to draw from.

    Attributes:
        successes: the share of episodes with a return above 0, of each draw.
    """

    def __init__(
        self, environment: Environment, policy: ModelPolicy, tasks: Sequence[int], objective: Any, sampling: Sampling,
        *, seed: int, **more: Any,
    ) -> None:  # fmt: skip
        if sampling.minibatches != 1:
            raise SpecError("minibatches: draws of episodes have no fixed number of calls; take 1")
        if not objective.spec.grouped:
            raise SpecError(
                f"advantage: {objective.spec.advantage} does not compare episodes; take grpo, dr-grpo or rloo"
            )
        prompts = [RolloutPrompt(ids=(0,), text="", row={"seed": task}) for task in tasks]
        super().__init__(prompts, policy.engine, objective, each(lambda sample: 0.0), sampling, seed=seed, **more)
        self.environment, self.policy = environment, policy
        self.successes: list[float] = []
        longest = policy.prompt([{"role": "user", "content": begun(environment, int(tasks[0]))[1]}])
        self.longest = tuple(longest) * 2

    def sample_rows(self) -> list[Rollout]:
        """Rows of about the usual shape that cost nothing, for planning."""
        zeros: dict[str, Any] = {name: np.zeros(self.sampling.tokens) for name in ("logprobs", "advantages")}
        answer = self.longest[:1] * self.sampling.tokens
        count = self.sampling.prompts * self.sampling.samples
        return [Rollout(prompt=self.longest, completion=answer, group=i // 2, **zeros) for i in range(count)]

    def draw(self) -> list[Rollout]:
        """Play episodes and give their calls."""
        tasks = [prompt.row["seed"] for prompt in self.stream.take(self.sampling.prompts)]
        self.engine.sync()
        rows: list[Rollout] = []
        played: list[Episode] = []
        for number in range(self.sampling.samples):
            seed = int(numpy_generator(self.seed, "episodes", self.draws, number).integers(1 << 62))
            played += play(self.environment, self.policy, tasks, seed=seed)
        returns = [episode.value for episode in played]
        groups = [i % len(tasks) for i in range(len(played))]
        advantages = by_group(self.spec.advantage, np.array(returns), groups)
        for episode, group, advantage in zip(played, groups, advantages, strict=True):
            for prompt, completion, logprobs in episode.turns:
                rows.append(
                    Rollout(
                        prompt=prompt, completion=completion, logprobs=logprobs, reward=episode.value, group=group,
                        finished=episode.done, advantages=np.full(len(completion), advantage),
                    )
                )  # fmt: skip
        self.successes.append(Success.of(played).share)
        self.draws += 1
        return self._with_models(rows)


def demonstrations(
    environment: Environment, engine: Any, seeds: Iterable[int], policy: Policy | None = None, *, least: float = 0.0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows (ids, loss mask) of the calls of episodes: of a policy's, those with a return above `least`; without a
    policy, of the environment's own `solution()`. Loss is on the calls and their end."""
    reader = ModelPolicy(engine, environment.tools, constrained=False)
    if policy is None:
        policy = Solution(environment)
    rows = []
    for episode in play(environment, policy, seeds):
        if episode.value <= least:
            continue
        for number, message in enumerate(episode.messages):
            if not message.get("tool_calls"):
                continue
            prompt = reader.prompt(episode.messages[:number])
            text = as_text(message["tool_calls"][0]["function"], reader.form)
            call = [*map(int, engine.tokenizer.encode(text))]
            ids = np.array([*prompt, *call], np.int64)
            rows.append((ids, np.arange(len(ids)) >= len(prompt)))
    return rows


class Solution:
    """The calls of an environment's `solution()`, as a policy."""

    def __init__(self, environment: Any) -> None:
        if not hasattr(environment, "solution"):
            raise SpecError("environment: has no solution(); give a policy whose episodes are to be learned")
        self.environment = environment
        self.known: dict[int, list[Any]] = {}

    def __call__(self, episodes: Sequence[Episode], number: int, seed: int) -> list[Any]:
        from llmanac.generate.constrain.tools import FunctionCall

        calls = []
        for episode in episodes:
            if episode.seed not in self.known:
                world: Any = begun(self.environment, episode.seed)[0]
                with users_code(f"environment: solution() of seed {episode.seed}"):
                    self.known[episode.seed] = world.solution()
            own = self.known[episode.seed]
            calls.append(FunctionCall(*own[number]) if number < len(own) else None)
        return calls
