"""Rollouts as a source: prompts are answered by the model that is trained, scored, and given to the loop as rows.

A draw takes `prompts` prompts, samples `samples` answers to each from the policy as it is then, scores them, and
computes advantages. Its answers are read `epochs` times in `minibatches` parts, one part a step. The prompt of a group
is computed once. Tokens go in and come out: no answer is decoded and encoded again.

What a draw samples follows from the seed, its number and the weights, so that a training that was killed goes on bit
for bit: a checkpoint holds the draw that is being read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmanac.core.errors import DataError, SpecError, TrainingError
from llmanac.core.files import write_text
from llmanac.core.ranges import COUNT, within
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import Spec
from llmanac.core.types import SourceState, evaluating
from llmanac.data.pack import ListStream
from llmanac.generate.engine import Engine
from llmanac.objectives.policy_gradient import Rollout, by_group, gae, group_spread, optimal_constant
from llmanac.rewards import Reward, RewardScore, Sample, checked
from llmanac.train._sampling import Answer, AskedDraw, answers
from llmanac.train.alarms import Alarms

FIELDS = ("logprobs", "advantages", "returns", "values", "reference")
KEPT = 0.9  # of the moving average, a draw
NEAR, FAR = 1e-5, 1e-3  # nats: the gap between engine and training that is said, and that is refused
SCORED = 16  # answers scored together by a model
LogProbabilities = Callable[[Sequence[Rollout]], list[np.ndarray]]


@dataclass(frozen=True)
class RolloutPrompt:
    """A prompt's token ids and the row that it came from."""

    ids: tuple[int, ...]
    text: str
    row: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sampling(Spec):
    """How answers are sampled.

    Attributes:
        prompts, samples: of a draw, and of each prompt; epochs, minibatches: how a draw is read.
        tokens: the longest answer. unfinished: the reward of an answer without its end; None keeps its own.
    """

    prompts: int = 8
    samples: int = 8
    epochs: int = 1
    minibatches: int = 1
    tokens: int = 64
    unfinished: float | None = None

    ranges = within(COUNT, "prompts samples epochs minibatches tokens")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompts * self.samples % self.minibatches:
            raise SpecError(f"minibatches: {self.minibatches} does not divide {self.prompts * self.samples} answers")


class Rollouts:
    """A `Source` of rollouts; see the module.

    Args:
        prompts: to draw from, in a new order each epoch.
        engine: of the policy that is trained, by the same tensors.
        objective: a `PolicyGradient`; its Spec says which advantage and KL there are.
        reward: scores the answers; an exception in it ends the training, which can be resumed.
        reference: gives log-probabilities of the reference, where the objective reads them.
        behaviour: recomputes those of the policy, where the engine's differ from the training's (short dtypes).
        values: gives V before each token and is needed for gae.
        sample: answers the prompts of a draw in the place of this process's engine alone (`Team.sample`).
        truth: a further reward of the same answers, which is logged and never trained on.
        log: a file of one line a draw, or None; `report` gets alarms.
    """

    def __init__(
        self, prompts: Sequence[RolloutPrompt], engine: Engine, objective: Any, reward: Reward, sampling: Sampling, *,
        seed: int, reference: LogProbabilities | None = None, behaviour: LogProbabilities | None = None,
        values: LogProbabilities | None = None, truth: Reward | None = None, log: Path | None = None,
        report: Callable[[str], object] | None = None,
        sample: Callable[[Engine, list[tuple[int, ...]], AskedDraw], list[Answer]] = answers,
    ) -> None:  # fmt: skip
        spec = objective.spec
        if spec.grouped and sampling.samples < 2:
            raise SpecError(
                f"samples: 1 is too few for advantage = {spec.advantage}, which compares answers of a prompt"
            )
        if spec.reads_reference and reference is None:
            raise SpecError(f"kl: {spec.kl} needs a reference")
        if spec.advantage == "gae" and values is None:
            raise SpecError("advantage: gae needs a value model")
        self.engine, self.spec, self.reward, self.sampling = engine, spec, reward, sampling
        self.reference, self.behaviour, self.values = reference, behaviour, values
        self.log, self.seed, self.truth = log, seed, truth
        self.report, self.sample = report, sample
        self.stream = ListStream(prompts, rows=sampling.prompts, seed=seed, name="prompts")
        self.draws, self.served = 0, 0
        self.noted: dict[str, float] = {}  # of the last draw, for the progress line
        self.rows: list[Rollout] = []
        self.baseline = 0.0
        self.alarms, self.warned = Alarms(report), False
        self.gap: float | None = None  # of the last draw, between the engine and `behaviour`

    def __iter__(self) -> Rollouts:
        return self

    def __next__(self) -> list[Rollout]:
        """The rows of one step."""
        parts = self.sampling.epochs * self.sampling.minibatches
        if not self.rows or self.served == parts:
            self.rows, self.served = self.draw(), 0
        epoch, part = divmod(self.served, self.sampling.minibatches)
        order = np.arange(len(self.rows))
        if self.sampling.minibatches > 1:
            order = numpy_generator(self.seed, "minibatches", self.draws, epoch).permutation(len(self.rows))
        size = len(self.rows) // self.sampling.minibatches
        self.served += 1
        return [self.rows[i] for i in order[part * size : (part + 1) * size]]

    def sample_rows(self) -> list[Rollout]:
        """Rows of the usual shape that cost nothing, for planning."""
        prompt = max((self.stream.items[i] for i in range(min(64, len(self.stream.items)))), key=lambda p: len(p.ids))
        count = self.sampling.prompts * self.sampling.samples // self.sampling.minibatches
        answer = tuple(prompt.ids[-1:]) * self.sampling.tokens
        filler: dict[str, Any] = {name: np.zeros(len(answer)) for name in FIELDS}
        return [Rollout(prompt=prompt.ids, completion=answer, group=i // 2, **filler) for i in range(count)]

    def draw(self) -> list[Rollout]:
        """Sample, score, and compute advantages."""
        prompts = self.stream.take(self.sampling.prompts)
        self.engine.sync()
        seed = int(numpy_generator(self.seed, "rollouts", self.draws).integers(1 << 62))
        sampling, ends = self.sampling, tuple(sorted(self.engine.eos_ids))
        asked = AskedDraw(sampling.samples, sampling.tokens, self.spec.temperature, seed, ends)
        found = self.sample(self.engine, [prompt.ids for prompt in prompts], asked)
        owners = [prompt for prompt in prompts for _ in range(self.sampling.samples)]
        rows, samples = [], []
        for number, (prompt, (ids, logs, finished)) in enumerate(zip(owners, found, strict=True)):
            shared: dict[str, Any] = {"finished": finished}
            group = number // sampling.samples
            own = Rollout(
                prompt=prompt.ids, completion=tuple(ids), logprobs=np.array(logs), group=group, finished=finished
            )
            rows.append(own)
            text = self.engine.text(ids[:-1] if finished else ids)
            samples.append(Sample(row=prompt.row, prompt=prompt.text, text=text, tokens=len(ids), **shared))
        scored = zip(rows, self._scores(samples), strict=True)
        rows = [dataclasses.replace(row, reward=score.value, parts=score.parts) for row, score in scored]
        rows = self._with_advantages(self._with_models(rows))
        self._note(rows, samples)
        self.draws += 1
        return rows

    def stepped(self, metrics: Mapping[str, float]) -> None:
        """Check that the training's log-probabilities of a new draw are the engine's, before a step moved the policy.

        Raises:
            TrainingError: they differ by more than 1e-3 nats a token in float32.
        """
        gap = metrics.get("largest_gap", 0.0)
        if self.served != 1 or self.behaviour is not None or gap <= NEAR:
            return
        said = (
            f"the training's log-probabilities differ by {gap:.1e} nats a token from those that answers were drawn by"
        )
        if gap > FAR:
            raise TrainingError(
                f"draw {self.draws - 1}: {said}, so the ratio is not 1 at the first minibatch; turn off dropout, or "
                "give a model that reads a batch as it reads one text"
            )
        if self.report is not None and not self.warned:
            self.warned = True
            self.report(f"alarm: ratio: {said}; the estimate is biased by about as much")

    def _scores(self, samples: Sequence[Sample]) -> list[RewardScore]:
        scores = self.reward(samples)
        if len(scores) != len(samples):
            raise DataError(f"reward: gave {len(scores)} scores for {len(samples)} answers")
        for score, sample in zip(scores, samples, strict=True):
            checked(score.value, sample, "reward")
        if self.sampling.unfinished is None:
            return scores
        return [
            score if sample.finished else RewardScore(self.sampling.unfinished, score.parts)
            for score, sample in zip(scores, samples, strict=True)
        ]

    def _with_models(self, rows: list[Rollout]) -> list[Rollout]:
        """The log-probabilities and values that other models give."""
        given = {"logprobs": self.behaviour, "reference": self.reference, "values": self.values}
        for name, model in given.items():
            if model is not None:
                found = model(rows)
                if name == "logprobs":
                    self.gap = max(float(np.abs(r.logprobs - v).max()) for r, v in zip(rows, found, strict=True))
                changes: list[dict[str, Any]] = [{name: value} for value in found]
                rows = [dataclasses.replace(row, **change) for row, change in zip(rows, changes, strict=True)]
        return rows

    def _with_advantages(self, rows: list[Rollout]) -> list[Rollout]:
        spec, rewards = self.spec, np.array([row.reward for row in rows])
        apart = [np.zeros(len(row.completion)) for row in rows]
        if spec.kl == "k1-reward" and spec.kl_weight:
            apart = [spec.kl_weight * (row.logprobs - row.reference) for row in rows]
        if spec.advantage == "gae":
            found = []
            for row, kl in zip(rows, apart, strict=True):
                by_token = -kl
                by_token[-1] += row.reward
                assert row.values is not None
                found.append(gae(by_token, row.values, spec.gamma, spec.decay))
            every = np.concatenate([a for a, _ in found])
            mean, spread = every.mean(), every.std() + 1e-8
            return [
                dataclasses.replace(row, advantages=(a - mean) / spread, returns=r)
                for row, (a, r) in zip(rows, found, strict=True)
            ]
        totals = rewards - np.array([kl.sum() for kl in apart])
        if spec.advantage == "moving-average":
            advantages = totals - self.baseline
            self.baseline = KEPT * self.baseline + (1 - KEPT) * float(totals.mean())
        elif spec.advantage == "optimal":
            advantages = totals - _leave_one_out(totals, np.array([_weight(row) for row in rows]))
        elif spec.grouped:
            advantages = by_group(spec.advantage, totals, [row.group for row in rows])
        else:
            advantages = totals
        return [
            dataclasses.replace(row, advantages=np.full(len(row.completion), a))
            for row, a in zip(rows, advantages, strict=True)
        ]

    def _note(self, rows: Sequence[Rollout], samples: Sequence[Sample]) -> None:
        """Write a line of what was sampled, and look for what goes wrong."""
        rewards = np.array([row.reward for row in rows])
        groups = [row.group for row in rows]
        parts = sorted({name for row in rows for name in row.parts})
        line: dict[str, Any] = {
            "draw": self.draws,
            "reward": float(rewards.mean()),
            "truth": None if self.truth is None else float(np.mean([score.value for score in self.truth(samples)])),
            "parts": {name: float(np.mean([row.parts.get(name, 0.0) for row in rows])) for name in parts},
            "tokens": float(np.mean([len(row.completion) for row in rows])),
            "finished": float(np.mean([row.finished for row in rows])),
            "groups_with_spread": group_spread(rewards, groups) if self.sampling.samples > 1 else None,
            "surprise": float(np.mean([-row.logprobs.mean() for row in rows])),
            "kl_to_reference": None
            if rows[0].reference is None
            else float(np.mean([(row.logprobs - row.reference).sum() for row in rows])),
            "engine_gap": self.gap,
            "sample": {"prompt": samples[0].prompt[-200:], "text": samples[0].text[:400], "reward": rows[0].reward},
        }
        line["alarms"] = self.alarms.look(line)
        self.noted = {"reward": line["reward"]}
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            kept = [] if not self.log.exists() else [x for x in self.log.read_text("utf-8").splitlines() if x.strip()]
            if self.draws < len(kept):  # a resumed training draws again what came after its checkpoint
                write_text(self.log, "".join(x + "\n" for x in kept[: self.draws]))
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def state(self) -> SourceState:
        """Where it is: prompts, draws, and the draw that is being read."""
        place, _ = self.stream.state()
        state = {"prompts": place, "draws": self.draws, "served": self.served, "baseline": self.baseline, "rows": []}
        state["alarms"] = self.alarms.state()
        tensors: dict[str, Tensor] = {}
        if self.rows and self.served < self.sampling.epochs * self.sampling.minibatches:
            state["rows"] = [
                [len(r.prompt), len(r.completion), r.reward, r.group, r.finished, r.parts] for r in self.rows
            ]
            ids = [i for row in self.rows for i in (*row.prompt, *row.completion)]
            tensors["ids"] = torch.tensor(ids, dtype=torch.int64)
            for name in FIELDS:
                if getattr(self.rows[0], name) is not None:
                    tensors[name] = torch.from_numpy(np.concatenate([getattr(row, name) for row in self.rows]))
        return state, tensors

    def restore(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Continue from a `state`. Raises DataError where it belongs to other prompts."""
        self.stream.restore(state["prompts"], {})
        self.draws, self.served, self.baseline = int(state["draws"]), int(state["served"]), float(state["baseline"])
        self.alarms.restore(state.get("alarms", {}))
        self.rows = []
        at = answers = 0
        for prompt, answer, reward, group, finished, parts in state["rows"]:
            ids = tensors["ids"][at : at + prompt + answer].tolist()
            arrays = {
                name: tensors[name][answers : answers + answer].double().numpy() for name in FIELDS if name in tensors
            }
            self.rows.append(
                Rollout(
                    prompt=tuple(ids[:prompt]), completion=tuple(ids[prompt:]), reward=reward, group=group,
                    finished=finished, parts=parts, **arrays,
                )
            )  # fmt: skip
            at, answers = at + prompt + answer, answers + answer


def _leave_one_out(rewards: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The constant of least variance for each answer, of all the others, so that no answer moves its own baseline."""
    total, both = weights.sum(), (weights * rewards).sum()
    rest = total - weights
    plain = optimal_constant(rewards, weights)
    return np.where(rest > 0, (both - weights * rewards) / np.where(rest > 0, rest, 1), plain)


def _weight(row: Rollout) -> float:
    """About the squared norm of an answer's score with respect to its logits, from the tokens' probabilities alone.

    |d log p / d logits|^2 = 1 - 2 p + sum_v p_v^2 is at least (1 - p)^2, which is used: no distribution has to be kept.
    """
    return float(np.square(1 - np.exp(row.logprobs)).sum())


def batched(function: Callable[[Any], Tensor], objective: Any, model: Any) -> LogProbabilities:
    """A function of batches (B, T) as one of rollouts: its values at the places that predict the answers' tokens."""

    def values(rows: Sequence[Rollout]) -> list[np.ndarray]:
        out: list[np.ndarray] = []
        with torch.no_grad(), evaluating(model):
            for at in range(0, len(rows), SCORED):
                some = [dataclasses.replace(row, advantages=row.logprobs) for row in rows[at : at + SCORED]]
                found = function(objective.collate(some).to(next(model.parameters()).device)).double().cpu().numpy()
                for line, row in zip(found, some, strict=True):
                    start = len(row.prompt) - 1
                    out.append(line[start : start + len(row.completion)].copy())
        return out

    return values
