"""Pages that are one symbol, entity or phrase over and over are no text; real pages, of any script, are."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from _builds import dropped, rows

from llmanac.core.registry import build
from llmanac.data.documents import Document
from llmanac.data.floods import page_flood, text_flood
from llmanac.data.pipeline.build import build as build_corpus
from llmanac.data.pipeline.recipe import make_recipe
from llmanac.data.stages import Dropped

PROSE = "The harbour was quiet when the last of the boats came in, and nobody spoke of the weather."
RUSSIAN = "Гавань была тиха, когда вернулась последняя лодка, и никто не говорил о погоде."
LAUGHS = '<!DOCTYPE html [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><html><body><p>&b;</p></body></html>'
PAGES = {  # what no reader needs an extractor to refuse
    "less": "<" * 200_000,
    "less in lines": "<html><body>" + "< \n" * 60_000 + "</body></html>",
    "few": "<" * 300,
    "ampersands": "<p>" + "&amp;" * 200_000 + "</p>",
    "spaced": "<p>" + "&#38; " * 50_000 + "</p>",
    "laughs": LAUGHS,
}
TEXTS = {  # what shows only in the text
    "mixed": "<p>" + "&lt;&amp;&gt;" * 30_000 + "</p>",
    "phrase": "<p>" + "Buy it now. " * 20_000 + "</p>",
    "after a while": f"<p>{PROSE}</p><p>" + "< a < b " * 50_000 + "</p>",
}


@pytest.mark.parametrize("name", [*PAGES, *TEXTS])
@pytest.mark.parametrize("extractor", ["structured", "resiliparse"])
def test_the_stage_drops_floods(name: str, extractor: str) -> None:
    if extractor != "structured":
        pytest.importorskip(extractor, reason="needs `pip install llmanac[data]`")
    page = {**PAGES, **TEXTS}[name]
    stage = build("stage", "extraction", extractor=extractor)
    (found,) = stage.apply([Document("x", page, "x", {"format": "html"})])
    assert isinstance(found, Dropped)
    assert found.reason == "no_text"
    assert bool(page_flood(page)) == (name in PAGES)


def test_real_pages_are_none_and_come_out_as_before(shared_data: Path) -> None:
    """All pages of the benchmark; and they would be, were each text written a thousand times over."""
    folder = shared_data / "extraction"
    extractor, stage = build("extractor", "structured"), build("stage", "extraction")
    keys = sorted(json.loads((folder / "ground-truth.json").read_text()))
    seen = 0
    for key in keys:
        page = gzip.decompress((folder / "html" / f"{key}.html.gz").read_bytes()).decode("utf-8")
        assert page_flood(page) == "", key
        text = extractor.extract(page).text
        (found,) = stage.apply([Document(key, page, key, {"format": "html"})])
        assert isinstance(found, Document)
        assert found.text == text
        if 300 < len(text) < 1000:
            assert text_flood(text * 1000), key
            seen += 1
    assert seen


@pytest.mark.parametrize(
    "page",
    [
        # a page that declares characters by name, as XHTML allows, is no bomb
        '<!DOCTYPE html [<!ENTITY nbsp "&#160;"><!ENTITY lt2 "&lt;"><!ENTITY copy "&amp;copy;">]><html><body>'
        f"<p>{PROSE}&nbsp;{RUSSIAN}</p></body></html>",
        # and one that writes about such declarations is none
        f"<!DOCTYPE html [<!ENTITY who 'me'>]><html><body><p>{PROSE}</p><pre>&lt;!ENTITY b \"&amp;a;\"&gt;</pre>"
        "<script>var x = '<!ENTITY b \"&a;&a;\">';</script></body></html>",
        # a picture in an attribute is one long run of few symbols
        f'<html><body><p>{PROSE}</p><img src="data:image/png;base64,{"A" * 400_000}"><p>{PROSE}</p></body></html>',
    ],
)
def test_what_a_page_says_in_tags_and_declarations_is_no_flood(page: str) -> None:
    assert page_flood(page) == ""
    (found,) = build("stage", "extraction").apply([Document("x", page, "x", {"format": "html"})])
    assert isinstance(found, Document) and PROSE in found.text


def test_plain_texts_of_many_kinds_are_none() -> None:
    rng = random.Random(0)
    table = "\n".join(" | ".join(f"{rng.random():.3f}" for _ in range(6)) for _ in range(4000))
    tabs = "\n".join("|" + "".join(rng.choice("-----0235") for _ in range(60)) + "|" for _ in range(400))
    empty = f"<table>{'<tr><td></td><td></td></tr>' * 30_000}</table><p>{PROSE}</p>"
    for text in (PROSE, f"{PROSE}\n" * 20, table, tabs, "*" * 80, "☃", "", "\n" * 100_000, RUSSIAN * 3):
        assert text_flood(text) == "", text[:60]
    coded = "<p>" + "".join(f"&#{ord(letter)};" for letter in RUSSIAN * 40) + "</p>"
    shown = f"<pre>{LAUGHS.replace('<', '&lt;')}</pre><p>{PROSE}</p>"
    declared = f'<!DOCTYPE html [<!ENTITY math "http://w3.org">]><p>{PROSE}</p>'
    for page in (empty, coded, shown, declared, f"<p>{PROSE}</p>" + " " * 1_000_000, f"<p>{PROSE}</p>"):
        assert page_flood(page) == "", page[:60]


def test_a_build_lists_them_with_or_without_extraction(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.html").write_text(f"<p>{PROSE}</p>")
    for name, page in {**PAGES, **TEXTS}.items():
        (tmp_path / "in" / f"{name}.html").write_text(page)
    for stages, lost in (([], PAGES), (["extraction"], {**PAGES, **TEXTS})):
        out = tmp_path / f"out-{len(stages)}"
        build_corpus(make_recipe({"inputs": [str(tmp_path / "in")], "stages": stages}), out, workers=1)
        assert {line["id"] for line in dropped(out)} == {f"{name}.html" for name in lost}
        assert {line["reason"] for line in dropped(out)} <= {"not-text", "no_text"}
        assert "good.html" in [row["id"] for row in rows(out)]
