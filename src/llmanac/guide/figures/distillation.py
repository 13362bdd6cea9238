"""Where a student learns from a teacher: hidden states, the distribution over tokens, written text."""

from llmanac.guide.figures._draw import Drawing


def draw(made: Drawing) -> None:
    """Two columns with three links."""
    parts = (
        ("text", "sequence-level"),
        ("distribution over tokens", "token-level"),
        ("hidden states", "feature-level"),
    )
    for row, (what, level) in enumerate(parts):
        y = 40 + 56 * row
        made.box(20, y, 180, 34, what, "b")
        made.box(400, y, 180, 34, what, "a")
        made.arrow((200, y + 17), (400, y + 17), kind="curve c")
        made.text(300, y + 10, level, kind="small")
        if row:
            made.arrow((110, y), (110, y - 22))
            made.arrow((490, y), (490, y - 22))
    made.text(110, 222, "teacher", kind="strong")
    made.text(490, 222, "student", kind="strong")
