"""`report.html` of a multimodal run: scores, pictures with what the model made of them, curves."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from llmanac.core import files
from llmanac.core.pages import Line, Section, heat_map, line_chart, picture_grid, table
from llmanac.recipes.multimodal_measures import ShownPictures
from llmanac.recipes.report import loss_charts, made_on, run_page

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


def keep_samples(folder: Path, step: int, shown: ShownPictures) -> None:
    """Write the images of one moment of a training, in a row, as `step-000100.png`."""
    files.write_bytes(folder / f"step-{step:06d}.png", png(np.concatenate(list(images_of(shown.pixels)), 1)))


def write_report(place: Path, results: dict[str, Any], shown: Sequence[ShownPictures]) -> Path:
    """Write `report.html`."""
    subtitle = f"Seed {results['seed']}, {results['model']['parameters'] / 1e6:.2f} M parameters, on {made_on(results)}"
    page = run_page(results, subtitle, WHAT[results["model"]["name"]], _sections(place, results, shown))
    return files.write_text(place / "report.html", page)


def _sections(place: Path, results: dict[str, Any], shown: Sequence[ShownPictures]) -> Iterator[Section]:
    stages = results["stages"]
    yield scores(results)
    pictures = [picture_grid(images_of(one.pixels), one.lines, one.title) for one in shown]
    yield Section("Pictures", ["Of this measurement."], charts=pictures)
    yield from _over_training(place, stages)
    if "grid" in results:
        captions = results["grid"]["captions"]
        said = "Cosine of each image and each caption. The diagonal is what belongs together."
        grid = heat_map(captions, captions, results["grid"]["cosine"], "captions", "images of", said)
        yield Section("Cosine of image and caption", charts=[grid])
    if results.get("steps"):
        yield _steps(results["steps"])
    spent = [
        [name, s["steps"], f"{s['pictures']:,}", f"{s['seconds']:.0f} s", f"{s['curve'][-1]['loss']:.3f}"]
        for name, s in stages.items()
    ]
    heads = ["", "steps", "pictures", "time", "last loss"]
    yield Section("Training", tables=[table(heads, spent)], charts=loss_charts(stages.items(), "loss"))


def scores(results: Mapping[str, Any]) -> Section:
    """The scores of a run by side, and what is to be known of them."""
    found = results["scores"]
    names = list(dict.fromkeys(name for side in found.values() for name in side))
    rows = [[name, *(f"{side[name]:.3f}" if name in side else "" for side in found.values())] for name in names]
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
    return Section("Scores", words, [table(["", *found], rows)])


def _over_training(place: Path, stages: dict[str, Any]) -> list[Section]:
    rows = [
        [look["step"], f"{look['seconds']:.0f} s", "" if look["right"] is None else f"{look['right']:.3f}"]
        for look in stages["train"]["looks"]
    ]
    if not rows:
        return []
    kept = sorted((place / "samples").glob("step-*.png"))
    strips = [np.asarray(Image.open(path).convert("RGB")) for path in kept]
    names = [path.stem.replace("-", " ") for path in kept]
    charts = [picture_grid(strips, names, "The same captions each time.", columns=1)] if kept else []
    title = "Over training: the first score, on a few seen pictures"
    return [Section(title, tables=[table(["step", "time", ""], rows)], charts=charts)]


def _steps(rows: Mapping[str, Mapping[str, float]]) -> Section:
    names = list(next(iter(rows.values())))
    cells = [[steps, *(f"{row[name]:.3f}" for name in names)] for steps, row in rows.items()]
    right = "color and shape right"
    line = Line(right, [(int(steps), row[right]) for steps, row in rows.items()], style="o-")
    chart = line_chart([line], "steps of the sampler", right, "Seen pairs.", log="x")
    return Section("Steps of the sampler", tables=[table(["steps", *names], cells)], charts=[chart])
