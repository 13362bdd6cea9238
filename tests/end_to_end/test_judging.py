"""`llmanac rate --judge`: a chat model compares or scores answers; its biases, its agreement with known labels."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from _chat_servers import chat_server

from llmanac.cli import main
from llmanac.core.errors import DataError, SpecError
from llmanac.evaluate.judging import judge, judged, length_bias, more, write_gold
from llmanac.evaluate.preferences import Questions, Rating
from llmanac.evaluate.ratings import RatingStore, read_ratings, report
from llmanac.evaluate.verdict.judged import verdict
from llmanac.metrics.agreement import cohen, cohen_interval

COUNT = 40


class Made:
    """A judge whose answer is a function of the two texts that it is shown."""

    name = identity = "made"
    kept = 1

    def __init__(self, choose):
        self.of, self.asked = choose, []

    def choose(self, prompts, choices):
        self.asked += prompts
        return [self.of(*(part.partition("]\n")[2].split("\n\n")[0] for part in prompt.split("[Answer")[1:]))
                for prompt in prompts]  # fmt: skip


def questions(seed=0):
    draw = random.Random(seed)
    prompts = [f"Question {i}?" for i in range(COUNT)]
    return Questions(prompts, {name: [f"{name} {draw.randint(1, 9)} " + "x" * draw.randint(0, 60) for _ in prompts]
                               for name in ("one", "two")})  # fmt: skip


def value(text):
    return int(text.split()[1])


def better(a, b):
    return "A" if value(a) > value(b) else "B" if value(a) < value(b) else "tie"


JUDGES = {  # what it answers, and how often both orders agree
    "fair": (better, 1.0), "first": (lambda a, b: "A", 0.0), "second": (lambda a, b: "I prefer (B).", 0.0),
    "tie": (lambda a, b: "tie", 1.0), "silent": (lambda a, b: "Both are fine answers.", 0.0),
    "longer": (lambda a, b: "A" if len(a) > len(b) else "B", None),
}  # fmt: skip


@pytest.mark.parametrize("name", JUDGES)
def test_a_comparison_counts_where_both_orders_agree(name, tmp_path):
    asked = questions()
    asked.save(tmp_path)
    store = RatingStore(tmp_path, asked, "compare")
    model = Made(JUDGES[name][0])
    judge(model, store)
    assert len(model.asked) == 2 * COUNT and len(store.ratings) == COUNT
    (row,) = judged(tmp_path)
    found = report(store.ratings)["win_rates"][0]
    if name in ("first", "second", "silent", "tie"):
        assert found["ties"] == COUNT and row["unreadable"] == (2 * COUNT if name == "silent" else 0)
    if JUDGES[name][1] is not None:
        assert row["orders_agree"]["value"] == JUDGES[name][1]
    if name in ("first", "second"):
        assert row["first_preferred"]["value"] == float(name == "first")
    if name == "fair":
        texts = [[asked.answers[model][i] for model in ("one", "two")] for i in range(COUNT)]
        wins = sum(value(a) > value(b) for a, b in texts)
        assert found["wins"] == wins and found["ties"] == sum(value(a) == value(b) for a, b in texts)
    if name == "longer":
        bias = length_bias(asked, store.ratings)
        assert bias["longer_preferred"]["value"] == 1.0 and bias["coefficient"] is None
    again = Made(JUDGES[name][0])
    judge(again, RatingStore(tmp_path, asked, "compare"))  # all is there
    assert not again.asked


def test_a_stopped_judge_goes_on(tmp_path):
    asked = questions()
    asked.save(tmp_path)
    model = Made(better)

    def stops(prompts, choices, plain=model.choose):
        if len(model.asked) >= 20:
            raise KeyboardInterrupt
        return plain(prompts, choices)

    model.choose = stops
    with pytest.raises(KeyboardInterrupt):
        judge(model, RatingStore(tmp_path, asked, "compare"))
    rest = Made(better)
    store = RatingStore(tmp_path, asked, "compare")
    judge(rest, store)
    assert len(rest.asked) == 2 * COUNT - 20 and len(read_ratings(tmp_path / "ratings.jsonl")) == COUNT


def test_a_half_written_judgement_and_another_rubric(tmp_path):
    asked = questions()
    asked.save(tmp_path)
    judge(Made(better), RatingStore(tmp_path, asked, "compare"), "Which is kinder?")
    for name in ("judgements.jsonl", "ratings.jsonl"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-9])
    judge(rest := Made(better), RatingStore(tmp_path, asked, "compare"), "Which is kinder?")
    assert len(rest.asked) == 2 and judged(tmp_path)[0]["asked"] == 2 * COUNT
    for rubric in ("", "Which is shorter?"):
        with pytest.raises(SpecError, match=r"--rubric: .*judgements.jsonl answers another one"):
            judge(Made(better), RatingStore(tmp_path, asked, "compare"), rubric)


def test_a_judge_that_was_trained_anew_is_another(tmp_path):
    """Its name is the same, and what it answered before is not what it says now."""
    asked = questions()
    asked.save(tmp_path)
    judge(Made(better), RatingStore(tmp_path, asked, "compare"))
    changed = Made(lambda a, b: "A")
    changed.identity = "made anew"
    with pytest.raises(SpecError, match=r"--judge: .*judgements.jsonl has what made answered before its files changed"):
        judge(changed, RatingStore(tmp_path, asked, "compare"))
    changed.name = "another"
    judge(changed, RatingStore(tmp_path, asked, "compare"))
    assert len(changed.asked) == 2 * COUNT


def test_the_bias_for_length_is_what_was_planted():
    """Choices drawn with b = 1.5 of the log ratio of lengths: the interval holds it; a fair judge's holds 0."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(10, 400, (2, 1500))
    asked = Questions(
        [f"{i}" for i in range(1500)], {n: ["x" * k for k in row] for n, row in zip("ab", lengths, strict=True)}
    )
    ratio = np.log((lengths[0] + 1) / (lengths[1] + 1))
    for b in (1.5, 0.0, -0.7):
        first = draw.random(1500) < 1 / (1 + np.exp(-b * ratio))
        ratings = [Rating("j", i, ("a", "b"), "left" if won else "right") for i, won in enumerate(first)]
        found = length_bias(asked, ratings)
        assert found["coefficient"]["low"] < b < found["coefficient"]["high"] < b + 0.35
        assert (found["longer_preferred"]["low"] > 0.5) == (b > 0) and (found["longer_preferred"]["high"] < 0.5) == (
            b < 0
        )
    assert length_bias(asked, [Rating("j", 0, ("a", "b"), "tie")]) is None


def test_kappa_has_the_interval_of_the_bootstrap():
    """Covered about as often as it should be, over draws from one table; the value is unchanged."""
    table = np.array([[0.4, 0.1, 0.02], [0.06, 0.3, 0.02], [0.04, 0.02, 0.04]])
    true = (np.trace(table) - table.sum(0) @ table.sum(1)) / (1 - table.sum(0) @ table.sum(1))
    draw, inside = np.random.default_rng(1), 0
    for _ in range(200):
        cells = draw.choice(9, 150, p=table.ravel() / table.sum())
        low, high = cohen_interval(cells // 3, cells % 3)
        inside += low <= true <= high
        assert low <= cohen(cells // 3, cells % 3) <= high
    assert 180 <= inside <= 199
    assert cohen_interval(["a"] * 9, ["a"] * 9) == (None, None) and math.isnan(cohen(["a"] * 9, ["a"] * 9))


TABLES = {  # judge by gold; a judge that mostly says tie, one that is nearly always right, one that is always A
    "ties": [[0.04, 0.01, 0], [0.01, 0.04, 0], [0.45, 0.45, 0]],
    "good": [[0.47, 0.03, 0], [0.03, 0.47, 0], [0, 0, 0]],
    "chance": [[0.1, 0.1, 0], [0.1, 0.1, 0], [0.3, 0.3, 0]],
}


@pytest.mark.parametrize("count", [10, 50])
@pytest.mark.parametrize("name", TABLES)
def test_kappa_of_few_pairs(name, count):
    """The interval has a width, also where all draws are alike, and holds the true value in 80% of draws at least."""
    table, draw = np.array(TABLES[name]), np.random.default_rng(2)
    chance = table.sum(0) @ table.sum(1)
    true, inside = (np.trace(table) - chance) / (1 - chance), 0
    for _ in range(250):
        cells = draw.choice(9, count, p=table.ravel())
        low, high = cohen_interval(cells // 3, cells % 3)
        if len(set(cells // 3) | set(cells % 3)) == 1:
            assert low is high is None
            continue
        assert high - low > 0.01
        inside += low <= true <= high
    assert inside >= 200 if count == 10 else inside >= 225
    low, high = cohen_interval(["tie"] * count, ["A", "B"] * (count // 2))
    assert low < -0.01 and high > 0.01


def test_a_preferred_place_is_counted_by_question(tmp_path):
    """A judge that names one place in both orders, the first in half of the questions: 100 of them are no 200."""
    inside = 0
    for seed in range(300):
        draw = np.random.default_rng(seed)
        first = draw.random(100) < 0.5
        lines = [{"rater": "j", "item": i, "models": ["a", "b"], "choices": ["A", "A"] if one else ["B", "B"]}
                 for i, one in enumerate(first)]  # fmt: skip
        (tmp_path / "judgements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        (found,) = judged(tmp_path)
        share = found["first_preferred"]
        assert share["value"] == pytest.approx(first.mean())
        inside += share["low"] <= 0.5 <= share["high"]
    assert 278 <= inside < 300


@pytest.mark.parametrize("count, ties", [(6, 0.3), (10, 0.6), (40, 0.9), (10, 1.0)])
def test_win_rates_with_ties(count, ties):
    """Of equal models at most 6% are settled; the interval has a width where all are ties."""
    draw, settled = np.random.default_rng(5), 0
    for _ in range(600):
        values = draw.choice(["left", "tie", "right"], count, p=[(1 - ties) / 2, ties, (1 - ties) / 2])
        (found,) = report([Rating("j", i, ("a", "b"), str(one)) for i, one in enumerate(values)])["win_rates"]
        settled += found["settled"]
        assert 0 <= found["low"] < found["value"] < found["high"] <= 1 or found["value"] in (0, 1)
    assert settled <= 36


def test_a_preferred_place_is_said(tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("".join(f"Question {i}?\n" for i in range(12)), "utf-8")
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {i}\n" for i in range(12)), "utf-8")
    for letter, said in (("A", "prefers what is shown first"), ("B", "prefers what is shown second"), ("tie", None)):
        with chat_server("openai", lambda prompt, allowed, letter=letter: letter) as (url, _):
            with pytest.raises(SystemExit) as ended:
                main(["rate", str(tmp_path / "prompts.txt"), "--judge", url, "-o", str(tmp_path / letter),
                      "--answers", f"{tmp_path / 'a.txt'},{tmp_path / 'b.txt'}"])  # fmt: skip
            assert not ended.value.code
        out = " ".join(capsys.readouterr().out.split())
        assert said in out if said else "prefers what" not in out


def test_known_labels(tmp_path):
    asked = questions()
    asked.save(tmp_path)
    store = RatingStore(tmp_path, asked, "compare")
    judge(Made(better), store)
    labels = ["one" if value(a) > value(b) else "two" if value(a) < value(b) else "tie"
              for a, b in zip(*asked.answers.values(), strict=True)]  # fmt: skip
    write_gold(tmp_path, asked, labels)
    (found,) = more(tmp_path, asked, store.ratings)["gold"]
    assert (found["rater"], found["kappa"], found["all_alike"], found["tasks"]) == ("made", 1.0, 1.0, COUNT)
    write_gold(tmp_path, asked, [{"one": 1, "two": 0}.get(label, "tie") for label in labels])  # the other one
    (found,) = more(tmp_path, asked, store.ratings)["gold"]
    assert found["kappa"] < 0 and found["low"] < found["kappa"] < found["high"]
    for wrong in (["three"] * COUNT, [2] * COUNT, [None] * COUNT):
        with pytest.raises(DataError, match="of question 1 is no model"):
            write_gold(tmp_path, asked, wrong)


def run(*arguments, expect=0):
    with pytest.raises(SystemExit) as ended:
        main(["rate", *map(str, arguments)])
    assert (ended.value.code or 0) == expect


def written(folder: Path, asked: Questions, gold=None):
    rows = [{"prompt": text, **({} if gold is None else {"gold": gold[i]})} for i, text in enumerate(asked.prompts)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for name, texts in asked.answers.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"answer": one}) + "\n" for one in texts), "utf-8")


def by_value(prompt, allowed):
    parts = [part.partition("]\n")[2].split("\n\n")[0] for part in prompt.split("[Answer")[1:]]
    answer = better(*parts) if len(parts) == 2 else str(min(5, value(parts[0]))) if parts else "The sea is wide."
    return json.dumps({"answer": answer}) if allowed and parts else allowed[0] if allowed else answer


@pytest.mark.parametrize("constrains", [True, False], ids=["held", "read"])
def test_the_command_with_a_server(constrains, tmp_path, monkeypatch, capsys):
    """Comparisons, the report again from the folder, and a verdict from what it left."""
    monkeypatch.chdir(tmp_path)
    asked = questions(3)
    asked = Questions(asked.prompts, {f"{name}.jsonl": texts for name, texts in asked.answers.items()})
    plain = Questions(asked.prompts, {name.removesuffix(".jsonl"): texts for name, texts in asked.answers.items()})
    written(tmp_path, plain, ["one.jsonl"] * 20 + [1] * 20)
    with chat_server("openai", by_value, constrains=constrains) as (url, _):
        run("prompts.jsonl", "--answers", "one.jsonl,two.jsonl", "--judge", url, "--gold", "gold", "-o", "out")
    said = capsys.readouterr().out
    assert "both orders agree 100%" in said and "known labels: Cohen's kappa" in said and "The longer answer" in said
    assert "Next: llmanac verdict out/scores/0-one.jsonl out/scores/1-two.jsonl" in said
    run("--report", "out", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["judges"][0]["asked"] == 2 * COUNT and found["gold"][0]["tasks"] == COUNT
    made = verdict(tmp_path / "out/scores/0-one.jsonl", tmp_path / "out/scores/1-two.jsonl")
    wins = [better(b, a) for a, b in zip(*asked.answers.values(), strict=True)]
    assert made.comparisons[0].improved == wins.count("A") and made.comparisons[0].worsened == wins.count("B")


def test_scores_by_a_rubric(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = questions(4)
    written(tmp_path, asked)
    (tmp_path / "rubric.txt").write_text("Give the number that the answer has, at most 5.", "utf-8")
    with chat_server("ollama", by_value) as (url, sent):
        run("prompts.jsonl", "--answers", "one.jsonl,two.jsonl", "--mode", "score", "--judge", url, "--rubric",
        "rubric.txt",
            "-o", "out")  # fmt: skip
        assert "Give the number that the answer has" in sent[-1][1]["messages"][0]["content"]
    found = json.loads((tmp_path / "out/scores/0-one.jsonl").read_text("utf-8").splitlines()[0])
    assert found["score"] == min(5, value(asked.answers["one"][0]))
    assert "mean score" in capsys.readouterr().out


@pytest.mark.parametrize(
    "answer", ["", "x" * 2_000_000, "\ud800", '{"answer": ["A"]}', "A or B, who knows"], ids=range(5)
)
def test_answers_of_a_judge_that_cannot_be_read(answer, tmp_path):
    asked = questions()
    asked.save(tmp_path)
    store = RatingStore(tmp_path, asked, "compare")
    judge(Made(lambda a, b: answer), store)
    (row,) = judged(tmp_path)
    assert row["unreadable"] == 2 * COUNT and report(store.ratings)["win_rates"][0]["ties"] == COUNT
    assert (tmp_path / "judgements.jsonl").stat().st_size < 4_000_000


def test_a_damaged_file_of_judgements_is_named(tmp_path):
    (tmp_path / "judgements.jsonl").write_text('{"rater": "a"}\n', "utf-8")
    with pytest.raises(DataError, match=r"judgements.jsonl:1: needs a rater"):
        judged(tmp_path)
