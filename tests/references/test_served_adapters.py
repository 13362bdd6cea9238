"""Requests with different adapters in one batch: each gets the tokens that it gets when it is served alone."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from _engine_models import VOCABULARY, ByteTokenizer
from _small_models import block, transformer

from llmanac.adapters.load import save_adapter
from llmanac.core.errors import RequestError, SpecError
from llmanac.core.spec import make_method
from llmanac.generate.engine import Engine
from llmanac.generate.native import NativeModel, NativeRunner
from llmanac.generate.runner import TorchRunner

pytestmark = pytest.mark.usefixtures("one_thread")
ADAPTERS = {
    "small": {"name": "lora", "rank": 2, "targets": ["q_proj", "lm_head"]},
    "wide": {"name": "rslora", "rank": 5, "targets": ["all-linear"]},
    "lengths": {"name": "dora", "rank": 2, "targets": ["o_proj", "up_proj"]},
    "prefix": {"name": "prefix", "tokens": 3},
    "prompt": {"name": "prompt", "tokens": 5},
}
BESIDE = {
    "embedding": {"name": "lora", "rank": 3, "targets": ["embed_tokens", "q_proj"]},
    "tokens": {"name": "lora", "rank": 2, "targets": ["v_proj"], "tokens": [5, 7, 9, 40]},
    "lengths of columns": {"name": "dora", "rank": 2, "targets": ["embed_tokens"]},
    "copies": {"name": "lora", "rank": 2, "targets": ["o_proj"], "copies": ["embed_tokens", "norm"], "bias": "all"},
}  # fmt: skip
ADAPTERS_AND_BESIDE = ADAPTERS | BESIDE
SAMPLED = {"temperature": 0.9, "n": 2}
CACHE = {"prefix_cache_bytes": 1 << 22}
SYSTEM = list(range(40, 75))
PROMPTS = [[*SYSTEM, 9, 8], [17], [*SYSTEM, 5], [7] * 12, [*SYSTEM, 9, 8], [3, 4]]


def trained(model, fields, seed):
    """A copy of the model with a Transform whose values are not the initial ones."""
    own = copy.deepcopy(model)
    transform = make_method("adapter", fields).build(seed=seed).apply(own)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in transform.parameters().values():
            parameter.add_(torch.empty(parameter.shape).normal_(0, 0.3, generator=generator))
    return own, transform


def setting(tmp_path, names=tuple(ADAPTERS), **choices):
    """A model, its adapters (folders and live Transforms by turns), and the model of each."""
    model = transformer(vocab_size=VOCABULARY, **choices)
    given, alone = {}, {None: model}
    for seed, name in enumerate(names):
        alone[name], transform = trained(model, ADAPTERS_AND_BESIDE[name], seed)
        given[name] = save_adapter(transform, tmp_path / name) if seed % 2 == 0 else transform
    return model, given, alone


def submit(engine, adapters, **options):
    """All requests in one scheduler; the tokens of each."""
    made = [
        engine.request(prompt, adapter=name, max_new_tokens=8, seed=i, **options)
        for i, (prompt, name) in enumerate(zip(PROMPTS, adapters, strict=True))
    ]
    scheduler = engine.scheduler()
    for request in made:
        scheduler.submit(request)
    while scheduler.busy:
        scheduler.step()
    return [sequence.ids for request in made for sequence in request.sequences], made


def expected(alone, adapters, known=None, **options):
    """The tokens of each request served alone; `known` keeps them."""
    found, known = [], {} if known is None else known
    for i, (prompt, name) in enumerate(zip(PROMPTS, adapters, strict=True)):
        key = (i, name, *options.items())
        if key not in known:
            done = Engine(alone[name], ByteTokenizer()).generate([prompt], max_new_tokens=8, seed=i, **options)
            known[key] = [completion.ids for completion in done]
        found += known[key]
    return found


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return *setting(tmp_path_factory.mktemp("adapters")), {}


@pytest.mark.parametrize(
    "options, engine_options",
    [
        (SAMPLED, {}),
        ({}, CACHE),
        (SAMPLED, {**CACHE, "max_num_batched_tokens": 90}),
        ({}, {"drafter": "prompt-lookup"}),
    ],
    ids=["sampled", "cached", "preempted", "drafted"],
)
def test_tokens_are_those_of_a_request_alone(usual, options, engine_options):
    model, given, alone, known = usual
    engine = Engine(model, ByteTokenizer(), adapters=given, rows=8, **engine_options)
    every = list(ADAPTERS)
    for adapters in ([None, *every], [every[3], every[4], every[3], None, every[4], every[1]]):
        assert submit(engine, adapters, **options)[0] == expected(alone, adapters, known, **options)
    if engine.prefix_cache is not None and "max_num_batched_tokens" not in engine_options:
        assert engine.prefix_cache.reused_tokens > 0
        # the same prompts under other adapters take nothing from each other
        submit(engine, ["small"] * 6, **options)
        assert submit(engine, ["wide"] * 6, **options)[0] == expected(alone, ["wide"] * 6, known, **options)


def test_every_adapter_gives_other_tokens(usual):
    _, _, alone, known = usual
    first = [expected(alone, [name] * 6, known)[0] for name in (None, *ADAPTERS)]
    assert len(set(map(tuple, first))) == 6


@pytest.mark.parametrize("mixer", ["mamba", "latent", "sliding-window"])
def test_other_layers(tmp_path, mixer):
    """Recurrent states, rings, latent keys, and rows that begin with trained vectors."""
    names = ("wide", "prompt", "prefix") if mixer in ("latent", "sliding-window") else ("wide", "prompt")
    model, given, alone = setting(tmp_path, names, blocks=block(mixer))
    adapters = [*names, None, *names, *names][:6]
    engine = Engine(model, ByteTokenizer(), adapters=given)
    assert submit(engine, adapters)[0] == expected(alone, adapters)


def test_embeddings_tokens_and_copies(tmp_path):
    """Beside products: of one batch, each row has its own, in the tied head too."""
    names = tuple(BESIDE)
    model, given, alone = setting(tmp_path, names, tied=True, norm={"name": "layernorm"})
    engine = Engine(model, ByteTokenizer(), adapters=given)
    assert engine.registry is not None and engine.registry.one_by_one
    for adapters in ([*names, None, names[0]], [*names[:2], None, names[3], *names[1:3]]):
        assert submit(engine, adapters)[0] == expected(alone, adapters)
    first = [expected(alone, [name] * 6)[0] for name in (None, *names)]
    assert len(set(map(tuple, first))) == 5
    few = ("embedding", "tokens")  # without copies of parameters they share passes
    engine = Engine(model, ByteTokenizer(), adapters={name: given[name] for name in few})
    assert not engine.registry.one_by_one
    adapters = [*few, None, *few, None]
    assert submit(engine, adapters)[0] == expected(alone, adapters)


def test_experts_mix_rows_and_are_run_apart(tmp_path):
    model, given, alone = setting(tmp_path, ("wide", "prefix"), blocks=block("multi-head", "experts"))
    adapters = ["wide", "prefix", None, "wide", "wide", None]
    engine = Engine(model, ByteTokenizer(), adapters=given)
    assert engine.registry is not None and engine.registry.one_by_one
    assert submit(engine, adapters)[0] == expected(alone, adapters)


def test_the_model_alone_is_as_before(tmp_path):
    model, given, alone = setting(tmp_path, ("wide", "prompt"))
    engine = Engine(model, ByteTokenizer(), adapters=given)
    assert Engine(model, ByteTokenizer()).generate([[5, 6]])[0].ids == Engine(alone[None]).generate([[5, 6]])[0].ids
    model.save_pretrained(tmp_path / "m")  # its weights are its own
    assert all(p.requires_grad for p in model.parameters())
    del engine
    gc.collect()
    assert all(getattr(m, "change", None) is None for m in model.modules())


def test_a_live_transform_is_served_as_it_is_trained(tmp_path):
    model = transformer(vocab_size=VOCABULARY)
    own, transform = trained(model, ADAPTERS["wide"], 0)
    engine = Engine(model, ByteTokenizer(), adapters={"it": transform})
    before = engine.generate([[5, 6]], adapter="it")[0].ids
    with torch.no_grad():
        for parameter in transform.parameters().values():
            parameter.mul_(-1.5)
    after = engine.generate([[5, 6]], adapter="it")[0].ids
    assert before != after == Engine(own, ByteTokenizer()).generate([[5, 6]])[0].ids


def test_refusals(tmp_path):
    model, given, alone = setting(tmp_path, ("small", "wide", "prompt"))
    engine = Engine(model, ByteTokenizer(), adapters=given)
    with pytest.raises(RequestError, match=r"adapter: 'smal' is not known.*small.*\(known: small, wide, prompt\)"):
        engine.request([1], adapter="smal")
    with pytest.raises(RequestError, match="this engine has none"):
        Engine(model).request([1], adapter="small")
    assert Engine(model, adapters=given, runner="auto").native is None
    limit = model.max_length
    assert engine.request([1] * (limit - 5), adapter="prompt").context == limit - 5
    with pytest.raises(RequestError, match="do not fit"):
        engine.request([1] * (limit - 4), adapter="prompt")
    with pytest.raises(SpecError, match="has one applied already"):
        Engine(alone["wide"], adapters=given)
    other = transformer(vocab_size=VOCABULARY, dim=16)
    with pytest.raises(SpecError, match="which this model has not"):
        Engine(other, adapters={"wide": given["wide"]})


LOW_RANK = {"q": ["q_proj"], "v": ["v_proj"], "all": ["all-linear"]} | {
    name: [f"{name}_proj"] for name in ("k", "o", "gate", "up", "down")
}


@pytest.fixture(scope="module")
def low_rank(tmp_path_factory):
    """A model in float32 with an adapter for each product of a layer, and one for all."""
    folder, model = tmp_path_factory.mktemp("low-rank"), transformer(vocab_size=VOCABULARY, dtype=torch.float32)
    given = {}
    for seed, (name, targets) in enumerate(LOW_RANK.items()):
        _, transform = trained(model, {"name": "lora", "rank": 2 + seed % 3, "targets": targets}, seed)
        given[name] = save_adapter(transform, folder / name) if seed % 2 == 0 else transform
    return model, given


@pytest.mark.parametrize(
    "options, engine_options",
    [
        (SAMPLED, {}),
        ({}, CACHE),
        (SAMPLED, {**CACHE, "max_num_batched_tokens": 90}),
        ({}, {"drafter": "prompt-lookup"}),
    ],
    ids=["sampled", "cached", "preempted", "drafted"],
)
def test_the_native_runner_computes_low_rank_terms(low_rank, options, engine_options):
    model, given = low_rank
    torch_engine = Engine(model, ByteTokenizer(), adapters=given, rows=8)
    own = NativeModel(model, threads=1, block_tokens=16)
    native = Engine(model, ByteTokenizer(), adapters=given, rows=8, runner=own, **engine_options)
    for adapters in ([None, "q", "k", "v", "o", "all"], ["gate", "up", None, "down", "gate", "all"]):
        wanted, exact = submit(torch_engine, adapters, logprobs=1, **options)
        found, made = submit(native, adapters, logprobs=1, **options)
        assert found == wanted and len(set(map(tuple, found))) > 3
        for one, other in zip(made, exact, strict=True):
            for mine, theirs in zip(one.sequences, other.sequences, strict=True):
                scores = [[x.logprob for x in of.token_logprobs] for of in (mine, theirs)]
                assert scores[0] == pytest.approx(scores[1], abs=2e-5)
    if native.prefix_cache is not None and "max_num_batched_tokens" not in engine_options:
        assert native.prefix_cache.reused_tokens > 0


@pytest.mark.parametrize("weights, bound", [("own", 1e-5), ("q8_0", 0.25)])
def test_terms_are_added_to_packed_products(low_rank, weights, bound):
    model, given = low_rank
    engine, names = Engine(model, ByteTokenizer(), adapters=given), [*given, None]
    native = NativeRunner(NativeModel(model, weights=weights, threads=1), registry=engine.registry)
    found = []
    for runner in (native, TorchRunner(model, registry=engine.registry)):
        runner.extend([PROMPTS[0]] * len(names), 64, adapters=names)
        with torch.no_grad():
            found.append(torch.from_numpy(runner.read(0, [PROMPTS[0]] * len(names), every=True)).log_softmax(-1))
    errors = (found[0] - found[1]).abs().mean((1, 2))
    changes = (found[1][:-1] - found[1][-1]).abs().mean((1, 2))
    assert errors.max() < bound and changes.min() > 4 * bound, (errors, changes)


def test_terms_of_layers_without_a_gate():
    block = {"name": "parallel", "mixer": {"name": "multi-head", "biases": "all"}, "ffn": "gelu"}
    model = transformer(vocab_size=VOCABULARY, dtype=torch.float32, blocks=[block], norm="layernorm")
    _, transform = trained(model, {"name": "lora", "rank": 3, "targets": ["all-linear"]}, 1)
    engine = Engine(model, ByteTokenizer(), adapters={"all": transform})
    found = []
    for runner in (
        NativeRunner(NativeModel(model, threads=1), registry=engine.registry),
        TorchRunner(model, registry=engine.registry),
    ):
        runner.extend([PROMPTS[0]] * 2, 64, adapters=["all", None])
        with torch.no_grad():
            found.append(torch.from_numpy(runner.read(0, [PROMPTS[0]] * 2, every=True)).log_softmax(-1))
    assert (found[0] - found[1]).abs().max() < 1e-4 < 0.01 < (found[1][0] - found[1][1]).abs().max()


def test_what_the_native_runner_does_not_compute_is_refused(tmp_path):
    model, given, _ = setting(tmp_path, ("wide", "small", "lengths", "prompt", "prefix"), dtype=torch.float32)
    for name in ("small", "lengths", "prompt", "prefix"):
        with pytest.raises(RequestError, match=f"native cannot compute these adapters \\({name}"):
            Engine(model, adapters={"wide": given["wide"], name: given[name]}, runner="native")
    assert Engine(model, adapters={"wide": given["wide"]}, runner="native").native is not None
