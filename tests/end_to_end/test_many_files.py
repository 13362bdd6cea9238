"""Folders of many files, of files that need a library, of links; tables of many columns; answers beside columns."""

from __future__ import annotations

import collections
import csv
import gzip
import io
import json
import os
import posixpath
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from test_text_commands import llmanac, refused

from llmanac.core.errors import DataError
from llmanac.data import dedup_files
from llmanac.data.command_problems import CommandProblems
from llmanac.data.labelled import read_labelled
from llmanac.data.sources.files import Spec as Files
from llmanac.data.texts import documents, files_of

BLOCKER = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pypdf", "warcio"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
"""


def many(folder: Path, count: int) -> Path:
    for number in range(count):
        place = folder / f"{number % 7}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.txt").write_text(f"text number {number // 2} of so many")
    return folder


def test_dedup_looks_at_each_path_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Resolved paths, opened files and waits for the disk grow as the files do: twice as many, twice as much."""
    counts: collections.Counter[str] = collections.Counter()

    def counted(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*given: Any, **named: Any) -> Any:
            counts[name] += 1
            return real(*given, **named)

        monkeypatch.setattr(module, name, call)

    names = ((posixpath, "realpath"), (os, "lstat"), (os, "stat"), (os, "fsync"), (os, "sync"), (os.path, "samefile"))
    for module, name in names:
        counted(module, name)
    found = []
    for size in (200, 400):
        counts.clear()
        out = tmp_path / f"out{size}"
        llmanac(capsys, "dedup", many(tmp_path / f"in{size}", size), "--method", "exact", "--out", out)
        assert len(list(out.glob("*.jsonl"))) == size + 1
        assert json.loads((out / "report.json").read_text())["kept"] == size // 2
        found.append(counts.copy())
    for name, count in found[0].items():
        assert found[1][name] <= 2.2 * count + 50, name
    assert found[1]["fsync"] <= 2 * dedup_files.SHARDS + 50
    assert not found[1]["sync"]  # the disks of other programs are not its business


def test_dedup_does_not_depend_on_how_files_are_grouped(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    folder = many(tmp_path / "in", 30)
    (folder / "empty.jsonl").write_text("")
    (folder / "rows.jsonl").write_text('{"text": "text number 3 of so many"}\n{"text": "its own"}\n')
    outs = []
    for shards in (1, 4, 100):
        monkeypatch.setattr(dedup_files, "SHARDS", shards)
        out = tmp_path / f"out{shards}"
        llmanac(capsys, "dedup", folder, "--method", "exact", "--out", out)
        outs.append({path.name: path.read_text() for path in out.glob("*.jsonl")})
    assert outs[0] == outs[1] == outs[2] and len(outs[0]) == 33 and outs[0]["empty.jsonl"] == ""


def test_a_bar_with_bytes_knows_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from llmanac.core.progress import Progress

    lines = []
    real = Progress.close

    def close(bar: Progress) -> None:
        lines.append((bar.label, bar.done, bar.total))
        real(bar)

    monkeypatch.setattr(Progress, "close", close)
    folder = many(tmp_path / "in", 20)
    llmanac(capsys, "dedup", folder, "--method", "exact", "--out", tmp_path / "out")
    size = sum(path.stat().st_size for path in folder.rglob("*.txt"))
    assert ("read", size, size) in lines and ("write", 20, 20) in lines


def test_missing_libraries_are_said_before_and_their_files_set_aside(tmp_path: Path) -> None:
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text(BLOCKER)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("some text")
    for name in ("b.pdf.gz", "c.pdf"):
        (folder / name).write_bytes(gzip.compress(b"%PDF-1.4"))
    (tmp_path / "recipe.toml").write_text('inputs = ["in"]\nstages = ["clean"]\n')
    path = os.pathsep.join([str(tmp_path / "block"), os.environ.get("PYTHONPATH", "")])

    def build(*more: str) -> subprocess.CompletedProcess[str]:
        words = ["data", "build", "recipe.toml", "--workers", "1", *more]
        code = "from llmanac.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        )  # fmt: skip

    done = build("--folder", "out")
    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stderr.splitlines() if "not installed" in line]
    assert len(notes) == 1 and "pip install 'llmanac[data]'" in notes[0] and "in/b.pdf.gz and 1 more" in notes[0]
    dropped = [json.loads(line) for line in (tmp_path / "out/dropped/00-read.jsonl").read_text().splitlines()]
    assert [(one["id"], one["reason"]) for one in dropped] == [
        ("b.pdf.gz", "not-installed"),
        ("c.pdf", "not-installed"),
    ]
    done = build("--folder", "fatal", "-s", "on_error=fatal")
    assert done.returncode == 2 and "pypdf is not installed" in done.stderr and "in/b.pdf.gz" in done.stderr
    assert not (tmp_path / "fatal" / "inputs.jsonl").exists()


def test_a_packed_pdf_is_read(tmp_path: Path) -> None:
    pypdf = pytest.importorskip("pypdf")
    writer = pypdf.PdfWriter()
    writer.add_blank_page(width=99, height=99)
    data = io.BytesIO()
    writer.write(data)
    (tmp_path / "a.pdf.gz").write_bytes(gzip.compress(data.getvalue()))
    (tmp_path / "b.txt").write_text("words")
    assert [one.id for one in Files(paths=(str(tmp_path),)).documents()] == ["b.txt"]  # a page without text is blank


def test_links_that_leave_the_folder_are_named_and_not_followed(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret words")
    (folder / "a.txt").write_text("open words")
    (folder / "sub" / "inside.txt").symlink_to(folder / "a.txt")
    for name in ("x.txt", "y.txt"):
        (folder / "sub" / name).symlink_to(tmp_path / "secret.txt")
    source = Files(paths=(str(folder),))
    assert [one.text for one in source.documents()] == ["open words"]
    assert {one.shown: one.why for one in source.found() if one.why} == {
        "sub/x.txt": "linked-outside", "sub/y.txt": "linked-outside",
    }  # fmt: skip
    list(documents(files_of([folder]), CommandProblems()))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "sub/x.txt is not read, nor is 1 more" in said and "lead out of the folder" in said
    named = Files(paths=(str(folder / "sub" / "x.txt"),))
    assert [one.text for one in named.documents()] == ["secret words"]
    inner = Files(paths=(str(folder / "sub"),), include=("inside.txt",))
    with pytest.raises(DataError, match="no file in this folder matches"):
        list(inner.documents())


@pytest.mark.parametrize("kind", [".csv", ".tsv"])
def test_a_header_of_a_hundred_thousand_columns(kind: str, tmp_path: Path) -> None:
    count, mark = 100_000, "," if kind == ".csv" else "\t"
    path = tmp_path / f"wide{kind}"
    names = [*(f"c{n}" for n in range(count)), "text", "label"]
    path.write_text(f"{mark.join(names)}\n{mark.join(['1'] * count)}{mark}some words{mark}pos\n")
    start = time.process_time()
    assert [one.text for one in Files(paths=(str(path),)).documents()] == ["some words"]
    assert read_labelled(path).texts == ["some words"]
    path.write_text(f"{mark.join(['', *names[:count], 'text', *([''] * 9999), 'text'])}\n")
    with pytest.raises(DataError, match="the column 'text' is there twice"):
        list(Files(paths=(str(path),)).documents())
    assert time.process_time() - start < 10
    with pytest.raises(DataError) as told:
        path.write_text(f"{mark.join(names[:count])}\n{mark.join(['1'] * count)}\n")
        list(Files(paths=(str(path),)).documents())
    assert "no column 'text'" in str(told.value) and len(str(told.value)) < 1500


ROWS = [
    {"id": 7, "text": "The film is good.", "label": "good", "tags": ["a", None], "share": 0.5},
    {"id": 8, "text": "The plot is bad.", "label": "bad", "tags": [], "share": None},
]


def table(folder: Path, kind: str) -> Path:
    path = folder / f"in{kind}"
    if kind == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        with open(path, "w", newline="") as handle:
            writer = csv.DictWriter(handle, list(ROWS[0]), delimiter="\t" if kind == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(ROWS)
    return path


@pytest.mark.parametrize("into", [".jsonl", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_predictions_stand_beside_the_columns(kind: str, into: str, tmp_path: Path, capsys: Any) -> None:
    given, output = table(tmp_path, kind), tmp_path / f"out{into}"
    llmanac(capsys, "classify", "predict", "rules", given, "--output", output)
    if into == ".parquet":
        made = pyarrow.parquet.read_table(output)
        if kind == ".parquet":
            assert made.schema.names[: len(ROWS[0])] == list(ROWS[0])
            assert list(made.schema)[: len(ROWS[0])] == list(pyarrow.parquet.read_schema(given))
        rows = made.to_pylist()
    elif into == ".jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
    else:
        with open(output, newline="") as handle:
            rows = list(csv.DictReader(handle, delimiter="\t" if into == ".tsv" else ","))
    assert [list(row)[: len(ROWS[0])] for row in rows] == [list(ROWS[0])] * 2
    assert [row["prediction"] for row in rows] == ["positive", "negative"]
    assert [(str(row["id"]), row["text"], row["label"]) for row in rows] == [
        ("7", "The film is good.", "good"), ("8", "The plot is bad.", "bad"),
    ]  # fmt: skip
    if {kind, into} <= {".jsonl", ".parquet"}:
        assert [row["tags"] for row in rows] == [["a", None], []] and [row["share"] for row in rows] == [0.5, None]
    added = list(rows[0])[len(ROWS[0]) :]
    shares = ["p(negative)", "p(positive)"] if into in (".csv", ".tsv") else ["probabilities"]
    assert added == ["prediction", *shares]


def test_columns_of_the_same_name_are_refused(tmp_path: Path, capsys: Any) -> None:
    for name, end in (("prediction", ".jsonl"), ("probabilities", ".jsonl"), ("p(positive)", ".csv")):
        (tmp_path / "in.jsonl").write_text(json.dumps({"text": "a good film", name: 1}) + "\n")
        words = ["classify", "predict", "rules", tmp_path / "in.jsonl", "--output", tmp_path / f"out{end}"]
        assert f"in.jsonl: has a column {name!r} already" in refused(capsys, *words)
        assert not (tmp_path / f"out{end}").exists()
        llmanac(capsys, *words, "--prefix", "my_")
        assert "my_prediction" in (tmp_path / f"out{end}").read_text()
        (tmp_path / f"out{end}").unlink()
    (tmp_path / "two.csv").write_text("text,note,note\na good film,1,2\n")
    words = ["classify", "predict", "rules", tmp_path / "two.csv"]
    assert "two.csv: the column 'note' is there twice" in refused(capsys, *words)
    (tmp_path / "bare.tsv").write_text("1\ta good film\n2\ta bad film\n")
    out = llmanac(capsys, "classify", "predict", "rules", tmp_path / "bare.tsv", "--text", "2")
    assert [json.loads(line)["1"] for line in out.splitlines()] == ["1", "2"]


def test_compare_says_what_tokenizers_may_have_seen(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(f"{name}.txt").write_text(f"the words of {name} are told and told again\n" * 500)
    llmanac(capsys, "tokenizer", "train", "bpe", "a.txt", "-s", "vocab_size=280", "-o", "tok")
    llmanac(capsys, "tokenizer", "train", "utf8", "a.txt", "-o", "bytes")

    def notes(*words: str) -> list[str]:
        found = json.loads(llmanac(capsys, "tokenizer", "compare", *words, "-o", "page", "--json"))
        page = Path("page/study.html").read_text()
        assert all(note.split(":")[0] in page for note in found["notes"])
        return list(found["notes"][1:])  # the first says what was measured

    assert notes("tok", "bytes", "--on", "b.txt") == []
    assert notes("bytes", "--on", "a.txt") == []
    (told,) = notes("tok", "--on", "a.txt")
    assert told.startswith("tok learned from") and "a.txt" in told
    assert notes("tok", "--on", ".", "--include", "*.txt")[0].startswith("tok learned from")
    said = llmanac(capsys, "tokenizer", "compare", "tok", "--on", "a.txt", "-o", "page")
    assert "note: tok learned from" in " ".join(said.split())
    (told,) = notes("bpe{vocab_size=270}", "--train", "a.txt", "--on", "a.txt")
    assert told.startswith("They were trained on")
    assert notes("bpe{vocab_size=270}", "--on", "a.txt") == []  # measured on a part held out
    Path("tok/training.json").unlink()
    (told,) = notes("tok", "--on", "b.txt")
    assert told.startswith("tok ") and "may have seen" in told
