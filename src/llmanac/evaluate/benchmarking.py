"""Benchmarks on one or two models: what `llmanac evaluate` runs.

Results on disk: `results.json`, the items as JSON Lines, and one HTML page in which items can be filtered.
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.cluster import Each, here
from llmanac.core.errors import SpecError
from llmanac.core.files import atomic_file, write_json, write_text
from llmanac.core.outputs import check_pages
from llmanac.core.pages import Section, render_page, table
from llmanac.core.shown import Shown
from llmanac.evaluate._benchmark_rows import items_of
from llmanac.evaluate.answering import Answerer, RemoteAnswerer, chat_note, load_answerer
from llmanac.evaluate.benchmark import Benchmark
from llmanac.evaluate.evaluation import Difference, Evaluation, compare_all, evaluate
from llmanac.evaluate.load import load_benchmark
from llmanac.evaluate.server import ServedModel
from llmanac.models.locate import on_cluster

ITEMS = Path(__file__).with_name("items.html")
RESULTS, PAGE, KEY = "results.json", "report.html", "evaluations"
MOST_TEXT = 6000  # characters of a prompt on the page, from its end, and of an answer; items/ has all of it
MOST_ITEMS = 4000  # on the page, of each model and benchmark


def check_folder(folder: Path) -> None:
    """Raises SpecError for a folder whose files are of something else."""
    check_pages(folder, "-o", (RESULTS, PAGE), KEY)


def write_results(
    folder: Path,
    benchmarks: Mapping[str, Benchmark],
    found: Sequence[Sequence[Evaluation]],
    differences: Sequence[Difference],
    options: Mapping[str, Any],
    usage: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Write everything, each file atomically; returns what `results.json` holds."""
    from llmanac import __version__

    results: dict[str, Any] = {
        "version": __version__, "options": dict(options),
        KEY: [
            {"model": one.model, "benchmark": one.benchmark, "title": benchmarks[one.benchmark].title,
             "items": len(one.items), "scores": [score.as_json() for score in one.scores]}
            for evaluations in found for one in evaluations
        ],
        "differences": [one.as_json() for one in differences], "usage": list(usage),
    }  # fmt: skip
    shown = []
    for letter, evaluations in zip("AB", found, strict=False):
        for one in evaluations:
            lines = list(one.lines())
            with atomic_file(folder / "items" / f"{one.benchmark}.{letter}.jsonl") as file:
                for line in lines:
                    file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
            shown += [{**line, "prompt": line["prompt"][-MOST_TEXT:], "answer": line["answer"][:MOST_TEXT],
                       "model": letter} for line in lines[:MOST_ITEMS]]  # fmt: skip
    write_json(folder / RESULTS, results)
    models = [(letter, evaluations[0].model) for letter, evaluations in zip("AB", found, strict=False)]
    given = {key: value for key, value in options.items() if value not in (None, False)}
    said = [f"llmanac {__version__}", *(f"{a}: {b}" for a, b in models), *(f"{k} {v}" for k, v in given.items())]
    cut = f"Of each benchmark the first {MOST_ITEMS} items are here; the folder items/ has all of them."
    items = Section("Items", [cut] if any(len(one.items) > MOST_ITEMS for e in found for one in e) else [])
    about = [f"{own.title}: {own.about} {own.paper}" for own in benchmarks.values()]
    sections = [*score_sections(results), Section("Benchmarks", about), items]
    after = ITEMS.read_text("utf-8").replace("{{ items }}", _embedded(shown))
    write_text(folder / PAGE, render_page("Evaluation", "; ".join(said), [], sections, after=after))
    return results


def score_sections(results: Mapping[str, Any]) -> list[Section]:
    """Scores, and differences where there are two models."""
    rows = [
        [one["model"], one["title"], score["metric"], f"{score['value']:.4f}",
         "" if score["standard_error"] is None else f"{score['standard_error']:.4f}",
         "" if score["low"] is None else f"{score['low']:.4f} to {score['high']:.4f}",
         f"{score['items']}" + (f" in {n} clusters" if (n := score["clusters"]) != score["items"] else "")]
        for one in results[KEY] for score in one["scores"]
    ]  # fmt: skip
    heads = ["model", "benchmark", "metric", "value", "standard error", "95% interval", "items"]
    out = [Section("Scores", tables=[table(heads, rows)])]
    if results["differences"]:
        rows = [
            [one["benchmark"], one["metric"], f"{one['difference']:+.4f}", f"{one['low']:+.4f} to {one['high']:+.4f}",
             (one["verdict"], one["verdict"]), _further(one)]
            for one in results["differences"]
        ]  # fmt: skip
        heads = ["benchmark", "metric", "difference", "95% interval", "B is", "more items to settle it"]
        out.append(Section("B less A, item by item", tables=[table(heads, rows)]))
    return out


def _further(one: Mapping[str, Any]) -> str:
    if one["verdict"] != "not settled":
        return ""
    return "none would" if one["more"] is None else f"about {one['more']:,}"


def _embedded(data: Any) -> str:
    """JSON that may be written into a page's script: nothing in it ends the script or opens a comment."""
    text = json.dumps(data, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@dataclass(frozen=True, repr=False)
class Evaluated(Shown):
    """Scores of one or two models.

    Attributes:
        folder: results.json, report.html, the items, and the answers that are kept.
        data: what results.json holds.
    """

    folder: Path
    data: dict[str, Any]

    def title(self) -> str:
        return f"Every item: {self.folder / 'report.html'}"

    def tables(self) -> list[Any]:
        return [section.tables[0] for section in score_sections(self.data)]


def run_benchmarks(
    model: str | Path,
    other: str | Path | None = None,
    *,
    benchmarks: str | Sequence[str],
    data: str | Path | None = None,
    limit: int | None = None,
    shots: int | None = None,
    chat: bool = False,
    output: str | Path = "results",
    dtype: str | None = None,
    runner: str | None = None,
    rpm: float | None = None,
    price: tuple[float, float] | None = None,
    engine: str = "local",
    workers: int | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Evaluated:
    """Run benchmarks; every answer is kept as it is given, so that a stopped run goes on.

    Args:
        model, other: folders, .gguf files, hub names or addresses of servers; the second is compared by item.
        benchmarks: names, or paths of .toml or lm-eval .yaml files.
        data: the folder of their data; for a path its own folder by default.
        limit: only the first items of each; shots: examples before each question, by default the benchmark's.
        chat: send prompts through the chat template, and ask for choices by letter. runner: of generated answers.
        engine: local, or ray for processes of a Ray cluster, `workers` of them (`core/cluster.py`).
        rpm: requests a minute to a server, at most. price: of a million tokens that it reads, and that it writes.
        note: called with what a user may want to know.

    Raises:
        SpecError, DataError, CheckpointError: what cannot be run; nothing is written then.
    """
    folder, chosen = Path(output), []
    check_folder(folder)
    if engine == "ray" and any(str(path).startswith("http") for path in (model, other)):
        raise SpecError("--engine ray: is for models of files; a server answers several requests at a time by itself")
    for part in dict.fromkeys([benchmarks] if isinstance(benchmarks, str) else benchmarks):
        name, own = load_benchmark(part)
        place = data or (Path(part).parent if Path(part).suffix else None)
        if place is None:
            raise SpecError(f"--data: name the folder that holds {' or '.join(own.data.files)}")
        chosen.append((name, own, items_of(own, Path(place), limit=limit, shots=shots)))
    found: list[list[Evaluation]] = []
    usage = []
    for path in dict.fromkeys([str(model), *([] if other is None else [str(other)])]):
        with contextlib.ExitStack() as kept:
            answerer: Answerer | RemoteAnswerer
            if engine == "ray":
                actors = kept.enter_context(on_cluster(load_answerer, path, workers, dtype=dtype, runner=runner))
                each: Each = actors.results
                answerer, said = actors.one(RemoteAnswerer.of, chat)
            else:
                answerer = load_answerer(path, dtype=dtype, runner=runner, rpm=rpm)
                each, said = here(answerer), chat_note(answerer, chat)
            if said is not None and all(own.generation is not None for _, own, _ in chosen):
                note(said)
            if isinstance(answerer, ServedModel) and (folder / "cache").is_dir():  # nothing tells what a server serves
                held = f"{folder / 'cache'}: answers that {answerer.name} gave before are not asked for again"
                note(f"note: {held}; name another folder where its model has changed")
            how: dict[str, Any] = {"cache": folder / "cache", "chat": chat, "each": each}
            found.append([evaluate(answerer, n, items, own, **how) for n, own, items in chosen])
            if isinstance(answerer, ServedModel):
                usage.append({"model": answerer.name, **answerer.requests.used(price)})
    differences = compare_all(list(zip(*found, strict=True))) if len(found) == 2 else []
    options = {"limit": limit, "shots": shots, "chat": chat}
    return Evaluated(
        folder, write_results(folder, {n: own for n, own, _ in chosen}, found, differences, options, usage)
    )
