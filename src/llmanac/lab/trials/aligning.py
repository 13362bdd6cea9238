"""A trial that aligns a model that is there (`recipes/align.py`): by preferences, or by a reward of its own answers.

    llmanac compare objective --arms dpo,ipo,kto,simpo,orpo --artefact MODEL --data PREFERENCES.jsonl
    llmanac compare objective --arms grpo,rloo,ppo --artefact MODEL --data PROMPTS.jsonl --reward exact-match

    accuracy   held-out pairs whose chosen answer gained more over the start than the rejected one:
               log pi(y+) / start(y+) > log pi(y-) / start(y-), equal ones a half             higher is better
    reward     the mean reward of sampled answers to held-out prompts; `truth` where the recipe has one
    KL         KL(pi || start) of the next token, along answers that pi samples to held-out prompts, nats a token

One measure of preferences serves all arms, whatever reward a method has in its loss. All arms read the same pairs: kto
reads both answers of each as labelled ones. The seed names the rows held out, their order, and the sampled answers.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from llmanac.adapters import applied
from llmanac.core import registry
from llmanac.core.errors import SpecError
from llmanac.core.spec import dump, flatten, make, make_method, patch
from llmanac.core.types import Batch, evaluating
from llmanac.generate.engine import Engine
from llmanac.lab.arms import ArmText
from llmanac.lab.axis import known_method
from llmanac.lab.cache import StudyCache
from llmanac.lab.pairing import RECORDED_ROWS, hash_row
from llmanac.lab.runner import RunnerRequest, Say
from llmanac.lab.trials.decoding import file_hash, hash_model
from llmanac.lab.trials.tuning import COSTS, Tried, TuningTrial
from llmanac.metrics import Metric
from llmanac.models.load import load_model
from llmanac.recipes.align import AlignmentRows, AlignSpec, Preferred, SampledAlignment
from llmanac.recipes.tune import EVALUATED, Tuned

HELD_OUT = 0.2  # of the rows
PROMPTS, ANSWERS, LONGEST = 32, 64, 32  # prompts that are answered, answers in all, tokens of one
FAMILIES = {"preferences": "preferences", "labelled answers": "preferences", "rollouts": "rewards"}
ACCURACY = Metric("accuracy", "", "higher", "held-out pairs whose chosen answer gained more than the rejected one")
REWARD = Metric("reward", "", "higher", "reward of sampled answers to held-out prompts")
TRUTH = Metric("reward", "", "higher", "true reward of sampled answers to held-out prompts")
KL = Metric("kl", "nat/token", "lower", "KL to the start along sampled answers")


def aligning_of(
    texts: Sequence[ArmText], model: str | Path | None, data: str | None, reward: Any, changes: Mapping[str, Any]
) -> AlignSpec | None:
    """The base of a comparison of ways to align a model; None where the arms are objectives of pretraining.

    Raises:
        SpecError: arms of two families, or of none, or without a model or rows.
    """
    found = {text.label: _family(text) for text in texts}
    if model is data is reward is None and not any(found.values()):
        return None
    first, family = next(iter(found.items()))
    for label, other in found.items():
        if other is None:
            raise SpecError(f"--arms: {label} does not align a model; leave it out, or leave --artefact and --data out")
        if other != family:
            raise SpecError(
                f"--arms: {first} learns from {family} and {label} from {other}, so that they read different rows; "
                "compare them in two commands"
            )
    for flag, value, what in (("artefact", model, "the model to align"), ("data", data, "the rows to align it on")):
        if value is None:
            raise SpecError(f"--{flag}: {', '.join(found)} align a model that is there; name {what}")
    fields = {
        "model": str(model), "rows": {"file": data, "held_out": HELD_OUT}, "adapter": "lora",
        "objective": texts[0].value, **({} if reward is None else {"reward": reward}),
    }  # fmt: skip
    return patch(make(AlignSpec, fields), changes)


def _family(text: ArmText) -> str | None:
    """What an arm's objective learns from; None for one of pretraining, and for a reward model."""
    known_method("objective", text.name)
    card = registry.methods("objective")[text.name].card
    return None if text.name == "bradley-terry" else FAMILIES.get(card.get("rows", ""))


class Aligned(Tried):
    """An alignment that is measured against its start."""

    frozen: Any = None
    material: Any = None  # the rows
    learned: Sequence[Any] = ()  # the same ones for every objective, in the order of the file

    def row_hashes(self) -> list[str]:
        """Of the first rows that are learned from; their order is drawn from the seed."""
        return [hash_row(row) for row in self.learned[:RECORDED_ROWS]]

    def _measure(self, objective: Any, rows: Any, when: str, kept: str = "before.json") -> Any:
        """Nothing: `metrics` measures once the training is done."""
        self.material = rows
        if self.look is not None and when == "after":
            self.look(self)

    def metrics(self, done: Tuned) -> dict[str, float]:
        held = self.some(self.material.held_out)[:EVALUATED]
        with torch.no_grad(), evaluating(self.model):
            return {**self.quality(held), "kl": self.divergence([self.prompt_of(row) for row in held[:PROMPTS]])}

    def quality(self, held: Sequence[Any]) -> dict[str, float]:
        """The metric of the family."""
        raise NotImplementedError

    def prompt_of(self, row: Any) -> list[int]:
        """The ids of a held-out row's prompt."""
        raise NotImplementedError

    @contextlib.contextmanager
    def start(self) -> Iterator[Any]:
        """The model as it was before the training: without its adapter, or read again."""
        if changes := applied(self.model):
            with contextlib.ExitStack() as stack:
                for change in changes:
                    stack.enter_context(change.disabled())
                yield self.model
            return
        if self.frozen is None:
            self.frozen = load_model(self.model_place, device=self.device)
        yield self.frozen.eval()

    def divergence(self, prompts: Sequence[list[int]]) -> float:
        """KL(pi || start) in nats a token of answers that are sampled here."""
        room = min(
            [LONGEST, *([] if self.model.max_length is None else [self.model.max_length - max(map(len, prompts))])]
        )
        count = -(-ANSWERS // len(prompts))
        found = Engine(self.model, self.tokenizer, rows=ANSWERS).generate(
            prompts, n=count, max_new_tokens=max(1, room), temperature=1.0, seed=self.asked.seed
        )
        total = tokens = 0.0
        for prompt, answer in zip([p for p in prompts for _ in range(count)], found, strict=True):
            ids = torch.tensor([[*prompt, *answer.ids]], device=self.device)[:, :-1]
            if ids.shape[1] < len(prompt):  # an answer without a token
                continue
            now = self.model(Batch(ids=ids)).logits[0, len(prompt) - 1 :].float().log_softmax(-1)
            with self.start() as start:
                before = start(Batch(ids=ids)).logits[0, len(prompt) - 1 :].float().log_softmax(-1)
            total, tokens = total + float((now.exp() * (now - before)).sum()), tokens + len(now)
        return total / tokens if tokens else 0.0


class ComparedAlignment(Aligned, Preferred):
    """By preferences."""

    def read(self) -> AlignmentRows:
        """The same pairs for every objective; labelled answers are the two sides of each."""
        pairs = make_method("objective", "dpo")
        own, self.reader = self.reader, pairs.reader(self.tokenizer)
        found = Preferred.read(self)
        self.judge: Any = pairs.build(tokenizer=self.tokenizer, reader=self.reader)
        self.reader, self.learned = own, found.train
        if self.asked.objective.name == "kto":
            found.train = [(answer, side == 0) for pair in found.train for side, answer in enumerate(pair)]
        if not found.held_out:
            raise SpecError("rows.held_out: no row was held out; raise it, or give more rows")
        return found

    def step_units(self, settled: Any) -> float:
        """Answers."""
        return float(settled.rows * len(self.reader.columns))

    def quality(self, held: Sequence[Any]) -> dict[str, float]:
        right = 0.0
        for pair in held:
            batch = self.judge.collate([pair]).to(torch.device(self.device))
            now, _ = self.judge.log_probabilities(self.model, batch)
            with self.start() as start:
                gains = now - self.judge.log_probabilities(start, batch)[0]
            right += float((gains[0] - gains[1]).sign() + 1) / 2
        return {"accuracy": right / len(held)}

    def prompt_of(self, row: Any) -> list[int]:
        ids, mask = row[0]
        return [int(i) for i in ids[: int(mask.argmax())]] or [int(ids[0])]


class Rewarded(Aligned, SampledAlignment):
    """By a reward of sampled answers."""

    def read(self) -> AlignmentRows:
        """The same prompts for every objective."""
        found = SampledAlignment.read(self)
        self.learned = found.train
        return found

    def step_units(self, settled: Any) -> float:
        """Answers."""
        return float(settled.rows)

    def quality(self, held: Sequence[Any]) -> dict[str, float]:
        if self.asked.truth is not None:
            self.reward = self.asked.truth.build()
        return {"reward": SampledAlignment.values(self, self.made, held, "measure").mean}

    def prompt_of(self, row: Any) -> list[int]:
        return list(row.ids)


class AligningTrial(TuningTrial):
    """Aligns a model by an arm's objective under a seed."""

    costs = COSTS
    code = (*TuningTrial.code, Preferred.__module__, Engine.__module__, __name__)

    def __init__(self, question: RunnerRequest, cache: StudyCache, say: Say) -> None:
        base = question.base
        self.tried = ComparedAlignment if base.reward is None else Rewarded
        self.metrics = (ACCURACY if base.reward is None else REWARD if base.truth is None else TRUTH, KL)
        super().__init__(question, cache, say)
        self.about["notes"] = [
            f"{base.rows.held_out:.0%} of the rows are held out, others under each seed; KL is to {base.model}."
        ]
        for path, value in flatten(dump(base)).items():
            if path.startswith(("reward", "truth")) and path.endswith(("file", "path")):
                of_file = path.endswith("file")
                self.identity[path] = file_hash(value.rpartition(":")[0]) if of_file else hash_model(value)
        self.definition = [self.parts(arm, 0) for arm in self.arms]
