"""The report of a run: two figures of bars first, and where the assistant fails."""

from __future__ import annotations

import json
from pathlib import Path

from llmanac.recipes.report import write_report

KEPT = Path(__file__).resolve().parents[2] / "docs" / "evidence" / "quickstart" / "seed-10.json"


def example(question: str, answer: str) -> dict[str, object]:
    return {"question": question, "answer": answer, "expected": "What was wanted.", "citations": []}


def test_the_report_leads_with_bars_and_shows_what_fails(tmp_path: Path) -> None:
    results = json.loads(KEPT.read_text("utf-8"))
    results["answers"] |= {
        "misses": [example("first miss?", "Wrong line."), example("second miss?", "Other line.")],
        "refusals": [example("unanswerable?", "No."), example("answerable?", "No, too.")],
    }
    page = write_report(tmp_path, results).read_text("utf-8")
    sections = page.split("<h2>")[1:]
    assert sections[0].startswith("In short")
    assert sections[0].count("<svg") == 1 and "answers about held-out modules" in sections[0]
    assert "one question at a time" in page.split("<h2>")[0]
    failing = next(section for section in sections if section.startswith("Where it fails"))
    assert [failing.count(word) for word in ("(not what was wanted)", "(refused)")] == [2, 2]
    assert "second miss?" in failing


def test_a_report_without_an_assistant_has_one_figure_of_bars(tmp_path: Path) -> None:
    results = json.loads(KEPT.read_text("utf-8"))
    del results["answers"]
    page = write_report(tmp_path, results).read_text("utf-8")
    assert "answers about" not in page.split("<h2>")[1]
    assert "Where it fails" not in page
