"""The native runner against the models' own forward pass, and against itself: forms, threads, batches, formats."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.stats
import torch
from _small_models import block, randomise, tokens, transformer
from numba import njit

from llmanac.core.errors import RequestError
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.generate import native as native_module
from llmanac.generate.engine import Engine
from llmanac.generate.native import NativeModel, NativeRunner
from llmanac.generate.native_torch import refusal
from llmanac.kernels.gguf.blocks import KINDS
from llmanac.kernels.infer.blocks import repacked
from llmanac.kernels.infer.kinds import PACKED
from llmanac.kernels.infer.machine import call, forms
from llmanac.kernels.infer.products import FLOATS, product
from llmanac.models.gguf.write import export_gguf
from llmanac.models.layers import Linear, LinearMap
from llmanac.models.load import load_model
from llmanac.tokenizers.load import train_tokenizer

SCALINGS = {
    "yarn": {"type": "yarn", "factor": 4.0, "original_length": 16},
    "llama3": {"type": "llama3", "factor": 8.0, "original_length": 16},
}
QWEN3 = {"name": "multi-head", "heads": 4, "kv_heads": 2, "head_dim": 16, "qk_norm": "rmsnorm"}
GEMMA = {"name": "multi-head", "heads": 4, "kv_heads": 1, "score": {"name": "scaled-dot", "softcap": 5.0}}
EXPERTS = {"name": "experts", "experts": 5, "top_k": 2, "expert": {"name": "swiglu", "width": 48}}
ODD = ({"name": "multi-head", "heads": 10, "head_dim": 6}, {"name": "swiglu", "width": 51})
SANDWICH = {"name": "sandwich", "mixer": GEMMA, "ffn": "geglu-tanh"}
MODELS = {
    "llama": {"blocks": block({"name": "multi-head", "heads": 4, "kv_heads": 2})},
    "multi-head-untied": {"blocks": block("multi-head", "geglu"), "tied": False},
    "qwen2": {"blocks": block({"name": "multi-head", "heads": 6, "kv_heads": 2, "head_dim": 8, "biases": "qkv"})},
    "all-biases": {"blocks": block({"name": "multi-head", "biases": "all"}, {"name": "reglu", "biases": "all"})},
    "qwen3": {"blocks": block(QWEN3)},
    "gemma2": {
        "blocks": [{**SANDWICH, "mixer": {**GEMMA, "window": 7}}, SANDWICH],
        "norm": {"name": "rmsnorm", "offset": 1.0}, "embedding_scale": 3.0,
    },
    "gemma2-scale": {
        "blocks": [{**SANDWICH, "mixer": {**GEMMA, "score": {**GEMMA["score"], "scale": 0.7}}}],
        "norm": {"name": "rmsnorm", "offset": 1.0}, "embedding_scale": 3.0,
    },
    "capped-logits": {"blocks": block(), "head": {"name": "linear", "softcap": 2.0}},
    "window": {"blocks": block({"name": "multi-head", "heads": 4, "window": 5})},
    "no-positions": {"blocks": [*block(), {**block()[0], "position": "none"}]},
    "partial": {"position": {"name": "rope", "rotary_fraction": 0.5}},
    "wide-heads": {"blocks": block({"name": "multi-head", "heads": 6, "kv_heads": 2, "head_dim": 80})},
    "mixtral": {"blocks": block({"name": "multi-head", "heads": 4, "kv_heads": 2}, EXPERTS)},
    "qwen3-moe": {"blocks": block(QWEN3, {**EXPERTS, "experts": 20, "top_k": 4, "gates": "score", "scale": 2.0})},
    "one-expert": {"blocks": block("multi-head", {**EXPERTS, "top_k": 1})},
    "granite": {
        "blocks": [{**block(QWEN3)[0], "branch_scale": 0.3}], "embedding_scale": 5.0,
        "head": {"name": "linear", "scale": 0.4, "bias": "learned"},
    },
    "glm": {"blocks": block(QWEN3), "position": {"name": "rope", "rotary_fraction": 0.5, "layout": "pairs"}},
    "olmo2": {"blocks": [{"name": "sandwich", "mixer": {**QWEN3, "qk_norm_over": "all-heads"}, "norms": "after"}]},
    "starcoder2": {
        "blocks": block({"name": "multi-head", "biases": "all"}, {"name": "gelu-tanh", "biases": "all"}),
        "norm": "layernorm",
    },
    "phi": {
        "blocks": [{"name": "parallel", "mixer": "multi-head", "ffn": "gelu"}], "norm": "layernorm",
        "position": {"name": "rope", "layout": "pairs"},
    },
    "nemotron": {"blocks": block("multi-head", "relu-squared"), "norm": {"name": "layernorm", "offset": 1.0}},
    "olmo": {"norm": {"name": "layernorm", "weight": "none", "bias": "none"}},
    "odd": {"dim": 44, "blocks": block(*ODD)},
    **{name: {"position": {"name": "rope", "scaling": scaling}} for name, scaling in SCALINGS.items()},
}  # fmt: skip


def small(name="llama", **choices):
    return transformer(dtype=torch.float32, **{**MODELS[name], **choices})


def read(native, *rows, every=True):
    """The logits of rows that are read at once, each without its padding."""
    runner = NativeRunner(native)
    runner.extend(list(rows), 64)
    out = torch.from_numpy(runner.read(0, [list(map(int, row)) for row in rows], every=every))
    runner.reset()
    return [own[: len(row)].clone() if every else own[0].clone() for own, row in zip(out, rows, strict=True)]


@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_equal_the_model(name):
    model, ids = small(name), tokens(2, 40)
    found = read(NativeModel(model, threads=1), ids[0], ids[1, :23])
    batch = Batch(ids=ids, lengths=torch.tensor([40, 23]))
    with torch.no_grad():
        wanted = model(batch).logits.log_softmax(-1)
        exact = copy.deepcopy(model).double()(batch).logits.log_softmax(-1)
    for own, other, true in zip(found, wanted, exact, strict=True):
        own = own.log_softmax(-1)
        other, true = other[: len(own)], true[: len(own)]
        torch.testing.assert_close(own.double(), true, atol=1.5e-5, rtol=0)  # 1.06e-5 where just compiled
        # the model's own rounding comes on top
        torch.testing.assert_close(own, other, atol=1e-5 + float((other - true).abs().max()), rtol=0)
    assert float((found[0] - found[0].mean(0)).abs().max()) > 0.1  # the logits depend on what is read


def test_bfloat16_weights_are_read_in_place_and_computed_with_in_float32():
    model = small("qwen2").bfloat16()
    made = NativeModel(model, threads=1)
    assert made._plan.matrices[0, 0, 1] == model.model.layers[0].self_attn.q_proj.weight.data_ptr()
    ids = tokens(1, 30)
    with torch.no_grad():
        wanted = copy.deepcopy(model).float()(ids).logits[0]
    torch.testing.assert_close(read(made, ids[0])[0].log_softmax(-1), wanted.log_softmax(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("weights", "name"), [
    *((kind, "llama") for kind in ("own", "q8_0", "q4_0", "q4_1")), ("own", "mixtral"), ("q8_0", "qwen3-moe"),
    ("q8_0", "phi"), ("q4_0", "olmo2"),
])  # fmt: skip
def test_forms_and_threads_give_the_same_bits(weights, name):
    model, ids = small(name, dim=64), tokens(3, 37)
    wanted = read(NativeModel(model, weights=weights, threads=1), *ids)
    for choice in [{"threads": 2}, {"threads": 3}]:
        found = read(NativeModel(model, weights=weights, **choice), *ids)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    half = wanted
    for form in forms()[1:]:
        made = NativeModel(model, weights=weights, threads=1, form=form)
        if made.keys == "float32" and weights != "own":  # the plain form keeps keys in float32
            half = read(NativeModel(model, weights=weights, threads=1, keys="float32"), *ids)
        found = read(made, *ids)
        assert all(torch.equal(a, b) for a, b in zip(found, half, strict=True))


@pytest.mark.skipif(forms()[0] == "plain", reason="the plain form keeps keys in float32")
@pytest.mark.parametrize("name", MODELS)
def test_keys_in_less_memory_are_near_those_in_float32(name):
    model, ids = small(name), tokens(2, 40)
    kinds = ("float32", "float16", "q8_0")
    engines = [Engine(model, runner=f"native:{kind}", prefix_cache_bytes=1 << 22) for kind in kinds]
    assert [engine.native.keys for engine in engines] == list(kinds)
    exact, half, eighth = (torch.cat(read(engine.native, *ids)).log_softmax(-1) for engine in engines)
    assert 0 < (exact - half).abs().max() < (0.02 if name == "nemotron" else 0.01)  # squares double it
    kl = (exact.exp() * (exact - eighth)).sum(-1)
    print(f"{name}: KL {kl.mean():.1e}, median {kl.median():.1e} of keys in q8_0")
    assert (exact - half).abs().max() < (exact - eighth).abs().max()
    assert kl.median() < 3e-4 and kl.mean() < 1e-2  # where two experts are nearly equal, another one may be chosen
    one, two = (engine.prefix_cache.pool.block_bytes for engine in engines[1:])
    padded = [engine.native.padded for engine in engines[1:]]
    assert (
        one
        == 4
        * engines[1].native.block_tokens
        * len(model.model.layers)
        * engines[1].native.source.shape.kv_heads
        * padded[0]
    )
    assert two * padded[0] * 32 == one * padded[1] * 17  # 8 bits, and 16 for 32 numbers


def test_kinds_of_keys_that_are_not_kept_are_refused():
    for runner, kinds in (("native:float64", "float32"), ("torch:float16", "auto, native, torch")):
        with pytest.raises(RequestError, match=f"runner: .*{kinds}"):
            Engine(small(), runner=runner)
    with pytest.raises(RequestError, match=r"only float32$"):
        NativeModel(small(), form="plain", keys="float16")


def dequantized(weight, kind):
    made = KINDS[kind.upper()]
    return torch.from_numpy(made.float32(made.packed(weight.detach().numpy())))


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_1"])
def test_quantized_weights_are_near_their_dequantized_values(kind):
    model, ids = small("llama", dim=64, layers=4), tokens(4, 48)
    plain = copy.deepcopy(model)
    with torch.no_grad():
        for layer in plain.modules():
            if isinstance(layer, Linear):
                layer.weight.copy_(dequantized(layer.weight, kind))
        head = plain.lm_head.weight
        plain.lm_head.weight = torch.nn.Parameter(dequantized(head, kind))
        wanted, exact = plain(ids).logits.log_softmax(-1), model(ids).logits.log_softmax(-1)
    found = torch.stack(read(NativeModel(model, weights=kind, threads=1), *ids)).log_softmax(-1)
    kl = float((wanted.exp() * (wanted - found)).sum(-1).mean())
    cost = float((exact.exp() * (exact - wanted)).sum(-1).mean())
    print(f"{kind}: KL {kl:.2e} of 8-bit activations, {cost:.2e} of the weights")
    assert kl < 5e-3
    assert cost > (1e-5 if kind == "q8_0" else 20 * kl)


PROMPTS = [tokens(1, n, seed=n)[0].tolist() for n in (3, 31, 17, 40, 5)]


@njit
def _call(place, arguments):
    call(place, arguments)


def some_rows(kind, rows, numbers):
    """Any codes, with scales that make numbers of a size of about 1."""
    made, rng = PACKED[kind], np.random.default_rng(PACKED[kind].number)
    data = rng.integers(0, 256, (rows, numbers // made.size * made.bytes), np.uint8)
    blocks = data.reshape(-1).view(made.layout)
    for name in {"d", "m"} & set(made.layout.names):
        wanted = rng.uniform(0.5, 1, len(blocks)) * (1 if made.size == made.part else 2 / 32) / 2 ** (made.bits - 1)
        blocks[name] = wanted * rng.choice([-1, 1], len(blocks))
    if "q" in made.layout.names:
        blocks["q"] &= (1 << made.bits) - 1
    return data


# how many numbers of a folder share a scale, no form has code of its own for: one number is enough for the others
@pytest.mark.parametrize(("kind", "form"), [
    (kind, form) for kind in (*FLOATS, *PACKED) for form in forms()
    if form == forms()[0] or not kind.endswith(("-64", "-128", "-256"))
])  # fmt: skip
def test_products_equal_those_of_the_dequantized_matrix(kind, form):
    draw = torch.Generator().manual_seed(0)
    k = 512 if kind in PACKED else 100  # which leaves a rest
    weights, x = torch.randn(35, k, generator=draw), torch.randn(11, k, generator=draw)
    given = [x]
    if kind in PACKED:
        groups = x.view(11, -1, 2, 16)
        s = groups.abs().amax((-1, -2)) / 127
        codes = (groups / s[..., None, None]).round()
        data = some_rows(kind, 35, k)
        held, weights = repacked(kind, data), torch.from_numpy(PACKED[kind].float32(data))
        place, x = held.ctypes.data, (codes * s[..., None, None]).view(11, k)
        sums = torch.cat([codes.sum((-1, -2))[..., None], codes.sum(-1)], -1)  # of 32 numbers, and of 16
        given = [x, codes.to(torch.int8), s, (-128 * sums).int(), s[..., None] * sums]
    else:
        held = weights = weights.to(getattr(torch, kind))
        place = held.data_ptr()
    out, given = torch.zeros(11, 48), [v.contiguous() for v in given]
    given += given[:1] * (5 - len(given))
    for first, last in ((0, 16), (16, 35)):  # as two threads have it
        rest = (11, out.data_ptr(), 48)
        _call(product(kind, form), (place, 35, first, last, k, *(v.data_ptr() for v in given), *rest))
    wanted = x.double() @ weights.double().T
    scale = float(wanted.abs().max())
    torch.testing.assert_close(out[:, :35].double(), wanted, atol=1e-6 * scale, rtol=0)
    assert scale > 10


def test_the_blocks_of_a_gguf_file_are_run_as_they_are(tmp_path):
    tokenizer = train_tokenizer("utf8", [])
    model = transformer(dtype=torch.float32, dim=64, tied=False, vocab_size=tokenizer.vocab_size)
    loaded = load_model(export_gguf(model, tokenizer, tmp_path / "model.gguf", "Q4_0"))
    made = NativeModel(loaded, threads=1)
    assert made._plan.matrices[..., 4].all() and made._plan.head[4]
    # its 4-bit blocks and its head of 8 bits, not float32
    bits = 8 * made.nbytes / sum(p.numel() for n, p in loaded.named_parameters() if p.ndim == 2 and "embed" not in n)
    assert 4.5 <= bits < 7
    ids = tokens(1, 40, below=tokenizer.vocab_size)
    with torch.no_grad():
        wanted = loaded(ids).logits[0].log_softmax(-1)
    found = read(made, ids[0])[0].log_softmax(-1)
    assert float((wanted.exp() * (wanted - found)).sum(-1).mean()) < 5e-3
    up = loaded.model.layers[0].mlp.up_proj
    up.weight = torch.nn.Parameter(up.weight.dense() * 0.5)  # is no longer what the file has
    made.sync()
    assert made._plan.matrices[0, :, 4].tolist() == [1, 1, 1, 1, 1, 0, 1]


@pytest.mark.parametrize("runner", ["native", "torch"])
def test_sampled_sequences_have_the_probabilities_of_the_model(runner):
    model, prompt, count = small(vocab_size=5, layers=1, dim=16), [2, 0], 3000
    exact = {}
    with torch.no_grad():
        for text in itertools.product(range(5), repeat=2):
            logp = model(torch.tensor([[*prompt, *text]])).logits[0].double().log_softmax(-1)
            exact[text] = float((logp[1, text[0]] + logp[2, text[1]]).exp())
    asked = {"max_new_tokens": 2, "temperature": 1.0, "n": count, "seed": 1, "stop_ids": []}
    drawn = Counter(tuple(c.ids) for c in Engine(model, rows=count, runner=runner).generate(prompt, **asked))
    seen, wanted = np.array([drawn[text] for text in exact]), np.array(list(exact.values()))
    assert wanted.sum() == pytest.approx(1)
    often = wanted * count >= 5
    seen, wanted = np.append(seen[often], seen[~often].sum()), np.append(wanted[often], wanted[~often].sum()) * count
    keep = wanted > 0
    assert scipy.stats.chisquare(seen[keep], wanted[keep]).pvalue > 1e-3
    assert scipy.stats.chisquare(seen[keep], np.roll(wanted[keep], 1), sum_check=False).pvalue < 1e-3


@pytest.mark.parametrize(("weights", "keys", "name"), [
    ("own", "float32", "gemma2"), ("q8_0", None, "gemma2"), ("own", "q8_0", "gemma2"), ("q8_0", None, "mixtral"),
])  # fmt: skip
def test_a_request_gets_the_same_bits_whatever_shares_its_batch(weights, keys, name, monkeypatch):
    if keys == "q8_0" and forms()[0] == "plain":
        pytest.skip("the plain form keeps keys in float32")
    model = small(name, dim=64)
    made = NativeModel(model, weights=weights, keys=keys, threads=1, block_tokens=16)
    asked = {"max_new_tokens": 15, "temperature": 0.9, "seed": 3, "logprobs": 2, "n": 2, "stop_ids": []}
    alone = [Engine(model, runner=made).generate(prompt, **asked) for prompt in PROMPTS]
    monkeypatch.setattr(native_module, "LINES", 11)  # passes that cut through prompts
    cached = Engine(model, runner=made, rows=4, prefix_cache_bytes=2**20)
    for engine in (Engine(model, runner=made, rows=32), cached, cached):
        together = engine.generate(PROMPTS, **asked)
        for found, wanted in zip(together, [own for pair in alone for own in pair], strict=True):
            assert found.ids == wanted.ids
            assert found.token_logprobs == wanted.token_logprobs
    assert cached.prefix_cache.reused_tokens > 0


def test_prompts_are_scored_as_the_torch_runner_scores_them():
    model = small()
    asked = {"max_new_tokens": 0, "prompt_logprobs": 3}
    found = Engine(model, runner="native").generate(PROMPTS, **asked)
    wanted = Engine(model, runner="torch").generate(PROMPTS, **asked)
    for own, other in zip(found, wanted, strict=True):
        assert len(own.prompt_token_logprobs) == len(own.prompt_ids)
        for a, b in zip(own.prompt_token_logprobs[1:], other.prompt_token_logprobs[1:], strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-5)


@pytest.mark.parametrize("drafter", ["prompt-lookup", "model"])
def test_drafts_change_no_token(drafter):
    """Rejected tokens are taken back from the pages."""
    model = small("window")
    draft = {"draft_model": small("no-positions")} if drafter == "model" else {}
    asked = {"max_new_tokens": 20, "n": 2, "temperature": 0.7, "logprobs": 1, "stop_ids": []}
    wanted = Engine(model, runner="native").generate(PROMPTS, **asked)
    engine = Engine(model, runner="native", drafter=drafter, rows=5, **draft)
    engine.speculation.always = True
    found = engine.generate(PROMPTS, **asked)
    assert [own.ids for own in found] == [own.ids for own in wanted]
    assert [own.token_logprobs for own in found] == [own.token_logprobs for own in wanted]  # bit by bit
    assert engine.speculation.accepted < engine.speculation.proposed


def test_changed_weights_are_read_again():
    model = small()
    engine = Engine(model, runner="native", prefix_cache_bytes=2**20)
    torch_engine = Engine(model)
    first = engine.generate(PROMPTS[3], max_new_tokens=9)[0]
    engine.native.sync()
    randomise(model, seed=5)  # written to in place: noticed by itself
    second = engine.generate(PROMPTS[3], max_new_tokens=9)[0]
    assert second.ids == torch_engine.generate(PROMPTS[3], max_new_tokens=9)[0].ids != first.ids
    for p in model.parameters():
        p.data.mul_(0.7)  # not noticed, so it is said
    assert engine.sync() > 0
    third = engine.generate(PROMPTS[3], max_new_tokens=9)[0]
    assert third.logprobs == pytest.approx(torch_engine.generate(PROMPTS[3], max_new_tokens=9)[0].logprobs, abs=1e-5)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: small().double(), "float64"),
        (lambda: transformer(blocks=block("gru"), position="none", dtype=torch.float32), "GRU"),
        (lambda: small(blocks=block({**QWEN3, "qk_norm": "layernorm"})), "LayerNorm"),
        (lambda: small(blocks=[{"name": "parallel", "norms": "two"}]), "a norm of its own"),
        (lambda: small(blocks=[*block(), {**block()[0], "branch_scale": 0.5}]), "different shapes"),
        (lambda: small(blocks=[*block(), {**block()[0], "position": MODELS["phi"]["position"]}]), "different pairs"),
        (lambda: small(blocks=block({"name": "multi-head", "clip": 2.0})), "clip"),
        (lambda: transformer(position="alibi", dtype=torch.float32), "positions"),
        (lambda: small(blocks=block(ffn={**EXPERTS, "shared": "swiglu"})), "shared"),
        (lambda: small(blocks=block(ffn={**EXPERTS, "scoring": "sigmoid"})), "scoring"),
        (lambda: small(blocks=block(ffn={**EXPERTS, "expert": "relu"})), "MLP"),
        (lambda: small(blocks=block(ffn={**EXPERTS, "expert": {"name": "swiglu", "biases": "all"}})), "biases"),
        (lambda: small(blocks=[*block(), *block(ffn=EXPERTS)]), "different shapes"),
    ],
)
def test_what_it_cannot_run_is_refused(model, reason):
    made = model()
    assert reason.lower() in refusal(made).lower()
    with pytest.raises(RequestError, match="runner: native cannot run this model"):
        Engine(made, runner="native")
    assert Engine(made, runner="auto").native is None
    with pytest.raises(RequestError, match="runner: 'fast' is not one of"):
        Engine(made, runner="fast")


def test_hooks_and_other_caches_are_refused():
    model = small()
    model.model.layers[0].register_forward_hook(lambda *a: None)
    assert "hooks" in refusal(model)
    model = small()
    engine = Engine(model, prefix_cache_bytes=2**20)
    with pytest.raises(RequestError, match="block_tokens: 24 is not 16 times"):
        NativeModel(model, block_tokens=24)
    with pytest.raises(RequestError, match="weights: 'q2' is not one of"):
        NativeModel(model, weights="q2")
    with pytest.raises(RequestError, match="another runner"):
        NativeRunner(NativeModel(model, threads=1), engine.prefix_cache)


def test_training_through_rounding_is_refused_also_when_it_comes_later():
    model = small("llama", dim=64)
    engine = Engine(model, runner="native")
    make_method("quantizer", "ternary").build().attach(model)
    assert "rounding" in refusal(model)
    with pytest.raises(RequestError, match="rounding"):
        engine.generate(PROMPTS[0], max_new_tokens=2)


def test_blocks_of_a_file_are_not_run_once_the_parameters_are_others(tmp_path):
    tokenizer = train_tokenizer("utf8", [])
    model = transformer(dtype=torch.float32, dim=64, tied=False, vocab_size=tokenizer.vocab_size)
    loaded = load_model(export_gguf(model, tokenizer, tmp_path / "model.gguf", "Q8_0"))
    engine = Engine(loaded, runner="native:float32")
    assert engine.native._plan.matrices[..., 4].all()
    for part in loaded.modules():
        if isinstance(part, LinearMap):
            part.weight = torch.nn.Parameter(part.weight.dense() * 0.5)
    engine.sync()
    assert not engine.native._plan.matrices[..., 4].any() and not engine.native._plan.head[4]
    ids = tokens(1, 40, below=tokenizer.vocab_size)
    found = read(engine.native, ids[0])[0].log_softmax(-1)
    with torch.no_grad():
        wanted = loaded(ids).logits[0].log_softmax(-1)
    torch.testing.assert_close(found, wanted, atol=5e-5, rtol=0)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_that_generate_or_sync_with_one_model_wait_for_each_other(threads):
    model = small("llama", dim=64)
    engine = Engine(model, runner=NativeModel(model, threads=threads))
    asked = {"max_new_tokens": 30, "stop_ids": []}
    wanted = [engine.generate(prompt, **asked)[0].ids for prompt in PROMPTS]
    with ThreadPoolExecutor(3) as pool:
        syncs = pool.submit(lambda: [engine.sync() for _ in range(20)])
        runs = [pool.submit(lambda p: engine.generate(p, **asked)[0].ids, prompt) for prompt in PROMPTS * 3]
        assert [run.result(60) for run in runs] == wanted * 3
        assert len(syncs.result(60)) == 20


@pytest.mark.parametrize("runner", ["native", "torch"])
def test_rows_read_before_a_sync_are_not_found_after_it(runner):
    model = small(dim=64, max_length=256)
    prompt = tokens(1, 100, seed=3)[0].tolist()
    engine = Engine(model, runner=runner, prefix_cache_bytes=2**22)
    scheduler = engine.scheduler()
    scheduler.submit(engine.request(prompt, max_new_tokens=40, stop_ids=[]))
    for _ in range(5):
        scheduler.step()
    for p in model.parameters():
        p.data.mul_(0.6)
    engine.sync()
    while scheduler.busy:
        scheduler.step()
    found = engine.generate(prompt, max_new_tokens=5, stop_ids=[])[0]
    wanted = Engine(model).generate(prompt, max_new_tokens=5, stop_ids=[])[0]
    assert engine.prefix_cache.reused_tokens == 0
    assert found.logprobs == pytest.approx(wanted.logprobs, abs=1e-5)
