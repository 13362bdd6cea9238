"""Row tokenizer/bpe: Hugging Face's files read as the peers read them, and broken ones refused."""

from __future__ import annotations

import copy
import gzip
import json
import random

import pytest

from llmanac.core.errors import SpecError, TokenizerError
from llmanac.tokenizers.hf.document import from_document
from llmanac.tokenizers.load import load_tokenizer, train_tokenizer

tokenizers = pytest.importorskip("tokenizers")
TEXTS = ["the theatre there, these others 12 123", "naïve café, it's 中文 x = 1;\n\n  y", "aaaa bbbb abab baba"] * 5


def learned(**choices):
    return train_tokenizer("bpe", TEXTS, **{"vocab_size": 305, "special_tokens": ("<s>", "</s>", "<pad>"), **choices})


@pytest.fixture
def document(tmp_path):
    learned(pattern="gpt2").save(tmp_path)
    return json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))


def both(document, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document), "utf-8")
    peer = tokenizers.Tokenizer.from_file(str(path))
    return load_tokenizer(path), peer


def agree(mine, peer, samples) -> None:
    for text in samples:
        peer.encode_special_tokens = True
        expected = peer.encode(text, add_special_tokens=False)
        assert mine.encode(text) == expected.ids, repr(text)
        assert mine.encode_with_offsets(text) == (expected.ids, expected.offsets), repr(text)
        peer.encode_special_tokens = False
        expected = peer.encode(text, add_special_tokens=False)
        assert mine.encode(text, special="all") == expected.ids, repr(text)
        assert mine.encode_with_offsets(text, special="all") == (expected.ids, expected.offsets), repr(text)
        assert mine.decode(expected.ids) == peer.decode(expected.ids, skip_special_tokens=False)
        assert mine.decode(expected.ids, skip_special=True) == peer.decode(expected.ids, skip_special_tokens=True)


def samples(extra=()):
    rng = random.Random(8)
    pieces = ["the", " the", "a", " ", "  ", "\n", "é", "中", "'s", "12", "<s>", "</s>", "<pad>", "x", "_", *extra]
    return ["", *["".join(rng.choice(pieces) for _ in range(rng.randint(1, 14))) for _ in range(250)]]


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4", "llama3", "o200k", "qwen3", r"\w+|\s+"])
def test_what_we_write_the_peer_reads(pattern, tmp_path):
    learned(pattern=pattern).save(tmp_path)
    mine, peer = load_tokenizer(tmp_path), tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert mine.fingerprint() == learned(pattern=pattern).fingerprint()
    assert peer.get_vocab_size() == mine.vocab_size
    agree(mine, peer, samples())


def test_transformers_reads_the_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    mine = learned(special_tokens=("<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>"), chat_template="{{ messages }}")
    mine.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (mine.bos_id, mine.eos_id, mine.pad_id)
    assert mine.bos_id == 0 and mine.eos_id == 1 and mine.pad_id == 2
    assert theirs.chat_template == "{{ messages }}" and len(theirs) == mine.vocab_size
    assert set(mine.special_tokens) <= set(theirs.all_special_tokens) | set(theirs.get_added_vocab())
    for text in samples():
        assert theirs(text)["input_ids"] == mine.encode(text, special="all")
        assert theirs.decode(mine.encode(text)) == text
    theirs.save_pretrained(tmp_path / "again")  # and back, in the form that transformers writes
    again = load_tokenizer(tmp_path / "again")
    assert again.special_tokens == mine.special_tokens and again.chat_template == mine.chat_template
    assert (again.bos_id, again.eos_id, again.pad_id) == (0, 1, 2)
    assert [again.encode(text) for text in samples()] == [mine.encode(text) for text in samples()]


def test_merges_as_lines(document, tmp_path):
    mine = from_document(copy.deepcopy(document), {})
    document["model"]["merges"] = [" ".join(merge) for merge in document["model"]["merges"]]
    lines, peer = both(document, tmp_path)
    assert lines.fingerprint() == mine.fingerprint()
    agree(lines, peer, samples())


def test_a_merge_given_twice_counts_at_its_last_place(document, tmp_path):
    merges = document["model"]["merges"]
    document["model"]["merges"] = [*merges, merges[0]]
    mine, peer = both(document, tmp_path)
    agree(mine, peer, samples())
    assert (
        mine.fingerprint()
        != from_document({**document, "model": {**document["model"], "merges": merges}}, {}).fingerprint()
    )


def test_gpt2_form_with_prefix_space_and_whole_pieces(document, tmp_path):
    step = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    document |= {"pre_tokenizer": step, "post_processor": step | {"add_prefix_space": False}, "decoder": step}
    mine, peer = both(document, tmp_path)
    agree(mine, peer, samples())
    document["model"]["ignore_merges"] = True
    document["model"]["merges"] = document["model"]["merges"][:10]  # most tokens only as whole pieces now
    whole, peer = both(document, tmp_path)
    agree(whole, peer, samples())
    assert whole.encode("these others") != mine.encode("these others") or whole.whole_pieces
    whole.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").fingerprint() == whole.fingerprint()


FLAGGED = [
    {"content": "<mask>", "special": True, "lstrip": True},
    {"content": "<end>", "special": True, "rstrip": True},
    {"content": "the", "special": False, "single_word": True},
    {"content": "<both>", "special": False, "lstrip": True, "rstrip": True},
    {"content": "<<", "special": False, "normalized": True},
    {"content": "<<<", "special": False, "normalized": True},
    {"content": "ś", "special": False, "normalized": True},
]


@pytest.mark.parametrize("normalizer", [None, {"type": "NFC"}, {"type": "Sequence", "normalizers": []}])
def test_flags_of_added_tokens(document, tmp_path, normalizer):
    free = 305
    for token in FLAGGED:
        flags = {"special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
        id = document["model"]["vocab"].get(token["content"], free)
        free += id == free
        document["added_tokens"].append({"id": id, **flags, **token})
    document["normalizer"] = normalizer
    mine, peer = both(document, tmp_path)
    texts = samples([token["content"] for token in FLAGGED] + ["<", "s\u0301", "\u3000"])
    if normalizer and normalizer["type"] == "NFC":  # where text composes, our offsets are those of whole stretches
        texts = [text for text in texts if "\u0301" not in text]
        assert (
            mine.encode("s\u0301")
            == peer.encode("s\u0301").ids
            == [one.id for one in mine.added.tokens if one.text == "ś"]
        )
        assert mine.encode_with_offsets("xs\u0301y")[1] == [(0, 1), (1, 3), (3, 4)]
    agree(mine, peer, texts)
    assert mine.encode("<mask>") != mine.encode("<mask>", special=frozenset(["<mask>"]))
    assert len(mine.encode("<s><mask>", special=frozenset(["<mask>"]))) > 2


def test_a_byte_without_token(document):
    vocabulary = document["model"]["vocab"]
    lost = vocabulary.pop("ó")  # byte 0xF3, which only characters beyond the first planes begin with
    last = max(vocabulary, key=vocabulary.get)
    if vocabulary[last] > lost:
        document["model"]["merges"] = [m for m in document["model"]["merges"] if "".join(m) != last]
        vocabulary[last] = lost
    mine = from_document(copy.deepcopy(document), {})
    assert mine.decode(mine.encode("fine 中")) == "fine 中"
    with pytest.raises(TokenizerError, match="no token for the byte 0xF3"):
        mine.encode("\U000e0001")
    assert mine.decode(mine.encode("fine")) == "fine"  # the error leaves nothing behind
    document["model"]["unk_token"] = "<pad>"
    assert from_document(document, {}).encode("\U000e0001")[0] == 2


def change(document, path, value):
    node = document
    for key in path[:-1]:
        node = node[key]
    if callable(value):
        value(node[path[-1]])
    else:
        node[path[-1]] = value


BROKEN = [
    (("model", "type"), "Words", "model.type: 'Words' is not supported"),
    (("model", "dropout"), 0.1, "model.dropout: 0.1 is not supported"),
    (("model", "byte_fallback"), True, "model.byte_fallback"),
    (("model", "continuing_subword_prefix"), "##", "model.continuing_subword_prefix"),
    (("model", "end_of_word_suffix"), "</w>", "model.end_of_word_suffix"),
    (("model", "unk_token"), "<none>", "model.unk_token: '<none>' is not in the vocabulary"),
    (("model", "vocab"), {}, "model.vocab: is empty"),
    (("model", "vocab"), [], "model.vocab: expected a JSON object"),
    (("model", "vocab"), lambda v: v.update(zz=7), "both have the id 7"),
    (("model", "vocab"), lambda v: v.update(zz=-1), "'zz' has the id -1"),
    (("model", "vocab"), lambda v: v.update(zz=1.5), "'zz' has the id 1.5"),
    (("model", "vocab"), lambda v: v.update(zz=True), "'zz' has the id True"),
    (("model", "vocab"), lambda v: v.update(zz=5000), "ids up to 5000"),
    (("model", "vocab"), lambda v: v.update(zz=1 << 40), "'zz' has the id"),
    (("model", "vocab"), lambda v: v.update({"": 305}), "the entry with the id 305 is empty"),
    (("model", "vocab"), lambda v: v.update({"▁the": 305}), "'▁the' .id 305. is not written in the"),
    (("model", "merges"), None, "model.merges: expected a list"),
    (("model", "merges"), lambda m: m.append("a b c"), "expected two tokens, got 'a b c'"),
    (("model", "merges"), lambda m: m.append(["a", 3]), "expected two tokens"),
    (("model", "merges"), lambda m: m.append(["q", "zq"]), "'zq' is not in the vocabulary"),
    (("model", "merges"), lambda m: m.insert(0, ["", "a"]), "merges.0.: '' . 'a': '' is not in the vocabulary"),
    (("model", "merges"), lambda m: m.append(["<s>", "a"]), "'<s>a' is not in the vocabulary"),
    (("normalizer",), {"type": "Lowercase"}, "normalizer: 'Lowercase' is not supported"),
    (("normalizer",), {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}, "normalizer: 'NFKC' is not supported"),
    (("pre_tokenizer",), None, "pre_tokenizer: there is none"),
    (("pre_tokenizer",), {"type": "Metaspace"}, "'Metaspace' is not supported"),
    (("pre_tokenizer",), {"type": "Sequence", "pretokenizers": []}, "no ByteLevel step"),
    (("pre_tokenizer", "pretokenizers", 0, "behavior"), "MergedWithNext", "behavior 'MergedWithNext'"),
    (("pre_tokenizer", "pretokenizers", 0, "pattern"), {}, "Split has no pattern"),
    (("pre_tokenizer", "pretokenizers", 0, "pattern"), {"Regex": "(a"}, r"pattern: '\(a': a '\)' is missing"),
    (("pre_tokenizer", "pretokenizers", 0, "pattern"), {"Regex": r"a\K"}, r"pattern: .*the escape \\K is not"),
    (("decoder",), {"type": "WordPiece"}, "decoder: 'WordPiece' is not supported"),
    (("added_tokens",), lambda t: t.append({"id": 3, "content": "<x>"}), "'<x>': has the id 3, which is '!'"),
    (("added_tokens",), lambda t: t.append({"id": 0, "content": "<x>"}), "both have the id 0"),
    (("added_tokens",), lambda t: t.append({"id": 900, "content": "<s>"}), "'<s>': id 900, but 0 in model.vocab"),
    (("added_tokens",), lambda t: t.extend([{"id": i, "content": "<x>"} for i in (900, 901)]), "'<x>': given twice"),
    (("added_tokens",), lambda t: t.append({"id": 900, "content": ""}), "its text is empty"),
    (("added_tokens",), lambda t: t.append({"id": "x", "content": "<x>"}), "needs an `id` and a `content`"),
    (("added_tokens",), lambda t: t.append({"id": 900, "content": "\ud800"}), "holds a surrogate"),
    (("added_tokens",), lambda t: t.append("<x>"), "expected a JSON object"),
    (("added_tokens",), lambda t: t.append({"id": "9" * 5000, "content": "<x>"}), "needs an `id` and a `content`"),
    (("added_tokens",), lambda t: t.append({"id": 1 << 29, "content": "<x>"}), "'<x>': its id 536870912 is far beyond"),
    (("added_tokens", 0, "special"), "false", r"added_tokens\[0\].special: expected true or false, got 'false'"),
    (("added_tokens", 0, "lstrip"), None, r"added_tokens\[0\].lstrip: expected true or false, got None"),
    (("model", "ignore_merges"), "false", "model.ignore_merges: expected true or false"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), BROKEN, ids=[str(i) for i in range(len(BROKEN))])
def test_files_that_are_broken_or_ask_too_much(document, tmp_path, path, value, message):
    change(document, path, value)
    file = tmp_path / "broken" / "tokenizer.json"
    file.parent.mkdir()
    file.write_text(json.dumps(document), "utf-8")
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


JUNK = [None, True, -1, 3, 1.5, float("inf"), "x", "", "\ud800", [], {}, [None], [[]], {"type": "x"}, {"id": {}}, [{}]]


def places(node, path=()):
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


@pytest.mark.parametrize("seed", range(12))
def test_no_junk_in_a_file_gets_through_as_another_error(document, tmp_path, seed):
    """Any place of the two files replaced by anything: it is refused in one sentence, or it works."""
    rng = random.Random(seed)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    del document["model"]["merges"][12:]
    refused = 0
    for _ in range(60):
        broken = copy.deepcopy([document, config])
        spots = [path for path in places(broken) if len(path) > 1]
        few = [path for path in spots if "vocab" not in path and "merges" not in path]
        for _ in range(rng.randint(1, 2)):
            path = rng.choice(rng.choice([spots, few, few]))
            try:
                change(broken, path, rng.choice(JUNK))
            except (KeyError, TypeError, IndexError):  # the first change took the second one's place away
                continue
        try:
            made = from_document(broken[0], broken[1])
            text = "the <s> café 中 12"
            assert made.decode(made.encode(text)) == text
            made.encode(text, special="all")
            made.save(tmp_path / "out")
        except TokenizerError:
            refused += 1
        except SpecError:
            refused += 1
    assert refused > 10


def test_files_that_are_no_files(document, tmp_path):
    path = tmp_path / "cut.json"
    path.write_text(json.dumps(document)[:-5000], "utf-8")
    for bad, message in [
        (path, "cut.json:1: not JSON"),
        (tmp_path / "nothing", "no such file or folder"),
        (tmp_path / "..", "has no tokenizer.json"),
    ]:
        with pytest.raises(TokenizerError, match=message):
            load_tokenizer(bad)
    for content, message in [
        (b"[]", "expected a JSON object"),
        (b"\xff", "not UTF-8"),
        (b"nul", "not JSON"),
        (b"[" * 200_000, "nested"),
    ]:
        path.write_bytes(content)
        with pytest.raises(TokenizerError, match=message):
            load_tokenizer(path)
    with pytest.raises(TokenizerError, match=r"are for \.tiktoken files"):
        load_tokenizer(path, pattern="gpt2")


def test_tiktoken_files_that_are_broken(tmp_path):
    import base64

    lines = [base64.b64encode(bytes([b])) + b" %d" % b for b in range(256)]
    good = [*lines, base64.b64encode(b"ab") + b" 256"]
    path = tmp_path / "mine.tiktoken"

    def load(content: list[bytes], **choices):
        path.write_bytes(b"\n".join(content))
        return load_tokenizer(path, **choices)

    made = load(good, pattern="gpt2", special_tokens={"<x>": 300})
    assert made.encode("abab<x>") == [256, 256, *b"<x>"] and made.vocab_size == 301
    assert made.encode("ab<x>", special="all") == [256, 300]
    with pytest.raises(TokenizerError, match="token 299: not in the vocabulary"):
        made.decode([299])
    zipped = tmp_path / "cl100k_base.tiktoken.gz"
    zipped.write_bytes(gzip.compress(b"\n".join(good)))
    assert load_tokenizer(zipped).encode("ab") == [256]
    for content, message in [
        (good, "its name tells no split pattern"),
        ([*good, b"YWI= 300"], "line 258: the token b'ab' or its rank 300"),
        ([*good, b"YWJj 256"], "line 258: the token b'abc' or its rank 256"),
        ([*good, b"YWJj 258"], "no token has the rank 257"),
        ([*good, b"YWJj"], "line 258: expected"),
        ([*good, b"???? 257"], "line 258: expected"),
        ([*lines[1:], base64.b64encode(b"bc") + b" 0"], "no token for the byte 0x00"),
        ([], "holds no token"),
    ]:
        choices = {} if content is good else {"pattern": "gpt2"}
        with pytest.raises(TokenizerError, match=message) as caught:
            load(content, **choices)
        assert str(path) in str(caught.value)
    zipped.write_bytes(gzip.compress(b"\n".join(good))[:-20])
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_tokenizer(zipped)
