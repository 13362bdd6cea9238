"""Benchmarks against lm-eval's own tasks: the same rows, the same model in float64, the same canned answers."""

from __future__ import annotations

import ast
import json
import random
from dataclasses import replace

import numpy as np
import pytest
from _lm_eval import ENDINGS, STOCK, Canned, files, lm_eval, ours, pretrained, task_of, theirs_of, words, write

from llmanac.core.errors import DataError, SpecError
from llmanac.evaluate._benchmark_rows import BenchmarkItem, items_of
from llmanac.evaluate._judging import ItemVerdict, summarise
from llmanac.evaluate.answering import Local
from llmanac.evaluate.evaluation import evaluate
from llmanac.evaluate.load import load_benchmark

__all__ = ["ours", "pretrained"]  # fixtures


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Small sets in the columns of the hub's."""
    folder = tmp_path_factory.mktemp("data")
    write(folder / "hellaswag" / "val.jsonl", [
        {"activity_label": "Cutting [x] wood", "ctx_a": words(i, 5) + " [title] Ends", "ctx_b": ["", "the dog"][i % 2],
         "endings": [words(9 * i + k, 2 + k) + e for k, e in enumerate(ENDINGS.split("|"))], "label": str(i % 4)}
        for i in range(12)])  # fmt: skip
    write(folder / "piqa" / "valid.jsonl", [
        {"goal": words(i, 6), "sol1": words(i + 50, 3), "sol2": words(i + 80, 9), "label": i % 2} for i in range(10)
    ])  # fmt: skip
    for subject in ("anatomy", "world_religions"):
        for part, count in (("test", 5), ("dev", 5)):
            write(folder / "mmlu" / part / f"{subject}_{part}.jsonl", [
                {"question": f" {words(len(subject) + i + count, 4)}? ", "choices": [words(i + k, 2) for k in range(4)],
                 "answer": (i * 3 + len(part)) % 4} for i in range(count)])  # fmt: skip
    write(folder / "strategyqa" / "dev.jsonl", [{"question": words(i, 5), "answer": i % 3 == 0} for i in range(9)])
    tables = [{"text": [words(7 * i + k, 1 + k) for k in range(5)], "label": list("ABCDE")} for i in range(20)]
    four = [{name: column[:4] for name, column in table.items()} for table in tables]
    for name in ("ARC-Easy", "ARC-Challenge"):
        write(folder / name / "test.jsonl", [
            {"id": str(i), "question": words(i, 6), "answerKey": ("ABCD" if i % 5 else "1234")[i % 4],
             "choices": four[i] if i % 5 else {**four[i], "label": list("1234")}} for i in range(20)])  # fmt: skip
    write(folder / "openbookqa" / "test.jsonl", [
        {"question_stem": words(i, 5), "choices": four[i], "answerKey": " ABCD"[i % 4 + 1]} for i in range(20)
    ])  # fmt: skip
    write(folder / "commonsenseqa" / "dev.jsonl", [
        {"question": f" {words(i, 5)}? ", "choices": tables[i], "answerKey": "ABCDE"[i % 5]} for i in range(20)
    ])  # fmt: skip
    write(folder / "boolq" / "val.jsonl", [
        {"question": words(i, 5), "passage": words(i + 40, 20), "idx": i, "label": int(i % 3 > 0)} for i in range(20)
    ])  # fmt: skip
    write(folder / "copa" / "val.jsonl", [
        {"premise": f" {words(i, 5)}. ", "choice1": f"The {words(i, 3)}.", "choice2": f"Tom {words(i + 9, 5)}.",
         "question": ["cause", "effect"][i % 2], "label": i % 3 % 2} for i in range(20)
    ])  # fmt: skip
    write(folder / "winogrande" / "dev.jsonl", [
        {"sentence": f"{words(i, 3)} _ {words(i + 9, 2 + i % 4)}.", "option1": words(i + 50, 1), "option2": words(i, 2),
         "answer": "12"[i % 2]} for i in range(20)
    ])  # fmt: skip
    write(folder / "truthfulqa" / "validation.jsonl", [
        {"question": words(i, 6) + "?", **{
            f"mc{n}_targets": {"choices": [words(i * 7 + k, 2 + k) for k in range(2 + i % 4)],
                               "labels": [int(k == 0 or (n == 2 and k % 3 == 1)) for k in range(2 + i % 4)]}
            for n in (1, 2)}} for i in range(20)
    ])  # fmt: skip
    write(folder / "lambada" / "test.jsonl", [{"text": words(i, 9) + " end"} for i in range(6)])
    return folder


METRICS = "metric_list:\n" + "".join(
    f"  - {{metric: {name}, aggregation: mean, higher_is_better: true}}\n" for name in ("acc", "acc_norm", "acc_bytes")
)


def choice_tasks(data, tmp):
    """(our name, rows of ours to take, lm-eval's task name, its YAML)."""
    stock, rows = STOCK / "hellaswag" / "hellaswag.yaml", data / "hellaswag/val.jsonl"
    yield "hellaswag", None, "hs", f"include: {stock}\n{METRICS}" + files(tmp, train=rows, validation=rows)
    stock, rows = STOCK / "piqa" / "piqa.yaml", data / "piqa/valid.jsonl"
    yield "piqa", None, "pq", f"include: {stock}\n{METRICS}" + files(tmp, train=rows, validation=rows)
    for subject in ("anatomy", "world_religions"):
        stock, parts = STOCK / "mmlu" / "default" / f"mmlu_{subject}.yaml", {
            part: data / "mmlu" / part / f"{subject}_{part}.jsonl" for part in ("test", "dev")
        }  # fmt: skip
        yield "mmlu", subject, f"mm_{subject}", f"include: {stock}\nnum_fewshot: 5\n{METRICS}" + files(tmp, **parts)

    rows = data / "strategyqa" / "dev.jsonl"
    text = (
        'doc_to_text: "Q: {{question}}\\nA:"\ndoc_to_choice: ["Yes", "No"]\ndoc_to_target: "{{0 if answer else 1}}"\n'
    )
    yield (
        "strategyqa",
        None,
        "sq",
        f"output_type: multiple_choice\nvalidation_split: validation\n{text}{METRICS}" + files(tmp, validation=rows),
    )
    for name, folder, stock in (
        ("arc_easy", "ARC-Easy", "arc/arc_easy"), ("arc_challenge", "ARC-Challenge", "arc/arc_challenge"),
        ("openbookqa", "openbookqa", "openbookqa/openbookqa"), ("boolq", "boolq", "super_glue/boolq/default"),
        ("commonsenseqa", "commonsenseqa", "commonsense_qa/default"), ("copa", "copa", "super_glue/copa/default"),
        ("truthfulqa_mc1", "truthfulqa", "truthfulqa/truthfulqa_mc1"),
    ):  # fmt: skip
        rows = next((data / folder).iterdir())
        splits = dict.fromkeys(("train", "validation", "test"), rows)
        yield name, None, f"own_{name}", f"include: {STOCK}/{stock}.yaml\n{METRICS}" + files(tmp, **splits)


@pytest.fixture(scope="module")
def theirs(pretrained, data, tmp_path_factory):
    """lm-eval's results, by our benchmark's name and subject."""
    transformers = pytest.importorskip("transformers")
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    folder, model = pretrained
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    harness = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, device="cpu")
    tmp, out = tmp_path_factory.mktemp("tasks"), {}
    for name, subject, task, text in choice_tasks(data, tmp / "cache"):
        manager = task_of(tmp / task, task, text)
        found = lm_eval.simple_evaluate(harness, tasks=[task], task_manager=manager, bootstrap_iters=1)
        out[name, subject] = found["results"][task], found["samples"][task]
    return out


@pytest.mark.parametrize("block, batch_tokens", [(1, 64), (5, 4096), (32, 300)])
@pytest.mark.parametrize("name", [
    "hellaswag", "piqa", "mmlu", "strategyqa", "arc_easy", "arc_challenge", "openbookqa", "commonsenseqa", "boolq",
    "copa", "truthfulqa_mc1",
])  # fmt: skip
def test_choices_equal_lm_eval(name, block, batch_tokens, ours, data, theirs):
    """Prompts, log-likelihoods, acc, acc_norm, acc_bytes and their standard errors, whatever the batch."""
    _, own = load_benchmark(name)
    if name == "piqa":  # with the labels in the rows
        own = replace(own, data=replace(own.data, labels=None))
    every = items_of(own, data)
    for (listed, subject), (results, samples) in theirs.items():
        if listed != name:
            continue
        items = [item for item in every if subject is None or subject in item.name]
        found = evaluate(Local(ours, "m", "m", batch_tokens=batch_tokens), name, items, own, block=block)
        assert len(samples) == len(items)
        for item, one, sample in zip(items, found.verdicts, sorted(samples, key=lambda s: s["doc_id"]), strict=True):
            assert [item.prompt] * len(item.choices) == [given[0] for given in sample["arguments"]]
            assert [" " + text for text in item.choices] == [given[1] for given in sample["arguments"]]
            expected = [float(response[0][0]) for response in sample["resps"]]
            assert one.values == pytest.approx(expected, abs=1e-9)
            assert one.scores == {metric: sample[metric] for metric in ("acc", "acc_norm", "acc_bytes")}
        for score in found.scores:
            assert score.value == pytest.approx(results[f"{score.metric},none"], abs=1e-12)
            assert score.standard_error == pytest.approx(results[f"{score.metric}_stderr,none"], abs=1e-12)
    if name == "hellaswag":
        assert len({score.value for score in found.scores}) > 1  # the three ways to compare choices differ


def test_the_mass_of_right_choices_equals_lm_eval(pretrained, ours, data, tmp_path):
    """TruthfulQA MC2: several choices are right; the scorer is lm-eval's own function, on its own log-likelihoods."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(pretrained[0])
    harness = huggingface.HFLM(pretrained=pretrained[1], tokenizer=tokenizer, batch_size=4, device="cpu")
    rows = data / "truthfulqa" / "validation.jsonl"
    text = f"include: {STOCK}/truthfulqa/truthfulqa_mc1.yaml\ndoc_to_choice: '{{{{mc2_targets.choices}}}}'\n"
    manager = task_of(tmp_path / "tq", "tq", text + files(tmp_path / "cache", validation=rows))
    theirs = lm_eval.simple_evaluate(harness, tasks=["tq"], task_manager=manager, bootstrap_iters=1)
    samples = sorted(theirs["samples"]["tq"], key=lambda s: s["doc_id"])
    tree = ast.parse((STOCK / "truthfulqa" / "utils.py").read_text("utf-8"))
    made = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "process_results_mc2")
    scope = {"np": np}  # its file imports packages that are no part of lm-eval
    exec(compile(ast.Module([made], []), "truthfulqa", "exec"), scope)
    _, own = load_benchmark("truthfulqa_mc2")
    items = items_of(own, data)
    found = evaluate(Local(ours, "m", "m"), "truthfulqa_mc2", items, own)
    assert len(samples) == 20 and max(len(item.golds) for item in items) > 1
    for item, one, sample in zip(items, found.verdicts, samples, strict=True):
        assert [item.prompt] * len(item.choices) == [given[0] for given in sample["arguments"]]
        assert [" " + text for text in item.choices] == [given[1] for given in sample["arguments"]]
        results = [(float(response[0][0]), False) for response in sample["resps"]]
        assert one.values == pytest.approx([total for total, _ in results], abs=1e-9)
        expected = scope["process_results_mc2"](sample["doc"], results)["acc"]
        assert one.scores == {"mass of right": pytest.approx(expected, abs=1e-9)}


def test_the_releases_form_of_truthfulqa(data, tmp_path):
    """A table of choices and labels in place of columns; the right one need not be the first."""
    rows = [json.loads(line) for line in (data / "truthfulqa" / "validation.jsonl").read_text("utf-8").splitlines()]
    for row in rows:
        for key in ("mc1_targets", "mc2_targets"):
            row[key] = dict(reversed(list(zip(row[key]["choices"], row[key]["labels"], strict=True))))
    (tmp_path / "truthfulqa").mkdir()
    (tmp_path / "truthfulqa" / "mc_task.json").write_text(json.dumps(rows), "utf-8")
    for name in ("truthfulqa_mc1", "truthfulqa_mc2"):
        _, own = load_benchmark(name)
        for one, other in zip(items_of(own, data), items_of(own, tmp_path), strict=True):
            assert one.prompt == other.prompt and one.choices == other.choices[::-1]
            assert {one.choices[gold] for gold in one.golds} == {other.choices[gold] for gold in other.golds}


BBH = sorted(path.stem for path in (STOCK / "bbh" / "cot_fewshot").glob("[a-z]*.yaml"))


@pytest.fixture(scope="module")
def hard(tmp_path_factory):
    """Rows of our own in the layout of the release, with the worked examples that lm-eval has."""
    yaml = pytest.importorskip("yaml")
    folder = tmp_path_factory.mktemp("bbh")
    (folder / "bbh").mkdir()
    (folder / "cot-prompts").mkdir()
    for number, name in enumerate(BBH):
        stated = yaml.safe_load(
            (STOCK / "bbh" / "cot_fewshot" / f"{name}.yaml").read_text("utf-8").replace("!function", "")
        )
        examples = [f"Q: {one['input']}\nA: Let's think step by step.\n{one['target']}"
                    for one in stated["fewshot_config"]["samples"]]  # fmt: skip
        text = "a line of the release\n-----\n" + "\n\n".join([stated["description"].strip(), *examples]) + "\n"
        (folder / "cot-prompts" / f"{name}.txt").write_text(text, "utf-8")
        rows = [
            {"input": words(number * 20 + i, 6), "target": ["(A)", "yes", "True", "] ) >", "3"][i % 5]}
            for i in range(20)
        ]
        (folder / "bbh" / f"{name}.json").write_text(json.dumps({"canary": "c", "examples": rows}), "utf-8")
    return folder


@pytest.mark.parametrize("name", BBH)
def test_chains_of_thought_equal_lm_eval(name, hard, tmp_path):
    """BBH: prompts with the worked examples, and what is read from 20 answers."""
    _, own = load_benchmark("bbh")
    items = [item for item in items_of(own, hard) if f"{name}.json" in item.name]
    shapes = ["So the answer is {}.", "the answer is {}", "The answer is {}.", "so the answer is {}. Q",
    "the answer is {}.\nmore.",
              "{}", "the answer is x. Or the answer is {}.", "the answer is  {} .", ""]  # fmt: skip
    answers = [shapes[i % 9].format(item.references[0]) for i, item in enumerate(items)]
    rows = json.loads((hard / "bbh" / f"{name}.json").read_text("utf-8"))["examples"]
    path = write(tmp_path / "rows.jsonl", rows)
    include = STOCK / "bbh" / "cot_fewshot" / f"{name}.yaml"
    manager = task_of(tmp_path / "t", "bb", f"include: {include}\n" + files(tmp_path / "cache", test=path))
    expected, prompts = theirs_of(answers, "bb", manager)
    model = Canned(answers)
    found = evaluate(model, "bbh", items, own)
    assert len(items) == 20 and model.asked == prompts
    assert found.scores[0].value == pytest.approx(expected["exact_match,get-answer"], abs=1e-12)
    assert 0 < found.scores[0].value < 1


def test_worked_examples_go_together(hard):
    _, own = load_benchmark("bbh")
    assert items_of(own, hard, shots=0)[0].prompt.startswith("Q: ") and len(items_of(own, hard)) == 20 * 27
    with pytest.raises(SpecError, match="give 0 or 3"):
        items_of(own, hard, shots=2)
    with pytest.raises(DataError, match="none/boolean_expressions"):
        items_of(replace(own, shots=replace(own.shots, text="none/{file}.txt")), hard)


RELEASED = {  # the rows of the sets' own releases, where they differ from the hub's copies
    "arc_easy": lambda i, row: {"id": row["id"], "answerKey": row["answerKey"], "question": _nested(row, "question")},
    "openbookqa": lambda i, row: {"answerKey": row["answerKey"], "question": _nested(row, "question_stem")},
    "commonsenseqa": lambda i, row: {"answerKey": row["answerKey"], "question": _nested(row, "question")},
    "boolq": lambda i, row: {**{key: row[key] for key in ("question", "passage")}, "answer": bool(row["label"])},
}  # fmt: skip


def _nested(row, stem):
    rows = [dict(zip(row["choices"], values, strict=True)) for values in zip(*row["choices"].values(), strict=True)]
    return {"stem": row[stem], "choices": rows}


@pytest.mark.parametrize("shots", [0, 3])
def test_a_prompt_a_choice_equals_lm_eval(shots, pretrained, ours, data, tmp_path):
    """WinoGrande: each choice is put into the sentence, and what follows is scored; also in examples."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(pretrained[0])
    harness = huggingface.HFLM(pretrained=pretrained[1], tokenizer=tokenizer, batch_size=4, device="cpu")
    rows = data / "winogrande" / "dev.jsonl"
    changes = f"num_fewshot: {shots}\nfewshot_split: train\nfewshot_config: {{sampler: first_n}}\n"
    text = f"include: {STOCK}/winogrande/default.yaml\n{changes}"
    manager = task_of(tmp_path / "wg", "wg", text + files(tmp_path / "cache", train=rows, validation=rows))
    theirs = lm_eval.simple_evaluate(harness, tasks=["wg"], task_manager=manager, bootstrap_iters=1)
    samples = sorted(theirs["samples"]["wg"], key=lambda s: s["doc_id"])
    _, own = load_benchmark("winogrande")
    own = replace(own, shots=replace(own.shots, leave_out=False))
    items = items_of(own, data, shots=shots)
    found = evaluate(Local(ours, "m", "m"), "winogrande", items, own)
    assert len(samples) == 20
    for item, one, sample in zip(items, found.verdicts, samples, strict=True):
        asked = [(item.prompt + text, " " + item.ending) for text in item.choices]
        assert asked == [tuple(given) for given in sample["arguments"]]
        assert one.values == pytest.approx([float(response[0][0]) for response in sample["resps"]], abs=1e-9)
        assert one.scores["acc"] == sample["acc"] and one.scores["acc_bytes"] == one.scores["acc"]
    assert found.scores[0].value == pytest.approx(theirs["results"]["wg"]["acc,none"])
    assert {verdict.right for verdict in found.verdicts} == {True, False}


@pytest.mark.parametrize("name", RELEASED)
def test_released_files_ask_what_the_hubs_copies_do(name, data, tmp_path):
    _, own = load_benchmark(name)
    place = next((data / {"arc_easy": "ARC-Easy"}.get(name, name)).iterdir())
    rows = [json.loads(line) for line in place.read_text("utf-8").splitlines()]
    write(tmp_path / place.parent.name / place.name, [RELEASED[name](i, row) for i, row in enumerate(rows)])
    asked, released = (items_of(own, folder) for folder in (data, tmp_path))
    assert len(asked) == 20
    for one, other in zip(asked, released, strict=True):
        assert (one.prompt, one.choices, one.golds) == (other.prompt, other.choices, other.golds)


def test_last_words_equal_lm_eval(pretrained, ours, data, tmp_path):
    """LAMBADA: the word's likelihood, and whether greedy decoding writes it."""
    transformers = pytest.importorskip("transformers")
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    folder, model = pretrained
    harness = huggingface.HFLM(
        pretrained=model, tokenizer=transformers.AutoTokenizer.from_pretrained(folder), batch_size=4, device="cpu"
    )
    text = f"include: {STOCK}/lambada/lambada_openai.yaml\n" + files(tmp_path, test=data / "lambada" / "test.jsonl")
    manager = task_of(tmp_path / "lb", "lb", text)
    expected = lm_eval.simple_evaluate(harness, tasks=["lb"], task_manager=manager, bootstrap_iters=0)["results"]["lb"]
    _, own = load_benchmark("lambada")
    found = {s.metric: s for s in evaluate(Local(ours, "m", "m"), "lambada", items_of(own, data), own).scores}
    assert found["perplexity"].value == pytest.approx(expected["perplexity,none"], rel=1e-10)
    assert found["acc"].value == expected["acc,none"]


@pytest.mark.parametrize("name", ["gsm8k", "triviaqa", "drop"])
def test_generated_answers_equal_lm_eval(name, tmp_path):
    """Prompts with the examples that lm-eval draws, extraction, scores and standard errors on given answers."""
    if name == "gsm8k":
        rows = [{"question": words(i, 5) + "?", "answer": f"{i}+{i}=<<>>{2 * i}\n#### {1000 * i:,}"} for i in range(9)]
        answers = [
            "#### 0",
            "so #### 1,000.",
            "it is $2,000",
            "3000 #### 5",
            "x #### 4000 #### 1",
            "",
            "6000.",
            "n",
            "8",
        ]
        splits = {part: write(tmp_path / name / f"{part}.jsonl", rows) for part in ("train", "test")}
        rename = {"gsm8k": "exact_match,strict-match", "gsm8k-flexible": "exact_match,flexible-extract"}
        rename = {f"exact match ({ours})": theirs for ours, theirs in rename.items()}
    elif name == "triviaqa":
        rows = [{"question": words(i, 4), "answer": {"aliases": [f"The Cat {i}", "Dog!"]}} for i in range(6)]
        answers = [" the cat 0", "dog", "cat 2", " THE CAT-3", "", "The Cat 5"]
        path = write(tmp_path / name / "validation.jsonl", rows)
        splits, rename = {"train": path, "validation": path}, {"exact match": "exact_match,remove_whitespace"}
    else:
        blank = {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": []}
        date = {"day": "3", "month": "May", "year": "1912"}
        golds = [{"number": "7"}, {"spans": ["two cats", "a dog"]}, {"date": date}] * 2
        more = {"number": ["8", ""], "date": [blank["date"]] * 2, "spans": [[], ["Seven cats"]]}
        rows = [
            {"query_id": str(i), "section_id": "s", "passage": f"P{i}", "question": words(i, 3),
             "answer": {**blank, **gold}, "validated_answers": more}
            for i, gold in enumerate(golds)
        ]  # fmt: skip
        answers = ["7.0", "dog, two cats", "3 May 1912", " 8 ", "the seven cats ran", "May"]
        path = write(tmp_path / name / "drop_validation.jsonl", rows)
        splits, rename = {"train": path, "validation": path}, {"exact match": "em,none", "F1": "f1,none"}
    stock = {"gsm8k": "gsm8k/gsm8k.yaml"}.get(name, f"{name}/default.yaml")
    manager = task_of(tmp_path / "t", "t", f"include: {STOCK / stock}\n" + files(tmp_path / "cache", **splits))
    expected, prompts = theirs_of(answers, "t", manager)
    _, own = load_benchmark(name)
    own = replace(own, data=replace(own.data, files=(f"{name}/*{'test' if 'test' in splits else 'validation'}.jsonl",)))
    model = Canned(answers)
    found = evaluate(model, name, items_of(own, tmp_path), own, block=4)
    assert model.asked == prompts
    for score in found.scores:
        assert score.value == pytest.approx(expected[rename[score.metric]], abs=1e-12), score.metric
        metric, _, way = rename[score.metric].partition(",")
        assert score.plain_error == pytest.approx(expected[f"{metric}_stderr,{way}"], abs=1e-12)
        assert 0 < score.value < 1


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_prompts_of_programs_equal_lm_evals_templates(name, shared_data):
    """Its templates and examples, read out of its files: the tasks themselves download code when they are loaded."""
    from lm_eval.utils import apply_template

    text = (STOCK / name / f"{name}.yaml").read_text("utf-8")
    line = next(line for line in text.splitlines() if line.startswith("doc_to_text"))
    template = ast.literal_eval(line.split(": ", 1)[1])
    before = ""
    if name == "mbpp":
        tree = ast.parse((STOCK / name / "utils.py").read_text("utf-8"))
        made = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "list_fewshot_samples")
        for sample in ast.literal_eval(made.body[0].value):
            before += apply_template(template, sample) + sample["code"] + "\n[DONE]" + "\n\n"
    _, own = load_benchmark(name)
    items = items_of(own, shared_data, limit=40)
    assert [item.prompt for item in items] == [before + apply_template(template, item.row) for item in items]
    stops = text.split("until:")[1].split("do_sample")[0]
    assert own.generation.stop == tuple(
        ast.literal_eval(s.strip()[2:]) for s in stops.splitlines() if s.strip()[:1] == "-"
    )


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_known_programs_pass_and_others_do_not(name, shared_data):
    """Reference solutions in the sandbox, through the benchmark; each with how it ended."""
    _, own = load_benchmark(name)
    items = items_of(own, shared_data, limit=5)
    field = {"humaneval": "canonical_solution", "mbpp": "code"}[name]
    right = evaluate(Canned([item.row[field] for item in items]), name, items, own)
    assert [one.right for one in right.verdicts] == [True] * 5 and right.scores[0].metric == "pass@1"
    wrong = evaluate(Canned(["    return None"] * 5), name, items, own)
    assert [one.right for one in wrong.verdicts] == [False] * 5
    assert all(one.note.startswith("failed: ") for one in wrong.verdicts)


def perturbed(rows, seed):
    """Answers near the references: right, partly right, wrong, empty, with articles and punctuation."""
    rng = random.Random(seed)
    changes = [
        lambda t: t, lambda t: f"the {t}.", lambda t: t.upper(), lambda t: " ".join(t.split()[:1]), lambda t: "",
        lambda t: t + " and more", lambda t: words(len(t), 3), lambda t: "\n" + t, lambda t: t + "\nQ: next",
    ]  # fmt: skip
    return [rng.choice(changes)(rng.choice(row)) for row in rows]


def test_squad_equals_torchmetrics(shared_data):
    """Exact match and F1 of every question of XQuAD's English part; errors are over paragraphs."""
    squad = pytest.importorskip("torchmetrics.functional.text").squad
    _, own = load_benchmark("squad")
    items = items_of(own, shared_data, limit=300)
    answers = perturbed([item.references for item in items], 0)
    found = {score.metric: score for score in evaluate(Canned(answers), "squad", items, own).scores}
    expected = squad(
        [{"prediction_text": text, "id": str(i)} for i, text in enumerate(answers)],
        [{"answers": {"answer_start": [0] * len(item.references), "text": list(item.references)}, "id": str(i)}
         for i, item in enumerate(items)],
    )  # fmt: skip
    assert 100 * found["exact match"].value == pytest.approx(expected["exact_match"].item(), rel=1e-6)
    assert 100 * found["F1"].value == pytest.approx(expected["f1"].item(), rel=1e-6)
    assert 1 < found["F1"].clusters < 300 and found["F1"].standard_error != found["F1"].plain_error


def test_quac_equals_coqas_scores(shared_data):
    """lm-eval's compute_scores of CoQA (best of all references but one), on the conversations at hand."""
    from llmanac.metrics.answers import f1

    source = (STOCK / "coqa" / "utils.py").read_text("utf-8")
    made = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == "compute_scores")

    class squad_metrics:
        compute_f1 = staticmethod(lambda gold, text: f1(text, gold))
        compute_exact = staticmethod(lambda gold, text: 0)

    scope = {"squad_metrics": squad_metrics}
    exec(compile(ast.Module([made], []), "coqa", "exec"), scope)
    _, own = load_benchmark("quac")
    items = items_of(own, shared_data)
    for seed in range(5):
        answers = perturbed([item.references for item in items], seed)
        found = evaluate(Canned(answers), "quac", items, own)
        kept = 0
        for item, answer, one in zip(items, answers, found.verdicts, strict=True):
            if "CANNOTANSWER" in item.references or not one.scores:  # rules that are QuAC's own
                continue
            kept += 1
            expected = scope["compute_scores"](list(item.references), answer.strip().split("\n")[0])
            assert one.scores["F1"] == pytest.approx(expected["f1"], abs=1e-12)
        assert kept >= 4 and "HEQ-D" in {score.metric for score in found.scores}


def test_math_takes_its_references(shared_data):
    """MATH-500's own solutions are right, by both conventions; another problem's are not."""
    _, own = load_benchmark("math")
    items = items_of(own, shared_data, limit=120)
    rows = [json.loads(line) for line in (shared_data / "math" / "math500.jsonl").open(encoding="utf-8")][:120]
    ending = "\nFinal Answer: The final answer is ${}$. I hope it is correct."
    answers = [row["solution"] + ending.format(row["answer"]) for row in rows]
    right = {score.metric: score.value for score in evaluate(Canned(answers), "math", items, own).scores}
    assert right == {"exact match (math)": 1.0, "exact match (minerva-math)": 1.0}
    wrong = evaluate(Canned(answers[1:] + answers[:1]), "math", items, own)
    assert all(score.value < 0.1 for score in wrong.scores)


@pytest.mark.parametrize("count", [8, 40, 400])
@pytest.mark.parametrize("spread", [0.3, 2.0, 4.0])
def test_the_error_of_a_perplexity_is_that_of_lm_evals_bootstrap(count, spread, monkeypatch):
    """On the same log-likelihoods, up to what its 20,000 draws leave open; where items differ much, the delta method's
    error is another one."""
    metrics = pytest.importorskip("lm_eval.api.metrics")
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    nats = (-np.random.default_rng(count).gamma(1 / spread, spread * 3.0, count)).tolist()
    items = [BenchmarkItem(name=str(i), prompt="", choices=(), golds=(), references=("x",)) for i in range(count)]
    (ours,) = summarise(items, [ItemVerdict("", None, True, {"log-likelihood": x}) for x in nats])
    theirs = metrics.bootstrap_stderr(metrics.perplexity, nats, iters=20_000)
    assert ours.metric == "perplexity" and ours.value == pytest.approx(metrics.perplexity(nats))
    far = ours.standard_error / ours.value  # a wide bootstrap has heavy tails, so its draws tell its deviation badly
    assert ours.standard_error == pytest.approx(theirs, rel=0.03 if far < 1 else 0.15)
    assert ours.standard_error == ours.plain_error
    apart = [
        BenchmarkItem(name=str(i), prompt="", choices=(), golds=(), references=("x",), cluster=i // 2)
        for i in range(count)
    ]
    (grouped,) = summarise(apart, [ItemVerdict("", None, True, {"log-likelihood": x}) for x in nats])
    assert grouped.plain_error == ours.plain_error and grouped.standard_error != ours.standard_error
    if spread == 4.0 and count < 400:
        delta = ours.value * np.std(nats, ddof=1) / count**0.5
        assert abs(delta - ours.standard_error) > 0.05 * ours.standard_error
