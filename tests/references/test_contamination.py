"""Planted evaluation items: every one is found and no other is; words, ranges and shares against the plain way."""

from __future__ import annotations

import bz2
import json
import random
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.errors import DataError, SpecError
from llmanac.core.spec import make_method
from llmanac.data.deduplicate import deduplicate
from llmanac.data.documents import Document
from llmanac.data.evaluation_items import Item, read_items
from llmanac.data.overlap import ItemIndex, original_ranges, prepared, words
from llmanac.data.stages.decontamination import Spec
from llmanac.evaluate.contamination_files import contamination

VOCABULARY = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in ("n", "r", "st", "")]


def sentence(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(VOCABULARY) for _ in range(count))


def disguised(rng: random.Random, text: str) -> str:
    """The same words with other spaces, case and punctuation."""
    parts = [word.upper() if rng.random() < 0.3 else word for word in text.split()]
    return "".join(part + rng.choice([" ", "  ", "\n", ", ", " - ", "… "]) for part in parts)


def documents(texts: list[str]) -> list[Document]:
    return [Document(f"d{i}", text, "") for i, text in enumerate(texts)]


def plain_shares(texts: list[str], items: list[Item], n: int, shortest: int) -> list[float]:
    """Every n-gram of every item looked up in a set of all n-grams of the texts."""
    seen: set[tuple[str, ...]] = set()
    for text in texts:
        found = words(text)
        for width in range(shortest, n + 1):
            seen |= {tuple(found[i : i + width]) for i in range(len(found) - width + 1)}
    out = []
    for item in items:
        fields = [words(field) for field in item.fields]
        chosen = [field for field in fields if len(field) >= n] or [max(fields, key=len)]
        width = min(n, max(map(len, chosen)))
        grams = [tuple(f[i : i + min(n, len(f))]) for f in chosen for i in range(len(f) - min(n, len(f)) + 1)]
        out.append(sum(g in seen for g in grams) / len(grams) if width >= shortest and grams else 0.0)
    return out


@pytest.mark.parametrize("seed", range(3))
def test_every_planted_item_is_found_and_no_other(seed: int) -> None:
    rng = random.Random(seed)
    items = [Item(f"i{k}", (sentence(rng, rng.choice([3, 4, 7, 12, 13, 14, 30, 90])),)) for k in range(300)]
    texts = [sentence(rng, rng.randrange(200, 600)) for _ in range(60)]
    planted = set(rng.sample(range(300), 80))
    for number in sorted(planted):
        where = rng.randrange(len(texts))
        texts[where] += "\n" + disguised(rng, items[number].fields[0]) + "\n" + sentence(rng, 20)
    report = contamination(documents(texts), items)
    long_enough = {k for k, item in enumerate(items) if len(item.fields[0].split()) >= 4}
    assert {k for k, r in enumerate(report.items) if r.fraction == 1.0} == planted & long_enough
    assert [r.fraction for r in report.items] == pytest.approx(plain_shares(texts, items, 13, 4))
    assert {k for k, r in enumerate(report.items) if r.looked.by == "too short"} == set(range(300)) - long_enough
    assert all((r.document is not None) == (r.found > 0) for r in report.items)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text("aAbé日 .", max_size=20), max_size=5),
    st.lists(st.lists(st.text("aAbé日 .", max_size=12), min_size=1, max_size=3), min_size=1, max_size=5),
    st.integers(1, 4),
    st.data(),
)
def test_shares_equal_the_plain_way(texts: list[str], fields: list[list[str]], n: int, data: Any) -> None:
    shortest = data.draw(st.integers(1, n))
    items = [Item(str(i), tuple(f)) for i, f in enumerate(fields)]
    found = contamination(documents(texts), items, n=n, shortest=shortest)
    assert [r.fraction for r in found.items] == pytest.approx(plain_shares(texts, items, n, shortest))


def test_words() -> None:
    assert words("Don’t STOP — x=4.5, ﬁne_print!") == ["don", "t", "stop", "x", "4", "5", "fine", "print"]
    assert words("日本語で話す ok") == ["日", "本", "語", "で", "話", "す", "ok"]
    assert words("e\u0301 é E\u0301") == ["é", "é", "é"]
    assert words("\x00\ud800?") == [] == words("")


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.sampled_from("aBé\u0301 ﬁ日ß\n.İ\u1100\u1161😀"), max_size=30), st.data())
def test_ranges_go_back_to_the_text(text: str, data: Any) -> None:
    made = prepared(text).encode()
    starts = [i for i in range(len(made)) if made[i] & 0xC0 != 0x80]
    if not starts:
        return
    start = data.draw(st.sampled_from(starts))
    stop = data.draw(st.sampled_from([*[s for s in starts if s > start], len(made)]))
    ((a, b),) = original_ranges(text, [(start, stop)])
    assert 0 <= a < b <= len(text)
    assert made[start:stop].decode() in prepared(text[a:b])


def test_a_hit_is_compared_word_by_word(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmanac.data import overlap

    items = [Item("i", (sentence(random.Random(0), 20),))]
    index = ItemIndex(items)
    assert len(list(index.find(items[0].fields[0]))) == 8
    # every n-gram of any text now looks like the first one of the item: all hashes collide
    monkeypatch.setattr(
        overlap.ngram_overlap, "find_grams", lambda held, *_: __import__("numpy").array([[0, 13, 0], [3, 13, 1]])
    )
    assert list(index.find(sentence(random.Random(1), 40))) == []


def test_long_documents_are_searched_in_pieces_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmanac.data import overlap

    rng = random.Random(0)
    items = [Item(str(k), (sentence(rng, rng.choice([5, 13, 25])),)) for k in range(40)]
    text = " ".join(f"{sentence(rng, 7)} {item.fields[0]}" for item in items)
    index = ItemIndex(items)
    whole = [hit[:5] for hit in index.find(text)]
    for piece in (1, 7, 13, 64):
        monkeypatch.setattr(overlap, "PIECE", piece)
        assert [hit[:5] for hit in index.find(text)] == whole
    assert len(whole) >= sum(looked.grams for looked in index.looked)


def write_items(path: Path, items: list[str]) -> str:
    path.write_text("".join(json.dumps({"question": q}) + "\n" for q in items))
    return str(path)


@pytest.mark.parametrize("action", ["drop", "cut"])
def test_decontamination_leaves_nothing(tmp_path: Path, action: Any) -> None:
    rng = random.Random(5)
    items = [sentence(rng, rng.choice([5, 14, 40])) for _ in range(50)]
    path = write_items(tmp_path / "items.jsonl", items)
    texts = [f"Größe {sentence(rng, 300)}\n{sentence(rng, 300)}" for _ in range(30)]
    clean = list(texts)
    hit = rng.sample(range(30), 12)
    for number in hit:
        at = texts[number].index("\n")
        texts[number] = texts[number][:at] + " " + disguised(rng, items[number]) + texts[number][at:]
    spec = Spec(evaluation=(path,), action=action, context=50, min_piece=30)
    out, report = deduplicate(texts, spec)
    assert set(report["found"]) == {f"items.jsonl:{number + 1}" for number in hit}
    assert report["contaminated"] == 12 and report["index_bytes"] > 0
    for number, text in enumerate(out):
        if number not in hit:
            assert text == clean[number]
        elif action == "drop":
            assert text is None
        else:
            assert text is not None and 0.8 * len(clean[number]) < len(text) < len(clean[number])
            assert clean[number].startswith(text[:500]) and clean[number].endswith(text[-500:])
    left = contamination(documents([t for t in out if t is not None]), read_items([path], ["question"]))
    assert not left.found()
    assert len(contamination(documents(texts), read_items([path])).found()) == 12


def test_cutting_drops_small_pieces_and_documents_in_too_many(tmp_path: Path) -> None:
    rng = random.Random(6)
    item = sentence(rng, 20)
    path = write_items(tmp_path / "items.jsonl", [item])
    between = [sentence(rng, 60) for _ in range(5)]
    text = f" {item} ".join(between)
    kept = {"evaluation": (path,), "action": "cut", "context": 0, "min_piece": 10}
    assert deduplicate([text], Spec(**kept))[0] == [
        "\n\n".join([between[0] + " ", *(f" {b} " for b in between[1:4]), " " + between[4]])
    ]
    assert deduplicate([text], Spec(**kept, max_pieces=4))[0] == [None]
    assert deduplicate([item + " tail", "other text"], Spec(**kept))[0] == [None, "other text"]
    assert deduplicate([text] * 3, Spec(**kept, max_documents=2))[0] == [text] * 3
    assert deduplicate([text] * 3, Spec(**kept, max_documents=3))[1]["contaminated"] == 3


def test_items_out_of_every_format(tmp_path: Path) -> None:
    rows = [
        {"q": {"text": "one two"}, "choices": ["three", "four"], "n": 5},
        {"q": {"text": "six"}, "choices": [], "n": 7},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.csv").write_text('question,answer\n"what, now",yes\n')
    (tmp_path / "c.csv").write_text("what now,yes,no\nand then,no,yes\n")
    (tmp_path / "d.txt.bz2").write_bytes(bz2.compress(b"first line\n\nthird line"))
    assert read_items([tmp_path / "a.jsonl"]) == [
        Item("a.jsonl:1", ("one two", "three", "four", "5")), Item("a.jsonl:2", ("six", "7")),
    ]  # fmt: skip
    assert read_items([tmp_path / "a.jsonl"], ["q.text"])[0].fields == ("one two",)
    assert read_items([tmp_path / "b.csv"], ["question"]) == [Item("b.csv:2", ("what, now",))]
    assert [i.fields for i in read_items([tmp_path / "c.csv"], ["1", "3"])] == [("what now", "no"), ("and then", "yes")]
    assert [i.id for i in read_items([tmp_path / "d.txt.bz2"])] == ["d.txt.bz2:1", "d.txt.bz2:3"]
    both = read_items([tmp_path / "a.jsonl", tmp_path / "b.csv"], ["question", "q"])
    assert [i.fields[0] for i in both] == ["one two", "six", "what, now"]
    for paths, columns, message in (
        (["a.jsonl"], ["qq"], r"a\.jsonl:1: no column 'qq'; did you mean 'q'\?"),
        (["b.csv"], ["question", "nothing"], "no row of .* has a column 'nothing'"),
        (["c.csv"], ["4"], r"c\.csv:1: no column 4; this row has 3"),
    ):
        with pytest.raises(DataError, match=message):
            read_items([tmp_path / path for path in paths], columns)
    with pytest.raises(DataError, match="evaluation: no file"):
        deduplicate(["text"], "decontamination")
    with pytest.raises(SpecError, match="shortest"):
        make_method("stage", {"name": "decontamination", "n": 3})


def test_real_sets(shared_data: Path) -> None:
    """Of three real sets planted in part among real sources: recall 1, and what else is found shares 13 words."""
    sets = {"gsm8k/test.jsonl": ["question"], "mbpp/mbpp.jsonl": ["text"], "math/math500.jsonl": ["problem"]}
    items = [item for name, columns in sets.items() for item in read_items([shared_data / name], columns)]
    stdlib = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:60]
    texts = [path.read_text("utf-8", errors="replace") for path in stdlib]
    assert not contamination(documents(texts), items).found()
    rng = random.Random(0)
    planted = set(rng.sample(range(len(items)), 200))
    for number in sorted(planted):
        texts[rng.randrange(len(texts))] += "\n" + disguised(rng, items[number].fields[0]) + "\n"
    report = contamination(documents(texts), items)
    wholly = {k for k, r in enumerate(report.items) if r.fraction == 1.0}
    assert {k for k in planted if report.items[k].looked.by != "too short"} <= wholly
    own = "\n".join(f" {' '.join(words(items[k].fields[0]))} " for k in planted)
    for k in {k for k, r in enumerate(report.items) if r.found} - planted:
        assert any(f" {' '.join(gram)} " in own for gram in _grams(items[k].fields[0])), items[k]


def _grams(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    width = min(13, len(found))
    return {tuple(found[i : i + width]) for i in range(len(found) - width + 1)}
