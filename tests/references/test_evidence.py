"""Every kept page: its small measurement gives the same numbers today, and it is made of its raw results."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from evidence import run as evidence
from llmanac.core import catalogue
from llmanac.lab.report import Section

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", evidence.names())
def test_a_kept_page_is_not_stale(name: str) -> None:
    assert evidence.changed(name) == []


def test_rows_and_studies_name_each_other() -> None:
    spoken = {(row, f"docs/evidence/{name}/page.md") for name in evidence.names() for row in evidence.load(name).ROWS}
    rows = catalogue.rows()
    assert {row for row, _ in spoken} <= set(rows)
    pages = {page for _, page in spoken}
    assert {(row, entry.claim) for row, entry in rows.items() if entry.claim in pages} <= spoken


def test_what_differs_is_named() -> None:
    study = evidence.load("kv_cache")
    kept = {"a": [1.0, {"b": 2.0}], "c": "x", "d": 5}
    assert evidence.differences(kept, {"a": [1.0 + 1e-9, {"b": 2.0}], "c": "x", "d": 5}, study) == []
    other = {"a": [1.0, {"b": 2.1}], "c": "y", "e": 5}
    assert evidence.differences(kept, other, study) == ["small/a/1/b", "small/c", "small/d", "small/e"]


def test_a_page_that_was_edited_or_whose_numbers_changed_is_stale(tmp_path: Path) -> None:
    name = "kv_cache"
    result = evidence.files.read_json(evidence.PAGES / name / evidence.RESULTS)
    result["small"]["parameters"] += 1
    evidence.write(evidence.load(name), result, tmp_path / name)
    (tmp_path / name / evidence.PAGE).write_text("something else")
    assert evidence.changed(name, tmp_path) == ["small/parameters", evidence.PAGE]


def test_the_words_of_a_page_are_filled_from_its_results() -> None:
    study = evidence.load("kv_cache")
    result = evidence.files.read_json(evidence.PAGES / "kv_cache" / evidence.RESULTS)
    result["seeds"][0]["parameters"] = 1_234_567
    assert "A decoder of 1,234,567 parameters" in evidence.render(study, result)[0]


def test_a_run_that_was_stopped_goes_on_and_leaves_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def measure(seed: int, size: str) -> dict[str, int]:
        if size == "full":
            measured.append(seed)
            if measured == [0, 1]:
                raise KeyboardInterrupt
        return {"seed": seed}

    def show(seeds: list[dict[str, int]]) -> list[Section]:
        return [Section("Seeds", [", ".join(str(one["seed"]) for one in seeds)])]

    study = SimpleNamespace(__doc__="T.", __name__="t", ROWS=(), CLAIM="c", SEEDS=2, measure=measure, show=show)
    monkeypatch.setattr(evidence, "load", lambda name: study)
    with pytest.raises(KeyboardInterrupt):
        evidence.run("t", pages=tmp_path / "pages", work=tmp_path / "work")
    page = evidence.run("t", pages=tmp_path / "pages", work=tmp_path / "work")
    assert measured == [0, 1, 1] and "0, 1" in page.read_text()
    assert not (tmp_path / "work" / "t").exists() and evidence.changed("t", tmp_path / "pages") == []


def test_the_package_knows_nothing_of_studies() -> None:
    source = evidence.ROOT / "src" / "llmanac"
    assert not [
        p for p in source.rglob("*.py") if re.search(r"^\s*(from|import) evidence\b", p.read_text("utf-8"), re.M)
    ]
