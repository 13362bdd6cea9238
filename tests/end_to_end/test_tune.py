"""`llmanac tune` and `llmanac distill`: rows to a tuned model, refusals, a killed tuning, a teacher's text."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import random
import shutil
import signal
import sys
import weakref

import pytest
import torch
from rich.text import Text
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from llmanac.cli import app, main
from llmanac.cli.tune import shown
from llmanac.core.errors import DataError, LlmanacError, SpecError
from llmanac.core.progress import say_once
from llmanac.core.spec import dump, make, make_method, to_toml
from llmanac.data.split import fraction
from llmanac.generate.load import load_engine
from llmanac.lab.compare import compare
from llmanac.objectives.instruction import Instruction
from llmanac.objectives.token_distillation import TokenDistillation
from llmanac.recipes import tune_memory
from llmanac.recipes.distill import TeacherSpec, teacher_file
from llmanac.recipes.merge import merge
from llmanac.recipes.quantize import quantize
from llmanac.recipes.spec import RecipeSpec
from llmanac.recipes.tune import TUNING, TuneSpec, trained_before, tune
from llmanac.recipes.tune_memory import plan_memory, saved_bytes
from llmanac.recipes.tune_rows import held_out, read_rows
from llmanac.tokenizers.load import load_tokenizer, train_tokenizer
from llmanac.train import pace
from llmanac.train.metrics import read_metrics
from llmanac.train.plan import set_recompute
from llmanac.train.step import Stepper

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with rows, and a teacher and a student of one tokenizer."""
    folder, draw = tmp_path_factory.mktemp("tune"), random.Random(0)
    rows = []
    for _ in range(120):
        a, b = draw.randrange(9), draw.randrange(9)
        said = [f"What is {a} plus {b}?", f"It is {a + b}."]
        rows.append({"messages": [{"role": r, "content": c} for r, c in zip(("user", "assistant"), said, strict=True)]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = train_tokenizer("bpe", [str(rows)], vocab_size=300, special_tokens=SPECIAL)
    for name, dim in (("student", 16), ("teacher", 24)):
        model = make_method("lm", {"name": "transformer", "dim": dim, "layers": 1, "max_length": 96}).build(
            vocab_size=tokenizer.vocab_size
        )
        model.generation = {"eos_token_id": tokenizer.special_tokens["<|im_end|>"]}
        model.save_pretrained(folder / name)
        tokenizer.save(folder / name)
    return folder


def asked(place, **fields):
    rows = {"file": str(place / "rows.jsonl"), "held_out": 0.1, **fields.pop("rows", {})}
    train = {"steps": 6, "batch_tokens": 256, "dtype": "float32", "compile": "never", "checkpoint_every": 2}
    train |= {"attention": "sdpa", **fields.pop("train", {})}
    return make(TuneSpec, {"model": str(place / "student"), "rows": rows, "train": train, **fields})


def test_a_tuning_trains_what_carries_loss_and_is_served(place, tmp_path):
    done = tune(asked(place, train={"steps": 30, "batch_tokens": 512}), tmp_path / "out", report=lambda line: None)
    counts = dict(done.rows)
    equal = counts.get("held out once: equal to another row", "0")
    assert counts["rows"] == "120" and int(counts["held out"]) + int(counts["trained on"]) + int(equal) == 120
    held_out = (tmp_path / "out" / "data" / "held_out.jsonl").read_text().splitlines()
    assert len(held_out) == len(set(held_out)) == int(counts["held out"])  # equal rows are one observation
    change, low, high = done.change()
    assert low < change < high < 0 and done.after.mean < done.before.mean
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert kept["held_out"]["after"] == done.after.mean
    engine = load_engine(tmp_path / "out")
    assert engine.tokenizer.chat_template
    assert engine.generate([engine.tokenizer.encode_chat([{"role": "user", "content": "What"}])[0]], max_new_tokens=2)
    before = load_file(place / "student" / "model.safetensors")
    after = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert all((before[name] != after[name]).any() for name in before)  # full: every parameter moves


def test_a_step_may_have_fewer_tokens_than_a_pretraining_row(place, tmp_path):
    few = asked(place, train={"steps": 2, "batch_tokens": 96}, rows={"length": 48})
    assert tune(few, tmp_path / "out", report=lambda line: None).before.mean > 0
    with pytest.raises(SpecError, match=r"train\.batch_tokens: 96 is less than one row of length 256"):
        make(RecipeSpec, {"data": {"source": {"name": "files", "paths": ["x"]}}, "train": {"batch_tokens": 96}})


def test_rows_that_the_model_was_tuned_on_are_no_measure(place, tmp_path):
    tune(asked(place), tmp_path / "out", report=lambda line: None)
    again = {"model": str(tmp_path / "out"), "adapter": "lora"}
    assert trained_before(asked(place, **again), 0) is None  # the same rows are held out
    for changed, seeds in (({"seed": 1}, [1]), ({}, [0, 1]), ({"rows": {"held_out": 0.2}}, [0])):
        assert "was tuned on" in trained_before(asked(place, **again, **changed), *seeds)
    assert trained_before(asked(place, **again, rows={"file": str(tmp_path / "other.jsonl")}), 1) is None
    with pytest.raises(SpecError, match=r"has no adapter; .*out/model is a plain checkpoint already"):
        merge(tmp_path / "out", tmp_path / "merged")


def test_frozen_patterns_stay(place, tmp_path):
    tune(asked(place, trained=["*.mlp.*"]), tmp_path / "out", report=lambda line: None)
    before = load_file(place / "student" / "model.safetensors")
    after = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert {name for name in before if (before[name] != after[name]).any()} == {n for n in before if ".mlp." in n}


def test_a_killed_tuning_goes_on_bit_for_bit(place, tmp_path, monkeypatch):
    tune(asked(place), tmp_path / "whole", report=lambda line: None)
    plain = Stepper.__call__

    def killed(self, rows, scale, step):
        if step == 3:
            raise SystemExit  # as kill -9: nothing is saved on the way out
        return plain(self, rows, scale, step)

    monkeypatch.setattr(Stepper, "__call__", killed)
    with pytest.raises(SystemExit):
        tune(asked(place), tmp_path / "cut", report=lambda line: None)
    monkeypatch.setattr(Stepper, "__call__", plain)
    with pytest.raises(LlmanacError, match="--resume goes on with the run in it"):
        tune(asked(place), tmp_path / "cut")
    with pytest.raises(SpecError, match=r"seed \(was 0, now 1\)"):
        tune(asked(place, seed=1), tmp_path / "cut", resume=True)
    tune(asked(place), tmp_path / "cut", resume=True, report=lambda line: None)
    whole, cut = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    results = [json.loads((tmp_path / name / "results.json").read_text())["held_out"] for name in ("whole", "cut")]
    assert results[0] == results[1]


@pytest.mark.parametrize("change", ["fewer", "other"])
def test_held_out_rows_that_changed_are_measured_before_too(place, tmp_path, monkeypatch, change):
    """What is trained on is the same, so nothing else stops it."""
    rows = [json.loads(line) for line in (place / "rows.jsonl").read_text().splitlines()]
    given = asked(place, rows={"file": str(tmp_path / "rows.jsonl")})
    write = (tmp_path / "rows.jsonl").write_text
    write("".join(json.dumps(row) + "\n" for row in rows))
    restore = interrupted(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        tune(given, tmp_path / "out", report=lambda line: None)
    restore()
    out = held_out(rows, 0.1, 0)
    first = rows[out.index(True)]
    kept = [row for row in rows if row != first]
    if change == "other":
        made = ([{"role": r, "content": f"{n} zzz qqq"} for r in ("user", "assistant")] for n in range(1000))
        kept.append(next(row for m in made if fraction(json.dumps(row := {"messages": m}, sort_keys=True), 0) < 0.1))
    write("".join(json.dumps(row) + "\n" for row in kept))
    done = tune(given, tmp_path / "out", resume=True, report=lambda line: None)
    whole = tune(given, tmp_path / "whole", report=lambda line: None)
    assert done.before == whole.before and done.after == whole.after


def test_what_was_measured_of_another_model_is_measured_again(place, tmp_path, monkeypatch):
    """Killed before its first checkpoint, a tuning begins anew with the model that is there now."""
    shutil.copytree(place / "student", tmp_path / "model")
    given = dataclasses.replace(asked(place), model=str(tmp_path / "model"))
    plain = Stepper.__call__

    def killed(self, rows, scale, step):
        raise MemoryError

    monkeypatch.setattr(Stepper, "__call__", killed)
    with pytest.raises(MemoryError):
        tune(given, tmp_path / "out", report=lambda line: None)
    monkeypatch.setattr(Stepper, "__call__", plain)
    tune(asked(place, train={"steps": 20}), tmp_path / "taught", report=lambda line: None)
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(tmp_path / "taught" / "model", tmp_path / "model")
    done = tune(given, tmp_path / "out", resume=True, report=lambda line: None)
    assert done.before == tune(given, tmp_path / "whole", report=lambda line: None).before


def test_preview_shows_the_mask(place):
    found = CliRunner().invoke(
        app, ["tune", str(place / "student"), str(place / "rows.jsonl"), "--preview", "2"], catch_exceptions=False
    )
    assert found.exit_code == 0
    row = json.loads((place / "rows.jsonl").read_text().splitlines()[0])["messages"]
    assert f"⟦{row[1]['content']}<|im_end|>⟧" in found.stdout
    assert f"<|im_start|>user\n{row[0]['content']}<|im_end|>" in found.stdout
    assert "held out" in found.stdout and "tokens of a packed row" in found.stdout


def test_preview_counts_rows_whose_rest_carries_no_loss(place, tmp_path):
    asking = {"prompt": "What is 4 plus 4? " * 12, "completion": "8"}
    rows = [json.dumps({**asking, "completion": str(n)}) for n in range(20)]
    (tmp_path / "rows.jsonl").write_text((place / "rows.jsonl").read_text() + "\n".join(rows))
    words = ["tune", str(place / "student"), str(tmp_path / "rows.jsonl"), "--preview", "1", "--held-out", "0.5"]
    found = CliRunner().invoke(app, [*words, "--length", "64"], catch_exceptions=False).stdout
    left = [line for line in found.splitlines() if "carries no loss" in line]
    assert len(left) == 2 and sum(int(line.split("│")[2]) for line in left) == 20


def test_blocks_computed_again_give_the_same_weights_in_less_memory(place, tmp_path):
    said = {}
    for what in ("none", "blocks"):
        lines = []
        done = tune(asked(place, train={"recompute": what}), tmp_path / what, report=lines.append)
        assert done.training.spec.recompute == what
        said[what] = int(next(line for line in lines if "MB a row" in line).split()[2])
    kept = [load_file(tmp_path / what / "model" / "model.safetensors") for what in said]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0]) and said["blocks"] <= said["none"]
    model = make_method("lm", {"name": "transformer", "dim": 16, "layers": 4}).build(vocab_size=50)
    objective, row = make_method("objective", "autoregressive").build(), [list(range(33))]
    all_kept = saved_bytes(model, objective, row)
    set_recompute(model, "blocks")
    assert saved_bytes(model, objective, row) < 0.5 * all_kept
    with pytest.raises(SpecError, match=r"train\.recompute: Linear cannot compute its blocks again"):
        set_recompute(torch.nn.Linear(2, 2), "blocks")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"question": "a"}', r"rows.jsonl:2: needs `messages`.*has: question"),
        ('{"messages": [{"role": "user", "content": "a"}]}', r"rows.jsonl:2: nothing in this row carries loss"),
        ('{"text": "a"}', r"rows.jsonl:2: the file mixes `text`.*\(line 2\), with rows .*\(line 1\)"),
        ('{"prompt": "a", "completion": ', r"rows.jsonl, line 2|rows.jsonl:2: not JSON"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(place, tmp_path, line, words):
    first = (place / "rows.jsonl").read_text().splitlines()[0]
    (tmp_path / "rows.jsonl").write_text(f"{first}\n{line}\n")
    with pytest.raises(DataError, match=words):
        tune(asked(place, rows={"file": str(tmp_path / "rows.jsonl")}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_long_rows_are_cut_or_dropped_and_counted(place, tmp_path):
    long = {"prompt": "a b c d e f g " * 4, "completion": "It is 4. " * 12}
    path = tmp_path / "rows.jsonl"
    path.write_text((place / "rows.jsonl").read_text() + json.dumps(long) + "\n")
    for side, name in (("right", "cut to the length"), ("left", "cut to the length"), ("drop", "dropped: longer")):
        rows = {"file": str(path), "length": 64, "side": side, "held_out": 0.0}
        done = tune(asked(place, rows=rows, train={"steps": 1}), tmp_path / side, report=lambda line: None)
        assert any(label.startswith(name) and count == "1" for label, count in done.rows)
    with pytest.raises(SpecError, match=r"rows\.length: 500 tokens, but the model reads 96"):
        tune(asked(place, rows={"length": 500}), tmp_path / "too-long")


def test_nothing_of_a_trial_pass_is_left(place):
    """What a graph holds, and holds the graph, is never freed: 450 MB of a row of a model of half a billion weights."""
    model = make_method("lm", {"name": "transformer", "dim": 16, "layers": 2, "max_length": 64}).build(vocab_size=50)
    objective = make_method("objective", "autoregressive").build()
    seen = []

    class Marked(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            seen.append(weakref.ref(ctx))  # a node in the middle of the graph
            return x * 1

    model.model.layers[0].register_forward_hook(lambda module, given, found: Marked.apply(found))
    assert saved_bytes(model, objective, [list(range(33))]) > 0
    gc.collect()
    assert seen and seen[0]() is None


def test_memory_decides_how_many_rows_are_computed_at_a_time(place, monkeypatch):
    model = make_method("lm", {"name": "transformer", "dim": 16, "layers": 2, "max_length": 64}).build(vocab_size=50)
    objective = make_method("objective", "autoregressive").build()
    row = [list(range(33))]
    one, two = saved_bytes(model, objective, row), saved_bytes(model, objective, row * 2)
    assert 1.7 * one < two <= 2 * one
    spec = asked(place).train
    spec = make(type(spec), {"steps": 1, "length": 32, "batch_tokens": 256, "dtype": "float32"})

    class Rows:
        def __next__(self):
            return row * 8

        def state(self):
            return {}, {}

        def restore(self, state, tensors):
            pass

    states = 12 * model.parameter_count()
    for rows in (1, 3):
        free = int(states + 1.5 * one * (rows + 0.5))
        settled = plan_memory(model, objective, Rows(), spec, place / "none", lambda line: None, free=free)
        assert settled.micro_batch == rows
    set_recompute(model, "blocks")
    less, lines = saved_bytes(model, objective, row), []
    assert 1.5 * less < one
    settled = plan_memory(
        model, objective, Rows(), spec, place / "none", lines.append, free=int(states + 1.5 * less * 1.5)
    )
    assert (settled.micro_batch, settled.recompute) == (1, "blocks") and "blocks are computed again" in lines[0]
    with pytest.raises(SpecError, match=r"rows.length: .* lower rows.length"):
        plan_memory(model, objective, Rows(), spec, place / "none", lambda line: None, free=states)
    # by default the machine's memory, whatever is free of it; unless that is less than the share that may be used
    total = int((states + 1.5 * one * 3.5) / tune_memory.SHARE)
    for free, rows, said in ((total, 3, False), (total // 2, 3, False), (int(states + 1.5 * one * 2.5), 2, True)):
        lines = []
        monkeypatch.setattr(tune_memory, "memory_bytes", lambda device, free=free: (free, total))
        settled = plan_memory(model, objective, Rows(), spec, place / "none", lines.append)
        assert settled.micro_batch == rows and any("GB are free" in line for line in lines) == said


@pytest.mark.parametrize("objective", ["token-distillation", "feature-distillation"])
def test_a_student_learns_from_a_teacher(place, tmp_path, objective):
    fields = {"teacher": str(place / "teacher"), "objective": objective}
    done = tune(asked(place, **fields, train={"steps": 20}), tmp_path / "out", report=lambda line: None)
    assert done.after.mean < done.before.mean
    before, after = done.answers  # the untrained student's, and that of one that is like its untrained teacher
    assert before == pytest.approx(math.log(300), rel=0.1) and after != before


@pytest.mark.slow
def test_adapters_are_compared_from_question_to_page(place, tmp_path):
    base = asked(place, rows={"held_out": 0.3}, train={"steps": None, "checkpoint_every": None, "optimizer": TUNING})
    options = {"folder": tmp_path / "a", "cache": tmp_path / "cache", "budget": 600, "seeds": 2}
    options["report"] = lambda line: None
    found = compare("adapter", "lora{rank=2},prompt{tokens=4},full", base=base, **options)
    values = found.values("loss")
    assert set(values) == {"lora{rank=2}", "prompt{tokens=4}", "full"} and all(len(v) == 2 for v in values.values())
    assert found.comparison("full")["low"] < found.comparison("full")["high"] and set(found.verdicts) == {*values} - {
        "lora{rank=2}"
    }
    data = found.data
    assert data["pairing"]["checked"] and all(s["rows_equal"] and s["rows"] for s in data["pairing"]["seeds"].values())
    full, lora = data["costs"]["full"], data["costs"]["lora{rank=2}"]
    assert full["parameters"] > 10 * lora["parameters"] and full["written_bytes"] > lora["written_bytes"] > 0
    assert full["tokens"] == lora["tokens"] > 0 and full["peak_memory"] > 0
    (moved,) = [arm for arm in data["arms"] if arm["label"] == "full"]
    assert moved["held"] == {"train.optimizer.lr": [1e-3, 1e-4]}
    page = found.page.read_text()
    assert "except full (0.001 -&gt; 0.0001), which trains the model&#39;s own weights" in page
    assert "FLOPs are not counted" in page and "train.steps" in data["command"]
    assert "<svg" in page and "held-out loss" in page.lower() and "Quality against cost" in page
    again = compare("adapter", "lora{rank=2},prompt{tokens=4},full", base=base, **options)
    assert all(run["cached"] for run in again.data["runs"]) and again.values("loss") == values


def test_a_comparison_of_tunings_that_cannot_fit_is_refused_after_its_first_steps(place, tmp_path, monkeypatch):
    from llmanac.lab.trials.tuning import Tried

    monkeypatch.setattr(Tried, "values", lambda *given: pytest.fail("measured"))
    base = asked(place, rows={"held_out": 0.3}, train={"steps": 5, "checkpoint_every": None, "optimizer": TUNING})
    with pytest.raises(
        SpecError, match=r"--budget 0\.1s is too little for train\.steps = 5 \(5 runs of each of 2 arms"
    ):
        compare("adapter", "lora{rank=2},full", base=base, budget=0.1, folder=tmp_path / "a", cache=tmp_path / "c")


def test_a_tuning_is_a_recipe_and_the_base_of_a_comparison(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(to_toml(dump(asked(place, adapter="lora"))))

    def command(*words):
        with pytest.raises(SystemExit) as ended:
            main([*words])
        return ended.value.code

    assert command("run", "mine.toml", "-s", "train.steps=2", "--seed", "1") == 0
    assert "Next: llmanac chat runs/mine" in capsys.readouterr().out
    assert json.loads((tmp_path / "runs/mine/results.json").read_text())["steps"] == 2
    words = ["compare", "adapter.rank", "--arms", "1,2", "--seeds", "1", "--budget", "10m"]
    assert command(*words, "--base", "runs/mine", "--tune", "lr=2") == 0
    out = capsys.readouterr().out
    assert (
        "held-out loss" in out and "--base runs/mine" in (tmp_path / "studies/adapter.rank-1-2/study.html").read_text()
    )
    for extra, message in (
        ([], "give a --base that has one, as a tuning's folder, or -s model=MODEL"),
        (["-s", "rows.file=a.jsonl"], "model: rows.file is set, but no model"),
        (["--base", "runs/mine", "--hold", "params"], "--hold params: arms that tune one model read the same rows"),
        (["--base", "runs/mine", "-s", "rows.held_out=0"], "rows.held_out: 0 leaves nothing to measure"),
    ):
        assert command("compare", "adapter", "--arms", "lora,full", *extra) == 2
        assert message in capsys.readouterr().err


class Scripted:
    """A teacher's engine whose answers are known."""

    def __init__(self, answers):
        self.answers, self.calls = answers, 0

    def generate(self, prompts, n, **options):
        self.calls += len(prompts)
        for prompt in prompts:
            for text, reason in self.answers[prompt]:
                yield type("Completion", (), {"text": text, "finish_reason": reason})()

    def __getattr__(self, name):
        raise AttributeError(name)


def test_teachers_text_becomes_rows_and_a_cut_answer_never_does(tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "a", "completion": "1"}\n{"prompt": "b", "completion": "2"}\n')
    engine = Scripted({"a": [("1", "stop"), ("1", "stop")], "b": [("5", "stop"), ("2 and", "length")]})
    engine.generate = lambda prompts, n, **o: list(Scripted.generate(engine, prompts, n, **o))
    counts, rows = teacher_file(engine, data, tmp_path, samples=2, verify=None)
    assert [json.loads(line) for line in rows.read_text().splitlines()] == [
        {"prompt": "a", "completion": "1"}, {"prompt": "b", "completion": "5"},
    ]  # fmt: skip
    assert counts == {"prompts": 2, "written": 2, "repeated": 1, "cut off or empty": 1}
    answers = tmp_path / "teacher-answers.jsonl"
    answers.write_text(answers.read_text().splitlines(True)[0] + '{"line": 2, "ro')  # killed while it wrote
    calls = engine.calls
    again, rows = teacher_file(engine, data, tmp_path, samples=2, verify=None)
    assert engine.calls == calls + 1 and len(rows.read_text().splitlines()) == 2 and again["prompts"] == 2


def test_answers_of_a_teacher_that_has_changed_are_written_anew(tmp_path, monkeypatch):
    """The folder has the same name, and the answers that a stopped command kept are of other weights."""
    data, model = tmp_path / "rows.jsonl", tmp_path / "teacher"
    data.write_text('{"prompt": "a", "completion": "1"}\n')
    model.mkdir()
    (model / "config.json").write_text("{}")
    said = []
    for weights in (b"some", b"some", b"others"):
        (model / "model.safetensors").write_bytes(weights)
        engine = Scripted({"a": [(weights.decode(), "stop")]})
        engine.generate = lambda prompts, n, engine=engine, **o: list(Scripted.generate(engine, prompts, n, **o))
        monkeypatch.setattr("llmanac.generate.load.load_engine", lambda *a, engine=engine, **k: engine)
        said.append(TeacherSpec(model=str(model)).write(str(data), tmp_path / "out", 0, lambda line: None).read_text())
    assert said[0] == said[1] and json.loads(said[2])["completion"] == "others"


ROLES = ["<|user|>", "<|assistant|>", "<|end|>"]
QUESTION, ANSWER = "How do I print?", "Choose the queue."


def test_a_base_without_a_template_learns_to_chat_by_its_control_tokens(place, tmp_path):
    """As `llmanac run` leaves a base: the control tokens are there, the template is not, since it never read a chat."""
    tokenizer = train_tokenizer("bpe", [QUESTION, ANSWER], vocab_size=300, special_tokens=ROLES)
    tokenizer.chat_template = None
    model = make_method("lm", {"name": "transformer", "dim": 16, "layers": 1, "max_length": 96}).build(
        vocab_size=tokenizer.vocab_size
    )
    model.save_pretrained(tmp_path / "base")
    tokenizer.save(tmp_path / "base")
    rows = {"file": str(place / "rows.jsonl")}
    tune(asked(place, model=str(tmp_path / "base"), rows=rows), tmp_path / "out", report=lambda line: None)
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    kept = load_engine(tmp_path / "out").tokenizer
    assert kept.render_chat(said) == "<|user|>Hi<|end|><|assistant|>Ho<|end|>"
    theirs = PreTrainedTokenizerFast.from_pretrained(str(tmp_path / "out" / "model"))
    assert theirs.apply_chat_template(said, tokenize=False) == kept.render_chat(said)
    adapted = {"model": str(tmp_path / "base"), "rows": rows, "adapter": {"name": "lora", "rank": 2}}
    tune(asked(place, **adapted), tmp_path / "lora", report=lambda line: None)
    merge(tmp_path / "lora", tmp_path / "merged")
    assert load_tokenizer(tmp_path / "merged").render_chat(said) == kept.render_chat(said)
    (tmp_path / "text.jsonl").write_text('{"text": "No chat."}\n' * 3)  # text teaches no chat, so no template is added
    rows = {"file": str(tmp_path / "text.jsonl"), "held_out": 0.0}
    tune(asked(place, model=str(tmp_path / "base"), rows=rows), tmp_path / "text", report=lambda line: None)
    assert load_engine(tmp_path / "text").tokenizer.chat_template is None


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]},
        {"instruction": QUESTION, "input": "", "output": ANSWER},
        {"question": QUESTION, "answer": ANSWER},
        {"instruction": QUESTION, "output": ANSWER, "text": f"### {QUESTION} {ANSWER}"},
        {"instruction": "How do", "input": "I print?", "output": ANSWER},
        {"question": QUESTION, "context": "", "answer": ANSWER, "messages": []},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]},
                      {"role": "assistant", "content": ANSWER}]},
    ],
)  # fmt: skip
def test_other_forms_of_chats_are_read_alike(place, tmp_path, row):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    [(_, found)] = read_rows(tmp_path / "rows.jsonl")
    said = found.get("messages") or [*found["prompt"], *found["completion"]]
    said[0]["content"] = said[0]["content"].replace("\n\n", " ")
    assert said == [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]


def test_what_would_be_lost_of_a_row_is_refused(tmp_path):
    for row, words in (
        ({"instruction": "Add", "input": [1, 2], "output": "3"}, "input: a text was expected, not list"),
        ({"question": "Add", "answer": "3", "history": [["a", "b"]]}, "history: earlier turns"),
        ({"conversations": [{"from": "human", "value": "a"}], "system": 5}, "system: a text was expected"),
    ):
        (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
        with pytest.raises(DataError, match=words):
            list(read_rows(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([("user", "Hi"), ("assistant", " ")], "messages.1.: the assistant says nothing"),
        ([("user", None), ("assistant", "Ho")], "messages.0..content: is missing"),
        ([("User", "Hi"), ("Assistant", "Ho")], "no message has the role 'assistant', but Assistant, User"),
        ([("user", [{"type": "image_url"}]), ("assistant", "Ho")], "is not a part of type text"),
    ],
)
def test_one_bad_row_stops_or_is_left_out(place, tmp_path, messages, words):
    good = (place / "rows.jsonl").read_text()
    bad = json.dumps({"messages": [{"role": role, "content": content} for role, content in messages]})
    (tmp_path / "rows.jsonl").write_text(bad + "\n" + good)
    rows = {"file": str(tmp_path / "rows.jsonl")}
    with pytest.raises(DataError, match=f"rows.jsonl:1: .*{words}"):
        tune(asked(place, rows=rows), tmp_path / "no", report=lambda line: None)
    done = tune(asked(place, rows={**rows, "on_error": "skip"}), tmp_path / "out", report=lambda line: None)
    assert dict(done.rows)["left out: cannot be used (left_out.jsonl)"] == "1" and dict(done.rows)["rows"] == "120"
    assert json.loads((tmp_path / "out" / "data" / "left_out.jsonl").read_text())["line"] == 1


def test_a_preview_joins_the_bytes_of_a_character():
    tokenizer = train_tokenizer("bpe", ["plain"], vocab_size=300, special_tokens=SPECIAL)
    ids = tokenizer.encode("ask 🙏 —")
    assert "🙏 —" in shown(tokenizer, ids, [False] * len(ids), Text).plain


@pytest.mark.parametrize("objective", ["chat", "token-distillation"])
@pytest.mark.parametrize("budget", [0.01, 2.0])
def test_a_budget_is_for_all_of_a_tuning_and_trains_what_it_can(place, tmp_path, objective, budget, monkeypatch):
    """By a clock that every row moves by a second of 100: all held-out rows would take longer than the budget."""
    clock, scale = [0.0], 100 / budget
    for module in (pace, sys.modules[tune.__module__]):
        monkeypatch.setattr(module, "now" if module is pace else "time_without_once", lambda: clock[0] / scale)
    loss = Instruction.loss if objective == "chat" else TokenDistillation.loss

    def slow(self, model, batch):
        clock[0] += len(batch.ids)
        return loss(self, model, batch)

    monkeypatch.setattr(Instruction if objective == "chat" else TokenDistillation, "loss", slow)
    teacher = None if objective == "chat" else str(place / "teacher")
    spec = asked(place, objective=make_method("objective", objective), teacher=teacher)
    spec = dataclasses.replace(
        spec, train=dataclasses.replace(spec.train, steps=None), rows=dataclasses.replace(spec.rows, held_out=0.5)
    )
    said = []
    done = tune(spec, tmp_path / "out", budget=budget, report=said.append)
    assert done.training.steps >= 2 and (tmp_path / "out" / "model").is_dir()
    assert 4 <= len(done.before) == len(done.after) < 20
    assert any("held-out rows are measured" in line and "time is short" in line for line in said)
    assert clock[0] < 130


def interrupted(monkeypatch, at):
    """Ctrl-C after so many steps of the next training."""
    plain = Stepper.__call__

    def stop(self, rows, scale, step):
        found = plain(self, rows, scale, step)
        if step + 1 == at:
            signal.raise_signal(signal.SIGINT)
        return found

    monkeypatch.setattr(Stepper, "__call__", stop)
    return lambda: monkeypatch.setattr(Stepper, "__call__", plain)


@pytest.mark.parametrize("adapter", ["lora", "prompt", None])
def test_a_stopped_tuning_is_used_and_says_so(place, tmp_path, monkeypatch, capfd, adapter):
    """Its model is the one of its last checkpoint; the finished one takes its place."""
    spec = asked(place, adapter=adapter and {"name": adapter}, train={"checkpoint_every": 1, "keep": 9})
    restore = interrupted(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        tune(spec, tmp_path / "out", report=lambda line: None)
    restore()
    say_once.cache_clear()
    load_engine(str(tmp_path / "out"))
    assert f"{tmp_path / 'out' / 'model'}: stopped at step 4 of 6" in capfd.readouterr().err
    if adapter == "lora":
        say_once.cache_clear()
        merge(tmp_path / "out", tmp_path / "merged")
        assert "stopped at step 4 of 6" in capfd.readouterr().err
    if adapter is None:
        kept = load_file(tmp_path / "out" / "model" / "model.safetensors")
        saved = load_file(tmp_path / "out" / "training" / "checkpoints" / "step-00000004" / "model.safetensors")
        assert all(torch.equal(kept[name], saved[name]) for name in kept)
    tune(spec, tmp_path / "out", resume=True, report=lambda line: None)
    say_once.cache_clear()
    load_engine(str(tmp_path / "out"))
    assert "stopped at" not in capfd.readouterr().err


def test_a_tuning_that_was_killed_is_used_too(place, tmp_path, monkeypatch, capfd):
    """No handler runs: the model of each checkpoint is there already."""
    plain = Stepper.__call__

    def die(self, rows, scale, step):
        if step == 4:
            raise MemoryError
        return plain(self, rows, scale, step)

    monkeypatch.setattr(Stepper, "__call__", die)
    with pytest.raises(MemoryError):
        tune(asked(place, train={"checkpoint_every": 2}), tmp_path / "out", report=lambda line: None)
    say_once.cache_clear()
    load_engine(str(tmp_path / "out"))
    assert "stopped at step 4 of 6" in capfd.readouterr().err


@pytest.mark.parametrize("fewer", [5, 6, 8, 4, 3, 13])
def test_a_resumed_tuning_may_state_fewer_steps(place, tmp_path, monkeypatch, fewer):
    train = {"steps": 12, "checkpoint_every": 2}
    restore = interrupted(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        tune(asked(place, train=train), tmp_path / "out", report=lambda line: None)
    restore()
    again = asked(place, train={**train, "steps": fewer})
    if not 4 < fewer < 12:
        with pytest.raises(SpecError, match=rf"train\.steps: {fewer} was asked for, but the run in .* uses 12"):
            tune(again, tmp_path / "out", resume=True, report=lambda line: None)
        return
    done = tune(again, tmp_path / "out", resume=True, report=lambda line: None)
    assert done.training.steps == fewer
    last = [line["lr_scale"] for line in read_metrics(tmp_path / "out" / "training") if "lr_scale" in line][-1]
    schedule = done.training.spec.schedule.build(steps=12)
    assert last == schedule(11)  # the rate ends where the schedule does
    same = tune(asked(place, train=train), tmp_path / "out", resume=True, report=lambda line: None)
    assert same.training.steps == fewer  # said once


@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rows": {"length": 4096}}, "4096|reads"),
        ({"rows": {"file": "nowhere.jsonl"}}, "nowhere"),
        ({"model": "nowhere/at/all"}, "nowhere"),
        ({"teacher": "nowhere/at/all", "objective": "token-distillation"}, "nowhere"),
        ({"trained": ["*.nothing"]}, "nothing"),
    ],
)
def test_a_refused_tuning_leaves_a_folder_to_the_next(place, tmp_path, wrong, words, empty):
    if empty:
        (tmp_path / "out").mkdir()
    fields = dict(wrong)
    spec = asked(place, **{k: v for k, v in fields.items() if k not in ("model",)})
    if "model" in fields:
        spec = dataclasses.replace(spec, model=fields["model"])
    with pytest.raises(LlmanacError, match=words):
        tune(spec, tmp_path / "out", report=lambda line: None)
    assert (tmp_path / "out").is_dir() is empty
    tune(asked(place), tmp_path / "out", report=lambda line: None)


@pytest.mark.parametrize("adapter", [None, "lora"])
def test_an_encoder_decoder_learns_from_sources(place, tmp_path, adapter):
    """The rows' prompts are what its encoder reads; an objective of one text is refused by name."""
    tokenizer, student = load_tokenizer(place / "student"), tmp_path / "student"
    made = make_method("lm", {"name": "encoder-decoder", "dim": 16, "layers": 1, "encoder_layers": 1, "max_length": 96})
    made.build(vocab_size=tokenizer.vocab_size).save_pretrained(student)
    tokenizer.save(student)
    choices = {"model": str(student), "adapter": adapter}
    with pytest.raises(SpecError, match=r"-s objective=prefix -s objective.form=source"):
        tune(asked(place, **choices), tmp_path / "refused", report=lambda line: None)
    objective = {"name": "prefix", "form": "source"}
    done = tune(asked(place, objective=objective, **choices), tmp_path / "tuned", report=lambda line: None)
    assert done.after.mean < done.before.mean
    assert load_engine(tmp_path / "tuned").generate("What is 1 plus 2?", max_new_tokens=3)[0].ids


@pytest.mark.parametrize("form", ["q8_0", "nf4"])
def test_an_adapter_is_trained_on_a_model_that_stays_packed(place, tmp_path, form):
    """The rows that fit are counted on a model whose matrices have no storage of their own."""
    tokenizer = load_tokenizer(place / "student")
    shape = {"name": "transformer", "dim": 64, "layers": 1, "max_length": 96}
    model = make_method("lm", shape).build(vocab_size=tokenizer.vocab_size)
    model.save_pretrained(tmp_path / "dense")
    tokenizer.save(tmp_path / "dense")
    packed = tmp_path / ("packed.gguf" if form == "q8_0" else "packed")
    quantize(str(tmp_path / "dense"), packed, form, texts=["Some text to compare the losses on. " * 60] * 2)
    train = {"steps": 20, "batch_tokens": 512}
    spec = asked(place, model=str(packed), adapter={"name": "lora", "rank": 4}, train=train)
    done = tune(spec, tmp_path / "tuned", report=lambda line: None)
    assert done.after.mean < done.before.mean
