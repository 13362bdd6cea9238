"""Studies of methods applied to a finished artefact: decoding methods to one model, tokenizers to the same text."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, SpecError
from llmanac.core.files import read_json, read_toml, write_json
from llmanac.core.spec import diff, dump
from llmanac.data.collect import Corpus
from llmanac.data.split import fraction
from llmanac.evaluate.divergence import divergence
from llmanac.lab.arms import ArmText
from llmanac.lab.axis import Arm, methods_of
from llmanac.lab.budget import MIN_STEPS, RESERVE, format_duration, round_up
from llmanac.lab.cache import Cache, digest
from llmanac.lab.command import toml_value
from llmanac.lab.deadline import Deadline
from llmanac.lab.prepare import seen_in
from llmanac.lab.runner import PLAN, Question, announce, progress
from llmanac.lab.stats import BOOTSTRAP
from llmanac.lab.words import plural
from llmanac.recipes.spec import load_recipe
from llmanac.recipes.tune import RECIPE, TuneSpec, is_tuning

Say = Callable[[str], None]
MANIFEST = "manifest.json"
FEWEST_PASSAGES, MOST_PASSAGES = 32, 512
FEWEST_DOCUMENTS, MOST_DOCUMENTS = 15, 64  # that quantized models are compared on
CALIBRATED = 4  # passages that each arm continues to measure its speed


def _arms(question: Question, spec_of: Callable[[ArmText], Any] | None = None) -> tuple[Arm, ...]:
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
    chosen = base if base is not None else default if run is None else run / RECIPE
    named = Path(chosen) / RECIPE if isinstance(chosen, (str, Path)) and Path(chosen).is_dir() else chosen
    data = read_toml(Path(named)) if isinstance(named, (str, Path)) and Path(named).is_file() else named
    if isinstance(data, TuneSpec) or is_tuning(data):
        flag = "--artefact" if base is None else "--base"
        raise SpecError(
            f"{flag} {artefact if base is None else base}: is a tuning, which has rows and no text to hold out; "
            "name a recipe with text with --base"
        )
    return load_recipe(chosen, changes).spec


def _text(question: Question) -> tuple[Corpus, list[str]]:
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
    before = load_recipe(run / RECIPE).spec
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


def _words_of(corpus: Corpus, source: Any) -> str:
    """The held-out text in a line."""
    set_ = {f.name: getattr(source, f.name) for f in fields(source) if getattr(source, f.name) != f.default}
    said = ", ".join(f"{name} = {toml_value(value)}" for name, value in set_.items() if name != "name" and value)
    count = sum(1 for _ in corpus.held_out)
    return f"text: {plural(count, 'held-out document')} of {source.name}{f' ({said})' if said else ''}"


def run_tokenizers(question: Question, folder: Path, cache: Cache, say: Say) -> dict[str, Any]:
    """Tokenizers trained on one text and applied to the same held-out documents."""
    from llmanac.lab.trials.tokenizers import Texts, TokenizerTrial

    arms = _arms(question)
    recipe = question.base
    corpus, _ = _text(question)
    texts = Texts.of(corpus, recipe.data)
    say(_words_of(corpus, recipe.data.source))
    announce(arms, question.baseline, say)
    about = {
        "hold": None,
        "tune": None,
        "plan": {"words": f"Each arm is trained once and encodes {len(texts.held_out)} held-out documents."},
        "data": {
            "source": dump(recipe.data.source),
            "train_bytes": corpus.manifest["train"]["bytes"],
            "held_out_documents": len(texts.held_out),
        },
        "artefact": f"text {texts.identity}",
    }
    study = question.study(arms, TokenizerTrial(texts), about, seeds=1)
    return study.run(cache, lambda arm, seed, cached, failed: say(f"{arm}: {'from the cache' if cached else 'done'}"))


def run_decoding(question: Question, folder: Path, cache: Cache, say: Say) -> dict[str, Any]:
    """Decoding methods on one finished model.

    Raises:
        SpecError: no artefact, or a budget for too few passages.
    """
    from llmanac.lab.trials.decoding import Artefact, DecodingTrial, passages

    if question.artefact is None:
        raise SpecError("--artefact: a decoding study needs a finished model; give the folder of a run or of a model")
    arms = _arms(question)
    started = time.monotonic()
    artefact = Artefact.load(question.artefact, question.base.device)
    recipe = question.base
    corpus, notes = _text(question)
    say(_words_of(corpus, recipe.data.source))
    documents = sorted(((d.id, d.text) for d in corpus.held_out), key=lambda d: fraction(d[0], seed=1))
    found = passages(artefact, documents, MOST_PASSAGES)
    announce(arms, question.baseline, say)
    methods, text = [dump(arm.spec) for arm in arms], corpus.manifest["held_out"]["sha256"]
    definition = digest([artefact.sha256, text, methods, question.budget, question.seeds])
    count = _planned(folder / PLAN, definition)
    if count is None:
        short = DecodingTrial(artefact, found[:CALIBRATED])
        count = _passages_that_fit(question, arms, short, cache, started, len(found))
        write_json(folder / PLAN, {"definition": definition, "passages": count})
    trial = DecodingTrial(artefact, found[:count])
    documents_used = len({p.document for p in found[:count]})
    said = f"{count} passages of {documents_used} documents, {question.seeds} sampling seeds each."
    say(f"plan: {said}")
    about = {
        "hold": None,
        "tune": None,
        "plan": {"words": said},
        "data": {"source": dump(recipe.data.source), "passages": count},
        "artefact": f"{artefact.path}, sha256 {artefact.sha256}",
        **({"notes": notes} if notes else {}),
    }
    study = question.study(arms, trial, about)
    return study.run(cache, progress(say), Deadline(question.budget, started, say))


def run_quantizing(question: Question, folder: Path, cache: Cache, say: Say) -> dict[str, Any]:
    """Quantizers on one finished model.

    Raises:
        SpecError: no artefact.
    """
    from llmanac.lab.trials.quantizing import QuantizingTrial, Subject, check_arms, spec_of, texts_of

    if question.artefact is None:
        raise SpecError("--artefact: a comparison of quantizers needs a finished model; give a run, a model or a .gguf")
    arms = _arms(question, spec_of)
    started = time.monotonic()
    subject = Subject.load(question.artefact)
    check_arms(arms, subject)
    corpus, _ = _text(question)
    say(_words_of(corpus, question.base.data.source))
    announce(arms, question.baseline, say)
    held_out = [d.text for d in sorted(corpus.held_out, key=lambda d: fraction(d.id, seed=1))]
    calibration, documents = texts_of(subject, list(corpus.train.texts()), held_out, MOST_DOCUMENTS)
    methods, text = [dump(arm.spec) for arm in arms], corpus.manifest["held_out"]["sha256"]
    definition = digest([subject.sha256, text, methods, question.budget])
    count = _planned(folder / PLAN, definition)
    if count is None:
        begin = time.perf_counter()
        QuantizingTrial(subject, calibration, documents[:1]).measure(arms[0], 0, folder)
        once = time.perf_counter() - begin  # a document with both models, and what an arm costs besides
        divergence(subject.model, subject.model, documents[0])
        a_document = time.perf_counter() - begin - once
        left = question.budget * (1 - RESERVE) - (time.monotonic() - started) - len(arms) * once
        count = min(len(documents), max(FEWEST_DOCUMENTS, int(left / (len(arms) * a_document))))
        write_json(folder / PLAN, {"definition": definition, "passages": count})
    said = f"{plural(min(count, len(documents)), 'held-out document')} of up to {documents[0].ids.shape[1]} tokens."
    say(f"plan: {said}")
    about = {
        "hold": None, "tune": None, "plan": {"words": said},
        "data": {"source": dump(question.base.data.source), "documents": count},
        "artefact": f"{subject.path}, sha256 {subject.sha256}",
    }  # fmt: skip
    study = question.study(arms, QuantizingTrial(subject, calibration, documents[:count]), about, seeds=1)
    return study.run(cache, progress(say), Deadline(question.budget, started, say))


def run_retrieving(question: Question, folder: Path, cache: Cache, say: Say) -> dict[str, Any]:
    """Retrievers on one folder of documents."""
    from llmanac.lab.trials.retrieving import RetrievingTrial, spec_of

    arms = _arms(question, spec_of)
    trial = RetrievingTrial(question.base, arms)
    announce(arms, question.baseline, say)
    size, place = plural(len(trial.index), "passage"), question.base.folder
    said = f"{plural(len(trial.questions), 'question')} over {size} of {place}."
    say(f"plan: {said}")
    about = {
        "hold": None, "tune": None, "plan": {"words": said},
        "data": {"folder": question.base.folder, "questions": question.base.questions, "passages": len(trial.index)},
        "artefact": f"{question.base.folder}, {plural(len(trial.index.documents), 'document')}",
    }  # fmt: skip
    study = question.study(arms, trial, about, seeds=1, tests=BOOTSTRAP)
    return study.run(cache, progress(say))


def _planned(path: Path, definition: str) -> int | None:
    if not path.is_file():
        return None
    found = read_json(path)
    return int(found["passages"]) if found.get("definition") == definition else None


def _passages_that_fit(
    question: Question, arms: tuple[Arm, ...], trial: Any, cache: Cache, started: float, available: int
) -> int:
    """How many passages every arm can continue under every seed within the budget."""
    a_passage = 0.0
    for arm in arms:
        trial.measure(arm, 0, cache.root)  # the first call warms up
        begin = time.perf_counter()
        trial.measure(arm, 0, cache.root)
        a_passage += (time.perf_counter() - begin) / len(trial.passages)
    spent = time.monotonic() - started
    left = question.budget * (1 - RESERVE) - spent
    count = min(available, int(left / (a_passage * question.seeds)))
    fewest = min(FEWEST_PASSAGES if question.min_steps >= MIN_STEPS else CALIBRATED, available)
    if count < fewest:
        needed = (spent + fewest * a_passage * question.seeds) / (1 - RESERVE)
        raise SpecError(
            f"--budget {format_duration(question.budget)} leaves {max(0, count)} passages, and a verdict needs at "
            f"least {fewest}; use --budget {round_up(needed)} or fewer arms"
        )
    return count
