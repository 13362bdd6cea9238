"""Training a policy on its own episodes by the alignment loop: every call of an episode is a rollout of its return.

    advantage of a call = (return of its episode - mean over the episodes of the same task) / deviation

A draw takes tasks (seeds of the environment), plays `samples` episodes of each without a constraint, so that what is
trained is what was sampled from, and gives every call as (conversation so far, call). A text that is no call ends an
episode with what it has earned. Demonstrations (`demonstrations`) are pairs of the same form, for a start by supervised
training: a model that writes no call at all earns nothing and learns nothing.
Shao et al. 2024, arXiv:2402.03300 (GRPO); episodes of several turns as in arXiv:2504.20073 (RAGEN).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from llmanac.act import Environment
from llmanac.act.episodes import Episode, Policy, Success, begun, play
from llmanac.act.policy import ModelPolicy, as_text
from llmanac.core.errors import SpecError, users_code
from llmanac.core.rng import numpy_generator
from llmanac.objectives.policy_gradient import Rollout, by_group
from llmanac.rewards import each
from llmanac.train.rollouts import RolloutPrompt, Rollouts, Sampling


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
