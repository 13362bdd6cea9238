"""`llmanac compare`: compare methods at equal budget, over paired replicates, with a verdict.

compare("position", "rope,learned,none", budget="5m", seeds=5)
compare("ffn", ["swiglu", "relu"], hold="params")
compare("decoding", "greedy,top-p{p=0.9}", artefact="runs/quickstart")
"""

import dataclasses
import functools
import importlib
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.device import machine
from llmanac.core.errors import SpecError, nearest
from llmanac.core.files import read_toml
from llmanac.core.lock import locked
from llmanac.core.outputs import check_pages
from llmanac.core.ranges import seconds
from llmanac.core.run_folder import resolved_file
from llmanac.core.shown import Shown
from llmanac.core.spec import parse_patches
from llmanac.lab import report, words
from llmanac.lab.arms import parse_arms
from llmanac.lab.axis import PICTURES, POST_HOC, TrialName, check_hold, find_axis
from llmanac.lab.budget import MIN_STEPS, round_up
from llmanac.lab.cache import StudyCache, digest, versions
from llmanac.lab.command import FLAGS, RUN_STUDY, asked_again
from llmanac.lab.report import PAGE, RESULT, keep_other, write_study
from llmanac.lab.runner import RunnerRequest, parse_tune, run_applied, run_steps
from llmanac.lab.stats import MARGIN, MIN_REPLICATES
from llmanac.lab.study import LOOKS

BASE = Path(__file__).with_name("base.toml")
STUDIES = Path(__file__).with_name("studies")


def _trial(place: str, *given: Any) -> Any:
    """What a file of `trials/` makes: only then is it imported, since most need torch."""
    module, _, name = place.partition(":")
    return operator.attrgetter(name)(importlib.import_module(f"llmanac.lab.trials.{module}"))(*given)


def _runner(run: Callable[..., dict[str, Any]], place: str) -> Callable[..., dict[str, Any]]:
    return functools.partial(run, functools.partial(_trial, place))


RUNNERS: dict[TrialName, Callable[..., dict[str, Any]]] = {
    "training": _runner(run_steps, "controlled:ControlledTrial"),
    "decoding": _runner(run_applied, "decoding:DecodingTrial.of"),
    "tokenizers": _runner(run_applied, "tokenizers:TokenizerTrial.of"),
    "quantizing": _runner(run_applied, "quantizing:QuantizingTrial"),
    "retrieving": _runner(run_applied, "retrieving:RetrievingTrial"),
    "tunings": _runner(run_steps, "tuning:TuningTrial"),
    "aligning": _runner(run_steps, "aligning:AligningTrial"),
    "pictures": _runner(run_steps, "picturing:PictureTrial"),
    "classifying": _runner(run_applied, "classifying:ClassifyingTrial.of"),
}
# what `compare` takes besides what all trials do
TAKES: dict[TrialName, tuple[str, ...]] = {
    "training": ("base", "hold", "tune", "probe", "judge"), "tunings": ("base", "hold", "tune"),
    "aligning": ("artefact", "data", "reward", "hold", "tune"), "pictures": ("base", "hold"),
    "decoding": ("base", "artefact"), "quantizing": ("base", "artefact"), "tokenizers": ("base", "artefact", "on"),
    "retrieving": ("artefact", "on"), "classifying": ("artefact", "on", "data"),
}  # fmt: skip
KEYS = (
    "kind", "arms", "baseline", "budget", "seeds", "hold", "tune", "margin", "base", "artefact", "probe", "judge",
    "on", "data", "reward", "set", "title",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class StudyResult(Shown):
    """A finished study.

    Attributes:
        folder: holds study.json, study.html and study.md.
        data: what study.json holds; docs/compare.md describes it.
    """

    folder: Path
    data: dict[str, Any]

    def title(self) -> str:
        return words.summary(self.data)

    def tables(self) -> list[dict[str, Any]]:
        metric = words.primary(self.data)
        found = [report.verdict_table(self.data, metric), report.further_table(self.data), report.cost_table(self.data)]
        return [one for one in found if one]

    @property
    def page(self) -> Path:
        return self.folder / PAGE

    @property
    def verdicts(self) -> dict[str, str]:
        """The verdict on each arm but the baseline, on the first metric."""
        metric = words.primary(self.data)["name"]
        return {c["arm"]: c["verdict"] for c in self.data["comparisons"].get(metric, [])}

    def values(self, metric: str | None = None) -> dict[str, list[float]]:
        """One number a replicate, by arm."""
        found: dict[str, list[float]] = self.data["values"][metric or words.primary(self.data)["name"]]
        return found

    def comparison(self, arm: str, metric: str | None = None) -> dict[str, Any]:
        """Everything about one arm against the baseline. Raises SpecError for an arm that has none."""
        found = {c["arm"]: c for c in self.data["comparisons"][metric or words.primary(self.data)["name"]]}
        if arm not in found:
            raise SpecError(f"{arm!r} was not compared{nearest(arm, found)} (compared: {', '.join(found)})")
        return dict(found[arm])

    def markdown(self) -> str:
        """The study in one line of Markdown."""
        return words.summary(self.data)


def compare(
    kind: str,
    arms: str | Sequence[Any] | Mapping[str, Any],
    *,
    base: Any = None,
    budget: str | float = "5m",
    seeds: int | str = MIN_REPLICATES,
    hold: str | None = None,
    tune: str | None = None,
    margin: float = MARGIN,
    baseline: str | None = None,
    artefact: str | Path | None = None,
    probe: str | Path | None = None,
    judge: str | Path | None = None,
    on: str | Path | Sequence[str] | None = None,
    data: str | Path | None = None,
    reward: Any = None,
    patches: Mapping[str, Any] | Iterable[str] = (),
    folder: str | Path | None = None,
    cache: str | Path | None = None,
    min_steps: int = MIN_STEPS,
    report: Callable[[str], None] = print,
    command: Callable[[dict[str, Any], dict[str, Any]], str] | None = None,
) -> StudyResult:
    """Compare methods on one axis; everything else comes from one base.

    Args:
        kind: what varies: a kind (`position`, `ffn`, `optimizer`, `decoding`, `tokenizer`, ...), a dotted path of the
            recipe (`train.optimizer.lr`), or `recipe` for complete recipes.
        arms: names, or names with fields (`mlp{width=512}`); a mapping gives labels of your own.
        base: a recipe (name, path, data or Spec), or a tuning's (`lab/trials/tuning.py`); by default a small model on
            the documentation of this Python.
        budget: time for everything, what was cached not counted.
        seeds: replicates of what is trained; sampling seeds of a decoding method. "auto" adds replicates until every
            arm has a verdict or the budget is spent.
        hold: what is equal between arms: tokens (default), params, flops or time.
        tune: `lr=3` gives every arm the same sweep of its learning rate.
        margin: relative margin of equivalence.
        baseline: the arm that the others are compared with; the first by default.
        artefact: the run or model that decoding methods are applied to, or that objectives align; the folder of
            documents of retrievers; the run whose text tokenizers are trained on; the language model of classifiers.
            A run brings its own text, unless a base is given.
        probe: a file of labelled texts that models of different objectives are probed with, or several with commas.
        judge: the model that scores what models of different objectives write; a 5-gram of held-out text by default.
        on: what is measured on: questions of retrievers, labelled texts of classifiers, text of tokenizers.
        data: rows that a model is aligned on, of preferences or of prompts, or labelled texts that classifiers learn
            from; reward: scores sampled answers.
        patches: of the base, as `-s` takes them.
        folder: where the study goes; `studies/<kind>-<arms>` by default.
        cache: where runs are kept; `studies/cache` by default, shared by all studies next to it.
        min_steps: a plan with fewer steps for any arm is refused.
        report: called with each line for the user.
        command: the command that the page prints for repeating the study, from the patches and arguments that settle
            what it measured; made from the arguments by default.

    Raises:
        SpecError: an unknown kind, arm, hold or field; two axes; fewer than two arms; a difference outside the axis; a
            budget that is too small. The message says what to do.
        LlmanacError: arms that did not start equal.
    """
    given = {"base": base, "artefact": artefact, "probe": probe, "judge": judge, "on": on, "data": data}
    given |= {"reward": reward, "hold": hold, "tune": tune}
    asked: dict[str, Any] = given | {"baseline": baseline, "budget": budget, "seeds": seeds, "margin": margin}
    asked["min_steps"] = min_steps
    changes = dict(patches) if isinstance(patches, Mapping) else parse_patches(patches)
    texts = parse_arms(arms)
    trial, recipe = base_of_study(kind, texts, given, changes)
    axis = dataclasses.replace(find_axis(kind, recipe), trial=trial)
    known = [text.label for text in texts]
    baseline = baseline or known[0]
    if baseline not in known:
        raise SpecError(f"baseline: {baseline!r} is not one of the arms{nearest(baseline, known)} ({', '.join(known)})")
    looks = LOOKS if seeds == "auto" else ()
    if looks and kind in POST_HOC:
        raise SpecError(f"--seeds auto: no seed is added when {kind} is compared; give a number")
    seeds = LOOKS[-1] if looks else _whole(seeds)
    if seeds < 1:
        raise SpecError(f"--seeds: {seeds} is not at least 1; a verdict needs {MIN_REPLICATES}")
    if not margin > 0:
        raise SpecError(f"--margin: {margin} is not above 0; 0.01 is a percent of the baseline")
    question = RunnerRequest(
        axis, tuple(texts), recipe, baseline,
        budget=float(budget) if isinstance(budget, (int, float)) else seconds(budget, "--budget"),
        seeds=seeds, looks=looks, hold=check_hold(hold), factors=parse_tune(tune), margin=margin, min_steps=min_steps,
        artefact=str(artefact) if artefact is not None else None, text_of_base=base is not None,
        probes=tuple(str(probe).split(",")) if probe else (), judge=str(judge) if judge is not None else None,
    )  # fmt: skip
    place = Path(folder) if folder is not None else Path("studies") / folder_name(kind, known)
    check_pages(place, "--folder", (RESULT, PAGE), "sources")
    store = StudyCache(cache if cache is not None else place.parent / "cache")
    if command is None:

        def command(pins: dict[str, Any], more: dict[str, Any]) -> str:
            return asked_again(kind, arms, changes | pins, _decisive(asked) | more)

    found = RUNNERS[axis.trial](question, place, store, report)
    pins = _settled(question, found)
    decides = bool(looks) or "train.steps" not in pins  # else the budget limits and decides nothing
    room = {} if decides else {"budget": round_up(2 * question.budget)}
    found |= {"machine": machine(), "versions": versions(), "command": command(pins, room)}
    with locked(place / ".lock"):  # another study with this folder may end at the same moment
        keep_other(place, found, report)
        write_study(place, found)
    return StudyResult(place, found)


def base_of_study(
    kind: str, texts: Sequence[Any], given: Mapping[str, Any], changes: Mapping[str, Any]
) -> tuple[TrialName, Any]:
    """How arms of a kind are tried, and what they have in common.

    Args:
        given: the arguments of `compare` that not every trial takes.

    Raises:
        SpecError: an argument that this trial does not take, or what the trial's base refuses.
    """
    base, artefact, on = given["base"], given["artefact"], given["on"]
    data = None if given["data"] is None else str(given["data"])
    trial: TrialName = POST_HOC.get(kind, "pictures" if kind == PICTURES else "training")
    found: Any = None
    if kind == "objective" and (
        found := _trial("aligning:aligning_of", texts, artefact, data, given["reward"], changes)
    ):
        trial = "aligning"
    elif trial == "training" and (found := _trial("tuning:tuning_of", base, changes)):
        trial = "tunings"
    takes = ("on",) if trial == "tokenizers" and on is not None else TAKES[trial]
    if refused := [name for name, value in given.items() if value is not None and name not in takes]:
        others = [one for one, trial in POST_HOC.items() if refused[0] in TAKES[trial]]
        where = f" ({', '.join(others)} take it)" if others else ""
        raise SpecError(f"--{refused[0]}: is not used when {kind} is compared; leave it out{where}")
    if trial == "pictures":
        return trial, _trial("picturing:picture_base", base, changes)
    if trial == "retrieving":
        return trial, _trial("retrieving:documents_of", artefact, on, changes)
    if trial == "classifying":
        return trial, _trial("classifying:labelled_of", data, on, artefact, changes)
    if on is not None:
        return trial, _trial("tokenizers:files_of", on, changes)
    if kind in POST_HOC:
        return trial, _applied_base(kind, base, artefact, changes)
    if found:
        return trial, found
    from llmanac.recipes.spec import load_recipe  # what it is made of needs torch

    return trial, load_recipe(BASE if base is None else base, changes).spec


def _applied_base(kind: str, base: Any, artefact: str | Path | None, changes: Mapping[str, Any]) -> Any:
    """The recipe that names the text of a post-hoc study: `base`, else that of the run that is the artefact.

    Raises:
        SpecError: a change of something that such a study does not use, or a tuning, which has rows and no text.
    """
    from llmanac.lab.prepare import run_of
    from llmanac.recipes.spec import load_recipe
    from llmanac.recipes.tune import TuneSpec, is_tuning

    used = ("data", "seed") if kind == "tokenizer" else ("data", "seed", "device")
    for path in changes:
        if path.split(".")[0] not in used:
            raise SpecError(
                f"-s {path}: has no effect, because nothing is trained when {kind} is compared; "
                f"only {', '.join(used)} are used"
            )
    run = run_of(artefact)
    chosen = base if base is not None else BASE if run is None else resolved_file(run)
    named = resolved_file(Path(chosen)) if isinstance(chosen, (str, Path)) and Path(chosen).is_dir() else chosen
    data = read_toml(Path(named)) if isinstance(named, (str, Path)) and Path(named).is_file() else named
    if isinstance(data, TuneSpec) or is_tuning(data):
        flag = "--artefact" if base is None else "--base"
        raise SpecError(
            f"{flag} {artefact if base is None else base}: is a tuning, which has rows and no text to hold out; "
            "name a recipe with text with --base"
        )
    return load_recipe(chosen, changes).spec


def _settled(question: RunnerRequest, found: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured or planned where the base left it open: with it the command gives the same numbers."""
    if "base" not in found:
        return {}
    before, after = question.base.train, found["base"]["train"]
    plan = found["plan"]
    stepping = before.steps is None and any(speed["step_seconds"] for speed in plan["speed"].values())
    steps = plan["steps"][question.baseline] if stepping else None
    settled = {"train.dtype": after["dtype"], "train.attention": after["attention"], "train.steps": steps}
    left = {"train.dtype": before.dtype, "train.attention": before.attention, "train.steps": "auto"}
    return {
        path: value
        for path, value in settled.items()
        if left[path] == "auto" and value not in (None, "auto") and not question.axis.covers(path)
    }


def _whole(seeds: int | str) -> int:
    try:
        return int(seeds)
    except ValueError:
        raise SpecError(f"--seeds: {seeds!r} is neither a number nor auto") from None


def _decisive(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `compare` that are not its defaults; the budget and the seeds always, since they make a plan."""
    given = {name: value for name, value in asked.items() if value is not None}
    return {name: v for name, v in given.items() if (name, v) not in (("margin", MARGIN), ("min_steps", MIN_STEPS))}


def folder_name(kind: str, labels: Sequence[str]) -> str:
    """A folder's name for a study: letters, digits, dots and hyphens only."""
    text = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join([kind, *labels])).strip("-.")
    return text if len(text) <= 80 else f"{text[:70]}-{digest(text)[:8]}"


def load_study(path: str) -> dict[str, Any]:
    """A study from a TOML file, or one that comes with the package by name.

    Raises:
        SpecError: an unknown name or key.
        DataError: a file that is not there or not TOML.
    """
    builtin = {p.stem: p for p in sorted(STUDIES.glob("*.toml"))}
    data = read_toml(builtin.get(path, Path(path)))
    for key in data:
        if key not in KEYS:
            raise SpecError(f"{path}: {key}: no such key{nearest(key, KEYS)} (known: {', '.join(KEYS)})")
    for key in ("kind", "arms"):
        if key not in data:
            raise SpecError(f"{path}: {key} is missing")
    if isinstance(data.get("base"), str) and not Path(data["base"]).is_file():
        sibling = builtin.get(path, Path(path)).with_name(data["base"])
        data["base"] = str(sibling) if sibling.is_file() else data["base"]
    return data


def studies() -> list[str]:
    """The studies that come with the package."""
    return [p.stem for p in sorted(STUDIES.glob("*.toml"))]


def run_study(path: str, **overrides: Any) -> StudyResult:
    """Run a study from TOML (or a built-in one by name); what is given here overrides what the file says.

    Raises:
        SpecError: an unknown name or key, and whatever `compare` refuses.
        DataError: a file that is not there or not TOML.
    """
    data = load_study(path)
    data.pop("title", None)
    own = dict(overrides.pop("patches", {}))
    patches = dict(data.pop("set", {})) | own
    given = {k: v for k, v in overrides.items() if v is not None}
    arms = named = given.pop("arms", None)
    said = {k: v for k, v in given.items() if k in (*FLAGS, "min_steps")}
    given.setdefault("command", lambda pins, more: asked_again(path, named, own | pins, said | more, RUN_STUDY))
    given.setdefault("folder", Path("studies") / Path(path).stem)
    kind, stated = data.pop("kind"), data.pop("arms")
    arms = arms or stated
    return compare(kind, arms, patches=patches, **(data | given))
