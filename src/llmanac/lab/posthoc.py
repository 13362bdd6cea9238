"""Studies of methods applied to a finished artefact: decoding methods to one model, tokenizers to the same text."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, SpecError
from llmanac.core.files import read_json, write_json
from llmanac.core.spec import diff, dump
from llmanac.data.collect import Corpus
from llmanac.data.split import fraction
from llmanac.lab.axis import Arm, methods_of
from llmanac.lab.budget import MIN_STEPS, RESERVE, format_duration, round_up
from llmanac.lab.cache import Cache, digest
from llmanac.lab.controlled import PLAN, Question, announce, progress
from llmanac.lab.deadline import Deadline
from llmanac.recipes.spec import load_recipe

Say = Callable[[str], None]
FEWEST_PASSAGES, MOST_PASSAGES = 32, 512
CALIBRATED = 4  # passages that each arm continues to measure its speed


def _arms(question: Question) -> tuple[Arm, ...]:
    """The arms of a post-hoc axis, each with its difference from the baseline."""
    specs = {text.label: methods_of(question.axis.kind, text) for text in question.texts}
    base = specs[question.baseline]
    return tuple(Arm(label, spec, diff(base, spec), {}) for label, spec in specs.items())


def _text(question: Question) -> tuple[Any, Corpus]:
    """The recipe whose text is used, and its text: the artefact's own where it is a run and no other base is named.

    Raises:
        DataError: the run's text, or its split, is not what the run was trained and measured on.
    """
    run = Path(question.artefact) if question.artefact and not question.text_of_base else None
    if run is None or not (run / "recipe.toml").is_file():
        return question.base, question.base.data.collect(question.base.seed)
    recipe = load_recipe(run / "recipe.toml").spec
    corpus = recipe.data.collect(recipe.seed)
    if (run / "manifest.json").is_file():
        then = read_json(run / "manifest.json")
        if any(then[side]["sha256"] != corpus.manifest[side]["sha256"] for side in ("train", "held_out")):
            raise DataError(
                f"{run}: its text or its split is not what the model was trained on, so that documents held out now "
                "may be in its training text; restore the text, or name another with --base"
            )
    return recipe, corpus


def run_tokenizers(question: Question, folder: Path, cache: Cache, say: Say) -> dict[str, Any]:
    """Tokenizers trained on one text and applied to the same held-out documents."""
    from llmanac.lab.trials.tokenizers import Texts, TokenizerTrial

    arms = _arms(question)
    recipe, corpus = _text(question)
    texts = Texts.of(corpus, recipe.data)
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
    return study.run(cache, lambda arm, seed, cached: say(f"{arm}: {'from the cache' if cached else 'done'}"))


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
    recipe, corpus = _text(question)
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
    }
    study = question.study(arms, trial, about)
    return study.run(cache, progress(say), Deadline(question.budget, started, say))


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
