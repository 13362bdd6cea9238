"""Faults of pairing in every form of log: the same items, written as each harness does, with one thing wrong in B's."""

from __future__ import annotations

import json
import math
import re

import pytest
from _logs import write_inspect, write_lines, write_table

import llmanac
from llmanac.core.errors import DataError


def items(seed=0, **change):
    return [{"id": str(i), "question": f"Q{i}?", "prompt": f"Say. Q{i}?", "target": f"t{i}",
             "score": float((i + seed) % 3 > 0), **change} for i in range(12)]  # fmt: skip


def lm_eval(folder, rows):
    found = [
        {"doc_id": int(row["id"]), "doc": {"question": row["question"]}, "target": row["target"], "filter": "none",
         "arguments": {"gen_args_0": {"arg_0": row["prompt"], "arg_1": {"until": []}}}, "resps": [["x"]],
         "metrics": ["acc"], "acc": row["score"]}
        for row in rows
    ]  # fmt: skip
    said = {"versions": {"sums": 1}, "n-shot": {"sums": 0}}
    (folder / "results_2026-01-01T10-00-00.1.json").write_text(json.dumps(said), "utf-8")
    return write_lines(folder / "samples_sums_2026-01-01T10-00-00.1.jsonl", found)


def inspect(folder, rows, suffix="eval"):
    samples = [
        {"id": row["id"], "epoch": 1, "input": row["question"], "target": row["target"],
         "messages": [{"role": "user", "content": row["prompt"]}], "scores": {"acc": {"value": row["score"]}}}
        for row in rows
    ]  # fmt: skip
    own = {"task": "sums", "task_version": 0, "model": "m", "config": {}}
    log = {"version": 2, "status": "success", "eval": own, "plan": {}, "samples": samples}
    return write_inspect(folder / f"log.{suffix}", log)


def lighteval(folder, rows):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = [
        {"doc": {"id": row["id"], "query": row["question"], "choices": ["a", "b"], "instruction": row["prompt"],
                 "gold_index": row["target"]}, "metric": {"acc": row["score"]}}
        for row in rows
    ]  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist(table), folder / "details_sums|0_2026-01-01T10-00-00.1.parquet")
    return folder


def evalplus(folder, rows):
    found: dict[str, list] = {}
    for row in rows:
        state = {"base_status": "pass" if row["score"] else "fail", "plus_status": "fail", "solution": "x"}
        found.setdefault(f"HumanEval/{row['id']}", []).append(state)
    (folder / "eval_results.json").write_text(json.dumps({"date": "d", "hash": "h", "eval": found}), "utf-8")
    return folder


def helm(folder, rows):
    stats = [{"instance_id": row["id"], "train_trial_index": 0,
              "stats": [{"name": {"name": "acc", "split": "test"}, "count": 1, "sum": row["score"]}]}
             for row in rows]  # fmt: skip
    states = [{"instance": {"id": row["id"], "input": {"text": row["question"]}, "split": "test",
                            "references": [{"output": {"text": row["target"]}, "tags": ["correct"]}]},
               "train_trial_index": 0, "request": {"prompt": row["prompt"]}, "result": {}} for row in rows]  # fmt: skip
    (folder / "per_instance_stats.json").write_text(json.dumps(stats), "utf-8")
    (folder / "scenario_state.json").write_text(json.dumps({"request_states": states}), "utf-8")
    return folder


def own(folder, rows):
    return write_lines(folder / "sums.A.jsonl", [
        {"benchmark": "sums", "item": f"sums.jsonl:{row['id']}", "prompt": row["prompt"], "references": [row["target"]],
         "scores": {"acc": row["score"]}, "answer": "x"} for row in rows])  # fmt: skip


def table(folder, rows):
    return write_table(
        folder / "scores.csv", [{key: row[key] for key in ("id", "score", "prompt", "target")} for row in rows]
    )


def lines(folder, rows):
    return write_lines(
        folder / "scores.jsonl", [{key: row[key] for key in ("id", "score", "prompt", "target")} for row in rows]
    )


FORMS = [lm_eval, inspect, lighteval, evalplus, helm, own, table, lines]
B = items(1)
FAULTS = {
    "missing": (B[:-3], "rows are not in"),
    "other items": ([*B[:-1], {**B[0], "id": "99", "question": "Q99?"}], "rows are not in|share no item"),
    "repeated": ([*B, {**B[4], "score": 1 - B[4]["score"]}], "in the log twice|another value in an earlier row"),
    "not a number": ([*B[:-1], {**B[-1], "score": math.nan}], "(?i)is '?nan|is missing|is None|not JSON"),
    "rescaled": ([{**row, "score": 100 * row["score"]} for row in B], "another scale"),
    "other prompts": (items(1, prompt="Answer."), "other prompts"),
    "other right answers": (items(1, target="t"), "other right answers|another document|share no item"),
}  # fmt: skip
# evalplus keeps neither prompts nor numbers; a second program of a problem is one more answer
CANNOT = {evalplus: {"repeated", "not a number", "rescaled", "other prompts", "other right answers"}}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("form", FORMS)
def test_a_fault_is_named_in_every_form(form, fault, tmp_path):
    if fault in CANNOT.get(form, ()):
        pytest.skip("this form cannot hold such a fault")
    rows, said = FAULTS[fault]
    for name in "abc":
        (tmp_path / name).mkdir()
    a, b, clean = form(tmp_path / "a", items()), form(tmp_path / "b", rows), form(tmp_path / "c", B)
    with pytest.raises(DataError) as error:
        llmanac.verdict(a, b)
    assert re.search(said, str(error.value)), error.value
    found = llmanac.verdict(a, clean)
    assert (found.comparisons[0].items, found.findings) == (12, [])


@pytest.mark.parametrize("form", FORMS)
def test_another_order_changes_nothing_in_any_form(form, tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
    a, b, turned = form(tmp_path / "a", items()), form(tmp_path / "b", B), form(tmp_path / "c", B[::-1])
    straight, found = llmanac.verdict(a, b), llmanac.verdict(a, turned)
    assert found.comparisons == straight.comparisons and [one.kind for one in found.findings] == ["order"]
