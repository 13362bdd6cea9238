"""Random `tokenizer.json` documents over all that such a file may say."""

from __future__ import annotations

import base64
import random
from typing import Any

from _models_at_random import SPACE, added_tokens, bpe, byte_level_bpe, pick, unigram, word_level, word_piece
from _patterns_at_random import random_pattern
from _spm import trained

from llmanac.tokenizers.spm import files as spm

BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]


def pattern(rng: random.Random) -> dict[str, str]:
    if rng.random() < 0.4:
        return {
            "String": rng.choice(
                [" ", "e", "th", "'s", "\n", "中", ".", "a b", "  ", "", "\u0301", SPACE, "(a", "\0", "-"]
            )
        }
    return {"Regex": random_pattern(rng)}


# ------------------------------------------------------------------------------------------------ parts
def normalizer(rng: random.Random, kinds: list[str] | None = None) -> dict[str, Any] | None:
    kinds = kinds or [
        "NFC",
        "NFD",
        "NFKC",
        "NFKD",
        "Lowercase",
        "StripAccents",
        "Replace",
        "Replace",
        "Prepend",
        "Strip",
        "Precompiled",
        "BertNormalizer",
        "Nmt",
        "ByteLevel",
        "Sequence",
    ]
    kind = rng.choice(kinds)
    node: dict[str, Any] = {"type": kind}
    if kind == "Replace":
        node |= {
            "pattern": pattern(rng),
            "content": rng.choice(["", " ", SPACE, "x", "ab", "é", "e\u0301", "\n", "  "]),
        }
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
        node["normalizers"] = [
            normalizer(rng, kinds if rng.random() < 0.1 else kinds[:-1]) for _ in range(rng.randrange(4))
        ]
    return node


def pre_tokenizer(rng: random.Random, kinds: list[str] | None = None) -> dict[str, Any] | None:
    kinds = kinds or [
        "Whitespace",
        "WhitespaceSplit",
        "Metaspace",
        "Metaspace",
        "Split",
        "Split",
        "Split",
        "Digits",
        "Punctuation",
        "BertPreTokenizer",
        "CharDelimiterSplit",
        "UnicodeScripts",
        "ByteLevel",
        "FixedLength",
        "Sequence",
    ]
    kind = rng.choice(kinds)
    node: dict[str, Any] = {"type": kind}
    if kind == "Metaspace":
        node |= {"replacement": rng.choice([SPACE, SPACE, SPACE, "_", "a"])}
        scheme = rng.choice(["always", "first", "never", None])
        node |= {} if scheme is None else {"prepend_scheme": scheme}
        node |= rng.choice(
            [{}, {"split": True}, {"split": False}, {"add_prefix_space": True}, {"add_prefix_space": False}]
        )
    elif kind == "Split":
        node |= {"pattern": pattern(rng), "behavior": rng.choice(BEHAVIORS), "invert": rng.random() < 0.3}
    elif kind == "Digits":
        node["individual_digits"] = rng.random() < 0.5
    elif kind == "Punctuation":
        node["behavior"] = rng.choice(BEHAVIORS)
    elif kind == "CharDelimiterSplit":
        node["delimiter"] = "_"
    elif kind == "ByteLevel":
        node |= {
            "add_prefix_space": rng.random() < 0.4,
            "trim_offsets": rng.random() < 0.5,
            "use_regex": rng.random() < 0.6,
        }
    elif kind == "FixedLength":
        node["length"] = 3
    elif kind == "Sequence":
        node["pretokenizers"] = [pre_tokenizer(rng, kinds[:-1]) for _ in range(rng.randrange(4))]
    return node


def byte_level_pre_tokenizer(rng: random.Random) -> dict[str, Any]:
    last = pre_tokenizer(rng, ["ByteLevel"])
    steps = [
        pre_tokenizer(rng, ["Split", "Split", "Digits", "Punctuation"]) for _ in range(rng.choice([0, 0, 1, 1, 2]))
    ]
    for step in steps:
        if step is not None and rng.random() < 0.8 and "behavior" in step:
            step |= {"behavior": "Isolated", "invert": False} if step["type"] == "Split" else {}
    return {"type": "Sequence", "pretokenizers": [*steps, last]} if steps or rng.random() < 0.2 else last or {}


def decoder(rng: random.Random, kinds: list[str] | None = None) -> dict[str, Any] | None:
    kinds = kinds or [
        "Fuse",
        "ByteFallback",
        "Replace",
        "Strip",
        "Metaspace",
        "ByteLevel",
        "WordPiece",
        "BPEDecoder",
        "CTC",
        "Sequence",
        "Sequence",
    ]
    kind = rng.choice(kinds)
    node: dict[str, Any] = {"type": kind}
    if kind == "Replace":
        node |= {"pattern": pattern(rng), "content": rng.choice([" ", "", "x"])}
    elif kind == "Strip":
        node |= {
            "content": rng.choice([" ", "a", SPACE]),
            "start": rng.randrange(3),
            "stop": 0,
        }  # else it aborts the process on an empty token
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
        rng,
        (5, None),
        (2, {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}),
        (2, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": rng.random() < 0.5, "use_regex": True}),
        (1, {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]}),
        (1, {"type": "Sequence", "processors": []}),
    )


def random_document(rng: random.Random) -> dict[str, Any]:
    """A `tokenizer.json`; most can be read by the library, some by nobody."""
    kind = rng.choice(
        ["bpe", "bpe", "byte-level", "byte-level", "byte-level", "unigram", "unigram", "word", "word", "piece"][
            : 10 - (rng.random() < 0.7)
        ]
    )
    usual_decoders = [
        None,
        {"type": "Fuse"},
        {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always"},
        {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    ]
    if kind == "byte-level":
        model = byte_level_bpe(rng)
        normal = pick(rng, (6, None), (4, {"type": "NFC"}), (2, lambda: normalizer(rng)))
        split = byte_level_pre_tokenizer(rng) if rng.random() < 0.9 else pre_tokenizer(rng)
        join = pick(rng, (9, lambda: decoder(rng, ["ByteLevel"])), (1, lambda: decoder(rng)), (1, None))
    elif kind == "word":
        model = word_level(rng)
        normal = pick(
            rng, (3, None), (6, lambda: normalizer(rng, ["NFC", "Lowercase", "Sequence"])), (2, lambda: normalizer(rng))
        )
        split = pick(
            rng,
            (1, None),
            (6, lambda: pre_tokenizer(rng, ["Whitespace", "WhitespaceSplit", "Split"])),
            (2, lambda: pre_tokenizer(rng)),
        )
        join = pick(rng, (4, None), (4, {"type": "Fuse"}), (1, lambda: decoder(rng)))
    else:
        model = {"bpe": bpe, "unigram": unigram, "piece": word_piece}[kind](rng)
        quiet = [
            "NFC",
            "NFD",
            "NFKC",
            "NFKD",
            "Lowercase",
            "StripAccents",
            "Replace",
            "Prepend",
            "Strip",
            "Precompiled",
            "Sequence",
        ]
        normal = pick(rng, (3, None), (6, lambda: normalizer(rng, quiet)), (1, lambda: normalizer(rng)))
        usual = ["WhitespaceSplit", "Metaspace", "Split", "Sequence"]
        split = pick(rng, (3, None), (6, lambda: pre_tokenizer(rng, usual)), (1, lambda: pre_tokenizer(rng)))
        join = pick(
            rng,
            (5, lambda: rng.choice(usual_decoders)),
            (
                5,
                lambda: decoder(rng, ["Fuse", "ByteFallback", "Replace", "Strip", "Metaspace", "Sequence", "Sequence"]),
            ),
            (1, lambda: decoder(rng)),
        )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(rng, model),
        "normalizer": normal,
        "pre_tokenizer": split,
        "post_processor": post_processor(rng),
        "decoder": join,
        "model": model,
    }
