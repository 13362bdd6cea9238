"""Every name of every kind of model part runs through the same suite; no method has code of its own here.

A model is built around each name in turn: causality, cached == uncached in every chunking, packing, batch-mates,
gradients, Spec round trips, and errors that name the field.
"""

from __future__ import annotations

import dataclasses
import tomllib

import pytest
import torch
from _small_models import VOCABULARY, gradients, randomise, shifted, tokens

from llmanac.core import registry
from llmanac.core.errors import RequestError, SpecError
from llmanac.core.spec import dump, make_method, patch, to_toml
from llmanac.core.types import ALL, HIDDEN, LAST, Batch, LanguageModel, OutputRequest

KINDS = ("position", "norm", "score", "mixer", "ffn", "block", "head")
SOURCE = {("mixer", "cross")}  # reads another sequence: see test_encoder_decoders.py
CASES = [(kind, name) for kind in KINDS for name in registry.methods(kind) if (kind, name) not in SOURCE]
PLACES = {
    "position": "position",
    "norm": "norm",
    "head": "head",
    "block": "blocks.*",
    "mixer": "blocks.*.mixer",
    "ffn": "blocks.*.ffn",
    "score": "blocks.*.mixer.score",
}
BASE = {"name": "transformer", "dim": 32, "layers": 2, "max_length": 64}
every = pytest.mark.parametrize("kind, name", CASES, ids=[f"{k}/{n}" for k, n in CASES])
# how attention is computed matters to the parts inside it; the others run through the first
FORMS, INSIDE = ("sdpa", "plain", "blocks", "flash"), ("position", "score", "mixer")
FORMED = [(kind, name, form) for kind, name in CASES for form in (FORMS if kind in INSIDE else FORMS[:1])]
every_form = pytest.mark.parametrize("kind, name, form", FORMED, ids=[f"{f}-{k}/{n}" for k, n, f in FORMED])


def spec_of(kind, name):
    return patch(make_method("lm", BASE), {PLACES[kind]: name})


def model_of(kind, name, dtype=torch.float64):
    return randomise(spec_of(kind, name).build(vocab_size=VOCABULARY)).to(dtype).eval()


def claims(model, *what):
    """Whether all blocks of a model claim to support something; a test of it is skipped where they do not."""
    return all(set(what) <= layer.supports for layer in model.model.layers)


def refuses(model, batch, field, state=None):
    """What a model does not claim it refuses, naming the field."""
    with pytest.raises(RequestError, match=field):
        model(batch, state)


@every
def test_a_model_is_a_language_model(kind, name):
    model = model_of(kind, name)
    assert isinstance(model, LanguageModel)
    assert model.vocab_size == VOCABULARY and model.max_length == 64
    ids = tokens(2, 9)
    logits = model(ids).logits
    assert logits.shape == (2, 9, VOCABULARY) and logits.isfinite().all()
    torch.testing.assert_close(model(ids, want=LAST).logits, logits[:, -1:])
    assert model(ids, want=HIDDEN).hidden.shape == (2, 9, 32)
    lengths = torch.tensor([9, 4])
    last = model(Batch(ids=ids, lengths=lengths), want=LAST).logits
    torch.testing.assert_close(last[1, 0], logits[1, 3])


@every
def test_causal(kind, name):
    """The future changes nothing; the present does."""
    model, ids = model_of(kind, name), tokens(2, 20)
    other = ids.clone()
    other[:, 12:] = (other[:, 12:] + 1) % VOCABULARY
    a, b = model(ids).logits, model(other).logits
    torch.testing.assert_close(a[:, :12], b[:, :12], rtol=0, atol=1e-12)
    assert (a[:, 12:] - b[:, 12:]).abs().amax((0, 2)).min() > 1e-6


@every
def test_the_past_is_used(kind, name):
    model, ids = model_of(kind, name), tokens(1, 20)
    other = ids.clone()
    other[:, 14] = (other[:, 14] + 1) % VOCABULARY
    assert (model(ids).logits - model(other).logits)[:, 15:].abs().max() > 1e-6


CHUNKINGS = [(20,), (1,) * 20, (7, 13), (3, 1, 9, 1, 1, 5), (19, 1)]


@every_form
def test_cached_equals_uncached_in_every_chunking(kind, name, form):
    model, ids = model_of(kind, name), tokens(3, 20)
    model.attention_form = form
    with torch.inference_mode():
        full = model(ids).logits
        for chunks in CHUNKINGS:
            state = model.start(3)
            parts = [model(part, state).logits for part in ids.split(chunks, dim=1)]
            torch.testing.assert_close(torch.cat(parts, 1), full, rtol=0, atol=1e-10)
            assert state.lengths.tolist() == [20] * 3


@every
def test_ragged_rows_equal_each_row_alone(kind, name):
    """Rows grow by different numbers of tokens a step; every real token's logits are those of its row by itself."""
    model, ids = model_of(kind, name), tokens(3, 24)
    steps = [(7, 3, 5), (1, 1, 1), (4, 0, 2), (1, 6, 1), (2, 2, 2)]
    state, taken = model.start(3), [0, 0, 0]
    with torch.inference_mode():
        full = model(ids).logits
        for step in steps:
            chunk = torch.zeros(3, max(step), dtype=torch.long)
            for row, count in enumerate(step):
                chunk[row, :count] = ids[row, taken[row] : taken[row] + count]
            logits = model(Batch(ids=chunk, lengths=torch.tensor(step)), state).logits
            for row, count in enumerate(step):
                expected = full[row, taken[row] : taken[row] + count]
                torch.testing.assert_close(logits[row, :count], expected, rtol=0, atol=1e-10)
                taken[row] += count
            assert state.lengths.tolist() == taken


@every
def test_states_are_selected_joined_and_rewound(kind, name):
    model, ids = model_of(kind, name), tokens(4, 20)
    with torch.inference_mode():
        full = model(ids).logits
        a, b = model.start(2), model.start(2)
        model(ids[:2, :9], a), model(ids[2:, :5], b, HIDDEN)
        joined = a.join(b)
        assert joined.lengths.tolist() == [9, 9, 5, 5]
        model(ids[:2, 9:12], a)  # the parts live on by themselves
        order = torch.tensor([3, 0, 2, 0])
        picked = joined.select(order)
        nxt = torch.stack([ids[r, joined.lengths[r]] for r in order])[:, None]
        logits = model(nxt, picked).logits[:, 0]
        for i, r in enumerate(order):
            torch.testing.assert_close(logits[i], full[r, joined.lengths[r]], rtol=0, atol=1e-10)
        mark = joined.mark()
        model(tokens(4, 6, seed=9), joined)
        joined.rewind(mark)
        back = [4, 9, 5, 0] if claims(model, "rewind") else [9, 9, 5, 0]
        if not claims(model, "rewind"):
            with pytest.raises(RequestError, match="state"):
                joined.rewind(None, [4, 9, 5, 0])
        joined.rewind(None, back)
        joined.reserve(40)
        held = joined.nbytes
        rest = torch.stack([ids[r, start : start + 8] for r, start in enumerate(back)])
        logits = model(rest, joined).logits
        for r, start in enumerate(back):
            torch.testing.assert_close(logits[r], full[r, start : start + 8], rtol=0, atol=1e-10)
        assert joined.nbytes == held > 0


@every
def test_rows_come_and_go_over_one_memory(kind, name):
    """Rows are added, read as a range, moved, copied and dropped; each goes on as it does alone."""
    model, ids = model_of(kind, name), tokens(5, 20)
    with torch.inference_mode():
        full = model(ids).logits
        state, held = model.start(0), []

        def read(start, stop, count):
            part = state.view(start, stop)
            chunk = torch.stack([ids[r, n : n + count] for r, n in zip(held[start:stop], part.counts, strict=True)])
            before, logits = part.counts, model(chunk, part).logits
            for i, row in enumerate(held[start:stop]):
                expected = full[row, before[i] : before[i] + count]
                torch.testing.assert_close(logits[i], expected, rtol=0, atol=1e-10)

        for rows, count in (([0, 1], 5), ([2], 3), ([3, 4], 2)):
            state.extend(len(rows))
            held += rows
            read(len(held) - len(rows), len(held), count)  # new rows are read in place, beside those that run
            read(0, len(held), 1)
        for order in ([4, 1, 2, 3], [0, 1, 1, 3], [2, 0], [1, 1, 0]):
            state.arrange(order)
            held = [held[i] for i in order]
            read(0, len(held), 2)
        assert state.batch == 3


@every
def test_a_mark_is_returned_to_after_any_number_of_tokens(kind, name):
    """Tokens that were read on trial leave no trace: what speculation needs of a state."""
    model, ids = model_of(kind, name), tokens(2, 24)
    with torch.inference_mode():
        full = model(ids).logits
        state = model.start(2)
        model(ids[:, :9], state)
        mark = state.mark()
        model(tokens(2, 5, seed=3), state)
        state.rewind(mark)
        torch.testing.assert_close(model(ids[:, 9:14], state).logits, full[:, 9:14], rtol=0, atol=1e-10)
        if claims(model, "rewind"):  # and keep what turned out right
            state.rewind(mark, [12, 10])
            rest = torch.stack([ids[0, 12:15], ids[1, 10:13]])
            logits = model(rest, state).logits
            torch.testing.assert_close(logits[0], full[0, 12:15], rtol=0, atol=1e-10)
            torch.testing.assert_close(logits[1], full[1, 10:13], rtol=0, atol=1e-10)


@every
def test_one_pass_gives_what_several_give(kind, name):
    """Logits, hidden states, nll and entropy of one forward pass equal those of one pass each; so do gradients."""
    model = model_of(kind, name)
    batch = shifted(tokens(2, 15))
    want = OutputRequest(logits="all", hidden=True, layers=(0, 1, 2), nll="none", entropy=True)
    once = model(batch, want=want)
    torch.testing.assert_close(once.logits, model(batch, want=ALL).logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(once.hidden, model(batch, want=HIDDEN).hidden, rtol=0, atol=1e-12)
    torch.testing.assert_close(once.nll, model(batch, want=OutputRequest(nll="none")).nll, rtol=0, atol=1e-12)
    torch.testing.assert_close(once.nll.sum(), model(batch, want=OutputRequest(nll="sum")).nll, rtol=1e-12, atol=1e-12)
    log_p = once.logits.log_softmax(-1)
    torch.testing.assert_close(once.entropy, -(log_p.exp() * log_p).sum(-1), rtol=0, atol=1e-10)
    assert [x.shape for x in once.layers] == [(2, 14, 32)] * 3
    torch.testing.assert_close(model.model.norm(once.layers[2]), once.hidden, rtol=0, atol=0)
    (once.nll.sum() + 0.1 * once.entropy.sum()).backward()
    together = gradients(model)
    model.zero_grad()
    model.nll(batch).backward()
    (0.1 * model(batch, want=OutputRequest(entropy=True)).entropy.sum()).backward()
    for key, value in gradients(model).items():
        torch.testing.assert_close(value, together[key], rtol=1e-8, atol=1e-10)
    refused = model(batch, want=OutputRequest(hidden=True))
    assert refused.logits is None and refused.nll is None and refused.entropy is None and refused.layers == ()
    with pytest.raises(RequestError, match="layers"):
        model(batch, want=OutputRequest(layers=(3,)))


@every
def test_embeddings_equal_their_tokens(kind, name):
    """Soft-prompt embeddings in place of ids, with and without a state."""
    model, ids = model_of(kind, name), tokens(2, 12)
    if model.lm_head.remembers:
        refuses(model, Batch(embeddings=model.embed(ids)), "embeddings")
        return
    with torch.no_grad():
        full = model(ids).logits
        torch.testing.assert_close(model(Batch(embeddings=model.embed(ids))).logits, full, rtol=0, atol=1e-12)
        state = model.start(2)
        soft = model(Batch(embeddings=model.embed(ids[:, :5])), state).logits
        rest = model(ids[:, 5:], state).logits
    torch.testing.assert_close(torch.cat([soft, rest], 1), full, rtol=0, atol=1e-10)
    refuses(model, Batch(ids=ids, embeddings=model.embed(ids)), "batch")
    refuses(model, Batch(embeddings=torch.zeros(1, 2, 3)), "embeddings")


@every
def test_batch_mates_change_nothing(kind, name):
    model, ids = model_of(kind, name), tokens(5, 18)
    full = model(ids).logits
    for row in range(5):
        torch.testing.assert_close(model(ids[row : row + 1]).logits[0], full[row], rtol=0, atol=1e-12)
    padded = torch.cat([ids, tokens(5, 6, seed=7)], 1)
    lengths = torch.full((5,), 18)
    torch.testing.assert_close(model(Batch(ids=padded, lengths=lengths)).logits[:, :18], full, rtol=0, atol=1e-12)


@every_form
def test_packed_documents_equal_documents_alone(kind, name, form):
    """Loss and gradients of a packed row are those of its documents one by one."""
    model = model_of(kind, name)
    if not claims(model, "packed"):
        refuses(model, Batch(ids=tokens(1, 3), segments=torch.tensor([[0, 1, 1]])), "segments")
        return
    model.attention_form = form
    documents = [tokens(1, n, seed=n) for n in (9, 2, 13)]
    alone = sum(model.nll(shifted(d)) for d in documents)
    alone.backward()
    expected = {k: v.clone() for k, v in gradients(model).items()}
    model.zero_grad()
    inputs, targets = (torch.cat(x, 1) for x in zip(*((d[:, :-1], d[:, 1:]) for d in documents), strict=True))
    segments = torch.cat([torch.full((1, d.shape[1] - 1), i) for i, d in enumerate(documents)], 1)
    positions = torch.cat([torch.arange(d.shape[1] - 1)[None] for d in documents], 1)
    packed = model.nll(Batch(ids=inputs, targets=targets, segments=segments, positions=positions))
    torch.testing.assert_close(packed, alone, rtol=1e-10, atol=1e-10)
    packed.backward()
    for key, value in gradients(model).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-7, atol=1e-9)


@every
def test_nll_equals_cross_entropy_of_the_logits(kind, name):
    model, ids = model_of(kind, name), tokens(2, 15)
    batch = shifted(ids)
    logits = model(batch).logits
    rows = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
    torch.testing.assert_close(model.nll(batch, "none"), rows.view(2, 14), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.nll(batch), rows.sum(), rtol=1e-9, atol=1e-9)


@every
def test_every_parameter_gets_a_gradient(kind, name):
    model = model_of(kind, name)
    model.nll(shifted(tokens(2, 20))).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{key} is not used"
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, key


@every
def test_bfloat16_follows_float32(kind, name):
    """compute_dtype casts activations alone: weights, their gradients and the loss stay float32."""
    model, batch = model_of(kind, name, torch.float32), shifted(tokens(2, 20))
    exact = model.nll(batch)
    model.compute_dtype = torch.bfloat16
    low = model.nll(batch)
    low.backward()
    assert low.dtype == torch.float32 and model(batch).logits.dtype == torch.float32
    assert all(p.dtype == torch.float32 and p.grad.dtype == torch.float32 for p in model.parameters())
    assert model(batch, want=OutputRequest(layers=(1,))).layers[0].dtype == torch.bfloat16
    assert 0 < abs(low.item() - exact.item()) < 0.05 * exact.item()


@every
def test_initial_weights_depend_on_seed_name_and_shape_alone(kind, name):
    spec = spec_of(kind, name)
    a, b, c = (
        spec.build(vocab_size=50),
        spec.build(vocab_size=50).initialise(0),
        spec.build(vocab_size=50).initialise(1),
    )
    base = make_method("lm", BASE).build(vocab_size=50)
    shared = 0
    for key, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[key])
        if key in base.state_dict() and base.state_dict()[key].shape == value.shape:
            shared += torch.equal(base.state_dict()[key], value)
    assert shared > 0
    assert not torch.equal(a.model.embed_tokens.weight, c.model.embed_tokens.weight)
    # An untrained model knows nothing. (Its head is its own here: where it is tied and embeddings enter at a scale of
    # sqrt(D), as sinusoids want it, the first guess is the token just read.)
    untied = patch(spec, {"tied": False}).build(vocab_size=50)
    first = untied.nll(shifted(tokens(4, 30, below=50))).item() / (4 * 29)
    assert abs(first - torch.tensor(50.0).log().item()) < 0.3


@every
def test_specs_round_trip(kind, name):
    spec = spec_of(kind, name)
    data = dump(spec)
    assert make_method("lm", data) == spec and hash(spec)
    assert make_method("lm", tomllib.loads(to_toml(data))) == spec
    part = make_method(kind, name)
    assert make_method(kind, dump(part)) == part and len(dataclasses.fields(part)) <= 12


@every
def test_unknown_fields_are_named(kind, name):
    with pytest.raises(SpecError, match=rf"{PLACES[kind].split('.')[0]}.*: no such field"):
        patch(spec_of(kind, name), {f"{PLACES[kind]}.no_such_field": 1})


@every
def test_flops_follow_the_products(kind, name):
    """flops_per_token(T) against torch's counter of a full attention; ours counts the half that a causal mask needs."""
    from torch.utils.flop_counter import FlopCounterMode

    model = model_of(kind, name)
    model.attention_form = "plain"
    length = 32
    with FlopCounterMode(display=False) as counter:
        model(tokens(1, length))
    # with every key seen, as the plain form computes it
    # what a filter is made with, once for all rows, is no part of a token's work
    once = sum(getattr(layer.self_attn, "kernel_flops", lambda n: 0.0)(length) for layer in model.model.layers)
    windowed = [getattr(layer.self_attn, "window", None) for layer in model.model.layers]
    if all(w is None or w >= length for w in windowed):
        assert abs((counter.get_total_flops() - once) / (length * model.forward_flops(length)) - 1) < 0.01
    assert model.flops_per_token(length) == pytest.approx(3 * model.forward_flops((length + 1) / 2))
    assert model.parameter_count() == len(torch.cat([p.flatten() for p in model.parameters()]))


@every
def test_prefix_and_bidirectional_masks(kind, name):
    """Prefix tokens see each other and never what follows; all see all when bidirectional."""
    model, ids = model_of(kind, name), tokens(2, 16)
    prefix = torch.tensor([6, 9])
    if not claims(model, "prefix", "bidirectional"):
        refuses(model, Batch(ids=ids, mask="prefix", prefix=prefix), "mask")
        refuses(model, Batch(ids=ids, mask="bidirectional"), "mask")
        return
    both = model(Batch(ids=ids, mask="prefix", prefix=prefix), want=HIDDEN).hidden
    whole = model(Batch(ids=ids[:1, :6], mask="bidirectional"), want=HIDDEN).hidden
    torch.testing.assert_close(both[0, :6], whole[0], rtol=0, atol=1e-10)
    causal = model(Batch(ids=ids), want=HIDDEN).hidden
    assert (both - causal)[:, 0].abs().max() > 1e-6
    state = model.start(2)
    parts = [
        model(Batch(ids=chunk, mask="prefix", prefix=prefix), state, HIDDEN).hidden
        for chunk in ids.split((11, 1, 4), 1)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), both, rtol=0, atol=1e-10)
