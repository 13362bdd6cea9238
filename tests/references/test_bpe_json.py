"""A `tokenizer.json` of BPE over characters (Llama-2's kind): ids and text equal to the tokenizers library."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from _spm import ODD, PHRASES, code, differing, scrambled, texts

from llmanac.core.errors import TokenizerError
from llmanac.tokenizers.hf.character_bpe import CharacterBPE
from llmanac.tokenizers.load import extend, load_tokenizer

tokenizers = pytest.importorskip("tokenizers")
normalizers, pre, decoders = tokenizers.normalizers, tokenizers.pre_tokenizers, tokenizers.decoders
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
STRIPPED = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
MARKS = normalizers.Replace(" ", "\u2581")
PIPELINES: dict[str, tuple[Any, Any, Any]] = {
    "llama-2": (
        normalizers.Sequence([normalizers.Prepend("\u2581"), MARKS]), None,
        decoders.Sequence([*STRIPPED, decoders.Strip(" ", 1, 0)]),
    ),
    "gemma": (MARKS, pre.Split(" ", "merged_with_previous"), decoders.Sequence(STRIPPED)),
    "mistral": (
        None, pre.Metaspace(prepend_scheme="first", split=False),
        decoders.Sequence([*STRIPPED, decoders.Strip(" ", 1, 0)]),
    ),
    "nfc": (
        normalizers.Sequence([normalizers.NFC(), normalizers.Prepend("\u2581"), MARKS]), None,
        decoders.Sequence([*STRIPPED, decoders.Strip(" ", 1, 0)]),
    ),
    "words": (normalizers.NFKC(), pre.Metaspace(), decoders.Metaspace()),
    "isolated": (None, pre.Split("e", "isolated"), decoders.Sequence(STRIPPED)),
    "removed": (None, pre.Split("th", "removed"), decoders.Sequence(STRIPPED)),
    "with next": (None, pre.Split("  ", "merged_with_next"), decoders.Sequence(STRIPPED)),
    "contiguous": (None, pre.Split("a", "contiguous"), decoders.Sequence(STRIPPED)),
    "bare": (None, None, None),
}  # fmt: skip
MODES = {
    "bytes": {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True},
    "bytes, whole": {"byte_fallback": True, "ignore_merges": True},
    "unknown": {"unk_token": "<unk>"},
    "unknown, fused": {"unk_token": "<unk>", "fuse_unk": True},
    "unknown, whole": {"unk_token": "<unk>", "ignore_merges": True},
    "nothing": {},
    "nothing, whole": {"ignore_merges": True},
}  # fmt: skip


@functools.cache
def learned(name: str) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Entries and merges that the library learns on phrases and code, with few of their characters."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.normalizer, made.pre_tokenizer = PIPELINES[name][:2]
    if made.pre_tokenizer is None:  # else a line is one word, and so are its merges
        made.pre_tokenizer = pre.Split("\u2581", "merged_with_next")
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=700, limit_alphabet=70, show_progress=False)
    made.train_from_iterator([*PHRASES * 3, *code()[:1500]], trainer)
    model = json.loads(made.to_str())["model"]
    return tuple(sorted(model["vocab"], key=model["vocab"].get)), tuple(map(tuple, model["merges"]))


def peer(name: str, mode: dict[str, Any]) -> Any:
    entries, merges = learned(name)
    vocab = {text: id for id, text in enumerate(dict.fromkeys(["<unk>", "<s>", "</s>", *BYTES, *entries]))}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=list(merges), **mode))
    made.normalizer, made.pre_tokenizer, decoder = PIPELINES[name]
    if decoder is not None:
        made.decoder = decoder
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.add_tokens([tokenizers.AddedToken("wörld", normalized=False), tokenizers.AddedToken("de f", normalized=True)])
    return made


def both(name: str, mode: str, folder: Path) -> tuple[CharacterBPE, Any]:
    theirs = peer(name, MODES[mode])
    theirs.save(str(folder / "tokenizer.json"))
    ours = load_tokenizer(folder)
    assert isinstance(ours, CharacterBPE)
    return ours, theirs


OTHERS = [mode for mode in MODES if mode != "bytes"]
CASES = [(name, "bytes") for name in PIPELINES] + [("llama-2", mode) for mode in OTHERS] + [
    pytest.param("words", mode, marks=() if mode == "unknown" else pytest.mark.slow) for mode in OTHERS
]  # fmt: skip


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_ids_and_text_equal_tokenizers(name: str, mode: str, tmp_path: Path) -> None:
    ours, theirs = both(name, mode, tmp_path)
    # What the library makes of a control token is tested below: here none stands in a text.
    lines = [t for t in [*texts(), "the", "the wörld", "a def f(x)"] if not any(c in t for c in ("<s", "</", "<u"))]
    lines = [t for t in lines if name not in ("words", "nfc") or "\ufdfa" not in t]
    found = theirs.encode_batch(lines, add_special_tokens=False)
    expected = [e.ids for e in found]
    assert not differing([ids.tolist() for ids in ours.encode_batch(lines)], expected, lines)
    assert not differing([ids.tolist() for ids in ours.encode_batch(lines)], expected, lines)  # from the cache
    assert [ours.decode(ids) for ids in expected] == [theirs.decode(i, skip_special_tokens=False) for i in expected]
    assert len({len(ids) for ids in expected}) > 20 and any(i > 300 for ids in expected for i in ids)
    for text in ("a<s> b</s>c", "<s>x y", "x <unk> y", "<s><s>", "the<s>wörld de f"):
        assert ours.encode(text, special="all") == theirs.encode(text, add_special_tokens=False).ids
        plain = ours.encode(text)
        assert not set(plain) & {ours.special_tokens["<s>"], ours.special_tokens["</s>"]}
    for text in [*lines[:40], "中e\u0301 wörld"]:
        ids, offsets = ours.encode_with_offsets(text)
        assert ids == ours.encode(text) and all(0 <= a <= b <= len(text) for a, b in offsets)
    ours.save(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert again.fingerprint() == ours.fingerprint() and again.encode(PHRASES[1]) == ours.encode(PHRASES[1])
    back = tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    assert [e.ids for e in back.encode_batch(lines[:200], add_special_tokens=False)] == expected[:200]


@pytest.mark.parametrize("name", PIPELINES)
def test_the_quick_normal_form_is_the_placed_one(name: str, tmp_path: Path) -> None:
    ours, theirs = both(name, "bytes", tmp_path)
    for text in [*PHRASES, *ODD, *scrambled(), "e\u0301 a\u0323\u0301 각"]:
        assert ours._normal_text(text) == ours._normal_form(text)[0]
        if theirs.normalizer is not None and name != "words":
            assert ours._normal_text(text) == (theirs.normalizer.normalize_str(text) if text else "")


def test_real_texts(shared_data: Path, tmp_path: Path) -> None:
    ours, theirs = both("llama-2", "bytes", tmp_path)
    for path in sorted((shared_data / "text").glob("*.txt")):
        whole = path.read_text("utf-8")[:60_000]
        given = [*whole.split("\n"), whole]
        expected = [e.ids for e in theirs.encode_batch(given, add_special_tokens=False)]
        assert not differing([ours.encode(text, special="all") for text in given], expected, given), path.name


def test_only_listed_pairs_are_merged_in_the_order_of_the_list(tmp_path: Path) -> None:
    draw = random.Random(4)
    for trial in range(40):
        vocab = dict.fromkeys(["<unk>", "a", "b", "c", "é"])
        merges: list[tuple[str, str]] = []
        while len(merges) < 12:
            pair = (draw.choice(list(vocab)[1:]), draw.choice(list(vocab)[1:]))
            if len("".join(pair)) < 9:
                merges.append(pair)  # the same one twice, and one text by two pairs, too
                vocab["".join(pair)] = None
        draw.shuffle(merges)
        ids = {text: i for i, text in enumerate(vocab)}
        mode: dict[str, Any] = draw.choice([{"unk_token": "<unk>"}, {"unk_token": "<unk>", "fuse_unk": True}, {}])
        theirs = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=ids, merges=merges, **mode))
        theirs.save(str(tmp_path / "tokenizer.json"))
        ours = load_tokenizer(tmp_path)
        lines = ["".join(draw.choices("abcéx中", [6, 6, 6, 3, 1, 1], k=draw.randrange(40))) for _ in range(60)]
        expected = [theirs.encode(text).ids for text in lines]
        assert not differing([ids.tolist() for ids in ours.encode_batch(lines)], expected, lines), trial


def test_it_differs_from_characters_and_samples_come_back(tmp_path: Path) -> None:
    ours, _ = both("llama-2", "bytes", tmp_path)
    text = "the quick brown fox jumps over the lazy dog 中"
    assert len(ours.encode(text)) < len(text) * 0.7
    drawn = {tuple(ours.sample(text, seed=seed, alpha=0.3)) for seed in range(20)}
    assert len(drawn) > 5 and {ours.decode(ids) for ids in drawn} == {text}
    assert ours.sample(text, seed=1, alpha=0.0) == ours.encode(text)
    (tmp_path / "u").mkdir()
    with pytest.raises(TokenizerError, match="sample: this tokenizer has one segmentation"):
        both("llama-2", "unknown", tmp_path / "u")[0].sample(text, seed=1)
    with pytest.raises(TokenizerError, match=r"extend the \.model"):
        extend(ours, [text], 3)


def model(**changes: Any) -> dict[str, Any]:
    vocab = {text: i for i, text in enumerate(["<unk>", "a", "b", "ab", "aab"])}
    made = {"type": "BPE", "vocab": vocab, "merges": [["a", "b"], ["a", "ab"]], "unk_token": "<unk>"}
    return {"model": made | changes.pop("model", {}), "added_tokens": []} | changes


EVERY_BYTE = {text: i for i, text in enumerate(["<unk>", "a", *BYTES, "a<0x41>", "\0"])}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (model(model={"vocab": {}}), "model.vocab: is empty"),
        (model(model={"vocab": {"a": 0, "b": 0}}), "'a' and 'b' both have the id 0"),
        (model(model={"vocab": {"a": -1}}), "has the id -1"),
        (model(model={"vocab": {"a": 1 << 29}, "merges": [], "unk_token": None}), "too many have no entry"),
        (model(model={"vocab": {"a": float("nan")}}), "has the id nan"),
        (model(model={"merges": [["a", "x"]]}), "'x' is not in the vocabulary"),
        (model(model={"merges": [["a", "a"]]}), "'aa' is not in the vocabulary"),
        (model(model={"merges": [["a", ""]]}), "'' is not in the vocabulary"),
        (model(model={"merges": [["a", "b", "c"]]}), "expected two tokens"),
        (model(model={"merges": "a b"}), "model.merges: expected a list"),
        (model(model={"unk_token": "z"}), "model.unk_token: 'z' is not in the vocabulary"),
        (model(model={"unk_token": "ab"}), r"model.merges\[0\]: merges or makes the unknown token"),
        (model(model={"byte_fallback": True}), "has no entry <0x00>"),
        (model(model={"vocab": EVERY_BYTE, "merges": [], "byte_fallback": True}), "holds a NUL character"),
        (
            model(model={"vocab": {k: v for k, v in EVERY_BYTE.items() if k != "\0"},
                         "merges": [["a", "<0x41>"]], "byte_fallback": True}),
            r"model.merges\[0\]: merges '<0x41>', which stands for a byte",
        ),
        (model(model={"vocab": {"\ud800": 0}, "merges": [], "unk_token": None}), "holds a surrogate"),
        (model(model={"end_of_word_suffix": "</w>"}), "model.end_of_word_suffix: '</w>' is not supported"),
        (model(model={"dropout": 0.1}), "model.dropout: 0.1 is not supported"),
        (model(model={"type": "Words"}), "model.type: 'Words' is not supported"),
        (model(normalizer={"type": "Nmt"}), "normalizer.0.: 'Nmt' is not supported"),
        (model(pre_tokenizer={"type": "Whitespace"}), "'Whitespace' is not supported"),
        (
            model(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(?R)b"}, "behavior": "Isolated"}),
            "pre_tokenizer.0..pattern: .*recursion",
        ),
        (
            model(pre_tokenizer={"type": "Split", "pattern": {"String": "a"}, "behavior": "Odd"}),
            "behavior 'Odd'",
        ),
        (model(decoder={"type": "CTC"}), "decoder.0.: 'CTC' is not supported"),
        (model(added_tokens=[{"id": 1, "content": "z"}]), "has the id 1, which is 'a'"),
        (model(added_tokens=[{"id": 9, "content": "a"}]), "id 9, but 1 in model.vocab"),
        (model(added_tokens=[{"id": (1 << 30) - 1, "content": "z"}]), "added token 'z': its id 1073741823 is far"),
        (model(added_tokens=[{"id": 9, "content": "z", "special": "false"}]), "special: expected true or false"),
        (model(model={"fuse_unk": "no"}), "model.fuse_unk: expected true or false, got 'no'"),
        (model(model={"byte_fallback": 1}), "model.byte_fallback: expected true or false, got 1"),
        (model(decoder={"type": "ByteLevel"}, model={"byte_fallback": True}), "beside a ByteLevel step"),
    ],
)  # fmt: skip
def test_broken_files_are_refused_in_one_sentence(document: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document))
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_no_junk_in_a_file_gets_through_as_another_error(tmp_path: Path) -> None:
    draw = random.Random(6)
    junk = [None, True, -1, 1e99, float("nan"), "", "\ud800", "x", [], [1], {}, {"a": 1}, [["a"]], {"type": "Sequence"}]
    path = tmp_path / "tokenizer.json"
    for _ in range(400):
        document = json.loads(json.dumps(model(normalizer=None, pre_tokenizer=None, decoder=None)))
        for _ in range(draw.choice([1, 1, 2])):
            inner = document["model"] if isinstance(document["model"], dict) else {}
            place = document if draw.random() < 0.4 else inner
            key = draw.choice([*place, "pre_tokenizer", "byte_fallback", "ignore_merges", "fuse_unk"])
            place[key] = draw.choice(junk)
        path.write_text(json.dumps(document))
        try:
            made = load_tokenizer(path)
        except TokenizerError as error:
            assert "\n" not in str(error)
            continue
        for text in ("aab ab", "\0x\u2581", ""):
            assert isinstance(made.decode(made.encode(text)), str)


def test_hostile_texts_end(tmp_path: Path) -> None:
    ours, theirs = both("llama-2", "bytes", tmp_path)
    for text in ("a" * 100_000, "th" * 50_000, " " * 50_000, "\u2581" * 9999, *ODD[:20], *scrambled(50)):
        if not any(c in text for c in ("<s", "</", "<u")):
            assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids


def test_bytes_that_a_training_made_added_tokens(tmp_path: Path) -> None:
    """Files that the library trains with byte fallback have the bytes' entries as special tokens."""
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    theirs.normalizer, theirs.pre_tokenizer, theirs.decoder = PIPELINES["llama-2"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600, limit_alphabet=60, special_tokens=["<unk>", "<s>", "</s>", *BYTES], show_progress=False
    )
    theirs.train_from_iterator([*PHRASES, *code()[:300]], trainer)
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    lines = [text for text in [*PHRASES, *scrambled(), *code()[:200]] if "<" not in text]
    found = theirs.encode_batch(lines, add_special_tokens=False)
    assert not differing([ids.tolist() for ids in ours.encode_batch(lines)], [e.ids for e in found], lines)
    assert [ours.decode(e.ids) for e in found] == [theirs.decode(e.ids, skip_special_tokens=False) for e in found]
    assert 3 + 0x41 not in ours.encode("<0x41>") and ours.encode("<0x41>", special="all")[-1] == 3 + 0x41


def test_tokens_looked_for_after_normalisation_are_normalised_too(tmp_path: Path) -> None:
    """Of the Unigram kind as well: no second blank in front of what stands between two of them."""
    pieces = [("<unk>", 0.0), ("\u2581", -2.0), ("a", -2.0), ("b", -2.1), ("\u2581a", -1.0), ("x", -3.0), ("y", -3.0)]
    theirs = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=0))
    theirs.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), MARKS, normalizers.Lowercase()])
    theirs.add_tokens([tokenizers.AddedToken("X Y", normalized=True), tokenizers.AddedToken("yy", normalized=False)])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    for text in ("a X Y b", "x y a b", "X Y", "ayyb x yyya", "a b x", "yyX Y", ""):
        assert ours.encode(text) == theirs.encode(text).ids, text
        assert ours.encode_with_offsets(text)[0] == ours.encode(text)
    theirs.normalizer = normalizers.StripAccents()
    theirs.add_tokens([tokenizers.AddedToken("\u0301", normalized=True)])  # which then cuts at every character there
    theirs.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="nothing is left of it once it is normalized"):
        load_tokenizer(tmp_path)
