"""`llmanac run` that is stopped, killed, mended and resumed: nothing is lost, and nothing else is taken for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _runs import command, recipe

import llmanac
from llmanac.cli import main
from llmanac.cli.run import run_command
from llmanac.core import files, spec
from llmanac.core.errors import DataError, SpecError
from llmanac.data.pipeline import build
from llmanac.recipes import stages
from llmanac.recipes.spec import load_recipe


def test_killed_and_resumed_gives_the_same_weights(
    finished, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.toml"
    path.write_text(spec.to_toml(recipe(text)), "utf-8")
    process = subprocess.Popen([sys.executable, "-m", "llmanac.cli", "run", str(path)], cwd=tmp_path)
    folder = tmp_path / "runs" / "small"
    until = time.monotonic() + 300  # a busy machine may need minutes to start
    while not list(folder.glob("pretrain/checkpoints/step-*")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    monkeypatch.chdir(tmp_path)
    for words, message in (
        ([], "--resume"), (["--resume", "-s", "train.steps=99"], "train.steps (was 12, now 99)"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main(["run", str(path), *words])
        assert ended.value.code == 2 and message in capsys.readouterr().err
    done = command("run", str(path), "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Next:" in done.stdout
    first = (finished.folder / "base" / "model.safetensors").read_bytes()
    assert (folder / "base" / "model.safetensors").read_bytes() == first


@pytest.mark.parametrize("lost", [[], ["base", "model"]])
def test_a_run_killed_between_stages_keeps_its_plan(lost: list[str], finished, text: Path, tmp_path: Path) -> None:
    """Killed after training, or between its last step and the saving of the model: nothing is planned or lost anew."""
    folder = unfinished(finished, tmp_path / "small", *lost)
    again = llmanac.run(recipe(text), folder=folder, resume=True)
    assert again.recipe == finished.recipe
    assert again.results["pretrain"]["loss"] == finished.results["pretrain"]["loss"]
    first, second = ((f / "base" / "model.safetensors").read_bytes() for f in (finished.folder, folder))
    assert first == second


def unfinished(finished, folder: Path, *lost: str) -> Path:
    """A copy of the finished run as a kill would have left it."""
    shutil.copytree(finished.folder, folder)
    for name in ("results.json", *lost):
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    state = files.read_json(folder / "run.json")
    files.write_json(folder / "run.json", {**state, "finished": False})
    return folder


def as_earlier_versions(folder: Path) -> Path:
    """The recipe in run.json, and recipe.toml is what it became."""
    state = files.read_json(folder / "run.json")
    state["recipe"] = files.read_toml(folder / "recipe.toml")
    files.write_json(folder / "run.json", {**state, "format_version": 1})
    (folder / "resolved.toml").rename(folder / "recipe.toml")
    return folder


def test_a_resumed_run_refuses_a_changed_recipe_and_names_the_fields(finished, text: Path, tmp_path: Path) -> None:
    folder = unfinished(finished, tmp_path / "small")
    path = tmp_path / "small.toml"
    edited = recipe(text)
    edited["train"] = {**edited["train"], "steps": 13, "clip": 0.5}
    path.write_text(spec.to_toml(edited), "utf-8")
    with pytest.raises(
        SpecError, match=r"train\.clip \(was 1\.0, now 0\.5\), train\.steps \(was 12, now 13\): .*--folder"
    ):
        llmanac.run(path, folder=folder, resume=True)
    without = recipe(text)
    del without["train"]["checkpoint_every"]
    with pytest.raises(SpecError, match=r"train\.checkpoint_every \(was 4, now not set\)"):
        llmanac.run(without, folder=folder, resume=True)
    with pytest.raises(SpecError, match="model"):
        llmanac.run("quickstart", folder=folder, resume=True)
    for name in ("recipe.toml", "resolved.toml"):  # what was planned for it is no change
        own = llmanac.run(folder / name, folder=folder, resume=True)
        assert own.recipe == finished.recipe


def test_a_run_killed_before_its_first_file_has_its_name_starts_again(text: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".tmp-999999-run.json").write_text("{")
    assert llmanac.run(recipe(text), {"train.steps": 2}, folder=tmp_path / "run").results["bits_per_byte"]


def test_patches_of_the_first_start_need_not_be_said_again(text: Path, tmp_path: Path) -> None:
    first = llmanac.run(recipe(text), ["train.steps=3", "model.norm=layernorm"], folder=tmp_path / "patched")
    (first.folder / "results.json").unlink()
    again = llmanac.run(recipe(text), folder=first.folder, resume=True)
    assert again.recipe == first.recipe and again.recipe.train.steps == 3
    with pytest.raises(SpecError, match=r"train\.steps \(was 3, now 4\)"):
        llmanac.run(recipe(text), {"train.steps": 4}, folder=first.folder, resume=True)


def test_a_resumed_run_refuses_another_text(finished, text: Path, tmp_path: Path) -> None:
    own = tmp_path / "text"
    shutil.copytree(text, own)
    first = llmanac.run(recipe(own), {"train.steps": 2}, folder=tmp_path / "small")
    before = (first.folder / "manifest.json").read_bytes()
    page = next(iter(sorted(own.iterdir())))
    kept = page.read_text()
    page.write_text(kept + "\none more line\n")
    with pytest.raises(
        DataError, match=r"text changed since this run began; .*page-00.*restore the old text .* --folder"
    ):
        llmanac.run(recipe(own), folder=first.folder, resume=True)
    assert (first.folder / "manifest.json").read_bytes() == before
    page.write_text(kept)
    assert llmanac.run(recipe(own), folder=first.folder, resume=True).recipe == first.recipe


def test_a_resumed_run_that_lost_its_built_text_refuses_another(finished, text: Path, tmp_path: Path) -> None:
    own = tmp_path / "text"
    shutil.copytree(text, own)
    folder = unfinished(llmanac.run(recipe(own), {"train.steps": 2}, folder=tmp_path / "first"), tmp_path / "small")
    shutil.rmtree(folder / "text")
    page = next(iter(sorted(own.iterdir())))
    kept = page.read_text()
    page.write_text(kept + "\none more line\n")
    with pytest.raises(DataError, match=r"text changed since this run began, or its split; restore the old text"):
        llmanac.run(recipe(own), folder=folder, resume=True)
    page.write_text(kept)
    shutil.rmtree(folder / "text")
    again = llmanac.run(recipe(own), folder=folder, resume=True)
    assert files.read_json(folder / "run.json")["finished"] and again.recipe.train.steps == 2


def test_a_run_of_before_a_field_was_there_keeps_its_plan(finished, text: Path, tmp_path: Path) -> None:
    folder = as_earlier_versions(unfinished(finished, tmp_path / "small", "base", "model"))
    state = files.read_json(folder / "run.json")
    for field in ("related", "stages"):
        del state["recipe"]["data"][field]
    state["planned"]["marked"] = 1  # a plan that is made anew does not have it
    files.write_json(folder / "run.json", state)
    again = llmanac.run(recipe(text), folder=folder, resume=True)
    assert again.recipe == finished.recipe
    now = files.read_json(folder / "run.json")
    assert now["planned"]["marked"] == 1 and "recipe" not in now
    assert load_recipe(folder / "recipe.toml", now["patches"]).spec == load_recipe(recipe(text)).spec
    assert load_recipe(folder / "resolved.toml").spec == finished.recipe
    third = llmanac.run(recipe(text), folder=folder, resume=True)  # and from the files of this version
    assert third.recipe == finished.recipe


def test_stopped_while_it_builds_the_text_goes_on(text: Path, tmp_path: Path, monkeypatch) -> None:
    def stop(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(build._Build, "_finish", stop)
        with pytest.raises(KeyboardInterrupt):
            llmanac.run(recipe(text), {"train.steps": 2})
    assert (tmp_path / "runs/small/text/inputs.jsonl").is_file()
    done = llmanac.run(recipe(text), {"train.steps": 2}, resume=True)
    assert done.folder == Path("runs/small")
    lines = [json.loads(line) for path in done.folder.glob("text/data/*") for line in path.read_bytes().splitlines()]
    data = done.results["data"]
    assert len(lines) == data["train"]["documents"] + data["held_out"]["documents"]


def test_stopped_before_it_reads_says_to_start_again(tmp_path: Path, monkeypatch, capsys) -> None:
    def stop(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stages.Pipeline, "run", stop)
    with pytest.raises(SystemExit) as ended:
        run_command("quickstart", [], budget=None, folder=None, seed=None, resume=False, show=False)
    said = capsys.readouterr().out
    assert ended.value.code == 130 and "the same command starts again" in said and "--resume" not in said
    assert not (tmp_path / "runs" / "quickstart").exists()


def stopped_before_its_plan(asked: dict[str, object], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after the text was built and encoded."""

    def stop(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stages, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            llmanac.run(asked, folder=place)


@pytest.mark.slow
def test_a_run_whose_plan_never_began_may_be_mended(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe(text)
    del asked["train"]["steps"]
    place = tmp_path / "run"
    stopped_before_its_plan({**asked, "budget": "2s"}, place, monkeypatch)
    with pytest.raises(SpecError, match="tokenizer"):
        llmanac.run(asked, {"tokenizer.vocab_size": 300}, folder=place, resume=True)
    done = llmanac.run({**asked, "budget": "4s"}, {"model.norm": "layernorm"}, folder=place, resume=True)
    assert done.recipe.budget == "4s" and done.recipe.model.norm.name == "layernorm"
    with pytest.raises(SpecError, match="budget"):
        llmanac.run({**asked, "budget": "5s"}, {"model.norm": "layernorm"}, folder=place, resume=True)


@pytest.mark.slow
def test_a_mended_length_is_the_length_of_the_pairs(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"count {i}\n", "completion": "the cat sat on a mat and " * 6} for i in range(60)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    asked = recipe(text, finetune={"pairs": str(pairs), "steps": 2})
    del asked["train"]["steps"]
    asked["model"]["max_length"] = 256
    stopped_before_its_plan({**asked, "budget": "2s"}, tmp_path / "run", monkeypatch)
    asked["train"]["length"] = 256
    done = llmanac.run({**asked, "budget": "6s"}, folder=tmp_path / "run", resume=True)
    fresh = llmanac.run({**asked, "budget": "6s"}, folder=tmp_path / "fresh")
    written = [
        {p.relative_to(f.folder): p.read_bytes() for p in (f.folder / "data" / "pairs").rglob("*") if p.is_file()}
        for f in (done, fresh)
    ]
    assert written[0] and written[0] == written[1]


ODD = [
    ("baselines.json", {"gzip": None}, r"baselines\.json: gzip: expected a number, got None; delete the file"),
    ("baselines.json", {"xz": "2.5"}, r"baselines\.json: xz: expected a number, got '2.5'"),
    ("baselines.json", {"bigram": float("nan")}, r"baselines\.json: bigram: expected a number, got nan"),
    ("baselines.json", {"ngram-5": ...}, r"baselines\.json: ngram-5: is missing; delete the file"),
    ("manifest.json", {"train": 3}, r"manifest\.json: train\.sha256: is missing; restore the file"),
    ("manifest.json", {"held_out": {"sha256": 7}}, r"manifest\.json: held_out\.sha256: expected a text, got 7"),
    ("data/train/manifest.json", {"dtype": "<f8"}, r"train/manifest\.json: dtype: '<f8' is not one of <u2, <u4"),
    ("data/train/manifest.json", {"vocab_size": -5}, r"vocab_size: expected a whole number, got -5"),
    ("data/train/manifest.json", {"hash": ...}, r"train/manifest\.json: hash: is missing; write the data set again"),
    ("data/held_out/manifest.json", {"shards": {}}, r"held_out/manifest\.json: shards: expected a list, got \{\}"),
    ("data/train/manifest.json", {"shards": [4]}, r"manifest\.json: shards\.0\.tokens: is missing"),
    ("data/train/manifest.json", {"shards": [{"tokens": 1.5}]}, r"shards\.0\.tokens: expected a whole number, got 1.5"),
    (
        "data/train/manifest.json",
        {"shards": [{"tokens": 4, "tokens_file": "../run.json"}]},
        r"shards\.0\.tokens_file: '../run\.json' is no file of this folder",
    ),
]


@pytest.mark.parametrize(("name", "changes", "message"), ODD)
def test_odd_values_in_a_runs_own_files_are_named(name, changes, message, finished, tmp_path: Path) -> None:
    folder = unfinished(finished, tmp_path / "small")
    table = {**files.read_json(folder / name), **changes}
    (folder / name).write_text(json.dumps({key: value for key, value in table.items() if value is not ...}))
    with pytest.raises(DataError, match=message):
        llmanac.run(folder / "recipe.toml", folder=folder, resume=True, report=lambda line: None)
