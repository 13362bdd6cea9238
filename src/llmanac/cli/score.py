"""`llmanac score` and `correct`: texts in, a table or JSON Lines out, in batches."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmanac.cli.options import Column, Include, LineAsJson, SomeModel
from llmanac.core.errors import SpecError

if TYPE_CHECKING:
    from llmanac.evaluate.classify import Classified, Way
    from llmanac.evaluate.correct import Corrected
    from llmanac.evaluate.score import Scored

Texts = Annotated[str | None, typer.Argument(help="Lines of text, a table, a folder [standard input].")]
BLOCK_TEXTS, BLOCK_CHARACTERS = 256, 1 << 20  # the size of a batch
UNIFORM = 8  # bits per byte of a uniform model
SHOWN = 60  # characters of a text in a table
SENTENCE = "The dogs sleeps in a the sun."


def texts_of(given: Sequence[str], file: str | None, column: str, include: Sequence[str] = ()) -> Iterator[str]:
    """The texts of --text, else the rows or lines of a file or folder, else the lines of standard input.

    Raises:
        DataError: a missing file, invalid UTF-8, or a table without the column; the message names the line.
    """
    from llmanac.data.command_problems import CommandProblems
    from llmanac.data.texts import files_of, lines

    if given and file is not None:
        raise SpecError("--text: give either --text or a file, not both")
    if given:
        for text in given:  # arguments that are not UTF-8 contain surrogates
            yield text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    else:
        if file in (None, "-") and sys.stdin.isatty():
            print("Reading standard input, one text per line; end with Ctrl-D.", file=sys.stderr)
        source = files_of([file or "-"], column=column, include=include)
        yield from (line.text for line in lines(source, CommandProblems(column="--column")))


def blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in batches of bounded size."""
    block: list[str] = []
    size = 0
    for text in texts:
        block.append(text)
        size += len(text)
        if len(block) >= BLOCK_TEXTS or size >= BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _emit(lines: Iterable[dict[str, Any]]) -> None:
    for line in lines:
        print(json.dumps(line, ensure_ascii=False, allow_nan=False), flush=True)


def _short(text: str, width: int = SHOWN) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 2] + " …"


# ---------------------------------------------------------------- score


def score_command(
    path: SomeModel, file: Texts = None, text: list[str] | None = None, tokens: bool = False,
    as_json: LineAsJson = False, column: Column = "text", include: Include = None, context: int | None = None,
    dtype: str | None = None, labels: str | None = None, template: str | None = None, channel: bool = False,
    calibrate: str | None = None,
) -> None:  # fmt: skip
    """Log-likelihood and perplexity of each text under a model, or the label that fits it best.

    Args:
        text: Score this text; repeatable.
        tokens: Also show the log-probability of every token.
        context (from 1): Tokens that windows of a long text share [1].
        dtype: float32, float64 or bfloat16 [float32].
        labels: Classify: positive,negative or pos=good,neg=bad.
        template: Prompt with {text} and {label}.
        channel: Score the text given the label.
        calibrate: Subtract each label's score for this text, e.g. N/A.
    """
    from llmanac.evaluate.classify import LabelPrompt, check_fields, classify
    from llmanac.evaluate.score import score
    from llmanac.generate.load import load_engine

    if labels is None and (template or channel or calibrate):
        raise SpecError("--labels: --template, --channel and --calibrate belong to it; give the labels")
    source = texts_of(text or (), file, column, include or ())
    chosen = None if labels is None else parse_labels(labels)
    way: Way = "channel" if channel else "direct"
    if template is not None:
        check_fields(template)
        LabelPrompt.parse(template, way)
    engine = load_engine(path, dtype=dtype)
    if chosen is not None:
        how: dict[str, Any] = {"template": template, "way": way, "calibrate": calibrate}
        model, tokenizer = engine.model, engine.tokenizer
        labelled = (one for block in blocks(source) for one in classify(model, tokenizer, block, chosen, **how))
        if as_json:
            _emit(one.as_json() for one in labelled)
        else:
            _label_table(labelled, list(chosen))
            again = [path, "--labels", str(labels), "--channel", "--calibrate", "N/A", "--text", SENTENCE]
            print(f"Next: llmanac score {shlex.join(again)}")
        return
    totals = Totals()
    scored = (one for block in blocks(source) for one in score(engine.model, block, engine.tokenizer, context=context))
    found = map(totals.add, scored)
    if as_json:
        _emit(one.as_json(table=tokens) for one in found)
    else:
        _score_table(found, tokens)
    for line in (totals.line(), totals.explanation()):
        if line:
            print(line, file=sys.stderr if as_json else sys.stdout)
    if not as_json:
        print(f"Next: llmanac correct {shlex.join([path, '--text', SENTENCE])}   (also with --json: one object a line)")


def parse_labels(given: str) -> dict[str, str]:
    """`good,bad` or `good=great,bad=terrible`: label -> its verbalizer.

    Raises:
        SpecError: an empty or repeated label.
    """
    found: dict[str, str] = {}
    for part in given.split(","):
        name, equals, text = (side.strip() for side in part.partition("="))
        if not name or (equals and not text):
            raise SpecError(f"--labels: {given!r} has an empty label; write positive,negative or pos=good,neg=bad")
        if name in found:
            raise SpecError(f"--labels: {name!r} is repeated")
        found[name] = text or name
    return found


class Totals:
    """Sums over all scored texts."""

    def __init__(self) -> None:
        self.texts = self.tokens = self.words = self.bytes = 0
        self.nats = 0.0

    def add(self, one: Scored) -> Scored:
        from llmanac.metrics import utf8_bytes, words

        self.texts += 1
        if one.tokens:
            self.tokens += one.tokens
            self.words += words(one.text)
            self.bytes += utf8_bytes(one.text)
            self.nats += one.log_likelihood
        return one

    def line(self) -> str:
        from llmanac.metrics.perplexity import bits_per_unit, perplexity

        if not self.tokens:
            return f"{self.texts} texts without a token."
        per = {name: perplexity(self.nats, units) for name, units in (("token", self.tokens), ("word", self.words))}
        return (
            f"{self.texts} texts, {self.tokens} tokens: log-likelihood {self.nats:.4f} nats, perplexity "
            f"{per['token']:.4g} a token, {per['word']:.4g} a word, {perplexity(self.nats, self.bytes):.4g} a byte; "
            f"{bits_per_unit(self.nats, self.bytes):.4f} bits per byte"
        )

    def explanation(self) -> str:
        """One line where the model is worse than a uniform one; else nothing."""
        from llmanac.metrics.perplexity import bits_per_unit

        if not self.bytes or bits_per_unit(self.nats, self.bytes) <= UNIFORM:
            return ""
        return (
            f"That is more than {UNIFORM} bits per byte, the cost under a uniform distribution: the text is unlike the "
            "model's training text, or the model has no smoothing (mle, as the bigram) and gives unseen tokens almost "
            "no probability."
        )


def _score_table(found: Iterable[Scored], tokens: bool) -> None:
    print(f"{'text':>5}  {'tokens':>6}  {'log-likelihood':>14}  {'perplexity':>10}  {'bits/byte':>9}")
    for number, one in enumerate(found, 1):
        figures = f"{one.log_likelihood:>14.4f}  {one.perplexity:>10.4g}  {one.bits_per_byte:>9.4f}"
        print(f"{number:>5}  {one.tokens:>6}  {figures}  {_short(one.text)}")
        if tokens:
            for place, (piece, value) in enumerate(zip(one.pieces, one.logprobs.tolist(), strict=True), 1):
                print(f"{'':>5}  {place:>6}  {value:>14.4f}  {piece!r}")


def _label_table(found: Iterable[Classified], names: list[str]) -> None:
    width = max(5, *map(len, names))
    print(f"{'text':>5}  {'label':<{width}}  {'  '.join(f'P({name})' for name in names)}")
    for number, one in enumerate(found, 1):
        values = "  ".join(f"{one.probabilities[name]:>{len(name) + 3}.3f}" for name in names)
        print(f"{number:>5}  {one.label:<{width}}  {values}  {_short(one.text)}")


# ---------------------------------------------------------------- correct


def correct_command(
    path: SomeModel, file: Texts = None, text: list[str] | None = None, vocabulary: Path | None = None,
    margin: float | None = None, kinds: str | None = None, as_json: LineAsJson = False, column: Column = "text",
    include: Include = None,
) -> None:  # fmt: skip
    """Correct grammar and spelling: edits proposed by rules, accepted by the language model.

    Args:
        text: Correct this text; repeatable.
        vocabulary: Text with the known words [Python's documentation].
        margin: Nats that an edit must gain; higher edits less.
        kinds: Only these, e.g. agreement,article,spelling.
    """
    from llmanac.evaluate.correct import MARGIN, Corrector
    from llmanac.evaluate.words import Words
    from llmanac.generate.load import load_engine

    source = texts_of(text or (), file, column, include or ())
    known = Words.of_documentation() if vocabulary is None else Words.of_file(vocabulary)
    engine = load_engine(path)
    chosen = None if kinds is None else [kind.strip() for kind in kinds.split(",")]
    least = MARGIN if margin is None else margin
    corrector = Corrector(engine.model, engine.tokenizer, known, margin=least, kinds=chosen)
    found = (one for block in blocks(source) for one in corrector.correct(block))
    if as_json:
        _emit(one.as_json() for one in found)
        return
    changed = _show_corrections(found)
    counted = f"{changed} change{'' if changed == 1 else 's'}"
    again = shlex.join([path, "--tokens", "--text", SENTENCE])
    print(f"{counted}. Next: llmanac score {again}   (what the model finds unlikely)")


def _show_corrections(found: Iterable[Corrected]) -> int:
    changed = 0
    for one in found:
        print(one.corrected)
        for change in one.changes:
            changed += 1
            was, now = change.old.strip() or "nothing", change.new.strip() or "nothing"
            print(f"    {change.kind}: {was} -> {now}  (+{change.gain:.2f} nats)  {change.why}")
    return changed
