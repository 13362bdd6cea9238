"""Rows of ten tasks for small specialists: questions with one right answer.

Training and test rows share no template, name, schema, tool or module: each generator takes its words from the lists of
its side. What is read from files (SST-2, message catalogues, documentation) is divided by file, catalogue or module.
"""

from __future__ import annotations

import gettext
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from evidence.tune_smollm2 import documentation
from llmanac.core.errors import DataError
from llmanac.core.files import read_toml
from llmanac.data.split import fraction

Side = Literal["train", "test"]
Pairs = list[tuple[str, str]]
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
GIVEN = read_toml(Path(__file__).with_name("specialist_rows.toml"))
LOCALES = Path("/usr/share/locale/de/LC_MESSAGES")


def _one(rng: random.Random, what: str, side: Side) -> str:
    return rng.choice(GIVEN[what][side])


def sentiment(side: Side, count: int, rng: random.Random) -> Pairs:
    """SST-2, whose own test file is the test side."""
    file = DATA / "sst2" / f"stsa.binary.{side}"
    if not file.is_file():
        raise DataError(f"specialists: needs {file}")
    lines = [line.split(" ", 1) for line in file.read_text("utf-8").splitlines()]
    chosen = rng.sample(lines, count)
    return [(f"Review: {text.strip()}\nSentiment?", ("negative", "positive")[int(label)]) for label, text in chosen]


def fields(side: Side, count: int, rng: random.Random) -> Pairs:
    """A sentence to its fields as JSON."""
    forms = GIVEN["forms"]["fields"][side]
    out = []
    for _ in range(count):
        found = {"name": _one(rng, "names", side), "city": _one(rng, "cities", side), "boxes": rng.randrange(2, 90)}
        text = rng.choice(forms).format(name=found["name"], city=found["city"], n=found["boxes"])
        out.append((f"{text}\nAs JSON with name, city, boxes:", json.dumps(found)))
    return out


def sql(side: Side, count: int, rng: random.Random) -> Pairs:
    """A question about a table to SQL."""
    answers = ("SELECT {a} FROM {t} WHERE {b} = {v};", "SELECT COUNT(*) FROM {t} WHERE {b} > {v};",
               "SELECT {a} FROM {t} ORDER BY {b};")  # fmt: skip
    forms = GIVEN["forms"]["sql"][side]
    out = []
    for _ in range(count):
        table, columns = rng.choice(sorted(GIVEN["tables"][side].items()))
        first, second = rng.sample(columns, 2)
        which, value = rng.randrange(len(forms)), rng.randrange(2, 2000)
        given = {"t": table, "a": first, "b": second, "v": value}
        schema = f"Table {table}({', '.join(columns)})."
        out.append((f"{schema}\n{forms[which].format(**given)}\nSQL:", answers[which].format(**given)))
    return out


def entities(side: Side, count: int, rng: random.Random) -> Pairs:
    """The person, the place and the firm of a sentence."""
    forms = GIVEN["forms"]["entities"][side]
    out = []
    for _ in range(count):
        p, c, f = _one(rng, "names", side), _one(rng, "cities", side), _one(rng, "firms", side)
        out.append((f"{rng.choice(forms).format(p=p, c=c, f=f)}\nTags:", f"person: {p}; place: {c}; firm: {f}"))
    return out


UNITS = {("km", "m"): 1000, ("m", "cm"): 100, ("kg", "g"): 1000, ("h", "min"): 60, ("min", "s"): 60, ("l", "ml"): 1000}


def units(side: Side, count: int, rng: random.Random) -> Pairs:
    """A conversion with its step; even numbers are trained on, odd ones asked."""
    forms = GIVEN["forms"]["units"][side]
    out = []
    for _ in range(count):
        (a, b), factor = rng.choice(sorted(UNITS.items()))
        n = 2 * rng.randrange(1, 50) + (side == "test")
        out.append((rng.choice(forms).format(n=n, a=a, b=b), f"{n} x {factor} = {n * factor} {b}"))
    return out


def commits(side: Side, count: int, rng: random.Random) -> Pairs:
    """A commit message to its type."""
    out = []
    for _ in range(count):
        kind = rng.choice(sorted(GIVEN["commits"]))
        form = rng.choice(GIVEN["commits"][kind][side])
        text = form.format(x=_one(rng, "things", side), y=_one(rng, "modules", side))
        out.append((f"{text}\nType of commit:", kind))
    return out


def tools(side: Side, count: int, rng: random.Random) -> Pairs:
    """A request to a call of one of the tools that the prompt lists."""
    out, every = [], GIVEN["tools"][side]
    listed = "; ".join(f"{name}({', '.join(of)})" for name, of in every.items())
    for _ in range(count):
        tool, (a, b) = rng.choice(sorted(every.items()))
        x, y = _one(rng, "words", side), _one(rng, "words", side)
        asked = _one(rng, "requests", side).format(tool=tool.replace("_", " "), a=a, b=b, x=x, y=y)
        out.append((f"Tools: {listed}\n{asked}", json.dumps({"name": tool, "arguments": {a: x, b: y}})))
    return out


def spelling(side: Side, count: int, rng: random.Random) -> Pairs:
    """A sentence with two typing errors to the sentence; sentences are of SST-2's files."""
    file = DATA / "sst2" / f"stsa.binary.{side}"
    if not file.is_file():
        raise DataError(f"specialists: needs {file}")
    lines = [line.split(" ", 1)[1] for line in file.read_text("utf-8").splitlines()]
    short = [line for line in lines if 20 <= len(line) <= 60 and re.fullmatch(r"[a-z ,.]+", line)]
    return [(f"Correct: {_mistyped(line, rng)}", line) for line in rng.sample(short, min(count, len(short)))]


def _mistyped(text: str, rng: random.Random) -> str:
    letters = list(text)
    for _ in range(2):
        at = rng.choice([i for i in range(len(letters) - 1) if letters[i].isalpha() and letters[i + 1].isalpha()])
        kind = rng.randrange(3)
        if kind == 0:
            letters[at], letters[at + 1] = letters[at + 1], letters[at]
        else:
            letters[at : at + 1] = [letters[at]] * 2 if kind == 1 else []
    return "".join(letters)


def translation(side: Side, count: int, rng: random.Random) -> Pairs:
    """Short messages of installed programs in German to English; catalogues are divided."""
    pairs = {}
    for path in sorted(LOCALES.glob("*.mo")):
        if (fraction(path.name, seed=0) < 0.3) == (side == "test"):
            with path.open("rb") as file:
                catalogue = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
            for english, german in catalogue.items():
                if isinstance(english, str) and re.fullmatch(r"[A-Za-z ,.]{8,60}", english) and len(german) <= 80:
                    pairs[german] = english
    if len(pairs) < count:
        raise DataError(f"specialists: {LOCALES} has {len(pairs)} short messages, {count} are needed")
    return [(f"In English: {german}", english) for german, english in rng.sample(sorted(pairs.items()), count)]


def questions(side: Side, count: int, rng: random.Random) -> Pairs:
    """Documentation questions: the line of a passage that answers; modules are divided."""
    rows = documentation(count, count, 0)[side == "test"]
    return [(row["messages"][1]["content"], row["messages"][2]["content"]) for row in rows]


MADE: dict[str, Callable[[Side, int, random.Random], Pairs]] = {
    "sentiment": sentiment, "fields": fields, "sql": sql, "entities": entities, "units": units, "commits": commits,
    "tools": tools, "questions": questions, "spelling": spelling, "translation": translation,
}  # fmt: skip
CLOSED = ("sentiment", "fields", "sql", "entities", "units", "commits", "tools", "questions")
SYNTHETIC = ("fields", "sql", "entities", "units", "commits", "tools")  # which need no file


def rows_of(task: str, side: Side, count: int, seed: int) -> Pairs:
    """Rows of a task's side; no question twice."""
    pairs = MADE[task](side, 2 * count if task in SYNTHETIC else count, random.Random(f"{task} {side} {seed}"))
    return list(dict(pairs).items())[:count]


def as_messages(pairs: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Pairs as turns of a conversation."""
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
