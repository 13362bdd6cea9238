"""States refuse what they cannot do before anything changes, and never give another state's values."""

from __future__ import annotations

import pytest
import torch
from _engine_models import ByteTokenizer, HistoryModel
from _small_models import VOCABULARY, randomise, tokens, transformer

from llmanac.core.errors import LlmanacError, RequestError
from llmanac.core.spec import make_method
from llmanac.core.types import Batch, OutputRequest
from llmanac.generate.engine import Engine

RING = {"name": "softmax", "window": 8}
CLOSE = {"rtol": 0, "atol": 1e-10}


def hybrid(*mixers, **choices):
    blocks = [{"name": "pre-norm", "mixer": mixer} for mixer in mixers]
    return transformer(layers=len(mixers), blocks=blocks, position="none", **choices)


def encoder_decoder():
    return randomise(make_method("lm", {"name": "encoder-decoder", "dim": 32}).build(vocab_size=VOCABULARY)).double()


@pytest.mark.parametrize("mixers", [("gru",), (RING,), ("softmax", "gru")])
@torch.inference_mode()
def test_a_refused_call_leaves_the_state_as_it_was(mixers):
    model, ids = hybrid(*mixers, head="pointer"), tokens(2, 12)
    full, state = model(ids).logits, model.start(2)
    model(ids[:, :5], state)
    part = ids[:, 5:8]
    refused = [
        (Batch(ids=part), OutputRequest(layers=(9,)), "layers"),
        (Batch(ids=part, targets=part), OutputRequest(nll="sum"), "nll"),
        (Batch(ids=part), OutputRequest(entropy=True), "entropy"),
        (Batch(embeddings=model.embed(part)), OutputRequest(logits="all"), "embeddings"),
        (Batch(ids=part, source=Batch(ids=part)), OutputRequest(logits="all"), "source"),
        (Batch(ids=part, prefix=torch.tensor([1, 1])), OutputRequest(logits="all"), "prefix"),
    ]
    for batch, want, field in refused:
        with pytest.raises(RequestError, match=field):
            model(batch, state, want)
    assert state.counts == [5, 5]
    torch.testing.assert_close(model(ids[:, 5:], state).logits, full[:, 5:], **CLOSE)


@torch.inference_mode()
def test_a_rewind_is_done_by_all_layers_or_by_none():
    model, ids = hybrid(RING, "gru"), tokens(2, 12)
    full, state = model(ids).logits, model.start(2)
    model(ids[:, :8], state)
    with pytest.raises(RequestError, match="recurrent"):
        state.rewind(None, [5, 5])
    torch.testing.assert_close(model(ids[:, 8:], state).logits, full[:, 8:], **CLOSE)


@torch.inference_mode()
def test_a_mark_is_of_its_rows_and_their_tokens():
    model, ids = hybrid("softmax", "gru"), tokens(2, 12)
    state = model.start(2)
    model(ids[:, :5], state)
    mark = state.mark()
    model(ids[:, 5:9], state)
    state.rewind(mark)
    model(ids[:, 5:7], state)
    state.rewind(mark)  # as often as wanted
    state.rewind(None, [0, 0])
    model(tokens(2, 9, seed=4), state)
    with pytest.raises(RequestError, match="mark"):
        state.rewind(mark)
    mark = state.mark()
    state.arrange([1, 0])
    with pytest.raises(RequestError, match="mark"):
        state.rewind(mark)
    state.extend(0)
    assert state.batch == 2


@torch.inference_mode()
def test_no_rows_more_change_nothing():
    model, ids = hybrid(RING), tokens(2, 12)
    full, state = model(ids).logits, model.start(2)
    model(ids[:, :6], state)
    state.extend(0)
    torch.testing.assert_close(model(ids[:, 6:], state).logits, full[:, 6:], **CLOSE)


def test_a_repeated_segment_number_is_another_document():
    segments, ids = torch.tensor([[0, 0, 0, 1, 0, 0]]), tokens(1, 6)
    positions = torch.tensor([[0, 1, 2, 0, 0, 1]])
    for mixer in ("softmax", "gru", "mamba"):
        model = hybrid(mixer)
        packed = model(Batch(ids=ids, segments=segments, positions=positions)).logits
        for part in (slice(0, 3), slice(3, 4), slice(4, 6)):
            torch.testing.assert_close(packed[:, part], model(ids[:, part]).logits, **CLOSE)
    model = randomise(make_method("lm", "feedforward").build(vocab_size=VOCABULARY)).double()
    torch.testing.assert_close(
        model(Batch(ids=ids, segments=segments)).logits[:, 4:], model(ids[:, 4:]).logits, **CLOSE
    )


@torch.inference_mode()
def test_every_row_of_an_encoder_decoder_needs_its_source():
    model, ids = encoder_decoder(), tokens(1, 3)
    state = model.start(1)
    model(Batch(ids=ids, source=Batch(ids=tokens(1, 5))), state)
    state.extend(1)
    with pytest.raises(RequestError, match="source"):
        model(tokens(2, 1), state)
    state.arrange([0])
    state.rewind(None, [0])
    with pytest.raises(RequestError, match="source"):
        model(ids, state)
    with pytest.raises(RequestError, match="source"):
        model(Batch(ids=ids, source=Batch(ids=ids, lengths=torch.tensor([0]))), model.start(1))


@pytest.mark.parametrize("mixer", ["gru", "mamba", "min-gru"])
def test_gradients_of_a_call_with_a_state_are_those_without(mixer):
    model, ids = hybrid(mixer), tokens(2, 6)
    model(ids).logits.sum().backward()
    expected = {k: p.grad.clone() for k, p in model.named_parameters()}
    model.zero_grad()
    state = model.start(2)
    model(ids, state).logits.sum().backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-9, atol=1e-10)
    model(ids, state).logits.sum().backward()  # and again, from where the first call ended


@pytest.mark.parametrize("mixer", ["softmax", "gru", RING])
def test_a_cancelled_request_leaves_the_others_as_they_are(mixer):
    """Outside of any step, as a server cancels for a client that left."""
    model = hybrid(mixer, vocab_size=260)
    engine = Engine(model, ByteTokenizer())
    prompts = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    scheduler = engine.scheduler()
    requests = [engine.request(p, max_new_tokens=10, stop_ids=()) for p in prompts]
    for request in requests:
        scheduler.submit(request)
    scheduler.step()
    scheduler.step()
    scheduler.cancel(requests[0])
    while scheduler.busy:
        scheduler.step()
    for prompt, request in zip(prompts[1:], requests[1:], strict=True):
        assert request.sequences[0].ids == engine.generate([prompt], max_new_tokens=10, stop_ids=())[0].ids


def test_nothing_left_to_choose_is_said():
    class Two:
        def mask(self):
            allowed = torch.zeros(260, dtype=torch.bool)
            allowed[[5, 6]] = True
            return allowed

        def forced(self):
            return None

        def advance(self, token): ...

    engine = Engine(HistoryModel(), ByteTokenizer())
    with pytest.raises(RequestError, match="allowed_ids"):
        engine.generate([[1]], constraint=Two, allowed_ids=[3, 4])
    from llmanac.generate._options import Allowed

    with pytest.raises(LlmanacError, match="no token is left"):
        engine.generate([[1]], constraint=Two, decoding=(Allowed(ids=(3, 4)),))


def test_a_batch_of_wrong_shapes_is_refused_before_anything_runs():
    ids = tokens(2, 6)
    bad = {
        "lengths": [torch.tensor([-3, -3]), torch.tensor([99, 6]), torch.tensor([1.5, 2.0]), torch.tensor([3])],
        "segments": [torch.zeros(1, 6, dtype=torch.long), torch.zeros(2, 5, dtype=torch.long)],
        "positions": [torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 6)],
        "targets": [torch.zeros(2, 6), torch.zeros(2, 5, dtype=torch.long)],
    }
    for mixer in ("softmax", "gru"):
        model = hybrid(mixer)
        for field, values in bad.items():
            for value in values:
                state = model.start(2)
                with pytest.raises(RequestError, match=field):
                    model(Batch(ids=ids, **{field: value}), None if field in ("segments", "targets") else state)
                assert state.counts == [0, 0]
        with pytest.raises(RequestError, match="ids"):
            model(Batch(ids=ids.float()))
        with pytest.raises(RequestError, match="state"):
            model(ids, hybrid(mixer, mixer).start(2))
    for wrong in ({"logits": "first"}, {"nll": "mean"}, {"layers": (1.5,)}):
        with pytest.raises(RequestError, match=next(iter(wrong))):
            OutputRequest(**wrong)


def test_a_constraint_that_misbehaves_is_named():
    class Forces:
        def __init__(self, token=99999):
            self.token = token

        def mask(self):
            return torch.ones(260, dtype=torch.bool)

        def forced(self):
            return self.token

        def advance(self, token): ...

    class Small(Forces):
        def mask(self):
            return torch.ones(1, dtype=torch.bool)

    engine = Engine(HistoryModel(), ByteTokenizer())
    for constraint in (Forces, lambda: Forces(1.5), Small, Forces()):
        with pytest.raises(RequestError, match="constraint"):
            engine.generate([[1]], constraint=constraint)
    endless = engine.generate([[1]], constraint=lambda: Forces(7), max_new_tokens=50, stop_ids=())[0]
    assert endless.ids[1:] == [7] * 49


def test_a_prefix_cache_knows_whether_an_adapter_is_in_use():
    model = transformer(vocab_size=260)
    transform = make_method("adapter", {"name": "lora", "targets": ["all-linear"]}).build(seed=0).apply(model)
    with torch.no_grad():
        for parameter in transform.parameters().values():
            parameter.normal_(0, 0.3)
    prompt = tokens(1, 40)[0].tolist()
    options = {"max_new_tokens": 6, "stop_ids": ()}
    plain, cached = Engine(model), Engine(model, prefix_cache_bytes=1 << 22)
    for _ in range(2):
        assert cached.generate([prompt], **options)[0].ids == plain.generate([prompt], **options)[0].ids
        with transform.disabled():
            assert cached.generate([prompt], **options)[0].ids == plain.generate([prompt], **options)[0].ids
