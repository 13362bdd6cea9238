"""Studies of models of images: architectures trained on the same scenes, and asked the same questions.

    llmanac compare multimodal --arms clip,vilt,llava,flamingo --budget 30m

The base (`PictureBase`) gives all arms one image encoder, one text model, the rows of a step and the steps in all. An
arm with stages divides its steps among them: what a llava or flamingo begins from is not free. `--hold tokens` gives
every arm the same pictures, `--hold flops` steps by the FLOPs of its stages.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from llmanac.core import files
from llmanac.core.errors import SpecError
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import Spec, diff, dump, make, make_method, patch
from llmanac.data.pictures import scenes
from llmanac.lab.arms import ArmText
from llmanac.lab.axis import Arm, known_method
from llmanac.lab.budget import Plan, Speed
from llmanac.lab.cache import Cache
from llmanac.lab.runner import Question, Say, Stepping
from llmanac.lab.trials.picturing import PictureTrial, Unmeasured, begin, scene_material, stages_of
from llmanac.lab.words import settings_words
from llmanac.models.lm import LanguageModelSpec
from llmanac.multimodal.vit import Spec as ViTSpec
from llmanac.recipes import multimodal_data as data
from llmanac.recipes.multimodal import WORDS, MultimodalRecipe, Texts, run_multimodal
from llmanac.train import TrainSpec

# the share of an arm's steps that each stage has: the image encoder it begins from, its language model, its own
SHARES: dict[str, dict[str, float]] = {
    "clip": {"train": 1.0}, "vilt": {"train": 1.0}, "co-attention": {"train": 1.0},
    "vlm": {"start": 0.4, "train": 0.6}, "flamingo": {"start": 0.4, "language": 0.1, "train": 0.5},
}  # fmt: skip
REHEARSED = 3  # steps of each stage that are timed
FEWEST = 10  # steps of an arm


def _vision() -> Any:
    fields = {"name": "vit", "image": scenes.SIDE, "patch": 8, "dim": 64, "layers": 2, "pool": "mean"}
    return make_method("multimodal", fields)


def _text() -> Any:
    fields = {"name": "transformer", "dim": 64, "layers": 2, "position": "learned", "norm": "layernorm"}
    return make_method("lm", fields)


def _train() -> Any:
    fields = {"dtype": "float32", "attention": "sdpa", "compile": "never", "optimizer": {"name": "adamw", "lr": 2e-3}}
    return make(TrainSpec, fields)


@dataclass(frozen=True, kw_only=True)
class PictureBase(Spec):
    """What all arms have.

    vision, text: the image encoder and the text model, of which a single stream takes width and layers. rows: pictures
    of a step. train: its steps are those of all stages of an arm together. questions: scenes of each side asked about.
    """

    name: str = "scenes"
    vision: ViTSpec = field(default_factory=_vision)
    text: LanguageModelSpec = field(default_factory=_text)
    rows: int = 64
    train: TrainSpec = field(default_factory=_train)
    questions: int = 192
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    def __post_init__(self) -> None:
        if self.questions < 1:
            raise SpecError(f"questions: {self.questions} must be at least 1")


def picture_base(base: Any, changes: Mapping[str, Any]) -> PictureBase:
    """The base of a study with its changes; `base` is a TOML file, data, or None.

    Raises:
        SpecError, DataError: a field or a file that cannot be used.
    """
    if isinstance(base, PictureBase):
        return patch(base, changes)
    table = {} if base is None else base if isinstance(base, Mapping) else files.read_toml(Path(base))
    return patch(make(PictureBase, dict(table), "base"), changes)


def recipe_of(base: PictureBase, text: ArmText, steps: int) -> MultimodalRecipe:
    """The recipe of an arm, with `steps` in all.

    Raises:
        SpecError: a method that answers no questions, or a field that it does not have.
    """
    if text.patches is not None:
        raise SpecError(f"arms.{text.label}: an architecture is named, not patched; give it a `name`")
    known_method("multimodal", text.name)
    vision, words, own = dump(base.vision), dump(base.text), dict(text.fields)
    kind = make_method("multimodal", text.name, f"arm {text.label!r}").name
    single = {"image": base.vision.image, "patch": base.vision.patch, "dim": base.vision.dim}
    forms: dict[str, dict[str, Any]] = {
        "clip": {"vision": vision, "text": words, "dim": base.vision.dim},
        "vilt": {**single, "layers": base.vision.layers + 2},
        "co-attention": {"vision": vision, "dim": base.vision.dim,
                         "text": {"name": "encoder", "dim": base.vision.dim, "layers": 1}},
        "vlm": {"vision": vision, "text": words, "layer": -1},
        "flamingo": {"vision": vision, "text": words, "latents": 8, "head_dim": 16},
    }  # fmt: skip
    if kind not in forms:
        raise SpecError(f"--arms: {text.name} answers no questions; {', '.join(forms)} do")
    given = {name: max(1, round(steps * share)) for name, share in SHARES[kind].items()}
    trains = {name: replace(base.train, steps=count) for name, count in given.items()}
    model = make_method("multimodal", {"name": text.name, **forms[kind], **own}, f"arm {text.label!r}")
    common: dict[str, Any] = {"rows": base.rows, "device": base.device, "data": data.PictureData(),
                              "tokenizer": make_method("tokenizer", WORDS)}  # fmt: skip
    start = None
    if "start" in trains:
        first = make_method("multimodal", {"name": "clip", **forms["clip"]})
        start = MultimodalRecipe(name="clip", model=first, train=trains["start"], **common)
    return MultimodalRecipe(
        name=text.name, model=model, start=start, language=trains.get("language"), train=trains["train"], **common
    )


class PicturesTrial(PictureTrial, Stepping):
    """The trial of a question: every arm's steps are divided among its stages.

    Raises:
        SpecError: arms that cannot be compared, or a hold that cannot be met.
    """

    def __init__(self, question: Question, cache: Cache, say: Say) -> None:
        base = self.base = question.base
        if question.hold not in ("tokens", "flops"):
            raise SpecError(f"--hold {question.hold}: architectures of images are held at tokens (pictures) or flops")
        self.asked = {text.label: text for text in question.texts}
        recipes = {label: recipe_of(base, text, 100) for label, text in self.asked.items()}
        first = recipes[question.baseline]
        self.arms = [Arm(label, recipe, _difference(first, recipe), {}) for label, recipe in recipes.items()]
        super().__init__(base.questions, {})
        self.definition = [dump(base), [dump(recipe) for recipe in recipes.values()]]
        self.about = {
            "base": dump(base), "data": {"source": "scenes drawn here", "questions": 4 * base.questions},
            "notes": ["clip sees captions and never a question: its answer is that of the nearest of all captions."],
        }  # fmt: skip
        say(f"base: {base.name}: {base.rows} pictures a step; every arm: {settings_words(dump(base))}")

    def plan(self, question: Question, started: float, work: Path, say: Say) -> Plan:
        """The steps of all stages, of which a few are timed."""
        a_step = {arm.label: flops_of(arm.spec) for arm in self.arms}
        held = question.hold == "flops"
        ratios = {label: a_step[question.baseline] / flops if held else 1.0 for label, flops in a_step.items()}
        speed = {arm.label: _speed(replace_steps(arm.spec, REHEARSED), work / arm.label) for arm in self.arms}
        spent, least = time.monotonic() - started, min(FEWEST, question.min_steps)
        return question.plan(spent, speed, ratios, min_steps=least, stated=self.base.train.steps)

    def with_steps(self, arm: Arm, steps: int, baseline: int) -> Arm:
        """The arm with its planned steps, whose division and FLOPs are noted."""
        moved = {} if steps == baseline else {"train.steps": (baseline, steps)}
        spec = recipe_of(self.base, self.asked[arm.label], steps)
        arm = replace(arm, spec=spec, diff=arm.diff | moved, held=moved)
        self.flops[arm.label] = flops_of(spec) * steps_of(spec)
        self.about["notes"].append(f"The steps of an arm are those of all its stages: {_stages_words(arm)}.")
        return arm


def _difference(base: MultimodalRecipe, own: MultimodalRecipe) -> dict[str, tuple[Any, Any]]:
    """What the model is, without what another architecture does not have."""
    found = diff(base, own)
    another = base.model.name != own.model.name
    return {path: pair for path, pair in found.items() if path == "model.name" or (not another and "model" in path)}


def stages(recipe: MultimodalRecipe) -> dict[str, TrainSpec]:
    """The trainings of a recipe in order."""
    start = {"start": recipe.start.train} if isinstance(recipe.start, MultimodalRecipe) else {}
    language = {} if recipe.language is None else {"language": recipe.language}
    return {**start, **language, "train": recipe.train}


def steps_of(recipe: MultimodalRecipe) -> int:
    """Steps of all stages."""
    return sum(plan.steps or 0 for plan in stages(recipe).values())


def _stages_words(arm: Arm) -> str:
    said = {"start": "its image encoder as a clip", "language": "its language model alone", "train": "itself"}
    return f"{arm.label}: " + ", ".join(f"{plan.steps} {said[name]}" for name, plan in stages(arm.spec).items())


def replace_steps(recipe: MultimodalRecipe, steps: int) -> MultimodalRecipe:
    """The recipe with so many steps in each stage."""
    short = replace(recipe.train, steps=steps)
    start = replace_steps(recipe.start, steps) if isinstance(recipe.start, MultimodalRecipe) else recipe.start
    return replace(recipe, train=short, start=start, language=None if recipe.language is None else short)


def _speed(recipe: MultimodalRecipe, place: Path) -> Speed:
    """Seconds of a mean step of all stages, by their shares, and of what is outside the steps."""
    begin = time.perf_counter()
    run_multimodal(recipe, place, report=lambda line: None, run=Unmeasured)
    spent, found = time.perf_counter() - begin, stages_of(place)
    shares = SHARES[recipe.model.name]
    taken = [stage["seconds"] / stage["steps"] for stage in found]
    step = sum(seconds * share for seconds, share in zip(taken, shares.values(), strict=True))
    return Speed(max(step, 1e-6), max(0.0, spent - sum(stage["seconds"] for stage in found)))


def flops_of(recipe: MultimodalRecipe) -> float:
    """FLOPs of a mean step of all stages, counted forward and backward on one batch of each."""
    shares = SHARES[recipe.model.name]
    material = scene_material()
    counted = {"train": _a_step(recipe, material)}
    if isinstance(recipe.start, MultimodalRecipe):
        counted["start"] = _a_step(recipe.start, material)
    if recipe.language is not None:
        counted["language"] = _a_step(recipe, material, alone=True)
    return sum(counted[name] * share for name, share in shares.items())


def _a_step(recipe: MultimodalRecipe, material: data.Material, *, alone: bool = False) -> float:
    spec = data.fitted(recipe.model, material)
    model = begin(spec, material, 0)
    batch = data.Draw(material, spec)(numpy_generator(0, "flops"), recipe.rows)
    if alone:
        model.text.requires_grad_(True)
        model = Texts(model.text, spec)
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        model.loss(batch)[0].backward()
    return float(counter.get_total_flops())
