"""Every name of the kinds `lm` and `smoothing`: what generation, evaluation, serving and files ask of a model."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from _small_models import VOCABULARY, randomise, shifted, tokens

from llmanac.core import registry
from llmanac.core.errors import DataError, RequestError
from llmanac.core.spec import dump, make_method, to_toml
from llmanac.core.types import HIDDEN, LAST, Batch, LanguageModel
from llmanac.generate.engine import Engine
from llmanac.models.load import load_model

NAMES = [n for n, m in registry.methods("lm").items() if "reads" not in m.card]  # those: test_encoder_decoders.py
CASES = [*NAMES, *(f"ngram with {name}" for name in registry.methods("smoothing")), "ngram with order 1"]
every = pytest.mark.parametrize("name", CASES)
SMALL = {"dim": 16, "layers": 2, "hidden": 24, "max_length": 64}  # of these the fields that a model has


def estimated(spec) -> bool:
    """Whether a model is counted from text at once, and has no gradient."""
    return getattr(spec, "estimated", False)


def spec_of(name: str):
    method, _, smoothing = name.partition(" with ")
    choice = {"order": 1} if smoothing == "order 1" else {"smoothing": smoothing} if smoothing else {}
    spec = make_method("lm", {"name": method, **choice})
    own = {f.name for f in dataclasses.fields(spec)}
    return dataclasses.replace(spec, **{k: v for k, v in SMALL.items() if k in own})


def model_of(name: str):
    """A model with large weights, or one that has counted a little text."""
    spec = spec_of(name)
    model = spec.build(vocab_size=VOCABULARY)
    if estimated(spec):
        return model.estimate(list(tokens(60, 30, seed=5).numpy()), start=0).eval()
    return randomise(model).double().eval()


@every
def test_it_is_a_language_model(name: str) -> None:
    model, ids = model_of(name), tokens(2, 9)
    assert isinstance(model, LanguageModel) and model.vocab_size == VOCABULARY
    logits = model(ids).logits
    assert logits.shape == (2, 9, VOCABULARY) and logits.isfinite().all()
    torch.testing.assert_close(model(ids, want=LAST).logits, logits[:, -1:])
    assert model(ids, want=HIDDEN).hidden.shape[:2] == (2, 9)
    last = model(Batch(ids=ids, lengths=torch.tensor([9, 4])), want=LAST).logits
    torch.testing.assert_close(last[1, 0], logits[1, 3])
    batch = shifted(ids)
    rows = torch.nn.functional.cross_entropy(
        model(batch).logits.double().flatten(0, 1), batch.targets.flatten(), reduction="none"
    )
    torch.testing.assert_close(model.nll(batch, "none").double(), rows.view(2, 8), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.nll(batch).double(), rows.sum(), rtol=1e-5, atol=1e-5)
    assert model.parameter_count() > 0 and model.flops_per_token(8) >= 0


@every
def test_causal_and_the_past_is_used(name: str) -> None:
    model, ids = model_of(name), tokens(60, 30, seed=5)[:4]  # what an n-gram has seen
    other = ids.clone()
    other[:, 12] = (other[:, 12] + 1) % VOCABULARY
    a, b = model(ids).logits, model(other).logits
    torch.testing.assert_close(a[:, :12], b[:, :12], rtol=0, atol=1e-12)
    assert (a[:, 12:] - b[:, 12:]).abs().max() > 1e-6 or name == "ngram with order 1"


@every
@pytest.mark.parametrize("chunks", [(20,), (1,) * 20, (7, 13), (3, 1, 9, 1, 1, 5)])
def test_cached_equals_uncached(name: str, chunks: tuple[int, ...]) -> None:
    model, ids = model_of(name), tokens(3, 20)
    with torch.inference_mode():
        state = model.start(3)
        parts = [model(part, state).logits for part in ids.split(chunks, dim=1)]
        torch.testing.assert_close(torch.cat(parts, 1), model(ids).logits, rtol=0, atol=1e-10)
        assert state.lengths.tolist() == [20] * 3 and state.nbytes > 0


@every
def test_states_are_selected_joined_and_rewound_at_ragged_lengths(name: str) -> None:
    model, ids = model_of(name), tokens(4, 24)
    with torch.inference_mode():
        full = model(ids).logits
        a, b = model.start(2), model.start(2)
        model(ids[:2, :9], a)
        model(Batch(ids=ids[2:, :7], lengths=torch.tensor([7, 4])), b, HIDDEN)
        joined = a.join(b)
        assert joined.lengths.tolist() == [9, 9, 7, 4]
        order = torch.tensor([3, 0, 2, 0])
        picked = joined.select(order)
        following = torch.stack([ids[r, joined.lengths[r] : joined.lengths[r] + 3] for r in order])
        found = model(following, picked).logits
        for i, r in enumerate(order):
            start = int(joined.lengths[r])
            torch.testing.assert_close(found[i], full[r, start : start + 3], rtol=0, atol=1e-10)
        layers = model.model.layers if hasattr(model, "model") else ()
        anywhere = all("rewind" in layer.supports for layer in layers)  # a recurrent state holds its last token only
        back = [4, 9, 0, 3] if anywhere else [9, 9, 0, 4]
        joined.rewind(None, torch.tensor(back))
        joined.reserve(40)
        for starts in (back,):
            rest = torch.stack([ids[r, s : s + 8] for r, s in enumerate(starts)])
            found = model(rest, joined).logits
            for r, s in enumerate(starts):
                torch.testing.assert_close(found[r], full[r, s : s + 8], rtol=0, atol=1e-10)


@every
def test_packed_documents_equal_documents_alone(name: str) -> None:
    model = model_of(name)
    documents = [tokens(1, n, seed=n) for n in (9, 2, 13)]
    alone = sum(model.nll(shifted(d)) for d in documents)
    inputs, targets = (torch.cat(x, 1) for x in zip(*((d[:, :-1], d[:, 1:]) for d in documents), strict=True))
    segments = torch.cat([torch.full((1, d.shape[1] - 1), i) for i, d in enumerate(documents)], 1)
    positions = torch.cat([torch.arange(d.shape[1] - 1)[None] for d in documents], 1)
    packed = model.nll(Batch(ids=inputs, targets=targets, segments=segments, positions=positions))
    torch.testing.assert_close(packed, alone, rtol=1e-9, atol=1e-9)


@every
def test_files_hold_the_whole_model(name: str, tmp_path: Path) -> None:
    model, ids = model_of(name), tokens(2, 15)
    if not estimated(model.spec):
        model = model.float()
    model.generation = {"eos_token_id": 3}
    model.save_pretrained(tmp_path / "m")
    model.save_pretrained(tmp_path / "m")  # over itself
    loaded = load_model(tmp_path / "m")
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=0, atol=0)
    assert loaded.generation == {"eos_token_id": 3} and loaded.vocab_size == VOCABULARY
    assert {p.name for p in (tmp_path / "m").iterdir()} == {
        "README.md", "config.json", "model.safetensors", "generation_config.json", "llmanac.json",
    }  # fmt: skip


@every
def test_the_engine_generates_with_it(name: str) -> None:
    model = model_of(name)
    engine = Engine(model if estimated(model.spec) else model.float())
    prompts = [[1, 2, 3], [5], [9, 8, 7, 6, 5]]
    together = engine.generate(prompts, max_new_tokens=6, stop_ids=())
    alone = [engine.generate([p], max_new_tokens=6, stop_ids=())[0] for p in prompts]
    assert [c.ids for c in together] == [c.ids for c in alone]
    ids = torch.tensor([prompts[2] + together[2].ids])
    logp = model(ids).logits.log_softmax(-1)[0]
    for i, (token, value) in enumerate(zip(together[2].ids, together[2].logprobs, strict=True)):
        assert value == pytest.approx(logp[4 + i, token].item(), abs=1e-5)
        assert token == int(logp[4 + i].argmax())
    drawn = engine.generate([[1, 2]], max_new_tokens=5, temperature=1.0, seed=3, n=3, stop_ids=(), prompt_logprobs=2)
    different = len({tuple(c.ids) for c in drawn}) > 1
    assert len(drawn[0].prompt_token_logprobs) == 2 and (different or name == "ngram with mle")


@every
def test_specs_round_trip(name: str) -> None:
    spec = spec_of(name)
    data = dump(spec)
    assert make_method("lm", data) == spec and hash(spec) and len(dataclasses.fields(spec)) <= 12
    assert make_method("lm", tomllib.loads(to_toml(data))) == spec


@every
def test_unknown_ids_are_named(name: str) -> None:
    model = model_of(name)
    with pytest.raises(RequestError, match=str(VOCABULARY)):
        model(torch.tensor([[1, VOCABULARY]]))


@pytest.mark.parametrize("name", [n for n in CASES if estimated(spec_of(n))])
def test_what_is_estimated_sums_to_one_and_is_the_same_every_time(name: str) -> None:
    model, again = model_of(name), model_of(name)
    p = model(tokens(3, 20)).logits.double().exp().sum(-1)
    torch.testing.assert_close(p, torch.ones_like(p), rtol=0, atol=5e-6)
    for field in ("words", "logs", "weights", "first"):
        np.testing.assert_array_equal(getattr(model.trie, field), getattr(again.trie, field))
    before = model(tokens(1, 8)).logits
    model.estimate(list(tokens(5, 30, seed=9).numpy()), start=0)
    assert (model(tokens(1, 8)).logits - before).abs().max() > 1e-3  # a new estimate forgets the old one
    with pytest.raises(DataError, match="needs text"):
        model.estimate([])
    with pytest.raises(DataError, match="start"):
        model.estimate([np.array([1])], start=VOCABULARY)
    if model.spec.order > 1:
        with pytest.raises(DataError, match="memory"):
            model.estimate(list(tokens(50, 300, seed=9).numpy()), memory=300_000)
