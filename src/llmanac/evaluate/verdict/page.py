"""The report of a verdict: verdicts in sentences, a table, a chart, and the items that changed with their prompts.

A prompt is read from its place in the log now, so that logs larger than memory need no more of it.
"""

import json
from typing import Any

import numpy as np

from llmanac.core.pages import IntervalRow as ChartRow
from llmanac.core.pages import Section, interval_chart, render_page
from llmanac.evaluate.verdict.decide import Comparison
from llmanac.evaluate.verdict.items import LogRow, message_text
from llmanac.evaluate.verdict.judged import Compared, Judgement
from llmanac.evaluate.verdict.load import rows_at

MOST_TEXT = 6000  # characters of a prompt or an answer, from its end


def render(found: Judgement, changed: int = 100) -> str:
    """The page as one HTML file, with at most `changed` items of each comparison."""
    from llmanac import __version__

    subtitle = "; ".join([f"llmanac {__version__}", *(f"{letter}: {name}" for letter, name in found.systems.items())])
    tables = found.tables()
    lead = found.said()[: len(found.overall or found.comparisons)]
    drawn = [ChartRow(f"{one.benchmark} {one.metric} ({one.system})", [], one.difference, (one.low, one.high))
             for one in (*found.comparisons, *found.overall) if np.isfinite(one.standard_error)]  # fmt: skip
    caption = "Differences from the baseline with their 95% intervals; the dashed line is no difference."
    charts = [interval_chart(drawn, "difference", caption, margin=0.0)] if drawn else []
    sections = [Section("Against the baseline, item by item", tables=tables[:1], charts=charts)]
    if found.slices:
        sections.append(Section("By slice", tables=tables[1:]))
    for one, own in zip(found.comparisons, found.compared if changed else (), strict=False):
        sections.append(_items(found, one, own, changed))
    return render_page("Verdict", subtitle, lead, sections, warnings=[one.said for one in found.findings])


def _items(found: Judgement, one: Comparison, own: Compared, most: int) -> Section:
    """The items whose score changed, the largest changes first."""
    change = own.differences if own.higher else -own.differences
    order = np.argsort(-np.abs(change), kind="stable")
    chosen = [int(item) for item in order[:most] if change[item]]
    total = int(np.count_nonzero(change))
    sides = []
    for letter, items, first in zip((one.baseline, one.system), own.logs, own.pairs.first, strict=True):
        places = [items.places[row] for row in first[chosen]]
        rows = rows_at(found.sources[letter], items.task.path, places)
        sides.append([(items.task.where(place), rows[place]) for place in places])
    answers = []
    for item, (here, mine), (there, theirs) in zip(chosen, *sides, strict=True):
        scores = [_text(row.scores.get(own.metric)) for row in (mine, theirs)]
        said = [("right answer", mine.target), (one.baseline, mine.answer), (one.system, theirs.answer)]
        answers.append({
            "question": f"{mine.name}: {one.system} {'better' if change[item] > 0 else 'worse'}",
            "verdict": f"{one.metric}: {one.baseline} {scores[0]}, {one.system} {scores[1]}",
            "answer": _prompt(theirs), "note": f"{here}, {there}",
            "citations": [{"title": title, "text": _text(text)} for title, text in said if text],
        })  # fmt: skip
    cut = f"; the {len(chosen):,} largest changes are here" if len(chosen) < total else ""
    lead = f"{one.improved:,} items are better and {one.worsened:,} worse than {one.baseline}'s{cut}."
    return Section(f"What changed: {one.benchmark or 'items'}, {one.system}", [lead], answers=answers)


def _prompt(row: LogRow) -> str:
    """The prompt as the model got it; of several, such as one a choice, each once."""
    texts = [one if isinstance(one, str) else "\n".join(f"{t['role']}: {message_text(t['content'])}" for t in one)
             for one in row.prompts]  # fmt: skip
    return _text("\n---\n".join(dict.fromkeys(texts)) or row.document or row.name)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MOST_TEXT else "... " + text[-MOST_TEXT:]
