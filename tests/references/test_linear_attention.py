"""Linear attention: chunks, the token by token recurrence and the quadratic form; random features against softmax."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from _small_models import block, randomise, tokens, transformer
from _traces import peak_bytes, slope

from llmanac.core.errors import SpecError
from llmanac.core.registry import build
from llmanac.core.types import HIDDEN, Batch
from llmanac.kernels.nn.linear_attention import linear_attention
from llmanac.models.mixers.linear import directions


def qkv(length=37, features=6, dim=5):
    generator = torch.Generator().manual_seed(0)
    sizes = (features, features, dim)
    return [torch.randn(3, 2, length, n, generator=generator, dtype=torch.float64).requires_grad_() for n in sizes]


def quadratic(q, k, v, seen):
    return (q @ k.transpose(-1, -2)).masked_fill(~seen, 0) @ v


def recurrence(q, k, v):
    held, out = 0, []
    for a, b, c in zip(q.unbind(2), k.unbind(2), v.unbind(2), strict=True):
        held = held + b[..., :, None] * c[..., None, :]
        out.append((a[..., None, :] @ held)[..., 0, :])
    return torch.stack(out, dim=2), held


@pytest.mark.parametrize("chunk", [1, 5, 8, 36, 37, 64])
def test_chunks_equal_recurrence_and_quadratic_form(chunk):
    q, k, v = qkv()
    step = torch.arange(37)
    actual, state = linear_attention(q, k, v, chunk=chunk)
    expected = quadratic(q, k, v, step <= step[:, None])
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    by_token, last = recurrence(q, k, v)
    torch.testing.assert_close(actual, by_token, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)
    above = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad((actual * above).sum(), (q, k, v)),
        torch.autograd.grad((expected * above).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 4, 16, 64])
@pytest.mark.parametrize("strict", [False, True])
def test_documents_are_apart(chunk, strict):
    q, k, v = qkv()
    step = torch.arange(37)
    rows = [[9, 9, 19], [1, 30, 6], [37]]
    segments = torch.stack([torch.repeat_interleave(torch.arange(len(r)), torch.tensor(r)) for r in rows])
    past = step < step[:, None] if strict else step <= step[:, None]
    same = (segments[:, :, None] == segments[:, None])[:, None]
    actual, _ = linear_attention(q, k, v, chunk=chunk, segments=segments, strict=strict)
    torch.testing.assert_close(actual, quadratic(q, k, v, past & same), rtol=1e-10, atol=1e-10)


def written_out(mixer, x, seen):
    """The formula of the module for elu features, all pairs at once; seen (B or 1, T, T)."""
    q, k, v = (
        F.linear(x, getattr(mixer, f"{n}_proj").weight).unflatten(2, (4, -1)).transpose(1, 2) for n in "qkv"
    )  # fmt: skip
    weights = ((F.elu(q) + 1) @ (F.elu(k) + 1).transpose(-1, -2)).masked_fill(~seen[:, None], 0)
    read = (weights / weights.sum(-1, keepdim=True)) @ v
    return F.linear(read.transpose(1, 2).flatten(2), mixer.o_proj.weight)


KINDS = {
    "causal": {},
    "bidirectional": {"mask": "bidirectional"},
    "prefix": {"mask": "prefix", "prefix": torch.tensor([7, 20])},
    "packed": {"segments": (torch.arange(30) >= 11).long().expand(2, -1)},
    "packed both ways": {"mask": "bidirectional", "segments": (torch.arange(30) >= 11).long().expand(2, -1)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_mask_equals_the_formula(kind):
    model = transformer(layers=1, blocks=block({"name": "linear", "chunk": 8}), position="none")
    ids = tokens(2, 30)
    x, context = model._enter(Batch(ids=ids, **KINDS[kind]), None)
    mixer = model.model.layers[0].self_attn
    expected = written_out(mixer, x, context.mask.boolean()[:, 0])
    torch.testing.assert_close(mixer(x, context), expected, rtol=1e-10, atol=1e-10)
    softmax = transformer(layers=1, blocks=block("multi-head"), position="none")
    softmax.load_state_dict(model.state_dict())
    assert (softmax.model.layers[0].self_attn(x, context) - expected).abs().max() > 0.01


def test_padding_changes_nothing():
    for name in ("linear", "random-features"):
        model, ids = transformer(blocks=block({"name": name, "chunk": 8})), tokens(1, 30)
        alone = model(Batch(ids=ids[:, :17], mask="bidirectional"), want=HIDDEN).hidden
        padded = model(Batch(ids=ids, lengths=torch.tensor([17]), mask="bidirectional"), want=HIDDEN).hidden
        torch.testing.assert_close(padded[:, :17], alone, rtol=0, atol=1e-10)


def test_random_features_approach_softmax_attention():
    """The error against softmax attention falls as their number grows."""
    softmax = transformer(layers=1, blocks=block("multi-head"))
    ids = tokens(2, 40)
    x, context = softmax._enter(Batch(ids=ids), None)
    x = 0.5 * x / x.std()
    expected = softmax.model.layers[0].self_attn(x, context)
    errors = []
    for count in (16, 256, 4096):
        each = []
        for seed in range(4):
            mixer = build("mixer", "random-features", dim=32, count=count, seed=seed).double()
            mixer.load_state_dict(softmax.model.layers[0].self_attn.state_dict())
            each.append((mixer(x, context) - expected).norm() / expected.norm())
        errors.append(torch.stack(each).mean().item())
    assert errors[2] < 0.08 and errors[1] < 0.6 * errors[0] and errors[2] < 0.6 * errors[1], errors


def test_directions_are_orthogonal_and_as_long_as_normal_vectors():
    drawn = torch.from_numpy(directions(4096, 8, 0))
    first = drawn[:8] / drawn[:8].norm(dim=1, keepdim=True)
    torch.testing.assert_close(first @ first.T, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-10)
    assert abs(drawn.square().sum(1).mean() / 8 - 1) < 0.05


@pytest.mark.parametrize("name", ["linear", "random-features"])
def test_the_state_has_one_size(name):
    model = transformer(blocks=block(name))
    short, long = model.start(2), model.start(2)
    model(tokens(2, 3), short)
    model(tokens(2, 60), long)
    assert short.nbytes == long.nbytes > 0


def test_memory_and_products_grow_with_the_length():
    from torch.utils.flop_counter import FlopCounterMode

    memory, products, lengths = [], [], [1024, 2048, 4096]
    for length in lengths:
        inputs = [torch.randn(1, 2, length, 16).requires_grad_() for _ in range(3)]

        def both(inputs=inputs):
            return torch.autograd.grad(linear_attention(*inputs, chunk=64)[0].sum(), inputs)

        memory.append(peak_bytes(both))
        with FlopCounterMode(display=False) as counter:
            both()
        products.append(counter.get_total_flops())
    assert abs(slope(lengths, memory) - 1) < 0.1
    assert abs(slope(lengths, products) - 1) < 0.1


def test_errors_name_the_field():
    for field, value in (("chunk", 0), ("count", 0), ("seed", -1), ("heads", 5)):
        with pytest.raises(SpecError, match=field):
            build("mixer", "linear", dim=16, **{field: value})


@pytest.mark.parametrize("chunk", [1, 5, 16, 64])
def test_decay_equals_the_quadratic_form(chunk):
    q, k, v = qkv()
    rates = torch.tensor([0.5, 0.03], dtype=torch.float64)
    step = torch.arange(37)
    apart = (step[:, None] - step).double()
    weight = torch.exp(-rates[:, None, None] * apart).masked_fill(apart < 0, 0)
    actual, state = linear_attention(q, k, v, chunk=chunk, rates=rates)
    torch.testing.assert_close(actual, (q @ k.transpose(-1, -2) * weight) @ v, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, (k * weight[:, -1, :, None]).transpose(-1, -2) @ v, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["linear", "random-features", "lightning"])
def test_decoding_over_several_chunks_equals_one_pass(name):
    """Chunks of 8 tokens, read in pieces of any sizes and with padding."""
    model, ids = transformer(blocks=block({"name": name, "chunk": 8})), tokens(2, 50)
    with torch.inference_mode():
        full = model(ids).logits
        for sizes in [(50,), (20, 1, 29), (1,) * 50, (8, 8, 34)]:
            state = model.start(2)
            parts = [model(part, state).logits for part in ids.split(sizes, dim=1)]
            torch.testing.assert_close(torch.cat(parts, 1), full, rtol=0, atol=1e-10)
        state = model.start(2)
        model(Batch(ids=ids[:, :30], lengths=torch.tensor([30, 11])), state)
        rest = torch.stack([ids[0, 30:43], ids[1, 11:24]])
        found = model(rest, state).logits
        torch.testing.assert_close(found[0], full[0, 30:43], rtol=0, atol=1e-10)
        torch.testing.assert_close(found[1], full[1, 11:24], rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunk", [4, 64])
def test_lightning_equals_minimax(chunk):
    minimax = pytest.importorskip("transformers.models.minimax.modeling_minimax")
    config = minimax.MiniMaxConfig(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_hidden_layers=3, block_size=8
    )
    theirs = randomise(minimax.MiniMaxLightningAttention(config, 1)).double().eval()
    ours = build("mixer", "lightning", dim=32, chunk=chunk, slope=1 - 1 / (2 + 1e-5) + 1e-5).double()
    ours.load_state_dict({name: value for name, value in theirs.state_dict().items() if name in ours.state_dict()})
    ours.norm.eps = theirs.norm.variance_epsilon
    for name in ("query_decay", "key_decay", "diagonal_decay", "slope_rate"):  # made in float32
        setattr(theirs, name, getattr(theirs, name).double())
    model = transformer(layers=1)
    x = torch.randn(2, 24, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    expected = theirs(x, None, None)[0]
    _, context = model._enter(Batch(embeddings=x), None)
    actual = ours(x, context)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    found, wanted = (torch.autograd.grad(y.square().sum(), x)[0] for y in (actual, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert actual.abs().max() > 0.1
    still = build("mixer", "lightning", dim=32, slope=0.0).double()
    still.load_state_dict(ours.state_dict())
    assert (still(x, context) - actual).abs().max() > 0.01
