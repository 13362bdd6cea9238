"""The page of a study, from its `study.json` alone: every number on it is a number there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape

from llmanac.core.files import write_json, write_text
from llmanac.lab import words
from llmanac.lab._svg import Line, Row, interval_chart, line_chart, point_chart
from llmanac.lab.axis import described
from llmanac.lab.budget import format_duration
from llmanac.lab.stats import interval, mean
from llmanac.lab.words import Result

TEMPLATES = Path(__file__).with_name("templates")
RESULT, PAGE, LINE = "study.json", "study.html", "study.md"
PLOTTED = (
    "parameters", "train_flops", "seconds", "decode_tokens_per_second", "peak_memory", "vocabulary", "encode_rate",
)  # fmt: skip
SAME_COST = 0.01  # costs that differ by less are one place on a chart


@dataclass
class Section:
    """One part of the page."""

    title: str
    paragraphs: list[str] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    charts: list[dict[str, str]] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)


def write_study(folder: Path, result: Result) -> Path:
    """Write study.json, study.html and study.md; returns the page's path."""
    write_json(folder / RESULT, dict(result))
    write_text(folder / LINE, "**{}** {}\n".format(*words.summary(result).split(" ", 1)))
    return write_text(folder / PAGE, render(result))


def render(result: Result) -> str:
    """A study's page as one HTML file."""
    lead = words.sentences(result) or ["There is nothing to compare: no second arm finished."]
    return render_page(words.title(result), subtitle(result), lead, sections(result), words.warnings(result))


def render_page(
    title: str, subtitle: str, lead: Sequence[str], sections: Sequence[Section], warnings: Sequence[str] = ()
) -> str:
    """A page of sections as one HTML file; `lead` has the lines on top."""
    page = {"title": title, "subtitle": subtitle, "warnings": warnings, "lead": lead, "sections": sections}
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("study.html").render(page=page)


def subtitle(result: Result) -> str:
    """Replicates, what was held equal, machine, when and how long, in a line."""
    machine = result.get("machine", {})
    return (
        f"{words.plural(words.replicates(result), result['replicate'])}, {words.held_words(result)}; "
        f"{machine.get('cpu', 'unknown machine')}, {words.plural(machine.get('threads', 0), 'thread')}; "
        f"{result.get('started', '')}; "
        f"{format_duration(result.get('seconds', 0.0))}."
    )


def sections(result: Result) -> list[Section]:
    """The page's parts below its lead."""
    found = [
        *[_verdicts(result, metric) for metric in result["metrics"]], _costs(result), _curves(result), _trade(result),
        _arms(result), _plan(result), _tuning(result), _pairing(result), _how(result),
    ]  # fmt: skip
    return [section for section in found if section]


def table(
    head: Sequence[str], rows: Sequence[Sequence[Any]], base: int | None = None, caption: str = ""
) -> dict[str, Any]:
    """A table for a Section; a cell is a text, or `(text, class)`."""

    def cell(value: Any) -> dict[str, str]:
        text, word = value if isinstance(value, tuple) else (value, "")
        return {"text": text, "word": word}

    body = [{"cells": [cell(v) for v in row], "base": index == base} for index, row in enumerate(rows)]
    return {"head": list(head), "rows": body, "caption": caption}


def markdown_table(table: Mapping[str, Any]) -> list[str]:
    """The lines of a table in Markdown."""
    rows = [[cell["text"].replace("|", "\\|") for cell in row["cells"]] for row in table["rows"]]
    head = [name.replace("|", "\\|") for name in table["head"]]
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _verdicts(result: Result, metric: Mapping[str, Any]) -> Section | None:
    values = result["values"].get(metric["name"], {})
    if not values:
        return None
    label, unit = words.label(metric), metric["unit"]
    compared = {c["arm"]: c for c in result["comparisons"][metric["name"]]}
    rows: list[list[Any]] = []
    for arm, found in values.items():
        if arm not in compared:
            what = "baseline" if arm == result["baseline"] else ""
            rows.append([arm, what, words.quantity(mean(found), unit), *[""] * 5])
            continue
        c = compared[arm]
        rows.append(
            [
                arm, (words.verdict(c, result["replicate"]), c["verdict"]), words.quantity(c["mean"], unit),
                words.difference(c), words.interval(c), words.p_value(c["p"]), words.p_value(c["p_equivalence"]),
                f"{c['improved']} of {c['n']}",
            ]
        )  # fmt: skip
    base = list(values).index(result["baseline"]) if result["baseline"] in values else None
    head = ["", "verdict", "mean", "difference", "95% interval", "p", "p equivalent", "improved"]
    first = metric == words.primary(result)
    title = f"{label[:1].upper()}{label[1:]} ({metric['better']} is better)"
    section = Section(title + ("" if first else ", also measured"), tables=[table(head, rows, base)])
    if first:
        section.paragraphs.append(
            f"Differences are paired by {result['replicate']}; intervals are {result.get('intervals', 't intervals')} "
            f"over {result['replicate']}s, "
            "one arm at a time. Both p columns are adjusted over the arms (Holm). Equivalent: two one-sided tests put "
            f"the difference inside {result['margin']:.2%} of the baseline, whatever its sign."
        )
        detectable = [c["detectable"] for c in compared.values() if c["detectable"] is not None]
        if detectable:
            section.paragraphs.append(
                f"With this many {result['replicate']}s a difference of {words.quantity(max(detectable), unit)} would "
                "have been found four times in five."
            )
    section.charts = _verdict_charts(result, metric, values, compared)
    return section


def _verdict_charts(
    result: Result, metric: Mapping[str, Any], values: Mapping[str, Any], compared: Mapping[str, Any]
) -> list[dict[str, str]]:
    if _all_equal([v for found in values.values() for v in found]):
        return []
    label, base = words.label(metric), result["baseline"]
    many, shades = max(map(len, values.values())) > 60, _shades(result)
    levels = []
    for arm, v in values.items():
        low, high = interval(v) if len(v) > 1 else (None, None)
        levels.append(Row(arm, () if many else v, mean(v), low, high, shades[arm]))
    dots = f"no dots: more than 60 {result['replicate']}s" if many else f"dots: one {result['replicate']} each"
    caption = f"Square: mean, line: 95% interval, {dots}. The spread of levels, not of differences."
    out = [{"svg": interval_chart(levels, label, f"{label} of each arm"), "caption": caption}]
    if compared:
        pairs = [
            Row(
                arm, () if many else [x - b for x, b in zip(values[arm], values[base], strict=True)], c["difference"],
                c["low"], c["high"], shades[arm],
            )
            for arm, c in compared.items()
        ]  # fmt: skip
        margin = max(c["margin"] for c in compared.values())
        svg = interval_chart(pairs, f"difference from {base}", "Paired differences", zero=True, margin=margin)
        caption = "Paired differences from the baseline, 95% intervals; grey: the margin of equivalence."
        out.append({"svg": svg, "caption": caption})
    return out


def _all_equal(numbers: Sequence[float], within: float = 0.0) -> bool:
    """Whether a chart would show all of these at one place: all equal, or within a fraction of the largest."""
    return max(numbers) - min(numbers) <= within * max(map(abs, numbers))


def _shades(result: Result) -> dict[str, int]:
    """One colour per arm, the same in every chart."""
    return {arm["label"]: index for index, arm in enumerate(result["arms"])}


def _costs(result: Result) -> Section | None:
    costs = result["costs"]
    if not costs:
        return None
    rows = [
        [words.label(unit), *(words.quantity(c.get(unit["name"]), unit["unit"]) for c in costs.values())]
        for unit in result["cost_units"]
    ]
    counted = any(unit["name"] == "train_flops" for unit in result["cost_units"])
    held = (
        "Parameters, FLOPs, tokens and time are all given, whichever was held equal; FLOPs are counted for each matrix "
        "product, forward and backward."
        if counted
        else "Parameters, tokens and time are all given, whichever was held equal; FLOPs are not counted."
    )
    note = held if result.get("hold") else "Measured on the same inputs."
    return Section("What each arm costs", [f"Means over the runs. {note}"], [table(["", *costs], rows)])


def _curves(result: Result) -> Section | None:
    lines, shades = [], _shades(result)
    for arm, by_seed in result["curves"].items():
        runs = [run for run in by_seed.values() if run]
        if not runs:
            continue
        points = list(zip(*runs, strict=False))  # by point, then by seed
        xs = [mean([point["tokens"] for point in column]) for column in points]
        columns = [[point["value"] for point in column] for column in points]
        band = [interval(c) for c in columns] if len(runs) > 1 else []
        lines.append(Line(arm, list(zip(xs, map(mean, columns), strict=True)), band, shades[arm]))
    if not lines:
        return None
    svg = line_chart(lines, "training tokens", words.label(words.primary(result)), "Learning curves")
    caption = "On a small part of the held-out text; mean over the seeds, band: 95% interval, cut at the frame."
    return Section("Learning curves", charts=[{"svg": svg, "caption": caption}])


def _trade(result: Result) -> Section | None:
    metric, costs, shades = words.primary(result), result["costs"], _shades(result)
    values = result["values"].get(metric["name"], {})
    units = {unit["name"]: unit for unit in result["cost_units"]}
    quality, charts = words.label(metric), []
    for name in PLOTTED:
        points = [
            (arm, float(cost), mean(v), shades[arm])
            for arm, v in values.items()
            if (cost := costs.get(arm, {}).get(name)) is not None
        ]
        if (
            len(points) < 2
            or name not in units
            or _all_equal([p[1] for p in points], SAME_COST)
            or _all_equal([p[2] for p in points])
        ):
            continue
        label, unit = words.label(units[name]), units[name]["unit"]
        svg = point_chart(points, f"{label} ({unit})" if unit else label, quality, f"{quality} against {label}")
        caption = f"{quality} ({metric['better']} is better) against {label} ({units[name]['better']} is better)."
        charts.append({"svg": svg, "caption": caption})
    return Section("Quality against cost", charts=charts) if charts else None


def _arms(result: Result) -> Section:
    rows = []
    for arm in result["arms"]:
        rows.append([arm["label"], described(arm["diff"]), ", ".join(arm["held"]) or "nothing"])
    where = f" ({result['path']})" if result["path"] else ""
    return Section(
        "What differs",
        [f"The axis is {result['kind']}{where}. Each arm's resolved difference from the base; nothing else differs."],
        [table(["arm", "difference from the base", "moved to hold or tune"], rows)],
    )


def _plan(result: Result) -> Section | None:
    plan = result.get("plan")
    if not plan:
        return None
    if "steps" not in plan:
        return Section("The plan", [plan["words"]])
    rows = [
        [arm, *_steps(plan["steps"][arm], s["step_seconds"]), format_duration(s["fixed_seconds"])]
        for arm, s in plan["speed"].items()
    ]
    said = (
        f"Budget {format_duration(plan['budget_seconds'])}; {format_duration(plan['spent_seconds'])} of it went on "
        f"text and calibration; {words.plural(plan['seeds'], 'seed')}"
        + (f" and {words.plural(plan['tuning_runs'], 'tuning run')}" if plan["tuning_runs"] else "")
        + f" for each arm; expected {format_duration(plan['expected_seconds'])} in all."
    )
    return Section("The plan", [said], [table(["arm", "steps", "a step", "outside the steps"], rows)])


def _steps(steps: int, seconds: float) -> list[str]:
    return [f"{steps:,}", f"{1000 * seconds:.1f} ms"] if seconds else ["estimated", ""]


def _tuning(result: Result) -> Section | None:
    found = result.get("tune")
    if not found:
        return None
    factors = [f"{f:g}" for f in found["factors"]]
    rows = [
        [arm, *["diverged" if v[f] is None else f"{v[f]:.4f}" for f in factors], f"x{found['chosen'][arm]:g}"]
        for arm, v in found["values"].items()
    ]
    said = "The same factors on every arm's learning rate, under a seed and on texts that the result does not use."
    return Section("Tuning", [said], [table(["arm", *[f"x{f}" for f in factors], "chosen"], rows)])


def _pairing(result: Result) -> Section | None:
    found = result.get("pairing") or {}
    if not found.get("checked"):
        return None
    rows = [
        [
            seed, str(s["shared_tensors"]), str(len(set().union(*s.get("scaled", {}).values()))),
            str(s["tensors_that_differ"]), f"{s['rows']} {'equal' if s['rows_equal'] else 'not equal'}",
            s["tensor_hash"], s["row_hash"],
        ]
        for seed, s in found["seeds"].items()
    ]  # fmt: skip
    said = [
        "Checked in every run: initial tensors of one name and shape are equal between arms, or the same draw at "
        "another scale where a method asks for one, and so are the first rows of training text. A study whose arms do "
        "not start equal stops."
    ]
    if any(s.get("scaled") for s in found["seeds"].values()):
        said.append(f"Same draw, scaled: {'; '.join(_scaled(found['seeds']))}. Every number was compared.")
    head = [
        "seed", "equal tensors", "same draw, scaled", "different", "rows compared", "hash of the tensors",
        "hash of the rows",
    ]  # fmt: skip
    return Section("Pairing", said, [table(head, rows)])


def _scaled(seeds: Mapping[str, Any]) -> list[str]:
    """Each tensor that starts as the same draw at another scale, once where the seeds agree on the factor."""
    found = dict.fromkeys(
        f"{arm}: {name} is {factor:.4g} times that of {s['reference']}"
        for s in seeds.values()
        for arm, factors in s.get("scaled", {}).items()
        for name, factor in factors.items()
    )
    return list(found)


def _how(result: Result) -> Section:
    machine, runs = result.get("machine", {}), result.get("runs", [])
    facts = {
        "command": result.get("command", ""),
        "machine": ", ".join(f"{k} {v}" for k, v in machine.items() if v is not None),
        "load": f"{result.get('load', {}).get('before')} before, {result.get('load', {}).get('after')} after",
        "runs": f"{len(runs)}, of which {sum(r['cached'] for r in runs)} were cached",
        "text": _text(result.get("data", {})),
        "settings": words.settings_words(result.get("base") or {}),
        "artefact": result.get("artefact", ""),
    }
    return Section("How it was made", blocks=["\n".join(f"{k:<9} {v}" for k, v in facts.items() if v)])


def _text(data: Mapping[str, Any]) -> str:
    if not data:
        return ""
    return ", ".join(f"{k.replace('_', ' ')} {v:,}" if isinstance(v, int) else f"{k} {v}" for k, v in data.items())
