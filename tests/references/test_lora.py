"""Low-rank adaptation against its formula, added by hooks to the layers of a model of transformers."""

from __future__ import annotations

import math

import pytest
import torch
from _small_models import randomise
from _training import model_of, run, same
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from llmanac.core.errors import SpecError
from llmanac.core.rng import parameter_generator
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.models.layers import fuse
from llmanac.models.load import load_model

pytestmark = pytest.mark.usefixtures("one_thread")
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = LlamaConfig(
        vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, attn_implementation="sdpa",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("llama")
    randomise(LlamaForCausalLM(config)).save_pretrained(path)
    return path


def peer_with(folder, factors, scale):
    """The model of transformers whose layers add s (x A^T) B^T; factors are leaves by layer name."""
    peer = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa").eval()
    peer.requires_grad_(False)
    for name, (a, b) in factors.items():

        def add(module, inputs, output, a=a, b=b):
            return output + scale * torch.einsum("...i,ri,or->...o", inputs[0], a, b)

        peer.get_submodule(name).register_forward_hook(add)
    return peer


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name, rank, alpha", [("lora", 4, 8.0), ("lora", 3, 16.0), ("rslora", 4, 7.0)])
def test_equals_the_formula_on_a_transformers_model(folder, name, rank, alpha, fused, monkeypatch):
    """Logits, loss and gradients of rows of other lengths, then the merged weights, all in float64."""
    monkeypatch.setattr(  # the peer's own norm computes in float32
        modeling_llama.LlamaRMSNorm,
        "forward",
        lambda self, x: torch.nn.functional.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon),
    )
    model = load_model(folder, dtype=torch.float64, device="cpu")
    model = fuse(model) if fused else model
    spec = make_method("adapter", {"name": name, "rank": rank, "alpha": alpha, "targets": ["all-linear", "lm_head"]})
    transform = spec.build(seed=0).apply(model)
    scale = alpha / rank if name == "lora" else alpha / math.sqrt(rank)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in transform.parameters().items():
            if "lora_B" in key:
                parameter.copy_(torch.empty(parameter.shape).normal_(0, 0.2, generator=generator))
    state = transform.state()
    layers = [n for n, m in model.named_modules() if n.rpartition(".")[2] in (*LINEAR, "lm_head")]
    factors = {n: [state[f"{n}.lora_{f}.weight"].requires_grad_() for f in "AB"] for n in layers}
    assert len(factors) == 15 and len(state) == 30
    peer = peer_with(folder, factors, scale)

    ids = torch.randint(97, (3, 12), generator=generator)
    lengths = torch.tensor([12, 5, 9])
    real = torch.arange(12) < lengths[:, None]
    labels = ids.masked_fill(~real, -100)
    theirs = peer(input_ids=ids, attention_mask=real.long()).logits
    loss = torch.nn.functional.cross_entropy(theirs[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    loss.backward()
    targets = torch.cat([labels[:, 1:], torch.full((3, 1), -100)], 1)
    batch = Batch(ids=ids, targets=targets, lengths=lengths)
    ours = model(batch).logits
    torch.testing.assert_close(ours[real], theirs[real], rtol=0, atol=1e-10)
    nll = model.nll(batch)
    torch.testing.assert_close(nll, loss, rtol=1e-12, atol=0)
    nll.backward()
    for layer, pair in factors.items():
        for letter, leaf in zip("AB", pair, strict=True):
            found = transform.parameters()[f"{layer}.lora_{letter}.weight"].grad
            torch.testing.assert_close(found, leaf.grad, rtol=1e-9, atol=1e-9)
            assert leaf.grad.abs().max() > 1e-3

    with torch.no_grad(), transform.disabled():
        alone = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa").eval()
        plain = alone(input_ids=ids, attention_mask=real.long()).logits
        torch.testing.assert_close(model(batch).logits[real], plain[real], rtol=0, atol=1e-10)
        assert (plain - theirs)[real].abs().max() > 0.1
    transform.merge()
    for layer, (a, b) in factors.items():
        expected = alone.get_submodule(layer).weight + scale * b @ a
        torch.testing.assert_close(model.get_submodule(layer).weight, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(model(batch).logits, ours, rtol=0, atol=1e-11)


def test_initial_values():
    """A as torch's own linear layer starts (Kaiming, a = sqrt 5, as in the paper's code), from its stream; B at 0."""
    model = model_of()
    transform = make_method("adapter", "lora").build(seed=5).apply(model)
    for name, value in transform.state().items():
        if "lora_B" in name:
            assert not value.any()
            continue
        expected = torch.empty_like(value)
        generator = parameter_generator(5, name, tuple(value.shape))
        torch.nn.init.kaiming_uniform_(expected, a=math.sqrt(5), generator=generator)
        torch.testing.assert_close(value, expected)


def test_dropout_is_of_the_adapters_input_and_of_training_alone():
    model = model_of(dtype=torch.float64)
    transform = make_method("adapter", {"name": "lora", "targets": ["o_proj"], "dropout": 0.5}).build().apply(model)
    layer = model.model.layers[0].self_attn.o_proj
    with torch.no_grad():
        layer.lora_B.weight.normal_(0, 0.2)
    x = torch.randn(4, 32, dtype=torch.float64)
    model.eval()
    plain = layer(x)
    assert torch.equal(layer(x), plain)
    model.train()
    torch.manual_seed(0)
    found = layer(x)
    torch.manual_seed(0)
    kept = torch.nn.functional.dropout(x, 0.5)
    expected = x @ layer.weight.T + 2.0 * (kept @ layer.lora_A.weight.T) @ layer.lora_B.weight.T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert (found - plain).abs().max() > 1e-3 and transform.spec.scale() == 2.0


@pytest.mark.parametrize("field, value", [("rank", 0), ("alpha", 0.0), ("dropout", 1.0), ("scaling", "none")])
def test_errors_name_the_field(field, value):
    with pytest.raises(SpecError, match=field):
        make_method("adapter", {"name": "lora", field: value})


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        {"name": "lora", "rank": 4, "targets": ["q_proj", "lm_head"]},
        {"name": "dora", "rank": 4},
        {"name": "prefix", "tokens": 3},
        {"name": "prompt", "tokens": 3},
    ],
    ids=lambda fields: fields["name"],
)
def test_the_training_loop_trains_the_adapter_alone(dataset, tmp_path, fields, packed):
    """On packed rows, with dense and NF4 matrices (QLoRA): the model's own weights stay as they were to the bit, and a
    checkpoint that is read again holds the same adapter."""
    spec = make_method("adapter", fields)

    def base_of():
        model = model_of()
        if packed:
            make_method("quantizer", "nf4").build().apply(model)
        return model

    def trained(folder, **options):
        model = base_of()
        transform = spec.build(seed=0).apply(model)
        result, _ = run(dataset, folder, model=model, optimizer=make_method("optimizer", "adamw"), **options)
        return result, model, transform

    initial = spec.build(seed=0).apply(base_of()).state()
    _, model, transform = trained(tmp_path / "a", steps=12)
    assert any((v - initial[k]).any() for k, v in transform.state().items())
    with transform.disabled():
        base = base_of()
        base.attention_form = model.attention_form
        ids = torch.arange(12)[None]
        assert torch.equal(model(ids).logits, base(ids).logits)
    transform.remove()
    assert packed or same(model, model_of())
    _, _, again = trained(tmp_path / "a", steps=12)  # takes no step more
    _, _, straight = trained(tmp_path / "b", steps=12)
    for name, value in straight.state().items():
        assert torch.equal(value, again.state()[name])
