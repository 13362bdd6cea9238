"""The figures of a run's report, as inline SVG, and the bars that README.md shows too."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

OURS, OTHERS, HELD_OUT = "#0b6e6e", "#b9c4c9", "#c2571a"


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    _pyplot().close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def draw_bars(axis: Any, values: Mapping[str, float], title: str, ours: str, size: float = 8) -> None:
    """One bar a value, the first one on top; the run's own, `ours`, is highlighted."""
    names, lengths = list(values)[::-1], list(values.values())[::-1]
    bars = axis.barh(names, lengths, color=[OURS if name == ours else OTHERS for name in names])
    axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=size)
    axis.set_title(title, fontsize=size + 1)
    axis.tick_params(labelsize=size)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.12)


def bars_figure(values: Mapping[str, float], title: str, ours: str) -> str:
    """A figure of bars, narrow enough to be read on a phone."""
    figure, axis = _pyplot().subplots(figsize=(5.0, 0.9 + 0.33 * len(values)))
    draw_bars(axis, values, "", ours, 10)
    figure.suptitle(title, fontsize=11, x=0.02, ha="left")  # above the names too, else a long one is cut
    figure.tight_layout()
    return _svg(figure)


def loss_figure(stages: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The loss curves, one above the other."""
    figure, axes = _pyplot().subplots(len(stages), 1, figsize=(7.0, 2.7 * len(stages)), squeeze=False)
    for axis, (name, stage) in zip(axes[:, 0], stages, strict=True):
        steps = [point["step"] for point in stage["curve"]]
        axis.plot(steps, _smooth([point["loss"] for point in stage["curve"]]), color=OURS, linewidth=1.4)
        held_out = [(p["step"], p["held_out"]) for p in stage["curve"] if "held_out" in p]
        if held_out:
            axis.plot(*zip(*held_out, strict=True), "o", color=HELD_OUT, markersize=4)
        axis.set_title(name, fontsize=11)
        axis.set_xlabel("step", fontsize=10)
        axis.set_ylabel("loss", fontsize=10)
        axis.grid(alpha=0.25)
    figure.tight_layout()
    return _svg(figure)


def _smooth(values: Sequence[float], keep: float = 0.9) -> list[float]:
    out: list[float] = []
    for value in values:
        out.append(value if not out else keep * out[-1] + (1 - keep) * value)
    return out
