"""`llmanac verdict`: planted faults of pairing are named, clean pairs pass; the command, its page, its memory."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import tracemalloc
import zipfile

import pytest
from _logs import (
    DATE,
    IM,
    MEASURE,
    inspect_log,
    lm_eval_folder,
    lm_eval_rows,
    outcomes,
    score_rows,
    write_inspect,
    write_lines,
    write_table,
)  # fmt: skip

import llmanac
from llmanac.cli import main
from llmanac.core.errors import DataError, SpecError
from llmanac.evaluate.verdict.load import read_log

N = 120


def rows_of(skill, seed, **change):
    return lm_eval_rows(N, skill, seed, **change)


def shuffled(rows):
    return random.Random(5).sample(rows, len(rows))


def changed(rows, at, **values):
    return [{**row, **values} if number in at else row for number, row in enumerate(rows)]


B = rows_of(0.55, 2)
# name: (what is changed in B's log, what the sentence must say); the log of A has nothing wrong with it
LM_EVAL_FAULTS = {
    "duplicated row": (lambda f: lm_eval_folder(f, [*B, B[7]]), ["1 rows are in the log twice", ".jsonl:121", ":8"]),
    "missing rows": (lambda f: lm_eval_folder(f, B[:-20]), ["20 of 120 rows are not in", "--allow missing"]),
    "filtered rows": (lambda f: lm_eval_folder(f, [r for r in B if r["acc"]]), ["rows are not in", "--allow missing"]),
    "other rows of a set": (
        lambda f: lm_eval_folder(f, lm_eval_rows(N + 40, 0.55, 2)[40:]), ["40 of 120 rows are not in", "allow missing"]
    ),
    "other shots": (lambda f: lm_eval_folder(f, rows_of(0.55, 2, shots="Q: 1 + 1?\nA: 2\n\n"), shots=1),
                    ["other shots (0 and 1)", "other prompts in 120 of 120 pairs"]),
    "other examples, as many": (lambda f: lm_eval_folder(f, rows_of(0.55, 2, shots="Q: 1 + 1?\nA: 2\n\n")),
                                ["other prompts in 120 of 120 pairs", "--allow prompts"]),
    "other version": (lambda f: lm_eval_folder(f, B, version=2.0), ["other version (1.0 and 2.0)"]),
    "a system prompt": (lambda f: lm_eval_folder(f, B, system_instruction="Be brief."), ["other system prompt"]),
    "other right answers": (lambda f: lm_eval_folder(f, changed(B, {3, 9}, target="0")),
                            ["other right answers in 2 of 120 pairs", ".jsonl:4"]),
    "another document": (lambda f: lm_eval_folder(f, changed(B, {5}, doc={**B[5]["doc"], "question": "What is 0?"})),
                         ["1 items have another document under the same name", ":6"]),
    "rescaled scores": (lambda f: lm_eval_folder(f, [{**row, "acc": 100 * row["acc"]} for row in B]),
                        ["acc goes from 0 to 1 in one log and from 0 to 100", "another scale"]),
    "NaN": (lambda f: lm_eval_folder(f, changed(B, {10}, acc=math.nan)), [".jsonl:11: acc is nan"]),
    "no score": (lambda f: lm_eval_folder(f, changed(B, {10}, acc=None)), [".jsonl:11: acc is None"]),
    "another metric": (lambda f: lm_eval_folder(f, [
        {k: v for k, v in {**row, "metrics": ["exact_match"], "exact_match": row["acc"]}.items() if k[:3] != "acc"}
        for row in B]), ["no metric in common (they have acc, acc_norm and exact_match)"]),
    "another filter": (lambda f: lm_eval_folder(f, rows_of(0.55, 2, filter="strict-match")),
                       ["other filters of the answers (none and strict-match)"]),
    "another direction": (lambda f: lm_eval_folder(f, B, higher=False), ["acc is better higher in one log and lower"]),
    "another task": (lambda f: lm_eval_folder(f, B, task="products"), ["sums: only in A", "products: only in B"]),
    "two runs in a folder": (lambda f: write_lines(lm_eval_folder(f, B) / "samples_sums_2026-04-01T10-00-00.1.jsonl", B)
                             .parent, ["holds sums, as", "give the file of one run"]),
    "the same log": (lambda f: f.parent / "a", ["is the same log as A"]),
    "nothing of the same set": (lambda f: lm_eval_folder(f, [row | {"doc": {"q": row["doc_id"]}} for row in B]),
                                ["share no item", "give logs of the same set"]),
}  # fmt: skip


@pytest.fixture
def base(tmp_path):
    return lm_eval_folder(tmp_path / "a", rows_of(0.5, 1))


@pytest.mark.parametrize("name", LM_EVAL_FAULTS)
def test_a_planted_fault_is_named(name, base, tmp_path):
    plant, said = LM_EVAL_FAULTS[name]
    with pytest.raises(DataError) as error:
        llmanac.verdict(base, plant(tmp_path / "b"))
    for part in said:
        assert part in str(error.value), error.value


def test_faults_that_other_forms_show(tmp_path):
    a = write_inspect(tmp_path / "a.eval", inspect_log(N, 0.5, 1))
    cases = {
        "started": ("did not end", inspect_log(N, 0.5, 2, status="started")),
        "error": ("'error', not 'success'", inspect_log(N, 0.5, 2, status="error")),
        "version": ("other version (0 and 1)", inspect_log(N, 0.5, 2, version=1)),
        "system": (
            "other prompts in 120 of 120",
            inspect_log(N, 0.5, 2, before=[{"role": "system", "content": "Hm."}]),
        ),
    }
    failed = inspect_log(N, 0.5, 2)
    failed["samples"][4] |= {"scores": {}, "error": {"message": "timeout"}}
    cases["failed"] = ("item 5 ended with an error (timeout)", failed)
    for name, (said, log) in cases.items():
        for suffix in ("eval", "json"):
            with pytest.raises(DataError) as error:
                llmanac.verdict(a, write_inspect(tmp_path / f"{name}.{suffix}", log))
            assert said in str(error.value), (name, suffix, error.value)


def test_shuffled_rows_and_a_template_alone_are_paired_and_named(base, tmp_path):
    straight = llmanac.verdict(base, lm_eval_folder(tmp_path / "b", B)).comparisons[0]
    for wrap in (IM, "<|im_start|>system\nYou are a model.<|im_end|>\n" + IM, "<s>[INST] {} [/INST]",
                 "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday: 1 March<|eot_id|>"
                 "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
                 "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"):  # fmt: skip
        other = lm_eval_folder(tmp_path / "c", shuffled(rows_of(0.55, 2, wrap=wrap)), chat_template_sha="abc")
        found = llmanac.verdict(base, other)
        assert [one.kind for one in found.findings] == ["template", "template", "order"], wrap
        assert "chat template alone" in found.findings[1].said
        assert found.comparisons[0] == straight


def clean_pairs(folder):
    """Pairs of logs with nothing wrong: their forms, sizes, repeated answers, and documents that are in a set twice."""
    twice = [{**row, "doc": rows_of(0.5, 1)[0]["doc"], "target": "0"} if row["doc_id"] in (0, 50) else row
             for row in rows_of(0.5, 1)]  # fmt: skip
    again = changed(twice, range(0, N, 3), acc=1.0)
    yield lm_eval_folder(folder / "a1", rows_of(0.5, 1)), lm_eval_folder(folder / "b1", rows_of(0.5, 2))
    yield lm_eval_folder(folder / "a2", twice), lm_eval_folder(folder / "b2", again)
    yield tuple(write_inspect(folder / f"{s}.eval", inspect_log(N, 0.5, s)) for s in (1, 2))
    yield tuple(write_inspect(folder / f"{s}.json", inspect_log(N, 0.5, s, epochs=3)) for s in (1, 2))
    yield tuple(write_table(folder / f"{s}.csv", score_rows(N, 0.5, s)) for s in (1, 2))
    yield tuple(write_lines(folder / f"{s}.jsonl", score_rows(N, 0.5, s)) for s in (3, 4))
    yield tables(folder, "half", lambda row, i, s: {"score": 0.5 + row["score"] / (s + 1)})
    yield tables(folder, "judge", lambda row, i, s: {"score": 1 + 6 * row["score"] + s})
    yield tables(folder, "loss", lambda row, i, s: {"nll": 20 * s + row["score"]})
    yield tables(folder, "tasks", lambda row, i, s: {"task": f"t{i % 3}"})


def tables(folder, name, change):
    """Two tables of scores; what is changed in a row comes first."""

    def changed_row(row, i, s):
        made = {"id": row["id"], **change(row, i, s)}
        return {**row, **made} if "task" in made else {**made, "score": made.get("score", 1)}

    paths = []
    for s in (1, 2):
        rows = [changed_row(row, i, s) for i, row in enumerate(score_rows(N, 0.5, s))]
        paths.append(write_table(folder / f"{name}{s}.csv", rows))
    return tuple(paths)


def test_clean_pairs_raise_no_alarm(tmp_path):
    found = [llmanac.verdict(*pair) for pair in clean_pairs(tmp_path)]
    assert len(found) == 10
    assert [one.findings for one in found] == [[]] * 10
    assert all(one.items == N or one.benchmark for each in found for one in each.comparisons)


def test_a_hostile_or_cut_off_log_is_named_by_file_and_line(base, tmp_path):
    b = lm_eval_folder(tmp_path / "b", B)
    path = next(b.glob("samples*"))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=rf"{path}:120: not JSON .*cut off"):
        llmanac.verdict(base, b)
    whole = write_inspect(tmp_path / "x.json", inspect_log(N, 0.5, 1))
    cut = tmp_path / "cut.json"
    cut.write_text(whole.read_text("utf-8")[:40_000], "utf-8")
    with pytest.raises(DataError, match=r"cut.json:\d+: not JSON that is read"):
        llmanac.verdict(whole, cut)
    packed = write_inspect(tmp_path / "x.eval", inspect_log(N, 0.5, 1))
    broken = tmp_path / "broken.eval"
    broken.write_bytes(packed.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"broken.eval: not as Inspect writes it, after row 0 \(BadZipFile"):
        llmanac.verdict(packed, broken)
    odd = lm_eval_folder(tmp_path / "odd", changed(B, {30}, arguments=7))
    with pytest.raises(DataError, match=r"samples_sums.*: not as lm-eval writes it, after row 30 \(TypeError"):
        llmanac.verdict(base, odd)
    half = packed.read_bytes()
    with zipfile.ZipFile(packed) as file:
        at = file.getinfo("samples/9_epoch_1.json").header_offset + 60
    broken.write_bytes(half[:at] + bytes(40) + half[at + 40 :])
    with pytest.raises(DataError, match=r"broken.eval: not as Inspect writes it, after row 8"):
        llmanac.verdict(packed, broken)
    (tmp_path / "none").mkdir()
    for nothing, said in ((tmp_path / "none", "no log with a row"), (tmp_path / "absent", "no such file")):
        with pytest.raises(DataError, match=said):
            llmanac.verdict(base, nothing)


def test_what_is_allowed_passes_and_is_said(base, tmp_path):
    other = lm_eval_folder(tmp_path / "b", rows_of(0.55, 2, shots="Q: 1 + 1?\nA: 2\n\n")[:-20], shots=2, version=3)
    with pytest.raises(DataError, match="rows are not in"):
        llmanac.verdict(base, other, allow=["prompts"])
    with pytest.raises(DataError, match="other prompts"):
        llmanac.verdict(base, other, allow=["missing"])
    found = llmanac.verdict(base, other, allow=["prompts", "missing"])
    assert found.comparisons[0].items == N - 20
    assert {one.kind for one in found.findings} == {"missing", "shots", "version", "prompt"}
    with pytest.raises(SpecError, match="allow: 'prompt' is not prompts or missing; did you mean 'prompts'"):
        llmanac.verdict(base, other, allow=["prompt"])
    with pytest.raises(SpecError, match="baseline: 'C'"):
        llmanac.verdict(base, other, baseline="C")
    with pytest.raises(SpecError, match="margin"):
        llmanac.verdict(base, other, margin=0.0)
    with pytest.raises(SpecError, match=r"has no field 'subjct'; did you mean 'subject'"):
        llmanac.verdict(base, other, group="subjct")


def run(*arguments, expect=0):
    try:
        main(["verdict", *map(str, arguments)])
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    assert code == expect


def test_the_command(base, tmp_path, capsys):
    good = [{**row, "acc": 1.0} if row["doc_id"] % 3 else row for row in rows_of(0.5, 1)]
    good[8]["arguments"]["gen_args_0"]["arg_0"] += "<script>alert(1)</script>"
    better = lm_eval_folder(tmp_path / "b", good)
    page = tmp_path / "verdict.html"
    run(
        base,
        better,
        "--report",
        page,
        "--changed",
        5,
        "--slices",
        "subject",
        "--allow",
        "prompts",
        "--fail-if",
        "worse",
    )
    said = capsys.readouterr().out
    assert "B is better than A (acc of sums: +0." in said and "law" in said and "physics" in said
    text = page.read_text("utf-8")
    assert text.count('class="answer"') == 5 and "the 5 largest changes are here" in text
    assert "<script>alert" not in text and "What is 1 + 1?" in text and "samples_sums" in text and "<svg" in text
    run(base, better, "--report", page, expect=2)
    assert "--force" in capsys.readouterr().err
    run(better, base, "--fail-if", "worse", "--json", "--allow", "prompts", expect=1)
    found = json.loads(capsys.readouterr().out)
    assert found["verdicts"] == {"B": "worse"} and found["comparisons"][0]["metric"] == "acc"
    assert found["findings"][0]["kind"] == "prompt"
    run(better, base, "--baseline", "B", "--fail-if", "worse", "--allow", "prompts")
    run(better, base, "--metric", "acc_norm", "--margin", "0.01", "--allow", "prompts", "--json")
    capsys.readouterr()
    run(base, better, "--fail-if", "better", expect=2)
    run(base, expect=2)


def test_the_table_in_a_notebook(base, tmp_path):
    found = llmanac.verdict(base, lm_eval_folder(tmp_path / "<b>", B), margin=0.5)
    assert found.verdicts == {"B": "equivalent"}
    assert "benchmark  system" in repr(found) and "equivalent" in repr(found)
    assert found._repr_html_().count("<tr>") == 2 and "<b>" not in found._repr_html_()
    with pytest.raises(AttributeError):
        found.baseline = "B"


def test_equal_scores_are_settled_by_a_margin_alone(tmp_path):
    for count, margin, verdict in ((10, None, "inconclusive"), (10, 0.2, "inconclusive"), (20, 0.2, "equivalent")):
        rows = score_rows(count, 0.6, 1)
        paths = [write_table(tmp_path / f"{s}.csv", [row | {"passage": s} for row in rows]) for s in "ab"]
        found = llmanac.verdict(*paths, margin=margin)
        assert found.verdicts == {"B": verdict} and ("none would" in repr(found)) is (margin is None)


def test_several_systems_and_benchmarks(tmp_path):
    paths = [
        write_table(tmp_path / f"{s}.csv", [row | {"task": task} for task, skill in tasks.items()
                                            for row in score_rows(300, skill, s)])
        for s, tasks in enumerate([{"x": 0.5, "y": 0.5}, {"x": 0.75, "y": 0.5}, {"x": 0.3, "y": 0.25}])
    ]  # fmt: skip
    found = llmanac.verdict(*paths, group="passage")
    assert [(one.benchmark, one.system, one.groups) for one in found.comparisons] == [
        ("x", "B", 75), ("y", "B", 75), ("x", "C", 75), ("y", "C", 75)
    ]  # fmt: skip
    assert found.verdicts == {"B": "better", "C": "worse"}
    assert [one.benchmark for one in found.overall] == ["all", "all"]
    assert found.overall[0].difference == pytest.approx(
        (found.comparisons[0].difference + found.comparisons[1].difference) / 2
    )
    assert [one.verdict for one in found.comparisons].count("worse") == 2


def test_lists_of_a_set_that_differ_in_length_and_names_in_another_order(tmp_path):
    """A document that is in the set twice is two items; names that count rows may differ."""
    rows = [{**row, "doc": {"question": f"q{row['doc_id'] // 2}"}, "target": "1"} for row in rows_of(0.5, 1)]
    moved = [{**row, "doc_id": number} for number, row in enumerate(shuffled(rows))]
    found = llmanac.verdict(
        lm_eval_folder(tmp_path / "a", rows), lm_eval_folder(tmp_path / "b", moved), allow=["prompts"]
    )
    assert found.comparisons[0].items == N and found.comparisons[0].difference == 0


def write_large(path, count, size, seed):
    """A log of lm-eval whose rows are `size` bytes of prompt each."""
    filler = "word " * (size // 10)
    with open(path, "w", encoding="utf-8") as file:
        for i, right in enumerate(outcomes(count, 0.5, seed)):
            row = {"doc_id": i, "doc": {"q": f"{i} {filler}"}, "target": "1", "resps": [["x"]], "filter": "none",
                   "arguments": {"gen_args_0": {"arg_0": f"{i} {filler}", "arg_1": {"until": []}}}, "metrics": ["acc"],
                   "acc": right}  # fmt: skip
            file.write(json.dumps(row) + "\n")
    return path


def held(tmp_path, count):
    """Bytes at most that reading a log of so many rows holds."""
    path = write_large(tmp_path / "a.jsonl", count, 4000, 1)
    tracemalloc.start()
    try:
        assert len(read_log(path, "A").items["", ""]) == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_item_costs_the_same_few_bytes_whatever_its_prompt(tmp_path):
    few, many = held(tmp_path, 500), held(tmp_path, 2500)
    assert (many - few) / 2000 < 300


@pytest.mark.slow
def test_two_gigabytes_in_five_hundred_megabytes(tmp_path):
    paths = [write_large(tmp_path / f"{s}.jsonl", 250_000, 4000, s) for s in (1, 2)]
    assert sum(path.stat().st_size for path in paths) > 2e9
    done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, paths)], capture_output=True, text=True, check=True)
    items, kilobytes = map(int, done.stdout.split())
    assert items == 250_000 and kilobytes * 1024 < 500e6


def test_zstd_members_are_read(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    log = inspect_log(N, 0.5, 1)
    plain, packed = write_inspect(tmp_path / "a.eval", log), tmp_path / "z.eval"
    with zipfile.ZipFile(plain) as source:
        _write_zstd(packed, {name: source.read(name) for name in source.namelist()}, zstandard)
    other = write_inspect(tmp_path / "b.eval", inspect_log(N, 0.5, 2))
    assert llmanac.verdict(packed, other).comparisons == llmanac.verdict(plain, other).comparisons


def _write_zstd(path, members, zstandard):
    """A zip whose members are packed by method 93, which Python's zipfile cannot write before 3.14."""
    stored = path.with_suffix(".stored")
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_STORED) as file:
        for name, data in members.items():
            file.writestr(name, zstandard.compress(data))
    with zipfile.ZipFile(stored) as file:
        infos = file.infolist()
        start = file.start_dir
    raw = bytearray(stored.read_bytes())
    at = start
    for info in infos:
        size = len(members[info.filename]).to_bytes(4, "little")
        raw[info.header_offset + 8 : info.header_offset + 10] = raw[at + 10 : at + 12] = (93).to_bytes(2, "little")
        raw[info.header_offset + 22 : info.header_offset + 26] = raw[at + 24 : at + 28] = size
        at += 46 + sum(int.from_bytes(raw[at + k : at + k + 2], "little") for k in (28, 30, 32))
    path.write_bytes(raw)


def test_the_date_of_names_is_lm_evals():
    assert DATE.count("-") == 4
