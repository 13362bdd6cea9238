"""Quantizers: codes, scales and values against outside implementations and the formulas in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers.integrations.bitnet import BitLinear, pack_weights

from llmanac.core import registry
from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.generate.engine import Engine
from llmanac.models.quantized import Quantized, stored_bytes
from llmanac.quant.nf4 import eight_bit_levels, levels

bnb = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
NAMES = sorted(registry.methods("quantizer"))
SHAPES = [(32, 64), (30, 70), (128, 512), (7, 9), (1, 1), (4, 4096)]


def matrix(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pack(name, weight, **fields):
    return make_method("quantizer", {"name": name, **fields}).build().pack(weight)


def model(**fields):
    spec = make_method("lm", {"name": "transformer", "dim": 64, "layers": 2, "max_length": 64, **fields})
    return spec.build(vocab_size=96).initialise(0).eval()


def lively(made):
    """Weights at a size where every part matters: what writes to the residual stream starts at 0."""
    with torch.no_grad():
        for i, p in enumerate(made.parameters()):
            p.copy_(matrix(*p.shape, seed=i) * 0.1 + (p.ndim == 1))
    return made


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("name, dtype", [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_is_a_cast(name, dtype):
    made = lively(model())
    expected = {key: p.to(dtype) for key, p in made.state_dict().items()}
    report = make_method("quantizer", name).build().apply(made)
    assert all(torch.equal(p, expected[key]) for key, p in made.state_dict().items())
    assert report.bits == 16 and report.now * 2 == report.before == stored_bytes(made) * 2


def test_float16_refuses_what_it_cannot_hold():
    made = model()
    made.lm_head.weight.data[0, 0] = 1e5
    with pytest.raises(SpecError, match="bf16"):
        make_method("quantizer", "fp16").build().apply(made)
    assert made.model.embed_tokens.weight.dtype == torch.float32


def test_int8_equals_the_formula():
    w, x = matrix(24, 40).double(), matrix(5, 3, 40, seed=1).double()
    w[3] = 0
    scale = w.abs().amax(1, keepdim=True) / 127
    codes = torch.where(scale > 0, w / scale, 0.0).round()
    packed = pack("int8", w.float())
    torch.testing.assert_close(packed.parts[""].double(), codes)
    torch.testing.assert_close(packed.dense().double(), codes * scale, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        packed.form.multiply(x.float(), packed).double(), x @ (codes * scale).T, rtol=1e-5, atol=1e-5
    )
    unit = x.abs().amax(-1, keepdim=True) / 127
    rounded = (x / unit).round().long()
    expected = (rounded @ codes.long().T) * unit * scale[:, 0]
    dynamic = pack("int8-dynamic", w.float())
    torch.testing.assert_close(dynamic.form.multiply(x.float(), dynamic).double(), expected, rtol=1e-5, atol=1e-5)


def test_nf4_levels_are_the_published_ones():
    assert torch.equal(levels(), bnb.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(eight_bit_levels(), bnb.create_dynamic_map())


@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize("scales", ["float32", "double"])
@pytest.mark.parametrize("shape", SHAPES)
def test_nf4_equals_bitsandbytes(shape, scales, block):
    weight = matrix(*shape) * 0.03
    codes, state = bnb.quantize_4bit(weight, blocksize=block, compress_statistics=scales == "double", quant_type="nf4")
    packed = pack("nf4", weight, block=block, scales=scales)
    assert torch.equal(packed.parts[""], codes)
    theirs = {"": codes, "absmax": state.absmax}
    if state.nested:
        theirs |= {"nested_absmax": state.state2.absmax, "nested_offset": state.offset.reshape(1)}
        assert torch.equal(packed.parts["nested_offset"], theirs["nested_offset"])
        if len(state.absmax) > 1:  # of two equally near levels it takes the other one now and then
            apart = (packed.parts["absmax"].int() - state.absmax.int()).abs()
            assert int(apart.max()) <= 1 and int(apart.sum()) <= max(1, len(apart) // 200)
    else:
        assert torch.equal(packed.parts["absmax"], state.absmax)
    if block == 64:  # its CPU form reads blocks of 128 wrongly
        values = packed.form.dense(theirs, shape)
        torch.testing.assert_close(values, bnb.dequantize_4bit(codes, state), rtol=1e-6, atol=1e-8)
    scale = packed.form.scales(packed.parts).repeat_interleave(block)[: weight.numel()].view(shape)
    most = 0.155 if scales == "float32" else 0.2  # half of the widest gap, and the error of a rounded scale
    assert bool(((packed.dense() - weight).abs() <= most * scale).all())


def test_nf4_bits_a_number():
    assert pack("nf4-single", matrix(512, 512)).stored * 8 / 512**2 == 4.5
    assert pack("nf4", matrix(512, 512)).stored * 8 / 512**2 == pytest.approx(4.127, abs=0.001)


def test_ternary_equals_bitnet():
    weight, x = matrix(24, 40) * 0.05, matrix(3, 40, seed=1)
    packed = pack("ternary", weight)
    scale = weight.abs().mean()
    codes = (weight / scale).round().clamp(-1, 1)
    assert torch.equal(packed.parts[""], pack_weights(codes.clone()))
    torch.testing.assert_close(packed.dense(), codes * scale)
    layer = BitLinear(40, 24, bias=False, dtype=torch.float32)
    layer.weight, layer.weight_scale = packed.parts[""], 1 / packed.parts["scale"]
    with torch.compiler.set_stance("force_eager"):
        torch.testing.assert_close(packed.form.multiply(x, packed), layer(x))
    assert packed.stored * 8 / weight.numel() == 2 + 32 / weight.numel()


def test_binary_has_the_least_error_of_all_scales():
    weight = matrix(6, 200)
    packed = pack("binary", weight)
    for start in (0, 128):
        own = weight[:, start : start + 128].double()
        best = own.abs().mean(1, keepdim=True)
        torch.testing.assert_close(
            packed.dense()[:, start : start + 128].double(), own.sign() * best, rtol=1e-3, atol=0
        )
        for other in (0.9, 1.1):
            assert bool(
                (((own - own.sign() * best) ** 2).sum(1) < ((own - own.sign() * best * other) ** 2).sum(1)).all()
            )
    assert pack("1bit", matrix(64, 1024)).stored * 8 / (64 * 1024) == 1.125  # 96.48% less than 32


# ---------------------------------------------------------------- models


@pytest.mark.parametrize("name", NAMES)
def test_a_quantized_model_computes_with_the_rounded_matrices(name):
    """Logits, losses and generation equal those of a dense model with the same values; not those of the original."""
    made = lively(model())
    dense = copy.deepcopy(made)
    spec = make_method("quantizer", {"name": name, "targets": ["all-linear", "lm_head", "embed_tokens"]})
    ids = torch.randint(0, 96, (2, 17), generator=torch.Generator().manual_seed(5))
    batch = Batch(ids=ids[:, :-1], targets=ids[:, 1:])
    report = spec.build().apply(made, [batch])
    for key, parameter in made.named_parameters():
        if isinstance(parameter, Quantized):
            dense.get_parameter(key).data = parameter.dense()
    assert report.now == stored_bytes(made) < report.before
    original = lively(model())(batch).logits
    if name in ("bf16", "fp16"):
        assert report.bits == 16
        assert 0 < (made(batch).logits.float() - original).abs().max() < 0.5
        return
    if "dynamic" not in name and name != "ternary":  # those round activations too
        torch.testing.assert_close(made(batch).logits, dense(batch).logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(made.nll(batch), dense.nll(batch))
        assert Engine(made).generate([[1, 2, 3]])[0].ids == Engine(dense).generate([[1, 2, 3]])[0].ids
    assert (made(batch).logits - original).abs().max() > 1e-4
    again = copy.deepcopy(made)
    torch.testing.assert_close(again(batch).logits, made(batch).logits)
    made.to(torch.device("cpu"))
    assert any(isinstance(p, Quantized) for p in made.parameters())


@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_a_tied_matrix_is_packed_once(name):
    made = lively(model(tied=True))
    report = make_method("quantizer", {"name": name, "targets": ["embed_tokens"]}).build().apply(made)
    assert made.lm_head.weight is made.model.embed_tokens.weight and list(report.layers) == ["model.embed_tokens"]
    assert stored_bytes(made) == report.now


def test_adapters_train_on_packed_matrices_and_what_is_saved_is_packed():
    """QLoRA: gradients are those over the dense matrix; the backward pass keeps no dense copy."""
    made = lively(model())
    make_method("quantizer", "nf4").build().apply(made)
    dense = copy.deepcopy(made)
    for key, parameter in list(dense.named_parameters()):
        if isinstance(parameter, Quantized):
            owner = dense.get_submodule(key.rpartition(".")[0])
            owner.weight = torch.nn.Parameter(parameter.dense())
    adapters = [make_method("adapter", {"name": "lora", "rank": 2}).build(seed=3).apply(m) for m in (made, dense)]
    ids = torch.randint(0, 96, (2, 17), generator=torch.Generator().manual_seed(5))
    grads, saved = [], []
    for one, adapter in zip((made, dense), adapters, strict=True):
        with torch.no_grad():
            for i, p in enumerate(adapter.parameters().values()):
                p.copy_(matrix(*p.shape, seed=i) * 0.1)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(tuple(t.shape)), t)[1], lambda t: t
        ):
            loss = one.nll(Batch(ids=ids[:, :-1], targets=ids[:, 1:]))
        grads.append(torch.autograd.grad(loss, list(adapter.parameters().values())))
        saved.append(sizes)
    torch.testing.assert_close(grads[0], grads[1])
    assert not [s for s in saved[0] if s == tuple(made.model.layers[0].mlp.up_proj.weight.shape)]


@pytest.mark.parametrize("name", ["ternary", "binary"])
def test_training_goes_through_the_rounding(name):
    quantizer = make_method("quantizer", name).build()
    weight, x = matrix(8, 16).requires_grad_(), matrix(3, 16, seed=2)
    through = quantizer.train_through(weight)
    torch.testing.assert_close(through.detach(), quantizer.pack(weight.detach()).dense())
    (x @ through.T).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0).expand(8, 16))


def test_what_cannot_be_packed_is_refused_and_changes_nothing():
    made = model()
    before = stored_bytes(made)
    with pytest.raises(SpecError, match="q_prj"):
        make_method("quantizer", {"name": "int8", "targets": ["q_prj"]}).build().apply(made)
    with pytest.raises(SpecError, match="norm"):
        make_method("quantizer", {"name": "int8", "targets": ["norm"]}).build().apply(made)
    make_method("quantizer", "int8").build().apply(made)
    with pytest.raises(SpecError, match="already"):
        make_method("quantizer", {"name": "nf4", "targets": ["q_proj"]}).build().apply(made)
    assert stored_bytes(made) < before
    with pytest.raises(SpecError, match="block"):
        make_method("quantizer", {"name": "nf4", "block": 48})
