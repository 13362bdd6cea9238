"""`llmanac rate`: a page on which people compare or score answers, and what their ratings say."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmanac.cli.options import AsJson, Seed, SomeRunner
from llmanac.core.errors import LlmanacError, SpecError

if TYPE_CHECKING:
    from llmanac.evaluate.ratings import Questions, Rating


def rate_command(
    prompts: Path | None = None, models: str = "", answers: str = "", mode: str = "compare",
    out: Path = Path( "ratings" ), column: str = "prompt", answer_column: str = "answer", max_tokens: int = 256,
    chat: bool = False, judge: str | None = None, rubric: Path | None = None, gold: str | None = None,
    rpm: float | None = None, port: int = 0, seed: Seed = 0, report: Path | None = None, dtype: str | None = None,
    runner: SomeRunner = "auto", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Let people compare or score answers of models, blind; write preferences for `llmanac align`.

    Args:
        prompts (argument): Lines of text, or a table with a prompt a row.
        models: Models that answer, with commas between: folders, .gguf, http://.
        answers: Files of answers that are there already, with commas between.
        mode: compare (two answers side by side) or score (1 to 5).
        out (-o, --output): Folder of questions, ratings, preferences.
        column: Column of the prompt in a table.
        answer_column: Column of the answer in tables of --answers.
        max_tokens (from 1): Longest answer of a model.
        chat: Send prompts through the models' chat templates.
        judge (MODEL): A chat model or server rates in place of people: comparisons in both orders.
        rubric (FILE): What the judge is asked about the answers, in place of a general question.
        gold: Column of the prompts' table with the better answer (name, number from 0 or tie), or the score.
        rpm (0.001 to 1e6): Requests a minute to a server, at most.
        port (0 to 65535): Port on 127.0.0.1 [any free one].
        report: Only say what a file of ratings says.
        dtype: float32, float64 or bfloat16 [float32].
    """
    from llmanac.core.files import read_text
    from llmanac.core.lock import locked
    from llmanac.evaluate import judging
    from llmanac.evaluate.answering import load_answerer
    from llmanac.evaluate.preferences import PREFERENCES, write_preferences
    from llmanac.evaluate.ratings import RATINGS, Questions, RatingStore, read_ratings
    from llmanac.evaluate.ratings import report as reported

    if report is not None:
        file = report / RATINGS if report.is_dir() else report
        folder, ratings = file.parent, read_ratings(file)
        counts: dict[str, Any] = {}
        if (folder / "questions.jsonl").exists() and file.name == RATINGS:
            asked = Questions.load(folder)
            with contextlib.suppress(LlmanacError), locked(folder / ".lock", busy="the page itself writes them"):
                write_preferences(folder, asked, read_ratings(file))
            counts = {"preferences": _preferences(folder, asked, ratings)} | judging.more(folder, asked, ratings)
        _show(reported(ratings) | counts, as_json)
        place = folder / PREFERENCES
        if not as_json and place.is_file() and place.stat().st_size:
            print(f"Next: llmanac align MODEL {shlex.quote(str(place))} --method dpo")
        return
    if prompts is None:
        raise SpecError("PROMPTS: name a file of prompts, or ratings to report on with --report")
    if mode not in ("compare", "score"):
        raise SpecError(f"--mode {mode}: is not compare or score")
    from llmanac.evaluate.ratings import read_rows, texts_of

    texts = texts_of(read_rows(prompts, column, "--column"))
    names = {flag: [part.strip() for part in given.split(",") if part.strip()]
             for flag, given in (("--models", models), ("--answers", answers))}  # fmt: skip
    both = [*names["--models"], *names["--answers"]]
    if len(set(both)) < len(both):
        raise SpecError("--models, --answers: name each model or file once")
    if out.is_dir() and any(path.name[0] != "." for path in out.iterdir()) and not (out / "questions.jsonl").exists():
        raise SpecError(f"-o: {out} holds something else than ratings; name another folder")
    with locked(out / ".lock", busy=f"{out}: another `llmanac rate` uses it; end that one, or name another with -o"):
        kept = Questions.load(out) if (out / "questions.jsonl").exists() else None
        if kept is not None and kept.prompts == texts and list(kept.answers) == both:
            questions = kept  # goes on; nothing is generated again
        else:
            found = _answers(texts, names["--models"], names["--answers"], answer_column, max_tokens, chat,
                             {"dtype": dtype, "runner": runner, "rpm": rpm})  # fmt: skip
            questions = Questions(texts, found)
            questions.tasks(mode)  # type: ignore[arg-type]
            questions.save(out)
        store = RatingStore(out, questions, mode, seed)  # type: ignore[arg-type]
        if gold is not None:
            judging.write_gold(out, questions, read_rows(prompts, gold, "--gold").values)
        if judge is None:
            from llmanac.web.rate import serve_ratings

            serve_ratings(store, port=port)
        else:
            model = load_answerer(judge, dtype=dtype, runner=runner, rpm=rpm)
            judging.judge(model, store, "" if rubric is None else read_text(rubric))
        paths = [] if judge is None else judging.write_scores(out, questions, store.ratings)
        if store.ratings:
            said = {
                "preferences": _preferences(out, questions, store.ratings),
                **judging.more(out, questions, store.ratings),
            }
            _show(reported(store.ratings) | said, as_json)
    if judge is not None and not as_json and len(questions.answers) > 1:
        print(f"Next: {shlex.join(['llmanac', 'verdict', *map(str, paths)])}   (item by item)")
    elif not as_json:
        print(f"Next: llmanac rate --report {shlex.quote(str(out))}")


def _preferences(folder: Path, questions: Questions, ratings: list[Rating]) -> dict[str, int]:
    """How many preferences the file holds, and how many pairs are none since an answer is blank."""
    from llmanac.evaluate.preferences import preferences, written

    return {"rows": written(folder), "blank": preferences(questions, ratings)[1]}


def _answers(
    texts: list[str], models: list[str], given: list[str], column: str, length: int, chat: bool, how: dict[str, Any]
) -> dict[str, list[str]]:
    from llmanac.core.progress import progress
    from llmanac.evaluate.answering import chat_note, load_answerer
    from llmanac.evaluate.ratings import read_answers

    out: dict[str, list[str]] = {}
    for path in models:
        model = load_answerer(path, **how)
        if note := chat_note(model, chat):
            print(note, file=sys.stderr)
        out[path] = []
        with progress(f"answers of {path}", total=len(texts), unit="answers") as bar:
            for start in range(0, len(texts), 32):
                out[path] += model.generate(texts[start : start + 32], [], length, chat)
                bar.advance(len(texts[start : start + 32]))
    return out | {path: read_answers(Path(path), texts, column) for path in given}


def _between(one: dict[str, Any]) -> str:
    return "" if one["low"] is None else f"{one['low']:.3f} to {one['high']:.3f}"


def _show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    from llmanac.cli.tables import print_table

    if rates := found.get("win_rates"):
        rows = [
            [one["model"], one["other"], f"{one['value']:.3f}", _between(one),
             f"{one['wins']} / {one['ties']} / {one['losses']}",
             "" if one["settled"] else "no number would" if one["more"] is None else f"about {one['more']:,}"]
            for one in rates
        ]  # fmt: skip
        heads = ["model", "against", "win rate", "95% interval", "wins / ties / losses", "more questions"]
        print_table("", heads, rows, left=(0, 1))
    if scores := found.get("scores"):
        rows = [[one["model"], f"{one['value']:.3f}", _between(one), f"{one['questions']:,}"] for one in scores]
        print_table("", ["model", "mean score", "95% interval", "questions"], rows)
    ranking = found.get("bradley_terry")
    if isinstance(ranking, list):
        rows = [[one["model"], f"{one['rating']:.0f}", f"{one['low']:.0f} to {one['high']:.0f}"] for one in ranking]
        print_table("Bradley-Terry", ["model", "rating", "95% interval"], rows)
    elif ranking:
        print(f"Bradley-Terry ratings: {ranking['not_measured']}")
    agreement = found["agreement"]
    raters = f"{found['ratings']:,} ratings of {found['questions']:,} questions by {', '.join(found['raters'])}"
    kappa = agreement.get("kappa")
    value = "undefined" if kappa is None else f"{kappa:.3f}"
    said = agreement.get("not_measured") or f"{agreement['name']} {value} on {agreement['tasks']:,} ratings"
    print(f"{raters}; agreement: {said}.")
    for one in found.get("gold", ()):
        value = "undefined" if one.get("kappa") is None else f"{one['kappa']:.3f} ({_between(one)})"
        said = one.get("not_measured") or f"{one['name']} {value}, alike in {one['all_alike']:.0%} of {one['tasks']:,}"
        print(f"{one['rater']} and the known labels: {said}.")
    for one in found.get("judges", ()):
        shares = {"both orders agree": one.get("orders_agree"), "the first is preferred": one.get("first_preferred")}
        said = [f"{name} {share['value']:.0%} ({_between(share)})" for name, share in shares.items() if share]
        said.append(f"{one['unreadable']:,} of {one['asked']:,} answers unreadable")
        print(f"{one['judge']}: {', '.join(said)}.")
        if (share := one.get("first_preferred")) and not share["low"] <= 0.5 <= share["high"]:
            place = "first" if share["low"] > 0.5 else "second"
            print(f"{one['judge']} prefers what is shown {place}: only what both orders agree on counts.")
    if length := found.get("length"):
        share, bias = length["longer_preferred"], length["coefficient"]
        more = f"; coefficient of log length {bias['value']:.2f} ({_between(bias)})" if bias else ""
        print(f"The longer answer was preferred {share['value']:.0%} ({_between(share)}) of {length['pairs']:,}{more}.")
    if left := found.get("left"):
        print(f"The left answer was preferred {left['value']:.0%} of the time ({_between(left)}).")
    if kept := found.get("preferences"):
        left_out = f"; {kept['blank']:,} pairs left out, since an answer is blank" if kept["blank"] else ""
        print(f"preferences.jsonl: {kept['rows']:,} rows{left_out}.")
