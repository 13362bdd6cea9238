"""Searches of a tree of texts, without a model: each yields the nodes to expand and is sent their children.

    search = beam(Node(), n=16, width=4, depth=8)          nodes = next(search), then search.send(children)

A node's children come with their values, higher is better; `ended` says that nothing can follow. A search ends by
returning the best leaf that it saw (of leaves of one value the first), or the best node where it saw no leaf.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

Wanted = list[tuple["TreeNode", int]]  # nodes to expand, and how many children each may have
Search = Generator[Wanted, "list[list[TreeNode]]", "TreeNode"]


@dataclass(eq=False)
class TreeNode:
    """A text so far: its tokens, its value, whether it has ended, and what a search notes about it."""

    ids: tuple[int, ...] = ()
    value: float = 0.0
    ended: bool = False
    data: Any = None
    parent: TreeNode | None = None
    children: list[TreeNode] = field(default_factory=list)
    visits: int = 0
    total: float = 0.0
    closed: bool = False  # everything below it has been seen

    @property
    def depth(self) -> int:
        return 0 if self.parent is None else self.parent.depth + 1


def best(nodes: Sequence[TreeNode]) -> TreeNode:
    """The best leaf, else the best node; the first of equal ones."""
    return max([node for node in nodes if node.ended] or nodes, key=lambda node: node.value)


def beam(root: TreeNode, *, n: int, width: int, depth: int) -> Search:
    """n first steps; then the best n // width open texts are continued by `width` steps each."""
    seen, kept = [root], [root]
    for level in range(depth):
        grown = yield [(node, n if level == 0 else width) for node in kept]
        new = [child for children in grown for child in children]
        seen += new
        going = [node for node in new if not node.ended]
        kept = sorted(going, key=lambda node: -node.value)[: max(1, n // width)]
        if not kept:
            break
    return best(seen[1:] or seen)


def mcts(root: TreeNode, *, n: int, width: int, depth: int, explore: float) -> Search:
    """n expansions, each of the node that is reached by the largest upper confidence bound (UCT).

    Parts of the tree that were seen completely are not entered again, so that a tree with at most n inner nodes is
    searched to its last leaf.
    """
    seen = [root]
    for _ in range(n):
        if root.closed:
            break
        node = root
        while node.children:
            node = max((child for child in node.children if not child.closed), key=_bound(node, explore))
        (children,) = yield [(node, width)]
        node.children = children
        seen += children
        for child in children:
            child.parent = node
            child.closed = child.ended or child.depth >= depth
            up: TreeNode | None = child
            while up is not None:
                up.visits, up.total = up.visits + 1, up.total + child.value
                up = up.parent
        at: TreeNode | None = node
        while at is not None and all(child.closed for child in at.children):
            at.closed = True
            at = at.parent
    return best(seen[1:] or seen)


def _bound(parent: TreeNode, explore: float) -> Callable[[TreeNode], float]:
    def bound(child: TreeNode) -> float:
        return child.total / child.visits + explore * math.sqrt(math.log(max(1, parent.visits)) / child.visits)

    return bound
