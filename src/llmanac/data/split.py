"""Train and held-out text: groups, chosen by a hash of their names, so that neither order nor chance decides.

A group stays on its side when other groups are added to the corpus, unless they join it to related ones. Where the
hash would leave a side empty (a corpus of few groups), the rule changes: the group with the smallest hash
is held out; a corpus that is one group is split by document; a corpus that is one document loses its last part, cut at
a line end.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from llmanac.core.errors import DataError
from llmanac.data.documents import Document

Unit = Literal["group", "document", "part"]


def fraction(name: str, seed: int = 0) -> float:
    """A number in [0, 1) that a name always gets."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") / 2**64


@dataclass(frozen=True)
class Rule:
    """Which documents are held out: `unit` says by what, `names` are the held-out groups or document ids.

    `together` are the related groups that were kept on one side.
    """

    unit: Unit
    names: frozenset[str]
    share: float
    together: tuple[tuple[str, ...], ...] = ()

    def divide(self, document: Document) -> tuple[Document | None, Document | None]:
        """`(train part, held-out part)` of one document; one of them is None but for the unit "part"."""
        if self.unit == "part":
            cut = _cut_point(document.text, self.share)
            tail = Document(f"{document.id}#held-out", document.text[cut:].lstrip("\n"), document.group, document.meta)
            return document.with_text(document.text[:cut].rstrip()), tail
        name = document.group if self.unit == "group" else document.id
        return (None, document) if name in self.names else (document, None)


def plan(
    sizes: Iterable[tuple[str, str, int]], share: float, *, seed: int = 0, related: Iterable[list[str]] = ()
) -> Rule:
    """The rule for a corpus.

    Args:
        sizes: (group, id, bytes) of every document.
        share: about which part of the groups to hold out.
        related: lists of groups that stay on one side, unless such a list is more than a third of the text.

    Raises:
        DataError: no documents, or a share outside (0, 0.5].
    """
    if not 0 < share <= 0.5:
        raise DataError(f"held_out: {share} is not a share above 0 and at most 0.5")
    groups: Counter[str] = Counter()
    documents: Counter[str] = Counter()
    for group, name, size in sizes:
        groups[group] += size
        documents[name] += size
    if not documents:
        raise DataError(
            "the corpus is empty: no document is left after cleaning; name files, columns or a data set in "
            "data.source that hold text, and check that its patterns do not leave all of it out"
        )
    kept = _kept_together(groups, related)
    leaders = {name: names[0] for names in kept for name in names}
    together: Counter[str] = Counter()
    for group, size in groups.items():
        together[leaders.get(group, group)] += size
    if chosen := _choose(together, lambda name: fraction(name, seed), share):
        return Rule("group", frozenset(group for group in groups if leaders.get(group, group) in chosen), share, kept)
    for unit, found in (("group", groups), ("document", documents)):
        names = _choose(found, lambda name: fraction(name, seed), share)
        if names:
            return Rule(unit, names, share)  # type: ignore[arg-type]
    return Rule("part", frozenset(), share)


def _kept_together(sizes: Counter[str], related: Iterable[list[str]]) -> tuple[tuple[str, ...], ...]:
    """The related groups whose first name, in alphabetical order, decides for all. Where more than a third of the text
    is related, it shares a form rather than quotes, and its groups are divided one by one."""
    most = sizes.total() / 3
    return tuple(tuple(sorted(names)) for names in related if sum(sizes[name] for name in names) <= most)


def _choose(sizes: Counter[str], draw: Callable[[str], float], share: float) -> frozenset[str]:
    """Held-out names; empty when every choice would hold out more than half of the text."""
    half = sizes.total() / 2
    order = sorted(sizes, key=draw)
    names = [name for name in order if draw(name) < share]
    if names and sum(sizes[name] for name in names) <= half:
        return frozenset(names)
    # the hash took none, or one that is most of the corpus: take groups in hash order, up to the fraction
    chosen: list[str] = []
    taken = 0
    for name in order:
        if taken + sizes[name] <= half and (not chosen or taken + sizes[name] <= share * sizes.total()):
            chosen.append(name)
            taken += sizes[name]
    return frozenset(chosen)


def _cut_point(text: str, share: float) -> int:
    """Where the held-out tail of a single document starts."""
    aim = int(len(text) * (1 - share))
    for mark in ("\n\n", "\n", " "):
        at = text.find(mark, aim)
        if 0 <= at < len(text) - len(mark) - max(1, (len(text) - aim) // 4):
            return at + len(mark)
    for mark in ("\n", " "):
        at = text.rfind(mark, len(text) // 2, aim)
        if at > 0:
            return at + len(mark)
    return max(1, min(aim, len(text) - 1))


def split(
    documents: Iterable[Document], share: float = 0.05, *, seed: int = 0
) -> tuple[list[Document], list[Document]]:
    """`(train, held out)`. Both sides always have text.

    Raises:
        DataError: an empty corpus, a single document of fewer than two characters, or a share outside (0, 0.5].
    """
    documents = list(documents)
    rule = plan(((d.group, d.id, d.bytes) for d in documents), share, seed=seed)
    if rule.unit == "part" and len(documents[0].text) < 2:
        raise DataError(f"{documents[0].id}: one document of one character cannot be split; add text")
    train: list[Document] = []
    held_out: list[Document] = []
    for document in documents:
        kept, held = rule.divide(document)
        if kept is not None:
            train.append(kept)
        if held is not None:
            held_out.append(held)
    return train, held_out
