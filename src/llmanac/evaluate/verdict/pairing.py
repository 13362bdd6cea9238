"""The items of two logs of one task in pairs, and what is different about them: what a paired difference may not hide.

An item is a document; one that is in the log twice under two names is two items. Its rows are repeated answers. What
differs is a `Finding`: a kind, a sentence, and whether the pairs may be used all the same.
"""

from dataclasses import dataclass

import numpy as np

from llmanac.evaluate.verdict.aggregates import AGGREGATES, lower_is_better
from llmanac.evaluate.verdict.items import Items, Log

ALLOWED = {"prompts": ("version", "shots", "prompt", "target", "settings"), "missing": ("missing", "task")}
REFUSED = {"version": "version", "shots": "shots", "system prompt": "prompt", "instructions": "prompt",
           "task arguments": "settings", "solvers": "settings"}  # fmt: skip
UNUSABLE = ("no pairs", "duplicated", "not a number", "scale", "direction")  # findings with which nothing is compared
SHOWN = 3  # places that a sentence lists
ROOM = 8.0  # between the ranges of two logs of one metric, from which on they have another scale


@dataclass(frozen=True)
class Finding:
    """One difference of two logs, or one thing wrong with a log.

    kind: in one word; said: the sentence; stops: whether there is no verdict with it.
    """

    kind: str
    said: str
    stops: bool = True


@dataclass(frozen=True, eq=False)
class Pairs:
    """Items that both logs have: for each log the first row of each item, which item each row is of, and how many rows.

    first: (items,) row numbers; item: (rows,) numbers of items, -1 for rows that are in no pair; counts: (items,).
    """

    first: tuple[np.ndarray, np.ndarray]
    item: tuple[np.ndarray, np.ndarray]
    counts: tuple[np.ndarray, np.ndarray]

    def __len__(self) -> int:
        return len(self.first[0])


def _mixed(*columns: np.ndarray) -> np.ndarray:
    """One hash of several, row by row."""
    out = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        out = (out ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        out ^= out >> np.uint64(29)
    return out


def _groups(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(first, group)`: of each value its first row, of each row the number of its value.

    As `np.unique` with indices, in half the memory; a log has fewer than 2^31 rows.
    """
    order = np.argsort(keys, kind="stable").astype(np.int32)
    ordered = keys[order]
    begins = np.append(True, ordered[1:] != ordered[:-1])[: len(keys)]
    del ordered
    group = np.empty(len(keys), np.int32)
    group[order] = np.cumsum(begins, dtype=np.int32) - 1
    return order[begins], group


def _items_of(log: Items) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(keys, first, item)`: of each item its hash and first row; of each row its item."""
    document, name = log.hashed("document"), log.hashed("name")
    first, item = _groups(_mixed(document, name))
    order = np.lexsort((first, document[first]))  # the items of one document follow each other
    _, start, count = np.unique(document[first][order], return_index=True, return_counts=True)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(start, count)
    return _mixed(document[first], rank), first, item


def _places(log: Items, rows: np.ndarray) -> str:
    return ", ".join(log.task.where(log.places[row]) for row in rows[:SHOWN])


def own_findings(log: Items, metric: str) -> list[Finding]:
    """What is wrong with one log by itself: rows logged twice, scores that are no numbers, answers that failed."""
    out = []
    keys = _mixed(log.hashed("name"), log.hashed("sample"))
    first, inverse = _groups(keys)
    if len(twice := np.flatnonzero(first[inverse] != np.arange(len(keys)))):
        said = f"{len(twice):,} rows are in the log twice ({_places(log, twice)}; the first is that of "
        said += f"{_places(log, first[inverse[twice[:1]]])}); take them out, or give repeated answers a column `sample`"
        out.append(Finding("duplicated", said))
    if len(bad := np.flatnonzero(~np.isfinite(log.values(metric)).all(1))):
        place, value = log.bad.get(metric, (log.places[bad[0]], "missing"))
        said = f"{log.task.where(place)}: {log.label(metric)} is {value} ({len(bad):,} such in all); score them"
        out.append(Finding("not a number", said))
    if log.failed:
        place, name, why = log.failed[0]
        said = f"{log.task.where(place)}: item {name} {why}, as do {len(log.failed):,} in all; they are in no pair"
        out.append(Finding("missing", said))
    return out


def paired(one: Items, two: Items) -> tuple[Pairs, list[Finding]]:
    """The pairs of two logs of one task, and what differs but for the scores."""
    keys, first, item = zip(_items_of(one), _items_of(two), strict=True)
    _, *at = np.intersect1d(*keys, assume_unique=True, return_indices=True)
    sizes = [len(own) for own in keys]
    del keys  # of many small rows these are much of the memory
    rows = [own[places] for own, places in zip(first, at, strict=True)]
    order = np.argsort(rows[0])  # in the first log's order
    rows, at = [own[order] for own in rows], [own[order] for own in at]
    items, counts = [], []
    for own, places, size in zip(item, at, sizes, strict=True):
        number = np.full(size, -1, np.int32)
        number[places] = np.arange(len(places))
        items.append(number[own])
        counts.append(np.bincount(items[-1][items[-1] >= 0], minlength=len(places)).astype(np.int32))
    pairs = Pairs((rows[0], rows[1]), (items[0], items[1]), (counts[0], counts[1]))
    if not len(pairs):
        said = f"{one.task.path} and {two.task.path} share no item; give logs of the same set, in one form"
        return pairs, [Finding("no pairs", said)]
    return pairs, [*_missing(one, two, pairs), *_settings(one, two), *_contents(one, two, pairs)]


def _missing(one: Items, two: Items, pairs: Pairs) -> list[Finding]:
    out = []
    for log, other, item in ((one, two, pairs.item[0]), (two, one, pairs.item[1])):
        rows = np.flatnonzero(item < 0)
        if not len(rows):
            continue
        changed = np.isin(log.hashed("name")[rows], other.hashed("name"))
        if len(found := rows[changed]):
            said = f"{len(found):,} items have another document under the same name ({_places(log, found)})"
            out.append(Finding("document", said + ": the set was changed; evaluate both on one version of it"))
        if len(found := rows[~changed]):
            said = f"{len(found):,} of {len(log):,} rows are not in {other.task.path} ({_places(log, found)})"
            said += "; evaluate both on the same items, or compare the rest with --allow missing"
            out.append(Finding("missing", said))
    return out


def _settings(one: Items, two: Items) -> list[Finding]:
    out = []
    silent = [str(log.task.path) for log in (one, two) if not log.task.settings]
    if len(silent) == 1 or (silent and one.task.form == "lm-eval"):
        said = (
            f"{one.name or 'items'}: version, shots and system prompt are not in {' and '.join(silent)}: not compared"
        )
        out.append(Finding("note", said, stops=False))
    for name, value in one.task.settings.items():
        other = two.task.settings.get(name)
        if other is None or other == value:
            continue
        kind = REFUSED.get(name, "template" if name == "template" else "note")
        shown = f"{value} and {other}" if len(value) + len(other) < 80 else "see the logs"
        said = f"{one.name or 'items'}: other {name} ({shown})"
        more = "; evaluate both alike, or --allow prompts" if name in REFUSED else ""
        out.append(Finding(kind, said + more, stops=name in REFUSED))
    return out


def _contents(one: Items, two: Items, pairs: Pairs) -> list[Finding]:
    out = []
    rows, name = pairs.first, one.name or "items"

    def differ(column: str) -> np.ndarray:
        a, b = one.hashed(column)[rows[0]], two.hashed(column)[rows[1]]
        return np.flatnonzero((a != b) & (a != 0) & (b != 0))

    def said(what: str, found: np.ndarray, end: str) -> str:
        at = ", ".join(log.task.where(log.places[own[found[0]]]) for log, own in zip((one, two), rows, strict=True))
        return f"{name}: {what} in {len(found):,} of {len(pairs):,} pairs ({at}){end}"

    if len(found := differ("target")):
        out.append(Finding("target", said("other right answers", found, "; score both alike, or --allow prompts")))
    if len(found := differ("prompt")):
        # a system turn is the template's own where both runs say that they were given none, or the same
        own = one.task.settings.get("system prompt", "none said") == two.task.settings.get("system prompt")
        marked = one.marked or two.marked
        if marked and not (len(differ("plain")) and (not own or len(differ("turns")))):
            end = ": the chat template alone, the words in it are the same"
            out.append(Finding("template", said("other prompts", found, end), stops=False))
        else:
            end = "; give both the same prompts, or --allow prompts"
            out.append(Finding("prompt", said("other prompts", differ("plain" if marked else "prompt"), end)))
    if (np.diff(rows[1]) < 0).any():
        out.append(Finding("order", f"{name}: the rows are in another order; documents pair them", stops=False))
    if not (pairs.counts[0] == pairs.counts[1]).all():
        shown = " and ".join(f"{count.mean():.3g}" for count in pairs.counts)
        out.append(Finding("samples", f"{name}: {shown} answers an item; each item's mean is compared", False))
    return out


def metric_of(one: Items, two: Items, wanted: str | None) -> tuple[str | None, Finding | None]:
    """The metric that is compared: the one that is asked for, or the first that both logs have."""
    chosen = [name for name in one.columns if name in two.columns and wanted in (None, name, one.label(name))]
    if not chosen:
        lists = " and ".join(", ".join(map(log.label, log.columns)) or "none" for log in (one, two))
        what = "no metric in common" if wanted is None else f"{wanted} is not in both logs"
        return None, Finding("metric", f"{one.name or 'items'}: {what} (they have {lists}); score both alike")
    return chosen[0], None


def score_findings(one: Items, two: Items, metric: str, pairs: Pairs) -> list[Finding]:
    """Scores of one metric that cannot be compared: another direction, or another scale."""
    name, out = f"{one.name or 'items'}: {one.label(metric)}", []
    sides = [log.task.higher.get(metric) for log in (one, two)]
    if None not in sides and sides[0] != sides[1]:
        out.append(Finding("direction", f"{name} is better higher in one log and lower in the other; score both alike"))
    if one.widths[metric] != two.widths[metric]:
        out.append(Finding("scale", f"{name} is a number in one log and a pair in the other; score both alike"))
    elif metric not in AGGREGATES and not lower_is_better(metric):
        values = [log.values(metric)[own >= 0] for log, own in zip((one, two), pairs.item, strict=True)]
        (low, high), (other, top) = ((float(v.min()), float(v.max())) for v in values)
        least, most = sorted((high, top))
        beyond = min(low, other) >= 0 and 0 < least <= 10 and most >= max(5, ROOM * least)
        right = any(np.isin(v, (0.0, 1.0)).all() for v in values)  # or wrong
        if beyond or (right and (min(low, other) < 0 or most > 1)):
            said = f"{low:g} to {high:g} in one log and from {other:g} to {top:g} in the other: another scale"
            out.append(Finding("scale", f"{name} goes from {said}; score both alike"))
    return out


def by_item(values: np.ndarray, item: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(items, K) means over the rows of each item."""
    kept = item >= 0
    sums = [np.bincount(item[kept], column[kept], len(counts)) for column in values.T]
    return np.stack(sums, 1) / counts[:, None]


def tasks_in_both(one: Log, two: Log) -> tuple[list[tuple[Items, Items]], list[Finding]]:
    """Pairs of items by task and filter; a log of one task without a name goes with any."""
    mine, theirs = one.tasks, two.tasks
    only = mine[0] or theirs[0] if len(mine) == len(theirs) == 1 and "" in (mine[0], theirs[0]) else None

    def rename(name: str) -> str:
        return name if only is None else only

    other = {(rename(name), kind): items for (name, kind), items in two.items.items()}
    pairs = [(items, other.get((rename(name), kind))) for (name, kind), items in one.items.items()]
    findings: list[Finding] = []
    for names, log, rest in ((mine, one, theirs), (theirs, two, mine)):
        alone = [name or "items" for name in names if rename(name) not in map(rename, rest)]
        if alone:
            said = f"{', '.join(alone)}: only in {log.label}; evaluate it on both, or --allow missing"
            findings.append(Finding("task", said))
    for name in dict.fromkeys(map(rename, mine)):
        kinds = [{kind for own, kind in log.items if rename(own) == name} for log in (one, two)]
        if kinds[1] and not kinds[0] & kinds[1]:
            lists = " and ".join(", ".join(sorted(kind or "none" for kind in own)) for own in kinds)
            findings.append(Finding("filter", f"{name or 'items'}: other filters of the answers ({lists}); use one"))
    return [(mine, own) for mine, own in pairs if own is not None], findings
