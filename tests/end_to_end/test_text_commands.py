"""Every command that takes text, on every format: of a table or an archive it makes what it makes of the text."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from llmanac.cli import main

TEXTS = [
    "the old king sees a fool and the queen sees the king",
    "a fool loves the queen of the old town by the sea",
    "my lord fears the sea and the queen fears my lord",
    "the film is good and the plot is good",
    "the old fool is a king of fools in the old town",
]
NEGATIVE = [
    "BUY NOW buy now cheap cheap",
    "click here click here now",
    "win money now now now",
    "cheap cheap cheap",
] * 3
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pyarrow.Codec("zstd").compress(data, asbytes=True),
}
TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
PLAIN = [f".txt{packed}" for packed in PACKED]
FORMATS = [f"{kind}{packed}" for kind in TABLES for packed in ("", ".gz")] + [".jsonl.zst", ".csv.xz", ".zip"]
LINES = [*PLAIN, "folder", *FORMATS]
# what the containers are made of, and the texts are not
SYNTAX = ('{"', '":', "PAR1", "id", "PK", "<p>")


def llmanac(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert ended.value.code == 0, err
    return out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err


def table(kind: str, texts: list[str]) -> bytes:
    rows = [{"id": f"id{n}", "text": text} for n, text in enumerate(texts)]
    if kind in (".jsonl", ".ndjson"):
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == ".json":
        return json.dumps(rows).encode()
    if kind == ".parquet":
        out = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
        return out.getvalue()
    text = io.StringIO()
    writer = csv.DictWriter(text, ["id", "text"], delimiter="\t" if kind == ".tsv" else ",")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_rows(folder: Path, form: str) -> Path:
    """The texts in a table, or in an archive with one."""
    folder.mkdir(exist_ok=True)
    path = folder / f"data{form}"
    if form == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("rows.jsonl", table(".jsonl", TEXTS))
        return path
    kind, _, packed = form[1:].partition(".")
    path.write_bytes(PACKED[f".{packed}" if packed else ""](table(f".{kind}", TEXTS)))
    return path


def as_lines(folder: Path, form: str) -> Path:
    """The texts as lines of a file, of several in a folder, or as rows."""
    folder.mkdir(exist_ok=True)
    if form == "folder":
        for number, text in enumerate(TEXTS):
            (folder / f"{number}.txt").write_text(text + "\n")
        return folder
    if not form.startswith(".txt"):
        return as_rows(folder, form)
    path = folder / f"data{form}"
    path.write_bytes(PACKED[form.removeprefix(".txt")]("".join(text + "\n" for text in TEXTS).encode()))
    return path


def as_documents(folder: Path, form: str) -> Path:
    """The texts as documents: a file each, or a row each."""
    folder.mkdir(exist_ok=True)
    if not form.startswith(".txt"):
        return as_rows(folder, form)
    for number, text in enumerate(TEXTS):
        (folder / f"{number}{form}").write_bytes(PACKED[form.removeprefix(".txt")](text.encode()))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, a counted model of its tokens, a model of words, and a classifier of quality."""
    root = tmp_path_factory.mktemp("made")
    text = root / "all.txt"
    text.write_text("\n".join(TEXTS) + "\n")
    for name, texts in (("good", TEXTS * 3), ("bad", NEGATIVE)):
        (root / f"{name}.jsonl").write_bytes(table(".jsonl", texts))
    for command in (
        f"tokenizer train bpe {text} -s vocab_size=300 -o {root}/tok",
        f"ngram train {text} -o {root}/lm --order 2 --smoothing add-k --tokenizer {root}/tok",
        f"ngram train {text} -o {root}/words.ngram --order 2 --smoothing add-k",
        f"quality train --positive {root}/good.jsonl --negative {root}/bad.jsonl --folder {root}/quality --epochs 1",
    ):
        with pytest.raises(SystemExit) as ended:
            main(command.split())
        assert ended.value.code == 0
    return root


Work = Callable[[Any, Path, Path, Path], object]  # capsys, what `made` made, the input, a free folder -> what came out


def ngram_train(capsys: Any, made: Path, given: Path, out: Path) -> object:
    llmanac(capsys, "ngram", "train", given, "-o", out / "m.arpa", "--order", 2, "--smoothing", "add-k")
    text = (out / "m.arpa").read_text()
    assert not [mark for mark in SYNTAX if mark in text]
    return text


def ngram_score(capsys: Any, made: Path, given: Path, out: Path) -> object:
    return llmanac(capsys, "ngram", "score", made / "words.ngram", given, "--json", "--sentences")


def encode(capsys: Any, made: Path, given: Path, out: Path) -> object:
    return llmanac(capsys, "tokenizer", "encode", made / "tok", given, "--form", "pieces")


def score(capsys: Any, made: Path, given: Path, out: Path) -> object:
    return llmanac(capsys, "score", made / "lm", given, "--json")


def correct(capsys: Any, made: Path, given: Path, out: Path) -> object:
    words = ("--vocabulary", given, "--kinds", "article")
    return llmanac(capsys, "correct", made / "lm", given, *words, "--json")


def predict(capsys: Any, made: Path, given: Path, out: Path) -> object:
    rows = [json.loads(line) for line in llmanac(capsys, "classify", "predict", "rules", given).splitlines()]
    return [(row["text"], row["prediction"], row["probabilities"]) for row in rows]


def tokenizer_train(capsys: Any, made: Path, given: Path, out: Path) -> object:
    llmanac(capsys, "tokenizer", "train", "bpe", given, "-s", "vocab_size=300", "-o", out / "tok")
    return (out / "tok" / "tokenizer.json").read_text()


def tokenizer_extend(capsys: Any, made: Path, given: Path, out: Path) -> object:
    llmanac(capsys, "tokenizer", "extend", made / "tok", given, "--tokens", 9, "-o", out / "tok")
    return (out / "tok" / "tokenizer.json").read_text()


def tokenizer_compare(capsys: Any, made: Path, given: Path, out: Path) -> object:
    said = llmanac(capsys, "tokenizer", "compare", made / "tok", "--on", f"x={given}", "-o", out / "page", "--json")
    found = json.loads(said)
    return [found["values"], {arm: {k: v for k, v in c.items() if " of x" in k} for arm, c in found["costs"].items()}]


def ngram_tokens(capsys: Any, made: Path, given: Path, out: Path) -> object:
    model = ("--order", 2, "--smoothing", "add-k", "--tokenizer", made / "tok")
    llmanac(capsys, "ngram", "train", given, "-o", out / "lm", *model)
    return llmanac(capsys, "score", out / "lm", "--text", "the queen", "--json")


def dedup(capsys: Any, made: Path, given: Path, out: Path) -> object:
    llmanac(capsys, "dedup", given, "--method", "exact", "--out", out / "kept.jsonl")
    return [json.loads(line)["text"] for line in (out / "kept.jsonl").read_text().splitlines()]


def contamination(capsys: Any, made: Path, given: Path, out: Path) -> object:
    said = llmanac(capsys, "contamination", "--train", given, "--eval", made / "all.txt", "-n", 5, "--json")
    return {key: json.loads(said)[key] for key in ("documents", "bytes", "items", "found", "found_wholly")}


def quality(capsys: Any, made: Path, given: Path, out: Path) -> object:
    said = llmanac(capsys, "quality", "score", made / "quality", given, "--json")
    return [json.loads(line)["score"] for line in said.splitlines()]


BY_LINES: list[Work] = [ngram_train, ngram_score, encode, score, correct]
BY_DOCUMENTS: list[Work] = [
    tokenizer_train, tokenizer_extend, tokenizer_compare, ngram_tokens, dedup, contamination, quality,
]  # fmt: skip


# one reader knows the formats: a command of each group takes all of them, the others one of each sort
EACH = {".txt.gz", "folder", ".json", ".jsonl.zst", ".csv", ".parquet", ".zip"}
KNOWN: dict[Work, object] = {}


def pairs(works: list[Work], forms: list[str]) -> Any:
    chosen = [(work, form) for work in works for form in forms if work is works[0] or form in EACH]
    return pytest.mark.parametrize(("work", "form"), chosen, ids=[f"{work.__name__}-{form}" for work, form in chosen])


def of_plain(work: Work, made: Path, folder: Path, capsys: Any) -> object:
    """What a command makes of the texts as they are; done once, as every format must come to it."""
    if work not in KNOWN:
        (folder / "plain-out").mkdir()
        view = as_documents if work in BY_DOCUMENTS else as_lines
        KNOWN[work] = work(capsys, made, view(folder / "plain", ".txt"), folder / "plain-out")
    return KNOWN[work]


@pairs(BY_LINES, LINES)
def test_lines(work: Work, form: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = of_plain(work, made, tmp_path, capsys)
    assert work(capsys, made, as_lines(tmp_path / "in", form), tmp_path) == expected


@pytest.mark.parametrize("form", [*PLAIN, *FORMATS[:-1]])
def test_classify_predict(form: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It keeps a table's columns, so it reads one file: no folder, and no archive."""
    expected = of_plain(predict, made, tmp_path, capsys)
    assert predict(capsys, made, as_lines(tmp_path / "in", form), tmp_path) == expected


@pairs(BY_DOCUMENTS, [*PLAIN[1:], *FORMATS])
def test_documents(work: Work, form: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = of_plain(work, made, tmp_path, capsys)
    assert work(capsys, made, as_documents(tmp_path / "in", form), tmp_path) == expected


@pytest.mark.parametrize("work", [*BY_LINES[:-1], predict], ids=lambda work: work.__name__)
def test_standard_input(work: Work, made: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = of_plain(work, made, tmp_path, capsys)
    given = as_lines(tmp_path / "in", ".txt").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert work(capsys, made, Path("-"), tmp_path) == expected


@pytest.mark.parametrize("work", BY_DOCUMENTS, ids=lambda work: work.__name__)
def test_commands_that_read_twice_refuse_standard_input(work: Work, made: Path, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(AssertionError, match="standard input cannot be read here"):
        work(capsys, made, Path("-"), tmp_path)


def test_a_build_of_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forms = [*PLAIN, *FORMATS]
    recipe = "stages = []\n"
    for number, form in enumerate(forms):
        path = as_documents(tmp_path / f"{number}", form)
        recipe += f'[[inputs]]\nname = "files"\npaths = ["{path}"]\ndomain = "d{number}"\n'
    (tmp_path / "recipe.toml").write_text(recipe)
    llmanac(capsys, "data", "build", tmp_path / "recipe.toml", "--folder", tmp_path / "out", "--workers", 1)
    rows = [json.loads(line) for line in (tmp_path / "out/data/00000.jsonl").read_text().splitlines()]
    for number, form in enumerate(forms):
        assert [row["text"] for row in rows if row["meta"]["domain"] == f"d{number}"] == TEXTS, form


@pytest.mark.parametrize("work", [*BY_LINES, *BY_DOCUMENTS], ids=lambda work: work.__name__)
def test_of_pages_only_the_text_is_taken(work: Work, made: Path, tmp_path: Path, capsys: Any) -> None:
    page = "".join(f"<p>{text}</p>" for text in TEXTS)
    (tmp_path / "page.html").write_text(f"<html><body><article>{page}</article></body></html>")
    (tmp_path / "page.txt").write_text("\n\n".join(TEXTS))
    for name in ("there", "out"):
        (tmp_path / name).mkdir()
    found = work(capsys, made, tmp_path / "page.html", tmp_path / "out")
    if work is dedup:  # whose rows stay as they were
        assert found == [(tmp_path / "page.html").read_text()]
    else:
        assert found == work(capsys, made, tmp_path / "page.txt", tmp_path / "there")


def test_what_is_no_text_is_refused_by_name(made: Path, tmp_path: Path, capsys: Any) -> None:
    parquet, packed = table(".parquet", TEXTS), gzip.compress(b"a b c\n" * 9)
    for content, what in ((parquet, "a Parquet file"), (packed, "gzip data"), (b"PK\3\4zip", "a zip archive")):
        (tmp_path / "a.txt").write_bytes(content)
        for work in (*BY_LINES, predict, *BY_DOCUMENTS):
            with pytest.raises(AssertionError, match=rf"a\.txt: holds {what}, not text"):
                work(capsys, made, tmp_path / "a.txt", tmp_path)
    (tmp_path / "a.bin").write_bytes(bytes(100) + b"words")
    assert "a.bin: from byte 0 on it is binary" in refused(
        capsys, "ngram", "train", tmp_path / "a.bin", "-o", tmp_path / "m.ngram"
    )
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4")
    for words in (["predict", "rules"], ["evaluate", "rules"], ["train"]):
        assert "a.pdf: .pdf is neither lines of text nor a table" in refused(
            capsys, "classify", *words, tmp_path / "a.pdf"
        )
    (tmp_path / "ids.jsonl").write_text('{"ids": [1]}\n')
    words = ["tokenizer", "encode", made / "tok", tmp_path / "ids.jsonl", "--decode"]
    assert "ids.jsonl: is no text file" in refused(capsys, *words)


def test_another_column_and_chosen_files(made: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS))
    (folder / "b.log").write_text("unwanted words\n")
    plain = as_lines(tmp_path / "plain", ".txt")
    encoded = llmanac(capsys, "tokenizer", "encode", made / "tok", plain)
    chosen = ["--column", "body", "--include", "*.jsonl"]
    assert llmanac(capsys, "tokenizer", "encode", made / "tok", folder, *chosen) == encoded
    scored = llmanac(capsys, "ngram", "score", made / "words.ngram", plain, "--json")
    assert llmanac(capsys, "ngram", "score", made / "words.ngram", folder, *chosen, "--json") == scored
    said = refused(capsys, "ngram", "score", made / "words.ngram", folder)
    assert "a.jsonl:1: no column 'text'" in said and "--column" in said
    out = ["--out", tmp_path / "kept.jsonl"]
    llmanac(capsys, "dedup", folder, "--text", "body", "--include", "*.jsonl", "--method", "exact", *out)
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == len(TEXTS)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "a.odd").write_text("some words of an odd file\n")
    assert "choose others with include" in refused(capsys, "dedup", tmp_path / "odd", "--out", tmp_path / "o")
    llmanac(capsys, "dedup", tmp_path / "odd", "--include", "*.odd", "--method", "exact", "--out", tmp_path / "o")
    assert (tmp_path / "o").is_dir()


def test_a_file_that_swells_is_refused_everywhere(made: Path, tmp_path: Path, capsys: Any) -> None:
    bomb = tmp_path / "a.txt.gz"
    bomb.write_bytes(gzip.compress(b"a" * (18 << 20)))
    for work in (*BY_LINES[:-1], *BY_DOCUMENTS):
        with pytest.raises(AssertionError, match=r"a\.txt\.gz: .*more than 200 times as many; .*unpack it first"):
            work(capsys, made, bomb, tmp_path)
