"""Suffix arrays against sorting, and the cuts of `substring` against brute force over all windows."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.errors import DataError, SpecError
from llmanac.core.spec import make_method
from llmanac.data.deduplicate import deduplicate
from llmanac.data.stages.substring import PARTS, Spec
from llmanac.kernels.dedup import suffix_array as kernel


def array_of(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


@settings(max_examples=80, deadline=None)
@given(
    st.one_of(st.binary(max_size=60), st.text("ab", max_size=80).map(str.encode), st.text("\x00a\x7f").map(str.encode))
)
def test_suffix_array_equals_sorting(data: bytes) -> None:
    found = kernel.suffix_array(array_of(data))
    assert found.tolist() == sorted(range(len(data)), key=lambda i: data[i:])


@pytest.mark.parametrize(
    "data", [b"a" * 5000, b"ab" * 3000, b"aab" * 2000 + b"a", bytes(range(256)) * 20, b"\xff" * 99]
)
def test_suffix_array_of_repeats(data: bytes) -> None:
    assert kernel.suffix_array(array_of(data)).tolist() == sorted(range(len(data)), key=lambda i: data[i:])


def test_suffix_array_of_ten_megabytes_of_one_letter_and_of_fibonacci() -> None:
    letter = kernel.suffix_array(np.full(10_000_000, 97, np.uint8))
    assert np.array_equal(letter, np.arange(10_000_000 - 1, -1, -1))
    one, other = b"a", b"ab"
    while len(other) < 200_000:  # its names repeat on every level of the recursion
        one, other = other, other + one
    found = kernel.suffix_array(array_of(other)).astype(np.int64)
    assert np.array_equal(np.sort(found), np.arange(len(other)))
    ranks = np.empty(len(other) + 1, np.int64)
    ranks[found], ranks[-1] = np.arange(len(other)), -1
    text = array_of(other).astype(np.int64)
    left, right = found[:-1], found[1:]
    first = text[left] - text[right]
    assert ((first < 0) | ((first == 0) & (ranks[left + 1] < ranks[right + 1]))).all()


@settings(max_examples=40, deadline=None)
@given(st.text("ab\xff", max_size=60))
def test_shared_prefixes_stop_at_the_end_of_a_text(letters: str) -> None:
    data = letters.encode("latin-1")
    suffixes = kernel.suffix_array(array_of(data))
    shared = kernel.prefixes_before(array_of(data), suffixes)
    for before, here in zip(suffixes.tolist(), suffixes.tolist()[1:], strict=False):
        count = 0
        while (
            max(before, here) + count < len(data)
            and data[before + count] == data[here + count]
            and data[here + count] != kernel.APART
        ):
            count += 1
        assert shared[here] == count


def brute(texts: list[str], minimum: int, overlaps: str) -> list[str | None]:
    """Every window of every text in a dictionary of first places."""
    first: dict[bytes, int] = {}
    out: list[str | None] = []
    at = 0
    gap = minimum if overlaps == "keep" else 1
    for text in texts:
        data = text.encode()
        gone = [False] * len(data)
        for start in range(len(data) - minimum + 1):
            place = first.setdefault(data[start : start + minimum], at + start)
            if at + start - place >= gap:
                gone[start : start + minimum] = [True] * minimum
        at += len(data) + 1
        out.append(left_of(text, data, gone))
    return out


def left_of(text: str, data: bytes, gone: list[bool]) -> str | None:
    """What is left when of each run that goes only whole characters do."""
    kept, at = [], 0
    runs = [False] * len(data)
    start = 0
    while start < len(data):
        stop = start
        while stop < len(data) and gone[stop]:
            stop += 1
        if stop > start:
            starts = [i for i in range(start, stop) if data[i] & 0xC0 != 0x80]
            whole = stop == len(data) or data[stop] & 0xC0 != 0x80
            end = stop if whole else (starts[-1] if starts else start)
            for i in range(starts[0] if starts else end, end):
                runs[i] = True
        start = max(stop, start + 1)
    for character in text:
        size = len(character.encode())
        if not all(runs[at : at + size]):
            kept.append(character)
        at += size
    left = "".join(kept)
    return left if left.strip() or not any(gone) else None


TEXTS = st.lists(st.text(alphabet=st.sampled_from("aabé日\n 😀"), max_size=25), max_size=6)


@settings(max_examples=80, deadline=None)
@given(TEXTS, st.integers(1, 8), st.sampled_from(["cut", "keep"]), st.integers(1, PARTS))
def test_cuts_equal_brute_force(texts: list[str], minimum: int, overlaps: Any, parts: int) -> None:
    texts = texts + texts[:1]
    expected = brute(texts, minimum, overlaps)
    spec = Spec(min_length=minimum, overlaps=overlaps)
    assert deduplicate(texts, spec)[0] == expected
    total = sum(len(text.encode()) + 1 for text in texts)
    memory = 2 * kernel.BYTES_A_BYTE * (-(-total // parts) + minimum)
    found, report = deduplicate(texts, spec, memory=memory)
    assert found == expected, f"in {report['parts']} parts"


def test_parts_are_used_and_the_least_memory_is_named() -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choice("abcd") for _ in range(400)) for _ in range(20)] * 2
    whole, report = deduplicate(texts, Spec(min_length=50))
    assert report["parts"] == 1 and report["cut_bytes"] >= 20 * 400
    assert whole[:20] == texts[:20] and set(whole[20:]) == {None}
    in_parts, report = deduplicate(texts, Spec(min_length=50), memory=60_000)
    assert in_parts == whole and report["parts"] > 5
    with pytest.raises(
        DataError, match=r"memory: 1000 bytes are too few for 16040 bytes of text; give (\d+) or more"
    ) as caught:
        deduplicate(texts, Spec(min_length=50), memory=1000)
    needed = int(str(caught.value).split("give ")[1].split()[0])
    assert deduplicate(texts, Spec(min_length=50), memory=needed)[0] == whole


def test_runs_of_one_letter() -> None:
    texts = ["x" + "-" * 300 + "y"]
    assert deduplicate(texts, Spec(min_length=10))[0] == ["x-y"]
    assert deduplicate(texts, Spec(min_length=10, overlaps="keep"))[0] == ["x" + "-" * 10 + "y"]
    assert deduplicate(["a" * 100, "a" * 100], Spec(min_length=10))[0] == ["a", None]
    assert deduplicate(texts, Spec(min_length=10, max_removed=0.5))[0] == [None]


def test_what_is_shorter_or_stands_once_stays() -> None:
    texts = ["one two three four", "two three", "fourone two", "\ud800 half a surrogate \ud800 half a surrogate"]
    assert deduplicate(texts, Spec(min_length=12))[0][:3] == texts[:3]
    assert deduplicate(texts, Spec(min_length=12))[0][3] == "\ud800 half a surrogate "
    assert deduplicate(texts, Spec(min_length=9))[0] != texts
    for field, value in (("min_length", 0), ("max_removed", 2.0)):
        with pytest.raises(SpecError, match=field):
            make_method("stage", {"name": "substring", field: value})
