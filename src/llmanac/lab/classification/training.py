"""Training with a work folder beside the classifier's own, so that what is killed goes on from its last checkpoint.

    classifiers/bow             the classifier, once it is trained
    classifiers/bow.training    while it is trained: training.json, metrics and checkpoints

Going on gives the bytes that a training in one go gives: `training.json` holds what decides them, and anything else is
refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from torch import nn

from llmanac.core import files
from llmanac.core.errors import LlmanacError, SpecError
from llmanac.core.lock import locked
from llmanac.core.spec import diff, dump, make_method
from llmanac.data.labelled import Labelled
from llmanac.train.checkpoint import fingerprint

ENDING, RECORD, LOCK = ".training", "training.json", ".lock"
OURS = {RECORD, LOCK, "checkpoints", "plan.json", "metrics.jsonl", "tensorboard", "tokenizer"}
NAMED = {"seed": "--seed", "examples": "the labelled texts", "language_model": "--model"}


def work_folder(target: Path) -> Path:
    """Where the training of a classifier is kept until it is done."""
    return target.with_name(target.name + ENDING)


def fit(classifier: Any, examples: Labelled, target: Path, *, seed: int, resume: bool) -> None:
    """Fit a classifier and save it in `target`; its work folder is there only as long as something is left to do.

    Raises:
        SpecError: what is resumed was begun with other choices, texts or another language model.
        LlmanacError: an unfinished training is there and it is not to be resumed; another process is at it.
        SystemExit: with status 130 after Ctrl-C, which keeps the step at hand.
    """
    if not classifier.learned:
        classifier.fit(examples.texts, examples.labels, seed=seed)
        classifier.save(target)
        return
    work = work_folder(target)
    above = work.parent.exists()
    with locked(work / LOCK, busy=f"{work}: another llmanac classify train is at work there"):
        begun = _begin(work, _record(classifier, examples, seed), resume)
        try:
            classifier.fit(
                examples.texts, examples.labels, seed=seed, folder=work, resume=begun,
                report=lambda text: print(text, file=sys.stderr),
            )  # fmt: skip
            classifier.save(target)
        except KeyboardInterrupt:
            if _checkpoints(work):
                print(f"\nStopped; what is done is in {work}. Go on with the same command and --resume")
            else:
                _discard(work, above)
                print("\nStopped before anything was kept; the same command starts again.")
            raise SystemExit(130) from None
        except BaseException:
            if not _checkpoints(work):
                _discard(work, above)
            raise
        (work / RECORD).unlink(missing_ok=True)  # first: without it the folder is no training any more
        shutil.rmtree(work, ignore_errors=True)


def _discard(work: Path, above: bool) -> None:
    """Remove the work folder, and the one that it is in if that was made for it."""
    shutil.rmtree(work, ignore_errors=True)
    if not above:
        with contextlib.suppress(OSError):
            work.parent.rmdir()


def _checkpoints(work: Path) -> bool:
    return any((work / "checkpoints").glob("step-*"))


def _record(classifier: Any, examples: Labelled, seed: int) -> dict[str, Any]:
    """What decides the result."""
    text = json.dumps([examples.texts, examples.labels], separators=(",", ":"))
    model = getattr(classifier, "model", None)
    return {
        "method": dump(classifier.spec),
        "seed": seed,
        "examples": hashlib.sha256(text.encode()).hexdigest(),
        "language_model": fingerprint(model) if isinstance(model, nn.Module) else None,
    }


def _begin(work: Path, record: dict[str, Any], resume: bool) -> bool:
    """Whether there is a training to go on with; else the folder is made ready for a new one."""
    found = (work / RECORD).is_file()
    if found and resume:
        _check(work, files.read_json(work / RECORD), record)
        return True
    if found and _checkpoints(work):
        raise LlmanacError(f"{work}: holds an unfinished training; go on with --resume, or delete the folder")
    others = sorted(p.name for p in work.iterdir() if p.name not in OURS and not p.name.startswith(files.TEMPORARY))
    if others:
        raise LlmanacError(f"{work}: holds other files ({others[0]}); move them, or name another --folder")
    if resume:
        print(f"{work}: there is no training to resume; this one starts at the beginning", file=sys.stderr)
    for path in work.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    files.write_json(work / RECORD, record)
    return False


def _check(work: Path, before: Any, record: dict[str, Any]) -> None:
    again = f"but {work} was begun with others; give the old ones, or delete the folder"
    if not isinstance(before, dict) or before.keys() != record.keys():
        raise SpecError(f"--resume: {work / RECORD} is not what a training writes; delete the folder {work}")
    if before["method"] != record["method"]:
        old, new = (make_method("classifier", one) for one in (before["method"], record["method"]))
        changed = "--method" if old.name != new.name else f"-s {next(iter(diff(old, new)))}"
        raise SpecError(f"{changed}: the method's choices are other ones, {again}")
    for key, name in NAMED.items():
        if before[key] != record[key]:
            raise SpecError(f"{name}: not the same as before, {again}")
