"""ARPA files of other programs, hostile ARPA files refused by line number, and damaged binary files."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from _ngrams import grams, model_of, sentences
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.errors import CheckpointError, DataError, LlmanacError
from llmanac.models.ngrams import binary
from llmanac.models.ngrams.binary import read_binary, write_binary
from llmanac.models.ngrams.load import read_arpa, write_arpa
from llmanac.models.ngrams.trie import Trie
from llmanac.models.ngrams.vocabulary import NgramVocabulary
from llmanac.models.ngrams.words import WordModel

# as SRILM writes: no weight where nothing continues, -99, a preamble, a shorter n-gram pruned away ("b c")
SRILM = """made by hand

\\data\\
ngram 1=5
ngram 2=3
ngram 3=1

\\1-grams:
-1.2\t</s>
-99\t<s>\t-0.5
-0.8\ta\t-0.25
-0.7   b   -0.125
-0.9\tc

\\2-grams:
-0.3\t<s> a\t-0.1
-0.2\ta b\t-0.0625
-0.4\tb </s>

\\3-grams:
-0.15 a b c

\\end\\
"""

# as KenLM takes it: no preamble, tabs, and no shorter n-gram missing (for that its smallest table has no room)
STRICT = SRILM.removeprefix("made by hand\n\n").replace("   b   ", "\tb\t").replace("-0.15 a b c", "-0.15\t<s> a b")


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_srilm_files_score_by_the_definition_and_as_kenlm(tmp_path: Path) -> None:
    path = write(tmp_path / "s.arpa", SRILM)
    model = read_arpa(path)
    assert model.trie.counts == [6, 3, 1]  # <unk> was missing
    found = model.sentence_scores(b"a b\na b c\nc\nzzz a\n")
    expected = [
        -0.3 - 0.1 - 0.2 - 0.0625 - 0.4,  # <s> a; "<s> a b" backs off to "a b"; "a b </s>" to "b </s>"
        -0.3 - 0.1 - 0.2 - 0.15 - 1.2,  # "a b c" is there though "b c" is not
        -0.5 - 0.9 - 1.2,
        -0.5 - 100 - 0.8 - 0.25 - 1.2,
    ]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    kenlm = pytest.importorskip("kenlm")
    config = kenlm.Config()
    config.show_progress = False
    bare = write(tmp_path / "bare.arpa", STRICT)
    theirs = kenlm.Model(str(bare), config)
    asked = ["a b", "a b c", "c", "zzz a", "b a b"]
    found = read_arpa(bare).sentence_scores("\n".join(asked).encode())
    np.testing.assert_allclose(found, [theirs.score(t) for t in asked], rtol=1e-6)


def test_kenlm_style_infinite_and_unusual_numbers(tmp_path: Path) -> None:
    unigrams = ["0\t<s>\t-3e-1", "-inf\t</s>", "-1.25E+0\t<UNK>\t0", "-.5\ta\t+0.25", "-1\tb\t-Infinity", "-2.\té"]
    head = "\\data\\\nngram 1=6\nngram 2=1\n\n\\1-grams:\n"
    text = head + "\n".join(unigrams) + "\n\n\\2-grams:\n-1e-3\ta b\t0\n\n\\end\\\n"
    model = read_arpa(write(tmp_path / "k.arpa", text.replace("\n", "\r\n")))
    logs = {model.vocabulary[g[0]]: v for g, v in grams(model.trie).items() if len(g) == 1}
    assert logs[b"<s>"] == (0.0, pytest.approx(-0.3)) and logs[b"</s>"] == (-99.0, 0.0)
    assert logs[b"a"] == (-0.5, 0.25) and logs[b"b"] == (-1.0, -99.0) and logs["é".encode()] == (-2.0, 0.0)
    assert model.unk == 2 and model.vocabulary[model.unk] == b"<UNK>"
    packed = write(tmp_path / "k", gzip.compress(text.encode()))  # told by its content, whatever its name
    assert grams(read_arpa(packed).trie) == grams(model.trie)


HEAD = "\\data\\\nngram 1=3\nngram 2=2\n\n\\1-grams:\n-1\t<s>\t-1\n-1\t</s>\n-1\ta\t0\n\n\\2-grams:\n"
GOOD = HEAD + "-1\t<s> a\n-1\ta </s>\n\n\\end\\\n"
HOSTILE = {
    "nothing": ("", 1, r"no line \\data\\"),
    "another file": ("PK\x03\x04 zip\n\n", 1, r"no line \\data\\"),
    "no counts": ("\\data\\\n\n\\1-grams:\n", 3, "no 1-grams"),
    "no unigrams": ("\\data\\\nngram 1=0\n\n\\1-grams:\n\n\\end\\\n", 4, "no 1-grams"),
    "a gap in the orders": ("\\data\\\nngram 1=1\nngram 3=1\n", 3, "ngram 2 should"),
    "a count that is no number": ("\\data\\\nngram 1=x\n", 2, "ngram N=COUNT"),
    "a count below 0": ("\\data\\\nngram 1=-5\n", 2, "ngram N=COUNT"),
    "a count beyond all memory": ("\\data\\\nngram 1=999999999999999\n", 2, "more than"),
    "too many n-grams for the file": (GOOD.replace("ngram 2=2", "ngram 2=1999999999"), 13, "1,999,999,999 2-grams"),
    "more n-grams than said": (GOOD.replace("ngram 2=2", "ngram 2=1"), 12, r"\\end\\"),
    "fewer n-grams than said": (GOOD.replace("ngram 2=2", "ngram 2=3"), 13, "there are 2"),
    "an order beyond all": ("\\data\\\n" + "".join(f"ngram {i}=1\n" for i in range(1, 40)), 22, "order 21"),
    "the wrong section": (GOOD.replace("\\2-grams", "\\3-grams"), 10, r"expected \\2-grams:"),
    "no end": (GOOD.replace("\\end\\", ""), 14, r"\\end\\"),
    "cut off": (HEAD + "-1\t<s> a\n-1\ta <", 12, "a word of this 2-gram"),
    "cut off between lines": (HEAD + "-1\t<s> a\n", 12, "the file ends inside"),
    "too few fields": (HEAD + "-1\t<s>\n-1\ta </s>\n\n\\end\\\n", 11, "2 fields where a 2-gram has 3"),
    "too many fields": (HEAD + "-1\t<s> a b c\n", 11, "5 fields"),
    "no number": (HEAD + "x\t<s> a\n", 11, "not a finite number"),
    "not a number": (HEAD + "nan\t<s> a\n", 11, "not a finite number"),
    "hexadecimal": (HEAD + "-0x1p3\t<s> a\n", 11, "not a finite number"),
    "above 0": (HEAD + "0.5\t<s> a\n", 11, "above 0"),
    "infinity": (HEAD + "inf\t<s> a\n", 11, "not a finite number"),
    "an infinite weight": (GOOD.replace("-1\ta\t0", "-1\ta\tinf"), 8, "not a finite number"),
    "a weight that is no number": (GOOD.replace("-1\ta\t0", "-1\ta\tnan"), 8, "not a finite number"),
    "a weight beyond float32": (GOOD.replace("-1\ta\t0", "-1\ta\t1e99"), 8, "not a finite number"),
    "a weight that makes probabilities": (GOOD.replace("-1\ta\t0", "-1\ta\t99"), 8, "weight is above 7"),
    "more probability than there is": (GOOD.replace("-1\t</s>", "0\t</s>\n-0.01\tb\n-0.01\tc").replace("1=3", "1=5"), 5,
                                       r"add up to 3\.054"),
    "an unknown word": (HEAD + "-1\t<s> zzz\n", 11, "not among the 1-grams"),
    "an unknown context": (
        GOOD.replace("ngram 2=2", "ngram 2=2\nngram 3=1").replace("\\end", "\\3-grams:\n-1\ta a a\n\n\\end"), 16,
        "context",
    ),
    "a word twice": (GOOD.replace("-1\ta\t0", "-1\t<s>\t0"), 8, "twice"),
    "an n-gram twice": (GOOD.replace("-1\ta </s>", "-2\t<s> a"), 12, "twice"),
    "a weight at the top": (GOOD.replace("<s> a", "<s> a\t-0.5"), 11, "highest order"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_by_line(name: str, tmp_path: Path) -> None:
    read_arpa(write(tmp_path / "good.arpa", GOOD))
    text, line, reason = HOSTILE[name]
    with pytest.raises(DataError, match=rf"bad\.arpa:{line}: .*({reason})"):
        read_arpa(write(tmp_path / "bad.arpa", text))


def test_a_damaged_gzip_and_a_line_without_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.gz: cannot read it to its end"):
        read_arpa(write(tmp_path / "a.gz", gzip.compress((GOOD * 50).encode())[:60]))
    with pytest.raises(DataError, match=r"b\.arpa:1: a line of more than"):
        read_arpa(write(tmp_path / "b.arpa", b"x" * (1 << 25)))
    with pytest.raises(DataError, match=r"missing\.arpa: cannot read it"):
        read_arpa(tmp_path / "missing.arpa")


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_file_with_any_damage_is_read_or_refused(data: st.DataObject) -> None:
    import tempfile

    text = bytearray(SRILM.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        how = data.draw(st.sampled_from(["cut", "change", "drop", "repeat"]))
        if how == "cut":
            del text[at:]
            text += b" "
        elif how == "change":
            text[at] = data.draw(st.integers(0, 255))
        elif how == "drop":
            del text[at : at + data.draw(st.integers(1, 20))]
            text += b" "
        else:
            text[at:at] = text[at : at + data.draw(st.integers(1, 40))]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "x.arpa", bytes(text))
        try:
            model = read_arpa(path)
        except DataError as error:
            assert str(error).startswith(f"{path}:")
            return
        assert np.isfinite(model.sentence_scores(b"a b c\n")).all()


def word_model(order: int = 3) -> WordModel:
    trie = model_of(sentences(), 40, order, "modified-kneser-ney")
    return WordModel(trie, NgramVocabulary([b"<s>", b"</s>", *(b"word%d" % i for i in range(38))]), 39, 0, 1)


def test_binary_files_open_without_being_read_and_stay_whole(tmp_path: Path) -> None:
    model = word_model()
    path = write_binary(model.trie, tmp_path / "m.ngram", model)
    opened = read_binary(path)
    assert isinstance(opened, WordModel) and (opened.unk, opened.bos, opened.eos) == (39, 0, 1)
    for field in ("words", "logs", "weights", "first"):
        array = getattr(opened.trie, field)
        assert isinstance(array.base, np.memmap) and not array.flags.writeable
        np.testing.assert_array_equal(array, getattr(model.trie, field))
    assert opened.trie.about["discounts"] == model.trie.about["discounts"]
    from safetensors.numpy import load_file

    assert set(load_file(path)) == {"offsets", "words", "logs", "weights", "first", "blob"}
    alone = read_binary(write_binary(model.trie, tmp_path / "t.ngram"))
    assert isinstance(alone, Trie) and alone.starts == model.trie.starts


def test_damaged_binary_files_are_refused(tmp_path: Path) -> None:
    model = word_model()
    good = write_binary(model.trie, tmp_path / "m.ngram", model).read_bytes()
    length = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + length])

    def changed(**meta: object) -> bytes:
        other = json.loads(json.dumps(header))
        other["__metadata__"] |= meta
        text = json.dumps(other).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + good[8 + length :]

    record = json.loads(header["__metadata__"]["model"])
    moved = json.loads(json.dumps(header))
    moved["logs"]["data_offsets"] = moved["words"]["data_offsets"]
    text = json.dumps(moved).encode()
    overlapping = len(text).to_bytes(8, "little") + text + good[8 + length :]
    cases = {
        "cut off": good[:-10],
        "cut off or not": good[:40],
        "is not an n-gram model": b"hello, world, this is text",
        "not an n-gram": changed(format="pt"),
        "format_version is '2'": changed(format_version="2"),
        "damaged .*levels": changed(model=json.dumps(record | {"starts": [0, 40, 5]})),
        "damaged .*arrays do not fit": changed(model=json.dumps(record | {"starts": [0, 40, 50, 60]})),
        "damaged .*start token": changed(model=json.dumps(record | {"start": 99})),
        "damaged .*words": changed(model=json.dumps(record | {"marks": [0, 1, 4000]})),
        "damaged .*marks": changed(model=json.dumps(record | {"marks": [0, 0, 0]})),
        "damaged .*marks ": changed(model=json.dumps(record | {"marks": [39, 1, 0]})),
        "damaged .*inf ": changed(model=json.dumps(record | {"starts": [0, float("inf")]})),
        "damaged .*True ": changed(model=json.dumps(record | {"start": True})),
        "damaged .*overlap": overlapping,
        "damaged": changed(model="{}"),
        "not an n-gram model": (1 << 60).to_bytes(8, "little") + good[8:],
    }
    for reason, data in cases.items():
        path = write(tmp_path / "bad.ngram", data)
        with pytest.raises(CheckpointError, match=rf"bad\.ngram: .*({reason.split(' or ')[0]})"):
            read_binary(path)
    with pytest.raises(CheckpointError, match="no such file"):
        read_binary(tmp_path / "missing")


def test_values_that_no_model_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = word_model()
    trie, (_, one, two, _) = model.trie, model.trie.starts
    cases = {
        "1-gram's probability": {"logs": np.full_like(trie.logs, np.nan)},
        "1-gram's probability ": {"logs": trie.logs + np.float32(5)},
        "2-gram's probability": {"logs": np.where(np.arange(len(trie.logs)) < one, trie.logs, np.float32(np.nan))},
        "1-gram's weight": {"weights": np.full_like(trie.weights, 9)},
        "2-grams do not begin": {"first": np.full_like(trie.first, 2**31 - 1)},
        "follows a 1-gram is out of order": {
            "first": np.concatenate([trie.first[:2], trie.first[2:4][::-1], trie.first[4:]])
        },
        "tokens are out of order": {"words": np.full_like(trie.words, -7)},
        "2-gram's last token": {"words": np.where(np.arange(len(trie.words)) < one, trie.words, np.int32(-7))},
        "2-grams are out of order": {"words": np.where(np.arange(len(trie.words)) < one, trie.words, np.int32(3))},
    }
    for reason, arrays in cases.items():
        bad = dataclasses.replace(trie, **arrays)
        path = write_binary(bad, tmp_path / "bad.ngram", dataclasses.replace(model, trie=bad))
        for full in (False, True):
            with pytest.raises(CheckpointError, match=rf"bad\.ngram: is damaged .*{reason.strip()}.*train it again"):
                read_binary(path, full=full)
    # only a sample of a long level is looked at, whatever its length, unless all is asked for
    monkeypatch.setattr(binary, "SAMPLES", 2)
    monkeypatch.setattr(binary, "STRETCH", 8)
    seen: list[int] = []
    check = binary._check_nodes
    monkeypatch.setattr(binary, "_check_nodes", lambda t, n, a, b: (seen.append(b - a), check(t, n, a, b)))
    logs = trie.logs.copy()
    logs[(one + two) // 2] = np.nan
    bad = dataclasses.replace(trie, logs=logs)
    path = write_binary(bad, tmp_path / "bad.ngram", dataclasses.replace(model, trie=bad))
    read_binary(path)
    assert sum(seen) == one + 2 * 2 * 8
    with pytest.raises(CheckpointError, match="2-gram's probability"):
        read_binary(path, full=True)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_damage_leads_out_of_an_array(seed: int) -> None:
    """Random numbers in place of the trie's own: any answer, never a crash."""
    rng = np.random.default_rng(seed)
    good = word_model(4).trie
    trie = Trie(
        good.starts,
        rng.integers(-(2**31), 2**31, len(good.words)).astype(np.int32),
        good.logs,
        good.weights,
        rng.integers(-(2**31), 2**31, len(good.first)).astype(np.int32),
    )
    tokens, place = rng.integers(0, 40, 500).astype(np.int32), np.minimum(np.arange(500), 255).astype(np.uint8)
    trie.score_stream(tokens, place)
    nodes, depth = trie.contexts(tokens, place), place.astype(np.int64) + 1
    trie.score_targets(nodes, depth, tokens.astype(np.int64))
    trie.distributions(nodes[:50], depth[:50])


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = word_model()
    path = write_arpa(model, tmp_path / "m.arpa")
    before = path.read_bytes()

    def broken(*_: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmanac.models.ngrams.load._written", broken)
    with pytest.raises(LlmanacError, match=r"m\.arpa: cannot write"):
        write_arpa(model, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["m.arpa"]
