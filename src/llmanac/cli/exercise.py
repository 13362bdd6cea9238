"""`llmanac exercise`: tasks to write oneself, checked by hidden tests in the sandbox, and when to repeat them."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from llmanac.cli.options import AsJson, Force, group
from llmanac.core.errors import SpecError
from llmanac.core.outputs import check_output

app = group("Write it yourself: tasks with hidden tests that run in the sandbox, and when to repeat them.")
Name = Annotated[str, typer.Argument(help="As `llmanac exercise list` prints it.")]
Kept = Annotated[Path | None, typer.Option("--progress", help="File of reviews [the user's data folder].")]


@app.command("list")
def list_command(chapter: str | None = None, progress: Kept = None, as_json: AsJson = False) -> None:
    """List the exercises: due ones first, then those that were never tried.

    Args:
        chapter (argument): Only this chapter.
    """
    from llmanac.cli.tables import print_table
    from llmanac.core.errors import nearest
    from llmanac.guide.exercise import exercises
    from llmanac.guide.progress import ReviewLog

    known, due = exercises(), ReviewLog(progress).due()
    chapters = sorted({e.chapter for e in known.values()})
    if chapter is not None and chapter not in chapters:
        raise SpecError(f"chapter: {chapter!r} is not one of {', '.join(chapters)}{nearest(chapter, chapters)}")
    shown = [e for e in known.values() if chapter in (None, e.chapter)]
    now = datetime.now(UTC)

    def order(name: str) -> tuple[int, float]:
        at = due.get(f"exercise/{name}")
        return (1, 0.0) if at is None else (0 if at <= now else 2, at.timestamp())

    shown.sort(key=lambda e: (*order(e.name), e.chapter, e.minutes))
    if as_json:
        when = {e.name: due.get(f"exercise/{e.name}") for e in shown}
        document = [{"name": e.name, "title": e.title, "chapter": e.chapter, "minutes": e.minutes} for e in shown]
        for row in document:
            at = when[str(row["name"])]
            row["due"] = "" if at is None else at.isoformat()
        print(json.dumps(document, indent=1))
        return
    rows = [(e.name, e.chapter, e.title, f"{e.minutes}", _when(due.get(f"exercise/{e.name}"), now)) for e in shown]
    print_table("", ("exercise", "chapter", "", "minutes", "due"), rows, left=(0, 1, 2))
    print(f"Next: llmanac exercise show {shown[0].name}")


def _when(at: datetime | None, now: datetime) -> str:
    return "new" if at is None else "now" if at <= now else f"{at:%Y-%m-%d}"


@app.command("show")
def show_command(
    name: Name, output: Path | None = None, hints: int = 0, solution: bool = False, force: Force = False,
) -> None:  # fmt: skip
    """Show a task with its scaffold; hints and the solution when they are asked for.

    Args:
        output (-o): Write the scaffold into this file.
        hints (0 to 9): Show this many hints.
        solution: Show the reference solution.
    """
    from llmanac.core import files
    from llmanac.guide.exercise import find

    exercise = find(name)
    if output is not None:
        check_output(output, "--output", force=force)
    print(f"{exercise.title} ({exercise.chapter}, about {exercise.minutes} minutes)\n\n{exercise.task}\n")
    print("Lists and `math`; no numpy.\n")
    print(exercise.scaffold.strip())
    for number, hint in enumerate(exercise.hints[:hints], 1):
        print(f"\nhint {number} of {len(exercise.hints)}: {hint}")
    if solution:
        print(f"\n{exercise.solution.strip()}\n\nA common mistake: {exercise.why}")
    if output is not None:
        files.write_text(output, exercise.scaffold.lstrip())
    print(f"\nNext: llmanac exercise check {name} {output or f'{exercise.function}.py'}")


@app.command("check")
def check_command(name: Name, file: Path, progress: Kept = None) -> None:
    """Run the hidden tests on an answer. Exit status 1 where it is not right.

    Args:
        file: A Python file that defines the function.
    """
    from llmanac.guide.exercise import check, exercises, find, read_answer
    from llmanac.guide.progress import RATINGS, ReviewLog

    exercise = find(name)
    verdict = check(exercise, read_answer(file))
    kept = ReviewLog(progress)
    kept.add(f"exercise/{name}", RATINGS["good" if verdict.passed else "again"])
    print(f"{'passed' if verdict.passed else 'not right'}: {verdict.right} of {verdict.cases} cases")
    if verdict.message:
        print(verdict.message)
    if not verdict.passed:
        print(f"Next: llmanac exercise show {name} --hints 1")
        raise typer.Exit(1)
    print(f"again on {kept.due()[f'exercise/{name}']:%Y-%m-%d %H:%M} UTC")
    done = kept.due()
    following = next((n for n in exercises() if f"exercise/{n}" not in done), name)
    print(f"Next: llmanac exercise show {following}")


@app.command("progress")
def progress_command(
    write: Path | None = None, read: Path | None = None, progress: Kept = None, force: Force = False,
) -> Any:  # fmt: skip
    """What was practiced; export it, or import what another machine exported.

    Args:
        write (--export): Write all reviews into this JSON file.
        read (--import): Add the reviews of such a file.
    """
    from llmanac.cli.tables import print_table
    from llmanac.guide.progress import ReviewLog

    kept = ReviewLog(progress)
    if write is not None:
        check_output(write, "--export", force=force)
    if read is not None:
        print(f"{read}: {kept.read(read)} new reviews")
    if write is not None:
        print(f"{write}: {kept.export(write)} reviews")
    now, due, counts = datetime.now(UTC), kept.due(), dict[str, int]()
    for review in kept.reviews():
        counts[review.item] = counts.get(review.item, 0) + 1
    rows = [(item, str(counts[item]), _when(at, now)) for item, at in sorted(due.items(), key=lambda i: i[1])]
    print_table(f"{kept.path}", ("item", "reviews", "due"), rows)
    print("Next: llmanac exercise list")
    return [{"item": item, "reviews": counts[item], "due": at.isoformat()} for item, at in due.items()]
