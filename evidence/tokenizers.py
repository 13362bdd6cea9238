"""Bytes, words, sizes of byte-level BPE, and SentencePiece on the same documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evidence._compared import compared, made_up, measured, shown
from llmanac.core.pages import Section
from llmanac.core.spec import make_method
from llmanac.lab.axis import Arm
from llmanac.lab.trials.tokenizers import HeldOutTexts, TokenizerTrial

ROWS = ("tokenizer/utf8", "tokenizer/word", "tokenizer/bpe")
CLAIM = "bytes lose nothing and are long, words are short and lose text, subwords are short and lose nothing"
SEEDS, REPLICATE = 1, "measurement"  # nothing is drawn; the interval is over documents
PIECES = ("values", "page")  # by document, and what else the page has: together they are too long for a cell
FEW = ("utf8", "word", "bpe", "unigram", "sentencepiece-bpe")


def measure(seed: int, size: str, piece: str = "") -> dict[str, Any]:
    """The comparison on the documentation; small, one tokenizer of a kind on made-up text."""
    if size == "full":
        found = compared("tokenizers")["tokenizers"]
        return found["values"] if piece == "values" else {k: v for k, v in found.items() if k != "values"}
    texts = made_up()
    trial = TokenizerTrial(HeldOutTexts(lambda: texts[:8], [f"{text} Unseen: naïve." for text in texts[8:]], "made up"))
    out = {}
    for name in FEW:
        size_of = {} if name == "utf8" else {"vocab_size": 300}
        found = trial.measure(Arm(name, make_method("tokenizer", {"name": name, **size_of}), {}, {}), seed, Path())
        out[name] = {**measured(found, trial.metrics), "lost": found.costs["lost"], "unknown": found.costs["unknown"]}
    return out


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    return shown("tokenizers", {**seeds[0]["page"], "values": seeds[0]["values"]})
