"""Logs that the harnesses write are read: scores equal the harness's own figures, verdicts those of scipy.

Harnesses other than lm-eval are in environments of their own (tests/_harness_envs.py): slow, and skipped where one is
not there.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats
from _harness_envs import logged as logged_by
from _lm_eval import files, lm_eval, pretrained, task_of, words, write
from _logs import write_lines

import llmanac
from llmanac.core.errors import DataError
from llmanac.evaluate.verdict.load import read_log

__all__ = ["pretrained"]  # a fixture

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHOICE = """
output_type: multiple_choice
validation_split: validation
training_split: train
description: "About {{name}}.\\n\\n"
doc_to_text: question
doc_to_choice: "{{[a, b]}}"
doc_to_target: "{{label}}"
num_fewshot: 2
fewshot_config: {sampler: first_n}
metric_list: [{metric: acc}, {metric: acc_norm}, {metric: mcc}]
metadata: {version: 1.0}
"""
WRITTEN = """
output_type: generate_until
validation_split: validation
doc_to_text: question
doc_to_target: a
generation_kwargs: {until: ["."], do_sample: false, max_gen_toks: 5}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
  - {metric: bleu}
filter_list:
  - {name: strict, filter: [{function: regex, regex_pattern: "(the \\\\w+)"}, {function: take_first}]}
  - {name: plain, filter: [{function: take_first}]}
"""
ROLLING = """
output_type: loglikelihood_rolling
validation_split: validation
doc_to_text: ""
doc_to_target: question
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
TASKS = {"choice": CHOICE, "written": WRITTEN, "rolling": ROLLING}


def stock_lm_eval(folder, model, tokenizer, manager, **options):
    """What lm-eval writes with `--log_samples`, and its figures."""
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM

    tracker = EvaluationTracker(output_path=str(folder))
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, device="cpu")
    tasks = options.pop("tasks", ["choice"])
    found = lm_eval.simple_evaluate(harness, tasks=tasks, task_manager=manager, bootstrap_iters=0, log_samples=True,
                                    evaluation_tracker=tracker, **options)  # fmt: skip
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    for task in found["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    return folder, found["results"]


@pytest.fixture(scope="module")
def logged(pretrained, tmp_path_factory):
    """Logs of two random models on three tasks, and of the second one with a chat template, with other shots."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("logs")
    first = pretrained[1]
    tokenizer = transformers.AutoTokenizer.from_pretrained(pretrained[0])
    torch.manual_seed(1)
    second = transformers.GPT2LMHeadModel(first.config).double().eval()
    rows = [{"question": words(i, 4), "name": words(9, 1), "a": words(i, 2), "b": words(i + 500, 2), "label": i % 2}
            for i in range(60)]  # fmt: skip
    splits = {"validation": write(folder / "v.jsonl", rows), "train": write(folder / "t.jsonl", rows[50:])}
    every = "".join(files(folder / "cache", **splits))
    for name, text in TASKS.items():
        manager = task_of(folder / "tasks", name, text + every)
    out = {"a": stock_lm_eval(folder / "a", first, tokenizer, manager, tasks=list(TASKS))}
    out["b"] = stock_lm_eval(folder / "b", second, tokenizer, manager, tasks=list(TASKS))
    out["shots"] = stock_lm_eval(folder / "shots", second, tokenizer, manager, num_fewshot=1)
    tokenizer.chat_template = TEMPLATE
    out["chat"] = stock_lm_eval(folder / "chat", second, tokenizer, manager, apply_chat_template=True)
    out["turns"] = stock_lm_eval(
        folder / "turns", second, tokenizer, manager, apply_chat_template=True, fewshot_as_multiturn=True
    )
    out["system"] = stock_lm_eval(
        folder / "system", second, tokenizer, manager, apply_chat_template=True, system_instruction="Be brief."
    )
    return out


def test_stock_lm_eval_logs_give_its_figures_and_scipys_p(logged):
    (a, mine), (b, theirs) = logged["a"], logged["b"]
    found = llmanac.verdict(a, b)
    assert {one.benchmark: one.metric for one in found.comparisons} == {
        "choice": "acc", "written": "exact_match,strict", "rolling": "word_perplexity"
    }  # fmt: skip
    assert [one.kind for one in found.findings] == [] and not found.overall
    for metric, tasks in {
        "acc": ["choice"], "acc_norm": ["choice"], "mcc": ["choice"], "exact_match,strict": ["written"],
        "bleu,plain": ["written"], "exact_match,plain": ["written"], "word_perplexity": ["rolling"],
        "bits_per_byte": ["rolling"],
    }.items():  # fmt: skip
        key = metric if "," in metric else f"{metric},none"
        for task in tasks:
            made = llmanac.verdict(
                next(a.rglob(f"samples_{task}_*")), next(b.rglob(f"samples_{task}_*")), metric=metric
            )
            one = made.comparisons[0]
            assert one.items == 60 and one.benchmark == task
            assert one.baseline_value == pytest.approx(mine[task][key], rel=1e-6), (task, metric)
            assert one.value == pytest.approx(theirs[task][key], rel=1e-6), (task, metric)
            assert one.higher_is_better == (task != "rolling")
    rows = [[json.loads(line)["acc"] for line in next(folder.rglob("samples_choice*")).read_text("utf-8").splitlines()]
            for folder in (a, b)]  # fmt: skip
    gain = np.subtract(rows[1], rows[0])
    p = scipy.stats.binomtest(int((gain > 0).sum()), int((gain != 0).sum())).pvalue
    alone = llmanac.verdict(next(a.rglob("samples_choice*")), next(b.rglob("samples_choice*"))).comparisons[0]
    assert alone.p == pytest.approx(p) and (alone.improved, alone.worsened) == ((gain > 0).sum(), (gain < 0).sum())


def test_stock_lm_evals_chat_template_is_the_template_alone(logged):
    choice = next(logged["a"][0].rglob("samples_choice*"))
    for name in ("chat", "turns"):
        found = llmanac.verdict(choice, logged[name][0])
        assert {one.kind for one in found.findings} == {"template"}, name
        assert found.comparisons[0].items == 60
    for name, kinds in (("shots", ["other shots (2 and 1)", "other prompts"]), ("system", ["other system prompt"])):
        with pytest.raises(DataError) as error:
            llmanac.verdict(choice, logged[name][0])
        for said in kinds:
            assert said in str(error.value), (name, error.value)


def helm_run(folder, right, shots=5, shown=""):
    """A run's folder: two trials of eight instances."""
    folder.mkdir()
    stats = [
        {"instance_id": f"id{i}", "train_trial_index": trial,
         "stats": [{"name": {"name": name, "split": "test"}, "count": 1, "sum": value, "mean": value}
                   for name, value in (("num_output_tokens", 3.0), ("exact_match", float(i in right)))]}
        for trial in range(2) for i in range(8)
    ]  # fmt: skip
    states = [
        {"instance": {"id": f"id{i}", "input": {"text": f"Is {i} odd?"}, "split": "test",
                      "references": [{"output": {"text": "yes"}, "tags": ["correct"]}, {"output": {"text": "no"}}]},
         "train_trial_index": trial, "request": {"prompt": f"{shown}Is {i} odd?"},
         "result": {"completions": [{"text": "yes"}]}}
        for trial in range(2) for i in range(8)
    ]  # fmt: skip
    adapter = {"model": folder.name, "max_train_instances": shots}
    spec = {"name": f"boolq:split=a,model={folder.name}", "adapter_spec": adapter,
            "metric_specs": [{"args": {"names": ["exact_match"]}}]}  # fmt: skip
    state = {"adapter_spec": adapter, "request_states": states}
    for name, value in (("run_spec", spec), ("scenario_state", state), ("per_instance_stats", stats)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=2), "utf-8")
    return folder


def test_helms_form(tmp_path):
    a, b = helm_run(tmp_path / "a", {1, 2}), helm_run(tmp_path / "b", {1, 2, 3, 4, 5, 6, 7})
    found = llmanac.verdict(a, b)
    one = found.comparisons[0]
    assert one.metric == "exact_match"  # what the run is about, not its first statistic
    assert (one.items, one.value, one.baseline_value, one.benchmark) == (8, 7 / 8, 2 / 8, "boolq:split=a")
    assert found.systems["B"].endswith(" b") and one.test == "all signs, exact"
    for name, said, change in (
        ("c", r"other shots \(5 and 0\)", {"shots": 0}),
        ("d", "other prompts", {"shown": "Hm. "}),
    ):
        with pytest.raises(DataError, match=said):
            llmanac.verdict(a, helm_run(tmp_path / name, {1}, **change))
    (a / "scenario_state.json").unlink()
    (b / "scenario_state.json").unlink()
    assert llmanac.verdict(a, b).comparisons == found.comparisons  # by the names of instances alone


def evalplus_log(path, right, samples=2, prefix="HumanEval"):
    found = {}
    for i in range(10):
        states = ["pass" if (i, s) in right else "fail" for s in range(samples)]
        found[f"{prefix}/{i}"] = [
            {"task_id": f"{prefix}/{i}", "solution": "x", "base_status": one, "plus_status": one if i % 2 else "fail"}
            for one in states
        ]  # fmt: skip
    path.write_text(json.dumps({"date": "2026-01-01 10:00", "hash": "abc", "eval": found, "pass_at_k": {}}), "utf-8")
    return path


def test_evalplus_form(tmp_path):
    right = [{(i, s) for i in range(10) for s in range(2) if (i + s) % m} for m in (2, 4)]
    a, b = (evalplus_log(tmp_path / f"{k}.json", right[k]) for k in (0, 1))
    one = llmanac.verdict(a, b).comparisons[0]
    assert (one.benchmark, one.metric, one.items) == ("HumanEval", "base", 10)
    assert one.baseline_value == pytest.approx(len(right[0]) / 20) and one.value == pytest.approx(len(right[1]) / 20)
    assert llmanac.verdict(a, b, metric="plus").comparisons[0].value < one.value
    with pytest.raises(DataError, match="no benchmark is in both logs"):
        llmanac.verdict(a, evalplus_log(tmp_path / "c.json", right[0], prefix="Mbpp"), allow=["missing"])


def lighteval_details(path, right, shots=5, instruction=""):
    pyarrow = pytest.importorskip("pyarrow.parquet")
    import pyarrow as arrow

    rows = [
        {"doc": {"query": f"Q{i}", "choices": ["a", "b"], "gold_index": [i % 2], "id": str(i),
                 "instruction": instruction, "specific": {"level": i % 3}}, "metric": {"acc": float(i in right)},
         "model_response": {"logits": [0.5] * 10}}
        for i in range(30)
    ]  # fmt: skip
    path.mkdir()
    place = path / f"details_leaderboard|arc:challenge|{shots}_2026-01-01T10-00-00.000000.parquet"
    pyarrow.write_table(arrow.Table.from_pylist(rows), place)
    return path


def test_lightevals_form(tmp_path):
    a, b = (lighteval_details(tmp_path / str(k), set(range(9 + 9 * k))) for k in (0, 1))
    found = llmanac.verdict(a, b, slices="level")
    one = found.comparisons[0]
    assert (one.items, one.value, one.baseline_value) == (30, 0.6, 0.3) and one.benchmark == "leaderboard|arc:challenge"
    assert list(found.slices) == ["0", "1", "2"]
    for name, said, change in (
        ("c", r"other shots \(5 and 0\)", {"shots": 0}),
        ("d", "other prompts", {"instruction": "!"}),
    ):
        with pytest.raises(DataError, match=said):
            llmanac.verdict(a, lighteval_details(tmp_path / name, {1}, **change))


def test_our_own_items(tmp_path):
    def items(name, right):
        rows = [{"benchmark": "colors", "item": f"{name}/colors.jsonl:{i}", "prompt": f"Color {i}?", "answer": "red",
                 "references": ["red"], "right": i in right, "scores": {"acc": float(i in right)}, "cluster": i // 2}
                for i in range(12)]  # fmt: skip
        (tmp_path / name).mkdir()
        return write_lines(tmp_path / name / "colors.A.jsonl", rows)

    found = llmanac.verdict(items("a", {1, 2}), items("b", {1, 2, 3, 4, 5, 6, 7, 8}), group="cluster")
    one = found.comparisons[0]
    assert (one.benchmark, one.items, one.groups, one.value) == ("colors", 12, 6, 8 / 12)


def test_each_form_is_known_by_what_it_holds(tmp_path):
    helm_run(tmp_path / "h", {1})
    evalplus_log(tmp_path / "e.json", {(1, 1)})
    lighteval_details(tmp_path / "l", {1})
    titles = {
        name: {one.task.form for one in read_log(tmp_path / name, "A").items.values()} for name in ["h", "e.json", "l"]
    }
    assert titles == {"h": {"HELM"}, "e.json": {"evalplus"}, "l": {"lighteval"}}


@pytest.mark.slow
def test_stock_inspect_logs(tmp_path):
    (a, mine), (b, theirs) = (logged_by("inspect", tmp_path / str(seed), seed, "eval", 1, 0) for seed in (0, 1))
    one = llmanac.verdict(a, b).comparisons[0]
    assert (one.items, one.baseline_value, one.value) == (40, pytest.approx(mine), pytest.approx(theirs))
    assert one.p == pytest.approx(scipy.stats.binomtest(one.improved, one.improved + one.worsened).pvalue)
    as_json, _ = logged_by("inspect", tmp_path / "j", 1, "json", 1, 0)
    assert llmanac.verdict(a, as_json).comparisons[0] == one  # the two forms hold the same
    several, mean = logged_by("inspect", tmp_path / "e", 1, "eval", 4, 0)
    found = llmanac.verdict(b, several)
    assert found.comparisons[0].value == pytest.approx(mean) and found.findings[0].kind == "samples"
    with pytest.raises(DataError, match="other solvers"):
        llmanac.verdict(a, logged_by("inspect", tmp_path / "s", 1, "eval", 1, 1)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "items", "metric"),
    [("evalplus", (), 164, "plus"), ("lighteval", (2,), 60, "acc"), ("helm", (), 30, "exact_match")],
)
def test_stock_logs_of_other_harnesses(name, options, items, metric, tmp_path):
    (a, mine), (b, theirs) = (logged_by(name, tmp_path / str(seed), seed, *options) for seed in (0, 1))
    one = llmanac.verdict(a, b, metric=metric).comparisons[0]
    assert one.items == items
    assert (one.baseline_value, one.value) == pytest.approx((mine, theirs), abs=6e-4 if name == "evalplus" else 1e-9)
    assert one.p == pytest.approx(scipy.stats.binomtest(one.improved, one.improved + one.worsened).pvalue)
    if name == "lighteval":
        with pytest.raises(DataError, match=r"other shots \(2 and 0\)"):
            llmanac.verdict(a, logged_by(name, tmp_path / "none", 1, 0)[0])
