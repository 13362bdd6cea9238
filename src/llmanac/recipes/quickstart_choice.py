"""Which line of the entry that is asked about answers: what the model points at, and what the question's words say.

The model has learned what is asked from a few hundred forms of question. Words that no form has ("clobber", "twice") say
nothing to it; a line that speaks of them, or says much the same, is looked for by its words. Where there are such words
and neither the model's line nor any other speaks of them, the documentation does not say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmanac.recipes.quickstart_ranking import EntryRanking, rank_lines
from llmanac.recipes.quickstart_words import stems

POINTED = 0.2  # what being pointed at counts beside the share of the question that a line speaks of
ENOUGH = 0.3  # of the question's own words (by weight) that a line has to speak of


@dataclass(frozen=True)
class Choice:
    """A line, and the share of the question's own words that it speaks of."""

    line: str
    share: float


def choose(
    ranking: EntryRanking, wanted: Sequence[str], common: frozenset[str], lines: Sequence[str], pointed: str | None
) -> Choice | None:
    """The line that answers; None where none does.

    Args:
        wanted: stems of what is asked, without the name.
        common: stems of the words that the forms of training questions are made of.
        lines: the entry's title, the defaults it states, and every line of its text.
        pointed: the line that the model points at, or None where it says that none answers.
    """
    own = [word for word in wanted if word not in common]
    if not own:
        return None if pointed is None else Choice(pointed, 1.0)
    whole = sum(ranking.weight(word) for word in own)
    asked = sum(ranking.weight(word) for word in wanted)
    best: tuple[float, float, str] | None = None
    shares = {number: score / whole for score, number in rank_lines(ranking, own, lines)}
    for score, number in rank_lines(ranking, wanted, lines):
        value = score / asked + POINTED * (lines[number] == pointed)
        if best is None or value > best[0]:
            best = (value, shares[number], lines[number])
    if best is None or best[1] < ENOUGH:
        return None
    return Choice(best[2], best[1])


def common_stems(words: Sequence[str]) -> frozenset[str]:
    """The stems of words of questions."""
    return frozenset(stem for word in words for stem in stems(word))
