"""`llmanac verdict`: whether one system is better, by the logs of their answers."""

import json
import shlex
from pathlib import Path

from llmanac.cli.options import AsJson, Force
from llmanac.core.errors import SpecError, for_terminal


def verdict_command(
    logs: list[Path], metric: str | None = None, margin: float | None = None, allow: str = "",
    slices: str | None = None, group: str | None = None, baseline: str = "A", report: Path | None = None,
    changed: int = 100, fail_if: str | None = None, force: Force = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Whether B is better than A: logs of an evaluation, paired item by item; `docs/verdict.md` has the forms.

    Args:
        logs (LOG): Of A and B, and of further systems: files, or folders that a harness wrote.
        metric: The score that counts [the first that the logs have].
        margin: Of equivalence, in the metric's unit: 0.01 is a point of an accuracy.
        allow: Differences that may pass, with commas between: prompts, missing.
        slices: A field of the items; each of its values is also compared.
        group: A field that says which items belong together.
        baseline: The letter of the log that the others are compared with.
        report (FILE): An HTML page: verdicts, chart, and the items that changed with their prompts.
        changed (0 to 10000): Most changed items on the page, of each comparison.
        fail_if (worse): Exit status 1 where a system is worse on a benchmark, or overall.
    """
    from llmanac.core.outputs import check_output
    from llmanac.evaluate.verdict.judged import verdict
    from llmanac.evaluate.verdict.load import files_of

    if len(logs) < 2:
        raise SpecError("logs: give at least two, those of A and of B")
    if fail_if not in (None, "worse"):
        raise SpecError(f"--fail-if: {fail_if!r} is not worse")
    if report is not None:
        check_output(report, "--report", [file for log in logs for file in files_of(log)], force=force)
    found = verdict(*logs, metric=metric, margin=margin, allow=[word.strip() for word in allow.split(",") if word],
                    slices=slices, group=group, baseline=baseline)  # fmt: skip
    if report is not None:
        from llmanac.core.files import write_text
        from llmanac.evaluate.verdict.page import render

        write_text(report, render(found, changed))
    if as_json:
        print(json.dumps(found.as_json(), ensure_ascii=False))
    else:
        from llmanac.cli.tables import print_page_table

        for letter, name in found.systems.items():
            print(for_terminal(f"{letter}: {name}" + (" (baseline)" if letter == found.baseline else "")))
        for made, title in zip(found.tables(), ("Against the baseline, item by item", "By slice"), strict=False):
            print_page_table(made, title)
        print(for_terminal("\n".join(found.said())))
        more = shlex.join(["llmanac", "verdict", *map(str, logs), "--report", "verdict.html"])
        print(f"Page: {report}" if report else f"Next: {more}   (the items that changed, with their prompts)")
    if fail_if and any(one.verdict == "worse" for one in (*found.comparisons, *found.overall)):
        raise SystemExit(1)
