"""What the studies of alignment rest on: exposure by enumeration, the optimum of a held policy, ratings as pairs."""

from __future__ import annotations

import itertools
import json
import math
import warnings

import numpy as np
import pytest
import torch
from _small_models import randomise, transformer

from evidence.mle_vs_rl import FIRST_ID, Source, divergences, predicted
from llmanac.core.spec import make, make_method
from llmanac.models.scalar import load_scalar
from llmanac.objectives.policy_gradient import Rollout
from llmanac.recipes.align import AlignSpec
from llmanac.recipes.tune import tune
from llmanac.rewards import Sample
from llmanac.tokenizers.load import train_tokenizer

V, LENGTH = 3, 3
TEXTS = np.array(list(itertools.product(range(V), repeat=LENGTH)))


def test_exposure_is_the_divergence_of_texts_by_enumeration():
    """After the source's prefixes it sums to KL(source || model) of complete texts; after the model's it does not."""
    source = Source(0, vocabulary=V, order=2)
    model = randomise(transformer(vocab_size=FIRST_ID + V + 1, dim=16, layers=1, max_length=8), std=0.5).double()
    p = np.exp(source.log_probability(TEXTS))
    assert p.sum() == pytest.approx(1, abs=1e-12)
    logs = np.take_along_axis(predicted(model, source, TEXTS).detach().numpy(), TEXTS[..., None], 2).sum((1, 2))
    each = divergences(model, source, TEXTS).sum(1)
    expected = float((p * (np.log(p) - logs)).sum())
    assert float(p @ each) == pytest.approx(expected, abs=1e-10) and expected > 0.01
    assert abs(float(np.exp(logs) @ each) - expected) > 1e-3
    drawn = source.sample(np.random.default_rng(0), 20_000, LENGTH)
    counts = np.bincount((drawn * V ** np.arange(LENGTH)[::-1]).sum(1), minlength=len(TEXTS)) / len(drawn)
    assert abs(counts - p).max() < 0.012


class Table(torch.nn.Module):
    """One token after a prompt of one, with free logits."""

    vocab_size = 6

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, batch, want=None):
        from types import SimpleNamespace

        return SimpleNamespace(hidden=None, logits=self.logits.expand(*batch.ids.shape, -1))


@pytest.mark.parametrize("kl", ["k1-reward", "k2", "k3-ratio"])
def test_optimum_of_a_constraint_with_a_penalty(kl):
    """p(x) exp(r / beta) / Z: there the expected gradient is 0, and at p itself it is not."""
    beta, start = 0.3, torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    reward = make_method("reward", {"name": "pattern", "pattern": "[ace]"}).build()
    earned = np.array([score.value for score in reward(
        [Sample(row={}, prompt="", text=text, finished=True) for text in "abcdef"])])  # fmt: skip
    assert earned.tolist() == [1, 0, 1, 0, 1, 0]
    before = start.log_softmax(0).numpy()

    def expected_gradient(logits):
        model = Table(logits.clone())
        own = logits.log_softmax(0).numpy()
        totals = earned - (beta * (own - before) if kl == "k1-reward" else 0)
        rows = [
            Rollout(prompt=(0,), completion=(i,), logprobs=own[[i]], reference=before[[i]],
                    advantages=np.array([totals[i]]))
            for i in range(6)
        ]  # fmt: skip
        fields = {"advantage": "none", "surrogate": "reinforce", "kl": kl, "kl_weight": beta}
        made = make_method("objective", {"name": "policy-gradient", **fields}).build()
        sums = 0
        for i, row in enumerate(rows):
            loss, _, _ = made.loss(model, made.collate([row]))
            sums = sums + math.exp(own[i]) * torch.autograd.grad(loss, model.logits)[0]
        return sums

    best = start + torch.from_numpy(earned) / beta
    assert float(expected_gradient(best).abs().max()) < 1e-10
    assert float(expected_gradient(start).abs().max()) > 1e-2


def test_pairs_of_a_rating_page_train_a_reward_model(tmp_path):
    """A preference file with TRL's columns: TRL reads the same tokens, and the reward learns what was preferred."""
    tokenizer = train_tokenizer(
        "bpe", ["a b c d good bad words " * 9], vocab_size=270, special_tokens=["<|endoftext|>"]
    )
    model = transformer(vocab_size=tokenizer.vocab_size, dim=32, layers=1, max_length=48, dtype=torch.float32)
    model.generation = {"eos_token_id": tokenizer.eos_id}
    model.save_pretrained(tmp_path / "start")
    tokenizer.save(tmp_path / "start")
    draw = np.random.default_rng(0)
    text = lambda word: " " + " ".join([*draw.choice(list("abcd"), 2), word])  # noqa: E731
    rows = [{"prompt": "words", "chosen": text("good"), "rejected": text("bad")} for _ in range(32)]
    file = tmp_path / "preferences.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = {"steps": 20, "batch_tokens": 256, "dtype": "float32", "attention": "sdpa", "compile": "never",
             "optimizer": {"name": "adamw", "lr": 1e-2, "weight_decay": 0.0}}  # fmt: skip
    asked = make(AlignSpec, {
        "model": str(tmp_path / "start"), "rows": {"file": str(file), "held_out": 0.25}, "objective": "bradley-terry",
        "adapter": None, "train": train,
    })  # fmt: skip
    tune(asked, tmp_path / "judge", report=lambda _: None)
    reward = make_method("reward", {"name": "model", "path": str(tmp_path / "judge" / "model")}).build()
    new = [Sample(row={}, prompt="words", text=text(word), finished=True) for word in ("good", "bad") for _ in range(4)]
    found = [score.value for score in reward(new)]
    assert min(found[:4]) > max(found[4:])
    assert load_scalar(tmp_path / "judge" / "model").deviation != 1
    _equal_tokens_in_trl(tmp_path, tokenizer, rows)


def _equal_tokens_in_trl(tmp_path, tokenizer, rows):
    transformers = pytest.importorskip("transformers")
    from datasets import load_dataset
    from trl import RewardConfig, RewardTrainer

    fast = transformers.AutoTokenizer.from_pretrained(
        tmp_path / "start", eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=8, intermediate_size=8, num_labels=1, num_hidden_layers=1,
        num_attention_heads=1, pad_token_id=tokenizer.eos_id,
    )  # fmt: skip
    file, cache = str(tmp_path / "preferences.jsonl"), str(tmp_path / "cache")
    read = load_dataset("json", data_files=file, cache_dir=cache)["train"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = RewardTrainer(
            model=transformers.LlamaForSequenceClassification(config), processing_class=fast,
            train_dataset=read,
            args=RewardConfig(output_dir=str(tmp_path / "out"), report_to="none", use_cpu=True, bf16=False,
                              gradient_checkpointing=False, disable_tqdm=True),
        )  # fmt: skip
    objective = make_method("objective", "bradley-terry").build(tokenizer=tokenizer)
    for row, theirs in zip(rows, trainer.train_dataset, strict=True):
        (chosen, _), (rejected, _) = objective.encode(row)
        assert (list(chosen), list(rejected)) == (theirs["chosen_ids"], theirs["rejected_ids"])
