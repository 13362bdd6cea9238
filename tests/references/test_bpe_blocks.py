"""Pieces found 64 bytes at a time are those found one after the other; threads and files change nothing."""

from __future__ import annotations

import itertools
import pickle
import random

import numpy as np
import pytest
from _texts import real

from llmanac.core.errors import DataError
from llmanac.kernels.split.counts import WordCounts
from llmanac.kernels.split.words import GIVEN, GPT2, piece_ends
from llmanac.kernels.text import pack
from llmanac.kernels.unicode import CATEGORIES, CATEGORY_MASK, SPACE_FLAG, newer_characters, split_classes, table
from llmanac.tokenizers import _base, _files
from llmanac.tokenizers._counting import count_pieces
from llmanac.tokenizers._files import Files
from llmanac.tokenizers.load import train_tokenizer
from llmanac.tokenizers.patterns.splitter import NAMED, Splitter, cuts

PARTS = [
    " ", "  ", "\n", "\t", "\r\n", "'", "''", "'s", "'re", "'ll", "'S", "s", "ab", "Xyz" * 9, "1", "23", "!", "--",
    "\U0010ffff", "\0", "\x1c", "\x7f", "é", "ß", "中", "漢字", "\u3000", "\xa0", "\u2028", "٣", "½",
    "😀", "e\u0301", "\u200d",
]  # fmt: skip


def every_class() -> list[str]:
    """Two characters of each general category, and all white space."""
    classes = table()
    found = [np.flatnonzero((classes & CATEGORY_MASK) == i) for i in range(len(CATEGORIES)) if CATEGORIES[i] != "Cs"]
    chosen = [place for places in found for place in (places[0], places[-1])]
    return [chr(c) for c in [*chosen, *np.flatnonzero(classes & SPACE_FLAG)] if not 0xD800 <= c < 0xE000]


def counted(texts: list[str], mode: int) -> tuple[np.ndarray, ...]:
    buffer, used = pack([text.encode() for text in texts])
    words = WordCounts(*split_classes(), mode)
    words.add(buffer, used, piece_ends(buffer, used, *split_classes(), GPT2))
    return (*words.arrays(), np.array([words.pieces]))


def test_blocks_give_the_pieces_that_the_plain_path_gives():
    rng = random.Random(3)
    alphabet = [*PARTS, *every_class()]
    batches = [["".join(rng.choices(alphabet, k=rng.randint(0, 60))) for _ in range(12)] for _ in range(150)]
    batches += [[" " * n + "x", "a" * n + "'s", "é" * n, "a" * n + "\u3000!", "'" * n + "ve"] for n in range(55, 75)]
    batches += [["", "x", ""], ["a" * 10_000, "", "\n" * 9_000 + "b"], real(3)]
    for texts in batches:  # words in the order in which they first occur, how often each does, how many in all
        for ours, plain in zip(counted(texts, GPT2), counted(texts, GIVEN), strict=True):
            assert np.array_equal(ours, plain), texts


@pytest.mark.parametrize("name", NAMED)
def test_a_cut_changes_no_piece(name):
    splitter, rng = Splitter([NAMED[name]]), random.Random(4)
    parts = [*PARTS, "/", "a b", "!\n/", "\n中", "中。", "a.", "é, ", "٣!", "я\r\n", "\u0964"]
    parts += [chr(c) for c in itertools.islice(newer_characters(), 0, None, 500)]
    for _ in range(150):
        text = "".join(
            rng.choices([*PARTS, "/", "a b", "!\n/", "\n中", "中。", "a.", "é, ", "٣!", "я\r\n", "\u0964"], k=40)
        )
        whole = splitter.pieces(text)
        for at in cuts(text):
            assert whole == splitter.pieces(text[:at]) + [at + end for end in splitter.pieces(text[at:])], (text, at)


def test_threads_and_stretches_change_no_id(monkeypatch):
    texts = [*real(4), "", "中文\n" * 3000, "x" * 5000]
    made = train_tokenizer("bpe", texts, vocab_size=600, special_tokens=())
    expected = made.encode_batch(texts)
    monkeypatch.setattr(_base, "CHUNK", 900)
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        for ours, before in zip(made.encode_batch(texts), expected, strict=True):
            assert np.array_equal(ours, before)
    copied = pickle.loads(pickle.dumps(made))  # as a worker process gets it
    assert copied.encode(texts[0]) == made.encode(texts[0])


def test_files_are_counted_as_their_text_is_on_any_number_of_threads(tmp_path, monkeypatch):
    texts = [real(1)[0], "漢字仮名\n" * 400 + "\ufeff end", ""]
    paths = [tmp_path / f"{i}.txt" for i in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(b"\xef\xbb\xbf" * (text == "") + text.encode())
    splitter = Splitter([NAMED["gpt4"]])

    def words(found: object) -> dict[bytes, int]:
        letters, offsets, counts = count_pieces(found, splitter, "test")  # type: ignore[arg-type]
        cuts = itertools.pairwise(offsets.tolist())
        return {letters[a:b].tobytes(): int(n) for (a, b), n in zip(cuts, counts, strict=True)}

    expected = words(texts)
    monkeypatch.setattr(_files, "BLOCK", 1500)
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        assert words(Files(paths)) == expected
    assert len(list(Files(paths).ranges())) > 4  # the lines without a blank are cut too


@pytest.mark.parametrize("ending", ["", "\n", "\n\n", "\r\n", "\r\n\r\n"])
@pytest.mark.parametrize(
    "line", ["Съешь ещё этих мягких булок.", "漢字仮名交じり文。", "12, 345.", "เขียน ไทย", "हिन्दी पाठ।"]
)
def test_files_of_every_script_are_cut_where_no_piece_changes(line, ending, tmp_path, monkeypatch):
    text = (line + ending) * 300
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    monkeypatch.setattr(_files, "BLOCK", 1500)
    parts = list(Files([path]))
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 1500
    for pattern in NAMED.values():
        splitter, at, ends = Splitter([pattern]), 0, []
        for part in parts:
            ends += [at + end for end in splitter.pieces(part)]
            at += len(part)
        assert ends == splitter.pieces(text)


@pytest.mark.parametrize("ending", ["\n\u3000\u3000", "\u00a0\n", "\n\u2028 ", "\u3000"])
def test_half_of_a_blank_at_the_end_of_a_block_is_no_place_to_cut(ending, tmp_path, monkeypatch):
    text = ("字" * 8 + ending) * 60
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    for block in range(200, 236):
        monkeypatch.setattr(_files, "BLOCK", block)
        monkeypatch.setattr(_files, "TAIL", 64)
        parts = list(Files([path]))
        assert "".join(parts) == text
        splitter, ends = Splitter([NAMED["gpt2"]]), []
        for part in parts:
            at = sum(map(len, parts[: len(ends)]))
            ends.append({at + end for end in splitter.pieces(part)})
        assert set().union(*ends) == set(splitter.pieces(text))
    monkeypatch.setattr(_files, "BLOCK", 1 << 22)
    (part,) = Files([path]).ranges()
    path.write_bytes(text.encode()[:-30])
    with pytest.raises(DataError, match=r"a\.txt: became shorter while it was read"):
        part.text()
