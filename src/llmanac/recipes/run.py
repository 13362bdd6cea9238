"""`llmanac run`: one recipe, from text to a report, stage by stage; an interrupted run can be resumed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core import files, spec
from llmanac.core.errors import DataError, LlmanacError, SpecError
from llmanac.core.lock import locked
from llmanac.core.progress import Report, time_without_once
from llmanac.recipes.kept import discard
from llmanac.recipes.multimodal import Multimodal, MultimodalRecipe, is_multimodal
from llmanac.recipes.multimodal import run_named as run_pictures
from llmanac.recipes.rlhf import Rlhf, RlhfSpec, is_rlhf, run_named
from llmanac.recipes.spec import Recipe, RecipeSpec, load_recipe, read_recipe

STATE = "run.json"
LOCK = ".lock"
ANYWHERE = "parallel."  # how a run is computed: a resumed run may be on another mesh
MADE_FIRST = ("name", "data.", "tokenizer.", "seed", "finetune")  # what the text and its tokens depend on


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: everything it wrote (docs/architecture.md lists the files).
        recipe: the resolved recipe; it states everything.
        results: what `results.json` holds.
    """

    folder: Path
    recipe: RecipeSpec
    results: dict[str, Any]

    def load_model(self, which: str = "model") -> Any:
        """The final model, or with `which="base"` the pretrained one."""
        from llmanac.models.load import load_model

        return load_model(self.folder / which)

    def load_tokenizer(self) -> Any:
        """The run's tokenizer."""
        from llmanac.tokenizers.load import load_tokenizer

        return load_tokenizer(self.folder / "tokenizer")


class NothingKept(KeyboardInterrupt):
    """Stopped before the first result was written."""


def run(
    recipe: str | Path | Mapping[str, Any] | RecipeSpec | RlhfSpec | MultimodalRecipe,
    patches: Mapping[str, Any] | Iterable[str] = (),
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    began: float | None = None,
    report: Report = print,
) -> Run | Rlhf | Multimodal:
    """Run a recipe.

    Args:
        recipe: a built-in recipe's name, the path of a TOML file, plain data, or a RecipeSpec; one in three stages
            (`recipes/rlhf.py`) gives an `Rlhf`, one of images (`recipes/multimodal.py`) a `Multimodal`.
        patches: `{"train.steps": 200}` or `["train.steps=200"]`.
        folder: where everything goes; `runs/<name>` by default, or `runs/<name>-2` and so on when that is finished.
        resume: resume the run in the folder.
        began: from when on its budget counts, by `core.progress.time_without_once()`; from now on by default.
        report: called with each line for the user.

    Raises:
        SpecError: an unknown recipe, field or value; a recipe that is not the one the resumed run was started with.
        DataError: no text, or text that is not what the resumed run was started with.
        LlmanacError: a folder in use; whatever a stage raises.
    """
    began = time_without_once() if began is None else began
    changes = dict(patches) if isinstance(patches, Mapping) else spec.parse_patches(patches)
    given = read_recipe(recipe) if isinstance(recipe, (str, Path)) else recipe
    if isinstance(given, RlhfSpec) or (isinstance(given, Mapping) and is_rlhf(given)):
        return run_named(given, changes, folder, resume=resume, report=report)
    if is_multimodal(given):
        return run_pictures(given, changes, folder, resume=resume, report=report)
    try:
        from llmanac.core.device import resolve_device
        from llmanac.recipes.stages import Pipeline
        from llmanac.train.plan import Plan
        from llmanac.train.team import team
    except KeyboardInterrupt:
        raise NothingKept from None

    if resume:
        resolved, place = _resumed(recipe, changes, folder)
    else:
        assert not isinstance(recipe, (RlhfSpec, MultimodalRecipe))
        resolved = load_recipe(recipe, changes)
        if getattr(resolved.spec.model, "estimated", False):
            raise SpecError(
                f"model: {resolved.spec.model.name} is estimated by counting, and a recipe trains in steps; use "
                "llmanac ngram train --tokenizer, or llmanac compare lm"
            )
        context = getattr(resolved.spec.model, "max_length", None)
        if context is not None and resolved.states("model.max_length") and context < resolved.spec.train.length:
            raise SpecError(
                f"model.max_length: {context} is below train.length {resolved.spec.train.length}; raise it, or lower "
                "train.length"
            )
        place = _new_folder(resolved.spec.name, folder)
    there = place.exists()
    with locked(place / LOCK, busy=f"{place}: another process is running in this folder"):
        try:
            with team(resolved.spec.parallel, resolve_device(resolved.spec.device)) as ranks:
                finished, results = Pipeline(resolved, place, began, report=report, team=ranks).run()
        except LlmanacError:
            if not resume and not Plan.made(place / "pretrain"):  # refused: the corrected command can have the folder
                discard(place, there)
            raise
        except KeyboardInterrupt:
            if not (place / STATE).is_file():
                discard(place, there)
                raise NothingKept from None
            raise
    return Run(place, finished, results)


def _is_empty(place: Path) -> bool:
    return place.is_dir() and all(p.name == LOCK or p.name.startswith(files.TEMPORARY) for p in place.iterdir())


def read_state(folder: Path) -> dict[str, Any]:
    """`run.json`: the recipe as stated, what is planned, which stages are done and how long each took.

    Raises:
        DataError: the file is damaged.
    """
    state = files.read_table(folder / STATE)
    kinds = {"recipe": dict, "stated": list, "planned": dict, "seconds": dict}
    if not all(isinstance(state.get(key), kind) for key, kind in kinds.items()):
        raise DataError(f"{folder / STATE}: is damaged (no {', '.join(kinds)}); start anew with another --folder")
    return state


def _new_folder(name: str, folder: str | Path | None) -> Path:
    if folder is not None:
        place = Path(folder)
        if place.exists() and not _is_empty(place):
            if (place / STATE).is_file():
                raise LlmanacError(f"{place}: holds a run; --resume goes on with it, or give another --folder")
            raise LlmanacError(f"{place}: is there already and is no run; give another --folder")
        return place
    for number in range(1, 10_000):
        place = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not place.exists() or _is_empty(place):
            return place
        if (place / STATE).is_file() and not read_state(place).get("finished"):
            raise LlmanacError(
                f"{place}: holds an unfinished run; --resume goes on with it, --folder starts another elsewhere, "
                "or delete the folder"
            )
    raise LlmanacError(f"runs/{name}: too many runs of this name; give a --folder")


def _resumed(recipe: Any, changes: dict[str, Any], folder: str | Path | None) -> tuple[Recipe, Path]:
    """The run to resume: its recipe as it was started, and its folder. Raises SpecError for a changed recipe."""
    place = Path(folder) if folder is not None else _latest(load_recipe(recipe, changes).spec.name)
    if not (place / STATE).is_file():
        raise LlmanacError(f"{place}: there is no run to resume; leave --resume out to start one")
    state = read_state(place)
    patches = state.get("patches", {})
    asked = load_recipe(recipe, {**patches, **changes})  # the run's patches need not be repeated
    stored = dataclasses.replace(spec.make(RecipeSpec, state["recipe"], "recipe"), parallel=asked.spec.parallel)
    before = Recipe(stored, frozenset(state["stated"]), patches)
    if (place / "recipe.toml").is_file() and asked.spec == load_recipe(place / "recipe.toml").spec:
        return before, place  # the run's own recipe, with what was planned for it
    moved = {
        path: values
        for path, values in spec.diff(before.spec, asked.spec).items()
        if (before.concerns(path) or asked.concerns(path))  # else a default of another version: the stored one holds
        and not path.startswith(ANYWHERE)
    }
    begun = (place / "pretrain" / "plan.json").is_file()
    if moved and not begun and not any(path.startswith(MADE_FIRST) for path in moved):
        return asked, place  # no step was planned yet: later parts of the recipe may still change
    if moved:
        named = ", ".join(f"{path} (was {_value(old)}, now {_value(new)})" for path, (old, new) in moved.items())
        raise SpecError(
            f"{named}: the recipe changed since {place} was started, and a resumed run keeps its recipe; "
            "set the old values again to go on with it, or start anew with --folder and without --resume"
        )
    return before, place


def _latest(name: str) -> Path:
    """The newest run of this name that is not finished, else the newest; `name-10` is newer than `name-2`."""
    numbered = re.compile(rf"{re.escape(name)}(?:-(\d+))?")
    found = [(int(match[1] or 1), p) for p in Path("runs").glob("*") if (match := numbered.fullmatch(p.name))]
    runs = [place for _, place in sorted(found) if (place / STATE).is_file()]
    open_runs = [place for place in runs if not read_state(place).get("finished")]
    return (open_runs or runs or [Path("runs") / name])[-1]


def _value(value: Any) -> str:
    return "not set" if value is None else repr(value)
