"""`llmanac reason`: the convention that suits the right answers, texts without an answer, the next command."""

from __future__ import annotations

import json

import numpy as np
import pytest

import llmanac
from llmanac.cli import main
from llmanac.recipes.reasoning import _interval, convention_of


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An untrained model, and questions with texts as right answers."""
    folder = tmp_path_factory.mktemp("reason")
    tokenizer = llmanac.train_tokenizer("utf8", [])
    model = llmanac.build("lm", "gru", dim=16, layers=1, vocab_size=tokenizer.vocab_size)
    model.initialise(0)
    model.save_pretrained(folder / "small")
    tokenizer.save(folder / "small")
    rows = [{"question": f"colour {i}", "answer": "deep red"} for i in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_right_answers_choose_the_convention(small, capsys):
    def reason(*arguments):
        with pytest.raises(SystemExit, match=r"^0$"):
            main(["reason", *map(str, arguments), "--runner", "torch"])
        return capsys.readouterr().out

    given = (small / "small", small / "rows.jsonl", "-n", 2, "--tokens", 4, "--verifier", "exact-match")
    found = reason(*given, "--method", "best-of-n")
    assert "by squad" in found and "no answer found" not in found
    assert "0 of 4 right (95% interval 0.0% to 49.0%)" in found
    assert "--method voting -n 2 --verifier exact-match --tokens 4" in found.splitlines()[-1]
    found = reason(*given, "--convention", "gsm8k")
    assert "no answer found in 8 of 8 texts by gsm8k; set --convention" in found
    assert "--convention gsm8k" in found.splitlines()[-1] and "--method mbr" in found.splitlines()[-1]


def test_conventions_by_answers():
    for known, wanted in (
        ([], "gsm8k-flexible"), ([None], "gsm8k-flexible"), (["1,200", 3, -2.5], "gsm8k-flexible"), 
        (["A", "B"], "choice"),
        (["so\n#### 5"], "gsm8k-flexible"), ([r"\frac{1}{2}", "3"], "math"), (["Paris", "7"], "squad"),
        ([["Paris", "paris"]], "squad"), (["7 apples"], "squad"),
    ):  # fmt: skip
        assert convention_of(known) == wanted, known


def test_nothing_right_has_the_interval_of_evaluate():
    assert _interval(np.zeros(8)) == pytest.approx((0.0, 0.3244), abs=1e-4)
    assert _interval(np.array([0.5, 1.0]))[1] == 1.0 and _interval(np.zeros(1)) is None
