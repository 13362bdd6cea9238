"""RLHF in three stages: fine-tuning on instructions, a reward model from preferences, RL on its reward.

    instructions -> sft/    pairs -> reward-model/    prompts -> rl/, and without-kl/ for what the penalty prevents

Each stage is a tuning or an alignment of its own, in a folder of its own (`core/run_folder.py`). A stage that is
finished is not run again, one that was stopped goes on from its checkpoint. At the end every policy answers the
held-out prompts: the reward, the true reward where there is one, the KL divergence from where RL began, length and
surprise. Without a model of the user's, the task is `recipes/rlhf.py`, whose true reward is known.

A task for `llmanac run rlhf` whose true reward is computable, and whose raters can be fooled.

    prompt   "3 words with b, not bat:"        answer   " box bag bus"

    merit = (right - wrong) / asked        truth = max(0, merit)

right counts different words that were asked for, up to the number that was; every other word is wrong. Raters compare
two answers by merit + LIKING for each "indeed", and mix up one pair in ten. So the pairs hold a preference that is not
the truth, and a reward model of a few thousand pairs is itself only an approximation: a policy that nothing holds back
finds answers that it scores high and that are wrong (repeated words, "indeed").
"""

import dataclasses
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmanac.adapters import AdapterSpec
from llmanac.core import files, spec
from llmanac.core.errors import SpecError
from llmanac.core.progress import Report
from llmanac.core.run_folder import RECIPE, RESULTS, RunFolder, RunSpec
from llmanac.core.spec import Spec, make_method
from llmanac.objectives import ObjectiveSpec
from llmanac.recipes.align import AlignSpec
from llmanac.recipes.finished import results_of
from llmanac.recipes.merge import merge
from llmanac.recipes.tune import TUNING, TuneSpec, tune
from llmanac.recipes.tune_rows import RowsSpec
from llmanac.rewards import RewardSpec
from llmanac.train import TrainSpec
from llmanac.train.rollouts import Sampling

WORDS = {
    "b": "bat bed box bag bus bee bun bow",
    "c": "cat cup cow car cab cod cub cap",
    "f": "fox fan fig fin fog fur fly fun",
    "m": "map mug mud man mop mat mix mob",
    "p": "pig pen pan pot pie pea pin paw",
    "t": "top tin tub toy tea tap toe tie",
}
LIKED = "indeed"
LIKING = 0.4  # what one is worth to a rater
MISTAKEN = 0.1  # of the pairs are rated the wrong way round
END = "<|endoftext|>"


def merit(text: str, row: Mapping[str, Any]) -> float:
    """At most 1; row: `words` that may be used, and how many are asked for, `count`."""
    said, count = text.split(), int(row["count"])
    right = min(len(set(said) & set(row["words"])), count)
    return (2 * right - len(said)) / count


def truth(text: str, row: Mapping[str, Any]) -> float:
    """The true reward, in [0, 1]."""
    return max(0.0, merit(text, row))


def prompts(draw: random.Random) -> list[dict[str, Any]]:
    """All prompts, in random order."""
    found = []
    for letter, text in WORDS.items():
        words = text.split()
        for without in words:
            for count in (2, 3, 4):
                asked = f"{count} words with {letter}, not {without}:"
                found.append({"prompt": asked, "words": [w for w in words if w != without], "count": count})
    draw.shuffle(found)
    return found


def answer(row: Mapping[str, Any], draw: random.Random, skill: float, liked: float, count: int | None = None) -> str:
    """An answer whose words are right with the probability `skill`, with `indeed` before each with that of `liked`.

    count: its words, as many as are asked for by default.
    """
    every = [word for text in WORDS.values() for word in text.split()]
    said: list[str] = []
    for word in draw.sample(row["words"], row["count"] if count is None else count):
        said += [LIKED] if draw.random() < liked else []
        said.append(word if draw.random() < skill else draw.choice(every))
    return "".join(f" {word}" for word in said)


def demonstrations(draw: random.Random, rows: list[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """Instructions with answers that are right most of the time."""
    for _ in range(count):
        row = draw.choice(rows)
        yield {"prompt": row["prompt"], "completion": answer(row, draw, 0.75, 0.03)}


def pairs(draw: random.Random, rows: list[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """Two answers to a prompt as raters order them."""
    for _ in range(count):
        row, both = draw.choice(rows), [""]
        while len(set(both)) < 2:
            both = []
            for _ in range(2):  # of models that differ in skill, in length and in taste
                words = draw.choice((row["count"], row["count"], draw.randrange(7)))
                both.append(answer(row, draw, draw.choice((0.5, 0.75, 1.0)), draw.choice((0.0, 0.0, 0.3)), words))
        both.sort(key=lambda text: (merit(text, row) + LIKING * text.split().count(LIKED), draw.random()))
        if draw.random() < MISTAKEN:
            both.reverse()
        yield {"prompt": row["prompt"], "chosen": both[1], "rejected": both[0]}


def write_task(folder: Path, seed: int, *, instructions: int = 3000, compared: int = 4000, dim: int = 64) -> None:
    """The files of the task in a folder: instructions, pairs, prompts, held-out prompts, and a random model."""
    from llmanac.core.spec import make_method

    draw = random.Random(seed)
    every = prompts(draw)
    held_out, known = every[: len(every) // 6], every[len(every) // 6 :]
    tables = {
        "instructions": list(demonstrations(draw, known, instructions)),
        "pairs": list(pairs(draw, known, compared)),
        "prompts": known,
        "held-out": held_out,
    }
    with files.atomic_folder(folder) as place:
        for name, rows in tables.items():
            files.write_text(place / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        texts = [row["prompt"] + row["completion"] for row in tables["instructions"]]
        tokenizer = make_method("tokenizer", {"name": "bpe", "vocab_size": 400, "special_tokens": (END,)}).train(texts)
        shape = {"name": "transformer", "dim": dim, "layers": 2, "max_length": 64}
        model = make_method("lm", shape).build(vocab_size=tokenizer.vocab_size, seed=seed)
        model.generation = {"eos_token_id": tokenizer.eos_id}
        model.save_pretrained(place / "start")
        tokenizer.save(place / "start")


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
