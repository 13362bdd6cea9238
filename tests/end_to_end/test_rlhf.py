"""`llmanac run rlhf`: three stages of a tiny model in one folder, stopped, resumed, and with a user's own files."""

from __future__ import annotations

import json
import random
import re

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

import llmanac
from llmanac.cli import app
from llmanac.core.errors import LlmanacError, SpecError
from llmanac.core.spec import make, patch
from llmanac.recipes import rlhf, rlhf_task
from llmanac.recipes.finished import curve_charts
from llmanac.recipes.rlhf import RlhfSpec, is_rlhf
from llmanac.recipes.spec import read_recipe

TINY = {
    "sft.epochs": 1.0, "reward_model.epochs": 0.5, "rl.train.steps": 3, "rl.sampling.prompts": 2,
    "rl.sampling.samples": 4, "rl.sampling.tokens": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def small():
    """The task with few rows and a smaller model."""
    plain = rlhf_task.write_task
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            rlhf, "write_task", lambda folder, seed: plain(folder, seed, instructions=64, compared=64, dim=16)
        )
        yield


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rlhf") / "whole"
    return llmanac.run("rlhf", TINY, folder=folder, report=lambda line: None)


def asked(**changes):
    return patch(make(RlhfSpec, read_recipe("rlhf")), {**TINY, **changes})


def test_three_stages_and_their_report(whole):
    """Every stage leaves its folder; proxy, truth, KL, length and surprise of each policy are in the report."""
    results = json.loads((whole.folder / "results.json").read_text())
    assert list(results["stages"]) == ["sft", "reward-model", "rl", "without-kl"]
    assert list(json.loads((whole.folder / "run.json").read_text())["seconds"]) == list(results["stages"])
    scores = results["held_out"]["scores"]
    assert list(scores) == ["start", "sft", "rl", "without-kl"]
    assert all(
        set(row) == {"reward", "truth", "kl_to_start", "tokens", "finished", "surprise"} for row in scores.values()
    )
    assert scores["sft"]["kl_to_start"]["mean"] == pytest.approx(0, abs=1e-4)
    assert scores["start"]["kl_to_start"]["mean"] > 0.01
    for arm in ("rl", "without-kl"):
        lines = results["curves"][arm]
        assert len(lines) == 3 and all(line["truth"] is not None for line in lines)
        assert lines[0]["kl_to_reference"] == pytest.approx(0, abs=1e-4)
    page = (whole.folder / "report.html").read_text()
    assert page.count("<svg") == 4 and "true reward" in page and results["samples"][0]["prompt"] in page


def test_a_run_that_was_stopped_in_each_stage_ends_with_the_same_weights(whole, tmp_path):
    from llmanac.train.step import Stepper

    folder, plain, calls = tmp_path / "cut", Stepper.__call__, []

    def limited(self, rows, scale, step):
        calls.append(step)
        if len(calls) in (2, 5, 9):
            raise SystemExit
        return plain(self, rows, scale, step)

    stops = 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Stepper, "__call__", limited)
        for _ in range(6):
            try:
                llmanac.run(asked(), folder=folder, resume=stops > 0, report=lambda line: None)
                break
            except SystemExit:
                stops += 1
    assert stops == 3
    for stage in ("sft", "reward-model", "rl", "without-kl"):
        one, two = (load_file(place / stage / "model" / "model.safetensors") for place in (whole.folder, folder))
        assert all(bool((one[name] == two[name]).all()) for name in one), stage
    with pytest.raises(SpecError, match=r"rl\.train\.steps \(was 3, now 4\)"):
        llmanac.run(asked(**{"rl.train.steps": 4}), folder=folder, resume=True)
    with pytest.raises(LlmanacError, match="is there already"):
        llmanac.run(asked(), folder=folder)


def test_a_stopped_run_goes_on_without_its_changes_again(tmp_path, monkeypatch):
    def stopped(self, name, made):
        raise KeyboardInterrupt

    monkeypatch.setattr(rlhf._Stages, "tuned", stopped)
    with pytest.raises(KeyboardInterrupt):
        llmanac.run("rlhf", {"seed": 5, "rl.train.steps": 7}, folder=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):  # it came to the stages
        llmanac.run("rlhf", folder=tmp_path / "run", resume=True)
    with pytest.raises(SpecError, match=r"seed \(was 5, now 6\)"):
        llmanac.run("rlhf", {"seed": 6}, folder=tmp_path / "run", resume=True)


def test_a_users_model_prompts_pairs_and_truth(whole, tmp_path):
    """Files of one's own with an adapter in each stage, through the command."""
    task = whole.folder / "task"
    (tmp_path / "mine.py").write_text("def good(text, row):\n    return float('b' in text)\n")
    recipe = tmp_path / "mine.toml"
    files = "".join(f'{name} = "{task / name}.jsonl"\n' for name in ("instructions", "pairs", "prompts"))
    recipe.write_text(
        f'model = "{task / "start"}"\n{files}'
        f'truth = {{ name = "function", file = "{tmp_path / "mine.py"}:good" }}\n'
        '[sft]\ntrain.steps = 1\nadapter = "lora"\n[reward_model]\ntrain.steps = 1\nadapter = "lora"\n'
        '[rl]\ntrain = { steps = 1, dtype = "float32" }\nadapter = "lora"\n'
        "sampling = { prompts = 2, samples = 2, tokens = 4 }\n"
    )
    done = CliRunner().invoke(app, ["run", str(recipe), "--folder", str(tmp_path / "out")], catch_exceptions=False)
    assert done.exit_code == 0 and "true reward" in done.output and "llmanac chat" in done.output
    assert all(re.search(rf"(?m)^{name}: \d+ s$", done.output) for name in ("sft", "reward-model", "rl"))
    assert (tmp_path / "out" / "rl" / "model" / "adapter_config.json").is_file()
    assert list(json.loads((tmp_path / "out" / "results.json").read_text())["stages"]) == ["sft", "reward-model", "rl"]


def test_recipes_that_cannot_run():
    assert is_rlhf(read_recipe("rlhf")) and not is_rlhf(read_recipe("quickstart"))
    for fields, words in (
        ({"prompts": "a"}, "prompts: is set and model is not"),
        ({"model": "a"}, "prompts: RL needs"),
        ({"model": "a", "prompts": "b"}, "pairs, reward: give"),
        ({"rl": {"objective": "dpo"}}, "no policy gradient"),
    ):
        with pytest.raises(SpecError, match=words):
            make(RlhfSpec, fields)
    shown = CliRunner().invoke(app, ["run", "rlhf", "--show", "-s", "rl.train.steps=7"])
    assert "steps = 7" in shown.output


def test_the_true_reward_and_what_raters_like():
    row = {"words": ["bat", "bed", "bag"], "count": 2}
    known = {" bat bed": 1.0, " bat": 0.5, " bat bat": 0.0, " bat bed bag": 0.5,
             " bat bed indeed": 0.5, "": 0.0, " bat cow": 0.0}  # fmt: skip
    for text, value in known.items():
        assert rlhf_task.truth(text, row) == value, text
    draw = random.Random(0)
    rows = rlhf_task.prompts(draw)
    pairs = list(rlhf_task.pairs(draw, rows, 400))
    by = {r["prompt"]: r for r in rows}
    better = [
        rlhf_task.truth(p["chosen"], by[p["prompt"]]) - rlhf_task.truth(p["rejected"], by[p["prompt"]]) for p in pairs
    ]
    assert all(p["chosen"] != p["rejected"] for p in pairs) and sum(better) / len(better) > 0.1
    fooled = [
        p for p in pairs if rlhf_task.merit(p["chosen"], row := by[p["prompt"]]) < rlhf_task.merit(p["rejected"], row)
    ]
    more = [p["chosen"].count("indeed") - p["rejected"].count("indeed") for p in fooled]
    assert sum(n > 0 for n in more) > 4 * sum(n < 0 for n in more)


def test_what_no_draw_has_is_not_drawn():
    """Without a true reward and a reference there is nothing to draw of them."""
    draw = {"reward": 1.0, "truth": None, "kl_to_reference": None, "tokens": 3.0, "surprise": 0.5}
    charts = curve_charts({"rl": [{"draw": 0, **draw}, {"draw": 1, **draw}]})
    assert [chart.caption.partition(":")[0] for chart in charts] == [
        "Reward and true reward", "Tokens", "Surprise, nats a token",
    ]  # fmt: skip
