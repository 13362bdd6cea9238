"""The cell of an LSTM with its three gates."""

from llmanac.guide.figures._draw import Drawing

KEPT, STEPS = 0.98, 60
LEFT = KEPT**STEPS


def draw(made: Drawing) -> None:
    """The path of the cell with what is multiplied and added."""
    made.text(20, 45, "c before", "start", "small")
    made.arrow((80, 40), (190, 40), kind="curve c")
    made.box(190, 24, 40, 32, "x", "b")
    made.arrow((230, 40), (340, 40), kind="curve c")
    made.box(340, 24, 40, 32, "+", "b")
    made.arrow((380, 40), (600, 40), kind="curve c")
    made.text(600, 28, "c", kind="small")
    for x, words, to in ((150, "forget gate", (210, 56)), (270, "input gate x proposal", (360, 56))):
        width = 100 if "x" not in words else 170
        made.box(x, 120, width, 34, words, "a")
        made.arrow((x + width / 2, 120), to)
    made.box(470, 120, 100, 34, "output gate", "a")
    made.box(500, 70, 40, 28, "x", "b")
    made.text(532, 60, "tanh", "start", "small")
    made.arrow((520, 40), (520, 70))
    made.arrow((520, 120), (520, 98))
    made.arrow((540, 84), (610, 84))
    made.text(622, 88, "h", kind="small")
    made.text(320, 190, "all gates are computed from the token and h before", kind="small")
