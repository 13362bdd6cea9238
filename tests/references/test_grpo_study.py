"""The study of GRPO on a pretrained model: its prompts, its rule, its merged copy, and what it makes of arms."""

from pathlib import Path

import pytest
import torch

from evidence import grpo_smollm2 as study
from evidence._synthetic import writing
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.models.load import load_model
from llmanac.rewards import Sample
from llmanac.tokenizers.load import load_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


def small(place: Path) -> study.Task:
    study.small_model(place)
    writing(load_model(place), 0).save_pretrained(place)
    return study.Task(place, place, load_tokenizer(place), 3, 4, 8, 6, 8, torch.float32, study.letters)


def test_no_word_or_subject_of_a_held_out_prompt_is_trained_on(tmp_path: Path) -> None:
    assert not set(study.WORDS) & set(study.NEW_WORDS) and not set(study.SUBJECTS) & set(study.NEW_SUBJECTS)
    of = small(tmp_path)
    train, held = (study.asked(of, 40, 0, new) for new in (False, True))
    assert {w for p in held for w in p.row["words"]} <= set(study.NEW_WORDS)
    assert all(len(set(p.row["words"])) == study.ASKED and all(w in p.text for w in p.row["words"]) for p in train)
    assert len({p.text for p in train}) == 40 and train != study.asked(of, 40, 1, False)


@pytest.mark.parametrize(
    ("text", "finished", "reward"),
    [("The river has a Clock, bread; a ladder.", True, 1.0), ("Clockwork on the riverbank", True, 0.0),
     ("river river river", True, 0.25), ("river clock bread ladder", False, 0.0)],
)  # fmt: skip
def test_rule(text: str, finished: bool, reward: float) -> None:
    row = {"words": ["river", "clock", "bread", "ladder"]}
    assert study.rule(Sample(row=row, prompt="", text=text, finished=finished)) == reward


def test_the_merged_copy_is_the_policy_and_leaves_it_alone(tmp_path: Path) -> None:
    of = small(tmp_path)
    policy = of.load(of.model)
    make_method("adapter", {"name": "lora", "rank": 2, "alpha": 4.0}).build(seed=0).apply(policy)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    batch = Batch(ids=torch.tensor([[1, 2, 3, 4]]))
    before, base = policy(batch).logits, of.load(of.model)(batch).logits
    torch.testing.assert_close(study.merged(policy)(batch).logits, before)
    assert torch.equal(policy(batch).logits, before) and not torch.allclose(before, base, atol=1e-3)


def test_training_raises_the_reward(tmp_path: Path) -> None:
    of = small(tmp_path)
    model, lines = study.trained(of, "no penalty", 0, lr=0.05, draws=12)
    start = study.measured(of, of.load(of.model), 0)
    end = study.measured(of, model, 0)
    assert len(lines) == 12 and abs(start["kl"]) < 1e-5 < end["kl"]
    assert end["reward"] > start["reward"]


def test_nats_a_byte(tmp_path: Path) -> None:
    of = small(tmp_path)
    texts, total = ["Return 3.", "f(1) is ü"], 0.0
    for text in texts:
        ids, _ = of.tokenizer.framed(text)
        logs = of.load(of.judge)(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        total -= sum(float(logs[at, ids[at + 1]]) for at in range(len(ids) - 1))
    assert study.nats(of, texts) == pytest.approx(total / sum(len(text.encode()) for text in texts), rel=1e-6)


def test_planted_arms() -> None:
    seeds = [
        {"start": {"reward": 0.2}, "no penalty": {"reward": 0.7, "kl": 20.0}, "KL penalty": {"reward": 0.6, "kl": 5.0}},
        {"start": {"reward": 0.3}, "no penalty": {"reward": 0.5, "kl": 10.0}},
    ]
    assert study.raised(seeds, "no penalty") == pytest.approx([0.5, 0.2])
    assert study.raised(seeds, "KL penalty") == pytest.approx([0.4])
    assert study.nearer(seeds) == pytest.approx([-0.75])
