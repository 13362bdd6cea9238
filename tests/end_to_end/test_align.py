"""`llmanac align`: preferences, a reward model and sampled answers, from rows to a model that is served."""

from __future__ import annotations

import json
import random

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

import llmanac
from llmanac.cli import app
from llmanac.core.errors import DataError, SpecError
from llmanac.core.spec import make, make_method, patch
from llmanac.evaluate.ratings import Questions, RatingStore
from llmanac.generate.load import load_engine
from llmanac.models.scalar import load_scalar
from llmanac.recipes.align import AlignSpec
from llmanac.recipes.tune import TuneSpec, tune
from llmanac.rewards import read_rewards
from llmanac.tokenizers.load import train_tokenizer

TRAIN = {"dtype": "float32", "compile": "never", "attention": "sdpa", "batch_tokens": 512}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, preferences for answers with the letter a, labelled answers, and prompts."""
    folder, draw = tmp_path_factory.mktemp("align"), random.Random(0)
    tokenizer = train_tokenizer("bpe", ["say what a b "], vocab_size=262, special_tokens=["<|endoftext|>"])
    fields = {"name": "transformer", "dim": 16, "layers": 1, "max_length": 64}
    model = make_method("lm", fields).build(vocab_size=tokenizer.vocab_size)
    model.generation = {"eos_token_id": tokenizer.eos_id}
    model.save_pretrained(folder / "raw")
    tokenizer.save(folder / "raw")
    prompts = [f"say {draw.randrange(99)}" for _ in range(40)]
    pairs = [{"prompt": p, "chosen": " a" * draw.randint(1, 3), "rejected": " b" * draw.randint(1, 3)} for p in prompts]
    sides = [(row, side) for row in pairs for side in ("chosen", "rejected")]
    labelled = [{"prompt": r["prompt"], "completion": r[side], "label": side == "chosen"} for r, side in sides]
    for name, rows in (("pairs", pairs), ("labelled", labelled), ("prompts", [{"prompt": p} for p in prompts])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = {"file": str(folder / "labelled.jsonl"), "epochs": 12.0, "held_out": 0.0}
    train = {**TRAIN, "optimizer": {"name": "adamw", "lr": 0.02}}
    start = tune(make(TuneSpec, {"model": str(folder / "raw"), "rows": rows, "train": train}), folder / "start",
                 report=lambda line: None)  # fmt: skip
    (start.folder / "model").rename(folder / "model")
    (folder / "rewards.py").write_text("def letters(text, row):\n    return text.count('a') / 8\n")
    return folder


def asked(place, data, objective, **fields):
    train = {**TRAIN, **fields.pop("train", {})}
    rows = {"file": str(place / f"{data}.jsonl"), "held_out": 0.25, "epochs": 30.0}
    given = {"model": str(place / "model"), "rows": rows, "objective": objective, "train": train}
    return make(AlignSpec, {**given, **fields})


def risen(folder):
    """Whether the last quarter of the draws earned more than the first."""
    found = [json.loads(line)["reward"] for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    quarter = len(found) // 4
    return sum(found[-quarter:]) > 1.1 * sum(found[:quarter])


def test_what_is_kept_of_a_stopped_reward_model_leaves_its_training_alone(place, tmp_path):
    """The adapter is merged into what is kept after each checkpoint, not into the model that goes on."""
    losses = []
    for every in (1, 4):
        train = {"steps": 4, "checkpoint_every": every}
        made = asked(place, "pairs", "bradley-terry", adapter={"name": "lora", "rank": 2}, train=train)
        tune(made, tmp_path / str(every), report=lambda line: None)
        lines = [json.loads(line) for line in (tmp_path / str(every) / "training" / "metrics.jsonl").open()]
        losses.append([(line["loss"], line["grad_norm"]) for line in lines])
    assert losses[0] == losses[1] and len(losses[0]) == 4


@pytest.mark.parametrize("method", ["dpo", "simpo", "orpo"])
def test_preferences_are_learnt_by_an_adapter_or_all_weights(place, tmp_path, method):
    adapter = "lora" if method == "dpo" else None
    train = {"optimizer": {"name": "adamw", "lr": 0.01}}
    done = tune(asked(place, "pairs", method, adapter=adapter, train=train), tmp_path / "out", report=lambda x: None)
    assert done.after.mean > 0.9 and done.after.mean > done.before.mean
    assert dict(done.rows)["rows"] == "40"
    assert method != "dpo" or done.before.mean == 0.5, "the policy is its reference"


def test_an_epoch_has_eight_steps_where_the_tokens_of_a_step_are_open(place, tmp_path):
    given = asked(place, "pairs", "simpo", rows={"file": str(place / "pairs.jsonl")}, train={"batch_tokens": 2048})
    done = tune(given, tmp_path / "out", report=lambda x: None)
    assert 8 <= done.training.steps <= 13
    assert tune(patch(given, {"train.batch_tokens": 2047}), tmp_path / "own", report=print).training.steps == 1


def test_kto_learns_from_labels_with_a_frozen_copy(place, tmp_path):
    done = tune(asked(place, "labelled", "kto", train={"optimizer": {"name": "adamw", "lr": 0.01}}), tmp_path / "out",
                 report=lambda x: None)  # fmt: skip
    assert done.after.mean < done.before.mean


@pytest.mark.parametrize(("share", "groups", "count"), [(0.1, 1, 6), (0.01, None, 1), (0.35, 2, 13)])
def test_kto_with_few_rows_held_out(place, tmp_path, share, groups, count):
    """All held-out rows are measured, fewer than 8 too; one alone has no other to be compared with."""
    (place / "few.jsonl").write_text("".join((place / "labelled.jsonl").read_text().splitlines(True)[:24]))
    rows = {"file": str(place / "few.jsonl"), "held_out": share, "epochs": 1.0}
    said: list[str] = []
    for resume in (False, True):
        done = tune(asked(place, "few", "kto", rows=rows), tmp_path / "out", resume=resume, report=said.append)
        assert dict(done.rows)["held out"] == str(count)
        kept = json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail)["held_out"]
        if groups is None:
            assert kept is None and any(line.startswith("Nothing is measured") for line in said)
        else:
            assert len(done.before) == len(done.after) == groups and sum(done.after.units) == count
            assert kept["before"] == done.before.mean


@pytest.mark.parametrize(("data", "objective"), [("pairs", "dpo"), ("prompts", "grpo")])
def test_a_resumed_alignment_refuses_other_rows(place, tmp_path, data, objective):
    """As many rows, in another order: the next ones would not be those that have not been read yet."""
    rows = (place / f"{data}.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(rows)
    reward = {"name": "function", "file": f"{place / 'rewards.py'}:letters"}
    more = {"reward": reward, "sampling": {"prompts": 2, "samples": 2, "tokens": 2}} if objective == "grpo" else {}
    given = asked(place, data, objective, train={"steps": 2, "checkpoint_every": 1}, **more)
    given = patch(given, {"rows.file": str(tmp_path / "rows.jsonl"), "rows.held_out": 0.0})
    tune(given, tmp_path / "out", report=lambda x: None)
    (tmp_path / "rows.jsonl").write_text("".join(reversed(rows.splitlines(True))))
    with pytest.raises(DataError, match="resume with the same data"):
        tune(given, tmp_path / "out", resume=True, report=lambda x: None)


def test_a_reward_that_changed_scores_both_sides(place, tmp_path):
    """A reward may be mended in the middle; what it gives before and after is then of one reward."""
    code = tmp_path / "own.py"
    code.write_text("def own(text, row):\n    return 1.0\n")
    more = {
        "reward": {"name": "function", "file": f"{code}:own"},
        "sampling": {"prompts": 2, "samples": 2, "tokens": 2},
    }
    given = asked(place, "prompts", "grpo", train={"steps": 2, "checkpoint_every": 1}, **more)
    assert tune(given, tmp_path / "out", report=lambda x: None).before.mean == 1
    code.write_text("def own(text, row):\n    return 5.0\n")
    done = tune(given, tmp_path / "out", resume=True, report=lambda x: None)
    assert (done.before.mean, done.after.mean) == (5, 5)


def test_ratings_of_people_train_a_reward_model_and_a_policy(place, tmp_path):
    """What the rating page writes is read as it is, for a reward model and for DPO."""
    rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]
    asked_of = Questions([f"{i}: {row['prompt']}" for i, row in enumerate(rows)],
                         {"m": [row["chosen"] for row in rows], "n": [row["rejected"] for row in rows]})  # fmt: skip
    asked_of.save(tmp_path / "ratings")
    store = RatingStore(tmp_path / "ratings", asked_of, "compare")
    for number in range(len(store.tasks)):
        answers = store.shown("Ann", number)["answers"]
        store.rate("Ann", number, "left" if "a" in answers[0] else "right")
    (place / "rated.jsonl").write_bytes((tmp_path / "ratings" / "preferences.jsonl").read_bytes())
    for method in ("bradley-terry", "dpo"):
        fields = {"adapter": "lora"} if method == "dpo" else {}
        spec = asked(place, "rated", method, train={"optimizer": {"name": "adamw", "lr": 0.01}, "steps": 60}, **fields)
        assert tune(spec, tmp_path / method, report=lambda line: None).after.mean > 0.9


def test_a_column_of_margins_reaches_the_loss(place, tmp_path):
    """Rows are encoded once, margins included; other margins are another loss, and a row without one is named."""
    rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]
    losses = []
    for margin in (0.0, 3.0):
        file = tmp_path / f"{margin}.jsonl"
        file.write_text("".join(json.dumps({**row, "m": margin}) + "\n" for row in rows))
        given = asked(place, "pairs", {"name": "bradley-terry", "margin": "m"}, train={"steps": 1})
        folder = tmp_path / str(margin)
        tune(patch(given, {"rows.file": str(file)}), folder, report=lambda x: None)
        losses.append(json.loads((folder / "training" / "metrics.jsonl").read_text().splitlines()[0])["loss"])
    assert losses[1] > losses[0] + 1
    with pytest.raises(DataError, match=r"pairs\.jsonl:1: margin: the row has no number in the column 'm'"):
        tune(asked(place, "pairs", {"name": "bradley-terry", "margin": "m"}), tmp_path / "none", report=lambda x: None)


@pytest.mark.parametrize(
    ("data", "objective"),
    [("pairs", "dpo"), ("pairs", "ipo"), ("pairs", "simpo"), ("pairs", "orpo"), ("labelled", "kto"),
     ("pairs", "bradley-terry"), ("prompts", "grpo")],
)  # fmt: skip
def test_an_alignment_is_a_recipe(place, tmp_path, data, objective):
    """`llmanac run` of its folder's recipe gives the same weights; so does one that states no more than it must."""
    fields = {"reward": f"{place}/rewards.py:letters"} if objective == "grpo" else {}
    if fields:
        fields = {"reward": {"name": "function", "file": fields["reward"]}, "sampling": {"tokens": 4, "samples": 2}}
    given = asked(place, data, objective, train={"steps": 2}, **fields)
    tune(given, tmp_path / "first", report=lambda x: None)
    short = {"model": given.model, "rows": {"file": given.rows.file, "held_out": 0.25, "epochs": 30.0}}
    short |= {"objective": objective, "train": {**TRAIN, "steps": 2}, **fields}
    for name, recipe in (("again", tmp_path / "first" / "recipe.toml"), ("short", short)):
        done = llmanac.run(recipe, folder=tmp_path / name, report=lambda x: None)
        assert type(done.recipe) is AlignSpec and done.recipe == given
        first, second = (load_file(f / "model" / "model.safetensors") for f in (tmp_path / "first", done.folder))
        assert all(bool((first[key] == second[key]).all()) for key in first)


def test_a_reward_model_becomes_a_reward_for_a_policy(place, tmp_path):
    """Pairs, then the model's score as the reward: the policy comes to say what the pairs preferred."""
    train = {"optimizer": {"name": "adamw", "lr": 0.01}}
    judged = tune(asked(place, "pairs", "bradley-terry", train=train), tmp_path / "judge", report=lambda x: None)
    assert judged.after.mean > 0.9
    assert load_scalar(tmp_path / "judge" / "model").score.weight.shape == (1, 16)
    fields = {
        "reward": {"name": "model", "path": str(tmp_path / "judge" / "model")},
        "sampling": {"prompts": 4, "samples": 8, "tokens": 4}, "train": {**train, "steps": 12},
    }  # fmt: skip
    done = tune(asked(place, "prompts", "rloo", **fields), tmp_path / "policy", report=lambda x: None)
    assert done.change()[0] > 0 and risen(tmp_path / "policy")


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_a_reward_is_learnt_and_every_draw_is_logged(place, tmp_path, method):
    fields = {
        "reward": {"name": "function", "file": f"{place / 'rewards.py'}:letters"},
        "sampling": {"prompts": 4, "samples": 8, "tokens": 6},
        "train": {"steps": 20, "optimizer": {"name": "adamw", "lr": 0.02}},
    }  # fmt: skip
    before = load_file(place / "model" / "model.safetensors")
    done = tune(asked(place, "prompts", method, **fields), tmp_path / "out", report=lambda x: None)
    assert done.change()[0] > 0 and risen(tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "rollouts.jsonl").read_text().splitlines()]
    assert [line["draw"] for line in lines] == list(range(20))
    said = load_engine(tmp_path / "out").generate("say 5", max_new_tokens=6, temperature=1.0, n=16)
    start = load_engine(place / "model").generate("say 5", max_new_tokens=6, temperature=1.0, n=16)
    assert sum(one.text.count("a") for one in said) > sum(one.text.count("a") for one in start)
    assert {name: t.tolist() for name, t in before.items()} == {
        name: t.tolist() for name, t in load_file(place / "model" / "model.safetensors").items()
    }


def test_command_and_refusals(place, tmp_path):
    run = CliRunner().invoke(
        app,
        ["align", str(place / "model"), str(place / "prompts.jsonl"), "-m", "reinforce", "--reward",
         f"{place / 'rewards.py'}:letters", "-a", "lora", "--kl", "0.1", "--steps", "2", "--samples", "2",
         "--max-tokens", "3",
         "-o", str(tmp_path / "out"), "-s", "train.dtype=float32", "--held-out", "0.3"],
        catch_exceptions=False,
    )  # fmt: skip
    assert run.exit_code == 0 and "reward of sampled answers" in run.stdout and "Next: llmanac generate" in run.stdout
    (place / "stops.py").write_text("raise KeyboardInterrupt")
    stops = ["--reward", f"{place / 'stops.py'}:f", "--max-tokens", "3", "-s", "train.dtype=float32"]
    for command, said in (
        (["align", "prompts.jsonl", "--kl", "-1", "--reward", "length"], "--kl: -1.0 is no weight"),
        (["align", "pairs.jsonl", "-m", "dpo", "--kl", "1"], "--kl: dpo has no KL penalty"),
        (["align", "prompts.jsonl", "-o", str(tmp_path / "none"), *stops], "Stopped before anything was kept"),
        (["reason", ""], "QUESTION: is empty"),
        (["reason", "a b", "-n", "2", "--tokens", "4000"], "--tokens: the longest question and 4,000 tokens make"),
    ):
        path = str(place / command[1]) if command[1].endswith("jsonl") else command[1]
        run = CliRunner().invoke(app, [command[0], str(place / "model"), path, *command[2:]])
        assert run.exit_code and said in run.output + str(run.exception), run.output
    with pytest.raises(SpecError, match="reward: a policy gradient needs one"):
        asked(place, "prompts", "grpo")
    with pytest.raises(SpecError, match="learns from the rows alone"):
        asked(place, "pairs", "dpo", reward="exact-match")
    with pytest.raises(DataError, match=r"prompts\.jsonl:1: needs the columns prompt, chosen, rejected"):
        tune(asked(place, "prompts", "dpo"), tmp_path / "x", report=lambda x: None)
    with pytest.raises(SpecError, match=r"sampling\.tokens: the longest prompt"):
        fields = {"reward": "length", "sampling": {"tokens": 64}}
        tune(asked(place, "prompts", "grpo", **fields), tmp_path / "y", report=lambda x: None)
    (place / "broken.py").write_text("def bad(text, row):\n    return row['nothing']\n")
    with pytest.raises(DataError, match=r"broken\.py:bad: raised KeyError: 'nothing'; answer"):
        fields = {"reward": {"name": "function", "file": f"{place / 'broken.py'}:bad"}, "sampling": {"tokens": 4}}
        tune(asked(place, "prompts", "grpo", **fields), tmp_path / "z", report=lambda x: None)


def test_rewards_of_the_command_line(place):
    assert read_rewards(["exact-match"]) == "exact-match"
    mixed = read_rewards([f"{place / 'rewards.py'}:letters=2", "length=0.5"])
    assert mixed["weights"] == [2.0, 0.5] and mixed["parts"][1] == "length"
    with pytest.raises(SpecError, match="is not known"):
        read_rewards(["exact-mach"])
