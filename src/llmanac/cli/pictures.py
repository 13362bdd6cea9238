"""`llmanac caption`, `classify-image` and `generate-image`: models of images in use."""

from pathlib import Path
from typing import Annotated, Any

import typer

from llmanac.cli.options import AsJson, Seed
from llmanac.core.errors import SpecError
from llmanac.core.outputs import check_output

SomePictures = Annotated[
    list[Path], typer.Argument(metavar="IMAGE...", help="Image files (PNG, JPEG, GIF, WebP, BMP).")
]
Model = Annotated[str, typer.Argument(help="A run's folder, or one in Hugging Face's layout.")]


def caption_command(
    model: Model, images: SomePictures, ask: str = "", most: int = 64, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Say what is on images, or answer a question about them, with a model that writes (llava, flamingo).

    Args:
        ask: A question, or a prompt with <image> in it; nothing for a caption.
        most (--max-tokens): Tokens of a text, at most.
    """
    from llmanac.recipes.multimodal_use import PictureModel

    if not 1 <= most <= 4096:
        raise SpecError(f"--max-tokens: {most} must be from 1 to 4096")
    texts = PictureModel(model).captions(images, ask, most)
    _print([{"image": str(path), "text": text} for path, text in zip(images, texts, strict=True)], as_json)


def classify_image_command(
    model: Model, images: SomePictures, labels: list[str], template: str = "{}", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Choose among labels of your own: the one whose text is nearest to the image (clip, siglip).

    Args:
        labels (-l): A label, as a text that would describe it.
        template: A text around each label, as 'a photo of a {}'.
    """
    from llmanac.cli.tables import print_table
    from llmanac.recipes.multimodal_use import PictureModel

    if len(labels) < 2:
        raise SpecError("--labels: give two or more to choose among")
    if "{}" not in template:
        raise SpecError(f"--template: {template!r} has no {{}} for the label")
    found = PictureModel(model).classify(images, [template.replace("{}", label) for label in labels])
    rows = [dict(zip(labels, row, strict=True)) for row in found]
    if as_json:
        _print([{"image": str(path), "labels": row} for path, row in zip(images, rows, strict=True)], True)
        return
    print_table(
        "", ("", *labels), [(str(p), *(f"{v:.3f}" for v in row.values())) for p, row in zip(images, rows, strict=True)]
    )


def generate_image_command(
    model: Model, prompt: str, output: Path = Path("image.png"), count: int = 1, guidance: float = 2.0,
    steps: int | None = None, scale: int = 4, seed: Seed = 0, force: bool = False,
) -> None:  # fmt: skip
    """Draw images of a caption with a model that draws (dalle, diffusion).

    Args:
        prompt (-p): The caption of the image.
        output (-o): The PNG file to write.
        count (-n): Images, side by side in the file.
        guidance: Guidance scale; 1 leaves the model as it is.
        steps: Steps of the sampler (diffusion) [10].
        scale: Factor by which the images are enlarged.
        force: Overwrite an existing file.
    """
    from llmanac.recipes.multimodal_use import PictureModel

    for flag, value, most in (("--count", count, 64), ("--scale", scale, 32)):
        if not 1 <= value <= most:
            raise SpecError(f"{flag}: {value} must be from 1 to {most}")
    check_output(output, "--output", force=force)
    made = PictureModel(model).draw(prompt, output, count=count, guidance=guidance, steps=steps, scale=scale, seed=seed)
    print(f"{output}: {made[0]} x {made[1]} pixels")


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    import json

    if as_json:
        print(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    for row in rows:
        print(f"{row['image']}: {row['text']}" if len(rows) > 1 else row["text"])


def emoji_command(archive: Path, output: Path = Path("emoji")) -> None:
    """Make a folder of captioned pictures from an archive of emoji that you have; nothing is downloaded.

    Args:
        archive: The .tgz that `npm pack emoji-datasource-google` downloads.
        output (-o): The folder to write.
    """
    from llmanac.data.pictures.emoji import write_emoji

    made = write_emoji(archive, output)
    print(f"{output}: {made['pictures']:,} pictures of the set {made['set']}, {made['license']} ({output}/SOURCE.md)")
    print(f"Next: llmanac run clip -s data.paths='[\"{output}\"]' --folder runs/emoji")
