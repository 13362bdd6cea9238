"""`llmanac classify`: train, predict, evaluate, explain, table."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmanac.cli.options import AsJson, Force, OnError

if TYPE_CHECKING:
    from rich.console import Console

    from llmanac.data.labelled import Labelled
    from llmanac.evaluate.classification import Report

app = typer.Typer(
    help="Classify texts: train a classifier, use it, explain it, or compare the methods.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

TextColumn = Annotated[
    str, typer.Option("--text", help="Column of the text; a number from 1 on in a .tsv without a header.")
]
LabelColumn = Annotated[str, typer.Option("--label", help="Column of the label: texts or numbers, not mixed.")]
Saved = Annotated[str, typer.Argument(help="A trained classifier's folder, or `rules` for the rules that come along.")]
Patches = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="FIELD=VALUE", help="The method's choices, e.g. -s ngrams=2.")
]
IN_SHORT = ("method", "accuracy", "95% over seeds", "rows to beat the rules", "CPU time to train", "explained")


@app.command("train")
def train_command(
    data: Annotated[
        Path, typer.Argument(help=".jsonl, .csv, .tsv or .parquet with text and label, or `label text` lines.")
    ],
    method: Annotated[str, typer.Option(help="A name of `llmanac list classifier`.")] = "bow",
    folder: Annotated[Path | None, typer.Option(help="Where it is saved [classifiers/<method>].")] = None,
    test: Annotated[Path | None, typer.Option(help="Labelled texts to evaluate on.")] = None,
    model: Annotated[str | None, typer.Option(help="Language model (a run's or model's folder) to stand on.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    set_: Patches = None,
    text: TextColumn = "text",
    label: LabelColumn = "label",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training.")] = False,
    on_error: OnError = "fatal",
) -> None:
    """Train a classifier on labelled texts and save it."""
    from llmanac.data.command_problems import left_out
    from llmanac.lab.classification.classifiers import evaluate_on
    from llmanac.lab.classification.classifiers import train as train_on
    from llmanac.lab.classification.training import Stopped

    try:
        done = train_on(
            data, method, folder=folder, test=test, model=model, seed=seed, patches=list(set_ or ()), text=text,
            label=label, resume=resume, on_error=on_error, report=_say,
        )  # fmt: skip
    except Stopped as stopped:
        if stopped.kept is not None:
            print(f"\nStopped; what is done is in {stopped.kept}. Go on with the same command and --resume")
        else:
            print("\nStopped before anything was kept; the same command starts again.")
        raise SystemExit(130) from None
    if done.replaced:
        print(f"{done.folder}: takes the place of the classifier that was there")
    if done.left_out:
        print(left_out(done.left_out))
    count, labels = len(done.examples), len(done.classifier.labels)
    print(f"{method}: {count:,} examples, {labels} labels, {done.seconds:.1f} s; saved in {done.folder}")
    if done.held is not None and test is not None:
        print_report(evaluate_on(done.classifier, done.held, test))
    _print_next(done.folder, (done.held or done.examples).texts[0])


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _print_next(folder: str | Path, text: str) -> None:
    plain = "".join(c for c in text if c not in '"`$\\\n')
    short = plain if len(plain) <= 60 else plain[:60].rsplit(" ", 1)[0]
    print(f"Next: llmanac classify explain {shlex.quote(str(folder))} {shlex.quote(short)}")


@app.command("predict")
def predict_command(
    folder: Saved,
    data: Annotated[str, typer.Argument(help="A table with a text column, or lines; - for standard input.")],
    output: Annotated[
        Path | None, typer.Option(help="Write .jsonl, .csv, .tsv or .parquet here; else JSON lines are printed.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="What the names of the added columns begin with.")] = "",
    force: Force = False,
    text: TextColumn = "text",
    with_labels: Annotated[
        bool | None,
        typer.Option(
            "--with-labels/--text-only",
            help="Lines begin with a label that is no text, or are texts as a whole [by what they begin with].",
        ),
    ] = None,
) -> None:
    """Give each text a label, with every label's probability, beside the columns that its row has."""
    from llmanac.lab.classification.predict import as_json, predict_file

    count, rows = predict_file(
        folder, data, output=output, text=text, with_labels=with_labels, force=force, prefix=prefix, report=_say
    )
    for row in rows:
        print(as_json(row))
    if output is not None:
        print(f"{count:,} texts labelled in {output}")


@app.command("evaluate")
def evaluate_command(
    folder: Saved,
    data: Annotated[Path, typer.Argument(help="Labelled texts, as for train.")],
    text: TextColumn = "text",
    label: LabelColumn = "label",
    as_json: AsJson = False,
) -> None:
    """Accuracy, precision, recall and F1 a label, and the confusion table."""
    from llmanac.lab.classification.classifiers import evaluate_on, open_classifier

    (held,) = _read([data], text, label)
    found = evaluate_on(open_classifier(folder), held, data)
    if as_json:
        print(json.dumps(found.as_json(), indent=1))
        return
    print_report(found)
    _print_next(folder, held.texts[0])


def _read(paths: Sequence[Path], text: str, label: str) -> list[Labelled]:
    from llmanac.data.command_problems import CommandProblems
    from llmanac.data.labelled import read_labelled
    from llmanac.lab.classification.classifiers import BOUNDS

    return [read_labelled(path, text=text, label=label, problems=CommandProblems(bounds=BOUNDS)) for path in paths]


def print_report(found: Report, console: Console | None = None) -> None:
    """The figures, then who is taken for whom."""
    from llmanac.cli import tables

    console = console or tables.Console()
    low, high = found.interval
    console.print(
        f"accuracy {found.accuracy:.2%} of {found.rows:,} texts (95% interval {low:.2%} to {high:.2%}); macro F1 "
        f"{found.macro_f1:.4f}; always the most frequent label: {found.majority:.2%}",
        markup=False, highlight=False,
    )  # fmt: skip
    shown = found.labels[:20]
    rows = []
    for i, name in enumerate(shown):
        own = found.of(name)
        counts = [str(n) for n in found.confusion[i][: len(shown)]]
        shares = [f"{own[key]:.3f}" for key in ("precision", "recall", "f1")]
        rows.append((name, *counts, *shares, str(own["support"])))
    heads = ("", *shown, "precision", "recall", "F1", "texts")
    console.print(tables.make_table("true label (row) and what it was given (column)", heads, rows))
    if len(found.labels) > len(shown):
        console.print(f"{len(found.labels) - len(shown)} more labels: see --json", markup=False)


@app.command("explain")
def explain_command(
    folder: Saved,
    words: Annotated[str, typer.Argument(metavar="TEXT", help="The text; - for standard input.")],
    most: Annotated[int, typer.Option(min=1, help="Features to show.")] = 12,
    as_json: AsJson = False,
) -> None:
    """Say why a text gets its label: what each feature adds."""
    from llmanac.lab.classification.classifiers import open_classifier

    text = sys.stdin.read().removesuffix("\n") if words == "-" else words
    found = open_classifier(folder).explain(text)
    if as_json:
        print(json.dumps(found.as_json(), indent=1, ensure_ascii=False))
        return
    print("\n".join(found.lines(most)))


@app.command("table")
def table_command(
    data: Annotated[Path, typer.Argument(help="Labelled texts to train on, as for train.")],
    test: Annotated[Path, typer.Option(help="Labelled texts to test on.")],
    methods: Annotated[
        str | None, typer.Option(help="Comma-separated [rules,bow,cbow,deep-cbow, and with --model all].")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each method.")] = 3,
    sizes: Annotated[str | None, typer.Option(help="Rows of the learning curve, comma-separated.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Language model for fine-tuning and prompting; `train` makes a small one.")
    ] = None,
    rules: Annotated[Path | None, typer.Option(help="Rules of your own, for labels that are no sentiment.")] = None,
    slices: Annotated[
        Path | None, typer.Option(help="Failure slices of your own (.jsonl: slice, part, text, label).")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("studies/classify"),
    text: TextColumn = "text",
    label: LabelColumn = "label",
) -> None:
    """Compare rules with what is learned on one set: accuracy, rows needed, seconds, an explanation, failure slices."""
    from llmanac.core.outputs import check_pages
    from llmanac.lab.classification import table as tables
    from llmanac.lab.classification.classifiers import ON_A_MODEL
    from llmanac.lab.classification.slices import read_slices

    inputs = [data, test, *(path for path in (rules, slices) if path)]
    check_pages(folder, "--folder", tables.FILES, "methods", inputs)
    train, held = _read([data, test], text, label)
    names = [name.strip() for name in methods.split(",")] if methods else list(tables.DEFAULT)
    names += ON_A_MODEL if model and not methods else ()
    chosen = read_slices(slices) if slices else tables.our_slices(train.labels)
    result = tables.make_table(
        train, held, names, seeds=seeds, sizes=tables.parse_sizes(sizes), slices=chosen, model=model, rules=rules
    )
    options: dict[str, Any] = {"--methods": methods, "--seeds": seeds if seeds != 3 else None, "--sizes": sizes}
    options |= {"--model": model, "--rules": rules, "--slices": slices, "--text": text if text != "text" else None}
    options |= {"--label": label if label != "label" else None}
    words = ["llmanac", "classify", "table", str(data), "--test", str(test)]
    for flag, value in options.items():
        words += [] if value is None else [flag, str(value)]
    result["command"] = shlex.join(words)
    result["data"] |= {"train": data.name, "test": test.name}
    place = tables.write(folder, result)
    print_methods(result)
    print(f"page: {place}")
    print(f"Next: llmanac classify train {shlex.quote(str(data))} --method {tables.best(result)}")


def print_methods(result: Mapping[str, Any]) -> None:
    """A row a method: what it reaches, what it needs, and how it fares on the slices."""
    from llmanac.cli.tables import Console, make_table
    from llmanac.lab.classification.page import HEADS, lead, rows_of, slice_rows

    console = Console()
    shown = [HEADS.index(name) for name in IN_SHORT]
    rows = [[row[i] for i in shown] for row in rows_of(result)]
    console.print(make_table("rules beside what is learned", IN_SHORT, rows))
    if result["slices"]:
        heads = ["method", *(one["name"] for one in result["slices"])]
        console.print(make_table("plain sentences → changed ones", heads, slice_rows(result)))
    console.print(lead(result), markup=False)
