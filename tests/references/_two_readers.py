"""How this package and the `tokenizers` library differ on a `tokenizer.json`."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from _patterns_at_random import TEXT_PARTS, random_text

from llmanac.core.errors import LlmanacError
from llmanac.tokenizers.load import load_tokenizer


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
        try:
            placed, offsets = ours.encode_with_offsets(text, special="all")
        except LlmanacError:
            continue
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
    """Whether the two mean the same by offsets: nothing is normalised away, put in front, trimmed or left out.

    (What a BPE without an unknown token leaves out shifts the offsets of all that follows there.)
    """
    model, written = document["model"], json.dumps([document["normalizer"], document["pre_tokenizer"]])
    trims = "trim_offsets" in json.dumps(document["post_processor"])
    drops = (
        model["type"] == "BPE"
        and model["unk_token"] is None
        and not model["byte_fallback"]
        and "ByteLevel" not in written
    )
    return document["normalizer"] is None and not trims and not drops and "Metaspace" not in written
