"""Comparisons that are stopped, cannot write, or share a folder: one sentence, and then the same numbers."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from llmanac.cli import main
from llmanac.core.errors import LlmanacError
from llmanac.core.lock import locked
from llmanac.lab import report
from llmanac.lab.trials.tokenizers import TokenizerTrial

resource = pytest.importorskip("resource", reason="this system limits no files")
ARMS = ("utf8", "bpe{vocab_size=270}")


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A comparison of two tokenizers on a file."""
    text = "".join(f"the cat number {n} sat on the mat with {n * n % 97} others.\n" for n in range(3000))
    (tmp_path / "text.txt").write_text(text)
    monkeypatch.chdir(tmp_path)
    return ["compare", "tokenizer", "--arms", ",".join(ARMS), "--on", "text.txt"]


def ended(words: list[str], folder: str) -> int:
    with pytest.raises(SystemExit) as found:
        main([*words, "--folder", folder])
    return int(found.value.code or 0)


def values(folder: str) -> Any:
    return json.loads((Path(folder) / "study.json").read_text())["values"]


def test_ctrl_c_keeps_the_runs_that_are_done(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(words, "a/whole") == 0
    measure = TokenizerTrial.measure

    def stopped(self: Any, arm: Any, *given: Any) -> Any:
        if arm.label == ARMS[1]:
            raise KeyboardInterrupt
        return measure(self, arm, *given)

    with monkeypatch.context() as patched:
        patched.setattr(TokenizerTrial, "measure", stopped)
        capsys.readouterr()
        assert ended(words, "b/cut") == 130
    assert "Stopped; every finished run is kept. Continue with: the same command" in capsys.readouterr().out
    assert not Path("b/cut/study.json").exists()
    assert ended(words, "b/cut") == 0 and values("b/cut") == values("a/whole")
    said = capsys.readouterr().out
    assert f"{ARMS[0]}: from the cache" in said and f"{ARMS[1]}: done" in said


@pytest.mark.parametrize("most", [0, 300, 20_000])
def test_a_disk_that_is_full(words: list[str], most: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The system lets no file grow past so many bytes: no plan, no result of an arm, no page."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        assert ended(words, "a/study") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert said.count("llmanac: ") == 1 and "cannot write (File too large)" in said and "Traceback" not in said
    assert not list(Path("a").rglob(".tmp*"))
    assert ended(words, "a/study") == 0 and Path("a/study/study.html").is_file()


@pytest.mark.parametrize("folder", ["/proc/nowhere", "text.txt/below"])
def test_a_place_that_takes_no_files(words: list[str], folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(words, folder) == 2
    assert folder.rpartition("/")[0] in capsys.readouterr().err


@pytest.mark.parametrize("damage", ['{"items": ', "[]", '{"definition": 1, "items": 2}'])
def test_a_damaged_plan_is_named_and_made_again(
    words: list[str], damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "a" / "plan.json"
    assert ended(words, str(plan.parent)) == 0
    first, made = plan.read_text(), values(str(plan.parent))
    plan.write_text(damage)
    assert ended(words, str(plan.parent)) == 0 and values(str(plan.parent)) == made
    assert f"{plan}: is cut or was changed" in capsys.readouterr().err and plan.read_text() == first


def test_two_processes_on_one_folder_measure_every_arm_once(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    measure = TokenizerTrial.measure

    def logged(self: Any, arm: Any, *given: Any) -> Any:
        with open("log", "a") as log:
            log.write(f"{arm.label}\n")
        return measure(self, arm, *given)

    monkeypatch.setattr(TokenizerTrial, "measure", logged)
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=ended, args=(words, "a/study")) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0] and Path("log").read_text().splitlines() == [*ARMS]


def test_two_questions_on_one_folder_write_their_pages_one_after_the_other(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second study that ends between the first one's files would move its numbers away without their page."""
    write, tried = report.write_text, []

    def probed(path: Path, text: str) -> Path:
        with pytest.raises(LlmanacError, match="at work"), locked(path.parent / ".lock", busy="at work"):
            pass
        tried.append(path.name)
        return write(path, text)

    monkeypatch.setattr(report, "write_text", probed)
    other = [*words[:3], "utf8,bpe{vocab_size=280}", *words[4:]]
    assert ended(words, "a/study") == 0 and ended(other, "a/study") == 0
    (numbers,), (page,) = Path("a/study").glob("study-*.json"), Path("a/study").glob("study-*.html")
    assert numbers.stem == page.stem and sorted({*tried}) == ["study.html", "study.md"]
