"""The form of a page: Markdown made of the lab's sections, with its charts as SVG files next to it."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from evidence import _cells
from llmanac.core import catalogue
from llmanac.core.describe import measured
from llmanac.core.pages import markdown_table
from llmanac.lab.stats import interval, mean
from llmanac.lab.words import plural

COLUMNS = "| --- " * 6 + "|"


def render(
    study: ModuleType, cells: Sequence[dict[str, Any]], left_out: int, found: Mapping[str, dict[str, Any]]
) -> tuple[str, dict[str, str]]:
    """The text of the page, and its charts by file name; `found` has the verdicts of its rows."""
    title, _, text = inspect.cleandoc(study.__doc__ or study.__name__).partition("\n")
    seeds = _cells.replicates(study, cells)
    facts = study.facts(seeds) if hasattr(study, "facts") else {}
    lines = [
        f"# {title.rstrip('.')}", "", f"Claim: {study.CLAIM}", "", *verdict_box(found),
        made_by(study, cells, seeds, left_out),
        *(unwrapped(text.rstrip().format(**facts)) if text.strip() else []),
    ]  # fmt: skip
    charts: dict[str, str] = {}
    for section in study.show(seeds):
        if section.title:  # one that begins with # is below the section before it
            lines += ["", f"##{section.title}" if section.title.startswith("#") else f"## {section.title}"]
        for paragraph in section.paragraphs:
            lines += ["", paragraph]
        for table in section.tables:
            lines += ["", *markdown_table(table)]
        for chart in section.charts:
            name = f"chart-{len(charts) + 1}.svg"
            charts[name] = chart.svg
            lines += ["", f"![{chart.caption}]({name})"]
        for block in section.blocks:
            lines += ["", "```", block, "```"]
    return "\n".join(lines) + "\n", charts


def made_by(study: ModuleType, cells: Sequence[dict[str, Any]], seeds: Sequence[Any], left_out: int) -> str:
    """How many cells, on which machines, when; of what version, and what is not pooled."""
    machines = dict.fromkeys(
        ", ".join(filter(None, [c["machine"].get("cpu"), f"Python {c['machine']['python']}"])) for c in cells
    )
    dates = sorted({c["made"] for c in cells})
    span = " to ".join(dict.fromkeys(dates[:1] + dates[-1:]))
    commits = sorted({c["commit"] for c in cells})
    packages = sorted({f"{n} {v}" for c in cells for n, v in c["machine"].get("packages", {}).items()})
    cells_at = f"../{study.OF[0]}/cells/" if hasattr(study, "OF") else "cells/"
    own, version = study.__name__.rpartition(".")[2], _cells.version(study)
    out = (
        f"Made by `make evidence STUDY={own}`: {plural(len(seeds), getattr(study, 'REPLICATE', 'seed'))} in "
        f"{plural(len(cells), 'cell')} ([cells]({cells_at})), {'; '.join(machines)}, {span}, "
        f"{plural(len(commits), 'commit')}."
    )
    if packages:
        out += f" {', '.join(packages)}."
    if left_out:
        out += (
            f" {plural(left_out, 'cell')} of another text, version or code {'is' if left_out == 1 else 'are'} left out."
        )
    if version > 1:
        out += f" Version {version} of the question; [plan.json](plan.json) has what the earlier ones stated."
    return out if hasattr(study, "MARGIN") else f"{out} No margin was stated before the first result: 1% holds."


def verdict_box(found: Mapping[str, dict[str, Any]]) -> list[str]:
    """The table that a page opens with: a line for each part of the claim of each of its rows."""
    lines = [
        f"| `{row}` | {part['says']} | **{part['verdict']}** | {said_effect(part, '../../../')} | {part['n'] or ''} "
        f"| {part.get('scale', '')} |"
        for row, one in found.items() for part in one["parts"]
    ]  # fmt: skip
    for row, one in found.items():
        said = ", ".join(f"[{name}](../{name}/page.md)" for name in one["others"])
        if said or not one["parts"]:
            lines.append(f"| `{row}` | | {f'measured in {said}' if said else one['note']} | | | |")
    head = ["| row | what is claimed | verdict | effect (95% interval) | n | scale |", COLUMNS]
    return [*head, *lines, ""] if lines else []


def said_effect(part: Mapping[str, Any], root: str) -> str:
    """Effect, interval, margin and note of a part in words; of an exact one its test, `root` above the page."""
    note = part.get("note", "")
    if part["verdict"] == "exact":
        path, _, name = note.partition("::")
        return f"[{name.removeprefix('test_').replace('_', ' ')}]({root}{path})"
    return "; ".join(filter(None, [measured(part, margin=True), note]))


def index(found: Mapping[str, dict[str, Any]]) -> str:
    """`docs/evidence/README.md`: every row by chapter, with its verdict, the part that decided it, and its page."""
    entries = catalogue.rows()
    counts = Counter(one["verdict"] for one in found.values())
    lines = [
        "# Evidence", "",
        "Each row of the almanac, what its evidence shows, and the page; `python evidence/run.py --render` writes it "
        "from the cells. A row is *shown* where every part of its claim is, *contradicted* where one part is, "
        "*exact* where it holds by construction, is counted or is a formula (a test says so), else *inconclusive*. "
        "The table has the part that decides: the first of that verdict; the page has them all.", "",
        ", ".join(f"{count} {word}" for word, count in counts.most_common()) + ".",
    ]  # fmt: skip
    chapter = ""
    for row, one in found.items():
        if row.partition("/")[0] != chapter:
            chapter = row.partition("/")[0]
            lines += ["", f"## {chapter}", "", "| row | verdict | by | effect (95% interval) | n | scale |", COLUMNS]
        page = entries[row].claim.removeprefix("docs/evidence/")
        name = f"[{entries[row].title}]({page})" if page else entries[row].title
        effect = said_effect(one, "../../")
        cells = [f"{name} (`{row}`)", one["verdict"], one["says"], effect, str(one["n"] or ""), one["scale"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def unwrapped(text: str) -> list[str]:
    """Lines of Markdown: a paragraph or an item of a list in one, blocks that are indented by four as they are."""
    out: list[str] = []
    for line in text.split("\n"):
        goes_on = out and out[-1] and not out[-1].startswith("    ") and not line.startswith(("- ", "    ", "#"))
        if line and goes_on:
            out[-1] += f" {line.strip()}"
        else:
            out.append(line)
    return out


def with_interval(values: Sequence[float], digits: int = 3) -> str:
    """A mean and half its 95% t interval."""
    if len(values) < 2:
        return f"{mean(values):.{digits}f}"
    low, high = interval(values)
    return f"{mean(values):.{digits}f} ± {(high - low) / 2:.{digits}f}"


def bullets(lines: Sequence[str]) -> str:
    """One paragraph: a list."""
    return "\n".join(f"- {line}" for line in lines)
