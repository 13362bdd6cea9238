"""The report of a verdict: verdicts in sentences, a table, a chart, and the items that changed with their prompts.

A prompt is read from its place in the log now, so that logs larger than memory need no more of it.
"""

from __future__ import annotations

import json
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
    rows = [ChartRow(f"{one.benchmark} {one.metric} ({one.system})", [], one.difference, (one.low, one.high))
            for one in (*found.comparisons, *found.overall) if np.isfinite(one.standard_error)]  # fmt: skip
    caption = "Differences from the baseline with their 95% intervals; the dashed line is no difference."
    charts = [interval_chart(rows, "difference", caption, margin=0.0)] if rows else []
    sections = [Section("Against the baseline, item by item", tables=tables[:1], charts=charts)]
    if found.slices:
        sections.append(Section("By slice", tables=tables[1:]))
    sections += [_items(found, own, changed) for own in found.compared if changed]
    return render_page("Verdict", subtitle, lead, sections, warnings=[one.said for one in found.findings])


def _items(found: Judgement, own: Compared, most: int) -> Section:
    """The items whose score changed, the largest changes first."""
    one = own.comparison
    change = own.differences if one.higher_is_better else -own.differences
    order = np.argsort(-np.abs(change), kind="stable")
    chosen = [int(item) for item in order[:most] if change[item]]
    total = int(np.count_nonzero(change))
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
        said = [("right answer", pair[0].target), (one.baseline, pair[0].answer), (one.system, pair[1].answer)]
        answers.append({
            "question": f"{pair[0].name}: {one.system} {'better' if change[item] > 0 else 'worse'}",
            "verdict": f"{one.metric}: " + ", ".join(f"{name} {_text(row.scores.get(own.metric))}" for name, row in
                                                      zip((one.baseline, one.system), pair, strict=True)),
            "answer": _prompt(pair[1]),
            "note": own.logs[0].task.where(at[0]) + ", " + own.logs[1].task.where(at[1]),
            "citations": [{"title": title, "text": _text(text)} for title, text in said if text],
        })  # fmt: skip
    cut = f"; the {len(chosen):,} largest changes are here" if len(chosen) < total else ""
    lead = f"{one.improved:,} items are better and {one.worsened:,} worse than {one.baseline}'s{cut}."
    return Section(f"What changed: {one.benchmark or 'items'}, {one.system}", [lead], answers=answers)


def _prompt(row: Row) -> str:
    """The prompt as the model got it; of several, such as one a choice, each once."""
    texts = [one if isinstance(one, str) else "\n".join(f"{t['role']}: {message_text(t['content'])}" for t in one)
             for one in row.prompts]  # fmt: skip
    return _text("\n---\n".join(dict.fromkeys(texts)) or row.document or row.name)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MOST_TEXT else "... " + text[-MOST_TEXT:]
