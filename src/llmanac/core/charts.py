"""A drawn chart, as SVG or PNG, and the style of all of them; where matplotlib is missing, a chart says so."""

from __future__ import annotations

import functools
import html
import importlib.util
import inspect
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec

STYLE: Any = {
    "svg.hashsalt": "llmanac", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9.5,
    "axes.grid": True, "grid.color": "#e3e6e9", "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": "#888", "lines.linewidth": 1.6, "legend.frameon": False,
    "figure.constrained_layout.use": True, "text.parse_math": False,
}  # fmt: skip
METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # versions and dates would change the bytes


@contextmanager
def styled() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of glyphs that the font lacks; the reader's has them
        yield


UNDRAWN = "Not drawn, for want of matplotlib: pip install 'llmanac[plots]'"
Given = ParamSpec("Given")


def drawn(draw: Callable[Given, Chart]) -> Callable[Given, Chart]:
    """A chart that is drawn where matplotlib is installed, and says so where it is not."""

    @functools.wraps(draw)
    def made(*given: Given.args, **named: Given.kwargs) -> Chart:
        if importlib.util.find_spec("matplotlib") is not None:
            return draw(*given, **named)
        return Chart(None, inspect.signature(draw).bind(*given, **named).arguments["caption"])

    return made


@dataclass(frozen=True, eq=False)
class Chart:
    """A drawn chart: its figure, and the text below it, which is also what a screen reader says."""

    figure: Any
    caption: str

    @functools.cached_property
    def svg(self) -> str:
        """A file of its own, which can be put into a page as it is."""
        if self.figure is None:
            said = f'<text y="15" font-size="12">{html.escape(UNDRAWN)}</text>'
            return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="420" height="20">{said}</svg>'
        out = io.StringIO()
        with styled():
            self.figure.savefig(out, format="svg", bbox_inches="tight", pad_inches=0.06, metadata=METADATA)
        text = " ".join(out.getvalue().split()).replace("> <", "><")
        named = f'<svg role="img" aria-label="{html.escape(self.caption)}" '
        return text[text.index("<svg") :].replace("<svg ", named, 1)

    def png(self) -> bytes:
        """A picture at 120 dots an inch."""
        out = io.BytesIO()
        with styled():
            self.figure.savefig(out, format="png", bbox_inches="tight", dpi=120)
        return out.getvalue()
