"""Memory across chats: facts written, replaced and deleted by explicit wishes, recalled 200 chats later."""

from __future__ import annotations

import io
import json
import random
import sqlite3

import pytest

from llmanac.cli import chat, main
from llmanac.core.errors import DataError, RequestError
from llmanac.retrieve.memory import Fact, Memory
from llmanac.retrieve.memory.recall import Recall, key_of
from llmanac.retrieve.memory.store import wish_of

WISHES = [
    ("Remember that my sister is called Ada.", ("remember", "my sister is called Ada.")),
    ("remember: the gate code is 4417", ("remember", "the gate code is 4417")),
    ("/remember shoe size: 43", ("remember", "shoe size: 43")),
    ("Please remember I can't eat nuts.", ("remember", "I can't eat nuts.")),
    ("forget shoe size", ("forget", "shoe size")),
    ("Please forget my shoe size.", ("forget", "my shoe size.")),
    ("/forget 3", ("forget", "3")),
]
NO_WISH = [
    "Do you remember my name?", "Remember when we talked about Rome?", "Don't forget my birthday.", "I always forget.",
    "I remember you.", 'What does "forget my name" mean?', "Thanks!", "", "My name is Anna.", "Forget?",
]  # fmt: skip


def texts(memory: Memory) -> list[str]:
    return [fact.text for fact in memory.facts()]


def test_only_a_message_that_begins_with_the_word_is_a_wish(tmp_path):
    for message, wish in WISHES:
        assert wish_of(message) == wish, message
    with Memory(tmp_path / "m") as memory:
        memory.remember("My name is Anna.")
        for message in NO_WISH:
            assert wish_of(message) is None and memory.read(message) == ([], [], None), message
        assert texts(memory) == ["My name is Anna."]


ATTRIBUTES = [f"{a} {b}" for a in ("favorite", "first", "least favorite", "dream") for b in (
    "color", "song", "dish", "book", "city", "teacher", "sport", "tool")]  # fmt: skip


def test_two_hundred_chats_later_the_facts_are_exact(tmp_path):
    """Facts are written, replaced and deleted in chats among others; each is asked after every 50 chats."""
    rng = random.Random(0)
    truth: dict[str, str] = {}
    done = {"written": 0, "replaced": 0, "deleted": 0}
    for number in range(200):
        with Memory(tmp_path / "m.sqlite") as memory:
            subject = rng.choice(ATTRIBUTES)
            memory.read(f"Tell me a joke about my {rng.choice(ATTRIBUTES)}.")
            if subject in truth and rng.random() < 0.4:
                assert [f.key for f in memory.read(f"Forget my {subject}.").forgot] == [subject]
                del truth[subject]
                done["deleted"] += 1
            else:
                done["replaced" if subject in truth else "written"] += 1
                truth[subject] = f"Value{number}"
                memory.read(f"Remember {subject}: {truth[subject]}")
            memory.read("How are you?")
            assert set(texts(memory)) == {f"{s}: {v}" for s, v in truth.items()}
            if number % 50 == 49:
                found = {s: memory.recall(f"What is my {s}?", 1) for s in ATTRIBUTES}
                assert all(found[s] and found[s][0].text == f"{s}: {truth[s]}" for s in truth) and len(truth) > 15
                assert all(not found[s] or found[s][0].key != s for s in ATTRIBUTES if s not in truth)
    assert min(done.values()) >= 30, done


def test_what_was_deleted_or_replaced_is_not_in_the_file(tmp_path):
    with Memory(tmp_path / "m") as memory:
        for message in (
            "Remember home: Bergensburg",
            "Remember home: Oslotown",
            "Remember pin: 99887766",
            "Forget pin",
        ):
            memory.read(message)
        assert texts(memory) == ["home: Oslotown"]
    data = (tmp_path / "m").read_bytes()
    assert b"Oslotown" in data and b"Bergensburg" not in data and b"99887766" not in data


HELD = ("My name is Bob.", "I live in Oslo.", "My cat is called Mia.", "My dog is called Rex.", "gate code: 4417")


@pytest.mark.parametrize(
    ("wish", "gone"),
    [
        ("Forget my name.", 0), ("Forget that I live in Oslo.", 1), ("Forget about the cat.", 2), ("forget rex", 3),
        ("Forget the gate code", 4), ("forget 2", 1), ("Forget that my name is Bob.", 0),
    ],
)  # fmt: skip
def test_one_fact_is_forgotten_by_its_number_key_or_words(tmp_path, wish, gone):
    with Memory(tmp_path / "m") as memory:
        for text in HELD:
            memory.remember(text)
        assert [fact.text for fact in memory.read(wish).forgot] == [HELD[gone]]
        assert texts(memory) == [text for text in HELD if text != HELD[gone]]


@pytest.mark.parametrize(
    ("wish", "unmet"),
    [
        ("Forget it.", 0), ("Forget everything but my name.", 0), ("Forget her name.", 0), ("Forget 17", 0),
        ("Forget my name if I ask you to.", 0), ("Forget is called", 2), ("Forget that.", 0), ("forget my", 0),
        ("Forget the weather, let's talk.", 0), ("Forget my name is Zoe", 0),
    ],
)  # fmt: skip
def test_a_wish_that_names_no_one_fact_deletes_nothing(tmp_path, wish, unmet):
    with Memory(tmp_path / "m") as memory:
        for text in HELD:
            memory.remember(text)
        done = memory.read(wish)
        assert texts(memory) == list(HELD) and done.forgot == [] and len(done.unmet) == unmet


def test_everything_is_forgotten_where_that_is_said(tmp_path):
    for wish in ("Forget everything.", "/forget all"):
        with Memory(tmp_path / "m") as memory:
            memory.remember("I live in Oslo.")
            assert len(memory.read(wish).forgot) == 1 and len(memory) == 0


def test_keys_and_equal_texts_replace(tmp_path):
    assert key_of("Shoe  size: 43") == "shoe size" and key_of("at 3:30 we meet") == key_of("a:") == ""
    with Memory(tmp_path / "m") as memory:
        for text in ("shoe size: 43", "I like tea.", "SHOE SIZE: 44", "i like tea", "There is a key under the mat."):
            memory.remember(text)
        assert texts(memory) == ["SHOE SIZE: 44", "i like tea", "There is a key under the mat."]
        [new] = memory.remember("There is milk in the fridge.", instead=memory.facts()[0]).kept
        assert texts(memory)[0] == "i like tea" and new.id == memory.facts()[-1].id


def facts_of(*said: str) -> list[Fact]:
    return [Fact(i, text, 0.0) for i, text in enumerate(said, 1)]


THINGS = ("sofa", "kayak", "tent", "drill", "router", "camera", "violin", "scarf", "lamp", "stove", "wallet", "kettle")
PLACES = ("attic", "garage", "office", "cellar", "garden", "kitchen", "hall", "shed", "car", "study", "bath", "roof")


def test_what_was_never_told_recalls_nothing_and_what_was_is_found():
    """The threshold is the facts' own: each of 12 facts is asked for while it is there, and while it is not."""
    said = [f"{thing} place: {place}" for thing, place in zip(THINGS, PLACES, strict=True)]
    for i, thing in enumerate(THINGS):
        question = f"In which place did I put the {thing}?"
        there, gone = Recall(facts_of(*said)), Recall(facts_of(*said[:i], *said[i + 1 :]))
        assert [fact.text for fact in there.top(question, 5)] == [said[i]], question
        assert gone.top(question, 5) == [], question
    for question in ("Who painted the Mona Lisa?", "How do magnets work?", "", "?"):
        assert Recall(facts_of(*said)).top(question, 5) == Recall(facts_of(said[0])).top(question, 5) == []
    assert Recall([]).top("sofa", 5) == []


def test_the_longer_key_is_meant():
    recall = Recall(facts_of("favorite color: red", "least favorite color: grey", "bank: Y"))
    assert [f.text for f in recall.top("What is my least favorite color?", 1)] == ["least favorite color: grey"]
    assert [f.text for f in recall.top("What is my favorite color?", 1)] == ["favorite color: red"]


OLD = """create table facts (id integer primary key, subject text not null unique, value text not null,
 text text not null, cues text not null, stated real not null, number integer not null)"""


def test_a_file_of_the_first_version_opens_with_its_facts(tmp_path):
    with sqlite3.connect(tmp_path / "m") as base:
        base.execute("pragma application_id=1819045221")
        base.execute("pragma user_version=1")
        base.execute(OLD)
        base.execute("create table vectors (id integer primary key, made text not null, vector blob not null)")
        rows = [(1, "home", "Oslo", "The user lives in Oslo.", "", 1.0, 2), (2, "name", "Bo", "The user's name is Bo.",
                "", 2.0, 1)]  # fmt: skip
        base.executemany("insert into facts values (?, ?, ?, ?, ?, ?, ?)", rows)
    for _ in range(2):
        with Memory(tmp_path / "m") as memory:
            assert texts(memory) == ["The user's name is Bo.", "The user lives in Oslo."]
            assert memory.recall("Where does the user live?", 1)[0].text == "The user lives in Oslo."
    with sqlite3.connect(tmp_path / "m") as base:
        assert base.execute("select name from sqlite_master where name in ('vectors', 'old')").fetchall() == []


def test_files_are_ours_or_refused(tmp_path):
    (tmp_path / "text").write_text("not a database, but long enough to look at " * 40)
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("create table t (x)")
    for name, message in (("text", "text: cannot be used"), ("other.sqlite", "another program"), ("no/m", "no folder")):
        with pytest.raises(DataError, match=message):
            Memory(tmp_path / name)
    with Memory(tmp_path / "m") as memory:
        memory.read("Remember my code is 1\x00'; drop table facts; --.")
        assert len(memory) == 1
        with pytest.raises(RequestError, match="no fact 9"):
            memory.fact(9)
    with sqlite3.connect(tmp_path / "m") as base:
        base.execute("update facts set stated = x'00ff'")
    with Memory(tmp_path / "m") as memory, pytest.raises(DataError, match="damaged: fact 1 is no fact"):
        memory.recall("code")


def test_commands_add_list_edit_and_delete(tmp_path, capsys):
    file = str(tmp_path / "m.sqlite")
    for arguments, shown in (
        (["add", file, "home: Oslo"], "1 home: Oslo"), (["add", file, "I like tea."], "2 I like tea."),
        (["list", file, "--json"], ""), (["edit", file, "1", "home: Bergen"], "home: Bergen"),
        (["delete", file, "2"], "deleted: I like tea."), (["list", file], "Bergen"),
        (["delete", file, "--all"], "home: Bergen"), (["list", file], "fact"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as done:
            main(["memory", *arguments])
        out = capsys.readouterr().out
        assert done.value.code == 0 and shown in out
        if "--json" in arguments:
            assert json.loads(out) == [{"id": 1, "text": "home: Oslo"}, {"id": 2, "text": "I like tea."}]
    for arguments in (["list", str(tmp_path / "none")], ["delete", file], ["edit", file, "7", "x"], ["add", file, ""]):
        with pytest.raises(SystemExit) as done:
            main(["memory", *arguments])
        assert done.value.code == 2


def test_chat_tells_the_model_what_earlier_chats_said(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(chat, "_reply", lambda engine, messages, options: seen.append(list(messages)) or messages)
    file = tmp_path / "m.sqlite"
    for lines in ("/remember name: Anna\nRemember that I live in Oslo.\n", "Where do I live?\nThanks.\n/help\n"):
        with Memory(file) as memory:
            chat.chat(None, lines=io.StringIO(lines), system="Be brief.", memory=memory)  # type: ignore[arg-type]
    assert len(seen) == 3  # a wish with a slash is not sent
    assert [m["role"] for m in seen[1]] == ["system", "user"]
    assert seen[1][0]["content"].startswith("Be brief.") and "live in Oslo" in seen[1][0]["content"]
    assert "Oslo" not in seen[2][0]["content"]
    said = capsys.readouterr()
    assert said.err.splitlines() == ["note: kept 1 name: Anna", "note: kept 2 I live in Oslo."]
    assert "change the memory" in said.out


def test_the_chat_says_what_it_did_not_delete(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(chat, "_reply", lambda engine, messages, options: messages)
    lines = "/forget name\n/remember my cat is Mo\n/remember my dog is Al\x1b\nForget my is\nForget my dog.\nM\udcffe\n"
    with Memory(tmp_path / "m") as memory:
        chat.chat(None, lines=io.StringIO(lines), memory=memory)  # type: ignore[arg-type]
    assert capsys.readouterr().err.splitlines() == [
        "note: nothing was deleted; no fact has these words", "note: kept 1 my cat is Mo", "note: kept 2 my dog is Al",
        "note: nothing was deleted; no fact has these words", "note: forgot 2 my dog is Al",
        "note: nothing of this message is kept: message: byte 0xff at character 2 is not UTF-8; type it again",
    ]  # fmt: skip
