"""Row data/filtering: decisions, reasons and texts equal to datatrove's filters, on real, hard and repetitive texts."""

from __future__ import annotations

from collections import Counter

import pytest
from _texts import made, real, repetitive

from llmanac.core.errors import SpecError
from llmanac.core.registry import build
from llmanac.data.documents import Document
from llmanac.data.stages import Dropped

pytest.importorskip("spacy")
pytest.importorskip("datatrove")
from datatrove.data import Document as Theirs
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

PEERS = {
    "gopher-quality": GopherQualityFilter, "gopher-repetition": GopherRepetitionFilter, "c4": C4QualityFilter,
    "fineweb": FineWebQualityFilter,
}  # fmt: skip
LOOSE = {  # limits under which short texts reach the later rules
    "gopher-quality": ({"min_words": 1, "min_word_length": 0.0}, {"min_doc_words": 1, "min_avg_word_length": 0}),
    "gopher-repetition": (
        {"top_n_grams": (0.9, 0.9, 0.9), "max_lines": 0.9, "max_paragraphs": 0.9, "max_line_characters": 0.9},
        {"top_n_grams": ((2, 0.9), (3, 0.9), (4, 0.9)), "dup_line_frac": 0.9, "dup_para_frac": 0.9,
         "dup_line_char_frac": 0.9},
    ),
    "c4": ({"min_sentences": 1, "min_words": 1}, {"min_num_sentences": 1, "min_words_per_line": 1}),
    "fineweb": (
        {"min_closed_lines": 0.0, "max_short_lines": 1.0, "max_repeated": 0.3},
        {"line_punct_thr": 0.0, "short_line_thr": 1.0, "char_duplicates_ratio": 0.3},
    ),
}  # fmt: skip


def ours(stage, text: str) -> tuple[bool, str]:
    (found,) = stage.apply([Document("a", text, "a")])
    return (False, found.reason) if isinstance(found, Dropped) else (True, found.text)


def theirs(peer, text: str) -> tuple[bool, str]:
    document = Theirs(text=text, id="a")
    found = peer.filter(document)
    return (True, document.text) if found is True else (False, found[1])


@pytest.mark.parametrize("name", PEERS)
def test_real_texts(name: str) -> None:
    stage, peer = build("stage", name), PEERS[name]()
    seen = Counter()
    for text in real(60):
        kept, what = theirs(peer, text)
        assert ours(stage, text) == (kept, what)
        seen["kept" if kept else what] += 1
    assert len(seen) >= 3, seen  # the rules were really reached


@pytest.mark.parametrize("loose", [False, True])
@pytest.mark.parametrize("name", PEERS)
def test_hard_and_repetitive_texts(name: str, loose: bool) -> None:
    own, other = LOOSE[name] if loose else ({}, {})
    stage, peer = build("stage", name, **own), PEERS[name](**other)
    texts = made(250, seed=7, longest=60) + repetitive(200, seed=3)
    for text in texts:
        assert ours(stage, text) == theirs(peer, text), ascii(text)


def test_lines_of_c4() -> None:
    stage = build("stage", "c4")
    good = "This line is a sentence. And this one is, too. "
    text = "\n".join([
        "no end here", good + "[12] One[edit] more[citation needed].", "Two words.", "It says JavaScript in it.",
        "Read our Privacy Policy now.", "x" * 1001 + " is too long.", "It goes on...", '  He said "so".  ',
        good.strip(),
    ])  # fmt: skip
    kept, what = ours(stage, text)
    assert kept
    assert what.split("\n") == [good + " One more.", 'He said "so".', good.strip()]
    assert ours(stage, text + "\nHere is lorem ipsum dolor.") == (False, "lorem_ipsum")
    assert ours(stage, text + "\nA curly { is code.") == (False, "curly_bracket")
    assert ours(stage, "One. Two. Three. Four.") == (False, "too_few_sentences")


@pytest.mark.parametrize("name", PEERS)
def test_hostile_texts_end(name: str) -> None:
    stage = build("stage", name)
    for text in (
        "",
        " ",
        "\n" * 300_000,
        "\x00" * 10_000,
        "a" * 2_000_000,
        "a " * 300_000,
        "." * 1_000_000,
        "\ud800 x.",
    ):
        (found,) = stage.apply([Document("a", text, "a")])
        assert isinstance(found, (Document, Dropped))


def test_no_limit_is_zero_and_less_is_refused() -> None:
    assert ours(build("stage", "gopher-quality", min_words=0, min_stop_words=0), "only four real words") == (
        True, "only four real words",
    )  # fmt: skip
    with pytest.raises(SpecError, match=r"max_lines: -1\.0 must be at least 0"):
        build("stage", "gopher-repetition", max_lines=-1.0)
    with pytest.raises(SpecError, match="min_words"):
        build("stage", "gopher-quality", min_words=-1)


def test_wikitext_passes_and_its_words_shuffled_into_lists_do_not(shared_data) -> None:
    text = (shared_data / "text" / "wikitext2_valid.txt").read_text("utf-8")
    articles = [part for part in text.split("\n = ") if len(part) > 3000]
    stage = build("stage", "gopher-quality")
    assert sum(ours(stage, a)[0] for a in articles) >= 10
    assert not any(ours(stage, "\n".join(f"- {w}" for w in a.split()))[0] for a in articles)
