"""The bodies of `llmanac classify train | evaluate | explain`."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llmanac.core import registry
from llmanac.core.errors import DataError, SpecError
from llmanac.core.outputs import check_own_folder
from llmanac.core.progress import progress
from llmanac.core.spec import make_method, parse_patches, patch
from llmanac.data.command_problems import CommandProblems, asked, command_bounds, left_out, save_and_tell
from llmanac.data.labelled import Labelled, read_labelled
from llmanac.evaluate.classification import Report, report
from llmanac.lab.classification import training
from llmanac.models.classifiers.load import load_classifier
from llmanac.recipes.classification import check_sizes

ROWS = 2048  # texts between two moves of the progress bar
WITHOUT_FOLDER = ("rules",)  # methods that can be used without being trained
# what a classifier's folder has, the file that it is known by first
SAVED = ("classifier.json", "model.safetensors", "vocabulary.json", "rules.toml", "model")
BOUNDS = command_bounds(longer="cut it into several")
ON_A_MODEL = ("fine-tuning", "prompting")


def make_classifier(method: str, patches: Sequence[str] = (), model: str | None = None) -> Any:
    """A classifier by name, with its choices patched, on a language model where it needs one.

    Raises:
        SpecError: an unknown method or choice, or a method that needs a model and has none.
    """
    spec = patch(make_method("classifier", method), parse_patches(patches), method)
    check_sizes(spec)
    own = registry.find("classifier", method).path.stem.replace("_", "-")
    if own not in ON_A_MODEL:
        if model is not None:
            raise SpecError(f"--model: {method} stands on no language model; leave it out")
        return spec.build()
    if model is None:
        if spec.path is None:
            raise SpecError(f"{method}: needs a language model; give --model with a run's or a model's folder")
        return spec.build()
    lm, tokenizer = open_language_model(model)
    return spec.build(model=lm, tokenizer=tokenizer)


def open_language_model(path: str) -> tuple[Any, Any]:
    """Model and tokenizer of a run's folder, a model's folder or a hub model."""
    from llmanac.generate.load import locate
    from llmanac.models.load import load_model
    from llmanac.tokenizers.load import load_tokenizer

    where, tokenizer = locate(path)
    return load_model(where, device="cpu"), load_tokenizer(tokenizer)


def open_classifier(folder: str) -> Any:
    """A saved classifier, or one that needs no training by its name."""
    if folder in WITHOUT_FOLDER and not Path(folder).is_dir():
        return make_classifier(folder)
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


def train_command(
    data: Path,
    method: str,
    *,
    folder: Path | None,
    test: Path | None,
    model: str | None,
    seed: int,
    patches: Sequence[str],
    text: str,
    label: str,
    resume: bool = False,
    on_error: str = "fatal",
) -> None:
    """Train, save, and evaluate where there is something to evaluate on."""
    classifier = make_classifier(method, patches, model)
    target = folder or Path("classifiers") / method
    inputs = [data, *([test] if test else []), *([Path(model)] if model else [])]
    check_own_folder(target, "--folder", SAVED, inputs, what="a classifier")
    aside = target.with_name(f"{target.name}.quarantine.jsonl")
    problems = asked(on_error, aside, inputs=inputs, bounds=BOUNDS)
    examples = read_labelled(data, text=text, label=label, problems=problems)
    held = read_labelled(test, text=text, label=label, problems=problems) if test else None
    if held is not None and test is not None and not hasattr(classifier, "book"):
        check_known(set(examples.labels), held, test)
    replaced = target.is_dir() and any(target.iterdir())
    start = time.perf_counter()
    training.fit(classifier, examples, target, seed=seed, resume=resume)
    seconds = time.perf_counter() - start
    if replaced:
        print(f"{target}: takes the place of the classifier that was there")
    if told := save_and_tell(problems):
        print(left_out(told))
    print(f"{method}: {len(examples):,} examples, {len(classifier.labels)} labels, {seconds:.1f} s; saved in {target}")
    if held is not None and test is not None:
        print_report(evaluate_on(classifier, held, test))
        print(f"Next: llmanac classify explain {shlex.quote(str(target))} {shlex.quote(_short(held.texts[0]))}")
    else:
        print(f"Next: llmanac classify explain {shlex.quote(str(target))} {shlex.quote(_short(examples.texts[0]))}")


def _short(text: str) -> str:
    plain = "".join(c for c in text if c not in '"`$\\\n')
    return plain if len(plain) <= 60 else plain[:60].rsplit(" ", 1)[0]


def evaluate_on(classifier: Any, held: Labelled, path: Path) -> Report:
    """The report on a file's examples. Raises DataError that names the line of a label that was never seen."""
    if hasattr(classifier, "book") and not set(classifier.labels) & set(held.labels):
        _rename(classifier, held, path)
    check_known(set(classifier.labels), held, path)
    return report(classifier.labels, held.labels, predict_all(classifier, held.texts))


def check_known(known: set[str], held: Labelled, path: Path) -> None:
    """Raise DataError that names the line of the first label that is none of these."""
    for line, name in zip(held.lines, held.labels, strict=True):
        if name not in known:
            raise DataError(
                f"{path}:{line}: label {name[:60]!r} is none that the classifier knows "
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


def print_report(found: Report, console: Console | None = None) -> None:
    """The figures, then who is taken for whom."""
    console = console or Console()
    low, high = found.interval
    console.print(
        f"accuracy {found.accuracy:.2%} of {found.rows:,} texts (95% interval {low:.2%} to {high:.2%}); macro F1 "
        f"{found.macro_f1:.4f}; always the most frequent label: {found.majority:.2%}",
        markup=False, highlight=False,
    )  # fmt: skip
    shown = found.labels[:20]
    table = Table(title="true label (row) and what it was given (column)", title_justify="left")
    for head in ("", *map(escape, shown), "precision", "recall", "F1", "texts"):
        table.add_column(head, justify="right" if head else "left")
    for i, name in enumerate(shown):
        own = found.of(name)
        counts = [str(n) for n in found.confusion[i][: len(shown)]]
        shares = [f"{own[key]:.3f}" for key in ("precision", "recall", "f1")]
        table.add_row(escape(name), *counts, *shares, str(own["support"]))
    console.print(table)
    if len(found.labels) > len(shown):
        console.print(f"{len(found.labels) - len(shown)} more labels: see --json", markup=False)


def evaluate_command(folder: str, data: Path, *, text: str, label: str, as_json: bool) -> None:
    """Evaluate on a file."""
    held = read_labelled(data, text=text, label=label, problems=CommandProblems(bounds=BOUNDS))
    found = evaluate_on(open_classifier(folder), held, data)
    if as_json:
        print(json.dumps(found.as_json(), indent=1))
        return
    print_report(found)
    print(f"Next: llmanac classify explain {shlex.quote(folder)} {shlex.quote(_short(held.texts[0]))}")


def explain_command(folder: str, words: str, *, most: int, as_json: bool) -> None:
    """Explain one text."""
    text = sys.stdin.read().removesuffix("\n") if words == "-" else words
    found = open_classifier(folder).explain(text)
    if as_json:
        print(json.dumps(found.as_json(), indent=1, ensure_ascii=False))
        return
    print("\n".join(found.lines(most)))
