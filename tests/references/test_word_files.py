"""Row tokenizer/word: `tokenizer.json` with a WordLevel model, read as the peer reads it, and broken ones refused."""

from __future__ import annotations

import copy
import json
import random

import pytest

from llmanac.core.errors import LlmanacError, TokenizerError
from llmanac.tokenizers._word import WordLevel
from llmanac.tokenizers.load import load_tokenizer, train_tokenizer
from llmanac.tokenizers.patterns import splitter as _patterns

tokenizers = pytest.importorskip("tokenizers")
TEXTS = ["the theatre there, these others 12 123", "naïve café, it's 中文 x = 1;\n\n  y", "<s> the İstanbul ΣΑΣ"] * 5
SPECIAL = ("[UNK]", "<s>", "</s>", "<pad>")


@pytest.fixture
def document(tmp_path):
    train_tokenizer("word", TEXTS, special_tokens=SPECIAL).save(tmp_path)
    return json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))


def both(document, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document), "utf-8")
    return load_tokenizer(path), tokenizers.Tokenizer.from_file(str(path))


def samples() -> list[str]:
    rng = random.Random(4)
    pieces = ["the", " the", " ", "\n", "é", "中文", "12", "<s>", "</s>", "x", ",", "zz", "THE", "Σ", "İ", "[UNK]"]
    return ["", *["".join(rng.choice(pieces) for _ in range(rng.randint(1, 14))) for _ in range(200)]]


def agree(mine, peer) -> None:
    for text in samples():
        found = peer.encode(text, add_special_tokens=False)
        assert mine.encode(text, special="all") == found.ids, repr(text)
        assert mine.encode_with_offsets(text, special="all") == (found.ids, found.offsets), repr(text)
        assert mine.decode(found.ids) == peer.decode(found.ids, skip_special_tokens=False)
        assert mine.decode(found.ids, skip_special=True) == peer.decode(found.ids, skip_special_tokens=True)


@pytest.mark.parametrize("pattern", ["whitespace", "whitespace-split", "gpt2", "gpt4", "qwen3", r"[a-z]+|\s"])
def test_what_we_write_the_peer_reads(pattern, tmp_path):
    made = train_tokenizer("word", TEXTS, special_tokens=SPECIAL, pattern=pattern)
    made.save(tmp_path)
    mine, peer = load_tokenizer(tmp_path), tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert type(mine) is WordLevel and mine.fingerprint() == made.fingerprint()
    agree(mine, peer)


def test_transformers_reads_the_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    made = train_tokenizer("word", TEXTS, special_tokens=SPECIAL)
    made.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, 3)
    for text in samples():
        assert made.encode(text, special="all") == theirs(text, add_special_tokens=False).input_ids


PARTS = [
    ("pre_tokenizer", None),
    ("pre_tokenizer", {"type": "WhitespaceSplit"}),
    ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}]}),
    ("pre_tokenizer", {"type": "Split", "pattern": {"String": "e"}, "behavior": "Isolated", "invert": False}),
    ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "[a-h]+"}, "behavior": "Isolated", "invert": True}),
    ("normalizer", {"type": "Lowercase"}),
    ("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}),
    ("decoder", {"type": "Fuse"}),
    ("decoder", {"type": "Sequence", "decoders": [{"type": "Fuse"}]}),
]


@pytest.mark.parametrize(("part", "value"), PARTS, ids=[str(i) for i in range(len(PARTS))])
def test_other_parts_are_read_as_the_peer_reads_them(document, tmp_path, part, value):
    document[part] = value
    mine, peer = both(document, tmp_path)
    agree(mine, peer)
    mine.save(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert again.fingerprint() == mine.fingerprint() and json.loads(
        (tmp_path / "again" / "tokenizer.json").read_text("utf-8")
    )[part] == (value)


def test_lower_case_of_every_character(document, tmp_path):
    from llmanac.tokenizers._word import lowercase

    peer = tokenizers.normalizers.Lowercase()
    text = "".join(chr(c) for c in range(0x250)) + "ΣΑΣ İ ß ẞ ǅ Ⅷ Ⓐ Ա Ა ꙀK"
    assert lowercase(text)[0] == peer.normalize_str(text)
    lowered, places = lowercase("aİb")
    assert lowered == "ai̇b" and places.tolist() == [0, 1, 1, 2, 3]


def test_ids_with_gaps_and_added_tokens_beyond(document, tmp_path):
    document["model"]["vocab"] = {"[UNK]": 0, "<s>": 1, "the": 9, "x": 4}
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] in ("[UNK]", "<s>")]
    mine, peer = both(document, tmp_path)
    assert mine.encode("the x y") == peer.encode("the x y").ids == [9, 4, 0]
    assert mine.vocab_size == 10 and mine.special_tokens == {"[UNK]": 0, "<s>": 1}
    with pytest.raises(TokenizerError, match="token 5: not in the vocabulary of 10 ids"):
        mine.decode([5])


def change(document, path, value):
    node = document
    for step in path[:-1]:
        node = node[step]
    if value is KeyError:
        del node[path[-1]]
    else:
        node[path[-1]] = value


BROKEN = [
    (("model", "vocab"), {}, "model.vocab: is empty"),
    (("model", "vocab"), [["a", 0]], "model.vocab: expected a JSON object, got list"),
    (("model", "vocab", "x"), 0, r"model.vocab: '\[UNK\]' and 'x' both have the id 0"),
    (("model", "vocab", "x"), -1, "model.vocab: 'x' has the id -1"),
    (("model", "vocab", "x"), 1.5, "model.vocab: 'x' has the id 1.5"),
    (("model", "vocab", "x"), True, "model.vocab: 'x' has the id True"),
    (("model", "vocab", "x"), "7", "model.vocab: 'x' has the id '7'"),
    (("model", "vocab", "x"), 1 << 29, "entries, but ids up to 536870912; number them without gaps"),
    (("model", "vocab", "x"), 10**30, "which is no number from 0 on"),
    (("model", "vocab", ""), 500, "model.vocab: the entry with the id 500 is empty"),
    (("model", "vocab", "\ud800"), 500, "holds a surrogate"),
    (("model", "unk_token"), 5, "model.unk_token: expected text, got int"),
    (("model", "type"), "Words", "model.type: 'Words' is not supported"),
    (("pre_tokenizer",), {"type": "BertPreTokenizer"}, "'BertPreTokenizer' is not supported for words"),
    (("pre_tokenizer",), {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "WhitespaceSplit"}]},
     "'Whitespace' with another step beside it is not supported"),
    (("pre_tokenizer",), "Whitespace", "pre_tokenizer: expected a JSON object, got str"),
    (("pre_tokenizer",), {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"},
     r"pattern: '\(': a '\)' is missing"),
    (("normalizer",), {"type": "StripAccents"}, "normalizer: 'StripAccents' is not supported for words"),
    (("decoder",), {"type": "WordPiece"}, "decoder: 'WordPiece' is not supported for words"),
    (("added_tokens", 0, "id"), "x", r"added_tokens\[0\]: needs an `id`"),
    (("added_tokens", 0, "content"), "other", "has the id 0, which is '\\[UNK\\]' in model.vocab"),
    (("added_tokens", 0, "content"), "x", "added token 'x': id 0, but"),
    (("added_tokens",), [{"id": (1 << 30) - 1, "content": "<x>"}], "added token '<x>': its id 1073741823 is far"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), BROKEN, ids=[str(i) for i in range(len(BROKEN))])
def test_files_that_are_broken_or_ask_too_much(document, tmp_path, path, value, message):
    document = copy.deepcopy(document)
    change(document, path, value)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(document), "utf-8")
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(file)
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)


def places(node, path=()):
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


JUNK = [None, True, -1, 1.5, 10**40, "", "x", "\ud800", [], {}, [[]], {"type": "Sequence"}, KeyError]


@pytest.mark.parametrize("seed", range(8))
def test_no_junk_in_a_file_gets_through_as_another_error(document, tmp_path, seed):
    rng = random.Random(seed)
    everywhere = list(places(document))
    for _ in range(60):
        broken = copy.deepcopy(document)
        change(broken, rng.choice(everywhere), rng.choice(JUNK))
        (tmp_path / "tokenizer.json").write_text(json.dumps(broken), "utf-8")
        try:
            made = load_tokenizer(tmp_path)
            made.decode(made.encode("the theatre <s> zz", special="all"))
            made.save(tmp_path / "again")
            load_tokenizer(tmp_path / "again")
        except LlmanacError as error:
            assert "\n" not in str(error)


def test_a_pattern_that_never_ends_is_stopped(document, tmp_path, monkeypatch):
    monkeypatch.setattr(_patterns, "BASE_SECONDS", 0.2)
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+b|(x|xx)+y"}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    document["pre_tokenizer"] = pattern
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), "utf-8")
    bpe = train_tokenizer("bpe", TEXTS, vocab_size=300)
    bpe.save(tmp_path / "bpe")
    other = json.loads((tmp_path / "bpe" / "tokenizer.json").read_text("utf-8"))
    other["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [pattern, byte_level]}
    (tmp_path / "bpe" / "tokenizer.json").write_text(json.dumps(other), "utf-8")
    for made in (load_tokenizer(tmp_path), load_tokenizer(tmp_path / "bpe")):
        assert made.encode("aab the") is not None
        with pytest.raises(TokenizerError, match="takes more than 0 s over a text of 70 characters; rewrite it"):
            made.encode("a" * 30 + "x" * 40)


RAW = [
    ('{"model": {"type": "WordLevel", "vocab": {"a": 0, "a": 1}}}', "the key 'a' is given twice in one object"),
    ('{"model": {"type": "BPE", "merges": [], "vocab": {"a": 0, "a": 1}}}', "the key 'a' is given twice in one object"),
    ('{"model": {"type": "WordLevel", "vocab": {"a": ' + "9" * 10_000 + "}}}", "more digits than can be read"),
    ("[" * 200_000, "nested too deeply|not JSON"),
    ('{"a":' * 100_000, "nested too deeply|not JSON"),
    ('{"model": {"type": "WordLevel", "vocab": {"a": 0', "not JSON"),
    ("", "not JSON"),
]


@pytest.mark.parametrize(("text", "message"), RAW, ids=[str(i) for i in range(len(RAW))])
def test_files_that_are_no_json_or_ambiguous(tmp_path, text, message):
    path = tmp_path / "tokenizer.json"
    path.write_text(text, "utf-8")
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
