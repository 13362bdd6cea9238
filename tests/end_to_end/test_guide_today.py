"""The day's work and a plan until an interview: kept in the file, exported and imported."""

from __future__ import annotations

import html
import re
from datetime import UTC, date, datetime, timedelta

import pytest
from starlette.testclient import TestClient
from test_guide import TOKEN, form

from llmanac.core import files
from llmanac.core.errors import DataError
from llmanac.guide import plan
from llmanac.guide.app import create_app
from llmanac.guide.demos import Models
from llmanac.guide.exercise import exercises
from llmanac.guide.progress import Review, ReviewLog
from llmanac.guide.question import questions

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def reviewed(*rated):
    return [Review(item, NOW + timedelta(minutes=n), rating) for n, (item, rating) in enumerate(rated)]


def test_the_plan_brings_everything_once_and_weak_chapters_first():
    first = plan.placement()
    assert len(first) == plan.PLACED and len({q.chapter for q in first}) >= 7
    weak = first[3]
    reviews = reviewed(*((f"question/{q.name}", 1 if q.chapter == weak.chapter else 4) for q in first))
    assert plan.weakest(reviews) == weak.chapter and plan.weakest([]) == ""
    days = plan.plan(reviews, date(2026, 3, 11), date(2026, 3, 1))
    items = [item for day in days for item in day.items]
    every = {f"question/{n}" for n in questions()} | {f"exercise/{n}" for n in exercises()}
    assert len(items) == len(set(items)) and set(items) == every - {r.item for r in reviews}
    assert len(days) == 10 and not days[-1].items and days[0].chapters[0] == weak.chapter
    sizes = [len(day.items) for day in days[:-1]]
    assert max(sizes) - min(sizes) <= 1
    assert plan.plan(reviews, date(2026, 3, 1), date(2026, 3, 1)) == []
    assert [len(d.items) for d in plan.plan([], date(2026, 3, 2), date(2026, 3, 1))] == [len(every)]
    tried = reviewed(*((f"exercise/{name}", 3) for name in exercises()))
    assert plan.next_exercise(tried) == "" and plan.next_exercise(tried[1:]) == tried[0].item.partition("/")[2]
    later = reviewed((f"question/{weak.name}", 1), (f"question/{weak.name}", 4))
    assert plan.strengths(later) == {weak.chapter: 4.0}, "the last rating counts"


@pytest.fixture
def client(tmp_path):
    app = create_app(ReviewLog(tmp_path / "p.sqlite"), token=TOKEN, models=Models(small=True))
    return TestClient(app, base_url="http://127.0.0.1:8090", follow_redirects=False)


def test_placement_plan_and_today(client, tmp_path):
    asked = plan.placement()
    assert client.get("/placement.html").text.count("<fieldset>") == len(asked)
    given = {q.name: "good" for q in asked[1:]} | {asked[0].name: "again"}
    assert client.post("/placement", **form(**given)).headers["location"] == "/plan.html"
    day = date.today() + timedelta(days=9)
    assert client.post("/plan", **form(day=day.isoformat())).status_code == 303
    page = client.get("/plan.html").text
    assert str(day - timedelta(days=1)) in page and page.count("<tr>") == 10
    strengths = plan.strengths(ReviewLog(tmp_path / "p.sqlite").reviews())
    assert all(f"{chapter} {value:.1f}" in page for chapter, value in strengths.items()) and min(strengths.values()) < 3
    today = client.get("/").text
    assert (
        f"questions.html#{min(strengths, key=lambda c: (strengths[c], c))}" in today
        and str(day) in today
        and "Next exercise" in today
    )
    kept = ReviewLog(tmp_path / "p.sqlite")
    assert len(kept.reviews()) == len(asked)
    for path, wrong in (
        ("/plan", {"day": "tomorrow"}),
        ("/plan", {"day": "1999-01-01"}),
        ("/placement", {}),
        ("/placement", {asked[0].name: "5"}),
    ):
        assert client.post(path, **form(**wrong)).status_code == 400, path
        assert client.post(path, **form(**wrong, token="another")).status_code == 403
        foreign = form(**wrong)
        foreign["headers"] |= {"origin": "http://evil.example"}
        assert client.post(path, **foreign).status_code == 403
    assert len(kept.reviews()) == len(asked)


def test_a_page_of_evidence_shows_its_figures(client):
    assert "87.10%" in client.get("/evidence/quantization/page.html").text.partition("<article>")[2]


def test_the_day_travels_with_the_reviews(tmp_path):
    one, two = ReviewLog(tmp_path / "1.sqlite"), ReviewLog(tmp_path / "2.sqlite")
    one.merge(reviewed(("question/x", 3)))
    one.set_interview(date(2027, 1, 2))
    assert (
        one.export(tmp_path / "e.json") == 1
        and two.read(tmp_path / "e.json") == 1
        and two.read(tmp_path / "e.json") == 0
    )
    assert two.interview() == date(2027, 1, 2)
    data = files.read_table(tmp_path / "e.json")
    files.write_json(tmp_path / "old.json", {**data, "guesses": [{"place": "a | b | c", "low": 1.0}]})
    assert two.read(tmp_path / "old.json") == 0, "an earlier version's guesses are passed over"
    for wrong in ("soon", 3, ["2027-01-02"]):
        files.write_json(tmp_path / "w.json", {**data, "interview": wrong})
        with pytest.raises(DataError, match=r"w\.json: interview: .* is no day"):
            two.read(tmp_path / "w.json")


def test_a_checked_part_and_a_mock_interview(client, tmp_path):
    q = next(q for q in questions().values() if q.check is not None and q.check.kind == "number")
    path = f"/question/{q.name}.html"
    assert 'name="given"' in client.get(path).text
    right = q.check.right(q.figures())
    assert "Right: " in client.post(path, **form(given=repr(right))).text
    assert "Not right: " in client.post(path, **form(given=repr(2 * right + 1))).text
    assert "&lt;b&gt;" in client.post(path, **form(given="<b>")).text
    assert client.post(path, **form(given="1" * 101)).status_code == 400
    assert client.post(path, **form(given="1", token="x")).status_code == 403
    assert client.get("/mock.html").text.count("<fieldset>") == 0
    page = client.get("/mock.html?role=engineering&level=senior").text
    asked = re.search(r'name="asked" value="([^"]+)"', page)[1].split()
    assert len(asked) == 5 == page.count("<fieldset>")
    assert all(questions()[n].level == "senior" and "engineering" in questions()[n].roles for n in asked)
    full = {f"{asked[0]}/{n}": "on" for n in range(len(questions()[asked[0]].rubric))}
    blocks = page.split("<h2>")[-len(asked) :]
    for name, block in zip(asked, blocks, strict=True):  # what follows the box is hidden while the box is empty
        box, after = (
            block.index(f'<textarea id="{name}" class="answer"'),
            block.index('</textarea>\n<div class="after">'),
        )
        said = [html.escape(text, quote=False) for text in questions()[name].follow_ups]
        assert said and all(html.unescape(block).index(html.unescape(text)) > after > box for text in said)
    assert ".answer:placeholder-shown + .after { display: none; }" in client.get("/style.css").text
    graded = client.post("/mock", **form(asked=" ".join(asked), **full)).text
    assert "What to study" in graded and f"row/{questions()[asked[1]].rows[0]}.html" in graded
    kept = {r.item: r.rating for r in ReviewLog(tmp_path / "p.sqlite").reviews()}
    assert kept == {f"question/{n}": 3 if n == asked[0] else 1 for n in asked}
    for wrong in ({}, {"asked": "none"}):
        assert client.post("/mock", **form(**wrong)).status_code == 400
    assert "paths.html" in client.get("/").text and client.get("/path/transformer.html").text.count("<li>") > 10
    assert client.get("/mock.html?role=%3Cscript%3E").status_code == 200


def test_a_file_that_is_no_progress_is_refused_before_the_guide_opens(tmp_path, capsys):
    from llmanac.cli import main

    (tmp_path / "bad").write_bytes(b"no database" * 30)
    for path, said in ((tmp_path / "bad", "is not a file of reviews"), (tmp_path, "cannot be opened")):
        for command in (["guide"], ["question", "rate", "kv-cache-size", "good"]):
            with pytest.raises(SystemExit):
                main([*command, "--progress", str(path)])
            assert f"{path}: {said}" in capsys.readouterr().err
