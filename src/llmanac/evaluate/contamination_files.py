"""Contamination of evaluation files with training files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import DataError
from llmanac.core.outputs import check_output
from llmanac.data.command_problems import asked, command_bounds, save_and_tell
from llmanac.data.evaluation_items import read_items
from llmanac.data.texts import documents, files_of
from llmanac.evaluate.contamination import Contamination, ItemReport, contamination

QUARANTINE = "quarantine.jsonl"


@dataclass(frozen=True)
class ContaminationResult:
    """The result.

    Attributes:
        summary: sums over all items and by file, plain data.
        result: item by item.
        left_out: counts of the skipped rows, if there were any.
    """

    summary: dict[str, Any]
    result: Contamination
    left_out: dict[str, int | str] | None


def contamination_files(
    train: Sequence[str],
    evaluation: Sequence[str],
    *,
    columns: Sequence[str] = (),
    text: str = "text",
    n: int = 13,
    shortest: int = 4,
    out: Path | None = None,
    on_error: str = "fatal",
    force: bool = False,
    max_bytes: int | None = None,
    include: Sequence[str] = (),
) -> ContaminationResult:
    """Look for the items of evaluation files in training files; write a row an item to `out`.

    Args:
        columns: of an item; all texts by default. text: the column of the training text.
        n, shortest: see `contamination`.
        on_error: "skip" writes rows that cannot be used to `quarantine.jsonl`, or next to `out`.
        force: write over an `out` that is there, unless it is an input.
        max_bytes: bytes of text that a document may have, `LimitSpec.max_bytes` by default.
        include: patterns that files of folders must match, all of them by default.

    Raises:
        LlmanacError: files that cannot be read, lack a column, or are empty; an `out` that may not be written.
    """
    if not train or not evaluation:
        raise DataError(f"{'--eval' if train else '--train'}: no file; name files, a folder or a glob pattern")
    spec = files_of(evaluation, include=include)
    source = files_of(train, column=text, include=include)
    evaluated = [path for path, _ in spec.files()]
    inputs = [*evaluated, *(path for path, _ in source.files())]
    if out is not None:
        check_output(out, "--out", inputs, force=force)
    quarantine = Path(QUARANTINE) if out is None else out.with_name(f"{out.stem}.{QUARANTINE}")
    bounds = command_bounds(max_bytes)
    problems = asked(on_error, quarantine, inputs=inputs, bounds=bounds, column="--text")
    items = read_items(evaluated, columns, problems=problems, named="--column")
    result = contamination(documents(source, problems), items, n=n, shortest=shortest)
    skipped = save_and_tell(problems)
    document: dict[str, Any] = {"n": n, "shortest": shortest, **result.summary(), "files": _by_file(result)}
    document |= skipped or {}
    if out is not None:
        rows = [json.dumps(report.as_json(), ensure_ascii=False) for report in result.items]
        files.write_text(out, "\n".join(rows) + "\n")
    return ContaminationResult(document, result, skipped)


def _by_file(result: Contamination) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[ItemReport]] = {}
    for report in result.items:
        groups.setdefault(report.item.id.rpartition(":")[0], []).append(report)
    return {
        name: Contamination(reports, result.documents, result.bytes, result.index_bytes).summary()
        for name, reports in groups.items()
    }
