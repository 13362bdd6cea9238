"""The texts of the chapters: numbers come from expressions and results, links lead to pages, points are made."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from llmanac.core import catalogue
from llmanac.core.errors import SpecError
from llmanac.core.files import read_toml
from llmanac.guide import chapter
from llmanac.guide.site import Site
from llmanac.guide.tables import chapters

QUESTIONS = Path(__file__).parents[2] / "evidence" / "concepts" / "questions.toml"
GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"


@pytest.fixture(scope="module")
def site():
    return Site()


class Links(HTMLParser):
    """The targets of links and the ids of a page."""

    def __init__(self, text):
        super().__init__()
        self.targets: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.targets += [value for name, value in attrs if tag == "a" and name == "href"]


def test_a_chapter_is_the_first_that_uses_numpy():
    code = (
        "from llmanac.guide import chapter; print(chapter.values('a = np.ones(3)\\nb = a.sum() + a.max()', 'x')['b'])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "4.0\n"


def test_every_text_is_of_a_chapter():
    assert chapter.texts()
    assert set(chapter.texts()) <= set(chapters())


@pytest.mark.parametrize("name", chapter.texts())
def test_no_number_is_typed(name):
    """Digits stand in expressions, code, formulas and sources only."""
    text = chapter.texts()[name].read_text("utf-8").split("---\n", 2)[2]
    kept = (r"\{\{.+?\}\}", r"^    .*$", r"^\d\. ", r"`[^`]+`", r"\]\([^)]+\)", r"\([^()]*\b(19|20)\d\d\b[^()]*\)")
    for pattern in kept:
        text = re.sub(pattern, "", text, flags=re.MULTILINE)
    assert not re.findall(r"(?<![\w-])\d\S*", text)


@pytest.mark.parametrize("name", chapter.texts())
def test_its_links_lead_to_pages(name, site):
    pages = set(site.paths())
    text = site.page(f"chapter/{name}.html")
    own = [target.partition("#")[0] for target in Links(text).targets if target.startswith("../")]
    assert own and {target.removeprefix("../").partition("?")[0] for target in own} <= pages
    assert "{{" not in text


@pytest.mark.parametrize("name", chapter.drawings())
def test_a_drawing_is_well_formed_named_and_used(name):
    made = chapter.drawing(name)
    picture = ElementTree.fromstring(made[: made.index("</svg>") + 6])
    assert picture.get("role") == "img" and len(picture.get("aria-label")) > 40
    in_texts = [n for n, path in chapter.texts().items() if f"{{{{ figure {name} }}}}" in path.read_text("utf-8")]
    assert in_texts or name in chapter.drawn_for().values()


def test_every_row_has_a_drawing_and_says_when_to_choose_it(site):
    rows = set(catalogue.rows())
    assert rows == set(chapter.drawn_for()) == set(chapter.choices())
    assert set(chapter.drawn_for().values()) <= set(chapter.drawings())
    text = site.page("row/attention/grouped-query.html")
    assert "<svg" in text and "Choose it when" in text and "chapter/attention-and-transformers.html" in text
    assert "KV bytes" in text and "true by construction" in text


@pytest.mark.parametrize("name", chapter.texts())
def test_a_text_has_the_length_of_a_chapter(name):
    """Of its own words: what was measured is not counted, a number is one word."""
    body = chapter.texts()[name].read_text("utf-8").split("---\n", 2)[2]
    own = chapter.PLACE.sub(lambda found: "" if found[1].startswith(("verdict", "cell", "figure")) else "1", body)
    assert 2000 <= len(own.split()) <= 4000


def test_a_number_that_cannot_be_computed_is_named():
    with pytest.raises(SpecError, match=r"here: 1 / 0: division by zero"):
        chapter.filled("{{ 1 / 0 : .2f }}", "here")
    with pytest.raises(SpecError, match="ffn/swiglu"):
        chapter.filled("{{ verdict ffn/swigl }}", "here")
    with pytest.raises(SpecError, match="says 'colder'"):
        chapter.filled("{{ verdict ffn/swiglu | colder }}", "here")
    with pytest.raises(SpecError, match="attention_steps"):
        chapter.drawing("attention_step")


def test_numbers_are_put_in():
    assert chapter.filled("---\na = 3\nb = a * 2.5\n---\nof {{ b }}, {{ b : .2f }} and {{ a }}", "here") == (
        "of 7.5, 7.50 and 3"
    )


def test_the_thirty_questions_are_answered_where_they_say(site):
    """A question is answered where one place of the text has a sentence for each of its points."""
    asked, page = read_toml(QUESTIONS)["question"], GUIDE.read_text("utf-8")
    assert len(asked) == 30
    for question in asked:
        name, _, heading = question["place"].partition("#")
        told = " ".join(section(chapter.filled(chapter.texts()[name].read_text("utf-8"), name), heading).split())
        assert len(question["quotes"]) == len(question["points"])
        shown = next(line for line in page.splitlines() if line.startswith(f"| {question['ask']} |"))
        assert f"chapter/{name}.html#{chapter.place(heading)}`" in shown
        assert f'id="{chapter.place(heading)}"' in site.page(f"chapter/{name}.html")
        for quote in question["quotes"]:
            assert quote.replace("|", "\\|") in shown
            assert quote in told, (question["ask"], quote)


def section(text, heading):
    """The text below a heading, with its smaller headings."""
    start = re.search(rf"^(#+) +{re.escape(heading)}$", text, flags=re.MULTILINE)
    end = re.search(rf"^#{{1,{len(start[1])}}} ", text[start.end() :], flags=re.MULTILINE)
    return text[start.end() :][: end.start() if end else None]


def test_a_row_with_a_plain_form_shows_it_before_the_fast_one(site):
    for row, name in (("tokenizer/bpe", "plain_bpe.py"), ("serve/kv-cache", "plain.py"), ("decode/beam", "plain.py")):
        text = site.page(f"row/{row}.html")
        assert 0 < text.index(f"{name}</code>: the same results") < text.index("<h2>Source</h2>")
    assert "In its shortest form" not in site.page("row/optim/adam.html")
