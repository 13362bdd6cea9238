"""`llmanac metric ...`: score a file of texts against references, with intervals, and against another system's."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmanac.cli.options import AsJson, Fields, group
from llmanac.core.errors import DataError, shown

if TYPE_CHECKING:
    from llmanac.evaluate.ratings import SegmentRows
    from llmanac.metrics.statistics.corpus import Measured

FEW, LEAST = 20, 10  # segments: p is doubtful, and is not given
app = group("Scores of texts against references: rouge, bleu, chrf, bertscore, exact-match, pass-at-k.")
Hypotheses = Annotated[Path, typer.Argument(help="Lines of text or a table, a row for each text.")]
References = Annotated[list[Path], typer.Argument(help="The references in the same order; several files give several.")]
HypothesisColumn = Annotated[str, typer.Option("--column", help="Column of a table that holds the text.")]
ReferenceColumn = Annotated[
    str, typer.Option("--reference-column", help="Column that holds the reference, or a list of them.")
]
Baseline = Annotated[
    Path | None, typer.Option("--baseline", help="Another system's texts, compared segment by segment.")
]
Test = Annotated[str, typer.Option("--test", help="Test of the difference: randomization or bootstrap.")]


def _read(
    hypotheses: Path, references: Sequence[Path], column: str, other: str, **how: Any
) -> tuple[SegmentRows, list[Any]]:
    from llmanac.evaluate.ratings import read_rows, references_of, texts_of

    mine = read_rows(hypotheses, column, "--column")
    texts_of(mine)
    if not mine.values:
        raise DataError(f"{hypotheses}: holds no text to score")
    return mine, references_of([read_rows(path, other, "--reference-column") for path in references], mine, **how)


def _next(name: str, hypotheses: Path, references: Sequence[Path], column: str, other: str) -> str:
    """Another metric of the same files."""
    kept = [*(["--column", column] if column != "text" else []),
            *(["--reference-column", other] if other != "reference" else [])]  # fmt: skip
    return shlex.join(["llmanac", "metric", name, *map(str, (hypotheses, *references)), *kept])


def _spec(name: str, fields: list[str] | None) -> Any:
    from llmanac.core.spec import make_method, parse_patches, patch

    return patch(make_method("metric", name), parse_patches(fields or ()))


def _report(
    found: dict[str, Measured], as_json: bool, next_command: str, baselines: dict[str, Measured] | None = None,
    test: str = "randomization", **more: Any,
) -> None:  # fmt: skip
    """A row for each score: value, interval, and the difference from the baseline."""
    from llmanac.core.spec import make_method
    from llmanac.metrics.significance import significance

    heads, rows, document = ["metric", "value", "95% interval"], [], []
    if baselines:
        heads += ["baseline", "difference", "p"]
    trials = 1000 if test == "bootstrap" else 10_000
    spec = make_method("metric", {"name": "significance", "test": test, "trials": trials})
    segments = len(next(iter(found.values())).statistics)
    why = f"with fewer than {FEW} segments p is too small: a trial that differs as much does not count against it"
    for name, measured in found.items():
        low, high = measured.interval()
        entry: dict[str, Any] = {"metric": name, "value": measured.value, "low": low, "high": high}
        entry |= {"segments": len(measured.statistics), "signature": measured.signature}
        digits = 2 if max(abs(measured.value), abs(high)) > 1 else 4
        row = [name, f"{measured.value:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"]
        if baselines:
            compared = significance(baselines[name], measured, spec)
            entry |= {
                "baseline": baselines[name].value,
                "difference": compared.difference,
                "p": compared.p if segments >= LEAST else None,
                "test": test,
                **({} if segments >= LEAST else {"no_p": why}),
            }
            row += [f"{baselines[name].value:.{digits}f}", f"{compared.difference:+.{digits}f}"]
            row.append("none" if entry["p"] is None else f"{compared.p:.4f}")
        rows.append(row)
        document.append(entry)
    if as_json:
        print(json.dumps({"scores": document, **more}, ensure_ascii=False))
        return
    from llmanac.cli.tables import print_table

    print_table("", heads, rows)
    for signature in dict.fromkeys(one.signature for one in found.values() if one.signature):
        print(signature)
    print(f"{segments:,} segments; intervals over them, by bootstrap or, for yes and no, Wilson's.")
    if baselines and segments < FEW:
        print(f"{'No p: ' if segments < LEAST else ''}{why}.")
    print(f"Next: {next_command}")


def _surface(name: str, after: str, help: str) -> None:
    """The command of a metric that compares texts with references; `after` is the metric to try next."""

    def command(
        hypotheses: Hypotheses, references: References, column: HypothesisColumn = "text",
        reference_column: ReferenceColumn = "reference", set_: Fields = None, baseline: Baseline = None,
        test: Test = "randomization", as_json: AsJson = False,
    ) -> None:  # fmt: skip
        from llmanac.evaluate.ratings import check_paired, read_rows, texts_of

        mine, golds = _read(hypotheses, references, column, reference_column)
        metric = _spec(name, set_).build()

        def scored(texts: list[str]) -> dict[str, Measured]:
            found = metric(texts, golds)
            return {kind: found.measured(kind) for kind in found.scores} if name == "rouge" else {found.name: found}

        baselines = None
        if baseline is not None:
            theirs = read_rows(baseline, column, "--column")
            check_paired(theirs, mine)
            baselines = scored(texts_of(theirs))
        following = _next(after, hypotheses, references, column, reference_column)
        _report(scored(mine.values), as_json, following, baselines, test)

    command.__doc__ = help
    app.command(name)(command)


_surface(
    "rouge", "bleu", "ROUGE-1, -2, -L and -Lsum, as rouge-score computes them; -s stemmer=porter takes suffixes off."
)
_surface("bleu", "chrf", "BLEU, as sacrebleu computes it, with its signature; -s tokenizer=intl, -s smoothing=floor, "
         "-s case=lower.")  # fmt: skip
_surface("chrf", "bleu", "chrF, as sacrebleu computes it; -s word_order=2 is chrF++.")


@app.command("bertscore")
def bertscore_command(
    hypotheses: Hypotheses, references: References, model: str, layer: int | None = None, weights: str = "uniform",
    column: HypothesisColumn = "text", reference_column: ReferenceColumn = "reference", as_json: AsJson = False,
) -> None:  # fmt: skip
    """BERTScore: how well tokens have counterparts of similar meaning, as bert-score computes it.

    Args:
        model (--model): An encoder: a model's folder or a hub model's name.
        layer: Blocks of the model that are read [all].
        weights: uniform, or idf to weigh rare tokens more.
    """
    from llmanac.core.spec import make_method
    from llmanac.evaluate.embed import Embedder

    mine, golds = _read(hypotheses, references, column, reference_column)
    spec = make_method("metric", {"name": "bertscore", "layer": layer, "weights": weights})
    found = spec.build()(mine.values, golds, Embedder.load(model))
    if found.cut and not as_json:
        print(f"{found.cut:,} texts are longer than the model reads, and were cut.")
    rows = {one.name: one for one in (found.measured(side) for side in ("precision", "recall", "f"))}
    _report(rows, as_json, _next("rouge", hypotheses, references, column, reference_column), cut=found.cut)


@app.command("exact-match")
def exact_match_command(
    hypotheses: Hypotheses, references: References, convention: str = "squad", column: HypothesisColumn = "text",
    reference_column: ReferenceColumn = "reference", as_json: AsJson = False,
) -> None:  # fmt: skip
    """The fraction of answers that equal a reference, under a benchmark's convention.

    Args:
        convention: How answers are found and compared: squad, gsm8k, ...
    """
    from llmanac.metrics.exact_match import exact_matches

    mine, golds = _read(hypotheses, references, column, reference_column, blank=convention == "squad")
    found = exact_matches(mine.values, golds, convention)
    rows = {"exact match": found.matches} | ({"F1": found.f1} if found.f1 else {})
    missing = sum(answer is None for answer in found.answers)
    if missing and not as_json:
        print(f"{missing:,} of {len(golds):,} texts have no answer that {convention} finds; they count as wrong.")
    after = _next("rouge", hypotheses, references, column, reference_column)
    _report(rows, as_json, after, answers_not_found=missing)


@app.command("pass-at-k")
def pass_at_k_command(
    samples: Path, k: list[int] | None = None, problem: str = "task_id", passed: str = "passed",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """The chance that one of k samples passes, without bias, from the results of n samples a problem.

    Args:
        samples: A table with a row for each sample: its problem, and if it passed.
        k (-k, from 1): Samples looked at; repeatable [1].
        problem: Column that names the problem.
        passed: Column that says whether the sample passed.
    """
    from llmanac.evaluate.ratings import read_rows
    from llmanac.metrics.pass_at_k import counts, pass_at_k

    names, results = read_rows(samples, problem, "--problem"), read_rows(samples, passed, "--passed")
    for row, value in enumerate(results.values):
        if not isinstance(value, bool) and value not in (0, 1):
            raise DataError(
                f"{results.place(row)}: column {passed!r} holds {str(value)[:40]!r}, expected true or false"
            )
    kinds: dict[str, type] = {}
    for row, name in enumerate(names.values):
        if isinstance(name, bool) or not isinstance(name, (str, int)):
            raise DataError(f"{names.place(row)}: column {problem!r} holds {shown(name)}, expected a text or a number")
        if kinds.setdefault(str(name), type(name)) is not type(name):
            raise DataError(
                f"{names.place(row)}: column {problem!r} holds {name!r}, which is a text in one row and a number in "
                "another; write it one way"
            )
    if not names.values:
        raise DataError(f"{samples}: holds no sample")
    _, totals, right = counts([(str(name), bool(ok)) for name, ok in zip(names.values, results.values, strict=True)])
    found = {f"pass@{one}": pass_at_k(totals, right, one) for one in k or [1]}
    _report(found, as_json, f"llmanac metric pass-at-k {samples} -k {min(10, int(totals.min()))}", problems=len(totals))
