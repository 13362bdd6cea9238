"""What every tokenizer must do, whatever it is.

A tokenizer that is `lossless` gives back every text; one that is not promises less: what it gives back is encoded to
the same ids again, with the unknown token standing for all that it does not know.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmanac.core import registry
from llmanac.core.errors import TokenizerError
from llmanac.core.spec import dump, make_method
from llmanac.tokenizers import Tokenizer, TokenizerSpec
from llmanac.tokenizers.load import load_tokenizer

NAMES = sorted(registry.methods("tokenizer"))
TEXTS = ["the theatre there, these others 12 123", "naïve café, it's 中文 x = 1;\n\n  y", "aaaa bbbb abab baba"] * 9
SPECIAL = ("<|end|>", "<|pad|>", "<|user|>", "<|assistant|>", "<s>")
ANY = st.text(st.characters(codec="utf-8"))  # every character but surrogates
_made: dict[str, Tokenizer] = {}


def made(name: str) -> Tokenizer:
    if name not in _made:
        _made[name] = make_method("tokenizer", {"name": name, "special_tokens": list(SPECIAL)}).train(TEXTS)
    return _made[name]


@pytest.fixture(params=NAMES)
def tokenizer(request) -> Tokenizer:
    return made(request.param)


def unknown(tokenizer: Tokenizer) -> frozenset[str]:
    """The text of the unknown token, where there is one among the special tokens."""
    return frozenset(text for text, id in tokenizer.special_tokens.items() if id == tokenizer.unknown_id)


def control_ids(tokenizer: Tokenizer) -> set[int]:
    """The ids that a user's text must not be able to write."""
    return set(tokenizer.special_tokens.values()) - {tokenizer.unknown_id}


def check_comes_back(tokenizer: Tokenizer, text: str, ids: list[int]) -> None:
    if tokenizer.lossless:
        assert tokenizer.decode(ids) == text
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    else:
        assert tokenizer.encode(tokenizer.decode(ids), special=unknown(tokenizer)) == ids


many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_they_are_there():
    assert {"bpe", "utf8", "byt5", "word"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_spec_round_trip(name):
    spec = make_method("tokenizer", {"name": name, "special_tokens": list(SPECIAL)})
    assert isinstance(spec, TokenizerSpec) and spec.kind == "tokenizer"
    assert spec.name == registry.find("tokenizer", name).path.stem.replace("_", "-")
    assert make_method("tokenizer", dump(spec)) == spec and hash(spec) == hash(make_method("tokenizer", dump(spec)))


@many
@given(text=ANY)
def test_decode_undoes_encode(tokenizer, text):
    ids = tokenizer.encode(text)
    check_comes_back(tokenizer, text, ids)
    assert all(type(i) is int and 0 <= i < tokenizer.vocab_size for i in ids)


@many
@given(texts=st.lists(ANY, max_size=5))
def test_batches_and_arrays_hold_the_same_ids(tokenizer, texts):
    batch = tokenizer.encode_batch(texts)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(text) for text in texts]
    for text, ids in zip(texts, batch, strict=True):
        assert ids.dtype == np.int32 and ids.tolist() == tokenizer.encode_array(text).tolist()
        check_comes_back(tokenizer, text, ids.tolist())


@many
@given(text=ANY)
def test_offsets_cover_the_text_in_order(tokenizer, text):
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text) and len(ids) == len(offsets)
    starts, stops = [0, *[b for _, b in offsets]], [*[a for a, _ in offsets], len(text)]
    assert all(a <= b and b <= len(text) for a, b in offsets)
    assert starts == sorted(starts) and stops == sorted(stops)
    for id, (a, b) in zip(ids, offsets, strict=True):
        piece = tokenizer.token_bytes(id)
        assert id == tokenizer.unknown_id or piece in text[a:b].encode()  # it may hold part of a character only
        assert b > a
    assert (
        not tokenizer.lossless
        or "".join(text[max(a, last) : b] for last, (a, b) in zip(starts, offsets, strict=False)) == text
    )


@many
@given(parts=st.lists(st.one_of(st.sampled_from([*SPECIAL, "<|", "end|>", "|>", " "]), ANY), max_size=6))
def test_special_tokens_in_text_count_only_when_asked(tokenizer, parts):
    text = "".join(parts)
    control = control_ids(tokenizer)
    plain = tokenizer.encode(text)
    assert not control & set(plain)
    check_comes_back(tokenizer, text, plain)
    assert [ids.tolist() for ids in tokenizer.encode_batch([text])] == [plain]
    assert tokenizer.encode(text, special=frozenset()) == plain
    everything = tokenizer.encode(text, special="all")
    assert not tokenizer.lossless or tokenizer.decode(everything) == text
    assert sum(i in control for i in everything) == sum(text.count(token) for token in SPECIAL)
    one = tokenizer.encode(text, special=frozenset(["<s>"]))
    assert control & set(one) <= {tokenizer.special_tokens["<s>"]}
    assert one.count(tokenizer.special_tokens["<s>"]) == text.count("<s>")
    bare = text
    for token in SPECIAL:
        bare = bare.replace(token, "\0\0")
    stripped = tokenizer.decode(everything, skip_special=True)
    assert not tokenizer.lossless or stripped == bare.replace("\0\0", "") or "\0" in text


def test_special_tokens_have_ids_and_roles(tokenizer):
    assert set(tokenizer.special_tokens) >= set(SPECIAL)
    assert len(set(tokenizer.special_tokens.values())) == len(tokenizer.special_tokens)
    for text, id in tokenizer.special_tokens.items():
        assert tokenizer.encode(text, special="all") == [id] and tokenizer.token_bytes(id) == text.encode()
    assert tokenizer.eos_id == tokenizer.special_tokens["<|end|>"]
    assert tokenizer.pad_id == tokenizer.special_tokens["<|pad|>"]
    assert tokenizer.bos_id == tokenizer.special_tokens["<s>"]


def test_empty_and_long(tokenizer):
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""
    assert tokenizer.encode_batch([]) == [] and tokenizer.encode_with_offsets("") == ([], [])
    assert [ids.tolist() for ids in tokenizer.encode_batch(["", "", "a"])][:2] == [[], []]
    for text in ("a" * 300_000, "é" * 100_000, " " * 200_000, "\n" * 100_000, "1" * 100_000, "the " * 100_000):
        check_comes_back(tokenizer, text, tokenizer.encode(text))


@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_every_character(tokenizer, step):
    """In the fast test of the planes beyond the first, and of most of that, every 23rd."""
    codes = [*range(0x3400), *range(0x3400, 0x110000, step)]
    text = "".join(chr(c) for c in codes if not 0xD800 <= c < 0xE000)
    check_comes_back(tokenizer, text, tokenizer.encode(text))


def test_surrogates_become_u_fffd(tokenizer):
    for broken, mended in (("a\ud800b\udfff", "a\ufffdb\ufffd"), ("\ud83d\ude00", "\U0001f600")):
        assert tokenizer.encode(broken) == tokenizer.encode(mended)
        check_comes_back(tokenizer, mended, tokenizer.encode(broken))
    ids, offsets = tokenizer.encode_with_offsets("\ud83d\ude00a\udc00b")
    assert ids == tokenizer.encode("\U0001f600a\ufffdb")
    assert offsets[0] == (0, 2) and offsets[-1][1] == 5


def test_bytes_that_are_no_text_decode_to_u_fffd(tokenizer):
    if not tokenizer.lossless:
        return
    ids = tokenizer.encode("\U00010348")  # in no text that was learned from, so never one token
    assert len(ids) > 1
    assert tokenizer.decode(ids[:1]) == "\ufffd"


def test_ids_of_any_integer_kind(tokenizer):
    torch = pytest.importorskip("torch")
    ids = tokenizer.encode("the café")
    for kind in (ids, tuple(ids), iter(ids), np.array(ids), np.array(ids, np.uint16), torch.tensor(ids)):
        assert tokenizer.decode(kind) == "the café"
    assert tokenizer.decode(list(torch.tensor(ids))) == "the café"


@pytest.mark.parametrize("bad", ["a", None, [1], 1.5, True, np.bool_(True), np.float32(1), np.array([1])])
def test_what_is_no_id_is_refused_by_its_place(tokenizer, bad):
    torch = pytest.importorskip("torch")
    ids = tokenizer.encode("the café")
    for skip in (False, True):
        with pytest.raises(TokenizerError, match=r"decode: ids\[1\] is .*, not a whole number"):
            tokenizer.decode([ids[0], bad], skip_special=skip)
    for arrays in (np.array, torch.tensor):
        for other in ([[ids[0]]], [1.0], [True]):
            with pytest.raises(TokenizerError, match=r"decode: ids\[0\] is .*, not a whole number"):
                tokenizer.decode(arrays(other))
        with pytest.raises(TokenizerError, match="decode: expected a list of ids, got a single int"):
            tokenizer.decode(arrays(5))
    with pytest.raises(TokenizerError, match="decode: expected a list of ids, got int 5"):
        tokenizer.decode(5)
    with pytest.raises(TokenizerError, match=r"token_bytes: ids\[0\] is"):
        tokenizer.token_bytes(bad)
    assert tokenizer.decode([np.int64(ids[0]), *ids[1:]]) == tokenizer.decode(np.array(ids, object)) == "the café"


def test_save_load_and_fingerprint(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new")
    again = load_tokenizer(tmp_path / "new")
    assert again.fingerprint() == tokenizer.fingerprint()
    assert len(tokenizer.fingerprint()) == 64
    for name in ("vocab_size", "special_tokens", "bos_id", "eos_id", "pad_id", "adds_bos", "chat_template"):
        assert getattr(again, name) == getattr(tokenizer, name), name
    for text in TEXTS:
        assert again.encode(text) == tokenizer.encode(text)
    before = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    again.save(tmp_path / "new")  # over itself, and the same bytes
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert load_tokenizer(tmp_path / "new" / "tokenizer.json").fingerprint() == tokenizer.fingerprint()


@pytest.mark.parametrize("name", NAMES)
def test_training_is_deterministic_and_depends_on_the_text(name):
    def train(texts):
        return make_method("tokenizer", {"name": name, "special_tokens": list(SPECIAL)}).train(texts)

    assert train(TEXTS).fingerprint() == train(iter(TEXTS)).fingerprint() == made(name).fingerprint()
    other = train(["xyz xyz zzz yyy xxyy"] * 9)
    if not registry.find("tokenizer", name).module().Spec.learns:
        assert other.fingerprint() == made(name).fingerprint()
        return
    assert other.fingerprint() != made(name).fingerprint()
    learned = [t.encode("the theatre there") for t in (other, made(name))]
    lost = [t.unknown_rate(["the theatre there"]) for t in (other, made(name))]
    assert (len(learned[0]), lost[0]) > (len(learned[1]), lost[1])  # learning the words did something


def test_one_segmentation_or_many(tokenizer):
    text = "the theatre there, naïve"
    try:
        drawn = [tokenizer.sample(text, seed=seed) for seed in range(40)]
    except TokenizerError as error:
        assert "one segmentation" in str(error)
        return
    assert drawn == [tokenizer.sample(text, seed=seed) for seed in range(40)]
    assert len(set(map(tuple, drawn))) > 1
    assert {tokenizer.decode(ids) for ids in drawn} == {text}
    with pytest.raises(TokenizerError, match="sample: 'droput' is no choice"):
        tokenizer.sample(text, seed=0, droput=0.1)


@pytest.mark.parametrize("extra", [1, 25])
def test_a_vocabulary_that_grows_keeps_its_ids(tokenizer, extra):
    new_text = ["zebra zebras zig-zag fjord zebra fjord quartz"] * 5
    try:
        larger = tokenizer.extended(new_text, extra)
    except TokenizerError as error:
        assert "extend: " in str(error)
        return
    assert tokenizer.vocab_size < larger.vocab_size <= tokenizer.vocab_size + extra
    for id in range(tokenizer.vocab_size):
        assert larger._bytes[id] == tokenizer._bytes[id]
    assert larger.special_tokens == tokenizer.special_tokens and larger.eos_id == tokenizer.eos_id
    new = set(range(tokenizer.vocab_size, larger.vocab_size))
    assert new & set(larger.encode(new_text[0]))  # they are used
    for text in [*TEXTS[:3], *new_text]:
        check_comes_back(larger, text, larger.encode(text))
        if not new & set(larger.encode(text)):
            assert larger.encode(text) == tokenizer.encode(text)


def test_errors_say_what_to_do(tokenizer):
    with pytest.raises(TokenizerError, match=r"special: '<\|endd\|>' is no special token; did you mean '<\|end\|>'"):
        tokenizer.encode("x", special=frozenset(["<|endd|>"]))
    for bad in (-1, tokenizer.vocab_size, 10**9):
        with pytest.raises(TokenizerError, match=f"token {bad}: not in the vocabulary"):
            tokenizer.decode([1, bad])
        with pytest.raises(TokenizerError, match=f"token {bad}: not in the vocabulary"):
            tokenizer.token_bytes(bad)
    with pytest.raises(TokenizerError, match="expected a list of texts, got one text"):
        tokenizer.encode_batch("one")
    with pytest.raises(TokenizerError, match="expected str, got bytes"):
        tokenizer.encode(b"bytes")


def test_threads_share_one_tokenizer(tokenizer):
    expected = {text: tokenizer.encode(text) for text in TEXTS}
    wrong: list[str] = []

    def work() -> None:
        for _ in range(60):
            wrong.extend(text for text in TEXTS if tokenizer.encode(text) != expected[text])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
