"""Beams on every runner and in every batch, of every kind of state."""

from __future__ import annotations

import pytest
import torch
from _small_models import randomise, transformer

from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.generate import schedule as decisions
from llmanac.generate.engine import Engine, completions

torch.set_num_threads(1)  # the models here are tiny: a second thread only waits


def runs_of(engine, prompts, **options):
    found = engine.generate(prompts, max_new_tokens=9, stop_ids=[3], n=2, length_penalty=0.5, logprobs=2, **options)
    return [(one.ids, one.finish_reason, one.text, pytest.approx(one.score, abs=1e-5)) for one in found], found


def llama(dtype=torch.float64):
    return transformer(vocab_size=61, dtype=dtype, norm="rmsnorm", position="rope")


def recurrent():
    made = make_method("lm", {"name": "gru", "dim": 16, "layers": 2}).build(vocab_size=61)
    return randomise(made, std=0.5).double().eval()


PROMPTS = [[1, 2, 3], [5], [9, 9, 8, 7, 6, 5, 4, 3, 2, 1] * 3, [4, 4], [3, 3, 3, 3, 3]]


@pytest.mark.parametrize(
    "name", ["pages", "native", "few rows", "put back", "pieces", "gru", "gru, few rows", "drafts"]
)
def test_the_same_texts_on_every_runner_and_in_every_batch(name, monkeypatch):
    model = recurrent() if "gru" in name else llama(torch.float32 if name == "native" else torch.float64)
    alone = [one for prompt in PROMPTS for one in runs_of(Engine(model), [prompt], beams=4)[0]]
    made = {
        "pages": {"prefix_cache_bytes": 1 << 22},
        "native": {"runner": "native"},
        "few rows": {"rows": 6, "prefix_cache_bytes": 1 << 16},
        "put back": {"max_num_batched_tokens": 120},
        "drafts": {"drafter": "prompt-lookup"},
    }
    if name == "pieces":
        monkeypatch.setattr(decisions, "READ_TOKENS", 7)
    engine = Engine(model, **made.get(name, {"rows": 6 if "few" in name else 32}))
    together, done = runs_of(engine, PROMPTS, beams=4)
    assert together == alone
    assert runs_of(engine, PROMPTS, beams=4)[0] == alone
    for one in done:
        with torch.no_grad():
            logs = model(Batch(ids=torch.tensor([[*one.prompt_ids, *one.ids[:-1]]]))).logits.log_softmax(-1)[0]
        own = logs[len(one.prompt_ids) - 1 :].gather(-1, torch.tensor(one.ids)[:, None])[:, 0]
        assert one.logprobs == pytest.approx(own.tolist(), abs=1e-5)
        assert all(list(t.top.values()) == sorted(t.top.values(), reverse=True) for t in one.token_logprobs)
    if engine.prefix_cache is not None:
        assert engine.prefix_cache.pool.held == 0


def test_an_encoder_decoder_answers_by_beams():
    made = make_method("lm", {"name": "encoder-decoder", "dim": 16}).build(vocab_size=23)
    model = randomise(made, std=0.4).double().eval()
    found = Engine(model).generate([[1, 2, 3], [5], [7, 8, 9, 10]], max_new_tokens=6, stop_ids=[3], beams=4, n=2)
    for one in found:
        answer = Batch(
            ids=torch.tensor([[model.start_id, *one.ids[:-1]]]),
            source=Batch(ids=torch.tensor([one.prompt_ids])),
        )
        with torch.no_grad():
            logs = model(answer).logits.log_softmax(-1)[0]
        own = logs.gather(-1, torch.tensor(one.ids)[:, None])[:, 0]
        assert one.score == pytest.approx(own.mean().item(), abs=1e-9)
    assert len({tuple(one.ids) for one in found}) == 6


def test_beams_run_beside_samples_which_they_do_not_change():
    model = llama()
    engine, both = Engine(model, rows=7), []
    asked = [
        ({"temperature": 1.0, "seed": 5, "n": 2, "max_new_tokens": 14}, [1, 2]),
        ({"beams": 3, "n": 2, "max_new_tokens": 9, "stop_ids": [3]}, [4]),
        ({"max_new_tokens": 3}, [6, 7, 8]),
        ({"beams": 4, "max_new_tokens": 1}, [1, 2]),
        ({"beams": 2, "max_new_tokens": 0}, [1]),
    ]
    scheduler = engine.scheduler()
    requests = [engine.request(prompt, **options) for options, prompt in asked]
    for request in requests:
        scheduler.submit(request)
    cancelled = engine.request([1, 1], beams=3, max_new_tokens=30)
    scheduler.submit(cancelled)
    moved = []
    while scheduler.busy:
        moved += scheduler.step()
        if len(cancelled.sequences[0].ids) == 0 and any(row.request is cancelled for row in scheduler.table):
            scheduler.cancel(cancelled)
    for request, (options, prompt) in zip(requests, asked, strict=True):
        assert request.finished and all(s in moved for s in request.sequences)
        both.append([one.ids for one in completions(request)])
        assert both[-1] == [one.ids for one in Engine(model).generate([prompt], **options)]
    assert not any(s.request is cancelled and s.finish_reason for s in moved)
