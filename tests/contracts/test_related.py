"""Groups that share text stay on one side of a split; counted exactly against sets of word sequences."""

from __future__ import annotations

import random
import re
from itertools import combinations

import pytest

from llmanac.core.errors import DataError
from llmanac.core.spec import make_method
from llmanac.data.collect import collect
from llmanac.data.related import FEWEST, WORDS, Relations
from llmanac.data.split import plan


def sequences(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + WORDS]) for i in range(max(0, len(words) - WORDS + 1))}


def by_sets(groups: dict[str, str], share: float) -> set[frozenset[str]]:
    """The components, the plain way."""
    parent = {name: name for name in groups}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for one, other in combinations(groups, 2):
        a, b = sequences(groups[one]), sequences(groups[other])
        common = len(a & b)
        if common >= FEWEST and common >= share * min(len(a), len(b)):
            parent[root(other)] = root(one)
    names = list(groups)
    return {frozenset(n for n in names if root(n) == root(name)) for name in names}


def words(draw: random.Random, count: int) -> str:
    return " ".join(f"w{draw.randrange(5000)}" for _ in range(count))


@pytest.mark.parametrize("seed", range(20))
def test_components_equal_sets_of_sequences(seed: int) -> None:
    draw = random.Random(seed)
    groups = {f"g{i}": words(draw, draw.randrange(20, 200)) for i in range(12)}
    for _ in range(6):
        one, other = draw.sample(sorted(groups), 2)
        piece = groups[one].split()[: draw.randrange(1, 60)]
        groups[other] = f"{groups[other]} {' '.join(piece)}"
    for share in (0.1, 0.5, 1.0):
        relations = Relations(share)
        for name, text in groups.items():
            half = text.rindex(" ", 0, max(text.index(" ") + 1, len(text) // 2))
            relations.add(name, text)
            relations.add(name, text[:half])  # a second document of a group counts once
        assert {frozenset(found) for found in relations.components()} == by_sets(groups, share)


def test_many_copies_and_little_memory_find_the_same() -> None:
    draw = random.Random(1)
    shared = words(draw, 2000)
    relations = Relations(0.5, kept=2500)
    for i in range(30):
        relations.add(f"copy{i}", f"{shared} {words(draw, 200)}")
    for i in range(30):
        relations.add(f"own{i}", words(draw, 2000))
    assert sum(part.nbytes for part, _ in relations._new) <= 8 * 2500
    found = relations.components()
    assert relations._halvings > 3
    assert all(part.base is None for part, _ in relations._new), "a part of an array keeps all of it"
    assert len(relations._hashes) <= 2500
    assert found[0] == [f"copy{i}" for i in range(30)]
    assert len(found) == 31


def test_a_split_keeps_them_together_as_far_as_both_sides_have_text() -> None:
    sizes = [(f"g{i:02}", f"g{i:02}", 100) for i in range(60)]
    related = [[f"g{i:02}", f"g{i + 1:02}", f"g{i + 2:02}"] for i in range(0, 30, 3)]
    for seed in range(30):
        rule = plan(sizes, 0.1, seed=seed, related=related)
        assert rule.unit == "group"
        assert rule.names
        for names in related:
            assert len(rule.names & set(names)) in (0, 3)
    assert plan(sizes, 0.1, related=[[name for name, _, _ in sizes]]) == plan(sizes, 0.1)
    halves = [[name for name, _, _ in sizes[:30]], [name for name, _, _ in sizes[30:]]]
    assert plan(sizes, 0.4, related=halves) == plan(sizes, 0.4), "a form that half the corpus has is no quotation"
    assert plan(sizes[:1], 0.1, related=[]).unit == "part"


def test_collect_leaks_no_quoted_chapter(tmp_path: object) -> None:
    """The language reference quotes chapters whole inside others; they come to one side, which they do not without."""
    source = make_method("source", {"name": "python-docs", "parts": ["topics"]})

    def shares(related: float, seed: int) -> list[float]:
        corpus = collect(source, seed=seed, held_out=0.2, related=related)
        seen = set().union(*(sequences(text) for text in corpus.train.texts()))
        return [
            len(own & seen) / len(own)
            for document in corpus.held_out
            if len(own := sequences(document.text)) >= 10 * FEWEST
        ]

    assert max(max(shares(0.1, seed), default=0.0) for seed in range(6)) < 0.5
    assert max(max(shares(0.0, seed), default=0.0) for seed in range(6)) == 1.0


def test_a_share_out_of_range_is_refused() -> None:
    with pytest.raises(DataError, match="related: 2"):
        collect(make_method("source", "python-docs"), related=2)
