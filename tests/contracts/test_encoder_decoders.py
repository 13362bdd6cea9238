"""The contract of a model that reads a source: causality, cached == uncached, rows that come and go, gradients."""

from __future__ import annotations

import pytest
import torch
from _small_models import VOCABULARY, gradients, randomise, tokens

from llmanac.core.errors import RequestError, SpecError
from llmanac.core.spec import dump, make_method
from llmanac.core.types import Batch, OutputRequest

CLOSE = {"rtol": 0, "atol": 1e-10}


def model_of(**choices):
    spec = {"name": "encoder-decoder", "dim": 32, "encoder_layers": 2, "layers": 2, "max_length": 64, **choices}
    return randomise(make_method("lm", spec).build(vocab_size=VOCABULARY)).double().eval()


def sources(lengths, seed=3):
    return Batch(ids=tokens(len(lengths), max(lengths), seed=seed), lengths=torch.tensor(lengths))


def part(source, rows):
    return Batch(ids=source.ids[rows], lengths=source.lengths[rows])


@pytest.mark.parametrize("position", ["rope", "sinusoidal", "learned", "none"])
def test_cached_equals_uncached_in_every_chunking(position):
    model, ids, source = model_of(position=position), tokens(3, 12), sources([9, 4, 1])
    with torch.inference_mode():
        full = model(Batch(ids=ids, source=source)).logits
        for chunks in [(12,), (1,) * 12, (5, 7), (3, 1, 8)]:
            state, logits = model.start(3), []
            for i, piece in enumerate(ids.split(chunks, dim=1)):
                logits.append(model(Batch(ids=piece, source=None if i else source), state).logits)
            torch.testing.assert_close(torch.cat(logits, 1), full, **CLOSE)
        mark = state.mark()
        model(tokens(3, 4, seed=8), state)
        state.rewind(mark, [7, 12, 3])
        again = model(torch.stack([ids[0, 7:9], ids[1, 10:12], ids[2, 3:5]]), state).logits
        torch.testing.assert_close(again[0], full[0, 7:9], **CLOSE)
        torch.testing.assert_close(again[2], full[2, 3:5], **CLOSE)


def test_causal_in_the_target_and_free_in_the_source():
    model, ids, source = model_of(), tokens(2, 10), sources([8, 8])
    base = model(Batch(ids=ids, source=source)).logits
    later = ids.clone()
    later[:, 6:] = (later[:, 6:] + 1) % VOCABULARY
    torch.testing.assert_close(model(Batch(ids=later, source=source)).logits[:, :6], base[:, :6], rtol=0, atol=1e-12)
    for place in range(8):
        other = source.ids.clone()
        other[:, place] = (other[:, place] + 1) % VOCABULARY
        changed = model(Batch(ids=ids, source=Batch(ids=other))).logits
        assert (changed - base)[:, 0].abs().amax(-1).min() > 1e-8  # the first token sees all of the source
    padded = Batch(ids=torch.cat([source.ids, tokens(2, 5, seed=9)], 1), lengths=source.lengths)
    torch.testing.assert_close(model(Batch(ids=ids, source=padded)).logits, base, rtol=0, atol=1e-12)


def test_rows_come_and_go_with_their_sources():
    model, ids, source = model_of(), tokens(4, 12), sources([9, 2, 5, 11])
    with torch.inference_mode():
        full = model(Batch(ids=ids, source=source)).logits
        state = model.start(0)
        held, first = [], {0: [0, 1], 2: [2, 3]}
        for start, rows in first.items():
            state.extend(2)
            held += rows
            view = state.view(start, start + 2)
            logits = model(Batch(ids=ids[rows, :4], source=part(source, rows)), view).logits
            torch.testing.assert_close(logits, full[rows, :4], **CLOSE)
        state.arrange([3, 1, 1])
        held = [3, 1, 1]
        logits = model(ids[held, 4:7], state).logits
        torch.testing.assert_close(logits, full[held, 4:7], **CLOSE)
        joined = state.select(torch.tensor([0])).join(state.select(torch.tensor([1])))
        torch.testing.assert_close(model(ids[[3, 1], 7:8], joined).logits, full[[3, 1], 7:8], **CLOSE)


def test_every_parameter_gets_a_gradient_and_one_pass_gives_all():
    model, ids, source = model_of(), tokens(2, 10), sources([7, 5])
    batch = Batch(ids=ids[:, :-1], targets=ids[:, 1:], source=source)
    once = model(batch, want=OutputRequest(logits="all", nll="sum", hidden=True))
    torch.testing.assert_close(model.nll(batch), once.nll)
    expected = torch.nn.functional.cross_entropy(once.logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(once.nll, expected, rtol=1e-9, atol=1e-9)
    once.nll.backward()
    found = gradients(model)
    assert all(name in found and found[name].abs().sum() > 0 for name, _ in model.named_parameters())


def test_what_it_cannot_do_is_refused():
    model, ids = model_of(), tokens(1, 3)
    with pytest.raises(RequestError, match="source"):
        model(ids)
    with pytest.raises(RequestError, match="source"):
        model(ids, model.start(1))
    with pytest.raises(RequestError, match="source"):
        model(Batch(ids=ids, source=Batch(ids=ids, segments=torch.zeros(1, 3, dtype=torch.long))))
    with pytest.raises(SpecError, match="blocks"):
        model_of(blocks=[{"name": "pre-norm"}])
    with pytest.raises(SpecError, match="start_id"):
        model_of(start_id=VOCABULARY)
    spec = make_method("lm", {"name": "encoder-decoder"})
    assert make_method("lm", dump(spec)) == spec
