"""A recipe: a small tree of Specs that says how text becomes a model, and which of its fields the user stated.

Stated fields are kept; the others (the model's size, the number of steps) are planned from the budget before the first
step and written into the run's own `recipe.toml`, which states everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmanac.core import files, spec
from llmanac.core.errors import SpecError, nearest
from llmanac.core.spec import Spec, make_method
from llmanac.data.collect import RELATED, Corpus, collect, collect_built
from llmanac.data.documents import Document
from llmanac.data.sources import SourceSpec
from llmanac.data.stages import StageSpec
from llmanac.models.lm import LanguageModelSpec
from llmanac.objectives import ObjectiveSpec
from llmanac.parallel import ParallelSpec
from llmanac.quant import QuantizerSpec
from llmanac.tokenizers import TokenizerSpec
from llmanac.tokenizers._mixture import MixtureSpec
from llmanac.tokenizers.load import stretches
from llmanac.train import TrainSpec

FOLDER = Path(__file__).parent
PLAIN = ("clean", "exact")  # the stages of a corpus whose recipe names none; neither has a choice
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class DataSpec(Spec):
    """Text to learn from.

    Attributes:
        source: where the documents come from.
        stages: what is done to it on the way in, in order: those of `llmanac list stage` (a stage in a file of your own
            is for `llmanac data build`, whose output can then be the source).
        held_out: about which fraction of the groups (modules, files, ...) is kept out of training.
        related: groups of which one has at least this fraction of another's eight-word sequences stay on one side of
            that split; 0 looks for none.
        vocabulary: how much of each language or domain the tokenizer learns from; all the text as it is, if not set.
    """

    source: SourceSpec
    stages: tuple[StageSpec, ...] = field(default_factory=lambda: tuple(make_method("stage", name) for name in PLAIN))
    held_out: float = 0.05
    related: float = RELATED
    vocabulary: MixtureSpec | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.related <= 1:
            raise SpecError(f"related: {self.related} is not a fraction from 0 to 1")

    def collect(self, seed: int, folder: Path | None = None) -> Corpus:
        """The corpus; with a folder, that is where it is built (`data/pipeline`).

        Raises:
            DataError, LlmanacError: as `collect_built`.
        """
        if folder is None and tuple(stage.name for stage in self.stages) == PLAIN:
            return collect(self.source, held_out=self.held_out, seed=seed, related=self.related)
        return collect_built(self.source, self.stages, folder, held_out=self.held_out, seed=seed, related=self.related)

    def vocabulary_texts(self, part: Iterable[Document]) -> Iterable[str]:
        """The texts to learn a tokenizer from, of documents that can be read several times."""
        if self.vocabulary is None:
            return (document.text for document in part)
        by = self.vocabulary.by
        return self.vocabulary.over(
            lambda: ((document.label(by), text) for document in part for text in stretches(document.text))
        )


@dataclass(frozen=True, kw_only=True)
class FinetuneSpec(Spec):
    """Fine-tuning of the pretrained model on pairs.

    Attributes:
        pairs: the name of an application (`recipes/application.py`; "docstrings" is the documentation assistant), else
            a .jsonl(.gz) or .parquet file with `messages` or `prompt`/`completion` columns.
        objective: instruction, chat, ...
        steps: planned from the budget where it is not set.
        time_share: the fraction of the training time for fine-tuning.
        learning_rate_scale: of the pretraining rates.
        language_share: the fraction of rows that are plain text, so that the model keeps its language.
        practice_share: the fraction of the pretraining rows that an application may replace by rows of its own.
    """

    pairs: str = "docstrings"
    objective: ObjectiveSpec = field(default_factory=lambda: make_method("objective", "instruction"))
    steps: int | None = None
    time_share: float = 0.25
    learning_rate_scale: float = 0.6
    language_share: float = 0.05
    practice_share: float = 0.3

    def __post_init__(self) -> None:
        for name in ("time_share", "language_share", "practice_share"):
            if not 0 <= getattr(self, name) < 1:
                raise SpecError(f"{name}: {getattr(self, name)} is not at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec(Spec):
    """What is measured at the end.

    Attributes:
        questions: how many held-out questions of each sort the assistant is asked.
        held_out_bytes: how much held-out text is scored, at most.
        baselines: whether other compressors and models are measured on the same text.
    """

    questions: int = 150
    held_out_bytes: int = 400_000
    baselines: Literal["all", "none"] = "all"


@dataclass(frozen=True, kw_only=True)
class RecipeSpec(Spec):
    """From text to a report. `finetune` is left out where a recipe only pretrains.

    With `through`, a quantizer (ternary, binary), the model is trained through its rounding and packed at the end.
    """

    name: str = "run"
    data: DataSpec
    tokenizer: TokenizerSpec = field(default_factory=lambda: make_method("tokenizer", "bpe"))
    model: LanguageModelSpec = field(default_factory=lambda: make_method("lm", "transformer"))
    objective: ObjectiveSpec = field(default_factory=lambda: make_method("objective", "autoregressive"))
    train: TrainSpec = field(default_factory=TrainSpec)
    finetune: FinetuneSpec | None = None
    evaluate: EvaluateSpec = field(default_factory=EvaluateSpec)
    budget: str = "5m"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    through: QuantizerSpec | None = None
    parallel: ParallelSpec = field(default_factory=ParallelSpec)

    def __post_init__(self) -> None:
        seconds(self.budget, "budget")
        if self.through is not None:
            self.through.build().check_trainable()
            if self.finetune is not None:
                raise SpecError("through: packed matrices are not fine-tuned; leave [finetune] out")
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise SpecError(f"name: {self.name!r} must be letters, digits, dots, hyphens and underscores")

    @property
    def budget_seconds(self) -> float:
        """Seconds that the run may take."""
        return seconds(self.budget, "budget")


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe, the dotted paths that its file and its patches stated, and those patches as plain data."""

    spec: RecipeSpec
    stated: frozenset[str]
    patches: Mapping[str, Any] = field(default_factory=dict)

    def states(self, *paths: str) -> bool:
        """Whether one of the paths, or something below it, was stated."""
        return any(s == p or s.startswith(f"{p}.") for s in self.stated for p in paths)

    def concerns(self, path: str) -> bool:
        """Whether what was stated decides the field at `path`: itself, or a method by name, which presets fields."""
        return any(_below(path.split("."), s.split(".")) for s in self.stated)


def _below(path: list[str], stated: list[str]) -> bool:
    if len(stated) > 1 and stated[-1] == "name":
        stated = stated[:-1]
    return len(stated) <= len(path) and all(s in ("*", p) for s, p in zip(stated, path, strict=False))


def seconds(text: str, field: str = "budget") -> float:
    """`"90s"`, `"5m"`, `"2h"`, `"300"` -> seconds. Raises SpecError that names the field."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", str(text))
    if not match or float(match[1]) <= 0:
        raise SpecError(f"{field}: {text!r} is not a time; write 90s, 5m or 2h")
    return float(match[1]) * UNITS[match[2] or "s"]


def builtin() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def load_recipe(
    recipe: str | Path | Mapping[str, Any] | RecipeSpec, patches: Mapping[str, Any] | None = None
) -> Recipe:
    """Resolve a recipe: a built-in name, the path of a TOML file, plain data, or a Spec; then patch it.

    Raises:
        SpecError: an unknown recipe, field or value; the message names the path and the nearest right one.
        DataError: a file that is not there or not TOML.
    """
    if isinstance(recipe, RecipeSpec):
        data: Mapping[str, Any] = spec.dump(recipe)
    elif isinstance(recipe, Mapping):
        data = recipe
    else:
        data = read_recipe(recipe)
    try:
        made = spec.make(RecipeSpec, data)
    except SpecError as error:
        where = "" if isinstance(recipe, (Mapping, RecipeSpec)) else f"{recipe}: "
        raise SpecError(f"{where}{error}") from None
    patches = dict(patches or {})
    plain = {path: spec.dump(value) for path, value in patches.items()}
    return Recipe(spec.patch(made, patches), frozenset([*spec.flatten(data), *spec.flatten(plain)]), plain)


def shown(recipe: Recipe) -> str:
    """The recipe as TOML that reads back to the same one; what is planned later is left out and named."""
    data = spec.dump(recipe.spec)
    model = data["model"]
    left_out = []

    def leave_out(table: dict[str, Any], key: str, path: str) -> None:
        if key in table and not recipe.states(path, re.sub(r"\.\d+(?=\.)", ".*", path)):
            del table[key]
            left_out.append(path)

    if plans_size(recipe):
        for key in ("dim", "layers"):
            leave_out(model, key, f"model.{key}")
        for number, block in enumerate(model["blocks"]):
            leave_out(block["mixer"], "heads", f"model.blocks.{number}.mixer.heads")
    leave_out(model, "max_length", "model.max_length")
    left_out += ["train.steps"] if recipe.spec.train.steps is None else []
    left_out += ["finetune.steps"] if recipe.spec.finetune and recipe.spec.finetune.steps is None else []
    note = f"# Planned from the budget before the first step: {', '.join(left_out)}.\n" if left_out else ""
    return note + spec.to_toml(data)


def plans_size(recipe: Recipe) -> bool:
    """Whether the model's size is planned: the recipe does not state it, and the model is of a kind that can be."""
    model: Any = recipe.spec.model
    can_be = model.name == "transformer" and all(hasattr(block, "mixer") for block in model.blocks)
    return can_be and not recipe.states("model.dim", "model.layers")


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """The table of a built-in recipe or of a TOML file. Raises SpecError, DataError as `load_recipe`."""
    return files.read_toml(_find(str(recipe)))


def _find(name: str) -> Path:
    known = builtin()
    if name in known:
        return known[name]
    if name.endswith(".toml") or "/" in name or Path(name).is_file():
        return Path(name)
    raise SpecError(f"no recipe named {name!r}{nearest(name, known)}; give one of {', '.join(known)}, or a .toml file")
