"""`report.html` of a multimodal run: scores, pictures with what the model made of them, curves."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, select_autoescape
from PIL import Image
from torch import Tensor

from llmanac.core import files
from llmanac.recipes.application import ReportPart, Section, table
from llmanac.recipes.multimodal_measures import Shown
from llmanac.recipes.report import TEMPLATES
from llmanac.recipes.report_figures import OURS, _pyplot, _svg, loss_figure

TILE, LINE, WIDE = 96, 13, 30  # pixels of an image, of a line of text, and letters of a line
WHAT = {
    "clip": "Encoders of images and texts that agree on what belongs together. R@1: the nearest of all captions is the "
    "image's own.",
    "vlm": "A language model that reads an image as tokens of its prompt.",
    "flamingo": "A language model that looks at images through gated layers between its own.",
    "vilt": "One transformer that reads text and image patches together and chooses an answer.",
    "co-attention": "Two streams, text and image, each of which looks at the other; an answer is chosen.",
    "vq-vae": "An image as a small grid of numbers from a codebook, and back.",
    "dall-e": "A language model that writes the tokens of an image after its caption.",
    "diffusion": "A transformer that makes images from noise, a little less noise at each step.",
}


def images_of(pixels: Tensor) -> np.ndarray:
    """(B, 3, H, W) from -1 to 1 -> (B, H, W, 3) uint8."""
    values = ((pixels.detach().float().clamp(-1, 1) + 1) * 127.5).round()
    return values.permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    """The bytes of a PNG file."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG", optimize=True)
    return out.getvalue()


def picture_grid(shown: Shown, columns: int = 4) -> str:
    """An SVG with images side by side and their lines below."""
    cells = []
    lines = [_folded(line) for line in shown.lines]
    step = TILE + 8 + LINE * max((len(folded) for folded in lines), default=0)
    width = 190
    for number, (image, folded) in enumerate(zip(images_of(shown.pixels), lines, strict=True)):
        x, y = width * (number % columns), 24 + (step + 10) * (number // columns)
        code = base64.b64encode(png(image)).decode()
        cells.append(
            f'<image x="{x}" y="{y}" width="{TILE}" height="{TILE}" style="image-rendering:pixelated" '
            f'href="data:image/png;base64,{code}"/>'
        )
        cells += [
            f'<text x="{x}" y="{y + TILE + 12 + LINE * row}" font-size="11">{escape(text)}</text>'
            for row, text in enumerate(folded)
        ]
    rows = -(-len(lines) // columns)
    height = 24 + rows * (step + 10)
    title = f'<text x="0" y="14" font-size="13" font-weight="600">{escape(shown.title)}</text>'
    box = f'viewBox="0 0 {width * columns} {height}" font-family="sans-serif"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{title}{"".join(cells)}</svg>'


def _folded(line: str) -> list[str]:
    """A line in pieces that fit below an image."""
    out: list[str] = []
    for word in line.split():
        if out and len(out[-1]) + len(word) < WIDE:
            out[-1] += f" {word}"
        else:
            out.append(word)
    return out[:6]


def keep_samples(folder: Path, step: int, shown: Shown) -> None:
    """Write the images of one moment of a training, in a row, as `step-000100.png`."""
    files.write_bytes(folder / f"step-{step:06d}.png", png(np.concatenate(list(images_of(shown.pixels)), 1)))


def write_report(place: Path, results: dict[str, Any], shown: Sequence[Shown]) -> Path:
    """Write `report.html`."""
    where, stages = results["machine"], results["stages"]
    spent = [
        [name, s["steps"], f"{s['pictures']:,}", f"{s['seconds']:.0f} s", f"{s['curve'][-1]['loss']:.3f}"]
        for name, s in stages.items()
    ]
    sections = [
        _scores(results),
        Section("Pictures", figures=[picture_grid(one) for one in shown], caption="Of this measurement."),
        *_over_training(place, stages),
        *([_grid(results["grid"])] if "grid" in results else []),
        *([_steps(results["steps"])] if results.get("steps") else []),
        Section(
            "Training", tables=[table(["", "steps", "pictures", "time", "last loss"], spent)],
            figures=[loss_figure([(name, s) for name, s in stages.items() if s["curve"]])],
            caption="Training loss, smoothed.",
        ),
        Section("Next", blocks=["\n".join(results["next"])]),
    ]  # fmt: skip
    page = {
        "title": f"{results['name']}: report of a run",
        "subtitle": f"Seed {results['seed']}, {results['model']['parameters'] / 1e6:.2f} M parameters, on "
        f"{where['cpu']}, {where['threads']} threads; llmanac {results['version']}, torch {where['torch']}.",
        "part": ReportPart(what_it_is=WHAT[results["model"]["name"]], kept_weights=""),
        "sections": sections,
    }
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    return files.write_text(place / "report.html", environment.get_template("report.html").render(page))


def _scores(results: dict[str, Any]) -> Section:
    scores = results["scores"]
    names = list(dict.fromkeys(name for side in scores.values() for name in side))
    rows = [[name, *(f"{side[name]:.3f}" if name in side else "" for side in scores.values())] for name in names]
    pictures = results["pictures"]
    kind = "scenes; held out are pairs of color and shape" if pictures["made here"] else "pictures of yours"
    words = [f"{pictures['seen']} {kind} were trained on, {pictures['held out']} were not."]
    if "unknown_words" in results:
        rates = ", ".join(f"{side} {rate:.1%}" for side, rate in results["unknown_words"].items())
        words.append(
            f"Words of captions that the tokenizer does not know: {rates}. A caption with one is never written exactly."
        )
    if results["judge"]:
        words.append(
            "Colors and shapes are read by a small classifier of scenes, which is right on "
            f"{results['judge']['right_on_real_images']:.1%} of real ones."
        )
    if "codes_in_use" in results:
        words.append(
            f"{results['codes_in_use']:.0%} of {results['codes']} codes are used; "
            f"perplexity {results['perplexity']:.0f}."
        )
    if "seconds_to_85_percent" in results and results["judge"]:
        spent = results["seconds_to_85_percent"]
        words.append(
            "No measurement during the training was at 85% right."
            if spent is None
            else f"After {spent:.0f} s of training 85% of the images had the right color and shape."
        )
    return Section("Scores", words, [table(["", *scores], rows)])


def _over_training(place: Path, stages: dict[str, Any]) -> list[Section]:
    rows = [
        [look["step"], f"{look['seconds']:.0f} s", "" if look["right"] is None else f"{look['right']:.3f}"]
        for look in stages["train"]["looks"]
    ]
    kept = sorted((place / "samples").glob("step-*.png"))
    figures = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 260 42"><text x="0" y="8" font-size="6">'
        f"{path.stem.replace('-', ' ')}</text>"
        f'<image x="0" y="10" width="256" height="32" style="image-rendering:pixelated" '
        f'href="data:image/png;base64,{base64.b64encode(files.read_bytes(path)).decode()}"/></svg>'
        for path in kept
    ]
    if not rows:
        return []
    title = "Over training: the first score, on a few seen pictures"
    return [
        Section(
            title, tables=[table(["step", "time", ""], rows)], figures=figures, caption="The same captions each time."
        )
    ]


def _grid(grid: dict[str, Any]) -> Section:
    pyplot = _pyplot()
    figure, axis = pyplot.subplots(figsize=(7.5, 6.0))
    values = np.array(grid["cosine"])
    axis.imshow(values, cmap="viridis")
    axis.set_xticks(range(len(values)), grid["captions"], rotation=90, fontsize=6)
    axis.set_yticks(range(len(values)), grid["captions"], fontsize=6)
    axis.set_xlabel("captions", fontsize=8)
    axis.set_ylabel("images of", fontsize=8)
    figure.tight_layout()
    return Section(
        "Cosine of image and caption", figures=[_svg(figure)], caption="The diagonal is what belongs together."
    )


def _steps(rows: dict[str, dict[str, float]]) -> Section:
    pyplot = _pyplot()
    figure, axis = pyplot.subplots(figsize=(4.5, 2.6))
    axis.plot([int(s) for s in rows], [row["color and shape right"] for row in rows.values()], "o-", color=OURS)
    axis.set_xscale("log")
    axis.set_xlabel("steps of the sampler", fontsize=9)
    axis.set_ylabel("color and shape right", fontsize=9)
    figure.tight_layout()
    names = list(next(iter(rows.values())))
    cells = [[steps, *(f"{row[name]:.3f}" for name in names)] for steps, row in rows.items()]
    return Section(
        "Steps of the sampler", tables=[table(["steps", *names], cells)], figures=[_svg(figure)], caption="Seen pairs."
    )
