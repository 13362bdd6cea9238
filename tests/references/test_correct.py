"""Correcting by likelihood: the edits that are proposed, how they are judged, and what is reported of them."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest
import torch
from _engine_models import ByteTokenizer, HistoryModel
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.errors import DataError, SpecError
from llmanac.core.types import IGNORE
from llmanac.evaluate import english as english
from llmanac.evaluate.correct import (
    KINDS,
    LONGEST,
    OPERATION_MARGINS,
    Corrector,
    Edit,
    _with,
    applied,
    candidates,
    sentences,
)
from llmanac.evaluate.likelihood import loglikelihood
from llmanac.evaluate.words import LETTERS, Words, slips

CORPUS = """The boys were in the garden. She goes to school every morning. They have two dogs and a cat. He wrote a
letter to his friend. I received an answer from her. Their house is near the river. The children are playing in the
park. We walked to the station in the rain. It was a good book about the sea. She has eaten an apple. These boxes are
empty. He depends on his friends. The dog lost its bone. Nobody knows the answer. I saw him at the door."""
WORDS = Words.of([CORPUS])


class Counted:
    """Bytes after at most seven bytes, counted in a text and mixed with all shorter contexts (Witten and Bell 1991)."""

    vocab_size, max_length, order = 260, None, 7

    def __init__(self, text: str) -> None:
        self.after: dict[bytes, Counter[int]] = {}
        for line in text.replace("\n", " ").split(". "):
            data = b"\x00" + line.rstrip(".").encode() + b"."
            for at in range(1, len(data)):
                for length in range(min(at, self.order) + 1):
                    self.after.setdefault(data[at - length : at], Counter())[data[at]] += 1

    def probability(self, past: bytes, byte: int) -> float:
        p = 1 / 256
        for length in range(min(len(past), self.order) + 1):
            found = self.after.get(past[len(past) - length :])
            if found is None:
                break
            total = found.total()
            p = (found[byte] + len(found) * p) / (total + len(found))
        return p

    def nll(self, batch, reduction="none"):
        out = torch.zeros(batch.ids.shape, dtype=torch.float64)
        for row, (ids, targets) in enumerate(zip(batch.ids.tolist(), batch.targets.tolist(), strict=True)):
            past = bytes(0 if i > 255 else i for i in ids)
            for at, target in enumerate(targets):
                if target != IGNORE:
                    out[row, at] = -math.log(self.probability(past[max(0, at + 1 - self.order) : at + 1], target))
        return out


@pytest.fixture(scope="module")
def corrector():
    return Corrector(Counted(CORPUS), ByteTokenizer(), WORDS)


ERRORS = [
    ("agreement", "The boys was in the garden.", "The boys were in the garden."),
    ("agreement", "These boxes is empty.", "These boxes are empty."),
    ("number", "They have two dog and a cat.", "They have two dogs and a cat."),
    ("verb form", "She go to school every morning.", "She goes to school every morning."),
    ("verb form", "She has eat an apple.", "She has eaten an apple."),
    ("article", "He wrote an letter to his friend.", "He wrote a letter to his friend."),
    ("article", "He wrote letter to his friend.", "He wrote a letter to his friend."),
    ("preposition", "I saw him on the door.", "I saw him at the door."),
    ("preposition", "He depends his friends.", "He depends on his friends."),
    ("confusion", "There house is near the river.", "Their house is near the river."),
    ("confusion", "The dog lost it's bone.", "The dog lost its bone."),
    ("repetition", "Nobody knows the the answer.", "Nobody knows the answer."),
    ("spelling", "I recieved an answer from her.", "I received an answer from her."),
    ("spelling", "We walkd to teh station in the rain.", "We walked to the station in the rain."),
]


@pytest.mark.parametrize(("kind", "wrong", "right"), ERRORS, ids=[wrong for _, wrong, _ in ERRORS])
def test_errors_of_each_kind_are_mended_and_said(corrector, kind, wrong, right):
    one = corrector.correct([wrong])[0]
    assert one.corrected == right
    assert {change.kind for change in one.changes} == {kind}
    assert all(change.why and change.gain > 0 for change in one.changes)


def test_text_that_the_model_finds_right_is_left_alone(corrector):
    found = corrector.correct([CORPUS, "", "  \n", "12 % 3.5!?"])
    assert [one.corrected for one in found] == [one.text for one in found]
    assert all(one.changes == () for one in found)


def test_a_gain_is_the_difference_of_two_log_likelihoods(corrector):
    wrong = "The boys was in the garden."
    change = corrector.correct([wrong])[0].changes[0]
    before, after = (
        sum(
            math.log(corrector.model.probability(b"\x00" + text[:i].encode(), text.encode()[i]))
            for i in range(len(text))
        )
        for text in (wrong, "The boys were in the garden.")
    )
    assert change.gain == pytest.approx(after - before, abs=1e-9)
    assert (change.old, change.new, change.start, change.stop) == ("was", "were", 9, 12)
    gains = corrector._gains([wrong])[0]
    assert gains[0][1] == pytest.approx(change.gain - corrector.margin)
    deletion = next(gain for edit, gain in gains if edit.apply(wrong) == "The boys was the garden.")
    text = b"The boys was the garden."
    alone = sum(math.log(corrector.model.probability(b"\x00" + text[:i], text[i])) for i in range(len(text)))
    assert deletion == pytest.approx(alone - before - corrector.margin - OPERATION_MARGINS["delete"], abs=1e-9)


def test_several_errors_over_several_sentences_keep_their_places(corrector):
    text = "The boys was in the garden.\n\n  She go to school every morning. Nobody knows the the answer."
    one = corrector.correct([text])[0]
    assert one.corrected == (
        "The boys were in the garden.\n\n  She goes to school every morning. Nobody knows the answer."
    )
    assert [text[c.start : c.stop] for c in one.changes] == [c.old for c in one.changes]
    assert applied(text, one.changes) == one.corrected and len(one.changes) == 3
    together = corrector.correct([text, "I saw him on the door."])
    assert together[0] == one and together[1].corrected == "I saw him at the door."


def test_the_margin_and_the_kinds_decide():
    model, wrong = Counted(CORPUS), "The boys was in the the garden."
    assert Corrector(model, ByteTokenizer(), WORDS, margin=1000.0).correct([wrong])[0].changes == ()
    some = Corrector(model, ByteTokenizer(), WORDS, kinds=["repetition"]).correct([wrong])[0]
    assert some.corrected == "The boys was in the garden."
    with pytest.raises(SpecError, match=r"'articles' is not one of .*; did you mean 'article'"):
        Corrector(model, ByteTokenizer(), WORDS, kinds=["articles"])
    with pytest.raises(SpecError, match="margin: nan"):
        Corrector(model, ByteTokenizer(), WORDS, margin=math.nan)
    bare = ByteTokenizer()
    bare.bos_id = bare.eos_id = None
    with pytest.raises(DataError, match="no bos or eos"):
        Corrector(model, bare, WORDS)


def test_any_model_will_do():
    """A model of noise changes what it likes, terminates, and never makes a text less likely."""

    class Noise(HistoryModel):
        def nll(self, batch, reduction="none"):
            logits = self.forward(batch).logits
            return -logits.log_softmax(-1).gather(-1, batch.targets.clamp(min=0)[..., None])[..., 0]

    model, text = Noise(), "A cat sat."
    one = Corrector(model, ByteTokenizer(), WORDS, margin=0.5, kinds=["article", "agreement"]).correct([text])[0]
    before, after = (x.total for x in loglikelihood(model, ByteTokenizer(), [("", text), ("", one.corrected)]))
    assert after >= before and after - before == pytest.approx(sum(c.gain for c in one.changes), abs=1e-9)


def test_a_margin_below_zero_ends_too(corrector):
    """Then an edit and its undoing both pass, for ever: each sentence has only so many."""
    text = "The boys was in the garden."
    eager = Corrector(corrector.model, ByteTokenizer(), WORDS, margin=-20.0, kinds=["agreement"])
    one = eager.correct([text])[0]
    assert applied(text, one.changes) == one.corrected


# ---------------------------------------------------------------- changes and their places
@settings(max_examples=80, deadline=None)
@given(st.text("abc ", min_size=1, max_size=12), st.integers(0, 2**32), st.integers(1, 6))
def test_changes_retell_any_row_of_edits(text, seed, count):
    """Edits made one after another, each of the text as it then is, told as changes of the first text."""
    rng, now, changes = random.Random(seed), text, []
    for _ in range(count):
        start = rng.randrange(len(now) + 1)
        stop = min(len(now), start + rng.randrange(3))
        edit = Edit(start, stop, "".join(rng.choices("abcXY ", k=rng.randrange(3))), "spelling", "why")
        changes = _with(text, changes, now, edit, 1.0)
        now = edit.apply(now)
        assert applied(text, changes) == now
        for change in changes:
            assert text[change.start : change.stop] == change.old != change.new
        assert all(a.stop <= b.start for a, b in itertools.pairwise(changes))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300) | st.text("ab .!?\"'\n", max_size=2000))
def test_sentences_cover_every_letter_once(text):
    spans = list(sentences(text))
    assert all(0 <= start < stop <= len(text) and stop - start <= LONGEST for start, stop in spans)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    inside = {i for start, stop in spans for i in range(start, stop)}
    assert all(i in inside or text[i].isspace() for i in range(len(text)))


def test_sentences_end_where_they_should():
    text = 'It cost 3.5 pounds. "Why?" she asked. He left.) Then\nnothing'
    assert [text[a:b] for a, b in sentences(text)] == [
        "It cost 3.5 pounds.", '"Why?"', "she asked.", "He left.)", "Then", "nothing",
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["The", "the", "a", "dogs", "was", "in", "I", ",", "“x”"])).map(" ".join)
)
def test_every_candidate_is_an_edit_of_the_text(text):
    found = candidates(text, WORDS, frozenset(KINDS))
    made = [edit.apply(text) for edit in found]
    assert all(0 <= edit.start <= edit.stop <= len(text) for edit in found)
    assert text not in made and all(edit.kind in KINDS for edit in found)


def test_case_is_kept():
    made = {
        e.apply("Was he there? NOBODY WAS.") for e in candidates("Was he there? NOBODY WAS.", WORDS, frozenset(KINDS))
    }
    assert "Were he there? NOBODY WAS." in made and "Was he there? NOBODY WERE." in made
    assert "Was him there? NOBODY WAS." in made
    i = {e.apply("me went") for e in candidates("me went", WORDS, frozenset(KINDS))}
    assert "I went" in i


# ---------------------------------------------------------------- words
def distance(a: str, b: str) -> int:
    """Damerau's distance with each letter touched once (optimal string alignment), by its recurrence."""
    rows = [[i + j if not i * j else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            best = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                best = min(best, rows[i - 2][j - 2] + 1)
            rows[i][j] = best
    return rows[-1][-1]


@settings(max_examples=40, deadline=None)
@given(st.text("abc", min_size=1, max_size=5), st.text("abc", max_size=6))
def test_slips_are_the_words_at_distance_one(word, other):
    found = slips(word)
    assert (other in found) or distance(word, other) != 1
    assert all(distance(word, one) <= 1 for one in found)


def test_near_words_are_all_there_are_and_the_commonest_first():
    rng = random.Random(0)
    counts = Counter({"".join(rng.choices("abcde", k=rng.randrange(5, 9))): rng.randrange(1, 99) for _ in range(400)})
    known = Words(Counter(counts))
    for _ in range(10):
        word = "".join(rng.choices("abcde", k=rng.randrange(5, 9)))
        once = {w for w in known.counts if distance(word, w) == 1}
        expected = once
        if not once and word not in known and len(word) >= 6:
            twice = {b for a in slips(word) for b in slips(a)}
            expected = (known.counts.keys() & twice) - {word}
        if word in known:
            continue
        found = known.near(word, most=10**6)
        assert set(found) == expected
        assert [known.counts[w] for w in found] == sorted((known.counts[w] for w in found), reverse=True)
    assert known.near("a" * 25) == known.near("x") == [] and len(LETTERS) == 27


def test_forms_of_words():
    for base, forms in {
        "walk": "walk walks walked walking", "stop": "stop stops stopped stopping", "love": "love loves loved loving",
        "try": "try tries tried trying", "play": "play plays played playing", "die": "die dies died dying",
        "see": "see sees saw seen seeing", "go": "go goes went gone going", "visit": "visit visits visited visiting",
        "fix": "fix fixes fixed fixing", "watch": "watch watches watched watching", "run": "run runs ran running",
        "put": "put puts putting", "have": "have has had having", "rain": "rain rains rained raining",
    }.items():  # fmt: skip
        assert english.verb_forms(base) == tuple(forms.split())
        for form in forms.split():
            assert base in english.possible_bases(form)
    for single, plural in {
        "dog": "dogs", "box": "boxes", "city": "cities", "day": "days", "child": "children", "knife": "knives",
        "bus": "buses", "church": "churches",
    }.items():  # fmt: skip
        assert english.with_s(single) == plural and single in english.possible_singulars(plural)
    assert english.article("apple") == "an" and english.article("dog") == "a" == english.article("university")


# ---------------------------------------------------------------- hostile input
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "a" * 20_000,
        "!" * 20_000,
        "the " * 100,
        "\n" * 20_000,
        "\ud800 x",
        "é́" * 600,
        "was\x00is \u2028 a",
        "字" * 3000,
    ],
    ids=["one word", "marks", "repeated", "lines", "surrogate", "accents", "controls", "no spaces"],
)
def test_hostile_texts_end(text):
    class Flat(HistoryModel):
        def nll(self, batch, reduction="none"):
            return torch.ones(batch.ids.shape, dtype=torch.float64)

    class Mending(ByteTokenizer):
        def encode(self, text, *, special="never"):
            return list(text.encode("utf-8", "replace"))

    one = Corrector(Flat(), Mending(), WORDS).correct([text])[0]
    assert applied(text, one.changes) == one.corrected


def test_word_lists_come_from_files_or_are_refused(tmp_path):
    (tmp_path / "words.txt").write_text("apple\nbanana\n")
    known = Words.of_file(tmp_path / "words.txt")
    assert "apple" in known and known.near("banena") == ["banana"] and "were" in known
    (tmp_path / "none.txt").write_text("123 456")
    with pytest.raises(DataError, match="holds no word"):
        Words.of_file(tmp_path / "none.txt")
    with pytest.raises(DataError, match="no such file"):
        Words.of_file(tmp_path / "missing.txt")
