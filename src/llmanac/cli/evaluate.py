"""`llmanac evaluate`: benchmarks on one model, or on two that are paired item by item."""

import json
import math
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llmanac.cli.options import AsJson, OnEngine, Workers, on_ray
from llmanac.core.errors import SpecError

Model = Annotated[
    str, typer.Argument(help="A run's or model's folder, a .gguf file, a hub name, or a server's http://.")
]


def evaluate_command(
    model: Model, other: str | None = None, benchmarks: str = "", data: Path | None = None, limit: int | None = None,
    shots: int | None = None, chat: bool = False, out: Path = Path( "results" ), dtype: str | None = None,
    runner: str | None = None, rpm: float | None = None, price: str | None = None,
    engine: OnEngine = "local", workers: Workers = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Run benchmarks: a table with standard errors, every item in an HTML report; stopped runs go on.

    Args:
        other (argument, [MODEL_B]): Compared with the first by item.
        benchmarks: Names, or paths of .toml or lm-eval .yaml files.
        data: The folder of the benchmarks' data.
        limit (from 1): Only the first items of each.
        shots (from 0): Few-shot examples before each question [the benchmark's].
        chat: Send prompts through the model's chat template; choices are asked for by letter.
        out (-o, --output): Folder of results, items and kept answers.
        dtype: float32, float64 or bfloat16 [float32].
        runner: Of generated answers: auto, native or torch [auto for a .gguf file, torch for a folder].
        rpm (0.001 to 1e6): Requests a minute to a server, at most.
        price (IN,OUT): Of a million tokens that a server reads and writes: prints what the run cost.
    """
    from llmanac.core.stores import kept
    from llmanac.evaluate.benchmarking import run_benchmarks
    from llmanac.evaluate.load import load_benchmark, names

    on_ray(engine, workers)
    wanted = [part.strip() for part in benchmarks.split(",") if part.strip()]
    if not wanted:
        raise SpecError(f"--benchmarks: give at least one of {', '.join(names())}, or the path of a .toml file")
    try:
        with kept(out) as folder:
            page = run_benchmarks(
                model, other, benchmarks=wanted, data=data, limit=limit, shots=shots, chat=chat, output=folder,
                dtype=dtype, runner=runner, rpm=rpm, price=_price(price), engine=engine, workers=workers,
                note=lambda text: print(text, file=sys.stderr),
            ).data  # fmt: skip
    except KeyboardInterrupt:
        print(f"\nInterrupted. Answers so far are kept in {out}; the same command goes on.", file=sys.stderr)
        raise
    if as_json:
        print(json.dumps(page, ensure_ascii=False))
        return
    _show(page, out)
    for one in page["usage"]:
        cost = "" if one["cost"] is None else f", {one['cost']:,.4f} by --price"
        said = f"{one['requests']:,} requests ({one['repeated']:,} of them repeated), {one['read']:,} tokens read"
        print(f"{one['model']}: {said}, {one['written']:,} written{cost}, in this run")
    given = {"--data": data, "--dtype": dtype, "--runner": runner, "--rpm": rpm, "--price": price,
             "--shots": shots if limit else None, "--output": out, "--workers": workers,
             "--engine": None if engine == "local" else engine}  # fmt: skip
    more = ["llmanac", "evaluate", model, *([other] if other else []), "--benchmarks", ",".join(wanted)]
    more += [part for flag, value in given.items() if value is not None for part in (flag, str(value))]
    more += ["--chat"] if chat else []
    examples = any(load_benchmark(name)[1].shots.count if shots is None else shots for name in wanted)
    if limit or examples:
        more += ["--limit", str(2 * limit)] if limit else ["--shots", "0"]
        print(f"Next: {shlex.join(more)}   (answers that are there are used again)")
    elif other is None:
        more.insert(3, "MODEL_B")
        print(f"Next: {shlex.join(more)}   (another model, item by item)")
    else:
        more = ["llmanac", "benchmark", "inspect", wanted[0], *(["--data", str(data)] if data else [])]
        print(f"Next: {shlex.join([*more, '--results', str(out)])}   (what the benchmark is worth)")


def _price(given: str | None) -> tuple[float, float] | None:
    if given is None:
        return None
    try:
        read, written = map(float, given.split(","))
        if min(read, written) >= 0 and max(read, written) < math.inf:
            return read, written
    except ValueError:
        pass
    raise SpecError(f"--price: {given!r} is not two numbers such as 0.15,0.60")


def _show(results: dict[str, Any], out: Path) -> None:
    from llmanac.cli.tables import print_page_table
    from llmanac.evaluate.benchmarking import KEY, score_sections

    for section in score_sections(results):
        print_page_table(section.tables[0], section.title)
    if any(score["clusters"] != score["items"] for one in results[KEY] for score in one["scores"]):
        print("Items in clusters, such as questions on one passage: standard errors are over clusters.")
    print(f"Every item: {out / 'report.html'}")
