"""Classifiers by name or folder: make, open, train on a file, evaluate on one.

Training with a work folder next to the classifier, so that a killed training continues from its last checkpoint.

    classifiers/bow             the classifier, once it is trained
    classifiers/bow.training    while it is trained: a run's folder (`core/run_folder.py`), with metrics and checkpoints

A resumed training gives the same bytes as an uninterrupted one: what determines them is the recipe of the folder, and
another one is refused.
"""

import contextlib
import copy
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from llmanac.core import files, registry
from llmanac.core.errors import DataError, SpecError
from llmanac.core.outputs import check_own_folder
from llmanac.core.progress import Report, progress
from llmanac.core.registry import methods
from llmanac.core.run_folder import LOCK, RECIPE, STATE, Recipe, RunFolder, RunSpec
from llmanac.core.spec import make_method, parse_patches, patch
from llmanac.data.command_problems import asked, command_bounds, save_and_tell
from llmanac.data.labelled import Labelled, read_labelled
from llmanac.evaluate.labels import Labeller
from llmanac.generate.load import load_engine
from llmanac.metrics import accuracy as classification
from llmanac.models.card import CARD
from llmanac.models.classifiers import ClassifierSpec
from llmanac.models.classifiers.load import load_classifier
from llmanac.models.folder import CONFIG
from llmanac.recipes.classification import check_sizes
from llmanac.train.checkpoint import fingerprint

ENDING = ".training"
WRITTEN = ("checkpoints", "plan.json", "metrics.jsonl", *methods("tracker"), "tokenizer", RECIPE, STATE, LOCK)


@dataclass(frozen=True, kw_only=True)
class ClassifierRun(RunSpec):
    """What decides a classifier; the labelled texts and the weights of a language model are hashes."""

    method: ClassifierSpec
    seed: int
    examples: str
    language_model: str | None = None


def fit(
    classifier: Any, examples: Labelled, target: Path, *, seed: int, resume: bool, report: Report = lambda line: None
) -> None:
    """Fit a classifier and save it in `target`; its work folder exists only during training.

    Args:
        report: called with each line about the training.

    Raises:
        SpecError: what is resumed was begun with other choices, texts or another language model.
        LlmanacError: an unfinished training is there and it is not to be resumed; another process is at it.
        NothingKept, KeyboardInterrupt: after Ctrl-C, which keeps the step at hand.
    """
    if not classifier.learned:
        classifier.fit(examples.texts, examples.labels, seed=seed)
        classifier.save(target)
        return
    work = RunFolder(target.with_name(target.name + ENDING))
    text = json.dumps([examples.texts, examples.labels], separators=(",", ":"))
    model = classifier.model
    asked = ClassifierRun(
        method=classifier.spec, seed=seed, examples=hashlib.sha256(text.encode()).hexdigest(),
        language_model=fingerprint(model) if isinstance(model, nn.Module) else None,
    )  # fmt: skip
    if resume and work.is_free():
        report(f"{work.place}: there is no training to resume; this one starts at the beginning")
        resume = False
    there = work.place.parent.exists()
    try:
        with work.held(Recipe.whole(asked), resume=resume):
            classifier.fit(examples.texts, examples.labels, seed=seed, folder=work.place, resume=resume, report=report)
            classifier.save(target)
            for name in WRITTEN:  # the recipe late: until then the folder is a training's, which --resume goes on with
                path = work.place / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                work.place.rmdir()
    finally:
        with contextlib.suppress(OSError):
            if not there:  # made for a training that left nothing
                work.place.parent.rmdir()
    if work.place.is_dir():
        left = [path.name for path in work.place.iterdir() if not path.name.startswith(files.TEMPORARY)]
        report(f"{work.place}: training is finished; the folder stays, since it has other files ({', '.join(left)})")


ROWS = 2048  # texts between two moves of the progress bar
WITHOUT_FOLDER = ("rules",)  # methods that can be used without being trained
# what a classifier's folder has, the file that it is known by first
SAVED = ("classifier.json", "model.safetensors", "vocabulary.json", "rules.toml", "model", CARD)
BOUNDS = command_bounds(longer="cut it into several")
ON_A_MODEL = ("fine_tuning", "prompting")  # files of methods


def needs_model(spec: Any) -> bool:
    """Whether a method stands on a language model."""
    return registry.find("classifier", spec.name).path.stem in ON_A_MODEL


def build_classifier(spec: Any, language_model: tuple[Any, Any] | None = None) -> Any:
    """The classifier of a Spec; one that needs a model gets a copy of it, since fine-tuning changes it.

    Args:
        language_model: a model and its tokenizer, where the Spec has no `path`.

    Raises:
        SpecError: a size that no machine could follow.
    """
    check_sizes(spec)
    if language_model is None or not needs_model(spec):
        return spec.build()
    return spec.build(model=copy.deepcopy(language_model[0]), tokenizer=language_model[1])


def make_classifier(method: str, patches: Sequence[str] = (), model: str | None = None) -> Any:
    """A classifier by name, with its choices patched, on the language model of a folder where it needs one.

    Raises:
        SpecError: an unknown method or choice, or a method that needs a model and has none.
    """
    spec = patch(make_method("classifier", method), parse_patches(patches), method)
    check_sizes(spec)
    if model is None:
        if needs_model(spec) and spec.path is None:
            raise SpecError(f"{method}: needs a language model; give --model with a run's or a model's folder")
        return build_classifier(spec)
    if not needs_model(spec):
        raise SpecError(f"--model: {method} uses no language model; leave it out")
    engine = load_engine(model, device="cpu", dtype="float32" if spec.trained == "all" else None)
    return build_classifier(spec, (engine.model, engine.tokenizer))


def open_classifier(folder: str) -> Any:
    """A saved classifier, a model's folder with a head of labels, or one that needs no training by its name."""
    if folder in WITHOUT_FOLDER and not Path(folder).is_dir():
        return make_classifier(folder)
    if (Path(folder) / CONFIG).is_file() and not (Path(folder) / SAVED[0]).is_file():
        return Labeller.load(folder)
    return load_classifier(folder)


def predict_all(classifier: Any, texts: Sequence[str], label: str = "classify") -> list[str]:
    """Labels of many texts, with progress."""
    out: list[str] = []
    with progress(label, len(texts), "texts") as bar:
        for first in range(0, len(texts), ROWS):
            part = texts[first : first + ROWS]
            out += classifier.predict(part)
            bar.advance(len(part))
    return out


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier and what it was trained on.

    Attributes:
        folder: where it is saved. replaced: whether another one was there.
        held: the texts to evaluate on, if any were given.
        seconds: of training.
        left_out: what was skipped, if anything was.
    """

    classifier: Any
    folder: Path
    replaced: bool
    examples: Labelled
    held: Labelled | None
    seconds: float
    left_out: dict[str, int | str] | None


def train(
    data: Path, method: str, *, folder: Path | None = None, test: Path | None = None, model: str | None = None,
    seed: int = 0, patches: Sequence[str] = (), text: str = "text", label: str = "label", resume: bool = False,
    on_error: str = "fatal", report: Report = lambda line: None,
) -> TrainedClassifier:  # fmt: skip
    """Train a classifier on a file and save it.

    Args:
        folder: where it goes, `classifiers/<method>` by default.
        test: labelled texts to evaluate on; read before training, so that a label that is never seen is known.
        text, label: their columns, in tables.
        resume: go on with an interrupted training.
        on_error: "skip" writes rows that cannot be used to a quarantine file next to the folder.
        report: called with each line about the training.

    Raises:
        LlmanacError: bad input or choices, a folder that holds something else.
        NothingKept, KeyboardInterrupt: after Ctrl-C.
    """
    classifier = make_classifier(method, patches, model)
    target = folder or Path("classifiers") / method
    inputs = [data, *([test] if test else []), *([Path(model)] if model else [])]
    check_own_folder(target, "--folder", SAVED, inputs, what="a classifier")
    quarantine = target.with_name(f"{target.name}.quarantine.jsonl")
    problems = asked(on_error, quarantine, inputs=inputs, bounds=BOUNDS)
    examples = read_labelled(data, text=text, label=label, problems=problems)
    held = read_labelled(test, text=text, label=label, problems=problems) if test else None
    if held is not None and test is not None and classifier.book is None:
        check_known(set(examples.labels), held, test)
    replaced = target.is_dir() and any(target.iterdir())
    start = time.perf_counter()
    fit(classifier, examples, target, seed=seed, resume=resume, report=report)
    seconds = time.perf_counter() - start
    return TrainedClassifier(classifier, target, replaced, examples, held, seconds, save_and_tell(problems))


def evaluate_on(classifier: Any, held: Labelled, path: Path) -> classification.Report:
    """The report on a file's examples. Raises DataError that names the line of a label that was never seen."""
    if classifier.book is not None and not set(classifier.labels) & set(held.labels):
        _rename(classifier, held, path)
    check_known(set(classifier.labels), held, path)
    return classification.report(classifier.labels, held.labels, predict_all(classifier, held.texts))


def check_known(known: set[str], held: Labelled, path: Path) -> None:
    """Raise DataError that names the line of the first label that is none of these."""
    for line, name in zip(held.lines, held.labels, strict=True):
        if name not in known:
            raise DataError(
                f"{path}:{line}: label {name[:60]!r} is unknown to the classifier "
                f"({', '.join(sorted(known)[:10])}); drop such rows, or train with them"
            )


def _rename(rules: Any, held: Labelled, path: Path) -> None:
    """Let rules answer with the names that a file has for their labels."""
    for name in dict.fromkeys(held.labels):
        try:
            rules.prepare([], [name], 0)
        except DataError as error:
            raise DataError(f"{path}:{held.lines[held.labels.index(name)]}: {error}") from None
    rules.prepare([], held.labels, 0)
