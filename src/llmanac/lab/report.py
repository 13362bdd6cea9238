"""The page of a study, from its `study.json` alone: every number on it is a number there."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from llmanac.core.files import read_json, write_json, write_text
from llmanac.core.pages import Chart, IntervalRow, Line, Section, interval_chart, line_chart, render_page, table
from llmanac.lab import words
from llmanac.lab.axis import described
from llmanac.lab.budget import format_duration
from llmanac.lab.cache import digest
from llmanac.lab.stats import BOOTSTRAP, STUDENT, interval, mean
from llmanac.lab.words import Result

RESULT, PAGE, LINE = "study.json", "study.html", "study.md"
PLOTTED = (
    "parameters", "train_flops", "seconds", "decode_tokens_per_second", "peak_memory", "vocabulary", "encode_rate",
    "bits",
)  # fmt: skip
SAME_COST = 0.01  # costs that differ by less are one place on a chart


def write_study(folder: Path, result: Result) -> Path:
    """Write study.json, study.html and study.md; returns the page's path."""
    write_json(folder / RESULT, dict(result))
    write_text(folder / LINE, "**{}** {}\n".format(*words.summary(result).split(" ", 1)))
    return write_text(folder / PAGE, render(result))


def keep_other(folder: Path, found: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Keep an earlier study under another name if its numbers are not in the new one (more arms or seeds only add)."""
    before = read_json(folder / RESULT).get("values", {}) if (folder / RESULT).is_file() else {}
    new = {(metric, arm): values for metric, arms in found.get("values", {}).items() for arm, values in arms.items()}
    old = {(metric, arm): values for metric, arms in before.items() for arm, values in arms.items()}
    if all(new.get(key, [])[: len(values)] == values for key, values in old.items()):
        return
    name = f"study-{digest(before)[:8]}"
    for path in (folder / RESULT, folder / PAGE):
        if path.is_file():
            path.replace(folder / f"{name}{path.suffix}")
    say(f"the earlier study here has other numbers; its page is kept as {folder / name}.html")


def render(result: Result) -> str:
    """A study's page as one HTML file."""
    lead = words.sentences(result) or ["There is nothing to compare: no second arm finished."]
    return render_page(words.title(result), subtitle(result), lead, sections(result), warnings=words.warnings(result))


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
        _shown(result), _arms(result), _plan(result), _tuning(result), _pairing(result), _how(result),
    ]  # fmt: skip
    return [section for section in found if section]


def _verdicts(result: Result, metric: Mapping[str, Any]) -> Section | None:
    values = result["values"].get(metric["name"], {})
    if not values:
        return None
    label, unit = words.label(metric), metric["unit"]
    compared = {c["arm"]: c for c in result["comparisons"][metric["name"]]}
    first = metric == words.primary(result)
    title = f"{label[:1].upper()}{label[1:]} ({metric['better']} is better)"
    charts, said = _verdict_charts(result, metric, values, compared), []
    if first:
        said = [
            f"Differences are paired by {result['replicate']}; intervals are {result.get('intervals', 't intervals')} "
            f"over {result['replicate']}s, "
            "one arm at a time. Both p columns are adjusted over the arms (Holm). Equivalent: two one-sided tests put "
            f"the difference inside {result['margin']:.2%} of the baseline, whatever its sign."
        ]
        if detectable := [c["detectable"] for c in compared.values() if c["detectable"]]:
            said.append(
                f"With this many {result['replicate']}s a difference of {words.quantity(max(detectable), unit)} would "
                "have been found four times in five."
            )
    return Section(title + ("" if first else ", also measured"), said, [verdict_table(result, metric)], charts)


def verdict_table(result: Result, metric: Mapping[str, Any]) -> dict[str, Any]:
    """Every arm on one metric, those that failed last."""
    unit, values, rows = metric["unit"], result["values"].get(metric["name"], {}), []
    compared = {c["arm"]: c for c in result["comparisons"].get(metric["name"], [])}
    for arm, found in values.items():
        row: list[Any] = [arm, "baseline" if arm == result["baseline"] else "", words.quantity(mean(found), unit)]
        if c := compared.get(arm):
            row[1] = (words.verdict(c, result["replicate"]), c["verdict"])
            row += [
                words.difference(c), words.interval(c), words.p_value(c["p"]), words.p_value(c["p_equivalence"]),
                f"{c['improved']} of {c['n']}",
            ]  # fmt: skip
        rows.append(row)
    rows += [[arm, ("failed", "failed")] for arm in result["failed"]]
    head = ["", "verdict", "mean", "difference", "95% interval", "p", "p equivalent", "improved"]
    return table(head, rows, list(values).index(result["baseline"]) if result["baseline"] in values else None)


def further_table(result: Result) -> dict[str, Any] | None:
    """The means of the metrics after the first, each with its verdict; None where there is one metric."""
    rows = []
    for metric in result["metrics"][1:]:
        said = {c["arm"]: words.verdict(c, result["replicate"]) for c in result["comparisons"].get(metric["name"], [])}
        means = {arm: words.quantity(mean(v), metric["unit"]) for arm, v in result["values"][metric["name"]].items()}
        cells = [f"{value}\n{said[arm]}" if arm in said else value for arm, value in means.items()]
        rows.append([f"{words.label(metric)} ({metric['better']} is better)", *cells])
    return table(["", *result["values"].get(words.primary(result)["name"], {})], rows) if rows else None


def cost_table(result: Result) -> dict[str, Any]:
    """The mean costs of each arm, a row a cost."""
    costs = result["costs"]
    rows = [
        [words.label(unit), *(words.quantity(c.get(unit["name"]), unit["unit"]) for c in costs.values())]
        for unit in result["cost_units"]
    ]
    return table(["", *costs], rows)


def _verdict_charts(
    result: Result, metric: Mapping[str, Any], values: Mapping[str, Any], compared: Mapping[str, Any]
) -> list[Chart]:
    if _all_equal([v for found in values.values() for v in found]):
        return []
    label, base = words.label(metric), result["baseline"]
    many, shades = max(map(len, values.values())) > 60, _shades(result)
    how = BOOTSTRAP if result.get("intervals") == BOOTSTRAP.intervals else STUDENT
    levels = [
        IntervalRow(arm, () if many else v, mean(v), how.interval(v) if len(v) > 1 else None, shades[arm])
        for arm, v in values.items()
    ]
    dots = f"no dots: more than 60 {result['replicate']}s" if many else f"dots: one {result['replicate']} each"
    caption = f"Square: mean, line: 95% interval, {dots}. The spread of levels, not of differences."
    out = [interval_chart(levels, label, caption)]
    if compared:
        pairs = [
            IntervalRow(
                arm, () if many else [x - b for x, b in zip(values[arm], values[base], strict=True)], c["difference"],
                None if c["low"] is None else (c["low"], c["high"]), shades[arm],
            )
            for arm, c in compared.items()
        ]  # fmt: skip
        caption = "Paired differences from the baseline, 95% intervals; grey: the margin of equivalence."
        margin = max(c["margin"] for c in compared.values())
        out.append(interval_chart(pairs, f"difference from {base}", caption, margin=margin))
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
    counted = any(unit["name"] == "train_flops" for unit in result["cost_units"])
    held = (
        "Parameters, FLOPs, tokens and time are all given, whichever was held equal; FLOPs are counted for each matrix "
        "product, forward and backward."
        if counted
        else "Parameters, tokens and time are all given, whichever was held equal; FLOPs are not counted."
    )
    note = held if result.get("hold") else "Measured on the same inputs."
    return Section("What each arm costs", [f"Means over the runs. {note}"], [cost_table(result)])


def _curves(result: Result) -> Section | None:
    lines, shades = [], _shades(result)
    for arm, by_seed in result["curves"].items():
        runs = [run for run in by_seed.values() if run]
        if not runs:
            continue
        points = list(zip(*runs, strict=False))  # by point, then by seed
        xs = [mean([point["tokens"] for point in column]) for column in points]
        columns = [[point["value"] for point in column] for column in points]
        band = [interval(c) for c in columns] if len(runs) > 2 else []
        lines.append(Line(arm, list(zip(xs, map(mean, columns), strict=True)), band, shades[arm]))
    if not lines:
        return None
    caption = "Mean over the seeds, band from three on: 95% interval, cut at the frame."
    if "curve" not in result:
        caption = f"On a small part of the held-out text. {caption}"
    log = _log([x for line in lines for x, _ in line.points])
    over, label = result.get("curve", ("training tokens", words.label(words.primary(result))))
    return Section("Learning curves", charts=[line_chart(lines, over, label, caption, log=log)])


def _log(xs: Sequence[float]) -> Literal["", "x"]:
    """Whether an axis with these values is logarithmic."""
    return "x" if 0 < 4 * min(xs) < max(xs) else ""


def _shown(result: Result) -> Section | None:
    blocks = [f"{arm}\n{text}" for arm, text in result.get("shown", {}).items()]
    return Section("One example", blocks=blocks) if blocks else None


def _trade(result: Result) -> Section | None:
    metric, costs, shades = words.primary(result), result["costs"], _shades(result)
    values = result["values"].get(metric["name"], {})
    quality, charts = words.label(metric), []
    for unit in result["cost_units"]:
        points = {
            arm: (float(cost), mean(v))
            for arm, v in values.items()
            if (cost := costs.get(arm, {}).get(unit["name"])) is not None
        }
        xs, ys = zip(*points.values(), strict=True) if points else ((), ())
        if unit["name"] not in PLOTTED or len(points) < 2 or _all_equal(xs, SAME_COST) or _all_equal(ys):
            continue
        label = words.label(unit)
        caption = f"{quality} ({metric['better']} is better) against {label} ({unit['better']} is better)."
        lines = [Line(arm, [point], shade=shades[arm]) for arm, point in points.items()]
        axis = f"{label} ({unit['unit']})" if unit["unit"] else label
        charts.append(line_chart(lines, axis, quality, caption, log=_log(xs)))
    return Section("Quality against cost", charts=charts) if charts else None


def _arms(result: Result) -> Section:
    rows = [[arm["label"], described(arm["diff"]), ", ".join(arm["held"]) or "nothing"] for arm in result["arms"]]
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
            str(s["tensors_that_differ"]),
            f"{s['rows']} {'equal' if s['rows_equal'] else 'not equal'}" if s["rows"] else "none recorded",
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
