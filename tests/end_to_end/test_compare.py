"""`llmanac compare` from the question to the page, on a tiny model: the numbers are real, only the sizes are not."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _studies import STEPS, ask

from llmanac.core.errors import LlmanacError, SpecError
from llmanac.core.spec import parse_patches
from llmanac.lab import words
from llmanac.lab.arms import parse_arms
from llmanac.lab.axis import find_axis, resolve
from llmanac.lab.compare import StudyResult, load_study, run_study, studies
from llmanac.lab.hold import flops_of, hold_parameters, parameters_of, step_ratios
from llmanac.lab.prepare import prepare
from llmanac.lab.smaller import BEATEN, with_floors
from llmanac.lab.trials.training import TrainingTrial
from llmanac.recipes.spec import load_recipe

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def positions(recipe: dict[str, Any], store: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return ask("position", "rope,learned", recipe, tmp_path_factory.mktemp("positions"), store)


def test_a_study_from_question_to_page(positions: StudyResult) -> None:
    data = json.loads((positions.folder / "study.json").read_text())
    assert data == json.loads(json.dumps(positions.data))
    values = data["values"]["bits_per_byte"]
    assert [len(values[a]) for a in ("rope", "learned")] == [5, 5]
    assert all(3.0 < v < 9.0 for found in values.values() for v in found)
    assert len(set(values["rope"])) == 5  # seeds are different runs
    assert set(positions.verdicts) == {"learned"}
    differences = np.array(values["learned"]) - np.array(values["rope"])
    assert positions.comparison("learned")["difference"] == pytest.approx(differences.mean())
    assert data["arms"][1]["diff"]["model.position.name"] == ["rope", "learned"]
    assert all(path.startswith("model.position") for path in data["arms"][1]["diff"])
    costs = data["costs"]
    assert costs["rope"]["steps"] == STEPS and costs["rope"]["tokens"] == STEPS * 128
    assert costs["learned"]["parameters"] - costs["rope"]["parameters"] == 32 * 32
    for name in ("train_flops", "seconds", "peak_memory", "decode_tokens_per_second", "state_bytes"):
        assert costs["rope"][name] > 0
    tokens = costs["rope"]["state_tokens"]
    assert tokens == 32 and costs["rope"]["state_bytes"] == tokens * 2 * 2 * 32 * 4  # two layers, K and V, float32
    assert len(data["curves"]["rope"]["0"]) >= 4
    page = positions.page.read_text()
    assert "Untuned" in page and ", untuned)." in page and f"{values['rope'][0]:.4g}"[:3] in page


def test_arms_start_equal_and_that_is_recorded(positions: StudyResult, recipe: dict[str, Any]) -> None:
    found = positions.data["pairing"]
    assert found["checked"] and set(found["seeds"]) == set("01234")
    model = load_recipe(recipe).spec.model.build(vocab_size=positions.data["data"]["vocabulary"])
    for seed in found["seeds"].values():
        assert seed["tensors_that_differ"] == 0 and seed["rows_equal"]
        assert seed["shared_tensors"] == len(dict(model.named_parameters()))
        assert seed["rows"] >= STEPS * 4  # every row that was trained on
    assert len({s["row_hash"] for s in found["seeds"].values()}) == 5
    assert len({s["tensor_hash"] for s in found["seeds"].values()}) == 5


def test_an_arm_that_starts_at_another_scale_is_paired_and_the_page_says_so(
    recipe: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    found = ask("position", "rope,sinusoidal", recipe, tmp_path, store, seeds=1)
    pairing = found.data["pairing"]["seeds"]["0"]
    (tensor,) = pairing["scaled"]["sinusoidal"]
    assert tensor.startswith("model.embed_tokens.weight") and pairing["tensors_that_differ"] == 0
    assert pairing["scaled"]["sinusoidal"][tensor] == pytest.approx(32**-0.5 / 0.02, rel=1e-6)
    assert f"Same draw, scaled: sinusoidal: {tensor} is 8.839 times that of rope" in found.page.read_text()


def test_an_arm_that_starts_elsewhere_stops_the_study(
    recipe: dict[str, Any], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: if one arm drew its initial values from a stream of its own, the study must not go on."""
    from llmanac.models.lm.transformer import Transformer

    draw = Transformer.initialise
    monkeypatch.setattr(Transformer, "initialise", lambda self, seed: draw(self, seed + len(list(self.parameters()))))
    with pytest.raises(LlmanacError, match=r"differ in the initial tensor .* under seed 0"):
        ask("position", "rope,learned", recipe, tmp_path / "study", tmp_path / "cache", seeds=1)
    assert not (tmp_path / "study" / "study.json").exists()


def test_an_arm_that_reads_other_rows_stops_the_study(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmanac.objectives import _measured

    class Own(_measured.PackedStream):  # its order depends on a count of streams made so far: what pairing must catch
        made = 0

        def __init__(self, *args: Any, **how: Any) -> None:
            Own.made += 1
            super().__init__(*args, **(how | {"seed": how["seed"] + Own.made}))

    monkeypatch.setattr(_measured, "PackedStream", Own)
    with pytest.raises(LlmanacError, match="differ in training row 0"):
        ask("position", "rope,none", recipe, tmp_path / "study", tmp_path / "cache", seeds=1)


def test_asked_again_nothing_runs_and_more_seeds_run_only_themselves(
    positions: StudyResult, recipe: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    again = ask("position", "rope,learned", recipe, positions.folder, store)
    assert all(run["cached"] for run in again.data["runs"])
    assert again.data["values"] == positions.data["values"]
    lines: list[str] = []
    more = ask("position", "rope,learned", recipe, positions.folder, store, seeds=6, report=lines.append)
    assert [run["cached"] for run in more.data["runs"]] == [True] * 10 + [False] * 2
    assert any("going on with the plan" in line for line in lines)
    assert more.values()["rope"][:5] == positions.values()["rope"]
    assert more.comparison("learned")["n"] == 6


def test_seeds_are_added_until_a_verdict_that_is_clear_at_once(
    recipe: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    auto: dict[str, Any] = {"seeds": "auto", "budget": 36_000}  # time for every seed, also on a busy machine
    found = ask("train.optimizer.lr", "0.003,1e-6", recipe, tmp_path, store, **auto, report=lines.append)
    assert found.data["seeds"] in ([0, 1, 2, 3, 4], [*range(7)], [*range(10)]) and found.data["asked_seeds"] == 20
    assert found.verdicts == {"1e-6": "worse"} and found.data["plan"]["seeds"] == 20
    assert "Looks after so many seeds" in found.page.read_text() and 'seeds="auto"' in found.data["command"]
    again = ask("train.optimizer.lr", "0.003,1e-6", recipe, tmp_path, store, **auto)
    assert again.data["seeds"] == found.data["seeds"] and all(run["cached"] for run in again.data["runs"])


def test_a_study_is_reproducible_bit_for_bit(positions: StudyResult, recipe: dict[str, Any], tmp_path: Path) -> None:
    fresh = ask("position", "learned,rope", recipe, tmp_path / "s", tmp_path / "c", seeds=1, baseline="rope")
    assert fresh.values()["rope"][0] == positions.values()["rope"][0]
    assert fresh.values()["learned"][0] == positions.values()["learned"][0]


@pytest.mark.slow
def test_changed_code_runs_again(
    positions: StudyResult, recipe: dict[str, Any], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmanac.lab import sources

    real = sources.code_hash
    monkeypatch.setattr(sources, "code_hash", lambda path: "f" * 16 if path.name == "learned.py" else real(path))
    again = ask("position", "rope,learned", recipe, positions.folder, store)
    assert again.values() == positions.values()
    cached = {(run["arm"], run["cached"]) for run in again.data["runs"]}
    assert cached == {("rope", True), ("learned", False)}  # an arm that does not use the file is not run again


@pytest.mark.slow
def test_a_study_of_other_numbers_keeps_the_page_that_was_there(
    recipe: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    first = ask("position", "rope,learned", recipe, tmp_path, store, seeds=1)
    lines: list[str] = []
    ask("position", "rope,learned", recipe, tmp_path, store, seeds=2, report=lines.append)
    assert not list(tmp_path.glob("study-*"))  # a further seed adds to what is there
    before = (tmp_path / "study.html").read_text()
    ask("position", "rope,none", recipe, tmp_path, store, seeds=1, report=lines.append)
    (kept,) = tmp_path.glob("study-*.html")
    assert kept.read_text() == before and any(kept.name in line for line in lines)
    values = json.loads(kept.with_suffix(".json").read_text())["values"]["bits_per_byte"]
    assert values["learned"][:1] == first.values()["learned"]
    assert "none" in (tmp_path / "study.html").read_text()


def test_equal_parameters_move_one_width_and_say_so(recipe: dict[str, Any], store: Path, tmp_path: Path) -> None:
    found = ask("ffn", "relu{width=96},swiglu", recipe, tmp_path, store, hold="params", seeds=1)
    counts = [found.data["costs"][arm]["parameters"] for arm in ("relu{width=96}", "swiglu")]
    assert abs(counts[1] - counts[0]) <= 0.01 * counts[0]
    held = found.data["arms"][1]["held"]
    assert list(held) == ["model.blocks.0.ffn.width"] and held["model.blocks.0.ffn.width"] == [None, 64]
    assert found.verdicts == {"swiglu": "too few"}
    assert "too few seeds (4 more)" in found.page.read_text()


def test_holds_by_arithmetic(recipe: dict[str, Any]) -> None:
    base = load_recipe(recipe).spec
    for kind, arms in (("mixer", "multi-head,multi-query"), ("position", "rope,learned"), ("head", "linear,pointer")):
        axis = find_axis(kind)
        resolved = hold_parameters(resolve(base, axis, parse_arms(arms)), base, axis, arms.split(",")[0], 320)
        counts = [parameters_of(arm.spec.model, 320) for arm in resolved]
        for arm, count in zip(resolved, counts, strict=True):
            built = arm.spec.model.build(vocab_size=320)
            assert built.parameter_count() == count and abs(count - counts[0]) <= 0.01 * counts[0]
            assert flops_of(arm.spec.model, 320, 32) == built.flops_per_token(32)
    axis = find_axis("model.layers")
    with pytest.raises(SpecError, match=r"arm '9' has .* no width brings it within 1%"):
        hold_parameters(resolve(base, axis, parse_arms("1,9")), base, axis, "1", 320)


def test_equal_tokens_move_the_steps_where_a_step_holds_other_tokens(recipe: dict[str, Any]) -> None:
    base = load_recipe(recipe).spec  # rows of 32 tokens

    def ratios(hold: Any, kind: str, arms: str, **seconds: float) -> dict[str, float]:
        resolved = resolve(base, find_axis(kind), parse_arms(arms))
        return step_ratios(hold, resolved, arms.split(",")[0], 320, seconds)

    assert ratios("tokens", "train.batch_tokens", "1024,4096,256") == {"1024": 1.0, "4096": 0.25, "256": 4.0}
    assert ratios("params", "train.batch_tokens", "1024,4096") == {"1024": 1.0, "4096": 0.25}
    assert ratios("flops", "train.batch_tokens", "1024,4096") == {"1024": 1.0, "4096": 0.25}
    assert ratios("time", "train.batch_tokens", "1024,4096", **{"1024": 1.0, "4096": 3.0}) == {"1024": 1, "4096": 1 / 3}
    assert ratios("tokens", "train.batch_tokens", "128,150") == {"128": 1.0, "150": 1.0}  # whole rows: 4 of each
    assert ratios("tokens", "train.length", "32,16") == {"32": 1.0, "16": 1.0}
    assert ratios("tokens", "position", "rope,learned") == {"rope": 1.0, "learned": 1.0}


@pytest.mark.slow
def test_equal_flops_move_the_steps(recipe: dict[str, Any], store: Path, tmp_path: Path) -> None:
    long = copy.deepcopy(recipe)
    long["train"]["steps"] = 120
    found = ask("model.layers", "2,1", long, tmp_path, store, hold="flops", seeds=1)
    flops = [found.data["costs"][arm]["train_flops"] for arm in ("2", "1")]
    assert flops[1] == pytest.approx(flops[0], rel=0.01)
    assert found.data["costs"]["1"]["steps"] > found.data["costs"]["2"]["steps"] == 120
    assert "train.steps" in found.data["arms"][1]["held"]


@pytest.mark.slow
def test_every_arm_gets_the_same_sweep(recipe: dict[str, Any], store: Path, tmp_path: Path) -> None:
    found = ask("optimizer", "adamw,muon", recipe, tmp_path, store, tune="lr=2", seeds=1)
    tune = found.data["tune"]
    assert tune["factors"] == [2**-0.5, 2**0.5]
    for arm in ("adamw", "muon"):
        values = tune["values"][arm]
        assert len(values) == 2 and len(set(values.values())) == 2
        assert f"{tune['chosen'][arm]:g}" == min(values, key=values.__getitem__)
    held = found.data["arms"][0]["held"]["train.optimizer.lr"]
    assert held == [3e-3, pytest.approx(3e-3 * tune["chosen"]["adamw"])]
    muon = {path: new for path, (_, new) in found.data["arms"][1]["diff"].items()}
    assert muon["train.optimizer.lr"] == pytest.approx(0.02 * tune["chosen"]["muon"])  # its own rate, not the base's
    assert "Untuned" not in found.page.read_text()


def test_whole_recipes_are_marked_as_such(recipe: dict[str, Any], store: Path, tmp_path: Path) -> None:
    arms = {
        "plain": {"model.position": "learned", "train.length": 16, "train.optimizer": "adamw"},
        "ours": {"train.optimizer.lr": 1e-3, "model.blocks.*.mixer": {"name": "multi-query", "heads": 2}},
    }
    for _ in range(4):  # speeds are measured: beside other work one arm may seem too slow for two steps
        with contextlib.suppress(SpecError):
            found = ask("recipe", arms, recipe, tmp_path, store, hold="time", seeds=1)
            break
    assert "Whole-recipe comparison" in found.page.read_text()
    plan = found.data["plan"]  # the baseline keeps the stated steps, the other arm gets as much time
    ratio = plan["speed"]["plain"]["step_seconds"] / plan["speed"]["ours"]["step_seconds"]
    assert plan["steps"] == {"plain": STEPS, "ours": round(STEPS * ratio)}
    again = ask("recipe", arms, recipe, tmp_path, store, hold="time", seeds=1)
    assert all(run["cached"] for run in again.data["runs"])  # what was measured is not measured again


@pytest.mark.parametrize(
    ("kind", "arms", "options", "message"),
    [
        ("position", "rope,lerned", {}, "--arms: no position named 'lerned'; did you mean 'learned'"),
        ("position", "rope", {}, "at least two arms"),
        ("position,ffn", "rope,relu", {}, "varies one axis"),
        ("positon", "rope,learned", {}, "did you mean 'position'"),
        ("position", "rope{thta=3},learned", {}, "model.position.thta: no such field; did you mean 'theta'"),
        ("mixer", "multi-head,multi-head{heads=5}", {}, "arm .multi-head.heads=5..: heads: 5 must divide dim"),
        ("position", {"a": "rope", "b": {"train.clip": 2.0}}, {}, "train.clip would vary too, outside the axis"),
        ("position", "rope,learned", {"hold": "parms"}, "--hold: 'parms' is not one of .* did you mean 'params'"),
        ("position", "rope,learned", {"tune": "wd=3"}, "expected lr=N"),
        ("position", "rope,learned", {"baseline": "non"}, "baseline: 'non' is not one of the arms"),
        ("position", "rope,learned", {"seeds": 0}, "--seeds: 0"),
        ("position", "rope,learned", {"margin": 0.0}, "--margin: 0.0"),
        ("position", "rope,learned", {"budget": "soon"}, "--budget: 'soon' is not a time"),
        ("position", "rope,learned", {"base": "no-such"}, "no recipe named 'no-such'"),
        ("decoding", "greedy,top-k", {"hold": "params"}, "--hold: is not used when decoding is compared"),
        ("decoding", "greedy,top-k", {}, "--artefact: decoding methods need a finished model"),
        ("tokenizer", "bpe,bpx", {}, "no tokenizer named 'bpx'"),
        ("ffn.width", "1,2", {}, "ffn"),
    ],
)  # fmt: skip
def test_questions_that_cannot_be_asked(
    kind: str, arms: Any, options: dict[str, Any], message: str, recipe: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    with pytest.raises(LlmanacError, match=message):
        ask(kind, arms, recipe, tmp_path / "study", store, **options)


def test_a_budget_under_200_steps_is_refused_with_one_that_would_do(
    recipe: dict[str, Any], tmp_path: Path, store: Path
) -> None:
    open_ = copy.deepcopy(recipe)
    del open_["train"]["steps"]
    said: list[str] = []
    with pytest.raises(SpecError, match=r"at least 200; use --budget \S+, fewer arms, or a smaller base"):
        ask("position", "rope,learned", open_, tmp_path, store, budget=2, min_steps=200, report=said.append)
    assert said[0].startswith("base: tiny: ") and " parameters, 128 tokens a step, " in said[0]
    with pytest.raises(SpecError, match=r"--budget 0\.5s leaves .* at least 200; use --budget \d+[sm]"):
        ask("position", "rope,learned", open_, tmp_path, store, budget=0.5, min_steps=200)
    with pytest.raises(SpecError, match=r"and a verdict needs at least 200"):
        ask("position", "rope,learned", recipe, tmp_path, store, min_steps=200)  # 8 steps were stated


def test_the_studies_that_come_with_the_package_resolve() -> None:
    from llmanac.lab.axis import methods_of
    from llmanac.lab.compare import BASE

    assert {"positions_small", "feed_forward_medium", "decoding", "tokenizers", "nanogpt_style"} <= set(studies())
    for name in studies():
        data = load_study(name)
        axis, texts = find_axis(data["kind"]), parse_arms(data["arms"])
        base = load_recipe(data.get("base", BASE), data.get("set", {})).spec
        assert data["baseline"] in [t.label for t in texts]
        if axis.trial != "training":
            assert all(methods_of(axis.kind, text) for text in texts)
            continue
        for arm in resolve(base, axis, texts):
            if arm.spec.model.estimated:
                continue  # its size follows from the text
            assert arm.spec.train.length <= (arm.spec.model.max_length or arm.spec.train.length)
            assert 1e5 < parameters_of(arm.spec.model, base.tokenizer.vocab_size) < 5e6


@pytest.mark.slow
def test_a_study_from_toml_and_what_overrides_it(recipe: dict[str, Any], store: Path, tmp_path: Path) -> None:
    from llmanac.core.spec import to_toml

    (tmp_path / "base.toml").write_text(to_toml(recipe))
    path = tmp_path / "mine.toml"
    path.write_text(
        'kind = "position"\narms = ["rope", "none"]\nseeds = 3\nbase = "base.toml"\n[set]\n"train.clip" = 0.5\n'
    )
    done = run_study(
        str(path), seeds=1, folder=tmp_path / "out", cache=store, min_steps=2, budget=600, report=lambda line: None
    )
    assert done.data["seeds"] == [0] and done.data["base"]["train"]["clip"] == 0.5
    path.write_text('kind = "position"\narm = ["rope", "none"]\n')
    with pytest.raises(SpecError, match="arm: no such key; did you mean 'arms'"):
        run_study(str(path))


def study_code(recipe: dict[str, Any], root: Path) -> str:
    slow = copy.deepcopy(recipe)
    slow["train"]["steps"] = 240
    return (
        "import json, torch\nfrom llmanac.lab.compare import compare\ntorch.set_num_threads(1)\n"
        f"found = compare('position', 'rope,learned', base=json.loads({json.dumps(slow)!r}), budget=900, min_steps=2, "
        f"seeds=1, folder={str(root / 'study')!r}, cache={str(root / 'cache')!r}, report=lambda line: None)\n"
        "print(json.dumps(found.values()))\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kill -9 is a POSIX signal")
def test_killed_in_the_middle_of_runs_and_gone_on_with_gives_the_same_numbers(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    whole = subprocess.run(
        [sys.executable, "-c", study_code(recipe, tmp_path / "whole")], capture_output=True, text=True, check=True
    )
    code, cache = study_code(recipe, tmp_path / "killed"), tmp_path / "killed" / "cache"
    generator, kills = random.Random(7), 0
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        before = set(half_done(cache))
        while process.poll() is None and kills < 6:
            if set(half_done(cache)) - before:  # a run has a checkpoint that it had not when this process began
                time.sleep(0.2 * generator.random())
                process.send_signal(signal.SIGKILL)
                kills += bool(half_done(cache))
                break
            time.sleep(0.005)
        process.wait()
        if process.returncode == 0:
            break
    assert process.returncode == 0 and process.stdout is not None
    assert kills >= 4  # in the middle of a run: a checkpoint was there and the result was not
    assert json.loads(process.stdout.read()) == json.loads(whole.stdout)


def half_done(cache: Path) -> list[Path]:
    """The checkpoints of runs that have no result yet."""
    return [p for p in cache.glob("*/*/*/checkpoints/step-*") if not (p.parents[2] / "result.json").exists()]


@pytest.mark.slow
def test_the_command_line_asks_and_refuses(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llmanac.cli", "compare", "position", "--arms"]
    wrong = subprocess.run([*command, "rope,lerned"], capture_output=True, text=True, cwd=tmp_path)
    assert wrong.returncode == 2 and "did you mean 'learned'" in wrong.stderr and "Traceback" not in wrong.stderr
    short = subprocess.run([*command, "rope,none", "--budget", "20s"], capture_output=True, text=True, cwd=tmp_path)
    assert short.returncode == 2 and "at least 200; use --budget" in short.stderr


def test_values_are_finite(positions: StudyResult) -> None:
    assert all(math.isfinite(v) for found in positions.values().values() for v in found)


@pytest.mark.slow
def test_a_base_that_is_far_too_large_is_refused_before_any_step_with_flags_that_fit(
    recipe: dict[str, Any], tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first refusal's flags are pasted, and the study runs."""
    large = copy.deepcopy(recipe)
    del large["train"]["steps"]
    large["model"] |= {"dim": 1024, "layers": 16, "max_length": 64}
    large["train"] |= {"batch_tokens": 2048, "length": 64}
    with monkeypatch.context() as patched:
        patched.setattr(TrainingTrial, "rehearse", lambda *given: pytest.fail("a step was computed"))
        with pytest.raises(SpecError, match=r"at least 5; .*: -s .* would fit") as refused:
            ask("position", "rope,learned", large, tmp_path / "a", store, budget=40, min_steps=5)
    words = shlex.split(str(refused.value).split("base: ")[1].removesuffix(" would fit"))
    patches = parse_patches(words[1::2])
    assert words[0::2] == ["-s"] * len(patches)
    done = ask(
        "position", "rope,learned", large, tmp_path / "b", store, budget=40, min_steps=5, seeds=3, patches=patches
    )
    assert min(done.data["plan"]["steps"].values()) >= 5


def test_arms_that_a_count_beats_are_compared_with_that_said_first(
    recipe: dict[str, Any], tmp_path: Path, store: Path
) -> None:
    """Eight steps teach less than gzip sees; floors are those of the text that the arms are measured on."""
    done = ask("position", "rope,learned", recipe, tmp_path / "a", store, seeds=3)
    floors = done.data["floors"]
    assert floors["beaten"] == ["rope", "learned"] and all(1 < floors[name] < 8 for name in ("gzip", "ngram-5"))
    first = words.warnings(done.data)[0]
    assert first.startswith("A count beats rope, learned: gzip needs ")
    assert done.comparison("learned", "bits_per_byte")["beaten"] == BEATEN
    assert f"{BEATEN}, bits per byte" in words.sentences(done.data)[0]
    page = done.page.read_text()
    assert page.index("A count beats") < page.index("What differs") and BEATEN in page
    good = copy.deepcopy(done.data)
    good["values"]["bits_per_byte"] = {arm: [0.5] for arm in ("rope", "learned")}
    for comparison in good["comparisons"]["bits_per_byte"]:
        del comparison["beaten"]
    with_floors(good, prepare(load_recipe(recipe).spec, store / "data"))
    assert good["floors"] == {**floors, "beaten": []} and "beaten" not in good["comparisons"]["bits_per_byte"][0]
    assert not any("A count beats" in line for line in words.warnings(good))


def test_tokenizers_of_several_sizes_are_said_to_be_so(recipe: dict[str, Any], tmp_path: Path, store: Path) -> None:
    said = "a larger one has longer tokens by itself"
    sizes = "bpe{vocab_size=300},bpe{vocab_size=400}"
    data = copy.deepcopy(ask("tokenizer", sizes, recipe, tmp_path, store, seeds=3).data)
    assert any(said in line for line in words.warnings(data))
    for cost in data["costs"].values():
        cost["vocabulary"] = 300
    assert not any(said in line for line in words.warnings(data))
