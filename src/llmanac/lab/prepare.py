"""The text of a study, made once by a recipe's own stages and shared by every arm: a tokenizer, token shards, and
documents held out.

Held-out documents are taken in an order that is a hash of their names, one in four for tuning and the rest for the
result, so that a sweep never sees what the verdict is read off.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmanac.core.errors import DataError
from llmanac.core.files import atomic_folder, read_json, read_table, read_toml, write_json
from llmanac.core.lock import locked
from llmanac.core.run_folder import RECIPE, resolved_file
from llmanac.core.spec import dump
from llmanac.data.collect import Corpus
from llmanac.data.split import fraction
from llmanac.data.tokens import TokenDataset
from llmanac.lab.cache import digest
from llmanac.lab.command import toml_value
from llmanac.lab.sources import fingerprint
from llmanac.lab.words import plural
from llmanac.recipes.parts import make_tokenizer, make_tokens, tokenizer_of
from llmanac.recipes.spec import load_recipe
from llmanac.recipes.tune import is_tuning
from llmanac.tokenizers.load import load_tokenizer

if TYPE_CHECKING:
    from llmanac.lab.runner import RunnerRequest, Say

MANIFEST = "manifest.json"
CERTAIN = 200  # characters from which on two documents that begin alike are the same one
TUNING_PART = 4  # one held-out document in so many is for tuning


@dataclass(frozen=True)
class PreparedArms:
    """What every arm of a study reads.

    Attributes:
        identity: hash of every token and text below; part of every run's key. Code that makes the same tokens another
            way changes nothing.
        report, tuning: held-out texts, for the result and for sweeps.
    """

    folder: Path
    identity: str
    tokenizer: Any
    dataset: TokenDataset
    report: list[str]
    tuning: list[str]
    manifest: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """What the result says of its data."""
        return {
            "identity": self.identity, "source": self.manifest["source"],
            "train_bytes": self.manifest["train"]["bytes"], "train_tokens": len(self.dataset),
            "train_documents": self.manifest["train"]["documents"], "held_out_documents": len(self.report),
            "held_out_bytes": sum(len(text.encode("utf-8")) for text in self.report),
            "vocabulary": self.tokenizer.vocab_size, "tokenizer": self.tokenizer.fingerprint(),
            "licenses": self.manifest["train"]["licenses"],
        }  # fmt: skip


def prepare(recipe: Any, root: Path, measured_on: PreparedArms | None = None) -> PreparedArms:
    """Collect, tokenize and pack a recipe's text below `root`, or take what is there already.

    The source is read every time, since files may have changed; training the tokenizer and encoding are not repeated.

    Args:
        measured_on: whose held-out documents are taken, so that arms with text of their own are measured on one text.

    Raises:
        DataError: no text, too little to hold any out, or training text that has held-out documents of `measured_on`.
    """
    corpus = recipe.data.collect(recipe.seed)
    sources = fingerprint([recipe.tokenizer], [TokenDataset.__module__])
    key = digest(
        {
            "train": corpus.manifest["train"]["sha256"],
            "held_out": corpus.manifest["held_out"]["sha256"],
            "bytes": recipe.evaluate.held_out_bytes,
            "tokenizer": dump(tokenizer_of(recipe)),
            **({"vocabulary": dump(recipe.data.vocabulary)} if recipe.data.vocabulary else {}),
            "sources": sources,
            **({"measured_on": measured_on.identity} if measured_on else {}),
        }
    )
    folder = root / key[:2] / key
    with locked(folder.with_suffix(".lock")):
        if not (folder / "manifest.json").is_file():
            if measured_on is None:
                report, tuning = choose(corpus.held_out, recipe.evaluate.held_out_bytes)
            else:
                report, tuning = measured_on.report, measured_on.tuning
                refuse_seen(corpus.train, {*report, *tuning})
            with atomic_folder(folder) as target:
                tokenizer = make_tokenizer(recipe, corpus.train, target / "tokenizer")
                make_tokens(corpus.train, tokenizer, target / "tokens")
                write_json(target / "held_out.json", {"report": report, "tuning": tuning})
                write_json(target / "manifest.json", corpus.manifest)
    texts = read_table(folder / "held_out.json")
    tokenizer, dataset = load_tokenizer(folder / "tokenizer"), TokenDataset(folder / "tokens")
    held_out = [tokenizer.encode_array(text).tolist() for part in texts.values() for text in part]
    identity = digest(
        {
            "tokens": dataset.hash,
            "tokenizer": tokenizer.fingerprint(),
            "texts": digest(texts),
            "held_out": digest(held_out),
        }
    )
    manifest = read_table(folder / "manifest.json")
    return PreparedArms(folder, identity, tokenizer, dataset, texts["report"], texts["tuning"], manifest)


def seen_in(documents: Iterable[Any], held_out: set[str]) -> list[str]:
    """The names of documents to train on that are held out, or of which the beginning is."""
    begun = tuple(text for text in held_out if len(text) >= CERTAIN)  # a held-out document may have been cut
    return [d.id for d in documents if d.text in held_out or d.text.startswith(begun)]


def refuse_seen(documents: Iterable[Any], held_out: set[str]) -> None:
    """Raise DataError where a document to train on is one of those that the arms are measured on."""
    if seen := seen_in(documents, held_out):
        raise DataError(
            f"data: this arm would train on {len(seen)} of the documents that the base holds out ({seen[0]} first); "
            "give both the same documents and data.held_out, or a source without them"
        )


def choose(documents: Iterable[Any], most_bytes: int) -> tuple[list[str], list[str]]:
    """`(for the result, for tuning)`: at most `most_bytes` of held-out text, tuning texts a quarter of it.

    A corpus with one held-out document is cut in two at a line end.

    Raises:
        DataError: too little held-out text for two parts.
    """
    ordered = sorted(documents, key=lambda document: fraction(document.id, seed=1))
    texts = [document.text for document in ordered]
    if len(texts) == 1:
        lines = texts[0].splitlines(keepends=True)
        cut = max(1, len(lines) // TUNING_PART)
        texts = ["".join(lines[:cut]), "".join(lines[cut:])]
        if not texts[1].strip():
            half = len(texts[0]) // TUNING_PART
            texts = [texts[0][:half], texts[0][half:]]
    tuning = _limit(texts[::TUNING_PART], max(1, most_bytes // TUNING_PART))
    report = _limit([text for i, text in enumerate(texts) if i % TUNING_PART], most_bytes)
    if not any(text.strip() for text in report) or not any(text.strip() for text in tuning):
        raise DataError("data.held_out: too little text is held out to compare on; add text or raise data.held_out")
    return report, tuning


def _limit(texts: list[str], most_bytes: int) -> list[str]:
    """Whole documents until the bytes are used up; a first document that is larger is cut."""
    out: list[str] = []
    left = most_bytes
    for text in texts:
        size = len(text.encode("utf-8"))
        if size > left:
            if not out:
                out.append(text.encode("utf-8")[:left].decode("utf-8", errors="ignore"))
            continue
        out.append(text)
        left -= size
    return out


def run_of(artefact: str | Path | None) -> Path | None:
    """The folder of the run that an artefact is, or is the model of; None for another model."""
    if artefact is None:
        return None
    place = Path(artefact)
    if place.name in ("model", "base") and (place.parent / MANIFEST).is_file():
        place = place.parent
    return place if (place / RECIPE).is_file() else None


def text_of(question: RunnerRequest, say: Say) -> tuple[Corpus, list[str]]:
    """The text that something finished is applied to, and notes on it: not text that the artefact was trained on.

    Raises:
        DataError: held-out documents that the run was trained on, or a run whose own text or split has changed.
    """
    base = question.base
    corpus, run = base.data.collect(base.seed), run_of(question.artefact)
    source, count = base.data.source, sum(1 for _ in corpus.held_out)
    stated = {f.name: getattr(source, f.name) for f in fields(source) if getattr(source, f.name) != f.default}
    said = ", ".join(f"{name} = {toml_value(value)}" for name, value in stated.items() if name != "name" and value)
    say(f"text: {plural(count, 'held-out document')} of {source.name}{f' ({said})' if said else ''}")
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
