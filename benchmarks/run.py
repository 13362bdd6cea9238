"""Run benchmarks, keep a record of every run, and write the tables of docs/benchmarks.md and README.md from them.

    python benchmarks/run.py bpe-encode tokenizer   measurements, or all those of a subject; each in its own process
    python benchmarks/run.py --all                  every subject but those that take hours
    python benchmarks/run.py --render, --check      write the tables again; exit with 1 where one differs
    python benchmarks/run.py --list                 the measurements, with the number of quiet runs that are kept

A record is a line of `docs/evidence/benchmarks/SUBJECT.jsonl`: what the benchmark printed, the seconds of every round,
machine, commit, date, versions, and the share of a core that other processes used meanwhile. Records are added, never
changed: a digest shows it. The figure of a row is the run with the median ratio of the last runs on one machine, three
for the rows of README.md and one for the others; a run beside others that used more than 0.05 of a core is the figure
only where there is no quiet one. The machine is that of the newest such run.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0], sys.path[-1:] = [str(ROOT)], [sys.path[-1], str(ROOT / "benchmarks")]

from llmanac.core import files  # noqa: E402
from llmanac.core.errors import DataError, nearest  # noqa: E402
from tools import records  # noqa: E402

KEPT = ROOT / "docs" / "evidence" / "benchmarks"
KEYS = ("benchmark", "measurement", "results", "rounds", "versions", "others", "seconds")
ROW = ("name", "unit", "ours", "peer", "theirs", "ratio", "better")
LONG = ("soak", "retrieve_large", "multimodal_gallery")  # hours; `multimodal_gallery` makes a picture
README = (  # the rows of README.md
    "bpe-train-32k", "bpe-encode", "unigram-train", "train-bf16", "ngram-query", "bm25-query", "extract-f1",
    "dedup-minhash",
)  # fmt: skip
UNLIKE = {  # rows whose two sides do not compute the same, and how they differ
    "hf-b1": "ours Q8_0, theirs float32",
    "window-16k": "ours with a window of 512 keys, theirs with all keys",
}
HEAD = ["", "ours", "theirs", "ratio", "runs", "machine, date"]
BEFORE = "before runs were recorded"  # the command of figures that are older than this file
MARKS = "<!-- measured -->", "<!-- /measured -->"
Record = Mapping[str, Any]


def subjects() -> list[str]:
    """The benchmark files with measurements."""
    own = ("run", "soak", "multimodal_gallery")
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if path.stem not in own)


def measurements(subject: str) -> list[str]:
    """What a subject measures."""
    return list(importlib.import_module(f"benchmarks.{subject}").bench.measurements)


def chosen(names: Sequence[str]) -> list[tuple[str, str]]:
    """(subject, measurement) of every name. Raises DataError that names the nearest for an unknown one."""
    known = {subject: measurements(subject) for subject in subjects()}
    of = {name: subject for subject, some in known.items() for name in some}
    out: list[tuple[str, str]] = []
    for name in names:
        if name not in known and name not in of:
            raise DataError(f"no benchmark {name!r}{nearest(name, [*known, *of])}; --list names them")
        out += [(name, one) for one in known[name]] if name in known else [(of[name], name)]
    return out


def run(subject: str, name: str, folder: Path = KEPT, script: Path | None = None) -> Record:
    """One measurement in a process of its own; its record is appended to the subject's file."""
    start = time.monotonic()
    with records.Others() as others:
        command = [sys.executable, str(script or Path(__file__).with_name(f"{subject}.py")), "--only", name]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise DataError(f"{subject}.py --only {name} ended with status {done.returncode}; nothing was kept")
    document = json.loads(done.stdout.strip().splitlines()[-1])
    known = ("torch", "numpy", "numba", "transformers", "tokenizers")
    record = records.sealed({
        "benchmark": subject, "measurement": name, "results": document["results"], "rounds": document["rounds"][name],
        "versions": {package: importlib.metadata.version(package) for package in known},
        "others": others.share, "seconds": round(time.monotonic() - start, 1),
        **records.stamp(), "machine": document["machine"],
    })  # fmt: skip
    files.append(folder / f"{subject}.jsonl", (records.canonical(record) + "\n").encode())
    return record


def kept(folder: Path = KEPT) -> list[Record]:
    """Every record, oldest first within a subject. Raises DataError that names file and line of a broken one."""
    out: list[Record] = []
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            place = f"{path.name}:{number}"
            try:
                found = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{place}: not JSON ({error.msg}); delete the line and run the benchmark again"
                ) from error
            out.append(records.check(found, KEYS, place))
            for row in found["results"]:
                if wrong := sorted({*ROW} ^ ({*row} - {"more"})):
                    raise DataError(f"{place}: a result has or lacks {wrong[0]!r}")
    return out


def machine_of(record: Record) -> str:
    """The machine as the table names it."""
    machine = record["machine"]
    return f"{machine['cpu']} ({machine['isa']}, {machine['cores']} cores, torch {machine['torch']})"


def quiet(record: Record) -> bool:
    """Whether it is known that next to nothing else computed."""
    return record["others"] is not None and record["others"] <= records.QUIET


def runs_of(found: Sequence[Record], name: str) -> dict[str, list[tuple[Record, Mapping[str, Any]]]]:
    """The runs of a row that have our figure, by machine: (record, result), oldest first."""
    out: dict[str, list[tuple[Record, Mapping[str, Any]]]] = {}
    for record in found:
        for row in record["results"]:
            if row["name"] == name and row["ours"] is not None:
                out.setdefault(machine_of(record), []).append((record, row))
    return out


def figure(found: Sequence[Record], name: str) -> tuple[Record, Mapping[str, Any], int]:
    """The run that the tables show, its result, and how many runs it is the median of."""
    every = [run for runs in runs_of(found, name).values() for run in runs]
    # a run without its peer is no complete run where there are others
    every = [run for run in every if run[1]["peer"] == "none" or run[1]["theirs"] is not None] or every
    still = [run for run in every if quiet(run[0])] or every
    newest = max(still, key=lambda run: run[0]["made"])
    last = [run for run in still if machine_of(run[0]) == machine_of(newest[0])][-(3 if name in README else 1) :]
    by_ratio = sorted(last, key=lambda run: run[1]["ratio"] or run[1]["ours"])
    return *by_ratio[(len(last) - 1) // 2], len(last)


def rows(found: Sequence[Record]) -> dict[str, list[str]]:
    """The cells of the table for each row that was ever measured."""
    names = dict.fromkeys(row["name"] for record in found for row in record["results"] if row["ours"] is not None)
    return {name: line(found, name) for name in names}


def table(lines: Mapping[str, Sequence[str]], names: Sequence[str], columns: int) -> list[str]:
    """Markdown of some rows, the first columns of each."""
    every = [HEAD, ["---"] * len(HEAD), *(lines[name] for name in names)]
    return [f"| {' | '.join(cells[:columns])} |" for cells in every]


def line(found: Sequence[Record], name: str) -> list[str]:
    """The cells of a row."""
    record, row, count = figure(found, name)
    theirs = "not installed" if row["theirs"] is None else f"{row['theirs']:.4g} {row['unit']}"
    others = [one["ratio"] for runs in runs_of(found, name).values() for _, one in runs if one["ratio"]]
    machines = len(runs_of(found, name))
    spread = f" ({min(others):.2f} to {max(others):.2f} in {len(others)} runs)" if len(others) > 1 else ""
    return [
        f"{name} ({UNLIKE[name]})" if name in UNLIKE else name,
        f"{row['ours']:.4g} {row['unit']}",
        "" if row["peer"] == "none" else f"{row['peer']}: {theirs}",
        ratio(row) + spread,
        f"{count}" + ("" if quiet(record) else f", {busy(record)}"),
        f"{machine_of(record)}, {record['made']}" + (f"; {machines} machines" if machines > 1 else ""),
    ]


def busy(record: Record) -> str:
    return BEFORE if record["others"] is None else f"busy: others used {record['others']:.2f} of a core"


def ratio(row: Mapping[str, Any]) -> str:
    """With the interval of the difference, or the ratio with one allocator for both, where the result has them."""
    if row["ratio"] is None:
        return ""
    more = row.get("more", {})
    if "ours_minus_trafilatura" in more:
        low, high = more["ours_minus_trafilatura"]
        said = "no difference shown" if low <= 0 <= high else f"{row['ratio']:.2f}"
        return f"{said} (95% of the difference: {low:+.4f} to {high:+.4f})"
    same = more.get("ratio_with_our_allocator_for_both")
    return f"{row['ratio']:.2f}" + ("" if same is None else f"; with our allocator for both {same:.2f}")


def pages() -> dict[Path, str]:
    """The two pages with their marked parts made of the records."""
    found = kept()
    lines = rows(found)
    every = dict.fromkeys((r["benchmark"], r["measurement"]) for r in found)
    shown = {name: figure(found, name)[1] for name in lines}
    below = ", ".join(f"{name} ({row['ratio']:.2f})" for name, row in shown.items() if (row["ratio"] or 1) < 1)
    never = [f"`{s}`" for s in subjects() if s not in {subject for subject, _ in every}]
    parts = {
        "README.md": [*table(lines, README, 4), "", f"Ratios below 1: {below}."],
        "docs/benchmarks.md": [*table(lines, list(lines), 6), "", f"No run is kept of: {', '.join(never) or 'none'}."],
    }
    out = {}
    for name, body in parts.items():
        head, _, rest = (ROOT / name).read_text("utf-8").partition(MARKS[0])
        out[ROOT / name] = head + "\n".join([MARKS[0], *body, MARKS[1]]) + rest.partition(MARKS[1])[2]
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    for flag in ("--all", "--render", "--check", "--list"):
        parser.add_argument(flag, action="store_true")
    given = parser.parse_args(arguments)
    try:
        if given.list:
            found = kept()
            for subject in subjects():
                for name in measurements(subject):
                    mine = [r for r in found if (r["benchmark"], r["measurement"]) == (subject, name)]
                    print(f"{subject:16} {name:28} {len(mine)} runs, {sum(map(quiet, mine))} quiet")
            return 0
        if given.check:
            wrong = [path.name for path, text in pages().items() if path.read_text("utf-8") != text]
            if wrong:
                print(f"{', '.join(wrong)}: not what the records say; run benchmarks/run.py --render", file=sys.stderr)
            return int(bool(wrong))
        if os.environ.get("LLMANAC_BENCH_QUICK") and (given.names or given.all):
            raise DataError("LLMANAC_BENCH_QUICK: a quick look is no figure and is not kept; unset it")
        every = [s for s in subjects() if s not in LONG] if given.all else []
        todo = chosen([*every, *given.names])
        if not todo and not given.render:
            parser.error("name a measurement or a subject, or give --all, --render, --check or --list")
        for at, (subject, name) in enumerate(todo, 1):
            print(f"{at} of {len(todo)}: {subject} {name}", file=sys.stderr, flush=True)
            record = run(subject, name)
            print(f"    others used {record['others']} of a core; {record['seconds']:.0f} s", file=sys.stderr)
        for path, text in pages().items():
            files.write_text(path, text)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
