"""Texts in groups of about one size, so that short ones share a call and long ones are shared by threads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llmanac.core.threads import in_order


@dataclass(frozen=True)
class TextGroup:
    """Texts that are encoded together. With `goes_on`, the last one's next stretch begins the next group."""

    texts: Sequence[str]
    goes_on: bool = False


def encoded(
    texts: Sequence[str],
    size: int,
    cut_after: Callable[[str, int], int],
    encode: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]],
    threads: int | None,
) -> list[np.ndarray]:
    """Ids of each text.

    Args:
        size, cut_after: as `groups_of` takes them.
        encode: gives the ids of some texts, one after the other, and where those of each end.
        threads: how many of them, if not as many as there are to use.
    """

    def one(group: TextGroup) -> list[np.ndarray]:
        ids, ends = encode(group.texts)
        stops = ends.tolist()
        return [ids[a:b] for a, b in zip([0, *stops], stops, strict=False)]

    if len(texts) == 1 and len(texts[0]) <= 2 * size:
        return [encode(texts)[0]]
    groups = groups_of(texts, size, cut_after)
    return _joined([ids for found in in_order(one, groups, threads) for ids in found], groups, len(texts))


def groups_of(texts: Sequence[str], size: int, cut_after: Callable[[str, int], int]) -> list[TextGroup]:
    """The texts, in order, in groups of about `size` characters.

    Args:
        cut_after: where a text of more than twice the size may be cut, after the place it is given.
    """
    groups: list[TextGroup] = []
    start, held = 0, 0
    for i, text in enumerate(texts):
        if len(text) > 2 * size:
            if start < i:
                groups.append(TextGroup(texts[start:i]))
            at = 0
            while at < len(text):
                stop = cut_after(text, at + size) if at + 2 * size < len(text) else len(text)
                groups.append(TextGroup([text[at:stop]], stop < len(text)))
                at = stop
            start, held = i + 1, 0
            continue
        held += len(text)
        if held >= size:
            groups.append(TextGroup(texts[start : i + 1]))
            start, held = i + 1, 0
    if start < len(texts):
        groups.append(TextGroup(texts[start:]))
    return groups


def _joined(found: list[np.ndarray], groups: Sequence[TextGroup], texts: int) -> list[np.ndarray]:
    """The ids of each text, from those of each text or stretch of one."""
    if len(found) == texts:
        return found
    out: list[np.ndarray] = []
    at, first = 0, 0
    for group in groups:
        at += len(group.texts)
        if not group.goes_on:
            stretches = len(group.texts) == 1
            out += [np.concatenate(found[first:at])] if stretches else found[first:at]
            first = at
    return out
