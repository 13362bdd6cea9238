"""Every adapter on every kind of linear map: plain, computed as one with others, and the head tied to the embedding."""

from __future__ import annotations

import copy

import pytest
import torch
from _engine_models import VOCABULARY as BYTES
from _engine_models import ByteTokenizer
from _small_models import VOCABULARY, gradients, randomise, shifted, tokens, transformer
from safetensors.torch import load as read_safetensors
from safetensors.torch import save as write_safetensors

from llmanac.adapters import applied
from llmanac.core import registry
from llmanac.core.errors import CheckpointError, SpecError
from llmanac.core.spec import dump, make_method, patch
from llmanac.core.types import Batch, OutputRequest
from llmanac.generate.engine import Engine
from llmanac.models.layers import fuse, unfuse
from llmanac.models.load import load_model

CHANGES = [name for name in registry.methods("adapter") if "targets" in dump(make_method("adapter", name))]
every = pytest.mark.parametrize("name", CHANGES)
TARGETS = {
    "plain": ("o_proj",),
    "fused": ("q_proj", "v_proj", "up_proj"),
    "tied head": ("lm_head",),
    "all": ("all-linear", "lm_head"),
}
onto = pytest.mark.parametrize("where", TARGETS)


def perturbed(transform, seed=1, std=0.2):
    """The Transform with every parameter away from its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in transform.parameters().values():
            parameter.add_(torch.empty(parameter.shape).normal_(0, std, generator=generator))
    return transform


def adapted(name, where, model=None, **choices):
    """A model with a perturbed Transform, computed as one where the targets are to be fused, and what it was before."""
    model = model or transformer()
    before = copy.deepcopy(model)
    if where in ("fused", "all"):
        fuse(model)
        model(tokens(1, 2))  # packs
    spec = make_method("adapter", {"name": name, "targets": list(TARGETS[where]), **choices})
    return before, model, perturbed(spec.build(seed=3).apply(model))


@every
@onto
def test_applied_disabled_merged(name, where):
    ids = tokens(2, 9)
    batch = shifted(ids)
    before, model, transform = adapted(name, where)
    exact = unfuse(copy.deepcopy(model))(ids).logits if where == "fused" else None
    with transform.disabled():
        torch.testing.assert_close(model(ids).logits, before(ids).logits, rtol=0, atol=1e-12)
        if where in ("plain", "tied head"):
            assert torch.equal(model(ids).logits, before(ids).logits)
            assert torch.equal(model.nll(batch), before.nll(batch))
    want = OutputRequest(logits="all", nll="none", entropy=True)
    found, base = model(batch, want=want), before(batch, want=want)
    for kind in ("logits", "nll", "entropy"):
        assert (getattr(found, kind) - getattr(base, kind)).abs().max() > 1e-2, kind
    rows = torch.nn.functional.cross_entropy(found.logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
    torch.testing.assert_close(found.nll.flatten(), rows, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.nll(batch), rows.sum(), rtol=0, atol=1e-10)
    log_p = found.logits.log_softmax(-1)
    torch.testing.assert_close(found.entropy, -(log_p.exp() * log_p).sum(-1), rtol=0, atol=1e-10)
    if exact is not None:
        torch.testing.assert_close(model(ids).logits, exact, rtol=0, atol=1e-12)
    assert torch.equal(model.embed(ids), before.embed(ids))
    transform.merge()
    again = model(batch, want=want)
    for kind in ("logits", "nll", "entropy"):
        torch.testing.assert_close(getattr(again, kind), getattr(found, kind), rtol=0, atol=1e-12)
    assert torch.equal(model.embed(ids), before.embed(ids))  # the embedding is never changed through the head
    assert not applied(model) and transform.model is None
    assert {k for k, _ in model.named_parameters()} - {"lm_head.weight"} == {k for k, _ in before.named_parameters()}


@every
@onto
def test_starts_as_the_model_and_trains_only_its_own(name, where):
    model, batch = transformer(), shifted(tokens(2, 9))
    if where == "fused":
        fuse(model)
    before = model.nll(batch)
    trainable = [k for k, p in model.named_parameters() if p.requires_grad]
    transform = make_method("adapter", {"name": name, "targets": list(TARGETS[where])}).build(seed=0).apply(model)
    assert torch.equal(model.nll(batch), before)
    own = transform.parameters()
    assert own and own.keys() <= dict(model.named_parameters()).keys()
    assert {k for k, p in model.named_parameters() if p.requires_grad} == own.keys()
    perturbed(transform)
    model.nll(batch).backward()
    assert gradients(model).keys() == own.keys()
    assert all(p.grad.abs().sum() > 0 for p in own.values())
    rows = model.nll(batch, "none").sum() + 0.1 * model(batch, want=OutputRequest(entropy=True)).entropy.sum()
    rows.backward()
    assert gradients(model).keys() == own.keys()
    transform.remove()
    assert [k for k, p in model.named_parameters() if p.requires_grad] == trainable
    assert torch.equal(model.nll(batch), before)


@every
@onto
def test_state_survives_a_file(name, where):
    ids = tokens(2, 7)
    _, model, transform = adapted(name, where)
    written = write_safetensors(transform.state())
    other = transformer()
    again = make_method("adapter", dump(transform.spec)).build(seed=9).apply(other)
    assert (other(ids).logits - model(ids).logits).abs().max() > 1e-2
    again.load_state(read_safetensors(written))
    torch.testing.assert_close(other(ids).logits, model(ids).logits, rtol=0, atol=1e-12)
    again.load_state({f"base_model.model.{k}": 2 * v for k, v in transform.state().items()})
    assert (other(ids).logits - model(ids).logits).abs().max() > 1e-2


@every
def test_a_state_that_does_not_fit_is_refused(name):
    _, _, transform = adapted(name, "plain")
    state = transform.state()
    key = next(iter(state))
    for wrong, field in (
        ({k: v for k, v in state.items() if k != key}, "missing"),
        ({**state, "model.norm.weight": torch.ones(1)}, "unused"),
        ({**state, key: state[key][:1, :1]}, key),
        ({**state, key: state[key] * float("nan")}, "not finite"),
    ):
        with pytest.raises(CheckpointError, match=field):
            transform.load_state(wrong)
    assert all(torch.equal(v, state[k]) for k, v in transform.state().items())


@every
def test_initial_values_depend_on_seed_name_and_shape_alone(name):
    def state(seed, targets):
        model = transformer()
        return make_method("adapter", {"name": name, "targets": targets}).build(seed=seed).apply(model).state()

    few, many, other = state(0, ["q_proj"]), state(0, ["all-linear"]), state(1, ["q_proj"])
    assert few.keys() < many.keys() and all(torch.equal(v, many[k]) for k, v in few.items())
    assert any(not torch.equal(v, other[k]) for k, v in few.items())


@every
def test_several_on_disjoint_targets(name):
    model, ids = transformer(), tokens(2, 8)
    base = model(ids).logits
    one, two = (make_method("adapter", {"name": name, "targets": [t]}).build(seed=0) for t in ("q_proj", "lm_head"))
    perturbed(one.apply(model))
    first = model(ids).logits
    perturbed(two.apply(model))
    both = model(ids).logits
    assert applied(model) == [one, two]
    with two.disabled():
        torch.testing.assert_close(model(ids).logits, first, rtol=0, atol=1e-12)
        with one.disabled():
            torch.testing.assert_close(model(ids).logits, base, rtol=0, atol=1e-12)
    with pytest.raises(SpecError, match=r"targets: model\.layers\.0\.self_attn\.q_proj has an adapter"):
        make_method("adapter", {"name": name, "targets": ["self_attn.*"]}).build(seed=0).apply(model)
    two.merge()
    one_only = {k for k, p in model.named_parameters() if p.requires_grad}
    assert one_only == one.parameters().keys()  # the first is left, so the model stays frozen
    torch.testing.assert_close(model(ids).logits, both, rtol=0, atol=1e-12)
    one.merge()
    torch.testing.assert_close(model(ids).logits, both, rtol=0, atol=1e-12)
    assert all(p.requires_grad for p in model.parameters())


@every
def test_names_that_fit_nothing_are_refused(name):
    model = transformer()
    before = {k: p.requires_grad for k, p in model.named_parameters()}
    for targets, message in (
        (["q_prj"], r"targets: 'q_prj' fits no linear map.*near: q_proj"),
        (["layers.7.*"], "targets: 'layers.7"),
        (["q_proj", "model.norm"], "targets: 'model.norm' is model.norm \(RMSNorm\)"),
        (["mlp"], r"targets: 'mlp' is model\.layers\.0\.mlp"),
    ):
        with pytest.raises(SpecError, match=message):
            make_method("adapter", {"name": name, "targets": targets}).build(seed=0).apply(model)
    assert {k: p.requires_grad for k, p in model.named_parameters()} == before
    with pytest.raises(SpecError, match="targets"):
        make_method("adapter", {"name": name, "targets": []})
    transform = make_method("adapter", name).build(seed=0)
    for call in (transform.merge, transform.remove, transform.state):
        with pytest.raises(SpecError, match="not applied"):
            call()
    transform.apply(model)
    with pytest.raises(SpecError, match="applied to a model already"):
        transform.apply(transformer())


@every
@pytest.mark.parametrize("where", ["fused", "tied head"])
def test_the_engine_generates_the_same_merged_and_unmerged(name, where):
    """Greedy and sampled, several rows of other lengths, through the cache."""
    base, model, transform = adapted(name, where, transformer(vocab_size=BYTES))
    prompts = [[5, 9, 200, 3], [17], [7] * 12]

    def answers(of):
        engine = Engine(of, ByteTokenizer())
        return [
            completion.ids
            for options in ({}, {"temperature": 0.9, "seed": 4})
            for completion in engine.generate(prompts, max_new_tokens=20, **options)
        ]

    unmerged = answers(model)
    assert unmerged != answers(base)
    transform.merge()
    assert answers(model) == unmerged


@every
def test_a_merged_model_saves_and_an_unmerged_one_says_why_not(name, tmp_path):
    _, model, transform = adapted(name, "all")
    ids = tokens(2, 6)
    with pytest.raises(CheckpointError, match=r"merge\(\)"):
        model.save_pretrained(tmp_path / "m")
    transform.merge()
    model.save_pretrained(tmp_path / "m")
    loaded = load_model(tmp_path / "m", dtype=torch.float64, device="cpu")
    assert loaded.spec.tied is False
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=0, atol=1e-12)


@every
def test_bfloat16_and_a_copy_of_the_model(name):
    base, model, transform = adapted(name, "all", transformer(dtype=torch.float32))
    batch = shifted(tokens(2, 12))
    twin = copy.deepcopy(model)
    exact = model.nll(batch)
    torch.testing.assert_close(twin.nll(batch), exact)
    with transform.disabled():
        assert twin.nll(batch) == exact and model.nll(batch) != exact  # a copy has a Transform of its own
    model.compute_dtype = torch.bfloat16
    low = model.nll(batch)
    low.backward()
    assert low.dtype == torch.float32 and 0 < abs(low.item() - exact.item()) < 0.05 * exact.item()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in transform.parameters().values())
    held = base.to(torch.bfloat16)
    other = make_method("adapter", name).build(seed=0).apply(held)
    assert all(p.dtype == torch.float32 for p in other.parameters().values())


PARTS = [
    (kind, name)
    for kind in ("mixer", "ffn", "head")
    for name in registry.methods(kind)
    if (kind, name) != ("mixer", "cross")
]
PLACES = {"mixer": "blocks.*.mixer", "ffn": "blocks.*.ffn", "head": "head"}


@every
@pytest.mark.parametrize("kind, part", PARTS, ids=[f"{k}/{n}" for k, n in PARTS])
def test_no_part_passes_a_transform_by(name, kind, part):
    """A part that read a weight by itself would miss what is added to it: no gradient, or another result merged."""
    spec = make_method("lm", {"name": "transformer", "dim": 32, "layers": 1, "max_length": 32})
    model = randomise(patch(spec, {PLACES[kind]: part}).build(vocab_size=VOCABULARY)).double().eval()
    transform = make_method("adapter", {"name": name, "targets": list(TARGETS["all"])}).build(seed=0).apply(model)
    perturbed(transform)
    batch = shifted(tokens(2, 20))
    nll = model.nll(batch)
    nll.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in transform.parameters().values())
    logits = model(batch).logits
    rows = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="sum")
    torch.testing.assert_close(nll, rows, rtol=1e-12, atol=1e-10)
    transform.merge()
    torch.testing.assert_close(model(batch).logits, logits, rtol=0, atol=1e-11)
    torch.testing.assert_close(model.nll(batch), nll, rtol=1e-12, atol=1e-11)


@every
@pytest.mark.parametrize("lm", ["feedforward", "feedforward-direct"])
def test_a_model_with_two_products_onto_the_vocabulary(name, lm):
    model = randomise(make_method("lm", {"name": lm, "order": 3, "dim": 8, "hidden": 12}).build(vocab_size=VOCABULARY))
    model = model.double().eval()
    batch = shifted(tokens(2, 9))
    transform = perturbed(make_method("adapter", {"name": name, "targets": list(TARGETS["all"])}).build().apply(model))
    want = OutputRequest(logits="all", nll="sum", entropy=True)
    found = model(batch, want=want)
    rows = torch.nn.functional.cross_entropy(found.logits.flatten(0, 1), batch.targets.flatten(), reduction="sum")
    torch.testing.assert_close(found.nll, rows, rtol=1e-12, atol=0)
    transform.merge()
    again = model(batch, want=want)
    for kind in ("logits", "nll", "entropy"):
        torch.testing.assert_close(getattr(again, kind), getattr(found, kind), rtol=0, atol=1e-11)


@every
def test_rows_of_other_lengths(name):
    _, model, _ = adapted(name, "all")
    ids, lengths = tokens(3, 10), torch.tensor([10, 4, 7])
    padded = model(Batch(ids=ids, lengths=lengths)).logits
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(padded[row, :length], model(ids[row : row + 1, :length]).logits[0])


@every
def test_an_encoder_decoder(name):
    """Layers of both stacks and cross-attention; its tied head serves one stack, its embedding both."""
    spec = make_method("lm", {"name": "encoder-decoder", "dim": 32, "encoder_layers": 1, "layers": 1})
    model = randomise(spec.build(vocab_size=VOCABULARY)).double().eval()
    transform = make_method("adapter", {"name": name, "targets": list(TARGETS["all"])}).build().apply(model)
    assert {"encoder.layers.0", "model.layers.0"} <= {".".join(k.split(".")[:3]) for k in transform.parts}
    perturbed(transform)
    batch = shifted(tokens(2, 8), source=Batch(ids=tokens(2, 6, seed=5)))
    nll = model.nll(batch)
    nll.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in transform.parameters().values())
    with transform.disabled():
        assert abs(model.nll(batch) - nll) > 1e-2
    transform.merge()
    torch.testing.assert_close(model.nll(batch), nll, rtol=1e-12, atol=1e-10)
    assert model.spec.tied is False and transform.model is None
