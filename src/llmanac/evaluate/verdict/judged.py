"""`llmanac.verdict`: the logs of two or more systems, paired item by item, and whether one of them is better.

found = llmanac.verdict("results/base", "results/tuned", margin=0.01)
found.verdicts, found.comparisons[0].difference
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np

from llmanac.core.errors import DataError, SpecError, nearest
from llmanac.core.files import file_sha256
from llmanac.core.pages import table
from llmanac.core.shown import Shown
from llmanac.evaluate.verdict import decide, pairing
from llmanac.evaluate.verdict.aggregates import lower_is_better
from llmanac.evaluate.verdict.decide import Comparison
from llmanac.evaluate.verdict.items import Items, Log
from llmanac.evaluate.verdict.load import files_of, read_log
from llmanac.evaluate.verdict.pairing import Finding, Pairs

MOST_SLICES = 200
HEADS = ("benchmark", "system", "verdict", "difference", "95% interval", "p", "metric", "better is", "value",
         "baseline", "items", "shows from", "more items")  # fmt: skip
WORST = ("worse", "inconclusive", "too few", "equivalent", "better")  # first


@dataclass(frozen=True, eq=False)
class Compared:
    """The pairs behind a comparison: the report reads the prompts of changed items from their places.

    named: the benchmark, the system and the baseline; values: (items, K) of the baseline and of the system; groups:
    (items,) or None; repeated: whether values are means over several answers.
    """

    named: tuple[str, str, str]
    metric: str
    logs: tuple[Items, Items]
    pairs: Pairs
    values: tuple[np.ndarray, np.ndarray]
    groups: np.ndarray | None
    higher: bool
    repeated: bool

    @property
    def differences(self) -> np.ndarray:
        """(items,) of each item by itself, the system's score less the baseline's."""
        return decide.alone(self.metric, self.values[1]) - decide.alone(self.metric, self.values[0])

    def compare(self, margin: float | None, chosen: Any = slice(None)) -> Comparison:
        """The comparison of all items, or of those that are chosen."""
        found = decide.compare(
            self.values[1][chosen], self.values[0][chosen], self.metric, margin=margin, higher=self.higher,
            groups=None if self.groups is None else self.groups[chosen], repeated=self.repeated, named=self.named,
        )  # fmt: skip
        return decide.replace(found, metric=self.logs[0].label(self.metric))


@dataclass(frozen=True, repr=False)
class Judgement(Shown):
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
        """The verdict on each system but the baseline: over all benchmarks, else the worst of its comparisons."""
        worst_last = sorted(self.overall or self.comparisons, key=lambda one: (one.system, -WORST.index(one.verdict)))
        return {one.system: one.verdict for one in worst_last}

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
        """JSON data; what is no finite number, such as the standard error of a single item, is null."""
        found = {
            "systems": dict(self.systems), "baseline": self.baseline, "verdicts": self.verdicts,
            "comparisons": [*map(vars, self.comparisons)], "overall": [*map(vars, self.overall)],
            "slices": {value: [*map(vars, ones)] for value, ones in self.slices.items()},
            "findings": [{"kind": one.kind, "said": one.said} for one in self.findings],
        }  # fmt: skip
        made: dict[str, Any] = json.loads(json.dumps(found), parse_constant=lambda _: None)
        return made

    def title(self) -> str:
        return "\n".join(self.said())


def _cells(one: Comparison) -> list[Any]:
    no_end = one.verdict == "inconclusive" and not one.difference and one.p_equivalence is None  # a margin could end it
    more = f"about {one.more:,}" if one.more else "none would" if no_end else ""
    items = f"{one.items:,}" + (f" in {one.groups:,} groups" if one.groups != one.items else "")
    return [
        one.benchmark or "items", one.system, (one.verdict, one.verdict), f"{one.difference:+.4f}",
        f"{one.low:+.4f} to {one.high:+.4f}", _p(one.p), one.metric,
        "higher" if one.higher_is_better else "lower", f"{one.value:.4f}", f"{one.baseline_value:.4f}",
        items, f"{one.detectable:.4f}" if one.detectable else "", more,
    ]  # fmt: skip


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def sentence(one: Comparison) -> str:
    """A verdict in a sentence or two."""
    what = f"{one.metric} of {one.benchmark}" if one.benchmark else one.metric
    what += "" if one.higher_is_better else ", where less is better"
    interval = f"{one.low:+.4f} to {one.high:+.4f}"
    numbers = f"{one.difference:+.4f}, 95% interval {interval}, p {_p(one.p)}, {one.items:,} items"
    ends = {
        "better": f"is better than {one.baseline}", "worse": f"is worse than {one.baseline}",
        "equivalent": f"is equivalent to {one.baseline} within the margin",
        "inconclusive": f"may be as good as {one.baseline}: the items do not settle it",
        "too few": f"has no verdict: a verdict needs {decide.FEWEST} items or groups",
    }  # fmt: skip
    said = f"{one.system} {ends[one.verdict]} ({what}: {numbers})."
    if one.verdict == "inconclusive":
        said += f" So many items show a difference of {one.detectable:.4f} four times in five." * (one.detectable > 0)
        said += f" About {one.more:,} more would settle one of this size." if one.more else ""
    return said


def verdict(
    one: str | Path, two: str | Path, *more: str | Path, metric: str | None = None, margin: float | None = None,
    allow: Collection[str] = (), slices: str | None = None, group: str | None = None, baseline: str = "A",
) -> Judgement:  # fmt: skip
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
    letters = ("".join(word) for size in (1, 2, 3) for word in product(ascii_uppercase, repeat=size))
    paths = {
        letter: Path(path) for letter, path in zip(letters, (one, two, *more), strict=False)
    }  # A to Z, then AA, AB
    allow = allow.split(",") if isinstance(allow, str) else allow
    if baseline not in paths:
        raise SpecError(f"baseline: {baseline!r} is not one of the letters {', '.join(paths)}")
    if margin is not None and (isinstance(margin, str) or not 0 < margin < float("inf")):
        raise SpecError(f"margin: must be a number above 0, got {margin!r}; 0.01 is a point of an accuracy")
    for word in allow:
        if word not in pairing.ALLOWED:
            raise SpecError(f"allow: {word!r} is not {' or '.join(pairing.ALLOWED)}{nearest(word, pairing.ALLOWED)}")
    _check_apart(paths)
    fields = [name for name in (group, slices) if name is not None]
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
    comparisons = decide.adjusted([own.compare(margin) for own in compared])
    several = [[pair for pair in zip(comparisons, compared, strict=True) if pair[0].system == letter]
               for letter in paths if letter != baseline]  # fmt: skip
    every = [found for own in several if len(own) > 1 and (found := _overall(own, margin))]
    models = {letter: {one.task.model for one in log.items.values()} - {""} for letter, log in logs.items()}
    systems = {letter: " ".join([str(path), *sorted(models[letter])]) for letter, path in paths.items()}
    return Judgement(
        systems, baseline, comparisons, decide.adjusted(every) if len(every) == len(several) else (),
        {} if slices is None else _slices(compared, slices, margin),
        list({found.said: found for found in findings}.values()), compared, logs,
    )  # fmt: skip


def _check_apart(paths: Mapping[str, Path]) -> None:
    for (a, one), (b, two) in combinations(paths.items(), 2):
        files = files_of(one), files_of(two)
        sizes, other = ([file.stat().st_size for file in own] for own in files)
        if sizes == other and all(file_sha256(mine) == file_sha256(its) for mine, its in zip(*files, strict=True)):
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
        missed |= {name: missing} if missing else {}
        if chosen is None or name in judged:  # the first filter of a benchmark counts, or the one that was asked for
            continue
        judged.add(name)
        pairs, wrong = pairing.paired(mine, own)
        wrong += [*pairing.own_findings(mine, chosen), *pairing.own_findings(own, chosen)]
        wrong += pairing.score_findings(mine, own, chosen, pairs) if len(pairs) else []
        findings += wrong
        if any(one.kind in pairing.UNUSABLE for one in wrong):
            continue
        a, b = (pairing.by_item(one.values(chosen), item, count)
                for one, item, count in zip((mine, own), pairs.item, pairs.counts, strict=True))  # fmt: skip
        groups = None if group is None else mine.named(group)[0][pairs.first[0]]
        higher = mine.task.higher.get(chosen, not lower_is_better(chosen))  # as the log says, else by its name
        repeated = bool((np.concatenate(pairs.counts) > 1).any())
        named = (name, log.label, base.label)
        out.append(Compared(named, chosen, (mine, own), pairs, (a, b), groups, higher, repeated))
    findings += [one for name, one in missed.items() if name not in judged]
    return out


def _overall(parts: Sequence[tuple[Comparison, Compared]], margin: float | None) -> Comparison | None:
    """Over all benchmarks; None where their scores are no means, or of other scales or directions."""
    alike = {(max(abs(one.value), abs(one.baseline_value)) > 1.5, one.higher_is_better) for one, _ in parts}
    if len(alike) > 1 or any(own.values[0].shape[1] > 1 for _, own in parts):
        return None
    names = {one.metric for one, _ in parts}
    found = decide.overall([(one, own.differences, own.groups) for one, own in parts], margin)
    return decide.replace(found, metric=names.pop() if len(names) == 1 else "scores")


def _slices(compared: Sequence[Compared], path: str, margin: float | None) -> dict[str, list[Comparison]]:
    """Comparisons by the values of a field, all of them one family of tests."""
    rows: list[tuple[str, Comparison]] = []
    for own in compared:
        codes, values = own.logs[0].named(path)
        if len(values) > MOST_SLICES:
            raise SpecError(f"slices: {path!r} has {len(values):,} values, more than {MOST_SLICES}; name another field")
        codes = codes[own.pairs.first[0]]
        rows += [(values[code], own.compare(margin, codes == code)) for code in np.unique(codes)]
    out: dict[str, list[Comparison]] = {}
    for (value, _), one in zip(rows, decide.adjusted([one for _, one in rows]), strict=True):
        out.setdefault(value, []).append(one)
    return out
