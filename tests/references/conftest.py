"""Fixtures that several files of reference tests share."""

from __future__ import annotations

import numpy as np
import pytest
from _training import VOCAB

from llmanac.data.tokens import TokenDataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    generator = np.random.default_rng(0)
    rows = [(np.arange(n) * int(k) % VOCAB, None) for n, k in generator.integers(2, 40, (80, 2))]
    return TokenDataset.write_examples(tmp_path_factory.mktemp("data") / "d", rows, vocab_size=VOCAB)
