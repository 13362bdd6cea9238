"""The guide: every row has a page, links resolve, nothing in a text becomes HTML, and foreign forms are refused."""

from __future__ import annotations

import contextlib
import re
import runpy
import shlex
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlencode, urljoin

import pytest
from _pages import blocks
from starlette.testclient import TestClient

from llmanac import cli
from llmanac.core import catalogue, registry
from llmanac.core.errors import SpecError
from llmanac.guide import markdown
from llmanac.guide.app import MAX_BODY, POLICY, create_app
from llmanac.guide.demos import Models, demos
from llmanac.guide.exercise import exercises, find
from llmanac.guide.explorables import FOLDER, explorables
from llmanac.guide.pages import PARTS, pages
from llmanac.guide.progress import ReviewLog
from llmanac.guide.question import questions
from llmanac.guide.search import search
from llmanac.guide.site import TEMPLATES, Site

MOST_LACKING = {"explanation": 0, "source": 0, "paper": 8, "test": 2, "evidence": 192, "question": 46}
TOKEN = "a-token-of-this-start"
SOURCE = re.compile(r'<pre tabindex="0" class="source">.*?</pre>', re.DOTALL)


class Page(HTMLParser):
    """Links, ids, and what accessibility needs.

    Attributes:
        bad: what is wrong: handlers and styles in attributes, pictures and controls without a name, headings that
            leave out a level, a place in the keyboard's order of its own, an empty head of a table.
    """

    NAMED = ("a", "button", "th", "summary", "label", "legend", "h1", "h2", "h3", "h4", "title", "caption", "option")

    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.tags, self.labels, self.inputs, self.bad = [], [], [], [], [], []
        self.level, self.open = 0, []
        self.feed(text)
        self.close()

    def handle_data(self, data):
        for entry in self.open:
            entry[1] += data.strip()

    def handle_endtag(self, tag):
        if self.open and self.open[-1][0] == tag:
            name, text = self.open.pop()
            self.bad += [] if text else [f"empty <{name}>"]

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        if tag in self.NAMED:
            self.open.append([tag, found.get("aria-label", "")])
        if re.fullmatch(r"h[1-6]", tag):
            self.bad += [f"{tag} after h{self.level}"] if int(tag[1]) > self.level + 1 else []
            self.level = int(tag[1])
        self.bad += ["tabindex"] if found.get("tabindex", "0") not in ("0", "-1") else []
        self.bad += ["no lang"] if tag == "html" and found.get("lang") != "en" else []
        self.bad += ["svg without a name"] if tag == "svg" and not found.get("aria-label") else []
        self.links += [found[k] for k in ("href", "src", "action") if k in found]
        self.ids += [found["id"]] if "id" in found else []
        self.labels += [found["for"]] if tag == "label" else []
        if tag in ("input", "textarea", "select") and found.get("type") != "hidden":
            self.inputs.append(found.get("id"))
        self.bad += [k for k in found if k.startswith("on") or k == "style"]
        self.bad += ["img without alt"] if tag == "img" and not found.get("alt") else []
        self.bad += ["javascript:"] if any("javascript:" in str(v) for v in found.values()) else []


EXPORT = "llmanac guide --export site"  # the command of docs/guide.md


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guide")
    with contextlib.chdir(folder), pytest.raises(SystemExit) as ended:
        cli.main(shlex.split(EXPORT)[1:])
    assert ended.value.code == 0
    return folder / "site"


def test_the_folder_is_small(exported):
    sizes = {path: path.stat().st_size for path in exported.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 15e6 and all(n < 300_000 for path, n in sizes.items() if path.suffix == ".html")
    for name in explorables():
        page = (exported / f"explore/{name}.html").read_text("utf-8")
        assert "module" not in page and all(
            (exported / "explore" / file).is_file() for file in explorables()[name].order
        )
    for path in FOLDER.glob("*.js"):
        assert not re.search(
            r"\b(fetch|import|Worker|XMLHttpRequest|https?:(?!//www\.w3\.org/2000/svg))\b", path.read_text("utf-8")
        )


def test_every_chapter_leads_to_practice(exported):
    for path in sorted((exported / "chapter").glob("*.html")):
        text = path.read_text("utf-8").partition('id="practice"')[2]
        assert "../question/" in text
        deep = "s.html" if path.stem == "interview-preparation" else "/"  # its own rows are of this guide
        assert f"../exercise{deep}" in text and ("../explorables.html" if deep != "/" else "../explore/") in text
    linked = "".join(path.read_text("utf-8") for path in (exported / "chapter").glob("*.html"))
    for kind, known in (("exercise", exercises()), ("question", questions()), ("explore", explorables())):
        assert not [name for name in known if f'"../{kind}/{name}.html"' not in linked], kind


def test_every_row_and_method_has_a_page(exported):
    names = {entry.id for entry in catalogue.entries()}
    assert names == pages().keys() >= catalogue.rows().keys()
    for name in names:
        assert (exported / "row" / f"{name}.html").is_file()
    page = (exported / "row/position/rope.html").read_text()
    source = (registry.PACKAGE / "models/positions/rope.py").read_text()
    for expected in ("Su et al", 'id="L1"', f'id="L{source.count(chr(10))}"', "test_", "evidence/", "llmanac show"):
        assert expected in page
    with pytest.raises(SpecError, match="exists"):
        Site().export(exported)
    page = (exported / "kind/mixer.html").read_text()
    assert "row/mixer/latent.html" in page and "evidence" in page


def test_what_pages_lack_may_only_become_less():
    lacking = {part: sum(part in page.lacks for page in pages().values()) for part in PARTS}
    assert all(lacking[part] <= most for part, most in MOST_LACKING.items()), lacking


def test_rows_of_the_almanac_lack_nothing():
    """Every row that is done has an explanation, source, paper, test, evidence and a question."""
    lacking = {id: pages()[id].lacks for id, row in catalogue.rows().items() if row.status == "done"}
    assert len(lacking) >= 168 and not any(lacking.values()), {id: lacks for id, lacks in lacking.items() if lacks}


def test_links_resolve_and_pages_are_accessible(exported):
    files = {p.relative_to(exported).as_posix() for p in exported.rglob("*") if p.is_file()}
    assert {f"{p}" for p in Site().paths()} <= files
    for name in sorted(f for f in files if f.endswith(".html")):
        text = (exported / name).read_text("utf-8")
        assert len(text.encode()) < 200_000, name
        text = SOURCE.sub("", text)  # its lines link to themselves
        page = Page(text)
        assert not page.bad and set(page.inputs) <= set(page.labels), (name, page.bad)
        assert all(page.tags.count(tag) == 1 for tag in ("h1", "main", "nav")), name
        assert len(page.ids) == len(set(page.ids)), name
        for link in page.links:
            if link.startswith(("https://", "http://", "data:")):
                continue
            place, _, fragment = link.partition("#")
            target = unquote(urljoin(f"/{name}", place).lstrip("/")) if place else name
            assert target in files, (name, link)
            if fragment:
                assert fragment in (page.ids if target == name else Page((exported / target).read_text()).ids)
        assert "http" not in "".join(re.findall(r"<(?:script|link|img)[^>]*>", text)), "nothing from elsewhere"


def test_live_pages_are_accessible(tmp_path):
    """One of each with forms; the others are those of the export."""
    kept = ReviewLog(tmp_path / "p.sqlite")
    site = Site(TOKEN, kept, Models(small=True))
    names = [f"demo/{name}.html" for name in demos()]
    names += ["index.html", "mock.html", "paths.html", "placement.html", "plan.html", "search.html"]
    names += ["evidence/quantization/page.html", "exercise/elo.html", "questions.html", "exercises.html"]
    names += [f"question/{name}.html" for name in list(questions())[:10]]
    for name in names:
        text = site.page(name, params={"level": "senior"})
        page = Page(text)
        assert not page.bad and set(page.inputs) <= set(page.labels), (name, page.bad, page.inputs)
        assert len(page.ids) == len(set(page.ids)) and len(text.encode()) < 200_000, name
        assert text.count('method="post"') == text.count('name="token"'), name


def luminance(colour):
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def blended(colour, below):
    """#rrggbbaa over #rrggbb."""
    share = int(colour[7:9] or "ff", 16) / 255
    mixed = (int(colour[n : n + 2], 16) * share + int(below[n : n + 2], 16) * (1 - share) for n in (1, 3, 5))
    return "#" + "".join(f"{round(v):02x}" for v in mixed)


def test_contrast_is_that_of_wcag_aa():
    """Links, text on marked tokens and on code, in a light page and in a dark one; lines of charts have 3 to 1."""
    style = (TEMPLATES / "style.css").read_text("utf-8")
    light, dark = re.findall(r"--link: (#\w{6})", style)
    shades = re.findall(r"\.p\d \{ background: (#\w{8})", style)
    assert len(shades) == 4

    def contrast(one, other):
        low, high = sorted([luminance(one), luminance(other)])
        return (high + 0.05) / (low + 0.05)

    for page, text, link in (("#ffffff", "#000000", light), ("#121212", "#ffffff", dark)):
        assert contrast(link, page) >= 4.5
        assert all(contrast(text, blended(shade, page)) >= 4.5 for shade in [*shades, "#88888811"])
        assert contrast("#0072b2", page) >= 3


def test_text_is_escaped():
    said = markdown.render(
        "# A <b>\n\n<script>x</script> [a](javascript:1) `<i>` ![p](x.svg)\n\n| a | b |\n| --- | --- |\n| 1 | <u> |\n"
        "\n- one\n  more\n- two\n\n```\n<pre>\n```\n\n    indented <x>\n",
        lambda to: "ok" if to == "x.svg" else None,
    )
    assert "<script" not in said and "<b>" not in said and "<u>" not in said and "javascript" not in said
    for part in ('<img src="ok" alt="p">', "<code>&lt;i&gt;</code>", "<li>one more</li>", "<td>1</td>", "&lt;pre&gt;"):
        assert part in said
    assert markdown.render("text\n" + "|" * 5000 + "[" * 5000)


def test_search():
    assert search("rotary")[0].path.startswith("row/position/rope")
    assert "row/attention/flash.html" in {hit.path for hit in search("flash attention")}
    assert search("zzzz") == search("") == [] and len(search("the")) <= 50
    for asked, wanted in (
        ("Why is a KV cache needed, and how large is it?", "question/kv-cache-size.html"),
        ("KV cache", "row/serve/kv-cache.html"),
        ("what does beam search do as a tree", "demo/beam.html"),
        ("LoRA: low-rank adaptation", "row/finetune/lora.html"),
        ("nucleus sampling", "exercise/top-p.html"),
        ("reinforcement learning chapter", "chapter/reinforcement-learning.html"),
    ):
        assert wanted in [hit.path for hit in search(asked)[:15]], asked
    for asked, wanted in (  # as they are asked: other forms of the words, abbreviations, compounds
        ("How does FlashAttention avoid storing the attention matrix?", "question/flash-exactness.html"),
        ("Why is prefill compute-bound while decode is memory-bound?", "question/decode-bound.html"),
        ("How would you combine keyword search and embeddings in a RAG system?", "question/rank-fusion.html"),
        ("What does ZeRO stage 3 shard, and what does it cost in communication?", "question/sharded-states.html"),
    ):
        assert wanted in [hit.path for hit in search(asked)[:5]], asked
    for name, question in list(questions().items())[::10]:
        assert search(question.ask)[0].path == f"question/{name}.html"


@pytest.fixture
def client(tmp_path):
    app = create_app(ReviewLog(tmp_path / "p.sqlite"), token=TOKEN)
    return TestClient(app, base_url="http://127.0.0.1:8090", follow_redirects=False)


def form(**fields):
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return {"content": urlencode({"token": TOKEN, **fields}), "headers": headers}


def test_pages_are_served_with_a_policy(client):
    for path in ("/", "/row/position/rope.html", "/search.html?query=%3Cscript%3E", "/exercise/elo.html", "/style.css"):
        answer = client.get(path)
        assert answer.status_code == 200 and answer.headers["content-security-policy"] == POLICY
        assert "<script>" not in answer.text
    figure = next(Path(registry.PACKAGE / "evidence_results").glob("*/chart-1.svg"))
    assert client.get(f"/evidence/{figure.parent.name}/chart-1.svg").headers["content-type"] == "image/svg+xml"
    wrong = ("/row/none/none.html", "/evidence/../catalogue.svg", "/evidence/..%2f..%2fx.svg", "/row/..%2f..%2fx.html",
             "/templates/base.html", "/evidence/kv_cache/..%2fchart.svg", "/page.html")  # fmt: skip
    for path in wrong:
        assert client.get(path).status_code == 404, path
    assert client.put("/").status_code == 405


def test_an_answer_is_checked_and_kept(client, tmp_path):
    wrong = client.post("/exercise/elo.html", **form(code=find("elo").mistake.replace("\n", "\r\n")))
    assert wrong.status_code == 200 and "Not right" in wrong.text and "common mistake" in wrong.text
    right = client.post("/exercise/elo.html", **form(code=find("elo").solution))
    assert "Passed: 3 of 3" in right.text
    hostile = client.post("/exercise/elo.html", **form(code="</textarea><script>alert(1)</script>"))
    assert "<script>alert" not in hostile.text and "&lt;/textarea&gt;" in hostile.text
    assert len(ReviewLog(tmp_path / "p.sqlite").reviews()) == 3
    assert "exercise/elo" in client.get("/").text


@pytest.mark.parametrize(
    "change, status",
    [
        ({"token": "another"}, 403),
        ({"token": ""}, 403),
        ({"host": "evil.example"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"path": "/exercise/none.html"}, 404),
        ({"path": "/"}, 404),
        ({"body": b"\xff\xfe"}, 400),
        ({"body": b"&".join(b"a=1" for _ in range(50))}, 400),
        ({"body": b"code=" + b"x" * (MAX_BODY + 1)}, 413),
    ],
)
def test_foreign_and_broken_forms_are_refused(client, tmp_path, change, status):
    given = form(code=find("elo").solution, **({"token": change["token"]} if "token" in change else {}))
    given["headers"] |= {k: v for k, v in change.items() if k in ("host", "origin", "content-type")}
    given["content"] = change.get("body", given["content"])
    answer = client.post(change.get("path", "/exercise/elo.html"), **given)
    assert answer.status_code == status and not (tmp_path / "p.sqlite").exists()


def test_the_token_is_in_forms_alone_and_differs(tmp_path):
    texts = [TestClient(create_app(ReviewLog(tmp_path / "p.sqlite")), base_url="http://localhost").get(
        f"/exercise/{next(iter(exercises()))}.html").text for _ in range(2)]  # fmt: skip
    tokens = [re.findall(r'name="token" value="([^"]+)"', text) for text in texts]
    assert all(len(t) == 1 and len(t[0]) >= 32 for t in tokens) and tokens[0] != tokens[1]


def test_a_question_is_rated_in_a_form(client, tmp_path):
    name = next(iter(questions()))
    page = client.get(f"/question/{name}.html").text
    assert "In two minutes" in page and 'value="good"' in page
    assert client.post("/review", **form(item=f"question/{name}", rating="good")).headers["location"] == "/index.html"
    for wrong in ({"item": "question/none", "rating": "good"}, {"item": f"question/{name}", "rating": "5"}, {}):
        assert client.post("/review", **form(**wrong)).status_code == 400
    assert [r.item for r in ReviewLog(tmp_path / "p.sqlite").reviews()] == [f"question/{name}"]


def test_every_command_of_the_page_runs(root, tmp_path, monkeypatch, capsys):
    """In this process: starting one for each would take most of the time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMANAC_PROGRESS", str(tmp_path / "kept.sqlite"))
    ran = 0
    for block in blocks((root / "docs/guide.md").read_text("utf-8")):
        if block.language == "python":
            (tmp_path / block.file).write_text(block.text)
        for command in block.commands:
            if command == EXPORT:  # as `exported` does
                continue
            program, *arguments = shlex.split(command)
            if program == "python":
                runpy.run_path(arguments[0])
                continue
            with pytest.raises(SystemExit) as ended:
                cli.main(arguments)
            said = capsys.readouterr()
            assert ended.value.code == 0 and "Next: " in said.out, (command, said)
            ran += 1
    assert ran >= 13 and EXPORT in (root / "docs/guide.md").read_text("utf-8")
