"""A block of weights in every quantizer's form: bits a number with its scales, and the error. The weights are drawn
from a normal distribution; one of them can be made an outlier, which widens the scale of all that share it."""

from typing import Any

import torch
from markupsafe import Markup

from llmanac.core import registry
from llmanac.core.errors import LlmanacError
from llmanac.core.pages import Line, line_chart
from llmanac.core.spec import make_method
from llmanac.guide.demos import Field, _html, in_time
from llmanac.models.quantized import Quantized

CARD = {"title": "Quantization error of a block of weights", "kinds": ["quantizer", "quant"]}
FIELDS = (
    Field("method", "Method of the chart", "nf4", kind="quantizer"),
    Field("rows", "Rows", "16", low=1, high=64),
    Field("std", "Standard deviation", "0.02", low=1e-6, high=100.0),
    Field("outlier", "Outlier, in standard deviations (0: none)", "0", low=0.0, high=1000.0),
    Field("seed", "Seed", "0", low=0, high=1_000_000),
)
WIDTH = 256


def run(values: dict[str, Any], models: Any, until: float) -> list[Markup]:
    """Bits and errors by method, and the rounded values of the first block."""
    weight = values["std"] * torch.randn(values["rows"], WIDTH, generator=torch.Generator().manual_seed(values["seed"]))
    if values["outlier"]:
        weight[0, 0] = values["outlier"] * values["std"]
    rows, bars, lines = [], [], []
    for name in registry.methods("quantizer"):
        in_time(until)
        try:
            quantizer = make_method("quantizer", name).build()
            packed = quantizer.pack(weight.clone())
            dense = (packed.dense(weight.dtype) if isinstance(packed, Quantized) else packed).float()
        except (LlmanacError, NotImplementedError) as error:
            rows.append((name, "", "", "", str(error) or "needs the inputs of its layer: see its evidence"))
            continue
        stored = packed.stored if isinstance(packed, Quantized) else packed.nbytes
        gap, base = (dense - weight), weight.square().mean().sqrt()
        error_size = float(gap.square().mean().sqrt() / base)
        rows.append((name, f"{8 * stored / weight.numel():.3f}", f"{100 * error_size:.3g}%",
                     f"{float(gap.abs().max() / values['std']):.3g}", ""))  # fmt: skip
        bars.append((name, 100 * error_size))
        if name == values["method"]:
            order = weight[0, :64].argsort()
            lines = [
                Line("weights", [(i, float(v)) for i, v in enumerate(weight[0, :64][order])]),
                Line(name, [(i, float(v)) for i, v in enumerate(dense[0, :64][order])], shade=1),
            ]
    heads = ("method", "bits a number", "error, of the weights' size", "largest error, in std", "")
    title = f"Weights before and after {values['method']}"
    return [
        _html.table(f"{weight.numel():,} numbers, packed and read back", heads, rows),
        _html.bars(bars, "Error in percent of the weights' size, by method") if bars else Markup(""),
        _html.picture(line_chart(lines, "the first 64 numbers of row 1, sorted", "value", title))
        if lines
        else Markup(""),
    ]
