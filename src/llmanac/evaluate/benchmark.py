"""A benchmark is one TOML file: where its data are, how a prompt is written, and how an answer is scored.

    title = "My questions"
    prompt = "Question: {{question}}\\nAnswer:"

    [data]
    files = ["questions.jsonl"]           # the first pattern that matches in the data folder

    [choices]                             # or [generation], or neither: then `target` is scored as the next text
    texts = "options"                     # an expression: the choices of a row
    gold = "answer"                       # the number of the right one, from 0, or its text

`benchmarks/` has those that come with llmanac; a path names one's own. Templates are those of `_jinja.py`. Prompts
follow lm-eval: description, examples with the separator after each, the row's own prompt; a choice follows the
delimiter.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import regex

from llmanac.core.errors import SpecError, shown
from llmanac.core.ranges import Range, within
from llmanac.core.spec import Spec
from llmanac.evaluate._jinja import Expression, RowTemplate
from llmanac.metrics.answers import CONVENTIONS, INVALID, convention

BY_ROW = ("code", "ifeval", "function-calls")  # scored by what the row says, without references
OTHER_METRICS = ("quac", *BY_ROW)  # scored by more than an answer's convention
MOST_LENGTH = 1 << 16


def _check_inside(*patterns: str) -> None:
    for pattern in patterns:
        if not pattern or pattern.startswith("~") or ".." in Path(pattern).parts:
            raise SpecError(f"files: {shown(pattern)} leaves the data folder; give a pattern inside it")


@dataclass(frozen=True, kw_only=True)
class BenchmarkSource(Spec):
    """files: patterns in the data folder, of which the first that matches anything is read; rows: where the rows of a
    .json file are, `data[].paragraphs[].qas[]` (`*` is every value of a table); lines: the fields of consecutive lines
    of a text file (a repeated field is a list); labels: a file with a line for each row, the field `label`, which is a
    table where the file is of JSON (`{file}` is the name of the rows' file, and there may be none); where: an
    expression, rows for which it is false are left out."""

    files: tuple[str, ...]
    rows: str | None = None
    lines: tuple[str, ...] = ()
    labels: str | None = None
    where: str | None = None

    def __post_init__(self) -> None:
        _check_inside(*self.files, *([self.labels] if self.labels else []))
        if not self.files:
            raise SpecError("files: is empty; give at least one pattern")
        if self.rows is not None and not re.fullmatch(r"[^.\[\]]+(\[\])?(\.[^.\[\]]+(\[\])?)*", self.rows):
            raise SpecError(f"rows: {shown(self.rows)} is not a path such as data[].paragraphs[].qas[]")


@dataclass(frozen=True, kw_only=True)
class Shots(Spec):
    """Examples before the question. count: how many; data: where they are (else the benchmark's own rows); samples:
    given here instead; text: a file of worked examples instead, of which what follows its line of dashes is written
    before the question as it is (`{file}` is the name of the row's file); leave_out: whether rows equal to the one that
    is asked are left out, by default of the own rows; order: the first ones, or drawn for each item as lm-eval draws
    them from `seed`; same: an expression, only rows with the same value serve; separator: after each example;
    delimiter: between a prompt and its answer; shuffle: a seed, puts the same examples in another order."""

    count: int = 0
    data: BenchmarkSource | None = None
    samples: Any = ()
    text: str | None = None
    leave_out: bool | None = None
    order: Literal["first", "random"] = "first"
    seed: int = 1234
    same: str | None = None
    separator: str = "\n\n"
    delimiter: str = " "
    shuffle: int | None = None

    ranges = within(Range(0, 1000), "count")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.samples, (list, tuple)) or not all(isinstance(one, dict) for one in self.samples):
            raise SpecError("samples: expected a list of tables, each an example's fields")
        if sum(map(bool, (self.samples, self.data, self.text))) > 1:
            raise SpecError("samples: give either samples or data or text, and no other")
        _check_inside(*([self.text] if self.text else []))


@dataclass(frozen=True, kw_only=True)
class Choices(Spec):
    """texts: an expression, the choices of a row; gold: an expression, the number (from 0) or text of the right one;
    ending: a template, a text that follows each choice and is scored in its place (a prompt a choice); score: whether
    the choice that is picked is right, or the share of all choices' probability that the right ones have."""

    texts: str
    gold: str
    score: Literal["pick", "mass"] = "pick"
    ending: str | None = None


@dataclass(frozen=True, kw_only=True)
class Extraction(Spec):
    """An answer found by a pattern and compared as lm-eval's exact_match. label: of the metric; pattern: a regular
    expression, of which match number `group` (-1 is the last) counts, its first group that is not empty; fallback: what
    is compared where nothing is found; strip: white space around the answer is taken off first; ignore_...: what makes
    no difference; ignore: expressions of text to drop."""

    label: str
    pattern: str | None = None
    group: int = 0
    fallback: str = INVALID
    strip: bool = False
    ignore_case: bool = False
    ignore_punctuation: bool = False
    ignore_numbers: bool = False
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for source in (*([self.pattern] if self.pattern is not None else []), *self.ignore):
            try:
                regex.compile(source)
            except (regex.error, RecursionError) as error:
                raise SpecError(f"pattern: {shown(source)} is not a regular expression ({error})") from None


@dataclass(frozen=True, kw_only=True)
class Generation(Spec):
    """stop: texts that end an answer; length: most tokens; references: an expression, the right answers; metrics:
    conventions of `metrics.answers`, or `quac`, or one by the row's fields: `code` (its tests are run), `ifeval` (its
    instructions), `function-calls` (its functions and right calls); strip: what is taken off a
    text before it is compared; extractions: answers found by patterns instead."""

    stop: tuple[str, ...] = ()
    length: int = 256
    references: str | None = None
    metrics: tuple[str, ...] = ("squad",)
    extractions: tuple[Extraction, ...] = ()
    strip: Literal["no", "both", "first-line"] = "no"

    ranges = within(Range(1, MOST_LENGTH), "length")

    def __post_init__(self) -> None:
        super().__post_init__()
        if "" in self.stop:
            raise SpecError("stop: an empty text ends every answer at once")
        for name in self.metrics:
            if name not in OTHER_METRICS:
                convention(name)
        if not self.metrics and not self.extractions:
            raise SpecError(f"metrics: is empty (known: {', '.join((*CONVENTIONS, *OTHER_METRICS))})")
        if self.by_row and len(self.metrics) > 1:
            raise SpecError(f"metrics: {self.by_row} goes with no other metric")

    @property
    def by_row(self) -> str | None:
        """The metric that is scored by what the row says."""
        return next((name for name in self.metrics if name in BY_ROW), None)


@dataclass(frozen=True, kw_only=True)
class Benchmark(Spec):
    """See the module. fields: name -> expression, computed in order for rows and examples; target: a template of
    an example's answer (else the right choice or the first reference); cluster: an expression that names what rows
    share, such as a passage."""

    title: str
    about: str = ""
    paper: str = ""
    data: BenchmarkSource
    fields: Any = ()
    description: str = ""
    prompt: str
    target: str | None = None
    shots: Shots = Shots()
    choices: Choices | None = None
    generation: Generation | None = None
    cluster: str | None = None

    def __post_init__(self) -> None:
        if self.choices and self.generation:
            raise SpecError("generation: a benchmark has either choices or a generation")
        if not (self.choices or self.generation or self.target):
            raise SpecError(
                "target: must be set where there are no choices and no generation: its likelihood is scored"
            )
        if self.generation and not (self.generation.references or self.target or self.generation.by_row):
            raise SpecError("generation.references: must be set; without right answers nothing can be scored")
        if not (isinstance(self.fields, dict) or self.fields == ()):
            raise SpecError("fields: expected a table of names and expressions")
        Templates(self)  # reads every template

    @property
    def task(self) -> str:
        """choices, generation or likelihood."""
        return "choices" if self.choices else "generation" if self.generation else "likelihood"


class Templates:
    """The templates of a benchmark, read once."""

    def __init__(self, own: Benchmark) -> None:
        for name, source in dict(own.fields).items():
            if not isinstance(source, str) or not name.isidentifier():
                raise SpecError(f"fields.{name}: expected a name and an expression in quotes")
        self.fields = {name: Expression(source, f"fields.{name}") for name, source in dict(own.fields).items()}
        self.prompt, self.description = RowTemplate(own.prompt, "prompt"), RowTemplate(own.description, "description")
        self.target = RowTemplate(own.target, "target") if own.target is not None else None
        self.texts = Expression(own.choices.texts, "choices.texts") if own.choices else None
        self.gold = Expression(own.choices.gold, "choices.gold") if own.choices else None
        ending = own.choices.ending if own.choices else None
        self.ending = None if ending is None else RowTemplate(ending, "choices.ending")
        made = own.generation
        self.references = Expression(made.references, "generation.references") if made and made.references else None
        self.cluster = Expression(own.cluster, "cluster") if own.cluster else None
        self.same = Expression(own.shots.same, "shots.same") if own.shots.same else None
        wheres = {source: source.where for source in (own.data, own.shots.data) if source and source.where}
        self.where = {source: Expression(where, "where") for source, where in wheres.items()}
