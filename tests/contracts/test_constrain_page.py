"""docs/constrain.md and constraints-methods.md: their code runs; keywords, formats and limits are those of the code."""

import re

import pytest
from _pages import blocks

from llmanac.generate.constrain import _json_document, _json_keywords, _json_numbers, _json_schemas, _json_strings
from llmanac.generate.constrain import _json_text as text
from llmanac.generate.constrain._json_formats import FORMATS
from llmanac.generate.constrain._patience import MOST_SECONDS
from llmanac.generate.constrain.regex import LONGEST
from llmanac.web._wire import MAX_STRUCTURE


def test_the_page_is_that_of_the_code(root):
    page = (root / "docs" / "constrain.md").read_text("utf-8")
    table = page[page.index("## Keywords") : page.index("## Formats")]
    named = set(re.findall(r"`([$\w]+)`", table))
    left_out = {"$recursiveAnchor"}
    assert named >= _json_document.KEYWORDS - left_out
    assert set(_json_keywords.HANDLERS) <= named
    formats = page[page.index("## Formats") : page.index("## How values")]
    assert set(re.findall(r"`([a-z0-9-]+)`", formats.partition(" are enforced")[0])) == {*FORMATS}
    limits = [
        _json_document.MAX_VALUES, _json_document.MAX_DEPTH, _json_schemas.MAX_LEAST, _json_schemas.MAX_PIECES,
        LONGEST, _json_strings.MAX_SIZE, _json_numbers.MAX_STATES, text.MAX_RULES,
    ]  # fmt: skip
    rows = re.findall(r"\| ([\d,]+) \|\n", page[page.index("## Limits") : page.index("## Tool calls")])
    assert [int(row.replace(",", "")) for row in rows] == limits
    assert LONGEST == MAX_STRUCTURE
    assert f"{_json_strings.LONGEST:,}" in table and f"{text.LONGEST:,} items" in table
    assert f"more than {MOST_SECONDS:g} seconds" in page
    assert f"at most {text.MAX_PATTERNS} patterns" in table
    assert f"at most {_json_keywords.MAX_BRANCHES} schemas" in table


@pytest.mark.parametrize(
    "page",
    [pytest.param("constrain.md", marks=pytest.mark.slow), "constraints-methods.md"],  # it compiles every kernel
)
def test_the_code_runs(root, page):
    names = {}
    for block in blocks((root / "docs" / page).read_text("utf-8")):
        assert block.language in ("python", "sh")
        if block.language == "python":
            exec(block.text, names)
