"""People's ratings of answers: what they are shown, the file that they are kept in, what it says.

A folder of ratings has three files:

    questions.jsonl     prompt, and the answer of each model, by name
    ratings.jsonl       a line a rating, in the order given; of two by one rater on one question the later one counts
    preferences.jsonl   prompt, chosen, rejected: TRL's columns, which `llmanac align` reads

A comparison is a pair of models on a prompt, `{"rater", "item", "left", "right", "choice"}`, which is left, right or
tie; a score is one answer, `{"rater", "item", "model", "score"}`, from 1 to 5. Who sees which answer on which side,
and in which order the questions come, follows from the seed, the rater's name and the question.

Hypotheses and references out of files, paired row by row: lines of text, or a column of a table.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core import files
from llmanac.core.errors import DataError, LlmanacError, RequestError, SpecError, shown
from llmanac.data.columns import no_column
from llmanac.data.command_problems import CommandProblems
from llmanac.data.lines import lines
from llmanac.data.readers import table_rows
from llmanac.data.texts import is_table
from llmanac.data.unpack import Span
from llmanac.evaluate.preferences import (
    PREFERENCES,
    RATINGS,
    Mode,
    Questions,
    Rating,
    RatingTask,
    latest,
    write_preferences,
)
from llmanac.metrics import OUTCOMES, Battles, share_interval, wilson_interval
from llmanac.metrics.agreement import cohen, cohen_interval, fleiss
from llmanac.metrics.bradley_terry import bradley_terry
from llmanac.metrics.statistics.estimates import estimate, items_needed


@dataclass(frozen=True)
class SegmentRows:
    """The rows of a file: `values` (text, or what a column holds) and the line of each."""

    path: Path
    values: list[Any]
    lines: list[int]

    def place(self, row: int) -> str:
        """A row, from 0, as messages name it."""
        return f"{self.path}:{self.lines[row]}"


def read_rows(path: Path, column: str, flag: str) -> SegmentRows:
    """Every row of a file, blank lines of text included.

    Raises:
        DataError: a file that cannot be read, or a row without the column; it names file, line and `flag`.
    """
    problems = CommandProblems(column=flag)
    if not is_table(path, problems):
        numbered = list(lines(path, problems))
        return SegmentRows(path, [text for _, text in numbered], [line for line, _ in numbered])
    values, places = [], []
    for row in table_rows(path, problems):
        if column not in row.values:
            raise DataError(f"{path}:{row.line}: {no_column(column, row.values)}; name it with {flag}")
        values.append(row.values[column])
        places.append(row.line)
    return SegmentRows(path, values, places)


def texts_of(rows: SegmentRows) -> list[str]:
    """The rows as texts. Raises DataError where one is not."""
    for row, value in enumerate(rows.values):
        if not isinstance(value, str):
            raise DataError(f"{rows.place(row)}: holds {type(value).__name__} where text was expected")
    return rows.values


def check_paired(rows: SegmentRows, hypotheses: SegmentRows) -> None:
    """Raises DataError for files with other numbers of rows."""
    if len(rows.values) != len(hypotheses.values):
        raise DataError(
            f"{rows.path} has {len(rows.values)} rows and {hypotheses.path} has {len(hypotheses.values)}; both need "
            "the same segments in the same order"
        )


def references_of(files: Sequence[SegmentRows], hypotheses: SegmentRows, *, blank: bool = False) -> list[list[Any]]:
    """The references of each hypothesis: a text of each file, or all texts of a row that holds a list.

    Args:
        blank: whether an empty reference means something (no answer, in SQuAD 2).

    Raises:
        DataError: files with other numbers of rows, or an empty reference; it names file and line.
    """
    out: list[list[Any]] = [[] for _ in hypotheses.values]
    for rows in files:
        check_paired(rows, hypotheses)
        for row, value in enumerate(rows.values):
            given = value if isinstance(value, list) else [value]
            for one in given:
                if not isinstance(one, (str, list)):
                    raise DataError(f"{rows.place(row)}: holds {type(one).__name__} where a reference was expected")
            if not given or not (blank or all(one.strip() if isinstance(one, str) else one for one in given)):
                raise DataError(f"{rows.place(row)}: the reference is empty; give a text, or leave the row out")
            out[row] += given
    return out


MOST_RATERS = 1000


def read_answers(path: Path, prompts: Sequence[str], column: str) -> list[str]:
    """A file's answers, one a prompt. Raises DataError that names the file."""
    found = texts_of(read_rows(path, column, "--column"))
    if len(found) != len(prompts):
        raise DataError(f"{path}: has {len(found)} answers and there are {len(prompts)} prompts; give one for each")
    return found


def in_order(tasks: Sequence[RatingTask], rater: str, seed: int) -> list[RatingTask]:
    """A rater's own order of the tasks, and the side of each model in a comparison."""

    def draw(task: RatingTask) -> bytes:
        return hashlib.sha256(json.dumps([seed, rater, task.item, *task.models]).encode()).digest()

    ordered = sorted(tasks, key=draw)
    return [RatingTask(one.item, one.models[::-1] if draw(one)[-1] & 1 else one.models) for one in ordered]


class RatingStore:
    """The file of ratings, which grows by a line at a time and is on the disk before a rating is confirmed.

    Holds the lock of its folder only through its user; a line that a killed process left unfinished is dropped.
    """

    def __init__(self, folder: Path, questions: Questions, mode: Mode, seed: int = 0) -> None:
        self.folder, self.questions, self.mode, self.seed = folder, questions, mode, seed
        self.tasks = questions.tasks(mode)
        self.path = folder / RATINGS
        finish(self.path)
        self.ratings = read_ratings(self.path) if self.path.exists() else []
        self._orders: dict[str, list[RatingTask]] = {}
        self._done: dict[str, dict[tuple[Any, ...], Rating]] = defaultdict(dict)
        for one in self.ratings:
            if (len(one.models) == 1) != (mode == "score"):
                raise SpecError(f"{self.path}: has ratings of another kind; name another folder with -o")
            self._done[one.rater][one.task] = one
        if self.ratings:  # a process may have died between a rating and its preference
            write_preferences(folder, questions, self.ratings)

    def order(self, rater: str) -> list[RatingTask]:
        """The rater's tasks. Raises RequestError where there are too many raters."""
        if rater not in self._orders:
            if len(self._orders) >= MOST_RATERS:
                raise RequestError(f"rater: there are {MOST_RATERS} already")
            self._orders[rater] = in_order(self.tasks, rater, self.seed)
        return self._orders[rater]

    def shown(self, rater: str, number: int | None = None) -> dict[str, Any]:
        """What a rater sees: the task of a number, by default the first that is not rated yet; no name of a model."""
        order, done = self.order(rater), self._done[rater]
        keys = [(task.item, frozenset(task.models)) for task in order]
        count = sum(key in done for key in keys)
        if number is None:
            number = next((i for i, key in enumerate(keys) if key not in done), None)
        page: dict[str, Any] = {"mode": self.mode, "done": count, "total": len(order), "number": number}
        if number is None:
            return page
        if not 0 <= number < len(order):
            raise RequestError(f"number: {number} is not between 0 and {len(order) - 1}")
        task, rated = order[number], done.get(keys[number])
        page |= {"prompt": self.questions.prompts[task.item],
                 "answers": [self.questions.answers[name][task.item] for name in task.models],
                 "rated": None if rated is None else rated.value}  # fmt: skip
        return page

    def rate(self, rater: str, number: int, value: Any) -> None:
        """Keep a rating; when this returns, it is on the disk. Raises RequestError or DataError for what is none."""
        order = self.order(rater)
        if type(number) is not int or not 0 <= number < len(order):
            raise RequestError(f"number: {shown(number)} is not between 0 and {len(order) - 1}")
        task = order[number]
        key = {"model": task.models[0], "score": value} if len(task.models) == 1 else {
            "left": task.models[0], "right": task.models[1], "choice": value}  # fmt: skip
        made = Rating.of({"rater": rater, "item": task.item, **key}, "rating")
        line = json.dumps(made.as_json(), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        files.append(self.path, line)
        self.ratings.append(made)
        self._done[rater][made.task] = made
        try:
            write_preferences(self.folder, self.questions, self.ratings)
        except LlmanacError as error:
            raise LlmanacError(
                f"{self.folder / PREFERENCES}: cannot write ({files.system_reason(error.__cause__ or error)}); "
                f"the rating is kept in {self.path}, and {PREFERENCES} is as before: free some space"
            ) from error


def read_ratings(path: Path) -> list[Rating]:
    """A file of ratings, without a line that was left unfinished. Raises DataError that names file and line."""
    span = None
    if path.suffix == ".jsonl" and path.is_file() and len(kept := _finished(data := path.read_bytes())) < len(data):
        span = Span(0, len(kept))
    return [Rating.of(row.values, f"{path}:{row.line}") for row in table_rows(path, CommandProblems(), span=span)]


def finish(path: Path) -> None:
    """Drop a last line that a killed process left half, where there is such a file, so that lines can be added."""
    if path.exists() and (data := path.read_bytes()) != (kept := _finished(data)):
        files.write_bytes(path, kept)


def _finished(data: bytes) -> bytes:
    """Lines without a last one that a killed process left half; one that lacks only its end is kept."""
    last = data[data.rfind(b"\n") + 1 :]
    if not last:
        return data
    try:
        json.loads(last)
    except (ValueError, RecursionError):
        return data[: len(data) - len(last)]
    return data + b"\n"


def report(ratings: Sequence[Rating]) -> dict[str, Any]:
    """What ratings say: win rates or mean scores with intervals, agreement of raters, ratings of more than two models.

    A comparison's rate counts a tie as half a win. Its interval is over questions: raters of one question are no
    independent evidence. Kappa is Cohen's for two raters, Fleiss' for more, over what all of them rated.

    Raises:
        DataError: no rating, or both kinds in one file.
    """
    kept = latest(ratings)
    kinds = {len(one.models) for one in kept}
    if len(kinds) != 1:
        raise DataError(
            "ratings: has both comparisons and scores; give one kind" if kinds else "ratings: there is none"
        )
    raters = list(dict.fromkeys(one.rater for one in kept))
    out: dict[str, Any] = {"ratings": len(kept), "raters": raters, "questions": len({one.item for one in kept})}
    if kinds == {1}:
        by_model: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for one in kept:
            by_model[one.models[0]][one.item].append(int(one.value))
        out["scores"] = [
            {"model": name, **_mean([float(np.mean(values)) for values in by_item.values()])}
            for name, by_item in by_model.items()
        ]
    pairs: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    battles: list[tuple[str, str, str]] = []
    sides: list[float] = []
    for one in kept if kinds == {2} else ():
        (left, right), won = one.models, OUTCOMES[str(one.value)]
        low, high = sorted((left, right))
        pairs[low, high][one.item].append(won if low == left else 1 - won)
        battles.append((left, right, str(one.value)))
        sides.append(won)
    if pairs:
        out["win_rates"] = [_win_rate(low, high, by_item) for (low, high), by_item in sorted(pairs.items())]
        decided = [won for won in sides if won != 0.5]
        out["left"] = dict(zip(("value", "low", "high"), wilson_interval(int(sum(decided)), len(decided)), strict=True)
                           ) if decided else None  # fmt: skip
    out["agreement"] = agreement(kept, raters)
    names = {name for pair in pairs for name in pair}
    if len(names) > 2:
        try:
            ranking = bradley_terry(Battles.read(battles)).ranking()
            out["bradley_terry"] = [dict(zip(("model", "rating", "low", "high"), row, strict=True)) for row in ranking]
        except DataError as error:
            out["bradley_terry"] = {"not_measured": str(error)}
    return out


def _mean(values: Sequence[float]) -> dict[str, Any]:
    if len(values) < 2:
        return {"value": float(np.mean(values)), "low": None, "high": None, "questions": len(values)}
    found = estimate(values)
    return {"value": found.mean, "low": found.low, "high": found.high, "questions": len(values)}


def _win_rate(low: str, high: str, by_item: Mapping[int, Sequence[float]]) -> dict[str, Any]:
    """How often the first is preferred, over questions."""
    values = [float(np.mean(given)) for given in by_item.values()]
    given = [one for ratings in by_item.values() for one in ratings]
    value, lowest, highest = share_interval(values)
    found = {"model": low, "other": high, "value": value, "low": lowest, "high": highest,
             "questions": len(values), "ratings": len(given),
             "wins": given.count(1.0), "ties": given.count(0.5), "losses": given.count(0.0)}  # fmt: skip
    settled = lowest > 0.5 or highest < 0.5
    more = None
    if not settled and len(values) > 1 and value != 0.5:
        error = max(estimate(values).standard_error, 0.5 / len(values))
        more = max(1, items_needed(value - 0.5, error, len(values)) - len(values))
    return {**found, "settled": settled, "more": more}


def agreement(kept: Sequence[Rating], raters: Sequence[str]) -> dict[str, Any]:
    """Kappa over the tasks that every rater rated; labels are the preferred model, so sides do not matter.

    Of two raters with a 95% interval.
    """
    if len(raters) < 2:
        return {"not_measured": "needs at least two raters"}
    given: dict[tuple[Any, ...], dict[str, Any]] = defaultdict(dict)
    for one in kept:
        label = one.value if len(one.models) == 1 else {"left": one.models[0], "right": one.models[1]}.get(
            str(one.value), "tie")  # fmt: skip
        given[one.task][one.rater] = label
    rows = [[labels[name] for name in raters] for labels in given.values() if len(labels) == len(raters)]
    if not rows:
        return {"not_measured": "no question was rated by all raters"}
    scores = len(kept[0].models) == 1
    if len(raters) == 2:
        pair, weights = ([a for a, _ in rows], [b for _, b in rows]), "quadratic" if scores else "none"
        kappa, interval = cohen(*pair, weights), cohen_interval(*pair, weights)
        name = "Cohen's kappa" + (", quadratic weights" if scores else "")
    else:
        kappa, name, interval = fleiss(rows), "Fleiss' kappa", (None, None)
    same = float(np.mean([len(set(row)) == 1 for row in rows]))
    found = {"name": name, "kappa": None if math.isnan(kappa) else kappa, "tasks": len(rows), "all_alike": same}
    return {**found, "low": interval[0], "high": interval[1]}
