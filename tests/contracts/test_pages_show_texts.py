"""No page shows an object: kept pages here, those that tests render in conftest.py, and every page of the guide."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from _objects import objects_in

from llmanac.core.describe import choices, describe
from llmanac.core.registry import KINDS, methods
from llmanac.guide.site import Site

KEPT = {".md", ".html", ".svg", ".json"}


def test_what_python_prints_of_objects_is_found() -> None:
    shown = [{}.items, len, objects_in, Path().exists, object(), KEPT.add]
    assert all(objects_in(f"<p>{value}</p>") for value in shown)
    assert all(objects_in(str(value).replace("<", "&lt;")) for value in shown)
    assert not objects_in("a function of <b>objects</b>, built-in; at 0x10")


def test_kept_pages_show_no_objects(root: Path) -> None:
    pages = [
        path for place in ("docs", "evidence", "src/llmanac/evidence_results") for path in (root / place).rglob("*")
    ]
    pages = [path for path in [root / "README.md", *pages] if path.suffix in KEPT]
    assert len(pages) > 100
    assert {str(path): found for path in pages if (found := objects_in(path.read_text("utf-8")))} == {}


def test_every_page_of_the_guide_shows_no_object() -> None:
    site = Site()
    paths = [path for path in site.paths() if not path.startswith("demo/")]
    assert len(paths) > 500
    assert {path: found for path in paths if (found := objects_in(site.page(path) or ""))} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_shown_as_what_they_are(kind: str) -> None:
    for method in methods(kind).values():
        for name, _, default in choices(method.path):
            assert "default_factory" not in default and not default.startswith("field("), (method.id, name, default)
        assert not objects_in(describe(method.id))


def test_a_factory_is_shown_by_what_it_makes(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(
        "class Spec:\n    a: list = field(default_factory=list)\n    b: int = field(default=3)\n    c: int\n"
        "    d: dict = dataclasses.field(default_factory=lambda: {'x': 1})\n    e: int = 4\n"
    )
    assert [default for _, _, default in choices(path)] == ["list()", "3", "required", "{'x': 1}", "4"]


def test_no_file_holds_the_marks_of_a_merge(root: Path) -> None:
    """A half-merged page reads as two."""
    mark = re.compile(r"^(<<<<<<<|>>>>>>>) ", re.M)
    places = [root / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml")]
    places += [p for name in ("docs", "src", "tests", "evidence", "benchmarks") for p in (root / name).rglob("*.*")]
    texts = {".md", ".py", ".toml", ".json", ".jsonl", ".html", ".svg", ".txt", ".css", ".js", ""}
    found = [
        str(p) for p in places if p.is_file() and p.suffix in texts and mark.search(p.read_text("utf-8", "ignore"))
    ]
    assert found == []
