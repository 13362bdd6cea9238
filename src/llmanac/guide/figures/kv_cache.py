"""What a step of decoding computes and reads with a cache of keys and values."""

from llmanac.guide.figures._draw import Drawing


def draw(made: Drawing) -> None:
    """Five steps as rows: cached places, the new one, and what would be computed again without the cache."""
    for step in range(5):
        y = 30 + 34 * step
        made.text(70, y + 18, f"step {step + 1}", "end", "small")
        for place in range(step + 3):
            new = place == step + 2
            made.box(84 + 58 * place, y, 52, 26, "new" if new else "read", "b" if new else "a")
    made.text(84, 210, "keys and values, a box for each token", "start", "small")
