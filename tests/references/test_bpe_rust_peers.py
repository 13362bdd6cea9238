"""The ids of gigatoken and the merges of gigabpe, where they are installed."""

from __future__ import annotations

import base64
import random

import numpy as np
import pytest
from _texts import real

from llmanac.kernels.unicode import CATEGORIES, CATEGORY_MASK, table
from llmanac.tokenizers._byte_level import written
from llmanac.tokenizers.load import train_tokenizer

pytestmark = pytest.mark.slow


def hostile(rng: random.Random, texts: int) -> list[str]:
    """Texts of characters of every category, white space, apostrophes and long words."""
    classes = table() & CATEGORY_MASK
    known = [np.flatnonzero(classes == i) for i, name in enumerate(CATEGORIES) if name not in ("Cs", "Cn")]
    alphabet = [chr(c) for places in known for c in rng.sample(places.tolist(), min(8, len(places)))]
    alphabet += [" ", "\n", "'s", "'ve", "''", "\0", "ab", "ab" * 40, " the", "   ", "\r\n"] * 8
    return ["".join(rng.choices(alphabet, k=rng.randint(0, 200))) for _ in range(texts)]


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_ids_are_those_of_gigatoken(pattern, tmp_path):
    gigatoken = pytest.importorskip("gigatoken", reason="gigatoken is not installed: pip install gigatoken")
    texts = [*real(40), *hostile(random.Random(5), 400)]
    made = train_tokenizer("bpe", texts, vocab_size=2000, pattern=pattern, special_tokens=())
    path = tmp_path / "made.tiktoken"
    path.write_text("".join(f"{base64.b64encode(t or b'').decode()} {i}\n" for i, t in enumerate(made.tokens)), "ascii")
    theirs = gigatoken.Tokenizer.from_tiktoken(path, pretokenizer=pattern, special_tokens={})
    for text, ids in zip(texts, made.encode_batch(texts), strict=True):
        assert ids.tolist() == theirs.encode(text).tolist(), text[:200]


def test_merges_are_those_of_gigabpe(tmp_path):
    gigabpe = pytest.importorskip("gigabpe", reason="gigabpe is not installed: pip install gigabpe")
    text = "\n".join(real(40))
    path = tmp_path / "corpus.txt"
    path.write_text(text, "utf-8", newline="")
    vocabulary, merges = gigabpe.train_bpe([str(path)], vocab_size=1500, special_tokens=[], pretokenizer="bytelevel")
    lines = [line + "\n" for line in text.split("\n")]  # each line is a text of its own there
    made = train_tokenizer("bpe", lines, vocab_size=256 + len(merges), pattern="gpt2", special_tokens=())
    spelled = [written(data or b"") for data in made.tokens]
    assert [(spelled[a], spelled[b]) for a, b in made.merges[:2].T.tolist()] == merges
    assert len(vocabulary) == 1500
