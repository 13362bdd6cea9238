"""What `llmanac contamination` does: how much of evaluation sets stands in training files, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import DataError
from llmanac.core.outputs import check_output
from llmanac.data.command_problems import asked, command_bounds, left_out, save_and_tell
from llmanac.data.dedup_command import read_size
from llmanac.data.evaluation_items import read_items
from llmanac.data.texts import documents, files_of
from llmanac.evaluate.contamination import Contamination, ItemReport, contamination

SHOWN = 10  # items in the printed table
QUARANTINE = "quarantine.jsonl"


def contamination_command(
    train: Sequence[str],
    evaluation: Sequence[str],
    *,
    columns: Sequence[str],
    text: str,
    n: int,
    shortest: int,
    out: Path | None,
    as_json: bool,
    on_error: str = "fatal",
    force: bool = False,
    max_bytes: str | None = None,
    include: Sequence[str] = (),
) -> None:
    """Look for the items of evaluation files in training files; print the summary and write a row an item to `out`.

    Args:
        on_error: "skip" sets rows that cannot be used aside in `quarantine.jsonl`, or beside `out`.
        force: write over an `out` that is there, unless it is an input.
        max_bytes: bytes of text that a document may have, `LimitSpec.max_bytes` if nothing is said.
        include: patterns that files of folders must match, all of them if nothing is said.

    Raises:
        LlmanacError: files that cannot be read, lack a column, or hold nothing; an `out` that may not be written.
    """
    if not train or not evaluation:
        raise DataError(f"{'--eval' if train else '--train'}: no file; name files, a folder or a glob pattern")
    spec = files_of(evaluation, include=include)
    source = files_of(train, column=text, include=include)
    evaluated = [path for path, _ in spec.files()]
    inputs = [*evaluated, *(path for path, _ in source.files())]
    if out is not None:
        check_output(out, "--out", inputs, force=force)
    aside = Path(QUARANTINE) if out is None else out.with_name(f"{out.stem}.{QUARANTINE}")
    bounds = command_bounds(None if max_bytes is None else read_size(max_bytes, "--max-bytes"))
    problems = asked(on_error, aside, inputs=inputs, bounds=bounds, column="--text")
    items = read_items(evaluated, columns, problems=problems, named="--column")
    result = contamination(documents(source, problems), items, n=n, shortest=shortest)
    told = save_and_tell(problems)
    document: dict[str, Any] = {"n": n, "shortest": shortest, **result.summary(), "files": _by_file(result)}
    document |= told or {}
    if out is not None:
        rows = [json.dumps(report.as_json(), ensure_ascii=False) for report in result.items]
        files.write_text(out, "\n".join(rows) + "\n")
    if as_json:
        print(json.dumps(document | {"found_items": [report.as_json() for report in result.found()]}))
    else:
        if told:
            print(left_out(told))
        _print(document, result, out)


def _by_file(result: Contamination) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[ItemReport]] = {}
    for report in result.items:
        groups.setdefault(report.item.id.rpartition(":")[0], []).append(report)
    return {
        name: Contamination(reports, result.documents, result.bytes, result.index_bytes).summary()
        for name, reports in groups.items()
    }


def _print(document: dict[str, Any], result: Contamination, out: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("evaluation set", "items", "looked for", "found", "wholly", "mean share")
    for name, row in (document["files"] | {"all": document}).items():
        share = "" if row["mean_share"] is None else f"{row['mean_share']:.2%}"
        cells = (row["items"], row["looked_for"], row["found"], row["found_wholly"])
        table.add_row(name, *(f"{cell:,}" for cell in cells), share)
    console.print(table)
    worst = sorted(result.found(), key=lambda report: -report.share)
    if worst:
        table = Table("item", "by", "n-grams", "share", "first met in")
        for report in worst[:SHOWN]:
            table.add_row(
                report.item.id, report.looked.by, str(report.looked.grams), f"{report.share:.2%}", report.document or ""
            )
        console.print(table)
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
