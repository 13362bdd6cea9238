"""Where commands write: not over what they read, nor over what is there and not theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_dedup_command import llmanac, read, rows, write

LABELLED = "".join(
    json.dumps({"text": f"the {thing} is {word}", "label": label}) + "\n"
    for thing in ("pen", "cup", "film", "book")
    for word, label in (("good", "pos"), ("bad", "neg"))
)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence that a command is refused with."""
    capsys.readouterr()
    assert llmanac(*arguments) == 2, arguments
    error = capsys.readouterr().err
    before, _, message = error.rpartition("llmanac: ")  # progress may stand before it
    assert "llmanac: " not in before and "Traceback" not in error and message.count("\n") == 1, error
    return message


@pytest.fixture
def sets(tmp_path: Path) -> list[Any]:
    write(tmp_path / "train.jsonl", [{"text": "one two three four five six"}])
    write(tmp_path / "eval.jsonl", [{"q": "one two three four five"}])
    return ["contamination", "--train", tmp_path / "train.jsonl", "--eval", tmp_path / "eval.jsonl"]


@pytest.mark.parametrize("name", ["train.jsonl", "eval.jsonl"])
def test_contamination_never_writes_over_its_input(
    tmp_path: Path, name: str, sets: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tmp_path / name).read_bytes()
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / name)
    for out in (tmp_path / name, link):
        for more in ([], ["--force"]):
            assert "is read by this command" in refused(capsys, *sets, "--out", out, *more)
    assert (tmp_path / name).read_bytes() == before


def test_contamination_overwrites_only_with_force(
    tmp_path: Path, sets: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "notes.jsonl"
    out.write_text("mine")
    message = refused(capsys, *sets, "--out", out)
    assert f"--out: {out} is there already; name another place, or overwrite it with --force" in message
    assert out.read_text() == "mine"
    assert llmanac(*sets, "--out", out, "--force") == 0 and read(out)[0]["item"] == "eval.jsonl:1"
    assert "is a folder" in refused(capsys, *sets, "--out", tmp_path, "--force")


def test_a_list_of_what_is_set_aside_takes_no_other_files_place(
    tmp_path: Path, sets: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    aside, out = tmp_path / "o.quarantine.jsonl", tmp_path / "o.jsonl"
    aside.write_text('{"mine": 1}\n')
    with open(tmp_path / "train.jsonl", "a") as handle:
        handle.write("{oops\n")
    words = [*sets, "--out", out, "--on-error", "skip"]
    assert "o.quarantine.jsonl would list what is set aside" in refused(capsys, *words)
    assert aside.read_text() == '{"mine": 1}\n' and not out.exists()
    aside.unlink()
    assert llmanac(*words) == 0 and read(aside)[0]["line"] == 2
    assert llmanac(*words, "--force") == 0  # the list of a run before is this command's own
    words = ["contamination", "--train", tmp_path / "train.jsonl", aside, *sets[3:], *words[5:], "--force"]
    assert "is read by this command" in refused(capsys, *words)


def test_predict_writes_over_nothing_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "out.csv"
    data.write_text(LABELLED)
    out.write_text("mine")
    words = ["classify", "predict", "rules", data]
    for more in ([], ["--force"]):
        assert "is read by this command" in refused(capsys, *words, "--output", data, *more)
    assert data.read_text() == LABELLED
    assert "overwrite it with --force" in refused(capsys, *words, "--output", out)
    assert out.read_text() == "mine"
    assert llmanac(*words, "--output", out, "--force") == 0 and out.read_text().startswith("text,label,")


def test_a_classifiers_folder_is_replaced_only_where_all_in_it_is_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, data = tmp_path / "bow", tmp_path / "data.jsonl"
    data.write_text(LABELLED)
    words = ["classify", "train", data, "--folder", folder, "-s", "epochs=1"]
    assert llmanac(*words) == 0 and llmanac(*words) == 0
    (folder / "notes.txt").write_text("mine")
    assert "holds other files (notes.txt)" in refused(capsys, *words)
    (folder / "notes.txt").unlink()
    (folder / "more.jsonl").write_text(LABELLED)
    message = refused(capsys, "classify", "train", folder / "more.jsonl", "--folder", folder)
    assert "which this command reads" in message and (folder / "more.jsonl").read_text() == LABELLED


def test_pages_are_written_over_no_files_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "table.json"
    data.write_text("[" + ",".join(LABELLED.splitlines()) + "]")
    before = data.read_bytes()
    words = ["classify", "table", data, "--test", data, "--methods", "rules,bow", "--seeds", 1, "--folder"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "study.html").write_text("mine")
    assert "study.html" in refused(capsys, *words, tmp_path / "mine")
    assert (tmp_path / "mine" / "study.html").read_text() == "mine" and data.read_bytes() == before


def test_a_study_and_weights_take_no_other_files_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.html").write_text("mine")
    words = ["compare", "position", "--arms", "rope,none", "--folder", tmp_path]
    assert "study.html is there already and not of this command" in refused(capsys, *words)
    (tmp_path / "weights.json").write_text('{"mine": 1}')
    words = ["data", "weights", tmp_path / "build", "--out"]
    assert "weights.json is there already and not of this command" in refused(capsys, *words, tmp_path)
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "build.json").write_text("{}")
    assert "is the folder of a build" in refused(capsys, *words, tmp_path / "build")
    assert (tmp_path / "study.html").read_text() == "mine"


def test_a_quality_model_takes_no_folder_of_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("good.txt", "bad.txt"):
        (tmp_path / name).write_text("words\n")
    words = ["quality", "train", "--positive", tmp_path / "good.txt", "--negative", tmp_path / "bad.txt"]
    assert "which this command reads" in refused(capsys, *words, "--folder", tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    assert "holds something else than a quality model" in refused(capsys, *words, "--folder", other)
    assert (other / "thesis.txt").read_text() == "mine" and (tmp_path / "good.txt").exists()


def test_dedup_takes_no_other_files_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "in.jsonl", rows(20))
    words = ["dedup", data, "--text", "body", "--method", "exact", "--out"]
    for name in ("mine.jsonl", "new.report.json", "new.dropped.jsonl"):
        (tmp_path / name).write_text("mine")
        out = tmp_path / f"{name.partition('.')[0]}.jsonl"
        assert f"{name} is there already, and no llmanac dedup wrote it" in refused(capsys, *words, out)
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    assert llmanac(*words, tmp_path / "new.jsonl") == 0 and llmanac(*words, tmp_path / "new.jsonl") == 0
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "report.json").write_text('{"my": "report"}')
    assert "holds other files (report.json" in refused(capsys, *words, folder)


def test_dedup_names_its_files_without_line_breaks(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("na\nme.txt", "na_me.txt", "b\x1b[1m.md"):
        (source / name).write_text(f"a text that is {name!r}")
    assert llmanac("dedup", source, "--method", "exact", "--out", out) == 0
    names = [path.name for path in out.iterdir()]
    assert all(name.isprintable() for name in names) and len([name for name in names if "na_me" in name]) == 2
    kept = [row["text"] for path in out.glob("*.jsonl") if path.name != "dropped.jsonl" for row in read(path)]
    assert len(kept) == 3


def test_a_command_of_another_name_says_which_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    for given, expected in (
        ("train", "`llmanac run` pretrains from text, `llmanac tune`"),
        ("fine-tune", "`llmanac tune`"),
        ("genrate", "did you mean 'generate'?"),
        ("nonsense-", "`llmanac --help` names all"),
    ):
        assert expected in refused(capsys, given)
