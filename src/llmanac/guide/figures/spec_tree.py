"""A model as the tree of its Specs: what each part is by default, and how many methods can stand in its place."""

import re
from typing import Any

from llmanac.core import describe, registry
from llmanac.guide.figures._draw import Drawing

WIDTH, HEIGHT, GAP, DOWN = 126, 50, 14, 96


def tree(kind: str, name: str) -> dict[str, Any]:
    """A method and, for each field that is a Spec, the method that it is by default, read from the sources."""
    known = registry.methods(kind)
    parts = []
    for _, type_, default in describe.choices(known[name].path):
        found = re.search(r"(\w+)Spec\b", type_)
        if found and "None" not in type_:
            below = found[1].lower()
            path = describe.file_of(known[name].path, re.sub(r"[(),]", "", default))
            part = next(n for n, m in registry.methods(below).items() if m.path == path and not m.defaults)
            parts.append(tree(below, part))
    return {"kind": kind, "name": name, "others": len(known), "parts": parts}


def draw(made: Drawing) -> None:
    """The tree from the model down, a box a part."""
    _place(made, tree("lm", "transformer"), 20.0, 12.0)


def _leaves(node: dict[str, Any]) -> int:
    return sum(_leaves(part) for part in node["parts"]) or 1


def _place(made: Drawing, node: dict[str, Any], x: float, y: float) -> float:
    """Draw a part and what is below it; returns its middle."""
    step = WIDTH + GAP
    middle = x + (_leaves(node) - 1) * step / 2 + WIDTH / 2
    made.box(middle - WIDTH / 2, y, WIDTH, HEIGHT, f"{node['kind']}: {node['name']}\none of {node['others']}",
             "b" if node["parts"] else "a")  # fmt: skip
    for part in node["parts"]:
        below = _place(made, part, x, y + DOWN)
        made.line((middle, y + HEIGHT), (below, y + DOWN))
        x += _leaves(part) * step
    return middle
