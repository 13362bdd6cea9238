"""Alignment: preferences (dpo, ipo, kto, simpo, orpo), a reward model (bradley-terry), or a reward (grpo, ppo, ...).

The same command, folder and training as fine-tuning (`recipes/tune.py`); what differs is what a row is:

    prompt, chosen, rejected       preferences, and the pairs of a reward model
    prompt, completion, label      kto
    prompt, and columns that the reward reads      answers are sampled from the model that is trained
"""

import copy
import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from llmanac.adapters import applied
from llmanac.core import registry
from llmanac.core.device import resolve_dtype
from llmanac.core.errors import DataError, LlmanacError, SpecError
from llmanac.core.progress import progress
from llmanac.core.spec import make_method
from llmanac.core.types import evaluating
from llmanac.data.command_problems import CommandProblems
from llmanac.data.pack import ListStream
from llmanac.data.readers import table_rows
from llmanac.generate.engine import Engine
from llmanac.generate.native_torch import refusal
from llmanac.metrics import ItemSums
from llmanac.models.load import load_model
from llmanac.models.locate import locate
from llmanac.models.scalar import ScalarModel, load_scalar
from llmanac.objectives import ObjectiveSpec, PreferenceSpec
from llmanac.recipes.tune import EVALUATED, STEPS_AN_EPOCH, TuneSpec, Tuning, is_tuning
from llmanac.recipes.tune_memory import plan_memory
from llmanac.recipes.tune_rows import held_out
from llmanac.rewards import RewardSpec, Sample
from llmanac.train import TrainSpec
from llmanac.train.rollouts import RolloutPrompt, Rollouts, Sampling, batched

PAIRS = 8  # of a step, where batch_tokens leaves it open
STEPS = 100  # of a policy gradient
ROWS = 128  # answers sampled at once
MEASURED = 64  # answers at least, before and after


@dataclass(frozen=True, kw_only=True)
class AlignSpec(TuneSpec):
    """Attributes:
    objective: dpo, ipo, kto, simpo, orpo, bradley-terry, or a policy gradient.
    reward: scores answers, for a policy gradient; sampling: how they are sampled.
    truth: what the reward stands for, where it can be computed: logged next to it, and never trained on.
    teacher: the reference, where it is not the model that training starts from.
    """

    objective: ObjectiveSpec = field(default_factory=lambda: make_method("objective", "grpo"))
    reward: RewardSpec | None = None
    sampling: Sampling = field(default_factory=Sampling)
    truth: RewardSpec | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        sampled = self.objective.name == "policy-gradient"
        if sampled and self.reward is None:
            raise SpecError("reward: a policy gradient needs one, e.g. exact-match, or FILE.py:function")
        for name in ("reward", "truth"):
            if not sampled and getattr(self, name) is not None:
                raise SpecError(f"{name}: {self.objective.name} learns from the rows alone; leave it out")

    @property
    def tuning(self) -> type[Tuning]:
        """A policy gradient on the model's own answers, or a loss of answers that are there."""
        return SampledAlignment if self.objective.name == "policy-gradient" else Preferred


def is_aligning(data: Any) -> bool:
    """Whether a recipe's data is that of an alignment: it says so, or its objective reads such rows."""
    if not is_tuning(data):
        return False
    objective = data.get("objective", "chat")
    name = objective.get("name") if isinstance(objective, Mapping) else objective
    known = registry.methods("objective").get(str(name))
    reads = None if known is None else known.card.get("rows")
    return "reward" in data or "sampling" in data or reads in ("preferences", "labelled answers", "rollouts")


@dataclass
class AlignmentRows:
    """Rows to train on and to measure on."""

    train: list[Any]
    held_out: list[Any]
    counts: Counter[str]

    def lines(self) -> list[tuple[str, str]]:
        """The counts as rows of a table."""
        return [(name, f"{count:,}") for name, count in self.counts.items() if count]


class Aligning(Tuning):
    """What both ways have in common."""

    label = "align"
    asked: AlignSpec

    def _split(self, every: Sequence[tuple[Any, Any]], counts: Counter[str]) -> AlignmentRows:
        """Rows to train on and to measure on."""
        out = held_out([row for _, row in every], self.rows.held_out, self.asked.seed)
        sides: tuple[list[Any], list[Any]] = ([], [])
        for (item, _), held in zip(every, out, strict=True):
            sides[held].append(item)
        counts |= {"trained on": len(sides[0]), "held out": len(sides[1])}
        return AlignmentRows(*sides, counts)


class Preferred(Aligning):
    """Preferences or labelled answers, or pairs for a reward model."""

    def read(self) -> AlignmentRows:
        """Encoded rows; a part of them held out by a hash of the row."""
        self.measures = "chosen above rejected (equal: a half)" if "rejected" in self.reader.columns else "loss"
        counts, longest = Counter[str](), self.rows.length
        every: list[tuple[Any, Any]] = []
        for line, row in _rows(self.rows.file):
            try:
                encoded = self.reader.encode(row)
            except LlmanacError as error:
                raise DataError(f"{self.rows.file}:{line}: {error}") from None
            counts["rows"] += 1
            if longest is not None and max(self.reader.sizes(encoded)) > longest + 1:
                counts["dropped: longer than rows.length"] += 1
                continue
            every.append((encoded, row))
        found = self._split(every, counts)
        if len(found.train) < 2:
            raise DataError(f"{self.rows.file}: {len(found.train)} rows are too few to train on")
        return found

    def load(self) -> Any:
        """The language model; a reward model's trunk with a new map to one value."""
        model = super().load()
        if self.asked.objective.name == "bradley-terry" and not isinstance(model, ScalarModel):
            self.model = model = ScalarModel(model, self.asked.seed)
        return model

    def models(self) -> dict[str, Any]:
        """The reference, where the loss needs one that is no disabled adapter."""
        asked, objective = self.asked, cast(PreferenceSpec, self.asked.objective)
        if not objective.needs_reference or (asked.adapter is not None and asked.teacher is None):
            return {}
        place = locate(asked.teacher)[0] if asked.teacher else self.model_place
        return {"reference": load_model(place, device=self.device)}

    def attach(self) -> None:
        if isinstance(self.load(), ScalarModel):
            if self.asked.adapter is not None:
                self.asked.adapter.build(seed=self.asked.seed).apply(self.model.trunk)
                self.model.score.requires_grad_(True)
            return
        super().attach()

    def source(self, rows: AlignmentRows, objective: Any, budget: float | None) -> tuple[Any, TrainSpec]:
        """Rows in memory, in a new order each epoch; a step has `batch_tokens` tokens of the longest rows at most."""
        asked = self.asked
        self.texts, self.made = rows.train[:EVALUATED], objective
        longest = max(max(self.reader.sizes(row)) for row in rows.train)
        limit = self.model.max_length
        if limit is not None and longest - 1 > limit:
            raise DataError(
                f"{self.rows.file}: a row has {longest} tokens and the model reads {limit} at most; set rows.length "
                "(--length) to drop such rows"
            )
        answers = len(self.reader.columns)
        count = min(len(rows.train), asked.train.batch_tokens // (answers * longest) or PAIRS)
        if asked.train.batch_tokens == TrainSpec().batch_tokens:  # left open, as in a tuning
            count = min(count, len(rows.train) // STEPS_AN_EPOCH)
        each = asked.parallel.data  # ranks have equally many rows
        count = max(2, count, each) // each * each
        settled = dataclasses.replace(
            asked.train, length=longest, batch_tokens=count * longest, optimizer=self.optimizer()
        )
        if settled.steps is None and budget is None:
            settled = dataclasses.replace(settled, steps=math.ceil(len(rows.train) * self.rows.epochs / count))
        stream = ListStream(rows.train, rows=count, seed=asked.seed, name="rows")
        return stream, plan_memory(self.model, objective, stream, settled, self.place / "training", self.report)

    def _measure(self, objective: Any, rows: Any, when: str, kept: str = "before.json") -> Any:
        if objective.couples_batch and len(rows.held_out) == 1:
            if when == "before":
                self.report("Nothing is measured: one row is held out, and it has no other to be compared with")
            return None
        return super()._measure(objective, rows, when, kept)

    def values(self, objective: Any, rows: Sequence[Any], label: str) -> ItemSums:
        """How often the chosen answer is preferred, or the loss of what has no pairs.

        An item is a row; where rows are compared with each other, some of them: 8, the last ones 2 to 9.
        """
        size = 8 if objective.couples_batch else 1
        starts = list(range(0, max(1, len(rows) - (size > 1)), size))
        sums, units = [], []
        with evaluating(self.model), torch.no_grad(), progress(label, len(rows), "rows") as bar:
            for at, end in zip(starts, [*starts[1:], len(rows)], strict=True):
                batch = objective.collate(rows[at:end]).to(torch.device(self.device))
                loss, count, more = objective.loss(self.model, batch)
                sums.append(float(more.get("accuracy", loss)))
                units.append(float(count))
                bar.advance(end - at)
        return ItemSums(sums, units)

    def _keep(self, stopped: Mapping[str, Any] | None = None) -> None:
        trained = self.model
        if isinstance(trained, ScalarModel):
            if stopped is not None:  # the training goes on, with the adapter and the scores as they are
                self.model = copy.deepcopy(trained)
            for change in applied(self.model.trunk):
                change.merge()
            self._normalise()
        try:
            super()._keep(stopped)
        finally:
            self.model = trained

    @torch.no_grad()
    def _normalise(self) -> None:
        """Scores get mean 0 and deviation 1 on answers of the pairs: a KL weight then means the same for any model."""
        scores = []
        with evaluating(self.model):
            for at in range(0, len(self.texts), 8):
                batch = self.made.collate(self.texts[at : at + 8]).to(torch.device(self.device))
                scores.append(self.model.values(batch).gather(1, batch.last[:, None]).flatten())
        self.model.normalise(torch.cat(scores))


class SampledAlignment(Aligning):
    """A policy gradient on answers that the model gives itself."""

    measures = "reward of sampled answers"

    def scored_by(self) -> Any:
        """See `Tuning`."""
        return self.asked.reward

    def read(self) -> AlignmentRows:
        """Prompts with the rows that they came from; a part of them held out."""
        every = [(self._prompt(row, line), row) for line, row in _rows(self.rows.file)]
        found = self._split(every, Counter({"rows": len(every)}))
        if not found.train:
            raise DataError(f"{self.rows.file}: no prompts to train on")
        return found

    def _prompt(self, row: Mapping[str, Any], line: int) -> RolloutPrompt:
        given = row.get("prompt", row.get("messages", row.get("question")))
        where = f"{self.rows.file}:{line}"
        try:
            if isinstance(given, str):
                template = self.tokenizer.chat_template
                if template is None:
                    return RolloutPrompt(ids=tuple(map(int, self.tokenizer.framed(given)[0])), text=given, row=row)
                given = [{"role": "user", "content": given}]
            if not isinstance(given, list) or not given:
                raise DataError("has no prompt; give `prompt` (a text or messages) or `question`")
            if given[-1].get("role") == "assistant":
                given = given[:-1]
            ids, _ = self.tokenizer.encode_chat(given, add_generation_prompt=True)
        except LlmanacError as error:
            raise DataError(f"{where}: {error}") from None
        return RolloutPrompt(ids=tuple(ids), text=self.tokenizer.decode(ids), row=row)

    def objective(self) -> Any:
        spec: Any = self.asked.objective
        if spec.aggregation == "constant" and spec.constant is None:
            spec = dataclasses.replace(spec, constant=self.asked.sampling.tokens)
        models = self.models()
        self.load()
        return spec.build(tokenizer=self.tokenizer, models=models or None)

    def models(self) -> dict[str, Any]:
        """A value model where the advantage needs one: the reward model's weights, or the policy's."""
        spec: Any = self.asked.objective
        if spec.advantage != "gae":
            return {}
        path = None if self.asked.reward is None else self.asked.reward.path
        start = (
            load_scalar(path)
            if path
            else ScalarModel(load_model(self.model_place, dtype="float32", device=self.device))
        )
        return {"value": start}

    def source(self, rows: AlignmentRows, objective: Any, budget: float | None) -> tuple[Any, TrainSpec]:
        asked, sampling, spec = self.asked, self.asked.sampling, objective.spec
        assert asked.reward is not None
        longest = max(len(prompt.ids) for prompt in rows.train) + sampling.tokens
        limit = self.model.max_length
        if limit is not None and longest > limit:
            raise SpecError(
                f"sampling.tokens: the longest prompt and {sampling.tokens} tokens make {longest}, and the model reads "
                f"{limit} at most"
            )
        count = sampling.prompts * sampling.samples // sampling.minibatches
        settled = dataclasses.replace(
            asked.train, length=longest, batch_tokens=count * longest, optimizer=self.optimizer()
        )
        if settled.steps is None and budget is None:
            settled = dataclasses.replace(settled, steps=STEPS)
        self.reward = asked.reward.build()
        models: dict[str, Any] = {}
        if resolve_dtype(settled.dtype, torch.device(self.device)) != torch.float32:
            # a batch of another shape is rounded otherwise: the ratio is of two readings of one shape
            models["behaviour"] = batched(
                lambda b: objective.log_probabilities(self.model, b)[0], objective, self.model
            )
        if spec.reads_reference or asked.truth is not None:
            models["reference"] = self._reference(objective)
        if spec.advantage == "gae":
            value = objective.models["value"]
            models["values"] = batched(value.values, objective, value)
        self.engine = Engine(
            self.model, self.tokenizer, rows=max(ROWS, sampling.samples),
            runner="torch" if refusal(self.model) is not None else "native",
        )  # fmt: skip
        stream = Rollouts(
            rows.train, self.engine, objective, self.reward, sampling, seed=asked.seed, report=self.report,
            truth=asked.truth.build() if asked.truth is not None else None, log=self.place / "rollouts.jsonl",
            **models, **({} if self.team is None else {"sample": self.team.sample}),
        )  # fmt: skip
        return stream, plan_memory(self.model, objective, stream, settled, self.place / "training", self.report)

    def _reference(self, objective: Any) -> Any:
        """Log-probabilities of the reference: the disabled adapter, or a frozen model."""
        from llmanac.adapters import applied

        changes = applied(self.model)
        if changes and self.asked.teacher is None:
            import contextlib

            def disabled(batch: Any) -> torch.Tensor:
                with contextlib.ExitStack() as stack:
                    for change in changes:
                        stack.enter_context(change.disabled())
                    logs: torch.Tensor = objective.log_probabilities(self.model, batch)[0]
                return logs

            return batched(disabled, objective, self.model)
        place = locate(self.asked.teacher)[0] if self.asked.teacher else self.model_place
        frozen = load_model(place, device=self.device).requires_grad_(False)
        return batched(lambda batch: objective.log_probabilities(frozen, batch)[0], objective, frozen)

    def values(self, objective: Any, rows: Sequence[Any], label: str) -> ItemSums:
        """The mean reward of sampled answers to each held-out prompt: several where there are few prompts."""
        sampling, count = self.asked.sampling, -(-MEASURED // len(rows))
        self.engine.sync()
        found = self.engine.generate(
            [list(prompt.ids) for prompt in rows], n=count, max_new_tokens=sampling.tokens, seed=self.asked.seed,
            temperature=objective.spec.temperature, logprobs=0,
        )  # fmt: skip
        samples = [
            Sample(
                row=prompt.row, prompt=prompt.text, text=answer.text, finished=answer.finish_reason == "stop",
                tokens=len(answer.token_logprobs),
            )
            for prompt, answer in zip([p for p in rows for _ in range(count)], found, strict=True)
        ]  # fmt: skip
        scores = [score.value for score in self.reward(samples)]
        groups = [scores[at : at + count] for at in range(0, len(scores), count)]
        return ItemSums([sum(group) / count for group in groups], [1.0] * len(rows))


def _rows(path: str) -> Any:
    """`(line, row)` of a table, with all its columns."""
    for row in table_rows(Path(path), CommandProblems()):
        yield row.line, {name: value for name, value in row.values.items() if value is not None}
