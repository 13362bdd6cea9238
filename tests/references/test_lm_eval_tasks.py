"""Task files of lm-eval read by us and by itself: the same prompts, filters and figures."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from _lm_eval import Canned, files, lm_eval, ours, pretrained, task_of, theirs_of, words, write
from packaging.version import Version

from llmanac.core.errors import LlmanacError, SpecError
from llmanac.evaluate._benchmark_rows import files_of, items_of
from llmanac.evaluate.answering import Local
from llmanac.evaluate.benchmark import BenchmarkSource
from llmanac.evaluate.evaluation import evaluate
from llmanac.evaluate.load import load_benchmark

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
training_split: train
validation_split: validation
description: "About {{name}}.\\n"
doc_to_text: question
doc_to_choice: "{{[a, b]}}"
doc_to_target: "{{label}}"
num_fewshot: 2
fewshot_config: {sampler: first_n}
metric_list: [{metric: acc}, {metric: acc_norm}]
"""


def test_task_files_equal_lm_eval(pretrained, ours, tmp_path):
    """lm-eval's own YAML: prompts, filters and figures are those that lm-eval gives for the same file."""
    rows = [{"question": words(i, 5) + "?", "answer": f"so\n#### {1000 * i:,}"} for i in range(8)]
    splits = {part: write(tmp_path / f"{part}.jsonl", rows) for part in ("train", "test")}
    answers = ["#### 0", "so #### 1,000.", "it is $2,000", "3000 #### 5", "x #### 4000 #### 1", "", " 6,000.", "n"]
    manager = task_of(tmp_path / "t", "gen", GSM + files(tmp_path / "cache", **splits))
    expected, prompts = theirs_of(answers, "gen", manager)
    _, own = load_benchmark(edited(tmp_path / "t" / "gen.yaml"))
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
    splits = {"train": rows[:3], "validation": rows[3:]}
    paths = {name: write(tmp_path / f"choose_{name}.jsonl", part) for name, part in splits.items()}
    manager = task_of(tmp_path / "c", "mc", CHOOSE + files(tmp_path / "cache", **paths))
    folder, net = pretrained
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    harness = huggingface.HFLM(pretrained=net, tokenizer=tokenizer, batch_size=4, device="cpu")
    expected = lm_eval.simple_evaluate(harness, tasks=["mc"], task_manager=manager, bootstrap_iters=1)
    _, own = load_benchmark(edited(tmp_path / "c" / "mc.yaml"))
    found = evaluate(Local(ours, "m", "m"), "mc", items_of(own, tmp_path), own)
    samples = sorted(expected["samples"]["mc"], key=lambda s: s["doc_id"])
    assert [item.prompt for item in found.items] == [sample["arguments"][0][0] for sample in samples]
    for score in found.scores[:2]:
        assert score.value == expected["results"]["mc"][f"{score.metric},none"]


@pytest.mark.parametrize(
    ("target", "labels"),
    [('"{{label}}"', ["1", "2", "0"]), ("label", ["1", "2", "3"]), ('"{{label}}"', ["[0, 2]", "[1]", "[2, 1]"]),
     ("label", [1, 2, 0]), ('"{{opts[label]|string}}"', [1, 1, 0]), ('"{{label}}"', [True, False, True])],
)  # fmt: skip
def test_right_choices_equal_lm_eval(target, labels, tmp_path):
    """A rendered digit is a choice's number, a column's text is looked up among the choices, as in lm-eval."""
    opts = ["False", "True", "x"] if isinstance(labels[0], bool) else ["1", "2", "3"]
    if "string" in target:  # the text of a choice that is another one's number
        opts = ["2", "0", "1"]
    rows = [{"question": words(i, 4), "opts": opts, "label": label} for i, label in enumerate(labels)]
    text = f"""
output_type: multiple_choice
test_split: test
doc_to_text: question
doc_to_choice: "{{{{opts}}}}"
doc_to_target: {target}
metric_list: [{{metric: acc}}]
"""
    text += files(tmp_path / "cache", test=write(tmp_path / "test.jsonl", rows))
    task = task_of(tmp_path / "t", "mc", text).load(["mc"])["tasks"]["mc"]
    _, own = load_benchmark(edited(tmp_path / "t" / "mc.yaml"))
    for item, doc in zip(items_of(own, tmp_path), task.test_docs(), strict=True):
        for chosen in range(3):
            results = [(float(i == chosen), False) for i in range(3)]
            assert (chosen in item.golds) == task.process_results(doc, results)["acc"]


OWN = pytest.mark.skipif(
    Version(version("lm_eval")) < Version("0.4.13"), reason="this release of lm-eval shows a row to itself"
)
FIND = r'{function: regex, regex_pattern: "^([0-9]+)(b)?"}'
ELSE = r'{function: regex, regex_pattern: "^([0-9]+)(b)?", fallback: %s}'
STRIP = "{function: remove_whitespace}"


def steps(*made):
    return {"filter_list": f"[{{name: f, filter: [{', '.join(made)}, {{function: take_first}}]}}]"}


@pytest.mark.parametrize(
    "changes",
    [
        steps(ELSE % '"no"'),
        steps(ELSE % '"no "', STRIP),
        steps(STRIP),
        steps(STRIP, FIND),
        steps(FIND, STRIP),
        {"doc_to_target": '" {{a}}"', "num_fewshot": 1, "fewshot_split": "test"},
        {"doc_to_target": '"{{a}}\\n"'},
        {"doc_to_target": '"{{n}}"'},
        {"doc_to_target": '"{{al}}"', "num_fewshot": 2, "fewshot_config": "{sampler: first_n}"},
        {"num_fewshot": 2},
        {"num_fewshot": 2, "fewshot_split": "test"},
        pytest.param({"num_fewshot": 2, "fewshot_split": "test", "fewshot_config": "{sampler: first_n}"}, marks=OWN),
        {"num_fewshot": 2, "test_split": None, "validation_split": "test"},
        {"num_fewshot": 2, "test_split": None, "validation_split": "test", "fewshot_split": "test"},
        {"num_fewshot": 2, "test_split": None, "validation_split": "test", "training_split": "train"},
        {"num_fewshot": 1, "fewshot_split": "train", "fewshot_config": "{samples: [{q: x, a: y}]}"},
        {"metric_list": "[{metric: exact_match, ignore_case: true}, {metric: exact_match}]"},
    ],
    ids=str,
)  # fmt: skip
def test_filters_targets_and_examples_equal_lm_eval(changes, tmp_path):
    rows = [{"q": f"q{i}", "a": str(i), "al": [str(i), "no"], "n": i} for i in range(6)]
    rows += [{**rows[1]}, {"q": "q8", "a": "no", "al": ["No", "x"], "n": 3}, {"q": "q9", "a": "", "al": ["x"], "n": 0}]
    keys = {
        "output_type": "generate_until", "test_split": "test", "doc_to_text": "q", "doc_to_target": "a",
        "generation_kwargs": "{until: [z], do_sample: false}", "metric_list": "[{metric: exact_match}]",
    }  # fmt: skip
    text = "".join(f"{key}: {value}\n" for key, value in {**keys, **changes}.items() if value is not None)
    splits = {"test": rows, "train": [{**row, "q": row["q"] + "t"} for row in rows]}
    text += files(
        tmp_path / "cache", **{part: write(tmp_path / f"{part}.jsonl", made) for part, made in splits.items()}
    )
    answers = ["0", "1 ", " 2", "3b", "b", "\n5\n", "x1", "No", ""]
    expected, prompts = theirs_of(answers, "gen", task_of(tmp_path / "t", "gen", text))
    _, own = load_benchmark(edited(tmp_path / "t" / "gen.yaml"))
    model = Canned(answers)
    found = evaluate(model, "gen", items_of(own, tmp_path), own)
    assert model.asked == prompts
    assert [found.scores[0].value] == [v for k, v in expected.items() if k.startswith("exact_match,")]


def test_rows_that_are_asked_may_be_examples_with_a_note(tmp_path, capsys):
    write(tmp_path / "x.jsonl", [{"q": str(i), "a": str(i)} for i in range(4)])
    text = "test_split: test\ndoc_to_text: q\ndoc_to_target: a\nnum_fewshot: 3\ntask: leaking\n" \
           "dataset_path: json\ndataset_kwargs: {data_files: {test: x.jsonl}}\n"  # fmt: skip
    (tmp_path / "t.yaml").write_text(text, "utf-8")
    items_of(load_benchmark(tmp_path / "t.yaml")[1], tmp_path)
    assert "leaking: examples are drawn from the rows that are asked" in capsys.readouterr().err


def edited(path):
    """The file without the line for the tests' own cache."""
    text = path.read_text("utf-8")
    path.write_text("".join(line for line in text.splitlines(True) if "cache_dir" not in line), "utf-8")
    return path


@pytest.mark.parametrize(
    "change, message",
    [
        ("process_docs: x", "'process_docs' is not read"),
        ("doc_to_text: !function utils.f", "!function utils.f runs code"),
        ("dataset_path: EleutherAI/x", "is a set on the hub"),
        ("output_type: loglikelihood_rolling", "output_type: 'loglikelihood_rolling' is not read"),
        ("generation_kwargs: {do_sample: true}", "generation_kwargs.do_sample: True is not read"),
        ("filter_list: [{name: x, filter: [{function: majority_vote}]}]", "'majority_vote' is not read"),
        ("metric_list: [{metric: bleu}]", "metric_list: "),
        ("filter_list: [{name: x, filter: [{function: regex, fallback: ' a'}]}]", "fallback ' a' is read only without"),
        ("filter_list: [{name: x, filter: [{function: regex}, {function: regex}]}]", "regex after regex is not read"),
        ("doc_to_choice: [a, b]", "doc_to_choice: is not read for generate_until"),
        ("doc_to_target: right answer", "doc_to_target: 'right answer' may be a column"),
        ("metric_list: [{metric: exact_match, aggregation: perplexity}]", "aggregation 'perplexity' of exact_match"),
        ("generation_kwargs: [1]", "generation_kwargs: expected a table, got [1]"),
        ("generation_kwargs: {until: null}", "generation_kwargs.until: expected a text or a list, got None"),
        ("generation_kwargs: {until: [1]}", "generation_kwargs.until: expected a text, got 1"),
        ("metric_list: 5", "metric_list: expected a list, got 5"),
        ("metric_list: [{metric: [a]}]", "metric_list.metric: expected a text, got ['a']"),
        ("metric_list: [{metric: acc, 3: x, a: y}]", "metric_list: "),
        ("test_split: [a]", "test_split: expected a text, got ['a']"),
        ("output_type: [x]", "output_type: expected a text, got ['x']"),
        ("filter_list: [1]", "filter_list: expected a table, got 1"),
        ("filter_list: [{name: x, filter: [null]}]", "filter_list.filter: expected a table, got None"),
        ("a: [", "not YAML that can be read"),
    ],
)
def test_what_is_not_read_of_task_files_is_named(change, message, tmp_path):
    key = change.partition(":")[0]
    lines = {"dataset_path": "json", "dataset_kwargs": "{data_files: {test: x.jsonl}}", "test_split": "test",
             "doc_to_text": "q", "doc_to_target": "a"}  # fmt: skip
    text = "".join(f"{k}: {v}\n" for k, v in lines.items() if k != key) + change + "\n"
    (tmp_path / "t.yaml").write_text(text, "utf-8")
    with pytest.raises(LlmanacError) as caught:
        load_benchmark(tmp_path / "t.yaml")
    assert message in str(caught.value) and str(tmp_path / "t.yaml") in str(caught.value)


def test_a_pattern_of_files_that_is_none_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"data\.files: '\*\*t\.jsonl' is no pattern of file names"):
        files_of(BenchmarkSource(files=("**t.jsonl",)), tmp_path)
