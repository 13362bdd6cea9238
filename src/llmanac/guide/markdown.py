"""The Markdown that the project's own pages use, as HTML: headings, paragraphs, lists, tables, code, links, pictures,
formulas (`mathml.py`).

Everything is escaped; HTML in a text is shown, not run. Comments are left out.
"""

import re
from collections.abc import Callable
from html import escape

from llmanac.guide import mathml

Link = Callable[[str], str | None]  # where a link or a picture leads to; None: only its text is kept
_INLINE = re.compile(
    r"(`+)(.+?)\1|(!?)\[([^\]]*)\]\(([^)\s]+)\)|\*\*(.+?)\*\*|\$(\w|(?=[^$]*[\\_^=])[^$\s](?:[^$]*[^$\s])?)\$"
    r"|(?<![\w*])\*([^\s*](?:[^*]*[^\s*])?)\*(?![\w*])"
)
_ITEM = re.compile(r"(?:[-*]|\d+\.) +(.*)")


def inline(text: str, link: Link) -> str:
    """One paragraph's text."""
    out, at = [], 0
    for found in _INLINE.finditer(text):
        out.append(escape(text[at : found.start()]))
        at = found.end()
        if found[2] is not None:
            out.append(f"<code>{escape(found[2].strip())}</code>")
        elif found[7] is not None:
            out.append(mathml.mathml(found[7]) or f"<code>{escape(found[7])}</code>")
        elif found[8] is not None:
            out.append(f"<em>{inline(found[8], link)}</em>")
        elif found[6] is not None:
            out.append(f"<strong>{inline(found[6], link)}</strong>")
        else:
            place = link(found[5])
            if place is None:
                out.append(escape(found[4]) if not found[3] else f"<em>{escape(found[4])}</em>")
            elif found[3]:
                out.append(f'<img src="{escape(place)}" alt="{escape(found[4])}">')
            else:
                out.append(f'<a href="{escape(place)}">{inline(found[4], lambda _: None)}</a>')
    return "".join([*out, escape(text[at:])])


def render(text: str, link: Link = lambda _: None, *, level: int = 1) -> str:
    """A page's text; its first headings are `<h{level}>`."""
    lines = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).splitlines()
    out: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        end = at + 1
        if line.startswith("```"):
            while end < len(lines) and not lines[end].startswith("```"):
                end += 1
            out.append(_code(lines[at + 1 : end]))
            end += 1
        elif head := re.match(r"(#+) +(.*)", line):
            size = min(len(head[1]) + level - 1, 6)
            out.append(f"<h{size}>{inline(head[2], link)}</h{size}>")
        elif line.startswith("|"):
            while end < len(lines) and lines[end].startswith("|"):
                end += 1
            out.append(_table(lines[at:end], link))
        elif _ITEM.match(line):
            while end < len(lines) and lines[end].strip() and not lines[end].startswith(("#", "|", "```")):
                end += 1
            out.append(_list(lines[at:end], link))
        elif line.startswith("    ") and line.strip():
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            inner = [x[4:] for x in lines[at:end]]
            out.append(mathml.block(inner) or _code(inner))
        elif line.strip():
            while end < len(lines) and lines[end].strip() and not _starts(lines[end]):
                end += 1
            out.append(f"<p>{inline(' '.join(x.strip() for x in lines[at:end]), link)}</p>")
        at = end
    return "\n".join(out)


def _starts(line: str) -> bool:
    """Whether a line begins something other than a paragraph."""
    return line.startswith(("#", "|", "```", "    ")) or _ITEM.match(line) is not None


def _code(lines: list[str]) -> str:
    return f'<pre tabindex="0"><code>{escape(chr(10).join(lines).strip(chr(10)))}</code></pre>'


def _list(lines: list[str], link: Link) -> str:
    items: list[str] = []
    for line in lines:
        found = _ITEM.match(line.strip())
        if found:
            items.append(found[1])
        else:
            items[-1] += f" {line.strip()}"
    tag = "ol" if lines[0][0].isdigit() else "ul"
    return f"<{tag}>" + "".join(f"<li>{inline(item, link)}</li>" for item in items) + f"</{tag}>"


def cells(lines: list[str]) -> list[list[str]]:
    """The cells of a table's lines, the ruler between head and rows included."""
    inner = [line.strip().removeprefix("|").removesuffix("|") for line in lines]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)] for line in inner]


def _table(lines: list[str], link: Link) -> str:
    found = cells(lines)
    ruled = len(found) > 1 and all(re.fullmatch(r":?-+:?", cell) for cell in found[1])
    shown = [[inline(cell, link) for cell in row] for row in found]
    out = ['<div class="wide" tabindex="0"><table>']
    if ruled:
        out.append(
            "<thead><tr>"
            + "".join(f'<th scope="col">{c}</th>' if c else "<td></td>" for c in shown[0])
            + "</tr></thead>"
        )
    out.append("<tbody>")
    for row in shown[2:] if ruled else shown:
        out.append("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>")
    return "".join([*out, "</tbody></table></div>"])
