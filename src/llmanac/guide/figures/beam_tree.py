"""Beam search of width two on a small tree, where greedy search misses the most likely sequence."""

from llmanac.guide.figures._draw import Drawing

TREE = {"": (("a", 0.5), ("b", 0.4), ("c", 0.1)), "a": (("x", 0.35), ("y", 0.33), ("z", 0.32)),
        "b": (("x", 0.9), ("y", 0.1)), "c": (("x", 0.6), ("y", 0.4))}  # fmt: skip
FIRST = [word for word, _ in sorted(TREE[""], key=lambda p: -p[1])[:2]]
ENDS = {w + v: p * q for w, p in TREE[""] for v, q in TREE[w]}
BEAM = max((w + v for w in FIRST for v, _ in TREE[w]), key=ENDS.__getitem__)
GREEDY = FIRST[0] + max(TREE[FIRST[0]], key=lambda p: p[1])[0]
EXAMPLE = {"greedy": ENDS[GREEDY], "beam": ENDS[BEAM]}


def draw(made: Drawing) -> None:
    """The tree; kept beginnings and the two results are coloured."""
    made.box(20, 140, 60, 30, "start")
    row = 0
    for word, p in TREE[""]:
        below = TREE[word]
        middle = 24 + 38 * (row + (len(below) - 1) / 2)
        made.line((80, 155), (190, middle + 13), kind="" if word in FIRST else "thin")
        made.box(190, middle, 100, 26, f"{word}  {p:g}", "a" if word in FIRST else "soft")
        for more, q in below:
            y, name = 24 + 38 * row, word + more
            made.line((290, middle + 13), (400, y + 13), kind="" if word in FIRST else "thin")
            kind = "b" if name == GREEDY else "c" if name == BEAM else "soft"
            made.box(400, y, 120, 26, f"{more}  {p * q:.3f}", kind)
            if kind != "soft":
                made.text(528, y + 17, "greedy" if kind == "b" else "beam", "start", "small")
            row += 1
