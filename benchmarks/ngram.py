"""N-gram models against KenLM: text to an ARPA file, and scoring text with a model; one thread.

The text is Python source of this machine, `TOKENS` words between white space, so that the two can be run anywhere. The
peer of estimation is KenLM's own program, which no package carries: `LMPLZ=/path/to/lmplz` names it, and without it the
peer is null. The peer of scoring is the `kenlm` module, asked line by line, as its users do; both are given the text.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from _harness import Benchmark, Result, find_peer, interleave

TOKENS = int(os.environ.get("TOKENS", 8_000_000))
QUERIED = 1_000_000
# lmplz of KenLM on 8.0 M tokens of source code, CPU seconds, as measured when the project was planned
KNOWN_SECONDS = {"3": 4.6, "5": 8.1}

bench = Benchmark("ngram", "N-gram counting against KenLM: text to ARPA, and scoring text; one thread.")


def corpus() -> tuple[bytes, int]:
    """Python source up to `TOKENS` words and line ends, and how many there are."""
    parts, tokens = [], 0
    folders = [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")]
    for path in sorted(p for folder in folders for p in Path(folder).rglob("*.py")):
        data = path.read_bytes().rstrip() + b"\n"
        parts.append(data)
        tokens += len(data.split()) + 2 * data.count(b"\n")
        if tokens >= TOKENS:
            break
    return b"".join(parts), tokens


def cpu_seconds() -> float:
    """CPU seconds of this process and of those it waited for."""
    return sum(os.times()[:4])


def runs_of(order: int, text: Path, folder: Path) -> dict[str, Any]:
    """The contestants: each reads the text and writes an ARPA file."""
    from llmanac.models.ngrams.load import write_arpa
    from llmanac.models.ngrams.words import train
    from llmanac.models.smoothing.modified_kneser_ney import Spec

    def ours() -> None:
        write_arpa(train([text], order, Spec().build(), skip_symbols=True), folder / "ours.arpa")

    def theirs() -> None:
        options = ["-o", str(order), "-S", "20%", "--discount_fallback", "--skip_symbols", "-T", str(folder)]
        with open(text, "rb") as source, open(folder / "theirs.arpa", "wb") as target:
            subprocess.run(
                [os.environ["LMPLZ"], *options], stdin=source, stdout=target, stderr=subprocess.DEVNULL, check=True
            )

    return {"ours": ours} | ({"theirs": theirs} if os.environ.get("LMPLZ") else {})


@bench.measure("ngram-estimate")
def estimate() -> Result:
    """Text to an ARPA file of order 3 (order 5 in `more`): tokens a CPU second."""
    data, tokens = corpus()
    more: dict[str, Any] = {
        "tokens": tokens,
        "text_megabytes": len(data) / 1e6,
        "lmplz_seconds_when_planned": KNOWN_SECONDS,
    }
    taken: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        text = Path(name) / "text.txt"
        text.write_bytes(data)
        for order in (3, 5):
            runs = runs_of(order, text, Path(name))
            taken[str(order)] = interleave(runs, rounds=3, clock=cpu_seconds)
            more[f"order_{order}_seconds"] = taken[str(order)]["ours"]
            more[f"order_{order}_seconds_of_peer"] = taken[str(order)].get("theirs")
            more[f"order_{order}_arpa_megabytes"] = (Path(name) / "ours.arpa").stat().st_size / 1e6
    peer = "lmplz" if os.environ.get("LMPLZ") else "lmplz (LMPLZ is not set)"
    return Result.rate("ngram-estimate", tokens / 1e6, taken["3"], unit="Mtoken/s", peer=peer, **more)


@bench.measure("ngram-query")
def query() -> Result:
    """Scoring text with a model of order 5: tokens a CPU second."""
    from llmanac.models.ngrams.binary import read_binary, write_binary
    from llmanac.models.ngrams.load import write_arpa
    from llmanac.models.ngrams.words import WordModel, train
    from llmanac.models.smoothing.modified_kneser_ney import Spec

    data, _ = corpus()
    lines = data.splitlines(keepends=True)
    asked = b"".join(lines[::7])  # a seventh of the lines is asked about, and is not counted
    asked = asked[: asked.rfind(b"\n", 0, 8 * QUERIED) + 1]
    with tempfile.TemporaryDirectory() as name:
        text = Path(name) / "text.txt"
        text.write_bytes(b"".join(line for i, line in enumerate(lines) if i % 7))
        made = train([text], 5, Spec().build(), skip_symbols=True)
        write_binary(made.trie, Path(name) / "model.ngram", made)
        ours = read_binary(Path(name) / "model.ngram")
        assert isinstance(ours, WordModel)
        found = ours.score(asked)
        sentences = [line.decode("utf-8", "replace") for line in asked.splitlines()]
        runs = {"ours": lambda: ours.score(asked)}
        kenlm, peer = find_peer("kenlm")
        if kenlm:
            write_arpa(made, Path(name) / "model.arpa")
            quiet = kenlm.Config()
            quiet.show_progress = False
            theirs = kenlm.Model(str(Path(name) / "model.arpa"), quiet)
            runs["theirs"] = lambda: [theirs.score(line) for line in sentences]  # type: ignore[dict-item]
        seconds = interleave(runs, rounds=5, clock=time.process_time)
    more = {"perplexity": found.perplexity, "unknown": found.unknown, "tokens": found.tokens}
    return Result.rate("ngram-query", found.tokens / 1e6, seconds, unit="Mtoken/s", peer=peer, **more)


if __name__ == "__main__":
    bench.main()
