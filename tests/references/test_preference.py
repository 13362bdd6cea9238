"""Preference objectives against TRL's trainers on the same weights and ragged rows: loss and every gradient."""

from __future__ import annotations

import random
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from _small_models import randomise, transformer

from llmanac.core import registry
from llmanac.core.errors import DataError, SpecError
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.models.load import load_model
from llmanac.objectives import collate_ragged
from llmanac.tokenizers.load import train_tokenizer

V = 60
pytestmark = pytest.mark.usefixtures("one_thread")  # gradients are sums, and their order is that of the threads


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """transformers' Llama and ours with the same weights, the start of both, and TRL's tokenizer."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("trl")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{f"w{i}": i + 3 for i in range(V - 3)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")
    made = {}
    for seed, name in enumerate(("policy", "reference")):
        config = transformers.LlamaConfig(
            vocab_size=V, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0, eos_token_id=1,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, 0, 0.3, generator=torch.Generator().manual_seed(seed))
        model.save_pretrained(tmp_path_factory.mktemp(name))
        folder = tmp_path_factory.mktemp(f"{name}-again")
        model.save_pretrained(folder)
        made[name] = (model, load_model(folder))
    return made, theirs


def words(draw, count):
    return " ".join(f"w{draw.randrange(V - 3)}" for _ in range(count))


def arguments(cls, folder, **more):
    return cls(
        output_dir=str(folder), per_device_train_batch_size=4, report_to="none", use_cpu=True, bf16=False,
        gradient_checkpointing=False, disable_tqdm=True, **more,
    )  # fmt: skip


def rows_of(batch, prefix=""):
    """TRL's batch as our rows: ids and which of them carry loss, each without its padding."""
    ids, real, mask = (batch[f"{prefix}{name}"] for name in ("input_ids", "attention_mask", "completion_mask"))
    return [
        (i[r.bool()].numpy(), m[r.bool()].bool().numpy())
        for i, r, m in zip(ids, real, mask, strict=True)
    ]  # fmt: skip


def compare(objective, batch, ours, theirs, expected):
    loss, units, metrics = objective.loss(ours, batch)
    loss = loss / units
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    names = dict(theirs.named_parameters())
    own = dict(zip(names, torch.autograd.grad(loss, [ours.get_parameter(n) for n in names]), strict=True))
    other = dict(zip(names, torch.autograd.grad(expected, list(names.values())), strict=True))
    for name in names:
        torch.testing.assert_close(own[name], other[name], rtol=1e-4, atol=1e-6)
    assert max(float(g.abs().max()) for g in own.values()) > 1e-4
    return metrics


@pytest.fixture(scope="module")
def preferences(pair, tmp_path_factory):
    """A DPOTrainer and its first batch of four ragged pairs."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    (policy, reference), draw = (pair[0][name][0] for name in ("policy", "reference")), random.Random(0)
    rows = [
        {"prompt": words(draw, 5), "chosen": " " + words(draw, 3 + i), "rejected": " " + words(draw, 7 - i)}
        for i in range(4)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = DPOTrainer(
            model=policy, ref_model=reference, train_dataset=Dataset.from_list(rows), processing_class=pair[1],
            args=arguments(DPOConfig, tmp_path_factory.mktemp("dpo"), beta=0.3),
        )  # fmt: skip
    return trainer, next(iter(trainer.get_train_dataloader()))


def objective(name, models=None, **fields):
    spec = make_method("objective", {"name": name, **fields})
    return spec.build(tokenizer=SimpleNamespace(), models=models)


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo", "orpo"])
def test_loss_and_gradient_equal_trl(name, pair, preferences):
    trainer, batch = preferences
    (theirs, ours), (_, frozen) = pair[0]["policy"], pair[0]["reference"]
    trainer.model.eval()
    encoded = collate_ragged(rows_of(batch))
    if name in ("dpo", "ipo"):
        trainer.loss_types = [{"dpo": "sigmoid"}.get(name, name)]
        expected = trainer.compute_loss(trainer.model, dict(batch))
        found = compare(objective(name, {"reference": frozen}, beta=0.3), encoded, ours, theirs, expected)
        assert float(found["margin"]) == pytest.approx(
            float(found["reward_chosen"] - found["reward_rejected"]), abs=1e-5
        )
        return
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    logits = theirs(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    if name == "simpo":
        from trl.experimental.cpo.cpo_trainer import CPOTrainer

        chosen, rejected = CPOTrainer.get_batch_logps(logits, labels, average_log_prob=True).chunk(2)
        stand_in = SimpleNamespace(
            alpha=0.0, loss_type="simpo", simpo_gamma=0.5, beta=1.5, label_smoothing=0.0,
            accelerator=SimpleNamespace(device="cpu"),
        )  # fmt: skip
        expected = CPOTrainer.cpo_loss(stand_in, chosen, rejected)[0].mean()
        compare(objective("simpo", beta=1.5, gamma=0.5), encoded, ours, theirs, expected)
    else:
        from trl.experimental.orpo.orpo_trainer import ORPOTrainer

        chosen, rejected = ORPOTrainer.get_batch_logps(logits, labels, average_log_prob=True).chunk(2)
        stand_in = SimpleNamespace(beta=0.4, accelerator=SimpleNamespace(device="cpu"))
        expected = (-chosen - ORPOTrainer.odds_ratio_loss(stand_in, chosen, rejected)[0]).mean()
        compare(objective("orpo", beta=0.4), encoded, ours, theirs, expected)


def test_kto_equals_trl(pair, tmp_path):
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    draw = random.Random(1)
    rows = [
        {"prompt": words(draw, 4), "completion": " " + words(draw, 3 + i), "label": i != 2} for i in range(4)
    ]  # fmt: skip
    (theirs, ours), (other, frozen) = pair[0]["policy"], pair[0]["reference"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = KTOTrainer(
            model=theirs, ref_model=other, train_dataset=Dataset.from_list(rows), processing_class=pair[1],
            args=arguments(KTOConfig, tmp_path, beta=0.3, desirable_weight=1.5, undesirable_weight=0.8),
        )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.eval()
    expected = trainer.compute_loss(trainer.model, dict(batch))
    made = objective("kto", {"reference": frozen}, beta=0.3, good=1.5, bad=0.8)
    own, good = rows_of(batch), [bool(x) for x in batch["label"]]
    encoded = made.collate(list(zip(own, good, strict=True)))
    # TRL gives each prompt the answer before its own, ours the one after: theirs are put in place of ours
    crossed = collate_ragged([*own, *rows_of(batch, "KL_")])
    metrics = compare(made, type(encoded)(**vars(crossed), good=encoded.good), ours, theirs, expected)
    assert np.isfinite(float(metrics["kl"]))


def test_the_reference_is_the_disabled_adapter(pair):
    """With a LoRA that was trained a little, the loss is that against a frozen copy of the start."""
    tokenizer = train_tokenizer("bpe", ["some words to learn " * 9], vocab_size=270, special_tokens=["<|endoftext|>"])
    model, start = (transformer(vocab_size=270, dtype=torch.float32) for _ in range(2))
    row = {"prompt": "some", "chosen": " words", "rejected": " to learn"}
    make_method("adapter", {"name": "lora", "rank": 2}).build(seed=0).apply(model)
    plain = make_method("objective", "dpo").build(tokenizer=tokenizer)
    assert float(plain.loss(model, plain.collate([row]))[0].detach()) == pytest.approx(np.log(2), abs=1e-6)
    randomise(torch.nn.ParameterList([p for p in model.parameters() if p.requires_grad]))
    against = make_method("objective", "dpo").build(tokenizer=tokenizer, models={"reference": start})
    batch = plain.collate([row, row])
    a, b = (float(o.loss(model, batch)[0].detach()) for o in (plain, against))
    assert a == pytest.approx(b, rel=1e-6) and abs(a - 2 * np.log(2)) > 1e-3
    with pytest.raises(SpecError, match="needs a reference"):
        plain.loss(start, batch)


def test_log_probabilities_are_of_the_answer_alone_and_summed():
    tokenizer = train_tokenizer("bpe", ["some words to learn " * 9], vocab_size=270, special_tokens=["<|endoftext|>"])
    made = make_method("objective", "dpo").build(tokenizer=tokenizer)
    batch = made.collate([{"prompt": "some words", "chosen": " to", "rejected": " learn to learn"}])
    model = transformer(vocab_size=270)
    sums, lengths = made.log_probabilities(model, batch)
    for row, answer in enumerate((" to", " learn to learn")):
        prompt, ids = tokenizer.encode("some words"), [*tokenizer.encode("some words" + answer), tokenizer.eos_id]
        logs = model(Batch(ids=torch.tensor([ids]))).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(ids) - 1)
        assert float(sums[row]) == pytest.approx(float(sum(logs[t, ids[t + 1]] for t in places)), rel=1e-9)
        assert int(lengths[row]) == len(places)


def test_orpo_is_exact_near_certain_answers():
    from llmanac.objectives.orpo import _log_rest

    log_p = torch.tensor([-1e-9, -1e-4, -0.5, -0.7, -30.0], dtype=torch.float64)
    exact = torch.tensor([float(np.log(-np.expm1(x))) for x in log_p.tolist()], dtype=torch.float64)
    torch.testing.assert_close(_log_rest(log_p), exact)
    # mean log-probabilities between -3e-8 and 0 occur in float32, where exp rounds them to 1
    near = torch.tensor([0.0, -1e-9, -2e-8, -1e-6, -0.5, -30.0], requires_grad=True)
    _log_rest(near).sum().backward()
    assert torch.isfinite(_log_rest(near)).all()
    wide = near.detach().double()
    torch.testing.assert_close(near.grad[1:].double(), (wide.exp() / torch.expm1(wide))[1:], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("dpo", {"prompt": "a", "chosen": "b"}, "needs the columns prompt, chosen, rejected"),
        ("dpo", {"chosen": "b", "rejected": "c"}, "each answer must be a conversation"),
        ("kto", {"prompt": "a", "completion": "b", "label": 3}, "label: true or false"),
    ],
)
def test_rows_that_cannot_be_used(name, row, words):
    tokenizer = train_tokenizer("bpe", ["some words " * 9], vocab_size=270, special_tokens=["<|endoftext|>"])
    with pytest.raises(DataError, match=words):
        registry.build("objective", name, tokenizer=tokenizer).collate([row, row])
