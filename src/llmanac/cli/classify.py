"""`llmanac classify`: train, predict, evaluate, explain, table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Classify texts: train a classifier, use it, explain it, or compare the methods.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

TextColumn = Annotated[
    str, typer.Option("--text", help="Column of the text; a number from 1 on in a .tsv without a header.")
]
LabelColumn = Annotated[str, typer.Option("--label", help="Column of the label: texts or numbers, not mixed.")]
OnError = Annotated[
    str, typer.Option("--on-error", metavar="[fatal|skip]", help="A row that cannot be used: stop, or set it aside.")
]
Saved = Annotated[str, typer.Argument(help="A trained classifier's folder, or `rules` for the rules that come along.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Patches = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="FIELD=VALUE", help="The method's choices, e.g. -s ngrams=2.")
]


@app.command()
def train(
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
    from llmanac.lab.classification.command import train_command

    train_command(
        data, method, folder=folder, test=test, model=model, seed=seed, patches=list(set_ or ()), text=text,
        label=label, resume=resume, on_error=on_error,
    )  # fmt: skip


@app.command()
def predict(
    folder: Saved,
    data: Annotated[str, typer.Argument(help="A table with a text column, or lines; - for standard input.")],
    output: Annotated[
        Path | None, typer.Option(help="Write .jsonl, .csv, .tsv or .parquet here; else JSON lines are printed.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="What the names of the added columns begin with.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there already.")] = False,
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
    from llmanac.lab.classification.predict import predict_command

    predict_command(
        folder, data, output=output, text=text, with_labels=with_labels, force=force, prefix=prefix,
    )  # fmt: skip


@app.command()
def evaluate(
    folder: Saved,
    data: Annotated[Path, typer.Argument(help="Labelled texts, as for train.")],
    text: TextColumn = "text",
    label: LabelColumn = "label",
    as_json: AsJson = False,
) -> None:
    """Accuracy, precision, recall and F1 a label, and the confusion table."""
    from llmanac.lab.classification.command import evaluate_command

    evaluate_command(folder, data, text=text, label=label, as_json=as_json)


@app.command()
def explain(
    folder: Saved,
    words: Annotated[str, typer.Argument(metavar="TEXT", help="The text; - for standard input.")],
    most: Annotated[int, typer.Option(min=1, help="Features to show.")] = 12,
    as_json: AsJson = False,
) -> None:
    """Say why a text gets its label: what each feature adds."""
    from llmanac.lab.classification.command import explain_command

    explain_command(folder, words, most=most, as_json=as_json)


@app.command()
def table(
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
    from llmanac.lab.classification.table import table_command

    table_command(
        data, test, methods=methods, seeds=seeds, sizes=sizes, model=model, rules=rules, slices=slices, folder=folder,
        text=text, label=label,
    )  # fmt: skip
