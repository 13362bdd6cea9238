"""`llmanac run`: one recipe, from text to a report, stage by stage; an interrupted run goes on where it stopped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac import __version__
from llmanac.core import files, spec
from llmanac.core.errors import LlmanacError, SpecError
from llmanac.core.lock import locked
from llmanac.recipes.spec import Recipe, RecipeSpec, load_recipe

STATE = "run.json"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: everything it wrote (docs/architecture.md lists the files).
        recipe: the resolved recipe: nothing in it is open.
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


def run(
    recipe: str | Path | Mapping[str, Any] | RecipeSpec,
    patches: Mapping[str, Any] | Iterable[str] = (),
    *,
    folder: str | Path | None = None,
    resume: bool = False,
) -> Run:
    """Run a recipe.

    Args:
        recipe: a built-in recipe's name, the path of a TOML file, plain data, or a RecipeSpec.
        patches: `{"train.steps": 200}` or `["train.steps=200"]`.
        folder: where everything goes; `runs/<name>` by default, or `runs/<name>-2` and so on when that is finished.
        resume: go on with the run that is in the folder.

    Raises:
        SpecError: an unknown recipe, field or value.
        LlmanacError: a folder in use; whatever a stage raises.
    """
    from llmanac.recipes.stages import Pipeline

    changes = dict(patches) if isinstance(patches, Mapping) else spec.parse_patches(patches)
    if resume:
        resolved, place = _resumed(recipe, changes, folder)
    else:
        resolved = load_recipe(recipe, changes)
        place = _new_folder(resolved.spec.name, folder)
    with locked(place / ".lock", busy=f"{place}: another process is running in this folder"):
        finished, results = Pipeline(resolved, place).run()
    return Run(place, finished, results)


def read_state(folder: Path) -> dict[str, Any]:
    """`run.json`: the recipe as stated, what is planned, which stages are done and how long each took."""
    return files.read_json(folder / STATE)


def _new_folder(name: str, folder: str | Path | None) -> Path:
    if folder is not None:
        place = Path(folder)
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            if (place / STATE).is_file():
                raise LlmanacError(f"{place}: holds a run; --resume goes on with it, or give another --folder")
            raise LlmanacError(f"{place}: is there already and is no run; give another --folder")
        return place
    for number in range(1, 10_000):
        place = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not place.exists():
            return place
        if (place / STATE).is_file() and not read_state(place).get("finished"):
            raise LlmanacError(
                f"{place}: holds an unfinished run; --resume goes on with it, --folder starts another elsewhere, "
                "or delete the folder"
            )
    raise LlmanacError(f"runs/{name}: too many runs of this name; give a --folder")


def _resumed(recipe: Any, changes: dict[str, Any], folder: str | Path | None) -> tuple[Recipe, Path]:
    if folder is not None:
        place = Path(folder)
    else:
        name = load_recipe(recipe, changes).spec.name
        own = re.compile(rf"{re.escape(name)}(-\d+)?")
        names = [p for p in Path("runs").glob("*") if own.fullmatch(p.name) and (p / STATE).is_file()]
        open_runs = [p for p in names if not read_state(p).get("finished")]
        place = (open_runs or sorted(names) or [Path("runs") / name])[-1]
    if not (place / STATE).is_file():
        raise LlmanacError(f"{place}: there is no run to resume; leave --resume out to start one")
    state = read_state(place)
    before = Recipe(spec.make(RecipeSpec, state["recipe"], "recipe"), frozenset(state["stated"]))
    patched = spec.patch(before.spec, changes)
    if patched != before.spec:
        moved = ", ".join(spec.diff(before.spec, patched))
        raise SpecError(f"{moved}: a resumed run keeps its recipe; leave the change out, or start a new run")
    return before, place


def run_command(
    recipe: str,
    patches: list[str],
    *,
    budget: str | None,
    folder: Path | None,
    seed: int | None,
    resume: bool,
    show: bool,
) -> None:
    """The body of `llmanac run`: resolve, run or show, say what comes next."""
    changes = spec.parse_patches(patches)
    if budget is not None:
        changes["budget"] = budget
    if seed is not None:
        changes["seed"] = seed
    if show:
        print(spec.to_toml(spec.dump(load_recipe(recipe, changes).spec)), end="")
        return
    try:
        done = run(recipe, changes, folder=folder, resume=resume)
    except KeyboardInterrupt:
        where = f" --folder {folder}" if folder else ""
        print(f"\nStopped; nothing is lost. Go on with: llmanac run {recipe}{where} --resume")
        raise SystemExit(130) from None
    summary(done)


def summary(done: Run) -> None:
    """The results as a table on the terminal, and the commands that come next."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"{done.recipe.name}: bits per byte on held-out documents", title_justify="left")
    table.add_column("")
    table.add_column("bits per byte", justify="right")
    for name, value in sorted(done.results["bits_per_byte"].items(), key=lambda item: item[1]):
        table.add_row(name, f"{value:.3f}", style="bold" if name == "this model" else "")
    console.print(table)
    answers = done.results.get("answers")
    if answers:
        table = Table(title="answers on held-out modules, question forms never seen in training", title_justify="left")
        for head in ("", "F1", "exact", "questions"):
            table.add_column(head, justify="left" if not head else "right")
        for name, score in answers["scores"].items():
            table.add_row(name, f"{score['f1']:.3f}", f"{score['exact']:.3f}", str(score["questions"]))
        console.print(table)
        print(f"refused: {answers['refused_unanswerable']:.0%} of the questions that cannot be answered, ", end="")
        print(f"{answers['refused_answerable']:.0%} of those that can")
    print(f"report: {done.folder / 'report.html'}")
    print("Next:\n  " + "\n  ".join(done.results["next"]))


__all__ = ["Run", "__version__", "run", "run_command"]
