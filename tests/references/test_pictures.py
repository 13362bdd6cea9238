"""Scenes are what their captions say and depend on their seed alone; preprocessing equals transformers' processors."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from llmanac.core.errors import DataError
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


def test_images_are_bounded(monkeypatch):
    handle = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(handle, "PNG")
    assert p.open_image(handle.getvalue(), "a.png").size == (30, 20)
    with pytest.raises(DataError, match=r"a.png: not an image that can be read"):
        p.open_image(handle.getvalue()[:40], "a.png")
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
