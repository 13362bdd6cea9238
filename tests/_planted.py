"""Articles made of known parts, as HTML inside a site and as the Markdown that they are."""

from __future__ import annotations

import html
import random
from dataclasses import dataclass

SITE = """<!DOCTYPE html><html><head><title>A page</title><style>p {{color: red}}</style><script>if (a<b) x()</script>
</head><body><header><a href="/">Home of the site</a></header><nav><ul><li><a href="/a">First</a></li>
<li><a href="/b">Second</a></li></ul></nav><div class="cookie-banner">We use cookies.</div><main><article>{}</article>
<div class="share-buttons"><a href="x">Tweet</a> <a href="y">Post</a></div></main><aside class="sidebar">
<h3>Popular</h3><ul><li><a href="/c">Another story that people read</a></li><li><a href="/d">And one more</a></li></ul>
</aside><div id="comments"><p>Nice article, I learned a lot, and I will come back soon.</p></div>
<footer><p>Copyright of the site. All rights reserved.</p></footer></body></html>"""
AROUND = ("Home of", "First", "cookies", "Tweet", "Popular", "Another story", "Nice article", "Copyright", "color")
LONG = "This is a sentence of the article, which says something at length. " * 4
_WORDS = ["stone", "river", "lamp", "window", "engine", "paper", "silver", "garden", "number", "letter"]


@dataclass(frozen=True)
class Part:
    """One part of an article: what it is, its HTML, its Markdown."""

    kind: str
    source: str
    expected: str


def _phrase(rng: random.Random, low: int, high: int) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(low, high)))


def _paragraph(rng: random.Random) -> Part:
    text = _phrase(rng, 20, 60).capitalize() + "."
    return Part("paragraph", f"<div><p>{text.replace(' lamp ', ' <a href=z>lamp</a> ')}</p></div>", text)


def _heading(rng: random.Random) -> Part:
    level, text = rng.randint(2, 6), _phrase(rng, 1, 5)
    return Part("heading", f"<h{level}>{text}</h{level}>", "#" * level + f" {text}")


def _list(rng: random.Random) -> Part:
    tag = rng.choice(["ul", "ol"])
    items = [_phrase(rng, 1, 12) for _ in range(rng.randint(1, 6))]
    marks = [f"{n}. " if tag == "ol" else "- " for n in range(1, len(items) + 1)]
    source = f"<{tag}>" + "\n".join(f"<li>{item}</li>" for item in items) + f"</{tag}>"
    return Part("list", source, "\n".join(m + i for m, i in zip(marks, items, strict=True)))


def _table(rng: random.Random) -> Part:
    width = rng.randint(2, 5)
    rows = [[_phrase(rng, 1, 3) for _ in range(width)] for _ in range(rng.randint(2, 6))]
    source = "<table>"
    for at, row in enumerate(rows):
        tag = "td" if at else "th"
        source += "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in row) + "</tr>"
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * width)
    return Part("table", source + "</table>", "\n".join(lines))


def _code(rng: random.Random) -> Part:
    lines = [" " * rng.randint(0, 8) + _phrase(rng, 1, 4) + " < & >" for _ in range(rng.randint(1, 5))]
    code = "\n".join(lines)
    return Part("code", f"<pre><code>{html.escape(code)}</code></pre>", f"```\n{code}\n```")


def planted(seed: int) -> list[Part]:
    """The parts of a random article, a long paragraph first."""
    rng = random.Random(seed)
    makers = [_paragraph, _heading, _list, _table, _code]
    first = Part("paragraph", f"<p>{LONG}</p>", LONG.strip())
    return [first, *(rng.choice(makers)(rng) for _ in range(rng.randint(2, 9)))]


def page_of(parts: list[Part]) -> str:
    """The parts as the article of a site."""
    return SITE.format("".join(part.source for part in parts))
