"""`llmanac run` on the user's own text: small, whole, interrupted and resumed, and every error it promises."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from _runs import command, recipe

import llmanac
from llmanac.core import files
from llmanac.core.errors import DataError, LlmanacError, SpecError
from llmanac.core.lock import locked
from llmanac.core.ranges import seconds
from llmanac.core.run_folder import latest_place
from llmanac.recipes import stages
from llmanac.recipes.measures import some_texts
from llmanac.recipes.spec import load_recipe, plans_size
from llmanac.train.plan import TrainingPlan

STATE = {"recipe": {}, "stated": [], "planned": {}, "seconds": {}}


def test_a_run_leaves_every_file_it_promises(finished) -> None:
    names = {p.name for p in finished.folder.iterdir()}
    expected = (
        "recipe.toml resolved.toml run.json manifest.json tokenizer data base model pretrain results.json report.html"
    )
    assert set(expected.split()) <= names
    assert not [p for p in finished.folder.rglob("*") if p.name.startswith(files.TEMPORARY)]
    results = files.read_json(finished.folder / "results.json")
    assert results["pretrain"]["steps"] == 12
    assert set(results["bits_per_byte"]) >= {"this model", "gzip -9", "byte bigram", "order-5 byte n-gram (Kneser-Ney)"}
    report = (finished.folder / "report.html").read_text("utf-8")
    assert f"{results['bits_per_byte']['this model']:.3f}" in report
    assert "<svg" in report


def test_the_resolved_recipe_states_everything_and_gives_the_same_run(finished, text: Path, tmp_path: Path) -> None:
    resolved = load_recipe(finished.folder / "resolved.toml")
    assert resolved.spec == finished.recipe
    assert resolved.states("train.steps") and resolved.states("model.dim")
    assert "auto" not in (resolved.spec.train.dtype, resolved.spec.train.attention, resolved.spec.train.compile)
    again = llmanac.run(finished.folder / "resolved.toml", folder=tmp_path / "again")
    first = (finished.folder / "base" / "model.safetensors").read_bytes()
    assert (again.folder / "base" / "model.safetensors").read_bytes() == first


def test_the_model_continues_text(finished) -> None:
    engine = llmanac.Engine(finished.load_model(), finished.load_tokenizer())
    (one,) = engine.generate("the cat", max_new_tokens=5)
    assert len(one.ids) <= 5 and one.finish_reason in ("stop", "length")


def test_transformers_loads_what_we_trained(finished) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(finished.folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(finished.folder / "model")
    ours = finished.load_model()
    ids = torch.tensor([finished.load_tokenizer().encode("seven small dogs")])
    assert tokenizer.encode("seven small dogs", add_special_tokens=False) == ids[0].tolist()
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-4, rtol=1e-4)


def test_size_and_steps_are_planned_from_the_budget_unless_stated(text: Path, tmp_path: Path) -> None:
    open_recipe = recipe(text, budget="2s")
    open_recipe["model"] = {"name": "transformer"}
    open_recipe["train"] = {"length": 64, "batch_tokens": 256}
    done = llmanac.run(open_recipe, folder=tmp_path / "planned")
    assert done.recipe.train.steps and done.recipe.train.steps > 1
    assert done.results["pretrain"]["tokens"] == done.recipe.train.steps * 256
    stated = llmanac.run(open_recipe, ["model.dim=48", "model.layers=2", "train.steps=3"], folder=tmp_path / "stated")
    assert (stated.recipe.model.dim, stated.recipe.model.layers, stated.recipe.train.steps) == (48, 2, 3)


@pytest.mark.parametrize("folder", [None, "mine"])
def test_a_run_without_text_leaves_no_folder(folder: str | None, text: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with pytest.raises(DataError, match="nowhere"):
            llmanac.run(recipe(tmp_path / "nowhere"), folder=folder)
        assert not (tmp_path / (folder or "runs/small")).exists()


def test_what_was_left_out_is_listed_with_its_reason(text: Path, tmp_path: Path, capsys) -> None:
    own = tmp_path / "text"
    shutil.copytree(text, own)
    page = next(iter(sorted(own.iterdir())))
    (own / "copy.txt").write_text(page.read_text())
    (own / "long.txt").write_text(f"{page.read_text()} and the end")
    asked = recipe(own)
    asked["data"]["stages"] = ["clean", "exact", {"name": "minhash", "threshold": 0.7}]
    done = llmanac.run(asked, {"train.steps": 2}, folder=tmp_path / "run")
    assert "what was left out, and why" in capsys.readouterr().out
    dropped = done.results["data"]["dropped"]
    assert dropped["duplicates"] == 1 and dropped["near-duplicate"] == 1
    lists = {path.stem: path.read_text() for path in (done.folder / "text" / "dropped").glob("*.jsonl")}
    assert page.name in lists["02-exact"] and "long.txt" in lists["03-minhash"]


def test_a_context_too_short_is_refused_before_anything_is_trained(text: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"model\.max_length: 8 is below train\.length 64"):
        llmanac.run(recipe(text), {"model.max_length": 8}, folder=tmp_path / "a")
    short = {"model.max_length": 8, "train.length": 8, "train.batch_tokens": 64, "train.steps": 2}
    done = llmanac.run(recipe(text), short, folder=tmp_path / "b")  # its samples fit the context, too
    assert done.results["completions"]
    assert not any("chat" in line for line in done.results["next"]), "nothing was taught to chat"


@pytest.mark.parametrize("state", ["[1]", "{}", "{", '{"recipe": 1}'])
def test_a_damaged_state_is_named(state: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(state)
    with pytest.raises(DataError, match=r"run\.json"):
        llmanac.run("quickstart", folder=tmp_path, resume=True)
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        load_recipe(str(tmp_path))


def test_a_runs_folder_is_a_model_and_a_tokenizer(finished) -> None:
    tokenizer, model = llmanac.load_tokenizer(finished.folder), llmanac.load_model(finished.folder, device="cpu")
    assert tokenizer.vocab_size == finished.load_tokenizer().vocab_size
    assert model.parameter_count() == finished.load_model().parameter_count()


def test_the_newest_run_is_the_one_of_the_highest_number(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, done in ((1, True), (2, False), (10, False), (9, True), (11, True)):
        place = tmp_path / "runs" / ("small" if number == 1 else f"small-{number}")
        place.mkdir(parents=True)
        files.write_json(place / "run.json", {**STATE, "finished": done})
    assert latest_place("small") == Path("runs/small-10")
    for number in (2, 10):
        files.write_json(tmp_path / "runs" / f"small-{number}" / "run.json", {**STATE, "finished": True})
    assert latest_place("small") == Path("runs/small-11")
    assert latest_place("other") == Path("runs/other")


def test_one_process_a_folder(finished, text: Path) -> None:
    with (
        locked(finished.folder / ".lock"),
        pytest.raises(LlmanacError, match="another process is running in this folder"),
    ):
        llmanac.run(recipe(text), folder=finished.folder, resume=True)


def test_fine_tuning_on_pairs_from_a_file(text: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"count {i % 5}\n", "completion": f"{i % 5} cats"} for i in range(60)]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    tuned = recipe(text, finetune={"pairs": str(pairs), "steps": 40, "language_share": 0.2})
    done = llmanac.run(tuned, folder=tmp_path / "tuned")
    loss = done.results["pairs"]
    assert loss["loss_after"] < loss["loss_before"]
    base, model = (done.folder / n / "model.safetensors" for n in ("base", "model"))
    assert base.read_bytes() != model.read_bytes()
    assert not any("chat" in line for line in done.results["next"])  # pairs of plain text teach no chat template
    assert llmanac.load_tokenizer(done.folder / "model").chat_template is None
    pairs.write_text('{"asked": "a", "answer": "b"}\n' * 3, "utf-8")
    with pytest.raises(DataError, match=r"pairs\.jsonl:1: needs `messages`, `prompt` and `completion`, or `text`"):
        llmanac.run(tuned, folder=tmp_path / "wrong")


def test_the_recipe_is_written_as_it_is_planned_and_ends_with_nothing_open(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"count {i % 5}\n", "completion": f"{i % 5} cats"} for i in range(60)]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    asked = recipe(text, budget="10s", finetune={"pairs": str(pairs)})
    asked["train"] = {**asked["train"], "steps": 4}
    folder = tmp_path / "tuned"
    seen: dict[str, dict[str, Any]] = {}
    train = stages.train

    def stopping(*given: Any, label: str, **options: Any) -> Any:
        seen[label] = files.read_toml(folder / "resolved.toml")
        if label == "fine-tune" and len(seen) == 2 and not stopped:
            stopped.append(files.read_json(folder / "run.json")["planned"]["finetune_steps"])
            raise KeyboardInterrupt
        return train(*given, label=label, **options)

    stopped: list[int] = []
    monkeypatch.setattr(stages, "train", stopping)
    with pytest.raises(KeyboardInterrupt):
        llmanac.run(asked, folder=folder)
    assert seen["pretrain"]["model"]["dim"] == 32  # before the first step
    assert seen["fine-tune"]["finetune"]["steps"] == stopped[0]
    state = files.read_json(folder / "run.json")  # as if the machine had been ten times as slow
    state["planned"]["pretrain"]["seconds"] *= 10
    files.write_json(folder / "run.json", state)
    done = llmanac.run(asked, folder=folder, resume=True)
    assert done.results["finetune"]["steps"] == done.recipe.finetune.steps
    assert (
        TrainingPlan.read(folder / "finetune").first_steps == stopped[0]
    )  # planned once; later it may have been revised
    resolved = load_recipe(folder / "resolved.toml")
    assert resolved.spec == done.recipe and resolved.states("finetune.steps")


def test_errors_say_what_to_do(text: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="did you mean 'quickstart'"):
        load_recipe("quickstrat")
    with pytest.raises(SpecError, match=r"train\.stepz: no such field; did you mean 'steps'"):
        load_recipe(recipe(text), {"train.stepz": 3})
    with pytest.raises(SpecError, match=r"budget: 'soon' is not a time; write 90s"):
        load_recipe(recipe(text, budget="soon"))
    with pytest.raises(SpecError, match="data"):
        load_recipe({"name": "x"})
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="empty"):
        llmanac.run(recipe(empty), folder=tmp_path / "a")
    with pytest.raises(LlmanacError, match=r"vocab_size.*256"):
        llmanac.run(recipe(text), ["tokenizer.vocab_size=100"], folder=tmp_path / "b")
    (empty / "latin.txt").write_bytes("caf\u00e9 ".encode("latin-1") * 50)
    with pytest.raises(DataError, match=r"latin\.txt: not UTF-8 at byte 3"):
        llmanac.run(recipe(empty), folder=tmp_path / "c")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("keep")
    with pytest.raises(LlmanacError, match="give another --folder"):
        llmanac.run(recipe(text), folder=taken)
    assert (taken / "mine.txt").read_text() == "keep"
    with pytest.raises(LlmanacError, match="no run to resume"):
        llmanac.run(recipe(text), folder=tmp_path / "nothing", resume=True)


def test_show_prints_a_recipe_that_reads_back(text: Path, tmp_path: Path) -> None:
    done = command("run", "quickstart", "--show", "-s", "train.steps=7", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = tmp_path / "shown.toml"
    shown.write_text(done.stdout, "utf-8")
    assert load_recipe(shown).spec == load_recipe("quickstart", {"train.steps": 7}).spec
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("patches", "planned"),
    [
        ({}, "model.dim, model.layers, model.blocks.0.mixer.heads, model.max_length, train.steps, finetune.steps"),
        ({"model.dim": 64, "model.max_length": 512, "train.steps": 7}, "finetune.steps"),
        ({"model.blocks.*.mixer.heads": 2, "train.steps": 7}, "model.dim, model.layers, model.max_length, fine"),
        ({"model": {"name": "transformer", "dim": 64}}, "model.max_length, train.steps"),
    ],
)
def test_what_is_shown_leaves_the_same_to_the_planner(patches: dict[str, Any], planned: str, tmp_path: Path) -> None:
    original = load_recipe("quickstart", patches)
    path = tmp_path / "shown.toml"
    path.write_text(original.text(), "utf-8")
    assert f"# Planned from the budget before the first step: {planned}" in path.read_text("utf-8")
    again = load_recipe(path)
    assert again.spec == original.spec
    for field in ("model.dim", "model.max_length"):
        assert again.states(field) == original.states(field)
    assert plans_size(again) == plans_size(original)


def test_times() -> None:
    assert [seconds(t) for t in ("90s", "5m", "2h", "45", "1.5m")] == [90, 300, 7200, 45, 90]


def test_one_long_document_is_enough(tmp_path: Path) -> None:
    """Held-out text that is longer than what is scored is scored at its beginning."""
    source = tmp_path / "text"
    source.mkdir()
    for name in "abc":
        (source / f"{name}.txt").write_text(f"{name}: the quick brown fox jumps over the lazy dog.\n" * 4000)
    changes = {"evaluate": {"held_out_bytes": 20_000}}
    done = llmanac.run(recipe(source, **changes), folder=tmp_path / "run")
    assert done.results["bits_per_byte"]["this model"] > 0


def test_some_texts_are_whole_ones_or_the_beginning_of_one() -> None:
    assert some_texts(["abc", "defgh", "ij"], 5) == ["abc", "ij"]
    assert some_texts(["äöü", "xyzxyz"], 3) == ["ä"] and some_texts([], 3) == []


@pytest.mark.parametrize("folder", [None, "mine"])
@pytest.mark.parametrize("there", [False, True])
def test_a_refused_run_leaves_a_folder_to_the_next(folder, there, text: Path, tmp_path: Path, monkeypatch) -> None:
    """What is refused after the text was built, too: here pairs that cannot be read, and rows without a place."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / (folder or "runs/small")
    if there:
        place.mkdir(parents=True)
    for wrong in ({"finetune": {"pairs": "nowhere.jsonl"}}, {"train": {"batch_tokens": 10**9, "length": 10**8}}):
        with pytest.raises(LlmanacError):
            llmanac.run(recipe(text, **wrong), folder=folder)
        assert place.is_dir() is there
    done = llmanac.run(recipe(text), {"train.steps": 1}, folder=folder)
    assert done.folder.resolve() == place and (place / "model").is_dir()
