"""Training with a work folder next to the classifier, so that a killed training continues from its last checkpoint.

    classifiers/bow             the classifier, once it is trained
    classifiers/bow.training    while it is trained: a run's folder (`core/run_folder.py`), with metrics and checkpoints

A resumed training gives the same bytes as an uninterrupted one: what determines them is the recipe of the folder, and
another one is refused.
"""

import contextlib
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from llmanac.core import files
from llmanac.core.progress import Report
from llmanac.core.registry import methods
from llmanac.core.run_folder import LOCK, RECIPE, STATE, Recipe, RunFolder, RunSpec
from llmanac.data.labelled import Labelled
from llmanac.models.classifiers import ClassifierSpec
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
