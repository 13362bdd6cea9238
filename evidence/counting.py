"""What counting shows, over {folds} folds of documents.

The documentation of this Python, {documents} documents, each in one fold; models and tokenizers are made of the other
four and read the fifth. Nothing is trained by gradients: one fold is one replicate, and the interval is over folds.

- A second token of context lowers the loss of a smoothed model: {second} bits a byte with two, {third} with three.
- A 5-gram without smoothing gives unseen n-grams no probability (10^-99 here): {plain} bits a byte, {smooth} smoothed.
- The same 5-gram over the tokens of a BPE with {small} ids has a lower perplexity a token than over one with {large}
  ids ({few} against {many}), and more bits a byte ({few_bits} against {many_bits}): a perplexity is of its tokens.
- A vocabulary of the {words:,} most frequent words leaves {unknown} of the held-out tokens unknown.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

from evidence._compared import made_up
from evidence._page import with_interval
from llmanac import train_tokenizer
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method
from llmanac.data.split import fraction
from llmanac.data.tokens import TokenDataset
from llmanac.evaluate.bits_per_byte import score_texts
from llmanac.models.pairs import start_token

ROWS = ("lm/bigram", "lm/ngram", "metric/perplexity", "tokenizer/word")
CLAIM = "context, smoothing and the size of tokens each change what a counted model costs on documents it never saw"
SEEDS, REPLICATE = 5, "fold"
MARGIN, METRIC = 0.01, "bits per byte"
ARMS = ("order 2", "order 3", "order 5", "order 5, no smoothing", "order 5, large tokens")
SMALL_IDS, LARGE_IDS, WORDS, WINDOW = 512, 4096, 30_000, 128


def measure(seed: int, size: str) -> dict[str, Any]:
    """Bits a byte and perplexity of every arm on one fold, and the share of unknown words."""
    full = size == "full"
    texts = [one.text for one in make_method("source", "python-docs").documents()] if full else made_up()
    own = [int(SEEDS * fraction(text)) == seed for text in texts]
    held = [text for text, out in zip(texts, own, strict=True) if out]
    rest = [text for text, out in zip(texts, own, strict=True) if not out]
    ids = (SMALL_IDS, LARGE_IDS) if full else (270, 300)
    small, large = (train_tokenizer("bpe", rest, vocab_size=n, special_tokens=["<|endoftext|>"]) for n in ids)
    arms = {
        "order 2": (small, {"order": 2}), "order 3": (small, {"order": 3}), "order 5": (small, {"order": 5}),
        "order 5, no smoothing": (small, {"order": 5, "smoothing": "mle"}),
        "order 5, large tokens": (large, {"order": 5}),
    }  # fmt: skip
    out: dict[str, Any] = {name: counted(rest, held, *arm) for name, arm in arms.items()}
    words = train_tokenizer("word", rest, vocab_size=WORDS)
    return {**out, "unknown": words.unknown_rate(held), "documents": len(held)}


def counted(rest: Sequence[str], held: Sequence[str], tokenizer: Any, fields: dict[str, Any]) -> dict[str, float]:
    """A counted model of the rest, on the held-out texts."""
    model: Any = make_method("lm", {"name": "ngram", **fields}).build(vocab_size=tokenizer.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        dataset = TokenDataset.write(folder, rest, tokenizer)
        model = model.estimate(dataset, start=start_token(tokenizer))
    found = score_texts(model.eval(), tokenizer, held, window=WINDOW)
    return {METRIC: found.bits_per_byte, "perplexity": 2 ** (found.bits_per_byte * found.bytes_per_token)}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    rows = [
        [name, with_interval([one[name][METRIC] for one in seeds], 3),
         "" if "no" in name else with_interval([one[name]["perplexity"] for one in seeds], 2)] for name in ARMS
    ]  # fmt: skip
    return [Section("Held-out documents", [], [table(["5-gram or other", METRIC, "perplexity a token"], rows)])]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def bits(name: str, score: str = METRIC) -> str:
        return with_interval([one[name][score] for one in seeds], 2)

    return {
        "folds": len(seeds), "documents": sum(one["documents"] for one in seeds), "second": bits("order 2"),
        "third": bits("order 3"), "plain": bits("order 5, no smoothing"), "smooth": bits("order 5"),
        "small": f"{SMALL_IDS:,}", "large": f"{LARGE_IDS:,}", "few": bits("order 5", "perplexity"), "words": WORDS,
        "many": bits("order 5, large tokens", "perplexity"), "few_bits": bits("order 5"),
        "many_bits": bits("order 5, large tokens"),
        "unknown": with_interval([100 * one["unknown"] for one in seeds], 2) + "%",
    }  # fmt: skip
