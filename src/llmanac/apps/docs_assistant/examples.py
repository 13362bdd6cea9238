"""Questions to begin with, made from what an index holds: names that are there, each asked something that is said."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from llmanac.apps.docs_assistant.passages import Passage

_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+")
_PLAIN = re.compile(r"[a-z][a-z0-9]*\.[a-z][a-z0-9_]*")  # a function of a module with a short name
_SENTENCE = re.compile(r"^[A-Z][a-z]+ .*[a-z]")
_RETURNS = re.compile(r"^Returns? ")
_RAISES = re.compile(r"(?i)\brais(?:e|es|ed|ing)\b")
FORMS = (("What does {} do?", _SENTENCE), ("What does {} return?", _RETURNS), ("Which errors does {} raise?", _RAISES))


def example_questions(passages: Sequence[Passage]) -> list[str]:
    """Up to three questions about three entries: what one does, what one returns, which errors one raises.

    Of the entries whose first passage says so, the one that other entries mention most: a name that readers know.
    """
    named = {p.name: p for p in passages if p.first and p.lines and "(" in p.title}
    mentions: Counter[str] = Counter()
    for passage in passages:
        found = set(_DOTTED.findall(" ".join(passage.lines)))
        mentions.update(name for name in found if name in named and named[name].entry != passage.entry)
    order = sorted(named, key=lambda name: (_PLAIN.fullmatch(name) is None, -mentions[name], len(name), name))
    out: list[str] = []
    for form, said in FORMS:
        best = next((name for name in order if any(map(said.search, named[name].lines))), None)
        if best is not None:
            order.remove(best)
            out.append(form.format(best))
    return out
