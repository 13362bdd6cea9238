"""The form of a page: Markdown made of the lab's sections, with its charts as SVG files next to it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from llmanac.lab._svg import standalone
from llmanac.lab.report import markdown_table
from llmanac.lab.stats import interval, mean
from llmanac.lab.words import plural


def render(study: ModuleType, result: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """The text of the page, and its charts by file name."""
    title, _, text = inspect.cleandoc(study.__doc__ or study.__name__).partition("\n")
    facts = study.facts(result["seeds"]) if hasattr(study, "facts") else {}
    machine, count = result["machine"], len(result["seeds"])
    versions = {"Python": machine["python"], **machine.get("packages", {})}
    made = [plural(count, getattr(study, "REPLICATE", "seed")), machine.get("cpu", "")]
    made += [*(f"{name} {version}" for name, version in versions.items()), result["made"]]
    rows = f"Rows: {', '.join(f'`{row}`' for row in result['rows'])}. " if result["rows"] else ""
    lines = [
        f"# {title.rstrip('.')}", "", f"Claim: {study.CLAIM}", "",
        f"{rows}Made by `{result['command']}`: {', '.join(filter(None, made))}.",
        *(unwrapped(text.rstrip().format(**facts)) if text.strip() else []),
    ]  # fmt: skip
    charts: dict[str, str] = {}
    for section in study.show(result["seeds"]):
        if section.title:  # one that begins with # is below the section before it
            lines += ["", f"##{section.title}" if section.title.startswith("#") else f"## {section.title}"]
        for paragraph in section.paragraphs:
            lines += ["", paragraph]
        for table in section.tables:
            lines += ["", *markdown_table(table)]
        for chart in section.charts:
            name = f"chart-{len(charts) + 1}.svg"
            charts[name] = standalone(chart["svg"])
            lines += ["", f"![{chart['caption']}]({name})"]
        for block in section.blocks:
            lines += ["", "```", block, "```"]
    return "\n".join(lines) + "\n", charts


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
