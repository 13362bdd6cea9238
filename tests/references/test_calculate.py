"""Calculators against counted parameters, FLOPs and bytes, on small models of many families and on random Specs."""

from __future__ import annotations

import json

import pytest
import torch
from _families import BASES, CASES, LLAMA
from _small_models import VOCABULARY, shifted, tokens, transformer
from torch.utils.flop_counter import FlopCounterMode

from llmanac import cli
from llmanac.core.errors import LlmanacError
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.guide import calculate
from llmanac.guide.formulas import COUNTED, costs

TYPES = sorted({name.partition(",")[0] for name in CASES} | set(BASES))
LENGTH = 16  # a power of two: what a growing cache then holds is what it has room for


def config_of(case):
    kind = case.partition(",")[0]
    return {"model_type": kind, **BASES.get(kind, LLAMA), **CASES.get(case, {})}


def described(tmp_path, case):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_of(case)))
    return calculate.read(path)


def skeleton(model):
    with torch.device("meta"):
        return model.spec.build(vocab_size=model.vocab_size)


@pytest.mark.parametrize("case", sorted({*CASES, *TYPES}))
def test_parameters_flops_and_state_equal_what_is_counted(tmp_path, case):
    model = described(tmp_path, case)
    found, built = costs(model.spec, model.vocab_size), skeleton(model)
    assert found.parameters == sum(p.numel() for p in built.parameters())
    assert found.flops_per_token(100) == pytest.approx(built.flops_per_token(100), rel=1e-12)
    if found.kind == "encoder":
        assert found.state_bytes(LENGTH, 4) == 0
        with pytest.raises(LlmanacError, match="does not write"):
            calculate.latency(model, calculate.Machine(1e9, 1e9, "given"), prompt=8)
        return
    state = built.start(1)
    state.reserve(LENGTH)
    source = 0
    for part in found.parts:
        if part.name == "cross-attention":  # the state of a source that was read
            source += part.count * part.state(LENGTH, 4)
    assert found.state_bytes(LENGTH, 4) - source == state.nbytes


@pytest.mark.parametrize("mixer", ["multi-head", "multi-query", "sliding-window", "latent", "mamba", "mamba2", "gru",
                                   "s4", "linear", "min-gru", "lightning"])  # fmt: skip
@pytest.mark.parametrize("ffn", ["swiglu", "experts"])
def test_specs_of_our_own(mixer, ffn):
    blocks = [{"name": "sandwich", "mixer": mixer, "ffn": ffn}, {"name": "pre-norm", "mixer": "multi-head"}]
    spec = make_method("lm", {"name": "transformer", "dim": 32, "layers": 5, "blocks": blocks, "position": "none"})
    with torch.device("meta"):
        built = spec.build(vocab_size=VOCABULARY)
    found = costs(spec, VOCABULARY)
    assert found.parameters == sum(p.numel() for p in built.parameters())
    assert found.flops_per_token(50) == pytest.approx(built.flops_per_token(50), rel=1e-12)
    state = built.start(1)
    state.reserve(LENGTH)
    assert found.state_bytes(LENGTH, 4) == state.nbytes
    assert all(p.formula != COUNTED for p in found.parts if p.name in ("attention", "mamba", "experts", "feed-forward"))


@pytest.mark.parametrize("ffn, heads", [("swiglu", 4), ("mlp", 2), ("experts", 1)])
def test_flops_are_those_that_torch_counts(ffn, heads):
    """With plain attention over all T keys of each query, in a forward pass on real tensors."""
    mixer = {"name": "softmax", "heads": 4, "kv_heads": heads, "biases": "qkv"}
    model = transformer(blocks=[{"name": "pre-norm", "mixer": mixer, "ffn": ffn}], dtype=torch.float32)
    model.attention_form = "plain"
    ids = tokens(1, 24)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(Batch(ids=ids))
    assert counter.get_total_flops() == 24 * costs(model.spec, VOCABULARY).forward_flops(24)


def test_bytes_equal_live_tensors():
    model = transformer(blocks=[{"name": "pre-norm", "mixer": "multi-query", "ffn": "swiglu"}], dtype=torch.float32)
    given = calculate.Described(model.spec, VOCABULARY, "here", "llmanac")
    for name in ("adamw", "lion"):
        optimizer = make_method("optimizer", name).build(model=model)
        model.nll(shifted(tokens(2, 17))).backward()
        optimizer.step(1.0)
        found = calculate.bytes_of(given, length=LENGTH, rows=3, dtype="float32", optimizer=name)
        assert found.optimizer == optimizer.nbytes()
        assert found.gradients == sum(p.grad.nbytes for p in model.parameters())
        assert found.weights == found.trained == sum(p.nbytes for p in model.parameters())
    state = model.start(3)
    model(Batch(ids=tokens(3, LENGTH)), state)
    assert found.state == state.nbytes
    assert found.activations
    assert found.training == 2 * found.weights + found.optimizer + found.activations


def test_experts_that_a_step_reads():
    """One token reads k of E; many read all; in between the expected number under uniform choice."""
    model = calculate.Described(make_method("lm", {
        "name": "transformer", "dim": 16, "layers": 2,
        "blocks": [{"name": "pre-norm", "ffn": {"name": "experts", "experts": 8, "top_k": 2}}],
    }), 50, "here", "llmanac")  # fmt: skip
    found = costs(model.spec, 50)
    expert = next(p for p in found.parts if p.experts)
    assert found.read_parameters(1) == found.active == found.parameters - 2 * 6 * expert.expert
    assert found.read_parameters(10_000) == pytest.approx(found.parameters)
    draws = torch.stack([torch.randperm(8, generator=torch.Generator().manual_seed(i))[:2] for i in range(4000)])
    seen = torch.stack([(draws.view(1000, 8) == e).any(1) for e in range(8)]).sum(0).double().mean()
    expected = (found.read_parameters(4) - found.parameters) / (2 * expert.expert) + 8
    assert expected == pytest.approx(seen.item(), abs=0.1)


def test_roofline_and_published_sizes(tmp_path):
    """Llama 3 8B: 8.03 billion parameters, 128 KiB of bfloat16 keys and values a token."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
    }))  # fmt: skip
    model = calculate.read(path)
    found = costs(model.spec, model.vocab_size)
    assert found.parameters == 8_030_261_248
    assert found.state_bytes(1, 2) == 128 * 1024
    first, following = calculate.latency(model, calculate.Machine(1e15, 3e12, "given"), prompt=2048)
    assert first.bound == "compute" and following.bound == "memory"
    assert following.bytes == 2 * (8_030_261_248 - 128256 * 4096) + 2048 * 128 * 1024
    assert following.seconds == following.bytes / 3e12 and first.seconds == first.flops / 1e15
    windowed = json.loads(path.read_text()) | {"model_type": "mistral", "sliding_window": 1024}
    path.write_text(json.dumps(windowed))
    for prompt, seen in ((100, 100), (2048, 1024)):  # a step reads what there is, and no more than its window
        step = calculate.latency(calculate.read(path), calculate.Machine(1e15, 3e12, "given"), prompt=prompt)[1]
        assert step.bytes - 2 * (8_030_261_248 - 128256 * 4096) == pytest.approx(seen * 128 * 1024, rel=1e-2)
    wide = calculate.latency(model, calculate.Machine(1e15, 3e12, "given"), prompt=2048, rows=64)[1]
    assert following.intensity < wide.intensity < 64 * following.intensity


def test_commands(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_of("mixtral")))
    for name in ("memory", "flops", "kv-cache", "latency"):
        more = ["--tflops", "1", "--bandwidth", "10"] if name == "latency" else []
        for form in ([], ["--json"]):
            with pytest.raises(SystemExit) as ended:
                cli.main(["calculate", name, str(path), *more, *form])
            assert ended.value.code == 0
            said = capsys.readouterr().out
            assert json.loads(said) if form else "Next: llmanac calculate" in said
    wrong = [
        (["memory", str(path), "--dtype", "int3"], "--dtype: 'int3'"),
        (["memory", str(path), "--optimizer", "adma"], "--optimizer: 'adma'"),
        (["latency", str(path), "--tflops", "1"], "give both"),
        (["flops", str(tmp_path / "none.json")], "none.json"),
        (["flops", "quickstrat"], "quickstart"),
    ]
    path.with_name("key.json").write_text(json.dumps({**config_of("mixtral"), "attention_multiplier": 3}))
    wrong.append((["kv-cache", str(path.with_name("key.json"))], "attention_multiplier"))
    path.with_name("odd.json").write_text('{"model_type": "lama"}')
    wrong.append((["flops", str(path.with_name("odd.json"))], "did you mean|llama"))
    for arguments, message in wrong:
        with pytest.raises(SystemExit) as ended:
            cli.main(["calculate", *arguments])
        assert ended.value.code == 2
        assert message.partition("|")[0] in (error := capsys.readouterr().err) or message.partition("|")[2] in error
    with pytest.raises(SystemExit):
        cli.main(["calculate", "memory", "quickstart", "--json"])
    assert json.loads(capsys.readouterr().out)["parameters"] > 0


def test_measuring_gives_times(tmp_path):
    model = described(tmp_path, "llama")
    assert all(0 < t < 10 for t in calculate.measure(model, prompt=8))
