"""The loss that a scaling law gives for every size of model that a compute budget can train, and the best of them. The
constants are those of our fit to the published runs of Hoffmann et al. (evidence: scaling); others can be typed."""

import math
from typing import Any

import numpy as np
from markupsafe import Markup

from llmanac.core.errors import SpecError
from llmanac.core.pages import Line, line_chart, nice_number
from llmanac.guide import mathml
from llmanac.guide.demos import Field, _html
from llmanac.guide.question import measured
from llmanac.lab.scaling.law import Law

CARD = {"title": "A scaling curve", "rows": ["scaling/"]}
PLACES = tuple(f"scaling/results#seeds.0.published.law.{name}" for name in ("E", "A", "B", "alpha", "beta"))
FIELDS = (
    Field("flops", "Compute, FLOPs", "1e21", low=1e12, high=1e30),
    Field("alpha", "alpha (empty: as fitted)", ""),
    Field("beta", "beta (empty: as fitted)", ""),
)


def run(values: dict[str, Any], models: Any, until: float) -> list[Markup]:
    """Curves of loss over size for three budgets, and the best sizes."""
    known = {place.rpartition(".")[2]: measured(place) for place in PLACES}
    for name in ("alpha", "beta"):
        if values[name].strip():
            try:
                known[name] = float(values[name])
            except ValueError:
                raise SpecError(f"{name}: {values[name]!r} is not a number") from None
            if not 0.01 <= known[name] <= 2:
                raise SpecError(f"{name}: {known[name]:g} is not between 0.01 and 2")
    law, lines, rows = Law(**known), [], []
    for shade, flops in enumerate((values["flops"] / 100, values["flops"], values["flops"] * 100)):
        size, tokens = law.best(flops)
        span = size * np.logspace(-1.5, 1.5, 40)
        lines.append(Line(f"{flops:.0e} FLOPs", [(float(n), float(law.loss(n, flops / 6 / n))) for n in span],
                          shade=shade))  # fmt: skip
        twice = law.loss(2 * size, flops / 12 / size)
        rows.append((f"{flops:.1e}", nice_number(size), nice_number(tokens), f"{tokens / size:.1f}",
                     f"{law.loss(size, tokens):.4f}", f"+{twice - law.loss(size, tokens):.4f}"))  # fmt: skip
    words = ", ".join(f"{name} = {value:.4g}" for name, value in known.items())
    heads = ("FLOPs", "parameters", "tokens", "tokens a parameter", "loss, nats", "with twice the parameters")
    chart = line_chart(lines, "parameters", "loss, nats a token", "Loss over size at fixed compute", log="xy")
    exponent = f"The best size grows with compute to the power {law.size_exponent:.3f}; {words}."
    assert math.isfinite(law.size_exponent)
    formula = "L = E + A / N^alpha + B / D^beta        C = 6 N D"
    return [Markup(mathml.block([formula]) or f"<pre>{formula}</pre>"), Markup("<p>{}</p>").format(exponent),
            _html.picture(chart),
            _html.table("The best split of each budget", heads, rows)]  # fmt: skip
