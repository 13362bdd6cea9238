"""Row data/extraction: F1 beside trafilatura and resiliparse on the same pages, and planted structure recovered."""

from __future__ import annotations

import gzip
import html
import json
import os
import statistics
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from _forked import executables
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


@settings(max_examples=40, deadline=None)
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


SAID = "The article says this in a sentence of its own, which is long enough to count as a paragraph. "
READER = "A reader answers at some length, since every reader has an opinion of his own. "


def page_with(*parts: str, title: str = "") -> str:
    return f"<html><head><title>{title}</title></head><body>{''.join(parts)}</body></html>"


def test_comments_that_outweigh_the_article() -> None:
    article = f"<div class=post><p>{SAID * 3}</p><p>{SAID * 2}</p></div>"
    comments = f"<div id=comments><ol>{f'<li class=item><p>{READER * 4}</p></li>' * 6}</ol></div>"
    for page in (page_with(article, comments), page_with(f"<div>{article}<section>{comments}</section></div>")):
        assert "A reader" not in text_of(page)
        assert text_of(page).count("The article") == 5
    kommentare = comments.replace("comments", "kommentare")
    assert "A reader" not in text_of(page_with(article, kommentare))
    assert text_of(page_with(comments)).count("A reader") == 24, "a page of comments and nothing else"
    letters = f"<div class=comment><p>{SAID * 4}</p><p>{SAID * 4}</p><p>{SAID * 4}</p></div>"
    assert text_of(page_with(f"<p>{SAID * 3}</p>", letters)).count("The article") == 15, (
        "a comment column's own article"
    )


def test_a_container_of_links_keeps_the_paragraph_in_it() -> None:
    links = "".join(f"<li><a href=/{i}>Another page of this site, number {i}</a></li>" for i in range(60))
    inside = f"<div><p>{SAID}</p><ul>{links}</ul></div>"
    found = text_of(page_with(f"<article><p>{SAID * 9}</p>{inside}</article>"))
    assert found.count("The article") == 10
    assert "Another page" not in found
    mixed = f"<ul><li>{SAID}</li>{links}</ul>"
    assert text_of(page_with(f"<article><p>{SAID * 9}</p>{mixed}</article>")).count("The article") == 10


def test_an_article_in_two_parts() -> None:
    first, rest = f"<p>{SAID * 3}</p>", f"<p>{SAID * 6}</p>" * 3
    same = f"<div><div class='body one'>{first}</div><div class='body two'>{rest}</div></div>"
    assert text_of(page_with(same)).count("The article") == 21
    loose = f"<div>{f'<p>{SAID}</p>' * 3}<div class=more>{rest}</div></div>"
    assert text_of(page_with(loose)).count("The article") == 21


def test_the_list_of_a_site_does_not_widen_the_content() -> None:
    header = "<header><div><ul><li>Welcome to the site of all sites</li><li>Second</li></ul></div></header>"
    notice = f"<div><p>{READER}</p></div>"
    assert text_of(page_with(f"<div>{header}{notice}<div class=x><p>{SAID * 8}</p></div></div>")) == (SAID * 8).strip()
    side = "<td><table><tr><td>Day</td><td>12</td></tr></table></td>"
    row = f"<table><tr><td><p>{SAID * 5}</p><p>{SAID}</p></td>{side}</tr></table>"
    assert text_of(page_with(row)) == f"{(SAID * 5).strip()}\n\n{SAID.strip()}"


def test_the_content_that_main_or_article_holds() -> None:
    blurb = f"<section><p>{READER * 3}</p></section>"
    for tag, end in (("main", "main"), ("article", "article"), ("div role=main", "div")):
        inside = f"<{tag}><h2>Part</h2><div><p>{SAID * 3}</p></div><div class=y><p>{SAID * 3}</p></div></{end}>"
        found = text_of(page_with(f"<div>{blurb}{inside}{blurb}</div>"))
        assert found.count("The article") == 6 and "A reader" not in found, tag


def test_a_caption_beside_the_text_stays_out() -> None:
    caption = f"<div class=image><img src=x><p>{READER * 2}</p></div>"
    found = text_of(
        page_with(f"<div class=element>{caption}<div class=text><p>{SAID * 4}</p><p>{SAID * 2}</p></div></div>")
    )
    assert found.count("The article") == 6 and "A reader" not in found


def test_links_that_lead_nowhere_are_text() -> None:
    page = page_with(
        f"<div><p><a href='javascript:void(0)'>{SAID * 3}</a></p><a href='JavaScript:;'><p>{SAID}</p></a></div>"
    )
    assert text_of(page).count("The article") == 4


def test_the_heading_that_repeats_the_title() -> None:
    head = "<p>Home, News, Today</p><h1>The <em>great</em> thing happened</h1>"
    page = page_with(
        f"<article>{head}<p>{SAID * 4}</p><h2>Part</h2><p>{SAID}</p></article>", title="The great thing happened | Site"
    )
    rest = f"{(SAID * 4).strip()}\n\n## Part\n\n{SAID.strip()}"
    assert text_of(page) == rest
    always = build("extractor", "structured", heading="always").extract(page)
    assert always.text == f"# The great thing happened\n\n{rest}"
    assert always.title == "The great thing happened | Site"
    late = page_with(
        f"<article><p>{SAID * 8}</p><h1>The great thing happened</h1><p>{SAID}</p></article>",
        title="The great thing happened",
    )
    assert "# The great" in text_of(late), "below the text it is a part's heading"


@pytest.mark.parametrize(
    "around",
    [
        "<nav>{}",
        "<footer>{}</footer>",
        "<div style='visibility:hidden'>{}</div>",
        "<div aria-hidden=true>{}</div>",
        "<div class=modal>{0}</div><div class=modal>{0}</div><div class=modal>{0}</div>",
    ],
)
def test_a_page_that_is_all_inside_what_is_left_out(around: str) -> None:
    assert SAID.strip() in text_of(page_with(around.format(f"<p>{SAID * 3}</p><p>{SAID}</p>"), "<p>Notice</p>"))
    beside = page_with(f"<div><p>{SAID * 5}</p></div>", around.format(f"<p>{READER}</p>"))
    assert "A reader" not in text_of(beside)


def test_an_inset_is_not_the_text() -> None:
    inset = f"<aside><h6><a href=/b>Another story of ours</a></h6><p>{READER}</p></aside>"
    assert text_of(page_with(f"<div><p>{SAID * 5}</p>{inset}<p>{SAID}</p></div>")).count("A reader") == 0


def test_teasers_with_a_kicker_before_the_link() -> None:
    teaser = (
        f"<div><h4><span>Opinion</span> <a href=/b>Why all of this came as no surprise</a></h4><p>{READER}</p></div>"
    )
    found = text_of(page_with(f"<div id=story><p>{SAID * 9}</p><p>{SAID * 3}</p>{teaser * 3}</div>"))
    assert found.count("The article") == 12 and "A reader" not in found
    long = teaser.replace(READER, SAID * 8)
    assert text_of(page_with(f"<div id=story><p>{SAID * 4}</p>{long * 3}</div>")).count("The article") == 28


def test_letters_in_a_number_are_no_words() -> None:
    for name in ("e1ad", "7nav", "a3Ad"):
        page = page_with(f"<article><p>{SAID * 9}</p><p id={name}>{SAID}</p></article>")
        assert text_of(page).count("The article") == 10, name


def test_a_short_paragraph_that_is_a_link() -> None:
    found = text_of(page_with(f"<article><p>{SAID * 3}</p><p><a href=/a>Anna Smith</a></p><p>{SAID}</p></article>"))
    assert found.split("\n\n")[1] == "Anna Smith"


def test_the_benchmark_says_which_sets_are_not_there(tmp_path: Path) -> None:
    for number in range(6):
        folder = tmp_path / "test" / "test-pages" / f"page-{number}"
        folder.mkdir(parents=True)
        (folder / "source.html").write_text(page_with(f"<article><p>{SAID * 4}</p></article><nav>Site</nav>"))
        (folder / "expected.html").write_text(f"<div><p>{SAID * 4}</p><script>x</script></div>")
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "extract.py"
    there = {"LLMANAC_READABILITY": str(tmp_path), "LLMANAC_SHARED_DATA": str(tmp_path / "none")}
    done = subprocess.run(
        [executables() / "python", script, "--only", "extract-f1-sets", "--only", "extract-f1"],
        env={**{k: v for k, v in os.environ.items() if k != "LLMANAC_NEWS"}, **there},
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    found = {one["name"]: one for one in json.loads(done.stdout.splitlines()[-1])["results"]}
    assert found["extract-f1"]["ours"] is None and "news-unseen" in found["extract-f1"]["more"]["not_there"]
    for name in ("news-seen", "news-unseen"):
        assert found[f"extract-f1-{name}"]["ours"] is None
    sets = [found[f"extract-f1-readability-{name}"] for name in ("seen", "unseen")]
    assert [one["ours"] for one in sets] == [1.0, 1.0]
    assert sum(one["more"]["pages"] for one in sets) == 6 and all(one["more"]["interval"] == [1, 1] for one in sets)
