"""The assistant's part of a run's report, from `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmanac.core.files import read_toml
from llmanac.core.pages import Section, markdown_table, table
from llmanac.recipes.application import ReportPart

TEXTS = {name: " ".join(text.split()) for name, text in read_toml(Path(__file__).with_name("report.toml")).items()}


def report(results: Mapping[str, Any]) -> ReportPart:
    """Scores next to those of simpler ways of answering, examples, and failures."""
    found = results["answers"]
    scores = [[name, f"{s['f1']:.3f}", f"{s['exact']:.3f}"] for name, s in found["scores"].items()]
    lines = "\n".join(markdown_table(table(["", "F1", "exact"], scores)))
    return ReportPart(
        what_it_is=TEXTS["what_it_is"],
        kept_weights=TEXTS["kept_weights"],
        scores={name: score["f1"] for name, score in found["scores"].items()},
        scores_title="answers about held-out modules, F1 (higher is better)",
        scores_caption="F1 of the assistant's answers beside what the same model, or the same retrieval, gives alone.",
        sections=tuple(section for section in (_answers(found), _examples(found), _wrong(found)) if section),
        card=f"\n## Answers on held-out modules\n\n{lines}\n",
    )


def _answers(found: Mapping[str, Any]) -> Section:
    head = ["held-out modules, question forms never seen in training", "F1", "exact", "questions"]
    rows = [[name, f"{s['f1']:.3f}", f"{s['exact']:.3f}", s["questions"]] for name, s in found["scores"].items()]
    by_sort = ", ".join(f"{sort} {share:.0%}" for sort, share in found["refused"].items())
    kinds = [[k, f"{s['f1']:.3f}", f"{s['exact']:.3f}", s["questions"]] for k, s in found["kinds"].items()]
    return Section(
        "Answers",
        [
            TEXTS["answers"],
            f"Questions the documentation cannot answer are refused {found['refused_unanswerable']:.0%} of the time; "
            f"answerable ones are refused {found['refused_answerable']:.0%}. By sort: {by_sort}.",
            TEXTS["which"],
            TEXTS["near_misses"],
        ],
        [table(head, rows, 0), table(["by kind, with retrieval", "F1", "exact", "questions"], kinds)],
    )


def _examples(found: Mapping[str, Any]) -> Section | None:
    examples = [_shown(example) for example in found["examples"]]
    return Section("Some answers, with their sources", answers=examples) if examples else None


def _wrong(found: Mapping[str, Any]) -> Section | None:
    """Two answers that miss, and two refusals, as they came."""
    shown = [
        {**_shown(example), "verdict": verdict}
        for key, verdict in (("misses", "not what was wanted"), ("refusals", "refused"))
        for example in found.get(key, ())
    ]
    return Section("Where it fails, and where it refuses", [TEXTS["failures"]], answers=shown) if shown else None


def _shown(example: Mapping[str, Any]) -> dict[str, Any]:
    expected = example.get("expected")
    return {**example, "note": f"In the documentation: {expected}" if expected else ""}
