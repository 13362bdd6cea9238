"""The report of a run: two figures of bars first, where the assistant fails, and the loss by kind of row."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from _documented import COPY, library
from test_assistant import Letters

from llmanac.apps.docs_assistant.losses import REFUSE, losses
from llmanac.apps.docs_assistant.material import Material
from llmanac.data.documents import Document
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
    results["row_losses"] = {"returns": {"loss": 0.1509, "tokens": 48}, REFUSE: {"loss": 0.2116, "tokens": 83}}
    page = write_report(tmp_path, results).read_text("utf-8")
    sections = page.split("<h2>")[1:]
    assert sections[0].startswith("In short")
    assert sections[0].count("<svg") == 1 and "answers about held-out modules" in sections[0]
    assert "one question at a time" in page.split("<h2>")[0]
    failing = next(section for section in sections if section.startswith("Where it fails"))
    assert [failing.count(word) for word in ("(not what was wanted)", "(refused)")] == [2, 2]
    assert "second miss?" in failing
    training = next(section for section in sections if section.startswith("Training"))
    assert "0.151" in training
    assert "0.212" in training


def test_a_report_without_an_assistant_has_one_figure_of_bars(tmp_path: Path) -> None:
    results = json.loads(KEPT.read_text("utf-8"))
    del results["answers"]
    page = write_report(tmp_path, results).read_text("utf-8")
    assert "answers about" not in page.split("<h2>")[1]
    assert "Where it fails" not in page


class Even:
    """A model to which each token costs one nat."""

    def parameters(self):
        return iter([torch.zeros(1)])

    def nll(self, batch):
        return (batch.targets >= 0).sum().float()


def test_losses_are_of_what_is_said_by_kind_of_row() -> None:
    from types import SimpleNamespace

    entries = library()
    held = [Document("x", "text", COPY.module)]
    corpus = SimpleNamespace(held_out=held)
    material = Material.collect(SimpleNamespace(entries=lambda: entries), corpus, seed=3)
    found = losses(Even(), Letters(), material, limit=4000, count=40)
    assert {row["loss"] for row in found.values()} == {1.0}
    assert REFUSE in found
    assert {"returns", "arguments"} & set(found)
    assert all(row["tokens"] > 0 for row in found.values())
