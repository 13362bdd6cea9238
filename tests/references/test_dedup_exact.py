"""Exact duplicates and duplicate lines against the plain way, with much memory and with little; sorting in files."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.errors import DataError, SpecError
from llmanac.core.spec import make_method
from llmanac.data.dedup import drop_duplicates, text_key
from llmanac.data.deduplicate import deduplicate
from llmanac.data.documents import Document
from llmanac.data.stages import _clusters
from llmanac.data.stages.lines import Spec as Lines

LITTLE = 60_000  # bytes: most of what follows then goes through files


def plain_exact(texts: list[str]) -> list[str | None]:
    seen: set[str] = set()
    return [None if text in seen or seen.add(text) else text for text in texts]  # type: ignore[func-returns-value]


def plain_lines(texts: list[str], stage: Any, minimum: int, most: float) -> list[str | None]:
    seen: set[str] = set()
    out: list[str | None] = []
    for text in texts:
        kept = []
        for piece in stage.pieces(text):
            bare = piece.strip()
            if len(bare) >= minimum and bare in seen:
                continue
            if len(bare) >= minimum:
                seen.add(bare)
            kept.append(piece)
        left = "".join(kept)
        gone = left != text and (1 - len(left) / len(text) > most or not left.strip())
        out.append(None if gone else left)
    return out


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["", " ", "a", "b", "é", "e\u0301", "\x00", "\ud800", "a\n", "long text " * 9])))
def test_kept_documents_equal_a_set_of_texts(texts: list[str]) -> None:
    assert deduplicate(texts, "exact")[0] == plain_exact(texts)


def test_exact_in_files_equals_exact_in_memory() -> None:
    rng = random.Random(0)
    texts = [f"text {rng.randrange(4000)}" for _ in range(12_000)]
    kept, report = deduplicate(texts, "exact", memory=LITTLE)
    assert kept == plain_exact(texts)
    assert report == {"documents": 12_000, "dropped": 12_000 - len(set(texts)), "kept": len(set(texts))}
    assert any(text is None for text in kept)


def test_the_stream_keeps_the_same_and_takes_half_surrogates() -> None:
    texts = ["a", "\ud800", "b", "a", "\ud800", "\udfff"]
    documents = [Document(str(i), text, "") for i, text in enumerate(texts)]
    assert [d.id for d in drop_duplicates(documents)] == ["0", "1", "2", "5"]
    assert text_key("abc") == bytes.fromhex("cf4ab791c62b8d2b2109c90275287816")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(alphabet=st.sampled_from("ab \n\n\ré\u2028"), max_size=40), max_size=12),
    st.sampled_from(["line", "paragraph"]),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.4, 1.0]),
)
def test_lines_equal_the_plain_way(texts: list[str], unit: Any, minimum: int, most: float) -> None:
    spec = Lines(unit=unit, min_length=minimum, max_removed=most)
    stage = spec.build()
    for text in texts:
        assert "".join(stage.pieces(text)) == text
    assert deduplicate(texts, spec)[0] == plain_lines(texts, stage, minimum, most)


@pytest.mark.parametrize("unit", ["line", "paragraph"])
def test_lines_in_files_equal_lines_in_memory(unit: Any) -> None:
    rng = random.Random(1)
    texts = [
        "\n\n".join(f"sentence number {rng.randrange(3000)}" for _ in range(rng.randrange(9))) for _ in range(2000)
    ]
    spec = Lines(unit=unit, min_length=5, max_removed=0.7)
    kept, report = deduplicate(texts, spec, memory=LITTLE)
    assert kept == plain_lines(texts, spec.build(), 5, 0.7)
    assert (kept, report) == deduplicate(texts, spec)
    assert 0 < report["cut"] < report["looked_at"]
    assert sum(text is None for text in kept) > 100 and sum(text is not None for text in kept) > 100


def test_paragraphs_end_after_their_blank_lines() -> None:
    stage = Lines(unit="paragraph").build()
    assert stage.pieces("a\nb\n\n \nc\n\nd") == ["a\nb\n\n \n", "c\n\n", "d"]
    assert Lines().build().pieces("a\n\nb") == ["a\n", "\n", "b"]
    assert make_method("stage", "paragraphs") == Lines(unit="paragraph")


def test_short_lines_stay_and_the_first_occurrence_stays() -> None:
    texts = ["}\nthe same long line of text, certainly\n", "}\nthe same long line of text, certainly\nnew\n"]
    assert deduplicate(texts, "lines")[0] == [texts[0], "}\nnew\n"]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1)), max_size=300), max_size=6),
    st.sampled_from([2 * 4 * 16 * 64, 3 * 4 * 16 * 64 + 5, 1 << 20]),
)
def test_sorting_in_files_equals_sorting(tmp_path_factory: Any, batches: list[Any], memory: int) -> None:
    rows = [np.array(batch, np.uint64).reshape(-1, 2) for batch in batches]
    folder = tmp_path_factory.mktemp("runs") / "sorting"
    found = list(_clusters.sorted_rows(rows, 2, memory=memory, folder=folder))
    got = [tuple(row) for block in found for row in block.tolist()]
    assert got == sorted(tuple(row) for block in rows for row in block.tolist())
    assert not folder.exists()


def test_sorting_merges_in_levels_within_its_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    memory = 2 * 4 * 8 * 64  # two runs at a time
    values = rng.integers(0, 1 << 40, 3000).astype(np.uint64)
    found = list(_clusters.sorted_rows(iter(values.reshape(-1, 10, 1)), 1, memory=memory, folder=tmp_path / "s"))
    assert np.concatenate(found)[:, 0].tolist() == sorted(values.tolist())
    assert max(len(block) for block in found) <= memory // 8
    with pytest.raises(DataError, match="memory: too little to sort in; give 1MB"):
        list(_clusters.sorted_rows([], 1, memory=100, folder=tmp_path / "s"))


def test_choices_are_checked() -> None:
    for field, value in (("min_length", 0), ("max_removed", 1.5), ("max_removed", -0.1)):
        with pytest.raises(SpecError, match=field):
            make_method("stage", {"name": "lines", field: value})
