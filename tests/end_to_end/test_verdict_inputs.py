"""`llmanac verdict`: what a log may hold and what a call may say, each tried in all its neighbours."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from string import ascii_uppercase

import numpy as np
import pytest
from _logs import MEASURE, lm_eval_folder, lm_eval_rows, outcomes, score_rows, write_lines, write_table

import llmanac
from llmanac.cli import main
from llmanac.core.errors import DataError, SpecError
from llmanac.evaluate.verdict.aggregates import LOWER, lower_is_better
from llmanac.evaluate.verdict.items import Items, LogRow, Task, digest, without_template
from llmanac.evaluate.verdict.judged import WORST, Judgement
from llmanac.evaluate.verdict.load import read_log

N = 60


def two(folder, first, second, **columns):
    """Two tables of scores by item; further columns are equal."""
    return [
        write_table(folder / f"{name}.csv", [{"id": i, **{k: v[i] for k, v in columns.items()}, "score": one}
                                             for i, one in enumerate(scores)])
        for name, scores in (("a", first), ("b", second))
    ]  # fmt: skip


def prompts(folder, first, second):
    """Two logs whose prompts are templates of a question."""
    return [
        write_lines(folder / f"{name}.jsonl", [{"id": i, "score": (i + s) % 2, "prompt": text.format(f"Q{i}: x\nA:")}
                                               for i in range(20)])
        for s, (name, text) in enumerate((("a", first), ("b", second)))
    ]  # fmt: skip


def test_one_bad_benchmark_is_not_hidden_by_the_order_of_benchmarks(tmp_path):
    """Metrics of two directions have no overall; the verdict is the worst of the comparisons."""
    for order in ((0, 1), (1, 0)):
        folders = []
        for s, (acc, loss) in enumerate(((1.0, 2.0), (0.0, 1.0))):
            tasks = [lm_eval_rows(N, 0.5, 1) for _ in range(2)]
            right = [{**row, "metrics": ["acc"], "acc": acc if row["doc_id"] % 5 else 1 - acc} for row in tasks[0]]
            low = [{**row, "metrics": ["loss"], "loss": loss + row["doc_id"] / 99} for row in tasks[1]]
            folder = tmp_path / f"{s}{order}"
            for name in order:
                lm_eval_folder(folder, (right, low)[name], task=f"t{order[name]}", higher=True)
            (folder / next(folder.glob("results*")).name).unlink()
            folders.append(folder)
        found = llmanac.verdict(*folders)
        assert not found.overall and {one.verdict for one in found.comparisons} == {"better", "worse"}
        assert found.verdicts == {"B": "worse"} == found.as_json()["verdicts"]


def test_the_verdict_of_several_is_the_worst(tmp_path):
    one = llmanac.verdict(*two(tmp_path, [0] * 20, [1] * 20)).comparisons[0]
    for first in WORST:
        for second in WORST:
            several = [type(one)(**{**vars(one), "verdict": each}) for each in (first, second)]
            found = Judgement({"A": "", "B": ""}, "A", several).verdicts
            assert found == {"B": WORST[min(WORST.index(first), WORST.index(second))]}


def test_the_direction_is_known_and_said(tmp_path, capsys):
    scores = np.arange(N) / N
    for name in sorted(LOWER):
        for metric in (name, f"{name}_rate", f"mean {name.upper()}", f"val{name.title()}"):
            assert lower_is_better(metric), metric
    for metric in ("acc", "exact_match", "f1", "tokens_per_second", "terms", "closs", "timely", "recall"):
        assert not lower_is_better(metric), metric
    paths = two(tmp_path, scores, scores, error_rate=scores, speed=scores)
    rows = [{"id": i, "error_rate": one + 1 + i % 3, "speed": one + 1 + i % 3, "score": one}
            for i, one in enumerate(scores)]  # fmt: skip
    write_table(paths[1], rows)
    for metric, verdict, better in (("error_rate", "worse", "lower"), ("speed", "better", "higher")):
        found = llmanac.verdict(*paths, metric=metric)
        assert found.verdicts == {"B": verdict}
        assert found.as_json()["comparisons"][0]["higher_is_better"] == (better == "higher")
        with pytest.raises(SystemExit):
            main(["verdict", *map(str, paths), "--metric", metric])
        said = capsys.readouterr().out
        assert better in said and ("where less is better" in said) == (better == "lower")


@pytest.mark.parametrize("other", ["tokens", "latency", "zzz", "a"])
def test_the_column_score_counts_before_every_other(other, tmp_path):
    scores = outcomes(N, 0.5, 1)
    found = llmanac.verdict(*two(tmp_path, scores, [1 - one for one in scores], **{other: range(N)}))
    assert found.comparisons[0].metric == "score"


def test_a_column_whose_first_row_is_blank_is_a_metric(tmp_path):
    paths = two(tmp_path, [1.0] * N, [0.0] * N, f=["", *range(N - 1)])
    with pytest.raises(DataError, match=r"a.csv:\d+: f is ''"):
        llmanac.verdict(*paths, metric="f")


def test_helm_without_its_run_spec_is_not_judged_by_counts(tmp_path):
    paths = []
    for s in (1, 2):
        folder = tmp_path / str(s)
        folder.mkdir()
        names = {"num_bytes": 5.0 * s, "num_completions": 1.0, "max_prob": 0.5, "inference_runtime": 2.0}
        rows = [{"instance_id": f"id{i}", "train_trial_index": 0,
                 "stats": [{"name": {"name": name}, "count": 1, "sum": value + i}
                           for name, value in (*names.items(), ("exact_match", i % 2 - i))]}
                for i in range(N)]  # fmt: skip
        (folder / "per_instance_stats.json").write_text(json.dumps(rows), "utf-8")
        paths.append(folder)
    assert llmanac.verdict(*paths).comparisons[0].metric == "exact_match"


@pytest.mark.parametrize("scale", [lambda x: 4 * x, lambda x: 2 * x - 1, lambda x: 100 * x, lambda x: -x,
                                   lambda x: 2 * x, lambda x: 10 * x, lambda x: 1 + x])  # fmt: skip
@pytest.mark.parametrize("all_wrong", [False, True])
def test_another_scale_passes_with_nothing(scale, all_wrong, tmp_path):
    scores = outcomes(N, 0.5, 1)
    first = [0 * one for one in scores] if all_wrong else scores
    for pair in ((first, [scale(one) for one in scores]), ([scale(one) for one in scores], first)):
        with pytest.raises(DataError, match="another scale"):
            llmanac.verdict(*two(tmp_path, *pair))


IM = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n{{}}<|im_end|>\n<|im_start|>assistant\n"
OTHER_TEXT = {
    "system turn": (IM.format("You are helpful."), IM.format("Think step by step.")),
    "system turn in one": (IM.format("Think step by step."), "<|im_start|>user\n{}<|im_end|>"),
    "system turn and none": ("{}", IM.format("Think step by step.")),
    "llama": ("[INST] <<SYS>>a<</SYS>> {} [/INST]", "[INST] <<SYS>>b<</SYS>> {} [/INST]"),
    "zephyr": ("<|system|>\na</s>\n<|user|>\n{}</s>", "<|system|>\nb</s>\n<|user|>\n{}</s>"),
    "white space at the end": ("{}", "{} "),
    "white space inside": ("Question: {}", "Question:{}"),
    "line breaks": ("Question: {}", "Question:\n{}"),
    "white space in a template": ("<|user|>Question: {}", "<|user|>Question:{}"),
}


@pytest.mark.parametrize("name", OTHER_TEXT)
def test_text_is_text(name, tmp_path):
    with pytest.raises(DataError, match="other prompts in 20 of 20"):
        llmanac.verdict(*prompts(tmp_path, *OTHER_TEXT[name]))


@pytest.mark.parametrize("text", ["<|im_start|>user\n{}<|im_end|>\n", "<s>[INST] {} [/INST]", "<|user|>\n{}</s>\n",
                                  "<start_of_turn>user\n{}<end_of_turn>\n"])  # fmt: skip
def test_a_template_alone_passes(text, tmp_path):
    found = llmanac.verdict(*prompts(tmp_path, "{}", text))
    assert [one.kind for one in found.findings] == ["template"]


def test_system_turns_are_read_once():
    """Work grows with the length: of turns that never end, a search for each end would go through all the rest."""
    for mark in ("<<SYS>>", "<|im_start|>system ", "<|system|>", "<|im_start|>" + " " * 50, "<think>" + " " * 50):
        without_template(mark * (1_000_000 // len(mark)))
    assert without_template("<<SYS>> a <<SYS>> b <</SYS>> c") == ("a b c", "c")
    assert without_template("<</SYS>> a <<SYS>> b") == ("a b", "a b")


def test_a_folder_with_other_json_is_read(tmp_path):
    a, b = (lm_eval_folder(tmp_path / str(s), lm_eval_rows(N, 0.5, s)) for s in (1, 2))
    whole = llmanac.verdict(a, b).comparisons
    for number, text in enumerate(("[1,2,3]", "[[1], [2]]", ' [ "x"]', "[]", "[null]", "3", '"x"', "{}")):
        (b / f"other{number}.json").write_text(text, "utf-8")
    assert llmanac.verdict(a, b).comparisons == whole


@pytest.mark.parametrize("samples", [(0, 1), ("x", "y"), ("nan", "1"), (1, 2), (0.5, 1.5)])
def test_any_name_of_a_sample_is_one(samples, tmp_path):
    paths = [
        write_table(tmp_path / f"{s}.csv", [{"id": i, "score": (i + s) % 2, "sample": one}
                                            for i in range(N) for one in samples])
        for s in (0, 1)
    ]  # fmt: skip
    assert llmanac.verdict(*paths).comparisons[0].items == N
    again = write_table(tmp_path / "c.csv", [{"id": i, "score": 1, "sample": samples[0]} for i in (*range(N), 3)])
    with pytest.raises(DataError, match="in the log twice"):
        llmanac.verdict(paths[0], again)


def test_a_copy_of_a_folder_is_the_same_log(tmp_path):
    a = lm_eval_folder(tmp_path / "a", lm_eval_rows(N, 0.5, 1))
    for number, other in enumerate((a, shutil.copytree(a, tmp_path / "copy"))):
        with pytest.raises(DataError, match="B is the same log as A"):
            llmanac.verdict(a, other)
        assert number in (0, 1)


def test_what_a_call_may_say(tmp_path):
    paths = two(tmp_path, [0, 1] * 20, [1, 1] * 20)
    assert llmanac.verdict(*paths, allow="prompts").verdicts == llmanac.verdict(*paths, allow=["prompts"]).verdicts
    llmanac.verdict(*paths, allow="prompts,missing")
    for margin in ("0.1", 0, -1, float("nan"), float("inf")):
        with pytest.raises(SpecError, match="margin: must be a number above 0"):
            llmanac.verdict(*paths, margin=margin)


def test_a_report_is_not_written_over_a_log_of_a_folder(tmp_path):
    a, b = (lm_eval_folder(tmp_path / str(s), lm_eval_rows(N, 0.5, s)) for s in (1, 2))
    log = next(a.glob("samples*"))
    before = log.read_bytes()
    with pytest.raises(SystemExit) as stop:
        main(["verdict", str(a), str(b), "--report", str(log), "--force"])
    assert stop.value.code == 2 and log.read_bytes() == before


def test_true_and_false_are_scores_and_huge_numbers_are_none(tmp_path):
    right = [bool(one) for one in outcomes(N, 0.5, 1)]
    numbers = llmanac.verdict(*two(tmp_path, [int(one) for one in right], [1] * N)).comparisons
    assert llmanac.verdict(*two(tmp_path, right, [True] * N)).comparisons == numbers
    for huge in ("1e308", "-1e308", "inf", "nan", "1e101"):
        with pytest.raises(DataError, match=rf"b.csv:\d+: score is '{huge}' \(1 such in all\)"):
            llmanac.verdict(*two(tmp_path, [1] * N, [huge, *[1] * (N - 1)]))


def test_a_log_that_does_not_say_how_it_was_asked_is_named(tmp_path):
    a, b = (lm_eval_folder(tmp_path / str(s), lm_eval_rows(N, 0.5, s)) for s in (1, 2))
    for folder in (b, a):
        next(folder.glob("results*")).unlink()
        found = llmanac.verdict(a, b)
        assert [one.kind for one in found.findings] == ["note"] and str(folder) in found.findings[0].said


def test_scores_without_a_spread_say_no_size(tmp_path):
    found = llmanac.verdict(*two(tmp_path, [0] * 5, [1] * 5))
    assert found.verdicts == {"B": "too few"} and found.comparisons[0].more == 1
    assert "0.0000 four times" not in "".join(found.said())
    assert len(read_log(tmp_path / "a.csv", "A").items["", ""]) == 5


@pytest.mark.parametrize("names, said", [
    (("ID", "Score"), "; rename the column 'ID' to 'id'; rename the column 'Score' to 'score'"),
    (("id", "SCORE"), "; rename the column 'SCORE' to 'score'"), ((" id", "score"), "rename the column ' id' to 'id'"),
    (("Benchmark", "item", "Prompt", "scores"),
    "rename the column 'Benchmark' to 'benchmark'; rename the column 'Prompt'"),
    (("doc", "points"), "docs/verdict.md has the forms"),
])  # fmt: skip
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_columns_in_other_letters_are_named(names, said, suffix, tmp_path):
    rows = [dict.fromkeys(names, "1") for _ in range(3)]
    path = tmp_path / f"a.{suffix}"
    (write_table if suffix == "csv" else write_lines)(path, rows)
    with pytest.raises(DataError, match=r"holds no log with a row") as wrong:
        read_log(path, "A")
    assert said in str(wrong.value) and ("rename" in str(wrong.value)) == ("rename" in said)


def test_systems_past_the_alphabet(tmp_path):
    """The 27th system is AA, and may be the baseline."""
    paths = [write_table(tmp_path / f"{s}.csv", score_rows(40, 0.5, s)) for s in range(30)]
    found = llmanac.verdict(*paths)
    assert list(found.systems) == [*ascii_uppercase, "AA", "AB", "AC", "AD"] and len(found.comparisons) == 29
    other = llmanac.verdict(*paths, baseline="AB")
    assert other.verdicts.keys() == found.systems.keys() - {"AB"}
    with pytest.raises(SpecError, match="'AE' is not one of the letters A, B"):
        llmanac.verdict(*paths, baseline="AE")


def test_columns_that_say_nothing_take_no_memory(tmp_path):
    """Names only, then documents, prompts and repeated answers from some row on: hashes are those of full columns."""
    rows = [LogRow(i + 1, f"q{i}", None, {"score": 1.0}) for i in range(50)]
    plain = Items(Task("", tmp_path, "x"), "", "", ())
    for row in rows:
        plain.add(row)
    assert [name for name, column in plain.hashes.items() if column] == ["name"]
    assert (plain.hashed("document") == plain.hashed("name")).all() and not plain.hashed("prompt").any()
    assert set(plain.hashed("sample").tolist()) == {digest(1)}
    later = [replace(rows[i], document=f"d{i}" if i > 20 else None, prompts=("p",) if i % 3 == 2 else (),
    sample=1 + (i > 30),
                     target="t" if i == 49 else None) for i in range(50)]  # fmt: skip
    mixed = Items(Task("", tmp_path, "x"), "", "", ())
    for row in later:
        mixed.add(row)
    for name, value in (("document", lambda r: r.name if r.document is None else r.document),
                        ("prompt", lambda r: list(r.prompts) or None), ("sample", lambda r: r.sample),
                        ("target", lambda r: r.target), ("name", lambda r: r.name)):  # fmt: skip
        assert mixed.hashed(name).tolist() == [digest(value(row)) for row in later], name


@pytest.mark.slow
def test_two_million_tiny_rows_in_five_hundred_megabytes(tmp_path):
    paths = []
    for s in (1, 2):
        paths.append(tmp_path / f"{s}.csv")
        draw = np.random.default_rng(s).random(2_000_000) < 0.5
        paths[-1].write_text("id,score\n" + "".join(f"{i},{int(one)}\n" for i, one in enumerate(draw)), "utf-8")
    done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, paths)], capture_output=True, text=True, check=True)
    items, kilobytes = map(int, done.stdout.split())
    assert items == 2_000_000 and kilobytes * 1024 < 500e6
