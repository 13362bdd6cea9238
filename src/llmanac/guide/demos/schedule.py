"""What each rank of a pipeline does over time: forward (F) and backward (B) passes of numbered micro-batches, or the
halves of a backward pass, of inputs (I) and of weights (W). From the order that torch runs, with a backward pass twice
as long as a forward one."""

from typing import Any

from markupsafe import Markup

from llmanac.guide.demos import Field, _html
from llmanac.parallel import pipeline

CARD = {"title": "The trace of a pipeline", "rows": ["parallel/pipeline", "parallel/3d"]}
FIELDS = (
    Field("schedule", "Schedule", "1f1b", choices=tuple(pipeline.CLASSES)),
    Field("ranks", "Ranks", "4", low=2, high=8),
    Field("rounds", "Micro-batches a rank", "2", low=1, high=4),
)


def run(values: dict[str, Any], models: Any, until: float) -> list[Markup]:
    """The trace, and what all schedules wait and keep."""
    ranks, count = values["ranks"], values["ranks"] * values["rounds"]
    rows = []
    for name in pipeline.CLASSES:
        share, formula = pipeline.bubble(name, ranks, count), pipeline.formula(name, ranks, count)
        stages = 2 if name in ("interleaved", "zero-bubble") else 1
        kept = max(pipeline.most_kept(name, ranks, count)) / stages
        rows.append((name, f"{share:.2%}", f"{formula:.2%}", f"{kept:g}"))
    heads = ("schedule", "waits", "by its formula", "micro-batches kept, at most")
    caption = f"{ranks} ranks, {count} micro-batches"
    return [_trace(values["schedule"], ranks, count), _html.table(caption, heads, rows)]


def _trace(schedule: str, ranks: int, count: int) -> Markup:
    """A line for each rank, a column for each half of a forward pass's time; . is waiting."""
    actions = pipeline.trace(schedule, ranks, count)
    wide = len(str(count - 1)) + 3
    end = round(2 * max(action.end for action in actions))
    lines = [[".".ljust(wide)] * end for _ in range(ranks)]
    for action in actions:
        second = "'" if action.stage >= ranks else ""  # the rank's second stage
        first, last = round(2 * action.begin), round(2 * action.end)
        lines[action.rank][first] = f"{action.kind}{action.micro_batch}{second}".ljust(wide)
        lines[action.rank][first + 1 : last] = ["-".ljust(wide)] * (last - first - 1)
    text = "\n".join(f"rank {rank}  {''.join(line).rstrip()}" for rank, line in enumerate(lines))
    return Markup('<div class="wide" tabindex="0"><pre>{}</pre></div>').format(text)
