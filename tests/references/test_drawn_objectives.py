"""Masked, prefix, span corruption and GLM: losses and gradients as transformers', what is drawn as the papers say."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
import transformers
from _small_models import gradients, randomise, transformer

from llmanac.core import registry, spec
from llmanac.core.errors import DataError, RequestError, SpecError
from llmanac.core.types import IGNORE, Batch
from llmanac.data.pack import PackedRow
from llmanac.data.tokens import TokenDataset
from llmanac.models.load import load_model
from llmanac.objectives._drawn import poisson_spans
from llmanac.recipes.parts import TokenizedText, tokenizer_of
from llmanac.tokenizers._template import PLAIN, TokenTemplate
from llmanac.tokenizers.load import train_tokenizer

VOCAB = 60
SPECIAL = ["<|endoftext|>", "<|mask|>", "<|sop|>", "<|eop|>", *(f"<extra_id_{n}>" for n in range(100))]


class Ids:
    """A tokenizer of numbers: the special tokens come last."""

    template = PLAIN

    vocab_size = VOCAB
    special_tokens: ClassVar = {
        "<|mask|>": 59,
        "<|sop|>": 58,
        "<|eop|>": 57,
        **{f"<extra_id_{n}>": 40 + n % 17 for n in range(100)},
    }

    def token_bytes(self, id):
        return (b" ab"[:2] if id % 3 == 0 else b"ab") if id < 40 else b""


def rows(*lengths, seed=1):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 40, n) for n in lengths]


def ours(theirs, folder, **choices):
    theirs.save_pretrained(folder)
    return load_model(folder, dtype="float64", device="cpu", **choices)


def small(kind, **choices):
    config = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    more = {"num_attention_heads": 4, "max_position_embeddings": 64, "attn_implementation": "eager"}
    return getattr(transformers, f"{kind}Config")(**config, **more, **choices)


def same(theirs_loss, theirs_model, loss, model, of, exact=1e-9):
    """The losses, and the gradients of the embedding tables."""
    torch.testing.assert_close(loss, theirs_loss, rtol=exact, atol=exact)
    theirs_loss.backward()
    loss.backward()
    expected = theirs_model.get_input_embeddings().weight.grad
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(of(model).weight.grad, expected, rtol=1e-7, atol=exact * 100)


# ------------------------------------------------------------------------------------------------ masked


def test_masked_loss_and_gradient_equal_berts(tmp_path):
    config = small("Bert", pad_token_id=None, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    theirs = randomise(transformers.BertForMaskedLM(config)).double().eval()
    model = ours(theirs, tmp_path).train()
    objective = registry.build("objective", "masked", tokenizer=Ids(), rate=0.3)
    batch = objective.collate(rows(31, 18, 25))
    assert batch.mask == "bidirectional" and batch.ids.shape == (3, 31)
    loss, units, _ = objective.loss(model, batch)
    real = torch.arange(31)[None] < batch.lengths[:, None]
    found = theirs(input_ids=batch.ids, attention_mask=real.long(), labels=batch.targets)
    assert units == (batch.targets != IGNORE).sum() == round(0.3 * 31) + round(0.3 * 18) + round(0.3 * 25)
    same(found.loss * units, theirs, loss, model, lambda m: m.model.embed_tokens)


def test_packed_documents_are_masked_as_if_alone():
    objective = registry.build("objective", "masked", tokenizer=Ids(), rate=0.4)
    segments = np.repeat([0, 1, -1], [12, 9, 3]).astype(np.int32)
    positions = np.concatenate([np.arange(12), np.arange(9), np.zeros(3)]).astype(np.int32)
    row = PackedRow(np.concatenate([rows(21)[0], np.zeros(3, np.int64)]), segments, positions)
    batch = objective.collate([row])
    assert batch.segments is not None and (batch.targets[0, 21:] == IGNORE).all()
    model = transformer(vocab_size=VOCAB, position="learned")
    loss = objective.loss(model, batch)[0]
    parts = [
        Batch(ids=batch.ids[:, a:b], targets=batch.targets[:, a:b], mask="bidirectional")
        for a, b in ((0, 12), (12, 21))
    ]
    torch.testing.assert_close(loss, sum(objective.loss(model, part)[0] for part in parts))


def test_rates_are_80_10_10_and_random_tokens_are_plain():
    objective = registry.build("objective", "masked", tokenizer=Ids())
    text = rows(20_000)[0]
    batch = objective.collate([text])
    ids, chosen = batch.ids[0].numpy(), batch.targets[0].numpy() != IGNORE
    assert chosen.sum() == 3000 and (ids[~chosen] == text[~chosen]).all()
    assert (batch.targets[0].numpy()[chosen] == text[chosen]).all()
    masked, same_ = (ids[chosen] == 59).mean(), (ids[chosen] == text[chosen]).mean()
    assert abs(masked - 0.8) < 4 * (0.16 / 3000) ** 0.5
    assert abs(same_ - (0.1 + 0.1 / 40)) < 4 * (0.09 / 3000) ** 0.5
    assert set(ids[chosen]) - {59} <= set(range(40))


def test_whole_words_and_spans():
    text = rows(4000)[0]  # ids that 3 divides begin a word
    whole = registry.build("objective", "whole-word", tokenizer=Ids()).collate([text])
    chosen = whole.targets[0].numpy() != IGNORE
    starts = np.concatenate([[True], text[1:] % 3 == 0])
    words = np.split(chosen, np.flatnonzero(starts)[1:])
    assert all(word.all() or not word.any() for word in words)
    assert 0.14 < chosen.mean() <= 0.15
    spans = registry.build("objective", "span-masked", tokenizer=Ids()).collate([text])
    chosen = spans.targets[0].numpy() != IGNORE
    assert chosen.sum() == 600
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], chosen, [0]]))))[::2]
    assert 3.0 < runs.mean() < 5.5 < runs.max()
    single = registry.build("objective", "masked", tokenizer=Ids()).collate([text]).targets[0].numpy() != IGNORE
    assert np.diff(np.flatnonzero(np.diff(np.concatenate([[0], single, [0]]))))[::2].mean() < 1.4


def test_an_epoch_draws_anew_and_a_resumed_stream_draws_the_same(tmp_path):
    tokenizer = train_tokenizer("utf8", [], special_tokens=SPECIAL)
    dataset = TokenDataset.write(tmp_path / "d", ["a text of some length to hide tokens in " * 4], tokenizer)
    for name in ("masked", "prefix", "glm", "span-corruption"):
        objective = registry.build("objective", name, tokenizer=tokenizer)
        stream = objective.source(TokenizedText(tokenizer, dataset), length=63, rows=1, seed=3)
        epoch = stream.plan(0)
        first = [objective.collate(stream.take(1)) for _ in range(epoch)]
        place = stream.state()
        second = [objective.collate(stream.take(1)) for _ in range(epoch)]
        other = registry.build("objective", name, tokenizer=tokenizer)
        resumed = other.source(TokenizedText(tokenizer, dataset), length=63, rows=1, seed=3)
        resumed.restore(*place)
        again = [other.collate(resumed.take(1)) for _ in range(epoch)]
        drawn = {
            "masked": lambda b: b.ids, "glm": lambda b: b.ids, "prefix": lambda b: b.prefix,
            "span-corruption": lambda b: b.source.ids,
        }[name]  # fmt: skip
        assert all(
            torch.equal(a.ids, b.ids) and torch.equal(a.targets, b.targets) for a, b in zip(second, again, strict=True)
        )
        pairs = [(drawn(a), drawn(b)) for a, b in zip(first, second, strict=True)]
        assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in pairs), name


# ------------------------------------------------------------------------------------------------ prefix


def test_prefix_loss_equals_paligemmas(tmp_path):
    """Its text tower, with its own prefix mask (token_type_ids 0: both ways) and no image."""
    text = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "model_type": "gemma",
            "hidden_activation": "gelu_pytorch_tanh"}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 14, "patch_size": 7, "projection_dim": 32}  # fmt: skip
    config = transformers.PaliGemmaConfig(
        text_config=text, vision_config=vision, image_token_index=58, projection_dim=32
    )
    config._attn_implementation = "eager"
    theirs = randomise(transformers.PaliGemmaForConditionalGeneration(config)).double().eval()
    tower = transformers.GemmaForCausalLM(
        transformers.GemmaConfig(**{k: v for k, v in text.items() if k != "model_type"})
    )
    tower.model.load_state_dict(theirs.model.language_model.state_dict())
    model = ours(tower.double().eval(), tmp_path).train()
    objective = registry.build("objective", "prefix")
    [text_ids] = rows(24)
    batch = objective.collate([text_ids])
    k = int(batch.prefix)
    assert batch.mask == "prefix" and 1 <= k < 24 and (batch.targets[0] != IGNORE).sum() == 24 - k
    loss, units, _ = objective.loss(model, batch)
    ids = torch.from_numpy(text_ids)[None]
    types = (torch.arange(24) >= k).long()[None]
    logits = theirs(input_ids=ids, attention_mask=torch.ones_like(ids), token_type_ids=types,
                    labels=torch.where(types == 1, ids, IGNORE)).logits  # fmt: skip
    expected = torch.nn.functional.cross_entropy(logits[0, k - 1 : -1], ids[0, k:], reduction="sum")
    assert abs(float(loss) - float(expected)) < 1e-5 * float(expected)  # their norms are float32
    causal = registry.build("objective", "autoregressive").collate([text_ids])
    later = torch.where(batch.targets == IGNORE, IGNORE, causal.targets)
    other = objective.loss(model, Batch(ids=batch.ids, targets=later))[0]
    assert abs(float(other) - float(loss)) > 1e-2  # the mask matters
    assert units == 24 - k


def test_a_marked_answer_decides_the_prefix():
    [text] = rows(20)
    mask = np.arange(20) >= 13
    batch = registry.build("objective", "prefix").collate([(text, mask)])
    assert batch.prefix.tolist() == [13] and (batch.targets[0] != IGNORE).sum() == 7
    source = registry.build("objective", "prefix-source").collate([(text, mask)])
    assert source.source.ids[0].tolist() == text[:13].tolist() and source.targets[0].tolist() == text[13:].tolist()
    words = train_tokenizer("utf8", [])
    words.template = TokenTemplate((("A", 0), ((1, 7), 0)), ())  # as T5's, which end what an encoder reads
    framed = (
        spec.make_method("objective", {"name": "prefix", "form": "source"})
        .build(tokenizer=words)
        .collate([(text, mask)])
    )
    assert framed.source.ids[0].tolist() == [*text[:13].tolist(), 1, 7]
    with pytest.raises(DataError, match="row 0: has no document with two tokens"):
        registry.build("objective", "prefix").collate([(text, np.zeros(20, bool))])
    with pytest.raises(RequestError, match="the model needs an encoder"):
        registry.build("objective", "prefix-source").loss(transformer(vocab_size=VOCAB), source)


def t5(folder):
    config = transformers.T5Config(vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
                                   dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0)  # fmt: skip
    theirs = randomise(transformers.T5ForConditionalGeneration(config)).double().eval()
    return theirs, ours(theirs, folder).train()


@pytest.mark.parametrize("name", ["prefix-source", "span-corruption"])
def test_span_corruption_loss_equals_t5s(name, tmp_path):
    theirs, model = t5(tmp_path)
    objective = registry.build("objective", name, tokenizer=Ids())
    batch = objective.collate(rows(33, 20, 27))
    loss, units, _ = objective.loss(model, batch)
    lengths = batch.source.lengths
    real = torch.arange(batch.source.ids.shape[1])[None] < lengths[:, None]
    found = theirs(input_ids=batch.source.ids, attention_mask=real.long(), labels=batch.targets)
    assert abs(float(loss) - float(found.loss * units)) < 1e-5 * float(loss)  # their softmax and norms are float32
    (found.loss * units).backward()
    loss.backward()
    expected = theirs.shared.weight.grad
    torch.testing.assert_close(model.model.embed_tokens.weight.grad, expected, rtol=1e-3, atol=1e-4)


def test_spans_are_cut_out_and_come_back():
    objective = registry.build("objective", "span-corruption", tokenizer=Ids())
    generator = np.random.default_rng(0)
    total = lengths = 0
    for count in (2, 3, 7, 40, 200):
        text = rows(count, seed=count)[0]
        holes = objective.holes(count, generator)
        source, target = objective.cut(text, holes)
        hidden = sum(stop - start for start, stop in holes)
        assert hidden == min(max(1, round(0.15 * count)), count - 1) and holes[0][0] > 0
        assert len(source) == count - hidden + len(holes) and len(target) == hidden + len(holes) + 1
        filled, at = [], 0
        for n, (start, stop) in enumerate(holes):  # what is cut out goes back to its sentinel
            where = at + (start - (holes[n - 1][1] if n else 0))
            filled += [*source[at:where], *text[start:stop]]
            assert source[where] == objective.sentinels[n]
            at = where + 1
        assert [*filled, *source[at:]] == text.tolist()
        total, lengths = total + len(holes), lengths + hidden
    assert 2.5 < lengths / total < 3.5


# ------------------------------------------------------------------------------------------------ GLM


def llama(folder):
    theirs = randomise(transformers.LlamaForCausalLM(small("Llama", num_key_value_heads=2))).double().eval()
    return theirs, ours(theirs, folder).train()


def test_glm_loss_equals_a_model_with_its_mask(tmp_path):
    """A causal model of transformers, given the same tokens and the mask in full."""
    theirs, model = llama(tmp_path)
    objective = registry.build("objective", "glm", tokenizer=Ids(), rate=0.4)
    [text] = rows(30)
    batch = objective.collate([text])
    loss, units, _ = objective.loss(model, batch)
    length, prefix = batch.ids.shape[1], int(batch.prefix)
    places = torch.arange(length)
    seen = (places[None] <= places[:, None]) | (places[None] < prefix)
    bias = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -torch.inf)[None, None]
    logits = theirs(input_ids=batch.ids, attention_mask=bias, position_ids=places[None]).logits
    expected = torch.nn.functional.cross_entropy(logits[0], batch.targets[0], ignore_index=IGNORE, reduction="sum")
    assert units == round(0.4 * 30) + (batch.ids == 58).sum()
    assert abs(float(loss) - float(expected)) < 1e-6 * float(expected)
    expected.backward()
    loss.backward()
    torch.testing.assert_close(
        model.model.embed_tokens.weight.grad, theirs.model.embed_tokens.weight.grad, rtol=1e-4, atol=1e-5
    )


def test_one_span_at_the_end_is_prefix_and_one_over_everything_is_autoregressive():
    model = transformer(vocab_size=VOCAB)
    objective = registry.build("objective", "glm-long", tokenizer=Ids())
    [text] = rows(24)

    def batch(start):
        ids, targets, _, _, prefix = objective.fill(text, [(start, 24)])
        return Batch(ids=torch.from_numpy(ids)[None], targets=torch.from_numpy(targets)[None], mask="prefix",
                     prefix=torch.tensor([prefix]))  # fmt: skip

    full = [*text[:15].tolist(), 59, 58, *text[15:].tolist(), 57]
    mask = np.arange(len(full)) >= 17  # the text and [M] are read, [S] begins what is written
    prefixed = registry.build("objective", "prefix").collate([(np.array(full), mask)])
    found = objective.loss(model, batch(15))[0]
    prefixed = Batch(ids=prefixed.ids, targets=prefixed.targets, mask="prefix", prefix=torch.tensor([16]))
    torch.testing.assert_close(
        found, registry.build("objective", "prefix").loss(model, prefixed)[0], rtol=1e-12, atol=0
    )
    everything = [59, 58, *text.tolist(), 57]
    causal = Batch(ids=torch.tensor([everything[:-1]]), targets=torch.tensor([[IGNORE, *everything[2:]]]))
    expected = registry.build("objective", "autoregressive").loss(model, causal)[0]
    torch.testing.assert_close(objective.loss(model, batch(0))[0], expected, rtol=1e-12, atol=0)


def test_positions_are_those_of_the_paper():
    """Figure 2: x1 ... x6 with the spans [x3] and [x5, x6], the second first."""
    objective = registry.build("objective", "glm", tokenizer=Ids())
    ids, targets, positions, within, prefix = objective.fill(np.arange(1, 7), [(4, 6), (2, 3)])
    assert ids.tolist() == [1, 2, 59, 4, 59, 58, 5, 6, 58, 3] and prefix == 5
    assert targets.tolist() == [IGNORE] * 5 + [5, 6, 57, 3, 57]
    assert positions.tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 2, 2]
    assert within.tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 1, 2]


def test_the_order_of_spans_changes_nothing_but_what_later_ones_see():
    model = transformer(vocab_size=VOCAB, position="learned-2d")
    objective = registry.build("objective", "glm", tokenizer=Ids())
    [text] = rows(20)
    spans = [(3, 5), (9, 12)]
    made = {}
    for order in (spans, spans[::-1]):
        ids, targets, positions, within, prefix = (torch.as_tensor(v) for v in objective.fill(text, order))
        batch = Batch(ids=ids[None], targets=targets[None], positions=positions[None], within=within[None],
                      mask="prefix", prefix=prefix[None])  # fmt: skip
        nll = model.nll(batch, "none")[0, int(prefix) :]
        sizes = [b - a + 1 for a, b in order]
        made |= {(span, i): part for i, (span, part) in enumerate(zip(order, nll.split(sizes), strict=True))}
    alone = objective.fill(text, [spans[0]])
    assert len(alone[0]) == 20 - 2 + 1 + 3
    assert made[spans[0], 0].shape == made[spans[0], 1].shape
    assert not torch.allclose(made[spans[0], 0], made[spans[0], 1])  # it sees the other span when it comes second


def test_two_dimensional_positions_are_a_sum_of_two_tables():
    model = transformer(vocab_size=VOCAB, position="learned-2d")
    ids, places, within = (torch.randint(n, (2, 9), generator=torch.Generator().manual_seed(n)) for n in (40, 12, 5))
    position = model.model.position
    batch = Batch(ids=ids, positions=places, within=within, mask="bidirectional")
    x = model.embed(ids) + position.embeddings.weight[places] + position.within.weight[within]
    expected = model(Batch(embeddings=x - position.embeddings.weight[0] - position.within.weight[0],
                           positions=torch.zeros_like(places), mask="bidirectional")).logits  # fmt: skip
    torch.testing.assert_close(model(batch).logits, expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(RequestError, match="within: this model's positions have one dimension"):
        transformer(vocab_size=VOCAB)(batch)


@pytest.mark.parametrize("budget", [1, 6, 15, 40])
def test_spans_of_poisson_lengths_cover_the_budget_and_do_not_touch(budget):
    generator = np.random.default_rng(budget)
    for _ in range(50):
        spans = poisson_spans(40, budget, 3.0, generator)
        covered = sum(b - a for a, b in spans)
        assert covered <= budget and (covered == budget or budget > 20)
        assert spans[0][0] >= 0 and spans[-1][1] <= 40
        assert all(after[0] > before[1] for before, after in itertools.pairwise(spans))


def test_a_recipes_tokenizer_gets_the_tokens_and_another_is_refused():
    recipe = SimpleNamespace(
        objective=spec.make_method("objective", {"name": "glm"}),
        tokenizer=spec.make_method("tokenizer", {"name": "bpe", "special_tokens": ["<|endoftext|>"]}),
    )
    assert tokenizer_of(recipe).special_tokens == ("<|endoftext|>", "<|mask|>", "<|sop|>", "<|eop|>")
    plain = train_tokenizer("utf8", [])
    with pytest.raises(SpecError, match=r"glm needs the special token '<\|mask\|>'"):
        registry.build("objective", "glm", tokenizer=plain)
    with pytest.raises(SpecError, match="masked needs a tokenizer"):
        registry.build("objective", "masked")


def test_gradients_reach_every_parameter():
    for name in ("masked", "prefix", "glm"):
        model = transformer(vocab_size=VOCAB, position="learned-2d" if name == "glm" else "rope").train()
        objective = registry.build("objective", name, tokenizer=Ids(), **({} if name == "prefix" else {"rate": 0.5}))
        objective.loss(model, objective.collate(rows(24, 17)))[0].backward()
        assert all(g.abs().sum() > 0 for g in gradients(model).values())
