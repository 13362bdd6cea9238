"""The reward model against TRL's RewardTrainer, its files, and as a reward."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from _small_models import randomise, transformer

from llmanac.core.errors import CheckpointError, DataError
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.models.load import load_model
from llmanac.models.scalar import ScalarModel, load_scalar
from llmanac.rewards import Sample
from llmanac.tokenizers.load import train_tokenizer

V = 40


def test_loss_and_gradient_equal_trl(tmp_path):
    """On ragged pairs, with the centring term, for every parameter of the trunk and the map."""
    transformers = pytest.importorskip("transformers")
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from trl import RewardConfig, RewardTrainer

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{f"w{i}": i + 3 for i in range(V - 3)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")
    config = transformers.LlamaConfig(
        vocab_size=V, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, num_labels=1,
    )  # fmt: skip
    base = randomise(transformers.LlamaForCausalLM(config), std=0.3)
    base.save_pretrained(tmp_path / "base")
    theirs = transformers.LlamaForSequenceClassification(config).eval()
    theirs.model.load_state_dict(base.model.state_dict())
    ours = ScalarModel(load_model(tmp_path / "base"))
    with torch.no_grad():
        theirs.score.weight.copy_(ours.score.weight)
    generator = np.random.default_rng(0)
    draw = lambda n: " ".join(f"w{i}" for i in generator.integers(0, V - 3, n))  # noqa: E731
    rows = [{"prompt": draw(4), "chosen": " " + draw(2 + i), "rejected": " " + draw(6 - i)} for i in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = RewardTrainer(
            model=theirs, processing_class=fast, train_dataset=Dataset.from_list(rows),
            args=RewardConfig(
                output_dir=str(tmp_path / "out"), per_device_train_batch_size=4, report_to="none", use_cpu=True,
                bf16=False, gradient_checkpointing=False, disable_tqdm=True, center_rewards_coefficient=0.05,
            ),
        )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    expected = trainer.compute_loss(theirs, dict(batch))
    made = make_method("objective", {"name": "bradley-terry", "centre": 0.05}).build(tokenizer=object())
    ids = [row[mask.bool()].numpy() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    joined = Batch.padded(ids, ids)
    loss, units, metrics = made.loss(ours, joined)
    torch.testing.assert_close(loss / units, expected, rtol=1e-5, atol=1e-6)
    named = {("score.weight" if n == "score.weight" else f"trunk.{n}"): p for n, p in theirs.named_parameters()}
    other = torch.autograd.grad(expected, list(named.values()))
    own = torch.autograd.grad(loss / units, [ours.get_parameter(name) for name in named])
    for name, a, b in zip(named, own, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)
    assert max(float(g.abs().max()) for g in own) > 1e-3
    assert 0 <= float(metrics["accuracy"]) <= 4


def tokenizer():
    return train_tokenizer("bpe", ["some good and bad words " * 9], vocab_size=280, special_tokens=["<|endoftext|>"])


def test_reward_is_the_normalised_score(tmp_path):
    """Saved and loaded, it scores a text at its last token, without the mean and in units of the deviation."""
    words = tokenizer()
    model = ScalarModel(transformer(vocab_size=words.vocab_size, dtype=torch.float32))
    model.normalise(torch.tensor([1.0, 2.0, 4.0]))
    model.save_pretrained(tmp_path)
    words.save(tmp_path)
    again = load_scalar(tmp_path)
    reward = make_method("reward", {"name": "model", "path": str(tmp_path)}).build()
    samples = [Sample(row={}, prompt="some", text=text, finished=True) for text in (" good words", " bad")]
    found = [score.value for score in reward(samples)]
    for sample, value in zip(samples, found, strict=True):
        ids = [*words.encode(sample.prompt + sample.text), words.eos_id]
        plain = float(model.values(Batch(ids=torch.tensor([ids])))[0, -1].detach())
        assert value == pytest.approx((plain - 7 / 3) / float(torch.tensor([1.0, 2.0, 4.0]).std()), rel=1e-5)
    assert found[0] != found[1]
    torch.testing.assert_close(again.score.weight, model.score.weight)
    (tmp_path / "score.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"score\.safetensors: no such file"):
        load_scalar(tmp_path)


def test_it_learns_preferences_and_margins_count():
    words = tokenizer()
    model = ScalarModel(transformer(vocab_size=words.vocab_size, dtype=torch.float32))
    rows = [{"prompt": "some", "chosen": " good", "rejected": " bad", "by": 2.0}] * 2
    made = make_method("objective", "bradley-terry").build(tokenizer=words)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        loss, units, metrics = made.loss(model, made.collate(rows))
        (loss / units).backward()
        optimizer.step()
    assert float(metrics["accuracy"]) == 2 and float(metrics["distance"]) > 1
    wide = make_method("objective", {"name": "bradley-terry", "margin": "by"}).build(tokenizer=words)
    assert float(wide.loss(model, wide.collate(rows))[0].detach()) > float(loss.detach())
    with pytest.raises(DataError, match="no number in the column 'by'"):
        wide.collate([{**rows[0], "by": None}])
