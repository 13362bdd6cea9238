"""A recurrence, one step after the other, and the same linear recurrence as a scan in log T rounds."""

from llmanac.guide.figures._draw import Drawing

STEPS = 8
EXAMPLE = {"steps": STEPS, "rounds": STEPS.bit_length() - 1}


def draw(made: Drawing) -> None:
    """Left the chain of states, right the rounds of a scan."""
    made.text(170, 20, "state after state", kind="strong")
    for step in range(STEPS):
        x = 12 + 40 * step
        made.box(x, 80, 28, 28, f"h{step}", "a")
        made.arrow((x + 14, 150), (x + 14, 110))
        made.text(x + 14, 166, f"x{step}", kind="small")
        if step + 1 < STEPS:
            made.arrow((x + 28, 94), (x + 40, 94), kind="curve b")
    made.text(550, 20, "three rounds", kind="strong")
    for step in range(STEPS):
        x = 390 + 44 * step
        for level in range(4):
            made.parts.append(
                f'<circle cx="{x}" cy="{45 + 45 * level}" r="6" class="box {"b" if level == 3 else "a"}"/>'
            )
            if level < 3:
                made.line((x, 51 + 45 * level), (x, 84 + 45 * level))
                if step >= 1 << level:
                    made.line((x - 44 * (1 << level), 51 + 45 * level), (x, 84 + 45 * level), kind="curve c")
        made.text(x, 205, f"h{step}", kind="small")
