"""What a multimodal recipe trains on: scenes or the user's pictures, their tokens, and the batch that a model reads.

clip                  an image and its caption
vlm, flamingo         a caption to be written, or (scenes) a question and its answer
vilt, co-attention    a question with its answer as a class (scenes), else whether a text belongs to an image
vq-vae                an image
dall-e, diffusion     a caption and the image to be drawn
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmanac.core import files
from llmanac.core.errors import DataError, SpecError
from llmanac.core.ranges import INSIDE, Range, within
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import Spec, patch
from llmanac.core.types import IGNORE
from llmanac.data.pictures import Pictures, scenes
from llmanac.data.pictures.folder import read_pictures
from llmanac.tokenizers import TokenizerSpec
from llmanac.tokenizers.load import load_tokenizer

PAD, BEGIN, END, IMAGE = SPECIAL = ("<pad>", "<bos>", "<eos>", "<image>")
ANSWERS = (*scenes.SIZES, *scenes.COLORS, *scenes.SHAPES, *scenes.POSITIONS)  # classes of a question about a scene
DESCRIBES, ANSWERING, DRAWS = ("vlm", "flamingo"), ("vilt", "co-attention"), ("dall-e", "diffusion")
TOKENIZER, PICTURES = "tokenizer", "pictures.json"  # of a run's folder
MOVED = 1 / 16  # of the size: how far a user's picture is moved in training


@dataclass(frozen=True, kw_only=True)
class PictureData(Spec):
    """Attributes:
    paths: the user's folders and tables of pictures (`data/pictures/folder.py`); none for scenes that are drawn here.
    held_out: the fraction that is never trained on: of pairs of color and shape for scenes, of pictures else.
    length: tokens of a text, at most; longer ones are cut.
    """

    paths: tuple[str, ...] = ()
    held_out: float = 0.2
    length: int = 64

    ranges = within(INSIDE, "held_out") | within(Range(4, 1024), "length")


@dataclass(frozen=True)
class PictureMaterial:
    """Pictures with captions on both sides of the split, and the tokenizer of their texts.

    Attributes:
        seen, held_out: scenes or pictures: each has `caption` and `draw`.
        size: pixels a side; length: tokens of the longest text with its begin and end.
        made_here: whether they are scenes, about which there are questions.
    """

    seen: Sequence[Any]
    held_out: Sequence[Any]
    tokenizer: Any
    size: int
    length: int
    made_here: bool

    def ids(self, text: str) -> list[int]:
        """Tokens of a text without begin and end, cut to fit."""
        found: list[int] = self.tokenizer.encode(text)
        return found[: self.length - 2]

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, without begin, end and padding; an unknown word is written as the unknown token."""
        token = self.tokenizer
        skipped = set(token.special_tokens.values()) - {token.unknown_id}
        out: str = token.decode([i for i in map(int, ids) if i not in skipped])
        return out

    def wanted(self, text: str) -> str:
        """What a model is to write for a text: in the tokenizer's form, or as it is where a word of it is unknown."""
        ids = self.tokenizer.encode(text)
        return text if self.tokenizer.unknown_id in ids else self.text(ids)

    @cached_property
    def texts(self) -> dict[str, set[str]]:
        """The captions of each picture of both sides; see `captions_by_picture`."""
        return captions_by_picture([*self.seen, *self.held_out])

    def captions(self, texts: Sequence[str]) -> Tensor:
        """(B, length) ids with begin and end, padded on the right."""
        token = self.tokenizer
        rows = [[token.bos_id, *self.ids(text), token.eos_id] for text in texts]
        return torch.tensor([row + [token.pad_id] * (self.length - len(row)) for row in rows])

    def pixels(self, items: Sequence[Any], generator: np.random.Generator) -> Tensor:
        """(B, 3, size, size) from -1 to 1."""
        return scenes.pixels_of([item.draw(generator) for item in items])

    def some(self, count: int, side: str = "seen") -> list[Any]:
        """About `count` items of a side, evenly taken; small sides repeat (scenes are then drawn again)."""
        items = list(self.seen if side == "seen" else self.held_out)
        if len(items) > count:
            return [items[i * len(items) // count] for i in range(count)]
        return items * (max(1, count // len(items)) if self.made_here else 1)


def load_material(data: PictureData, tokenizer: TokenizerSpec, size: int, seed: int, place: Path) -> PictureMaterial:
    """Read or make the pictures; the tokenizer is trained on their texts, or read from `place` where it is there.

    Raises:
        DataError: pictures that cannot be read, or too few to hold some out.
    """
    if data.paths:
        found = read_pictures(data.paths, size)
        number: dict[bytes, int] = {}  # rows of one picture are on one side
        of = [number.setdefault(p.image.tobytes(), len(number)) for p in found]
        count = round(data.held_out * len(number))
        if not 0 < count < len(number):
            raise DataError(
                f"data.held_out: {data.held_out} of {len(number)} pictures leaves one side empty; give more pictures, "
                "or another fraction"
            )
        chosen = set(numpy_generator(seed, "pictures", "held out").permutation(len(number))[:count].tolist())
        moved = max(1, round(MOVED * size))
        seen: Sequence[Any] = [replace(p, moved=moved) for i, p in zip(of, found, strict=True) if i not in chosen]
        held: Sequence[Any] = [p for i, p in zip(of, found, strict=True) if i in chosen]
        texts = [p.caption for p in seen]
        _same(found, seen, place / PICTURES)
    else:
        if size != scenes.SIDE:
            raise SpecError(
                f"model: images of {size} pixels, and scenes have {scenes.SIDE}; give data.paths, or set it"
            )
        seen, held = scenes.split(max(1, round(data.held_out * len(scenes.COLORS) * len(scenes.SHAPES))))
        texts = [scene.caption for scene in scenes.all_scenes()] + list(scenes.QUESTIONS.values())
    if not (place / "tokenizer.json").is_file():
        tokenizer.train(texts).save(place)
    made = load_tokenizer(place)
    for name in SPECIAL:
        if name not in made.special_tokens:
            raise SpecError(f"tokenizer.special_tokens: needs {', '.join(SPECIAL)}, and {name} is not among them")
    longest = max(len(made.encode(text)) for text in texts)
    if not data.paths:  # a question and its answer are one text
        longest += max(len(made.encode(answer)) for answer in ANSWERS)
    return PictureMaterial(seen, held, made, size, min(data.length, longest + 2), not data.paths)


def _same(found: Sequence[Any], seen: Sequence[Any], kept: Path) -> None:
    """Write down which pictures a run reads and trains on. Raises DataError where a resumed one would read others."""
    digest = hashlib.sha256()
    for picture in found:
        digest.update(picture.caption.encode() + b"\0" + picture.image.tobytes())
    now = {"pictures": len(found), "sha256": digest.hexdigest(), "trained": sorted({_digest(p) for p in seen})}
    before = files.read_table(kept) if kept.is_file() else now
    if before.get("sha256") != now["sha256"]:
        raise DataError(
            f"data.paths: {len(found)} pictures, and the run began with {before.get('pictures')} or with others; a "
            "resumed run keeps its pictures, so start anew in another --folder"
        )
    files.write_json(kept, now)


def _digest(picture: Any) -> str:
    return hashlib.sha256(picture.image.tobytes()).hexdigest()[:16]


def shown_by(item: Any) -> str:
    """What is equal for two rows of one picture: a table may have several texts of it."""
    return item.caption if isinstance(item, scenes.Scene) else _digest(item)


def captions_by_picture(items: Iterable[Any]) -> dict[str, set[str]]:
    """`shown_by` of each picture -> its captions."""
    out: dict[str, set[str]] = defaultdict(set)
    for item in items:
        out[shown_by(item)].add(item.caption)
    return dict(out)


def check_start(material: PictureMaterial, mine: PictureData, theirs: PictureData, place: Path) -> None:
    """Refuse to begin from a run that was trained on what this one holds out. `place` is its folder.

    Raises:
        SpecError: pictures, or pairs of color and shape, that it was trained on.
    """
    if material.made_here and not theirs.paths and theirs.held_out < mine.held_out:
        raise SpecError(
            f"start: {place} held out {theirs.held_out} of the pairs of color and shape, so it was trained on some of "
            f"the {mine.held_out} held out here; set data.held_out={theirs.held_out}"
        )
    if material.made_here or not theirs.paths:
        return
    trained = set(files.read_table(place / TOKENIZER / PICTURES).get("trained", ()))
    both = sum(_digest(picture) in trained for picture in material.held_out)
    if both or not trained:
        raise SpecError(
            f"start: {place} was trained on {both} of the {len(material.held_out)} pictures that are held out here; "
            "give both runs the same pictures, seed and data.held_out, or write start as a recipe's name"
            if trained
            else f"start: {place / TOKENIZER / PICTURES} does not say what was trained on; run it again"
        )


def image_size(spec: Any) -> int:
    """Pixels a side that a model of this Spec reads."""
    return int((spec.vision or spec.tokenizer or spec).image)


def fitted(spec: Any, material: PictureMaterial) -> Any:
    """The model's Spec with what follows from the texts: ids of special tokens, lengths, classes."""
    token, length = material.tokenizer, material.length
    if spec.name == "clip":
        return patch(spec, {"end_id": token.eos_id, "text.max_length": length})
    if spec.name == "vlm":
        image = token.special_tokens[IMAGE]
        return patch(spec, {"image_id": image, "text.max_length": spec.image_tokens + length})
    if spec.name == "flamingo":
        return patch(spec, {"text.max_length": length})
    if spec.name in ANSWERING:
        where = "max_length" if spec.name == "vilt" else "text.max_length"
        return patch(spec, {where: length, "answers": len(ANSWERS) if material.made_here else 2})
    if spec.name == "dall-e":
        return patch(spec, {"empty_id": token.pad_id, "text.max_length": length + spec.image_tokens})
    return spec


def vocabulary(spec: Any, material: PictureMaterial) -> int:
    """Tokens that the model has."""
    text = int(material.tokenizer.vocab_size)
    return text + spec.tokenizer.codebook.codes if spec.name == "dall-e" else 0 if spec.name == "vq-vae" else text


class Draw:
    """Batches of a material for one kind of model; see the module."""

    def __init__(self, material: PictureMaterial, spec: Any, items: Sequence[Any] | None = None) -> None:
        self.material, self.spec = material, spec
        self.items = material.seen if items is None else items

    def __call__(self, generator: np.random.Generator, rows: int) -> Pictures:
        items = [self.items[i] for i in generator.integers(0, len(self.items), rows)]
        pixels, name = self.material.pixels(items, generator), self.spec.name
        if name == "vq-vae":
            return Pictures(pixels=pixels)
        if name in DESCRIBES:
            return self.written(pixels, [self.exchange(item, generator) for item in items])
        if name in ANSWERING:
            return self.asked(pixels, items, generator)
        ids = self.material.captions([item.caption for item in items])
        if name == "diffusion":
            return Pictures(pixels=pixels, ids=self.words(ids))
        return Pictures(pixels=pixels, ids=ids, lengths=(ids != self.material.tokenizer.pad_id).sum(1))

    def exchange(self, item: Any, generator: np.random.Generator) -> tuple[str, str]:
        """What is asked and what is to be written: nothing and the caption, or for half of the scenes a question."""
        if self.material.made_here and generator.random() < 0.5:
            field = list(scenes.QUESTIONS)[generator.integers(len(scenes.QUESTIONS))]
            return scenes.QUESTIONS[field], getattr(item, field)
        return "", item.caption

    def prompt(self, text: str = "") -> list[int]:
        """The ids before an answer; of a `vlm` the image token comes first, once."""
        token = self.material.tokenizer
        image = [token.special_tokens[IMAGE]] if self.spec.name == "vlm" else []
        return [*image, token.bos_id, *self.material.ids(text)]

    def written(self, pixels: Tensor | None, texts: Sequence[tuple[str, str]]) -> Pictures:
        """Rows of prompt and answer, of which the answer carries loss."""
        token, rows = self.material.tokenizer, []
        images = self.spec.image_tokens if self.spec.name == "vlm" else 0
        width = images + self.material.length
        targets = torch.full((len(texts), width), IGNORE)
        for number, (asked, answer) in enumerate(texts):
            before = self.prompt(asked)
            before = before[:1] * images + before[bool(images) :]
            row = [*before, *self.material.ids(answer), token.eos_id][: width + 1]
            targets[number, len(before) - 1 : len(row) - 1] = torch.tensor(row[len(before) :])
            rows.append((row + [token.pad_id] * width)[:width])
        ids = torch.tensor(rows)
        pixels = torch.zeros(len(rows), 3, 1, 1) if pixels is None else pixels
        return Pictures(pixels=pixels, ids=ids, targets=targets)

    def asked(self, pixels: Tensor, items: Sequence[Any], generator: np.random.Generator) -> Pictures:
        """Questions with the class of their answer; without questions, half of the texts are drawn from all pictures.

        A text belongs to a picture (1) where it is any of its captions, else it does not (0).
        """
        if self.material.made_here:
            fields = [list(scenes.QUESTIONS)[i] for i in generator.integers(0, len(scenes.QUESTIONS), len(items))]
            texts = [scenes.QUESTIONS[field] for field in fields]
            labels = [ANSWERS.index(getattr(item, field)) for item, field in zip(items, fields, strict=True)]
        else:
            own = generator.random(len(items)) < 0.5
            others = [self.items[i] for i in generator.integers(0, len(self.items), len(items))]
            texts = [(a if mine else b).caption for a, b, mine in zip(items, others, own, strict=True)]
            labels = [int(text in self.material.texts[shown_by(item)]) for text, item in zip(texts, items, strict=True)]
        ids = self.material.captions(texts)
        lengths = (ids != self.material.tokenizer.pad_id).sum(1)
        return Pictures(pixels=pixels, ids=ids, lengths=lengths, labels=torch.tensor(labels))

    def words(self, ids: Tensor) -> Tensor:
        """Captions as the labels of `diffusion`: -1 in place of begin, end and padding."""
        special = torch.tensor(sorted(self.material.tokenizer.special_tokens.values()))
        return ids.masked_fill(torch.isin(ids, special), -1)
