"""Labelled texts out of files: every format gives the same examples, and what is wrong is named with its line."""

from __future__ import annotations

import csv
import json

import pytest
from _labelled import data_folder, sst2
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.errors import DataError
from llmanac.data.labelled import read_labelled, read_rows
from llmanac.data.quarantine import Problems
from llmanac.data.readers import table_rows

ROWS = [
    ("a fine film", "pos"),
    ('it said "no" , and left', "neg"),
    ("été\u2028naïve", "pos"),
    ("two, commas, here", "neg"),
]


def write(folder, kind, rows=ROWS, text="text", label="label"):
    path = folder / f"data{kind}"
    if kind == ".jsonl":
        path.write_text("".join(json.dumps({text: t, label: y, "more": 1}) + "\n" for t, y in rows), "utf-8")
    elif kind == ".json":
        path.write_text(json.dumps([{text: t, label: y} for t, y in rows]), "utf-8")
    elif kind in (".csv", ".tsv"):
        with open(path, "w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle, delimiter="\t" if kind == ".tsv" else ",")
            writer.writerows([[label, text], *[(y, t) for t, y in rows]])
    elif kind == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({text: [t for t, _ in rows], label: [y for _, y in rows]}), path)
    else:
        path.write_text("".join(f"{y} {t}\n" for t, y in rows), "utf-8")
    return path


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".train", ".txt"])
def test_every_format_gives_the_same_examples(kind, tmp_path):
    found = read_labelled(write(tmp_path, kind))
    assert list(zip(found.texts, found.labels, strict=True)) == ROWS and len(found.lines) == 4
    if kind not in (".train", ".txt"):
        read = read_rows(tmp_path / f"data{kind}", text="text", problems=Problems())
        assert [text for text, _ in read] == [text for text, _ in ROWS]
        other = read_labelled(write(tmp_path, kind, text="said", label="tone"), text="said", label="tone")
        assert other.texts == found.texts
        with pytest.raises(DataError, match=r"no column 'text' \(has: .*name it with --text"):
            read_labelled(tmp_path / f"data{kind}", label="tone")
        with pytest.raises(DataError, match=r"no column 'tune'; did you mean 'tone'.*name it with --label"):
            read_labelled(tmp_path / f"data{kind}", text="said", label="tune")


def test_labels_that_are_numbers_or_booleans_are_words(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 0.0}\n{"text": "c", "label": true}\n')
    assert read_labelled(path).labels == ["1", "0", "true"]
    path.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 1.0}\n')
    assert read_labelled(path).labels == ["1", "1"]


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ("1", '"1"', r"a.jsonl:3: label '1' is a text here and a number in line 1, and both would be the label '1'"),
        ('"1"', "1.0", r"a.jsonl:3: label 1.0 is a number here and a text in line 1"),
        ("true", '"true"', r"a.jsonl:3: label 'true' is a text here and a boolean in line 1"),
    ],
)
def test_labels_of_two_sorts_are_not_merged(tmp_path, one, other, message):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "a", "label": {label}}}\n' for label in (one, '"x"', other)))
    with pytest.raises(DataError, match=message):
        read_labelled(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a", "label": NaN}', "a.jsonl:1: label is nan, which is no label"),
        ("a.jsonl", '{"text": "a", "label": null}', "a.jsonl:1: label is missing"),
        ("a.jsonl", '{"text": "a", "label": ["b"]}', "which is no label"),
        (
            "a.jsonl",
            '{"text": "a", "label": "b"}\n{"text": null, "label": "b"}',
            "a.jsonl:2: text is missing, not text",
        ),
        ("a.jsonl", '{"text": NaN, "label": "b"}', "a.jsonl:1: text is nan, not text"),
        ("a.jsonl", '{"text": "  ", "label": "b"}', "a.jsonl:1: the text is empty"),
        ("a.jsonl", '{"text": "\\ud800 x", "label": "b"}', "a.jsonl:1: text holds half of a character"),
        ("a.jsonl", "{oops", "a.jsonl:1: not JSON"),
        ("a.jsonl", "[1]", "a.jsonl:1: expected a JSON object"),
        ("a.jsonl", "", "a.jsonl: has no example"),
        ("a.csv", "text,label\na,", "a.csv:2: label is empty"),
        ("a.csv", "text,label\na,nan", "a.csv:2: label is 'nan', which is no label"),
        ("a.csv", "text\na", "a.csv:2: no column 'label'"),
        ("a.csv", "text,label\na,b,c", "3 fields where the header has 2"),
        ("a.tsv", "text\nb", "a.tsv:1: no column 'label'"),
        ("a.tsv", "text\tlabel\nb", "a.tsv:2: has 1 fields"),
        ("a.tsv", "", "a.tsv:1: no column 'text' .has: "),
        ("a.txt", "1", "a.txt:1: '1' is not `label text`"),
        ("a.txt", "\n\n", "a.txt: has no example"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        read_labelled(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_what_is_no_file_or_no_text_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_labelled(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a folder"):
        read_labelled(tmp_path)
    for name in ("a.tsv", "a.csv", "a.jsonl", "a.txt"):
        head = b"" if name == "a.jsonl" else b"text\tlabel\n"
        (tmp_path / name).write_bytes(head + b"\xff\xfe\tpos\n")
        with pytest.raises(DataError, match="not UTF-8"):
            read_labelled(tmp_path / name)


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".tsv", ".txt"])
def test_a_line_of_ten_megabytes_is_read_whole(tmp_path, kind):
    long = "good film " * 1_000_000 + "end"
    found = read_labelled(write(tmp_path, kind, [(long, "pos"), ("short", "neg")]))
    assert found.texts == [long, "short"]


def test_a_stray_quotation_mark_in_a_tsv_swallows_nothing(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"oh no\t0\nfine "quoted" words"\t1\n"whole ""field"""\t1\n')
    assert read_labelled(path).texts == ['"oh no', 'fine "quoted" words"', 'whole "field"']


def test_columns_are_counted_from_one(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("x\t1\tgood film\nx\t0\tbad film\n")
    found = read_labelled(path, text="3", label="2")
    assert (found.texts, found.labels) == (["good film", "bad film"], ["1", "0"])
    assert [text for text, _ in read_rows(path, text="3", problems=Problems())] == found.texts
    with pytest.raises(DataError, match="counted from 1"):
        read_labelled(path, text="0", label="2")
    with pytest.raises(DataError, match=r"a\.tsv:1: has 3 fields, and number 4 is asked for"):
        read_labelled(path, text="4", label="2")


def test_columns_by_number_for_a_tsv_without_a_header():
    """CoLA has no header: its label is the second column, its sentence the fourth."""
    path = data_folder() / "cola" / "in_domain_train.tsv"
    if not path.is_file():
        pytest.skip("needs CoLA beside SST-2")
    found = read_labelled(path, text="4", label="2")
    assert len(found) == 8551 and set(found.labels) == {"0", "1"}


def test_sst2_is_read_whole():
    for split, rows in (("train", 6920), ("dev", 872), ("test", 1821)):
        assert len(sst2(split)) == rows


CHARACTERS = st.characters(codec="utf-8", exclude_characters="\x00")
EXAMPLES = st.tuples(st.text(CHARACTERS, min_size=1).filter(str.strip), st.sampled_from("ab"))


@settings(max_examples=40, deadline=None)
@given(st.lists(EXAMPLES, min_size=1, max_size=5))
def test_json_lines_give_back_any_text(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows), "utf-8")
    assert list(zip(read_labelled(path).texts, read_labelled(path).labels, strict=True)) == rows


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_spreadsheets_table_is_read_by_its_header(tmp_path, mark):
    path = tmp_path / "a.csv"
    path.write_text(f'\ufeff"id"{mark}text{mark}label\r\n1{mark}"one, and{mark}\r\ntwo"{mark}a\r\n', "utf-8")
    found = read_labelled(path)
    assert [text.split() for text in found.texts] == [f"one, and{mark} two".split()] and found.labels == ["a"]
    path.write_text("text\nA question; with more\n")
    rows = table_rows(path, Problems("fatal"))
    assert [dict(row.values) for row in rows] == [{"text": "A question; with more"}]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("inner", ["\n", "\r\n", "\r", "\r\n\r\n", "a\r\n"])
def test_line_ends_in_a_quoted_field_are_kept(tmp_path, end, inner):
    """As the csv module reads the same file; the ends of rows are no part of a field."""
    path = tmp_path / "a.csv"
    path.write_bytes(end.join(["text,n", f'"a{inner}b",1', f'"{inner}",2', "plain,3", ""]).encode())
    with open(path, newline="") as handle:
        expected = list(csv.DictReader(handle))
    found = list(table_rows(path, Problems("fatal"), columns=("text", "n")))
    assert [row.values for row in found] == expected
    assert found[0].values["text"] == f"a{inner}b"
