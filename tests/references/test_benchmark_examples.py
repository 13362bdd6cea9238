"""Extractions, targets and examples of a benchmark against the same task of lm-eval: prompts and figures."""

from __future__ import annotations

import pytest
from _lm_eval import Canned, files, lm_eval, ours, pretrained, task_of, theirs_of, words, write

from llmanac.core.errors import SpecError
from llmanac.evaluate._answering import Local
from llmanac.evaluate._benchmark_rows import files_of, items_of
from llmanac.evaluate.benchmark import Benchmark, Source
from llmanac.evaluate.evaluation import evaluate

__all__ = ["ours", "pretrained"]  # fixtures

GSM = r"""
output_type: generate_until
test_split: test
training_split: train
num_fewshot: 3
doc_to_text: "Question: {{question}}\nAnswer:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["Question:"], do_sample: false, temperature: 0.0, max_gen_toks: 9}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true, ignore_punctuation: true,
     regexes_to_ignore: [",", "\\$", "(?s).*#### ", "\\.$"]}
filter_list:
  - {name: strict, filter: [{function: regex, regex_pattern: "#### (\\-?[0-9\\.\\,]+)"}, {function: take_first}]}
  - name: flexible
    filter: [{function: regex, group_select: -1, regex_pattern: "(-?[$0-9.,]{2,})|(-?[0-9]+)"}, {function: take_first}]
  - {name: plain, filter: [{function: remove_whitespace}, {function: take_first}]}
metadata: {version: 1.0}
"""
CHOOSE = """
output_type: multiple_choice
validation_split: validation
description: "About {{name}}.\\n"
doc_to_text: question
doc_to_choice: "{{[a, b]}}"
doc_to_target: "{{label}}"
num_fewshot: 2
fewshot_config: {sampler: first_n}
metric_list: [{metric: acc}, {metric: acc_norm}]
"""


OUR_GSM = {
    "title": "gen", "prompt": "Question: {{question}}\nAnswer:", "target": "{{answer}}",
    "shots": {"count": 3, "order": "random", "leave_out": False},
}  # fmt: skip
COMPARED = {"ignore_case": True, "ignore_punctuation": True, "ignore": [",", r"\$", "(?s).*#### ", r"\.$"]}
FOUND = [
    {"label": "strict", "pattern": r"#### (\-?[0-9\.\,]+)"},
    {"label": "flexible", "pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)", "group": -1},
    {"label": "plain", "strip": True},
]
OUR_CHOICES = {
    "title": "mc", "description": "About {{name}}.\n", "prompt": "{{question}}",
    "choices": {"texts": "[a, b]", "gold": "label"},
    "shots": {"count": 2, "order": "first", "leave_out": True},
}  # fmt: skip


def test_extractions_and_choices_equal_lm_eval(pretrained, ours, tmp_path):
    """Prompts, filters and figures are those that lm-eval gives for the same task."""
    rows = [{"question": words(i, 5) + "?", "answer": f"so\n#### {1000 * i:,}"} for i in range(8)]
    splits = {part: write(tmp_path / f"{part}.jsonl", rows) for part in ("train", "test")}
    answers = ["#### 0", "so #### 1,000.", "it is $2,000", "3000 #### 5", "x #### 4000 #### 1", "", " 6,000.", "n"]
    manager = task_of(tmp_path / "t", "gen", GSM + files(tmp_path / "cache", **splits))
    expected, prompts = theirs_of(answers, "gen", manager)
    generation = {
        "stop": ["Question:"], "length": 9, "references": "answer", "metrics": [],
        "extractions": [{**one, **COMPARED} for one in FOUND],
    }  # fmt: skip
    shots = {**OUR_GSM["shots"], "data": {"files": ["train.jsonl"]}}
    own = Benchmark.from_data({**OUR_GSM, "data": {"files": ["test.jsonl"]}, "shots": shots, "generation": generation})
    model = Canned(answers)
    found = evaluate(model, "gen", items_of(own, tmp_path), own)
    assert model.asked == prompts and own.generation.length == 9
    scores = {score.metric: score.value for score in found.scores}
    assert scores == {
        f"exact match ({name})": expected[f"exact_match,{name}"] for name in ("strict", "flexible", "plain")
    }
    assert len(set(scores.values())) == 2

    transformers = pytest.importorskip("transformers")
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    rows = [
        {"question": words(i, 5), "a": words(i + 9, 2), "b": words(i, 4), "label": i % 2, "name": "x"} for i in range(9)
    ]
    path = write(tmp_path / "choose.jsonl", rows)
    manager = task_of(tmp_path / "c", "mc", CHOOSE + files(tmp_path / "cache", validation=path))
    folder, net = pretrained
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    harness = huggingface.HFLM(pretrained=net, tokenizer=tokenizer, batch_size=4, device="cpu")
    expected = lm_eval.simple_evaluate(harness, tasks=["mc"], task_manager=manager, bootstrap_iters=1)
    own = Benchmark.from_data({**OUR_CHOICES, "data": {"files": ["choose.jsonl"]}})
    found = evaluate(Local(ours, "m", "m"), "mc", items_of(own, tmp_path), own)
    samples = sorted(expected["samples"]["mc"], key=lambda s: s["doc_id"])
    assert [item.prompt for item in found.items] == [sample["arguments"][0][0] for sample in samples]
    for score in found.scores[:2]:
        assert score.value == expected["results"]["mc"][f"{score.metric},none"]


PATTERN = "^([0-9]+)(b)?"
FIND = r'{function: regex, regex_pattern: "^([0-9]+)(b)?"}'
ELSE = r'{function: regex, regex_pattern: "^([0-9]+)(b)?", fallback: %s}'
STRIP = "{function: remove_whitespace}"


def steps(*made):
    return {"filter_list": f"[{{name: f, filter: [{', '.join(made)}, {{function: take_first}}]}}]"}


def shots(count, **more):
    return {"shots": {"count": count, "order": "random", "leave_out": False, **more}}


@pytest.mark.parametrize(
    "theirs, ours_of, extraction",
    [
        (steps(ELSE % '"no"'), {}, {"pattern": PATTERN, "fallback": "no"}),
        (steps(ELSE % '"no "', STRIP), {}, {"pattern": PATTERN, "fallback": "no"}),
        (steps(STRIP), {}, {"strip": True}),
        (steps(STRIP, FIND), {}, {"strip": True, "pattern": PATTERN}),
        (steps(FIND, STRIP), {}, {"pattern": PATTERN}),
        ({"doc_to_target": '" {{a}}"', "num_fewshot": 1, "fewshot_split": "test"},
         {"references": "' ' ~ a", **shots(1, leave_out=True)}, {}),
        ({"doc_to_target": '"{{a}}\\n"'}, {"references": "a ~ '\\n'"}, {}),
        ({"doc_to_target": '"{{n}}"'}, {"references": "n|string"}, {}),
        ({"doc_to_target": '"{{al}}"', "num_fewshot": 2, "fewshot_config": "{sampler: first_n}"},
         {"references": "al", "target": None, **shots(2, order="first")}, {}),
        ({"num_fewshot": 2}, shots(2), {}),
        ({"num_fewshot": 2, "fewshot_split": "test"}, shots(2, leave_out=True), {}),
        ({"num_fewshot": 2, "fewshot_split": "test", "fewshot_config": "{sampler: first_n}"},
         shots(2, leave_out=True, order="first"), {}),
        ({"num_fewshot": 2, "test_split": None, "validation_split": "test"}, shots(2, leave_out=True), {}),
        ({"num_fewshot": 2, "test_split": None, "validation_split": "test", "fewshot_split": "test"}, shots(2), {}),
        ({"num_fewshot": 2, "test_split": None, "validation_split": "test", "training_split": "train"},
         shots(2, leave_out=True, data={"files": ["train.jsonl"]}), {}),
        ({"num_fewshot": 1, "fewshot_split": "train"}, shots(1, data={"files": ["train.jsonl"]}), {}),
        ({"metric_list": "[{metric: exact_match, ignore_case: true}]"}, {}, {"ignore_case": True}),
    ],
    ids=str,
)  # fmt: skip
def test_filters_targets_and_examples_equal_lm_eval(theirs, ours_of, extraction, tmp_path):
    rows = [{"q": f"q{i}", "a": str(i), "al": [str(i), "no"], "n": i} for i in range(6)]
    rows += [{**rows[1]}, {"q": "q8", "a": "no", "al": ["No", "x"], "n": 3}, {"q": "q9", "a": "", "al": ["x"], "n": 0}]
    keys = {
        "output_type": "generate_until", "test_split": "test", "doc_to_text": "q", "doc_to_target": "a",
        "generation_kwargs": "{until: [z], do_sample: false}", "metric_list": "[{metric: exact_match}]",
    }  # fmt: skip
    text = "".join(f"{key}: {value}\n" for key, value in {**keys, **theirs}.items() if value is not None)
    splits = {"test": rows, "train": [{**row, "q": row["q"] + "t"} for row in rows]}
    text += files(
        tmp_path / "cache", **{part: write(tmp_path / f"{part}.jsonl", made) for part, made in splits.items()}
    )
    answers = ["0", "1 ", " 2", "3b", "b", "\n5\n", "x1", "No", ""]
    expected, prompts = theirs_of(answers, "gen", task_of(tmp_path / "t", "gen", text))
    fields = {"title": "gen", "prompt": "{{q}}", "data": {"files": ["test.jsonl"]}, **shots(0), **ours_of}
    generation = {
        "stop": ["z"], "metrics": [], "extractions": [{"label": "f", **extraction}],
        "references": fields.pop("references", "a"),
    }  # fmt: skip
    own = Benchmark.from_data({**fields, "generation": generation})
    model = Canned(answers)
    found = evaluate(model, "gen", items_of(own, tmp_path), own)
    assert model.asked == prompts
    assert [found.scores[0].value] == [v for k, v in expected.items() if k.startswith("exact_match,")]


def test_rows_that_are_asked_may_be_examples_with_a_note(tmp_path, capsys):
    write(tmp_path / "x.jsonl", [{"q": str(i), "a": str(i)} for i in range(4)])
    own = {
        "title": "leaking", "prompt": "{{q}}", "target": "{{a}}", "data": {"files": ["x.jsonl"]}, **shots(3),
    }  # fmt: skip
    items_of(Benchmark.from_data(own), tmp_path)
    assert "leaking: examples are drawn from the rows that are asked" in capsys.readouterr().err


def test_a_pattern_of_files_that_is_none_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"data\.files: '\*\*t\.jsonl' is no pattern of file names"):
        files_of(Source(files=("**t.jsonl",)), tmp_path)
