"""Function calls against the Berkeley leaderboard's checker and prompts (the package `bfcl-eval`): rows of our own."""

from __future__ import annotations

import json

import pytest
from _harness_envs import logged
from _lm_eval import Canned, write

from llmanac.core.errors import DataError
from llmanac.evaluate._benchmark_rows import items_of
from llmanac.evaluate._calls import calls_in, checked, right_calls
from llmanac.evaluate.evaluation import evaluate
from llmanac.evaluate.load import load_benchmark


def function(name, required=(), **kinds):
    """A description; a kind is a type, or `array of` one."""
    properties = {}
    for key, kind in kinds.items():
        outer, _, inner = kind.partition(" of ")
        properties[key] = {"type": outer, "description": f"The {key}."} | ({"items": {"type": inner}} if inner else {})
    parameters = {
        "type": "dict",
        "properties": properties,
        "required": list(required) if isinstance(required, tuple) else required,
    }
    return {"name": name, "description": f"Does <{name}> & more.", "parameters": parameters}


WEATHER = function("weather.now", ["city"], city="string", days="integer", metric="boolean")
AREA = function("area", ["base", "height"], base="float", height="float", unit="string")
ROUTE = function("route", ["stops"], stops="array of string", weights="array of float", at="tuple of integer")
ORDER = function("order", ["item"], item="dict", extras="array of dict", note="any")
W = "weather.now"
# (category, functions, right calls, answers)
CASES = [
    ("simple_python", [WEATHER], [{W: {"city": ["Rome", "Roma"], "days": [3, ""], "metric": [True, ""]}}], [
        '[weather.now(city="Rome")]', 'weather.now(city="Rome", days=3)',
        '[weather.now(city="rome, ", days=3, metric=True)]',
        '[weather.now(city="Roma", days=4)]', '[weather.now(days=3)]', '[weather.now(city="Rome", days=3.0)]',
        '[weather.now(city="Rome", days="3")]', '[weather.now(city="Rome", metric=False)]',
        '[weather.now(city="Rome", x=1)]',
        '[weather.now("Rome")]', '[weather_now(city="Rome")]', '[now(city="Rome")]', "[]", "", "Rome is warm.",
        '```\n[weather.now(city="Rome")]\n```', '```python\n[weather.now(city="Rome")]\n```', "['weather.now']",
        '[weather.now(city="Rome"), weather.now(city="Rome")]', '[weather.now(city="R-o_m*e")]',
        "[weather.now(city=Rome)]",
        '[weather.now(city="Rome", metric=1)]', '[weather.now(city="Rome", days=True)]',
        '[weather.now(city="Rome", days=1+2)]',
        '[weather.now(city="Rome", city="Rome")]', '(weather.now(city="Rome"))', '[weather.now(city="Rome", days=6/2)]',
        '[weather.now(city=["Rome"])]', '[weather.now(city=None)]', "[weather.now(city='Rome')", '{"city": "Rome"}']),
    ("simple_python", [AREA], [{"area": {"base": [10.0], "height": [-2.5], "unit": ["cm", ""]}}], [
        "[area(base=10, height=-2.5)]", "[area(base=10.0, height=-2.5, unit='cm')]",
        "[area(base=10, height=-2.5, unit='m')]",
        "[area(base='10', height=-2.5)]", "[area(base=10, height=2.5)]", "[area(height=-2.5, base=10)]",
        "[area(base=10)]",
        "[area(base=1e1, height=-2.5)]", "[area(base=True, height=-2.5)]", "[area(base=20/2, height=-2.5)]"]),
    ("simple_python", [ROUTE], [{"route": {"stops": [["Rome", "Oslo"], ["Oslo", "Rome"]], "weights": [[1.0, 2.0], ""],
                                           "at": [[1, 2], ""]}}], [
        '[route(stops=["Rome", "Oslo"])]', '[route(stops=["oslo.", "ROME"])]', '[route(stops=["Rome"])]',
        '[route(stops="Rome")]',
        '[route(stops=[])]', '[route(stops=[1, 2])]', '[route(stops=("Rome", "Oslo"))]',
        '[route(stops=["Rome", "Oslo"], at=(1, 2))]',
        '[route(stops=["Rome", "Oslo"], at=[1, 2])]', '[route(stops=["Rome", "Oslo"], at=(2, 1))]',
        '[route(stops=["Rome", "Oslo"], weights=[1.0, 2.0])]', '[route(stops=["Rome", "Oslo"], weights=[1, 2])]',
        '[route(stops=["Rome", "Oslo"], weights=[1.0])]', '[route(stops=["Rome", "Oslo"], weights=[])]',
        '[route(stops=stops)]', '[route(stops=["Rome", "Oslo"], at=("1", "2"))]', '[route(stops=[["Rome", "Oslo"]])]']),
    ("simple_python", [ORDER], [{"order": {"item": [{"name": ["tea", "Tea pot"], "count": [2, ""]}, {"name": ["cup"]}],
                                           "extras": [[{"a": [1]}, {"b": ["x"]}], ""], "note": ["soon", ""]}}], [
        '[order(item={"name": "tea"})]', '[order(item={"name": "TEA-POT", "count": 2})]',
        '[order(item={"name": "cup"})]',
        '[order(item={"name": "cup", "count": 2})]', '[order(item={"name": "tea", "count": 3})]', '[order(item={})]',
        '[order(item={"count": 2})]', '[order(item="tea")]', '[order(item=["tea"])]',
        '[order(item={"name": "tea", "x": 1})]',
        '[order(item={"name": "tea"}, extras=[{"a": 1}, {"b": "X"}])]',
        '[order(item={"name": "tea"}, extras=[{"a": 1}])]',
        '[order(item={"name": "tea"}, extras=[{"b": "x"}, {"a": 1}])]', '[order(item={"name": "tea"}, extras=[])]',
        '[order(item={"name": "tea"}, note="Soon.")]', '[order(item={"name": "tea"}, note=1)]',
        '[order(item=dict(name="tea"))]']),
    ("multiple", [AREA, WEATHER], [{W: {"city": ["Oslo"], "days": ["", 1], "metric": [""]}}], [
        '[weather.now(city="Oslo")]', "[area(base=1, height=2)]", '[weather.now(city="Oslo"), area(base=1, height=2)]',
        '[weather.now(city="Oslo", metric=True)]', '[weather.now(city="Oslo", days=1)]', "[]"]),
    ("parallel", [WEATHER], [{W: {"city": ["Rome"], "days": [1, ""]}}, {W: {"city": ["Oslo"], "days": [2]}}], [
        '[weather.now(city="Rome"), weather.now(city="Oslo", days=2)]',
        '[weather.now(city="Oslo", days=2), weather.now(city="Rome", days=1)]',
        '[weather.now(city="Rome"), weather.now(city="Oslo")]', '[weather.now(city="Rome")]',
        '[weather.now(city="Rome"), weather.now(city="Rome"), weather.now(city="Oslo", days=2)]',
        'weather.now(city="Rome"), weather.now(city="Oslo", days=2)',
        '[weather.now(city="Rome"), weather.now(city="Rome")]']),
    ("parallel_multiple", [WEATHER, AREA], [{W: {"city": ["Rome"]}}, {"area": {"base": [1.0], "height": [2.0],
    "unit": [""]}}], [
        '[weather.now(city="Rome"), area(base=1, height=2)]', '[area(base=1, height=2), weather.now(city="Rome")]',
        '[area(base=2, height=1), weather.now(city="Rome")]', "[area(base=1, height=2), area(base=1, height=2)]",
        "no"]),
    ("irrelevance", [AREA], [], ["[]", "", "None of the functions fits.", "[area(base=1, height=2)]",
    "area(base=1, height=2)",
                                 "[{}]", "f", "[f]", "[1, 2]", "{}", "[area()]", "(", "[area(1)]", "area", "'[]'"]),
]  # fmt: skip


def rows():
    """In the published form: a file of lines a category, and one of the right calls."""
    for number, (category, functions, truth, _) in enumerate(CASES):
        question = [[{"role": "user", "content": f'Question {number}: "naïve" <b>?'}]]
        yield category, {"id": f"{category}_{number}", "question": question, "function": functions}, truth


@pytest.fixture
def folder(tmp_path):
    made = {}
    for category, row, truth in rows():
        lines = made.setdefault(category, ([], []))
        lines[0].append(row)
        lines[1].append({"id": row["id"], "ground_truth": truth})
    for category, (asked, answers) in made.items():
        write(tmp_path / "bfcl" / f"BFCL_v4_{category}.json", asked)
        if category != "irrelevance":
            write(tmp_path / "bfcl" / "possible_answer" / f"BFCL_v4_{category}.json", answers)
    write(tmp_path / "bfcl" / "BFCL_v4_simple_java.json", [{"id": "java_0", "question": [[]], "function": []}])
    return tmp_path


def test_every_category_is_read(folder):
    """Files of lines that end in .json, right calls by file; other languages are left out."""
    _, own = load_benchmark("bfcl")
    items = items_of(own, folder)
    assert len(items) == len(CASES) - 1 and all("Question" in item.prompt for item in items)
    _, other = load_benchmark("bfcl_irrelevance")
    assert len(items_of(other, folder)) == 1
    for name, spec in (("bfcl", own), ("bfcl_irrelevance", other)):
        chosen = [case for case in CASES if (case[0] == "irrelevance") == (name != "bfcl")]
        chosen.sort(
            key=lambda case: ["multiple", "parallel", "parallel_multiple", "simple_python", "irrelevance"].index(
                case[0]
            )
        )
        found = evaluate(Canned([case[3][0] for case in chosen]), name, items_of(spec, folder), spec)
        assert [score.value for score in found.scores] == [1.0] and found.verdicts[0].extracted is not None
        wrong = evaluate(Canned(["[area(base=0, height=0)]"] * len(chosen)), name, items_of(spec, folder), spec)
        assert [score.value for score in wrong.scores] == [0.0]


@pytest.mark.slow
def test_verdicts_and_prompts_equal_the_leaderboards(folder, tmp_path):
    sent = [(row, truth, category, case[3]) for (category, row, truth), case in zip(rows(), CASES, strict=True)]
    (tmp_path / "cases.json").write_text(json.dumps(sent), "utf-8")
    out, _ = logged("bfcl", tmp_path / "out", 0, tmp_path / "cases.json")
    verdicts, prompts = json.loads((out / "verdicts.json").read_text("utf-8"))
    wrong = []
    for (row, truth, category, answers), expected in zip(sent, verdicts, strict=True):
        own = [right_calls({**row, "truth": truth}, calls_in(answer)) for answer in answers]
        wrong += [(category, a, mine, its) for a, mine, its in zip(answers, own, expected, strict=True) if mine != its]
        assert category == "irrelevance" or {True, False} == set(own)
    assert not wrong, f"{len(wrong)}: {wrong}"
    asked = [item.prompt for name in ("bfcl", "bfcl_irrelevance") for item in items_of(load_benchmark(name)[1], folder)]
    assert sorted(asked) == sorted(prompts)


GOOD = {"function": [WEATHER], "truth": [{W: {"city": ["Rome"]}}]}


@pytest.mark.parametrize("change, message", [
    ({"function": None}, "truth: "), ({"function": 5}, "function: "), ({"function": [{"name": "x"}]}, "function: "),
    ({"function": [function("f", x="complex")]}, "function: "), ({"function": [function("f", x="array")]},
    "function: "),
    ({"truth": None}, "truth: "), ({"truth": [{"other": {}}]}, "truth: "), ({"truth": [{W: {"city": "Rome"}}]},
    "truth: "),
    ({"function": [function("f", 5, a="integer")]}, "required is no list"),
    ({"function": [function("f", "a", a="integer")]}, "required is no list"),
    ({"truth": [{W: {}, "b": {}}]}, "truth: "), ({"truth": [[]]}, "truth: "),
])  # fmt: skip
def test_rows_that_cannot_be_compared(change, message):
    assert checked(GOOD)
    with pytest.raises(DataError, match=message):
        checked({**GOOD, **change})


@pytest.mark.parametrize(
    "answer",
    [
        "[" * 5000,
        "f(" * 900,
        "[f(x=" + "-" * 5000 + "1)]",
        "f(x=9**9**9)",
        "\x00",
        "f(x='\\ud800')",
        "x" * 10_000_000,
        "[f(x=1/0)]",
        "f(x=" + "9" * 4000 + "*" + "9" * 4000 + ")",
        "weather.now(city=" + "9" * 400 + "/3)",
        "[f(**{'a': 1})]",
        "[f(x={**a})]",
    ],
    ids=range(12),
)
def test_hostile_answers_are_wrong(answer):
    """Depth, powers, length: nothing is computed, and nothing but a verdict comes back."""
    assert not right_calls(GOOD, calls_in(answer))


def test_labels_of_other_rows_are_named(folder):
    place = folder / "bfcl" / "possible_answer" / "BFCL_v4_multiple.json"
    write(place, [{"id": "multiple_99", "ground_truth": []}])
    with pytest.raises(DataError, match="has a line of multiple_99 for"):
        items_of(load_benchmark("bfcl")[1], folder)
