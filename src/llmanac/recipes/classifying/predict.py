"""A table with its columns, and a classifier's label and probabilities for each row."""

import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import DataError, SpecError
from llmanac.core.outputs import check_output
from llmanac.core.progress import Report, progress
from llmanac.data.command_problems import CommandProblems
from llmanac.data.labelled import labels_lead, read_lines, read_rows, without_labels
from llmanac.data.unpack import TABLES, format_of
from llmanac.recipes.classifying.use import BOUNDS, ROWS, open_classifier

KINDS = (".jsonl", ".csv", ".tsv", ".parquet")
PREDICTION, PROBABILITIES = "prediction", "probabilities"
_BREAKS = re.compile(r"[\t\r\n]+")
Rows = list[tuple[str, dict[str, Any]]]  # a text and its row


def predict_file(
    folder: str, data: str, *, output: Path | None = None, text: str = "text", with_labels: bool | None = None,
    force: bool = False, prefix: str = "", report: Report = lambda line: None,
) -> tuple[int, Iterator[dict[str, Any]]]:  # fmt: skip
    """Label the texts of a file, and write them to `output`; returns how many they are, and without `output`
    the rows, labelled one by one.

    Args:
        folder: of a classifier. data: a table or lines; "-" is standard input.
        output: a file that ends in one of `KINDS`.
        text: the column of the text, in tables.
        with_labels: whether lines begin with a label, which is then no part of the text; by what they begin with
            where nothing is said (and not so for standard input).
        force: write over an `output` that is there, unless it is what is read.
        prefix: a prefix of the names of the added columns.
        report: called with each line for the user.

    Raises:
        SpecError: an output that may not be written. DataError: input that cannot be used, or has such a column.
    """
    if output is not None:
        check_output(output, "--output", [] if data == "-" else [data], force=force)
    classifier = open_classifier(folder)
    kind = ".jsonl" if output is None else output.suffix.lower()
    if kind not in KINDS:
        raise SpecError(f"--output: {output} must end in {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    rows = _rows_to_label(data, text, classifier.labels, with_labels, report)
    flat = kind in (".csv", ".tsv")
    added = [f"{prefix}p({name})" for name in classifier.labels] if flat else [f"{prefix}{PROBABILITIES}"]
    _check_free(data, rows, [f"{prefix}{PREDICTION}", *added])
    found = _predictions(classifier, rows, prefix, flat)
    if output is None:
        return len(rows), found
    if kind == ".parquet":
        files.write_bytes(output, _as_parquet(list(found), Path(data)))
    else:
        lines = (as_json(row) + "\n" for row in found)
        files.write_text(output, _as_table(list(found), kind) if flat else "".join(lines))
    return len(rows), iter(())


def _rows_to_label(data: str, text: str, labels: Sequence[str], with_labels: bool | None, report: Report) -> Rows:
    problems = CommandProblems(bounds=BOUNDS)
    if data == "-":
        given = sys.stdin.read()
        if not given.strip():
            raise DataError("standard input: has no text; write a text a line")
        lines = list(enumerate(given.removesuffix("\n").split("\n"), 1))
        found = without_labels(lines, "standard input") if with_labels else [line for _, line in lines]
    elif format_of(Path(data)) in TABLES:
        return read_rows(Path(data), text=text, problems=problems)
    else:
        lines = read_lines(Path(data), problems)
        if with_labels is None and labels_lead(lines, labels, data):
            with_labels = True
            report(f"{data}: each line begins with a label, which is left out; --text-only keeps it")
        found = without_labels(lines, data) if with_labels else [line for _, line in lines]
    return [(one, {"text": one}) for one in found]


def _check_free(data: str, rows: Rows, added: Sequence[str]) -> None:
    """Raise DataError for a column of the table that has the name of one that would be added."""
    held = {name for _, row in rows for name in row}
    for name in added:
        if name in held:
            raise DataError(
                f"{data}: has a column {name!r} already, the name of one that is added; rename it, or give --prefix"
            )


def _predictions(classifier: Any, rows: Rows, prefix: str, flat: bool) -> Iterator[dict[str, Any]]:
    """Each row with the label of its text, and the labels' probabilities as one column or as one each."""
    with progress("classify", len(rows), "texts") as bar:
        for first in range(0, len(rows), ROWS):
            part = rows[first : first + ROWS]
            texts = [text for text, _ in part]
            labels, chances = classifier.predict(texts), classifier.probabilities(texts)
            for (_, row), label, probabilities in zip(part, labels, chances, strict=True):
                chance = dict(zip(classifier.labels, (round(float(p), 6) for p in probabilities), strict=True))
                answer = {f"{prefix}p({name})": p for name, p in chance.items()} if flat else {
                    f"{prefix}{PROBABILITIES}": chance
                }  # fmt: skip
                yield {**row, f"{prefix}{PREDICTION}": label, **answer}
            bar.advance(len(part))


def as_json(row: dict[str, Any]) -> str:
    """A row on one line."""
    return json.dumps(row, ensure_ascii=False, default=str)


def _as_table(rows: Sequence[dict[str, Any]], kind: str) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t" if kind == ".tsv" else ",", lineterminator="\n")
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer.writerow([_cell(name, kind) for name in names])
    for row in rows:
        writer.writerow([_cell(row.get(name), kind) for name in names])
    return out.getvalue()


def _cell(value: Any, kind: str) -> str:
    """A value as a field: texts as they are, but that a line of a .tsv is a row, so what would break it is a blank."""
    text = "" if value is None else value if isinstance(value, str) else as_json(value)
    return _BREAKS.sub(" ", text) if kind == ".tsv" else text


def _as_parquet(rows: list[dict[str, Any]], source: Path) -> bytes:
    """Rows as Parquet; the columns of a Parquet file keep their types."""
    import pyarrow
    import pyarrow.parquet

    try:
        if source.suffix == ".parquet":
            known = pyarrow.parquet.read_schema(source)
            added = pyarrow.Table.from_pylist([{k: v for k, v in row.items() if k not in known.names} for row in rows])
            table = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema([*known, *added.schema]))
        else:
            names = dict.fromkeys(name for row in rows for name in row)
            table = pyarrow.table({name: [row.get(name) for row in rows] for name in names})
    except pyarrow.ArrowException as error:
        what = str(error).splitlines()[0]
        raise DataError(f"{source}: cannot be written as Parquet ({what}); write .jsonl instead") from None
    out = io.BytesIO()
    pyarrow.parquet.write_table(table, out)
    return out.getvalue()
