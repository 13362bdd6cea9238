"""A constraint as an automaton: states of a small JSON text and the tokens that each lets pass."""

from llmanac.guide.figures._draw import Drawing

STATES = ("start", "key", "colon", "value", "end")
MOVES = ("{", '"age"', ":", "digit")
TOKENS = ("{", '"age"', ":", "1", "yes", "}")
ALLOWED = {"start": {"{"}, "key": {'"age"'}, "colon": {":"}, "value": {"1"}, "end": {"1", "}"}}


def draw(made: Drawing) -> None:
    """The states in a row, and a grid of allowed tokens."""
    for number, state in enumerate(STATES):
        x = 20 + 122 * number
        made.box(x, 30, 74, 30, state, "a")
        if number < 4:
            made.arrow((x + 74, 45), (x + 122, 45))
            made.text(x + 97, 36, MOVES[number], kind="small")
    grid = [[1.0 if token in ALLOWED[state] else 0.0 for state in STATES] for token in TOKENS]
    made.grid(120, 105, grid, "", rows=TOKENS, columns=STATES, size=40, kind="c")
