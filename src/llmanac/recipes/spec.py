"""A recipe: a small tree of Specs that says how text becomes a model, and which of its fields the user stated.

Stated fields are kept; the others (the model's size, the number of steps) are planned from the budget before the first
step and written into the run's `resolved.toml`, which states everything.
"""

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmanac.core import files, spec
from llmanac.core.errors import SpecError, nearest
from llmanac.core.ranges import FRACTION, PART, seconds, within
from llmanac.core.run_folder import Recipe, RunSpec
from llmanac.core.spec import Spec, make_method
from llmanac.data.collect import RELATED, Corpus, collect, collect_built
from llmanac.data.documents import Document
from llmanac.data.sources import SourceSpec
from llmanac.data.stages import StageSpec
from llmanac.models.lm import LanguageModelSpec
from llmanac.models.mixers import HeadsSpec
from llmanac.objectives import ObjectiveSpec
from llmanac.parallel import ParallelSpec
from llmanac.quant import QuantizerSpec
from llmanac.tokenizers import TokenizerSpec, VocabularyMixtureSpec
from llmanac.tokenizers.load import stretches
from llmanac.train import TrainSpec

FOLDER = Path(__file__).parent
PLAIN = ("clean", "exact")  # the stages of a corpus whose recipe names none; neither has a choice


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
    vocabulary: VocabularyMixtureSpec | None = None

    ranges = within(FRACTION, "related")

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
            a file of rows as `llmanac tune` reads them.
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

    ranges = within(PART, "time_share language_share practice_share")


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
class RecipeSpec(RunSpec):
    """From text to a report. `finetune` is left out where a recipe only pretrains.

    With `through`, a quantizer (ternary, binary), the model is trained through its rounding and packed at the end.
    """

    free = ("parallel",)
    first = ("name", "data.", "tokenizer.", "seed", "finetune")

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
        _ = self.train.rows  # there is one

    def forget(self, place: Path) -> None:
        """The pairs: their length, and which of them are held out, may change."""
        for path in (place / "data").glob("*"):
            if path.name not in ("train", "held_out"):
                shutil.rmtree(path, ignore_errors=True)

    def planned(self, recipe: Recipe[Any]) -> list[str]:
        """The size of the model, its context and the steps of the trainings, as far as they are left open."""
        model: Any = self.model
        paths = []
        if plans_size(recipe):
            heads = [number for number, block in enumerate(model.blocks) if isinstance(block.mixer, HeadsSpec)]
            paths = ["model.dim", "model.layers", *(f"model.blocks.{number}.mixer.heads" for number in heads)]
        if model.max_length is not None:
            paths.append("model.max_length")
        paths += ["train.steps"] if self.finetune is None else ["train.steps", "finetune.steps"]
        return [path for path in paths if not recipe.states(path, re.sub(r"\.\d+(?=\.)", ".*", path))]

    @property
    def budget_seconds(self) -> float:
        """Seconds that the run may take."""
        return seconds(self.budget, "budget")


def builtin() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def load_recipe(
    recipe: str | Path | Mapping[str, Any] | RecipeSpec, patches: Mapping[str, Any] | None = None
) -> Recipe[RecipeSpec]:
    """Resolve a recipe: a built-in name, the path of a TOML file, plain data, or a Spec; then patch it.

    Raises:
        SpecError: an unknown recipe, field or value; the message names the path and the nearest right one.
        DataError: a file that is not there or not TOML.
    """
    if isinstance(recipe, (str, Path)):
        data: Mapping[str, Any] = read_recipe(recipe)
        try:
            spec.make(RecipeSpec, data)
        except SpecError as error:
            raise SpecError(f"{recipe}: {error}") from None
    else:
        data = spec.dump(recipe)
    return Recipe.made(RecipeSpec, data, patches)


def plans_size(recipe: Recipe[RecipeSpec]) -> bool:
    """Whether the model's size is planned: the recipe does not state it, and the model is of a kind that can be."""
    model: Any = recipe.spec.model
    can_be = model.name == "transformer"
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
