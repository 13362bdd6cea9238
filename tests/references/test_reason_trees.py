"""Tree searches on trees that are enumerated, and through the engine with a verifier."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from llmanac.reason._trees import TreeNode, beam, mcts

DEPTH, WIDTH = 4, 3


def run(search, values, ended=lambda ids: len(ids) == DEPTH):
    """Drives a search over the tree of all tuples; returns its leaf and how many nodes it expanded."""
    wanted, expanded = next(search), 0
    while True:
        grown = []
        for node, count in wanted:
            expanded += 1
            ids = [(*node.ids, i) for i in range(min(count, WIDTH))]
            grown.append([TreeNode(ids=i, value=values(i), ended=ended(i), parent=node) for i in ids])
        try:
            wanted = search.send(grown)
        except StopIteration as end:
            return end.value, expanded


def leaves(seed):
    values = np.random.default_rng(seed).random((WIDTH,) * DEPTH)
    return values, tuple(int(i) for i in np.unravel_index(values.argmax(), values.shape))


@pytest.mark.parametrize("seed", range(5))
def test_the_best_leaf_is_found(seed):
    """A beam with values that are bounds finds it at width 1; mcts finds it in as many expansions as inner nodes."""
    table, best = leaves(seed)

    def bound(ids):  # the best leaf below
        return float(table[ids].max())

    def mean(ids):
        return float(table[ids].mean())

    leaf, expanded = run(beam(TreeNode(), n=WIDTH, width=WIDTH, depth=DEPTH), bound)
    assert leaf.ids == best and expanded == DEPTH
    inner = sum(WIDTH**level for level in range(DEPTH))
    for values in (bound, mean):
        leaf, expanded = run(mcts(TreeNode(), n=inner, width=WIDTH, depth=DEPTH, explore=1.0), values)
        assert leaf.ids == best and expanded == inner
    leaf, expanded = run(beam(TreeNode(), n=WIDTH**DEPTH, width=1 + WIDTH, depth=DEPTH), mean)
    assert leaf.ids in set(itertools.product(range(WIDTH), repeat=DEPTH))


@pytest.mark.parametrize("depth", range(1, 7))
def test_to_be_sure_of_the_best_leaf_costs_exponentially_many_expansions(depth):
    """Where values say nothing, the one good leaf takes (3^depth - 1) / 2 expansions, and no fewer find it."""
    good = (WIDTH - 1,) * depth
    inner = (WIDTH**depth - 1) // (WIDTH - 1)

    def searched(n):
        search = mcts(TreeNode(), n=n, width=WIDTH, depth=depth, explore=1.0)
        return run(search, lambda ids: float(ids == good), lambda ids: len(ids) == depth)

    leaf, expanded = searched(inner)
    assert leaf.ids == good and expanded == inner
    assert inner == 1 or searched(inner - 1)[0].ids != good


def test_mcts_goes_where_values_are_high():
    """With few expansions it finds the best leaf of a tree whose means point to it, where random choices do not."""
    found = []
    for seed in range(20):
        weights = np.random.default_rng(seed).random((DEPTH, WIDTH))

        def values(ids, weights=weights):
            known = sum(weights[level, i] for level, i in enumerate(ids))
            return float(known + weights[len(ids) :].mean(1).sum())

        leaf, _ = run(mcts(TreeNode(), n=12, width=WIDTH, depth=DEPTH, explore=0.2), values)
        found.append(leaf.ids == tuple(int(i) for i in weights.argmax(1)))
    assert np.mean(found) > 0.6  # 12 of 40 inner nodes


def test_trees_of_uneven_depth_end():
    def ended(ids):
        return ids[-1] == 0 or len(ids) == DEPTH

    for search in (beam(TreeNode(), n=4, width=2, depth=9), mcts(TreeNode(), n=200, width=2, depth=9, explore=1.0)):
        leaf, expanded = run(search, lambda ids: len(ids) / 10, ended)
        assert leaf.ids == (1,) * (DEPTH - 1) + (0,) and expanded < 20
    (cut, _) = run(
        mcts(TreeNode(), n=50, width=2, depth=2, explore=1.0), lambda ids: float(sum(ids)), lambda ids: False
    )
    assert cut.ids == (1, 1)  # no leaf within the depth: the best node
