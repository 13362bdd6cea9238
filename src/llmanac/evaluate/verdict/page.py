"""The report of a verdict: verdicts in sentences, a table, a chart, and the items that changed with their prompts.

A prompt is read from its place in the log now, so that logs larger than memory need no more of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmanac.core.pages import Row as ChartRow
from llmanac.core.pages import Section, interval_chart, render_page
from llmanac.evaluate.verdict.items import Row, message_text
from llmanac.evaluate.verdict.judged import Compared, Judgement
from llmanac.evaluate.verdict.load import rows_at

MOST_TEXT = 6000  # characters of a prompt or an answer, from its end


def render(found: Judgement, changed: int = 100) -> str:
    """The page as one HTML file, with at most `changed` items of each comparison."""
    from llmanac import __version__

    subtitle = "; ".join([f"llmanac {__version__}", *(f"{letter}: {name}" for letter, name in found.systems.items())])
    tables = found.tables()
    lead = found.said()[: len(found.overall or found.comparisons)]
    sections: list[Section] = [Section("Against the baseline, item by item", tables=tables[:1], charts=_charts(found))]
    if found.slices:
        sections.append(Section("By slice", tables=tables[1:]))
    sections += [_items(found, own, changed) for own in found.compared if changed]
    warnings = [one.said for one in found.findings]
    return render_page("Verdict", subtitle, lead, sections, warnings=warnings)


def _charts(found: Judgement) -> list[Any]:
    """Of comparisons in one unit: those whose scores are of another scale would leave no room to the others."""
    every = [*found.comparisons, *found.overall]
    rows = [ChartRow(f"{one.benchmark} {one.metric} ({one.system})", [], one.difference, (one.low, one.high))
            for one in every if np.isfinite([one.low, one.high]).all()]  # fmt: skip
    caption = "Differences from the baseline with their 95% intervals; the dashed line is no difference."
    return [interval_chart(rows, "difference", caption, margin=0.0)] if rows else []


def _items(found: Judgement, own: Compared, most: int) -> Section:
    """The items whose score changed, the largest changes first."""
    one = own.comparison
    order = np.argsort(-np.abs(own.change), kind="stable")
    chosen = [int(item) for item in order[:most] if own.change[item]]
    total = int(np.count_nonzero(own.change))
    sources = (found.sources[one.baseline], found.sources[one.system])
    texts = []
    for number, (log, items) in enumerate(zip(sources, own.logs, strict=True)):
        places = (items.places[row] for row in own.pairs.first[number][chosen])
        texts.append(rows_at(log, items.task.path, places))
    answers = []
    for item in chosen:
        rows = [own.pairs.first[number][item] for number in (0, 1)]
        at = [items.places[row] for items, row in zip(own.logs, rows, strict=True)]
        pair = [texts[number][at[number]] for number in (0, 1)]
        scores = [_score(row, own.metric) for row in pair]
        answers.append({
            "question": f"{pair[0].name}: {one.system} {'better' if own.change[item] > 0 else 'worse'}",
            "verdict": f"{one.metric}: {one.baseline} {scores[0]}, {one.system} {scores[1]}",
            "answer": _prompt(pair[1]) or _cut(json.dumps(pair[1].document, ensure_ascii=False, default=str)),
            "note": own.logs[0].task.where(at[0]) + ", " + own.logs[1].task.where(at[1]),
            "citations": [{"title": t, "text": _cut(text)} for t, text in _said(pair, one.baseline, one.system)],
        })  # fmt: skip
    name = one.benchmark or "items"
    cut = f"; the {len(chosen):,} largest changes are here" if len(chosen) < total else ""
    said = f"{one.improved:,} items are better and {one.worsened:,} worse than {one.baseline}'s{cut}."
    return Section(f"What changed: {name}, {one.system}", [said], answers=answers)


def _said(pair: Sequence[Row], baseline: str, system: str) -> list[tuple[str, str]]:
    said = [("right answer", pair[0].target), (baseline, pair[0].answer), (system, pair[1].answer)]
    return [(title, text if isinstance(text, str) else json.dumps(text, ensure_ascii=False, default=str))
            for title, text in said if text]  # fmt: skip


def _score(row: Row, metric: str) -> str:
    value = row.scores.get(metric)
    return f"{value:.4g}" if isinstance(value, (int, float)) else str(value)


def _prompt(row: Row) -> str:
    """The prompt as the model got it; of several, such as one a choice, each once."""
    texts = []
    for one in row.prompts:
        turns = (
            [] if isinstance(one, str) else [f"{turn.get('role')}: {message_text(turn.get('content'))}" for turn in one]
        )
        texts.append(one if isinstance(one, str) else "\n".join(turns))
    return _cut("\n---\n".join(dict.fromkeys(texts)))


def _cut(text: str) -> str:
    return text if len(text) <= MOST_TEXT else "... " + text[-MOST_TEXT:]
