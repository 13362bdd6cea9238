"""The texts of the chapters: Markdown in `chapters/` with numbers that are computed or measured, and drawings.

A text opens with lines `name = expression` between two lines `---`: numbers that its examples use. In the text

    {{ expression : format }}       a number of these names, of `math` and of `np` (`.2f`; `.3g` where none is given)
    {{ verdict ROW }}               what the study of a row found: effect, interval, replicates, scale and verdict
    {{ verdict ROW | words }}       of the part of its claim that these words begin or are in
    {{ cell STUDY | row | column }} a cell of a study's page, as in `tables.toml`
    {{ figure NAME }}               alone in its paragraph: the drawing of `figures/NAME.py`; in an expression
                                    `drawn("NAME")` is the example that it shows

A link's target is a page of the guide without its ending (`row/ID`); `arXiv:NUMBER` becomes a link.
"""

import functools
import importlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core import catalogue, files
from llmanac.core.describe import measured
from llmanac.core.errors import SpecError, nearest
from llmanac.guide import markdown
from llmanac.guide.figures._draw import Drawing
from llmanac.guide.tables import figure as cell

FOLDER = Path(__file__).parent / "chapters"
FIGURES = Path(__file__).parent / "figures"
PLACE = re.compile(r"\{\{\s*(.+?)\s*\}\}", re.DOTALL)
WORDS = {
    "shown": "confirmed",
    "contradicted": "contradicted",
    "inconclusive": "not decided",
    "exact": "true by construction",
}


def texts() -> dict[str, Path]:
    """The files of chapters by name, in their order; a file's name begins with its number."""
    return {path.stem.partition("-")[2]: path for path in sorted(FOLDER.glob("*.md"))}


@functools.cache
def drawings() -> dict[str, dict[str, Any]]:
    """Every drawing by name: its size, title, text and rows."""
    return files.read_toml(FIGURES / "drawings.toml")


@functools.cache
def choices() -> dict[str, str]:
    """When to choose what a row is about, by row."""
    return files.read_toml(Path(__file__).with_name("choose.toml"))


@functools.cache
def drawn_for() -> dict[str, str]:
    """The name of the drawing of each row."""
    return {row: name for name, one in drawings().items() for row in one.get("rows", ())}


def aim(name: str) -> str:
    """What a chapter teaches, in a sentence: the line `aim = "..."` of its head; empty where it has no text."""
    found = re.search(r'^aim = "(.*)"$', texts()[name].read_text("utf-8"), re.MULTILINE) if name in texts() else None
    return found[1] if found else ""


def sections(name: str) -> list[tuple[str, str]]:
    """The headings of a chapter's text and what stands below each, without its numbers."""
    text = PLACE.sub("", texts()[name].read_text("utf-8")) if name in texts() else ""
    parts = re.split(r"^#+ +(.+)$", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def drawing(name: str) -> str:
    """A drawing as SVG. Raises SpecError for an unknown name."""
    if name not in drawings():
        raise SpecError(f"figure {name!r} is not known{nearest(name, drawings())}")
    one, module = drawings()[name], importlib.import_module(f"llmanac.guide.figures.{name}")
    made = Drawing(*one["size"], *(one[key].format_map(vars(module)) for key in ("title", "text")))
    module.draw(made)
    return made.svg()


def drawn(name: str) -> Any:
    """The numbers of the example that a drawing shows."""
    return importlib.import_module(f"llmanac.guide.figures.{name}").EXAMPLE


def verdict(row: str, words: str = "") -> str:
    """What was found of a row's claim, or of the part with these words, in one line. Raises SpecError for no such."""
    known = catalogue.evidence()["verdicts"]
    if row not in known:
        raise SpecError(f"verdict {row}: no such row{nearest(row, known)}")
    part = next((p for p in known[row]["parts"] if words in p["says"]), None)
    if part is None:
        raise SpecError(f"verdict {row}: no part of its claim says {words!r}")
    return _told(part)


def parts(row: str) -> list[tuple[str, str]]:
    """Each part of a row's claim, and what was found of it."""
    return [(part["says"], _told(part)) for part in catalogue.evidence()["verdicts"].get(row, {}).get("parts", ())]


def _told(part: Mapping[str, Any]) -> str:
    word, note = WORDS[part["verdict"]], part.get("note", "")
    if "interval" not in part or not (effect := measured(part)):
        return word if part["verdict"] == "exact" else f"{word}: {note or 'not measured'}"
    return ", ".join(filter(None, [f"{effect}, n = {part['n']}, {part['scale']}: {word}", note]))


def values(head: str, where: str) -> dict[str, Any]:
    """The numbers that a text's head names. Raises SpecError for a line that cannot be computed."""
    found: dict[str, Any] = {}
    for line in filter(str.strip, head.splitlines()):
        name, _, expression = line.partition("=")
        found[name.strip()] = _computed(expression.strip(), found, where)
    return found


def _computed(expression: str, known: Mapping[str, Any], where: str) -> Any:
    try:
        # with all builtins: a method of NumPy that is called for the first time imports by those of its caller
        return eval(expression, {"math": math, "np": np, "drawn": drawn, **known})
    except ImportError:
        raise
    except Exception as error:
        raise SpecError(f"{where}: {expression}: {error}") from error


def filled(text: str, where: str) -> str:
    """A text with its numbers put in; `{{ figure NAME }}` stays."""
    _, head, body = text.split("---\n", 2) if text.startswith("---\n") else ("", "", text)
    known = values(head, where)

    def put(found: re.Match[str]) -> str:
        what, _, rest = found[1].partition(" ")
        if what == "figure":
            return found[0]
        if what == "verdict":
            row, _, words = rest.partition(" | ")
            return verdict(row.strip(), words.strip())
        if what == "cell":
            return cell(rest.strip())
        expression, _, form = found[1].rpartition(" : ")
        value = _computed(expression or form, known, where)
        return format(value, form if expression else ".3g" if isinstance(value, float) else ",")

    return PLACE.sub(put, body)


def render(name: str, link: markdown.Link) -> str:
    """The HTML of a chapter's text; empty for a chapter that has none. Raises SpecError as `filled` and `drawing`."""
    path = texts().get(name)
    if path is None:
        return ""
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", path.read_text("utf-8"))
    pieces = re.split(r"^\{\{ figure (\w+) \}\}$", filled(text, path.name), flags=re.MULTILINE)
    made = [
        f'<figure tabindex="0">{drawing(piece)}</figure>' if number % 2 else markdown.render(piece, link)
        for number, piece in enumerate(pieces)
    ]
    return re.sub(
        r"<(h[23])>(.*?)</h", lambda found: f'<{found[1]} id="{place(found[2])}">{found[2]}</h', "\n".join(made)
    )


def place(heading: str) -> str:
    """The id of a heading, which a link leads to."""
    return "about-" + re.sub(r"\W+", "-", re.sub(r"<[^>]+>", "", heading).lower()).strip("-")
