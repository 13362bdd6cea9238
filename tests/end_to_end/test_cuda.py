"""Training, tuning, generating and serving on a GPU, each beside the same on the CPU; skipped by name elsewhere."""

from __future__ import annotations

import json
import random

import pytest
import torch
from _builds import text
from _runs import recipe
from _servers import ASK, running, tokenizer_with

from llmanac.core.spec import make, make_method
from llmanac.core.types import Batch
from llmanac.generate.engine import Engine
from llmanac.recipes.run import run
from llmanac.recipes.tune import TuneSpec, tune
from llmanac.train.metrics import read_metrics

pytestmark = [pytest.mark.cuda, pytest.mark.slow]
CHAT = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture
def device():
    """The GPU's name for torch."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return "cuda"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A small model in float32, with bytes as tokens and a template for chats."""
    folder, tokenizer = tmp_path_factory.mktemp("cuda") / "model", tokenizer_with(CHAT)
    fields = {"name": "transformer", "dim": 32, "layers": 2, "max_length": 256}
    make_method("lm", fields).build(vocab_size=tokenizer.vocab_size).initialise(0).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


def losses(folder):
    return [line["loss"] for line in read_metrics(folder) if "loss" in line]


@pytest.mark.parametrize("mixer", ["softmax", "mamba", "linear"])
def test_logits_and_gradients_in_float64_are_those_of_the_cpu(device, mixer):
    blocks = [{"name": "pre-norm", "mixer": mixer, "ffn": "gated"}]
    fields = {"name": "transformer", "dim": 32, "layers": 2, "max_length": 64, "blocks": blocks}
    found = []
    for place in ("cpu", device):
        model = make_method("lm", fields).build(vocab_size=50).initialise(0).double().to(place)
        ids = torch.randint(50, (3, 40), generator=torch.Generator().manual_seed(0)).to(place)
        logits = model(Batch(ids=ids)).logits
        logits.logsumexp(-1).sum().backward()
        gradients = [p.grad.cpu() for p in model.parameters() if p.grad is not None]
        found.append([logits.detach().cpu(), *gradients])
    assert len(found[0]) == len(found[1]) > 5
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() <= 1e-9 * max(1.0, float(a.abs().max()))


def test_a_recipe_trains_as_on_the_cpu(device, tmp_path):
    rng = random.Random(0)
    (tmp_path / "text").mkdir()
    for n in range(12):
        (tmp_path / "text" / f"{n}.txt").write_text("\n\n".join(f"{text(rng, 60)}." for _ in range(8)))
    for side, place in (("one", "cpu"), ("other", device)):
        run_as = recipe(tmp_path / "text", name=side, device=place, evaluate={"baselines": "none"})
        file = tmp_path / f"{side}.toml"
        file.write_text("\n".join(f"{key} = {toml(value)}" for key, value in run_as.items()))
        run(file, folder=tmp_path / side, report=lambda line: None)
    found, expected = (losses(tmp_path / side / "pretrain") for side in ("other", "one"))
    assert found == pytest.approx(expected, rel=1e-3) and len(found) == 12 and found[-1] < found[0]


def toml(value):
    """A value of a recipe as TOML writes it, tables inline."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


def test_an_adapter_is_tuned_as_on_the_cpu(device, model_folder, tmp_path):
    rows = [{"prompt": f"Count to {n}.", "completion": " ".join(map(str, range(n)))} for n in range(1, 31)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = {"dtype": "float32", "attention": "sdpa", "compile": "never", "steps": 6, "batch_tokens": 512}
    given = {"rows": {"file": str(tmp_path / "rows.jsonl"), "length": 128}, "adapter": "lora", "train": train}
    asked = make(TuneSpec, {"model": str(model_folder), **given})
    for side, place in (("one", "cpu"), ("other", device)):
        tune(asked, tmp_path / side, device=place, report=lambda line: None)
    found, expected = (losses(tmp_path / side / "training") for side in ("other", "one"))
    assert found == pytest.approx(expected, rel=1e-3) and len(found) == 6


def test_greedy_tokens_and_a_served_answer_are_those_of_the_cpu(device, model_folder):
    from llmanac.models.load import load_model
    from llmanac.tokenizers.load import load_tokenizer

    texts = []
    for place in ("cpu", device):
        engine = Engine(load_model(model_folder, dtype="float64", device=place), load_tokenizer(model_folder))
        [done] = engine.generate("the cat", max_new_tokens=24, temperature=0.0)
        with running(engine) as server:
            answer = server.client.chat.completions.create(model="tiny", messages=ASK, max_tokens=16, temperature=0)
        texts.append((done.text, answer.choices[0].message.content))
    assert texts[0] == texts[1] and texts[0][0] and texts[0][1]
