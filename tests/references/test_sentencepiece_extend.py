"""A SentencePiece vocabulary that goes on learning: old ids as they were, ids equal to the library's on its file."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from _catalogues import messages
from _spm import ODD, PHRASES, differing, scrambled, texts, trained

from llmanac.core.errors import DataError, TokenizerError
from llmanac.tokenizers._pieces import NORMAL, ScoredPiece
from llmanac.tokenizers._unigram import SentencePiece
from llmanac.tokenizers.load import extend, load_tokenizer, train_tokenizer
from llmanac.tokenizers.spm import files as spm

sentencepiece = pytest.importorskip("sentencepiece")
KINDS = ("unigram", "bpe")
PLAIN = {"normalization_rule_name": "identity", "add_dummy_prefix": False, "remove_extra_whitespaces": False}
NEW = [
    "die Straße, dieser Straßen sind naïve Straßenbahnen", "zażółć gęślą jaźń, zażółcenie gęśli", "abba baab abaabb",
    "ქართული ენა და ქართული დამწერლობა", "<s> the</s><unk> <0x41> abba",
]  # fmt: skip
MODELS = [
    {"model_type": kind, **more} for kind in KINDS for more in (
        {"byte_fallback": True}, {"byte_fallback": False}, {**PLAIN, "byte_fallback": True},
        {"treat_whitespace_as_suffix": True}, {"split_by_unicode_script": False, "split_by_number": False},
        {"user_defined_symbols": ("<mask>", "the", "ab", "\u2581th"), "control_symbols": ("<ctl>",)},
    )
]  # fmt: skip


def opened(data: bytes, folder: Path) -> SentencePiece:
    (folder / "old.model").write_bytes(data)
    found = load_tokenizer(folder / "old.model")
    assert isinstance(found, SentencePiece)
    return found


def library_of(tokenizer: SentencePiece, folder: Path) -> Any:
    tokenizer.save(folder / "new.model")
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "new.model"))


@pytest.mark.parametrize("choices", MODELS, ids=lambda c: "-".join(map(str, c.values()))[:60])
def test_ids_equal_the_library_on_the_file_written(choices: dict[str, Any], tmp_path: Path) -> None:
    old = opened(trained(**choices), tmp_path)
    new = extend(old, NEW * 9, 80)
    assert isinstance(new, SentencePiece)
    assert new.pieces[: len(old.pieces)] == old.pieces and 20 < new.vocab_size - old.vocab_size <= 80
    added = {piece.text for piece in new.pieces[len(old.pieces) :]}
    assert any(len(text) > 2 for text in added) and not added & {piece.text for piece in old.pieces}
    theirs = library_of(new, tmp_path)
    assert theirs.get_piece_size() == new.vocab_size
    given = [*NEW, *texts()]
    expected = theirs.encode(given)
    assert not differing([ids.tolist() for ids in new.encode_batch(given)], expected, given)
    assert [new.decode(ids, skip_special=True) for ids in expected] == theirs.decode(expected)
    for text in NEW[:4] if choices.get("byte_fallback") else NEW[:1]:  # a run of unknown characters is one token
        assert len(new.encode(text)) < len(old.encode(text))
    new.save(tmp_path / "folder")
    again = load_tokenizer(tmp_path / "folder")
    assert again.fingerprint() == new.fingerprint() and again.special_tokens == old.special_tokens


@pytest.mark.parametrize("kind", KINDS)
def test_old_text_changes_only_where_a_new_piece_is_used(kind: str, tmp_path: Path) -> None:
    old = opened(trained(model_type=kind, byte_fallback=True), tmp_path)
    new = extend(old, NEW * 9, 80)
    changed = 0
    for text in [*PHRASES, *scrambled(200), *(t for t in ODD if len(t) < 100)]:
        before, after = old.encode(text), new.encode(text)
        if after != before:
            changed += 1
            assert any(id >= old.vocab_size for id in after), text
    assert changed  # "abba" is in them, or a new character


@pytest.mark.parametrize("kind", KINDS)
def test_a_real_language(kind: str, tmp_path: Path) -> None:
    english, german = list(messages("de")), list(messages("de").values())
    old = train_tokenizer("sentencepiece", english, vocab_size=2000, model=kind)
    new = extend(old, german[::2], 1000)
    whole = train_tokenizer("sentencepiece", german[::2], vocab_size=3000, model=kind)
    before, after, alone = (sum(map(len, t.encode_batch(german[1::2]))) for t in (old, new, whole))
    assert after < min(before * 0.75, alone * 1.25)
    mixed = sum(map(len, new.encode_batch(english))) / sum(map(len, old.encode_batch(english)))
    assert 0.9 < mixed <= 1.03
    theirs = library_of(new, tmp_path)  # type: ignore[arg-type]
    given = [*german, *english]
    assert not differing([ids.tolist() for ids in new.encode_batch(given)], theirs.encode(given), given)
    assert [new.decode(new.encode(text)) for text in given] == given


def test_merges_go_on_as_in_one_training() -> None:
    text = list(messages("de"))
    whole = train_tokenizer("sentencepiece-bpe", text, vocab_size=2000)
    part = extend(train_tokenizer("sentencepiece-bpe", text, vocab_size=1200), text, 800)
    one, other = ({piece.text for piece in t.pieces} for t in (whole, part))  # type: ignore[attr-defined]
    assert len(one) == len(other) and len(one & other) > 0.98 * len(one)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_a_configuration_keep_their_ids(kind: str, tmp_path: Path) -> None:
    data = trained(model_type=kind, byte_fallback=True)
    old = opened(data, tmp_path)
    size = old.vocab_size
    config = tmp_path / "tokenizer_config.json"
    token = '{"content": "<|im_start|>", "special": true}'
    config.write_text(f'{{"added_tokens_decoder": {{"{size + 2}": {token}}}, "bos_token": "<|im_start|>"}}')
    old = load_tokenizer(_folder(tmp_path, data, config))
    assert old.vocab_size == size + 3 and old.bos_id == size + 2
    new = extend(old, [*NEW, "<|im_start|>x<|im_start|>x"] * 9, 40)
    assert new.token_bytes(size + 2) == b"<|im_start|>" and new.bos_id == size + 2 and new.vocab_size > size + 3
    assert not any("im_start" in new.token_bytes(i).decode("utf-8", "replace") for i in range(size + 3, new.vocab_size))
    assert size + 2 not in new.encode("<|im_start|>") and new.encode("<|im_start|>", special="all") == [size + 2]
    theirs = library_of(new, tmp_path)  # type: ignore[arg-type]
    given = [*NEW, *PHRASES]
    assert not differing([ids.tolist() for ids in new.encode_batch(given)], theirs.encode(given), given)
    config.write_text(f'{{"added_tokens_decoder": {{"{size}": {{"content": "plain", "special": false}}}}}}')
    odd = load_tokenizer(_folder(tmp_path, data, config))
    with pytest.raises(TokenizerError, match=rf"extend: the added token 'plain' \(id {size}\) is no plain control"):
        extend(odd, NEW, 5)


def _folder(place: Path, data: bytes, config: Path) -> Path:
    folder = place / "with_config"
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(data)
    (folder / "tokenizer_config.json").write_text(config.read_text())
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_few_tokens_go_to_the_most_frequent_characters_first(kind: str, tmp_path: Path) -> None:
    old = opened(trained(model_type=kind, byte_fallback=True), tmp_path)
    new = extend(old, ["ꙋꙋꙋ ꙗ"] * 9, 1)
    assert [piece.text for piece in new.pieces[old.vocab_size :]] == ["ꙋ"]  # type: ignore[attr-defined]
    both = extend(old, ["ꙋꙋꙋ ꙗ"] * 9, 3)
    assert {"ꙋ", "ꙗ"} < {piece.text for piece in both.pieces[old.vocab_size :]}  # type: ignore[attr-defined]


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    for kind in KINDS:
        old = opened(trained(model_type=kind), tmp_path)
        with pytest.raises(TokenizerError, match="extend: extra is 0; ask for one token or more"):
            extend(old, NEW, 0)
        with pytest.raises(TokenizerError, match="ids are more than can be numbered"):
            extend(old, NEW, 1 << 31)
        with pytest.raises(DataError, match="extend: the texts to learn from are empty"):
            extend(old, ["", " "], 3) if kind == "bpe" else extend(old, [], 3)
        with pytest.raises(DataError, match="extend: text 0 is bytes, not str"):
            extend(old, [b"a"], 3)  # type: ignore[list-item]
    unigram = opened(trained(model_type="unigram"), tmp_path)
    unigram.save(tmp_path / "u")
    (tmp_path / "u" / "tokenizer_config.json").unlink()
    with pytest.raises(TokenizerError, match=r"extend the \.model it was made from"):
        extend(load_tokenizer(tmp_path / "u" / "tokenizer.json"), NEW, 5)


def test_hostile_scores_are_refused_in_one_sentence(tmp_path: Path) -> None:
    for kind, score, message in (
        ("bpe", -3.0e38, "below which no"), ("bpe", -1.0e9, "below which no"),
        ("unigram", 1.0e30, "no log probabilities"),
    ):  # fmt: skip
        model = opened(trained(model_type=kind, byte_fallback=True), tmp_path).model
        pieces = [
            ScoredPiece(p.text, score, p.type) if p.type == NORMAL else p for p in model.pieces
        ]  # fmt: skip
        broken = opened(spm.serialize(pieces, dict(model.trainer), model.rules), tmp_path)
        with pytest.raises(TokenizerError, match=message):
            extend(broken, NEW * 9, 30)


def test_random_texts_never_break_it(tmp_path: Path) -> None:
    draw = random.Random(2)
    for kind in KINDS:
        old = opened(trained(model_type=kind, byte_fallback=True), tmp_path)
        for _ in range(6):
            given = ["".join(draw.choice("ab \0\u2581é中\U0001f600") for _ in range(40)) for _ in range(9)]
            new = extend(old, given, draw.choice([1, 7, 200]))
            theirs = library_of(new, tmp_path)  # type: ignore[arg-type]
            assert not differing([ids.tolist() for ids in new.encode_batch(given)], theirs.encode(given), given)
