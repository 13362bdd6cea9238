"""`llmanac.verdict`: the logs of two or more systems, paired item by item, and whether one of them is better.

found = llmanac.verdict("results/base", "results/tuned", margin=0.01)
found.verdict, found.comparisons[0].difference
"""

from __future__ import annotations

import html
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.errors import DataError, SpecError, nearest
from llmanac.core.files import file_sha256
from llmanac.core.pages import markdown_table, table
from llmanac.evaluate.verdict import decide, pairing
from llmanac.evaluate.verdict.decide import Comparison
from llmanac.evaluate.verdict.items import Items, Log
from llmanac.evaluate.verdict.load import read_log
from llmanac.evaluate.verdict.pairing import Finding, Pairs

MOST_SLICES = 200
HEADS = ("benchmark", "system", "verdict", "difference", "95% interval", "p", "metric", "value", "baseline", "items",
         "shows from", "more items")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Compared:
    """The pairs behind a comparison: for the report, which reads the prompts of changed items from their places.

    change: (items,) how much better each is than the baseline's, 0 where nothing changed.
    """

    comparison: Comparison
    metric: str
    logs: tuple[Items, Items]
    pairs: Pairs
    change: np.ndarray
    differences: np.ndarray
    groups: np.ndarray | None


@dataclass(frozen=True)
class Judgement:
    """The verdict on each system.

    Attributes:
        comparisons: a benchmark and system each; overall: of each system over all benchmarks, where there are several.
        slices: comparisons by the value of the field `--slices`, a family of tests of its own.
        findings: what is different about the logs but the systems, and was let pass.
        systems: by letter where its log is, and what the log calls the model.
    """

    systems: Mapping[str, str]
    baseline: str
    comparisons: Sequence[Comparison]
    overall: Sequence[Comparison] = ()
    slices: Mapping[str, Sequence[Comparison]] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    compared: Sequence[Compared] = field(default=(), repr=False, compare=False)
    sources: Mapping[str, Log] = field(default_factory=dict, repr=False, compare=False)

    @property
    def verdicts(self) -> dict[str, str]:
        """The verdict on each system but the baseline: over all benchmarks, or on the only one."""
        return {one.system: one.verdict for one in self.overall or self.comparisons}

    @property
    def verdict(self) -> str:
        """The verdict on the first system that is not the baseline."""
        return next(iter(self.verdicts.values()))

    def worse(self) -> list[Comparison]:
        """Every comparison, also of a single benchmark, in which a system is worse."""
        return [one for one in (*self.comparisons, *self.overall) if one.verdict == "worse"]

    def tables(self) -> list[dict[str, Any]]:
        """As of a page: the comparisons, and those of the slices."""
        made = [table(HEADS, map(_cells, [*self.comparisons, *self.overall]))]
        if self.slices:
            rows = [[value, *_cells(one)[1:]] for value, ones in self.slices.items() for one in ones]
            made.append(table(["slice", *HEADS[1:]], rows))
        return made

    def said(self) -> list[str]:
        """Verdicts and findings in sentences."""
        return [*map(sentence, self.overall or self.comparisons), *(one.said for one in self.findings)]

    def as_json(self) -> dict[str, Any]:
        return {
            "systems": dict(self.systems), "baseline": self.baseline, "verdicts": self.verdicts,
            "comparisons": [one.as_json() for one in self.comparisons],
            "overall": [one.as_json() for one in self.overall],
            "slices": {value: [one.as_json() for one in ones] for value, ones in self.slices.items()},
            "findings": [{"kind": one.kind, "said": one.said} for one in self.findings],
        }  # fmt: skip

    def __repr__(self) -> str:
        lines = [line for made in self.tables() for line in [*markdown_table(made), ""]]
        return "\n".join([*self.said(), "", *lines]).rstrip()

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], kind: str) -> str:
            return "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells) + "</tr>"

        out = "".join(f"<p>{html.escape(said)}</p>" for said in self.said())
        for made in self.tables():
            body = (row([cell["text"] for cell in one["cells"]], "td") for one in made["rows"])
            out += f"<table>{row(made['head'], 'th')}{''.join(body)}</table>"
        return out


def _cells(one: Comparison) -> list[Any]:
    settled = one.verdict in ("better", "worse", "equivalent")
    more = "" if settled else "none would" if one.more is None else f"about {one.more:,}"
    items = f"{one.items:,}" + (f" in {one.groups:,} groups" if one.groups != one.items else "")
    return [
        one.benchmark or "items", one.system, (one.verdict, one.verdict), f"{one.difference:+.4f}",
        f"{one.low:+.4f} to {one.high:+.4f}", _p(one.p), one.metric, f"{one.value:.4f}", f"{one.baseline_value:.4f}",
        items, f"{one.detectable:.4f}", more,
    ]  # fmt: skip


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def sentence(one: Comparison) -> str:
    """A verdict in a sentence or two."""
    what = f"{one.metric} of {one.benchmark}" if one.benchmark else one.metric
    numbers = (
        f"{one.difference:+.4f}, 95% interval {one.low:+.4f} to {one.high:+.4f}, p {_p(one.p)}, {one.items:,} items"
    )
    ends = {
        "better": f"is better than {one.baseline}", "worse": f"is worse than {one.baseline}",
        "equivalent": f"is equivalent to {one.baseline} within the margin",
        "inconclusive": f"may be as good as {one.baseline}: the items do not settle it",
        "too few": f"has no verdict: a verdict needs {decide.FEWEST} items or groups",
    }  # fmt: skip
    said = f"{one.system} {ends[one.verdict]} ({what}: {numbers})."
    if one.verdict == "inconclusive":
        said += f" So many items show a difference of {one.detectable:.4f} four times in five"
        said += f"; about {one.more:,} more would settle one of this size." if one.more else "."
    return said


def verdict(
    one: str | Path,
    two: str | Path,
    *more: str | Path,
    metric: str | None = None,
    margin: float | None = None,
    allow: Collection[str] = (),
    slices: str | None = None,
    group: str | None = None,
    baseline: str = "A",
) -> Judgement:
    """Whether systems differ, by the logs of their answers to the same items.

    Args:
        one, two, more: logs, files or folders; they are called A, B, C and so on.
        metric: the score that counts; the first that both logs have by default.
        margin: of equivalence, in the metric's unit: 0.01 is a point of an accuracy.
        allow: `prompts` lets other prompts, shots and versions pass, `missing` items that only one log has.
        slices: a field of the items by whose values they are also compared; group: one that says which items belong
            together, such as the questions on one passage.
        baseline: the letter of the system that the others are compared with.

    Raises:
        SpecError: an option that does not fit. DataError: a log that cannot be read, or logs that do not pair; it names
            file and line, and every difference that was found.
    """
    paths = {chr(ord("A") + number): Path(path) for number, path in enumerate((one, two, *more))}
    if len(paths) > 26:
        raise SpecError("logs: more than 26; compare them in parts")
    if baseline not in paths:
        raise SpecError(f"baseline: {baseline!r} is not one of the letters {', '.join(paths)}")
    if margin is not None and not 0 < margin < float("inf"):
        raise SpecError(f"margin: must be a number above 0, got {margin}; 0.01 is a point of an accuracy")
    for word in allow:
        if word not in pairing.ALLOWED:
            raise SpecError(f"allow: {word!r} is not {' or '.join(pairing.ALLOWED)}{nearest(word, pairing.ALLOWED)}")
    _check_apart(paths)
    fields = list(dict.fromkeys(name for name in (group, slices) if name is not None))
    logs = {letter: read_log(path, letter, fields) for letter, path in paths.items()}
    findings: list[Finding] = []
    compared = []
    for letter, log in logs.items():
        if letter != baseline:
            compared += _compared(log, logs[baseline], metric, margin, group, findings)
    passed = {kind for word in allow for kind in pairing.ALLOWED[word]}
    stopping = [found for found in findings if found.stops and found.kind not in passed]
    if stopping or not compared:
        raise DataError("\n".join(dict.fromkeys(found.said for found in stopping)) or "no benchmark is in both logs")
    comparisons = decide.adjusted([own.comparison for own in compared])
    several = [[own for own in compared if own.comparison.system == letter] for letter in paths if letter != baseline]
    every = [_overall(own, margin) for own in several if len(own) > 1]
    models = {letter: str(path) + (f" ({logs[letter].model})" if logs[letter].model else "")
              for letter, path in paths.items()}  # fmt: skip
    return Judgement(
        models, baseline, comparisons, decide.adjusted([one for one in every if one]) if all(every) and every else (),
        {} if slices is None else _slices(compared, slices, margin),
        list({found.said: found for found in findings}.values()), compared, logs,
    )  # fmt: skip


def _check_apart(paths: Mapping[str, Path]) -> None:
    for (a, one), (b, two) in combinations(paths.items(), 2):
        same = one.exists() and two.exists() and one.samefile(two)
        if not same and one.is_file() and two.is_file() and one.stat().st_size == two.stat().st_size:
            same = file_sha256(one) == file_sha256(two)
        if same:
            raise DataError(f"{two}: {b} is the same log as {a}; give the logs of two systems")


def _compared(
    log: Log, base: Log, metric: str | None, margin: float | None, group: str | None, findings: list[Finding]
) -> list[Compared]:
    """The comparisons of one system, a benchmark each; what differs otherwise goes to `findings`."""
    tasks, found = pairing.tasks_in_both(base, log)
    findings += found
    out = []
    judged: set[str] = set()
    missed: dict[str, Finding] = {}
    for mine, own in tasks:
        name = mine.name or own.name
        chosen, missing = pairing.metric_of(mine, own, metric)
        if missing is not None:
            missed[name] = missing
        if chosen is None or name in judged:  # the first filter of a benchmark counts, or the one that was asked for
            continue
        judged.add(name)
        wrong = [*pairing.own_findings(mine, chosen), *pairing.own_findings(own, chosen)]
        pairs, different = pairing.paired(mine, own)
        findings += [*wrong, *different]
        if any(one.kind in ("not a number", "duplicated", "no pairs") for one in (*wrong, *different)):
            continue
        different = pairing.score_findings(mine, own, chosen, pairs)
        findings += different
        if any(one.kind in ("scale", "direction") for one in different):
            continue
        values = [pairing.by_item(one.values(chosen), item, count)
                  for one, item, count in zip((mine, own), pairs.item, pairs.counts, strict=True)]  # fmt: skip
        groups = None if group is None else mine.named(group)[0][pairs.first[0]]
        higher = pairing.higher_is_better(mine, chosen)
        repeated = bool((np.concatenate(pairs.counts) > 1).any())
        result = decide.compare(
            values[1], values[0], chosen, groups=groups, margin=margin, higher=higher, repeated=repeated
        )
        spread = _spread(mine, own, chosen, pairs, values) if repeated and values[0].shape[1] == 1 else None
        result = decide.replace(
            result, benchmark=name, metric=mine.label(chosen), system=log.label, baseline=base.label,
            spread_of_answers=spread,
        )  # fmt: skip
        differences = decide.alone(chosen, values[1]) - decide.alone(chosen, values[0])
        change = differences if higher else -differences
        out.append(Compared(result, chosen, (mine, own), pairs, change, differences, groups))
    findings += [one for name, one in missed.items() if name not in judged]
    return out


def _spread(one: Items, two: Items, metric: str, pairs: Pairs, means: Sequence[np.ndarray]) -> float | None:
    """The part of the variance of items' differences that comes from answers to one item differing."""
    total, noise = float((means[1] - means[0]).var(ddof=1)) if len(pairs) > 1 else 0.0, 0.0
    for log, item, counts, mean in zip((one, two), pairs.item, pairs.counts, means, strict=True):
        kept = item >= 0
        off = (log.values(metric)[kept, 0] - mean[item[kept], 0]) ** 2
        square = np.bincount(item[kept], off, len(counts))
        several = counts > 1
        if not several.any():
            return None  # one answer an item does not show its spread
        noise += float(np.mean(square[several] / (counts[several] - 1) / counts[several]))
    return noise / total if total else None


def _overall(parts: Sequence[Compared], margin: float | None) -> Comparison | None:
    """Over all benchmarks; None where their scores are no means, or of other scales or directions."""
    one = [part.comparison for part in parts]
    scale = {max(abs(own.value), abs(own.baseline_value)) > 1.5 for own in one}
    if len(scale) > 1 or len({own.higher_is_better for own in one}) > 1:
        return None
    if any(part.logs[0].widths[part.metric] > 1 for part in parts):
        return None
    names = list(dict.fromkeys(own.metric for own in one))
    found = decide.overall([(part.comparison, part.differences, part.groups) for part in parts], margin)
    return decide.replace(found, metric=names[0] if len(names) == 1 else "scores")


def _slices(compared: Sequence[Compared], path: str, margin: float | None) -> dict[str, list[Comparison]]:
    """Comparisons by the values of a field, all of them one family of tests."""
    rows: list[tuple[str, Comparison]] = []
    for own in compared:
        codes, values = own.logs[0].named(path)
        codes = codes[own.pairs.first[0]]
        if len(values) > MOST_SLICES:
            raise SpecError(f"slices: {path!r} has {len(values):,} values, more than {MOST_SLICES}; name another field")
        scores = [pairing.by_item(log.values(own.metric), item, count)
                  for log, item, count in zip(own.logs, own.pairs.item, own.pairs.counts, strict=True)]  # fmt: skip
        for code, value in enumerate(values):
            chosen = codes == code
            if not chosen.any():
                continue
            groups = None if own.groups is None else own.groups[chosen]
            found = decide.compare(
                scores[1][chosen], scores[0][chosen], own.metric, groups=groups, margin=margin,
                higher=own.comparison.higher_is_better, repeated=bool((np.concatenate(own.pairs.counts) > 1).any()),
            )  # fmt: skip
            one = own.comparison
            found = decide.replace(
                found, benchmark=one.benchmark, metric=one.metric, system=one.system, baseline=one.baseline
            )
            rows.append((value if value[:1] != '"' else json.loads(value), found))
    family = decide.adjusted([one for _, one in rows])
    out: dict[str, list[Comparison]] = {}
    for (value, _), one in zip(rows, family, strict=True):
        out.setdefault(value, []).append(one)
    return out
