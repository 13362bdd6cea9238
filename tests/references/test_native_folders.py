"""Quantized folders in the native runner: blocks against the dense matrix, products, and whole models."""

from __future__ import annotations

import copy

import pytest
import torch
from _families import ours_of, theirs
from _small_models import block, tokens, transformer
from test_native import read

from llmanac.core.spec import make_method
from llmanac.generate.engine import Engine
from llmanac.generate.native import NativeModel
from llmanac.generate.native_torch import refusal
from llmanac.kernels.infer.kinds import NF4, PACKED
from llmanac.models.load import load_model
from llmanac.models.quantized import Quantized
from llmanac.quant._gptq_files import Grouped
from llmanac.quant.nf4 import levels

FORMS = {
    "int8": {}, "int8-dynamic": {}, "int4": {}, "int4, 32": {"name": "int4", "group": 32},
    "int4, 96": {"name": "int4", "group": 96}, "nf4": {}, "nf4-single": {}, "nf4, 32": {"name": "nf4", "block": 32},
    "nf4, 4096": {"name": "nf4", "block": 4096}, "ternary": {}, "binary": {},
    "binary, 32": {"name": "binary", "group": 32},
}  # fmt: skip
COLUMNS = (64, 96, 160, 512, 576, 104)  # the last one is not made of 32s
ROUNDED = {"nf4": 0.004, "int8": 0.004}  # of a block's largest number: of levels, and where no block fits a group


def quantizer(form, **more):
    return make_method("quantizer", {"name": form, **FORMS[form], **more}).build()


def zeros_and_order(packed, order):
    """A matrix of groups as files have them that `desc_act` or asymmetric levels made."""
    draw = torch.Generator().manual_seed(1)
    scale = packed.parts["scale"]
    more = {"zero": torch.randint(0, 16, scale.shape, generator=draw, dtype=torch.uint8)}
    if order:
        group = torch.arange(packed.shape[1], dtype=torch.int32) // packed.form.group
        more["order"] = group[torch.randperm(packed.shape[1], generator=draw)]
    return Quantized(packed.form, {**packed.parts, **more}, tuple(packed.shape))


def matrix(form, columns, rows=48):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(columns)) * 0.1
    if form.startswith("zeros"):
        return zeros_and_order(quantizer("int4, 32").pack(weight), form == "zeros, order")
    return quantizer(form).pack(weight)


def blocks(packed):
    return packed.form.blocks(packed.parts, tuple(packed.shape))


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("form", [*FORMS, "zeros", "zeros, order"])
def test_blocks_hold_the_numbers_of_the_form(form, columns):
    packed = matrix(form, columns)
    exact, (kind, data) = packed.dense(), blocks(packed)
    if columns % 32:
        assert kind == "float32" and torch.equal(torch.from_numpy(data), exact)
        return
    made = PACKED[kind]
    found = torch.from_numpy(made.float32(data))
    expected = form.partition(",")[0].partition("-")[0].replace("zeros", "int4-zero")
    fits = form not in ("zeros, order", "binary", "binary, 32") and getattr(packed.form, "group", columns) % 32 == 0
    assert kind.startswith(expected if fits else "int8")
    size = made.size if fits else 32
    largest = exact.abs().unflatten(1, (-1, size)).amax(-1, keepdim=True).expand(-1, -1, size).flatten(1)
    if fits and made.table:  # a scale is of a block's largest number, which may lie in another part of it
        largest = exact.abs().amax()
    loss = ROUNDED["nf4"] if made.table else 0 if fits else ROUNDED["int8"]
    assert bool(((found - exact).abs() <= loss * largest + 1e-7).all())
    bits = 8 * data.nbytes / data.shape[0] / columns  # a byte a code and its scales
    assert bits <= 8 + (64 if made.minimum else 32) / size


def test_levels_of_nf4_are_those_of_the_table():
    """Whole numbers that are as near as they can be for their size."""
    found = torch.tensor(NF4) / 112
    assert float((found - levels()).abs().max()) < 0.004
    assert float((found - levels()).square().mean().sqrt()) < 0.0018
    assert (levels() * 112).round().int().tolist() == list(NF4)


def small(width=160, dim=64, **more):
    return transformer(
        dtype=torch.float32, dim=dim, vocab_size=96, tied=False,
        blocks=block({"name": "multi-head", "heads": 4, "kv_heads": 2}, {"name": "swiglu", "width": width}), **more,
    )  # fmt: skip


@pytest.mark.parametrize("targets", [["all-linear"], ["all-linear", "lm_head", "embed_tokens"]])
@pytest.mark.parametrize("form", FORMS)
def test_a_packed_model_computes_as_its_dense_numbers(form, targets):
    model, ids = small(), tokens(3, 40, below=96)
    quantizer(form, targets=targets).apply(model)
    dense = copy.deepcopy(model)
    for module in dense.modules():
        if isinstance(getattr(module, "weight", None), Quantized):
            module.weight = torch.nn.Parameter(module.weight.dense())
    made = NativeModel(model, threads=1)
    assert made._plan.matrices[..., 4].all()
    with torch.no_grad():
        wanted = dense(ids).logits.log_softmax(-1)
    found = torch.stack(read(made, *ids)).log_softmax(-1)
    kl = float((wanted.exp() * (wanted - found)).sum(-1).mean())
    print(f"{form}: KL {kl:.1e}")
    assert abs(kl) < 5e-3
    assert torch.equal(torch.stack(read(NativeModel(model, threads=2), *ids)).log_softmax(-1), found)


@pytest.mark.parametrize("form", ["nf4", "int8", "ternary", "binary", "int4"])
def test_weights_that_are_packed_later_are_read_again(form):
    model, asked = small(), {"max_new_tokens": 3, "logprobs": 0}
    engine = Engine(model, runner="native:float32")
    first = engine.generate([3, 4, 5], **asked)[0].token_logprobs
    quantizer(form).apply(model)
    second = engine.generate([3, 4, 5], **asked)[0].token_logprobs
    assert first != second == Engine(model, runner="native:float32").generate([3, 4, 5], **asked)[0].token_logprobs


def test_groups_that_are_no_blocks_are_rounded_to_8_bits():
    packed = zeros_and_order(quantizer("int4, 32").pack(torch.randn(16, 128)), True)
    assert isinstance(packed.form, Grouped) and blocks(packed)[0] == "int8-32"


@pytest.mark.parametrize("case", [
    "mixtral", "mixtral, window, one expert a token", "qwen3_moe", "qwen3_moe, gates as they are",
])  # fmt: skip
def test_models_of_experts_give_the_logits_of_transformers(case, tmp_path):
    model, ids = theirs(case), tokens(2, 40)
    ours_of(model, tmp_path)
    native = NativeModel(load_model(tmp_path, dtype="float32", device="cpu"), threads=1)
    assert native._plan.routers.shape == (len(native.model.model.layers), 6)
    with torch.no_grad():
        wanted = model(ids).logits.log_softmax(-1)
    found = torch.stack(read(native, *ids)).log_softmax(-1).double()
    near = (found - wanted).abs().amax(-1) < 1e-4
    assert near.double().mean() > 0.97  # of two experts that are equally near, rounding may choose the other


def test_dense_layers_among_experts_are_refused_by_name(tmp_path):
    ours_of(theirs("qwen3_moe, dense layers"), tmp_path)
    assert refusal(load_model(tmp_path, dtype="float32", device="cpu")) == "its layers have different shapes"
