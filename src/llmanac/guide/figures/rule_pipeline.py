"""A rule-based classifier on one sentence: features, weights, score, decision."""

from llmanac.guide.figures._draw import Drawing

WORDS = (("great", 1.0), ("plot", 0.0), ("but", -0.2), ("dull", -1.0), ("dull", -1.0))
SCORE = sum(weight for _, weight in WORDS)
EXAMPLE = {"words": WORDS, "score": SCORE}


def draw(made: Drawing) -> None:
    """Words with their weights, the sum, the label."""
    for number, (word, weight) in enumerate(WORDS):
        made.box(12 + 82 * number, 20, 74, 30, word, "a" if weight > 0 else "b" if weight < -0.5 else "soft")
        made.text(49 + 82 * number, 74, f"{weight:+.1f}", kind="small")
        made.line((49 + 82 * number, 80), (49 + 82 * number, 96), kind="thin")
    made.line((49, 96), (377, 96), kind="thin")
    made.arrow((377, 96), (440, 96))
    made.box(444, 80, 74, 32, f"{SCORE:+.1f}", "c")
    made.arrow((518, 96), (548, 96))
    made.box(552, 80, 78, 32, "negative" if SCORE < 0 else "positive", "d")
