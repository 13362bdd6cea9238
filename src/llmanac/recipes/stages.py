"""The stages of a run. Each writes its result atomically, so a killed run resumes after the last finished stage."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from llmanac.core import files, spec
from llmanac.core.device import resolve_device
from llmanac.core.errors import DataError, SpecError
from llmanac.core.progress import Report
from llmanac.core.run_folder import Recipe, RunFolder
from llmanac.data.collect import Corpus
from llmanac.data.pack import PackedStream
from llmanac.data.pipeline.build import OtherBuild
from llmanac.evaluate.bits_per_byte import score_texts
from llmanac.generate.constrain import compile_kernels
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_assistant
from llmanac.models.load import load_model
from llmanac.recipes import measures, pairs, timetable
from llmanac.recipes.application import find_application
from llmanac.recipes.measures import counts, results_of
from llmanac.recipes.parts import RecipeParts, TokenizedText, make_tokenizer, make_tokens
from llmanac.recipes.plan import plan_size
from llmanac.recipes.report import write_report
from llmanac.recipes.spec import RecipeSpec, plans_size
from llmanac.train import TrainSpec
from llmanac.train.loop import TrainResult, train
from llmanac.train.metrics import read_metrics
from llmanac.train.ranks import team

RESTORE = "restore the old text to go on, or start a new run with --folder and without --resume"
RESTORE_FILE = "restore the file to go on, or start a new run with --folder and without --resume"
WATCHED_BYTES = 40_000  # held-out text scored during training


def work(held: RunFolder, report: Report, began: float | None = None) -> dict[str, Any]:
    """Run the recipe of a folder that is held; what `results.json` holds.

    Raises:
        SpecError: a model that is not trained in steps, or whose context is shorter than the rows.
    """
    asked: Recipe[RecipeSpec] = held.asked
    model: Any = asked.spec.model
    if model.estimated:
        raise SpecError(
            f"model: {model.name} is estimated by counting, and a recipe trains in steps; use llmanac ngram train "
            "--tokenizer, or llmanac compare lm"
        )
    context, length = model.max_length, asked.spec.train.length
    if context is not None and asked.states("model.max_length") and context < length:
        raise SpecError(f"model.max_length: {context} is below train.length {length}; raise it, or lower train.length")
    with team(asked.spec.parallel, resolve_device(asked.spec.device)) as ranks:
        return Pipeline(held, began, report, ranks).run()


class Pipeline:
    """A run in its folder: its state, and the stages in their order. `report` is called with lines for the user."""

    def __init__(self, held: RunFolder, began: float | None = None, report: Report = print, team: Any = None) -> None:
        self.held, self.team, self.report = held, team, report
        self.recipe: Recipe[RecipeSpec] = held.asked
        self.spec, self.folder = self.recipe.spec, held.place
        self.device = resolve_device(self.spec.device)
        self.corpus: Corpus
        self.seconds: dict[str, float] = held.state.setdefault("seconds", {})
        self.planned: dict[str, Any] = held.state.setdefault("planned", {})
        settled = {"model": self.planned["model"]} if "model" in self.planned else {}
        if "pretrain" in self.planned:  # what was measured before the first step is not measured again
            settled["train"] = self.planned["pretrain"]["train"]
        if "finetune_steps" in self.planned:
            settled["finetune"] = {**spec.dump(self.spec.finetune), "steps": self.planned["finetune_steps"]}
        self.spec = spec.make(RecipeSpec, {**spec.dump(self.spec), **settled}, "recipe")
        self.time = timetable.Timetable(self.spec.budget_seconds, self.seconds, self.planned, began)

    def run(self) -> dict[str, Any]:
        """Every stage that is not done yet; the results."""
        stages: dict[str, Callable[[], None]] = {
            "collect text": self.collect, "train tokenizer": self.tokenize, "encode text": self.encode,
            "write pairs": self.write_pairs, "pretrain": self.pretrain, "fine-tune": self.finetune,
            "measure": self.measure,
        }  # fmt: skip
        if self.spec.finetune is None:
            del stages["write pairs"], stages["fine-tune"]
        self.before_training = list(stages)[: list(stages).index("pretrain")]
        threads = torch.get_num_threads()
        try:
            found = self.held.carry_out(stages, self.results, self.time.begin)
        finally:
            torch.set_num_threads(threads)
        for line in filter(None, (self.time.compiled(), self.time.over())):
            self.report(line)
        return found

    def results(self) -> dict[str, Any]:
        """What the stages left, with the report; everything is compiled for the first question then."""
        found = results_of(self)
        self.held.resolve(self.spec)
        write_report(self.folder, found)
        self.compile()
        return found

    def compile(self) -> None:
        """Compile for this machine what `chat` and `serve` need, so that their first request is answered at once."""
        model: Any = self.model
        engine = Engine(model, self.tokenizer)
        compile_kernels(engine.tokenizer, engine.eos_ids, model.vocab_size)
        if (assistant := load_assistant(self.folder, engine)) is not None:
            assistant.answer("What does this return?")

    def save(self) -> None:
        """Write `run.json`."""
        self.held.save(finished=False)

    # text

    def collect(self) -> None:
        """Build the text in `RUN/text` (or take what a run that is resumed has built there) and split it.

        Raises:
            DataError: no text, or another text than the one that the resumed run began with.
        """
        try:
            self.corpus = self.spec.data.collect(self.spec.seed, self.folder / "text")
        except OtherBuild as error:
            raise DataError(
                f"the text changed since this run began; its tokenizer and its tokens are of the old text ({error}); "
                f"{RESTORE}"
            ) from None
        self._refuse_other_text()
        files.write_json(self.folder / "manifest.json", self.corpus.manifest)
        self.report(counts(self.corpus.manifest))
        if sum(self.corpus.manifest["dropped"].values()):
            self.report(f"what was left out, and why: {self.folder / 'text' / 'dropped'}")

    def _refuse_other_text(self) -> None:
        """Compare the text with the manifest that its tokens were made with."""
        place = self.folder / "manifest.json"
        if not place.is_file():
            return
        before, now = files.read_table(place), self.corpus.manifest
        kept = {side: files.field(before, f"{side}.sha256", str, place, RESTORE_FILE) for side in ("train", "held_out")}
        moved = [side for side, sha256 in kept.items() if sha256 != now[side]["sha256"]]
        if moved:
            sides = " and ".join({"train": "training", "held_out": "held-out"}[side] for side in moved)
            raise DataError(f"{self.folder}: the {sides} text changed since this run began, or its split; {RESTORE}")

    def tokenize(self) -> None:
        place = self.folder / "tokenizer"
        self._name_special_tokens()
        self.tokenizer = make_tokenizer(self.spec, self.corpus.train, place)

    def _name_special_tokens(self) -> None:
        """Add the special tokens of the pairs to the vocabulary."""
        known = self.spec.tokenizer.special_tokens
        if self.spec.finetune is not None:
            application = find_application(self.spec.finetune.pairs)
            every = list(dict.fromkeys((*known, *(application.special_tokens if application else ()))))
            self.spec = dataclasses.replace(
                self.spec, tokenizer=spec.patch(self.spec.tokenizer, {"special_tokens": every})
            )

    def encode(self) -> None:
        place = self.folder / "data"
        self.data = {
            side: make_tokens(getattr(self.corpus, side), self.tokenizer, place / side)
            for side in ("train", "held_out")
        }

    # training

    def pretrain(self) -> None:
        later = self.spec.finetune.time_share if self.spec.finetune is not None else 0.0
        if late := self.time.late(self.before_training):
            self.report(late)
        budget = self.time.pretraining(self.before_training, later)
        if "model" not in self.planned:
            self._plan_model(budget)
        parts = RecipeParts(self.spec, TokenizedText(self.tokenizer, self.data["train"]), self.device)
        self.base = parts.model(self.spec.seed)
        self._plan_threads()
        if (self.folder / "base" / "config.json").is_file():
            self.base = load_model(self.folder / "base", device=str(self.device))
            return
        rows = parts.rows(self.spec.seed)
        done = train(
            self.base,
            rows if self.spec.finetune is None else self.practice.mixed_in(rows),
            parts.objective,
            self.spec.train,
            self.folder / "pretrain",
            seed=self.spec.seed,
            budget=self.time.pretraining(self.before_training, later) if self.recipe.spec.train.steps is None else None,
            evaluate=self._watch(),
            label="pretrain",
            team=self.team,
        )
        self._trained("pretrain", done)
        if self.spec.through is not None:
            self.spec.through.build().apply(self.base)  # exactly what was trained
        self._keep_model(self.base, "base")

    def _plan_model(self, budget: float) -> None:
        """Plan the size unless the recipe states it, and write down what was planned."""
        if plans_size(self.recipe):
            model, why = plan_size(self.spec, self.tokenizer.vocab_size, budget, self.device)
            self.planned |= why
            self.spec = dataclasses.replace(self.spec, model=model)
        context = self.spec.model.max_length
        if context is not None and not self.recipe.states("model.max_length"):
            longer = spec.patch(self.spec.model, {"max_length": max(context, 2 * self.spec.train.length)})
            self.spec = dataclasses.replace(self.spec, model=longer)
        self.planned["model"] = spec.dump(self.spec.model)
        self.held.resolve(self.spec)
        self.save()

    def _plan_threads(self) -> None:
        """A run that is resumed trains with as many threads as it began with, since sums depend on their number."""
        self.planned.setdefault("threads", torch.get_num_threads())
        self.save()
        if self.device.type == "cpu":
            torch.set_num_threads(self.planned["threads"])

    def _watch(self) -> Callable[[Any], dict[str, float]]:
        texts = measures.some_texts(self.corpus.held_out.texts(), WATCHED_BYTES)

        def evaluate(model: Any) -> dict[str, float]:
            score = score_texts(model, self.tokenizer, texts)
            return {"loss": score.loss, "bits_per_byte": score.bits_per_byte}

        return evaluate

    def write_pairs(self) -> None:
        """Encode what fine-tuning reads, and what of it pretraining reads already."""
        self.practice = pairs.load_pairs(self)
        self.practice.write()

    def finetune(self) -> None:
        asked = self.spec.finetune
        assert asked is not None
        if (self.folder / "model" / "config.json").is_file():
            self.model = load_model(self.folder / "model", device=str(self.device))
            return
        self.model = load_model(self.folder / "base", device=str(self.device))
        chosen = pairs.finetune_spec(self.spec, self.practice.length)
        length, rows = chosen.length, chosen.rows
        stream: Any = pairs.pairs_stream(self, length=length, rows=rows, name="pairs")
        if asked.language_share > 0:
            text = PackedStream(self.data["train"], length=length, rows=rows, seed=self.spec.seed, name="text")
            stream = pairs.mixture(self, {"pairs": stream, "text": text}, asked.language_share, rows=rows)
        budget = self.time.finetuning(self.before_training, asked.time_share)
        if chosen.steps is None:
            chosen = dataclasses.replace(chosen, steps=self._steps_at_the_rate_of_pretraining(budget, chosen))
            self.planned["finetune_steps"] = chosen.steps
            self.spec = dataclasses.replace(self.spec, finetune=dataclasses.replace(asked, steps=chosen.steps))
            self.held.resolve(self.spec)
            self.save()  # before the first step: a resumed run takes as many
        done = train(
            self.model,
            stream,
            asked.objective.build(tokenizer=self.tokenizer),
            chosen,
            self.folder / "finetune",
            seed=self.spec.seed,
            budget=None if self.recipe.states("finetune.steps") else budget,
            label="fine-tune",
            team=self.team,
        )
        self._trained("finetune", done)
        self._keep_model(self.model, "model")

    def _steps_at_the_rate_of_pretraining(self, budget: float, chosen: TrainSpec) -> int:
        """Steps that fit a time, at the speed of pretraining: minutes of it say more than a second of trying."""
        known = self.planned["pretrain"]
        return max(1, round(budget * known["tokens"] / max(known["seconds"], 1e-3) / chosen.batch_tokens))

    def _trained(self, stage: str, done: TrainResult) -> None:
        self.planned[stage] = {
            "steps": done.steps,
            "tokens": done.tokens,
            "seconds": round(done.seconds, 2),
            "loss": self._last_loss(stage) if done.loss is None else done.loss,
            "mfu": done.mfu,
            "peak_flops": done.plan.gemm,
            "train": spec.dump(done.spec),
        }
        if stage == "pretrain":
            self.spec = dataclasses.replace(self.spec, train=done.spec)
        elif self.spec.finetune is not None:
            self.planned["finetune_steps"] = done.spec.steps
            self.spec = dataclasses.replace(
                self.spec, finetune=dataclasses.replace(self.spec.finetune, steps=done.spec.steps)
            )
        self.held.resolve(self.spec)
        self.save()

    def _last_loss(self, stage: str) -> float:
        """Of a stage that was killed between its last step and the saving of its model."""
        losses: list[float] = [line["loss"] for line in read_metrics(self.folder / stage) if "loss" in line]
        if not losses:
            raise DataError(f"{self.folder / stage}: its metrics.jsonl names no loss; start anew with another folder")
        return losses[-1]

    def _keep_model(self, model: Any, name: str) -> None:
        ids = {"eos_token_id": self.tokenizer.eos_id, "bos_token_id": self.tokenizer.bos_id}
        model.generation = {k: v for k, v in ids.items() if v is not None}
        tokenizer = copy.copy(self.tokenizer)
        taught = model is not self.base and self.practice.chats
        if not taught and self.spec.tokenizer.chat_template is None:
            tokenizer.chat_template = None  # a model that never read a chat cannot chat
        with files.atomic_folder(self.folder / name) as folder:
            model.save_pretrained(folder)
            tokenizer.save(folder)

    # measuring

    def measure(self) -> None:
        if self.spec.finetune is None:
            self.model = self.base
            if not (self.folder / "model" / "config.json").is_file():
                self._keep_model(self.base, "model")
        held_out = measures.some_texts(self.corpus.held_out.texts(), timetable.scored_bytes(self))
        self.measured = measures.language(self, held_out)
        if self.spec.finetune is not None:
            self.measured |= self.practice.measure(self)
