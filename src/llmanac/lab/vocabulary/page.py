"""Several tokenizers side by side: a picture, a page, one JSON document."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmanac.core.files import write_bytes, write_json, write_text
from llmanac.lab._svg import COLOURS
from llmanac.lab.report import Section, render_page, table
from llmanac.lab.vocabulary.measure import ALL, Measured, Row

RESULT, PAGE, PICTURE, DRAWING = "compare.json", "compare.html", "compare.png", "compare.svg"
HEADS = ("bytes/token", "tokens/word", "unknown", "comes back", "MB/s")


def cells(row: Row) -> list[str]:
    """The figures of a row, in the order of `HEADS`."""
    fertility = "" if row.tokens_per_word is None else f"{row.tokens_per_word:.3f}"
    return [
        f"{row.bytes_per_token:.3f}", fertility, f"{row.unknown:.2%}", f"{row.comes_back:.0%}",
        f"{row.megabytes_per_second:.1f}",
    ]  # fmt: skip


def write(folder: Path, found: Sequence[Measured], sentence: str, about: dict[str, Any]) -> Path:
    """Write compare.json, compare.svg, compare.png and compare.html into a folder; returns the page's path."""
    result = {"sentence": sentence, **about, "tokenizers": [one.as_json() for one in found]}
    drawing, picture = _drawn(found)
    write_json(folder / RESULT, result)
    write_bytes(folder / DRAWING, drawing.encode("utf-8"))
    write_bytes(folder / PICTURE, picture)
    return write_text(folder / PAGE, _page(found, sentence, about, drawing))


def _drawn(found: Sequence[Measured]) -> tuple[str, bytes]:
    """Bytes per token and tokens per word of each group, as SVG and PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(found[0].groups)
    with matplotlib.rc_context({"svg.hashsalt": "llmanac", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = pyplot.subplots(2, 1, figsize=(max(6.0, 1.1 * len(names) + 3), 6.0), layout="constrained")
        for axis, (title, field) in zip(
            axes,
            (("bytes per token (more is shorter)", "bytes_per_token"), ("tokens per word", "tokens_per_word")),
            strict=True,
        ):
            width = 0.8 / len(found)
            for number, one in enumerate(found):
                values = [getattr(one.groups[name], field) or 0.0 for name in names]
                places = [i + (number - (len(found) - 1) / 2) * width for i in range(len(names))]
                axis.bar(places, values, width * 0.92, label=one.label, color=COLOURS[number % len(COLOURS)])
            axis.set_xticks(range(len(names)), names)
            axis.set_ylabel(title)
            axis.grid(axis="y", alpha=0.3)
            axis.set_axisbelow(True)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
        text, data = io.StringIO(), io.BytesIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        figure.savefig(data, format="png", dpi=120)
        pyplot.close(figure)
    drawing = text.getvalue()
    return drawing[drawing.index("<svg") :], data.getvalue()


def _page(found: Sequence[Measured], sentence: str, about: dict[str, Any], drawing: str) -> str:
    groups = list(found[0].groups)
    sections = [
        Section(
            f"{'All of it' if group == ALL else group}",
            [f"{found[0].groups[group].bytes:,} bytes, {found[0].groups[group].words:,} words."],
            [
                table(
                    ["", "vocabulary", *HEADS], [[o.label, f"{o.vocabulary:,}", *cells(o.groups[group])] for o in found]
                )
            ],
        )
        for group in groups
    ]
    sections[0].charts = [{"svg": drawing, "caption": "Each group of text, each tokenizer."}]
    blocks = [f"{one.label} ({len(one.pieces)} tokens)\n{' '.join(one.pieces)}" for one in found]
    sections.append(Section("A sentence cut into tokens", [sentence], blocks=blocks))
    best = max(found, key=lambda one: one.groups[groups[-1]].bytes_per_token)
    lead = f"Fewest tokens: {best.label}, {best.groups[groups[-1]].bytes_per_token:.3f} bytes a token."
    return render_page("Tokenizers compared", about["plan"], [lead], sections, about["notes"])
