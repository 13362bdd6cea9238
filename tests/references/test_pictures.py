"""Scenes are what their captions say and depend on their seed alone; preprocessing equals transformers' processors."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from llmanac.core.errors import DataError, SpecError
from llmanac.core.rng import numpy_generator
from llmanac.data.pictures import PictureStream
from llmanac.data.pictures import preprocess as p
from llmanac.data.pictures import scenes as s


def test_scenes_are_deterministic_and_split_by_color_and_shape():
    seen, held = s.split(10)
    assert (len(seen), len(held)) == (304, 80) and len({scene.caption for scene in seen + held}) == 384
    assert not {(a.color, a.shape) for a in seen} & {(b.color, b.shape) for b in held}
    assert s.split(10) == (seen, held) and s.split(10, seed=1) != (seen, held)
    one, same, other = (s.pictures(seen, numpy_generator(seed), 4) for seed in (0, 0, 1))
    assert torch.equal(one.pixels, same.pixels) and not torch.equal(one.pixels, other.pixels)
    assert one.pixels.shape == (4, 3, 32, 32) and one.pixels.abs().max() <= 1 and one.ids.shape == (4, 12)
    assert [s.decode(row) for row in one.ids.tolist()] == [seen[i].caption for i in one.labels]
    with pytest.raises(DataError, match="'pink' is not a word"):
        s.encode("a pink circle")
    with pytest.raises(DataError, match="held_out: 48 of 48"):
        s.split(48)


@pytest.mark.parametrize(
    "scene", [s.Scene("large", "red", "square", "top right"), s.Scene("small", "blue", "ring", "bottom left")]
)
def test_what_is_drawn_is_what_the_caption_says(scene):
    """The object's pixels have its color, their middle is its position, their number grows with its size."""
    image = scene.draw(numpy_generator(3)).astype(float)
    there = np.abs(image - np.array(s.COLORS[scene.color])).max(-1) < 20
    y, x = (axis.mean() for axis in np.nonzero(there))
    expected = s.POSITIONS[scene.position]
    assert abs(x - expected[0]) < 3.5 and abs(y - expected[1]) < 3.5
    other = s.Scene("small" if scene.size == "large" else "large", scene.color, scene.shape, scene.position)
    more = np.abs(other.draw(numpy_generator(3)).astype(float) - np.array(s.COLORS[scene.color])).max(-1) < 20
    assert (there.sum() > more.sum()) == (scene.size == "large") and 10 < there.sum() < 500
    shapes = [s.Scene("large", "red", shape, "top left").draw(numpy_generator(1)) for shape in s.SHAPES]
    assert all((a != b).any() for i, a in enumerate(shapes) for b in shapes[:i])


def test_two_objects_are_in_their_relation():
    for number in range(12):
        scene = s.random_pair(numpy_generator(number))
        image = scene.draw(numpy_generator(number, "draw")).astype(float)
        centers = []
        for color in scene.colors:
            there = np.abs(image - np.array(s.COLORS[color])).max(-1) < 19
            centers.append([axis.mean() for axis in np.nonzero(there)][::-1])
        dx, dy = s.RELATIONS[scene.relation]
        assert (centers[0][0] - centers[1][0]) * dx + (centers[0][1] - centers[1][1]) * dy > 5, scene
        assert scene.caption != scene.swapped("objects").caption != scene.swapped("colors").caption


def test_a_stream_goes_on_where_it_was():
    seen, _ = s.split()
    stream = PictureStream(lambda generator, rows: s.pictures(seen, generator, rows), rows=3, seed=0, name="scenes")
    first = [next(stream) for _ in range(3)]
    again = PictureStream(stream.draw, rows=3, seed=0, name="scenes")
    again.restore({"name": "scenes", "seed": 0, "step": 1}, {})
    assert torch.equal(next(again).pixels, first[1].pixels) and not torch.equal(first[0].pixels, first[1].pixels)
    with pytest.raises(DataError, match="the checkpoint was drawing"):
        again.restore({"name": "scenes", "seed": 4, "step": 1}, {})


PROCESSORS = {"CLIPImageProcessorPil": p.CLIP, "ViTImageProcessorPil": p.VIT, "SiglipImageProcessorPil": p.SIGLIP}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("shape", [(300, 411), (97, 60)])
def test_pixels_equal_the_pillow_processors(name, shape):
    if not hasattr(transformers, name):
        pytest.skip(f"this transformers has no {name}")
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    theirs = getattr(transformers, name)()
    expected = theirs([image], return_tensors="pt").pixel_values
    torch.testing.assert_close(PROCESSORS[name]([image]), expected, rtol=0, atol=1e-5)


CONFIGS = [
    ("CLIPImageProcessorPil", {"size": {"shortest_edge": 48}, "crop_size": {"height": 32, "width": 32}}),
    ("CLIPImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "resample": 1}),
    ("CLIPImageProcessorPil", {"size": {"height": 40, "width": 40}, "crop_size": 32, "rescale_factor": 1 / 127.5}),
    ("SiglipImageProcessorPil", {"size": {"height": 32, "width": 32}, "do_normalize": False}),
    ("BlipImageProcessorPil", {"size": {"height": 32, "width": 32}}),
    ("IdeficsImageProcessorPil", {"size": {"height": 32, "width": 32}}),
    ("ChameleonImageProcessorPil", {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}),
    ("EfficientNetImageProcessorPil", {
        "size": {"height": 40, "width": 40}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True,
        "rescale_factor": 1 / 127.5, "rescale_offset": True, "include_top": False,
    }),
]  # fmt: skip


@pytest.mark.parametrize(("name", "asked"), CONFIGS)
def test_a_processor_file_is_read_as_transformers_reads_it(name, asked, tmp_path):
    """And what we write of it is read so by both."""
    if not hasattr(transformers, name):
        pytest.skip(f"this transformers has no {name}")
    images = [np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((61, 83), (90, 47))]
    theirs = getattr(transformers, name)(**asked)
    theirs.save_pretrained(tmp_path)
    found = theirs(images, return_tensors="pt")
    expected = getattr(found, "pixel_values", found)  # Idefics' gives the pixels alone
    ours = p.load_preprocess(tmp_path, 32)
    torch.testing.assert_close(ours(images), expected, rtol=0, atol=1e-5)
    ours.save(tmp_path)
    again = transformers.CLIPImageProcessorPil.from_pretrained(tmp_path)(images, return_tensors="pt").pixel_values
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(p.load_preprocess(tmp_path, 32)(images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"size": {"shortest_edge": 32}}, "size is .* a shortest side without a crop"),
        ({"size": {"height": 32, "width": 48}}, "size is .* expected pixels"),
        ({"size": 24, "do_center_crop": True, "crop_size": 32}, "smaller than the crop of 32"),
        ({"size": 32, "do_pad": True}, "do_pad is True; this step is not known"),
        ({"size": 32, "do_rescale": False}, "do_rescale is False; images are always"),
        ({"size": 32, "include_top": True}, "include_top is True"),
        ({"size": 32, "resample": 0}, r"resample is 0; 1 \(lanczos\)"),
        ({"size": 32, "rescale_factor": "x"}, "rescale_factor is 'x'; expected a number"),
        ({"size": 32, "image_std": [1, 0, 1]}, "image_std is .* expected three numbers"),
        ({"size": 64}, "images of 64 pixels, and the model reads 32"),
    ],
)
def test_a_processor_that_does_something_else_is_refused(asked, message, tmp_path):
    (tmp_path / p.CONFIG).write_text(json.dumps(asked))
    with pytest.raises(DataError, match=message):
        p.load_preprocess(tmp_path, 32)


def test_images_are_bounded(monkeypatch):
    handle = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(handle, "PNG")
    assert p.open_image(handle.getvalue(), "a.png").size == (30, 20)
    with pytest.raises(DataError, match=r"a.png: not an image that can be read"):
        p.open_image(handle.getvalue()[:40], "a.png")
    for shape in ((1, p.MOST_SIDE + 1), (p.MOST_SIDE + 1, 1)):  # few pixels and bytes
        line = io.BytesIO()
        Image.new("1", shape).save(line, "PNG")
        with pytest.raises(DataError, match=r"a.png: .* x .* pixels; a side of at most 16,384 is read"):
            p.open_image(line.getvalue(), "a.png")
    with pytest.raises(DataError, match=r"an image of 600 x 1 pixels: .* longer one 134,400; at most 16,384"):
        p.CLIP([Image.new("RGB", (600, 1))])
    monkeypatch.setattr(p, "MOST_PIXELS", 500)
    with pytest.raises(DataError, match=r"a.png: 30 x 20 pixels; at most 500"):
        p.open_image(handle.getvalue(), "a.png")
    monkeypatch.setattr(p, "MOST_BYTES", 10)
    with pytest.raises(DataError, match=r"a.png: .* bytes; an image may have 10"):
        p.open_image(handle.getvalue(), "a.png")


def test_messages_about_a_folder_name_the_table_and_the_line(tmp_path):
    """A file that a table names and that is not there; a folder without a picture; too few to hold some out."""
    from llmanac.core.spec import make_method
    from llmanac.data.pictures.folder import read_pictures
    from llmanac.recipes.multimodal import WORDS
    from llmanac.recipes.multimodal_data import PictureData, load_material

    (tmp_path / "t.csv").write_text("image,text\nnone.png,a cat\n")
    with pytest.raises(DataError, match=r"t\.csv:2: .*none\.png: no such file"):
        read_pictures([tmp_path], 32)
    (tmp_path / "t.csv").unlink()
    with pytest.raises(DataError, match=r"no pictures; give \.png"):
        read_pictures([tmp_path], 32)
    Image.new("RGB", (8, 8)).save(tmp_path / "bild ü 日.png")
    (tmp_path / "bild ü 日.txt").write_text("ein Bild – 日本", "utf-8")
    assert [p.caption for p in read_pictures([tmp_path], 32)] == ["ein Bild – 日本"]
    with pytest.raises(DataError, match="give more pictures"):
        load_material(PictureData(paths=(str(tmp_path),)), make_method("tokenizer", WORDS), 32, 0, tmp_path / "t")


def _captioned(place, count=12, texts=3):
    """A table of `count` pictures with some texts each."""
    rows = ["image,text"]
    for number in range(count):
        Image.fromarray(s.all_scenes()[number].draw(numpy_generator(number))).save(place / f"{number}.png")
        rows += [f"{number}.png,text {at} of picture {number}" for at in range(texts)]
    (place / "t.csv").write_text("\n".join(rows))


def test_the_texts_of_one_picture_are_on_one_side(tmp_path):
    """Pictures are held out, not rows; a start that was trained on what is held out is refused."""
    from llmanac.core.spec import make_method
    from llmanac.recipes import multimodal_data as data
    from llmanac.recipes.multimodal import WORDS

    (tmp_path / "pictures").mkdir()
    _captioned(tmp_path / "pictures")

    def load(seed, place, **asked):
        asked = data.PictureData(paths=(str(tmp_path / "pictures"),), **asked)
        return asked, data.load_material(
            asked, make_method("tokenizer", WORDS), 32, seed, tmp_path / place / data.TOKENIZER
        )

    asked, first = load(0, "first", held_out=0.25)
    assert (len(first.seen), len(first.held_out)) == (27, 9)
    assert not {p.image.tobytes() for p in first.seen} & {p.image.tobytes() for p in first.held_out}
    own = [first.texts[data.shown_by(p)] for p in first.seen]
    assert all(text.endswith(p.caption[-3:]) for p, texts in zip(first.seen, own, strict=True) for text in texts)
    assert {len(texts) for texts in first.texts.values()} == {3}
    data.check_start(first, asked, asked, tmp_path / "first")
    _, second = load(1, "second", held_out=0.25)
    with pytest.raises(SpecError, match=r"start: .*first was trained on \d of the 9 pictures"):
        data.check_start(second, asked, asked, tmp_path / "first")
    drawn = data.PictureMaterial([], [], None, 32, 12, made_here=True)
    with pytest.raises(SpecError, match=r"data.held_out=0.2"):
        data.check_start(drawn, data.PictureData(held_out=0.3), data.PictureData(), tmp_path)
    data.check_start(drawn, data.PictureData(held_out=0.2), data.PictureData(held_out=0.3), tmp_path)


def test_any_caption_of_a_picture_is_right_and_no_unknown_word_is_left_out(tmp_path, monkeypatch):
    """Of what a vilt is trained on, and of the captions that a vlm writes."""
    from types import SimpleNamespace

    from llmanac.core.spec import make_method
    from llmanac.data.pictures.folder import Picture
    from llmanac.recipes import multimodal_data as data
    from llmanac.recipes import multimodal_measures as measures
    from llmanac.recipes.multimodal import WORDS

    images = [np.full((32, 32, 3), 60 * number, np.uint8) for number in range(3)]
    texts = (("a cat", 0), ("the pet", 0), ("a dog", 1), ("the pet", 1))
    seen = [Picture(text, images[number], "") for text, number in texts]
    tokenizer = make_method("tokenizer", {**WORDS, "vocab_size": 32}).train([p.caption for p in seen])
    held = [Picture(text, images[2], "") for text in ("A RED cat", "zebra stripes")]
    material = data.PictureMaterial(seen, held, tokenizer, 32, 8, made_here=False)
    batch = data.Draw(material, SimpleNamespace(name="vilt"))(numpy_generator(0), 200)
    assert batch.ids is not None and batch.labels is not None
    right = {0: {"a cat", "the pet"}, 1: {"a dog", "the pet"}}
    shade = [round(float(x[0, 0, 0] + 1) * 127.5 / 60) for x in batch.pixels]
    said = [material.text(row) for row in batch.ids.tolist()]
    assert batch.labels.tolist() == [int(text in right[number]) for text, number in zip(said, shade, strict=True)]
    assert 0 < int(batch.labels.sum()) < 200

    def exact(*rows):
        """Of a model that writes these words of each picture of a side."""
        monkeypatch.setattr(measures, "describe", lambda *rest, **choices: [tokenizer.encode(row) for row in rows])
        found = measures.MeasuredPictures()
        measures.Measure(material, SimpleNamespace(name="flamingo"), 0).described(model, found)
        return found

    model = SimpleNamespace(device="cpu")
    monkeypatch.setattr(measures, "SIDES", ("seen",))
    found = exact("the pet", "a cat", "a cat", "a dog")  # the two pictures' other captions, but for one
    assert found.scores["seen"] == {"exact captions": 0.75}
    assert found.shown[0].lines == ["the pet", "a cat", "a cat (is: a dog)", "a dog"]
    monkeypatch.setattr(measures, "SIDES", ("held out",))
    found = exact("cat", "A RED cat")  # an unknown word is written as the unknown token, which no caption is
    assert found.scores["held out"] == {"exact captions": 0.0}
    assert found.shown[0].lines == ["cat (is: A RED cat)", "[UNK] [UNK] cat (is: zebra stripes)"]
    assert tokenizer.unknown_rate(p.caption for p in held) == 4 / 5
