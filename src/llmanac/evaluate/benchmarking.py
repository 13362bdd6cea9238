"""Benchmarks on one or two models: what `llmanac evaluate` runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.errors import SpecError
from llmanac.core.shown import Shown
from llmanac.evaluate._benchmark_rows import items_of
from llmanac.evaluate.answering import chat_note, load_answerer
from llmanac.evaluate.evaluation import Evaluation, compare_all, evaluate
from llmanac.evaluate.evaluation_report import check_folder, score_sections, write_results
from llmanac.evaluate.load import load_benchmark
from llmanac.evaluate.server import ServedModel


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
    note: Callable[[str], None] = lambda text: None,
) -> Evaluated:
    """Run benchmarks; every answer is kept as it is given, so that a stopped run goes on.

    Args:
        model, other: folders, .gguf files, hub names or addresses of servers; the second is compared by item.
        benchmarks: names, or paths of .toml or lm-eval .yaml files.
        data: the folder of their data; for a path its own folder by default.
        limit: only the first items of each; shots: examples before each question, by default the benchmark's.
        chat: send prompts through the chat template, and ask for choices by letter. runner: of generated answers.
        rpm: requests a minute to a server, at most. price: of a million tokens that it reads, and that it writes.
        note: called with what a user may want to know.

    Raises:
        SpecError, DataError, CheckpointError: what cannot be run; nothing is written then.
    """
    folder, chosen = Path(output), []
    check_folder(folder)
    for part in dict.fromkeys([benchmarks] if isinstance(benchmarks, str) else benchmarks):
        name, own = load_benchmark(part)
        place = data or (Path(part).parent if Path(part).suffix else None)
        if place is None:
            raise SpecError(f"--data: name the folder that holds {' or '.join(own.data.files)}")
        chosen.append((name, own, items_of(own, Path(place), limit=limit, shots=shots)))
    found: list[list[Evaluation]] = []
    usage = []
    for path in dict.fromkeys([str(model), *([] if other is None else [str(other)])]):
        answerer = load_answerer(path, dtype=dtype, runner=runner, rpm=rpm)
        said = chat_note(answerer, chat) if all(own.generation is not None for _, own, _ in chosen) else None
        if said is not None:
            note(said)
        found.append([evaluate(answerer, n, items, own, cache=folder / "cache", chat=chat) for n, own, items in chosen])
        if isinstance(answerer, ServedModel):
            usage.append({"model": answerer.name, **answerer.requests.used(price)})
    differences = compare_all(list(zip(*found, strict=True))) if len(found) == 2 else []
    options = {"limit": limit, "shots": shots, "chat": chat}
    return Evaluated(
        folder, write_results(folder, {n: own for n, own, _ in chosen}, found, differences, options, usage)
    )
