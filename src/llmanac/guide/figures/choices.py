"""Three ways to score a question with several choices."""

from llmanac.guide.figures._draw import Drawing

CHOICES = (("a cup", -6.0, 2), ("a very large wooden table", -9.0, 5), ("the moon", -11.0, 2))
SUMS = [total for _, total, _ in CHOICES]
MEANS = [total / length for _, total, length in CHOICES]


def draw(made: Drawing) -> None:
    """Choices with their sums and means."""
    for x, name in ((330, "sum"), (420, "tokens"), (510, "mean")):
        made.text(x, 24, name, kind="strong")
    for row, (words, total, length) in enumerate(CHOICES):
        y = 36 + 42 * row
        made.box(20, y, 220, 30, words)
        made.box(295, y, 70, 30, f"{total:g}", "a" if total == max(SUMS) else "soft")
        made.text(420, y + 20, str(length))
        made.box(475, y, 70, 30, f"{total / length:.1f}", "b" if total / length == max(MEANS) else "soft")
