"""Bengio et al. 2003: outputs and gradients against the formula written out in float64 numpy."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from _small_models import VOCABULARY, gradients, randomise, shifted, tokens

from llmanac.core.errors import RequestError, SpecError
from llmanac.core.spec import make_method
from llmanac.core.types import IGNORE, Batch
from llmanac.models.load import load_model
from llmanac.objectives.autoregressive import Spec as Autoregressive
from llmanac.train import TrainSpec
from llmanac.train.loop import train

NAMES = ["feedforward", "feedforward-direct"]


def model_of(name: str, **choices: int):
    spec = make_method("lm", {"name": name, "order": 4, "dim": 6, "hidden": 10, **choices})
    return randomise(spec.build(vocab_size=VOCABULARY)).double().eval()


class Formula:
    """y = b + W x + U tanh(d + H x) of one window, and the gradient of -log softmax(y) at one target."""

    def __init__(self, model) -> None:
        value = {name: p.detach().numpy() for name, p in model.named_parameters()}
        self.c, self.h, self.d = value["embed_tokens.weight"], value["hidden_layer.weight"], value["hidden_layer.bias"]
        self.u, self.b = value["lm_head.weight"], value["lm_head.bias"]
        self.w = value.get("direct.weight", np.zeros((len(self.b), self.h.shape[1])))
        self.gradient = {name: np.zeros_like(v) for name, v in value.items()}

    def logits(self, window: list[int]) -> np.ndarray:
        x = np.concatenate([self.c[t] for t in window])
        return self.b + self.w @ x + self.u @ np.tanh(self.d + self.h @ x)

    def loss(self, window: list[int], target: int) -> float:
        x = np.concatenate([self.c[t] for t in window])
        a = np.tanh(self.d + self.h @ x)
        y = self.b + self.w @ x + self.u @ a
        p = np.exp(y - y.max()) / np.exp(y - y.max()).sum()
        dy = p.copy()
        dy[target] -= 1
        da = (self.u.T @ dy) * (1 - a**2)
        dx = self.h.T @ da + self.w.T @ dy
        g = self.gradient
        g["lm_head.bias"] += dy
        g["lm_head.weight"] += np.outer(dy, a)
        g["hidden_layer.bias"] += da
        g["hidden_layer.weight"] += np.outer(da, x)
        if "direct.weight" in g:
            g["direct.weight"] += np.outer(dy, x)
        for t, part in zip(window, dx.reshape(len(window), -1), strict=True):
            g["embed_tokens.weight"][t] += part
        return -float(np.log(p[target]))


def window(row: list[int], t: int, reach: int = 3) -> list[int]:
    """The last tokens up to place t, nearest first; the extra row of C before the start."""
    return [row[t - j] if t - j >= 0 else VOCABULARY for j in range(reach)]


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients_equal_the_formula(name: str) -> None:
    model, ids = model_of(name), tokens(3, 12)
    formula = Formula(model)
    logits = model(ids).logits
    for row, found in zip(ids.tolist(), logits, strict=True):
        for t in range(12):
            np.testing.assert_allclose(found[t].detach().numpy(), formula.logits(window(row, t)), atol=1e-12)
    targets = torch.roll(ids, -1, 1)
    targets[:, -1] = IGNORE
    targets[0, 3] = IGNORE
    loss = model.nll(Batch(ids=ids, targets=targets))
    loss.backward()
    expected = sum(
        formula.loss(window(row, t), wanted[t])
        for row, wanted in zip(ids.tolist(), targets.tolist(), strict=True)
        for t in range(12)
        if wanted[t] != IGNORE
    )
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert set(gradients(model)) == set(formula.gradient)
    for key, value in gradients(model).items():
        np.testing.assert_allclose(value.numpy(), formula.gradient[key], atol=1e-12, err_msg=key)
        assert np.abs(formula.gradient[key]).max() > 1e-3, key


def test_direct_connections_change_the_output_and_order_sets_the_window() -> None:
    plain, direct, ids = model_of("feedforward"), model_of("feedforward-direct"), tokens(1, 9)
    direct.load_state_dict(plain.state_dict(), strict=False)
    assert (plain(ids).logits - direct(ids).logits).abs().max() > 0.1
    with torch.no_grad():
        direct.direct.weight.zero_()
    torch.testing.assert_close(plain(ids).logits, direct(ids).logits)
    other = ids.clone()
    other[0, 4] = (other[0, 4] + 1) % VOCABULARY
    changed = (plain(ids).logits - plain(other).logits).abs().amax((0, 2))
    assert [t for t in range(9) if changed[t] > 1e-9] == [4, 5, 6]  # n - 1 = 3 places see a token


def test_packed_documents_do_not_see_each_other() -> None:
    model = model_of("feedforward-direct")
    documents = [tokens(1, n, seed=n) for n in (7, 2, 9)]
    alone = sum(model.nll(shifted(d)) for d in documents)
    inputs, targets = (torch.cat(x, 1) for x in zip(*((d[:, :-1], d[:, 1:]) for d in documents), strict=True))
    segments = torch.cat([torch.full((1, d.shape[1] - 1), i) for i, d in enumerate(documents)], 1)
    torch.testing.assert_close(model.nll(Batch(ids=inputs, targets=targets, segments=segments)), alone)
    assert (model.nll(Batch(ids=inputs, targets=targets)) - alone).abs() > 1e-3


def test_the_training_loop_trains_it_and_its_file_is_the_model(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = [(np.cumsum(generator.integers(1, 3, 40)) % VOCABULARY).astype(np.int64) for _ in range(64)]

    class Source:
        def __init__(self) -> None:
            self.at = 0

        def __next__(self):
            self.at += 8
            return [rows[i % 64] for i in range(self.at - 8, self.at)]

        def state(self):
            return {"at": self.at}, {}

        def restore(self, state, tensors) -> None:
            self.at = state["at"]

    spec = make_method("lm", {"name": "feedforward", "order": 3, "dim": 16, "hidden": 32})
    model = spec.build(vocab_size=VOCABULARY).initialise(0)
    before = model.nll(shifted(torch.from_numpy(np.stack(rows)))).item()
    settings = dataclasses.replace(
        TrainSpec(), steps=80, length=39, batch_tokens=8 * 39, dtype="float32", compile="never", attention="sdpa",
        optimizer=make_method("optimizer", {"name": "adamw", "lr": 1e-2}),
    )  # fmt: skip
    train(model, Source(), Autoregressive().build(), settings, tmp_path / "run", seed=0)
    model.eval()
    after = model.nll(shifted(torch.from_numpy(np.stack(rows)))).item()
    assert after < 0.5 * before
    model.save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    ids = tokens(2, 11)
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=0, atol=0)
    assert loaded.spec == spec


def test_wrong_requests_and_choices_are_named() -> None:
    model = model_of("feedforward")
    for bad, reason in ((torch.tensor([[VOCABULARY]]), "61 is not"), (torch.tensor([3]), "expected")):
        with pytest.raises(RequestError, match=reason):
            model(bad)
    with pytest.raises(RequestError, match="mask"):
        model(Batch(ids=tokens(1, 3), mask="bidirectional"))
    with pytest.raises(RequestError, match="targets"):
        model.nll(Batch(ids=tokens(1, 3)))
    for field in ("order", "dim", "hidden"):
        with pytest.raises(SpecError, match=field):
            make_method("lm", {"name": "feedforward", field: 0})
