"""`llmanac benchmark inspect`: what a benchmark is worth."""

import json
import shlex
from pathlib import Path
from typing import Any

from llmanac.cli.options import AsJson, group
from llmanac.core.errors import SpecError

KEY = "properties"
app = group("Benchmarks themselves: inspect.")


@app.callback()
def _benchmark() -> None:
    """A group also with one command."""


@app.command("inspect")
def inspect_command(
    name: str, data: Path | None = None, models: str = "", results: str = "", against: str | None = None,
    limit: int | None = None, shots: int | None = None, metric: str | None = None, train: list[str] | None = None,
    column: str = "text", embedder: str | None = None, seeds: int = 3, out: Path = Path("inspected"),
    dtype: str | None = None, runner: str | None = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Measure a benchmark: difficulty, diversity, usefulness, reproducibility, artefacts, contamination.

    Args:
        name: A benchmark's name, or the path of a .toml or lm-eval .yaml file.
        data: The folder of the benchmark's data.
        models: Models that are run, with commas between: folders, .gguf, http://.
        results: Folders that `llmanac evaluate` wrote, with commas between.
        against: Another benchmark, whose ranking is compared.
        limit (from 1): Only the first items.
        shots (from 0): Few-shot examples before each question [the benchmark's].
        metric: The score that counts [the benchmark's first].
        train: Training text in which the questions are searched; repeatable.
        column: Column of a table of training text.
        embedder: A model of sentence vectors, for the spread of meaning.
        seeds (0 to 100): Draws of examples and of their order.
        out (-o, --output): Folder of the results.
        dtype: float32, float64 or bfloat16 [float32].
        runner: Of generated answers: auto, native or torch [auto for a .gguf file, torch for a folder].
    """
    from llmanac.core.files import write_json, write_text
    from llmanac.core.outputs import check_pages
    from llmanac.evaluate.answering import load_answerer
    from llmanac.evaluate.inspection import inspect, summary
    from llmanac.evaluate.load import load_benchmark

    label, own = load_benchmark(name)
    folder = data or (Path(name).parent if Path(name).suffix else None)
    other = None
    if against is not None:
        their, theirs = load_benchmark(against)
        if their == label:
            raise SpecError(f"--against {against}: is the benchmark itself; name another one")
        other = (their, theirs, data or (Path(against).parent if Path(against).suffix else None))
    paths = list(dict.fromkeys(part.strip() for part in models.split(",") if part.strip()))
    if paths and folder is None:
        raise SpecError(f"--data: name the folder that holds {' or '.join(own.data.files)}")
    check_pages(out, "-o", (f"{label}.json", f"{label}.svg"), KEY)
    vectors: Any = None
    if embedder is not None:
        from llmanac.evaluate.embed import Embedder

        vectors = Embedder.load(embedder)
    stored = [Path(part.strip()) for part in results.split(",") if part.strip()]
    found = inspect(
        label, own, data=folder, models=paths, load=lambda path: load_answerer(path, dtype=dtype, runner=runner),
        results=stored, against=other, limit=limit, shots=shots, metric=metric, train=train or (), column=column,
        embedder=vectors, seeds=seeds, cache=out / "cache",
    )  # fmt: skip
    place = write_json(out / f"{label}.json", {KEY: found})
    drawing = chart(found)
    if drawing:
        write_text(out / f"{label}.svg", drawing)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    from llmanac.cli.tables import print_table

    print_table(own.title, ["property", "measure", "value"], summary(found), left=(0, 1, 2))
    print(f"Written: {place}" + (f", {out / f'{label}.svg'}" if drawing else ""))
    more = ["llmanac", "benchmark", "inspect", name, *(["--data", str(data)] if data else [])]
    if not paths:
        print(f"Next: {shlex.join(more)} --models FOLDER   (more properties)")
    elif not against:
        other_name = "hellaswag" if label == "piqa" else "piqa"
        print(
            f"Next: {shlex.join([*more, '--models', models])} --against {other_name}   (whether both rank models alike)"
        )
    else:
        print(f"Next: {shlex.join([*more, '--models', models])} --train TEXT   (whether questions leaked into it)")


def chart(found: dict[str, Any]) -> str | None:
    """Scores of models, of what needs no question, and of variants, on one axis; None where there is none of them."""
    from llmanac.core.pages import IntervalRow, interval_chart

    difficulty, variants = found["difficulty"], found["reproducibility"]
    rows = [
        IntervalRow(one["model"], [], one["value"], (one["low"], one["high"])) for one in difficulty.get("models", [])
    ]
    if rows:
        rows.append(IntervalRow("chance", [], difficulty["chance"], shade=1))
    for one in found["artefacts"].get("rows", []):
        rows.append(IntervalRow(one["baseline"], [], one["value"], (one["low"], one["high"]), 2))
    for kind, part in variants.get("spread", {}).items():
        dots = [one["value"] for one in variants["variants"] if one["kind"] == kind]
        rows.append(IntervalRow(kind, dots, variants["value"], (part["low"], part["high"]), 3))
    return interval_chart(rows, "score", f"{found['title']}: scores").svg if rows else None
