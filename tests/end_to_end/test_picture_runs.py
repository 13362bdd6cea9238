"""`llmanac run` for pictures, in few steps: every recipe, the user's folder, resuming, and what the models are for."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import llmanac
from llmanac.cli import app
from llmanac.core import spec
from llmanac.core.errors import DataError, LlmanacError, SpecError
from llmanac.core.rng import numpy_generator
from llmanac.core.run_folder import Recipe
from llmanac.data.pictures import scenes
from llmanac.data.pictures.folder import read_pictures
from llmanac.recipes import multimodal, multimodal_judge, multimodal_measures
from llmanac.recipes.multimodal import MultimodalRecipe
from llmanac.recipes.spec import read_recipe
from llmanac.train.loop import train

VISION = {"name": "vit", "image": 32, "patch": 16, "dim": 16, "layers": 1, "pool": "mean"}
TEXT = {"name": "transformer", "dim": 16, "layers": 1, "position": "learned"}
CLIP = {"model.vision": VISION, "model.text": TEXT, "model.dim": 8, "train.steps": 4, "rows": 4}
SMALL = {
    "clip": CLIP,
    "llava": {"model.text": TEXT, "train.steps": 2, "rows": 4, **{f"start.{k}": v for k, v in CLIP.items()}},
    "vilt": {"model.dim": 16, "model.layers": 1, "model.patch": 16, "train.steps": 2, "rows": 4},
    "vq-vae": {"model.base": 8, "model.codebook.codes": 8, "train.steps": 2, "rows": 4},
    "diffusion": {"model.dim": 16, "model.layers": 1, "model.patch": 16, "train.steps": 2, "rows": 4},
}  # fmt: skip
SMALL["flamingo"] = SMALL["llava"] | {"language.steps": 2, "model.latents": 2, "model.head_dim": 4}
SMALL["dalle"] = {
    "model.text": TEXT,
    "train.steps": 2,
    "rows": 4,
    **{f"start.{k}": v for k, v in SMALL["vq-vae"].items()},
}
QUIET = {"report": lambda line: None}


def asked_of(name, changes):
    return Recipe.made(MultimodalRecipe, read_recipe(name), changes).spec


@pytest.fixture(scope="module", autouse=True)
def few():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(multimodal_measures.Measure, "count", 8)
        patched.setattr(multimodal_measures, "STEPS", (1, 2))
        patched.setattr(multimodal_judge, "STEPS", 2)
        patched.setattr(multimodal, "LOOKS", 1)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve pictures of two captions, and a table of the same."""
    place = tmp_path_factory.mktemp("pictures")
    rows = ["image,text"]
    for number in range(12):
        scene = scenes.all_scenes()[7 * (number % 2)]
        Image.fromarray(scene.draw(numpy_generator(number))).resize((50, 40)).save(place / f"{number}.png")
        (place / f"{number}.txt").write_text(f"picture of {scene.caption}\n", "utf-8")
        rows.append(f"{number}.png,picture of {scene.caption}")
    (place.parent / "table").mkdir(exist_ok=True)
    return place, rows


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of a recipe, made once."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = llmanac.run(name, SMALL[name], folder=tmp_path_factory.mktemp("runs") / name, **QUIET)
        return made[name]

    return of


SLOW = (
    "flamingo",
    "vilt",
    "vq-vae",
    "dalle",
    "diffusion",
)  # what the other recipes do not have is tested by their references


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in SMALL])
def test_every_recipe_leaves_a_model_scores_and_a_report_with_pictures(name, runs):
    run = runs(name)
    results = json.loads((run.folder / "results.json").read_text())
    assert list(results["scores"]) == ["seen", "held out"] and all(results["scores"].values())
    page = (run.folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 8 and "Traceback" not in page
    assert results["stages"]["train"]["looks"] and run.load_model().parameter_count() > 0
    assert results["stages"]["train"]["cpu_seconds"] > 0
    assert list(json.loads((run.folder / "run.json").read_text())["seconds"])[-2:] == ["train", "measure"]
    judges = [str(path.relative_to(run.folder)) for path in run.folder.rglob(multimodal_judge.JUDGE)]
    own = {"vq-vae": ["judge"], "diffusion": ["judge"], "dalle": ["start/judge"]}  # one serves a run and its start
    assert judges == [f"{place}/{multimodal_judge.JUDGE}" for place in own.get(name, [])]
    assert llmanac.run(name, SMALL[name], folder=run.folder, resume=True).results == results


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(runs, tmp_path, monkeypatch):
    def stopping(model, source, *rest, **choices):
        draw = source.draw

        def once(generator, rows):
            if source.step == 3:
                raise KeyboardInterrupt
            return draw(generator, rows)

        source.draw = once
        return train(model, source, *rest, **choices)

    asked = asked_of("clip", {**SMALL["clip"], "train.checkpoint_every": 2})
    monkeypatch.setattr(multimodal, "train", stopping)
    with pytest.raises(KeyboardInterrupt):
        multimodal.run_multimodal(asked, tmp_path / "a", **QUIET)
    monkeypatch.setattr(multimodal, "train", train)
    with pytest.raises(LlmanacError, match="--resume goes on"):
        multimodal.run_multimodal(asked, tmp_path / "a", **QUIET)
    with pytest.raises(SpecError, match=r"rows \(was 4, now 6\)"):
        multimodal.run_multimodal(multimodal.spec.patch(asked, {"rows": 6}), tmp_path / "a", resume=True, **QUIET)
    again = multimodal.run_multimodal(asked, tmp_path / "a", resume=True, **QUIET).load_model()
    for name, value in runs("clip").load_model().state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)


def test_pictures_of_the_user_take_the_same_recipes(folder, tmp_path):
    place, rows = folder
    found = read_pictures([place], 16)
    assert [p.image.shape for p in found] == [(16, 16, 3)] * 12 and found[0].caption.startswith(
        "picture of a small red"
    )
    (place / "rows.csv").write_text("\n".join(rows), "utf-8")  # now the folder has a table
    try:
        assert sorted(p.caption for p in read_pictures([place / "rows.csv"], 16)) == sorted(p.caption for p in found)
    finally:
        (place / "rows.csv").unlink()
    run = llmanac.run("vilt", {**SMALL["vilt"], "data.paths": [str(place)]}, folder=tmp_path / "run", **QUIET)
    assert run.results["pictures"] == {"seen": 10, "held out": 2, "made here": False}
    assert run.results["unknown_words"]["seen"] == 0 and 0 <= run.results["unknown_words"]["held out"] < 1
    assert "Words of captions that the tokenizer does not know: seen 0.0%" in (run.folder / "report.html").read_text()
    (run.folder / "results.json").unlink()
    (place / "0.txt").write_text("another text", "utf-8")
    with pytest.raises(DataError, match="a resumed run keeps its pictures"):
        multimodal.run_multimodal(
            asked_of("vilt", {**SMALL["vilt"], "data.paths": [str(place)]}),
            run.folder,
            resume=True,
            **QUIET,
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diffusion", "dalle"])
def test_generators_of_the_users_pictures_have_no_judge(name, folder, tmp_path):
    changes = {**SMALL[name], "data.paths": [str(folder[0])]}
    run = llmanac.run(name, changes, folder=tmp_path / "run", **QUIET)
    assert run.results["judge"] is None
    assert {look["right"] for look in run.results["stages"]["train"]["looks"]} == {None}
    page = (run.folder / "report.html").read_text()
    assert "Over training" in page and not re.search(r">[^<]*\bnan\b[^<]*<", page)


def test_a_stopped_run_goes_on_without_its_changes_again(folder, tmp_path, monkeypatch):
    seeds = []

    def stopped(*_, seed, **__):
        seeds.append(seed)
        raise KeyboardInterrupt

    monkeypatch.setattr(multimodal, "train", stopped)
    place = str(tmp_path / "a run")
    paths = f'data.paths=["{folder[0]}"]'
    words = ["run", "clip", "--folder", place, "--seed", "3", "-s", paths]
    words += [w for k, v in spec.flatten(SMALL["clip"]).items() for w in ("-s", f"{k}={v}")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 130, done.output
    again = shlex.split(done.output.partition("Continue with: llmanac ")[2])
    assert again == ["run", "clip", "--folder", place, "--resume"]
    with pytest.raises(SpecError, match=r"rows \(was 4, now 6\)"):
        app([*again, "-s", "rows=6"], standalone_mode=False)
    with pytest.raises(SpecError, match=r"does not take that \(model\.vision: no such field"):
        app(["run", "vilt", *again[2:]], standalone_mode=False)
    assert CliRunner().invoke(app, again).exit_code == 130 and seeds == [3, 3]  # it came to the training again
    assert json.loads((tmp_path / "a run" / "tokenizer" / "pictures.json").read_text())["pictures"] == 12


def test_a_run_refused_for_its_pictures_leaves_the_folder_to_the_corrected_one(folder, tmp_path, monkeypatch):
    place, bad = tmp_path / "run", tmp_path / "bad"
    bad.mkdir()
    (bad / "a.png").write_bytes(b"no image")
    (bad / "a.txt").write_text("a")
    for name in ("clip", "llava"):  # llava trains its start in the same folder
        with pytest.raises(DataError, match=r"a\.png"):
            llmanac.run(name, {**SMALL[name], "data.paths": [str(bad)]}, folder=place, **QUIET)
        assert not place.exists()
    place.mkdir()
    with pytest.raises(SpecError, match="special_tokens"):
        llmanac.run("clip", {**SMALL["clip"], "tokenizer.special_tokens": ["<pad>"]}, folder=place, **QUIET)
    assert {path.name for path in place.iterdir()} <= {".lock"}
    (place / "recipe.toml").write_text("mine")
    with pytest.raises(LlmanacError, match="is there already"):
        llmanac.run("clip", {**SMALL["clip"], "data.paths": [str(bad)]}, folder=place, **QUIET)
    assert (place / "recipe.toml").read_text() == "mine"


def test_what_is_wrong_with_pictures_is_named(folder, tmp_path):
    with pytest.raises(DataError, match="nothing: no such file or folder"):
        read_pictures([tmp_path / "nothing"], 16)
    with pytest.raises(DataError, match="no pictures"):
        read_pictures([tmp_path], 16)
    image = tmp_path / "a.png"
    image.write_bytes((folder[0] / "0.png").read_bytes())
    with pytest.raises(DataError, match=r"a.png: has no a.txt next to it"):
        read_pictures([tmp_path], 16)
    image.with_suffix(".txt").write_text(" \n")
    with pytest.raises(DataError, match=r"a.png: the text of this picture is empty"):
        read_pictures([tmp_path], 16)
    (tmp_path / "t.jsonl").write_text('{"image": "b.png", "text": "b"}\n')
    with pytest.raises(DataError, match=r"b.png"):
        read_pictures([tmp_path], 16)
    (tmp_path / "t.jsonl").write_text('{"image": 3, "text": "b"}\n')
    with pytest.raises(DataError, match=r"t.jsonl:1: image is int"):
        read_pictures([tmp_path], 16)
    for changes, said in (
        ({"budget": "3m"}, "--budget: a recipe of pictures states its steps"),
        ({"model": "vit"}, "model: vit has no recipe"),
        ({"start": "x"}, "start: clip begins from nothing"),
        ({"data.held_out": 1.5}, "data.held_out: 1.5"),
    ):
        with pytest.raises(SpecError, match=said):
            llmanac.run("clip", changes, folder=tmp_path / "run")


def test_commands_caption_classify_and_draw(runs, folder, tmp_path):
    image = str(folder[0] / "0.png")

    def call(*words):
        return CliRunner().invoke(app, [str(w) for w in words])

    done = call("caption", runs("llava").folder, image, "--ask", "what color is it", "--json")
    assert [row["image"] for row in json.loads(done.output)] == [image], done.output
    done = call("classify-image", runs("clip").folder, image, "-l", "a small red circle in the top left", "-l",
                "a large blue ring in the top left", "--json")  # fmt: skip
    assert sum(json.loads(done.output)[0]["labels"].values()) == pytest.approx(1)
    for words, said in (
        (("caption", runs("clip").folder, image), "is a clip, which does not write about an image"),
        (("classify-image", runs("clip").folder, image, "-l", "a"), "--labels: give two or more"),
        (("caption", runs("llava").folder, image, "--ask", "a xyzzy"), "the model does not know: 'xyzzy'$"),
        (("classify-image", runs("clip").folder, image, "-l", "a zebra", "-l", "red"), "does not know: 'zebra'$"),
        (("caption", runs("llava").folder, tmp_path / "no.png"), "no.png"),
    ):  # fmt: skip
        with pytest.raises(LlmanacError, match=said):
            app([str(w) for w in words], standalone_mode=False)


@pytest.mark.slow
def test_commands_draw(runs, tmp_path):
    for name in ("dalle", "diffusion"):
        out = tmp_path / f"{name}.png"
        words = ["generate-image", runs(name).folder, "-p", "a small red circle in the top left", "-o", out, "-n", 2]
        words = [str(w) for w in words]
        assert CliRunner().invoke(app, words).exit_code == 0 and Image.open(out).size == (256, 128)
        with pytest.raises(SpecError, match="is there already"):
            app(words, standalone_mode=False)
    with pytest.raises(SpecError, match="--steps: is for diffusion"):
        app(["generate-image", str(runs("dalle").folder), "-p", "a", "--steps", "3", "-o", "x"], standalone_mode=False)


@pytest.mark.slow
def test_kernel_distance_equals_torchmetrics():
    from torchmetrics.image.kid import poly_mmd

    a, b = (torch.randn(n, 6, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (40, 40))
    b = b * 1.3 + 0.9
    assert multimodal_judge.kernel_distance(a, b) == pytest.approx(float(poly_mmd(a, b)), rel=1e-9)
    assert multimodal_judge.kernel_distance(a, b) > 0.01
