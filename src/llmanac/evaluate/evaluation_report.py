"""Results on disk: `results.json`, the items as JSON Lines, and one HTML page in which items can be filtered."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core.files import atomic_file, write_json, write_text
from llmanac.core.outputs import check_pages
from llmanac.core.pages import Section, render_page, table
from llmanac.evaluate.benchmark import Benchmark
from llmanac.evaluate.evaluation import Difference, Evaluation

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
