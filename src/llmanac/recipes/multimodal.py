"""`llmanac run clip` and the like: from pictures to a trained model of images, its scores, a report with pictures.

    start/ (another run, or part of one) -> language/ (text alone) -> training/ -> model/, results.json, report.html

All of them train by the one loop with the model's own loss (`objectives/own_loss.py`). `start` is what is trained
before: the image encoder of a vlm or flamingo, the image tokenizer of a dall-e. The pictures are procedural scenes, or
the user's (`data.paths`). A run that was stopped goes on from its last checkpoint, without the parts that are finished.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeGuard

from torch import Tensor, nn

from llmanac.core import files, registry, spec
from llmanac.core.device import resolve_device
from llmanac.core.errors import SpecError
from llmanac.core.progress import Report, announced
from llmanac.core.run_folder import RECIPE, RESULTS, Recipe, RunFolder, RunSpec
from llmanac.core.spec import make_method
from llmanac.core.types import IGNORE, Batch, LossSum, OutputRequest, evaluating
from llmanac.data.pictures import Pictures, PictureStream
from llmanac.data.pictures.preprocess import Preprocess
from llmanac.models.images import MultimodalSpec
from llmanac.models.images.clip import Clip
from llmanac.models.images.load import load_multimodal, load_part
from llmanac.models.images.samplers import SamplerSpec
from llmanac.recipes import multimodal_data as data
from llmanac.recipes.finished import Run
from llmanac.recipes.measures import loss_curve
from llmanac.recipes.multimodal_judge import JUDGE, load_judge
from llmanac.recipes.multimodal_measures import Measure, MeasuredPictures
from llmanac.recipes.multimodal_report import keep_samples, write_report
from llmanac.recipes.report import heading
from llmanac.recipes.spec import builtin, read_recipe
from llmanac.tokenizers import TokenizerSpec
from llmanac.train import TrainSpec
from llmanac.train.loop import train
from llmanac.train.metrics import read_metrics

MODEL = "model"
PARTS = {"vlm": ("vision.", "vision."), "flamingo": ("vision.", "vision."), "dall-e": ("tokenizer.", "")}
LOOKS = 5  # measurements during the training
JUDGED = ("vq-vae", "dall-e", "diffusion")
WORDS = {"name": "word", "vocab_size": 8192, "pattern": "whitespace-split", "special_tokens": list(data.SPECIAL),
         "bos": data.BEGIN, "eos": data.END, "pad": data.PAD}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MultimodalRecipe(RunSpec):
    """Attributes:
    start: what is trained before and goes into the model, a recipe of this form or a finished run's folder.
    language: how the language model of a vlm or flamingo is first trained, on the texts alone; None for not.
    rows: pictures of a step. train: its steps are to be stated; its length is not used.
    guidance, sampler: how `dall-e` and `diffusion` draw.
    """

    name: str = "pictures"
    seed: int = 0
    data: data.PictureData = field(default_factory=data.PictureData)
    tokenizer: TokenizerSpec = field(default_factory=lambda: make_method("tokenizer", WORDS))
    model: MultimodalSpec
    rows: int = 64
    train: TrainSpec = field(default_factory=TrainSpec)
    start: MultimodalRecipe | str | None = None
    language: TrainSpec | None = None
    guidance: float = 1.0
    sampler: SamplerSpec | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.start, str) and self.start in builtin():
            object.__setattr__(self, "start", spec.make(MultimodalRecipe, read_recipe(self.start)))
        known = ("clip", "vq-vae", *data.DESCRIBES, *data.ANSWERING, *data.DRAWS)
        if self.model.name not in known:
            raise SpecError(f"model: {self.model.name} has no recipe; there are {', '.join(known)}")
        if self.rows < 2:
            raise SpecError(f"rows: {self.rows} must be at least 2")
        if self.start is not None and self.model.name not in PARTS:
            raise SpecError(f"start: {self.model.name} begins from nothing; leave it out")
        if self.model.name == "dall-e" and self.start is None:
            raise SpecError("start: dall-e needs a trained image tokenizer; write vq-vae, or a run's folder")
        for name in ("train", "language"):
            plan = getattr(self, name)
            if plan is not None and plan.steps is None:
                raise SpecError(f"{name}.steps: set it; recipes of pictures state their steps")


def is_multimodal(table: Any) -> TypeGuard[Mapping[str, Any] | MultimodalRecipe]:
    """Whether a recipe's data is of this form: its model is one of images."""
    model = table.get("model") if isinstance(table, Mapping) else None
    if isinstance(table, MultimodalRecipe):
        return True
    name = model.get("name") if isinstance(model, Mapping) else model
    return isinstance(name, str) and name in registry.methods("multimodal")


class Multimodal(Run):
    """A finished run of images."""

    def load_model(self, which: str = MODEL) -> Any:
        """The trained model."""
        return load_multimodal(self.folder / which)


def run_multimodal(
    asked: MultimodalRecipe, folder: str | Path, *, resume: bool = False, report: Report = print,
    run: type[PictureRun] | None = None,
) -> Multimodal:  # fmt: skip
    """Run a recipe; `folder` gets everything.

    Args:
        resume: go on with the run in the folder, which must be of the same recipe.
        run: what runs it and what it begins from, a `PictureRun`.

    Raises:
        SpecError, DataError, CheckpointError: what cannot be used, by field or by file and line.
        KeyboardInterrupt: after Ctrl-C; the last complete step is saved.
    """
    held = RunFolder(folder)
    with held.held(Recipe.whole(asked), resume=resume):
        return Multimodal(held.place, asked, run_pictures(held, report, run=run))


def run_pictures(
    held: RunFolder, report: Report, began: float | None = None, run: type[PictureRun] | None = None
) -> dict[str, Any]:
    """Run the recipe of the folder that is held; what `results.json` holds."""
    if (held.place / RESULTS).is_file():
        return files.read_table(held.place / RESULTS)
    return (run or PictureRun)(held, report).run()


class PictureRun:
    """One call of `run_multimodal`."""

    def __init__(self, held: RunFolder, report: Report) -> None:
        self.held, self.report = held, report
        self.asked: MultimodalRecipe = held.asked.spec
        self.place, self.device = held.place, resolve_device(self.asked.device)
        self.stages: dict[str, Any] = {}  # what results.json says of the trainings
        self.judge: Any = None

    def run(self) -> dict[str, Any]:
        """Every stage that is not done yet; the results."""
        language = {} if self.asked.language is None else {"language": self.train_language}
        stages = {"begin": self.begin, **language, "train": self.train, "measure": self.look}
        return self.held.carry_out(stages, self.results)

    def begin(self) -> None:
        """The pictures, the model with its initial values, and what measures it."""
        asked = self.asked
        before = self.begun()
        model_spec: Any = asked.model
        if before is not None:
            model_spec = dataclasses.replace(model_spec, **{PARTS[model_spec.name][0][:-1]: part_of(before).spec})
        size = data.image_size(model_spec)
        self.material = data.load_material(asked.data, asked.tokenizer, size, asked.seed, self.place / data.TOKENIZER)
        if isinstance(asked.start, str) and (kept := Path(asked.start) / RECIPE).is_file():  # a loaded model has none
            theirs = spec.make(MultimodalRecipe, files.read_toml(kept), str(kept))
            data.check_start(self.material, asked.data, theirs.data, kept.parent)
        self.spec = data.fitted(model_spec, self.material)
        model = self.spec.build(vocab_size=data.vocabulary(self.spec, self.material)).initialise(asked.seed)
        if before is not None:
            own, prefix = PARTS[self.spec.name]
            load_part(getattr(model, own[:-1]), before.state_dict(), prefix)
        self.model = model.to(self.device)
        if self.material.made_here and self.spec.name in JUDGED:
            self.judge = load_judge(self.judge_folder(), self.report)
        self.measured_by = self.measure(self.judge)

    def train(self) -> None:
        draw = data.Draw(self.material, self.spec)
        self.trained("train", self.model, draw, self.asked.train, "training", self.measured_by)

    def look(self) -> None:
        """Measure the model, and keep it."""
        with evaluating(self.model), announced("measuring"):
            self.found = MeasuredPictures() if self.measured_by is None else self.measured_by(self.model)
        self.model.save_pretrained(self.place / MODEL)
        self.material.tokenizer.save(self.place / MODEL)
        Preprocess(size=self.material.size, filter="bicubic").save(self.place / MODEL)

    def measure(self, judge: Any) -> Measure | None:
        """What measures the model, on the way and at the end."""
        asked = self.asked
        return Measure(self.material, self.spec, asked.seed, judge, asked.guidance, asked.sampler)

    def judge_folder(self) -> Path:
        """Where the judge is: with the run that this one begins from, where that has one."""
        before = self.start_folder() / "judge"
        return before if (before / JUDGE).is_file() else self.place / "judge"

    def start_folder(self) -> Path:
        """The run that this one begins from."""
        start = self.asked.start
        return Path(start) if isinstance(start, str) else self.place / "start"

    def begun(self) -> Any:
        """The model that this one begins from, trained now or read from a folder."""
        start, seed, place = self.asked.start, self.asked.seed, self.start_folder()
        if start is None:
            return None
        if isinstance(start, MultimodalRecipe) and not (place / RESULTS).is_file():
            made = dataclasses.replace(start, data=self.asked.data, seed=seed, device=self.asked.device)
            self.report(f"{made.name}: what {self.asked.name} begins from")
            run_multimodal(made, place, resume=(place / RECIPE).is_file(), report=self.report, run=type(self))
        found = load_multimodal(place / MODEL if (place / MODEL).is_dir() else place, device="cpu")
        expected = "vq-vae" if self.asked.model.name == "dall-e" else "clip"
        if found.spec.name != expected:
            raise SpecError(f"start: {place} is a {found.spec.name}; {self.asked.model.name} begins from a {expected}")
        return found

    def train_language(self) -> None:
        """Train the language model alone on the texts, as what it is to see images with."""
        model = self.model
        assert self.asked.language is not None
        if self.spec.name not in data.DESCRIBES:
            raise SpecError(f"language: {self.spec.name} has no language model to train alone; leave it out")
        frozen = [p for p in model.text.parameters() if not p.requires_grad]
        model.text.requires_grad_(True)
        draw = data.Draw(self.material, self.spec)

        def texts(generator: Any, rows: int) -> Pictures:
            items = [draw.items[i] for i in generator.integers(0, len(draw.items), rows)]
            return draw.written(None, [draw.exchange(item, generator) for item in items])

        self.trained("language", TextsAlone(model.text, self.spec), texts, self.asked.language, "language", None)
        for parameter in frozen:
            parameter.requires_grad_(False)

    def trained(self, name: str, model: Any, draw: Any, plan: TrainSpec, folder: str, measure: Measure | None) -> None:
        """One training by the loop, with a few measurements on the way."""
        rows, steps = self.asked.rows, plan.steps or 0
        plan = dataclasses.replace(plan, length=1, batch_tokens=rows)
        stream = PictureStream(draw, rows=rows, seed=self.asked.seed, name=name)

        def look(trained: Any) -> Mapping[str, float]:
            assert measure is not None
            values, shown = measure.quick(trained)
            if shown is not None:
                keep_samples(self.place / "samples", stream.step, shown)
            return values

        fresh, began = not (self.place / folder).exists(), time.process_time()
        done = train(
            model, stream, make_method("objective", "own-loss").build(), plan, self.place / folder,
            seed=self.asked.seed, evaluate=look if measure else None, evaluate_every=max(1, -(-steps // LOOKS)),
            label=self.asked.name if name == "train" else f"{self.asked.name}, {name}", report=self.report,
        )  # fmt: skip
        self.stages[name] = {
            "steps": done.steps, "seconds": round(done.seconds, 2), "loss": done.loss, "pictures": done.steps * rows,
            "cpu_seconds": round(time.process_time() - began, 2) if fresh else None,  # looks included
            "curve": loss_curve(self.place / folder), "looks": looks(self.place / folder),
        }  # fmt: skip

    def results(self) -> dict[str, Any]:
        """What `results.json` holds; the report is written."""
        out = {
            **heading(self.asked.name, self.asked.seed),
            "model": {"parameters": self.model.parameter_count(), **spec.dump(self.spec)},
            "pictures": {"seen": len(self.material.seen), "held out": len(self.material.held_out),
                         "made here": self.material.made_here},
            "judge": None if self.judge is None else {"right_on_real_images": self.judge[1]},
            "stages": self.stages, "scores": self.found.scores, **self.found.extra, "next": self.next(),
        }  # fmt: skip
        rates = {side: self.material.tokenizer.unknown_rate(item.caption for item in items) for side, items in
                 (("seen", self.material.seen), ("held out", self.material.held_out))}  # fmt: skip
        if not self.material.made_here and self.spec.name != "vq-vae":
            out["unknown_words"] = rates
        write_report(self.place, out, self.found.shown)
        return out

    def next(self) -> list[str]:
        """Commands to go on with."""
        name, place = self.spec.name, self.place
        text = self.material.some(1)[0].caption
        commands = {
            "clip": f'llmanac classify-image {place} IMAGE -l "{text}" -l ...',
            **dict.fromkeys(data.DESCRIBES, f"llmanac caption {place} IMAGE"),
            **dict.fromkeys(data.DRAWS, f'llmanac generate-image {place} --prompt "{text}" -o image.png'),
            "vq-vae": f"llmanac run dalle -s start={place}",
        }
        own = commands.get(name)
        return [*([own] if own else []), f"llmanac run {self.asked.name} -s data.paths='[\"FOLDER\"]' --folder ..."]


def part_of(before: Any) -> Any:
    """What goes into the next model: the image encoder of a pair, or all of an image tokenizer."""
    return before.vision if isinstance(before, Clip) else before


class TextsAlone(nn.Module):
    """A language model that trains on the answers and the questions of `Draw.written`, without the image."""

    def __init__(self, text: Any, spec: Any) -> None:
        super().__init__()
        self.text = text
        self.skip = spec.image_tokens

    def loss(self, batch: Pictures) -> LossSum:
        """Nats of the tokens that follow, and how many they are."""
        assert batch.ids is not None and batch.targets is not None
        ids, targets = batch.ids[:, self.skip :], batch.targets[:, self.skip :]
        found = self.text(Batch(ids=ids, targets=targets), want=OutputRequest(nll="sum"))
        count: Tensor = (targets != IGNORE).sum()
        return found.nll, count, {}


def looks(folder: Path) -> list[dict[str, float | None]]:
    """Each measurement of a training: its step, the seconds until then, and what was right; None without a judge."""
    seconds = 0.0
    out: list[dict[str, float | None]] = []
    for line in read_metrics(folder):
        seconds += line.get("seconds", 0.0)
        if "evaluate_right" in line:
            out.append({"step": line["step"], "seconds": round(seconds, 2), "right": line["evaluate_right"]})
    return out
