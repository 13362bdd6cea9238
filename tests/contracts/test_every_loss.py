"""What every loss keeps to, whatever its name."""

from __future__ import annotations

import pytest
import torch

from llmanac.core import registry
from llmanac.core.errors import SpecError

NAMES = list(registry.methods("loss"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_a_classifiers_loss_is_one_value_a_row(name, classes):
    """Finite at any score, least for the right class, and its slopes push the right score up."""
    loss = registry.build("loss", name)
    outputs = loss.outputs(classes)
    assert 1 <= outputs <= classes
    logits = torch.randn(7, outputs, generator=torch.Generator().manual_seed(0)).requires_grad_()
    truth = torch.randint(classes, (7,), generator=torch.Generator().manual_seed(1))
    values = loss.of_classes(logits, truth)
    assert values.shape == (7,) and (values > 0).all()
    (slopes,) = torch.autograd.grad(values.sum(), logits)
    better = loss.of_classes(logits.detach() - 0.1 * slopes, truth)
    assert (better < values).all()
    assert torch.isfinite(loss.of_classes(1e4 * logits.detach(), truth)).all()


@pytest.mark.parametrize("name", NAMES)
def test_reductions_are_of_the_same_values(name):
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(4, (6,)) if name == "cross-entropy" else torch.rand(6, 4)
    none, total, mean = (registry.build("loss", name, reduction=r)(logits, targets) for r in ("none", "sum", "mean"))
    torch.testing.assert_close(none.sum(), total)
    torch.testing.assert_close(none.mean(), mean)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_reduction_names_the_known(name):
    with pytest.raises(SpecError, match="is not one of 'mean', 'sum', 'none'; did you mean 'mean'"):
        registry.build("loss", name, reduction="means")
