"""Tensor parallel: the first matrix of a pair by columns, the second by rows, one sum at the end."""

from llmanac.guide.figures._draw import Drawing

DEVICES = 2


def draw(made: Drawing) -> None:
    """Two devices with their halves."""
    made.box(20, 90, 60, 34, "x")
    for device in range(DEVICES):
        y, kind = 30 + 110 * device, "ab"[device]
        made.text(180, y - 10, f"device {device + 1}", kind="small")
        made.box(140, y, 80, 60, "half of\nW up", kind)
        made.box(270, y + 10, 90, 40, "half of h", "soft")
        made.box(410, y, 80, 60, "half of\nW down", kind)
        made.arrow((80, 107), (140, y + 30))
        made.arrow((220, y + 30), (270, y + 30))
        made.arrow((360, y + 30), (410, y + 30))
        made.arrow((490, y + 30), (570, 107), kind="curve c")
    made.box(572, 90, 70, 34, "sum", "c")
