"""Natural questions: their files, how answers are scored, and the names that a Python's documentation has."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmanac.core.errors import DataError
from llmanac.data.sources import _public
from llmanac.data.sources._public import Name, package_names
from llmanac.data.sources.python_docs import Spec
from llmanac.retrieve.folder.answers import Citation, FolderAnswer
from llmanac.retrieve.folder.index import Passage
from tools.natural_questions import KINDS, Question, read_questions, score_answer, table

FILES = Path(__file__).resolve().parents[2] / "evidence" / "docs_assistant"


@pytest.mark.parametrize(
    ("part", "each"), [("work", 12), ("measure", 12), ("kept", 12), ("dev2", 10), ("measure2", 20), ("new", None)]
)
def test_question_files_are_well_formed_and_name_entries(part: str, each: int | None) -> None:
    questions = read_questions(FILES / f"{part}.jsonl")
    new = {"named": 10, "unnamed": 20, "typo": 7, "followup": 8, "unanswerable": 15}
    assert Counter(q.kind for q in questions) == (dict.fromkeys(KINDS, each) if each else new)
    assert len({q.id for q in questions}) == len(questions)
    assert all(q.history for q in questions if q.kind == "followup")
    assert all(q.entries and q.answers for q in questions if q.kind != "unanswerable")
    if "3.11.7" not in Spec().version():
        pytest.skip("the questions are about the docstrings of Python 3.11.7")
    names = {e.name for e in Spec().entries()}
    assert {name for q in questions for name in q.entries} <= names


def test_parts_share_no_entry() -> None:
    parts = [{n for q in read_questions(FILES / f"{p}.jsonl") for n in q.entries} for p in ("work", "measure", "kept")]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"id": "x", "kind": "named"}, "question"),
        ({"id": "x", "kind": "odd", "question": "?"}, "kind"),
        ({"id": "x", "kind": "named", "question": "?", "entries": "len"}, "entries"),
        ({"id": "x", "kind": "unanswerable", "question": "?", "entries": ["len"]}, "entries"),
    ],
)
def test_a_question_that_cannot_be_read_is_named(tmp_path: Path, row: dict[str, object], named: str) -> None:
    good = {"id": "a", "kind": "named", "question": "What does len do?", "entries": ["len"], "answers": ["items"]}
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(map(json.dumps, [good, row])))
    with pytest.raises(DataError, match=rf"q\.jsonl:2: .*{named}"):
        read_questions(path)


def cited(quotes: list[str], text: str, name: str = "a.b", *, refused: bool = False) -> FolderAnswer:
    passage = Passage(0, "a.md", 0, 1, 1, 1, f"{name}(x=1)", f"# {name}(x=1)\n\n{text}")
    rows = [Citation(1, "a.md:1", passage.text, passage, quote) for quote in quotes]
    return FolderAnswer("", rows, refused, shown=[passage])


def test_scores_follow_their_rule() -> None:
    question = Question("1", "named", "?", entries=("a.b",), answers=("It is\n  kept once per task.", "x=2"))
    text = {
        "a.b": "a.b(x=1) First. It is kept once per task. Nothing else is said.",
        "a.c": "a.c(x=1) First. It is kept once per task.",
    }

    def scored(*quotes: str, name: str = "a.b", refused: bool = False):
        return score_answer(question, cited(list(quotes), "First. More.", name, refused=refused), text)

    assert scored("It is kept once per task. Nothing else").line
    assert scored("is kept once per task.").line, "most of an accepted piece"
    assert not scored("task.").line
    assert not scored("It is kept once per task.", name="a.c").right, "of another entry"
    second = scored("Nothing else is said.", "It is kept once per task.")
    assert (second.right, second.line, second.invented) == (True, False, False)
    assert scored("Nothing else is said.", "It is made up.").invented
    first = score_answer(question, cited(["Nothing else is said."], "It is kept once per task. More."), text)
    assert (first.entry, first.line, first.right) == (True, False, True), "the first sentence is shown with it"
    refusal = scored(refused=True)
    assert (refusal.entry, refusal.line, refusal.refused, refusal.invented) == (True, False, True, False)
    assert not scored(name="a.c", refused=True).entry
    rows = table([question, question], [first, refusal])
    assert (rows["named"]["questions"], rows["naming"]["entry"], rows["answerable"]["refused"]) == (2, 2, 1)


@pytest.fixture(scope="module")
def library_names() -> dict[str, Name]:
    return {name.name: name for name in Spec().names()}


def test_the_library_says_where_its_names_are_documented(library_names: dict[str, Name]) -> None:
    documented = {e.name: e for e in Spec().entries()}
    for name in ("asyncio.gather", "random.randint", "unittest.TestCase", "tarfile.open", "bisect.bisect"):
        assert documented[library_names[name].entry].doc, name
    for name in ("os.path.splitext", "threading.Lock", "configparser.ConfigParser.read", "pathlib.Path.with_suffix"):
        assert documented[library_names[name].entry].doc, name
    reader = library_names["csv.DictReader"]
    assert (reader.entry, reader.signature[:15]) == ("", "(f, fieldnames=")
    assert "staticmethod" not in documented["str.maketrans"].doc
    assert "translation table" in documented["str.maketrans"].doc
    assert not set(library_names) & set(documented)
    calls = Spec().calls()
    assert calls["isinstance"] > 100 and calls["os.path.join"] > 50 and calls[".append"] > 100
    assert not calls["path.join"], "a name is counted in full"


def test_a_package_is_read_and_never_run(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("from .inner import *\nfrom .deep import Tool as Device\nraise SystemExit\n")
    (package / "inner.py").write_text("raise SystemExit\n")
    (package / "deep.py").write_text("from pack.inner import make as build\n")
    files = [
        (package / "__init__.py", "pack"),
        (package / "inner.py", "pack.inner"),
        (package / "deep.py", "pack.deep"),
    ]
    documented = {"pack.inner.make", "pack.deep.Tool", "pack.deep.Tool.run"}
    found = {name.name: name.entry for name in package_names(files, documented)}
    assert found == {
        "pack.make": "pack.inner.make",
        "pack.Device": "pack.deep.Tool",
        "pack.Device.run": "pack.deep.Tool.run",
        "pack.deep.build": "pack.inner.make",
    }


def test_a_library_that_cannot_list_its_names_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = SimpleNamespace(returncode=1, stdout="", stderr="no such thing")
    monkeypatch.setattr(_public.subprocess, "run", lambda *args, **kwargs: broken)
    with pytest.raises(DataError, match="no such thing"):
        list(_public.library_names(("made_up_module",), []))
