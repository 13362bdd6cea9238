"""What a device holds in data parallel training, as copies and in shards."""

from llmanac.guide.figures._draw import Drawing

DEVICES = 4
PARTS = (("weights", 4, "a"), ("gradients", 4, "b"), ("optimizer", 8, "c"))
EXAMPLE = {"devices": DEVICES, "copies": sum(b for _, b, _ in PARTS), "shards": sum(b for _, b, _ in PARTS) / DEVICES}


def draw(made: Drawing) -> None:
    """A stack of bytes a parameter for each device, in both forms."""
    for number, (name, part) in enumerate((("copies", 1), ("shards", DEVICES))):
        x = 30 + 320 * number
        made.text(x + 120, 20, name, kind="strong")
        for device in range(DEVICES):
            y = 200.0
            for _, size, kind in PARTS:
                y -= 10 * size / part
                made.box(x + 62 * device, y, 48, 10 * size / part, kind=kind)
            made.text(x + 62 * device + 24, 216, str(device + 1), kind="small")
