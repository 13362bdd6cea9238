"""The kernels against the plain forms: counting, splitting text into words, back-off, distributions."""

from __future__ import annotations

import gzip
import itertools
import re
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from _ngrams import START, counted, distribution, grams, model_of, plain_counts, scored, sentences
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.errors import DataError, SpecError
from llmanac.kernels.ngrams.count import plain_counts as plain_kernel_form
from llmanac.kernels.ngrams.query import plain_score
from llmanac.models.ngrams import counts as counting
from llmanac.models.ngrams import words
from llmanac.models.ngrams.counts import count
from llmanac.models.ngrams.trie import places, untrained
from llmanac.models.ngrams.vocabulary import NgramVocabulary

rows_of_tokens = st.lists(st.lists(st.integers(1, 5), max_size=9), min_size=1, max_size=10)


def table(counts: counting.Counts) -> dict[tuple[int, ...], int]:
    """Every n-gram of `Counts` with its count, by walking its levels."""
    paths: list[tuple[int, ...]] = [(int(w),) for w in counts.levels[0].words]
    found = {(w,): int(c) for w, c in enumerate(counts.levels[0].counts) if c}
    for level in counts.levels[1:]:
        owners = np.repeat(np.arange(len(level.starts) - 1), np.diff(level.starts))
        paths = [(*paths[o], int(w)) for o, w in zip(owners, level.words, strict=True)]
        found |= {p: int(c) for p, c in zip(paths, level.counts, strict=True)}
        assert paths == sorted(paths) and len(set(paths)) == len(paths)
    return found


@settings(max_examples=50, deadline=None)
@given(rows_of_tokens, st.integers(1, 6), st.booleans(), st.booleans())
def test_counts_equal_a_counter(bodies: list[list[int]], order: int, start: bool, hashed: bool) -> None:
    rows = [[START, *body] for body in bodies]
    kept, counting.DIRECT = counting.DIRECT, 0 if hashed else counting.DIRECT
    try:
        ours = counted(rows, 6, order, START if start else None)
    finally:
        counting.DIRECT = kept
    expected = Counter()
    for k in range(1, order + 1):
        expected += plain_counts(rows, order)[k - 1] if start else plain_kernel_form(rows, k)
    assert table(ours) == dict(expected)
    for k, level in enumerate(ours.levels[1:], start=1):  # the suffix is the n-gram without its first token
        below = [g for g in sorted(table(ours)) if len(g) == k] if k > 1 else [(w,) for w in range(6)]
        grams = [g for g in sorted(table(ours)) if len(g) == k + 1]
        assert [below[s] for s in level.suffix] == [g[1:] for g in grams]


def test_many_ngrams_make_every_table_grow() -> None:
    rng = np.random.default_rng(0)
    rows = [[START, *(rng.integers(1, 3000, 40) ** 2 // 3000 + 1).tolist()] for _ in range(2500)]
    ours = counted(rows, 3001, 4)
    expected = plain_counts(rows, 4)
    assert [len(level) for level in ours.levels[1:]] == [len(c) for c in expected[1:]]
    assert table(ours) == {g: c for counter in expected for g, c in counter.items()}


def test_memory_is_kept_to_or_refused_with_the_order() -> None:
    rows = sentences(0, 2000, 500)
    with pytest.raises(DataError, match=r"order 4: .* different 3-grams than 0\.00 GB .* use order 2, less text"):
        words_ = np.array([t for row in rows for t in row], np.int32)
        place = places(np.array([len(r) for r in rows]))
        count(words_, place, 500, 4, start=START, memory=60 * 500 + 14 * len(words_) + 64 * 3500)
    with pytest.raises(DataError, match="needs text"):
        count(np.zeros(0, np.int32), np.zeros(0, np.uint8), 5, 2)
    with pytest.raises(DataError, match="do not fit 3 tokens"):
        count(np.array([1, 7], np.int32), np.zeros(2, np.uint8), 3, 2)
    for order in (0, 21):
        with pytest.raises(SpecError, match="order"):
            count(np.array([1], np.int32), np.zeros(1, np.uint8), 3, order)


@pytest.mark.parametrize("name", ["mle", "add-k", "good-turing", "modified-kneser-ney"])
def test_stream_scores_equal_the_definition_of_back_off(name: str) -> None:
    rows, order = sentences(1, 200), 4
    trie = model_of(rows, 40, order, name)
    table = grams(trie)
    held_out = [*sentences(2, 40), [5, 39, 38, 2, 2, 2, 2], [7]]
    stream = np.array([t for row in held_out for t in row], np.int32)
    scores, matched = trie.score_stream(stream, places(np.array([len(r) for r in held_out])))
    at = 0
    for row in held_out:
        for i, token in enumerate(row):
            context = row[max(0, i - order + 1) : i]
            if name == "add-k":
                known = tuple(context)
                if (*known, token) in table or not known:
                    expected = table[(*known, token)][0]
                else:
                    expected = table.get(known, (0.0, 0.0))[1] - np.log10(40)
            else:
                expected = plain_score(table, context, token)
                longest = next(k for k in range(len(context) + 1, 0, -1) if tuple(row[i + 1 - k : i + 1]) in table)
                assert matched[at] == longest
            assert scores[at] == pytest.approx(expected, abs=1e-9)
            at += 1


def test_streams_longer_than_a_block_are_scored_as_their_parts() -> None:
    rows = sentences(3, 400)
    trie = model_of(rows, 40, 5, "modified-kneser-ney")
    long = [t for row in rows for t in row]
    whole, _ = trie.score_stream(np.array(long, np.int32), places(np.array([len(long)])))
    for i in (0, 1, 2040, 2044, 2047, 2048, 2050, len(long) - 1):
        assert whole[i] == pytest.approx(np.log10(scored(trie, long[max(0, i - 4) : i], long[i])), abs=1e-12)


@pytest.mark.parametrize("name", ["mle", "add-k", "good-turing", "kneser-ney", "modified-kneser-ney"])
def test_distributions_and_targets_equal_the_stream(name: str) -> None:
    trie = model_of(sentences(4), 40, 3, name)
    for context in ([START], [5], [START, 5], [9, 10], [38, 39], [2, 2, 2, 3]):
        p = distribution(trie, context)
        np.testing.assert_allclose(p, [scored(trie, context, t) for t in range(40)], rtol=1e-5, atol=1e-30)
        row = np.array(context, np.int32)
        nodes = trie.contexts(row, places(np.array([len(row)])))[-1:]
        for t in range(40):
            found = trie.score_targets(nodes, np.array([len(row)]), np.array([t]))
            assert found[0] == pytest.approx(np.log10(max(p[t], 1e-300)), abs=1e-5) or p[t] < 1e-37
        assert trie.score_targets(nodes, np.array([len(row)]), np.array([-100]))[0] == 0


def test_an_untrained_model_is_uniform() -> None:
    for order in (1, 3):
        np.testing.assert_allclose(distribution(untrained(7, order), [3, 4]), np.full(7, 1 / 7), rtol=1e-6)


def split_lines(text: bytes) -> list[list[bytes]]:
    """The definition: lines at line feeds, words between KenLM's white space."""
    lines = text.split(b"\n")
    lines = lines[:-1] if text.endswith(b"\n") or not text else lines
    return [[w for w in re.split(rb"[\0\t\n\r ]+", line) if w] for line in lines]


LETTERS = b"ab \n\t\r\0\x0b\x0c\xc3\xa9\xffxyzword"
letters = st.lists(st.sampled_from(LETTERS), max_size=60).map(bytes)


@settings(max_examples=60, deadline=None)
@given(letters, st.integers(1, 70))
def test_words_are_split_as_kenlm_does_however_the_text_is_cut(text: bytes, cut: int) -> None:
    pieces = [text[i : i + cut] for i in range(0, len(text), cut)]
    lines = split_lines(text)
    for learn in (True, False):
        vocabulary = NgramVocabulary()
        if not learn:
            for word in {w for line in lines for w in line if len(w) % 2}:
                vocabulary.add(word)
        found = list(words._WordReader(vocabulary, learn, words.TAKE).pieces(iter(pieces)))
        ids = np.concatenate([f[0] for f in found]) if found else np.zeros(0, np.int32)
        place = np.concatenate([f[1] for f in found]) if found else np.zeros(0, np.uint8)
        said = [vocabulary[i] for i in ids]
        expected = []
        for line in lines:
            expected += [b"<s>", *(w if learn or len(w) % 2 else b"<unk>" for w in line), b"</s>"]
        assert said == expected
        assert place.tolist() == [i for line in lines for i in range(len(line) + 2)]


def test_long_words_and_many_words(tmp_path: Path) -> None:
    lines = [" ".join(f"w{i * j}" + "x" * (i % 50) for i in range(200)) for j in range(60)]
    lines.append("y" * 100_000 + " " + "y" * 99_999 + "z")
    path = tmp_path / "t.txt.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    vocabulary, ids, _ = words.read_text([path])
    said = [vocabulary[i] for i in ids if i > 2]
    assert said == "\n".join(lines).encode().split()
    known = list(dict.fromkeys(said))
    assert list(vocabulary)[3:] == known and vocabulary.get(known[77]) == 80 and vocabulary.get(b"no") is None
    assert vocabulary.longest == 100_000


def test_marks_in_the_text_are_refused_by_line_or_left_out(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("a b\n\nb <unk> a\n")
    with pytest.raises(DataError, match=r"t\.txt:3: the word <unk> .*--skip-symbols"):
        words.read_text([path])
    vocabulary, ids, _ = words.read_text([path], skip_symbols=True)
    assert [vocabulary[i] for i in ids] == b"<s> a b </s> <s> </s> <s> b a </s>".split()
    for content, reason in ((b"", "no words"), (b"\n \n", "no words"), ("x".encode("utf-16"), "UTF-16")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=reason):
            words.read_text([path])
    broken = tmp_path / "t.gz"
    broken.write_bytes(gzip.compress(b"a b c\n" * 1000)[:-20])
    with pytest.raises(DataError, match=r"t\.gz"):
        words.read_text([broken])
    with pytest.raises(DataError, match=r"missing\.txt: no such file"):
        words.read_text([tmp_path / "missing.txt"])


def test_a_byte_order_mark_is_no_part_of_a_word(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"\xef\xbb\xbfa a")
    vocabulary, ids, _ = words.read_text([path])
    assert [vocabulary[i] for i in ids] == [b"<s>", b"a", b"a", b"</s>"]
    assert len(list(itertools.chain(vocabulary))) == 4


@pytest.mark.parametrize(("line", "size"), [(b"\n", 20), (b"a\n", 20), (b"a b c\n", 20), (b"word " * 50 + b"\n", 60)])
def test_a_text_is_read_in_the_memory_of_its_ids(line, size, tmp_path):
    """The parts that are read and the whole that they become are not held together; `room` is that of one block."""
    path, room = tmp_path / "text.txt", 25 << 20
    path.write_bytes(b"a\n" + line * ((size << 20) // len(line)))
    words.read_text_bytes(line)  # compiled before the memory is counted
    tracemalloc.start()
    _, ids, places = words.read_text([path])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * (ids.nbytes + places.nbytes) + room
