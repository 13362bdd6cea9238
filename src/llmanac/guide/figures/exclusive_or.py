"""Why a sum of word scores cannot express negation: four texts that no line separates."""

from llmanac.guide.figures._draw import Drawing

CASES = (("bad", 0, 0, False), ("good", 0, 1, True), ("not bad", 1, 0, True), ("not good", 1, 1, False))


def draw(made: Drawing) -> None:
    """The four texts in a plane, and the hidden units that bend it."""
    for x, names, places in (
        (50, ("not", "good"), [(0, 0), (0, 1), (1, 0), (1, 1)]),
        (390, ("not or good", "not and good"), [(0, 0), (1, 0), (1, 0), (1, 1)]),
    ):
        made.arrow((x, 190), (x + 220, 190))
        made.arrow((x, 190), (x, 20))
        made.text(x + 215, 208, names[0], "end", "small")
        made.text(x + 8, 18, names[1], "start", "small")
        for number, ((word, _, _, positive), (a, b)) in enumerate(zip(CASES, places, strict=True)):
            px, py = x + 40 + 120 * a, 165 - 100 * b
            made.parts.append(f'<circle cx="{px}" cy="{py}" r="8" class="box {"a" if positive else "b"}"/>')
            made.text(px + 13, py + 4 + (14 if x == 390 and number == 2 else 0), word, "start", "small")
    made.line((455, 200), (610, 85), kind="curve c dashed")
