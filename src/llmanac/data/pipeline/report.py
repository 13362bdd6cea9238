"""What a build kept, what it dropped and why: a table, a picture, and the fate of one document."""

from __future__ import annotations

import html
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import DataError, nearest
from llmanac.core.progress import progress
from llmanac.data.pipeline.mixing import NOT_DRAWN
from llmanac.data.pipeline.records import read_output

COLOURS = ("#0072b2", "#d55e00", "#e69f00", "#cc79a7", "#56b4e9", "#f0e442", "#7f7f7f", "#b8a200")
WIDTH, ROW, LEFT = 760, 26, 190
LOOKED_AT = 20_000  # ids that one that is not found is compared with


def load_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished build. Raises DataError that says what the folder is instead."""
    if (folder / "manifest.json").is_file():
        return _read(folder / "manifest.json")
    if (folder / "build.json").is_file():
        raise DataError(
            f"{folder}: this build is not finished; run `llmanac data build` with its recipe again to go on"
        )
    raise DataError(f"{folder}: holds no build; name the folder that `llmanac data build` wrote")


def _read(path: Path) -> dict[str, Any]:
    again = "delete it, and run `llmanac data build` with its recipe again, which keeps what is whole"
    try:
        found = files.read_json(path)
    except DataError as error:
        raise DataError(f"{error}; {again}") from None
    if not isinstance(found, dict) or not isinstance(found.get("stages"), list):
        raise DataError(f"{path}: is not the manifest of a build; {again}")
    return found


def reasons(stage: Mapping[str, Any]) -> list[tuple[str, int]]:
    """A stage's reasons and how many documents each took, the most frequent first."""
    return sorted(stage["dropped"].items(), key=lambda item: (-item[1], item[0]))


def size(value: float) -> str:
    """Bytes as a person reads them."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


def print_build(folder: Path, manifest: Mapping[str, Any]) -> None:
    """The table of stages, with a bar for what each kept."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(title=f"{escape(str(folder))}: what each stage kept", title_justify="left")
    for head in ("stage", "in", "kept", "", "bytes", "changed"):
        table.add_column(head, justify="left" if head in ("stage", "") else "right")
    why = Table(title="what was dropped, and why", title_justify="left")
    for head in ("stage", "reason", "documents"):
        why.add_column(head, justify="right" if head == "documents" else "left")
    for stage in manifest["stages"]:
        given, kept = stage["documents_in"], stage["documents_out"]
        share = kept / given if given else 1.0
        bar = "█" * round(10 * share) + "·" * (10 - round(10 * share))
        table.add_row(
            escape(stage["name"]), f"{given:,}", f"{kept:,}", f"{bar} {share:.1%}", size(stage["bytes_out"]),
            f"{stage['changed']:,}" if stage["changed"] else "",
        )  # fmt: skip
        for reason, count in reasons(stage):
            why.add_row(escape(stage["name"]), escape(reason), f"{count:,}")
    console.print(table)
    if why.row_count:
        console.print(why)
    for stage in manifest["stages"]:
        for name, value in (stage.get("found") or {}).items():
            if isinstance(value, (int, float, str)):
                console.print(f"{stage['name']}: {name} {value}", markup=False, highlight=False)
    output = manifest["output"]
    total = sum(file["bytes"] for file in output["files"])
    count = len(output["files"])
    line = f"output: {output['documents']:,} documents in {count} file{'s' * (count != 1)}, {size(total)}"
    console.print(line, markup=False, highlight=False)
    for line in _domains(manifest):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"picture: {folder / 'stages.svg'}", markup=False, highlight=False)
    if not output["documents"]:
        console.print("nothing was kept: the lists in dropped/ say why", markup=False)
    if pages := output.get("html_pages"):
        console.print(
            f"warning: {pages:,} document{'s are' if pages > 1 else ' is'} raw HTML; add the stage extraction before "
            'the others (stages = ["extraction", ...]) to train on the text of pages',
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip


def _domains(manifest: Mapping[str, Any]) -> Iterator[str]:
    """A line a domain of a mixture: its share of what was written, by documents and by bytes, and what was drawn."""
    if not (mixed := manifest["output"].get("mixture")):
        return
    unit = mixed.get("unit", "documents")
    yield f"the mixture gives shares of the {unit}; what was written of each domain:"
    counts = {"documents": mixed["drawn"], "bytes": mixed.get("bytes", {})}
    totals = {of: max(1, sum(by.values())) for of, by in counts.items()}
    for name, drawn in mixed["drawn"].items():
        shares = [f"{by[name] / totals[of]:.1%} of the {of}" for of, by in counts.items() if name in by]
        line = ", ".join(reversed(shares) if unit == "bytes" else shares)
        line += f"; {drawn:,} drawn, {mixed['epochs'][name]:.2f} times"
        if left := mixed["not_drawn"][name]:
            line += f"; {left:,} not drawn"
        yield f"  {name or 'no domain'}: {line}"


def picture(stages: Sequence[Mapping[str, Any]]) -> str:
    """A bar a stage, as wide as the documents that reached it: what it kept, and one part for each reason."""
    most = max((stage["documents_in"] for stage in stages), default=0) or 1
    names = sorted({reason for stage in stages for reason in stage["dropped"]})
    colours = {reason: COLOURS[1 + n % (len(COLOURS) - 1)] for n, reason in enumerate(names)}
    parts: list[str] = []
    for row, stage in enumerate(stages):
        y, x = 30 + row * ROW, float(LEFT)
        parts.append(f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">{html.escape(stage["name"])}</text>')
        pieces = [("kept", stage["documents_out"], COLOURS[0])]
        pieces += [(reason, count, colours[reason]) for reason, count in reasons(stage)]
        for reason, count, fill in pieces:
            width = (WIDTH - LEFT - 90) * count / most
            title = f"<title>{html.escape(stage['name'])}: {html.escape(reason)} {count:,}</title>"
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="20" fill="{fill}">{title}</rect>')
            x += width
        parts.append(f'<text x="{x + 6:.1f}" y="{y + 15}">{stage["documents_out"]:,}</text>')
    below = 30 + len(stages) * ROW + 14
    for n, (reason, fill) in enumerate([("kept", COLOURS[0]), *colours.items()]):
        x, y = 12 + n % 4 * 186, below + n // 4 * 18
        parts.append(f'<rect x="{x}" y="{y}" width="10" height="10" fill="{fill}"/>')
        parts.append(f'<text x="{x + 15}" y="{y + 9}">{html.escape(reason)}</text>')
    height = below + (len(names) // 4 + 1) * 18 + 6
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n'
        '<text x="12" y="18" font-size="13">Documents through the stages</text>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _dropped(folder: Path) -> Iterator[Path]:
    return iter(sorted((folder / "dropped").glob("*.jsonl")))


def _find(paths: Iterable[Path], name: str) -> dict[str, Any] | None:
    """The line about a document; only lines that begin with its id are parsed."""
    start = json.dumps({"id": name}, ensure_ascii=False).encode("utf-8", "replace")[:-1]
    for path in paths:
        with open(path, "rb") as handle:
            for line in handle:
                if line.startswith(start):
                    return dict(json.loads(line))
    return None


def fate(folder: Path, name: str) -> dict[str, Any]:
    """What became of a document: `{"id", "kept": False, "stage", "reason", "detail"}`, or where it was written.

    Raises:
        DataError: the folder holds no finished build, or no document is called so.
    """
    manifest = load_manifest(folder)
    found = _find(_dropped(folder), name)
    if found is not None:
        return {"kept": False, **found}
    outputs = [folder / "data" / file["name"] for file in manifest["output"]["files"]]
    with progress(f"look for {name}", total=len(outputs), unit="files") as bar:
        for path in outputs:
            row = _row(path, name)
            if row is not None:
                return {"id": name, "kept": True, "file": f"data/{path.name}", "meta": row["meta"], "text": row["text"]}
            bar.advance()
    hint = (
        f"; {manifest['output']['documents']:,} documents were written, the dropped ones stand in {folder / 'dropped'}"
    )
    left = sum((manifest["output"].get("mixture") or {"not_drawn": {}})["not_drawn"].values())
    if left and not any(_listed_as_mixture(path) for path in _dropped(folder)):  # built before that list was kept
        hint += f", and {left:,} that passed every stage were not drawn by the mixture"
    known = list(itertools.islice(_ids(folder, outputs), LOOKED_AT))
    longer = next((one for one in known if one.endswith(f"/{name}")), None)  # without its domain
    alike = f"; did you mean {longer!r}?" if longer else nearest(name, known)
    raise DataError(f"{folder}: no document is called {name!r}{alike or hint}")


def _listed_as_mixture(path: Path) -> bool:
    return path.stem.endswith("-mixture")


def _ids(folder: Path, outputs: Sequence[Path]) -> Iterator[str]:
    """The ids of what was kept, then of what was dropped."""
    for path in outputs:
        yield from (row["id"] for row in read_output(path))
    for path in _dropped(folder):
        with open(path, "rb") as handle:
            yield from (json.loads(line)["id"] for line in handle)


def _row(path: Path, name: str) -> dict[str, Any] | None:
    if path.suffix in (".parquet", ".gz"):
        return next((row for row in read_output(path) if row["id"] == name), None)
    return _find([path], name)


def print_fate(folder: Path, name: str) -> None:
    """The fate of one document, in a few lines."""
    found = fate(folder, name)
    if found["kept"]:
        first = found["text"][:300].replace("\n", "\n    ")
        print(f"{name}: kept, in {found['file']}\n    {first}{'…' if len(found['text']) > 300 else ''}")
        return
    detail = f" ({found['detail']})" if found["detail"] else ""
    if found["reason"] == NOT_DRAWN and found["stage"] == "mixture":
        print(f"{name}: passed every stage and was not drawn by the mixture{detail}")
        return
    print(f"{name}: dropped by {found['stage']}: {found['reason']}{detail}")
