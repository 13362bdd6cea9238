"""Results on disk: `results.json`, the items as JSON Lines, and one HTML page in which items can be filtered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape

from llmanac.core.files import atomic_file, write_json, write_text
from llmanac.core.outputs import check_pages
from llmanac.evaluate.benchmark import Benchmark
from llmanac.evaluate.evaluation import Difference, Evaluation

TEMPLATES = Path(__file__).parent
RESULTS, PAGE, KEY = "results.json", "report.html", "evaluations"
MOST_PROMPT = 6000  # characters of a prompt on the page, from its end; items/ has all of it
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
        "differences": [one.as_json() for one in differences],
    }  # fmt: skip
    shown = []
    for letter, evaluations in zip("AB", found, strict=False):
        for one in evaluations:
            lines = list(one.lines())
            with atomic_file(folder / "items" / f"{one.benchmark}.{letter}.jsonl") as file:
                for line in lines:
                    file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
            shown += [{**line, "prompt": line["prompt"][-MOST_PROMPT:], "model": letter} for line in lines[:MOST_ITEMS]]
    write_json(folder / RESULTS, results)
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape())
    page = environment.get_template("evaluation.html").render(
        results=results, abouts=dict(benchmarks),
        models=[(letter, evaluations[0].model) for letter, evaluations in zip("AB", found, strict=False)],
        items=_embedded(shown), cut=any(len(one.items) > MOST_ITEMS for e in found for one in e), most=MOST_ITEMS,
    )  # fmt: skip
    write_text(folder / PAGE, page)
    return results


def _embedded(data: Any) -> str:
    """JSON that may be written into a page's script: nothing in it ends the script or opens a comment."""
    text = json.dumps(data, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
