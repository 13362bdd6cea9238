"""`llmanac classify`: train, predict, evaluate, explain, table."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmanac.cli.options import AsJson, Fields, Force, OnError, Seed, group, stopping

if TYPE_CHECKING:
    from llmanac.lab.compare import StudyResult
    from llmanac.metrics.accuracy import Report

DEFAULT, ON_A_MODEL = ("rules", "bow", "cbow", "deep-cbow"), ("fine-tuning", "prompting")
UNLIMITED = "1000h"  # what is to be trained is stated, and no budget ends it

app = group("Classify texts: train a classifier, use it, explain it, or compare the methods.")
TextColumn = Annotated[str, typer.Option(help="Column of the text; in a .tsv without a header its number, from 1.")]
LabelColumn = Annotated[str, typer.Option(help="Column of the label: texts or numbers, not mixed.")]
Saved = Annotated[str, typer.Argument(help="A trained classifier's folder, or `rules` for the built-in rules.")]
Rows = Annotated[
    Path, typer.Argument(help="Labelled texts: .jsonl, .csv, .tsv or .parquet, or lines that begin with the label.")
]


@app.command("train")
def train_command(
    data: Rows, method: str = "bow", folder: Path | None = None, test: Path | None = None, model: str | None = None,
    seed: Seed = 0, set_: Fields = None, text: TextColumn = "text", label: LabelColumn = "label",
    resume: bool = False, on_error: OnError = "fatal",
) -> Any:  # fmt: skip
    """Train a classifier on labelled texts and save it.

    Args:
        method: A name of `llmanac list classifier`.
        folder: Output folder [classifiers/<method>].
        test: Labelled texts to evaluate on.
        model: Language model to build on: a run's or model's folder.
        resume: Continue an interrupted training.
    """
    from llmanac.data.command_problems import left_out
    from llmanac.recipes.classifying.use import evaluate_on
    from llmanac.recipes.classifying.use import train as train_on

    with stopping("the same command and --resume"):
        done = train_on(
            data, method, folder=folder, test=test, model=model, seed=seed, patches=list(set_ or ()), text=text,
            label=label, resume=resume, on_error=on_error, report=_say,
        )  # fmt: skip
    if done.replaced:
        print(f"{done.folder}: replaced the classifier that was there")
    if done.left_out:
        print(left_out(done.left_out))
    count, labels = len(done.examples), len(done.classifier.labels)
    print(f"{method}: {count:,} examples, {labels} labels, {done.seconds:.1f} s; saved in {done.folder}")
    report = None
    if done.held is not None and test is not None:
        report = evaluate_on(done.classifier, done.held, test)
        print_report(report)
    _print_next(done.folder, (done.held or done.examples).texts[0])
    return {"folder": done.folder, "examples": count, "seconds": done.seconds, "test": report and report.as_json()}


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _print_next(folder: str | Path, text: str) -> None:
    plain = "".join(c for c in text if c not in '"`$\\\n')
    short = plain if len(plain) <= 60 else plain[:60].rsplit(" ", 1)[0]
    print(f"Next: llmanac classify explain {shlex.quote(str(folder))} {shlex.quote(short)}")


@app.command("predict")
def predict_command(
    folder: Saved, data: str, output: Path | None = None, prefix: str = "", force: Force = False,
    text: TextColumn = "text", with_labels: bool | None = None,
) -> None:  # fmt: skip
    """Label each text; writes the row's columns, the label and the probability of each label.

    Args:
        data: A table with a text column, or lines; - for standard input.
        output: Output .jsonl, .csv, .tsv or .parquet [JSON Lines].
        prefix: Prefix of the names of the added columns.
        with_labels (--with-labels/--text-only): Lines begin with a label, or are text only [guessed].
    """
    from llmanac.recipes.classifying.predict import as_json, predict_file

    count, rows = predict_file(
        folder, data, output=output, text=text, with_labels=with_labels, force=force, prefix=prefix, report=_say
    )
    for row in rows:
        print(as_json(row))
    if output is not None:
        print(f"{count:,} texts labelled in {output}")


@app.command("evaluate")
def evaluate_command(
    folder: Saved, data: Rows, text: TextColumn = "text", label: LabelColumn = "label", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Accuracy, precision, recall and F1 per label, and the confusion matrix."""
    from llmanac.data.command_problems import CommandProblems
    from llmanac.data.labelled import read_labelled
    from llmanac.recipes.classifying.use import BOUNDS, evaluate_on, open_classifier

    held = read_labelled(data, text=text, label=label, problems=CommandProblems(bounds=BOUNDS))
    found = evaluate_on(open_classifier(folder), held, data)
    if as_json:
        print(json.dumps(found.as_json(), indent=1))
        return
    print_report(found)
    _print_next(folder, held.texts[0])


def print_report(found: Report) -> None:
    """Accuracy and macro F1, then the confusion matrix."""
    from llmanac.cli.tables import print_table

    low, high = found.interval
    print(f"accuracy {found.accuracy:.2%} of {found.rows:,} texts (95% interval {low:.2%} to {high:.2%}); ", end="")
    print(f"macro F1 {found.macro_f1:.4f}; always the most frequent label: {found.majority:.2%}")
    shown = found.labels[:20]
    rows = []
    for i, name in enumerate(shown):
        own = found.of(name)
        counts = [str(n) for n in found.confusion[i][: len(shown)]]
        scores = [f"{own[key]:.3f}" for key in ("precision", "recall", "f1")]
        rows.append((name, *counts, *scores, str(own["support"])))
    heads = ("", *shown, "precision", "recall", "F1", "texts")
    print_table("true label (row) and predicted label (column)", heads, rows)
    if len(found.labels) > len(shown):
        print(f"{len(found.labels) - len(shown)} more labels: see --json")


@app.command("explain")
def explain_command(folder: Saved, words: str, most: int = 12, as_json: AsJson = False) -> None:
    """Say why a text gets its label: what each feature adds.

    Args:
        words (TEXT): The text; - for standard input.
        most (from 1): Features to show.
    """
    from llmanac.recipes.classifying.use import open_classifier

    text = sys.stdin.read().removesuffix("\n") if words == "-" else words
    found = open_classifier(folder).explain(text)
    if as_json:
        print(json.dumps(found.as_json(), indent=1, ensure_ascii=False))
        return
    print("\n".join(found.lines(most)))


@app.command("table")
def table_command(
    data: Rows, test: Path, methods: str | None = None, seeds: int = 3, sizes: str | None = None,
    model: str | None = None, rules: Path | None = None, slices: Path | None = None,
    folder: Path = Path("studies/classify"), text: TextColumn = "text", label: LabelColumn = "label",
) -> Any:  # fmt: skip
    """Compare all methods on one data set: accuracy, rows needed, seconds, an explanation, failure slices.

    Args:
        test (--test): Labelled texts to test on.
        methods: Comma-separated [rules,bow,cbow,deep-cbow; with --model all].
        seeds (from 1): Trainings of each method.
        sizes: Rows of the learning curve, comma-separated.
        model: Language model; `train` makes a small one.
        rules: Your own rules, for labels other than sentiment.
        slices: Failure slices (.jsonl: slice, part, text, label).
        folder: Output folder of the page.
    """
    arms = methods or ",".join(DEFAULT + ON_A_MODEL if model else DEFAULT)
    changes = {"rules": rules, "slices": slices, "text": text, "label": label}
    done = _study("classifier", arms, data, test, seeds, model, sizes, changes, folder)
    right = done.values()
    best = max(right, key=lambda arm: sum(right[arm]))
    print(f"Next: llmanac classify train {shlex.quote(str(data))} --method {best}")
    return {**done.data, "page": done.page}


def _study(
    kind: str, arms: str, data: Path, test: Path, seeds: int, model: str | None, sizes: str | None,
    changes: dict[str, Any], folder: Path,
) -> StudyResult:  # fmt: skip
    from llmanac.cli.compare import print_study
    from llmanac.core.spec import parse_patches
    from llmanac.lab.compare import compare

    own = {path: str(value) if isinstance(value, Path) else value
           for path, value in changes.items() if value is not None and path != value}  # fmt: skip
    own |= parse_patches([f"sizes=[{sizes}]"] if sizes else [])
    done = compare(
        kind, arms, data=data, on=test, artefact=model, seeds=seeds, patches=own, folder=folder, budget=UNLIMITED
    )
    print_study(done)
    return done


@app.command("transfer")
def transfer_command(
    data: Rows, test: Path, model: str, sizes: str = "10,100,1000,10000", seeds: int = 5, set_: Fields = None,
    folder: Path = Path("studies/transfer"), text: TextColumn = "text", label: LabelColumn = "label",
) -> Any:  # fmt: skip
    """Fine-tune a pretrained model, the same from scratch and one with shuffled weights on more and more labels.

    Args:
        test (--test): Labelled texts to test on.
        model (--model): Pretrained language model: a run's or model's folder.
        sizes: Numbers of labels.
        seeds (from 1): Trainings of each start; a verdict needs 5.
        folder: Output folder of the page.
    """
    from llmanac.core.spec import parse_patches

    changes = {f"method.{path}": value for path, value in parse_patches(set_ or ()).items()}
    changes |= {"text": text, "label": label}
    done = _study("start", "pretrained,scratch,shuffled", data, test, seeds, model, sizes, changes, folder)
    again = f"llmanac classify train {shlex.quote(str(data))} --method fine-tuning --model {shlex.quote(model)}"
    print(f"Next: {again}")
    return {**done.data, "page": done.page}
