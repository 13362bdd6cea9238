"""The syllabus's tables: every row of the contract is in one, and figures are those of the evidence."""

from __future__ import annotations

import re

import pytest

from llmanac.core import catalogue, files
from llmanac.core.errors import SpecError
from llmanac.guide import tables
from llmanac.guide.question import RESULTS
from llmanac.guide.site import Site
from llmanac.guide.tables import chapters, figure

MOST_WITHOUT = 36  # rows without a figure: it may only fall


def test_every_row_of_the_contract_is_in_a_table():
    shown = {row.entry.id for table in tables.tables() for row in table.rows}
    assert shown == catalogue.rows().keys()
    without = [row for table in tables.tables() for row in table.rows if not row.figures]
    assert len(without) <= MOST_WITHOUT, len(without)
    assert all(row.missing for row in without)
    assert len(chapters()) == 11


def test_figures_are_read_and_not_typed():
    """Each is a cell of its study's page, and no claim holds a measured number."""
    for table in tables.tables():
        for row in table.rows:
            for found in row.figures:
                page = (RESULTS / found.study / "page.md").read_text("utf-8")
                assert found.value.replace("|", "\\|") in page and "|" not in found.value[:1], found
                assert found.what and not re.search(r"\d\.\d{3}", row.claim)
    assert figure("quantization | nf4 | bits a weight") == "4.127"
    for place in ("quantization | nf9 | bits a weight", "quantization | nf4 | colour", "nothing | a | b"):
        with pytest.raises(SpecError, match=re.escape(place)):
            figure(place)


def test_a_wrong_file_is_named(tmp_path):
    for rows, said in (
        ('[["a", "lm/rnn"]]', "is not"),
        ('[["a", "lm/none", "claim"]]', "lm/none is not in the catalogue"),
        ('[["a", "lm/rnn", "claim", "what", "depth | x | y"]]', "no table of docs/evidence/depth"),
    ):
        (tmp_path / "tables.toml").write_text(f'["T"]\nchapter = "C"\nrows = {rows}\n')
        data = files.read_toml(tmp_path / "tables.toml")
        with pytest.raises(SpecError, match=said):
            list(tables._rows("T", data["T"]["rows"]))


def test_a_chapter_shows_claims_beside_figures():
    page = Site().page("chapter/advanced-topics.html")
    for part in (
        "Long context",
        "row/quant/nf4.html",
        "evidence/quantization/page.html",
        "87.10%",
    ):
        assert part in page
    assert 'href="chapter/pretraining.html"' in Site().page("index.html")
