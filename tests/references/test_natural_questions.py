"""Natural questions: the files that are kept, how answers are scored, and what the assistant does with each sort."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from _documented import COPY, entry, library
from test_assistant import Letters, Reader, oracle

from llmanac.apps.docs_assistant.assistant import Answer, Assistant, Citation, Near
from llmanac.apps.docs_assistant.choice import MOST_CHARACTERS, MOST_LINES, choose
from llmanac.apps.docs_assistant.choice import Asked as Wanted
from llmanac.apps.docs_assistant.index import DocumentationIndex
from llmanac.apps.docs_assistant.names import Known, KnownNames, likeness
from llmanac.apps.docs_assistant.prompt import NOT_SHOWN
from llmanac.apps.docs_assistant.questions import entry_calls, entry_passages, known_names
from llmanac.apps.docs_assistant.understanding import understand
from llmanac.apps.docs_assistant.words import content, stem
from llmanac.core.errors import DataError
from llmanac.data.sources import _public
from llmanac.data.sources._public import Name, package_names
from llmanac.data.sources.python_docs import Spec
from tools.natural_questions import KINDS, Question, read_questions, score_answer, table

FILES = Path(__file__).resolve().parents[2] / "evidence" / "docs_assistant"
WAIT = entry(
    "aio.tasks.wait_until",
    "(task, limit=None)",
    "Wait for a task to finish.\n\nWhen the limit is over, the task is cancelled.\n\n"
    "An existing reply file may be overwritten.\n\nMust be called at most once per task.",
)
BASE = entry("conf.Reader.load_file", "(path)", "Load options from a file.\n\nReturns: The options.")
HIDDEN = entry("_thr.make_lock", "()", "Create a new lock object.")
NAMES = [
    Name("aio.wait_until", "aio.tasks.wait_until"),
    Name("conf.Quick.load_file", "conf.Reader.load_file"),
    Name("thr.Lock", "_thr.make_lock"),
    Name("conf.Silent", "", "(path, strict=True)", "conf.Reader.load_file"),
]
ENTRIES = [*library(), WAIT, BASE, HIDDEN]


def helper(rule=oracle) -> Assistant:
    public = {name.entry: name.name for name in NAMES if name.entry}
    index = DocumentationIndex(entry_passages(ENTRIES, public), names=known_names(ENTRIES, NAMES))
    index.threshold = 0.4
    return Assistant(Reader(rule), index, Letters(), prompt_tokens=4000)


@pytest.mark.parametrize(
    ("part", "each"), [("work", 12), ("measure", 12), ("kept", 12), ("dev2", 10), ("measure2", 20)]
)
def test_question_files_are_well_formed_and_name_entries(part: str, each: int) -> None:
    questions = read_questions(FILES / f"{part}.jsonl")
    assert Counter(q.kind for q in questions) == dict.fromkeys(KINDS, each)
    assert len({q.id for q in questions}) == 5 * each
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


def cited(text: str, name: str = "a.b", **more: str) -> Answer:
    return Answer(text, (Citation(f"{name}(x=1)", text, name, more.get("summary", "")),), False)


def test_scores_follow_their_rule() -> None:
    question = Question("1", "named", "?", entries=("a.b",), answers=("It is\n  kept once per task.", "x=1"))
    text = {
        "a.b": "a.b(x=1) First. It is kept once per task. Nothing else is said.",
        "a.c": "It is kept once per task.",
    }
    line = "It is kept once per task. Nothing else"
    assert score_answer(question, cited(line), text).line
    assert score_answer(question, cited("is kept once per task."), text).line, "most of an accepted piece"
    assert not score_answer(question, cited("task."), text).line
    assert not score_answer(question, cited("It is kept once per task.", "a.c"), text).line, "of another entry"
    second = score_answer(question, cited("Nothing else is said.\nIt is kept once per task."), text)
    assert (second.right, second.line, second.invented) == (True, False, False)
    assert score_answer(question, cited("Nothing else is said.\nIt is made up."), text).invented
    first = score_answer(question, cited("First."), text)
    assert (first.entry, first.line, first.right, first.invented) == (True, False, True, False)
    assert score_answer(question, cited("It is kept for ever."), text).invented
    assert score_answer(question, cited("First.", "pub.b"), text | {"pub.b": text["a.b"]}, {"pub.b": "a.b"}).entry
    refusal = score_answer(question, Answer("No.", (), True, (Near("a.b", "a.b(x=1)", ""),)), text)
    assert (refusal.entry, refusal.line, refusal.refused, refusal.invented) == (True, False, True, False)
    assert not score_answer(question, Answer("No.", (), True, (Near("a.c", "a.c()", ""),)), text).entry
    rows = table([question, question], [first, refusal])
    assert (rows["named"]["questions"], rows["naming"]["entry"], rows["answerable"]["refused"]) == (2, 2, 1)


def test_public_names_lead_to_entries() -> None:
    ask = helper()
    for question, name in [
        ("what does aio.wait_until do", "aio.tasks.wait_until"),
        ("conf.Quick.load_file?", "conf.Reader.load_file"),
        ("What does thr.Lock do?", "thr.Lock"),
    ]:
        assert [c.name for c in ask.answer(question).citations] == [name]
    silent = ask.answer("What does conf.Silent do?")
    assert silent.refused
    assert silent.text.startswith("conf.Silent has no docstring.")
    assert [near.name for near in silent.nearest[:2]] == ["conf.Silent", "conf.Reader.load_file"]
    assert silent.nearest[0].signature == "conf.Silent(path, strict=True)"


def test_misspelt_names_are_found_and_others_shown() -> None:
    ask = helper()
    for spelling in ("aio.waituntil", "aio.wait_untill", "aio.taks.wait_until", "aio.waitUntil()", "Reader.wait_until"):
        about = understand(ask.index, f"what does {spelling} do")
        assert about.known is not None, spelling
        assert ENTRIES[about.known.entry].name == WAIT.name, spelling
    answer = ask.answer("what does shutil.copy_tree do")
    assert answer.text == "Recursively copy a directory tree and return the destination directory."
    for name in ("shutil.copyfile_later", "numpy.linspace", "str.frobnicate"):
        missing = ask.answer(f"what does {name} do")
        assert missing.refused
        assert missing.text.startswith(f"There is no entry named {name}.")
        assert len(missing.nearest) <= 3
    assert "shutil.copytree" in [near.name for near in ask.answer("what does shutil.copyer do").nearest]


def test_likeness_counts_slips() -> None:
    assert likeness("move_to_end", "movetoend") > 0.95
    assert likeness("cmp2key", "cmp_to_key") > 0.95
    assert likeness("jason", "json") > 0.75 > likeness("jason", "copy")
    names = KnownNames([Known("a.open", 0), Known("b.Box.open", 1), Known("b.Box.close_all", 2)])
    assert names.find("closeall")[0][1].entry == 2
    assert names.find("Box.open")[0][1].entry == 1
    assert names.find("a.close_all")[0][1].entry == 2, "in the wrong module"
    assert names.find("zzz.qqq") == []


def test_a_name_is_carried_into_the_next_question() -> None:
    ask = helper()
    turns = ["What does shutil.copytree do?", "thanks"]
    about = understand(ask.index, "and which errors does it raise?", turns)
    assert (about.how, about.asked.name) == ("carried", "shutil.copytree")
    assert ask.answer("and which errors does it raise?", turns).text == "Raises Error when a file cannot be copied."
    assert ask.answer("and which errors does it raise?").refused, "nothing was named before"
    moved = understand(ask.index, "and what does aio.wait_until return?", turns)
    assert (moved.how, moved.asked.name) == ("named", WAIT.name)
    messages = [{"role": "user", "content": text} for text in (turns[0], "what does it raise?")]
    assert "copytree" not in messages[-1]["content"]
    assert ask.prompt(messages) != ask.prompt(messages[1:])


def test_what_is_quoted_is_short_and_of_what_is_asked() -> None:
    lines = ["Open a file.", *(f"The mode is a text, case {i}, {'long ' * 20}" for i in range(9)), "Other things."]
    ranking = helper().index.ranking
    quoted = choose(ranking, Wanted("?", ("mod", "text"), frozenset()), ["f(mode)"], lines)
    assert 1 < len(quoted) <= MOST_LINES
    assert sum(map(len, quoted)) <= MOST_CHARACTERS
    assert set(quoted) <= set(lines[1:-1])
    assert choose(ranking, Wanted("?", ("zebra",), frozenset()), ["f(mode)"], lines) == ()
    assert choose(ranking, Wanted("?", ("mod", "exception"), frozenset()), ["f(mode)"], lines) == (), "none is named"
    assert choose(ranking, Wanted("which mode is faster?", ("mod",), frozenset()), ["f(mode)"], lines) == ()
    pointed = Wanted("?", ("mod",), frozenset({"mod"}), "what", lines[-1])
    assert choose(ranking, pointed, ["f(mode)"], lines)[0] == lines[-1], "the model has read what is asked"
    assert choose(ranking, replace(pointed, pointed=None, denied=True), ["f()"], lines[:1]) == ()


def test_a_conversation_keeps_its_parameters_and_a_class_its_members() -> None:
    ask = helper()
    about = understand(ask.index, "and what is symlinks for?", ["What does shutil.copytree do?"])
    assert (about.how, about.asked.name) == ("carried", "shutil.copytree")
    assert understand(ask.index, "Reader load_file meaning").known.name == BASE.name
    names = KnownNames(
        [Known("a.copyfile", 0), Known("b.Box.copyfile", 1), Known("c.validate", 2), Known("c.validate.x", 3)]
    )
    assert names.find("os.copyfile") == [], "os is no module of these"
    names = KnownNames([Known("a.copyfile", 0), Known("b.Box.copyfile", 1), Known("os.walk", 2)])
    assert names.find("os.copyfile")[0][1].entry == 0


def test_numbers_of_an_example_are_not_what_is_asked() -> None:
    assert content("comb(-1, 20) fails") == ["comb", "negativ", "fail"]


def test_words_choose_a_line_and_their_absence_refuses() -> None:
    ask = helper(lambda question, shown: NOT_SHOWN)
    assert ask.answer("aio.wait_until - does it clobber my reply?").text == "An existing reply file may be overwritten."
    assert ask.answer("can I call aio.wait_until twice").text == "Must be called at most once per task."
    refused = ask.answer("Is aio.wait_until available on Android phones?")
    assert refused.refused
    assert refused.nearest[0].name == WAIT.name
    assert refused.nearest[0].summary == "Wait for a task to finish."


def test_what_names_nothing_shows_the_nearest_entries() -> None:
    ask = helper(lambda question, shown: NOT_SHOWN)
    near = ask.answer("how do I duplicate a whole folder, files and all?").nearest
    assert COPY.name in [entry.name for entry in near]
    assert all(entry.signature.startswith(entry.name) for entry in near)
    assert content("Hte folder's files, in Python 3.11?", {"folder", "fil"}) == ["folder", "fil"]
    assert {stem(w) for w in ("raises", "raised", "raising", "raise")} == {"rais"}
    calls = entry_calls(
        ENTRIES, [Name("sh.copy", COPY.name)], {"shutil.copytree": 8, ".copytree": 2, "sh.copy": 1, "zebra": 5}
    )
    assert calls == {ENTRIES.index(COPY): 11.0}
    many = [replace(COPY, name=f"m{number}.copytree") for number in range(4)]
    assert entry_calls(many, [], {".copytree": 9, "m1.copytree": 1}) == {1: 1.0}, "whose method it is, is not known"


def test_an_index_keeps_its_names(tmp_path: Path) -> None:
    index = helper().index
    index.calls = {0: 2.5}
    index.save(tmp_path)
    back = DocumentationIndex.load(tmp_path)
    assert (back.names, back.calls) == (index.names, index.calls)


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


@pytest.mark.parametrize(
    ("history", "question", "carried"),
    [
        (["What does shutil.copytree return?"], "and what does it raise?", True),
        (["What does shutil.copytree return?"], "what about the symlinks argument?", True),
        (["What does shutil.copytree return?"], "thanks!", False),
        (["What does shutil.copytree return?"], "how do I sort numbers?", False),
        (["What does shutil.copytree return?", "how do I sort numbers?"], "what does it return?", False),
        (["What does shutil.copytree return?", "and what does it raise?"], "what about its default?", True),
    ],
)
def test_a_name_is_carried_only_as_long_as_the_conversation_is_about_it(
    history: list[str], question: str, carried: bool
) -> None:
    found = understand(helper().index, question, history)
    assert (found.how == "carried") == carried
