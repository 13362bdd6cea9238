"""The formulas of memory against live tensors and the allocator's events, on small models; then at 65 billion."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from _small_models import shifted, tokens
from torch.profiler import ProfilerActivity, profile

from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.core.types import OutputRequest
from llmanac.lab.memory import memory
from llmanac.models.quantized import Quantized

pytestmark = pytest.mark.usefixtures("one_thread")
NF4 = make_method("quantizer", "nf4")
PARTLY = make_method("quantizer", {"name": "nf4", "targets": ["q_proj", "lm_head"], "block": 128})


def spec_of(dim, width, layers=2, heads=4, kv_heads=None):
    mixer = {"name": "softmax", "heads": heads, "kv_heads": kv_heads}
    blocks = [{"name": "pre-norm", "mixer": mixer, "ffn": {"name": "gated", "width": width}}]
    return make_method(
        "lm", {"name": "transformer", "dim": dim, "layers": layers, "max_length": 4096, "blocks": blocks}
    )


def built(spec, vocab_size, quantizer, adapter):
    """A model whose values are not zero, so that every gradient is computed."""
    model = spec.build(vocab_size=vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.05)
    if quantizer is not None:
        quantizer.build().apply(model)
    if adapter is not None:
        adapter.build().apply(model)
    return model


def live_bytes(tensors):
    """Bytes of memory that tensors occupy, each once."""
    parts = [part for t in tensors for part in (t.parts.values() if isinstance(t, Quantized) else [t])]
    return sum({p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in parts}.values())


@pytest.mark.parametrize(
    "name, quantizer",
    [(name, NF4) for name in ("lora", "dora", "prompt", "prefix", None)]
    + [("lora", other) for other in (None, PARTLY, make_method("quantizer", "nf4-single"))]
    + [(None, None)],
)
def test_what_is_held_equals_the_live_tensors(name, quantizer):
    """To the byte, with matrices whose last block is cut and a tied head."""
    spec, vocabulary = spec_of(40, 72), 61
    adapter = None if name is None else make_method("adapter", name)
    if name is None and quantizer is not None:
        with pytest.raises(SpecError, match="carry no gradient"):
            memory(spec, vocabulary, quantizer=quantizer, rows=0)
        return
    found = memory(spec, vocabulary, adapter=adapter, quantizer=quantizer, rows=0)
    model = built(spec, vocabulary, quantizer, adapter)
    optimizer = make_method("optimizer", "adamw").build(model=model)
    model.nll(shifted(tokens(2, 9))).backward()
    optimizer.step(1.0)
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert found.weights == live_bytes(frozen if adapter is not None else trained)
    assert found.adapter == (live_bytes(trained) if adapter is not None else 0)
    assert found.gradients == live_bytes([p.grad for p in trained])
    assert found.optimizer == live_bytes(list(optimizer.state.values()))
    if name is None:
        assert found.held == 16 * found.numbers
    assert found.activations == found.workspace == 0 and found.peak == found.held


def allocated(run):
    """The most bytes above those at the start, by the allocator's events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    now = most = 0
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


SHAPES = [  # spec, vocabulary, rows, length
    (spec_of(64, 176), 256, 2, 128),
    (spec_of(64, 176, kv_heads=2, layers=4), 256, 2, 128),
    (spec_of(128, 352), 512, 1, 256),
    (spec_of(64, 176), 8192, 2, 128),  # the logits are the most
    (spec_of(512, 1376, heads=8), 256, 1, 32),  # a tile of a packed matrix is
]


@pytest.mark.parametrize(
    "shape, quantizer, recompute",
    [(i, q, "blocks") for i in range(5) for q in (None, NF4)] + [(1, None, "none"), (2, NF4, "none"), (4, NF4, "none")],
)
def test_the_peak_is_that_of_the_allocator(shape, quantizer, recompute):
    """Within 5% of the bytes that a second micro-batch takes, when the gradients are there; activations alone, too."""
    spec, vocabulary, rows, length = SHAPES[shape]
    adapter = make_method("adapter", {"name": "lora", "rank": 4})
    found = memory(
        spec, vocabulary, adapter=adapter, quantizer=quantizer, rows=rows, length=length, recompute=recompute
    )
    model = built(spec, vocabulary, quantizer, adapter)
    model.recompute = recompute
    batch = shifted(tokens(rows, length + 1, below=vocabulary))
    model.nll(batch).backward()
    taken = allocated(lambda: model.nll(batch).backward())
    assert abs(found.activations + found.workspace - taken) < 0.05 * taken
    assert abs(found.peak - (found.held + taken)) < 0.05 * found.peak


def test_checkpointed_blocks_give_the_same_gradients():
    """With dropout in the adapter, a mixture of experts' own loss, and a prefix."""
    for choices, adapter in (
        ({}, {"name": "lora", "dropout": 0.3}),
        ({"blocks": [{"name": "pre-norm", "ffn": "experts"}]}, {"name": "lora", "targets": ["q_proj"]}),
        ({}, {"name": "prefix", "tokens": 3}),
        ({}, {"name": "prompt", "tokens": 3}),
        ({"blocks": [{"name": "pre-norm", "mixer": "mamba", "ffn": "none"}], "position": "none"}, {"name": "dora"}),
    ):
        spec = make_method("lm", {"name": "transformer", "dim": 32, "layers": 2, "max_length": 64, **choices})
        model = built(spec, 61, None, make_method("adapter", adapter)).double().train()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape) * 0.1)
        batch, found = shifted(tokens(2, 12)), {}
        for kind in ("none", "blocks"):
            model.recompute = kind
            model.zero_grad()
            torch.manual_seed(0)
            output = model(batch, want=OutputRequest(nll="sum"))
            sum(output.aux.values(), output.nll).backward()
            found[kind] = [p.grad.clone() for p in model.parameters() if p.requires_grad]
        assert len(found["none"]) == len(found["blocks"]) > 0
        for one, other in zip(found["none"], found["blocks"], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
            assert one.abs().sum() > 0


def test_65_billion_parameters():
    """Llama's largest: 16 bytes each for full training (1,040 GB), below 48 GB as QLoRA trains it."""
    spec = replace(spec_of(8192, 22016, layers=80, heads=64), tied=False)
    full = memory(spec, 32000, rows=0)
    assert full.numbers == 65_285_660_672 and full.held == 16 * full.numbers
    assert full.held * 65e9 / full.numbers == 1040e9
    adapter = make_method("adapter", {"name": "lora", "rank": 16})
    found = memory(spec, 32000, adapter=adapter, quantizer=NF4, dtype=torch.bfloat16, rows=1, length=512)
    assert 35e9 < found.peak < 48e9
    matrices = 80 * (4 * 8192**2 + 3 * 8192 * 22016)
    head_and_norms = 2 * 2 * 32000 * 8192 + 4 * 161 * 8192
    assert (found.weights - head_and_norms) * 8 / matrices == pytest.approx(4.127, abs=5e-4)
    assert found.held < 0.04 * full.held


def test_what_has_no_formula_is_refused():
    spec = make_method(
        "lm", {"name": "transformer", "blocks": [{"name": "pre-norm", "mixer": "gru"}], "position": "none"}
    )
    with pytest.raises(SpecError, match="activations are known for"):
        memory(spec, 61, adapter=make_method("adapter", "lora"))
    with pytest.raises(SpecError, match="no formula for int8"):
        memory(spec, 61, adapter=make_method("adapter", "lora"), quantizer=make_method("quantizer", "int8"), rows=0)
