"""The needle grid: lengths in the model's own tokens, depths, scores beside lm-eval's RULER; rope scaling at load."""

from __future__ import annotations

import json
import re
import types

import pytest
import torch
from _small_models import randomise, tokens, transformer
from lm_eval.tasks.ruler.common_utils import string_match_all
from transformers import LlamaConfig, LlamaForCausalLM

from llmanac.cli import main
from llmanac.core.errors import RequestError, SpecError
from llmanac.core.types import Batch
from llmanac.evaluate.needles import TASKS, grid, make_prompt, score
from llmanac.generate.engine import Engine
from llmanac.models.load import export_model, load_model
from llmanac.models.scaling import stretched
from llmanac.tokenizers.load import train_tokenizer

TOKENIZER = train_tokenizer("utf8", [])
SENTENCE = len("There and back again. ")


class Reader:
    """Stands in for an engine: a model that reads the last `window` tokens and finds every needle there."""

    tokenizer = TOKENIZER

    def __init__(self, window, limit=4096):
        self.window, self.model = window, types.SimpleNamespace(max_length=limit)

    def generate(self, prompts, **options):
        whole = TOKENIZER.decode(prompts[0])
        keys = re.findall(r"numbers? for ([^?.:]+) mentioned", whole)[0].split(", ")
        seen = TOKENIZER.decode(prompts[0][-self.window :])
        found = [n for key in keys for n in re.findall(rf"numbers for {key} is: (\d+)\.", seen)]
        return [types.SimpleNamespace(text=", ".join(found))]


@pytest.mark.parametrize("task", TASKS)
def test_prompts_have_the_length_and_the_needle_its_depth(task):
    for length in (1500, 2048):
        places = []
        for depth in (0.0, 0.5, 1.0):
            prompt = make_prompt(TOKENIZER, task, length, depth, seed=3)
            assert length - SENTENCE <= len(prompt.ids) + prompt.most <= length
            text = TOKENIZER.decode(prompt.ids)
            first = text.index(f"{prompt.keys[0]} is: {prompt.wanted[0]}.") if task != "multi-value" else None
            assert all(text.count(f"is: {number}.") == 1 for number in prompt.wanted)
            places.append(first)
        assert places == sorted(places) if None not in places else True
    assert make_prompt(TOKENIZER, task, 1500, 0.5, 0) == make_prompt(TOKENIZER, task, 1500, 0.5, 0)
    assert make_prompt(TOKENIZER, task, 1500, 0.5, 0) != make_prompt(TOKENIZER, task, 1500, 0.5, 1)
    made = [make_prompt(TOKENIZER, task, n, d, s) for n in (1500, 1600) for d in (0, 0.5) for s in (0, 1)]
    assert len({prompt.wanted for prompt in made}) == len(made)  # no two cells or samples share numbers


def test_a_reader_finds_all_and_a_window_only_what_it_holds():
    for task in TASKS:
        cells = grid(Reader(10_000), tasks=[task], lengths=[1800], depths=[0.0, 1.0], samples=2)
        assert [(cell.recall, cell.exact) for cell in cells] == [(1.0, 1.0)] * 2
    short = grid(Reader(900), lengths=[1800], depths=[0.0, 0.25, 0.75, 1.0], samples=1)
    assert [cell.recall for cell in short] == [0.0, 0.0, 1.0, 1.0]
    with pytest.raises(RequestError, match="more than the 4096"):
        grid(Reader(10), lengths=[5000])


def test_scores_beside_lm_eval():
    for answer, wanted in (
        ("1234567 and 7654321.", ["1234567", "7654321"]), ("1234567", ["1234567", "7654321"]), ("none", ["1234567"])
    ):  # fmt: skip
        assert score(answer, wanted)[0] == string_match_all([answer], [wanted])
    assert score("1,234,567", ["1234567"]) == (1.0, 1.0)
    assert score("91234567", ["1234567"]) == (0.0, 0.0)  # no number of its own; lm-eval's substring would count it
    assert score("1234567 or 1111111", ["1234567"]) == (1.0, 0.0)


def test_what_cannot_be_asked_and_the_map():
    for choices, message in ((("double", 900, 0.5), "--task"), (("single", 900, 2.0), "--depths")):
        with pytest.raises(SpecError, match=message):
            make_prompt(TOKENIZER, *choices, 0)
    with pytest.raises(RequestError, match="no room"):
        make_prompt(TOKENIZER, "multi-key", 100, 0.5, 0)


@pytest.fixture
def folder(tmp_path):
    config = LlamaConfig(
        vocab_size=TOKENIZER.vocab_size, hidden_size=32, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    randomise(LlamaForCausalLM(config)).double().save_pretrained(tmp_path / "m")
    TOKENIZER.save(tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
def test_rope_scaled_at_load_equals_transformers(folder, kind):
    ours = load_model(folder, dtype="float64", rope=f"{kind}:4")
    assert ours.max_length == 128
    config = LlamaConfig.from_pretrained(folder)
    config.rope_parameters = {
        "rope_type": kind, "factor": 4.0, "rope_theta": 10_000.0, "original_max_position_embeddings": 32
    }  # fmt: skip
    config.max_position_embeddings = 32 if kind == "dynamic" else 128
    config._attn_implementation = "eager"
    theirs = LlamaForCausalLM.from_pretrained(folder, config=config, dtype=torch.float64).eval()
    ids = tokens(2, 90, below=TOKENIZER.vocab_size)
    with torch.no_grad():
        found, expected = ours(Batch(ids=ids)).logits, theirs(ids).logits
        plain = load_model(folder, dtype="float64")(Batch(ids=ids[:, :32])).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert kind == "dynamic" or (found[:, :32] - plain).abs().max() > 1e-3


def test_training_on_at_a_longer_length_equals_transformers(folder):
    """Steps of full training on rows longer than the trained length, under scaled positions."""
    ours = load_model(folder, dtype="float64", rope="linear:4").train()
    config = LlamaConfig.from_pretrained(folder)
    config.rope_parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}
    config.max_position_embeddings, config._attn_implementation = 128, "eager"
    theirs = LlamaForCausalLM.from_pretrained(folder, config=config, dtype=torch.float64).train()
    ids = tokens(2, 100, below=TOKENIZER.vocab_size)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-3) for model in (ours, theirs)]
    losses = []
    for _ in range(3):
        logits = ours(Batch(ids=ids[:, :-1])).logits
        own = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        pair = (own, theirs(ids, labels=ids).loss)
        losses.append([float(loss.detach()) for loss in pair])
        for optimizer, loss in zip(optimizers, pair, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses[2][0] < losses[1][0] < losses[0][0]
    for one, other in losses:
        assert one == pytest.approx(other, abs=1e-5)
    found, expected = ours.model.embed_tokens.weight.grad, theirs.model.embed_tokens.weight.grad
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_rope_that_cannot_be_scaled_is_refused(folder):
    for asked, message in (
        ("yarn", "no factor"),
        ("best:2", "TYPE:FACTOR"),
        ("yarn:x", "no factor"),
        ("yarn:0.5", "factor"),
    ):
        with pytest.raises(SpecError, match=message):
            load_model(folder, rope=asked)
    model = load_model(folder, rope="yarn:2")
    with pytest.raises(SpecError, match="of its own"):
        stretched(model.spec, "yarn:2")
    with pytest.raises(SpecError, match="no rotary"):
        stretched(transformer(position="learned").spec, "yarn:2")
    export_model(model, folder.parent / "again")
    assert load_model(folder.parent / "again").spec.position.scaling == model.spec.position.scaling


def test_command_draws_the_grid(folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as done:
        main(["context", str(folder), "--rope", "linear:24", "--lengths", "500,700", "--depths", "0,1", "--samples",
              "1", "-o", str(tmp_path / "grid")])  # fmt: skip
    assert done.value.code == 0 and "recall / exact match" in capsys.readouterr().out
    found = json.loads((tmp_path / "grid" / "results.json").read_text())
    assert len(found["cells"]) == 4 and (tmp_path / "grid" / "single.svg").read_text().startswith("<svg ")
    (tmp_path / "grid" / "notes.txt").write_text("mine")
    for place, what in ((tmp_path / "grid", "notes.txt"), (folder, "which this command reads")):
        with pytest.raises(SystemExit) as done:
            main(["context", str(folder), "--lengths", "500", "-o", str(place), "--force"])
        assert done.value.code == 2 and what in capsys.readouterr().err.replace("\n", " ")
    assert (tmp_path / "grid" / "notes.txt").read_text() == "mine"
    with pytest.raises(SystemExit) as done:
        main(["context", str(folder), "--lengths", "500"])
    assert done.value.code == 2 and "32 tokens" in capsys.readouterr().err


@pytest.mark.slow  # it compiles
def test_native_and_torch_read_the_same_scaled_positions(folder):
    ids = tokens(1, 60, below=TOKENIZER.vocab_size)[0].tolist()
    model = load_model(folder, rope="linear:4")
    first, second = (
        Engine(model, TOKENIZER, runner=runner).generate([ids], max_new_tokens=8)[0].ids
        for runner in ("torch", "native")
    )
    assert first == second
