"""Scores of a query over passages that you type, one a line: BM25, vectors, and both joined. The vectors count runs of
three letters, so that no model is needed: they see that "sailing" resembles "sailor", and not that a boat is a ship."""

import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.guide.demos import Field, _html
from llmanac.retrieve import bm25, code_words, hybrid
from llmanac.retrieve.dense import Dense

CARD = {
    "title": "Scores of passages",
    "kinds": ["retriever"],
    "rows": ["context/rag", "context/memory"],
}
WIDTH, MOST = 1 << 12, 40
PASSAGES = """The ferry leaves the harbor at nine and comes back at noon.
Sailors repair the nets of their boats in the harbor.
A boat, a boat, and once more a boat: the harbor is full of them.
The ship sails at noon.
Bread is sold on the market until noon."""
FIELDS = (
    Field("query", "Query", "When does the sailor's boat leave?"),
    Field("passages", "Passages, one a line", PASSAGES, most=4000, area=True),
    Field("variant", "Formula of BM25", "lucene", choices=("lucene", "robertson", "okapi", "plus", "l")),
    Field("k1", "k1", "1.5", low=0.0, high=100.0),
    Field("b", "b", "0.75", low=0.0, high=1.0),
    Field("k", "k of the joined ranks", "60", low=0, high=1000),
)


def letters(texts: Sequence[str]) -> np.ndarray:
    """(N, `WIDTH`) float32 of length 1: counts of the runs of three letters of each text's words."""
    out = np.zeros((len(texts), WIDTH), np.float32)
    for row, text in zip(out, texts, strict=True):
        for word in re.findall(r"\w+", text.lower()):
            for i in range(len(word)):
                row[zlib.crc32(f" {word} "[i : i + 3].encode()) % WIDTH] += 1
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)


def run(values: dict[str, Any], models: Any, until: float) -> list[Markup]:
    """A row of scores for each passage, and what each word of the query gives."""
    texts, query = [line.strip() for line in values["passages"].splitlines() if line.strip()], values["query"]
    if not 1 <= len(texts) <= MOST:
        raise SpecError(f"Passages: {len(texts)} lines; one to {MOST} are needed")
    choices = {key: values[key] for key in ("variant", "k1", "b")}
    lexical: bm25.BM25 = make_method("retriever", {"name": "bm25", **choices}).build(texts=texts)
    dense, count = Dense(texts, encode=letters), len(texts)
    found = [lexical.top(query, count), dense.top(query, count)]
    ways = {
        "BM25": found[0], "vectors": found[1],
        "ranks joined": hybrid.fuse([[hit.position for hit in hits] for hits in found], float(values["k"])),
        "scores joined": hybrid.fuse_scores(found),
    }  # fmt: skip
    scores = {
        name: {hit.position: (rank, hit.score) for rank, hit in enumerate(hits, 1)} for name, hits in ways.items()
    }
    rows = [
        (text, *(f"{held[i][1]:.3f} ({held[i][0]}.)" if i in held else "" for held in scores.values()))
        for i, text in enumerate(texts)
    ]
    words = list(dict.fromkeys(code_words(query)))
    gains = [(word, f"{lexical.weight(word):.3f}", *(f"{s:.3f}" for s in lexical.scores([word]))) for word in words]
    heads = ("word", "idf", *(f"passage {i}" for i in range(1, count + 1)))
    return [
        _html.table("Score (place) by method", ("passage", *ways), rows),
        Markup("<p>{}</p>").format("A passage without a word of the query has no place by BM25. Scores of different "
                                   "methods cannot be compared; ranks, or scores brought to 0..1, can be added."),
        _html.table("What each word of the query gives by BM25", heads, gains),
    ]  # fmt: skip
