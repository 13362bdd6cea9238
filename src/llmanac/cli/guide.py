"""`llmanac guide`: the almanac as a web app on this machine, or as a folder of pages; `llmanac question`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmanac.cli.options import AsJson, Seed, group
from llmanac.core.errors import SpecError, nearest

if TYPE_CHECKING:
    from llmanac.guide.question import InterviewQuestion

Kept = Annotated[Path | None, typer.Option("--progress", help="File of reviews [the user's data folder].")]
question_app = group("Interview questions: 30-second and 2-minute answers, what follows, and a rubric.")


def guide_command(
    export: Path | None = None, port: int = 8090, model: str = "", grader: str = "", progress: Kept = None
) -> None:
    """Open the guide: a page for every method with its code, test and evidence, questions and exercises.

    Args:
        export: Write all pages into this new folder instead.
        port (0 to 65535): 0 takes any free one.
        model: Model of the demos [SmolLM2, the run of make demo].
        grader: Chat model that grades mock interviews [you do]; see `llmanac question grader`.
    """
    from llmanac.guide.progress import ReviewLog

    if export is not None:
        from llmanac.guide.site import Site

        print(f"{export}: {Site().export(export):,} files")
        print(f"Next: open {export / 'index.html'} in a browser")
        return
    from llmanac.guide.app import serve

    kept = ReviewLog(progress)
    kept.reviews()  # a file that is none is refused here, not on a page
    serve(kept, port=port, model=model, grader=grader, report=print)


@question_app.command("list")
def list_command(chapter: str | None = None, checked: bool = False, as_json: AsJson = False) -> None:
    """List the questions.

    Args:
        chapter (argument): Only this chapter.
        checked: Only those with a part that is checked.
    """
    from llmanac.cli.tables import print_table
    from llmanac.guide.question import questions

    known = questions().values()
    chapters = sorted({q.chapter for q in known})
    if chapter is not None and chapter not in chapters:
        raise SpecError(f"chapter: {chapter!r} is not one of {', '.join(chapters)}{nearest(chapter, chapters)}")
    found = [q for q in known if chapter in (None, q.chapter) and (q.check or not checked)]
    if as_json:
        fields = ("name", "chapter", "pattern", "level", "roles", "ask")
        rows = [{field: getattr(q, field) for field in fields} for q in found]
        print(json.dumps(rows, indent=1))
        return
    lines = [(q.name, q.chapter, q.pattern, q.level, q.ask) for q in found]
    print_table("", ("question", "chapter", "pattern", "level", ""), lines, left=(0, 1, 2, 3, 4))
    print(f"Next: llmanac question show {found[0].name}")


@question_app.command("show")
def show_command(name: str, only: bool = False) -> None:
    """Show a question with its answers, what is asked next, the usual wrong answer and the rubric.

    Args:
        name: As `llmanac question list` prints it.
        only (--ask): Show the question alone.
    """
    from llmanac.guide.question import find

    question = find(name)
    print(f"{question.ask}\n")
    if question.check is not None:
        code = f"\n{question.check.code}" if question.check.code else ""
        print(f"To answer (`llmanac question answer {name} ...`): {question.check.ask}{code}\n")
    if only:
        print(f"Next: llmanac question show {name}")
        return
    print(f"In 30 seconds: {question.text('short')}\n\nIn two minutes: {question.text('long').strip()}\n")
    print("What is asked next:")
    print("\n".join(f"- {line}" for line in question.follow_ups))
    print(f"\nA usual wrong answer: {question.wrong}\n{question.text('why')}\n\nRubric:")
    print("\n".join(f"{n}. {line}" for n, line in enumerate(question.rubric, 1)))
    places = "".join(f"; measured: docs/evidence/{place.partition('/')[0]}" for place in question.measured.values())
    print(f"\nSource: {question.source}{places}")
    print(f"Next: llmanac question rate {name} good")


@question_app.command("rate")
def rate_command(name: str, rating: str, progress: Kept = None) -> None:
    """Keep how well a question was answered; it comes back when it is due.

    Args:
        name: The question that was answered.
        rating: again, hard, good or easy.
    """
    from llmanac.guide.progress import RATINGS, ReviewLog
    from llmanac.guide.question import find

    find(name)
    if rating not in RATINGS:
        raise SpecError(f"rating: {rating!r} is not one of {', '.join(RATINGS)}")
    kept = ReviewLog(progress)
    kept.add(f"question/{name}", RATINGS[rating])
    print(f"{name}: again on {kept.due()[f'question/{name}']:%Y-%m-%d %H:%M} UTC")
    print("Next: llmanac question mock")


@question_app.command("answer")
def answer_command(name: str, answer: str) -> None:
    """Check the part of a question that has one right answer. Exit status 1 where it is not right.

    Args:
        name: A question with a part that is checked.
        answer: A number (also 12% or 2/3), a line, a shape such as 2,8, or a form.
    """
    from llmanac.guide.question import find

    question = find(name)
    if question.check is None:
        raise SpecError(f"{name}: has no part that is checked; `llmanac question list --checked` has those that do")
    right, what = question.check.grade(answer, question.figures())
    print(f"{'right' if right else 'not right'}: {what}")
    print(f"Next: llmanac question {'rate ' + name + ' good' if right else 'show ' + name}")
    if not right:
        raise typer.Exit(1)


@question_app.command("grader")
def grader_command(model: str, progress: Kept = None) -> None:
    """Measure how well a chat model grades answers, on answers with known points; the guide uses it from kappa 0.6 on.

    Args:
        model: A folder, a .gguf file or a server's address such as http://127.0.0.1:8000/v1.
    """
    from llmanac.guide.mock import Grader
    from llmanac.guide.progress import ReviewLog

    grader = Grader(model, ReviewLog(progress))
    grader.measure()
    print(grader.note())
    print(f"Next: llmanac guide --grader {model}" if grader.usable else "Next: llmanac question mock --grade")


@question_app.command("mock")
def mock_command(
    count: int = 5, role: str | None = None, level: str | None = None, chapter: str | None = None,
    grade: bool = False, seed: Seed = 0, progress: Kept = None,
) -> None:  # fmt: skip
    """A mock interview: due questions first, then one of each pattern in turn; it ends with what to study.

    Args:
        count (1 to 50): Questions.
        role: research, engineering or applied.
        level: junior, middle or senior.
        chapter: Only this chapter.
        grade: Answer now, grade by the rubric, and see what to study.
    """
    from datetime import UTC, datetime

    from llmanac.guide.mock import Graded, choose, study
    from llmanac.guide.progress import RATINGS, ReviewLog
    from llmanac.guide.question import LEVELS, ROLES, questions

    known = questions()
    chapters = sorted({q.chapter for q in known.values()})
    for option, given, allowed in (("role", role, ROLES), ("level", level, LEVELS), ("chapter", chapter, chapters)):
        if given is not None and given not in allowed:
            raise SpecError(f"--{option}: {given!r} is not one of {', '.join(allowed)}{nearest(given, allowed)}")
    kept, now = ReviewLog(progress), datetime.now(UTC)
    when = {item.partition("/")[2]: at for item, at in kept.due().items() if item.startswith("question/")}
    due = {name for name, at in when.items() if at <= now}
    options = {"count": count, "seed": seed, "role": role, "level": level, "chapter": chapter}
    chosen = choose(list(known.values()), **options, due=due, later=when.keys() - due)  # type: ignore[arg-type]
    if not chosen:
        print("Nothing is due.\nNext: llmanac question list")
        return
    graded = []
    for number, question in enumerate(chosen, 1):
        print(f"{number}. {question.ask}  ({question.name}; {question.level})")
        if grade:
            points = _grade(question)
            graded.append(Graded(question, points))
            kept.add(f"question/{question.name}", RATINGS[graded[-1].rating])
        else:
            print("".join(f"   then: {line}\n" for line in question.follow_ups[:2]), end="")
    rows = study(graded if grade else [Graded(question, frozenset()) for question in chosen])
    if grade:
        total = sum(len(one.points) for one in graded)
        print(f"\n{total} of {sum(len(q.rubric) for q in chosen)} points")
    print("\nTo study:" if rows else "\nNothing was missed.")
    for one in rows:
        print(
            f"- {one.row}"
            + (f"; {one.path}" if one.path else "")
            + (f"; missed: {', '.join(one.missed)}" if grade else "")
        )
        print("".join(f"  llmanac exercise show {name}\n" for name in one.exercises[:2]), end="")
    print(f"Next: llmanac question show {chosen[0].name}")


def _grade(question: InterviewQuestion) -> frozenset[int]:
    """Show what is right once the reader has answered, and ask for the points that the answer had."""
    typer.prompt("   answer aloud, then press Enter", default="", show_default=False)
    print(f"   {question.text('short')}")
    print("".join(f"   {n}. {point}\n" for n, point in enumerate(question.rubric, 1)), end="")
    said = typer.prompt("   points that you had, such as 1 3", default="", show_default=False)
    numbers = {int(word) for word in re.findall(r"\d+", said)}
    return frozenset(n - 1 for n in numbers if 1 <= n <= len(question.rubric))
