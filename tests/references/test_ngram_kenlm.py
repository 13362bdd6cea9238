"""The golden figures of KenLM, and the kenlm module reading what this package writes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from _ngrams import shared

from llmanac.core.spec import make_method
from llmanac.models.ngrams import words
from llmanac.models.ngrams.binary import read_binary, write_binary
from llmanac.models.ngrams.load import read_arpa, write_arpa

SMOOTHINGS = ["mle", "add-k", "good-turing", "kneser-ney", "modified-kneser-ney"]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """(file of the training lines, bytes of the test lines) as the golden file's note says."""
    lines = shared("text/tinyshakespeare.txt").read_bytes().split(b"\n")[:40000]
    train = tmp_path_factory.mktemp("text") / "train.txt"
    train.write_bytes(b"\n".join(lines[:35000]) + b"\n")
    return train, b"\n".join(lines[35000:]) + b"\n"


@pytest.mark.parametrize("order", [2, 3, 5])
def test_discounts_and_perplexities_are_those_of_kenlm(order: int, split: tuple[Path, bytes]) -> None:
    golden = json.loads(shared("golden/kenlm_tinyshakespeare.json").read_text())
    expected = golden["orders"][str(order)]
    train, test = split
    model = words.train([train], order, make_method("smoothing", "modified-kneser-ney").build())
    assert model.trie.counts == expected["counts"]
    for ours, theirs in zip(model.trie.about["discounts"], expected["discounts"], strict=True):
        assert [float(f"{d:.6g}") for d in ours] == theirs  # as lmplz prints them
    found = model.score(test)
    assert (found.tokens, found.unknown) == (golden["tokens"], golden["oov_tokens"])
    assert found.perplexity == pytest.approx(expected["perplexity_including_oov"], rel=5e-7)
    assert found.perplexity_of_known == pytest.approx(expected["perplexity_excluding_oov"], rel=5e-7)


@pytest.mark.parametrize(
    "name, order", [(name, 3) for name in SMOOTHINGS] + [("modified-kneser-ney", n) for n in (2, 5)]
)
def test_the_kenlm_module_scores_every_sentence_alike(
    name: str, order: int, split: tuple[Path, bytes], tmp_path: Path
) -> None:
    kenlm = pytest.importorskip("kenlm")
    train, test = split
    small = tmp_path / "small.txt"
    small.write_bytes(b"\n".join(train.read_bytes().split(b"\n")[:8000]) + b"\n")
    model = words.train([small], order, make_method("smoothing", name).build())
    lines = test.split(b"\n")[:800]
    for suffix in (".arpa", ".arpa.gz"):
        path = write_arpa(model, tmp_path / f"model{suffix}")
        config = kenlm.Config()
        config.show_progress = False
        theirs = kenlm.Model(str(path), config)
        expected = np.array([theirs.score(line.decode()) for line in lines])
        text = b"\n".join(lines) + b"\n"
        for ours in (model, read_arpa(path)):
            found = ours.sentence_scores(text)
            # kenlm adds up in float32, so a long sentence of impossible words is known to 7 digits
            np.testing.assert_allclose(found, expected, rtol=3e-7, atol=1e-5)
    detail = list(theirs.full_scores(lines[3].decode()))
    ids, _, scores, matched = next(iter(model.scored(lines[3] + b"\n")))
    assert [m for _, m, _ in detail] == matched[1:].tolist() or name == "add-k"
    np.testing.assert_allclose(scores[1:], [s for s, _, _ in detail], rtol=1e-6, atol=1e-6)
    assert [oov for _, _, oov in detail] == (ids[1:] == model.unk).tolist()


def test_every_way_through_a_file_keeps_the_model(split: tuple[Path, bytes], tmp_path: Path) -> None:
    """Estimated, as ARPA, as ARPA of that, and mapped: the same arrays, the same scores."""
    small = tmp_path / "small.txt"
    small.write_bytes(split[1])
    model = words.train([small], 4, make_method("smoothing", "modified-kneser-ney").build())
    once = read_arpa(write_arpa(model, tmp_path / "a.arpa"))
    write_binary(once.trie, tmp_path / "a.ngram", once)
    mapped = read_binary(tmp_path / "a.ngram")
    assert isinstance(mapped, words.WordModel)
    again = read_arpa(write_arpa(mapped, tmp_path / "b.arpa.gz"))
    for other in (once, mapped, again):
        for field in ("words", "first", "logs", "weights"):
            found, wanted = getattr(other.trie, field).copy(), getattr(model.trie, field).copy()
            if field == "logs":  # a file gives `<s>` 1, which is never predicted
                assert (found[model.bos], wanted[model.bos]) == (0.0, -99.0)
                found[model.bos] = wanted[model.bos]
            np.testing.assert_array_equal(found, wanted)
        assert list(other.vocabulary) == list(model.vocabulary)
    assert (tmp_path / "a.arpa").read_bytes() == write_arpa(again, tmp_path / "c.arpa").read_bytes()
    assert isinstance(mapped.trie.logs.base, np.memmap)  # not read


def test_any_order_of_lines_and_words_is_the_same_model(tmp_path: Path) -> None:
    """Others sort their files otherwise, and their first three words need not be the marks."""
    text = tmp_path / "t.txt"
    text.write_text("a b a c\nb b a\n\nc a b a c a\n" * 3)
    model = words.train([text], 3, make_method("smoothing", "kneser-ney").build())
    path = write_arpa(model, tmp_path / "m.arpa")
    sections = path.read_text().split("\n\n")
    rng = random.Random(0)
    shuffled = []
    for section in sections:
        head, *lines = section.split("\n")
        if head.endswith("-grams:"):
            rng.shuffle(lines)
        shuffled.append("\n".join([head, *lines]))
    (tmp_path / "other.arpa").write_text("\n\n".join(shuffled))
    other = read_arpa(tmp_path / "other.arpa")
    asked = b"a b a\nc c zzz\n\n<s> a <unk>\n"
    np.testing.assert_array_equal(other.sentence_scores(asked), read_arpa(path).sentence_scores(asked))
    assert other.score(asked) == read_arpa(path).score(asked)


def test_white_space_and_the_start_are_those_of_lmplz(tmp_path: Path) -> None:
    """lmplz parts words at NUL, tab, line feed, carriage return and space only, and writes `<s>` with log10 p 0."""
    text = tmp_path / "t.txt"
    text.write_bytes(b"a\x0bb c\x0cd\0e\tf\r\n\xc2\xa0 g\xc2\x85h\xe2\x80\xa8i\n" * 3)
    for name in SMOOTHINGS:
        model = words.train([text], 2, make_method("smoothing", name).build())
        assert set(model.vocabulary) - {b"<unk>", b"<s>", b"</s>"} == {
            b"a\x0bb", b"c\x0cd", b"e", b"f", b"\xc2\xa0", b"g\xc2\x85h\xe2\x80\xa8i",
        }  # fmt: skip
        path = write_arpa(model, tmp_path / "m.arpa")
        lines = [line for line in path.read_bytes().split(b"\n") if line.split(b"\t")[1:2] == [b"<s>"]]
        assert len(lines) == 1 and (lines[0].startswith(b"0\t") or name == "add-k")
        again = read_arpa(path)
        assert list(again.vocabulary) == list(model.vocabulary)
        np.testing.assert_allclose(
            again.sentence_scores(b"a\x0bb e\n"), model.sentence_scores(b"a\x0bb e\n"), rtol=1e-6
        )
