"""SentencePiece's files: written and read, broken in every way, and the `tokenizer.json` of Unigram models."""

from __future__ import annotations

import base64
import json
import struct

import numpy as np
import pytest
from _spm import differing, texts, trained
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.errors import LlmanacError, TokenizerError
from llmanac.kernels.sentencepiece.trie import child, longest, trie_of, value_of
from llmanac.tokenizers._pieces import BYTE, TRAINER, UNKNOWN, NormalizerRules, ScoredPiece
from llmanac.tokenizers._spm_normalizer import compile_charsmap, read_charsmap
from llmanac.tokenizers.load import load_tokenizer, train_tokenizer
from llmanac.tokenizers.spm import files as spm

sentencepiece = pytest.importorskip("sentencepiece")
tokenizers = pytest.importorskip("tokenizers")
NORMAL = dict(TRAINER.values())


def written(pieces=(), trainer=None, rules=NormalizerRules(), extra=b""):
    """A model's bytes without any check."""
    data = b"".join(
        spm._field(1, spm._field(1, p.text) + spm._field(2, p.score) + spm._field(3, p.type)) for p in pieces
    )
    spec = b"".join(spm._field(spm.WRITTEN[k], v) for k, v in (trainer or {}).items())
    return data + spm._field(2, spec) + spm._field(3, spm._rules_bytes(rules)) + extra


UNK = ScoredPiece("<unk>", 0.0, UNKNOWN)
A = ScoredPiece("a", -1.0)


def charsmap(units, text=b"x\0"):
    return struct.pack("<I", 4 * len(units)) + np.array(units, "<u4").tobytes() + text


def key_a(value):
    """Units of a trie of the key "a": its place is 0x61 and its value's 1."""
    units = [0] * 256
    units[0], units[0x61], units[0x61 ^ 0x60] = 0, 0x61 | 256 | 0x60 << 10, 1 << 31 | value
    return units


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no piece"),
        (b"\x0a", "truncated"),
        (b"\x0a\xff\xff\xff\xff\x0fabc", "claims 4294967295 bytes, 3 are left"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "a number of more than ten bytes"),
        (b"\x0b\x01", "wire type 3"),
        (b"{json}", "no SentencePiece model"),
        (b"\x08\x05", "expected a message"),
        (written([A]), "has no piece of type UNKNOWN"),
        (written([UNK, A, A]), "pieces 1 and 2: both are 'a'"),
        (written([UNK, ScoredPiece("u", 0.0, UNKNOWN)]), "pieces 0 and 1: both stand for what is unknown"),
        (written([UNK, ScoredPiece("", -1.0)]), "piece 1: is empty"),
        (written([UNK, ScoredPiece("a\0b", -1.0)]), "holds a NUL"),
        (written([UNK, ScoredPiece("a", float("nan"))]), "its score is nan"),
        (written([UNK, ScoredPiece("a", float("-inf"))]), "its score is -inf"),
        (written([UNK, ScoredPiece("a" * 8000, -1.0)]), "is 8000 bytes or more"),
        (written([UNK, ScoredPiece("a", -1.0, 9)]), "its type 9 is not one of"),
        (written([UNK, ScoredPiece("<0x41>", 0.0, BYTE)]), "is a byte, but byte_fallback is off"),
        (
            written([UNK, ScoredPiece("<0x41>", 0.0, BYTE)], {"byte_fallback": True}),
            "no piece for the byte <0x00>",
        ),
        (written([UNK, ScoredPiece("<0xZZ>", 0.0, BYTE)], {"byte_fallback": True}), "is marked as a byte"),
        (written([UNK, A], {"model_type": 3}), "'word' is not supported"),
        (written([UNK, A], {"model_type": 77}), "77 is not supported"),
        (written([UNK, A], rules=NormalizerRules(charsmap=b"abc")), "claims a trie of 3 bytes"),
        (
            written([UNK, A], rules=NormalizerRules(charsmap=b"\xff\xff\xff\xff" + bytes(9))),
            "claims a trie of 4294967295",
        ),
        (written([UNK, A], rules=NormalizerRules(charsmap=charsmap(key_a(999)))), "outside the map's text"),
        (written([UNK, A], rules=NormalizerRules(charsmap=charsmap(key_a(0), b"xyz"))), "outside the map's text"),
        (written([UNK, A], rules=NormalizerRules(charsmap=charsmap(key_a(0), b"\xff\0"))), "is not UTF-8"),
        (
            written([UNK, A], rules=NormalizerRules(charsmap=charsmap(key_a(0), b"x" * 5000 + b"\0"))),
            "a replacement of 5000",
        ),
        (spm._field(1, b"\x0a\x01\xff") + written([UNK]), "piece 0: its text: is not UTF-8"),
        (spm._field(1, b"\x10\x05") + written([UNK]), "its score is not a 32-bit float"),
        (spm._field(1, spm._field(1, "<unk>") + spm._field(3, 2)), "has no trainer_spec"),
    ],
)
def test_broken_models_are_refused_in_one_sentence(data, message, tmp_path):
    path = tmp_path / "m.model"
    path.write_bytes(data)
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(path).encode("a")
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_circle_below_the_root():
    units = [0] * 512
    units[0] = 0x100 << 2 | 512  # children from 0x100 on
    units[0x161] = 0x61 | 0x161 << 10  # whose children are at 0 ^ label
    units[0x61] = 0x61 | (0x61 ^ 0x100) << 10
    with pytest.raises(TokenizerError, match="leads in a circle"):
        read_charsmap(charsmap(units))


def test_truncated_anywhere(tmp_path):
    data = trained(byte_fallback=True)
    for at in [*range(0, 400, 7), *range(400, len(data) - 1, 2999), len(data) - 1]:
        with pytest.raises(TokenizerError):
            spm.parse(data[:at]) and load_or_raise(data[:at], tmp_path)


def load_or_raise(data, folder):
    (folder / "m.model").write_bytes(data)
    return load_tokenizer(folder / "m.model")


@settings(max_examples=50, deadline=None)
@given(places=st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=6))
def test_bytes_changed_anywhere_give_a_tokenizer_or_an_error(places, tmp_path_factory):
    data = bytearray(trained(byte_fallback=True))
    for place, byte in places:
        data[place % len(data)] = byte
    try:
        made = load_or_raise(bytes(data), tmp_path_factory.getbasetemp())
        ids = made.encode("Ａbc the é中 \ufb01 " * 3)
        made.decode(ids)
        made.sample("some text", seed=1)
    except TokenizerError as error:
        assert "\n" not in str(error)


def test_tries():
    rng = np.random.default_rng(1)
    keys = sorted(
        {bytes(rng.integers(1, 256, rng.integers(1, 6)).tolist()) for _ in range(3000)} | {b"a", b"ab", b"abc"}
    )
    for share in (False, True):
        units = trie_of(keys, [i % 7 for i in range(len(keys))], share=share)
        buffer = np.frombuffer(b"abcd", np.uint8)
        assert longest(units, buffer, 0, 4) == (3, keys.index(b"abc") % 7)
        for i, key in enumerate(keys):
            node = 0
            for byte in key:
                node = child(units, node, byte)
            assert node > 0 and value_of(units, node) == i % 7
        absent = bytes([7, 7, 7, 7, 7, 7, 7])
        assert longest(units, np.frombuffer(absent, np.uint8), 0, 7)[0] < 7
    shared = trie_of([b"x1tail", b"y1tail", b"z1tail"], [4, 4, 4], share=True)
    assert len(shared) <= len(trie_of([b"x1tail", b"y1tail", b"z1tail"], [4, 5, 6]))


def test_compiled_rules_are_what_the_library_applies():
    rules = {"a": "b", "ab": "", "é": "e", "q": "xyz " * 3, "日本": "ni"}
    model = spm.parse(trained(byte_fallback=True))
    changed = NormalizerRules("mine", compile_charsmap(rules), True, True, True)
    data = spm.serialize(model.pieces, model.trainer, changed)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=data)
    ours = spm_tokenizer(data)
    for text in ("abc a b", "éa日本日", "q  q", *texts()[:80]):
        assert ours.normalizer.text(text).replace(" ", "\u2581") == theirs.normalize(text)


def spm_tokenizer(data):
    from llmanac.tokenizers._unigram import SentencePiece

    return SentencePiece(spm.parse(data))


def test_folders(tmp_path):
    made = train_tokenizer("sentencepiece", ["some text to learn from, 中文"] * 9, vocab_size=320)
    made.chat_template = "{{ messages[0].content }}"
    made.save(tmp_path / "f")
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == [
        "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    ]  # fmt: skip
    again = load_tokenizer(tmp_path / "f")
    assert (again.fingerprint(), again.chat_template) == (made.fingerprint(), made.chat_template)
    assert (again.eos_id, again.pad_id, again.bos_id) == (made.eos_id, made.pad_id, made.bos_id)
    made.save(tmp_path / "alone.model")
    assert (tmp_path / "alone.model").read_bytes() == (tmp_path / "f" / "tokenizer.model").read_bytes()
    (tmp_path / "f" / "tokenizer.json").unlink()
    assert load_tokenizer(tmp_path / "f").fingerprint() == made.fingerprint()
    config = json.loads((tmp_path / "f" / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"][str(made.vocab_size)] = {"content": "<extra>", "special": True}
    config["bos_token"] = "<extra>"
    (tmp_path / "f" / "tokenizer_config.json").write_text(json.dumps(config))
    more = load_tokenizer(tmp_path / "f")
    assert more.vocab_size == made.vocab_size + 1 and more.bos_id == made.vocab_size
    assert more.encode("x<extra>", special="all")[-1] == made.vocab_size
    for key, value, message in (
        ((1 << 30) - 1, {"content": "<x>"}, "added token '<x>': its id 1073741823 is far beyond"),
        (made.vocab_size, {"content": "<x>", "special": "false"}, "special: expected true or false, got 'false'"),
        (made.vocab_size, "<x>", "needs an id and a `content`"),
        ("9" * 5000, {"content": "<x>"}, "needs an id and a `content`"),
    ):
        bad = config | {"added_tokens_decoder": {str(key): value}}
        (tmp_path / "f" / "tokenizer_config.json").write_text(json.dumps(bad))
        with pytest.raises(TokenizerError, match=message):
            load_tokenizer(tmp_path / "f")
    train_tokenizer("bpe", ["text"], vocab_size=280).save(tmp_path / "f")  # another kind over it
    assert type(load_tokenizer(tmp_path / "f")).__name__ == "BPE"
    (tmp_path / "empty").mkdir()
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json, no"):
        load_tokenizer(tmp_path / "empty")
    with pytest.raises(LlmanacError, match="cannot write"):
        made.save(tmp_path / "alone.model" / "below")


# ------------------------------------------------------------------------------------------------ tokenizer.json
def test_other_readers_find_the_same_ids(tmp_path):
    lines = [line for line in texts() if "<" not in line]
    for number, choices in enumerate((
        {}, {"model": "bpe"}, {"add_dummy_prefix": True}, {"add_dummy_prefix": True, "model": "bpe"},
        {"byte_fallback": False, "character_coverage": 0.9},
        {"remove_extra_whitespaces": True, "add_dummy_prefix": True}, {"user_defined_symbols": ("<mask>", "fox")},
    )):  # fmt: skip
        settled = {"vocab_size": 700, "special_tokens": ("<s>", "</s>")} | choices
        made = train_tokenizer("sentencepiece", lines[:15] * 5, **settled)
        made.save(tmp_path / str(number))
        theirs = tokenizers.Tokenizer.from_file(str(tmp_path / str(number) / "tokenizer.json"))
        shown = [line for line in lines if "\u2581" not in line]  # of which a prefix step there makes one less
        expected = [encoding.ids for encoding in theirs.encode_batch(shown, add_special_tokens=False)]
        assert not differing([ids.tolist() for ids in made.encode_batch(shown)], expected, shown), choices
        if choices.get("byte_fallback", True):
            assert [made.decode(ids) for ids in expected] == [theirs.decode(ids) for ids in expected]


def test_what_a_tokenizer_json_cannot_say_is_not_written(tmp_path):
    choices = {"vocab_size": 320, "add_dummy_prefix": True, "user_defined_symbols": ("<mask>",)}
    made = train_tokenizer("sentencepiece", ["some text"], **choices)
    made.save(tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()
    assert load_tokenizer(tmp_path).fingerprint() == made.fingerprint()


def pipelines():
    normalizers, pre, decoders = tokenizers.normalizers, tokenizers.pre_tokenizers, tokenizers.decoders
    charsmap_ = spm.parse(trained(byte_fallback=True, normalization_rule_name="nmt_nfkc")).rules.charsmap
    runs = normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
    quotes = [normalizers.Replace("``", '"'), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    stripped = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return {
        "t5": (normalizers.Precompiled(charsmap_), pre.Metaspace(), decoders.Metaspace()),
        "xlm-r": (
            normalizers.Sequence([normalizers.Precompiled(charsmap_), runs]),
            pre.Sequence([pre.WhitespaceSplit(), pre.Metaspace()]), decoders.Metaspace(),
        ),
        "albert": (
            normalizers.Sequence([*quotes, normalizers.Precompiled(charsmap_), runs]), pre.Metaspace(),
            decoders.Metaspace(),
        ),
        "first": (
            normalizers.Sequence([normalizers.Strip(left=False), normalizers.NFC()]),
            pre.Metaspace(prepend_scheme="first", split=False), stripped,
        ),
        "never": (
            normalizers.NFKC(), pre.Metaspace(prepend_scheme="never"), decoders.Metaspace(prepend_scheme="never"),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["t5", "xlm-r", "albert", "first", "never"])
def test_unigram_json_equals_tokenizers(name, tmp_path):
    model = spm.parse(trained(byte_fallback=True, normalization_rule_name="nmt_nfkc"))
    vocab = [(piece.text, piece.score) for piece in model.pieces]
    theirs = tokenizers.Tokenizer(tokenizers.models.Unigram(vocab, unk_id=0, byte_fallback=name != "never"))
    theirs.normalizer, theirs.pre_tokenizer, theirs.decoder = pipelines()[name]
    theirs.add_special_tokens(["<s>", "</s>", "<unk>"])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    # Lower case of the youngest letters is the business of Python's Unicode tables.
    lines = [
        t for t in texts() if not any(c in t for c in ("<", "\ufdfa")) and (name != "albert" or t.lower().isascii())
    ]
    found = theirs.encode_batch(lines, add_special_tokens=False)
    assert not differing([ids.tolist() for ids in ours.encode_batch(lines)], [e.ids for e in found], lines)
    assert [ours.decode(e.ids) for e in found] == [theirs.decode(e.ids, skip_special_tokens=False) for e in found]
    for text in ("a<s> b</s>c", "<s>x y", "x <unk> y", "<s><s>"):
        assert ours.encode(text, special="all") == theirs.encode(text, add_special_tokens=False).ids
    for text in lines[:40]:
        ids, offsets = ours.encode_with_offsets(text)
        assert ids == ours.encode(text) and all(0 <= a <= b <= len(text) for a, b in offsets)
    assert ours.sample("the quick", seed=1) == ours.sample("the quick", seed=1)
    ours.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").fingerprint() == ours.fingerprint()


def json_model(**changes):
    vocab = [["<unk>", 0.0], ["a", -1.0], ["b", -2.0]]
    model = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False} | changes.pop("model", {})
    return {"model": model, "added_tokens": []} | changes


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (json_model(model={"vocab": []}), "model.vocab: expected a list"),
        (json_model(model={"vocab": [["a", -1.0], ["a", -2.0]]}), "the entries 0 and 1 are both 'a'"),
        (json_model(model={"vocab": [["a", "x"]]}), "its score is 'x', no finite number"),
        (json_model(model={"vocab": [["a"]]}), r"model.vocab\[0\]: expected a piece and its score"),
        (json_model(model={"vocab": [["\ud800", 1.0]]}), "holds a surrogate"),
        (json_model(model={"unk_id": 3}), "model.unk_id: 3 is no id"),
        (json_model(model={"byte_fallback": True}), "no piece <0x00>"),
        (json_model(normalizer={"type": "Nmt"}), "normalizer.0.: 'Nmt' is not supported"),
        (json_model(normalizer={"type": "Sequence", "normalizers": [{"type": "Sequence"}]}), "that is no Sequence"),
        (
            json_model(normalizer={"type": "Replace", "pattern": {"Regex": "("}, "content": ""}),
            r"pattern: '\(': a '\)' is missing",
        ),
        (json_model(normalizer={"type": "Precompiled", "precompiled_charsmap": "%%"}), "is not base64"),
        (
            json_model(normalizer={"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"abc").decode()}),
            "claims a trie of 3 bytes",
        ),
        (json_model(pre_tokenizer={"type": "Metaspace", "replacement": "__"}), "is not one character"),
        (json_model(pre_tokenizer={"type": "Metaspace", "prepend_scheme": "x"}), "is not one of always"),
        (json_model(pre_tokenizer={"type": "Punctuation"}), "'Punctuation' is not supported"),
        (json_model(decoder={"type": "CTC"}), "decoder.0.: 'CTC' is not supported"),
        (json_model(added_tokens=[{"id": (1 << 30) - 1, "content": "z"}]), "added token 'z': its id 1073741823 is far"),
        (json_model(model={"byte_fallback": "false"}), "model.byte_fallback: expected true or false"),
        (json_model(added_tokens=[{"id": 1, "content": "z"}]), "its id 1 is 'a' in model.vocab"),
    ],
)
def test_broken_json_is_refused(document, message, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document))
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_configuration_that_names_no_model_decides_nothing(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(json_model()))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"sentencepiece_model": ""}))
    assert load_tokenizer(tmp_path).encode("ab") == [1, 2]


def test_json_without_an_unknown_token(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(json_model(model={"unk_id": None})))
    made = load_tokenizer(tmp_path)
    assert made.encode("ab") == [1, 2]
    with pytest.raises(TokenizerError, match="has no piece, and the vocabulary has no unknown token"):
        made.encode("abz")
