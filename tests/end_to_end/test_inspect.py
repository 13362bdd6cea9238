"""`llmanac benchmark inspect`: every property on models that are run and on stored results, and bad input."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
from _engine_models import ByteTokenizer
from _small_models import randomise, transformer
from scipy import stats

from llmanac.cli import main
from llmanac.core.errors import DataError, SpecError
from llmanac.core.spec import make_method
from llmanac.evaluate._benchmark_rows import items_of, questions_of
from llmanac.evaluate.answering import Local
from llmanac.evaluate.inspection import hidden, min_k, variants
from llmanac.evaluate.likelihood import loglikelihood
from llmanac.evaluate.load import load_benchmark
from llmanac.evaluate.properties import Answers, difficulty, leaked, separates, usefulness
from llmanac.generate.engine import Engine

OWN = """
title = "Colours"
description = "Name it. "
prompt = "Q: {{question}} {{hint}}\\nA:"
[data]
files = ["colours.jsonl"]
[shots]
count = 2
[choices]
texts = "options"
gold = "answer"
"""
WRITTEN = """
title = "Written"
prompt = "{{question}}"
[data]
files = ["colours.jsonl"]
[generation]
stop = ["\\n"]
length = 4
references = "options[0]"
metrics = ["squad"]
"""


@pytest.fixture(scope="module")
def models():
    return [
        Engine(randomise(transformer(dim=16, max_length=256, vocab_size=260), i).double().eval(), ByteTokenizer())
        for i in range(3)
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch, models):
    rows = [{"question": f"colour {i}", "hint": "now", "options": ["red", "green", "blue"], "answer": i * i % 3}
            for i in range(10)]  # fmt: skip
    (tmp_path / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own.toml").write_text(OWN)
    (tmp_path / "written.toml").write_text(WRITTEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "llmanac.evaluate.answering.load_local", lambda path, **_: Local(models["abc".index(path)], path, path)
    )
    return tmp_path


def run(*arguments, expect=0):
    try:
        main([*map(str, arguments)])
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    assert code == expect


def test_models_that_are_run_and_stored_results_say_the_same(folder, capsys):
    run("benchmark", "inspect", "own.toml", "--models", "a,b,c", "--against", "written.toml", "--seeds", 1)
    shown = " ".join(re.findall(r"[^\s│]+", capsys.readouterr().out))
    for part in ("item-rest", "distinct-1, 2, 3", "self-BLEU", "examples drawn", "order of examples", "batch size",
                 "always choice", "the question hidden", "not measur", "Next: llmanac"):  # fmt: skip
        assert part in shown
    found = json.loads((folder / "inspected" / "own.json").read_text())["properties"]
    assert (folder / "inspected" / "own.svg").read_text().startswith("<svg ")
    run("evaluate", "a", "b", "--benchmarks", "own.toml", "-o", "ab")
    run("evaluate", "c", "--benchmarks", "own.toml", "-o", "c")
    capsys.readouterr()
    run("benchmark", "inspect", "own.toml", "--results", "ab,c", "-o", "stored", "--json")
    kept = json.loads(capsys.readouterr().out)
    assert kept["difficulty"] == found["difficulty"] and len(kept["difficulty"]["models"]) == 3
    assert "not_measured" in kept["reproducibility"] and kept["diversity"] == found["diversity"]
    lines = [[json.loads(line)["scores"]["acc"] for line in (folder / name).read_text().splitlines()]
             for name in ("ab/items/own.A.jsonl", "ab/items/own.B.jsonl", "c/items/own.A.jsonl")]  # fmt: skip
    scores = np.array(lines)
    assert [one["value"] for one in found["difficulty"]["models"]] == pytest.approx(scores.mean(1).tolist())
    rests = [stats.pearsonr(scores[:, i], np.delete(scores, i, 1).sum(1))[0] for i in range(10)
             if scores[:, i].std() and np.delete(scores, i, 1).sum(1).std()]  # fmt: skip
    if rests:
        assert found["difficulty"]["item_rest"]["mean"] == pytest.approx(np.mean(rests), abs=1e-12)
    else:  # what was trained to the same answers tells no items apart
        assert "not_measured" in found["difficulty"]["item_rest"]
    again = found["reproducibility"]
    assert again["spread"]["batch size"]["deviation"] == pytest.approx(0, abs=1e-12)  # in float64
    assert {row["kind"] for row in again["variants"]} == {"examples drawn", "order of examples", "format", "batch size"}
    place = max(range(3), key=lambda k: sum(i * i % 3 == k for i in range(10)))
    assert found["artefacts"]["rows"][0]["value"] == pytest.approx(np.mean([i * i % 3 == place for i in range(10)]))


def test_the_same_examples_come_in_another_order(folder):
    own = load_benchmark("own.toml")[1]
    made = {(kind, label): other for kind, label, other in variants(own, 2, 2)}
    plain, other = items_of(own, folder), items_of(made["order of examples", "seed 1"], folder)
    assert plain != other
    for a, b in zip(plain, other, strict=True):
        assert sorted(a.prompt.removeprefix("Name it. ").split("\n\n")) == sorted(
            b.prompt.removeprefix("Name it. ").split("\n\n")
        )
    assert not any(kind in ("examples drawn", "order of examples") for kind, _, _ in variants(own, 0, 2))
    assert questions_of(own, folder)[3] == ("now", "colour 3")  # what the prompt's own fields say, by name


def test_a_hidden_question_leaves_the_choices(folder, models):
    own = load_benchmark("own.toml")[1]
    items, model = items_of(own, folder), Local(models[0], "a", "a")
    found = hidden(model, "own", own, items, "acc")
    totals = [
        one.total
        for one in loglikelihood(models[0].model, models[0].tokenizer, [("", f" {t}") for t in items[0].choices])
    ]
    best = int(np.argmax(totals))
    assert found["value"] == np.mean([best in item.golds for item in items])
    written = load_benchmark("written.toml")[1]
    assert "not_measured" in hidden(model, "written", written, items_of(written, folder), "exact match")


def ability(skills, chance=0.25, items=300, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Answers("x", f"m{i}", "acc", tuple(map(str, range(items))),
                (rng.random(items) < chance + (1 - chance) * skill).astype(float), chance)
        for i, skill in enumerate(skills)
    ]  # fmt: skip


def test_ranks_count_where_models_beat_chance():
    skills = np.linspace(0.05, 0.7, 12)
    one, two = ability(skills), ability(skills, seed=1)
    found = usefulness(one, two)
    expected = stats.spearmanr([a.value for a in one], [a.value for a in two])[0]
    assert found["spearman"]["value"] == pytest.approx(expected) and found["spearman"]["low"] > 0.5
    assert found["kendall"]["value"] == pytest.approx(
        stats.kendalltau([a.value for a in one], [a.value for a in two])[0]
    )
    guessed = usefulness(one, ability([0.0] * 12, seed=2))
    assert "noise" in guessed["not_measured"] and "spearman" not in guessed
    assert "at least 3 models" in usefulness(one[:2], two)["not_measured"]
    wrong = sum(any(a.above_chance(12) for a in ability([0.0] * 12, seed=s)) for s in range(100))
    assert wrong <= 14  # all twelve together at 5%
    assert difficulty(one)["item_rest"]["mean"] > 0.15 > abs(difficulty(ability([0.3] * 12))["item_rest"]["mean"])


def test_planted_leaks_are_found_and_separated(folder):
    rng = random.Random(0)
    pool = [f"{a}{b}{c}" for a in "bdklm" for b in "aeiou" for c in "nrst"]
    questions = [(" ".join(rng.choices(pool, k=20)),) for _ in range(40)]
    texts = [" ".join(rng.choices(pool, k=60)) for _ in range(40)] + [f"so {one[0]} it" for one in questions[:20]]
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found, report = leaked(questions, [str(i) for i in range(40)], ["train.jsonl"])
    assert found["found"] == found["found_wholly"] == 20 and all(
        one.fraction == (i < 20) for i, one in enumerate(report.items)
    )
    tokenizer = ByteTokenizer()
    aucs = []
    for given in (texts, texts[:40]):
        model = make_method("lm", {"name": "ngram", "order": 4}).build(vocab_size=260)
        model.estimate([np.array(tokenizer.encode(text), np.int32) for text in given], start=tokenizer.eos_id)
        scores = min_k(Local(Engine(model, tokenizer), "n", "n"), [one[0] for one in questions], label=None)
        aucs.append(separates(report, scores)["auc"])
    assert aucs[0] > 0.75 > aucs[1]


def test_bad_input_is_named(folder, capsys):
    run("evaluate", "a", "--benchmarks", "own.toml", "-o", "r")
    for given, message in (
        (["own.toml", "--models", "a", "--metric", "f1"], "--metric f1: own has none"),
        (["own.toml", "--results", "nothing"], "nothing/results.json"),
        (["written.toml", "--results", "r"], "r: has no results of written; it has own"),
        (["own.toml", "--against", "own.toml"], "is the benchmark itself"),
        (["piqa", "--models", "a"], "--data: name the folder"), (["pika"], "did you mean 'piqa'"),
        (["own.toml", "-o", "colours.jsonl"], "is a file"), (["own.toml", "--train", "none.txt"], "none.txt"),
    ):  # fmt: skip
        run("benchmark", "inspect", *given, expect=2)
        assert message in capsys.readouterr().err
    (folder / "r/items/own.A.jsonl").write_text('{"item": "x"}\n')
    run("benchmark", "inspect", "own.toml", "--results", "r", expect=2)
    assert "own.A.jsonl:1: is no item" in capsys.readouterr().err
    run("benchmark", "inspect", "written.toml", "-o", "w")  # without a model: the questions alone
    assert "needs models" in capsys.readouterr().out
    with pytest.raises(DataError, match="no item in common"):
        difficulty([*ability([0.5]), Answers("x", "o", "acc", ("other",), np.ones(1), 0.25)])
    with pytest.raises(SpecError):
        make_method("metric", {"name": "min-k", "k": 2})
