"""`llmanac reason`: answers to questions with more compute: answers, their cost in tokens, accuracy over samples."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmanac.cli.options import Fields, Seed, SomeModel, SomeRunner
from llmanac.core.errors import SpecError

if TYPE_CHECKING:
    from llmanac.recipes.reasoning import Answered

UTILITIES = ("exact-match", "bleu", "rouge", "bertscore")
Verifier = Annotated[
    str | None,
    typer.Option(
        metavar="REWARD|UTILITY",
        help="A reward: exact-match, code-tests, a reward model's folder, FILE.py:function; for mbr exact-match, bleu, "
        "rouge or bertscore=ENCODER.",
    ),
]
Convention = Annotated[
    str | None,
    typer.Option(
        help="How answers are found in texts: gsm8k, math, choice, squad, ... [the file's right answers decide; else "
        "gsm8k-flexible, the last number]."
    ),
]


def reason_command(
    model: SomeModel, question: str, method: str = "voting", n: int | None = None, verifier: Verifier = None,
    convention: Convention = None, tokens: int | None = None, temperature: float | None = None,
    column: str = "question", answer: str = "answer", template: str = "{question}", plain: bool = False,
    output: Path | None = None, curve: Path | None = None, set_: Fields = None, seed: Seed = 0,
    runner: SomeRunner = "auto",
) -> Any:  # fmt: skip
    """Answer questions with more compute: best-of-n, voting, mbr, tree-search, mcts, long-cot.

    Args:
        question (QUESTION|FILE): A question, or a .jsonl/.parquet file.
        method (-m): `llmanac list reason` names them.
        n (-n, --n, from 1): Samples of a question [the method's].
        tokens (from 1): Longest answer, or thought of long-cot [256].
        temperature (from 0.0): Of the samples [0.7].
        column: Of the question in a file.
        answer: Of the right answer in a file.
        template: The prompt of a question.
        plain: Do not use the model's chat template.
        output (-o): A .jsonl file: a row a question.
        curve: An .svg file: accuracy over the number of samples.
    """
    from llmanac.core.outputs import check_output
    from llmanac.core.spec import make_method, parse_patches, patch
    from llmanac.generate.load import load_writer
    from llmanac.reason import Question
    from llmanac.recipes.reasoning import answered, convention_of, read_questions
    from llmanac.rewards import read_rewards

    fields: dict[str, Any] = {"name": method, "n": n, "tokens": tokens, "temperature": temperature}
    spec: Any = make_method("reason", {k: v for k, v in {**fields, "convention": convention}.items() if v is not None})
    changes = parse_patches(set_ or ())
    spec = patch(spec, {**_utility(spec.name, verifier), **changes})
    if not question.strip():
        raise SpecError("QUESTION: is empty; give a question, or a .jsonl or .parquet file")
    if "{question}" not in template:
        raise SpecError(f"--template: {template!r} has no {{question}}")
    for place, flag, suffix in ((output, "--output", ".jsonl"), (curve, "--curve", ".svg")):
        if place is not None and place.suffix != suffix:
            raise SpecError(f"{flag}: {place} must end in {suffix}")
        if place is not None:
            check_output(place, flag, [question] if Path(question).is_file() else [], force=True)
    verifies: Any = None
    if verifier is not None and spec.name != "mbr":
        verifies = make_method("reward", read_rewards([verifier]))
    engine = load_writer(model, runner=runner)
    chat = not plain and engine.chat_template is not None
    file = Path(question).suffix in (".jsonl", ".parquet", ".json", ".csv")
    if file:
        asked = read_questions(engine, Path(question), column=column, template=template, chat=chat)
    else:
        asked = [Question.of(engine, template.replace("{question}", question), chat=chat)]
    longest, limit = max(len(one.ids) for one in asked), engine.model.max_length
    if tokens is not None and limit is not None and longest + tokens > limit:
        raise SpecError(
            f"--tokens: the longest question and {tokens:,} tokens make {longest + tokens:,}, and the model reads "
            f"{limit:,} at most"
        )
    if convention is None and "convention" not in changes:
        spec = patch(spec, {"convention": convention_of([question.row.get(answer) for question in asked])})
    if verifier == "exact-match" and verifies is not None:
        verifies = patch(verifies, {"convention": spec.convention, "column": answer})
    built = spec.build(engine=engine, reward=None if verifies is None else verifies.build())
    found = list(answered(built, asked, convention=spec.convention, column=answer, seed=seed))
    _print(found, file, spec.convention)
    if output is not None:
        _write(output, found)
    points = _curve(found, seed)
    if curve is not None:
        _draw(curve, points, method)
    if method != "voting":
        other, judge = "voting", verifier if method != "mbr" or verifier == "exact-match" else None
    else:
        other, judge = ("mbr" if verifier in (None, *UTILITIES) else "best-of-n"), verifier
    kept = {"-n": n, "--verifier": judge, "--convention": convention, "--tokens": tokens, "--temperature": temperature,
            "--column": column if column != "question" else None, "--answer": answer if answer != "answer" else None,
            "--template": template if template != "{question}" else None}  # fmt: skip
    more = [part for flag, value in kept.items() if value is not None for part in (flag, str(value))]
    command = shlex.join([model, question, "--method", other, *more, *(["--plain"] if plain else [])])
    print(f"Next: llmanac reason {command}   (the same questions, another way)")
    return {"convention": spec.convention, "questions": [one.as_json() for one in found], "curve": points}


def _utility(name: str, verifier: str | None) -> dict[str, Any]:
    """`--verifier` of mbr as its fields."""
    if name != "mbr" or verifier is None:
        return {}
    utility, _, encoder = verifier.partition("=")
    if utility not in UTILITIES:
        raise SpecError(f"--verifier: mbr needs a utility: {', '.join(UTILITIES)}; got {verifier!r}")
    return {"utility": utility, **({"encoder": encoder} if encoder else {})}


def _print(found: list[Answered], file: bool, convention: str) -> None:
    from llmanac.cli.tables import print_table
    from llmanac.metrics import wilson_interval

    if not file:
        print(found[0].found.text.strip())
    rows = []
    for number, one in enumerate(found[:20], 1):
        own, cost = one.found, one.found.cost
        mark = "" if one.right is None else "right" if one.right[own.chosen] else "wrong"
        tied = f"tied with {len(own.tied) - 1}" if own.tied else ""
        score = f"{own.candidates[own.chosen].score:.4g}"
        counts = (f"{cost.prompt:,}", f"{cost.sampled:,}", f"{cost.verifier:,}")
        rows.append(
            (str(number), shorten(own.answer or "(none)", 60), score, f"{len(own.candidates)}", *counts, mark or tied)
        )
    heads = ("question", "answer", "score", "candidates", "prompt tokens", "sampled", "verifier", "")
    print_table("", heads, rows, left=(1, 7))
    if len(found) > len(rows):
        print(f"... and {len(found) - len(rows)} more; -o FILE.jsonl keeps all of them")
    total = sum(one.found.cost.total for one in found)
    marked = [one.right[one.found.chosen] for one in found if one.right is not None]
    right = f", {sum(marked)} of {len(marked)} right" if marked else ""
    if len(marked) > 1:
        right += " (95% interval {:.1%} to {:.1%})".format(*wilson_interval(sum(marked), len(marked))[1:])
    count = f"{len(found)} {'question' if len(found) == 1 else 'questions'}"
    print(f"{count}, {total:,} tokens{right}; answers found and compared by {convention}")
    texts = [candidate.answer for one in found for candidate in one.found.candidates]
    if missing := texts.count(None):
        many = f"{missing:,} of {len(texts):,} texts"
        print(f"note: no answer found in {many} by {convention}; set --convention, or longer answers with --tokens")


def _write(path: Path, found: list[Answered]) -> None:
    from llmanac.core import files

    with files.atomic_file(path) as handle:
        for one in found:
            handle.write((json.dumps(one.as_json(), ensure_ascii=False) + "\n").encode())


def _curve(found: list[Answered], seed: int) -> list[Any]:
    """Print accuracy over the number of samples, where the rows have answers and the method has a curve."""
    from llmanac.cli.tables import print_table
    from llmanac.recipes.reasoning import curve

    known = [one for one in found if one.right is not None and one.found.support is not None]
    if not known or len(known[0].found.candidates) == 1:
        return []
    points = curve([one.found for one in known], [one.right or [] for one in known], seed=seed)
    rows = [
        (str(p.k), f"{p.accuracy:.1%}", "" if p.interval is None else f"{p.interval[0]:.1%} to {p.interval[1]:.1%}",
         f"{p.tokens:,.0f}")
        for p in points
    ]  # fmt: skip
    print_table("accuracy over samples", ("samples", "right", "95% interval", "tokens a question"), rows, left=())
    return points


def _draw(path: Path, points: list[Any], method: str) -> None:
    from llmanac.core import files
    from llmanac.core.pages import Line, line_chart

    if not points:
        raise SpecError("--curve: needs right answers (--answer names their column) and one of best-of-n, voting, mbr")
    line = Line(method, [(p.k, p.accuracy) for p in points], [p.interval or (p.accuracy,) * 2 for p in points])
    files.write_text(path, line_chart([line], "samples", "accuracy", f"{method}: accuracy over samples").svg)
    print(f"{path}: the curve")
