"""`llmanac guide`: the almanac as a web app on this machine, or as a folder of pages; `llmanac question`."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Annotated

import typer

from llmanac.cli.options import AsJson, Seed, group
from llmanac.core.errors import SpecError

Kept = Annotated[Path | None, typer.Option("--progress", help="File of reviews [the user's data folder].")]
question_app = group("Interview questions: 30-second and 2-minute answers, what follows, and a rubric.")


def guide_command(
    export: Annotated[Path | None, typer.Option(help="Write all pages into this new folder instead.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8090,
    model: Annotated[str, typer.Option(help="Model of the demos [SmolLM2, the run of make demo].")] = "",
    progress: Kept = None,
) -> None:
    """Open the guide: a page for every method with its code, test and evidence, questions and exercises."""
    from llmanac.guide.progress import Progress

    if export is not None:
        from llmanac.guide.site import Site

        print(f"{export}: {Site().export(export):,} files")
        print(f"Next: open {export / 'index.html'} in a browser")
        return
    from llmanac.guide.app import serve

    serve(Progress(progress), port=port, model=model, report=print)


@question_app.command("list")
def list_command(
    chapter: Annotated[str | None, typer.Argument(help="Only this chapter.")] = None, as_json: AsJson = False
) -> None:
    """List the questions."""
    from llmanac.cli.tables import print_table
    from llmanac.core.errors import nearest
    from llmanac.guide.question import questions

    known = questions().values()
    chapters = sorted({q.chapter for q in known})
    if chapter is not None and chapter not in chapters:
        raise SpecError(f"chapter: {chapter!r} is not one of {', '.join(chapters)}{nearest(chapter, chapters)}")
    found = [q for q in known if chapter in (None, q.chapter)]
    if as_json:
        rows = [{"name": q.name, "chapter": q.chapter, "pattern": q.pattern, "ask": q.ask} for q in found]
        print(json.dumps(rows, indent=1))
        return
    lines = [(q.name, q.chapter, q.pattern, q.ask) for q in found]
    print_table("", ("question", "chapter", "pattern", ""), lines, left=(0, 1, 2, 3))
    print(f"Next: llmanac question show {found[0].name}")


@question_app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(help="As `llmanac question list` prints it.")],
    only: Annotated[bool, typer.Option("--ask", help="Show the question alone.")] = False,
) -> None:
    """Show a question with its answers, what is asked next, the usual wrong answer and the rubric."""
    from llmanac.guide.question import find

    question = find(name)
    print(f"{question.ask}\n")
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
def rate_command(
    name: Annotated[str, typer.Argument(help="The question that was answered.")],
    rating: Annotated[str, typer.Argument(help="again, hard, good or easy.")],
    progress: Kept = None,
) -> None:
    """Keep how well a question was answered; it comes back when it is due."""
    from llmanac.guide.progress import RATINGS, Progress
    from llmanac.guide.question import find

    find(name)
    if rating not in RATINGS:
        raise SpecError(f"rating: {rating!r} is not one of {', '.join(RATINGS)}")
    kept = Progress(progress)
    kept.add(f"question/{name}", RATINGS[rating])
    print(f"{name}: again on {kept.due()[f'question/{name}']:%Y-%m-%d %H:%M} UTC")
    print("Next: llmanac question mock")


@question_app.command("mock")
def mock_command(
    count: Annotated[int, typer.Option(min=1, max=50, help="Questions.")] = 5,
    seed: Seed = 0,
    progress: Kept = None,
) -> None:
    """Choose questions for a mock interview: due ones first, then one of each pattern in turn."""
    from datetime import UTC, datetime

    from llmanac.guide.progress import Progress
    from llmanac.guide.question import PATTERNS, questions

    due, now = Progress(progress).due(), datetime.now(UTC)
    known = list(questions().values())
    random.Random(seed).shuffle(known)
    ready = [q for q in known if (at := due.get(f"question/{q.name}")) is not None and at <= now]
    new = {p: [q for q in known if q.pattern == p and f"question/{q.name}" not in due] for p in PATTERNS}
    chosen = ready[:count]
    while len(chosen) < count and any(new.values()):
        chosen += [new[p].pop() for p in PATTERNS if new[p]][: count - len(chosen)]
    for number, question in enumerate(chosen, 1):
        print(f"{number}. {question.ask}  ({question.name})")
        print("".join(f"   then: {line}\n" for line in question.follow_ups[:2]), end="")
    if chosen:
        print(f"Next: llmanac question show {chosen[0].name}")
    else:
        print("Nothing is due.\nNext: llmanac question list")
