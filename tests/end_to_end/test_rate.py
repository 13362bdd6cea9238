"""`llmanac rate`: the page's calls and defences, the files, kill -9, the report."""

from __future__ import annotations

import errno
import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter

import evalica
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from starlette.testclient import TestClient

from llmanac.cli import main
from llmanac.core import files
from llmanac.core.errors import DataError, LlmanacError, SpecError
from llmanac.core.lock import locked
from llmanac.evaluate.ratings import Questions, Rating, RatingStore, read_ratings, report
from llmanac.metrics.agreement import fleiss
from llmanac.web.rate import create_rating_app

PROMPTS = [f"say {i}" for i in range(12)]
TOKEN = "secret"
KEY = {"authorization": f"Bearer {TOKEN}"}


def questions(models=("a", "b")):
    return Questions(list(PROMPTS), {name: [f" {name} says {i}" for i in range(12)] for name in models})


def client(store):
    return TestClient(create_rating_app(store, token=TOKEN), base_url="http://127.0.0.1")


@pytest.fixture
def store(tmp_path):
    made = questions()
    made.save(tmp_path)
    return RatingStore(tmp_path, made, "compare", seed=3)


def rate_all(page, rater, wish):
    """Rate every task as `wish(page)` says, and return what was seen."""
    seen = []
    found = page.get("/api/task", params={"rater": rater}, headers=KEY).json()
    while found["number"] is not None:
        seen.append(found)
        sent = {"rater": rater, "number": found["number"], "value": wish(found)}
        found = page.post("/api/rate", json=sent, headers=KEY).json()
    assert found["done"] == found["total"] == len(seen)
    return seen


def better_a(page):
    return "left" if page["answers"][0].startswith(" a") else "right"


def test_a_page_is_rated_blind_and_becomes_preferences(store, tmp_path):
    page = client(store)
    seen = rate_all(page, "Ann", better_a)
    assert not {"left", "right", "models", "model"} & set(seen[0])  # nothing names a model
    sides = Counter(better_a(one) for one in seen)
    assert min(sides.values()) >= 2  # sides change
    order = [one["prompt"] for one in seen]
    assert sorted(order) == sorted(PROMPTS) and order != PROMPTS
    other = rate_all(page, "Bob", lambda one: "tie" if one["prompt"] == "say 4" else better_a(one))
    assert [one["prompt"] for one in other] != order
    rows = [json.loads(line) for line in (tmp_path / "preferences.jsonl").read_text().splitlines()]
    assert rows == [{"prompt": f"say {i}", "chosen": f" a says {i}", "rejected": f" b says {i}"} for i in range(12)]
    # a rating is changed by giving another one; the same seed shows the same
    again = page.get("/api/task", params={"rater": "Ann", "number": 0}, headers=KEY).json()
    assert again["prompt"] == order[0] and again["rated"] == better_a(again)
    for rater in ("Ann", "Bob"):
        number = next(i for i, one in enumerate(seen if rater == "Ann" else other) if one["prompt"] == order[0])
        shown = page.get("/api/task", params={"rater": rater, "number": number}, headers=KEY).json()
        value = "right" if better_a(shown) == "left" else "left"
        page.post("/api/rate", json={"rater": rater, "number": number, "value": value}, headers=KEY)
    rows = [json.loads(line) for line in (tmp_path / "preferences.jsonl").read_text().splitlines()]
    turned = next(row for row in rows if row["prompt"] == order[0])
    assert turned["chosen"].startswith(" b") and len(rows) == 12
    fresh = RatingStore(tmp_path, store.questions, "compare", seed=3)
    assert fresh.shown("Ann")["number"] is None and len(fresh.ratings) == 26


def test_preferences_that_a_death_left_behind_are_written_again(store, tmp_path, capsys):
    rate_all(client(store), "Ann", lambda page: "left")
    file, whole = tmp_path / "preferences.jsonl", (tmp_path / "preferences.jsonl").read_bytes()
    one = whole[: whole.index(b"\n") + 1]
    ratings = tmp_path / "ratings.jsonl"
    kept = ratings.read_bytes()

    def report():
        with pytest.raises(SystemExit, match=r"^0$"):
            main(["rate", "--report", str(tmp_path)])
        return capsys.readouterr().out

    file.write_bytes(one)
    RatingStore(tmp_path, store.questions, "compare", seed=3)
    assert file.read_bytes() == whole
    file.write_bytes(one)
    ratings.write_bytes(kept + b'{"rater": "Ann", "it')  # a kill left it half
    assert "preferences.jsonl: 12 rows" in report() and file.read_bytes() == whole
    file.write_bytes(one)
    with locked(tmp_path / ".lock"):  # a page that runs writes the file itself
        assert "preferences.jsonl: 1 rows" in report() and file.read_bytes() == one
    ratings.write_bytes(kept[:-1])  # whole but for its end: counts
    assert len(read_ratings(ratings)) == 12 == len(RatingStore(tmp_path, store.questions, "compare", seed=3).ratings)
    assert ratings.read_bytes() == kept and file.read_bytes() == whole


def test_blank_answers_make_no_preference_and_are_counted(tmp_path, capsys):
    made = Questions(["x", "y"], {"a": ["one", " "], "b": ["", "two"]})
    made.save(tmp_path)
    store = RatingStore(tmp_path, made, "compare", seed=0)
    rate_all(client(store), "Ann", lambda page: "left")
    assert (tmp_path / "preferences.jsonl").read_text() == ""
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["rate", "--report", str(tmp_path)])
    said = capsys.readouterr().out
    assert "preferences.jsonl: 0 rows; 2 pairs left out, since an answer is blank" in said and "Next" not in said


def test_requests_of_others_are_refused(store, caplog):
    page = client(store)
    ask, sent = "/api/task?rater=Ann", {"rater": "Ann", "number": 0, "value": "left"}
    home = page.get("/")
    assert home.status_code == 200 and "default-src 'none'" in home.headers["content-security-policy"]
    assert TOKEN not in home.text and "innerHTML" not in home.text
    for headers, status in (
        ({}, 401), ({"authorization": "Bearer wrong"}, 401), ({**KEY, "host": "evil.example"}, 403),
        ({**KEY, "origin": "http://evil.example"}, 403), ({**KEY, "origin": "null"}, 403),
    ):  # fmt: skip
        assert page.get(ask, headers=headers).status_code == status
        assert page.post("/api/rate", json=sent, headers=headers).status_code == status
    text = {**KEY, "content-type": "text/plain"}
    assert page.post("/api/rate", content=json.dumps(sent), headers=text).status_code == 415
    assert page.post("/api/rate", json={**sent, "rater": "x" * 5000}, headers=KEY).status_code == 413
    for wrong in (
        {"rater": "Ann"}, [], {**sent, "rater": ""}, {**sent, "rater": "a\nb"}, {**sent, "rater": "x" * 65},
        {**sent, "number": 12}, {**sent, "number": -1}, {**sent, "number": True}, {**sent, "value": "both"},
        {**sent, "value": 3}, {**sent, "value": None}, {**sent, "value": ["left"]}, {**sent, "more": 1},
    ):  # fmt: skip
        found = page.post("/api/rate", json=wrong, headers=KEY)
        assert found.status_code == 400 and found.json()["error"]["message"], wrong
    assert (
        page.post("/api/rate", content=b"[" * 3000, headers={**KEY, "content-type": "application/json"}).status_code
        == 400
    )
    assert page.get(ask + "&number=x", headers=KEY).status_code == 400
    assert page.get("/api/else", headers=KEY).status_code == 404
    assert page.get("/api/rate", headers=KEY).status_code == 405
    assert not store.ratings and not store.path.exists()
    assert not caplog.records  # a client cannot fill the log


def test_scores_of_single_answers(tmp_path):
    made = questions()
    made.save(tmp_path)
    page = client(RatingStore(tmp_path, made, "score"))
    rng = np.random.default_rng(0)
    given = {name: {} for name in ("Ann", "Bob")}
    for rater in given:

        def wish(one, rater=rater):
            value = int(rng.integers(3, 6)) if one["answers"][0].startswith(" a") else int(rng.integers(1, 4))
            given[rater][one["answers"][0]] = value
            return value

        assert len(rate_all(page, rater, wish)) == 24
    found = report(read_ratings(tmp_path / "ratings.jsonl"))
    means = {one["model"]: one["value"] for one in found["scores"]}
    for name, value in means.items():
        assert value == pytest.approx(
            np.mean([v for g in given.values() for t, v in g.items() if t.startswith(f" {name}")])
        )
    labels = [[given[rater][text] for text in given["Ann"]] for rater in given]
    assert found["agreement"]["kappa"] == pytest.approx(cohen_kappa_score(*labels, weights="quadratic"), abs=1e-12)
    rows = [json.loads(line) for line in (tmp_path / "preferences.jsonl").read_text().splitlines()]
    assert 8 <= len(rows) <= 12 and all(row["chosen"].startswith(" a") for row in rows)
    with pytest.raises(SpecError, match="ratings of another kind"):
        RatingStore(tmp_path, made, "compare")


def test_a_report_equals_the_definitions():
    rng, rows = np.random.default_rng(1), []
    for item in range(60):
        for rater in ("x", "y", "z"):
            for left, right in (("a", "b"), ("b", "c"), ("c", "a")):
                won = rng.random() < (0.7 if left < right else 0.3)
                rows.append(
                    Rating(rater, item, (left, right), "tie" if rng.random() < 0.1 else "left" if won else "right")
                )
    found = report(rows)
    one = found["win_rates"][0]
    values = [
        1.0 if r.value == "left" else 0.5 if r.value == "tie" else 0.0 for r in rows if set(r.models) == {"a", "b"}
    ]
    assert (one["model"], one["other"]) == ("a", "b") and one["value"] == pytest.approx(np.mean(values))
    by_item = np.append(np.reshape(values, (60, 3)).mean(1), [0, 1])  # a question won and one lost are added
    assert one["high"] == pytest.approx(by_item.mean() + 1.959964 * by_item.std(ddof=1) / 62**0.5, abs=1e-6)
    assert one["settled"] and one["wins"] + one["ties"] + one["losses"] == 180
    winners = {"left": evalica.Winner.X, "right": evalica.Winner.Y, "tie": evalica.Winner.Draw}
    peer = evalica.bradley_terry([r.models[0] for r in rows], [r.models[1] for r in rows],
                                 [winners[r.value] for r in rows], tolerance=1e-13, limit=100_000).scores  # fmt: skip
    for row in found["bradley_terry"]:
        assert row["rating"] == pytest.approx(1000 + 400 * np.log10(peer[row["model"]]), abs=1e-6)
    labels = {}
    for r in rows:
        name = {"left": r.models[0], "right": r.models[1]}.get(r.value, "tie")
        labels.setdefault(r.task, []).append(name)
    assert found["agreement"]["kappa"] == pytest.approx(fleiss(list(labels.values())))
    # sides do not matter for agreement; a rater who always says left agrees with nobody
    same = [Rating(n, i, ("a", "b") if (i + k) % 2 else ("b", "a"), "left" if (i + k) % 2 else "right")
            for i in range(8) for k, n in enumerate(("x", "y"))]  # fmt: skip
    assert report(same)["agreement"]["all_alike"] == 1.0 and report(same)["win_rates"][0]["value"] == 1.0
    with pytest.raises(DataError, match="there is none"):
        report([])
    with pytest.raises(DataError, match="both comparisons and scores"):
        report([rows[0], Rating("x", 0, ("a",), 3)])


def test_files_that_cannot_be_used(tmp_path, capsys):
    bad = tmp_path / "ratings.jsonl"
    for line, message in (
        ('{"rater": "x", "item": 0, "left": "a", "right": "b", "choice": "both"}', "'both' is not left, right or tie"),
        ('{"rater": "x", "item": 0, "model": "a", "score": 7}', "7 is not a score from 1 to 5"),
        ('{"rater": "x", "item": -1, "model": "a", "score": 1}', "item the number"),
        ('{"rater": "x", "item": 0, "left": "a", "right": "a", "choice": "tie"}', "two models"),
    ):
        bad.write_text(line + "\n")
        with pytest.raises(DataError, match=re.escape(f"{bad}:1: ") + f".*{message}"):
            read_ratings(bad)
    prompts, one = tmp_path / "prompts.txt", tmp_path / "one.txt"
    prompts.write_text("p\nq\n")
    one.write_text("a\nb\n")
    (tmp_path / "two.txt").write_text("a\n")
    for given, message in (
        ([], "PROMPTS: name a file"), ([str(prompts)], "at least two models"),
        ([str(prompts), "--answers", f"{one},{one}"], "each model or file once"),
        ([str(prompts), "--answers", f"{one},{tmp_path / 'two.txt'}"], "two.txt: has 1 answers"),
        ([str(prompts), "--mode", "rank"], "--mode rank"), ([str(prompts), "-o", str(tmp_path)], "something else"),
    ):  # fmt: skip
        given = [*given, *([] if "-o" in given else ["-o", str(tmp_path / "out")])]
        with pytest.raises(SystemExit):
            main(["rate", *given])
        assert message in capsys.readouterr().err
    with pytest.raises(DataError, match="nothing to compare"):
        Questions(["p"], {"a": ["x"], "b": ["x "]}).tasks("compare")
    made = questions()
    made.save(tmp_path / "r")
    RatingStore(tmp_path / "r", made, "compare").rate("x", 0, "left")
    with pytest.raises(SpecError, match="ratings of other questions"):
        questions(("a", "c")).save(tmp_path / "r")


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a file's size are POSIX")
def test_a_rating_that_the_disk_refuses_leaves_no_half_line(tmp_path, monkeypatch):
    import resource

    made = questions()
    made.save(tmp_path)
    store = RatingStore(tmp_path, made, "compare")
    store.rate("Ann", 0, "left")
    kept = store.path.read_bytes()
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) + 20, before[1]))  # there is room for half a line
        with pytest.raises(LlmanacError, match=r"ratings\.jsonl: the system refuses it"):
            store.rate("Ann", 1, "left")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert store.path.read_bytes() == kept

    def full(path, data):
        with files.atomic_file(path):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", full)
        with pytest.raises(LlmanacError, match=r"preferences\.jsonl: cannot write \(No space.*the rating is kept"):
            store.rate("Ann", 1, "left")
    store.rate("Ann", 2, "left")
    assert [one.item for one in RatingStore(tmp_path, made, "compare").ratings] == [
        store.order("Ann")[number].item for number in range(3)
    ]


def test_nothing_is_lost_when_the_server_is_killed(tmp_path):
    """The command itself, over a socket; kill -9 after three ratings, then half a line, then it goes on."""
    for name in ("prompts", "one", "two"):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {i}\n" for i in range(5)))
    command = [sys.executable, "-m", "llmanac.cli", "rate", "prompts.txt", "--answers", "one.txt,two.txt"]

    def started():
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = process.stdout.readline()
        return process, *re.search(r"(http://127\.0\.0\.1:\d+)/#(\S+)", line).groups()

    def ask(url, token, path, body=None):
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        request = urllib.request.Request(url + path, None if body is None else json.dumps(body).encode(), headers)
        return json.load(urllib.request.urlopen(request, timeout=20))

    process, url, token = started()
    try:
        for number in range(3):
            ask(url, token, "/api/rate", {"rater": "Ann", "number": number, "value": "left"})
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(url, "x", "/api/task?rater=Ann")
    finally:
        process.kill()
        process.communicate()
    kept = tmp_path / "ratings" / "ratings.jsonl"
    assert len(kept.read_text().splitlines()) == 3
    assert len((tmp_path / "ratings" / "preferences.jsonl").read_text().splitlines()) == 3
    with open(kept, "a") as file:
        file.write('{"rater": "Ann", "it')
    process, url, token = started()
    try:
        assert ask(url, token, "/api/task?rater=Ann")["done"] == 3
        ask(url, token, "/api/rate", {"rater": "Ann", "number": 3, "value": "tie"})
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode in (0, 130) and "Next: llmanac rate --report" in said and "one.txt" in said
    assert len(read_ratings(kept)) == 4
