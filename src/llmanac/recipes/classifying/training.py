"""Training with a work folder next to the classifier, so that a killed training continues from its last checkpoint.

    classifiers/bow             the classifier, once it is trained
    classifiers/bow.training    while it is trained: training.json, metrics and checkpoints

A resumed training gives the same bytes as an uninterrupted one: `training.json` records what determines them, and a
mismatch is refused. That file also marks the folder as ours: without it the folder may hold nothing but the lock, and
other files are neither overwritten nor removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from llmanac.core import files
from llmanac.core.errors import DataError, LlmanacError, SpecError
from llmanac.core.lock import locked
from llmanac.core.progress import Report
from llmanac.core.spec import diff, dump, make_method
from llmanac.data.labelled import Labelled
from llmanac.train.checkpoint import fingerprint

ENDING, RECORD, LOCK = ".training", "training.json", ".lock"
CHECKPOINTS = "checkpoints"
OURS = {RECORD, LOCK, CHECKPOINTS, "plan.json", "metrics.jsonl", "tensorboard", "tokenizer"}
DONE = {"done": True}  # what training.json says while the folder is being removed
NAMED = {"seed": "--seed", "examples": "the labelled texts", "language_model": "--model"}


def work_folder(target: Path) -> Path:
    """Where the training of a classifier is kept until it is done."""
    return target.with_name(target.name + ENDING)


class Stopped(KeyboardInterrupt):
    """Training was interrupted.

    Attributes:
        kept: the folder to go on from, None where nothing was kept.
    """

    def __init__(self, kept: Path | None) -> None:
        super().__init__()
        self.kept = kept


def fit(
    classifier: Any, examples: Labelled, target: Path, *, seed: int, resume: bool, report: Report = lambda line: None
) -> None:
    """Fit a classifier and save it in `target`; its work folder exists only during training.

    Args:
        report: called with each line about the training.

    Raises:
        SpecError: what is resumed was begun with other choices, texts or another language model.
        LlmanacError: an unfinished training is there and it is not to be resumed; another process is at it.
        Stopped: after Ctrl-C, which keeps the step at hand.
    """
    if not classifier.learned:
        classifier.fit(examples.texts, examples.labels, seed=seed)
        classifier.save(target)
        return
    work = work_folder(target)
    above = work.parent.exists()
    with locked(work / LOCK, busy=f"{work}: another llmanac classify train is at work there"):
        begun = _begin(work, _record(classifier, examples, seed), resume, report)
        try:
            classifier.fit(examples.texts, examples.labels, seed=seed, folder=work, resume=begun, report=report)
            classifier.save(target)
        except KeyboardInterrupt:
            if _checkpoints(work):
                raise Stopped(work) from None
            _discard(work, above)
            raise Stopped(None) from None
        except BaseException:
            if not _checkpoints(work):
                _discard(work, above)
            raise
        files.write_json(work / RECORD, DONE)  # first: what is half removed is nothing to go on with
        _discard(work, True)
        if others := _others(work):
            report(f"{work}: training is finished; the folder stays, since it has other files ({others[0]})")


def _discard(work: Path, above: bool) -> None:
    """Remove what is ours in the work folder, the record last, and the folder where nothing else is in it; also the
    one that it is in if that was made for it."""
    _remove(work, [path for path in work.iterdir() if path.name not in (RECORD, LOCK)])
    _remove(work, [work / RECORD, work / LOCK])
    with contextlib.suppress(OSError):
        work.rmdir()
    if not above:
        with contextlib.suppress(OSError):
            work.parent.rmdir()


def _checkpoints(work: Path) -> bool:
    return any((work / CHECKPOINTS).glob("step-*"))


def _is_ours(path: Path) -> bool:
    """Whether something in the work folder, or in its folder of checkpoints, is what a training writes."""
    if path.name.startswith(files.TEMPORARY):
        return True
    return path.name.startswith("step-") if path.parent.name == CHECKPOINTS else path.name in OURS


def _others(work: Path) -> list[str]:
    """What is in a work folder and no training wrote."""
    inside = work / CHECKPOINTS
    held = [*work.iterdir(), *(inside.iterdir() if inside.is_dir() else [])] if work.is_dir() else []
    return sorted(path.relative_to(work).as_posix() for path in held if not _is_ours(path))


def _remove(work: Path, paths: Iterable[Path]) -> None:
    for path in paths:
        if not _is_ours(path):
            continue
        with contextlib.suppress(OSError):  # what cannot be removed stays, as the folder then does
            if path == work / CHECKPOINTS and path.is_dir():
                _remove(work, path.iterdir())
                path.rmdir()
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


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


def _begin(work: Path, record: dict[str, Any], resume: bool, report: Report) -> bool:
    """Whether there is a training to go on with; else the folder is made ready for a new one."""
    before = _read(work, record) if (work / RECORD).exists() else None
    begun = before is not None and before != DONE
    if begun and resume:
        _check(work, before, record)
        return True
    if begun and _checkpoints(work):
        raise LlmanacError(f"{work}: holds an unfinished training; go on with --resume, or delete the folder")
    held = [path.name for path in work.iterdir() if path.name != LOCK and not path.name.startswith(files.TEMPORARY)]
    if others := sorted(held) if before is None else _others(work):
        raise LlmanacError(f"{work}: holds other files ({others[0]}); move them, or name another --folder")
    if resume:
        report(f"{work}: there is no training to resume; this one starts at the beginning")
    _remove(work, [path for path in work.iterdir() if path.name not in (RECORD, LOCK)])
    files.write_json(work / RECORD, record)
    return False


def _read(work: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The record of the training before. Raises SpecError for a file that no training wrote."""
    hint = f"it is not what a training writes; if nothing in {work} is needed, delete that folder, else move it away"
    try:
        before = files.read_json(work / RECORD)
    except DataError as error:
        raise SpecError(f"{error}; {hint}") from None
    if not isinstance(before, dict) or (before != DONE and before.keys() != record.keys()):
        raise SpecError(f"{work / RECORD}: {hint}")
    return before


def _check(work: Path, before: Any, record: dict[str, Any]) -> None:
    again = f"but {work} was begun with others; give the old ones, or delete the folder"
    if before["method"] != record["method"]:
        old, new = (make_method("classifier", one) for one in (before["method"], record["method"]))
        changed = "--method" if old.name != new.name else f"-s {next(iter(diff(old, new)))}"
        raise SpecError(f"{changed}: the method's choices are other ones, {again}")
    for key, name in NAMED.items():
        if before[key] != record[key]:
            raise SpecError(f"{name}: not the same as before, {again}")
