"""Parts of a demo's result: tables, tokens with their probabilities, grids, bars and trees as inline SVG.

No colour or size is said in a style attribute, which the content security policy forbids.
"""

import base64
import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from llmanac.core.pages import Chart

SHADES = 5  # classes p0 to p4 of the style sheet
CELL, LABEL = 16, 90  # of a grid: pixels
STEP, ROW = 104, 22  # of a tree


def visible(text: str) -> str:
    """A token's text with its spaces and line ends shown."""
    return text.replace(" ", "·").replace("\n", "⏎").replace("\t", "→")


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """A table; what is in it is escaped unless it is Markup."""
    head = Markup("").join(Markup('<th scope="col">{}</th>' if h else "<td>{}</td>").format(h) for h in heads)
    title = Markup("<caption>{}</caption>").format(caption) if caption else ""
    lines = [Markup("<tr>") + Markup("").join(Markup("<td>{}</td>").format(c) for c in row) + Markup("</tr>\n")
             for row in rows]  # fmt: skip
    return Markup('<div class="wide" tabindex="0"><table>{}<thead><tr>{}</tr></thead><tbody>{}'
                  "</tbody></table></div>").format(title, head, Markup("").join(lines))  # fmt: skip


def details(summary: str, inside: Markup) -> Markup:
    return Markup("<details><summary>{}</summary>{}</details>").format(summary, inside)


def tokens(found: Iterable[tuple[str, str, float]]) -> Markup:
    """Tokens (text, what is shown on hover, probability) in a row; likelier ones are darker."""
    parts = [
        Markup('<span class="token p{}" title="{}">{}</span>').format(
            min(SHADES - 1, int(max(0.0, share) * SHADES)), title, visible(text)
        )
        for text, title, share in found
    ]
    return Markup('<p class="tokens">{}</p>').format(Markup("<wbr>").join(parts))


def _svg(width: float, height: float, title: str, body: list[str]) -> Markup:
    words = escape(title)
    return Markup(
        f'<div class="wide" tabindex="0"><svg width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{words}">{"".join(body)}</svg></div>'
    )


def picture(chart: Chart) -> Markup:
    """A chart as a picture: the pages allow no styles inside, which its SVG has."""
    data = base64.b64encode(chart.svg.encode()).decode()
    return Markup('<img alt="{}" src="data:image/svg+xml;base64,{}">').format(chart.caption, data)


def grid(labels: Sequence[str], values: Sequence[Sequence[float]], title: str) -> Markup:
    """Shares (0 to 1) of row over column as squares; one label for both."""
    body = []
    for down, row in enumerate(values):
        name = escape(visible(labels[down])[:11])
        body.append(f'<text x="{LABEL - 6}" y="{CELL * down + 12}" text-anchor="end">{name}</text>')
        for across, value in enumerate(row):
            if value >= 0.02:
                body.append(f'<rect x="{LABEL + CELL * across}" y="{CELL * down}" width="15" height="15" '
                            f'fill="#0072b2" fill-opacity="{min(1.0, value):.2f}"/>')  # fmt: skip
    return _svg(LABEL + CELL * len(labels), CELL * len(labels), title, body)


def bars(rows: Sequence[tuple[str, float]], title: str) -> Markup:
    """Numbers as bars from a common zero."""
    low, high = min(0.0, *(v for _, v in rows)), max(0.0, *(v for _, v in rows))
    scale = 260 / ((high - low) or 1.0)
    zero = 170 - low * scale
    body = [f'<line x1="{zero:.1f}" x2="{zero:.1f}" y1="0" y2="{ROW * len(rows)}" class="axis"/>']
    for index, (label, value) in enumerate(rows):
        y, width = ROW * index, abs(value) * scale
        body.append(f'<text x="160" y="{y + 15}" text-anchor="end">{escape(label)}</text>')
        left = zero - width if value < 0 else zero
        body.append(f'<rect x="{left:.1f}" y="{y + 4}" width="{width:.1f}" height="14" fill="#0072b2"/>')
        body.append(f'<text x="440" y="{y + 15}">{value:.4g}</text>')
    return _svg(520, ROW * len(rows), title, body)


def tree(layers: Sequence[Sequence[tuple[str, int, bool]]], title: str) -> Markup:
    """A tree by levels: (text, number of its parent in the level before, whether it is on the best path)."""
    tall = max(len(layer) for layer in layers)
    height = ROW * tall + 8

    def place(layer: int, index: int) -> tuple[float, float]:
        return 6 + STEP * layer, 16 + index * ROW + (tall - len(layers[layer])) * ROW / 2

    body = []
    for level, layer in enumerate(layers):
        for index, (text, parent, best) in enumerate(layer):
            x, y = place(level, index)
            name = "best" if best else "kept"
            if level:
                px, py = place(level - 1, parent)
                body.append(f'<line x1="{px + STEP - 20}" y1="{py - 4:.1f}" x2="{x - 4}" y2="{y - 4:.1f}" '
                            f'class="{name}"/>')  # fmt: skip
            body.append(f'<text x="{x}" y="{y:.1f}" class="{name}">{escape(visible(text)[:12])}</text>')
    return _svg(STEP * len(layers) + 10, height, title, body)


def percent(logprob: float) -> str:
    """A log-probability for people."""
    return f"{100 * math.exp(logprob):.3g}%"
