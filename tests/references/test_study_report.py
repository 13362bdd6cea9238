"""The page of a study: its numbers are those of the JSON, it is one valid file, and it says what must be said."""

from __future__ import annotations

import html.parser
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from llmanac.cli.compare import print_study
from llmanac.lab import words
from llmanac.lab.axis import Arm, Axis
from llmanac.lab.costs import TRAINING_COSTS
from llmanac.lab.report import LINE, PAGE, RESULT, render, write_study
from llmanac.lab.stats import Metric
from llmanac.lab.study import Measurement, Study

VALUES = {
    "rope": [1.90, 1.95, 1.92, 1.93, 1.91], "learned": [2.00, 2.06, 2.02, 2.04, 2.01],
    "none<b>": [1.93, 1.94, 1.94, 1.92, 1.95],
}  # fmt: skip


class Trial:
    metrics = (Metric("bits_per_byte", "bit/B", "lower", "bits per byte, held out"),)
    costs = TRAINING_COSTS
    replicate = "seed"


def result(values: dict[str, list[float]] | None = None, **changes: Any) -> dict[str, Any]:
    values = values or VALUES
    count = len(next(iter(values.values())))
    measured = {
        arm: {
            seed: Measurement(
                {"bits_per_byte": [v]},
                {c.name: 1000.0 * (i + 1) for c in TRAINING_COSTS} | {"peak_memory": None},
                [{"step": s, "tokens": 256 * s, "seconds": s * 0.1, "value": v + 1 / s} for s in (1, 2, 3)],
                {"parameters": {"w (2, 2)": "aa"}, "rows": ["r0", "r1"]},
            )
            for seed, v in enumerate(found)
        }
        for i, (arm, found) in enumerate(values.items())
    }
    diffs: dict[str, dict[str, tuple[Any, Any]]] = {arm: {"model.position.name": ("rope", arm)} for arm in values}
    arms = tuple(Arm(arm, None, diffs[arm], {}) for arm in values)
    axis = Axis("position", "position", "model.position")
    study = Study("s", axis, arms, "rope", tuple(range(count)), Trial(), about={"hold": "tokens", "tune": None})  # type: ignore[arg-type]
    found = study.conclude(measured) | {
        "runs": [], "sources": {}, "seconds": 12.0, "started": "2026-01-02T03:04:05Z",
        "load": {"before": 0.1, "after": 0.2, "cores": 2}, "machine": {"cpu": "A chip", "threads": 2},
        "command": "llmanac compare position --arms rope,learned",
        "plan": {
            "budget_seconds": 180.0, "spent_seconds": 9.0, "expected_seconds": 170.0, "seeds": 3, "tuning_runs": 0,
            "steps": dict.fromkeys(values, 321),
            "speed": {a: {"step_seconds": 0.0123, "fixed_seconds": 2.0} for a in values},
        },
    }  # fmt: skip
    return found | changes


class Text(html.parser.HTMLParser):
    """The words of a page, and whether every tag that needs closing is closed."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: str) -> str:
    parser = Text()
    parser.feed(page)
    assert parser.open == [] and parser.sources == []  # one file, nothing from elsewhere
    return " ".join(" ".join(parser.words).split())


def test_the_page_shows_the_numbers_of_the_json() -> None:
    found = result()
    text = read(render(found))
    learned, none = found["comparisons"]["bits_per_byte"]
    assert learned["verdict"] == "worse" and none["verdict"] == "inconclusive"
    for c in (learned, none):
        assert f"{100 * c['relative']:+.2f}%" in text
        assert f"{100 * c['relative_low']:+.2f}% to {100 * c['relative_high']:+.2f}%" in text
    assert f"{sum(VALUES['learned']) / 5:.4g} bit/B" in text
    assert f"about {none['further']} more seed" in text
    for words_ in ("321", "12.3 ms", "A chip", "llmanac compare position", "Untuned", "rope → learned", "none<b>"):
        assert words_ in text, words_
    assert "<b>" not in render(found)  # a label is text, never markup


def test_every_chart_is_valid_svg() -> None:
    page = render(result())
    charts = [part.partition("</svg>")[0] + "</svg>" for part in page.split("<svg")[1:]]
    assert len(charts) >= 5
    for chart in charts:
        root = ElementTree.fromstring("<svg" + chart)
        assert root.attrib["aria-label"]
        assert "nan" not in chart and "inf" not in chart


def test_two_seeds_are_too_few_and_the_page_says_so() -> None:
    found = result({"rope": [1.9, 1.95], "learned": [2.0, 2.06]})
    text = read(render(found))
    assert "too few seeds (3 more)" in text and "too few seeds (3 more)" in words.summary(found)
    assert found["comparisons"]["bits_per_byte"][0]["verdict"] == "too few"


def test_warnings_are_said_where_they_hold() -> None:
    assert not any("busy" in w for w in words.warnings(result()))
    busy = result(load={"before": 1, "after": 7.0, "cores": 2}, hold="time")
    assert any("busy" in w and "equal time was the condition" in w for w in words.warnings(busy))
    uneven = result()
    uneven["costs"]["learned"]["tokens"] *= 2
    assert any("learned came out at" in w and "tokens" in w for w in words.warnings(uneven))
    assert any("Whole-recipe" in w for w in words.warnings(result(kind="recipe")))
    edge = result(tune={"at_the_edge": ["rope"]})
    assert any("edge of the sweep" in w for w in words.warnings(edge))
    assert not any("Untuned" in w for w in words.warnings(edge))


def test_a_study_in_one_line(tmp_path: Path) -> None:
    line = words.summary(result())
    assert "\n" not in line and line.startswith("position (") and "*" not in line
    assert "learned worse (+5.41%)" in line
    write_study(tmp_path, result())
    assert (tmp_path / LINE).read_text() == f"**position**{line.removeprefix('position')}\n"


def test_the_page_leads_with_one_line_an_arm_and_its_verdicts_second() -> None:
    page = render(result())
    assert page.count('<p class="lead">') == len(words.sentences(result()))
    heads = page[page.index("<thead>") : page.index("</thead>")].split("</th>")
    assert "verdict" in heads[1]
    row = page[page.index("<td>learned</td>") :].split("</td>")
    assert 'data-head="verdict"' in row[1] and row[1].endswith("worse")
    widths = [float(width) for width in re.findall(r'<svg [^>]*width="([0-9.]+)pt"', page)]
    assert len(widths) >= 5 and max(widths) / min(widths) < 1.05  # drawn at one scale, so that text has one size


def test_an_arm_that_failed_is_named_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    why = "seed 0: step 4: the loss is nan; the batch is in studies/cache/x"
    alone = result({"rope": VALUES["rope"]}, failed={"hot": [why, why]})
    said = "Against rope: hot failed (seed 0: step 4: the loss is nan)."
    assert words.summary(alone).endswith(said)
    print_study(SimpleNamespace(data=alone, page="study.html"))  # type: ignore[arg-type]
    assert said in " ".join(capsys.readouterr().out.split())
    base = result({"learned": VALUES["learned"]}, failed={"rope": [why]})
    assert words.summary(base).endswith(
        "Nothing can be compared with the baseline rope: rope failed (seed 0: step 4: the loss is nan)."
    )
    assert "Nothing can be compared: rope, the baseline, failed." in read(render(base))


def test_an_interval_without_zero_that_is_inconclusive_is_explained() -> None:
    found = result()
    assert words.adjusted(found) == ""
    found["comparisons"]["bits_per_byte"][1] |= {"verdict": "inconclusive", "low": 0.001, "high": 0.02}
    assert "adjusted over the arms (Holm)" in words.adjusted(found)


def test_settings_are_on_the_page() -> None:
    settled = {"train": {"dtype": "bfloat16", "attention": "blocks"}}
    assert "settings bfloat16, attention form blocks" in read(render(result(base=settled)))
    assert words.settings_words({"train": {"dtype": "auto", "attention": "auto"}}) == ""


def test_charts_whose_arms_are_all_equal_are_left_out() -> None:
    """Equal costs, or an equal metric, put every arm on one place."""
    usual = render(result())
    assert "against parameters" in usual and "Paired differences from the baseline" in usual
    level = result()
    for costs in level["costs"].values():
        costs["parameters"] = 1000.0
    assert "against parameters" not in render(level) and "against training FLOPs" in render(level)
    equal = render(result({"rope": [2.0, 2.0, 2.0], "learned": [2.0, 2.0, 2.0]}))
    assert "Paired differences from the baseline" not in equal and "against training FLOPs" not in equal


def test_a_study_is_written_and_read(tmp_path: Path) -> None:
    found = result(sources={"lab/stats.py": "0" * 16})
    write_study(tmp_path, found)
    assert json.loads((tmp_path / RESULT).read_text()) == json.loads(json.dumps(found))
    assert f"{100 * found['comparisons']['bits_per_byte'][0]['relative']:+.2f}%" in read((tmp_path / PAGE).read_text())


def test_quantities() -> None:
    assert words.quantity(None, "B") == "-"
    assert words.quantity(3 * 2**20, "B") == "3 MiB" and words.quantity(1536.0, "B/s") == "1.5 KiB/s"
    assert words.quantity(75, "s") == "1m 15s" and words.quantity(1234, "token/s") == "1,234 token/s"
    assert words.p_value(0.0001) == "<0.001" and words.percent(-0.0123) == "-1.23%"
    assert not math.isnan(float(words.p_value(0.5)))


def test_a_narrow_terminal_shows_every_arm_whole(tmp_path: Path) -> None:
    """Arms that differ in their last characters are told apart at 80 columns, and no line is wider."""
    arms = [f"bpe{{vocab_size={size}}}" for size in (1024, 2048, 4096, 8192)]
    made = result(
        {"rope": [1.0, 1.1, 1.2, 1.1, 1.0]} | {a: [1.0 + i, 1.1 + i, 1.3 + i, 1.2, 1.0] for i, a in enumerate(arms)}
    )
    for width in (80, 200):
        with open(tmp_path / "out", "w") as out:
            console = Console(width=width, record=True, file=out)
            print_study(SimpleNamespace(data=made, page="study.html", markdown=str), console)
        lines = [line.rstrip() for line in console.export_text().splitlines()]
        assert max(map(len, lines)) <= width and not any("…" in line for line in lines)
        first = "".join(line.split("│")[1].strip() for line in lines if line.startswith("│"))
        assert all(f" {head} " in " ".join(lines) for head in ("difference", "p", "p equivalent", "improved"))
        heads = "".join("".join(cells) for cells in _columns(lines))
        assert all(arm in first and arm in heads for arm in arms)
        assert not any("*" in line for line in lines)


def _columns(lines: list[str]) -> list[list[str]]:
    """The heads of every table, column by column, over the lines that they take."""
    found, rows = [], []
    for line in lines:
        if line.startswith("┃"):
            rows.append([cell.strip() for cell in line.split("┃")[1:-1]])
        elif rows:
            found += [list(cells) for cells in zip(*rows, strict=True)]
            rows = []
    return found
