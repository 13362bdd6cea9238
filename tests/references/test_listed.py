"""Lists made of shared integers are those of `tolist`; bytes are UTF-8 where Python can decode them."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest

from llmanac.kernels import listed as module
from llmanac.kernels.listed import SHORT, listed
from llmanac.kernels.text import PADDING, is_utf8


@pytest.mark.parametrize("n", [0, 1, SHORT - 1, SHORT, SHORT + 1, 5000])
def test_lists_are_those_of_tolist(n):
    ids = np.random.default_rng(n).integers(0, 70_000, n).astype(np.int32)
    found = listed(ids, 70_000)
    assert found == ids.tolist()
    assert type(found) is list and {type(i) for i in found} <= {int}


def test_ids_that_are_no_ids_are_listed_too():
    ids = np.arange(2000, dtype=np.int32)
    for wrong in (-1, 5000, 2**31 - 1):
        ids[-1] = wrong
        assert listed(ids, 2000) == ids.tolist()


def test_integers_are_shared_and_references_to_them_counted():
    ids = np.full(3000, 60_123, np.int32)
    first = listed(ids, 65_000)
    shared = first[0]
    before = sys.getrefcount(shared)
    second = listed(ids, 65_000)
    assert all(i is shared for i in second)
    if before < 1 << 30:  # counted at all; later Pythons have integers that live for ever
        assert sys.getrefcount(shared) == before + 3000
        del second
        assert sys.getrefcount(shared) == before


def test_the_table_grows_with_the_largest_vocabulary():
    small, large = listed(np.arange(600, dtype=np.int32), 600), listed(np.arange(90_000, dtype=np.int32), 90_000)
    assert small == list(range(600)) and large == list(range(90_000))
    assert len(module._integers[0]) >= 90_000
    assert listed(np.arange(600, dtype=np.int32), 600) == small


def decodes(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def checked(data: bytes) -> bool:
    return bool(is_utf8(np.frombuffer(data + b"\xff" + bytes(PADDING), np.uint8), len(data)))


def test_utf8_is_what_python_decodes():
    rng = random.Random(1)
    edges = b"Az\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xec\xed\xee\xef\xf0\xf1\xf3\xf4\xf5\xff"
    seen = {True: 0, False: 0}
    for _ in range(20_000):
        data = bytes(rng.choices(edges, k=rng.randint(0, 5)))
        data = b"a" * rng.choice([0, 0, 61, 62, 63, 64, 126]) + data + b"z" * rng.choice([0, 0, 70])
        seen[decodes(data)] += 1
        assert checked(data) == decodes(data), data
    assert min(seen.values()) > 1000
    for start in range(0, 0x110000, 0x400):
        text = "".join(chr(c) for c in range(start, start + 0x400, 13) if not 0xD800 <= c < 0xE000)
        assert checked(text.encode())
