"""Linear maps of one input computed as one product, against the same maps one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from _small_models import gradients, shifted, tokens, transformer
from _training import model_of, run
from safetensors.torch import load_file

from llmanac.core import registry
from llmanac.models.layers import Linear, Packed, fuse, linear_all, unfuse

pytestmark = pytest.mark.usefixtures("one_thread")
GROUPED = {"mixer": {"name": "grouped-query", "heads": 4, "biases": "qkv"}, "name": "pre-norm"}


def pair(**choices):
    """Two equal models, the second fused."""
    model = transformer(**choices)
    return model, fuse(copy.deepcopy(model))


@pytest.mark.parametrize("choices", [{}, {"blocks": [GROUPED]}], ids=["plain", "grouped with biases"])
def test_values_and_gradients_are_equal(choices):
    """Parts of unequal size, with and without biases."""
    one, many = pair(**choices)
    batch = shifted(tokens(3, 15))
    torch.testing.assert_close(many(batch).logits, one(batch).logits, rtol=0, atol=1e-12)
    assert isinstance(many.model.layers[0].self_attn.q_proj.packed, Packed)
    assert isinstance(many.model.layers[0].mlp.gate_proj.packed, Packed)
    for model in (one, many):
        model.nll(batch).backward()
    assert gradients(one).keys() == gradients(many).keys() == dict(one.named_parameters()).keys()
    for name, value in gradients(one).items():
        torch.testing.assert_close(gradients(many)[name], value, rtol=1e-12, atol=1e-12)
    with torch.inference_mode():
        torch.testing.assert_close(many(batch).logits, one(batch).logits, rtol=0, atol=1e-12)


def test_one_layer_frozen():
    """Only those that are trained get a gradient, and the input's is that of all."""
    layers = [Linear(6, n).double() for n in (4, 3, 5)]
    for layer in layers:
        torch.nn.init.normal_(layer.weight)
    layers[1].weight.requires_grad_(False)
    x = torch.randn(2, 7, 6, dtype=torch.float64, requires_grad=True)
    found = []
    for group in (torch.nn.ModuleList(layers), fuse(torch.nn.ModuleList(layers))):
        outputs = linear_all(x, tuple(group))
        grads = torch.autograd.grad(sum(y.square().sum() for y in outputs), [x, layers[0].weight, layers[2].weight])
        found.append([*outputs, *grads])
        assert layers[1].weight.grad is None
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: linear_all(x, tuple(layers)), [x])


def test_the_state_stays_canonical_and_memory_is_shared():
    one, many = pair()
    ids = tokens(1, 5)
    with torch.inference_mode():
        many(ids)
    assert many.state_dict().keys() == one.state_dict().keys()
    assert all(torch.equal(v, many.state_dict()[k]) for k, v in one.state_dict().items())
    part = many.model.layers[0].self_attn
    storage = part.q_proj.weight.untyped_storage().data_ptr()
    assert storage == part.v_proj.weight.untyped_storage().data_ptr() == part.q_proj.packed.weight.data_ptr()
    many.nll(shifted(ids)).backward()  # though it was packed in inference mode
    other = transformer()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    many.load_state_dict(other.state_dict())
    torch.testing.assert_close(many(ids).logits, other(ids).logits, rtol=0, atol=1e-12)
    assert part.q_proj.weight.untyped_storage().data_ptr() == storage
    unfuse(many)
    assert part.q_proj.weight.untyped_storage().data_ptr() != part.v_proj.weight.untyped_storage().data_ptr()
    assert part.q_proj.packed is False
    assert torch.equal(many(ids).logits, other(ids).logits)


def test_parameters_that_moved_are_packed_again():
    """A cast, a copy and a replaced parameter: values follow the parameters, never an old pack."""
    one, many = pair()
    ids = tokens(2, 6)
    many(ids)
    for change in (lambda m: m.float(), copy.deepcopy, lambda m: m.double()):
        one, many = change(one), change(many)
        torch.testing.assert_close(many(ids).logits, one(ids).logits, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        for model in (one, many):
            model.model.layers[0].self_attn.k_proj.weight = torch.nn.Parameter(torch.eye(32, dtype=torch.float64))
    torch.testing.assert_close(many(ids).logits, one(ids).logits, rtol=0, atol=1e-12)


def test_bfloat16_products():
    """Products in bfloat16 of float32 weights: the gradients too are those of the layers one by one."""
    one, many = pair(dtype=torch.float32)
    batch = shifted(tokens(2, 20))
    for model in (one, many):
        model.compute_dtype = torch.bfloat16
        model.nll(batch).backward()
    torch.testing.assert_close(many.nll(batch), one.nll(batch), rtol=1e-2, atol=0)
    for name, value in gradients(one).items():
        assert gradients(many)[name].dtype == torch.float32
        assert (gradients(many)[name] - value).norm() < 0.1 * value.norm()


def test_trains_checkpoints_and_resumes(dataset, tmp_path):
    one, many = model_of(), fuse(model_of())
    first, _ = run(dataset, tmp_path / "one", model=one)
    run(dataset, tmp_path / "many", model=many, steps=6)
    second, many = run(dataset, tmp_path / "many", model=fuse(model_of()), resume=False)
    assert first.loss == pytest.approx(second.loss, rel=1e-4)
    a, b = (load_file(r.checkpoint / "model.safetensors") for r in (first, second))
    assert a.keys() == b.keys() and all(a[k].shape == b[k].shape for k in a)
    ids = torch.arange(9)[None]
    plain = registry.build("lm", "transformer", dim=32, layers=1, max_length=64, vocab_size=61)
    plain.load_state_dict(b, strict=False)
    torch.testing.assert_close(plain(ids).logits, many(ids).logits, rtol=1e-4, atol=1e-4)


def test_saves_like_any_model(tmp_path):
    from llmanac.models.load import load_model

    one, many = pair()
    many(tokens(1, 3))
    many.save_pretrained(tmp_path / "m")
    loaded = load_model(tmp_path / "m", dtype=torch.float64, device="cpu")
    assert torch.equal(loaded(tokens(1, 9)).logits, one(tokens(1, 9)).logits)
