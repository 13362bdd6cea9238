"""A trial that trains a model of images on scenes and asks it: each question has one right answer among a few.

    llmanac compare multimodal --arms clip,vilt,llava,flamingo --budget 30m

The base (`PictureBase`) gives all arms one image encoder, one text model, the rows of a step and the steps in all. An
arm with stages (the image encoder that it begins from, its language model alone) divides its steps among them: what a
llava or flamingo begins from is not free. `--hold tokens` gives every arm the same pictures, `--hold flops` steps by
the FLOPs of its stages. All arms get the same questions about the same images; chance is the mean of 1/2, 1/8, 1/6
and 1/4.

    clip                 the answer that the nearest of all captions has
    vilt, co-attention   the answer with the highest score among those that fit the question
    vlm, flamingo        the answer with the highest probability after the image and the question
"""

import functools
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from llmanac.core import files
from llmanac.core.device import resolve_device
from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, within
from llmanac.core.rng import numpy_generator
from llmanac.core.run_folder import RECIPE
from llmanac.core.spec import Spec, diff, dump, make, make_method, patch
from llmanac.core.types import OutputRequest, evaluating
from llmanac.data.pictures import PictureStream, scenes
from llmanac.kernels.nn.takes import counted
from llmanac.lab.arms import ArmText
from llmanac.lab.axis import Arm, known_method
from llmanac.lab.budget import Speed, StudyPlan
from llmanac.lab.cache import StudyCache
from llmanac.lab.pairing import hash_parameters
from llmanac.lab.runner import RunnerRequest, Say, Stepping
from llmanac.lab.sources import run_key
from llmanac.lab.study import Measurement
from llmanac.lab.words import settings_words
from llmanac.metrics import Metric
from llmanac.models.images.vit import Spec as ViTSpec
from llmanac.models.lm import LanguageModelSpec
from llmanac.recipes import multimodal as recipes
from llmanac.recipes import multimodal_data as data
from llmanac.recipes.multimodal import WORDS, MultimodalRecipe
from llmanac.recipes.multimodal_measures import vectors
from llmanac.train import TrainSpec

MEASURE_VERSION = 1  # raise it when what is measured below changes its meaning
CODE = (recipes.__name__, data.__name__, __name__)
CHOICES: dict[str, list[str]] = {
    "size": list(scenes.SIZES), "color": list(scenes.COLORS), "shape": list(scenes.SHAPES),
    "position": list(scenes.POSITIONS),
}  # fmt: skip
SIDES = {"right": "seen", "right_new": "held out"}
COMPARED, CALLED = 2, 64  # steps whose pictures are hashed; images of a call


# the share of an arm's steps that each stage has: the image encoder it begins from, its language model, its own
SHARES: dict[str, dict[str, float]] = {
    "clip": {"train": 1.0}, "vilt": {"train": 1.0}, "co-attention": {"train": 1.0},
    "vlm": {"start": 0.4, "train": 0.6}, "flamingo": {"start": 0.4, "language": 0.1, "train": 0.5},
}  # fmt: skip
REHEARSED = 3  # steps of each stage that are timed
FEWEST = 10  # steps of an arm
VISION = {"name": "vit", "image": scenes.SIDE, "patch": 8, "dim": 64, "layers": 2, "pool": "mean"}
TEXT = {"name": "transformer", "dim": 64, "layers": 2, "position": "learned", "norm": "layernorm"}
TRAIN = {"dtype": "float32", "attention": "sdpa", "compile": "never", "optimizer": {"name": "adamw", "lr": 2e-3}}


class Unmeasured(recipes.PictureRun):
    """A run without the recipe's own measurements, which take longer than a short training."""

    def measure(self, judge: Any) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class PictureBase(Spec):
    """What all arms have.

    vision, text: the image encoder and the text model, of which a single stream takes width and layers. rows: pictures
    of a step. train: its steps are those of all stages of an arm together. questions: scenes of each side asked about.
    """

    name: str = "scenes"
    vision: ViTSpec = field(default_factory=lambda: make_method("multimodal", VISION))
    text: LanguageModelSpec = field(default_factory=lambda: make_method("lm", TEXT))
    rows: int = 64
    train: TrainSpec = field(default_factory=lambda: make(TrainSpec, TRAIN))
    questions: int = 192
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    ranges = within(COUNT, "questions")


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


class PictureTrial(Stepping):
    """Trains an arm under a seed by its recipe, its steps divided among its stages, and asks it about scenes.

    Raises:
        SpecError: arms that cannot be compared, or a hold that cannot be met.
    """

    metrics: tuple[Metric, ...] = (
        Metric("right", "", "higher", "right answers"),
        Metric("right_new", "", "higher", "right answers, new pairs of color and shape"),
        *(Metric(f"{field}_new", "", "higher", f"{field} right, new pairs") for field in CHOICES),
    )
    costs: tuple[Metric, ...] = (
        Metric("parameters", "", "lower"), Metric("train_flops", "FLOP", "lower", "training FLOPs"),
        Metric("tokens", "", "lower", "pictures in training"), Metric("steps", "", "lower"),
        Metric("seconds", "s", "lower", "training time"),
    )  # fmt: skip
    replicate = "seed"

    def __init__(self, question: RunnerRequest, cache: StudyCache, say: Say) -> None:
        base = self.base = question.base
        if question.hold not in ("tokens", "flops"):
            raise SpecError(f"--hold {question.hold}: architectures of images are held at tokens (pictures) or flops")
        self.asked = {text.label: text for text in question.texts}
        recipes = {label: recipe_of(base, text, 100) for label, text in self.asked.items()}
        first = recipes[question.baseline]
        self.arms = [Arm(label, recipe, _difference(first, recipe), {}) for label, recipe in recipes.items()]
        self.flops: dict[str, float] = {}
        self.definition = [dump(base), [dump(recipe) for recipe in recipes.values()]]
        self.about = {
            "base": dump(base), "data": {"source": "scenes drawn here", "questions": 4 * base.questions},
            "notes": ["clip sees captions and never a question: its answer is that of the nearest of all captions."],
        }  # fmt: skip
        say(f"base: {base.name}: {base.rows} pictures a step; every arm: {settings_words(dump(base))}")

    def plan(self, question: RunnerRequest, started: float, work: Path, say: Say) -> StudyPlan:
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

    def parts(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Everything that decides an arm's numbers."""
        return run_key(
            "pictures", [arm.spec], CODE, measure=MEASURE_VERSION, asked=dump(arm.spec), seed=seed,
            questions=self.base.questions, device=str(resolve_device(arm.spec.device)),
        )  # fmt: skip

    def measure(self, arm: Arm, seed: int, work: Path) -> Measurement:
        """Train, or go on with a training that was killed, and ask."""
        asked, place = replace(arm.spec, seed=seed), work / "run"
        resume = (place / RECIPE).is_file()
        done = recipes.run_multimodal(asked, place, resume=resume, report=lambda line: None, run=Unmeasured)
        model, stages = done.load_model(), stages_of(place)
        material = data.load_material(asked.data, asked.tokenizer, scenes.SIDE, seed, place / "tokenizer")
        values: dict[str, list[float]] = {}
        with evaluating(model), torch.no_grad():
            for name, side in SIDES.items():
                right = answers(model, material, side, seed, self.base.questions)
                values[name] = [sum(right.values()) / len(right)]
                if side != "seen":
                    values |= {f"{field}_new": [share] for field, share in right.items()}
        steps = sum(stage["steps"] for stage in stages)
        costs: dict[str, float | None] = {
            "parameters": done.results["model"]["parameters"], "train_flops": self.flops.get(arm.label),
            "tokens": steps * asked.rows, "steps": steps, "seconds": sum(stage["seconds"] for stage in stages),
        }  # fmt: skip
        stream = PictureStream(data.Draw(material, model.spec), rows=asked.rows, seed=seed, name="train")
        rows = [
            hashlib.sha256(one.numpy().tobytes()).hexdigest() for _ in range(COMPARED) for one in next(stream).pixels
        ]
        begun = begin(model.spec, material, seed)
        return Measurement(values, costs, [], {"parameters": hash_parameters(begun), "rows": rows})


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
    recipes.run_multimodal(recipe, place, report=lambda line: None, run=Unmeasured)
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


def _a_step(recipe: MultimodalRecipe, material: data.PictureMaterial, *, alone: bool = False) -> float:
    spec = data.fitted(recipe.model, material)
    model = begin(spec, material, 0)
    batch = data.Draw(material, spec)(numpy_generator(0, "flops"), recipe.rows)
    if alone:
        model.text.requires_grad_(True)
        model = recipes.TextsAlone(model.text, spec)
    with FlopCounterMode(display=False, custom_mapping=counted()) as counter, torch.enable_grad():
        model.loss(batch)[0].backward()
    return float(counter.get_total_flops())


def begin(spec: Any, material: data.PictureMaterial, seed: int) -> Any:
    """A model with its initial weights."""
    return spec.build(vocab_size=data.vocabulary(spec, material)).initialise(seed)


@functools.cache
def scene_material() -> data.PictureMaterial:
    """The scenes and their words, as a recipe makes them."""
    seen, held = scenes.split()
    texts = [scene.caption for scene in scenes.all_scenes()] + list(scenes.QUESTIONS.values())
    tokenizer = make_method("tokenizer", recipes.WORDS).train(texts)
    longest = max(len(tokenizer.encode(text)) for text in texts) + max(len(a.split()) for a in data.ANSWERS)
    return data.PictureMaterial(seen, held, tokenizer, scenes.SIDE, longest + 2, True)


def stages_of(place: Path) -> list[dict[str, Any]]:
    """The trainings of a run: that of what it began from, of its language model, and its own."""
    folders = [place / "start", place]
    found = [files.read_table(f / recipes.RESULTS) for f in folders if (f / recipes.RESULTS).is_file()]
    return [stage for results in found for stage in results["stages"].values()]


def answers(model: Any, material: data.PictureMaterial, side: str, seed: int, count: int) -> dict[str, float]:
    """The share of right answers by question, about `count` scenes of a side."""
    items = material.some(count, side)
    pixels = material.pixels(items, numpy_generator(seed, "questions", side))
    kind = model.spec.name
    how: Callable[..., Tensor] = _nearest if kind == "clip" else _scored if kind in data.ANSWERING else _likely
    out = {}
    for name, choices in CHOICES.items():
        chosen = torch.cat([how(model, material, part, name, choices) for part in pixels.split(CALLED)])
        right = torch.tensor([choices.index(getattr(item, name)) for item in items])
        out[name] = float((chosen == right).double().mean())
    return out


def _nearest(model: Any, material: data.PictureMaterial, pixels: Tensor, field: str, choices: list[str]) -> Tensor:
    every = scenes.all_scenes()
    texts = vectors(model.texts, material.captions([scene.caption for scene in every]))
    has = torch.tensor([choices.index(getattr(scene, field)) for scene in every])
    return has[(vectors(model.images, pixels) @ texts.T).argmax(1)]


def _scored(model: Any, material: data.PictureMaterial, pixels: Tensor, field: str, choices: list[str]) -> Tensor:
    ids = material.captions([scenes.QUESTIONS[field]] * len(pixels)).to(model.device)
    lengths = (ids != material.tokenizer.pad_id).sum(1)
    places = torch.tensor([data.ANSWERS.index(choice) for choice in choices])
    return torch.as_tensor(model(ids, pixels.to(model.device), lengths).cpu()[:, places].argmax(1))


def _likely(model: Any, material: data.PictureMaterial, pixels: Tensor, field: str, choices: list[str]) -> Tensor:
    draw, found = data.Draw(material, model.spec), []
    for choice in choices:
        rows = draw.written(pixels, [(scenes.QUESTIONS[field], choice)] * len(pixels)).to(model.device)
        out = model(rows.ids, rows.pixels, targets=rows.targets, want=OutputRequest(nll="none"))
        found.append(out.nll.sum(1).cpu())
    return torch.stack(found, 1).argmin(1)
