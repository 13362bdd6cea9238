"""A sequence's probability as a product of the next token's, with what each costs in bits."""

import math

from llmanac.guide.figures._draw import Drawing

STEPS = (("the", 0.06), ("cat", 0.01), ("sat", 0.2), ("down", 0.3), (".", 0.5))
BITS = [-math.log2(p) for _, p in STEPS]
EXAMPLE = {
    "probability": math.prod(p for _, p in STEPS), "bits": BITS, "mean": sum(BITS) / len(BITS),
    "perplexity": 2 ** (sum(BITS) / len(BITS)), "tokens": len(STEPS),
}  # fmt: skip


def draw(made: Drawing) -> None:
    """Tokens, probabilities, bits."""
    for number, ((token, p), bits) in enumerate(zip(STEPS, BITS, strict=True)):
        x = 20 + 106 * number
        made.box(x, 16, 90, 30, token, "a")
        made.text(x + 45, 70, f"p = {p:g}", kind="small")
        made.box(x + 30, 130 - 7 * bits, 30, 7 * bits, kind="b")
        made.text(x + 45, 146, f"{bits:.1f} bits", kind="small")
