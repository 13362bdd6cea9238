"""Rewards against their references: TRL, lm-eval's conventions, reasoning-gym, the formulas."""

from __future__ import annotations

import os

import pytest

from llmanac.core.errors import DataError, SpecError
from llmanac.core.spec import make_method
from llmanac.rewards import Sample
from llmanac.rewards.function import load_function


def values(reward, *texts, rows=None, **more):
    made = make_method("reward", reward).build()
    rows = rows or [{}] * len(texts)
    samples = [
        Sample(row=row, prompt="p", text=text, finished=True, **more) for text, row in zip(texts, rows, strict=True)
    ]
    return [score.value for score in made(samples)]


def test_exact_match():
    rows = [{"answer": "42"}] * 3
    gsm8k = {"name": "exact-match", "convention": "gsm8k"}
    assert values(gsm8k, "so #### 42", "#### 1,042", "42 it is", rows=rows) == [1.0, 0.0, 0.0]
    assert values("exact-match", " 42 ", "43", "", rows=rows) == [1.0, 0.0, 0.0]
    assert values("math", r"thus $\boxed{\frac{1}{2}}$", rows=[{"answer": r"\frac12"}]) == [1.0]
    assert values("exact-match", "b", rows=[{"answer": ["a", "b"]}]) == [1.0]
    with pytest.raises(DataError, match="no column 'answer'"):
        values("exact-match", "x")
    with pytest.raises((SpecError, DataError), match="nonsense"):
        values({"name": "exact-match", "convention": "nonsense"}, "x", rows=[{"answer": "x"}])


def test_pattern(monkeypatch):
    monkeypatch.setattr("llmanac.rewards.pattern.SECONDS", 0.05)
    form = {"name": "pattern", "pattern": r"<a>\d+</a>"}
    assert values(form, "<a>12</a>", "<a>12</a>.", "<a>x</a>") == [1.0, 0.0, 0.0]
    assert values({**form, "where": "anywhere"}, "so <a>1</a>.", "no") == [1.0, 0.0]
    assert values("format", "<think>a\nb</think> <answer>1</answer>", "<answer>1</answer>") == [1.0, 0.0]
    with pytest.raises(DataError, match=r"pattern: '\(a\|aa\)\+\[bc\]' takes more than 0.05 s .* row \{'n': 7\}"):
        values({"name": "pattern", "pattern": "(a|aa)+[bc]"}, "a" * 60, rows=[{"n": 7}])
    with pytest.raises(SpecError, match="pattern: '\\('"):
        make_method("reward", {"name": "pattern", "pattern": "("})


def test_length_equals_trl():
    rewards = pytest.importorskip("trl.rewards")
    theirs = rewards.get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)
    counts = [0, 79, 80, 81, 95, 100, 101, 300]
    expected = theirs(completion_ids=[[0] * n for n in counts])
    made = make_method("reward", {"name": "length", "target": 80, "window": 20}).build()
    samples = [Sample(row={}, prompt="", text="", finished=True, tokens=n) for n in counts]
    assert [score.value for score in made(samples)] == pytest.approx(expected)


def test_combinations():
    one, two = {"name": "pattern", "pattern": "a+"}, {"name": "pattern", "pattern": ".{3}"}
    mixed = {"name": "mix", "parts": [one, two], "weights": [2.0, 0.5]}
    assert values(mixed, "aaa", "aa", "bbb", "b") == [2.5, 2.0, 0.5, 0.0]
    gated = {"name": "gated", "parts": [one, two]}
    assert values(gated, "aaa", "aa", "bbb") == [1.0, 0.0, 0.0]  # what one part gives alone is worth nothing
    [score] = make_method("reward", mixed).build()([Sample(row={}, prompt="", text="aa", finished=True)])
    assert score.parts == {"pattern-1": 1.0, "pattern-2": 0.0}
    with pytest.raises(SpecError, match="weights: 1 for 2 parts"):
        make_method("reward", {**mixed, "weights": [1.0]})


def test_function(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "def one(text, row):\n    return len(text) * row['by']\n"
        "def many(prompts, completions, by, **more):\n    return [len(c) * b for c, b in zip(completions, by)]\n"
        "def none(text, row):\n    return None\n"
        "def short(completions, **more):\n    return [1.0]\n"
    )
    rows = [{"by": 2}, {"by": 3}]
    for name in ("one", "many"):
        assert values({"name": "function", "file": f"{path}:{name}"}, "ab", "c", rows=rows) == [4.0, 3.0]
    for name, words in (
        ("none", r"gave None; .*; answer 'ab', row \{'by': 2\}"),
        ("short", "gave 1 rewards for 2 answers"),
    ):
        with pytest.raises(DataError, match=words):
            values({"name": "function", "file": f"{path}:{name}"}, "ab", "c", rows=rows)
    with pytest.raises(SpecError, match="has no function 'missing'"):
        values({"name": "function", "file": f"{path}:missing"}, "ab")
    with pytest.raises(SpecError, match=r"is not FILE\.py:function"):
        values({"name": "function", "file": "own.py"}, "ab")


def test_a_function_is_that_of_the_file_as_it_is(tmp_path):
    """An edit of the same size within a second: Python's own cache would not see it."""
    path = tmp_path / "own.py"
    for value in (1.0, 5.0):
        path.write_text(f"def own(text, row):\n    return {value}\n")
        os.utime(path, (1_000_000_000, 1_000_000_000))
        assert values({"name": "function", "file": f"{path}:own"}, "ab") == [value]
    assert [file.name for file in tmp_path.iterdir()] == ["own.py"]


def test_function_in_the_form_of_trl(tmp_path, monkeypatch):
    """Prompts and completions of texts and of messages are what GRPOTrainer gives; an error names its row."""
    rewards = pytest.importorskip("trl.rewards")
    path = tmp_path / "own.py"
    path.write_text(
        "from trl.rewards import think_format_reward as think\nseen = []\n"
        "def keep(prompts, completions, **more):\n"
        "    seen.append((prompts, completions))\n    return [0] * len(prompts)\n"
        "def inverse(completions, by, **more):\n    return [1 / b for b in by]\n"
        "def alone(completions, **more):\n    return [1 / (len(completions) < 2)] * len(completions)\n"
    )
    ask, answer = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
    rows = [{"prompt": [ask]}, {"messages": [ask, answer]}, {"prompt": "2 + 2?"}, {"question": "2 + 2?"}, {}]
    texts = ["<think>a</think>4", "5", "6", "7", "8"]
    function = load_function(path, "keep")
    monkeypatch.setattr("llmanac.rewards.function.load_function", lambda *_: function)
    values({"name": "function", "file": f"{path}:keep"}, *texts, rows=rows)
    [(prompts, completions)] = function.__globals__["seen"]
    assert prompts == [[ask], [ask], "2 + 2?", "2 + 2?", "p"]
    assert completions == [*([{**answer, "content": text}] for text in texts[:2]), *texts[2:]]
    monkeypatch.undo()
    expected = rewards.think_format_reward(completions[:2])
    assert values({"name": "function", "file": f"{path}:think"}, *texts[:2], rows=rows[:2]) == expected == [1.0, 0.0]
    for name, words in (("inverse", "division by zero; answer 'c', row {'by': 0}$"), ("alone", "none of which fails")):
        with pytest.raises(DataError, match=f"{name}: raised ZeroDivisionError: .*{words}"):
            values({"name": "function", "file": f"{path}:{name}"}, "a", "b", "c", rows=[{"by": b} for b in (1, 2, 0)])


HOSTILE = r"""
from __future__ import annotations
from dataclasses import dataclass
from helper import length

@dataclass
class Kept:
    a: KW_ONLY = 1

class Unsaid(Exception):
    def __str__(self): raise RuntimeError

class Unshown:
    def __repr__(self): raise RuntimeError

def good(text, row): return length(text)
def few(completions): return [length(c) for c in completions]
def red(text, row): raise ValueError("\x1b[31m")
def unsaid(text, row): raise Unsaid
def ends(text, row): raise SystemExit(0)
def lists_end(completions, **more): raise SystemExit(0)
def unshown(text, row): return Unshown()
def huge(text, row): return 1e308
def infinite(text, row): return float("inf")
"""


def test_a_users_reward_is_refused_by_name_and_row(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(HOSTILE)
    (tmp_path / "helper.py").write_text("def length(text): return len(text)")
    for name in ("good", "few"):
        assert values({"name": "function", "file": f"{path}:{name}"}, "ab", rows=[{"by": 2}]) == [2.0]
    for name, what in (
        ("red", r"raised ValueError: \\x1b\[31m; answer 'ab', row \{'by': 2\}"), ("unsaid", "raised Unsaid"),
        ("ends", "raised SystemExit: 0; answer"), ("lists_end", "raised SystemExit"), ("unshown", "gave <Unshown"),
        ("huge", r"gave 1e\+308 for the answer 'ab', row \{'by': 2\}; at most 1e12"),
        ("infinite", "gave inf.* a finite"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=f"own.py:{name}: ?.*{what}"):
            values({"name": "function", "file": f"{path}:{name}"}, "ab", rows=[{"by": 2}])
    part = {"name": "function", "file": f"{path}:good"}
    for form, weight in (("sum", 1e308), ("product", 1e308)):
        mixed = {"name": "mix", "parts": [part, "length"], "weights": [weight, 1.0], "form": form}
        with pytest.raises(DataError, match=f"{form} of function, length: gave .* row .'by': 2"):
            values(mixed, "ab", rows=[{"by": 2}])
    path.write_text("raise SystemExit(0)")
    with pytest.raises(SpecError, match=r"own.py: does not run \(SystemExit: 0"):
        values(part, "ab")


def test_reasoning_gym_scores_are_its_own():
    gym = pytest.importorskip("reasoning_gym")
    for task in ("chain_sum", "spell_backward", "gcd"):
        data = gym.create_dataset(task, size=5, seed=3)
        rows = [dict(entry) for entry in data]
        texts = [row["answer"] for row in rows]
        for given in (texts, texts[1:] + texts[:1], [f"I think <answer>{t}</answer>" for t in texts]):
            plain = [text.split("<answer>")[-1].removesuffix("</answer>") for text in given]
            expected = [data.score_answer(text, row) for text, row in zip(plain, rows, strict=True)]
            assert values("reasoning-gym", *given, rows=rows) == pytest.approx(expected)
    with pytest.raises(SpecError, match="no task of reasoning-gym"):
        values({"name": "reasoning-gym", "task": "nothing"}, "x", rows=rows[:1])


def test_quality_is_the_classifiers_score(tmp_path):
    from llmanac.data.quality_model import Features, train_quality

    model = train_quality(["good and clear words"] * 4, ["bad noise here"] * 4, Features(bits=10))
    model.save(tmp_path / "quality")
    texts = ("clear words", "noise", "")
    found = values({"name": "quality", "path": str(tmp_path / "quality")}, *texts)
    assert found == pytest.approx([model.score(text) for text in texts], abs=1e-6)
    assert found[0] > 0.5 > found[1]
    with pytest.raises(DataError, match="absent"):
        values({"name": "quality", "path": str(tmp_path / "absent")}, "x")


HUMANEVAL = {"prompt": "def f():\n", "test": "def check(f):\n    assert f() == 1", "entry_point": "f"}
MBPP = {"test_list": ["assert f() == 1", "assert g() == 2"], "test_setup_code": "def g(): return 2"}


def test_code_tests_equal_the_evaluation():
    """The same verdicts as `evaluate/code.py`; an answer may hold its code in a block, or repeat the head."""
    from llmanac.evaluate.code import check
    from llmanac.sandbox.pool import Sandbox, SandboxError

    plain = [
        (HUMANEVAL, "    return 1"), (HUMANEVAL, "    return 2"), (HUMANEVAL, "    raise SystemExit(0)"),
        (MBPP, "def f(): return 1"), (MBPP, "def f(): return"), (MBPP, "f ="),
    ]  # fmt: skip
    try:
        with Sandbox(workers=1) as sandbox:
            expected = [float(verdict.passed) for verdict in check(plain, sandbox)]
    except SandboxError as error:
        pytest.skip(str(error))
    assert expected == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    blocks = [
        (HUMANEVAL, "Here:\n```python\ndef f():\n    return 1\n```\nDone."),
        (MBPP, "```\ndef f(): return 1\n```"),
    ]
    rows, texts = zip(*plain, *blocks, strict=True)
    assert values({"name": "code-tests", "workers": 1}, *texts, rows=rows) == [*expected, 1.0, 1.0]
    for row, words in (
        ({}, "no column 'test_list'"),
        ({"test_list": []}, "at least one"),
        ({"entry_point": "a b"}, "name"),
    ):
        with pytest.raises(DataError, match=words):
            values("code-tests", "x", rows=[row])


def test_the_value_model_starts_from_the_reward_model_whose_scores_are_normalised(tmp_path):
    """PPO's details: the map starts at N(0, 1 / (D + 1)); scores of the pairs' texts have mean 0 and deviation 1."""
    import json

    import torch

    from llmanac.core.spec import make
    from llmanac.models.scalar import ScalarModel, load_scalar
    from llmanac.recipes.align import AlignSpec, SampledAlignment
    from llmanac.recipes.tune import tune
    from llmanac.tokenizers.load import train_tokenizer

    tokenizer = train_tokenizer("bpe", ["a b"], vocab_size=258, special_tokens=["<|endoftext|>"])
    fields = {"name": "transformer", "dim": 64, "layers": 1, "max_length": 32}
    model = make_method("lm", fields).build(vocab_size=tokenizer.vocab_size)
    deviations = [float(ScalarModel(model, seed).score.weight.detach().std()) for seed in range(20)]
    assert sum(deviations) / 20 == pytest.approx(65**-0.5, rel=0.1)
    model.save_pretrained(tmp_path / "raw")
    tokenizer.save(tmp_path / "raw")
    pairs = [{"prompt": f"{n} ", "chosen": "a" * (1 + n % 5), "rejected": "b" * (1 + n % 4)} for n in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    train = {"steps": 2, "dtype": "float32", "attention": "sdpa", "compile": "never"}
    rows = {"file": str(tmp_path / "pairs.jsonl"), "held_out": 0.0}
    shared = {"model": str(tmp_path / "raw"), "rows": rows, "train": train}
    tune(make(AlignSpec, {**shared, "objective": "bradley-terry"}), tmp_path / "judge", report=lambda line: None)
    reward = {"name": "model", "path": str(tmp_path / "judge" / "model")}
    samples = [
        Sample(row={}, prompt=p["prompt"], text=p[side], finished=True) for p in pairs for side in p if side != "prompt"
    ]
    scores = torch.tensor([score.value for score in make_method("reward", reward).build()(samples)])
    assert float(scores.mean()) == pytest.approx(0, abs=1e-4) and float(scores.std()) == pytest.approx(1, abs=1e-4)
    asked = make(AlignSpec, {**shared, "objective": "ppo", "reward": reward})
    value = SampledAlignment(asked, tmp_path, "cpu", print).objective().models["value"]
    torch.testing.assert_close(value.score.weight, load_scalar(reward["path"]).score.weight)
