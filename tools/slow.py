"""The slow tests, a file at a time: `python tools/slow.py [FILE...]`; a run that was stopped goes on where it was.

A file is done when its slow tests passed with the sources and tests of today, all committed; `docs/slow.md` has each
file's last run: seconds, tests, date, commit. A file that fails is named, and the others go on.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from llmanac.core import files
from llmanac.core.pages import markdown_table, table
from llmanac.lab.budget import format_duration

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tools.records import stamp  # noqa: E402

KEPT, PAGE = ROOT / "docs" / "slow.json", ROOT / "docs" / "slow.md"
SECONDS = 3600  # of one test
COUNTS = re.compile(r"(\d+) (passed|failed|skipped|error)")


def slow_files() -> list[str]:
    """The files that have slow tests."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "slow", "--collect-only"], cwd=ROOT, capture_output=True, text=True
    )  # it is quiet as it is: once more, and only numbers of tests are printed
    found = sorted({line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line})
    if not found:
        raise SystemExit(f"no slow test is found: {done.stdout[-400:]}{done.stderr[-400:]}")
    return found


def counts(text: str) -> dict[str, int]:
    """How many tests passed, failed, were skipped, from pytest's last line."""
    return {word: int(number) for number, word in COUNTS.findall(text.strip().rpartition("\n")[2])}


def trees() -> str:
    """What the sources and the tests of the last commit are; empty where something is not committed."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    return "" if git("status", "--porcelain", "src", "tests") else git("rev-parse", "HEAD:src", "HEAD:tests")


def run(name: str) -> dict[str, object]:
    start = time.monotonic()
    words = ["-m", "slow", "--timeout", str(SECONDS), name]  # quiet once: its last line counts the tests
    done = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(done.stdout[-4000:], flush=True)
    made = stamp()
    return {
        "status": done.returncode, "seconds": round(time.monotonic() - start), "tests": counts(done.stdout),
        "made": made["made"], "commit": made["commit"], "trees": trees(),
    }  # fmt: skip


def page(kept: dict[str, dict]) -> str:
    """The last run of every file."""
    total = format_duration(sum(one["seconds"] for one in kept.values()))
    rows = [
        [name, ", ".join(f"{n} {word}" for word, n in one["tests"].items()), str(one["seconds"]), one["made"],
         one["commit"]] for name, one in sorted(kept.items())
    ]  # fmt: skip
    head = ["file", "tests", "seconds", "date", "commit"]
    lines = [
        "# The slow tests", "", f"`make test-slow` runs them a file at a time and goes on where it was stopped; "
        f"{len(kept)} files, {total} in all.", "", *markdown_table(table(head, rows)),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(names: Sequence[str]) -> int:
    kept = files.read_json(KEPT) if KEPT.is_file() else {}
    every, now, failed = names or slow_files(), trees(), []
    for place, name in enumerate(every, 1):
        last = kept.get(name)
        if last and not last["status"] and now and last["trees"] == now:
            print(f"{place} of {len(every)}: {name} passed on {last['made']}", flush=True)
            continue
        kept[name] = found = run(name)
        files.write_json(KEPT, kept)
        files.write_text(PAGE, page(kept))
        failed += [name] if found["status"] else []
        print(f"{place} of {len(every)}: {name} {found['tests']} in {found['seconds']} s", flush=True)
    print("\n".join(f"failed: {name}" for name in failed) or "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
