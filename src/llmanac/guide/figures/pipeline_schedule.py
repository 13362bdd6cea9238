"""A pipeline of four stages with one forward and one backward in turn: who computes when."""

from llmanac.guide.figures._draw import Drawing

STAGES, MICRO = 4, 6


def _times() -> tuple[list[list[tuple[int, str, int]]], int]:
    """(start, pass, micro-batch) for each stage under 1F1B, with a backward of two units; and the end."""
    order = []
    for stage in range(STAGES):
        warm = min(MICRO, STAGES - stage)
        steps = [("f", m) for m in range(warm)]
        for m in range(MICRO):
            steps.append(("b", m))
            if warm + m < MICRO:
                steps.append(("f", warm + m))
        order.append(steps)
    done: dict[tuple[int, str, int], int] = {}
    free, place, made = [0] * STAGES, [0] * STAGES, [list[tuple[int, str, int]]() for _ in range(STAGES)]
    while any(place[s] < len(order[s]) for s in range(STAGES)):
        for s in range(STAGES):
            while place[s] < len(order[s]):
                what, m = order[s][place[s]]
                needs = [(s - 1, "f", m)] if what == "f" and s else []
                if what == "b":
                    needs = [(s, "f", m), *([(s + 1, "b", m)] if s + 1 < STAGES else [])]
                if not all(need in done for need in needs):
                    break
                start = max([free[s], *(done[need] for need in needs)])
                made[s].append((start, what, m))
                free[s] = done[s, what, m] = start + (1 if what == "f" else 2)
                place[s] += 1
    return made, max(free)


TIMES, END = _times()
EXAMPLE = {
    "stages": STAGES, "micro": MICRO, "idle": 1 - 3 * MICRO / END, "formula": (STAGES - 1) / (MICRO + STAGES - 1),
}  # fmt: skip


def draw(made: Drawing) -> None:
    """A row for each stage over time."""
    unit = 620 / END
    for stage, row in enumerate(TIMES):
        made.text(80, 40 + 38 * stage, f"stage {stage + 1}", "end", "small")
        for start, what, micro in row:
            width = unit * (1 if what == "f" else 2)
            made.box(90 + unit * start, 20 + 38 * stage, width - 1, 30, str(micro + 1), "a" if what == "f" else "b")
