"""Fine-tuning of a model that is there: an adapter or the model's own weights, on the user's rows.

    rows -> loss masks -> packed rows -> one training loop -> what was trained, with its tokenizer, in OUT/model

OUT is a run's folder (`core/run_folder.py`) with data/ (encoded rows), training/ (plan, metrics, checkpoints) and
model/ (an adapter in PEFT's layout, or a model in Hugging Face's). A stopped tuning goes on from its checkpoint.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from llmanac.adapters import AdapterSpec
from llmanac.adapters.load import save_adapter
from llmanac.core import files, spec
from llmanac.core.device import resolve_device
from llmanac.core.errors import SpecError
from llmanac.core.progress import Report, progress, time_without_once
from llmanac.core.ranges import seconds
from llmanac.core.run_folder import RECIPE, Recipe, RunFolder, RunSpec
from llmanac.core.spec import make_method
from llmanac.core.types import capabilities, evaluating
from llmanac.data.pack import PackedStream
from llmanac.metrics import ItemSums
from llmanac.models.freeze import freeze
from llmanac.models.lm import TrainedModel
from llmanac.models.load import load_model
from llmanac.models.locate import STOPPED, locate
from llmanac.models.save import save_model
from llmanac.objectives import ObjectiveSpec
from llmanac.parallel import ParallelSpec
from llmanac.quant import QuantizerSpec
from llmanac.recipes import kept_measures
from llmanac.recipes.chat_rows import can_chat
from llmanac.recipes.distill import AHEAD, TeacherSpec
from llmanac.recipes.tune_memory import plan_memory
from llmanac.recipes.tune_rows import PreparedRows, RowsSpec, few, prepare
from llmanac.recipes.tuned import Tuned, results
from llmanac.tokenizers.load import load_tokenizer
from llmanac.train import TrainSpec
from llmanac.train.loop import train
from llmanac.train.plan import TrainingPlan
from llmanac.train.ranks import team

MODEL = "model"
EVALUATED = 200  # held-out rows scored before and after
MEASURED_SHARE = 0.05  # of a budget, for the held-out rows before the training
FEWEST = 4  # held-out rows that are measured anyway
TRAINED_SHARE = 0.1  # of a budget, for the training, at least
STEPS_AN_EPOCH = 8  # at least, where there are enough rows
TUNING: dict[str, Any] = {
    "name": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.0,
}  # for adapters; a tenth of the rate for own weights


@dataclass(frozen=True, kw_only=True)
class TuneSpec(RunSpec):
    """What is tuned, and on what.

    Attributes:
        model: a run, a folder, a .gguf file or a hub model's name; teacher: likewise, for objectives that need one.
        answers: a teacher that answers the rows' prompts first; what it wrote are the rows.
        adapter: None trains the model's own weights, those whose names match `trained`.
        quantizer: what the frozen weights are stored in while an adapter is trained (nf4: QLoRA).
        train: steps left open are those of `rows.epochs`; its length is `rows.length`. A rate left at its default is
            that for adapters, or a tenth of it for the model's own weights.
        budget: time for all of it, such as 10m; it decides the steps that are left open.
        patience: evaluations of held-out rows without a better loss after which it ends; the best is kept.
        parallel: the mesh of processes that compute the steps; a resumed tuning may have another.
    """

    free = ("parallel", "train.steps", "budget")  # the training says which steps may be
    ahead = (AHEAD,)

    model: str
    rows: RowsSpec
    teacher: str | None = None
    answers: TeacherSpec | None = None
    adapter: AdapterSpec | None = None
    trained: tuple[str, ...] = ("*",)
    quantizer: QuantizerSpec | None = None
    objective: ObjectiveSpec = field(default_factory=lambda: make_method("objective", "chat"))
    train: TrainSpec = field(default_factory=lambda: TrainSpec(optimizer=make_method("optimizer", TUNING)))
    seed: int = 0
    rope: str | None = None
    budget: str | None = None
    patience: int | None = None
    parallel: ParallelSpec = field(default_factory=ParallelSpec)

    def __post_init__(self) -> None:
        if self.budget is not None:
            seconds(self.budget, "budget")
        if self.quantizer is not None and self.adapter is None:
            raise SpecError("quantizer: quantized weights are not trained; give an adapter, or leave it out")

    @property
    def tuning(self) -> type[Tuning]:
        """What carries it out."""
        return Tuning


def tune(
    asked: TuneSpec, folder: str | Path, *, resume: bool = False, device: str = "auto", budget: float | None = None,
    report: Report = print,
) -> Tuned:  # fmt: skip
    """Tune, or align (an `AlignSpec` of `recipes/align.py`); `folder` gets everything.

    Args:
        resume: go on with the tuning in the folder.
        budget: seconds, in place of the recipe's.

    Raises:
        SpecError, DataError, CheckpointError: what cannot be used, by field or by file and line; before any training.
        LlmanacError: a folder that is somebody's, or in use.
        KeyboardInterrupt: after Ctrl-C; the last complete step is saved.
    """
    held = RunFolder(folder, "--output")
    with held.held(Recipe.whole(asked), resume=resume):
        return run_held(held, asked.tuning(asked, held.place, device, report), budget)


def tune_held(held: RunFolder, report: Report, began: float | None = None) -> dict[str, Any]:
    """Tune or align by the recipe of a folder that is held; what `results.json` holds."""
    asked: TuneSpec = held.asked.spec
    return results(run_held(held, asked.tuning(asked, held.place, "auto", report)))


def run_held(held: RunFolder, tuning: Tuning, budget: float | None = None) -> Tuned:
    """Run a tuning in its folder, which is held."""
    if budget is None and tuning.asked.budget is not None:
        budget = seconds(tuning.asked.budget)
    with team(tuning.asked.parallel, torch.device(tuning.device)) as tuning.team:
        held.carry_out({tuning.label: lambda: tuning.run(budget)}, lambda: results(tuning.done))
    return tuning.done


class Tuning:
    """One call of `tune`; `recipes/align.py` reads other rows and measures other things."""

    measures = "loss, nats a token"
    label = "tune"
    team: Any = None  # the ranks that compute the steps; this process alone
    done: Tuned  # what came of it
    allowed, measured = math.inf, 0.0  # seconds that measuring may take before the training, and has taken

    def __init__(self, asked: TuneSpec, place: Path, device: str, report: Report) -> None:
        self.asked, self.place, self.report = asked, place, report
        self.device = str(resolve_device(device))
        self.model_place, tokens = locate(asked.model)
        self.rows = asked.rows
        if asked.answers is not None:
            written = asked.answers.write(asked.rows.file, place, asked.seed, report)
            self.rows = dataclasses.replace(asked.rows, file=str(written))
        self.tokenizer = can_chat(load_tokenizer(tokens), self.rows.file)
        self.model: Any = None
        self.compared: dict[str, int] = {}  # held-out rows that were measured before and are so after, by file

    def run(self, budget: float | None) -> Tuned:
        """Read the rows, load, train, measure, write; the budget is for all of it."""
        began, self.allowed = time_without_once(), math.inf if budget is None else MEASURED_SHARE * budget
        rows = self.read()
        objective = self.objective()
        if self.team is not None:
            self.team.check_objective(objective)
        self.attach()
        stream, settled = self.source(rows, objective, budget)
        if self.team is not None:
            self.team.check(self.model, objective, settled)
        for warning in (few(len(rows.held_out)), trained_before(self.asked, self.asked.seed)):
            if warning:
                self.report(warning)
        taught = self.asked.teacher is not None and isinstance(rows, PreparedRows)
        plain = self.plain() if taught and rows.held_out else None
        before = self._measure(objective, rows, "before")
        answers = [] if plain is None else [self._measure(plain, rows, "before", "answers.json")]
        if budget is not None:  # measuring afterwards takes as long as it did before
            budget = max(TRAINED_SHARE * budget, budget - (time_without_once() - began) - self.measured)
        done = train(
            self.model, stream, objective, settled, self.place / "training", seed=self.asked.seed, budget=budget,
            label=self.label, report=self.report, team=self.team, saved=None if self.team else self._keep_stopped,
            patience=self.asked.patience, evaluate=self._watch(objective, rows) if self.asked.patience else None,
        )  # fmt: skip
        after = self._measure(objective, rows, "after")
        losses = (answers[0].mean, self._measure(plain, rows, "after", "answers.json").mean) if answers else None
        every = list({id(p): p for p in self.model.parameters()}.values())
        moved = sum(p.numel() for p in every if p.requires_grad)
        total = sum(p.numel() for p in every)
        named = self.measures if self.asked.teacher is None else f"{self.asked.objective.name}, a token"
        chats = self.tokenizer.chat_template is not None
        self.done = Tuned(self.place, rows.lines(), moved, total, done, before, after, named, chats, losses)
        self._keep()
        return self.done

    @cached_property
    def reader(self) -> Any:
        """What reads a row for the objective; needs no model."""
        return self.asked.objective.reader(self.tokenizer)

    def read(self) -> Any:
        """The rows, with what they are measured on as `held_out`; asked for the context only once all were read."""
        return prepare(
            self.rows, self.reader, self.tokenizer, self.place / "data", longest=lambda: self.load().max_length,
            seed=self.asked.seed,
        )  # fmt: skip

    def source(self, rows: Any, objective: Any, budget: float | None) -> tuple[Any, TrainSpec]:
        """The stream of rows to train on, and the training with nothing open that rows decide."""
        settled, seed = self._settled(rows, budget), self.asked.seed
        share = self.asked.objective.on_policy
        if share:
            return self._on_policy(rows, objective, settled, share, timed=budget is not None)
        stream = PackedStream(rows.train, length=settled.length, rows=settled.rows, seed=seed, packing="whole")
        return stream, plan_memory(self.model, objective, stream, settled, self.place / "training", self.report)

    def _on_policy(
        self, rows: PreparedRows, objective: Any, settled: TrainSpec, share: float, *, timed: bool
    ) -> tuple[Any, TrainSpec]:
        """Rows that the student answers itself, one text a row."""
        from llmanac.generate.engine import Engine
        from llmanac.train.on_policy import OnPolicy

        data, tokens = rows.train, objective.spec.tokens
        ends = data.offsets.tolist()
        pairs = [(data.read(a, b - a), data.read_loss(a, b - a)) for a, b in itertools.pairwise(ends)]
        longest = max(len(ids) for ids, _ in pairs) + tokens
        limit = self.model.max_length
        if limit is not None and longest > limit:
            raise SpecError(f"tokens: the longest row and {tokens} tokens make {longest}, and the model reads {limit}")
        count = max(1, min(len(pairs), settled.batch_tokens // longest))
        settled = dataclasses.replace(settled, length=longest, batch_tokens=count * longest)
        if self.asked.train.steps is None and not timed:
            settled = dataclasses.replace(settled, steps=math.ceil(len(pairs) * self.rows.epochs / count))
        stream = OnPolicy(pairs, Engine(self.model, self.tokenizer), count=count, share=share, tokens=tokens,
                          seed=self.asked.seed)  # fmt: skip
        return stream, plan_memory(self.model, objective, stream, settled, self.place / "training", self.report)

    def load(self) -> Any:
        """The model as it is in its file, once."""
        if self.model is None:
            adapter = self.asked.adapter
            frozen = adapter is not None and not adapter.copies
            dtype = None if frozen else "float32"  # what is trained itself is dense
            self.model = load_model(self.model_place, dtype=dtype, device=self.device, rope=self.asked.rope)
        return self.model

    def objective(self) -> Any:
        """What is trained for, with its further models; SpecError where a model reads a source and none is given."""
        if capabilities(self.load()).reads_source and not self.asked.objective.gives_source:
            raise SpecError(
                f"objective: {self.asked.objective.name} is about one text, and {self.asked.model} reads a source and "
                "writes an answer; `llmanac tune` trains it with -s objective=prefix -s objective.form=source"
            )
        return self.asked.objective.build(
            tokenizer=self.tokenizer, models=self.models() or None, student=self.load(), reader=self.reader
        )

    def models(self) -> dict[str, Any]:
        """The further models of the objective, by name."""
        teacher = self.asked.teacher
        return {} if teacher is None else {"teacher": load_model(locate(teacher)[0], device=self.device)}

    def plain(self) -> Any:
        """The loss of the rows' answers, next to what a teacher says of them."""
        chat = make_method("objective", {"name": "chat", "on": self.reader.on})
        return chat.build(tokenizer=self.tokenizer, reader=self.reader)

    def attach(self) -> None:
        """Freeze, quantize and add the adapter, as the recipe says."""
        asked, model = self.asked, self.load()
        if asked.adapter is None:
            freeze(model, trained=asked.trained)
            return
        if asked.quantizer is not None:
            asked.quantizer.build().apply(model)
        self.change = asked.adapter.build(seed=asked.seed).apply(model)

    def _settled(self, rows: PreparedRows, budget: float | None) -> TrainSpec:
        """The training with its length, its steps and its rate."""
        train, length = self.asked.train, rows.length
        tokens = max(train.batch_tokens, length)
        if train.batch_tokens == TrainSpec().batch_tokens:  # left open: few rows still make several steps an epoch
            packed = PackedStream(rows.train, length=length, rows=1, seed=self.asked.seed, packing="whole").plan(0)
            count = max(1, min(tokens // length, packed // STEPS_AN_EPOCH))
            each = self.asked.parallel.data * self.asked.parallel.stages  # ranks have equally many rows
            made = TrainingPlan.read(self.place / "training")  # a resumed tuning keeps its batch, also on another mesh
            tokens = made.spec.batch_tokens if made is not None else length * each * -(-count // each)
        chosen = dataclasses.replace(train, length=length, batch_tokens=tokens, optimizer=self.optimizer())
        if chosen.steps is None and budget is None:
            packed = PackedStream(rows.train, length=length, rows=1, seed=self.asked.seed, packing="whole").plan(0)
            chosen = dataclasses.replace(chosen, steps=math.ceil(packed * self.rows.epochs / chosen.rows))
        return chosen

    def optimizer(self) -> Any:
        return own_rate(self.asked)

    def scored_by(self) -> Any:
        """The reward that is measured; None where a loss is."""
        return None

    def _measure(self, objective: Any, rows: PreparedRows, when: str, kept: str = "before.json") -> Any:
        """Loss by held-out row; that before the training is written down, and a resumed one reads it."""
        if not rows.held_out:
            return None
        place, of = self.place / "data" / kept, kept_measures.decides(rows.held_out, self.scored_by())
        if when == "before" and (stored := kept_measures.kept(place, self.place / "training", of)) is not None:
            self.compared[kept] = stored[1] or EVALUATED
            return stored[0]
        begin, some = time_without_once(), rows.held_out[:EVALUATED]
        if when == "after":
            some = some[: self.compared.get(kept)]
        elif len(some) > FEWEST and self.allowed < math.inf:
            self.values(objective, some[:FEWEST], "measure a few")
            fit = int(FEWEST * self.allowed / max(time_without_once() - begin, 1e-9))
            if fit < len(some):
                self.report(f"measure: {max(fit, FEWEST)} of {len(some)} held-out rows are measured: time is short")
            some = some[: max(fit, FEWEST)]
        found = self.values(objective, some, f"measure {when}")
        self.measured += time_without_once() - begin
        if when == "before":
            self.compared[kept] = len(some)
            kept_measures.keep(place, found, len(some), of)
        return found

    def values(self, objective: Any, rows: Sequence[Any], label: str) -> ItemSums:
        """What is measured, by row."""
        sums, units = [], []
        device = self.model.device
        with evaluating(self.model), torch.no_grad(), progress(label, len(rows), "rows") as bar:
            for row in rows:
                loss, count, _ = objective.loss(self.model, objective.collate([row]).to(device))
                sums.append(float(loss))
                units.append(float(count))
                bar.advance(1)
        return ItemSums(sums, units)

    def _watch(self, objective: Any, rows: Any) -> Callable[[Any], dict[str, float]] | None:
        """The loss of held-out rows, while it trains; None where there are none."""
        some = rows.held_out[:EVALUATED]
        return (lambda model: {"loss": self.values(objective, some, "measure").mean}) if some else None

    def _keep_stopped(self, step: int, steps: int) -> None:
        """Write what a training has reached, with a note that says so: it is used if the training is stopped here."""
        if step < steps:
            self._keep({"step": step, "steps": steps})

    def _keep(self, stopped: Mapping[str, Any] | None = None) -> None:
        """Write what was trained, with the tokenizer."""
        with files.atomic_folder(self.place / MODEL) as folder:
            if not isinstance(self.model, TrainedModel):
                self.model.save_pretrained(folder)
            elif self.asked.adapter is None:
                save_model(self.model, folder)
            else:
                base = str(Path(self.model_place).resolve()) if Path(self.model_place).exists() else self.model_place
                save_adapter(self.change, folder, base=base)
            self.tokenizer.save(folder)
            if stopped is not None:
                files.write_json(folder / STOPPED, stopped)


def trained_before(asked: TuneSpec, *seeds: int) -> str | None:
    """A warning where the model's own recipe reads the same file and held out other rows than these seeds do."""
    place = Path(asked.model)
    stored = (place.parent if place.name == MODEL else place) / RECIPE
    before = files.read_toml(stored) if stored.is_file() else {}
    rows = before.get("rows") or {}
    if not is_tuning(before) or not asked.rows.held_out:
        return None
    if Path(rows["file"]).resolve() != Path(asked.rows.file).resolve():
        return None
    if set(seeds) == {before.get("seed", 0)} and rows.get("held_out", RowsSpec.held_out) >= asked.rows.held_out:
        return None
    return (
        f"warning: {asked.model} was tuned on {asked.rows.file} too and has seen rows that are held out here, so their "
        "loss is too low; use another file, or a model that has not read this one"
    )


def is_tuning(data: Any) -> bool:
    """Whether a recipe's data is that of a tuning."""
    return isinstance(data, Mapping) and isinstance(data.get("model"), str) and "rows" in data


def own_rate(asked: TuneSpec) -> Any:
    """The optimizer, with the rate for the model's own weights where none was stated."""
    optimizer = asked.train.optimizer
    if asked.adapter is None and optimizer == make_method("optimizer", TUNING):
        optimizer = spec.patch(optimizer, {"lr": TUNING["lr"] / 10})
    return optimizer
