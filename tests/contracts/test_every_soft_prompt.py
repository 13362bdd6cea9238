"""What comes before the text, on every kind of layer and position: cached, packed, served, or refused by name."""

from __future__ import annotations

import copy

import pytest
import torch
from _engine_models import VOCABULARY as BYTES
from _engine_models import ByteTokenizer
from _small_models import VOCABULARY, block, gradients, randomise, shifted, tokens, transformer

from llmanac.adapters import applied
from llmanac.core import registry
from llmanac.core.errors import RequestError, SpecError
from llmanac.core.spec import make_method
from llmanac.core.types import Batch, OutputRequest
from llmanac.generate.engine import Engine
from llmanac.models.forward import ATTENTION_FORMS

SOFT_PROMPTS = ("prefix", "prompt")
every = pytest.mark.parametrize("name", SOFT_PROMPTS)
ATTENDING = ("multi-query", "grouped-query", "latent", "longformer", "big-bird")
OTHERS = ("min-gru", "mamba", "linear")


def led(name, model, tokens_=3, std=0.2, **fields):
    transform = make_method("adapter", {"name": name, "tokens": tokens_, **fields}).build(seed=0).apply(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in transform.parameters().values():
            parameter.add_(torch.empty(parameter.shape).normal_(0, std, generator=generator))
    return transform


def check(model, transform, plain):
    """Pieces through a state, rows of other lengths, gradients, and the model alone."""
    ids, lengths = tokens(3, 9), torch.tensor([9, 4, 7])
    found = model(ids).logits
    assert (found - plain).abs().max() > 1e-3
    state = model.start(3)
    pieces = torch.cat([model(part, state).logits for part in ids.split([1, 4, 4], 1)], 1)
    torch.testing.assert_close(pieces, found, rtol=0, atol=1e-10)
    assert state.counts == [9 + transform.tokens] * 3
    padded = model(Batch(ids=ids, lengths=lengths)).logits
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(padded[row, :length], found[row, :length], rtol=0, atol=1e-10)
    batch = shifted(ids)
    nll = model.nll(batch)
    rows = torch.nn.functional.cross_entropy(found[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(nll, rows, rtol=1e-12, atol=0)
    nll.backward()
    assert gradients(model).keys() == transform.parameters().keys()
    assert all(p.grad.abs().sum() > 0 for p in transform.parameters().values())
    with transform.disabled():
        torch.testing.assert_close(model(ids).logits, plain, rtol=0, atol=1e-12)
    transform.remove()
    assert not applied(model) and model.soft_prompt is None
    torch.testing.assert_close(model(ids).logits, plain, rtol=0, atol=1e-12)


@every
@pytest.mark.parametrize("mixer", [*ATTENDING, *OTHERS])
def test_on_every_mixer(name, mixer):
    model = transformer(blocks=block(mixer), layers=1, position="none" if mixer in OTHERS else "rope")
    plain = model(tokens(3, 9)).logits
    if name == "prefix" and mixer in OTHERS:
        with pytest.raises(SpecError, match="prefix: this model has no attention"):
            led(name, model)
        assert model.soft_prompt is None
        return
    check(model, led(name, model), plain)


@every
@pytest.mark.parametrize("position", list(registry.methods("position")))
def test_on_every_position(name, position):
    model = transformer(position=position, layers=1)
    plain = model(tokens(3, 9)).logits
    check(model, led(name, model), plain)


@every
def test_layers_of_both_kinds(name):
    """The prefix is in the layers with attention; a ring that is shorter than the prefix keeps its end."""
    blocks = [*block("min-gru"), *block({"name": "softmax", "window": 4}), *block("multi-head")]
    model = transformer(blocks=blocks, layers=3)
    plain = model(tokens(3, 9)).logits
    check(model, led(name, model, tokens_=6), plain)


@every
@pytest.mark.parametrize("form", ATTENTION_FORMS)
def test_packed_documents_are_those_of_rows_of_their_own(name, form):
    model = transformer()
    model.attention_form = form
    transform = led(name, model)
    ids, other = tokens(2, 12), tokens(2, 12, seed=2)
    segments = torch.tensor([[0] * 5 + [1] * 4 + [2] * 3, [0] * 7 + [1] * 3 + [-1] * 2])
    positions = torch.tensor([[*range(5), *range(4), *range(3)], [*range(7), *range(3), 0, 0]])
    batch = Batch(ids=ids, segments=segments, positions=positions, targets=other.masked_fill(segments < 0, -100))
    packed = model(batch, want=OutputRequest(logits="all", nll="sum", layers=(1,)))
    total = 0.0
    for row, start, end in ((0, 0, 5), (0, 5, 9), (0, 9, 12), (1, 0, 7), (1, 7, 10)):
        alone = Batch(ids=ids[row : row + 1, start:end], targets=other[row : row + 1, start:end])
        own = model(alone, want=OutputRequest(logits="all", nll="sum", layers=(1,)))
        torch.testing.assert_close(packed.logits[row, start:end], own.logits[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(packed.layers[0][row, start:end], own.layers[0][0], rtol=0, atol=1e-10)
        total = total + own.nll
    torch.testing.assert_close(packed.nll, total, rtol=1e-12, atol=0)
    (one,) = transform.parameters().values()
    grads = [torch.autograd.grad(loss, one, retain_graph=True)[0] for loss in (packed.nll, total)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "choices", [{"blocks": block({"name": "softmax", "window": 4})}, {"position": "alibi"}, {"blocks": block("sparse")}]
)
def test_packing_that_a_prefix_cannot_have_is_refused(choices):
    model = transformer(**choices)
    led("prefix", model)
    segments = torch.tensor([[0] * 3 + [1] * 6])
    long = torch.cat([segments, segments + 2] * 9, 1)
    ids = tokens(1, long.shape[1])[:, : (model.max_length or 64) - 3]
    with pytest.raises(RequestError, match="segments"):
        model(Batch(ids=ids, segments=long[:, : ids.shape[1]]))


@every
@pytest.mark.parametrize("choices", [{}, {"prefix_cache_bytes": 1 << 22}, {"drafter": "prompt-lookup"}], ids=str)
def test_the_engine_reads_it_with_each_request(name, choices):
    model = transformer(vocab_size=BYTES)
    transform = led(name, model)
    prompts = [[5, 9, 200, 3], [17], [*range(40)], [*range(40), 3]]
    engine = Engine(model, ByteTokenizer(), rows=2, **choices)
    for _ in range(2):
        for prompt, found in zip(prompts, engine.generate(prompts, max_new_tokens=8), strict=True):
            ids = [*prompt]
            for _ in found.ids:
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            assert ids[len(prompt) :] == found.ids
    if engine.prefix_cache is not None:
        assert engine.prefix_cache.reused_tokens > 32
        with transform.disabled():
            plain = Engine(model, ByteTokenizer()).generate(prompts, max_new_tokens=8)
            assert [c.ids for c in engine.generate(prompts, max_new_tokens=8)] == [c.ids for c in plain]
    assert model.max_length == 64 - 3
    with pytest.raises(RequestError, match="do not fit"):
        engine.generate([[1] * 62])


@every
def test_starts_copies_and_refusals(name):
    model = transformer()
    first = make_method("adapter", {"name": name, "tokens": 4}).build(seed=0).apply(model)
    state = first.state()
    again = make_method("adapter", {"name": name, "tokens": 4}).build(seed=0).apply(transformer()).state()
    other = make_method("adapter", {"name": name, "tokens": 4}).build(seed=1).apply(transformer()).state()
    assert all(torch.equal(v, again[k]) and not torch.equal(v, other[k]) for k, v in state.items())
    normal = make_method("adapter", {"name": name, "tokens": 64, "start": "normal"})
    with pytest.raises(SpecError, match="another one before its tokens"):
        normal.build().apply(model)
    twin = copy.deepcopy(model)
    ids = tokens(2, 5)
    with first.disabled():
        assert not torch.equal(twin(ids).logits, model(ids).logits)
    torch.testing.assert_close(twin(ids).logits, model(ids).logits)
    with pytest.raises(SpecError, match=f"{name}: is no change of weights"):
        first.merge()
    for wrong in (0, 1 << 20):
        with pytest.raises(SpecError, match="tokens"):
            make_method("adapter", {"name": name, "tokens": wrong})
    with pytest.raises(SpecError, match="64 leave no place for text"):
        normal.build().apply(transformer(position="learned"))
    for lm in ("encoder", "encoder-decoder", "feedforward"):
        model = randomise(make_method("lm", {"name": lm}).build(vocab_size=VOCABULARY))
        with pytest.raises(SpecError, match=f"{name}: comes before text that a decoder continues"):
            normal.build().apply(model)
    with pytest.raises(SpecError, match="pointer head"):
        normal.build().apply(transformer(head="pointer"))


def test_a_prefix_of_text_is_the_state_that_the_text_leaves():
    """The start `text`: the model goes on as after those tokens."""
    model = transformer()
    transform = make_method("adapter", {"name": "prompt", "tokens": 5}).build(seed=3).apply(model)
    rows = transform.state()["prompt_encoder.weight"]
    ids = (model.model.embed_tokens.weight[:, None] == rows[None]).all(-1).nonzero()[:, 0]
    assert len(ids) >= 5
    order = torch.stack([(model.model.embed_tokens.weight == row).all(-1).nonzero()[0, 0] for row in rows])
    after = tokens(1, 6)
    found = model(after).logits
    transform.remove()
    torch.testing.assert_close(found, model(torch.cat([order[None], after], 1)).logits[:, 5:], rtol=0, atol=1e-10)
    prefix = make_method("adapter", {"name": "prefix", "tokens": 5}).build(seed=3).apply(model)
    state = model.start(1)
    with prefix.disabled():
        model(order[None], state)
    held = torch.cat([t[0, :, :5].transpose(0, 1).flatten(1) for layer in state.layers[:-1] for t in layer.tensors], 1)
    prefix.load_state({"prompt_encoder.weight": held})
    torch.testing.assert_close(model(after).logits, found, rtol=0, atol=1e-10)


def test_a_projection_is_trained_in_place_of_the_rows():
    model = transformer()
    transform = make_method("adapter", {"name": "prefix", "tokens": 3, "projection": 7}).build(seed=0).apply(model)
    assert len(transform.parameters()) == 5
    model.nll(shifted(tokens(2, 9))).backward()
    assert gradients(model).keys() == transform.parameters().keys()
    assert all(p.grad.abs().sum() > 0 for p in transform.parameters().values())
    with pytest.raises(SpecError, match="projection"):
        make_method("adapter", {"name": "prefix", "projection": 0})
