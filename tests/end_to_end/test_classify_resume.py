"""`llmanac classify train` that is stopped, killed and goes on; input that is set aside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
from _labelled import BAD, GOOD, THINGS
from test_classify import call

from llmanac.core.spec import make_method
from llmanac.data.examples import ExampleStream
from llmanac.data.labelled import read_labelled
from llmanac.models.classifiers._base import Classifier

SLOW = ("-s", "epochs=10", "-s", "batch=8", "-s", "dim=16")  # steps enough to be stopped in


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    texts = [f"the {thing} of {other} is {word}" for thing, other, word in product(THINGS, THINGS, GOOD + BAD)]
    lines = [json.dumps({"text": t, "label": "pos" if t.split()[-1] in GOOD else "neg"}) for t in texts]
    path.write_text("\n".join(lines) + "\n")
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def whole(rows, tmp_path, capsys):
    """What a training in one go writes."""
    folder = tmp_path / "whole" / "cbow"
    status, _, err = call(capsys, *command(rows, folder)[4:])
    assert status == 0 and not folder.with_name("cbow.training").exists(), err
    return content(folder)


def command(rows: Path, folder: Path, *more: str) -> list[str]:
    words = ["classify", "train", str(rows), "--method", "cbow", "--folder", str(folder), *SLOW, *more]
    return [sys.executable, "-m", "llmanac.cli", *words]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_training_goes_on_to_the_same_bytes(rows, whole, tmp_path, capsys, how):
    folder, work = tmp_path / "cbow", tmp_path / "cbow.training"
    process = subprocess.Popen(command(rows, folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not any((work / "checkpoints").glob("step-*")) and time.monotonic() < end:
        time.sleep(0.005)
    os.kill(process.pid, how)
    out, err = process.communicate(timeout=120)
    assert process.returncode == (130 if how == signal.SIGINT else -9), err
    assert not folder.exists() and (work / "recipe.toml").is_file()
    if how == signal.SIGINT:
        assert "Traceback" not in err and "nothing is lost" in out and "--resume" in out
    words = command(rows, folder)[4:]
    status, _, err = call(capsys, *words)
    assert status == 2 and "is there already; --resume goes on with the run in it" in err
    for more, message in ((["--seed", 3], "seed (was 0, now 3)"), (["-s", "lr=0.1"], "method.lr (was 0.003, now 0.1)")):
        status, _, err = call(capsys, *words, "--resume", *more)
        assert status == 2 and message in err and err.count("\n") == 1, err
    status, _, err = call(capsys, *words, "--resume")
    assert status == 0 and "resuming" in err, err
    assert content(folder) == whole and not work.exists()


def test_a_training_without_a_folder_says_that_nothing_is_kept(rows, monkeypatch, capsys):
    data, real = read_labelled(rows), ExampleStream.__next__

    def stop(self):
        signal.raise_signal(signal.SIGINT)
        return real(self)

    monkeypatch.setattr(ExampleStream, "__next__", stop)
    with pytest.raises(KeyboardInterrupt):
        make_method("classifier", "cbow").build().fit(data.texts, data.labels)
    assert "nothing is kept of this training" in capsys.readouterr().err


def test_resume_with_nothing_there_begins(rows, tmp_path, capsys):
    status, _, err = call(capsys, "train", rows, "--folder", tmp_path / "bow", "--resume", "-s", "epochs=2")
    assert status == 0 and "no training to resume; this one starts at the beginning" in err


def test_files_of_others_beside_a_training_are_kept(rows, tmp_path, capsys):
    own = tmp_path / "cbow.training" / "notes.txt"
    own.parent.mkdir()
    own.write_text("mine")
    for more in ((), ("--resume",)):
        status, _, err = call(capsys, *command(rows, tmp_path / "cbow", *more)[4:])
        said = "there is no run to resume" if more else "is there already and is no run"
        assert status == 2 and f"cbow.training: {said}" in err, err
        assert own.read_text() == "mine"


@pytest.mark.parametrize("name", ["checkpoints/photo.jpg", "metrics.jsonl", "tokenizer/mine.json", "plan.json"])
def test_without_a_record_nothing_in_the_folder_is_ours(rows, tmp_path, capsys, name):
    own = tmp_path / "cbow.training" / name
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    for more in ((), ("--resume",)):
        status, _, err = call(capsys, *command(rows, tmp_path / "cbow", *more)[4:])
        said = "there is no run to resume" if more else "is there already and is no run"
        assert status == 2 and f"cbow.training: {said}" in err, err
        assert own.read_text() == "mine" and not (tmp_path / "cbow").exists()


def test_files_of_others_within_a_training_outlive_it(rows, tmp_path, capsys, monkeypatch):
    folder, work = tmp_path / "cbow", tmp_path / "cbow.training"
    real = Classifier.fit

    def also(self, *given, **how):
        real(self, *given, **how)
        (work / "notes.txt").write_text("mine")

    monkeypatch.setattr(Classifier, "fit", also)
    status, _, err = call(capsys, *command(rows, folder)[4:])
    assert status == 0 and "(notes.txt)" in err, err
    assert (folder / "classifier.json").is_file() and [path.name for path in work.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("content", ["{oops", "[]", '{"epochs": 3}'])
def test_a_record_that_is_not_ours_is_left_alone(rows, tmp_path, capsys, content):
    work = tmp_path / "cbow.training"
    (work / "checkpoints").mkdir(parents=True)
    (work / "run.json").write_text(content)
    for more in ((), ("--resume",)):
        status, _, err = call(capsys, *command(rows, tmp_path / "cbow", *more)[4:])
        assert status == 2 and err.count("\n") == 1 and "run.json" in err, err
    assert (work / "run.json").read_text() == content and (work / "checkpoints").is_dir()


def test_a_folder_that_was_half_removed_is_gone_on_with(rows, tmp_path, capsys, monkeypatch):
    """A kill between the classifier and the end of its work folder: `--resume` finishes."""
    work = tmp_path / "bow.training"
    with monkeypatch.context() as patched:
        patched.setattr("llmanac.recipes.classifying.use.shutil.rmtree", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call(capsys, "train", rows, "--folder", tmp_path / "bow", "-s", "epochs=2")
    assert (work / "recipe.toml").is_file() and (tmp_path / "bow" / "classifier.json").is_file()
    shutil.rmtree(work / "checkpoints")
    assert call(capsys, "train", rows, "--folder", tmp_path / "bow", "-s", "epochs=2", "--resume")[0] == 0
    assert not work.exists() and (tmp_path / "bow" / "classifier.json").is_file()


def test_an_unknown_label_of_the_test_set_is_found_before_training(rows, tmp_path, capsys):
    (tmp_path / "test.csv").write_text("text,label\na good film,pos\nwhat,odd\n")
    words = ["train", rows, "--folder", tmp_path / "bow", "--test", tmp_path / "test.csv"]
    status, _, err = call(capsys, *words)
    assert status == 2 and "test.csv:3: label 'odd' " in err
    assert not (tmp_path / "bow").exists()


def test_what_cannot_be_used_is_set_aside_on_request(rows, tmp_path, capsys):
    bad = tmp_path / "bad.jsonl"
    odd = b'{"text": "\xff", "label": "pos"}\n{"text": "x"}\n{oops\n{"text": " ", "label": 1}\n'
    bad.write_bytes(rows.read_bytes() + odd)
    words = ["train", bad, "--folder", tmp_path / "bow", "-s", "epochs=2"]
    status, _, err = call(capsys, *words)
    assert status == 2 and "bad.jsonl:289: not UTF-8" in err and "--on-error skip" in err
    status, out, _ = call(capsys, *words, "--on-error", "skip")
    assert status == 0 and "4 unusable rows were left out" in out
    listed = [json.loads(line) for line in (tmp_path / "bow.quarantine.jsonl").read_text().splitlines()]
    assert [one["line"] for one in listed] == [289, 290, 291, 292]
    status, _, err = call(capsys, *words, "--on-error", "ignore")
    assert status == 2 and "--on-error: 'ignore' is not fatal or skip" in err
    (tmp_path / "none.jsonl").write_text('{"text": 1}\n')
    status, _, err = call(capsys, "train", tmp_path / "none.jsonl", "--on-error", "skip")
    assert status == 2 and "no usable example; all 1 rows were set aside" in err


def test_prediction_reads_what_training_reads(rows, tmp_path, capsys):
    folder = tmp_path / "bow"
    assert call(capsys, "train", rows, "--folder", folder, "-s", "epochs=20")[0] == 0

    def predicted(content, *more):
        (tmp_path / "lines.txt").write_text(content)
        status, out, err = call(capsys, "predict", folder, tmp_path / "lines.txt", *more)
        return status, [json.loads(line)["text"] for line in out.splitlines()], err

    labelled = "pos the film is good\n\nneg the plot is bad\n"
    status, texts, err = predicted(labelled)
    assert status == 0 and texts == ["the film is good", "the plot is bad"] and "--text-only keeps it" in err
    assert predicted(labelled, "--text-only")[1] == ["pos the film is good", "", "neg the plot is bad"]
    status, texts, err = predicted("a good film\nneg is a word\nbad\n")
    assert texts == ["a good film", "neg is a word", "bad"] and not err
    assert predicted("a good film\nneg it is bad\n", "--with-labels")[1] == ["good film", "it is bad"]
    status, texts, err = predicted("pos a\nneg b\nodd c\n")
    assert status == 2 and "lines.txt:3: begins with 'odd' and no label" in err and not texts
    status, texts, err = predicted("")
    assert status == 2 and "lines.txt: has no text" in err
    (tmp_path / "head.csv").write_text("text\n")
    status, _, err = call(capsys, "predict", folder, tmp_path / "head.csv")
    assert status == 2 and "head.csv: has no text" in err
