"""The rows of a benchmark's files: tables, nested JSON, blocks of lines; and its items: prompts with their answers."""

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, SpecError, shown
from llmanac.core.files import read_json, read_text
from llmanac.core.progress import say_once
from llmanac.data import json_rows
from llmanac.data.command_problems import CommandProblems, check_packed
from llmanac.data.lines import lines
from llmanac.data.readers import table_rows
from llmanac.data.unpack import TABLES, format_of, unpacked
from llmanac.evaluate._calls import checked
from llmanac.evaluate._instructions import instructions_of
from llmanac.evaluate.benchmark import Benchmark, BenchmarkSource, Templates

MOST_ROWS = 1 << 20
MOST_FIELD = 64  # characters of a field that an item keeps

Row = dict[str, Any]


@dataclass(frozen=True)
class BenchmarkItem:
    """One question.

    Attributes:
        name: the file and row that it comes from.
        prompt: description, examples and question.
        choices: texts that are scored after the prompt, the delimiter not among them; empty for a generation.
        golds: numbers of the right choices.
        references: the right answers of a generation; the scored text where there are neither.
        cluster: what it shares with others, such as its passage.
        row: its fields, for a program that is run.
        ending: what follows each choice and is scored, where the choices themselves are not.
        fields: the row's short values, by which a verdict may group and slice.
    """

    name: str
    prompt: str
    choices: tuple[str, ...] = ()
    golds: tuple[int, ...] = ()
    references: tuple[Any, ...] = ()
    cluster: str | None = None
    row: Mapping[str, Any] | None = None
    ending: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


def files_of(source: BenchmarkSource, folder: Path) -> list[Path]:
    """The files of the first pattern that matches. Raises DataError that lists the patterns."""
    for pattern in source.files:
        root = Path(pattern).parent if Path(pattern).is_absolute() else folder
        own = Path(pattern).name if Path(pattern).is_absolute() else pattern
        found = sorted(path for path in _glob(root, own) if path.is_file())
        if found:
            return found
    raise DataError(f"{folder}: no file matches {' or '.join(source.files)}; name the folder of the data with --data")


def _glob(folder: Path, pattern: str) -> list[Path]:
    try:
        return list(folder.glob(pattern))
    except (ValueError, NotImplementedError, OSError) as error:
        raise SpecError(f"data.files: {shown(pattern)} is no pattern of file names ({error})") from None


def rows_of(source: BenchmarkSource, folder: Path) -> Iterator[Row]:
    """The rows of a source, each with `file` (a name without its ending) and `place` (for messages)."""
    number = 0
    for path in files_of(source, folder):
        labels = None if source.labels is None else _labels(folder, source.labels, path.name.split(".")[0])
        for line, row in _rows_of_file(source, path):
            nested = source.rows if format_of(path) == ".json" else None
            for place, found in _nested(row, nested, f"{path}:{line}"):
                number += 1
                if number > MOST_ROWS:
                    raise DataError(f"{path}: more than {MOST_ROWS:,} rows; make the pattern narrower")
                if source.labels is not None and labels is None:
                    found["label"] = None
                if labels is not None:
                    found["label"] = next(labels, None)
                    if found["label"] is None:
                        raise DataError(f"{source.labels}: has fewer lines than {path} has rows")
                    if isinstance(found["label"], dict) and found["label"].get("id", "") != found.get("id", ""):
                        raise DataError(f"{source.labels}: has a line of {found['label']['id']} for {place}")
                yield {"file": path.name.split(".")[0], "place": place, **found}


def _rows_of_file(source: BenchmarkSource, path: Path) -> Iterator[tuple[int, Row]]:
    problems = CommandProblems()
    check_packed(path, problems)
    if format_of(path) == ".json" and source.rows is not None:
        with unpacked(path, problems) as plain:
            found = read_json(plain)
        yield from enumerate(found if isinstance(found, list) else [found], 1)
    elif format_of(path) == ".json" and _in_lines(path):
        yield from ((row.line, dict(row.values)) for row in json_rows.line_rows(path, problems))
    elif format_of(path) in TABLES:
        yield from ((row.line, dict(row.values)) for row in table_rows(path, problems))
    elif not source.lines:
        raise DataError(f"{path}: is text; its benchmark must say in data.lines what its lines are")
    else:
        numbered = lines(path, problems)
        while block := list(itertools.islice(numbered, len(source.lines))):
            if len(block) < len(source.lines):
                if any(text.strip() for _, text in block):
                    raise DataError(f"{path}:{block[0][0]}: ends within an item of {len(source.lines)} lines")
                return
            row: Row = {}
            for name, (_, text) in zip(source.lines, block, strict=True):
                many = source.lines.count(name) > 1
                row[name] = [*row.get(name, ()), text] if many else text
            yield block[0][0], row


def _in_lines(path: Path) -> bool:
    """Whether a .json file has an object on its first line, and so is one of JSON Lines."""
    first = next((text for _, text in lines(path, CommandProblems())), "")
    try:
        return first[:1] == "{" and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _labels(folder: Path, name: str, file: str) -> Iterator[Any] | None:
    found = sorted(_glob(folder, name.replace("{file}", file)))
    if not found:
        if "{file}" in name:
            return None
        raise DataError(f"{folder}: has no file {name} with the labels")
    if format_of(found[0]) in (".json", ".jsonl"):
        return (dict(row.values) for row in json_rows.line_rows(found[0], CommandProblems()))
    return (text for _, text in lines(found[0], CommandProblems()) if text.strip())


def _nested(row: Any, path: str | None, place: str) -> Iterator[tuple[str, Row]]:
    """The rows below a row; a child has its parents' fields too, and `number` and `siblings` of its own list."""
    steps = path.split(".") if path else []
    if steps and isinstance(row, dict) and steps[0] != "*" and steps[0].removesuffix("[]") not in row:
        steps = []  # a flat copy of the same data
    todo: list[tuple[Any, int, Row, str]] = [(row, 0, {}, place)]
    while todo:
        value, depth, above, where = todo.pop()
        if depth == len(steps):
            if not isinstance(value, dict):
                raise DataError(f"{where}: is {type(value).__name__} where a row was expected")
            yield where, {**above, **value}
            continue
        key = steps[depth].removesuffix("[]")
        if not isinstance(value, dict) or (key != "*" and key not in value):
            raise DataError(f"{where}: has no {key!r}, which data.rows names")
        below = value if key == "*" else value[key]
        own = above if key == "*" else {**above, **{k: v for k, v in value.items() if k != key}}
        listed = steps[depth].endswith("[]") or key == "*"
        values: Any = list(below.values()) if listed and isinstance(below, dict) else below if listed else [below]
        if not isinstance(values, list):
            raise DataError(f"{where}: {key!r} is {type(below).__name__} where a list was expected")
        names = list(below) if key == "*" else [f"{key}.{i}" for i in range(len(values))]
        for i in reversed(range(len(values))):
            extra = {"number": i, "siblings": values} if depth + 1 == len(steps) else {}
            todo.append((values[i], depth + 1, {**own, **extra}, f"{where}.{names[i]}"))


def items_of(
    own: Benchmark, folder: Path, *, limit: int | None = None, shots: int | None = None
) -> list[BenchmarkItem]:
    """The items of a benchmark, in the order of its files.

    Args:
        limit: only the first ones; shots: examples in place of the benchmark's own number.

    Raises:
        DataError: data that are missing or do not fit the templates; it names file and row.
    """
    made, items = Templates(own), []
    count = own.shots.count if shots is None else shots
    examples = _Examples(own, made, folder, count)
    for row in itertools.islice(_computed(own.data, made, folder), limit):
        try:
            items.append(_item(own, made, row, examples))
        except DataError as error:
            raise DataError(f"{row['place']}: {error}") from None
    if not items:
        raise DataError(f"{folder}: there is no row to evaluate in {own.data.files[0]}")
    return items


def _computed(source: BenchmarkSource, made: Templates, folder: Path) -> Iterator[Row]:
    where = made.where.get(source)
    for row in rows_of(source, folder):
        try:
            found = _with_fields(made, row)
            if where is None or where.value(found):
                yield found
        except DataError as error:
            raise DataError(f"{row['place']}: {error}") from None


def _with_fields(made: Templates, row: Row) -> Row:
    out = dict(row)
    for name, expression in made.fields.items():
        out[name] = expression.value(out)
    return out


class _Examples:
    """What precedes each question."""

    def __init__(self, own: Benchmark, made: Templates, folder: Path, count: int) -> None:
        self.own, self.made, self.count, self.folder = own, made, count, folder
        self.texts: dict[str, str] = {}  # of worked examples, by file
        self.random = random.Random(own.shots.seed)
        self.pools: dict[Any, list[tuple[int, str]]] = {}  # of each example its content and its text
        apart = bool(own.shots.samples or own.shots.data)
        self.leaves_out = not apart if own.shots.leave_out is None else own.shots.leave_out
        if own.shots.text is not None and count not in (0, own.shots.count):
            raise SpecError(f"--shots: the examples of {own.shots.text} go together; give 0 or {own.shots.count}")
        if not count or own.shots.text is not None:
            return
        if not apart and not self.leaves_out:
            say_once(f"{own.title}: examples are drawn from the rows that are asked; a row's own answer may precede it")
        given = own.shots.samples
        rows = (_with_fields(made, {"place": f"shots.samples.{i}", **row}) for i, row in enumerate(given))
        for row in rows if given else _computed(own.shots.data or own.data, made, folder):
            key = None if made.same is None else shown(made.same.value(row))
            pool = self.pools.setdefault(key, [])
            if own.shots.order == "first" and len({content for content, _ in pool}) > count:
                continue
            text, answer = made.prompt.text(row), answer_text(own, made, row)
            if made.ending is not None:
                text, answer = text + answer, made.ending.text(row)
            if answer != "" or _listed(made, row):  # as lm-eval: nothing is written of an answer that is empty
                text += own.shots.delimiter + answer + own.shots.separator
            pool.append((_content(row), text))

    def before(self, row: Row) -> str:
        if not self.count:
            return ""
        if self.own.shots.text is not None:
            return self._worked(self.own.shots.text.replace("{file}", str(row["file"])))
        pool = self.pools.get(None if self.made.same is None else shown(self.made.same.value(row)), [])
        random_order = self.own.shots.order == "random"
        more = int(self.leaves_out and random_order)
        if len(pool) < self.count + more:
            raise DataError(f"shots: {self.count} examples are asked for, and there are {len(pool)}")
        drawn = self.random.sample(pool, self.count + more) if random_order else pool
        if self.leaves_out:
            asked = _content(row)
            drawn = [one for one in drawn if one[0] != asked]
            if len(drawn) < self.count and random_order:  # the row is there more than once
                others = [one for one in pool if one[0] != asked]
                drawn = self.random.sample(others, min(self.count, len(others)))
        kept = [text for _, text in drawn[: self.count]]
        if len(kept) < self.count:
            raise DataError(f"shots: {self.count} examples are asked for, and there are {len(kept)} others")
        if self.own.shots.shuffle is not None:
            random.Random(self.own.shots.shuffle).shuffle(kept)
        return "".join(kept)

    def _worked(self, name: str) -> str:
        if name not in self.texts:
            text = read_text(self.folder / name)
            head, dashes, rest = text.partition("\n-----\n")
            self.texts[name] = (rest if dashes else head).strip() + self.own.shots.separator
        return self.texts[name]


def _content(row: Row) -> int:
    """Equal for rows with the same fields, wherever they come from."""
    return hash(tuple(sorted(repr(one) for one in row.items() if one[0] not in ("file", "place", "siblings"))))


def _listed(made: Templates, row: Row) -> bool:
    """Whether a row has a list of right answers."""
    return made.target is None and made.references is not None and not isinstance(made.references.value(row), str)


def answer_text(own: Benchmark, made: Templates, row: Row) -> str:
    """The answer of an example: the target's text, else the right choice, else the first reference."""
    if made.target is not None:
        return made.target.text(row)
    if made.texts is not None:
        texts, golds = _choices(made, row)
        return texts[golds[0]]
    references = _references(made, row)
    if not isinstance(references[0], str):
        raise DataError("target: must be set for examples, since a row's first reference is no text")
    return references[0]


def _choices(made: Templates, row: Row) -> tuple[tuple[str, ...], tuple[int, ...]]:
    assert made.texts is not None and made.gold is not None
    texts, gold = made.texts.value(row), made.gold.value(row)
    if not isinstance(texts, (list, tuple)) or len(texts) < 2 or not all(isinstance(t, str) and t for t in texts):
        raise DataError(f"choices.texts: {shown(texts)} is not a list of at least two texts")
    golds = list(gold) if isinstance(gold, (list, tuple)) else [gold]
    golds = [texts.index(one) if one in texts else one for one in golds]  # a choice's text is as good as its number
    golds = [int(one) if isinstance(one, str) and one.isascii() and one.isdigit() else one for one in golds]
    for one in golds:
        if type(one) is not int or not 0 <= one < len(texts):
            raise DataError(f"choices.gold: {shown(one)} is not the number of one of {len(texts)} choices, from 0")
    if not golds:
        raise DataError("choices.gold: is empty; one choice must be right")
    return tuple(texts), tuple(golds)


def _references(made: Templates, row: Row) -> tuple[Any, ...]:
    assert made.references is not None
    found = made.references.value(row)
    found = [found] if isinstance(found, str) else found
    good = isinstance(found, (list, tuple)) and len(found) > 0
    if not good or not all(isinstance(one, str) or _texts(one) for one in found):
        raise DataError(f"generation.references: {shown(found)} is not a text or a list of texts")
    return tuple(found)


def _texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(one, str) for one in value)


def _short(row: Row) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if name not in ("place", "number")}
    return {name: value for name, value in kept.items() if isinstance(value, (bool, int, float))
            or (isinstance(value, str) and len(value) <= MOST_FIELD)}  # fmt: skip


def _item(own: Benchmark, made: Templates, row: Row, examples: _Examples) -> BenchmarkItem:
    prompt = made.description.text(row) + examples.before(row) + made.prompt.text(row)
    cluster = None if made.cluster is None else str(made.cluster.value(row))
    texts: Sequence[str] = ()
    golds: Sequence[int] = ()
    references: Sequence[Any] = ()
    if own.choices:
        texts, golds = _choices(made, row)
    elif own.generation and made.references is not None:
        references = _references(made, row)
    elif own.generation is None or own.generation.by_row is None:
        references = (answer_text(own, made, row),)
    kept = None if own.generation is None or own.generation.by_row is None else row
    if kept is not None and own.generation is not None:
        {"ifeval": instructions_of, "function-calls": checked}.get(own.generation.by_row or "", dict)(kept)
    ending = "" if made.ending is None else made.ending.text(row)
    return BenchmarkItem(
        row["place"], prompt, tuple(texts), tuple(golds), tuple(references), cluster, kept, ending, _short(row)
    )


def questions_of(own: Benchmark, folder: Path, *, limit: int | None = None) -> list[tuple[str, ...]]:
    """What each item asks: the texts of the fields that its prompt has, without the words that all prompts share."""
    made = Templates(own)
    out = []
    for row in itertools.islice(_computed(own.data, made, folder), limit):
        values = [row.get(name) for name in made.prompt.names]
        flat = [one for value in values for one in (value if isinstance(value, (list, tuple)) else [value])]
        texts = tuple(one for one in flat if isinstance(one, str) and one.strip())
        out.append(texts or (made.prompt.text(row),))
    return out
