"""RLHF: three stages, and the loop of the last one."""

from llmanac.guide.figures._draw import Drawing


def draw(made: Drawing) -> None:
    """Stages on the left, the loop on the right."""
    made.box(20, 30, 170, 40, "1 fine-tune on answers", "a")
    made.box(20, 150, 170, 40, "2 reward from pairs", "b")
    made.box(300, 30, 120, 40, "policy", "a")
    made.box(540, 30, 150, 40, "answers", "soft")
    made.box(540, 150, 150, 40, "reward model", "b")
    made.box(300, 150, 120, 40, "update", "c")
    made.arrow((190, 50), (300, 50))
    made.arrow((190, 170), (240, 170), (240, 215), (615, 215), (615, 190))
    made.arrow((420, 50), (540, 50))
    made.arrow((615, 70), (615, 150))
    made.arrow((540, 170), (420, 170))
    made.arrow((360, 150), (360, 70), kind="curve c")
    made.text(480, 160, "reward - beta KL", kind="small")
    made.text(370, 115, "3", "start", "strong")
