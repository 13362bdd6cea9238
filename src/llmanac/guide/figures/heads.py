"""Which query heads share keys and values: multi-head, grouped-query, multi-query."""

from llmanac.guide.figures._draw import Drawing

HEADS = 8
EXAMPLE = {"heads": HEADS, "groups": 2}


def draw(made: Drawing) -> None:
    """Eight query heads above eight, two and one heads of keys and values."""
    kinds = (("multi-head", HEADS), ("grouped-query", EXAMPLE["groups"]), ("multi-query", 1))
    for number, (name, kept) in enumerate(kinds):
        x = 20 + 250 * number
        made.text(x + 108, 20, name, kind="strong")
        each = HEADS // kept
        for head in range(HEADS):
            made.box(x + 27 * head, 36, 22, 26, "q", "a")
        for group in range(kept):
            middle = x + 27 * (each * group + (each - 1) / 2) + 11
            made.box(middle - 11.5, 108, 23, 28, "kv", "b")
            for head in range(each * group, each * (group + 1)):
                made.line((x + 27 * head + 11, 62), (middle, 108))
