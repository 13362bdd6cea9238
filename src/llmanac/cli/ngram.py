"""`llmanac ngram train | score | query | convert`: n-gram models on the command line."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmanac.cli.options import AsJson, Column, Force, Include, group, read_size
from llmanac.core.errors import DataError, SpecError
from llmanac.core.files import has_name
from llmanac.core.outputs import check_apart

if TYPE_CHECKING:
    import numpy as np

    from llmanac.models.ngrams.words import NgramScore

app = group("Train n-gram models, score text with them, convert ARPA files.")
Text = Annotated[list[str], typer.Argument(help="Files, folders or patterns, a sentence per line or row; - for stdin.")]
Model = Annotated[Path, typer.Argument(help="An ARPA file (.arpa, .arpa.gz) or a binary model.")]
ZEROS = (
    "note: without smoothing (mle) an n-gram that was never counted has probability 0, stored as 10^-99, and a single "
    "one dominates the perplexity; train with --smoothing modified-kneser-ney for a comparable figure"
)
NO_BACKOFF = (
    "note: this smoothing does not back off, so a word that was not seen after its full context has length 0 and an "
    "equal part of the probability that the context leaves"
)


@app.command("train")
def train_command(
    text: Text, output: Path, order: int = 5, smoothing: str = "modified-kneser-ney", set_: list[str] | None = None,
    tokenizer: str | None = None, skip_symbols: bool = False, memory: str | None = None, column: Column = "text",
    include: Include = None, force: Force = False,
) -> Any:  # fmt: skip
    """Count text and estimate a model.

    Args:
        output (-o): NAME.arpa or NAME.arpa.gz, else a binary model.
        order: Length of the longest n-gram.
        smoothing: A name of `llmanac list smoothing`.
        set_ (-s, FIELD=VALUE): Of the smoothing, e.g. -s k=0.5.
        tokenizer: Count its tokens, not words; --output is a folder.
        skip_symbols: Skip <s>, </s>, <unk> in the text.
        memory: Memory for counting, e.g. 8G [80% of free].
    """
    from llmanac.data.texts import files_of

    source = files_of(text, column=column, include=include or ())
    check_free(output, "--output", force, folder=tokenizer is not None, inputs=text)
    from llmanac.core.spec import make_method, parse_patches
    from llmanac.models.ngrams.counts import check_order

    check_order(order, "--order")
    spec = make_method("smoothing", {"name": smoothing, **parse_patches(set_ or ())}, "--smoothing")
    limit = None if memory is None else read_size(memory, thousand=1024)
    if tokenizer is not None:
        from llmanac.models.ngrams.tokens import train_tokens

        counted, known = train_tokens(source, order, spec, tokenizer, memory=limit)
        counted.save_pretrained(output)
        known.save(output)
        _describe(counted.trie, f"{order}-gram of tokens, {spec.name}")
        where = shlex.quote(str(output))
        print(f"wrote {output}")
        print(f"Next: llmanac generate {where} --prompt 'The' --temperature 1, or llmanac score {where}")
        return {"model": output, "order": order, "ngrams": counted.trie.counts}
    from llmanac.models.ngrams import words
    from llmanac.models.ngrams.load import save

    model = words.train(source, order, spec.build(), skip_symbols=skip_symbols, memory=limit)
    save(model, output)
    _describe(model.trie, f"{order}-gram of words, {smoothing}")
    print(f"wrote {output} ({output.stat().st_size / 1e6:,.1f} MB)")
    print(f"Next: llmanac ngram score {shlex.quote(str(output))} OTHER.txt   (text that it was not trained on)")
    return {"model": output, "order": order, "ngrams": model.trie.counts}


@app.command("score")
def score_command(
    model: Model, text: Text, sentences: bool = False, column: Column = "text", include: Include = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Perplexity of text, with and without out-of-vocabulary words.

    Args:
        sentences: Also print log10 p of every line.
    """
    from llmanac.core.progress import progress
    from llmanac.data.texts import files_of
    from llmanac.models.ngrams.load import load
    from llmanac.models.ngrams.words import read_blocks

    source = files_of(text, column=column, include=include or ())
    loaded = load(model)
    lines: list[np.ndarray] = []
    with progress("score", None, "MB") as bar:  # once: standard input cannot be read again
        found = loaded.score(read_blocks(source, bar), each=lines.append if sentences else None)
    if not found.tokens:
        raise DataError(f"{', '.join(text)}: no text to score")
    if not math.isfinite(found.total):
        raise DataError(f"{model}: is damaged (a probability is not a number); convert or train it again")
    for part in lines:
        for value in part.tolist():
            print(f"{value:.6f}")
    if loaded.trie.about.get("smoothing") == "mle":
        print(ZEROS, file=sys.stderr)
    if as_json:
        print(json.dumps(_as_json(found)))
        return
    _print_score(found, str(model), loaded.trie.without_backoff)
    print(f"Next: echo 'the first words' | llmanac ngram query {shlex.quote(str(model))}")


@app.command("query")
def query_command(model: Model, text: str | None = None) -> None:
    """Each word with its id, the length of the n-gram it was found as, and log10 p.

    Args:
        text: Sentences [standard input].
    """
    from llmanac.models.ngrams.load import load

    loaded = load(model)
    if loaded.trie.without_backoff and loaded.trie.order > 1:
        print(NO_BACKOFF, file=sys.stderr)
    data = text.encode("utf-8", "surrogateescape") if text is not None else sys.stdin.buffer.read()
    for line in data.removesuffix(b"\n").split(b"\n"):
        for ids, _, scores, matched in loaded.scored(line + b"\n"):
            words = [*line_words(line), "</s>"]
            shown = zip(words, ids[1:], scores[1:], matched[1:], strict=True)
            print("\t".join(f"{w}={i} {m} {s:.6g}" for w, i, s, m in shown), end="\t")
            unknown = int((ids[1:] == loaded.unk).sum())
            print(f"Total: {float(scores[1:].sum()):.6g} OOV: {unknown}")


@app.command("convert")
def convert_command(source: Model, target: Path, force: Force = False) -> None:
    """Convert ARPA to a binary model that opens at once, or back; checks every value of a binary source.

    Args:
        target: NAME.arpa or NAME.arpa.gz, else a binary model.
    """
    from llmanac.models.ngrams.load import load, save

    check_free(target, "the target", force, inputs=[source])
    model = load(source, full=True)
    save(model, target)
    _describe(model.trie, f"{model.trie.order}-gram")
    print(f"wrote {target} ({target.stat().st_size / 1e6:,.1f} MB)")
    print(f"Next: echo 'the first words' | llmanac ngram query {target}")


def check_free(place: Path, what: str, force: bool, *, folder: bool = False, inputs: Iterable[str | Path] = ()) -> None:
    """Refuse to overwrite a file, and paths that cannot be written. Raises SpecError that names the path.

    Args:
        folder: whether a folder is written, not a file.
        inputs: files that the command reads, which are never overwritten.
    """
    check_apart([place], what, inputs)
    if not folder and (place.is_dir() or not has_name(place)):
        raise SpecError(f"{what}: {place} is a folder; name a file in it, for example {place / 'model.ngram'}")
    if not force and (any(place.iterdir()) if place.is_dir() else place.exists()):
        raise SpecError(f"{what}: {place} is there already; name another place, or overwrite it with --force")


def line_words(line: bytes) -> list[str]:
    """The words of a line, for display."""
    return [w.decode("utf-8", "backslashreplace") for w in re.split(rb"[\0\t\n\v\f\r ]+", line) if w]


def _as_json(found: NgramScore) -> dict[str, Any]:
    def finite(value: float) -> float | None:
        return value if value < float("inf") else None  # NaN: None too

    return {
        "sentences": found.sentences,
        "tokens": found.tokens,
        "oov": found.unknown,
        "log10_probability": found.total,
        "perplexity_including_oov": finite(found.perplexity),
        "perplexity_excluding_oov": finite(found.perplexity_of_known),
        "found_as": list(found.matched[1:]),
        "not_found": found.matched[0],
    }


def found_rows(found: NgramScore, without_backoff: bool) -> list[tuple[str, str]]:
    """The fraction of tokens for each length of the n-gram that gave them their probability; they add up to 1.

    Without back-off a token that was not seen after its full context has length 0; shorter n-grams only begin
    sentences, and single words are used only in a model of order 1.
    """
    tokens = max(1, found.tokens)
    rows = [(f"found as {k}-gram", f"{n / tokens:.1%}") for k, n in enumerate(found.matched) if k]
    if not without_backoff or len(rows) == 1:
        return rows
    return [("not seen after its context", f"{found.matched[0] / tokens:.1%}"), *rows[1:]]


def _print_score(found: NgramScore, title: str, without_backoff: bool) -> None:
    from llmanac.cli.tables import console, make_table

    rows = [
        ("Perplexity including OOVs", f"{found.perplexity:.10g}"),
        ("Perplexity excluding OOVs", f"{found.perplexity_of_known:.10g}"),
        ("OOVs", f"{found.unknown:,}"),
        ("Tokens", f"{found.tokens:,}"),
        ("Sentences", f"{found.sentences:,}"),
        *found_rows(found, without_backoff),
    ]
    print(title)
    table = make_table("", ["", ""], rows)
    table.show_header = False
    console().print(table)


def _describe(trie: Any, title: str) -> None:
    from llmanac.cli.tables import print_table

    discounts = trie.about.get("discounts") or []
    rows = []
    for k, n in enumerate(trie.counts):
        cells = [" ".join(f"{d:.6g}" for d in discounts[k])] if k < len(discounts) else []
        rows.append((str(k + 1), f"{n:,}", *cells))
    print(title)
    print_table("", ["order", "n-grams", *(["discounts"] if discounts else [])], rows, left=())
    print(f"{trie.parameters:,} numbers, {trie.nbytes / 1e6:,.1f} MB in memory")
