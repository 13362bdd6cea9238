"""`llmanac dedup` and `contamination`: what texts have in common, within a corpus and with evaluation sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmanac.cli.options import AsJson, Force, Include, MaxBytes, OnError, Patches, read_size
from llmanac.core.errors import DataError

if TYPE_CHECKING:
    from llmanac.evaluate.contamination_files import Found

SHOWN = 10  # items in the printed table


def dedup_command(
    paths: Annotated[list[str], typer.Argument(metavar="FILES...", help="Files, folders or glob patterns.")],
    out: Annotated[Path, typer.Option(help="Folder for the rows that stay, those that went, and report.json.")],
    method: Annotated[str, typer.Option(help="minhash, exact, lines, paragraphs or substring.")] = "minhash",
    text: Annotated[str, typer.Option(help="Column that holds the text, for tables.")] = "text",
    include: Include = None,
    memory: Annotated[str, typer.Option(help="What may be held at once, e.g. 500MB.")] = "2GB",
    set_: Patches = None,
    on_error: OnError = "fatal",
    max_bytes: MaxBytes = "100MB",
    as_json: AsJson = False,
) -> None:
    """Drop duplicate and near-duplicate documents, or cut repeated lines and substrings out of them."""
    from llmanac.data.command_problems import left_out
    from llmanac.data.dedup_files import dedup_files

    try:
        done = dedup_files(
            paths, method=method, out=out, text=text, memory=read_size(memory), patches=list(set_ or ()),
            on_error=on_error, max_bytes=read_size(max_bytes, "--max-bytes"), include=include or (),
        )  # fmt: skip
    except DataError as error:  # stages have no flags, and call it what it is to them
        raise (DataError(f"--{error}") if str(error).startswith("memory: ") else error) from None
    if as_json:
        print(json.dumps(done.report))
        return
    print_dedup(done.report)
    if done.left_out:
        print(left_out(done.left_out))
    print(f"Next: head -n 3 {done.dropped}")


def print_dedup(document: Mapping[str, Any]) -> None:
    """How many documents stayed and went, and what the stage says of itself."""
    from llmanac.cli.tables import print_table

    total = max(1, document["documents"])
    rows = {"read": document["documents"], "kept": document["kept"], "  of them changed": document["changed"]}
    rows |= {f"dropped: {reason}": count for reason, count in document["dropped"].items()}
    cells = [(name, f"{count:,}", f"{count / total:.2%}") for name, count in rows.items()]
    print_table("", ["", "documents", "share"], cells, left=range(3))
    before, after = document["bytes_in"], document["bytes_out"]
    print(f"{before / 1e6:.2f} MB of text in, {after / 1e6:.2f} MB out ({after / max(1, before):.2%}).")
    for name, value in document["stage"].items():
        if name not in ("documents", "kept", "dropped"):
            print(f"  {name}: {json.dumps(value)}")
    below = document["stage"].get("similarity_to_the_kept", {}).get("below_threshold", 0)
    if below:
        print(
            f"{below:,} of the dropped documents are less similar than the threshold to the one that stays: "
            + (
                "joined by chance or over others; -s verify=exact compares candidates first."
                if "verified" not in document["stage"]
                else "joined over others; a higher threshold makes shorter chains."
            )
        )


def contamination_command(
    train: Annotated[list[str], typer.Option(metavar="FILES", help="Training files, folders or glob patterns.")],
    evaluation: Annotated[list[str], typer.Option("--eval", metavar="FILES", help="Evaluation files to look for.")],
    column: Annotated[list[str] | None, typer.Option(help="Column of an item: text or numbers [all texts].")] = None,
    text: Annotated[str, typer.Option(help="Column that holds the training text, for tables.")] = "text",
    include: Include = None,
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Words in a row that count.")] = 13,
    shortest: Annotated[int, typer.Option(min=1, help="Shorter items are not looked for.")] = 4,
    out: Annotated[Path | None, typer.Option(help="Write a row an item to this .jsonl file.")] = None,
    force: Force = False,
    on_error: OnError = "fatal",
    max_bytes: MaxBytes = "100MB",
    as_json: AsJson = False,
) -> None:
    """Say how much of evaluation sets stands in training files, item by item."""
    from llmanac.data.command_problems import left_out
    from llmanac.evaluate.contamination_files import contamination_files

    found = contamination_files(
        train, evaluation, columns=list(column or ()), text=text, n=n, shortest=shortest, out=out, on_error=on_error,
        force=force, max_bytes=read_size(max_bytes, "--max-bytes"), include=include or (),
    )  # fmt: skip
    if as_json:
        print(json.dumps(found.summary | {"found_items": [report.as_json() for report in found.result.found()]}))
        return
    if found.left_out:
        print(left_out(found.left_out))
    print_contamination(found, out)


def print_contamination(found: Found, out: Path | None) -> None:
    """A row an evaluation set, then the items of which most was found."""
    from llmanac.cli.tables import print_table

    document = found.summary
    rows = []
    for name, row in (document["files"] | {"all": document}).items():
        share = "" if row["mean_share"] is None else f"{row['mean_share']:.2%}"
        cells = (row["items"], row["looked_for"], row["found"], row["found_wholly"])
        rows.append((name, *(f"{cell:,}" for cell in cells), share))
    heads = ("evaluation set", "items", "looked for", "found", "wholly", "mean share")
    print_table("", heads, rows, left=range(len(heads)))
    worst = sorted(found.result.found(), key=lambda report: -report.fraction)
    if worst:
        items = [
            (one.item.id, one.looked.by, str(one.looked.grams), f"{one.fraction:.2%}", one.document or "")
            for one in worst[:SHOWN]
        ]
        print_table("", ["item", "by", "n-grams", "share", "first met in"], items, left=range(5))
    if len(worst) > SHOWN:
        print(f"and {len(worst) - SHOWN:,} more items")
    if document["too_short"]:
        print(f"{document['too_short']:,} items have fewer than {document['shortest']} words: too short to tell.")
    print(
        f"{document['documents']:,} documents, {document['bytes'] / 1e6:.1f} MB; "
        f"index {document['index_bytes'] / 1e6:.1f} MB."
    )
    if out is None:
        print("Next: the same command with --out items.jsonl, for a row an item.")
    else:
        print(f"Next: head -n 3 {out}")
