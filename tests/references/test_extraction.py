"""Row data/extraction: F1 beside trafilatura and resiliparse on the same pages, and planted structure recovered."""

from __future__ import annotations

import gzip
import html
import json
import statistics
from collections import Counter

import pytest
from _planted import LONG, SITE, planted
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.registry import build
from llmanac.data.extractors._score import Match, match, score


def text_of(page: str | bytes, name: str = "structured") -> str:
    return build("extractor", name).extract(page).text


def article(body: str) -> str:
    """What is found of an article's body inside a site, and nothing of the site."""
    found = text_of(SITE.format(body))
    for word in (
        "Home of",
        "First",
        "cookies",
        "Tweet",
        "Popular",
        "Another story",
        "Nice article",
        "Copyright",
        "color",
    ):
        assert word not in found
    return found


def test_f1_beside_the_backends(shared_data) -> None:
    folder = shared_data / "extraction"
    marked = {k: v.get("articleBody") or "" for k, v in json.loads((folder / "ground-truth.json").read_text()).items()}
    names = ["structured"]
    for name in ("trafilatura", "resiliparse"):
        pytest.importorskip(name)
        names.append(name)
    keys = sorted(marked)[::3]
    pages = {key: gzip.decompress((folder / "html" / f"{key}.html.gz").read_bytes()).decode("utf-8") for key in keys}
    f1 = {n: score(match(marked[key], text_of(pages[key], n)) for key in keys).f1 for n in names}
    everything = score(match(marked[key], all_text(pages[key])) for key in keys).f1
    assert f1["structured"] >= 0.93, f1
    assert f1["structured"] >= f1["resiliparse"], f1
    assert everything < 0.75, "taking all text would do"


def all_text(page: str) -> str:
    """The text of a page without any choice: what doing nothing gives."""
    import lxml.html

    root = lxml.html.document_fromstring(page.encode("utf-8"), parser=lxml.html.HTMLParser(encoding="utf-8"))
    for element in root.xpath("//script|//style|//noscript"):
        element.drop_tree()
    return root.text_content()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a b c d e", "b c d e f", "", "a", "é ü x y z q"]),
            st.sampled_from(["a b c d e", "x a b c d", "", "a", "é ü x y z q é ü x y"]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_f1_equals_its_definition(pairs) -> None:
    """Against the benchmark's own way: normalised counts over the union of the shingles."""

    def grams(text: str) -> list[tuple[str, ...]]:
        words = text.split()
        return [g for i in range(max(1, len(words) - 3)) if (g := tuple(words[i : i + 4]))]

    precisions, recalls = [], []
    for want, have in pairs:
        a, b = Counter(grams(want)), Counter(grams(have))
        tp = fp = fn = 0.0
        for gram in set(a) | set(b):
            tp, fp, fn = tp + min(a[gram], b[gram]), fp + max(0, b[gram] - a[gram]), fn + max(0, a[gram] - b[gram])
        total = tp + fp + fn or 1
        tp, fp, fn = tp / total, fp / total, fn / total
        if tp + fp > 0:
            precisions.append(1.0 if fp == fn == 0 else tp / (tp + fp))
        if tp + fn > 0:
            recalls.append(1.0 if fp == fn == 0 else tp / (tp + fn))
    matches = [match(want, have) for want, have in pairs]
    if not precisions or not recalls:
        with pytest.raises(ValueError, match="nothing"):
            score(matches)
        return
    found = score(matches)
    assert found.precision == pytest.approx(statistics.mean(precisions))
    assert found.recall == pytest.approx(statistics.mean(recalls))
    assert match("a b c d e", "a b c d") == Match(1, 0, 1)


def test_headings_paragraphs_and_quotes() -> None:
    body = f"<h1>The <em>main</em> one</h1><p>{LONG}</p><h2 id=x>Part<a href='#x' class=headerlink>¶</a></h2>"
    body += "<p>One<br>two</p><h3>Small</h3><blockquote><p>Said so.</p><p>And more.</p></blockquote><hr><p>End.</p>"
    assert article(body) == (
        f"# The main one\n\n{LONG.strip()}\n\n## Part\n\nOne\ntwo\n\n### Small\n\n> Said so.\n>\n> And more.\n\nEnd."
    )


def test_lists() -> None:
    body = f"<p>{LONG}</p><ul><li>One</li><li>Two <b>bold</b><ul><li>in a</li><li>in b<ol><li>deep</li></ol></li></ul>"
    body += "</li><li><p>Three</p></li></ul><ol start=3><li>third</li><li>fourth</li></ol>"
    assert article(body) == (
        f"{LONG.strip()}\n\n- One\n- Two bold\n  - in a\n  - in b\n    1. deep\n- Three\n\n3. third\n4. fourth"
    )


def test_tables() -> None:
    body = f"<p>{LONG}</p><table><caption>Cap</caption><thead><tr><th>A</th><th>B|C</th><th></th></tr></thead><tbody>"
    body += "<tr><td>1</td><td>x<br>y</td><td>2</td></tr><tr><td colspan=2>wide</td><td>3</td></tr>"
    body += "<tr><td rowspan=2>tall</td><td>4</td><td>5</td></tr><tr><td>6</td><td>7</td></tr></tbody></table>"
    assert article(body) == (
        f"{LONG.strip()}\n\nCap\n\n| A | B\\|C |  |\n| --- | --- | --- |\n| 1 | x y | 2 |\n| wide |  | 3 |\n"
        "| tall | 4 | 5 |\n|  | 6 | 7 |"
    )


def test_a_table_that_lays_out_the_page_is_no_table() -> None:
    page = f"<html><body><table><tr><td><h2>Head</h2><p>{LONG}</p><p>{LONG}</p></td></tr></table></body></html>"
    assert text_of(page) == f"## Head\n\n{LONG.strip()}\n\n{LONG.strip()}"


@pytest.mark.parametrize(
    "code",
    ["def f(x):\n    return  x\n\n\ny = f(1)", "a\tb", "x = '```'\n````", "if (a < b && c > d) { <T>; }", "  indented"],
)
def test_code(code: str) -> None:
    fence = "`````" if "````" in code else "```"
    written = html.escape(code)
    for pre in (
        f'<pre><code class="language-c++">{written}</code></pre>',
        f'<pre class="c++ language-c++">\n{written}\n</pre>',
        f'<div class="highlight-c++ notranslate"><div class="highlight"><pre><span></span>{written}</pre></div></div>',
        f'<div class="highlight highlight-source-c++"><pre>{written}</pre></div>',
        f'<pre class="brush: c++"><button>Copy</button><span class="lineno">1</span>{written}</pre>',
    ):
        assert article(f"<p>{LONG}</p>{pre}<p>{LONG}</p>") == (
            f"{LONG.strip()}\n\n{fence}c++\n{code}\n{fence}\n\n{LONG.strip()}"
        )
    assert article(f"<p>{LONG}</p><pre>{written.replace(chr(10), '<br>')}</pre>").endswith(f"{fence}\n{code}\n{fence}")


@pytest.mark.parametrize("seed", range(40))
def test_planted_structure_is_recovered(seed: int) -> None:
    parts = planted(seed)
    assert article("".join(part.source for part in parts)) == "\n\n".join(part.expected for part in parts)


def test_a_page_without_an_article_keeps_what_it_has() -> None:
    page = "<html><body><h1>Title</h1><ul><li>one</li><li>two</li></ul><pre>x = 1</pre></body></html>"
    assert text_of(page) == "# Title\n\n- one\n- two\n\n```\nx = 1\n```"
    assert text_of("<p>Only this.") == "Only this."


def test_structure_beside_the_longest_part_stays() -> None:
    parts = ["<ul><li>one</li><li>two</li></ul>", "<pre>x = 1</pre>", "<table><tr><td>a</td><td>b</td></tr></table>"]
    inside = "".join(f"<div>{part}</div>" for part in parts)
    expected = "- one\n- two\n\n```\nx = 1\n```\n\n| a | b |\n| --- | --- |"
    for body in (f"<div><p>{LONG}</p></div>{inside}", f"{inside}<div><p>{LONG}</p></div>"):
        assert expected in article(body)


def test_a_heading_above_the_content() -> None:
    page = SITE.format(f"<header><h1>Head</h1><p>By me, today</p></header><div><p>{LONG * 3}</p></div>")
    extractors = {choice: build("extractor", "structured", heading=choice) for choice in ("inside", "always")}
    text = {choice: extractor.extract(page).text for choice, extractor in extractors.items()}
    assert text["inside"] == (LONG * 3).strip()
    assert text["always"] == "# Head\n\n" + text["inside"]
    inside = SITE.format(f"<h1>Head</h1><p>{LONG}</p>")
    assert all(e.extract(inside).text == f"# Head\n\n{LONG.strip()}" for e in extractors.values())


def test_layout_words_do_not_drop_content() -> None:
    for name in (
        "has-sidebar",
        "no-comments",
        "post tag-news category-share-market",
        "elementor-widget-text",
        "comments-open",
    ):
        page = (
            f"<html><body><div class='{name}'><p>{LONG}</p></div><div class='{name}'><p>{LONG}</p></div></body></html>"
        )
        assert text_of(page).count("This is a sentence") == 8, name


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<meta charset=utf-8><p>Größe</p>".encode(), "Größe"),
        ("<p>Größe</p>".encode(), "Größe"),
        ("<p>Größe “so” €</p>".encode("cp1252"), "Größe “so” €"),
        ("<meta charset='iso-8859-1'><p>“so” €</p>".encode("cp1252"), "“so” €"),
        (
            '<meta http-equiv="Content-Type" content="text/html; charset=shift_jis"><p>日本語</p>'.encode("shift_jis"),
            "日本語",
        ),
        ("<meta charset=windows-1251><p>Привет</p>".encode("cp1251"), "Привет"),
        ("<p>Größe</p>".encode("utf-16"), "Größe"),
        (b"\xef\xbb\xbf<p>x</p>", "x"),
        ("<meta charset=nonsense><p>Größe</p>".encode(), "Größe"),
        ("<meta charset=utf-16><p>Größe</p>".encode(), "Größe"),
        ("<meta charset=latin1><p>Größe</p>".encode(), "GrÃ¶ÃŸe"),
        ("<p>a&#1;b\x00c&#0;</p>", "abc\ufffd"),
        ("<p>Größe &amp; &eacute; &#8364; &#x41;</p>", "Größe & é € A"),
    ],
)
def test_encodings(page, expected: str) -> None:
    assert text_of(page) == expected
