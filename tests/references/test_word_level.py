"""Row tokenizer/word: the vocabulary and ids of Hugging Face's WordLevelTrainer and WordLevel, tie for tie."""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.errors import DataError, SpecError, TokenizerError
from llmanac.core.spec import make_method
from llmanac.kernels import unicode
from llmanac.kernels.split import word_level
from llmanac.tokenizers.load import extend, load_tokenizer, train_tokenizer

tokenizers = pytest.importorskip("tokenizers")
SPECIAL = ("[UNK]", "[PAD]", "<s>")
many = settings(max_examples=60, deadline=None)


def pre_tokenizer(pattern: str):
    if pattern == "whitespace":
        return tokenizers.pre_tokenizers.Whitespace()
    if pattern == "whitespace-split":
        return tokenizers.pre_tokenizers.WhitespaceSplit()
    from llmanac.tokenizers.patterns.splitter import pattern_of

    return tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern_of(pattern)), "isolated")


def theirs(texts, pattern, vocab_size=30_000, min_frequency=0, special=SPECIAL):
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizer(pattern)
    trainer = tokenizers.trainers.WordLevelTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=list(special), show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    return made


def ours(texts, pattern, **choices):
    return train_tokenizer("word", texts, pattern=pattern, **{"special_tokens": SPECIAL, **choices})


def vocabulary(mine) -> dict[str, int]:
    return {data.decode(): id for id, data in enumerate(mine._bytes) if data is not None}


def agree(mine, peer, samples) -> None:
    assert vocabulary(mine) == peer.get_vocab()
    for text in samples:
        found = peer.encode(text, add_special_tokens=False)
        assert mine.encode(text, special="all") == found.ids, repr(text)
        assert mine.encode_with_offsets(text, special="all") == (found.ids, found.offsets), repr(text)
        assert mine.decode(found.ids) == peer.decode(found.ids, skip_special_tokens=False), repr(text)
        assert mine.decode(found.ids, skip_special=True) == peer.decode(found.ids, skip_special_tokens=True)


def corpus(rng: random.Random) -> list[str]:
    letters = rng.choice(["ab", "aé中", "aB_ .\n", "a'1-²ⅷ ", "🙂‍a\u0301 \u2028", "[]UNKPAD <>s"])
    return ["".join(rng.choice(letters + " ") for _ in range(rng.randint(0, 60))) for _ in range(rng.randint(1, 8))]


@pytest.mark.parametrize("pattern", ["whitespace", "whitespace-split", "gpt2", "llama3", r"\d+|[a-z]+"])
@pytest.mark.parametrize("seed", range(25))
def test_random_corpora(pattern, seed):
    rng = random.Random(seed)
    texts = [*corpus(rng), "one more word"]
    choices = {"vocab_size": rng.choice([5, 9, 30_000]), "min_frequency": rng.choice([0, 0, 2])}
    peer = theirs(texts, pattern, **choices)
    if pattern not in ("whitespace", "whitespace-split"):
        peer.decoder = tokenizers.decoders.Fuse()
    agree(ours(texts, pattern, **choices), peer, [*texts, "new words [UNK] <s> x", "", "  "])


@pytest.mark.parametrize("pattern", ["whitespace", "whitespace-split", "gpt4"])
def test_real_sources(pattern):
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = [path.read_text("utf-8", errors="replace") for path in sorted(root.glob("*.py"))[:60]]
    mine, peer = ours(texts, pattern, vocab_size=5000), theirs(texts, pattern, vocab_size=5000)
    assert vocabulary(mine) == peer.get_vocab() and len(vocabulary(mine)) == 5000
    expected = [found.ids for found in peer.encode_batch(texts, add_special_tokens=False)]
    assert [mine.encode(text, special="all") for text in texts] == expected
    unknown = sum(ids.count(mine.unknown_id) for ids in expected) / sum(map(len, expected))
    assert mine.unknown_rate(texts) == pytest.approx(unknown, abs=1e-4) and unknown > 0.005
    smaller = ours(texts, pattern, vocab_size=500)
    assert smaller.unknown_rate(texts) > mine.unknown_rate(texts)


@many
@given(text=st.text(max_size=60))
def test_every_text_is_cut_as_theirs(text):
    for words_apart, peer in (
        (True, tokenizers.pre_tokenizers.Whitespace()),
        (False, pre_tokenizer("whitespace-split")),
    ):
        mine = ours([text + " x"], "whitespace" if words_apart else "whitespace-split")
        found = [word for word, _, _ in mine._words(text)]
        assert found == [word for word, _ in peer.pre_tokenize_str(text)]


@pytest.mark.slow
def test_word_characters_of_all_of_unicode():
    by_code_point = word_level.run_classes(True)[1]
    peer = tokenizers.pre_tokenizers.Whitespace()
    for code_point in range(unicode.CODE_POINTS):
        if 0xD800 <= code_point < 0xE000:
            continue
        parts = peer.pre_tokenize_str(f"a{chr(code_point)}a")
        kind = word_level.WORD if len(parts) == 1 else word_level.SPACE if len(parts) == 2 else word_level.OTHER
        assert by_code_point[code_point] == kind, hex(code_point)


def test_special_tokens_that_are_words_too():
    texts = ["a b <s> b [UNK] c <s>"]
    mine, peer = ours(texts, "whitespace-split"), theirs(texts, "whitespace-split")
    agree(mine, peer, ["a <s> zz [UNK]", "<s>b"])
    assert mine.encode("a <s> c") == [mine.encode("a")[0], mine.unknown_id, mine.encode("c")[0]]  # text cannot write it
    assert mine.special_tokens["<s>"] not in mine.encode("a <s> c")


def test_the_unknown_token_comes_last_where_it_is_not_named():
    mine = train_tokenizer("word", ["a b a"], special_tokens=("<s>", "</s>"), unknown="<unk>")
    assert vocabulary(mine) == {"<s>": 0, "</s>": 1, "<unk>": 2, "a": 3, "b": 4}
    assert mine.encode("a x") == [3, 2] and mine.decode([3, 2]) == "a <unk>" and (mine.bos_id, mine.eos_id) == (0, 1)


def test_patterns_that_keep_white_space_lose_only_unknown_words():
    mine = ours(["the cat sat\n\n  on it, twice"], "gpt4")
    assert (
        mine.separator == b"" and mine.decode(mine.encode("the cat\n\n  on it, twice")) == "the cat\n\n  on it, twice"
    )
    assert mine.decode(mine.encode("the dog sat")) == "the[UNK] sat"


def test_a_long_word_and_many_words():
    mine = ours(["a " + "b" * 1_000_000 + " c"], "whitespace")
    assert mine.encode("b" * 1_000_000) == [mine.encode("a b c", special="all")[0] + 1]
    assert mine.encode("b" * 999_999) == [mine.unknown_id]
    assert mine.encode("x" * 1_000_000 + " a") == [mine.unknown_id, *mine.encode("a")]
    assert mine.encode(" " * 1_000_000) == [] and mine.encode("\0") == [mine.unknown_id]
    long = [f"{'prefix' * 4}{i:05}{'suffix' * 4}" for i in range(2000)]  # the same length and beginning
    mine = ours(long, "whitespace")
    assert [mine.encode(word) for word in sorted(long)] == [[len(SPECIAL) + i] for i in range(2000)]


def test_further_words():
    texts, new = ["the cat sat on the mat"] * 3, ["the dog sat; the dog ran <s>"]
    mine = ours(texts, "whitespace")
    larger = extend(mine, new, 2)
    assert [larger.token_bytes(id) for id in range(mine.vocab_size, larger.vocab_size)] == [b"dog", b";"]
    assert larger.encode(texts[0]) == mine.encode(texts[0]) and larger.fingerprint() != mine.fingerprint()
    assert larger.decode(larger.encode("the dog ran")) == "the dog [UNK]"
    assert extend(ours(texts, "gpt4", vocab_size=6), texts, 99).fingerprint() == ours(texts, "gpt4").fingerprint()


def test_streams_files_and_errors(tmp_path):
    (tmp_path / "a.txt").write_text("the cat\nthe dog\n" * 40, "utf-8")
    from_file = train_tokenizer("word", tmp_path / "a.txt")
    assert from_file.fingerprint() == train_tokenizer("word", iter(["the cat\nthe dog\n"] * 40)).fingerprint()
    with pytest.raises(DataError, match="tokenizer/word: the texts to learn from are empty"):
        train_tokenizer("word", [""])
    with pytest.raises(DataError, match="tokenizer/word: text 1 is int, not str"):
        make_method("tokenizer", "word").train(["a", 1])
    cases = [
        ({"vocab_size": 4}, "vocab_size: 4 is not between 5 and"),
        ({"pattern": "whitespac"}, "no split pattern named 'whitespac'; did you mean 'whitespace'"),
        ({"pattern": "("}, "pattern: split pattern '\\(': a '\\)' is missing"),
        ({"unknown": ""}, "unknown: is empty"),
        ({"special_tokens": ["<s>", "<s>"]}, "special_tokens.1: '<s>' is given twice"),
        ({"pad": "<q>"}, "pad: '<q>' is not among special_tokens"),
    ]
    for choices, message in cases:
        with pytest.raises(SpecError, match=message):
            make_method("tokenizer", {"name": "word", **choices})
    with pytest.raises(TokenizerError, match="extend: extra is 0"):
        extend(from_file, ["a"], 0)
    loaded = ours(["a b"], "whitespace")
    loaded.unknown_id = None
    with pytest.raises(TokenizerError, match="the vocabulary has no 'zebra', which the text holds, and no unknown"):
        loaded.encode("a zebra b")
    loaded.save(tmp_path / "t")
    with pytest.raises(TokenizerError, match="no 'zebra'"):
        load_tokenizer(tmp_path / "t").encode("zebra")
