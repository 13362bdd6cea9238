"""Rows to fine-tune on: a file with TRL's columns, encoded with its loss mask, cut to length, part of it held out."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import DataError, LlmanacError, SpecError
from llmanac.core.files import write_text
from llmanac.core.progress import progress
from llmanac.core.ranges import COUNT, PART, POSITIVE, within
from llmanac.core.spec import Spec
from llmanac.data.command_problems import FLAG, CommandProblems
from llmanac.data.quarantine import OnError
from llmanac.data.readers import table_rows
from llmanac.data.split import fraction
from llmanac.data.tokens import TokenDataset
from llmanac.recipes.chat_rows import OTHER_FORMS, checked, other_form

COLUMNS = ("messages", "prompt", "completion", "text")
BATCH = 64  # rows encoded together
GRAIN = 64  # the row length is a multiple of it
COVERED = 0.98  # of the rows fit the length that is chosen
Cut = Literal["right", "left", "drop"]
Encoded = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class RowsSpec(Spec):
    """Which rows, and how they are used.

    Attributes:
        file: a table with `messages`, `prompt` and `completion`, or `text`.
        length: tokens of a packed row; None: what 98% of the rows need, at most the model's context.
        side: which end of a row that is too long is cut; `drop` leaves the row out.
        held_out: about this share of the rows is measured and not trained on; equal rows stay on one side.
        epochs: how often each row is read, where the training's steps are left open.
        on_error: "fatal" stops at a row that cannot be used; "skip" leaves it out, counts it and lists it in a file.
    """

    file: str
    length: int | None = None
    side: Cut = "right"
    held_out: float = 0.05
    epochs: float = 1.0
    on_error: OnError = "fatal"

    ranges = within(PART, "held_out") | within(POSITIVE, "epochs") | within(COUNT, "length")


@dataclass
class PreparedRows:
    """Encoded rows.

    Attributes:
        train: in token shards; held_out: in memory, with the rows that they come from.
        length: tokens of a packed row; counts: rows by what became of them.
    """

    train: TokenDataset
    held_out: list[Encoded]
    rows: list[Mapping[str, Any]]
    length: int
    counts: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[tuple[str, str]]:
        """The counts as rows of a table."""
        return [(name, f"{count:,}") for name, count in self.counts.items() if count]


def read_rows(path: str | Path, problems: CommandProblems | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """`(line, row)` of a table, with the columns that training reads.

    Raises:
        DataError: no such file, a row that is damaged or has none of the columns; by file and line.
    """
    path, problems = Path(path), problems or CommandProblems(advice="fix or drop it")
    seen: dict[bool, int] = {}  # whether a column is `text` -> its first line
    for row in table_rows(path, problems, columns=(*COLUMNS, *OTHER_FORMS)):
        try:
            given = _given(row.values)
        except DataError as error:
            problems.report(path, row.line, str(error), str(row.values)[:200], code="row")
            continue
        for name in given:
            seen.setdefault(name == "text", row.line)
        if len(seen) == 2:
            raise DataError(
                f"{path}:{row.line}: the file mixes `text`, all of which carries loss (line {seen[True]}), with rows "
                f"in which only answers do (line {seen[False]}); write two files, or give all rows one form"
            )
        yield row.line, given


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row that training reads, in one form."""
    given = {name: values[name] for name in COLUMNS if values.get(name) is not None}
    whole = given.get("messages") or {"prompt", "completion"} <= given.keys()
    if not whole and (made := other_form(values)) is not None:  # Alpaca's rows also have `text`, all of which has loss
        given = made
    elif not ("messages" in given or "text" in given or whole):
        has = ", ".join(sorted(map(str, values))) or "none"
        raise DataError(
            f"needs {_FORMS} (has: {has}); `question` and `answer`, `instruction` and `output`, and ShareGPT's "
            "`conversations` are read too; rename the columns"
        )
    for name in ("messages", "prompt", "completion"):
        if name in given:
            given[name] = checked(given[name], name)
    return given


_FORMS = "`messages`, `prompt` and `completion`, or `text`"


def encode_rows(
    objective: Any, path: str | Path, problems: CommandProblems | None = None
) -> Iterator[tuple[int, Mapping[str, Any], Encoded]]:
    """`(line, row, (ids, loss mask))` of each row of a file.

    Args:
        problems: what becomes of a row that cannot be used; by default it is an error.

    Raises:
        DataError: a row that cannot be encoded, or in which no token carries loss; by file and line.
    """
    problems = problems or CommandProblems(advice="fix or drop it")
    waiting = read_rows(path, problems)
    while some := list(islice(waiting, BATCH)):
        try:
            encoded = list(objective.encode_all([row for _, row in some]))
        except LlmanacError:
            encoded = [_encode(objective, path, line, row, problems) for line, row in some]
        for (line, row), pair in zip(some, encoded, strict=True):
            if pair is not None:
                yield line, row, pair


def _encode(
    objective: Any, path: str | Path, line: int, row: Mapping[str, Any], problems: CommandProblems
) -> Encoded | None:
    try:
        pair: Encoded = objective.encode(row)
    except LlmanacError as error:
        problems.report(path, line, str(error), str(dict(row))[:200], code="row")
        return None
    return pair


def cut(pair: Encoded, length: int, side: Cut) -> Encoded | None:
    """The row in at most `length` + 1 tokens; None where it is dropped, or nothing of what is left carries loss.

    `right` keeps its start. `left` keeps its end, and a first token that starts every row (begin of text).
    """
    ids, mask = pair
    if len(ids) > length + 1:
        if side == "drop":
            return None
        if side == "left":
            kept = np.r_[0, len(ids) - length : len(ids)]
            ids, mask = ids[kept], mask[kept]
        else:
            ids, mask = ids[: length + 1], mask[: length + 1]
    return (ids, mask) if mask[1:].any() else None


def prepare(
    asked: RowsSpec, objective: Any, tokenizer: Any, folder: Path, *, longest: Callable[[], int | None], seed: int
) -> PreparedRows:
    """Encode a file's rows: `folder/train` gets token shards, `folder/held_out.jsonl` the rows held out.

    Args:
        longest: gives the model's context; asked once all rows were read, since it may load the model.

    Raises:
        DataError: a row that cannot be used, or too few rows that are left.
    """
    path, counts = asked.file, Counter[str]()
    every: list[tuple[Encoded, Mapping[str, Any]]] = []
    train: list[Encoded] = []
    held: list[tuple[Encoded, Mapping[str, Any]]] = []
    known: set[str] = set()
    problems = CommandProblems(asked.on_error, folder / "left_out.jsonl", advice=FLAG)
    with progress("encode rows", None, "rows") as bar:
        for _, row, pair in encode_rows(objective, path, problems):
            counts["rows"] += 1
            bar.advance(1)
            every.append((pair, row))
    counts["left out: cannot be used (left_out.jsonl)"] = problems.total
    counts["with turns out of order"] = sum(_out_of_order(row.get("messages")) for _, row in every)
    folder.mkdir(parents=True, exist_ok=True)
    problems.save()
    for (pair, row), out in zip(every, held_out([row for _, row in every], asked.held_out, seed), strict=True):
        if out:
            key = json.dumps(row, sort_keys=True, default=str)
            if key in known:  # equal rows are one observation
                counts["held out once: equal to another row"] += 1
            else:
                known.add(key)
                held.append((pair, row))
        else:
            train.append(pair)
    if not train:
        raise DataError(f"{path}: {counts['rows']} rows are too few to train on")
    length = _length(asked.length, train, longest())
    kept = [pair for pair in (cut(pair, length, asked.side) for pair in train) if pair is not None]
    if not kept:
        raise DataError(f"{path}: no row is left at a length of {length} tokens; raise rows.length (--length)")
    counts["trained on"] = len(kept)
    if asked.side == "drop":
        counts["dropped: longer than the length"] = len(train) - len(kept)
    else:
        counts["cut to the length"] = sum(len(ids) > length + 1 for ids, _ in train)
        counts["dropped: what is left carries no loss"] = len(train) - len(kept)
    shown = [(left, row) for pair, row in held if (left := cut(pair, length, asked.side)) is not None]
    counts["held out"] = len(shown)
    counts["held out, but dropped: too long, or what is left carries no loss"] = len(held) - len(shown)
    data = TokenDataset.write_examples(
        folder / "train", kept, vocab_size=tokenizer.vocab_size, fingerprint=tokenizer.fingerprint()
    )
    write_text(folder / "held_out.jsonl", "".join(json.dumps(row, default=str) + "\n" for _, row in shown))
    return PreparedRows(data, [pair for pair, _ in shown], [row for _, row in shown], length, counts)


def _out_of_order(messages: Any) -> bool:
    """Whether the assistant begins, or somebody speaks twice in a row: templates take it, but a log may be damaged."""
    roles = [message.get("role") for message in messages or () if isinstance(message, Mapping)]
    spoken = [role for role in roles if role in ("user", "assistant")]
    return bool(spoken) and (spoken[0] == "assistant" or any(a == b for a, b in pairwise(spoken)))


def held_out(rows: Sequence[Mapping[str, Any]], share: float, seed: int) -> list[bool]:
    """Which rows are held out: about this share, by a hash of each row, so that equal rows are on one side.

    Of few rows at least one is, unless all are equal; 0 holds out none.
    """
    places = [fraction(json.dumps(row, sort_keys=True, default=str), seed) for row in rows]
    limit = share
    if share and places and min(places) >= share and min(places) < max(places):
        limit = math.nextafter(min(places), 1)
    found = [place < limit for place in places]
    return found if not all(found) else [False] * len(found)


def few(count: int) -> str | None:
    """A warning where what is measured is measured on too few rows to mean much."""
    if count == 1:
        return "note: measured on 1 held-out row, which gives no interval; hold out more with --held-out"
    if 0 < count < 20:
        return f"note: measured on {count} held-out rows only, which says little; hold out more with --held-out"
    return None


def _length(asked: int | None, rows: list[Encoded], longest: int | None) -> int:
    """Tokens of a packed row."""
    if asked is not None:
        if longest is not None and asked > longest:
            raise SpecError(f"rows.length: {asked} tokens, but the model reads {longest} at most")
        return asked
    sizes = np.sort([len(ids) for ids, _ in rows])
    wanted = int(sizes[min(len(sizes) - 1, int(COVERED * len(sizes)))]) - 1
    length = max(GRAIN, -(-wanted // GRAIN) * GRAIN)
    return length if longest is None else min(length, longest)
