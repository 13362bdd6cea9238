"""`llmanac data build` against datatrove: synthetic text through cleaning, filtering and near-duplicates.

    python benchmarks/build.py [--only NAME]

The text is made here from a seed: words by Zipf's law, paragraphs and lengths as on web pages, one document in twenty a
copy of an earlier one with a few words changed. Both run the same stages, as far as they are there: `gopher-quality`
and `minhash` (cleaning is ours alone: it costs us time and datatrove none). `build-rate` is megabytes of text a CPU
second of all processes together, one worker, on `LLMANAC_BENCH_SLICE` megabytes (20); starting up is part of it.
`build-memory` is the largest sum of resident memory of all our processes (shared pages counted once a process) over
`LLMANAC_BENCH_BYTES` (1e9) bytes with two workers; datatrove's figure is of the slice.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _harness import Benchmark, Result, find_peer

from llmanac.core import registry

bench = Benchmark("build", "The data pipeline against datatrove.")
SLICE = int(float(os.environ.get("LLMANAC_BENCH_SLICE", "20")) * 1e6)
TOTAL = int(float(os.environ.get("LLMANAC_BENCH_BYTES", "1e9")))
WANTED = ("clean", "gopher-quality", "minhash")
COMMON = "the be to of and that have with a in is for on it as was by at from this".split()  # noqa: SIM905


def stages() -> list[str]:
    """The stages of this benchmark that the package has."""
    return [name for name in WANTED if name in registry.methods("stage")]


def write_text(path: Path, size: int, seed: int = 0) -> int:
    """JSON Lines of about `size` bytes of text; returns the number of documents."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    made = {"".join(rng.choice(letters, rng.integers(3, 11))) for _ in range(30_000)}
    words = np.array([*COMMON, *sorted(made - set(COMMON))], dtype=object)
    chance = np.cumsum(1 / (np.arange(len(words)) + 2.7))
    chance /= chance[-1]
    written, count = 0, 0
    earlier: list[list[str]] = []
    with open(path, "w", encoding="utf-8") as out:
        while written < size:
            length = int(np.clip(rng.lognormal(5.9, 0.8), 60, 20_000))
            if earlier and rng.random() < 0.05:
                chosen = list(earlier[int(rng.integers(len(earlier)))])
                for place in rng.integers(len(chosen), size=max(1, len(chosen) // 100)):
                    chosen[place] = "changed"
            else:
                chosen = words[np.searchsorted(chance, rng.random(length))].tolist()
            if len(earlier) < 2000:
                earlier.append(chosen)
            lines = [" ".join(chosen[n : n + 40]) + "." for n in range(0, len(chosen), 40)]
            text = "\n\n".join(lines)
            out.write(json.dumps({"text": text, "id": str(count)}) + "\n")
            written += len(text)
            count += 1
    return count


OURS = """
import sys
from llmanac.data.pipeline.build import build
from llmanac.data.pipeline.recipe import make_recipe
path, out, workers, *stages = sys.argv[1:]
build(make_recipe({"inputs": [path], "stages": stages}), out, workers=int(workers))
"""

THEIRS = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import GopherQualityFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
path, out, workers, *stages = sys.argv[1:]
folder, name = path.rsplit("/", 1)

def run(step, *pipeline):
    LocalPipelineExecutor(pipeline=list(pipeline), tasks=1, workers=1, logging_dir=f"{out}/logs/{step}").run()

def write(where):
    return JsonlWriter(f"{out}/{where}", compression=None)

filters = [GopherQualityFilter()] if "gopher-quality" in stages else []
run("filter", JsonlReader(folder, glob_pattern=name), *filters, write("filtered"))
if "minhash" in stages:
    import xxhash

    hashed = xxhash.xxh64_intdigest  # releases that take bytes only: datatrove gives it text
    xxhash.xxh64_intdigest = lambda data: hashed(data.encode() if isinstance(data, str) else data)
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter,
    )
    config = MinhashConfig()
    run("sign", JsonlReader(f"{out}/filtered"), MinhashDedupSignature(f"{out}/signatures", config=config))
    LocalPipelineExecutor(
        pipeline=[MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=config)],
        tasks=config.num_buckets, workers=1, logging_dir=f"{out}/logs/buckets",
    ).run()
    run("cluster", MinhashDedupCluster(f"{out}/buckets", f"{out}/remove", config=config))
    run("drop", JsonlReader(f"{out}/filtered"), MinhashDedupFilter(f"{out}/remove"), write("kept"))
"""


def cpu_and_memory(program: str, *arguments: str) -> tuple[float, float, float]:
    """Run a program: CPU seconds of it and its children, wall seconds, and the peak sum of resident megabytes."""
    import psutil

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, "-c", program, *arguments], env=environment, stdout=log, stderr=log)
        peak = 0.0
        stop = threading.Event()

        def watch() -> None:
            nonlocal peak
            parent = psutil.Process(process.pid)
            while not stop.wait(0.05):
                total = 0
                try:
                    for one in [parent, *parent.children(recursive=True)]:
                        total += one.memory_info().rss
                except psutil.Error:
                    continue
                peak = max(peak, total / 1e6)

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        stop.set()
        watcher.join()
        if code:
            log.seek(0)
            raise RuntimeError(log.read().decode("utf-8", "replace")[-3000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - start, peak


def in_folder(work: Callable[[Path], Any]) -> Any:
    folder = Path(tempfile.mkdtemp(prefix="llmanac-bench-"))
    try:
        return work(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@bench.measure("build-rate")
def build_rate() -> Result:
    peer, title = find_peer("datatrove")

    def work(folder: Path) -> Result:
        path = folder / "in" / "text.jsonl"
        path.parent.mkdir()
        documents = write_text(path, SLICE)
        small = folder / "small.jsonl"
        write_text(small, 100_000)
        cpu_and_memory(OURS, str(small), str(folder / "warm"), "1", *stages())  # compiles what is not compiled yet
        runs: dict[str, list[tuple[float, float, float]]] = {"ours": [], "theirs": []}
        for turn in range(2):
            runs["ours"].append(cpu_and_memory(OURS, str(path), str(folder / f"ours-{turn}"), "1", *stages()))
            if peer and turn == 0:  # once: it takes minutes, and CPU time hardly moves
                runs["theirs"].append(cpu_and_memory(THEIRS, str(path), str(folder / f"theirs-{turn}"), "1", *stages()))
        best = {name: min(found)[0] for name, found in runs.items() if found}
        kept = json.loads((folder / "ours-0" / "manifest.json").read_text())["output"]["documents"]
        more: dict[str, Any] = {"stages": stages(), "documents": documents, "kept": kept, "cpu_seconds": best["ours"]}
        if peer:
            last = "kept" if "minhash" in stages() else "filtered"
            files = (folder / "theirs-0" / last).glob("*.jsonl")
            more["kept_theirs"] = sum(f.read_bytes().count(b"\n") for f in files)
            more["cpu_seconds_theirs"] = best["theirs"]
            more["memory_mb_theirs"] = max(found[2] for found in runs["theirs"])
        more["memory_mb"] = max(found[2] for found in runs["ours"])
        return Result.rate("build-rate", SLICE / 1e6, best, unit="MB/s", peer=title, **more)

    return in_folder(work)


@bench.measure("build-memory")
def build_memory() -> Result:
    peer, title = find_peer("datatrove")

    def work(folder: Path) -> Result:
        path = folder / "in" / "text.jsonl"
        path.parent.mkdir()
        documents = write_text(path, TOTAL)
        cpu, wall, peak = cpu_and_memory(OURS, str(path), str(folder / "ours"), "2", *stages())
        theirs = None
        if peer:
            part = folder / "part" / "text.jsonl"
            part.parent.mkdir()
            write_text(part, SLICE)
            theirs = cpu_and_memory(THEIRS, str(part), str(folder / "theirs"), "1", *stages())[2]
        more = {
            "stages": stages(), "bytes": float(TOTAL), "documents": documents, "workers": 2, "cpu_seconds": cpu,
            "wall_seconds": wall, "mb_per_cpu_second": TOTAL / 1e6 / cpu, "theirs_on_bytes": float(SLICE),
        }  # fmt: skip
        return Result("build-memory", "MB", peak, title, theirs, "lower", more)

    return in_folder(work)


if __name__ == "__main__":
    bench.main()
