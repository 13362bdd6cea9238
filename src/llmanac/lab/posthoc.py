"""What trials share that are applied to something finished: their arms, and the held-out text of a base or a run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, SpecError
from llmanac.core.files import read_json, read_toml
from llmanac.core.run_folder import RECIPE, resolved_file
from llmanac.core.spec import diff
from llmanac.data.collect import Corpus
from llmanac.lab.arms import ArmText
from llmanac.lab.axis import Arm, methods_of
from llmanac.lab.command import toml_value
from llmanac.lab.prepare import seen_in
from llmanac.lab.runner import Question
from llmanac.lab.words import plural
from llmanac.recipes.spec import load_recipe
from llmanac.recipes.tune import TuneSpec, is_tuning

MANIFEST = "manifest.json"


def arms_of(question: Question, spec_of: Callable[[ArmText], Any] | None = None) -> tuple[Arm, ...]:
    """The arms of a post-hoc axis, each with its difference from the baseline."""
    named = spec_of or functools.partial(methods_of, question.axis.kind)
    specs = {text.label: named(text) for text in question.texts}
    base = specs[question.baseline]
    return tuple(Arm(label, spec, diff(base, spec), {}) for label, spec in specs.items())


def run_of(artefact: str | Path | None) -> Path | None:
    """The folder of the run that an artefact is, or is the model of; None for another model."""
    if artefact is None:
        return None
    place = Path(artefact)
    if place.name in ("model", "base") and (place.parent / MANIFEST).is_file():
        place = place.parent
    return place if (place / RECIPE).is_file() else None


def base_of(kind: str, base: Any, artefact: str | Path | None, changes: Mapping[str, Any], default: Path) -> Any:
    """The recipe that names the text of a post-hoc study: `base`, else that of the run that is the artefact.

    Raises:
        SpecError: a change of something that such a study does not use, or a tuning, which has rows and no text.
    """
    used = ("data", "seed") if kind == "tokenizer" else ("data", "seed", "device")
    for path in changes:
        if path.split(".")[0] not in used:
            raise SpecError(
                f"-s {path}: has no effect, because nothing is trained when {kind} is compared; "
                f"only {', '.join(used)} are used"
            )
    run = run_of(artefact)
    chosen = base if base is not None else default if run is None else resolved_file(run)
    named = resolved_file(Path(chosen)) if isinstance(chosen, (str, Path)) and Path(chosen).is_dir() else chosen
    data = read_toml(Path(named)) if isinstance(named, (str, Path)) and Path(named).is_file() else named
    if isinstance(data, TuneSpec) or is_tuning(data):
        flag = "--artefact" if base is None else "--base"
        raise SpecError(
            f"{flag} {artefact if base is None else base}: is a tuning, which has rows and no text to hold out; "
            "name a recipe with text with --base"
        )
    return load_recipe(chosen, changes).spec


def text_of(question: Question) -> tuple[Corpus, list[str]]:
    """The text of the base, and notes on it. It is not text that the artefact was trained on.

    Raises:
        DataError: held-out documents that the run was trained on, or a run whose own text or split has changed.
    """
    base = question.base
    corpus, run = base.data.collect(base.seed), run_of(question.artefact)
    if question.axis.kind != "decoding":
        return corpus, []
    if run is None or is_tuning(read_toml(run / RECIPE)):
        return corpus, [f"It is not known which text {question.artefact} was trained on; it may have this text."]
    before = load_recipe(resolved_file(run)).spec
    own = (before.data, before.seed) == (base.data, base.seed)
    trained = corpus if own else before.data.collect(before.seed)
    then = read_json(run / MANIFEST) if (run / MANIFEST).is_file() else trained.manifest
    sides = ("train", "held_out") if own and not question.text_of_base else ("train",)
    changed = any(then[side]["sha256"] != trained.manifest[side]["sha256"] for side in sides)
    if changed and not question.text_of_base:
        raise DataError(
            f"{run}: its text or its split is not what the model was trained on, so that documents held out now "
            "may be in its training text; restore the text, or name another with --base"
        )
    held_out = {document.text for document in corpus.held_out}
    if seen := seen_in(trained.train, held_out):
        raise DataError(
            f"data: {run} was trained on {len(seen)} of the {len(held_out)} documents that are held out here "
            f"({seen[0]} first), so that their scores say nothing; leave --base and -s out to use what the run held "
            "out, or name other text"
        )
    note = f"The text of {run} has changed since its training; it may have been trained on this text."
    return corpus, [note] if changed else []


def words_of(corpus: Corpus, source: Any) -> str:
    """The held-out text in a line."""
    set_ = {f.name: getattr(source, f.name) for f in fields(source) if getattr(source, f.name) != f.default}
    said = ", ".join(f"{name} = {toml_value(value)}" for name, value in set_.items() if name != "name" and value)
    count = sum(1 for _ in corpus.held_out)
    return f"text: {plural(count, 'held-out document')} of {source.name}{f' ({said})' if said else ''}"
