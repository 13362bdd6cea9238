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
from llmanac.data.split import fraction

Side = Literal["train", "test"]
Pairs = list[tuple[str, str]]
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LOCALES = Path("/usr/share/locale/de/LC_MESSAGES")
NAMES = {
    "train": ("Anna Berger", "Luis Ortega", "Mei Tanaka", "Paul Novak", "Sara Lind", "Omar Haddad", "Ines Costa"),
    "test": ("Greta Holm", "Ivan Petrov", "Lucia Marino", "Noah Becker", "Priya Nair", "Tom Walsh", "Yara Khalil"),
}
CITIES = {
    "train": ("Lyon", "Porto", "Graz", "Bergen", "Turin", "Gdansk"),
    "test": ("Malmo", "Seville", "Basel", "Ghent", "Split", "Brno"),
}
FIRMS = {"train": ("Acme", "Norvik", "Teleton", "Bluestone"), "test": ("Zentrum", "Kaptra", "Ostlund", "Verdano")}


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
    forms = {
        "train": ("{name} from {city} ordered {n} boxes.", "Please send {n} boxes to {name}, {city}.",
                  "{n} boxes for {name} go to {city}."),
        "test": ("Ship {n} boxes to {city} for {name}.", "{name} ({city}) asks for {n} boxes.",
                 "An order of {n} boxes came from {city}, by {name}."),
    }[side]  # fmt: skip
    out = []
    for _ in range(count):
        found = {"name": rng.choice(NAMES[side]), "city": rng.choice(CITIES[side]), "boxes": rng.randrange(2, 90)}
        text = rng.choice(forms).format(name=found["name"], city=found["city"], n=found["boxes"])
        out.append((f"{text}\nAs JSON with name, city, boxes:", json.dumps(found)))
    return out


TABLES = {
    "train": {
        "books": ("title", "year", "pages"),
        "ships": ("name", "length", "port"),
        "songs": ("title", "album", "year"),
        "shops": ("name", "street", "rent"),
    },
    "test": {
        "towers": ("name", "height", "town"),
        "lakes": ("name", "depth", "region"),
        "films": ("title", "studio", "cost"),
        "farms": ("owner", "area", "crop"),
    },
}


def sql(side: Side, count: int, rng: random.Random) -> Pairs:
    """A question about a table to SQL."""
    forms = {
        "train": (
            "Show the {a} of {t} where {b} is {v}.",
            "How many {t} have {b} above {v}?",
            "List {a} of all {t} by {b}.",
        ),
        "test": (
            "Which {a} do {t} with {b} {v} have?",
            "Count the {t} whose {b} exceeds {v}.",
            "Sort {t} by {b}, give {a}.",
        ),
    }[side]
    answers = ("SELECT {a} FROM {t} WHERE {b} = {v};", "SELECT COUNT(*) FROM {t} WHERE {b} > {v};",
               "SELECT {a} FROM {t} ORDER BY {b};")  # fmt: skip
    out = []
    for _ in range(count):
        table, columns = rng.choice(sorted(TABLES[side].items()))
        first, second = rng.sample(columns, 2)
        which, value = rng.randrange(len(forms)), rng.randrange(2, 2000)
        given = {"t": table, "a": first, "b": second, "v": value}
        schema = f"Table {table}({', '.join(columns)})."
        out.append((f"{schema}\n{forms[which].format(**given)}\nSQL:", answers[which].format(**given)))
    return out


def entities(side: Side, count: int, rng: random.Random) -> Pairs:
    """The person, the place and the firm of a sentence."""
    forms = {
        "train": ("{p} of {f} flew to {c}.", "In {c}, {p} met people of {f}.", "{f} hired {p} in {c}."),
        "test": ("{f} sent {p} to {c}.", "{p} left {f} and moved to {c}.", "The {c} office of {f} is led by {p}."),
    }[side]
    out = []
    for _ in range(count):
        p, c, f = rng.choice(NAMES[side]), rng.choice(CITIES[side]), rng.choice(FIRMS[side])
        out.append((f"{rng.choice(forms).format(p=p, c=c, f=f)}\nTags:", f"person: {p}; place: {c}; firm: {f}"))
    return out


UNITS = {("km", "m"): 1000, ("m", "cm"): 100, ("kg", "g"): 1000, ("h", "min"): 60, ("min", "s"): 60, ("l", "ml"): 1000}


def units(side: Side, count: int, rng: random.Random) -> Pairs:
    """A conversion with its step; even numbers are trained on, odd ones asked."""
    forms = {
        "train": ("Convert {n} {a} to {b}.", "{n} {a} in {b}?"),
        "test": ("How many {b} are {n} {a}?", "{n} {a} = ? {b}"),
    }
    out = []
    for _ in range(count):
        (a, b), factor = rng.choice(sorted(UNITS.items()))
        n = 2 * rng.randrange(1, 50) + (side == "test")
        out.append((rng.choice(forms[side]).format(n=n, a=a, b=b), f"{n} x {factor} = {n * factor} {b}"))
    return out


COMMITS = {
    "feat": {"train": ("Add {x} to {y}", "Let {y} take {x}"), "test": ("Support {x} in {y}", "{y} can have {x} now")},
    "fix": {
        "train": ("{y} no longer fails on {x}", "Correct {x} in {y}"),
        "test": ("Repair {y} for {x}", "{x} broke {y}: mend it"),
    },
    "docs": {
        "train": ("Describe {x} in the guide of {y}", "Explain {y} and {x} in README"),
        "test": ("Document {x} of {y}", "A page on {y} with {x}"),
    },
    "test": {
        "train": ("Cover {x} of {y} by a test", "A test for {y} with {x}"),
        "test": ("Check {x} in the suite of {y}", "{y}: assert {x} in tests"),
    },
    "refactor": {
        "train": ("Split {y} from {x}", "Move {x} out of {y}"),
        "test": ("Rename parts of {y} after {x}", "Join {x} and {y}"),
    },
    "perf": {
        "train": ("{y} is twice as fast with {x}", "Cache {x} in {y}"),
        "test": ("Less time for {x} in {y}", "Speed up {y} by {x}"),
    },
}
THINGS = {
    "train": ("empty lists", "long names", "time zones", "two threads", "nested keys", "old files"),
    "test": ("missing rows", "wide tables", "odd sizes", "large numbers", "broken links", "new lines"),
}
MODULES = {"train": ("parser", "cache", "router", "editor"), "test": ("loader", "index", "printer", "client")}


def commits(side: Side, count: int, rng: random.Random) -> Pairs:
    """A commit message to its type."""
    out = []
    for _ in range(count):
        kind = rng.choice(sorted(COMMITS))
        form = rng.choice(COMMITS[kind][side])
        out.append((f"{form.format(x=rng.choice(THINGS[side]), y=rng.choice(MODULES[side]))}\nType of commit:", kind))
    return out


TOOLS = {
    "train": {"send_mail": ("to", "subject"), "book_room": ("room", "hour"), "play_song": ("title", "volume")},
    "test": {"set_alarm": ("hour", "label"), "order_taxi": ("street", "seats"), "print_file": ("path", "copies")},
}
REQUESTS = {
    "train": ("Use {tool} with {a} {x} and {b} {y}.", "{tool}: {a} is {x}, {b} is {y}."),
    "test": ("Call {tool}, where {a} = {x} and {b} = {y}.", "I want {tool} for {a} {x}, {b} {y}."),
}
WORDS = {"train": ("north", "blue", "lunch", "report", "seven"), "test": ("south", "green", "dinner", "letter", "nine")}


def tools(side: Side, count: int, rng: random.Random) -> Pairs:
    """A request to a call of one of the tools that the prompt lists."""
    out, every = [], TOOLS[side]
    listed = "; ".join(f"{name}({', '.join(of)})" for name, of in every.items())
    for _ in range(count):
        tool, (a, b) = rng.choice(sorted(every.items()))
        x, y = rng.choice(WORDS[side]), rng.choice(WORDS[side])
        asked = rng.choice(REQUESTS[side]).format(tool=tool.replace("_", " "), a=a, b=b, x=x, y=y)
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
