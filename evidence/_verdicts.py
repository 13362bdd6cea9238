"""The verdict of a row, by rule, from the cells of its study.

`evidence/claims.toml` splits each row's claim into parts. A part says in a sentence what is claimed, which study
measures it, and how it is decided:

    kind = "more", "less"   of - against is above (below) the margin: shown where its 95% interval lies beyond the
                            margin on that side, contradicted where it lies short of it, else inconclusive
    kind = "equal"          shown where the interval lies inside the margin, contradicted where outside
    kind = "exact"          `test` proves the identity: by construction, counted, or a formula
    kind = "unmeasured"     no kept number speaks to the part: the row cannot be shown without it
    of, against             paths of keys into a cell's values; a list is one value an item; `against` may be a number
    measure                 in their place, a function of the study, by its name or by [name, argument, ...]:
                            replicates -> differences, or an Estimate
    interval                the study's own 95% interval decides: `of` leads to [value, ..., low, high], `interval` to
                            the number of items; "counted": `of` leads to [hits, total]; `against` is then a number
    margin                  of the size of `against` (default 0.01), or with absolute = true in the measure's unit
    items = true            the values are items of a fixed model: at least 15, below 200 decided by the exact sign-flip
                            test; without it they are seeds of what is trained, at least 5

A row is `shown` if all its parts are, `contradicted` if one is, else `inconclusive`; `exact` if all are exact.
`write` puts the verdicts, and the numbers that the guide quotes, into one file of the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from evidence import _cells
from llmanac.core import catalogue, files
from llmanac.core.errors import DataError, nearest
from llmanac.guide.explorables import explorables
from llmanac.guide.question import questions
from llmanac.lab.stats import deviation, interval, mean, replicates_needed, sign_flip_p
from llmanac.metrics.statistics.intervals import wilson_interval

CLAIMS = Path(__file__).with_name("claims.toml")
FILE = catalogue.EVIDENCE
FEWEST = {"seeds": 5, "items": 15}
PERMUTED = 200  # items below which the exact test decides
MARGIN = 0.01
KINDS = ("more", "less", "equal", "exact", "unmeasured")
UNDECIDED = ("exact", "unmeasured")  # the kinds that no cells decide
FIELDS = {
    "says", "study", "kind", "of", "against", "measure", "interval", "margin", "absolute", "items", "test", "scale",
    "unit",
}  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A difference with the 95% interval that a study knows of it, over n items."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Found:
    """A part that was decided: its verdict, the mean difference with its 95% interval, and of how many replicates."""

    says: str
    verdict: str
    study: str = ""
    effect: float | None = None
    interval: tuple[float, float] | None = None
    margin: float | None = None
    n: int = 0
    scale: str = ""
    made: str = ""
    unit: str = ""
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        return _cells.packed({k: v for k, v in vars(self).items() if v is not None and v != ""})


def at(value: Any, path: Sequence[str | int]) -> Any:
    """The value at a path of keys; `*` takes every item of a list or table. Raises LookupError."""
    for place, key in enumerate(path):
        if key == "*":
            rows = list(value.values()) if isinstance(value, dict) else value
            return [at(one, path[place + 1 :]) for one in rows]
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def values(replicates: Sequence[Any], path: Sequence[str | int] | float) -> list[float]:
    """The numbers at a path, over all replicates; one number stands for itself."""
    if isinstance(path, (int, float)):
        return [float(path)]
    out: list[float] = []
    for replicate in replicates:
        found = at(replicate, path)
        several = found if isinstance(found, list) else [found]
        out += [math.nan if one is None else float(one) for one in several]  # a cell keeps no infinite number
    return out


def estimate(replicates: Sequence[Any], part: dict[str, Any]) -> Estimate:
    """What a study knows with an interval of its own, less the number `against`: it is the same in each replicate."""
    replicate, against = replicates[0], float(part.get("against", 0.0))
    found = at(replicate, part["of"])
    if part["interval"] == "counted":
        (value, low, high), n = wilson_interval(*found), found[1]
    else:
        value, low, high, n = found[0], *found[-2:], at(replicate, part["interval"])
    return Estimate(value - against, low - against, high - against, int(n))


def decide(part: dict[str, Any], found: Sequence[float] | Estimate, margin: float) -> tuple[str, str]:
    """The verdict of a part and what to know about it."""
    own, unit = isinstance(found, Estimate), "items" if part.get("items") else "seeds"
    n = found.n if isinstance(found, Estimate) else len(found)
    if n < FEWEST[unit]:
        return "inconclusive", f"{n} of at least {FEWEST[unit]} {unit}"
    sign, signed = -1.0 if part["kind"] == "less" else 1.0, []
    if isinstance(found, Estimate):
        low, high = sorted((sign * found.low, sign * found.high))
        centre, spread = sign * found.value, (high - low) / 2 / 1.96 * math.sqrt(n)
    else:
        signed = [sign * d for d in found]
        (low, high), centre, spread = interval(signed), mean(signed), deviation(signed)

    def beyond(edge: float, up: bool) -> bool:
        if not own and unit == "items" and n < PERMUTED:
            moved = [d - edge if up else edge - d for d in signed]
            return sign_flip_p(moved) <= 0.025
        return low > edge if up else high < edge

    if part["kind"] == "equal":
        if beyond(-margin, True) and beyond(margin, False):
            return "shown", ""
        if beyond(margin, True) or beyond(-margin, False):
            return "contradicted", ""
    elif beyond(margin, True):
        return "shown", ""
    elif beyond(margin, False):
        return "contradicted", ""
    needed = replicates_needed(centre - (0 if part["kind"] == "equal" else margin), spread, margin)
    return (
        "inconclusive",
        f"about {needed} {unit} would decide" if needed else f"more than 100,000 {unit} would be needed",
    )


def judged(part: dict[str, Any], study: ModuleType | None, cells: Sequence[dict[str, Any]]) -> Found:
    """A part's verdict; one that is exact, or not measured, needs no cells."""
    if part["kind"] == "exact":
        return Found(part["says"], "exact", part.get("study", ""), note=part["test"])
    if part["kind"] == "unmeasured":
        return Found(part["says"], "inconclusive", note="not measured")
    assert study is not None
    return judge(part, study, cells)


def measured(part: dict[str, Any], study: ModuleType, replicates: Sequence[Any]) -> Sequence[float] | Estimate:
    """The differences of a part, relative to `against` where they are not absolute; or the study's own estimate."""
    if "measure" in part:
        name, *given = [part["measure"]] if isinstance(part["measure"], str) else part["measure"]
        found: Sequence[float] | Estimate = getattr(study, name)(replicates, *given)
        return found
    if "interval" in part:
        return estimate(replicates, part)
    of, against = values(replicates, part["of"]), values(replicates, part.get("against", 0.0))
    if len(against) == 1:
        against *= len(of)
    size = 1.0 if part.get("absolute") else abs(mean(against))
    if not size:
        raise ValueError("`against` is 0 on average; say absolute = true")
    return [(a - b) / size for a, b in zip(of, against, strict=True)]


def judge(part: dict[str, Any], study: ModuleType, cells: Sequence[dict[str, Any]]) -> Found:
    """A part's verdict from the pooled cells of its study. Raises DataError where its paths are not in the values."""
    name, margin = part["study"], float(part.get("margin", MARGIN))
    waits = Found(part["says"], "inconclusive", name, note="its cells are not made yet")
    if not cells:
        return waits
    try:
        found = measured(part, study, _cells.replicates(study, cells))
    except KeyError as error:
        if getattr(study, "PARTIAL", False) and error.args[0] in study.PIECES:
            return waits
        raise DataError(f"claims.toml: {name}: {part['says']!r}: KeyError: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"claims.toml: {name}: {part['says']!r}: {type(error).__name__}: {error}") from error
    if not isinstance(found, Estimate):
        if not found:
            return waits
        if lost := sum(map(math.isnan, found)):
            note = f"not finite in {lost} of {len(found)} replicates"
            return Found(part["says"], "inconclusive", name, n=len(found), scale=part.get("scale", ""), note=note)
    verdict, note = decide(part, found, margin)
    if isinstance(found, Estimate):
        effect, spread, n = found.value, (found.low, found.high), found.n
    else:
        effect, spread, n = mean(found), interval(found) if len(found) > 1 else None, len(found)
    return Found(
        part["says"], verdict, name, effect, spread, margin, n, part.get("scale", ""),
        max((c["made"] for c in cells), default=""), part.get("unit", ""), note,
    )  # fmt: skip


def claims() -> dict[str, list[dict[str, Any]]]:
    """The parts of every row's claim. Raises DataError that names a row, field or kind that is not known."""
    found, known = files.read_toml(CLAIMS), catalogue.rows()
    for row, parts in found.items():
        if row not in known:
            raise DataError(f"claims.toml: no row {row!r}{nearest(row, known)}")
        for part in parts:
            if odd := sorted(part.keys() - FIELDS):
                raise DataError(f"claims.toml: {row}: no field {odd[0]!r}{nearest(odd[0], FIELDS)}")
            if part.get("kind") not in KINDS or "says" not in part:
                raise DataError(f"claims.toml: {row}: a part needs `says` and a kind: {', '.join(KINDS)}")
            if part["kind"] == "exact" and "test" not in part:
                raise DataError(f"claims.toml: {row}: {part['says']!r}: exact names the `test` of the identity")
            if part["kind"] not in UNDECIDED and "study" not in part:
                raise DataError(f"claims.toml: {row}: {part['says']!r}: name the `study` that measures it")
    return found


def verdict_of(parts: Sequence[Found]) -> dict[str, Any]:
    """A row's verdict from its parts, with the numbers of the part that decided it."""
    words = [part.verdict for part in parts]
    word = next((w for w in ("contradicted", "inconclusive", "shown", "exact") if w in words), "inconclusive")
    first = next((part for part in parts if part.verdict == word), None)
    note = "no part of the claim is stated as a measure" if first is None else first.note
    none = {"effect": None, "interval": None, "n": 0, "scale": "", "made": "", "note": note, "says": ""}
    own = {} if first is None else first.as_json()
    return {"verdict": word, **none, **own, "parts": [part.as_json() for part in parts]}


def verdicts(load: Callable[[str], ModuleType], pages: Path = _cells.PAGES) -> dict[str, dict[str, Any]]:
    """The verdict of every row of the catalogue."""
    kept: dict[str, tuple[ModuleType | None, list[dict[str, Any]]]] = {}
    out, stated = {}, claims()
    for row in catalogue.rows():
        parts = []
        for part in stated.get(row, []):
            name = part.get("study", "")
            if name and name not in kept:
                study = load(name)
                kept[name] = study, _cells.pooled(study, pages / name)[0]
            parts.append(judged(part, *kept.get(name, (None, []))))
        out[row] = verdict_of(parts)
    return out


def number(pages: Path, load: Callable[[str], ModuleType], where: str) -> float:
    """The number at `FOLDER/results#path.of.keys`; a key may hold points itself, and `*` is the mean over a list."""
    folder, _, path = where.partition("/results#")
    data: Any
    if "/" in folder or not (pages / folder / "plan.json").is_file():
        data = files.read_json((pages / where.partition("#")[0]).with_suffix(".json"))
        path = where.partition("#")[2]
    else:
        data = {"seeds": _cells.replicates(load(folder), _cells.pooled(load(folder), pages / folder)[0])}

    def below(value: Any, keys: list[str]) -> float:
        if not keys:
            return float(value)
        if isinstance(value, list):
            return below(value[int(keys[0])], keys[1:]) if keys[0] != "*" else mean([below(v, keys[1:]) for v in value])
        end = next(end for end in range(1, len(keys) + 1) if ".".join(keys[:end]) in value)
        return below(value[".".join(keys[:end])], keys[end:])

    try:
        found = below(data, path.split("."))
    except (LookupError, TypeError, ValueError, StopIteration) as error:
        raise DataError(f"{where}: no number is there ({type(error).__name__}: {error})") from None
    if not math.isfinite(found):
        raise DataError(f"{where}: {found} is no number")
    return found


def generated(load: Callable[[str], ModuleType], pages: Path = _cells.PAGES) -> dict[str, Any]:
    """The file of the package: every verdict, and every number that the guide quotes."""
    quoted = {place for one in (*questions().values(), *explorables().values()) for place in one.measured.values()}
    ladder, place = load("transfer_of_verdicts"), pages / "transfer_of_verdicts"
    return {
        "verdicts": verdicts(load, pages),
        "measured": {where: _cells.packed(number(pages, load, where)) for where in sorted(quoted)},
        "transfer": _cells.packed(ladder.summary(_cells.replicates(ladder, _cells.pooled(ladder, place)[0]))),
    }
