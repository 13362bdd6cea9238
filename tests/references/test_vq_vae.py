"""The codebook against vector-quantize-pytorch on the same codes, the encoder against Chameleon's, and a training."""

from __future__ import annotations

import pytest
import torch
from _small_models import randomise

from llmanac.core.errors import RequestError
from llmanac.core.spec import make_method
from llmanac.data.pictures import Pictures
from llmanac.models.images.vq_vae import Codebook, CodebookSpec


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_codes_losses_gradients_and_moving_means_equal_vector_quantize_pytorch():
    peer = pytest.importorskip("vector_quantize_pytorch", reason="needs vector-quantize-pytorch, of the [test] extra")
    theirs = peer.VectorQuantize(
        dim=6, codebook_size=12, decay=0.9, commitment_weight=0.3, threshold_ema_dead_code=0, rotation_trick=False
    )
    ours = Codebook(CodebookSpec(codes=12, dim=6, decay=0.9, revive=0.0))
    ours.weight.copy_(drawn(12, 6))
    ours.settle()
    theirs._codebook.embed.data.copy_(ours.weight[None])
    theirs._codebook.embed_avg.data.copy_(ours.sums[None])
    for seed in range(1, 5):  # four steps of training: codes move
        x = drawn(3, 20, 6, seed=seed).requires_grad_()
        y = x.detach().clone().requires_grad_()
        expected, numbers, loss = theirs(x)
        found, own, commitment = ours(y)
        assert torch.equal(own, numbers) and len(own.unique()) > 4
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(0.3 * commitment, loss.squeeze())
        weights = drawn(3, 20, 6, seed=9)
        ((expected * weights).sum() + loss.sum()).backward()
        ((found * weights).sum() + 0.3 * commitment).backward()
        torch.testing.assert_close(y.grad, x.grad)
        torch.testing.assert_close(ours.counts, theirs._codebook.cluster_size[0])
        torch.testing.assert_close(ours.weight, theirs._codebook.embed[0], rtol=1e-5, atol=1e-6)
    ours.eval()
    before = ours.weight.clone()
    ours(drawn(3, 20, 6))
    assert torch.equal(ours.weight, before)


def test_k_means_starts_in_the_clusters_and_dead_codes_are_replaced():
    centres = drawn(5, 4, seed=3) * 10
    points = (centres[torch.arange(200) % 5] + drawn(200, 4, seed=4) * 0.1)[None]
    torch.manual_seed(0)
    book = Codebook(CodebookSpec(codes=40, dim=4, revive=1.0))
    book(points)
    assert torch.cdist(book.weight, centres).min(1).values.max() < 2.0
    book.weight[7], book.sums[7], book.counts[7] = 1e4, 1e4 * 0.5, 0.5
    book(points)
    assert torch.cdist(book.weight[7:8], points[0]).min() < 1e-3
    cold = Codebook(CodebookSpec(codes=40, dim=4, revive=0.0, start="normal"))
    cold.weight.copy_(torch.full((40, 4), 1e4))
    cold.weight[0] = 0.0
    cold.settle()
    for _ in range(5):
        cold(points)
    assert len(cold.nearest(points).unique()) == 1  # without a start or revival one code is all


def test_under_autocast_codes_are_chosen_and_moved_in_float32():
    book, plain = (Codebook(CodebookSpec(codes=12, dim=6)) for _ in range(2))
    for one in (book, plain):
        one.weight.copy_(drawn(12, 6))
        one.settle()
    z = drawn(40, 20, 6, seed=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found, numbers, _ = book(z)
    expected, right, _ = plain(z.float())
    assert torch.equal(numbers, right) and torch.equal(found, expected) and torch.equal(book.weight, plain.weight)


@pytest.mark.slow
def test_encode_decode_and_a_short_training():
    torch.manual_seed(0)
    fields = {
        "name": "vq-vae",
        "image": 8,
        "base": 8,
        "multipliers": [1, 2],
        "latent": 8,
        "groups": 4,
        "codebook": {"codes": 16, "dim": 4},
    }
    model = make_method("multimodal", fields).build()
    pixels = (drawn(16, 3, 1, 1) * 0.5).expand(16, 3, 8, 8).contiguous()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    errors = []
    for _ in range(40):
        loss, units, more = model.loss(Pictures(pixels=pixels))
        optimizer.zero_grad()
        (loss / units).backward()
        optimizer.step()
        errors.append(float(more["squared_error"]) / units)
    assert errors[-1] < 0.3 * errors[0]
    model.eval()
    codes = model.encode(pixels)
    assert codes.shape == (16, 16) and int(model.usage(pixels).sum()) == 256
    torch.testing.assert_close(model.decode(codes), model(pixels)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(RequestError, match="codes: must be from 0 to 15"):
        model.decode(codes + 16)
    assert all(p.grad is not None for p in randomise(model).parameters())
