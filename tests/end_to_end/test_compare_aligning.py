"""`llmanac compare objective --artefact MODEL --data ROWS`: ways to align one model, by preferences or by a reward."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from llmanac.core.errors import DataError, SpecError
from llmanac.core.spec import make_method
from llmanac.lab.compare import StudyResult, compare
from llmanac.models.gguf.write import export_gguf
from llmanac.tokenizers.load import load_tokenizer, train_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
PREFERENCES, REWARDS = "dpo,ipo,kto,simpo,orpo", "grpo,rloo,ppo"
SETTINGS = {
    "train.dtype": "float32", "train.attention": "sdpa", "train.compile": "never", "train.batch_tokens": 256,
    "train.optimizer.lr": 0.02, "rows.epochs": 4.0, "train.checkpoint_every": 1000,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random llama, 40 preferences for answers with the letter a, and a reward of it."""
    folder, draw = tmp_path_factory.mktemp("aligning"), random.Random(0)
    tokenizer = train_tokenizer("bpe", ["say what a b "], vocab_size=262, special_tokens=["<|endoftext|>"])
    shape = {"name": "transformer", "dim": 16, "layers": 1, "max_length": 64, "position": "rope", "norm": "rmsnorm"}
    model = make_method("lm", shape).build(vocab_size=tokenizer.vocab_size).initialise(0)
    model.generation = {"eos_token_id": tokenizer.eos_id}
    model.save_pretrained(folder / "model")
    tokenizer.save(folder / "model")
    prompts = [f"say {draw.randrange(99)}" for _ in range(40)]
    pairs = [{"prompt": p, "chosen": " a" * draw.randint(1, 3), "rejected": " b" * draw.randint(1, 3)} for p in prompts]
    for name, rows in (("pairs", pairs), ("prompts", [{"prompt": p} for p in prompts])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rewards.py").write_text("def letters(text, row):\n    return text.count('a') / 8\n")
    return folder


def ask(place: Path, arms: str, folder: Path, *, data: str = "pairs", **options: Any) -> StudyResult:
    patches = SETTINGS | options.pop("patches", {})
    given = {"artefact": place / "model", "data": place / f"{data}.jsonl", "budget": 600, "seeds": 2, **options}
    return compare("objective", arms, patches=patches, folder=folder, report=lambda line: None, **given)


def rewarded(place: Path, arms: str, folder: Path, **options: Any) -> StudyResult:
    reward = {"name": "function", "file": f"{place / 'rewards.py'}:letters"}
    few = {"sampling.prompts": 4, "sampling.samples": 4, "sampling.tokens": 6, "train.steps": 6}
    patches = few | options.pop("patches", {})
    return ask(place, arms, folder, data="prompts", **{"reward": reward, "patches": patches, **options})


def test_a_quantized_model_is_aligned(place: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(place / "model")
    shape = {"name": "transformer", "dim": 32, "layers": 1, "max_length": 64, "position": "rope", "norm": "rmsnorm"}
    model = make_method("lm", shape).build(vocab_size=tokenizer.vocab_size).initialise(0)
    model.generation = {"eos_token_id": tokenizer.eos_id}
    file = export_gguf(model, tokenizer, tmp_path / "model.gguf", "q8_0")
    found = ask(place, "dpo,ipo", tmp_path / "study", artefact=file, patches={"train.steps": 3})
    assert all(value > 0 for values in found.values("kl").values() for value in values)
    seeds = found.data["pairing"]["seeds"]
    assert seeds["0"]["tensors_that_differ"] == 0 and seeds["0"]["shared_tensors"] > 9, seeds


def test_preferences_are_compared_on_one_measure(place: Path, tmp_path: Path) -> None:
    found = ask(place, PREFERENCES, tmp_path / "study", patches={"adapter.rank": 8})
    accuracy, kl = found.values("accuracy"), found.values("kl")
    assert [*accuracy] == PREFERENCES.split(",") and all(len(v) == 2 for v in accuracy.values())
    assert all(0.6 < value <= 1 for arm, values in accuracy.items() for value in values), accuracy
    assert all(0 < value < 20 for values in kl.values() for value in values)
    assert len({tuple(values) for values in kl.values()}) == 5  # the arms are different runs
    costs = found.data["costs"]
    steps = [cost["steps"] for cost in costs.values()]
    assert max(steps) - min(steps) <= 1  # of as many answers: kto reads both of each pair
    assert all(cost["tokens"] > 0 and cost["seconds"] > 0 and cost["peak_memory"] > 0 for cost in costs.values())
    assert found.data["pairing"]["checked"] and found.data["pairing"]["seeds"]["0"]["tensors_that_differ"] == 0
    seeds = found.data["pairing"]["seeds"]
    assert all(20 < one["rows"] < 40 and one["rows_equal"] for one in seeds.values())  # kto's too
    assert seeds["0"]["row_hash"] != seeds["1"]["row_hash"]  # other rows are held out
    page = found.page.read_text()
    assert "held-out pairs whose chosen answer gained more" in page.lower() and "KL to the start" in page
    assert (
        "too few seeds (3 more)" in page and "--data" in found.data["command"] and "--artefact" in found.data["command"]
    )
    again = ask(place, PREFERENCES, tmp_path / "study", patches={"adapter.rank": 8})
    assert all(run["cached"] for run in again.data["runs"]) and again.values("kl") == kl


def test_the_measures_are_those_of_the_formulas(place: Path, tmp_path: Path) -> None:
    """A run without a step: the policy is its start, so every pair is equal and the divergence is 0."""
    found = ask(place, "dpo,simpo", tmp_path, seeds=1, patches={"train.optimizer.lr": 1e-30, "rows.epochs": 1.0})
    assert found.values("accuracy") == {"dpo": [0.5], "simpo": [0.5]}
    assert all(abs(value) < 1e-6 for values in found.values("kl").values() for value in values)


def test_all_weights_are_compared_with_the_model_read_again(place: Path, tmp_path: Path) -> None:
    found = ask(place, "dpo,kto,orpo", tmp_path, seeds=1, patches={"adapter": None, "train.optimizer.lr": 0.01})
    assert all(values[0] > 0.6 for values in found.values("accuracy").values())
    assert all(0 < values[0] < 20 for values in found.values("kl").values())


@pytest.mark.slow
def test_policy_gradients_are_compared_by_their_reward(place: Path, tmp_path: Path) -> None:
    found = rewarded(place, REWARDS, tmp_path / "study")
    assert found.data["metrics"][0]["title"] == "reward of sampled answers to held-out prompts"
    assert [*found.values()] == REWARDS.split(",") and all(cost["steps"] == 6 for cost in found.data["costs"].values())
    assert all(math.isfinite(v) and v >= 0 for values in found.values("kl").values() for v in values)
    assert len({tuple(values) for values in found.values("kl").values()}) == 3
    truth = {"name": "function", "file": f"{place / 'rewards.py'}:letters"}
    true = rewarded(place, "grpo,rloo", tmp_path / "true", seeds=1, patches={"truth": truth})
    assert true.data["metrics"][0]["title"].startswith("true reward")
    assert true.values()["grpo"] == found.values()["grpo"][:1]  # here they are the same function


@pytest.mark.parametrize(
    ("arms", "options", "said"),
    [
        ("dpo,grpo", {}, "--arms: dpo learns from preferences and grpo from rewards"),
        ("grpo,kto", {}, "--arms: grpo learns from rewards and kto from preferences"),
        ("dpo,autoregressive", {}, "--arms: autoregressive does not align a model"),
        ("dpo,bradley-terry", {}, "--arms: bradley-terry does not align a model"),
        ("dpo,kot", {}, "no objective named 'kot'; did you mean 'kto'?"),
        ("dpo,ipo", {"artefact": None}, "--artefact: dpo, ipo align a model that is there; name the model"),
        ("dpo,ipo", {"data": None}, "--data: dpo, ipo align a model that is there; name the rows"),
        ("grpo,rloo", {}, "reward: a policy gradient needs one"),
        ("dpo,ipo", {"reward": "exact-match"}, "reward: dpo learns from the rows alone"),
        ("dpo,dpo{beta=-1}", {}, "arm 'dpo{beta=-1}': objective.beta: -1"),
        ("dpo,ipo", {"judge": "x"}, "--judge: is not used when objective is compared"),
        ("dpo,ipo", {"hold": "flops"}, "--hold flops: arms that tune one model"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_before_any_training(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arms: str, options: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr("llmanac.recipes.tune.train", lambda *given, **more: pytest.fail("trained"))
    given = {"artefact": place / "model", "data": place / "pairs.jsonl"} | options
    with pytest.raises(SpecError) as caught:
        compare("objective", arms, folder=tmp_path / "s", report=lambda line: None, **given)
    assert said in str(caught.value)


def test_an_arm_that_cannot_run_says_which_and_why_before_any_training(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmanac.recipes.tune.train", lambda *given, **more: pytest.fail("trained"))
    with pytest.raises(SpecError, match=r"arm 'rloo': samples: 1 is too few for advantage = rloo"):
        rewarded(place, "ppo,rloo", tmp_path / "a", patches={"sampling.samples": 1, "sampling.prompts": 16})
    (place / "bad.jsonl").write_text('{"prompt": "say", "chosen": " a"}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:1: needs the columns prompt, chosen, rejected"):
        ask(place, "kto,dpo", tmp_path / "b", data="bad")
    with pytest.raises(SpecError, match="--data: is not used when position is compared"):
        compare("position", "rope,none", data=place / "pairs.jsonl", folder=tmp_path / "c")
