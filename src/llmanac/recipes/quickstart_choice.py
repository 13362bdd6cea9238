"""Which line of the entry that is asked about answers: what the model points at, and what the question's words say.

The model has learned what is asked from a few hundred forms of question. Words that no form has ("clobber", "twice") say
nothing to it; a line that speaks of them, or says much the same, is looked for by its words. Where there are such words
and neither the model's line nor any other speaks of them, the documentation does not say.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmanac.recipes.quickstart_ranking import EntryRanking, rank_lines
from llmanac.recipes.quickstart_words import stems

POINTED = 1.5  # what being pointed at counts beside the weight of the words that a line speaks of
RESTATED = 0.4  # of their weight in a title or a default, which name the parameters and say nothing of them
ENOUGH = 1.3  # the weight of words that a line has to speak of
SHARE = 0.12  # and the share of all that is asked
SIGNATURE = ("arguments", "default")  # asked, as the model understood it, of the title and its defaults


def choose(
    ranking: EntryRanking,
    wanted: Sequence[str],
    common: frozenset[str],
    title: Sequence[str],
    lines: Sequence[str],
    pointed: str | None,
    query: str,
) -> str | None:
    """The line that answers; None where none does.

    Args:
        wanted: stems of what is asked, without the name.
        common: stems of the words that the forms of training questions are made of.
        title: the entry's title, and the defaults that it states as lines.
        lines: every line of its text.
        pointed: the line that the model points at, or None where it says that none answers.
        query: what is asked, as the model understood it.
    """
    if not set(wanted) - common and pointed is not None:
        return pointed
    asked = sum(ranking.weight(word) for word in wanted)
    signature = query.partition(" ")[0] in SIGNATURE
    best: tuple[float, float, str | None] = (0.0, 0.0, None)
    for score, number in rank_lines(ranking, wanted, [*title, *lines]):
        restated = number < len(title)
        line = title[number] if restated else lines[number - len(title)]
        if restated and not signature:
            score *= RESTATED
        value = score + POINTED * (line == pointed and (signature or not restated))
        if value > best[0]:
            best = (value, score, line)
    value, score, line = best
    return line if score >= ENOUGH and score >= SHARE * asked else None


def common_stems(words: Sequence[str]) -> frozenset[str]:
    """The stems of words of questions."""
    return frozenset(stem for word in words for stem in stems(word))
