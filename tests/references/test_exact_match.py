"""Answers under SQuAD's, DROP's, TriviaQA's, GSM8K's and MATH's conventions against torchmetrics and lm-eval."""

from __future__ import annotations

import ast
import json
import random
import re
from importlib.metadata import version
from pathlib import Path

import lm_eval
import numpy as np
import pytest
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter
from lm_eval.tasks.drop import utils as drop_task
from lm_eval.tasks.hendrycks_math import utils as math_task
from packaging.version import Version
from torchmetrics.functional.text import squad

from llmanac.core.errors import DataError, SpecError
from llmanac.core.registry import build
from llmanac.metrics.answers import CONVENTIONS, INVALID, MOST_LATEX, correct, drop, equal, extract
from llmanac.metrics.answers._latex import boxed, minerva, minerva_answer
from llmanac.metrics.answers._values import value
from llmanac.metrics.exact_match import exact_matches

WORDS = "the cat a Cat, an 3.0 1,000 3 -5 $7 a-b U.S. don't (x) 40% and 'two'".split()  # noqa: SIM905
LATEX = [
    "\\frac", "{", "}", "1", "2", "/", " ", "\\text{ cm}", "\\sqrt", "3", "=", "x", "\\%", "$", "\\left(", "\\right)",
    ".5", "0.5", "\\dfrac", "^\\circ", ",", "10", "ft", "\\boxed{", "a ", "\\\\", "\n", "units", "\\text{s}", "sqrt[3]",
]  # fmt: skip
GOLDS = [
    "\\frac{1}{2}", "2\\sqrt{3}", "(1,2)", "\\text{yes}", "3\\pi", "x^2+1", "0.5", "10\\%", "\\$5", "120^\\circ",
    "1,000", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "[0,1)", "A",
    "-\\frac{3}{4}", "\\dfrac12", "x=4", "5\\text{ cm}", "1/2",
]  # fmt: skip


def pieces(count, parts, join, seed, most=6):
    rng = random.Random(seed)
    return [join.join(rng.choices(parts, k=rng.randint(0, most))) for _ in range(count)]


def mutated(text, rng):
    for _ in range(rng.randint(0, 3)):
        at = rng.randint(0, len(text))
        text = text[:at] + rng.choice(LATEX) + text[at + rng.randint(0, 2) :]
    return text


@pytest.fixture(scope="module")
def minerva_task():
    """lm-eval's functions of the Minerva task; the module itself wants a parser that no longer installs."""
    source = (Path(lm_eval.__file__).parent / "tasks" / "minerva_math" / "utils.py").read_text("utf-8")
    wanted = {"SUBSTITUTIONS", "REMOVED_EXPRESSIONS", "normalize_final_answer", "get_unnormalized_answer"}
    kept = [
        n
        for n in ast.parse(source).body
        if {getattr(n, "name", ""), *(getattr(t, "id", "") for t in getattr(n, "targets", ()))} & wanted
    ]
    names = {"re": re}
    exec(compile(ast.Module(kept, []), "minerva", "exec"), names)
    return names


def test_squad_equals_torchmetrics():
    mine = pieces(60, WORDS, " ", 0)
    theirs = [pieces(random.Random(i).randint(1, 3), WORDS, " ", 100 + i) for i in range(60)]
    theirs = [[*golds, mine[i].upper()] if i % 4 == 0 else golds for i, golds in enumerate(theirs)]
    found = exact_matches(mine, theirs, "squad")
    expected = [
        squad(
            [{"prediction_text": text, "id": "1"}],
            [{"answers": {"answer_start": [0] * len(golds), "text": golds}, "id": "1"}],
        )
        for text, golds in zip(mine, theirs, strict=True)
    ]
    np.testing.assert_allclose(100 * found.matches.segments, [row["exact_match"] for row in expected])
    np.testing.assert_allclose(100 * found.f1.segments, [row["f1"] for row in expected], rtol=1e-6)
    assert 0 < found.matches.value < found.f1.value < 1
    low, high = found.matches.interval()
    assert low < found.matches.value < high


def test_drop_equals_lm_eval():
    rng, parts = random.Random(1), WORDS[:12]
    partial = 0
    for _ in range(600):
        sides = [pieces(rng.randint(1, 5), parts, " ", rng.random(), most=3) for _ in range(2)]
        if rng.random() < 0.2:
            sides[0] = rng.sample(sides[1], len(sides[1]))
        expected = drop_task.get_metrics(*sides)
        assert drop(*sides) == expected, sides
        partial += 0 < expected[1] < 1
    assert partial > 100
    found = exact_matches(["3 cats", "x"], [["4", ["3", "cats"]], ["x"]], "drop")
    assert found.matches.segments.tolist() == [0, 1] and found.f1.segments.tolist() == [0.33, 1]


def test_drop_equals_lm_eval_on_its_answers(shared_data):
    with open(shared_data / "drop" / "drop_contrast_sets_test.json", encoding="utf-8") as file:
        data = json.load(file)
    golds = [drop_task.parse_answer(qa["answer"]) for passage in data.values() for qa in passage["qa_pairs"]]
    rng = random.Random(2)
    for gold in golds:
        guess = [text if rng.random() < 0.5 else rng.choice(rng.choice(golds)) for text in gold]
        assert drop(guess, gold) == drop_task.get_metrics(guess, gold)


def test_gsm8k_equals_lm_eval():
    parts = ["#### ", "5", "1,000", ".", "$", "-3", " ", "x", "\n", "$4.50", "so "]
    texts = [*pieces(400, parts, "", 3, most=9), "", "-", "1 2 3", "#### -1,000.", "a ####  5"]
    strict, flexible = RegexFilter(r"#### (\-?[0-9\.\,]+)", 0), RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1)
    ignored = [",", "\\$", "(?s).*#### ", "\\.$"]
    for text, other in zip(texts, reversed(texts), strict=True):
        assert (extract(text, "gsm8k") or INVALID) == strict.apply([[text]], [{}])[0][0]
        assert (extract(text, "gsm8k-flexible") or INVALID) == flexible.apply([[text]], [{}])[0][0]
        for reference in (text, other):
            score = exact_match_hf_evaluate([text], [reference], regexes_to_ignore=ignored, ignore_case=True)
            assert equal(text, reference, "gsm8k") == (score["exact_match"] == 1), (text, reference)


def test_triviaqa_equals_lm_eval():
    texts = pieces(200, ["The", "u.s.", " ", "!", "a", "B", "'"], "", 4)
    for text, other in zip(texts, reversed(texts), strict=True):
        score = exact_match_hf_evaluate([text], [other], ignore_case=True, ignore_punctuation=True)
        assert equal(text, other, "triviaqa") == (score["exact_match"] == 1)
    assert extract("  New York, the city. Yes", "triviaqa") == "New York"


def mathematical_pairs():
    rng = random.Random(5)
    pairs = [(mutated(rng.choice(GOLDS), rng), mutated(gold, rng)) for gold in GOLDS * 40]
    pairs += [(mutated(gold, rng), gold) for gold in GOLDS * 40]
    return pairs + list(zip(pieces(1500, LATEX, "", 6, 5), pieces(1500, LATEX, "", 7, 5), strict=True))


@pytest.mark.skipif(Version(version("lm_eval")) < Version("0.4.13"), reason="this release of lm-eval makes \\left \\le")
def test_minerva_equals_lm_eval(minerva_task):
    for one, _ in mathematical_pairs():
        assert minerva(one) == minerva_task["normalize_final_answer"](one)


def test_math_equals_lm_eval():
    same = 0
    for one, two in mathematical_pairs():
        expected = math_task.is_equiv(one, two)
        assert equal(one, two, "hendrycks-math") == expected, (one, two)
        same += expected and one != two
    assert same > 20


def test_answers_in_solutions_equal_lm_evals(minerva_task):
    rng = random.Random(8)
    mark = "Final Answer: The final answer is"
    parts = [mark, " $4$", ".", " I hope it is correct.", "\n", " 7 ", "x", mark + " 5. I hope it is correct."]
    for text in pieces(400, parts, "", 9):
        expected = minerva_task["get_unnormalized_answer"](text)
        assert minerva_answer(text) == (None if expected == "[invalidanswer]" else expected), text
    for _ in range(400):
        text = "so $\\boxed{" + mutated(rng.choice(GOLDS), rng) + "}$" + rng.choice(["", " \\fbox{3}", " \\boxed 4$"])
        last = math_task.last_boxed_only_string(text)
        if last is not None and last.startswith(("\\boxed{", "\\boxed ")) and last.endswith(("}", "4")):
            assert boxed(text) == math_task.remove_boxed(last), text
        dollars = text.split("$")
        assert extract(text, "hendrycks-math") == ("$".join(dollars[1:-1]) if len(dollars) > 2 else text)


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("1/2", "\\frac{1}{2}", True), ("0.5", "\\frac12", True), ("1,000", "1000", True),
        ("\\sqrt{8}", "2\\sqrt{2}", True),
        ("2\\pi", "2 \\cdot \\pi", True), ("(1,2)", "(1, 2.0)", True), ("[0,1)", "(0,1)", False),
        ("2^{10}", "1024", True),
        ("-\\frac{3}{4}", "-0.75", True), ("(x+1)", "(1+x)", True), ("", "", True), ("x", "y", False),
        ("1", "2", False),
        ("3\\frac12", "\\frac32", False), ("1\\frac12", "\\frac12", False), ("(1,2)", "(2,1)", False),
        ("50\\%", "50", True),
        ("9^{9^{9^9}}", "1", False), ("10^{-2}", "0.01", True), ("1/0", "1/0", True), ("1/0", "2/0", False),
    ],
)  # fmt: skip
def test_equal_numbers_are_equal_answers(one, two, same):
    assert equal(one, two, "math") is same and equal(two, one, "math") is same


def test_known_answers_are_right(shared_data):
    with open(shared_data / "math" / "math500.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:200]
    assert sum(correct(row["solution"], row["answer"], "math") for row in rows) == len(rows)
    wrong = sum(correct(row["solution"], rows[i - 1]["answer"], "math") for i, row in enumerate(rows))
    assert wrong < 10  # neighbours that have the same answer
    with open(shared_data / "gsm8k" / "test.jsonl", encoding="utf-8") as file:
        golds = [json.loads(line)["answer"] for line in file][:300]
    assert exact_matches(golds, golds, "gsm8k").matches.value == 1


HOSTILE = {
    "digits": "9", "numbers": "5 ", "dollars": "$", "boxes": "\\boxed{", "marks": "Final Answer: The final answer is",
    "fractions": "\\frac", "braces": "{", "strict marks": "#### ", "letters": "Answer", "powers": "9^", "dashes": "-",
    "lines": "\n", "articles": "a ", "roots": "\\sqrt{", "brackets": "(", "spaces": " ", "stops": ".",
    "units": "\\text{s",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_end(name):
    """A rule with a quadratic part would take hours on this text."""
    text = HOSTILE[name] * (150_000 // len(HOSTILE[name]))
    for convention in CONVENTIONS:
        found = extract(text, convention)
        equal(found, "7", convention)
        assert not equal(text[: MOST_LATEX - 1], "7", convention)


def test_formulas_have_bounded_depth_and_size():
    assert value("2^{64}") == 2**64 and value("((1))") == 1
    for bomb in (
        "(" * 300 + "1" + ")" * 300,
        "9^{99999}",
        "2^{2^{2^{2^{2}}}}",
        "\\sqrt{" * 60 + "2" + "}" * 60,
        "9" * 500,
    ):
        assert value(bomb) is None
    assert value("__import__('os')") is None and value("") is None and value("1//0") is None


def test_what_cannot_be_compared_is_named():
    with pytest.raises(SpecError, match="did you mean 'squad'"):
        build("metric", "exact-match", convention="squd")
    with pytest.raises(DataError, match="row 2: has no reference"):
        exact_matches(["a", "b"], ["a", []])
    with pytest.raises(DataError, match="1 texts but 2 rows"):
        build("metric", "gsm8k")(["a"], ["b", "c"])
    with pytest.raises(DataError, match="each side needs 1 to 400"):
        drop(["a"] * 500, ["a"])
    assert exact_matches(["", "x"], [[""], [""]], "squad").matches.segments.tolist() == [1, 0]
    assert exact_matches(["no number"], ["3"], "gsm8k").answers == (None,)
