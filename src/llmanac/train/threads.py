"""A step's rows divided among threads: each computes its micro-batches alone, and gradients are added once a step.

    g = g_1 + g_2 + ...        g_i: the gradients of the micro-batches i, i + n, i + 2n, ... of n threads

As many threads as a step has work for: one, of a small step. A library divides each product among its threads and waits
for all of them, some hundred times a step; the operations of a small model are too short for that. Here a thread waits
once a step. Each has a copy of the module tree whose parameters are the model's memory with gradients of their own, so
that no two threads add to one gradient. The order of all sums is fixed: equal runs are equal bit for bit.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, cast

import torch
from torch import nn

from llmanac.adapters.lora import LoRA
from llmanac.core.types import LossSum, capabilities
from llmanac.data.pack import PackedRow
from llmanac.models.ffn.experts import Experts
from llmanac.models.layers import LinearMap
from llmanac.objectives import NextToken

LARGEST = 1 << 24  # trained numbers: a thread more takes as much memory as their gradients
LEAST_WORK = 5e8  # operations of a thread and step: below it Python's lock is waited for more than is gained


def divides(model: nn.Module, objective: Any) -> bool:
    """Whether rows may be computed by several threads at once.

    The loss must be a sum over rows that the model alone gives. What the model changes or draws in a forward pass
    (buffers, counts of experts, dropout, recomputation) would be lost, or come in an order of chance.
    """
    parameters = list(model.parameters())
    alone = type(objective).loss is NextToken.loss and not objective.models
    return (
        alone
        and all(p.device.type == "cpu" for p in parameters)
        and sum(p.numel() for p in parameters if p.requires_grad) <= LARGEST
        and set(model.state_dict(keep_vars=True))
        <= {name for name, _ in model.named_parameters(remove_duplicate=False)}
        and not ("recompute" in capabilities(model).settings and cast(Any, model).recompute != "none")
        and not any(isinstance(m, Experts) or _drops(m) for m in model.modules())
    )


def _drops(module: nn.Module) -> bool:
    adapter = module.change.transform if isinstance(module, LinearMap) and module.change is not None else None
    return (isinstance(adapter, LoRA) and adapter.spec.dropout > 0) or bool(getattr(module, "dropout", 0))


class Threads:
    """Computes the gradients of batches with `count` threads.

    Args:
        backward: adds the gradients of one batch to those of a model, and returns what the objective gave.
    """

    def __init__(self, model: nn.Module, count: int, backward: Callable[[nn.Module, Any], LossSum]) -> None:
        self.model, self.count, self.backward = model, count, backward
        self.work = 6.0 * sum(p.numel() for p in model.parameters())  # of a token
        self.others: list[nn.Module] = []  # made when they are needed
        self.trained: list[tuple[nn.Parameter, ...]] = []  # each parameter of the model, and its copies
        self.pool = ThreadPoolExecutor(count - 1, thread_name_prefix="rows")

    def of(self, rows: Sequence[Any]) -> int:
        """How many threads a step of these rows has work for; 0 where rows are too few to occupy half of them."""
        work = self.work * sum(map(_places, rows))
        wanted = max(1, min(self.count, int(work // LEAST_WORK)))
        return min(wanted, len(rows)) if 2 * len(rows) > wanted else 0

    def divided(self, rows: Sequence[Any], micro_batch: int) -> list[Sequence[Any]]:
        """Rows in micro-batches, of which all threads together compute `micro_batch` rows at a time at most."""
        pieces = -(-len(rows) // micro_batch) * self.of(rows)
        cuts = [len(rows) * i // pieces for i in range(pieces + 1)]
        return [rows[start:stop] for start, stop in itertools.pairwise(cuts) if stop > start]

    def __call__(self, batches: Sequence[Any], threads: int) -> list[LossSum]:
        """Add the gradients of all batches to the model's, by so many threads; what each gave, in their order."""
        self._follow(threads)
        parts, running = [batches[i::threads] for i in range(threads)], []
        try:
            for model, part in zip(self.others, parts[1:], strict=False):
                running.append(self.pool.submit(self._alone, model, part))
            first = self._alone(self.model, parts[0])
        finally:
            try:
                wait(running)  # also where this thread failed: nobody is still at work on the weights afterwards
            finally:
                torch.set_num_threads(self.count)
        found = [first, *(one.result() for one in running)]
        self._add(threads)
        return [found[i % threads][i // threads] for i in range(len(batches))]

    def _alone(self, model: nn.Module, batches: Sequence[Any]) -> list[LossSum]:
        torch.set_num_threads(1)  # of the calling thread
        return [self.backward(model, batch) for batch in batches]

    def _follow(self, threads: int) -> None:
        """Other threads' models are what the model is by now: its mode, and the memory of its parameters."""
        if len(self.others) < threads - 1:
            self.others += [_twin(self.model) for _ in range(threads - 1 - len(self.others))]
            trees = [self.model, *self.others]
            self.trained = [p for p in zip(*(tree.parameters() for tree in trees), strict=True) if p[0].requires_grad]
        for other in self.others:
            if other.training != self.model.training:
                other.train(self.model.training)
        for own, *copies in self.trained:
            for theirs in copies:
                theirs.grad = None  # of a step that failed
                if own.data_ptr() != theirs.data_ptr():
                    theirs.data = own.data

    def _add(self, threads: int) -> None:
        for number in range(1, threads):
            pairs = [(each[0], each[number].grad) for each in self.trained]
            for each in self.trained:
                each[number].grad = None
            first = [(own, grad) for own, grad in pairs if own.grad is None]
            more = [(own.grad, grad) for own, grad in pairs if own.grad is not None and grad is not None]
            for own, grad in first:
                own.grad = grad
            if more:
                torch._foreach_add_([to for to, _ in more], [grad for _, grad in more])


def _places(row: Any) -> int:
    """The tokens of a row: packed, a sequence of ids, or `(ids, loss mask)`."""
    ids = row.ids if isinstance(row, PackedRow) else row[0] if isinstance(row, tuple) else row
    return len(ids)


def _twin(model: nn.Module) -> nn.Module:
    """A copy of the module tree over the same memory; parameters that are trained have gradients of their own."""
    shared = {id(p): nn.Parameter(p.data, requires_grad=True) if p.requires_grad else p for p in model.parameters()}
    return copy.deepcopy(model, shared)  # what deepcopy takes as copied already
