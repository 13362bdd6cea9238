"""Random `tokenizer.json` files and patterns: equal to the tokenizers library, or refused by name."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from _files_at_random import random_document
from _patterns_at_random import random_pattern, random_text
from _two_readers import difference

from llmanac.core.errors import LlmanacError, SpecError, TokenizerError
from llmanac.tokenizers.load import load_tokenizer, train_tokenizer
from llmanac.tokenizers.patterns import splitter as _patterns
from llmanac.tokenizers.patterns.splitter import Pattern, TimeBudget, shown

tokenizers = pytest.importorskip("tokenizers")


def compared(seeds: range, folder: Path) -> Counter[str]:
    """How many random files had each outcome; fails for one that differs."""
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        rng = random.Random(f"file {seed}")
        outcome, what = difference(random_document(rng), rng, folder)
        assert outcome != "differs", (seed, what)
        outcomes[outcome] += 1
    return outcomes


def test_a_few_random_files_are_read_alike(tmp_path: Path) -> None:
    assert compared(range(30), tmp_path)["equal"] > 7


@pytest.mark.slow
def test_many_random_files_are_read_alike(tmp_path: Path) -> None:
    outcomes = compared(range(30, 1060), tmp_path)
    assert outcomes["equal"] > 300 and outcomes["refused"] < 650


def split_alike(seeds: range) -> int:
    """How many random patterns both read; fails for one that cuts a text otherwise."""
    read = 0
    for seed in seeds:
        rng = random.Random(f"pattern {seed}")
        source = random_pattern(rng)
        try:
            theirs = tokenizers.pre_tokenizers.Split(tokenizers.Regex(source), "isolated")
            ours = Pattern(source)
        except Exception:  # the library's own, or a SpecError
            continue
        read += 1
        for _ in range(20):
            text = random_text(rng)
            found, done = [], 0
            for start, stop in ours.spans(shown(text), TimeBudget(len(text))):
                found += [(done, start)] * (start > done) + [(start, stop)] * (stop > start)
                done = stop
            found += [(done, len(text))] * (done < len(text))
            assert found == [span for _, span in theirs.pre_tokenize_str(text)], (source, text)
    return read


def test_random_patterns_mean_the_same() -> None:
    assert split_alike(range(400)) > 150


@pytest.mark.slow
def test_many_random_patterns_mean_the_same() -> None:
    assert split_alike(range(400, 8000)) > 3000


@pytest.mark.parametrize(
    "source",
    [
        r"\w",
        r"[\w]",
        r"\s",
        r"\d",
        r"\h",
        r"[\h]",
        r"\p{L}",
        r"\p{Lo}",
        r"\p{Ll}",
        r"\p{Han}",
        r"\p{M}",
        "[[:alpha:]]",
        "[[:word:]]",
        "[[:digit:]]",
        "(?i:s)",
        "(?i:[a-z])",
        r"[\p{L}&&[^a-z]]",
    ],
)
def test_sets_hold_the_same_characters(source: str) -> None:
    # of the planes of ideographs, and those in which nothing is assigned, some characters
    codes = [*range(0xD800), *range(0xE000, 0x20000), *range(0x20000, 0xE0000, 97), *range(0xE0000, 0xE1000)]
    text = "".join(map(chr, [*codes, *range(0xE1000, 0x110000, 97), 0x10FFFF]))
    theirs = tokenizers.pre_tokenizers.Split(tokenizers.Regex(source), "removed", invert=True)
    expected = {character for piece, _ in theirs.pre_tokenize_str(text) for character in piece}
    assert {text[start] for start, _ in Pattern(source).spans(shown(text), None)} == expected


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("(?R)", "recursion"),
        ("(?1)", r"\(\?1"),
        ("(?&x)", "recursion"),
        (r"(a)\1", r"\\1"),
        (r"\L<x>", r"\\L"),
        (r"a\K", r"\\K"),
        (r"\G", r"\\G"),
        (r"\X", r"\\X"),
        (r"\pL", "without braces"),
        ("(?x)a", r"\?x"),
        ("(a|b*)*", "can be empty"),
        ("(?i)é", "outside ASCII"),
        ("(?i:ss)", "fold to one"),
        ("a{3,1}", "3,1"),
        ("(?~a)", "absent"),
        ("(?(1)a|b)", "condition"),
        ("[a", "ends too early"),
        ("*a", "nothing before"),
        ("(" * 3000 + "a" + ")" * 3000, "nested more than"),
        ("[" * 3000, "nested more than"),
        ("a" * 30_000, "30,000 characters"),
        ("a{99999}", "repeats"),
        (r"\p{Nothing}", "Nothing"),
        (r"(?P<a>b)", "Python"),
        ("(?{1})", "callout"),
        ("(*FAIL)", "callout"),
    ],
)
def test_what_a_pattern_cannot_have_is_refused_by_name(source: str, named: str) -> None:
    with pytest.raises(SpecError, match=named):
        Pattern(source)


def test_fuzzy_syntax_is_text() -> None:
    assert list(Pattern("(?:cat){e<=1}").spans("a cat, a cat{e<=1}", None)) == [(9, 18)]


def test_a_pattern_of_tiktoken_keeps_its_meaning_in_training() -> None:
    source = next(iter(_patterns._OF_TIKTOKEN))
    made = train_tokenizer("bpe", ["12345 a"], vocab_size=300, pattern=source)
    assert made.splitter.steps == (_patterns.GPT4,)
    assert Pattern(source).spans("12345", None).__next__() == (0, 5)  # what a tokenizer.json means by it


# ------------------------------------------------------------------------------------------------ hostile files
def unigram(**parts: Any) -> dict[str, Any]:
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]], "byte_fallback": False}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "decoder": None,
        "model": model,
    } | parts


def replaces(*contents: str) -> list[dict[str, Any]]:
    return [{"type": "Replace", "pattern": {"String": "a"}, "content": content} for content in contents]


def nested(levels: int, part: str, inner: str) -> Any:
    found: Any = {"type": "NFC"}
    for _ in range(levels):
        found = {"type": "Sequence", inner: [found]}
    return {part: found}


@pytest.mark.parametrize(
    ("document", "named"),
    [
        (
            unigram(normalizer={"type": "Sequence", "normalizers": replaces(*["aa"] * 30)}),
            "normalizer: .*times as long",
        ),
        (unigram(normalizer={"type": "Sequence", "normalizers": replaces("a" * 5000)}), "normalizer: .*times as long"),
        (unigram(normalizer={"type": "Prepend", "prepend": "x" * 100_000}), r"normalizer\[0\].prepend: has 100,000"),
        (
            unigram(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}] * 1000}),
            "normalizer.normalizers: has 1000 steps",
        ),
        (
            unigram(pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}] * 1000}),
            "pre_tokenizer.pretokenizers: has 1000",
        ),
        (unigram(decoder={"type": "Sequence", "decoders": replaces(*["aaa"] * 30)}), "decoder: .*times as long"),
        (unigram(**nested(300, "normalizer", "normalizers")), "nested"),
        (unigram(**nested(300, "decoder", "decoders")), "nested"),
        (unigram(**nested(3, "normalizer", "normalizers")), r"normalizer\[0\]: .*no Sequence"),
        (
            unigram(normalizer={"type": "Replace", "pattern": {"Regex": "(?R)"}, "content": ""}),
            r"normalizer\[0\].pattern: .*recursion",
        ),
        (
            unigram(decoder={"type": "Replace", "pattern": {"Regex": "(a)(?1)"}, "content": ""}),
            r"decoder\[0\].pattern: ",
        ),
        (unigram(added_tokens=[{"id": 7, "content": "z"}]), r"added_tokens\[0\]: 'z' has the id 7, but it is number 2"),
    ],
)
def test_hostile_files_are_refused_in_one_sentence(document: dict[str, Any], named: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document))
    with pytest.raises(TokenizerError, match=named) as caught:
        load_tokenizer(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))


CATASTROPHES = ["(a+)+$|[^a]+", "(a|aa)+$"]


@pytest.mark.parametrize("source", CATASTROPHES)
def test_a_catastrophic_pattern_ends_with_a_sentence(source: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(_patterns, "BASE_SECONDS", 0.2)
    split = {"type": "Split", "pattern": {"Regex": source}, "behavior": "Isolated", "invert": False}
    for part, node in (
        ("pre_tokenizer", split),
        ("normalizer", {"type": "Replace", "pattern": {"Regex": source}, "content": "x"}),
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps(unigram(**{part: node})))
        made = load_tokenizer(tmp_path)
        with pytest.raises(LlmanacError, match="takes more than 0 s over a text of 5001 characters; rewrite it"):
            made.encode("a" * 5000 + "!")


def test_a_text_that_grows_beyond_bounds_is_refused(tmp_path: Path) -> None:
    steps = [{"type": "NFKD"}, {"type": "Replace", "pattern": {"String": "m"}, "content": "a" * 50}]
    (tmp_path / "tokenizer.json").write_text(json.dumps(unigram(normalizer={"type": "Sequence", "normalizers": steps})))
    made = load_tokenizer(tmp_path)
    assert len(made.encode("m" * 100)) == 5000
    with pytest.raises(TokenizerError, match=r"normalizer\[1\]: makes a text of 1000 characters 100000 long"):
        made.encode("㎜" * 1000)


@pytest.mark.parametrize("model", ["unigram", "bpe"])
def test_a_sentencepiece_model_with_control_tokens_in_the_text_is_saved_alike(model: str, tmp_path: Path) -> None:
    rng = random.Random(model)
    parts = ["a", "the", " ", "  ", "<s>", "</s>", "\u2581", "é", "\n", "e\u0301", "Ａ", "quick"]
    texts = ["".join(rng.choice(parts) for _ in range(rng.randrange(9))) for _ in range(200)]
    for prefix in (False, True):
        for removes in (False, True):
            made = train_tokenizer(
                "sentencepiece", ["the quick brown fox", "é Ａ a"] * 9, vocab_size=320, model=model,
                add_dummy_prefix=prefix, remove_extra_whitespaces=removes, special_tokens=("<s>", "</s>"),
            )  # fmt: skip
            folder = tmp_path / f"{prefix} {removes}"
            made.save(folder)
            theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            (folder / "tokenizer_config.json").unlink()  # which names the .model
            read = load_tokenizer(folder / "tokenizer.json")
            for text in texts:
                expected = theirs.encode(text, add_special_tokens=False).ids
                assert read.encode(text, special="all") == expected, text
                if not (prefix and text[:1] == "\u2581") and "\u2581" not in text.strip("\u2581 "):
                    assert made.encode(text, special="all") == expected, text
