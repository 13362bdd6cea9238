"""RLHF in three stages: fine-tuning on instructions, a reward model from preferences, RL on its reward.

    instructions -> sft/    pairs -> reward-model/    prompts -> rl/, and without-kl/ for what the penalty prevents

Each stage is a tuning or an alignment of its own, in a folder of its own (`core/run_folder.py`). A stage that is
finished is not run again, one that was stopped goes on from its checkpoint. At the end every policy answers the
held-out prompts: the reward, the true reward where there is one, the KL divergence from where RL began, length and
surprise. Without a model of the user's, the task is `recipes/rlhf_task.py`, whose true reward is known.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmanac.adapters import AdapterSpec
from llmanac.core import spec
from llmanac.core.errors import SpecError
from llmanac.core.progress import Report
from llmanac.core.run_folder import RECIPE, RESULTS, RunFolder, RunSpec
from llmanac.core.spec import Spec, make_method
from llmanac.objectives import ObjectiveSpec
from llmanac.recipes.align import AlignSpec
from llmanac.recipes.finished import results_of
from llmanac.recipes.merge import merge
from llmanac.recipes.rlhf_task import write_task
from llmanac.recipes.tune import TUNING, TuneSpec, tune
from llmanac.recipes.tune_rows import RowsSpec
from llmanac.rewards import RewardSpec
from llmanac.train import TrainSpec
from llmanac.train.rollouts import Sampling

TABLES = ("sft", "reward_model", "rl")  # a recipe of this form has one of them
HELD_OUT = 0.05  # of the rows of each stage
TASK = Path(__file__).with_name("rlhf_task.py")


@dataclass(frozen=True, kw_only=True)
class RlhfStageSpec(Spec):
    """How a stage trains.

    Attributes:
        epochs: how often rows are read, where `train.steps` is left open (100 for RL). train: as in `tune`.
        adapter: what is trained, None for all weights; it is merged into the model at the end of the stage.
    """

    epochs: float = 1.0
    adapter: AdapterSpec | None = None
    train: TrainSpec = field(default_factory=lambda: TrainSpec(optimizer=make_method("optimizer", TUNING)))


@dataclass(frozen=True, kw_only=True)
class RlSpec(RlhfStageSpec):
    """And how it samples: a policy gradient with its KL penalty, and what is drawn."""

    objective: ObjectiveSpec = field(default_factory=lambda: make_method("objective", "rloo"))
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        if self.objective.name != "policy-gradient":
            raise SpecError(f"objective: {self.objective.name} is no policy gradient; write rloo, grpo, ppo, ...")


@dataclass(frozen=True, kw_only=True)
class RlhfSpec(RunSpec):
    """Attributes:
    model: where training begins; None, with no files, for the built-in task.
    instructions: rows to fine-tune on, None for a model that follows instructions already.
    pairs: `prompt`, `chosen`, `rejected`; None where a reward is given. prompts: for RL, a part of them held out.
    reward: instead of a reward model; truth: what it stands for, where that can be computed.
    without_kl: run RL a second time without the KL penalty.
    """

    name: str = "rlhf"
    seed: int = 0
    model: str | None = None
    instructions: str | None = None
    pairs: str | None = None
    prompts: str | None = None
    reward: RewardSpec | None = None
    truth: RewardSpec | None = None
    without_kl: bool = False
    sft: RlhfStageSpec = field(default_factory=RlhfStageSpec)
    reward_model: RlhfStageSpec = field(default_factory=RlhfStageSpec)
    rl: RlSpec = field(default_factory=RlSpec)

    def __post_init__(self) -> None:
        own = {name: getattr(self, name) for name in ("model", "prompts", "pairs", "instructions", "reward", "truth")}
        if self.model is None:
            for name, value in own.items():
                if value is not None:
                    raise SpecError(f"{name}: is set and model is not; without a model the built-in task is run")
            return
        if self.prompts is None:
            raise SpecError("prompts: RL needs a .jsonl file with a column prompt")
        if (self.pairs is None) == (self.reward is None):
            raise SpecError("pairs, reward: give preference pairs for a reward model, or a reward, and not both")


def is_rlhf(data: Mapping[str, Any]) -> bool:
    """Whether a recipe has this form."""
    return any(name in data for name in TABLES)


def run_stages(held: RunFolder, report: Report, began: float | None = None) -> dict[str, Any]:
    """Run the three stages in the folder that is held; what `results.json` holds.

    Raises:
        SpecError, DataError, CheckpointError: what cannot be used, by field or by file and line.
        KeyboardInterrupt: after Ctrl-C; the last complete step is saved.
    """
    return _Stages(held, report).run()


class _Stages:
    """One call of `run_stages`."""

    def __init__(self, held: RunFolder, report: Report) -> None:
        self.held, self.report, self.held_out = held, report, None
        self.place = held.place.resolve()  # stages name each other's folders
        asked: RlhfSpec = held.asked.spec
        task = self.place / "task"
        if asked.model is None:
            if not task.is_dir():
                write_task(task, asked.seed)
            self.held_out = str(task / "held-out.jsonl")
            names: dict[str, Any] = {name: str(task / f"{name}.jsonl") for name in ("instructions", "pairs", "prompts")}
            known = make_method("reward", {"name": "function", "file": f"{TASK}:truth"})
            asked = dataclasses.replace(asked, model=str(task / "start"), truth=known, **names)
        self.asked = asked
        self.start, self.reward = str(asked.model), asked.reward
        self.arms: dict[str, str] = {}  # models that are compared, by name

    def run(self) -> dict[str, Any]:
        """All stages that are not finished, and the results."""
        asked, objective = self.asked, self.asked.rl.objective
        stages: dict[str, Callable[[], None] | None] = {
            "sft": self.finetune if asked.instructions is not None else None,
            "reward-model": self.learn_reward if asked.pairs is not None else None,
            "rl": self.reinforce,
            "without-kl": self.set_free if asked.without_kl and objective.reads_reference else None,  # type: ignore[attr-defined]
        }
        chosen = {name: stage for name, stage in stages.items() if stage}
        return self.held.carry_out(chosen, self.results, report=self.report)

    def finetune(self) -> None:
        asked, self.arms["start"] = self.asked, self.start
        self.start = self.tuned("sft", self.tuning(TuneSpec, asked.sft, self.start, str(asked.instructions)))

    def learn_reward(self) -> None:
        asked, rows = self.asked.reward_model, str(self.asked.pairs)
        made = self.tuning(AlignSpec, asked, self.start, rows, objective="bradley-terry")
        self.reward = make_method("reward", {"name": "model", "path": self.tuned("reward-model", made)})

    def reinforce(self) -> None:
        asked = self.asked
        self.arms["sft" if asked.instructions is not None else "start"] = self.start
        self.made = self.tuning(
            AlignSpec, asked.rl, self.start, str(asked.prompts), truth=asked.truth, objective=asked.rl.objective,
            sampling=asked.rl.sampling, reward=self.reward,
        )  # fmt: skip
        self.arms["rl"] = self.tuned("rl", self.made)

    def set_free(self) -> None:
        """RL again, without the KL penalty."""
        free = spec.patch(self.asked.rl.objective, {"kl_weight": 0.0, "kl": "off"})
        self.arms["without-kl"] = self.tuned("without-kl", dataclasses.replace(self.made, objective=free))

    def results(self) -> dict[str, Any]:
        prompts = self.made if self.held_out is None else spec.patch(self.made, {"rows.file": self.held_out})
        return results_of(self.place, self.asked.name, self.asked.seed, prompts, self.arms, self.start)

    def tuning(self, kind: type[TuneSpec], stage: RlhfStageSpec, model: str, file: str, **fields: Any) -> Any:
        """A stage as the recipe of one `tune` or `align`."""
        share = 0.0 if self.held_out and "sampling" in fields else HELD_OUT
        rows = RowsSpec(file=file, epochs=stage.epochs, held_out=share)
        shared = {"model": model, "rows": rows, "adapter": stage.adapter, "seed": self.asked.seed}
        made = spec.make(kind, {**shared, **fields})
        return dataclasses.replace(made, train=stage.train)

    def tuned(self, name: str, made: Any) -> str:
        """Run a stage, unless it is finished; returns the folder of its model, with an adapter merged."""
        folder = self.place / name
        if not (folder / RESULTS).is_file():
            self.report(f"{name}:")
            tune(made, folder, resume=(folder / RECIPE).is_file(), report=self.report)
        scalar = (folder / "model" / "score.safetensors").is_file()
        if made.adapter is None or scalar:
            return str(folder / "model")
        if not (folder / "merged").is_dir():
            merge(folder / "model", folder / "merged", base=made.model)
        return str(folder / "merged")
