"""`llmanac dedup` and `contamination`: text that occurs twice in a corpus, or in a corpus and an evaluation set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmanac.cli.options import AsJson, Column, Force, Include, MaxBytes, OnError, Patches, read_size
from llmanac.core.errors import DataError

if TYPE_CHECKING:
    from llmanac.evaluate.contamination_files import ContaminationResult

SHOWN = 10  # items in the printed table


def dedup_command(
    paths: list[str], out: Path, method: str = "minhash", text: Column = "text", include: Include = None,
    memory: str = "2GB", set_: Patches = None, on_error: OnError = "fatal", max_bytes: MaxBytes = "100MB",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Drop duplicate and near-duplicate documents, or cut out repeated lines and substrings.

    Args:
        paths (FILES...): Files, folders or glob patterns.
        out (--out): Output folder: kept rows, dropped rows, report.json.
        method: minhash, exact, lines, paragraphs or substring.
        memory: Memory limit, e.g. 500MB.
    """
    from llmanac.data.command_problems import left_out
    from llmanac.data.dedup_files import dedup_files

    try:
        done = dedup_files(
            paths, method=method, out=out, text=text, memory=read_size(memory), patches=list(set_ or ()),
            on_error=on_error, max_bytes=read_size(max_bytes, "--max-bytes"), include=include or (),
        )  # fmt: skip
    except DataError as error:  # a stage has a field `memory`; here it is a flag
        raise (DataError(f"--{error}") if error.field == "memory" else error) from None
    if as_json:
        print(json.dumps(done.report))
        return
    print_dedup(done.report)
    if done.left_out:
        print(left_out(done.left_out))
    print(f"Next: head -n 3 {done.dropped}")


def print_dedup(document: Mapping[str, Any]) -> None:
    """Print how many documents were kept and dropped, and the stage's own figures."""
    from llmanac.cli.tables import print_table

    total = max(1, document["documents"])
    rows = {"read": document["documents"], "kept": document["kept"], "  of them changed": document["changed"]}
    rows |= {f"dropped: {reason}": count for reason, count in document["dropped"].items()}
    cells = [(name, f"{count:,}", f"{count / total:.2%}") for name, count in rows.items()]
    print_table("", ["", "documents", "fraction"], cells, left=range(3))
    before, after = document["bytes_in"], document["bytes_out"]
    print(f"{before / 1e6:.2f} MB of text in, {after / 1e6:.2f} MB out ({after / max(1, before):.2%}).")
    for name, value in document["stage"].items():
        if name not in ("documents", "kept", "dropped"):
            print(f"  {name}: {json.dumps(value)}")
    below = document["stage"].get("similarity_to_the_kept", {}).get("below_threshold", 0)
    if below:
        why = "by a chance collision or through other documents; -s verify=exact compares candidates first"
        if "verified" in document["stage"]:
            why = "through other documents; a higher threshold makes shorter chains"
        print(f"{below:,} dropped documents are below the threshold to the kept one: joined {why}.")


def contamination_command(
    train: list[str], evaluation: list[str], column: list[str] | None = None, text: Column = "text",
    include: Include = None, n: int = 13, shortest: int = 4, out: Path | None = None, force: Force = False,
    on_error: OnError = "fatal", max_bytes: MaxBytes = "100MB", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Report how much of evaluation sets occurs in training files, item by item.

    Args:
        train (--train, FILES): Training files, folders or glob patterns.
        evaluation (--eval, FILES): Evaluation files to look for.
        column: Column of an item: text or numbers [all texts].
        n (-n, --n, from 1): Length of a match in words.
        shortest (from 1): Skip items with fewer words.
        out: Write a row for each item to this .jsonl file.
    """
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


def print_contamination(found: ContaminationResult, out: Path | None) -> None:
    """Print a row for each evaluation set, then the items of which most was found."""
    from llmanac.cli.tables import print_table

    document = found.summary
    rows = []
    for name, row in (document["files"] | {"all": document}).items():
        share = "" if row["mean_share"] is None else f"{row['mean_share']:.2%}"
        cells = (row["items"], row["looked_for"], row["found"], row["found_wholly"])
        rows.append((name, *(f"{cell:,}" for cell in cells), share))
    heads = ("evaluation set", "items", "looked for", "found", "wholly", "mean fraction")
    print_table("", heads, rows, left=range(len(heads)))
    worst = sorted(found.result.found(), key=lambda report: -report.fraction)
    if worst:
        items = [
            (one.item.id, one.looked.by, str(one.looked.grams), f"{one.fraction:.2%}", one.document or "")
            for one in worst[:SHOWN]
        ]
        print_table("", ["item", "by", "n-grams", "fraction", "first found in"], items, left=range(5))
    if len(worst) > SHOWN:
        print(f"and {len(worst) - SHOWN:,} more items")
    if document["too_short"]:
        print(f"{document['too_short']:,} items have fewer than {document['shortest']} words: too short to tell.")
    size, index = document["bytes"] / 1e6, document["index_bytes"] / 1e6
    print(f"{document['documents']:,} documents, {size:.1f} MB; index {index:.1f} MB.")
    print(f"Next: head -n 3 {out}" if out else "Next: the same command with --out items.jsonl, a row for each item.")
