"""The product with a low-rank term as one step of autograd: the plain form's values, and what it keeps."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.lab.complexity import Operations
from llmanac.models import low_rank, quantized
from llmanac.models.ffn import gated
from llmanac.models.layers import Linear
from llmanac.models.mixers import softmax
from llmanac.models.norms import rmsnorm

pytestmark = pytest.mark.usefixtures("one_thread")


def layer_of(inputs, outputs, *, bias=True, dtype=torch.float32, std=0.2, **choices):
    layer = Linear(inputs, outputs, bias=bias)
    generator = torch.Generator().manual_seed(0)
    model = nn.ModuleDict({"linear": layer})
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, std, generator=generator)
    model.to(dtype)
    transform = (
        make_method("adapter", {"name": "lora", "rank": 4, "alpha": 8.0, "targets": ["linear"], **choices})
        .build()
        .apply(model)
    )
    with torch.no_grad():
        layer.lora_B.weight.normal_(0, std, generator=generator)
    return model.eval(), layer, transform


def input_of(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()


def gradients(layer, x, run):
    for tensor in (x, *layer.parameters()):
        tensor.grad = None
    torch.manual_seed(0)
    y = run(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, layer.lora_A.weight.grad, layer.lora_B.weight.grad]


def plain(layer, p=0.0):
    def run(x):
        read = torch.nn.functional.dropout(x, p) if p else x
        weight = layer.weight.to(x.dtype)
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        a, b = layer.lora_A.weight.to(x.dtype), layer.lora_B.weight.to(x.dtype)
        return nn.functional.linear(x, weight, bias) + (read @ a.T) @ b.T * 2.0

    return run


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("dtype, atol", [(torch.float64, 1e-12), (torch.float32, 2e-4), (torch.bfloat16, 4.0)])
def test_equals_the_plain_form(bias, dropout, dtype, atol):
    """Values up to 100 here: the tolerances are 1e-6 and a rounding of bfloat16, relative to them."""
    held = torch.float64 if dtype == torch.float64 else torch.float32
    _, layer, _ = layer_of(24, 20, bias=bias, dtype=held, dropout=dropout)
    layer.train(dropout > 0)
    x = input_of(3, 7, 24, dtype=dtype)
    found, expected = (gradients(layer, x, run) for run in (layer, plain(layer, dropout)))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0, atol=atol)
    assert expected[1].abs().max() > 1


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_difference_0_from_peft_on_one_module(kind):
    """The same numbers to the bit where s is a power of two, as with the usual alpha = 2 r."""
    alpha = 8 if kind != "rslora" else 4
    _, layer, _ = layer_of(24, 20, alpha=alpha, name=kind)
    peer = nn.ModuleDict({"linear": nn.Linear(24, 20)})
    peer["linear"].load_state_dict({"weight": layer.weight, "bias": layer.bias})
    options = {"use_rslora": kind == "rslora", "use_dora": kind == "dora"}
    wrapped = get_peft_model(peer_module(peer), LoraConfig(r=4, lora_alpha=alpha, target_modules=["linear"], **options))
    theirs = wrapped.base_model.model.linear
    with torch.no_grad():
        theirs.lora_A["default"].weight.copy_(layer.lora_A.weight)
        theirs.lora_B["default"].weight.copy_(layer.lora_B.weight)
    x, y = input_of(5, 24), input_of(5, 24)
    layer(x).square().sum().backward()
    theirs(y).square().sum().backward()
    pairs = [
        (layer(x), theirs(y)), (x.grad, y.grad), (layer.lora_A.weight.grad, theirs.lora_A["default"].weight.grad),
        (layer.lora_B.weight.grad, theirs.lora_B["default"].weight.grad),
    ]  # fmt: skip
    for one, other in pairs:
        if kind == "dora":  # rows' lengths are computed without the matrix W + s B A
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(one, other)


def peer_module(children):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = children["linear"]

        def forward(self, x):
            return self.linear(x)

    return Model()


def kept_bytes(run, x, *, without):
    """Bytes that autograd keeps, other than the tensors `without`, each memory once."""
    held = {}
    known = {t.untyped_storage().data_ptr() for t in without}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = run(x)
    return sum(held.values()), y


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_its_input_and_nothing_else(dropout, dtype):
    """The input is needed by the gradient of A; with dropout a byte a number more. No cast matrix, no columns."""
    _, layer, _ = layer_of(64, 48, dropout=dropout)
    layer.train(dropout > 0)
    x = input_of(40, 64, dtype=dtype)
    own = [x, *layer.parameters()]
    found, _ = kept_bytes(layer, x, without=own)
    usual, _ = kept_bytes(plain(layer, dropout), x, without=own)
    assert found == (40 * 64 if dropout else 0) < usual


@pytest.mark.parametrize("form", [{"name": "nf4", "block": 32}, "int8", {"name": "int4", "group": 32}, "binary"])
def test_a_packed_matrix_is_dequantized_by_tiles(form, monkeypatch):
    """Forward and backward equal those of the dense matrix, with tiles that cut blocks of scales, and none is kept."""
    _, layer, _ = layer_of(40, 30, dtype=torch.float32)
    x = input_of(6, 40)
    packed = make_method("quantizer", form).build().pack(layer.weight.detach())
    dense = packed.dense()
    layer.weight = nn.Parameter(dense, requires_grad=False)
    expected = gradients(layer, x, layer)
    layer.weight = nn.Parameter(packed, requires_grad=False)
    monkeypatch.setattr(quantized, "PIECE", 7 * 40)
    sizes, kind = [], type(packed.form)
    rows = kind.rows
    monkeypatch.setattr(kind, "rows", lambda self, *a: sizes.append(rows(self, *a).numel()) or rows(self, *a))
    found = gradients(layer, x, layer)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-4)
    assert len(sizes) == 10 and max(sizes) == 7 * 40
    assert torch.equal(layer.weight.dense(), dense)
    assert kept_bytes(layer, x, without=[x, *layer.lora_A.parameters(), *layer.lora_B.parameters()])[0] == 0


def tuned(blocks):
    """A small model with adapters on all linear maps."""
    spec = {"name": "transformer", "dim": 64, "layers": 2, "max_length": 256, "blocks": [blocks]}
    model = make_method("lm", spec).build(vocab_size=50)
    transform = make_method("adapter", {"name": "lora", "rank": 4}).build(seed=0).apply(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1, generator=generator)
    return model.train(), transform


GATED = {"name": "pre-norm", "mixer": {"name": "grouped-query", "heads": 4}, "ffn": {"name": "swiglu", "width": 192}}


def test_what_is_cheap_to_make_again_is_not_kept(monkeypatch):
    """Norms' outputs, gated numbers and heads side by side are not kept; gradients are the same to the bit."""
    model, _ = tuned(GATED)
    ids = torch.randint(50, (2, 256), generator=torch.Generator().manual_seed(1))
    batch = Batch(ids=ids, targets=ids)

    def step():
        model.zero_grad()
        kept, loss = kept_bytes(lambda x: model.nll(batch), ids, without=list(model.parameters()))
        loss.backward()
        return kept, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    fewer, found = step()
    for module in (rmsnorm, gated, softmax):
        monkeypatch.setattr(module, "remade", lambda y, *_: y)
    more, expected = step()
    assert found.keys() == expected.keys() and len(found) == 2 * 7 * 2
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    # of 512 tokens and each layer: what q, k and v read, o_proj, gate and up, down_proj; the first norm trains nothing
    assert more - fewer == 512 * 4 * (2 * (64 + 64 + 64 + 192) - 64)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_maps_of_one_input_together_are_those_one_by_one(dropout):
    """Values, gradients of the input and of all factors; of unequal ranks, sizes and scales."""
    draws = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    x = drawn(3, 5, 24).requires_grad_()
    terms = [
        low_rank.Term(drawn(n, 24), drawn(n) if n > 8 else None, drawn(r, 24).requires_grad_(),
                      drawn(n, r).requires_grad_(), 0.5 * n, dropout)
        for n, r in ((8, 2), (12, 4), (20, 3))
    ]  # fmt: skip

    def run(each):
        torch.manual_seed(0)
        found = each()
        trained = [x, *(y for term in terms for y in (term.a, term.b))]
        return [*found, *torch.autograd.grad(sum(y.square().sum() for y in found), trained)]

    together = run(lambda: low_rank.low_rank(x, *terms))
    for one, other in zip(together, run(lambda: [low_rank.low_rank(x, term)[0] for term in terms]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    if not dropout:
        plain = run(lambda: [
            x @ t.weight.t() + (0 if t.bias is None else t.bias) + t.scale * x @ t.a.t() @ t.b.t() for t in terms
        ])  # fmt: skip
        for one, other in zip(together, plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("wanted", [False, True])
def test_products_are_those_that_gradients_need(wanted):
    """The frozen matrix forward, and backward only for an input that has a gradient; the columns twice."""
    rows, inputs, outputs, r = 40, 24, 20, 4
    _, layer, _ = layer_of(inputs, outputs)
    x = input_of(rows, inputs).detach().requires_grad_(wanted)
    with Operations() as counted:
        layer(x).sum().backward()
    frozen, a, b = inputs * outputs, r * inputs, r * outputs
    forward, gradients = frozen + a + b, b + (a + b) + a  # of the columns, of B by the columns, of A
    assert counted.products == 2 * rows * (forward + gradients + wanted * (frozen + a))
