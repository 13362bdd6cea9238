"""Several tokenizers side by side: a picture, a page, one JSON document."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from llmanac.core.files import write_bytes, write_json, write_text
from llmanac.core.pages import Chart, Section, bar_chart, render_page, table
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
    fields = {"bytes per token (more is shorter)": "bytes_per_token", "tokens per word": "tokens_per_word"}
    panels: dict[str, dict[str, dict[str, float]]] = {title: {} for title in fields}
    for title, field in fields.items():
        for name, one in product(found[0].groups, found):
            value = getattr(one.groups[name], field)
            panels[title][f"{name}: {one.label}"] = {} if value is None else {one.label: value}
    chart = bar_chart(panels, "Each group of text, each tokenizer.")
    write_json(folder / RESULT, {"sentence": sentence, **about, "tokenizers": list(map(asdict, found))})
    write_text(folder / DRAWING, chart.svg)
    write_bytes(folder / PICTURE, chart.png())
    return write_text(folder / PAGE, _page(found, sentence, about, chart))


def group_sections(found: Sequence[Measured], marked: Collection[str] = ()) -> list[Section]:
    """A table for each group of text; labels with a note are marked."""
    out = []
    for group, row in found[0].groups.items():
        rows = [
            [f"{one.label} *" if one.label in marked else one.label, f"{one.vocabulary:,}", *cells(one.groups[group])]
            for one in found
        ]
        said = f"{row.bytes:,} bytes, {row.words:,} words."
        out.append(Section("All of it" if group == ALL else group, [said], [table(["", "vocabulary", *HEADS], rows)]))
    return out


def _page(found: Sequence[Measured], sentence: str, about: dict[str, Any], chart: Chart) -> str:
    groups, sections = list(found[0].groups), group_sections(found)
    sections[0].charts = [chart]
    blocks = [f"{one.label} ({len(one.pieces)} tokens)\n{' '.join(one.pieces)}" for one in found]
    sections.append(Section("A sentence cut into tokens", [sentence], blocks=blocks))
    best = max(found, key=lambda one: one.groups[groups[-1]].bytes_per_token)
    lead = f"Fewest tokens: {best.label}, {best.groups[groups[-1]].bytes_per_token:.3f} bytes a token."
    return render_page("Tokenizers compared", about["plan"], [lead], sections, warnings=about["notes"])
