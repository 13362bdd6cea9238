"""Memory across chats: facts by rule, replaced and taken back, recalled 200 chats later, kept in one file."""

from __future__ import annotations

import io
import json
import random
import sqlite3

import pytest

from llmanac.cli import chat, main
from llmanac.core.errors import DataError, RequestError
from llmanac.retrieve.memory import Memory, changes_in

SAID = [
    ("My name is Anna Lindqvist.", "name", "Anna Lindqvist"),
    ("Hi, I'm called Bo.", "name", "Bo"),
    ("By the way, I live in Oslo now.", "home", "Oslo"),
    ("I just moved from Rome to St. Gallen.", "home", "St. Gallen"),
    ("My favourite colour is dark green.", "favorite color", "dark green"),
    ("My sister's name is Ada, and my new phone number is 555-0134.", "sister's name", "Ada"),
    ("I work as a marine biologist.", "job", "marine biologist"),
    ("I'm a software engineer.", "job", "software engineer"),
    ("I work at Acme Corp.", "employer", "Acme Corp"),
    ("I am 34 years old.", "age", "34"),
    ("I'm allergic to peanuts.", "allergy: peanuts", "peanuts"),
    ("We have rain. I have a dog named Rex.", "dog's name", "Rex"),
    ("My dog is called Waffle.", "dog's name", "Waffle"),
    ("I really love black coffee.", "feeling about black coffee", "black coffee"),
    ("Please remember that the garage code is 4417.", "garage code", "4417"),
    ("My appointment has been moved to 3.30 pm on Friday.", "appointment", "3.30 pm on Friday"),
]
NOTHING = [
    "What is my name?", "If I live in Paris, what then?", "The weather is fine.", "My code is not working.",
    "Can you write a poem about a dog named Rex?", "Suppose my name is Zed.", "I think so.", "Thanks!", "",
]  # fmt: skip


def test_facts_are_found_by_rule():
    for message, subject, value in SAID:
        found = changes_in(message)
        assert found and (found[0].kind, found[0].subject, found[0].value) == ("set", subject, value), message
    assert [c.subject for c in changes_in(SAID[5][0])] == ["sister's name", "phone number"]
    for message in NOTHING:  # an update is of a known fact only
        assert all(change.kind == "update" for change in changes_in(message)), message


def test_a_later_statement_replaces_and_takes_back(tmp_path):
    with Memory(tmp_path / "m.sqlite") as memory:
        for message in ("I live in Oslo. My cat's name is Mia.", "I like jazz.", "I moved to Bergen.", "I hate jazz."):
            memory.read(message)
        assert [(f.subject, f.value) for f in memory.facts()] == [
            ("cat's name", "Mia"), ("home", "Bergen"), ("feeling about jazz", "jazz")
        ]  # fmt: skip
        assert "dislikes" in memory.recall("Do I like jazz?", 1)[0].text
        memory.read("I no longer live in Bergen.")
        assert memory.recall("Where do I live?") == []
        memory.read("Please forget my cat's name.")
        memory.read("I am allergic to nuts.")
        memory.read("I'm no longer allergic to nuts.")
        memory.read("Forget about my trip.")  # nothing of it is known
        assert [f.subject for f in memory.facts()] == ["feeling about jazz"]
        memory.read("Forget everything you know.")
        assert len(memory) == 0
    assert b"Bergen" not in (tmp_path / "m.sqlite").read_bytes()


ATTRIBUTES = [f"{a} {b}" for a in ("favorite", "first", "least favorite", "dream") for b in (
    "color", "song", "dish", "book", "city", "teacher", "sport", "tool")]  # fmt: skip


def test_two_hundred_chats_later_the_facts_are_exact(tmp_path):
    """Facts are written, replaced and deleted in chats among others; each is asked after every 50 chats."""
    rng = random.Random(0)
    truth: dict[str, str] = {}
    with Memory(tmp_path / "m.sqlite") as memory:
        for number in range(200):
            subject = rng.choice(ATTRIBUTES)
            if subject in truth and rng.random() < 0.25:
                memory.read(f"Thanks. Please forget my {subject}.")
                del truth[subject]
            else:
                truth[subject] = f"Value{number}"
                memory.read(
                    f"How are you? My {subject} is {truth[subject]}. Tell me a joke about {rng.choice(ATTRIBUTES)}."
                )
            if number % 50 == 49:
                assert {f.subject: f.value for f in memory.facts()} == truth
                found = {s: memory.recall(f"What is my {s}?", 1) for s in ATTRIBUTES}
                right = [(found[s][0].value if found[s] else None) == truth[s] for s in truth]
                assert sum(right) / len(right) >= 0.95 and len(truth) > 15
                assert all(not found[s] or found[s][0].subject != s for s in ATTRIBUTES if s not in truth)


def test_questions_in_other_words_find_their_fact(tmp_path):
    asked = [
        ("What am I called?", "Anna"), ("Which city do I live in?", "Oslo"), ("What do I do for a living?", "nurse"),
        ("Which company do I work for?", "Acme"), ("How old am I?", "34"), ("Is there food that I must avoid?", "nuts"),
        ("What is the name of my dog?", "Rex"), ("What color do I like the most, my favorite?", "red"),
        ("When was I born?", "3 May"), ("What is the code of the garage?", "4417"), ("Where is my home?", "Oslo"),
    ]  # fmt: skip
    with Memory(tmp_path / "m.sqlite") as memory:
        memory.read("My name is Anna. I live in Oslo. I work as a nurse. I work at Acme. I'm 34. I'm allergic to nuts.")
        memory.read("I have a dog named Rex. My favorite color is red. My birthday is 3 May. I like tea.")
        memory.read("Remember that the garage code is 4417.")
        assert len(memory) == 11
        for question, value in asked:
            assert [f.value for f in memory.recall(question, 1)] == [value], question
        assert memory.recall("Who painted the Mona Lisa?") == []


def test_an_edit_changes_the_value_and_no_other_word(tmp_path):
    with Memory(tmp_path / "m.sqlite") as memory:
        memory.read("My favorite color is or.")
        [fact] = memory.facts()
        edited = memory.edit(fact.id, "red")
        assert edited.text == "The user's favorite color is red." and edited.value == "red" and len(memory) == 1


def test_files_are_ours_or_refused(tmp_path):
    (tmp_path / "text").write_text("not a database, but long enough to look at " * 40)
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("create table t (x)")
    for name, message in (("text", "text: cannot be used"), ("other.sqlite", "another program"), ("no/m", "no folder")):
        with pytest.raises(DataError, match=message):
            Memory(tmp_path / name)
    with Memory(tmp_path / "m") as memory:
        memory.read("My code is 1\x00'; drop table facts; --.")
        assert len(memory) == 1
        with pytest.raises(RequestError, match="no fact 9"):
            memory.delete(9)
    with sqlite3.connect(tmp_path / "m") as base:
        base.execute("update facts set number = x'00ff'")
    with Memory(tmp_path / "m") as memory, pytest.raises(DataError, match="damaged: fact 1 is no fact"):
        memory.recall("code")


def test_commands_list_edit_and_delete(tmp_path, capsys):
    file = tmp_path / "m.sqlite"
    with Memory(file) as memory:
        memory.read("My name is Anna. I live in Oslo. I like tea.")
    ids = {}
    for arguments, shown in (
        (["list", str(file), "--json"], ""), (["edit", str(file), "HOME", "Bergen"], "home: Bergen"),
        (["delete", str(file), "NAME"], "deleted: name"), (["list", str(file)], "Bergen"),
        (["delete", str(file), "--all"], "feeling about tea"), (["list", str(file)], "subject"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as done:
            main(["memory", *(str(ids.get(a.lower(), a)) for a in arguments)])
        out = capsys.readouterr().out
        assert done.value.code == 0 and shown in out
        if "--json" in arguments:
            ids = {fact["subject"]: fact["id"] for fact in json.loads(out)}
    for arguments in (["list", str(tmp_path / "none")], ["delete", str(file)]):
        with pytest.raises(SystemExit) as done:
            main(["memory", *arguments])
        assert done.value.code == 2


def test_chat_tells_the_model_what_earlier_chats_said(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(chat, "_reply", lambda engine, messages, options: seen.append(list(messages)) or messages)
    file = tmp_path / "m.sqlite"
    for lines in ("My name is Anna.\nI live in Oslo.\n", "Where do I live?\nThanks.\n"):
        with Memory(file) as memory:
            chat.chat(None, lines=io.StringIO(lines), system="Be brief.", memory=memory)  # type: ignore[arg-type]
    asked = seen[2]
    assert [m["role"] for m in asked] == ["system", "user"]
    assert asked[0]["content"].startswith("Be brief.") and "lives in Oslo" in asked[0]["content"]
    assert "Anna" in seen[3][0]["content"] and "Oslo" not in seen[3][0]["content"]


UNREAD = [  # what was said, and a wish to delete it that the rules do not carry out
    ("My sister Ada lives in Bath.", "Please delete what you know about my sister."),
    ("I play viola in an orchestra.", "I no longer play the viola."),
    ("I work as a nurse.", "Remove everything about my job from your memory."),
    ("My phone number is 555 1234.", "Can you delete my phone number?"),
    ("My dog is called Rex.", "Could you please forget about my dog?"),
    ("I am allergic to nuts.", "Please erase the fact that I'm allergic to nuts."),
    ("I smoke a pack a day.", "I don't smoke any more."),
    ("My salary is 40,000 euros.", "Wipe my salary from memory."),
    ("I love chess.", "I'd like you to forget that I love chess."),
    ("My cat is called Tom.", "Get rid of what you stored about the cat."),
    ("I live in Oslo.", "I want you to delete where I live."),
    ("My name is Anna.", "Forget everything but my name."),
]
NO_WISH = [
    "Don't forget my birthday.", "I always forget my keys.", "How do I delete a branch?", "Remove the last comma.",
    'What does "please forget my name" mean?', "Translate: please delete my address.", "Forget it.", "Thanks!",
]  # fmt: skip


@pytest.mark.parametrize(("said", "wish"), UNREAD)
def test_a_wish_to_delete_is_met_or_answered_with_what_is_kept(tmp_path, monkeypatch, capsys, said, wish):
    monkeypatch.setattr(chat, "_reply", lambda engine, messages, options: messages)
    with Memory(tmp_path / "m.sqlite") as memory:
        memory.read(said)
        before = memory.facts()
        chat.chat(None, lines=io.StringIO(wish), memory=memory)  # type: ignore[arg-type]
        said = capsys.readouterr().err
        assert before and (memory.facts() == before) == ("nothing was deleted" in said)
        for fact in memory.facts():
            assert f"still kept: {fact.id} {fact.subject} = {fact.value}" in said
        assert "forgot" in said or f"llmanac memory delete {memory.path} ID" in said


def test_only_wishes_to_delete_are_answered(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(chat, "_reply", lambda engine, messages, options: messages)
    with Memory(tmp_path / "m.sqlite") as memory:
        chat.chat(None, lines=io.StringIO("Please forget my name."), memory=memory)  # type: ignore[arg-type]
        assert "note: nothing was deleted; nothing is kept" in capsys.readouterr().err
        memory.read("My name is Anna. I live in Oslo.")
        for message in NO_WISH:
            memory.read(message)
            assert memory.unmet is None, message
        memory.read("I no longer live in Oslo, I moved to Bergen.")
        assert memory.unmet is None


@pytest.mark.parametrize(
    "wish",
    [
        "I want you to forget about Rex.", "Scrub my PIN from your memory", "Purge my info", "Delete it all.",
        "I'd like my PIN to be deleted.", "My PIN is none of your business, delete it.", "Unremember my name.",
        "Strike my address from the record.", "You should not know my sister's birthday.",
        "I don't want you to know my PIN.", "Let's forget my PIN ever came up.",
    ],
)  # fmt: skip
def test_wishes_in_other_words_are_not_passed_over(tmp_path, wish):
    with Memory(tmp_path / "m.sqlite") as memory:
        memory.read("My name is Anna. I live in Oslo.")
        done = memory.read(wish)
        assert done.forgot or memory.unmet is not None
