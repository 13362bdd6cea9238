"""Mock interviews that a chat model grades: measured first on answers with known points, else the rubric alone."""

from __future__ import annotations

import html
import json
import random
from datetime import UTC, date, datetime, timedelta

import pytest
from _chat_servers import chat_server
from sklearn.metrics import cohen_kappa_score
from starlette.testclient import TestClient
from test_guide import TOKEN, form

from llmanac import cli
from llmanac.core import files
from llmanac.evaluate.grading import LEAST, Reliability, grade, reliability
from llmanac.guide import mock
from llmanac.guide.app import create_app
from llmanac.guide.demos import Models
from llmanac.guide.progress import Review, ReviewLog
from llmanac.guide.question import find

SENTENCES = {(find(q).ask, point): text for q, told in files.read_toml(mock.GOLD).items()
             for point, text in zip(find(q).rubric, told["points"], strict=True)}  # fmt: skip


def parts(prompt):
    """(question, answer, point) of a request to grade."""
    question, _, rest = prompt.partition("[Question]\n")[2].partition("\n\n[Answer of a candidate]\n")
    answer, _, rest = rest.partition("\n\n[Point]\n")
    return question, answer, rest.partition("\n\nDoes")[0]


class Rater:
    """An answerer that errs in a share of its grades."""

    name = identity = "a rater"
    kept = 1

    def __init__(self, errs, answer=None):
        self.rng, self.errs, self.fixed, self.said = random.Random(1), errs, answer, []

    def choose(self, prompts, choices):
        out = []
        for prompt in prompts:
            question, answer, point = parts(prompt)
            right = SENTENCES[question, point] in answer
            out.append(self.fixed or ("yes" if right != (self.rng.random() < self.errs) else "no"))
        self.said += out
        return out


def test_the_gold_answers_have_known_points():
    gold = mock.gold()
    assert len(gold) == 60 and len({one.answer for one in gold}) == 60
    for one in gold:
        there = [SENTENCES[one.question, point] in one.answer for point in one.rubric]
        assert tuple(there) == one.held and grade(Rater(0), one.question, one.answer, one.rubric) == list(one.held)
    share = sum(sum(one.held) for one in gold) / sum(len(one.held) for one in gold)
    assert 0.4 < share < 0.8 and gold == mock.gold()


@pytest.mark.parametrize(("errs", "usable"), [(0.0, True), (0.1, True), (0.3, False), (0.5, False)])
def test_kappa_over_points_decides(errs, usable):
    rater, gold = Rater(errs), mock.gold()
    found = reliability(rater, gold)
    known = [held for one in gold for held in one.held]
    assert found.kappa == pytest.approx(cohen_kappa_score(known, [said == "yes" for said in rater.said]))
    assert found.usable == usable == (found.kappa >= LEAST) and found.low <= found.kappa <= found.high
    assert (found.answers, found.points) == (60, len(known))


@pytest.mark.parametrize("answer", ["yes", "no", "perhaps"])
def test_a_model_that_says_one_thing_grades_nothing(answer, tmp_path):
    found = reliability(Rater(0, answer), mock.gold())
    assert not found.usable and found.kappa in (None, pytest.approx(0.0))
    kept = ReviewLog(tmp_path / "p.sqlite")
    kept.keep(mock.KEPT, json.dumps({"path": "m", **Reliability("m", None, None, None, 60, 240).as_json()}))
    assert "one grade" in mock.Grader("m", kept).note() and not mock.Grader("m", kept).usable
    assert "was not measured" in mock.Grader("other", kept).note()


def interview(client):
    """The questions of a mock interview's page, and the page."""
    page = client.get("/mock.html?role=any&level=any").text
    return page.partition('name="asked" value="')[2].partition('"')[0].split(), html.unescape(page)


def test_an_interview_is_graded_by_a_measured_model_alone(tmp_path, capsys):
    def answer(prompt, texts):
        if "[Point]" not in prompt:
            return texts[0] if texts else "The sea is blue."
        question, given, point = parts(prompt)
        right = SENTENCES.get((question, point), "first")
        return next((t for t in texts or ["yes", "no"] if ("yes" if right in given else "no") in t), "no")

    place = tmp_path / "p.sqlite"
    with chat_server("openai", answer) as (address, asked):
        client = TestClient(create_app(ReviewLog(place), token=TOKEN, models=Models(small=True), grader=address),
                            base_url="http://127.0.0.1:8090")  # fmt: skip
        names, page = interview(client)
        assert "was not measured" in page and 'value="model"' not in page and "45 minutes" in page
        given = {f"answer/{name}": "first" for name in names[:2]}
        client.post("/mock", **form(asked=" ".join(names), by="model", **given))
        assert asked == [], "an answer is not sent to a model that was not measured"
        with pytest.raises(SystemExit) as ended:
            cli.main(["question", "grader", address, "--progress", str(place)])
        said = capsys.readouterr().out
        assert ended.value.code == 0 and "kappa 1.00" in said and f"Next: llmanac guide --grader {address}" in said
        names, page = interview(client)
        assert "kappa 1.00" in page and 'value="model"' in page and f'name="answer/{names[0]}"' in page
        told = html.unescape(
            client.post("/mock", **form(asked=" ".join(names), by="model", **{f"answer/{names[0]}": "first"})).text
        )
        before = len(ReviewLog(place).reviews())
    written = "a long answer\n<b>of mine"
    full = {f"answer/{name}": "\u4e2d" * 8000 for name in names}  # as long as the page lets it be
    lost = client.post("/mock", **form(asked=" ".join(names), by="model", **{**full, f"answer/{names[1]}": written}))
    assert lost.status_code == 200 and "Not graded" in lost.text and html.escape(written) in lost.text
    assert f'name="asked" value="{" ".join(names)}"' in lost.text and len(ReviewLog(place).reviews()) == before
    one, other = find(names[0]), find(names[1])
    lines = {q.name: told.partition(f"<li>{q.ask}")[2].partition("</li>")[0] for q in (one, other)}
    count = sum((one.ask, point) not in SENTENCES for point in one.rubric)
    assert f"{count} of {len(one.rubric)} points" in lines[one.name]
    assert f"Missing: {'; '.join(other.rubric)}." in lines[other.name]
    assert f"And what about this: {other.rubric[0]}?" in lines[other.name]


def test_progress_goes_along_and_days_are_counted(tmp_path):
    kept, today = ReviewLog(tmp_path / "a.sqlite"), date.today()
    noon = datetime.combine(today, datetime.min.time(), UTC) + timedelta(hours=12)
    assert kept.streak(today) == 0
    for ago in (0, 1, 2, 4):
        kept.merge([Review("question/bits-per-byte", noon - timedelta(days=ago), 3)])
    assert kept.streak(today) == 3 and kept.streak(today + timedelta(days=1)) == 3
    assert kept.streak(today + timedelta(days=2)) == 0
    kept.set_interview(today + timedelta(days=9))
    one, other = (
        TestClient(create_app(ReviewLog(tmp_path / name), token=TOKEN), base_url="http://127.0.0.1:8090")
        for name in ("a.sqlite", "b.sqlite")
    )
    page = one.get("/").text
    assert "Days in a row</dt><dd>3<" in page and "New today, of the plan" in page
    written = one.get("/progress.json")
    assert "attachment" in written.headers["content-disposition"]
    sent = {"data": {"token": TOKEN}, "files": {"file": ("progress.json", written.content)}}
    assert other.post("/import", **sent).status_code == 200
    assert ReviewLog(tmp_path / "b.sqlite").document() == kept.document() != {}
    for bad in (b"[]", b"{", b'{"version": 1, "reviews": [{"item": "x"}]}', b"\xff"):
        assert other.post("/import", **{**sent, "files": {"file": ("p", bad)}}).status_code == 400
    lie = {"item": "question/bits-per-byte", "at": "2026-01-01", "rating": 4}
    lies = [
        {"item": item} for item in ("javascript:alert(1)//", "question/\ud800", "question/a\0", "question/" + "x" * 200)
    ]
    lies += [{"at": at} for at in ("9999-12-31T23:59:59", "0001-01-01T00:00:00+14:00", "1970-01-01", "2999-01-01")]
    for one_lie in lies:
        said = {"version": 1, "interview": "2030-01-01", "reviews": [lie, {**lie, **one_lie}]}
        bad = {**sent, "files": {"file": ("p", json.dumps(said))}}
        assert (answer := other.post("/import", **bad)).status_code == 400 and "review 2" in answer.text, one_lie
    assert other.get("/").status_code == 200
    assert ReviewLog(tmp_path / "b.sqlite").document() == kept.document(), "a part of a bad file was kept"
    assert other.post("/import", data={"token": "x"}, files=sent["files"]).status_code == 403
