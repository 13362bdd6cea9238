"""Records of benchmarks: only what the tool wrote is read, and the figure of a row follows from the records by rule."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import run
from llmanac.core.errors import DataError
from tools import records

README, OTHER = "bpe-encode", "lstm"
MACHINE = {"cpu": "A", "isa": "AVX2", "cores": 2, "torch": "2.13.0"}


def record(ratio: float | None, name: str = OTHER, others: float | None = 0.01, **more: Any) -> dict[str, Any]:
    """A sealed record of one row."""
    result = {"name": name, "unit": "MB/s", "ours": 10.0, "peer": "peer 1", "theirs": None, "ratio": ratio}
    return records.sealed({
        "benchmark": "s", "measurement": name, "results": [result | {"better": "higher"}], "rounds": [], "versions": {},
        "others": others, "seconds": 1.0, "commit": "c", "changed": False, "made": "2026-11-30", "machine": MACHINE,
        **more,
    })  # fmt: skip


def test_a_row_of_the_readme_is_the_median_of_three_and_another_the_last() -> None:
    for name, expected, count in ((README, 3.0, 3), (OTHER, 9.0, 1)):
        found = [record(value, name) for value in (1.0, 2.0, 3.0, 9.0)]
        assert (run.figure(found, name)[1]["ratio"], run.figure(found, name)[2]) == (expected, count)
        assert "1.00 to 9.00 in 4 runs" in run.line(found, name)[3]


def test_busy_runs_are_the_figure_only_where_there_is_no_quiet_one() -> None:
    busy, unknown = record(8.0, others=0.5), record(7.0, others=None)
    assert run.figure([record(2.0), busy, unknown], OTHER)[1]["ratio"] == 2.0
    found = run.line([busy], OTHER)
    assert "busy: others used 0.50 of a core" in found[4] and run.BEFORE in run.line([unknown], OTHER)[4]


def test_machines_are_not_mixed_and_the_newest_one_is_taken() -> None:
    old = record(5.0, README, machine=MACHINE | {"cpu": "B"}, made="2026-11-01")
    found = [old, record(2.0, README), old]
    assert run.figure(found, README)[1]["ratio"] == 2.0 and run.figure(found, README)[2] == 1
    assert "2 machines" in run.line(found, README)[5]


def test_a_record_that_was_edited_or_has_other_keys_is_named(tmp_path: Path) -> None:
    good = record(2.0)
    edited = good | {"results": [good["results"][0] | {"ratio": 4.0}]}
    unknown, missing = (
        records.sealed(good | {"best": True}),
        records.sealed({k: v for k, v in good.items() if k != "others"}),
    )
    row = records.sealed(good | {"results": [good["results"][0] | {"best of": 3}]})
    for broken, said in ((edited, "was changed"), (unknown, "'best'"), (missing, "lacks 'others'"), (row, "'best of'")):
        lines = [records.canonical(good), json.dumps(broken)]
        (tmp_path / "s.jsonl").write_text("\n".join(lines), "utf-8")
        with pytest.raises(DataError, match=f"s.jsonl:2.*{said}"):
            run.kept(tmp_path)
    (tmp_path / "s.jsonl").write_text(records.canonical(good) + "\n{", "utf-8")
    with pytest.raises(DataError, match=r"s\.jsonl:2: not JSON"):
        run.kept(tmp_path)


def test_a_run_is_kept_with_its_rounds_and_what_others_used(tmp_path: Path) -> None:
    """A real measurement of a second, twice: both records are there, each with the seconds of every round."""
    script = tmp_path / "tiny.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(run.ROOT / 'benchmarks')!r})\n"
        "from _harness import Benchmark, Result, interleave\n"
        "bench = Benchmark('tiny', 'd')\n"
        "@bench.measure('sums')\n"
        "def sums():\n"
        "    runs = {'ours': lambda: sum(range(1000)), 'theirs': lambda: sum(range(9000))}\n"
        "    return Result.rate('sums', 1.0, interleave(runs, rounds=3), unit='sums/s', peer='another')\n"
        "bench.main()\n",
        "utf-8",
    )
    for _ in range(2):
        run.run("tiny", "sums", tmp_path, script)
    first, second = run.kept(tmp_path)
    assert [len(seconds) for seconds in first["rounds"][0].values()] == [3, 3]
    assert first["results"][0]["ratio"] > 1 and first["machine"]["cpu"] and first["commit"]
    assert (first["others"] is None) == (sys.platform != "linux") and second["digest"] != first["digest"]


def test_every_kept_row_is_one_of_a_measurement_that_exists(root: Path) -> None:
    """And no row says more than was measured: intervals, allocators and unlike sides are on the page."""
    found = run.kept()
    assert {r["measurement"] for r in found} <= {name for s in run.subjects() for name in run.measurements(s)}
    for name, cells in run.rows(found).items():
        row = run.figure(found, name)[1]
        low, high = row.get("more", {}).get("ours_minus_trafilatura", (1, 1))
        assert ("no difference shown" in cells[3]) == (low <= 0 <= high)
        assert name != "train-fp32" or row["more"]["dtype"] == "float32"
        assert name not in run.UNLIKE or run.UNLIKE[name] in cells[0]
