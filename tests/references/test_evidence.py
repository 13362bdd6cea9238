"""Every kept page: its small measurement gives the same numbers today, and it is made of its raw results."""

from __future__ import annotations

from pathlib import Path

import pytest

from evidence import run as evidence
from llmanac.core import catalogue

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
    study = evidence.load(evidence.names()[0])
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
