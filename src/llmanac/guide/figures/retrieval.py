"""Retrieval-augmented generation: what is looked up and what the model reads."""

from llmanac.guide.figures._draw import Drawing


def draw(made: Drawing) -> None:
    """Documents to passages to index; question to passages to answer."""
    row = (("documents", 20, "soft"), ("passages", 190, "a"), ("index", 360, "a"))
    for number, (name, x, kind) in enumerate(row):
        made.box(x, 20, 120, 34, name, kind)
        if number:
            made.arrow((x - 50, 37), (x, 37))
    made.box(20, 110, 120, 34, "question", "soft")
    made.box(360, 110, 120, 34, "best passages", "b")
    made.box(560, 110, 140, 34, "model: answer", "c")
    made.arrow((140, 127), (360, 127))
    made.arrow((420, 54), (420, 110))
    made.arrow((480, 127), (560, 127))
    made.line((80, 144), (80, 168), (630, 168))
    made.arrow((630, 168), (630, 144))
