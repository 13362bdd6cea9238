"""A figure that a page of the documentation cites is one of the kept page that it links."""

from __future__ import annotations

import re
from pathlib import Path

CITED = re.compile(r"\[([^\]]*\d[^\]]*)\]\((?:docs/)?evidence/(\w+)/page\.md\)")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def missing(text: str, pages: Path) -> list[str]:
    """The numbers in the words of links that the page behind the link does not have."""
    kept = {name: set(NUMBER.findall((pages / name / "page.md").read_text("utf-8"))) for _, name in CITED.findall(text)}
    return [f"{name}: {number}" for words, name in CITED.findall(text) for number in NUMBER.findall(words)
            if number not in kept[name]]  # fmt: skip


def test_cited_figures_are_on_the_pages_that_they_link(root: Path) -> None:
    texts = {path.name: path.read_text("utf-8") for path in [root / "README.md", *root.glob("docs/*.md")]}
    assert sum(len(CITED.findall(text)) for text in texts.values()) >= 20
    assert not {name: lost for name, text in texts.items() if (lost := missing(text, root / "docs" / "evidence"))}


def test_a_figure_that_is_no_longer_there_is_found(tmp_path: Path) -> None:
    (tmp_path / "beam").mkdir()
    (tmp_path / "beam" / "page.md").write_text("72% of 120 prompts, 4.50 nats", "utf-8")
    assert missing("[72%](docs/evidence/beam/page.md), [4.50](evidence/beam/page.md)", tmp_path) == []
    assert missing("[77% of 120](evidence/beam/page.md), [4.5](evidence/beam/page.md)", tmp_path) == [
        "beam: 77", "beam: 4.5"]  # fmt: skip
