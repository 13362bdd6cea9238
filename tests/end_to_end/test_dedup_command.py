"""`llmanac dedup` and `llmanac contamination` as a user runs them: files in and out, refusals, kill and rerun."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmanac.cli import main

WORDS = [f"{a}{b}" for a in "bcdfghjklm" for b in ("an", "el", "or", "ist", "um")]


def llmanac(*arguments: object) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts with near and exact copies among them, and other columns."""
    rng = random.Random(seed)
    out: list[dict[str, Any]] = []
    for number in range(count):
        if out and rng.random() < 0.3:
            text = rng.choice(out)["body"]
            text = text + " tail" if rng.random() < 0.5 else text
        else:
            text = " ".join(rng.choice(WORDS) for _ in range(60)) + " é"
        out.append({"id": number, "body": text, "tags": ["a", None]})
    return out


def write(path: Path, data: list[dict[str, Any]]) -> Path:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as handle:
        handle.writelines(json.dumps(row) + "\n" for row in data)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("method", ["minhash", "exact", "lines", "paragraphs", "substring"])
def test_rows_that_stay_are_the_rows_that_were(tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = rows(300)
    one, other = write(tmp_path / "one.jsonl", data[:200]), write(tmp_path / "two.jsonl.gz", data[200:])
    out = tmp_path / "out"
    assert llmanac("dedup", one, other, "--text", "body", "--method", method, "--out", out, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((out / "report.json").read_text())
    kept, gone = read(out / "one.jsonl") + read(out / "two.jsonl"), read(out / "dropped.jsonl")
    assert len(kept) == report["kept"] and len(gone) == sum(report["dropped"].values())
    assert len(kept) + len(gone) == 300 and len(gone) > 20
    by_id = {row["id"]: row for row in data}
    for row in kept:
        assert row.keys() == by_id[row["id"]].keys() and row["tags"] == ["a", None]
        assert report["changed"] or row == by_id[row["id"]]
    assert {row["id"].partition(":")[0] for row in gone} <= {"one.jsonl", "two.jsonl.gz"}
    assert not (out / ".work").exists()
    if method == "exact":
        assert [row["id"] for row in kept] == [
            r["id"] for i, r in enumerate(data) if r["body"] not in {x["body"] for x in data[:i]}
        ]


def test_one_file_out_text_in_and_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("a.txt", "the same text here\n"), ("b.md", "the same text here\n"), ("c.txt", "another one")):
        (tmp_path / name).write_text(text)
    out = tmp_path / "clean.jsonl"
    files = [tmp_path / name for name in ("a.txt", "b.md", "c.txt")]
    assert llmanac("dedup", *files, "--method", "exact", "--out", out) == 0
    printed = capsys.readouterr().out
    assert "exact-duplicate" in printed and "Next: head -n 3" in printed
    assert read(out) == [{"id": "a.txt", "text": "the same text here\n"}, {"id": "c.txt", "text": "another one"}]
    assert read(tmp_path / "clean.dropped.jsonl")[0] == {
        "id": "b.md",
        "reason": "exact-duplicate",
        "detail": "of a.txt",
    }


def test_refusals_are_one_sentence_and_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write(tmp_path / "good.jsonl", rows(5))
    (tmp_path / "bad.jsonl").write_text('{"body": "a"}\n{"body": 3}\n')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    for arguments, message in (
        (
            [good, "--out", tmp_path / "o"],
            r"no column 'text' (has: body, id, tags); name the text's column with --text",
        ),
        ([tmp_path / "bad.jsonl", "--text", "body", "--out", tmp_path / "o"], "bad.jsonl:2: column 'body' holds int"),
        ([good, "--text", "body", "--out", tmp_path / "full"], "holds other files (mine"),
        ([good, "--text", "body", "--out", good], "good.jsonl would be written over"),
        ([good, "--text", "body", "--out", tmp_path / "o", "--method", "minhsh"], "did you mean 'minhash'"),
        ([good, "--text", "body", "--out", tmp_path / "o", "--memory", "lots"], "--memory: 'lots' is not a size"),
        ([good, "--text", "body", "--out", tmp_path / "o", "--memory", "1k"], "memory: "),
        ([good, "--text", "body", "--out", tmp_path / "o", "-s", "treshold=0.5"], "did you mean 'threshold'"),
        ([tmp_path / "gone.jsonl", "--out", tmp_path / "o"], "no such file"),
    ):
        assert llmanac("dedup", *arguments) == 2, arguments
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]
    assert len(read(good)) == 5


@pytest.mark.slow
def test_killed_and_run_again_the_files_are_the_same(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", rows(4000))
    command = [sys.executable, "-m", "llmanac.cli", "dedup", str(source), "--text", "body", "--method", "minhash"]

    def folder(name: str) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in sorted((tmp_path / name).iterdir()) if p.is_file()}

    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True, timeout=300)
    expected = folder("whole")
    out = tmp_path / "killed"
    kills = 0
    for milestone in (".work/summary-00000", ".work/decisions-00000", "tmp"):
        process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            reached = any(out.glob(".tmp-*.jsonl")) if milestone == "tmp" else (out / milestone).exists()
            if reached or any(out.glob(f"{Path(milestone).parent}/.tmp-*{Path(milestone).name}")):
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        process.wait()
    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True, timeout=300)
    assert kills >= 1
    assert folder("killed") == expected
    assert not (out / ".work").exists() and not list(out.glob(".tmp-*"))


def test_contamination_with_several_files_after_one_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(0)
    items = [" ".join(rng.choice(WORDS) for _ in range(20)) for _ in range(30)]
    write(tmp_path / "e1.jsonl", [{"question": q} for q in items[:20]])
    write(tmp_path / "e2.jsonl", [{"question": q} for q in items[20:]])
    filler = [" ".join(rng.choice(WORDS) for _ in range(300)) for _ in range(4)]
    write(tmp_path / "t1.jsonl", [{"text": filler[0] + " " + items[3].upper()}, {"text": filler[1]}])
    (tmp_path / "t2.txt").write_text(filler[2] + "\n" + items[25] + "\n" + " ".join(items[7].split()[:15]) + filler[3])
    files = [
        "--train",
        tmp_path / "t1.jsonl",
        tmp_path / "t2.txt",
        "--eval",
        tmp_path / "e1.jsonl",
        tmp_path / "e2.jsonl",
    ]
    assert llmanac("contamination", *files, "--column", "question", "--out", tmp_path / "o.jsonl", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["items"], found["found"], found["found_wholly"], found["documents"]) == (30, 3, 2, 3)
    assert {row["item"]: row["document"] for row in found["found_items"]} == {
        "e1.jsonl:4": "t1.jsonl:1", "e1.jsonl:8": "t2.txt", "e2.jsonl:6": "t2.txt",
    }  # fmt: skip
    assert found["files"]["e1.jsonl"]["found"] == 2
    each = read(tmp_path / "o.jsonl")
    assert len(each) == 30 and each[7]["share"] == pytest.approx(2 / 8)
    assert llmanac("contamination", *files) == 0
    assert "wholly" in capsys.readouterr().out
    assert llmanac("contamination", "--train", tmp_path / "none.txt", "--eval", tmp_path / "e1.jsonl") == 2
    assert "none.txt: no such file" in capsys.readouterr().err


def test_dedup_sets_aside_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "in.jsonl"
    bad.write_bytes(b'{"text": "a b c"}\n{"text": "\xff"}\n{"text": 3}\n{oops\n{"text": "a b c"}\n{"text": "d"}\n')
    (tmp_path / "odd.txt").write_bytes(b"good until here \xff")
    whole = gzip.compress(b'{"text": "first"}\n' + b'{"text": "and more"}\n' * 9)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-12])
    files = [bad, tmp_path / "odd.txt", tmp_path / "cut.jsonl.gz"]
    words = ["dedup", *files, "--method", "exact", "--out", tmp_path / "o"]
    assert llmanac(*words) == 2
    assert "in.jsonl:2: not UTF-8 at byte 28" in (error := capsys.readouterr().err) and "--on-error skip" in error
    assert "on_error" not in error and llmanac(*words, "--on-error", "drop") == 2
    assert "--on-error: 'drop' is not fatal or skip" in capsys.readouterr().err
    assert llmanac(*words, "--on-error", "skip", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    listed = read(tmp_path / "o" / "quarantine.jsonl")
    assert [(Path(one["file"]).name, one["line"]) for one in listed] == [
        ("in.jsonl", 2), ("in.jsonl", 3), ("in.jsonl", 4), ("odd.txt", None), ("cut.jsonl.gz", None),
    ]  # fmt: skip
    assert report["set_aside"] == 5 and [row["text"] for row in read(tmp_path / "o" / "in.jsonl")] == ["a b c", "d"]
    assert report["documents"] == report["kept"] + sum(report["dropped"].values())
    good = write(tmp_path / "good.jsonl", [{"text": "x"}])
    assert llmanac("dedup", good, "--method", "exact", "--out", tmp_path / "o", "--on-error", "skip") == 0
    assert not (tmp_path / "o" / "quarantine.jsonl").exists()
    (tmp_path / "none.jsonl").write_text('{"text": 1}\n')
    words = ["dedup", tmp_path / "none.jsonl", "--method", "exact", "--out", tmp_path / "p.jsonl", "--on-error", "skip"]
    capsys.readouterr()
    assert llmanac(*words) == 2 and "no usable text; all was set aside" in capsys.readouterr().err
    assert not (tmp_path / "p.jsonl").exists()


def test_contamination_sets_aside_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "one two three four five six seven eight nine ten eleven twelve thirteen"
    (tmp_path / "train.jsonl").write_bytes(
        json.dumps({"text": words}).encode() + b'\n{"text": "\xff"}\n{"body": "x"}\n'
    )
    rows = [
        json.dumps({"q": words}),
        '{"q": null}',
        '{"q": NaN}',
        '{"q": true}',
        '{"q": 12345}',
        '{"r": "x"}',
        '{"q": " "}',
    ]
    (tmp_path / "e.jsonl").write_text("\n".join(rows) + "\n")
    files = ["--train", tmp_path / "train.jsonl", "--eval", tmp_path / "e.jsonl", "--column", "q", "--json"]
    assert llmanac("contamination", *files) == 2
    error = capsys.readouterr().err
    assert "e.jsonl:2: column 'q' holds null where the item's text was expected" in error
    assert "--on-error skip" in error and error.count("\n") == 1
    assert llmanac("contamination", *files, "--on-error", "skip", "--out", tmp_path / "o.jsonl") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["items"], found["found"], found["set_aside"]) == (2, 1, 6)
    listed = read(tmp_path / "o.quarantine.jsonl")
    assert [(Path(one["file"]).name, one["line"]) for one in listed] == [
        *(("e.jsonl", line) for line in (2, 3, 4, 6)), ("train.jsonl", 2), ("train.jsonl", 3),
    ]  # fmt: skip
    assert "column 'q' holds nan" in listed[1]["reason"]
    wrong = ["--train", tmp_path / "train.jsonl", "--eval", tmp_path / "e.jsonl", "--on-error", "skip"]
    assert llmanac("contamination", *wrong, "--column", "q", "zz", "--out", tmp_path / "o.jsonl", "--force") == 2
    assert "--column: no row of" in capsys.readouterr().err


def test_names_as_long_as_a_file_system_takes(tmp_path: Path) -> None:
    names = ["a" * 251, "b" * 250, "b" * 249 + "c"]
    for name in names:
        (tmp_path / f"{name}.txt").write_text(name)
    assert llmanac("dedup", tmp_path, "--method", "exact", "--out", tmp_path / "out") == 0
    written = sorted((tmp_path / "out").glob("*.jsonl"))
    assert [path.name[:8] for path in written] == ["00001-bb", "00002-bb", "aaaaaaaa", "dropped."]
