"""The autoregressive loss and its gradients beside transformers' Llama, packed rows beside documents one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from llmanac.core import registry, spec
from llmanac.core.errors import DataError
from llmanac.core.types import IGNORE
from llmanac.data.pack import ListStream, MixedRows, PackedStream, best_fit
from llmanac.data.tokens import TokenDataset

VOCAB = 97


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small models gain nothing from two, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model_of(seed=0, dtype=torch.float64):
    mixer = {"name": "grouped-query", "heads": 4, "kv_heads": 2}
    block = spec.make_method("block", {"name": "pre-norm", "mixer": mixer, "ffn": {"name": "swiglu", "width": 96}})
    model = registry.build("lm", "transformer", dim=64, layers=2, blocks=(block,), vocab_size=VOCAB)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2 + (1.0 if p.ndim == 1 else 0.0))
    return model.to(dtype)


def llama_of(model):
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, rms_norm_eps=1e-6, max_position_embeddings=128,
        attn_implementation="eager",
    )  # fmt: skip
    llama = transformers.LlamaForCausalLM(config).to(torch.float64)
    state = {name: p.detach().clone() for name, p in model.named_parameters()}
    missing = llama.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"lm_head.weight"}
    return llama


def documents(count=40, seed=0, most=30):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, VOCAB, generator.integers(2, most)) for _ in range(count)]


def test_autoregressive_loss_and_gradient_equal_llama():
    """Ragged rows, float64, weights at 0.2: the mean over tokens and every gradient."""
    model, rows = model_of(), documents(5)
    llama = llama_of(model)
    objective = registry.build("objective", "autoregressive")
    loss, units, _ = objective.loss(model, objective.collate(rows))
    (loss / units).backward()
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), -100)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = labels[i, : len(row)] = torch.from_numpy(row)
    theirs = llama(input_ids=ids, attention_mask=(labels != -100).long(), labels=labels).loss
    theirs.backward()
    assert units == sum(len(row) - 1 for row in rows)
    assert float(loss / units) == pytest.approx(float(theirs), rel=1e-6)
    wanted = dict(llama.named_parameters())
    for name, p in model.named_parameters():
        # transformers works out its RoPE angles and its loss in float32
        torch.testing.assert_close(p.grad, wanted[name].grad, rtol=1e-4, atol=1e-6, msg=name)
        assert p.grad.abs().max() > 1e-4


@pytest.mark.parametrize("packing", ["cut", "whole"])
def test_a_packed_row_loses_what_its_documents_lose(packing, tmp_path):
    """No attention and no target crosses documents: packed rows sum to their parts computed alone."""
    dataset = TokenDataset.write_examples(tmp_path / "d", [(d, None) for d in documents()], vocab_size=VOCAB)
    stream = PackedStream(dataset, length=48, rows=1, seed=3, packing=packing)
    model = model_of()
    objective = registry.build("objective", "autoregressive")
    for row in stream.take(6):
        batch = objective.collate([row])
        loss = objective.loss(model, batch)[0]
        parts = [row.ids[row.segments == s] for s in range(row.segments.max() + 1)]
        alone = [objective.loss(model, objective.collate([part]))[0] for part in parts if len(part) > 1]
        torch.testing.assert_close(loss, sum(alone))
        assert len(parts) > 1
        joined = objective.loss(model, objective.collate([row.ids]))[0]
        assert abs(float(joined - loss)) > 1e-3  # the check can fail: without segments the loss is another


def test_every_token_of_an_epoch_is_trained_once(tmp_path):
    written = documents(60)
    dataset = TokenDataset.write_examples(
        tmp_path / "d", [(d, None) for d in written], vocab_size=VOCAB, shard_tokens=100
    )
    assert len(dataset.manifest["shards"]) > 3
    assert all(np.array_equal(a, b) for a, b in zip(dataset, written, strict=True))
    stream = PackedStream(dataset, length=16, rows=4, seed=1)
    objective = registry.build("objective", "autoregressive")
    rows = stream.take(stream.plan(0))
    batches = [objective.collate([row]) for row in rows]
    targets = np.sort(np.concatenate([b.targets[b.targets != IGNORE].numpy() for b in batches]))
    # a document's first token is never predicted; where a cut falls on a document's start nothing more is lost
    expected = np.sort(np.concatenate([d[1:] for d in written]))
    assert np.array_equal(targets, expected)
    again = PackedStream(dataset, length=16, rows=4, seed=1)
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(rows, again.take(len(rows)), strict=True))
    other = PackedStream(dataset, length=16, rows=4, seed=2)
    assert any(not np.array_equal(a.ids, b.ids) for a, b in zip(rows, other.take(len(rows)), strict=True))
    following = stream.take(len(rows))  # the next epoch has another order
    assert any(not np.array_equal(a.ids, b.ids) for a, b in zip(rows, following, strict=True))


def test_a_corpus_smaller_than_a_row(tmp_path):
    dataset = TokenDataset.write_examples(tmp_path / "d", [([1, 2, 3], None)], vocab_size=VOCAB)
    batch = registry.build("objective", "autoregressive").collate(next(PackedStream(dataset, length=16, rows=3)))
    assert batch.ids.shape == (3, 16) and batch.units == 6


def test_the_state_of_a_list_belongs_to_its_items():
    """Of an earlier version, which has no hash of them, it is taken."""
    items = [(np.arange(n), (n, {"a": f"{n}", "b": None})) for n in range(1, 6)]
    state, _ = ListStream(items, seed=4).state()
    again = [(np.arange(n), (n, {"b": None, "a": f"{n}"})) for n in range(1, 6)]
    ListStream(again, seed=4).restore(state, {})
    ListStream(again, seed=4).restore({**state, "of": "5 items/4/items"}, {})
    for other in ((np.arange(5), (5, {"a": "5", "b": 0})), (np.arange(5) > 0, items[4][1]), (np.arange(5), (5,))):
        with pytest.raises(DataError, match="resume with the same data"):
            ListStream([*items[:4], other], seed=4).restore(state, {})


def test_streams_resume_anywhere(tmp_path):
    def sources():
        made = [TokenDataset(tmp_path / name) for name in "ab"]
        streams = {
            "a": PackedStream(made[0], length=16, seed=1, name="a"),
            "b": PackedStream(made[1], length=16, seed=1, packing="whole", name="b"),
            "c": ListStream([np.full(17, i) for i in range(5)], seed=4),
        }
        return MixedRows(streams, {"a": 3, "b": 1, "c": 1}, rows=3, seed=9)

    for i, name in enumerate("ab"):
        TokenDataset.write_examples(tmp_path / name, [(d, None) for d in documents(8, i, 17)], vocab_size=VOCAB)
    one, key = sources(), lambda row: getattr(row, "ids", row).tolist()
    steps, states = [], []
    for _ in range(30):
        states.append(one.state())
        steps.append([key(row) for row in next(one)])
    for at in (0, 1, 7, 29):
        other = sources()
        other.restore(*states[at])
        assert [[key(row) for row in next(other)] for _ in range(at, 30)] == steps[at:]
    whole = sources()
    assert [key(row) for row in whole.take(90)] == [row for step in steps for row in step]  # step size does not matter
    with pytest.raises(DataError, match="state of the data belongs to"):
        PackedStream(TokenDataset(tmp_path / "a"), length=8).restore(states[3][0]["streams"]["a"], {})


def test_a_mixture_keeps_its_weights(tmp_path):
    lists = {name: ListStream([name], name=name) for name in "xyz"}
    drawn = MixedRows(lists, {"x": 0.6, "y": 0.3, "z": 0.1}, seed=0).take(4000)
    for name, share in (("x", 0.6), ("y", 0.3), ("z", 0.1)):
        assert drawn.count(name) / 4000 == pytest.approx(share, abs=0.03)


def test_best_fit_fills_bins_and_splits_nothing():
    sizes = np.random.default_rng(0).integers(1, 65, 3000)
    bins = best_fit(sizes, 64)
    assert sorted(item for b in bins for item in b) == list(range(3000))
    assert max(sizes[b].sum() for b in map(list, bins)) <= 64
    assert len(bins) < 1.03 * sizes.sum() / 64


def test_data_that_cannot_be_used_says_why(tmp_path):
    with pytest.raises(DataError, match="there is no text"):
        TokenDataset.write_examples(tmp_path / "none", [], vocab_size=9)
    with pytest.raises(DataError, match="do not fit a vocabulary of 9"):
        TokenDataset.write_examples(tmp_path / "none", [([1, 9], None)], vocab_size=9)
    with pytest.raises(DataError, match="a loss mask of 1"):
        TokenDataset.write_examples(tmp_path / "none", [([1, 2], [True])], vocab_size=9)
    assert not (tmp_path / "none").exists()
    dataset = TokenDataset.write_examples(tmp_path / "d", [(d, None) for d in documents()], vocab_size=VOCAB)
    dataset.verify()
    shard = tmp_path / "d" / "tokens-00000.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-2])
    with pytest.raises(DataError, match=r"tokens-00000\.bin: has \d+ bytes, not"):
        TokenDataset(tmp_path / "d")
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match="has changed since it was written"):
        TokenDataset(tmp_path / "d").verify()


def test_wide_vocabularies_take_four_bytes(tmp_path):
    dataset = TokenDataset.write_examples(tmp_path / "d", [([70_000, 1], None)], vocab_size=128_256)
    assert dataset.dtype == np.uint32 and dataset[0].tolist() == [70_000, 1]


def test_full_finetuning_equals_transformers(tmp_path):
    """Standard fine-tuning on ragged rows whose prompts carry no loss: loss and gradients by transformers' labels."""
    from _small_models import gradients, randomise

    from llmanac.models.load import load_model

    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5,
    )  # fmt: skip
    theirs = randomise(transformers.LlamaForCausalLM(config))
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    generator = np.random.default_rng(0)
    rows = [(generator.integers(0, 61, n), np.arange(n) >= start) for n, start in ((9, 3), (14, 1), (5, 4))]
    objective = registry.build("objective", "autoregressive")
    loss, units, _ = objective.loss(ours, objective.collate(rows))
    (loss / units).backward()
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row, _ in rows])
    labels = torch.full_like(ids, -100)
    for line, (row, mask) in zip(labels, rows, strict=True):
        line[: len(row)][torch.from_numpy(mask)] = torch.from_numpy(row)[torch.from_numpy(mask)]
    seen = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row, _ in rows])
    expected = theirs(input_ids=ids, attention_mask=seen, labels=labels).loss
    expected.backward()
    torch.testing.assert_close(loss / units, expected, rtol=1e-5, atol=1e-6)
    own = gradients(ours)
    for name, gradient in gradients(theirs).items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-4, atol=1e-6)


def test_full_training_holds_sixteen_bytes_a_parameter():
    """Weights, gradients and AdamW's two averages in float32, counted over the live tensors: 1040 GB for 65 billion."""
    from llmanac.core.types import Batch

    model = registry.build("lm", "transformer", dim=32, layers=2, max_length=32, vocab_size=61)
    optimizer = spec.make_method("optimizer", "adamw").build(model=model)
    ids = torch.randint(61, (2, 9))
    model.nll(Batch(ids=ids[:, :-1], targets=ids[:, 1:])).backward()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step(1.0, 1.0)
    parameters = list(model.parameters())
    held = [*parameters, *[p.grad for p in parameters], *[t for t in optimizer.state.values() if t.ndim]]
    assert sum(t.nbytes for t in held) == 16 * model.parameter_count()
    assert 16 * 65_000_000_000 == 1040 * 10**9
    blocks = [p for p in parameters if p.ndim > 1 and p.grad.abs().max() > 0]
    assert blocks and all((a != b).any() for a, b in zip(before, parameters, strict=True) if b.grad.abs().max() > 0)
