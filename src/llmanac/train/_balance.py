"""The load-balance loss of experts over a complete step, however it is cut into micro-batches and shared by ranks.

    balance * experts * sum_i (F_i / N) (P_i / N)        F_i assignments to expert i, P_i its probabilities, of N tokens

F_i and N are sums over the step, and no gradient passes through them; P_i is a sum of terms of single tokens. So the
tokens are counted first, in a pass without gradients, and then each micro-batch adds its terms of P_i. The pass is
left out where one forward pass is the step. Random numbers are the same in both, so that dropout is.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from llmanac.models.ffn.experts import Experts
from llmanac.objectives import BaseObjective
from llmanac.train.calibration import preserve_objective, preserve_random_state


@contextlib.contextmanager
def of_step(
    model: nn.Module,
    objective: Any,
    batches: Iterable[Any],
    read: Callable[[Any], Tensor | int],
    *,
    several: bool,
    add_up: Callable[[Tensor], object] = lambda totals: None,
) -> Iterator[Iterable[Any]]:
    """The batches of a step; inside, the loss of the model's experts is that of all of them.

    Args:
        read: computes the loss of one batch, which is thrown away, and returns its units.
        several: whether the step has more than one micro-batch or rank.
        add_up: replaces counts by their sums over ranks.
    """
    experts = [layer for layer in model.modules() if isinstance(layer, Experts) and layer.balance]
    in_parts = type(objective).losses is not BaseObjective.losses
    if not experts or not objective.adds_aux or not (several or in_parts):
        yield batches
        return
    batches = list(batches)
    for layer in experts:
        layer.seen = torch.zeros(layer.count + 1, dtype=torch.long, device=layer.router.weight.device)
    try:
        with preserve_random_state(objective.generators), preserve_objective(objective), torch.no_grad():
            units = sum(read(batch) for batch in batches)
        seen = [layer.seen for layer in experts if layer.seen is not None]
        totals = torch.cat([*seen, torch.as_tensor(units).reshape(1).to(seen[0])])
        add_up(totals)
        *counts, units = totals.split([*map(len, seen), 1])
        objective.step_units = units.squeeze(0)
        for layer, count in zip(experts, counts, strict=True):
            layer.seen, layer.of_step = None, count
        yield batches
    finally:
        objective.step_units = None
        for layer in experts:
            layer.seen = layer.of_step = None
