"""From files to a corpus: cleaning, duplicates, the split and the manifest, also for corpora that are hardly any."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.errors import DataError
from llmanac.core.spec import make_method
from llmanac.data import collect as collecting
from llmanac.data.clean import clean
from llmanac.data.collect import collect, collect_built
from llmanac.data.dedup import drop_duplicates
from llmanac.data.documents import Document
from llmanac.data.quarantine import Problems
from llmanac.data.split import fraction, split


def document(name: str, text: str, group: str | None = None) -> Document:
    return Document(name, text, group or name, {"input": group or name, "license": "CC0-1.0"})


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab \t\n\r\x00\x0c\u00a0é\ufeff\x85\u2028"), max_size=40))
def test_cleaning_twice_changes_nothing_and_keeps_every_letter(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert [c for c in once if c.isalpha()] == [c for c in text if c.isalpha()]
    assert not set(once) & set("\r\x00\x0c\ufeff")
    assert "\n\n\n\n" not in once
    assert not any(line != line.rstrip() for line in once.split("\n"))


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab \t\n\r\x00\x07\x0c\x1f\x7f\u00a0é\ufeff\x85\u2028\ud800"), max_size=40))
def test_cleaning_is_what_four_replacements_give(text: str) -> None:
    plain = re.sub("\r\n|\r|\x0c|\u2028|\x85", "\n", text)
    plain = re.sub("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]", "", plain)
    plain = re.sub(r"[ \t\u00a0]+(?=\n|\Z)", "", plain)
    plain = re.sub(r"\n{4,}", "\n\n\n", plain)
    assert clean(text) == plain.strip("\n").rstrip()


def test_cleaning_keeps_indentation_and_joiners() -> None:
    assert clean("def f():\r\n\tif x:   \r        return 1\n") == "def f():\n\tif x:\n        return 1"
    assert clean("  indented first line\n") == "  indented first line"
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert clean(family) == family


def test_duplicates_drop_only_equal_texts_and_keep_the_first() -> None:
    given_ = [document("a", "x"), document("b", "X"), document("c", "x"), document("d", "x ")]
    assert [d.id for d in drop_duplicates(given_)] == ["a", "b", "d"]
    seen: set[bytes] = set()
    list(drop_duplicates(given_, seen))
    assert list(drop_duplicates(given_, seen)) == []


def test_split_keeps_groups_whole_is_stable_and_takes_about_its_share() -> None:
    corpus = [document(f"{g}/{i}", f"text {g} {i}", f"g{g}") for g in range(400) for i in range(3)]
    train, held = split(corpus, 0.1)
    assert len(train) + len(held) == len(corpus)
    groups = {d.group for d in held}
    assert not groups & {d.group for d in train}
    assert 20 < len(groups) < 60
    assert groups == {f"g{g}" for g in range(400) if fraction(f"g{g}") < 0.1}
    assert split(corpus[::-1], 0.1)[1] == [d for d in corpus[::-1] if d.group in groups], "order decides nothing"
    fewer = [d for d in corpus if d.group != "g7"]
    assert {d.group for d in split(fewer, 0.1)[1]} == groups - {"g7"}, "other groups decide nothing"
    assert {d.group for d in split(corpus, 0.1, seed=1)[1]} != groups


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_small_corpora_still_hold_something_out(count: int, share: float) -> None:
    corpus = [document(f"d{i}", f"Document {i}.\n" * 50) for i in range(count)]
    train, held = split(corpus, share)
    assert train
    assert held
    size = sum(d.bytes for d in corpus)
    assert sum(d.bytes for d in held) <= 0.55 * size
    assert abs(sum(d.bytes for d in train + held) - size) <= 2


def test_one_group_is_split_by_document_and_one_document_by_its_tail() -> None:
    chapters = [document(f"book#{i}", f"Chapter {i}. " * 100, "book") for i in range(10)]
    train, held = split(chapters, 0.1)
    assert {d.group for d in train + held} == {"book"}
    assert 1 <= len(held) <= 5
    whole = document("book", "\n".join(f"Line {i} of the only document." for i in range(1000)))
    (kept,), (tail,) = split([whole], 0.1)
    assert whole.text == kept.text + "\n" + tail.text, "the cut stands at a line end, and nothing else is lost"
    assert 0.05 < len(tail.text) / len(whole.text) < 0.15
    assert tail.id != kept.id
    huge = [document("huge", "x" * 100_000), *(document(f"s{i}", "y" * 200) for i in range(4))]
    assert "huge" not in {d.id for d in split(huge, 0.3)[1]}, "a document that is most of the corpus is not held out"


def test_split_errors() -> None:
    with pytest.raises(DataError, match=r"the corpus is empty: .*; name files, columns or a data set in data\.source"):
        split([])
    with pytest.raises(DataError, match=r"held_out: 0\.9 is not a share"):
        split([document("a", "b")], 0.9)
    with pytest.raises(DataError, match="cannot be split"):
        split([document("a", "b")])


def make_corpus(folder: Path) -> list[Path]:
    folder.mkdir()
    for i in range(40):
        (folder / f"{i:02}.txt").write_text(f"Text number {i}.\r\nIt has two lines.  \n" * (i + 1))
    (folder / "copy.txt").write_text((folder / "07.txt").read_text())
    (folder / "blank.txt").write_text("  \n \x00\n")
    rows = [json.dumps({"text": f"row {i}"}) for i in range(20)]
    (folder / "rows.jsonl").write_text("\n".join([*rows[:10], "{broken", *rows[10:]]))
    return sorted(folder.iterdir())


def test_collect_counts_everything_and_says_so_in_the_manifest(tmp_path: Path) -> None:
    make_corpus(tmp_path / "in")
    source = make_method(
        "source", {"name": "files", "paths": [str(tmp_path / "in")], "on_error": "skip", "license": "MIT"}
    )
    corpus = collect(source, held_out=0.1, problems=Problems("skip", tmp_path / "quarantine.jsonl"))
    found = corpus.manifest
    train, held = list(corpus.train), list(corpus.held_out)
    assert len(train) + len(held) == 60 == found["train"]["documents"] + found["held_out"]["documents"]
    assert found["dropped"] == {"empty": 1, "duplicates": 1, "unusable": 1}
    assert found["train"]["bytes"] == sum(d.bytes for d in train)
    assert found["train"]["licenses"] == {"MIT": found["train"]["bytes"]}
    assert found["held_out_by"]["unit"] == "group"
    assert {d.group for d in held} == set(found["held_out_by"]["names"])
    assert found["inputs"]["rows.jsonl"]["documents"] == 20
    assert not any("\r" in d.text or d.text != d.text.rstrip() for d in train)
    assert (tmp_path / "quarantine.jsonl").read_text().count("\n") == 1
    assert list(corpus.train) == train, "a part is read as often as asked"
    assert list(corpus.train.texts()) == [d.text for d in train]
    assert json.loads(json.dumps(found)) == found
    again = collect(source, held_out=0.1, problems=Problems("skip"))
    assert again.manifest == found
    (tmp_path / "in" / "03.txt").write_text("changed")
    assert collect(source, held_out=0.1, problems=Problems("skip")).manifest["train"]["sha256"] != found["train"][
        "sha256"
    ] or ("03.txt" in found["held_out_by"]["names"])


def test_a_corpus_too_large_for_memory_is_read_again_and_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_corpus(tmp_path / "in")
    source = make_method("source", {"name": "files", "paths": [str(tmp_path / "in")]})
    kept = collect(source, problems=Problems("skip"))
    monkeypatch.setattr(collecting, "HELD_IN_MEMORY", 100)
    streamed = collect(source, problems=Problems("skip"))
    assert not isinstance(streamed.train.documents, list)
    assert list(streamed.train) == list(kept.train)
    assert list(streamed.held_out) == list(kept.held_out)
    assert streamed.manifest == kept.manifest


def test_one_file_of_one_text_is_a_corpus_too(tmp_path: Path) -> None:
    (tmp_path / "only.txt").write_text("\n".join(f"Line {i} of a short text." for i in range(60)))
    corpus = collect(make_method("source", {"name": "files", "paths": [str(tmp_path / "only.txt")]}))
    assert corpus.manifest["held_out_by"]["unit"] == "part"
    assert len(list(corpus.train)) == len(list(corpus.held_out)) == 1
    with pytest.raises(DataError, match="empty"):
        (tmp_path / "none.txt").write_text("\n")
        collect(make_method("source", {"name": "files", "paths": [str(tmp_path / "none.txt")]}))


def test_real_text(shared_data: Path) -> None:
    source = make_method(
        "source", {"name": "files", "paths": [str(shared_data / "text")], "include": ["*.txt"], "piece": 100_000}
    )
    corpus = collect(source)
    total = corpus.manifest["train"]["bytes"] + corpus.manifest["held_out"]["bytes"]
    assert total > 1_000_000
    assert corpus.manifest["held_out"]["bytes"] < 0.55 * total


def test_a_built_corpus_is_the_collected_one_and_one_line_may_be_long(tmp_path: Path) -> None:
    make_corpus(tmp_path / "in")
    with open(tmp_path / "in" / "line.txt", "w") as out:
        out.writelines(f"word{i} " for i in range(1_500_000))
    source = make_method("source", {"name": "files", "paths": [str(tmp_path / "in")], "on_error": "skip"})
    stages = [make_method("stage", name) for name in ("clean", "exact")]
    plain = collect(source, problems=Problems("skip"))
    for folder in (tmp_path / "built", None):
        built = collect_built(source, stages, folder)
        assert {d.text for d in built.train} | {d.text for d in built.held_out} == (
            {d.text for d in plain.train} | {d.text for d in plain.held_out}
        )
        assert built.manifest["dropped"] == plain.manifest["dropped"]
    assert plain.manifest["train"]["bytes"] + plain.manifest["held_out"]["bytes"] > 15_000_000
