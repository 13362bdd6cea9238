"""Row tokenizer/utf8: every string comes back, and the ids are those of ByT5."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.errors import SpecError, TokenizerError
from llmanac.core.spec import make_method
from llmanac.tokenizers.load import load_tokenizer, train_tokenizer
from llmanac.tokenizers.utf8 import UTF8

many = settings(max_examples=80, deadline=None)
TEXTS = [
    "",
    "a",
    "naïve café",
    "中文 текст ελ",
    "\0\x01\x7f\n\r\t",
    "🙂‍👩‍👩",
    "a" * 5000,
    "</s> <pad> <extra_id_3>",
    "\U0010ffff",
]


@pytest.fixture(scope="module")
def byt5():
    transformers = pytest.importorskip("transformers")
    return transformers.ByT5Tokenizer()


@pytest.fixture(scope="module")
def ours() -> UTF8:
    return train_tokenizer("byt5", [])


def theirs(tokenizer, text: str) -> list[int]:
    """ByT5's ids of plain text: special tokens spelled out, nothing added."""
    return [tokenizer._convert_token_to_id(token) for token in tokenizer._tokenize(text)]


@many
@given(text=st.text())
def test_every_string_comes_back(ours, text):
    ids = ours.encode(text)
    assert ids == [3 + byte for byte in text.encode("utf-8")]
    assert ours.decode(ids) == text
    assert len(ids) == len(text.encode("utf-8"))  # bytes per token = 1


@many
@given(text=st.text(st.characters()))
def test_halves_of_surrogate_pairs_become_u_fffd(ours, text):
    mended = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    ids, offsets = ours.encode_with_offsets(text)
    assert ours.decode(ids) == mended
    assert len(ids) == len(offsets) and all(0 <= a < b <= len(text) for a, b in offsets)


@many
@given(text=st.text())
def test_ids_of_byt5(ours, byt5, text):
    assert ours.encode(text) == theirs(byt5, text)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_of_byt5_through_its_front_door(ours, byt5, text):
    if not any(token in text for token in byt5.all_special_tokens):
        assert ours.encode(text) == byt5(text, add_special_tokens=False).input_ids
        assert [*ours.encode(text), ours.eos_id] == byt5(text).input_ids


def test_special_tokens_of_byt5(ours, byt5):
    assert ours.vocab_size == len(byt5) == 384
    assert (ours.pad_id, ours.eos_id) == (byt5.pad_token_id, byt5.eos_token_id) == (0, 1)
    for text, id in ours.special_tokens.items():
        assert byt5.convert_tokens_to_ids(text) == id, text
        assert ours.encode(text, special="all") == [id] == byt5(text, add_special_tokens=False).input_ids
    assert len(ours.special_tokens) == 3 + 125


def test_a_folder_of_byt5_is_read(byt5, tmp_path, ours):
    byt5.save_pretrained(tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()
    mine = load_tokenizer(tmp_path)
    assert mine.vocab_size == 384 and (mine.pad_id, mine.eos_id) == (0, 1)
    assert mine.special_tokens == ours.special_tokens
    for text in [*TEXTS, "a </s> b", "x<extra_id_7>y", "<pad>"]:
        assert mine.encode(text) == theirs(byt5, text)
        assert mine.encode(text, special="all") == byt5(text, add_special_tokens=False).input_ids, text


def test_what_we_write_the_peers_read(ours, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    ours.save(tmp_path)
    peer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    peer.encode_special_tokens = True
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert ours.encode(text) == peer.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, special="all") == fast(text, add_special_tokens=False).input_ids
    assert len(fast) == 384 and fast.pad_token_id == 0 and fast.eos_token_id == 1
    again = load_tokenizer(tmp_path)
    assert type(again) is UTF8 and again.fingerprint() == ours.fingerprint()


def test_other_special_tokens_move_the_bytes():
    mine = train_tokenizer("utf8", [], special_tokens=("<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>"))
    assert mine.encode("a") == [5 + 97] and mine.vocab_size == 261
    assert (mine.bos_id, mine.eos_id, mine.pad_id) == (0, 1, 2) and mine.chat_template is not None
    assert train_tokenizer("utf8", [], special_tokens=()).encode("a") == [97]


def test_errors_say_what_to_do(tmp_path, ours):
    cases = [
        ({"special_tokens": ["a"]}, "special_tokens.0: 'a' is how a vocabulary writes a byte"),
        ({"special_tokens": ["Ġ"]}, "special_tokens.0: 'Ġ' is how a vocabulary writes a byte"),
        ({"special_tokens": ["<s>", "<s>"]}, "special_tokens.1: '<s>' is given twice"),
        ({"special_tokens": [""]}, "special_tokens.0: '' is empty"),
        ({"special_tokens": ["<\ud800>"]}, "special_tokens.0: .* holds a surrogate"),
        ({"extra_ids": -1}, "extra_ids: -1 must be from 0 to"),
        ({"extra_ids": 3, "special_tokens": ["<extra_id_2>"]}, "'<extra_id_2>' is also one of the 3 extra ids"),
        ({"eos": "</t>"}, "eos: '</t>' is not among special_tokens"),
    ]
    for choices, message in cases:
        with pytest.raises(SpecError, match=message):
            make_method("tokenizer", {"name": "utf8", **choices})
    with pytest.raises(TokenizerError, match="one segmentation of a text"):
        ours.sample("a", seed=0)
    with pytest.raises(TokenizerError, match="extend: this tokenizer cuts text into no pieces"):
        ours.extended(["aa"], 3)
    config = {"tokenizer_class": "ByT5Tokenizer", "added_tokens_decoder": {"0": {"content": "<pad>", "special": True}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match=r"tokenizer_config.json: added tokens: ByT5 has three from id 0 on"):
        load_tokenizer(tmp_path)


def test_offsets_of_long_characters(ours):
    ids, offsets = ours.encode_with_offsets("aé中🙂")
    assert len(ids) == 1 + 2 + 3 + 4
    assert offsets == [(0, 1)] + [(1, 2)] * 2 + [(2, 3)] * 3 + [(3, 4)] * 4
