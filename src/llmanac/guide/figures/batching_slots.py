"""Requests that join and leave a batch at every step, and a batch that waits for its slowest."""

from llmanac.guide.figures._draw import Drawing

LENGTHS = (7, 3, 5, 2, 4, 6)
SLOTS = 3


def _places(joining: bool) -> tuple[list[tuple[int, int, int, int]], int]:
    """(slot, start, length, request) of each, and when the last one ends."""
    free, out, start = [0] * SLOTS, [], 0
    for request, length in enumerate(LENGTHS):
        if not joining and request % SLOTS == 0:
            start = max(free)
            free = [start] * SLOTS
        slot = min(range(SLOTS), key=free.__getitem__)
        out.append((slot, free[slot], length, request))
        free[slot] += length
    return out, max(free)


EXAMPLE = {"joining": _places(True)[1], "waiting": _places(False)[1]}


def draw(made: Drawing) -> None:
    """Two timelines of three rows."""
    for part, (name, joining) in enumerate((("waiting", False), ("joining", True))):
        made.text(70, 62 + 100 * part, name, "end", "strong")
        for slot, start, length, request in _places(joining)[0]:
            made.box(
                84 + 38 * start, 14 + 28 * slot + 100 * part, 38 * length - 3, 25, str(request + 1), "abcdab"[request]
            )
