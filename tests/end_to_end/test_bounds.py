"""What commands hold strangers' files to, doubled columns, and messages that say what to do."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from test_dedup_command import llmanac, read, rows, write
from test_outputs import LABELLED, refused

from llmanac.core.errors import DataError
from llmanac.data.evaluation_items import read_items
from llmanac.data.labelled import read_labelled
from llmanac.data.readers import table_rows
from llmanac.data.sources.files import Spec as Files

BOMB = 40_000_000  # bytes of one letter: more than 200 times what gzip makes of them


@pytest.fixture
def bomb(tmp_path: Path) -> Path:
    """Rows that compress far too well, after one that is sound."""
    path = tmp_path / "bomb.jsonl.gz"
    row = json.dumps({"text": "a sound text of words", "label": "pos"}) + "\n"
    with gzip.open(path, "wt") as handle:
        handle.write(row + json.dumps({"text": "a b " * 2000, "label": "pos"}).join(["", "\n"]) * (BOMB // 8000))
    assert path.stat().st_size * 200 < BOMB
    return path


def test_what_swells_is_refused_or_set_aside(tmp_path: Path, bomb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = tmp_path / "good.jsonl"
    good.write_text(LABELLED)
    out = tmp_path / "out"
    dedup = ["dedup", bomb, good, "--method", "exact", "--out", out]
    contamination = ["contamination", "--train", good, "--eval", bomb, good, "--out", tmp_path / "o.jsonl"]
    train = ["classify", "train", bomb, "--folder", tmp_path / "bow"]
    for words in (
        dedup, contamination, ["contamination", "--train", bomb, "--eval", good], train,
        ["classify", "evaluate", "rules", bomb], ["classify", "predict", "rules", bomb],
    ):  # fmt: skip
        message = refused(capsys, *words)
        assert "bomb.jsonl.gz: its" in message and "more than 200 times as many; if that is right, unpack it" in message
    assert llmanac(*dedup, "--on-error", "skip") == 0
    assert "200 times as many" in read(out / "quarantine.jsonl")[0]["reason"]
    assert {row["text"] for row in read(out / "good.jsonl")} == {json.loads(x)["text"] for x in LABELLED.splitlines()}
    assert "no usable example; all 1 rows were set aside" in refused(capsys, *train, "--on-error", "skip")


def test_rows_of_a_bomb_are_never_held(bomb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmanac.data import json_rows
    from llmanac.data.command_problems import CommandProblems, command_bounds

    monkeypatch.setattr(json_rows, "line_rows", lambda *_: pytest.fail("rows are read"))
    for reading in (lambda p: read_labelled(bomb, problems=p), lambda p: read_items([bomb], problems=p)):
        with pytest.raises(DataError, match="200 times as many"):
            reading(CommandProblems(bounds=command_bounds()))


def test_long_documents_are_refused_until_they_are_let_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book, row = tmp_path / "book.txt", tmp_path / "row.jsonl"
    book.write_text("é words\n" * 200)
    write(row, [{"text": "one"}, {"text": "x" * 1500}])
    words = ["dedup", "--method", "exact", "--max-bytes", "1kB"]
    message = refused(capsys, *words, book, "--out", tmp_path / "o")
    assert "book.txt: a document of more than 1,000 bytes (a larger --max-bytes lets it in)" in message
    message = refused(capsys, *words, row, "--out", tmp_path / "o")
    assert "row.jsonl:2: a text of more than 1,000 bytes" in message
    assert llmanac(*words, book, row, "--out", tmp_path / "o", "--on-error", "skip") == 0
    assert [one["line"] for one in read(tmp_path / "o" / "quarantine.jsonl")] == [None, 2]
    assert llmanac("dedup", "--max-bytes", "2kB", book, row, "--method", "exact", "--out", tmp_path / "p") == 0
    assert read(tmp_path / "p" / "book.jsonl")[0]["text"] == book.read_text()
    long = write(tmp_path / "long.jsonl", [{"text": "x" * 100_000}])
    words = ["contamination", "--train", long, "--eval", book]
    assert "(a larger --max-bytes lets it in)" in refused(capsys, *words, "--max-bytes", "1kB")
    assert llmanac(*words) == 0
    assert "--max-bytes: 'x' is not a size" in refused(capsys, *words, "--max-bytes", "x")


def test_a_users_own_text_has_no_such_bound_unless_it_is_packed(tmp_path: Path) -> None:
    path = tmp_path / "one.txt.gz"
    with gzip.open(path, "wt") as handle:
        handle.write("a" * BOMB)
    plain = tmp_path / "one.txt"
    plain.write_text("a" * BOMB)
    assert sum(len(document.text) for document in Files(paths=(str(plain),)).documents()) == BOMB
    with pytest.raises(DataError, match=r"one\.txt\.gz: .*200 times as many"):
        list(Files(paths=(str(path),)).documents())


def test_a_doubled_column_is_refused_where_it_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, mark in ((".csv", ","), (".tsv", "\t")):
        path = tmp_path / f"two{kind}"
        path.write_text("\n".join(["text,label,text", "one,pos,two"]).replace(",", mark) + "\n")
        with pytest.raises(DataError, match=rf"two{kind}: the column 'text' is there twice; rename one of the two"):
            read_labelled(path)
        assert "the column 'text' is there twice" in refused(capsys, "dedup", path, "--out", tmp_path / "o")
        with pytest.raises(DataError, match="the column 'text' is there twice"):
            list(Files(paths=(str(path),)).documents())
        beside = tmp_path / f"beside{kind}"
        beside.write_text("\n".join(["text,label,note,note", "one,pos,a,b"]).replace(",", mark) + "\n")
        assert read_labelled(beside).texts == ["one"]
        assert [document.text for document in Files(paths=(str(beside),)).documents()] == ["one"]
        assert "the column 'note' is there twice" in refused(capsys, "dedup", beside, "--out", tmp_path / "o")
    table = pyarrow.table([["one"], ["pos"], ["two"]], names=["text", "label", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "two.parquet")
    with pytest.raises(DataError, match=r"two.parquet: the column 'text' is there twice"):
        read_labelled(tmp_path / "two.parquet")
    with pytest.raises(DataError, match=r"two.parquet: the column 'text' is there twice"):
        list(Files(paths=(str(tmp_path / "two.parquet"),)).documents())


def test_columns_without_a_name_lose_nothing(tmp_path: Path) -> None:
    from llmanac.data.quarantine import Problems

    (tmp_path / "a.csv").write_text("text,,\none,two,three\n")
    (row,) = table_rows(tmp_path / "a.csv", Problems())
    assert row.values == {"text": "one", "": "two", "column 3": "three"}


@pytest.mark.parametrize("method", ["exact", "lines", "minhash", "substring"])
def test_memory_that_is_too_little(tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "in.jsonl", rows(20))
    words = ["dedup", data, "--text", "body", "--method", method, "--out", tmp_path / "o", "--memory", "1"]
    message = refused(capsys, *words)
    assert "--memory: " in message and "0 bytes" not in message and "; give " in message


def test_methods_that_do_not_deduplicate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "in.jsonl", rows(5))
    words = ["dedup", data, "--out", tmp_path / "o", "--method"]
    message = refused(capsys, *words, "nope")
    assert "(known: minhash, exact, lines, paragraphs, substring)" in message and "gopher" not in message
    assert "use one of minhash, exact, " in refused(capsys, *words, "language")


@pytest.mark.parametrize("content", ["{oops", "[]", '{"a": 1}'])
def test_a_broken_manifest_says_what_to_do(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text(content)
    message = refused(capsys, "data", "inspect", tmp_path)
    assert "manifest.json" in message and "delete it, and run `llmanac data build` with its recipe again" in message
