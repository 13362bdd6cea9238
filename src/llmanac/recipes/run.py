"""`llmanac run`: a recipe of any form in a folder of its own (`core/run_folder.py`); a stopped run can be resumed.

The forms are one table. What is the same for all (reading, patches, the folder's name, its lock, what a resumed run may
change) is here and in `RunFolder`; what is done in the folder is the form's `work`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmanac.core import spec
from llmanac.core.errors import SpecError
from llmanac.core.progress import Report, time_without_once
from llmanac.core.run_folder import NothingKept, Recipe, RunFolder, RunSpec, latest_place, new_place
from llmanac.recipes import stages
from llmanac.recipes.align import AlignSpec, is_aligning
from llmanac.recipes.finished import Run
from llmanac.recipes.multimodal import Multimodal, MultimodalRecipe, is_multimodal, run_pictures
from llmanac.recipes.rlhf import RlhfSpec, is_rlhf, run_stages
from llmanac.recipes.spec import RecipeSpec, read_recipe
from llmanac.recipes.specialize import SpecializeSpec, Specializing, is_specializing
from llmanac.recipes.tune import TuneSpec, is_tuning, tune_held

__all__ = ["NothingKept", "Run", "asked_for", "run"]


@dataclass(frozen=True)
class RecipeForm:
    """A form of recipe.

    Attributes:
        kind: its Spec; fits: whether plain data is of this form.
        work: carries out the recipe of a folder that is held; called with the folder, what takes lines for the user,
            and when the run began. Returns what `results.json` holds.
        without: what to say to a field that other forms have and this one has not.
    """

    kind: type[RunSpec]
    fits: Callable[[Any], bool]
    work: Callable[[RunFolder, Report, float], dict[str, Any]]
    result: type[Run] = Run
    without: Mapping[str, str] = field(default_factory=dict)


ALONE = "RL, recipes of pictures and specialists train on one process; leave --processes out"
FORMS = (
    RecipeForm(RlhfSpec, is_rlhf, run_stages, without={"parallel": f"parallel: {ALONE}", "budget": "--budget: a recipe "
         "in stages states its steps; set rl.train.steps, sft.epochs, reward_model.epochs"}),
    RecipeForm(MultimodalRecipe, is_multimodal, run_pictures, Multimodal, {"parallel": f"parallel: {ALONE}",
         "budget": "--budget: a recipe of pictures states its steps; set -s train.steps=..."}),
    RecipeForm(SpecializeSpec, is_specializing, lambda held, report, began: Specializing(held, report).run(),
         without={"parallel": f"parallel: {ALONE}"}),
    RecipeForm(AlignSpec, is_aligning, tune_held),
    RecipeForm(TuneSpec, is_tuning, tune_held),
    RecipeForm(RecipeSpec, lambda data: True, stages.work),
)  # fmt: skip
Given = str | Path | Mapping[str, Any] | RunSpec


def asked_for(recipe: Given, changes: Mapping[str, Any]) -> tuple[RecipeForm, Recipe[Any]]:
    """A recipe's form, and the recipe with changes by path.

    Raises:
        SpecError: an unknown recipe, field or value; the message names the path and the nearest right one.
        DataError: a file that is not there or not TOML.
    """
    if isinstance(recipe, RunSpec):
        form = next(one for one in FORMS if type(recipe) is one.kind)
    data = read_recipe(recipe) if isinstance(recipe, (str, Path)) else spec.dump(recipe)
    if not isinstance(recipe, RunSpec):
        form = next(one for one in FORMS if one.fits(data))
    known = {one.name for one in dataclasses.fields(form.kind)}
    for path in changes:
        if (head := path.split(".")[0]) not in known and head in form.without:
            raise SpecError(form.without[head])
    try:
        spec.make(form.kind, data)
    except SpecError as error:
        raise SpecError(f"{recipe}: {error}" if isinstance(recipe, (str, Path)) else str(error)) from None
    return form, Recipe.made(form.kind, data, changes)


def run(
    recipe: Given,
    patches: Mapping[str, Any] | Iterable[str] = (),
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    began: float | None = None,
    report: Report = print,
    flag: str = "--folder",
) -> Run:
    """Run a recipe.

    Args:
        recipe: a built-in recipe's name, the path of a TOML file, plain data, or a Spec; of any form: pretraining,
            tuning, aligning, RL in three stages, images.
        patches: `{"train.steps": 200}` or `["train.steps=200"]`.
        folder: where everything goes; `runs/<name>` by default, or `runs/<name>-2` and so on when that is finished.
        resume: resume the run in the folder; its patches need not be repeated.
        began: from when on its budget counts, by `core.progress.time_without_once()`; from now on by default.
        report: called with each line for the user.
        flag: what names the folder in messages.

    Raises:
        SpecError: an unknown recipe, field or value; a recipe that is not the one the resumed run was started with.
        DataError: no text, or text that is not what the resumed run was started with.
        LlmanacError: a folder in use; whatever a stage raises.
        NothingKept: after Ctrl-C, where nothing was done yet. KeyboardInterrupt: after Ctrl-C, else.
    """
    began = time_without_once() if began is None else began
    changes = dict(patches) if isinstance(patches, Mapping) else spec.parse_patches(patches)
    form, asked = asked_for(recipe, changes)
    if folder is None:
        named = any(one.name == "name" for one in dataclasses.fields(form.kind))
        name = asked.spec.name if named or not isinstance(recipe, (str, Path)) else Path(recipe).stem
        folder = latest_place(name) if resume else new_place(name)
    held = RunFolder(folder, flag)
    if resume:
        asked = held.patched(lambda before: asked_for(recipe, {**before, **changes})[1], form.kind)
    with held.held(asked, resume=resume):
        results = form.work(held, report, began)
        return form.result(held.place, held.became or held.asked.spec, results)
