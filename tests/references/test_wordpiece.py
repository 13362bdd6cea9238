"""WordPiece, BERT's normaliser and what goes around texts, against Hugging Face `tokenizers` and transformers."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest
from _texts import made, real

from llmanac.core.errors import TokenizerError
from llmanac.tokenizers.hf.write import WordPiece
from llmanac.tokenizers.load import load_tokenizer

tokenizers = pytest.importorskip("tokenizers")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = [
    "Unaffable UNAFFABLE, it's 12,345!", "naïve café déjà-vu ÀÉÎ", "中文测试 と かな漢字", "Привет, Ёлка! ΣΑΣ ας",
    "İstanbul ǅ ß ﬁ", "[CLS] [MASK]ed [UNK] text [SEP]", "do not stop . it 's we 've", "हिन्दी में ไทย 한국어 각",
    "a\u0301\u0327 \u0344 e\u200db\u00adc\ufeff\u0085\u000b\u2028", "豈更 \U0002f800\u0301 \U0001d15e 🙂👩‍👩‍👧",
    "", "  \t\n ",
]  # fmt: skip


WORDS = ["unaffable", "stop", "text", "café", "cafe", "привет", "hello", "testing"]


def vocabulary() -> dict[str, int]:
    """Pieces of words of the texts, whole words, and the letters of most of them."""
    letters = sorted({c for text in TEXTS for c in text.lower() if not c.isspace()} | set("abcdefghijklmnopqrstuvwxyz"))
    rng = random.Random(0)
    parts = {c for word in WORDS for c in (word, word[:3])}
    parts |= {"".join(rng.choice("abcdefgh") for _ in range(rng.randint(2, 4))) for _ in range(150)}
    kept = [c for c in letters if rng.random() < 0.8]
    tokens = [*SPECIAL, *kept, *(f"##{c}" for c in kept), *sorted(parts), *(f"##{part[1:]}" for part in sorted(parts))]
    return {token: id for id, token in enumerate(dict.fromkeys(tokens))}


def document(**changes):
    model = {"type": "WordPiece", "unk_token": "[UNK]", "vocab": vocabulary()}
    for key in ("continuing_subword_prefix", "max_input_chars_per_word", "unk_token", "vocab"):
        if key in changes:
            model[key] = changes.pop(key)
    model = {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100, **model}
    normalizer = {
        "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
        "lowercase": True,
    }  # fmt: skip
    added = [
        {"id": i, "content": token, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for i, token in enumerate(SPECIAL)
    ]  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}, "model": model, **changes,
    }  # fmt: skip


def both(folder, **changes):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(document(**changes)), "utf-8")
    return load_tokenizer(path), tokenizers.Tokenizer.from_file(str(path))


def agree(mine, peer, texts) -> None:
    for text in texts:
        found = peer.encode(text, add_special_tokens=False)
        assert mine.encode(text, special="all") == found.ids, repr(text)
        ids, spans = mine.encode_with_offsets(text, special="all")
        assert ids == found.ids
        for (start, stop), (first, last) in zip(spans, found.offsets, strict=True):
            # what is taken away behind a piece, and all of a stretch that is decomposed, is a part of it here
            assert start <= first and stop >= last, (text, start, stop, first, last)
            assert (start, stop) == (first, last) or not text.isascii() or not text.isprintable()
        assert mine.decode(found.ids) == peer.decode(found.ids, skip_special_tokens=False)
        assert mine.decode(found.ids, skip_special=True) == peer.decode(found.ids, skip_special_tokens=True)


def any_text(count: int, seed: int) -> list[str]:
    """Texts of any characters, of which many are in the vocabulary."""
    rng = random.Random(seed)
    usual = "".join(TEXTS) + "abcdefgh" * 10
    out = []
    for _ in range(count):
        codes = (rng.choice([rng.randrange(0x3000), rng.randrange(0x110000)]) for _ in range(6))
        extra = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
        out.append("".join(rng.choice([rng.choice(usual), rng.choice(extra)]) for _ in range(rng.randint(1, 25))))
    return out


@pytest.mark.parametrize("seed", range(4))
def test_ids_offsets_and_text_equal_tokenizers(seed, tmp_path):
    mine, peer = both(tmp_path)
    assert type(mine) is WordPiece
    agree(mine, peer, [*TEXTS, *any_text(400, seed), *made(200, seed)])
    texts = [*TEXTS, *real(30), *any_text(200, seed + 10)]
    plain = [text for text in texts if not any(token in text for token in SPECIAL)]
    for found, expected in zip(
        mine.encode_batch(plain), peer.encode_batch(plain, add_special_tokens=False), strict=True
    ):
        assert found.tolist() == expected.ids
    assert mine.encode_array("zq" * 20).tolist() != [1]


@pytest.mark.parametrize(
    "switches", itertools.product((True, False), (True, False), (True, False, None), (True, False))
)
def test_every_choice_of_the_normaliser(switches, tmp_path):
    names = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
    normalizer = {"type": "BertNormalizer", **dict(zip(names, switches, strict=True))}
    mine, peer = both(tmp_path, normalizer=normalizer)
    agree(mine, peer, [*TEXTS, *any_text(60, 7)])


def test_every_character_is_normalised_and_cut_alike(tmp_path):
    mine, peer = both(tmp_path)
    every = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(every), 64):
        text = "a".join(every[start : start + 64])
        clean = peer.normalizer.normalize_str(text)
        assert mine._normal_text(text) == clean
        assert mine._words(text, True) == [word for word, _ in peer.pre_tokenizer.pre_tokenize_str(clean)]


@pytest.mark.parametrize(
    "changes",
    [
        {"max_input_chars_per_word": 5},
        {"max_input_chars_per_word": 0},
        {"continuing_subword_prefix": "a"},
        {"continuing_subword_prefix": ""},
        {"normalizer": None},
        {"pre_tokenizer": None},
        {"normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "WhitespaceSplit"}},
        {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False}},
        {"decoder": None},
    ],
)
def test_other_files(changes, tmp_path):
    agree(*both(tmp_path, **changes), [*TEXTS, *any_text(200, 3)])


def template(single, pair):
    def items(text):
        for part in text.split():
            name, _, kind = part.partition(":")
            yield {"Sequence" if name in "AB" else "SpecialToken": {"id": name, "type_id": int(kind or 0)}}

    special = {token: {"id": token, "ids": [i], "tokens": [token]} for i, token in enumerate(SPECIAL)}
    special["[SEP]"] = {"id": "[SEP]", "ids": [3, 4], "tokens": ["[SEP]", "[MASK]"]}
    return {
        "type": "TemplateProcessing", "single": list(items(single)), "pair": list(items(pair)),
        "special_tokens": special,
    }  # fmt: skip


ENDS = {"sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
PROCESSORS = {
    "none": None,
    "bert": {"type": "BertProcessing", **ENDS},
    "roberta": {"type": "RobertaProcessing", **ENDS, "trim_offsets": True, "add_prefix_space": False},
    "template": template("[CLS] A [SEP]", "[CLS] A [SEP] B:1 [SEP]:1"),
    "odd template": template("A:2 [SEP]:1", "B:1 [CLS] [SEP]:2 A"),
    "sequence": {
        "type": "Sequence",
        "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            template("A [SEP]", "A B:1 [SEP]:1"),
        ],
    },
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_what_goes_around_texts_and_pairs(name, tmp_path):
    mine, peer = both(tmp_path, post_processor=PROCESSORS[name])
    texts = ["unaffable text", "", "stop"]
    for first, second in itertools.product(texts, [None, *texts]):
        found = peer.encode(first) if second is None else peer.encode(first, second)
        assert mine.framed(first, second) == (found.ids, found.type_ids)
    mine.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").framed("stop", "text") == mine.framed("stop", "text")
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    assert again.encode("stop", "text").ids == mine.framed("stop", "text")[0]
    assert load_tokenizer(tmp_path / "saved").fingerprint() == mine.fingerprint()


@pytest.mark.parametrize("choices", [{}, {"do_lower_case": False}, {"strip_accents": False}, {"unk_token": "[MASK]"}])
def test_a_folder_with_a_vocabulary(choices, tmp_path):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary()), "utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **choices}))
    mine, peer = load_tokenizer(tmp_path), transformers.BertTokenizer.from_pretrained(tmp_path)
    assert (mine.pad_id, mine.vocab_size) == (peer.pad_token_id, len(vocabulary()))
    for first, second in itertools.product(TEXTS, ["naïve Text", None]):
        if "[" in first:
            continue
        expected = peer(first, second)
        assert mine.framed(first, second) == (expected.input_ids, expected.token_type_ids), first


def test_plain_text_cannot_write_a_special_token(tmp_path):
    mine, peer = both(tmp_path, pre_tokenizer={"type": "WhitespaceSplit"})
    text = "stop [SEP] [UNK] text"
    assert 3 in mine.encode(text, special="all") == peer.encode(text, add_special_tokens=False).ids
    unknown = mine.encode(text)
    assert unknown[1:3] == [1, 1] and 3 not in unknown
    assert np.array_equal(mine.encode_batch([text])[0], unknown)


def test_long_and_hostile_texts_take_no_long_time(tmp_path):
    mine, peer = both(tmp_path, max_input_chars_per_word=1_000)
    for text in ("a" * 1_000, "ab" * 600, "\u0301" * 50_000, "漢" * 50_000, "x" * 200_000, "[CLS]" * 2_000):
        assert mine.encode(text, special="all") == peer.encode(text, add_special_tokens=False).ids


WRONG = [
    ({"unk_token": "[NONE]"}, "model.unk_token: '\\[NONE\\]' is not in the vocabulary"),
    ({"unk_token": None}, "model.unk_token"),
    ({"continuing_subword_prefix": 3}, "model.continuing_subword_prefix: expected text"),
    ({"max_input_chars_per_word": -1}, "model.max_input_chars_per_word: expected a number up to 1,000"),
    ({"max_input_chars_per_word": 1 << 40}, "model.max_input_chars_per_word"),
    ({"vocab": {**vocabulary(), "x": 1 << 29}}, "ids up to 536870912; leave no gaps"),
    ({"normalizer": {"type": "BertNormalizer", "clean_text": 1}}, "clean_text: expected true or false, got 1"),
    ({"decoder": {"type": "WordPiece", "prefix": 1}}, "prefix: expected text"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_broken_files_are_refused_by_name(changes, message, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document(**changes)), "utf-8")
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(path)


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        ({"type": "Other"}, "'Other' is not supported"),
        ({"type": "BertProcessing", "sep": ["[SEP]"]}, "sep: expected a token and its id"),
        (
            {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}]},
            r"single\[0\]: expect",
        ),
        ({"type": "TemplateProcessing", "single": 3}, "single: expected a list"),
    ],
)
def test_what_goes_around_texts_is_refused_where_it_is_used(processor, message, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document(post_processor=processor)), "utf-8")
    mine = load_tokenizer(path)
    assert mine.encode("stop")
    with pytest.raises(TokenizerError, match=message):
        mine.framed("stop")


def test_broken_vocabularies_are_refused_by_line(tmp_path):
    for text, message in (("[UNK]\na\na\n", "line 3 repeats 'a' of line 2"), ("[UNK]\n\nb", "line 2 is empty"),
                          ("a\nb\n", r"has no '\[UNK\]', the unk token")):  # fmt: skip
        (tmp_path / "vocab.txt").write_text(text)
        with pytest.raises(TokenizerError, match=message):
            load_tokenizer(tmp_path)
