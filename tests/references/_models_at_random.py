"""Random models and added tokens of a `tokenizer.json`."""

from __future__ import annotations

import random
from typing import Any

from llmanac.tokenizers import _byte_level

SPACE = "\u2581"
LETTERS = [
    "a",
    "b",
    "e",
    "s",
    "t",
    "h",
    " ",
    SPACE,
    "é",
    "1",
    "2",
    "中",
    "'",
    "!",
    "\n",
    "日",
    "ー",
    "\u0301",
    "_",
    "k",
    "i",
    "T",
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ADDED = [
    "<s>",
    "</s>",
    "<unk>",
    "<x>",
    "[MASK]",
    " the",
    "the ",
    "wörld",
    "é",
    "e\u0301",
    "ab",
    "A",
    "ſ",
    "<S>",
    "İ",
    "ñ",
    "1",
    "  ",
    "Ａ",
    "a b",
    "中",
    "'s",
    "<0x41>",
    SPACE,
    SPACE + "a",
    "\n",
    "T",
    "ﬁ",
    "\0",
    "<",
    "日本",
    "the",
]


def pick(rng: random.Random, *choices: tuple[float, Any]) -> Any:
    """One of the choices by weight; a function is called for its value."""
    found = rng.choices([value for _, value in choices], [weight for weight, _ in choices])[0]
    return found() if callable(found) else found


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
    return model | pick(
        rng, (20, {}), (1, {"dropout": 0.3}), (1, {"dropout": 0.0}), (1, {"end_of_word_suffix": "</w>"})
    )


def byte_level_bpe(rng: random.Random) -> dict[str, Any]:
    letters = list(_byte_level.ALPHABET)
    if rng.random() < 0.1:
        letters = rng.sample(letters, 200)
    near = [
        _byte_level.written(text.encode())
        for text in ["the", "a", " ", "é", "中", "'s", "12", "\n", "e\u0301", "日", "ab"]
    ]
    frequent = [letter for text in near for letter in text if letter in letters]
    entries, merges = merged_words(rng, frequent, rng.randrange(120))
    vocab = list(dict.fromkeys([*rng.choice([[], ["<s>", "</s>", "<unk>"]]), *letters, *entries]))
    model: dict[str, Any] = {"type": "BPE", "vocab": {text: id for id, text in enumerate(vocab)}, "merges": merges}
    model["merges"] = [" ".join(pair) for pair in merges] if rng.random() < 0.3 else merges
    model["unk_token"] = "<unk>" if "<unk>" in vocab and rng.random() < 0.5 else None
    return model | {
        "ignore_merges": rng.random() < 0.4,
        "byte_fallback": rng.random() < 0.05,
        "fuse_unk": rng.random() < 0.2,
    }


def unigram(rng: random.Random) -> dict[str, Any]:
    fallback = rng.random() < 0.4
    entries, _ = merged_words(rng, rng.sample(LETTERS, rng.randrange(4, len(LETTERS))), rng.randrange(80))
    words = [*entries, *(BYTES if fallback else []), "<s>", "</s>"]
    words += rng.sample(
        ["<x>", "\0", "a\0b", "", "<0x41>", "the" + SPACE, SPACE + "the", "\u0301a", "ab" * 20, "👨\u200d👩"],
        rng.randrange(3),
    )
    vocab = [
        ["<unk>", 0.0],
        *([text, round(-rng.random() * rng.choice([1, 10]), rng.choice([1, 6]))] for text in dict.fromkeys(words)),
    ]
    if rng.random() < 0.2:
        rng.shuffle(vocab)
    unknown = next(id for id, (text, _) in enumerate(vocab) if text == "<unk>")
    return {
        "type": "Unigram",
        "unk_id": None if rng.random() < 0.1 else unknown,
        "vocab": vocab,
        "byte_fallback": fallback,
    }


def word_level(rng: random.Random) -> dict[str, Any]:
    words = [
        "<unk>",
        *rng.sample(
            [
                "a",
                "the",
                "The",
                " the",
                "s",
                "'",
                "é",
                "e\u0301",
                "中",
                "12",
                "1",
                "<s>",
                "<x>",
                " ",
                "ab",
                "\n",
                "!",
                "a\u200d",
                "日本",
                "_",
                "\0",
                "²",
                "...",
                "i\u0307",
            ],
            14,
        ),
    ]
    model = {"type": "WordLevel", "vocab": {text: id for id, text in enumerate(words)}}
    return model | {"unk_token": rng.choice(["<unk>", "<unk>", "<unk>", "[UNK]"])}


def word_piece(rng: random.Random) -> dict[str, Any]:
    words = ["[UNK]", "a", "##b", "the", "##e", "s"]
    return {
        "type": "WordPiece",
        "vocab": {text: id for id, text in enumerate(words)},
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }


def added_tokens(rng: random.Random, model: dict[str, Any]) -> list[dict[str, Any]]:
    vocab = model["vocab"]
    ids = dict(vocab) if isinstance(vocab, dict) else {text: id for id, (text, _) in enumerate(vocab)}
    chosen = rng.sample(ADDED, rng.choice([0, 1, 2, 3, 5])) + [
        t for t in ("<unk>", "<s>", "</s>") if rng.random() < 0.5
    ]
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
