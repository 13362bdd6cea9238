"""What was practiced and when it is due: one sqlite file of reviews, from which everything else is computed.

Beside them it has the day of an interview.

The schedule is FSRS (Ye 2022, the `fsrs` package) where it is installed, else a plain one: the next review is after
1 day, then each time after 2.5 times as many days (hard: 1.2, easy: 4), and at once after a failure. Reviews are kept,
not schedules, so that a better schedule can be computed from them later.
"""

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import DataError, shown

RATINGS = {"again": 1, "hard": 2, "good": 3, "easy": 4}
FACTORS = {2: 1.2, 3: 2.5, 4: 4.0}
VERSION = 1
MOST = 1_000_000  # reviews of a file
ITEM = re.compile(r"(question|exercise)/[a-z0-9-]{1,180}")
FIRST = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Review:
    """An item (`exercise/softmax`, `question/kv-cache-size`) was practiced: when (UTC), and how well (1 to 4)."""

    item: str
    at: datetime
    rating: int


def default_path() -> Path:
    """`$LLMANAC_PROGRESS`, else a file in the user's data folder."""
    if given := os.environ.get("LLMANAC_PROGRESS"):
        return Path(given)
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return files.in_home(base, "LLMANAC_PROGRESS") / "llmanac" / "progress.sqlite"


class ReviewLog:
    """The reviews in a file, which is made at the first review.

    Raises:
        DataError: the file is no such database, or a review's item, time or rating is wrong.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = default_path() if path is None else Path(path)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=10)
        except (OSError, sqlite3.Error) as error:
            raise DataError(f"{self.path}: cannot be opened ({error}); give another file with --progress") from None
        try:
            with connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS reviews "
                    "(item TEXT NOT NULL, at TEXT NOT NULL, rating INTEGER NOT NULL, UNIQUE (item, at))"
                )
                connection.execute("CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
                yield connection
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self.path}: is not a file of reviews ({error}); give another with --progress") from None
        finally:
            connection.close()

    def add(self, item: str, rating: int, at: datetime | None = None) -> None:
        """Keep a review of now, or of a moment in UTC."""
        self.merge([Review(item, at or datetime.now(UTC), rating)])

    def merge(self, reviews: Sequence[Review]) -> int:
        """Keep reviews; those that are there already stay once. Returns how many are new."""
        for review in reviews:
            if review.rating not in RATINGS.values() or not 1 <= len(review.item) <= 200:
                raise DataError(f"review: {review} has no rating from 1 to 4, or no item")
        rows = [(r.item, r.at.astimezone(UTC).isoformat(timespec="microseconds"), r.rating) for r in reviews]
        with self._open() as connection:
            before = connection.total_changes
            connection.executemany("INSERT OR IGNORE INTO reviews VALUES (?, ?, ?)", rows)
            return connection.total_changes - before

    def reviews(self) -> list[Review]:
        """All, in the order of time."""
        rows = self._read("SELECT item, at, rating FROM reviews ORDER BY at, item")
        try:
            return [Review(item, datetime.fromisoformat(at), rating) for item, at, rating in rows]
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.path}: holds a review that cannot be read ({error})") from None

    def due(self) -> dict[str, datetime]:
        """When each item that was practiced is due."""
        by: dict[str, list[Review]] = {}
        for review in self.reviews():
            by.setdefault(review.item, []).append(review)
        return {item: due(reviews) for item, reviews in by.items()}

    def streak(self, today: date) -> int:
        """Days in a row with a review, up to today or yesterday."""
        days = {review.at.astimezone().date() for review in self.reviews()}
        last = today if today in days else today - timedelta(days=1)
        return next(n for n in range(len(days) + 1) if last - timedelta(days=n) not in days)

    def setting(self, name: str) -> str:
        """What was kept under a name; empty where nothing was."""
        found = self._read("SELECT name, value FROM settings")
        return str(dict(found).get(name, ""))

    def keep(self, name: str, value: str) -> None:
        """Keep a setting."""
        with self._open() as connection:
            connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", [name, value])

    def interview(self) -> date | None:
        """The day that was set, or None."""
        found = self.setting("interview")
        try:
            return date.fromisoformat(found) if found else None
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.path}: holds a day of an interview that cannot be read ({error})") from None

    def set_interview(self, day: date) -> None:
        """Plan for this day from now on."""
        self.keep("interview", day.isoformat())

    def _read(self, query: str) -> list[Any]:
        if not self.path.exists():
            return []
        with self._open() as connection:
            return connection.execute(query).fetchmany(MOST)

    def document(self) -> dict[str, Any]:
        """Everything as plain data."""
        reviews, day = self.reviews(), self.interview()
        rows = [{"item": r.item, "at": r.at.isoformat(), "rating": r.rating} for r in reviews]
        return {"version": VERSION, "reviews": rows, "interview": None if day is None else day.isoformat()}

    def export(self, path: str | Path) -> int:
        """Write everything as JSON; returns how many reviews."""
        document = self.document()
        files.write_json(path, document)
        return len(document["reviews"])

    def read(self, path: str | Path) -> int:
        """Add what `export` wrote; returns how many reviews are new. Raises DataError that names file and row."""
        return self.add_document(files.read_table(path), path)

    def add_document(self, data: Mapping[str, Any], path: object) -> int:
        """As `read`, of data that was read from `path`."""
        reviews = read_export(data, path)
        try:
            day = date.fromisoformat(data["interview"]) if data.get("interview") else None
        except (TypeError, ValueError):
            raise DataError(f"{path}: interview: {data['interview']!r} is no day such as 2027-01-31, or null") from None
        new = self.merge(reviews)
        if day is not None:
            self.set_interview(day)
        return new


def read_export(data: Mapping[str, Any], path: object) -> list[Review]:
    """The reviews of an exported document. Raises DataError that names the row."""
    rows = data.get("reviews")
    if data.get("version") != VERSION or not isinstance(rows, list) or len(rows) > MOST:
        raise DataError(f"{path}: is no export of version {VERSION} with a list `reviews`")
    found = []
    for number, row in enumerate(rows, 1):
        try:
            review = Review(str(row["item"]), _moment(row["at"]), row["rating"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DataError(f"{path}: review {number}: needs item, at (an ISO time) and rating") from None
        if not ITEM.fullmatch(review.item):
            raise DataError(f"{path}: review {number}: item {shown(review.item)} is no question/NAME or exercise/NAME")
        # A schedule that is computed from a time that lies can leave the calendar, and the first page with it.
        if not FIRST <= review.at <= datetime.now(UTC) + timedelta(days=1):
            raise DataError(f"{path}: review {number}: {shown(row['at'])} is before {FIRST:%Y} or in the future")
        if type(review.rating) is not int or review.rating not in RATINGS.values():
            raise DataError(f"{path}: review {number}: rating is {shown(row['rating'])}, expected 1 to 4")
        found.append(review)
    return found


def _moment(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


def due(reviews: Sequence[Review]) -> datetime:
    """When an item is due after its reviews, in order."""
    try:
        import fsrs
    except ImportError:
        return _plain(reviews)
    scheduler, card = fsrs.Scheduler(enable_fuzzing=False), fsrs.Card(card_id=0)
    for review in reviews:
        card, _ = scheduler.review_card(card, fsrs.Rating(review.rating), review.at)
    when: datetime = card.due
    return when


def _plain(reviews: Sequence[Review]) -> datetime:
    days, at = 0.0, reviews[-1].at
    for review in reviews:
        days = 0.0 if review.rating == 1 else max(1.0, days * FACTORS[review.rating])
    return at + timedelta(days=days)
