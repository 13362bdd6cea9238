"""The pointer head against its mixture written out over the vocabulary, and what it is for: copying."""

from __future__ import annotations

import pytest
import torch
from _small_models import shifted, tokens, transformer

from llmanac.core.types import HIDDEN, IGNORE, Batch


def written_out(model, batch):
    """log p over the vocabulary, token by token in plain loops, from the head's own projections."""
    hidden = model(batch, want=HIDDEN).hidden
    head, ids = model.lm_head, batch.ids
    unit = torch.nn.functional.normalize
    scale = 2.0 * head.width**0.5
    q, k = unit(hidden @ head.query.weight.T, dim=-1), unit(hidden @ head.key.weight.T, dim=-1)
    out = torch.log_softmax(hidden @ head.weight.T, -1)
    for b in range(ids.shape[0]):
        segments = torch.zeros(ids.shape[1]) if batch.segments is None else batch.segments[b]
        for t in range(ids.shape[1]):
            before = [j for j in range(t) if segments[j] == segments[t]]
            if not before:
                continue
            weights = torch.softmax(torch.stack([scale * q[b, t] @ k[b, j] for j in before]), 0)
            gate = torch.sigmoid(hidden[b, t] @ head.gate.weight + head.gate.bias)
            p = (1 - gate) * out[b, t].exp()
            for j, weight in zip(before, weights, strict=True):
                p[ids[b, j + 1]] += gate * weight
            out[b, t] = p.log()
    return out


@pytest.mark.parametrize("packed", [False, True])
def test_nll_is_the_mixture_written_out(packed):
    model, ids = transformer(head="pointer"), tokens(2, 16, below=9)
    segments = (torch.arange(15) >= 6).long().expand(2, -1) if packed else None
    batch = shifted(ids, segments=segments)
    with torch.no_grad():
        expected = written_out(model, batch)
        logits = model(batch).logits
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits.exp().sum(-1), torch.ones(2, 15, dtype=torch.float64))
        rows = model.nll(batch, "none")
        picked = -logits.gather(2, batch.targets[..., None]).squeeze(-1)
        torch.testing.assert_close(rows, picked, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.nll(batch), rows.sum())
    vocabulary_alone = torch.log_softmax(model(batch, want=HIDDEN).hidden @ model.lm_head.weight.T, -1)
    assert (logits - vocabulary_alone).abs().max() > 0.1


def test_gradients_of_nll_and_of_logits_agree():
    model, ids = transformer(head="pointer"), tokens(2, 16, below=9)
    batch = shifted(ids)
    wanted = list(model.parameters())
    a = torch.autograd.grad(model.nll(batch), wanted)
    picked = -model(batch).logits.gather(2, batch.targets[..., None]).sum()
    b = torch.autograd.grad(picked, wanted)
    c = torch.autograd.grad(model.nll(batch, "none").sum(), wanted)
    for x, y, z in zip(a, b, c, strict=True):
        assert x.isfinite().all() and x.abs().sum() > 0
        torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(x, z, rtol=1e-8, atol=1e-10)


def test_targets_without_loss_cost_nothing():
    model, ids = transformer(head="pointer"), tokens(2, 12)
    targets = ids[:, 1:].clone()
    targets[:, ::2] = IGNORE
    rows = model.nll(Batch(ids=ids[:, :-1], targets=targets), "none")
    assert (rows[:, ::2] == 0).all() and (rows[:, 1::2] > 0).all()
    everything = model.nll(shifted(ids), "none")
    torch.testing.assert_close(rows[:, 1::2], everything[:, 1::2])


def test_it_learns_to_copy_what_one_layer_cannot():
    """Rows said again after a gap of random length: with the same few steps only the pointer finds the place."""
    losses = {}
    for head in ("linear", "pointer"):
        model = transformer(head=head, dim=48, layers=1, dtype=torch.float32).initialise(0).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        generator = torch.Generator().manual_seed(0)
        for _ in range(100):
            ids = torch.randint(61, (16, 32), generator=generator)
            targets = torch.full((16, 31), IGNORE)
            for row, start in enumerate(torch.randint(12, 22, (16,), generator=generator).tolist()):
                ids[row, start : start + 10] = ids[row, :10]
                targets[row, start : start + 9] = ids[row, 1:10]
            batch = Batch(ids=ids[:, :-1], targets=targets)
            loss = model.nll(batch) / batch.units
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        losses[head] = loss.item()
    assert losses["pointer"] < 0.6 * losses["linear"], losses
