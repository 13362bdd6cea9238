"""`llmanac compare multimodal`: architectures of images on the same questions."""

from __future__ import annotations

import pytest
import torch
from _seeing_models import TEXT, VISION
from typer.testing import CliRunner

from llmanac.cli import app
from llmanac.core.errors import SpecError
from llmanac.core.rng import numpy_generator
from llmanac.data.pictures import scenes
from llmanac.lab.arms import parse_arm
from llmanac.lab.compare import compare
from llmanac.lab.trials import picturing
from llmanac.lab.trials.picturing import (
    answers,
    begin,
    flops_of,
    picture_base,
    recipe_of,
    scene_material,
    stages,
    steps_of,
)
from llmanac.recipes import multimodal_data as data

BASE = {
    "vision": {**VISION, "dim": 16}, "text": {**TEXT, "dim": 16, "layers": 1, "position": "learned"}, "rows": 4,
    "questions": 6, "train": {"steps": 10, "dtype": "float32", "attention": "sdpa", "compile": "never"},
}  # fmt: skip
QUIET = {"report": lambda line: None}


def recipe(text, steps=100, **changes):
    return recipe_of(picture_base(BASE, changes), parse_arm(text), steps)


@pytest.mark.slow
def test_a_study_pairs_arms_on_the_same_pictures(tmp_path):
    done = compare(
        "multimodal", "clip,llava", base=BASE, seeds=1, budget="2m", folder=tmp_path / "s", min_steps=1, **QUIET
    )
    assert set(done.values("right")) == {"clip", "llava"} and all(0 <= v[0] <= 1 for v in done.values("right").values())
    found = done.data
    assert {c["tokens"] for c in found["costs"].values()} == {40.0}  # pictures, those of llava's encoder too
    assert found["pairing"]["checked"] and found["pairing"]["seeds"]["0"]["rows_equal"]
    assert found["pairing"]["seeds"]["0"]["shared_tensors"] > 4
    assert "4 its image encoder as a clip, 6 itself" in " ".join(found["notes"])
    assert "compare multimodal" in found["command"] or "compare(" in found["command"]
    again = compare(
        "multimodal", "clip,llava", base=BASE, seeds=1, budget="2m", folder=tmp_path / "s", min_steps=1, **QUIET
    )
    assert again.values("right") == done.values("right") and all(run["cached"] for run in again.data["runs"])
    assert (tmp_path / "s" / "study.html").is_file()


def test_arms_divide_their_steps_among_their_stages():
    found = {
        name: {k: plan.steps for k, plan in stages(recipe(name)).items()} for name in ("clip", "llava", "flamingo")
    }
    assert found == {"clip": {"train": 100}, "llava": {"start": 40, "train": 60},
                     "flamingo": {"start": 40, "language": 10, "train": 50}}  # fmt: skip
    assert steps_of(recipe("flamingo")) == steps_of(recipe("vilt")) == steps_of(recipe("co-attention"))
    assert recipe("llava{encoder='trained'}").model.encoder == "trained"


@pytest.mark.slow
def test_flops_count_what_is_computed():
    """A frozen encoder has no backward pass; twice the rows are twice the work."""
    frozen, trained = flops_of(recipe("llava")), flops_of(recipe("llava{encoder='trained'}"))
    assert 1.02 < trained / frozen < 2
    assert flops_of(recipe("vilt", rows=8)) == pytest.approx(2 * flops_of(recipe("vilt")), rel=0.01)


class Knows(torch.nn.Module):
    """Gives each answer the score that the image's own scene asks for."""

    device = torch.device("cpu")

    def __init__(self, spec, items, questions):
        super().__init__()
        self.spec, self.items, self.questions, self.wrong = spec, items, questions, ()

    def forward(self, ids, pixels, lengths):
        text = self.questions[tuple(ids[0].tolist())]
        scores = torch.zeros(len(ids), len(data.ANSWERS))
        scores[:, data.ANSWERS.index("ring")] = 1.0  # fits one question alone
        for row, item in enumerate(self.items):
            answer = getattr(item, text)
            scores[row, data.ANSWERS.index(answer)] += 0.0 if text in self.wrong else 0.5
        return scores


def test_answers_are_counted_by_question():
    material = scene_material()
    spec = recipe("vilt").model
    items = material.some(12, "seen")
    asked = {tuple(material.captions([text])[0].tolist()): field for field, text in scenes.QUESTIONS.items()}
    model = Knows(spec, items, asked)
    found = answers(model, material, "seen", 0, 12)
    assert found["size"] == found["color"] == found["position"] == 1.0
    assert found["shape"] == sum(item.shape == "ring" for item in items) / len(items)
    model.wrong = ("color",)
    assert answers(model, material, "seen", 0, 12)["color"] < 0.5


@pytest.mark.parametrize("name", ["clip", "co-attention", "llava", "flamingo"])
def test_every_architecture_answers_in_its_own_way(name):
    """Choices as they are computed by hand for one image."""
    material = scene_material()
    spec = data.fitted(recipe(name).model, material)
    model = begin(spec, material, 1).eval()
    how = {"clip": picturing._nearest, "co-attention": picturing._scored}.get(name, picturing._likely)
    pixels = material.pixels(material.some(3, "seen"), numpy_generator(0))
    choices = picturing.CHOICES["color"]
    with torch.no_grad():
        chosen = how(model, material, pixels, "color", choices)
        alone = torch.cat([how(model, material, pixels[i : i + 1], "color", choices) for i in range(3)])
        assert chosen.tolist() == alone.tolist() and chosen.shape == (3,)
        if name in ("llava", "flamingo"):
            from llmanac.core.types import LAST

            draw = data.Draw(material, spec)
            prompt = draw.prompt(scenes.QUESTIONS["color"])
            images = spec.image_tokens if name == "llava" else 0
            ids = torch.tensor([prompt[:1] * images + prompt[bool(images) :]] * 3)
            logits = model(ids, pixels, want=LAST).logits[:, -1].log_softmax(-1)
            first = [material.tokenizer.encode(choice)[0] for choice in choices]
            assert chosen.tolist() == logits[:, first].argmax(1).tolist()  # a word each: the end costs them the same


def test_what_cannot_be_compared(tmp_path):
    for arms, said in (("clip,dall-e", "answers no questions"), ("clip,vilta", "vilt"), ("clip,llava{x=1}", "x")):
        with pytest.raises(SpecError, match=said):
            compare("multimodal", arms, base=BASE, folder=tmp_path / "s", **QUIET)
    for given, said in (
        ({"hold": "time"}, "flops"),
        ({"tune": "lr=3"}, "--tune"),
        ({"judge": "x"}, "--judge"),
        ({"budget": "1s", "seeds": 3}, "budget"),
    ):
        with pytest.raises(SpecError, match=said):
            compare("multimodal", "clip,vilt", base=BASE, folder=tmp_path / "s", **{**QUIET, **given})
    with pytest.raises(SpecError, match="questions"):
        picture_base({"questions": 0}, {})
    done = CliRunner().invoke(app, ["compare", "multimodal", "--arms", "clip,vilt", "-s", "model.dim=3"])
    assert done.exit_code
