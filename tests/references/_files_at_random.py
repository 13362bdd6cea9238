"""Random `tokenizer.json` documents over all that such a file may say, and how two readers differ on one."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

from _patterns_at_random import TEXT_PARTS, random_pattern, random_text
from _spm import trained

from llmanac.core.errors import LlmanacError
from llmanac.tokenizers import _byte_level
from llmanac.tokenizers import _spm_model as spm
from llmanac.tokenizers.load import load_tokenizer

SPACE = "\u2581"
LETTERS = ["a", "b", "e", "s", "t", "h", " ", SPACE, "é", "1", "2", "中", "'", "!", "\n", "日", "ー", "\u0301", "_", "k", "i", "T"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
ADDED = ["<s>", "</s>", "<unk>", "<x>", "[MASK]", " the", "the ", "wörld", "é", "e\u0301", "ab", "A", "ſ", "<S>", "İ", "ñ", "1",
         "  ", "Ａ", "a b", "中", "'s", "<0x41>", SPACE, SPACE + "a", "\n", "T", "ﬁ", "\0", "<", "日本", "the"]  # fmt: skip


def pick(rng: random.Random, *choices: tuple[float, Any]) -> Any:
    """One of the choices by weight; a function is called for its value."""
    found = rng.choices([value for _, value in choices], [weight for weight, _ in choices])[0]
    return found() if callable(found) else found


def pattern(rng: random.Random) -> dict[str, str]:
    if rng.random() < 0.4:
        return {"String": rng.choice([" ", "e", "th", "'s", "\n", "中", ".", "a b", "  ", "", "\u0301", SPACE, "(a", "\0", "-"])}
    return {"Regex": random_pattern(rng)}


# ------------------------------------------------------------------------------------------------ parts
def normalizer(rng: random.Random, kinds: list[str] | None = None) -> dict[str, Any] | None:
    kinds = kinds or ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Replace", "Replace", "Prepend", "Strip",
                      "Precompiled", "BertNormalizer", "Nmt", "ByteLevel", "Sequence"]  # fmt: skip
    kind = rng.choice(kinds)
    node: dict[str, Any] = {"type": kind}
    if kind == "Replace":
        node |= {"pattern": pattern(rng), "content": rng.choice(["", " ", SPACE, "x", "ab", "é", "e\u0301", "\n", "  "])}
    elif kind == "Prepend":
        node["prepend"] = rng.choice([SPACE, " ", "x", "ab", ""])
    elif kind == "Strip":
        node |= {"strip_left": rng.random() < 0.6, "strip_right": rng.random() < 0.6}
    elif kind == "Precompiled":
        rules = spm.parse(trained(byte_fallback=True, normalization_rule_name="nmt_nfkc")).rules
        node["precompiled_charsmap"] = base64.b64encode(rules.charsmap).decode()
    elif kind == "BertNormalizer":
        node |= {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    elif kind == "Sequence":
        node["normalizers"] = [normalizer(rng, kinds if rng.random() < 0.1 else kinds[:-1]) for _ in range(rng.randrange(4))]
    return node


def pre_tokenizer(rng: random.Random, kinds: list[str] | None = None) -> dict[str, Any] | None:
    kinds = kinds or ["Whitespace", "WhitespaceSplit", "Metaspace", "Metaspace", "Split", "Split", "Split", "Digits", "Punctuation",
                      "BertPreTokenizer", "CharDelimiterSplit", "UnicodeScripts", "ByteLevel", "FixedLength", "Sequence"]  # fmt: skip
    kind = rng.choice(kinds)
    node: dict[str, Any] = {"type": kind}
    if kind == "Metaspace":
        node |= {"replacement": rng.choice([SPACE, SPACE, SPACE, "_", "a"])}
        scheme = rng.choice(["always", "first", "never", None])
        node |= {} if scheme is None else {"prepend_scheme": scheme}
        node |= rng.choice([{}, {"split": True}, {"split": False}, {"add_prefix_space": True}, {"add_prefix_space": False}])
    elif kind == "Split":
        node |= {"pattern": pattern(rng), "behavior": rng.choice(BEHAVIORS), "invert": rng.random() < 0.3}
    elif kind == "Digits":
        node["individual_digits"] = rng.random() < 0.5
    elif kind == "Punctuation":
        node["behavior"] = rng.choice(BEHAVIORS)
    elif kind == "CharDelimiterSplit":
        node["delimiter"] = "_"
    elif kind == "ByteLevel":
        node |= {"add_prefix_space": rng.random() < 0.4, "trim_offsets": rng.random() < 0.5, "use_regex": rng.random() < 0.6}
    elif kind == "FixedLength":
        node["length"] = 3
    elif kind == "Sequence":
        node["pretokenizers"] = [pre_tokenizer(rng, kinds[:-1]) for _ in range(rng.randrange(4))]
    return node


def byte_level_pre_tokenizer(rng: random.Random) -> dict[str, Any]:
    last = pre_tokenizer(rng, ["ByteLevel"])
    steps = [pre_tokenizer(rng, ["Split", "Split", "Digits", "Punctuation"]) for _ in range(rng.choice([0, 0, 1, 1, 2]))]
    for step in steps:
        if step is not None and rng.random() < 0.8 and "behavior" in step:
            step |= {"behavior": "Isolated", "invert": False} if step["type"] == "Split" else {}
    return {"type": "Sequence", "pretokenizers": [*steps, last]} if steps or rng.random() < 0.2 else last or {}


def decoder(rng: random.Random, kinds: list[str] | None = None) -> dict[str, Any] | None:
    kinds = kinds or ["Fuse", "ByteFallback", "Replace", "Strip", "Metaspace", "ByteLevel", "WordPiece", "BPEDecoder", "CTC",
                      "Sequence", "Sequence"]  # fmt: skip
    kind = rng.choice(kinds)
    node: dict[str, Any] = {"type": kind}
    if kind == "Replace":
        node |= {"pattern": pattern(rng), "content": rng.choice([" ", "", "x"])}
    elif kind == "Strip":
        node |= {"content": rng.choice([" ", "a", SPACE]), "start": rng.randrange(3), "stop": 0}  # else it aborts the process on an empty token
    elif kind == "Metaspace":
        node |= {"replacement": SPACE, "prepend_scheme": rng.choice(["always", "first", "never"]), "split": True}
    elif kind == "ByteLevel":
        node |= {"add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    elif kind == "WordPiece":
        node |= {"prefix": "##", "cleanup": True}
    elif kind == "BPEDecoder":
        node["suffix"] = "</w>"
    elif kind == "CTC":
        node |= {"pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True}
    elif kind == "Sequence":
        node["decoders"] = [decoder(rng, kinds[:-2]) for _ in range(rng.randrange(4))]
    return node


def post_processor(rng: random.Random) -> dict[str, Any] | None:
    special = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    return pick(
        rng, (5, None),
        (2, {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}),
        (2, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": rng.random() < 0.5, "use_regex": True}),
        (1, {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]}),
        (1, {"type": "Sequence", "processors": []}),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ models
def merged_words(rng: random.Random, letters: list[str], size: int) -> tuple[list[str], list[list[str]]]:
    entries = list(dict.fromkeys(letters))
    merges: list[list[str]] = []
    for _ in range(size):
        left, right = rng.choice(entries), rng.choice(entries)
        if len(left + right) <= 7:
            merges.append([left, right])
            if left + right not in entries:
                entries.append(left + right)
    return entries, merges


def bpe(rng: random.Random) -> dict[str, Any]:
    fallback = rng.random() < 0.4
    letters = rng.sample(LETTERS, rng.randrange(4, len(LETTERS)))
    entries, merges = merged_words(rng, letters, rng.randrange(60))
    vocab = list(dict.fromkeys(["<unk>", "<s>", "</s>", *(BYTES if fallback or rng.random() < 0.1 else []), *entries]))
    if rng.random() < 0.3:
        rng.shuffle(vocab)
    model: dict[str, Any] = {"type": "BPE", "vocab": {text: id for id, text in enumerate(vocab)}, "merges": merges}
    model["unk_token"] = rng.choice(["<unk>", "<unk>", None, "</s>"])
    model |= {"byte_fallback": fallback, "fuse_unk": rng.random() < 0.5, "ignore_merges": rng.random() < 0.3}
    return model | pick(rng, (20, {}), (1, {"dropout": 0.3}), (1, {"dropout": 0.0}),
                        (1, {"end_of_word_suffix": "</w>"}))  # fmt: skip


def byte_level_bpe(rng: random.Random) -> dict[str, Any]:
    letters = list(_byte_level.ALPHABET)
    if rng.random() < 0.1:
        letters = rng.sample(letters, 200)
    near = [_byte_level.written(text.encode()) for text in ["the", "a", " ", "é", "中", "'s", "12", "\n", "e\u0301", "日", "ab"]]
    frequent = [letter for text in near for letter in text if letter in letters]
    entries, merges = merged_words(rng, frequent, rng.randrange(120))
    vocab = list(dict.fromkeys([*rng.choice([[], ["<s>", "</s>", "<unk>"]]), *letters, *entries]))
    model: dict[str, Any] = {"type": "BPE", "vocab": {text: id for id, text in enumerate(vocab)}, "merges": merges}
    model["merges"] = [" ".join(pair) for pair in merges] if rng.random() < 0.3 else merges
    model["unk_token"] = "<unk>" if "<unk>" in vocab and rng.random() < 0.5 else None
    return model | {"ignore_merges": rng.random() < 0.4, "byte_fallback": rng.random() < 0.05, "fuse_unk": rng.random() < 0.2}


def unigram(rng: random.Random) -> dict[str, Any]:
    fallback = rng.random() < 0.4
    entries, _ = merged_words(rng, rng.sample(LETTERS, rng.randrange(4, len(LETTERS))), rng.randrange(80))
    words = [*entries, *(BYTES if fallback else []), "<s>", "</s>"]
    words += rng.sample(["<x>", "\0", "a\0b", "", "<0x41>", "the" + SPACE, SPACE + "the", "\u0301a", "ab" * 20, "👨\u200d👩"], rng.randrange(3))
    vocab = [["<unk>", 0.0], *([text, round(-rng.random() * rng.choice([1, 10]), rng.choice([1, 6]))] for text in dict.fromkeys(words))]
    if rng.random() < 0.2:
        rng.shuffle(vocab)
    unknown = next(id for id, (text, _) in enumerate(vocab) if text == "<unk>")
    return {"type": "Unigram", "unk_id": None if rng.random() < 0.1 else unknown, "vocab": vocab, "byte_fallback": fallback}


def word_level(rng: random.Random) -> dict[str, Any]:
    words = ["<unk>", *rng.sample(["a", "the", "The", " the", "s", "'", "é", "e\u0301", "中", "12", "1", "<s>", "<x>", " ", "ab",
             "\n", "!", "a\u200d", "日本", "_", "\0", "²", "...", "i\u0307"], 14)]  # fmt: skip
    model = {"type": "WordLevel", "vocab": {text: id for id, text in enumerate(words)}}
    return model | {"unk_token": rng.choice(["<unk>", "<unk>", "<unk>", "[UNK]"])}


def word_piece(rng: random.Random) -> dict[str, Any]:
    words = ["[UNK]", "a", "##b", "the", "##e", "s"]
    return {"type": "WordPiece", "vocab": {text: id for id, text in enumerate(words)}, "unk_token": "[UNK]",
            "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}  # fmt: skip


def added_tokens(rng: random.Random, model: dict[str, Any]) -> list[dict[str, Any]]:
    vocab = model["vocab"]
    ids = dict(vocab) if isinstance(vocab, dict) else {text: id for id, (text, _) in enumerate(vocab)}
    chosen = rng.sample(ADDED, rng.choice([0, 1, 2, 3, 5])) + [t for t in ("<unk>", "<s>", "</s>") if rng.random() < 0.5]
    found, following = [], len(ids)
    for text in dict.fromkeys(chosen):
        id = ids.get(text, following)
        following += text not in ids
        flags = {flag: rng.random() < 0.25 for flag in ("normalized", "lstrip", "rstrip", "single_word")}
        special = rng.random() < (0.9 if text.startswith("<") else 0.3)
        found.append({"id": id + (rng.random() < 0.01), "content": text, "special": special, **flags})
    if rng.random() < 0.05:
        rng.shuffle(found)
    return found


def random_document(rng: random.Random) -> dict[str, Any]:
    """A `tokenizer.json`; most can be read by the library, some by nobody."""
    kind = rng.choice(["bpe", "bpe", "byte-level", "byte-level", "byte-level", "unigram", "unigram", "word", "word", "piece"][: 10 - (rng.random() < 0.7)])
    usual_decoders = [None, {"type": "Fuse"}, {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always"},
                      {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                       {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}]  # fmt: skip
    if kind == "byte-level":
        model = byte_level_bpe(rng)
        normal = pick(rng, (6, None), (4, {"type": "NFC"}), (2, lambda: normalizer(rng)))
        split = byte_level_pre_tokenizer(rng) if rng.random() < 0.9 else pre_tokenizer(rng)
        join = pick(rng, (9, lambda: decoder(rng, ["ByteLevel"])), (1, lambda: decoder(rng)), (1, None))
    elif kind == "word":
        model = word_level(rng)
        normal = pick(rng, (3, None), (6, lambda: normalizer(rng, ["NFC", "Lowercase", "Sequence"])), (2, lambda: normalizer(rng)))
        split = pick(rng, (1, None), (6, lambda: pre_tokenizer(rng, ["Whitespace", "WhitespaceSplit", "Split"])), (2, lambda: pre_tokenizer(rng)))
        join = pick(rng, (4, None), (4, {"type": "Fuse"}), (1, lambda: decoder(rng)))
    else:
        model = {"bpe": bpe, "unigram": unigram, "piece": word_piece}[kind](rng)
        quiet = ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Replace", "Prepend", "Strip", "Precompiled", "Sequence"]
        normal = pick(rng, (3, None), (6, lambda: normalizer(rng, quiet)), (1, lambda: normalizer(rng)))
        usual = ["WhitespaceSplit", "Metaspace", "Split", "Sequence"]
        split = pick(rng, (3, None), (6, lambda: pre_tokenizer(rng, usual)), (1, lambda: pre_tokenizer(rng)))
        join = pick(rng, (5, lambda: rng.choice(usual_decoders)), (5, lambda: decoder(rng, ["Fuse", "ByteFallback", "Replace", "Strip", "Metaspace", "Sequence", "Sequence"])), (1, lambda: decoder(rng)))
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added_tokens(rng, model), "normalizer": normal,
        "pre_tokenizer": split, "post_processor": post_processor(rng), "decoder": join, "model": model,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ two readers
def texts_for(rng: random.Random, document: dict[str, Any], count: int) -> list[str]:
    """Random texts in which the document's own tokens occur."""
    vocab = document["model"]["vocab"]
    own = [text if isinstance(text, str) else text[0] for text in vocab]
    tokens = [token["content"] for token in document["added_tokens"]]
    parts = [*TEXT_PARTS, *rng.sample(own, min(len(own), 20)), *tokens * 4, *(t.upper() for t in tokens)]
    return ["", " ", *(random_text(rng, parts) for _ in range(count))]


def difference(document: dict[str, Any], rng: random.Random, folder: Path, count: int = 40) -> tuple[str, str]:
    """`(outcome, what)`: "equal", "refused" by this package at load, "broken" for the library too, or "differs".

    A text or ids that the library fails on, or this package with a sentence, are no silent difference.
    """
    import tokenizers

    path = folder / "tokenizer.json"
    path.write_text(json.dumps(document), "utf-8")
    try:
        theirs = tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:  # a panic of Rust is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        return "broken", str(error)
    try:
        ours = load_tokenizer(path)
    except LlmanacError as error:
        return "refused", str(error).removeprefix(f"{path}: ")
    found = "equal"
    size = theirs.get_vocab_size()
    for text in texts_for(rng, document, count):
        expected = attempt(lambda text=text: theirs.encode(text, add_special_tokens=False))
        try:
            mine = ours.encode(text, special="all")
        except LlmanacError:
            continue
        if expected is None:
            continue
        if mine != expected.ids:
            return "differs", f"{text!r}: ids {mine}, but {expected.ids} there ({expected.tokens})"
        placed, offsets = ours.encode_with_offsets(text, special="all")
        if placed != mine or any(not 0 <= a <= b <= len(text) for a, b in offsets):
            return "differs", f"{text!r}: offsets {offsets} of {placed}"
        if plain_offsets(document) and offsets != expected.offsets:
            return "differs", f"{text!r}: offsets {offsets}, but {expected.offsets} there"
        for ids in (expected.ids, [rng.randrange(size) for _ in range(6)]):
            for skip in (False, True):
                wanted = attempt(lambda ids=ids, skip=skip: theirs.decode(ids, skip_special_tokens=skip))
                try:
                    got = ours.decode(ids, skip_special=skip)
                except LlmanacError:
                    continue
                if wanted is not None and got != wanted:
                    return "differs", f"{ids}: decoded {got!r}, but {wanted!r} there (skip {skip})"
    return found, ""


def attempt(call: Any) -> Any:
    """What the library gives, or None where it fails or panics."""
    try:
        return call()
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        return None


def plain_offsets(document: dict[str, Any]) -> bool:
    """Whether the two mean the same by offsets: nothing is normalised away, put in front, trimmed or left without token.

    (What a BPE without an unknown token leaves out shifts the offsets of all that follows there.)
    """
    model, written = document["model"], json.dumps([document["normalizer"], document["pre_tokenizer"]])
    trims = "trim_offsets" in json.dumps(document["post_processor"])
    drops = model["type"] == "BPE" and model["unk_token"] is None and not model["byte_fallback"] and "ByteLevel" not in written
    return document["normalizer"] is None and not trims and not drops and "Metaspace" not in written
