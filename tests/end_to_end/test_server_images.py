"""Images of chat requests: answers of models of images in OpenAI's form, and hostile images refused by their field."""

from __future__ import annotations

import base64
import struct
import zlib

import httpx
import numpy as np
import openai
import pytest
from _seeing_models import ASK, encoded, picture, seeing
from _servers import running
from PIL import Image

from llmanac.generate.engine import Engine
from llmanac.web import _images
from llmanac.web._errors import ApiError


def url(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def part(given):
    return {"type": "image_url", "image_url": {"url": given}}


def asking(given, text=ASK):
    return [{"role": "user", "content": [part(given), {"type": "text", "text": text}]}]


@pytest.fixture(scope="module", params=["vlm", "flamingo"])
def served(request, tmp_path_factory):
    model = seeing(tmp_path_factory.mktemp("words"), request.param)
    with running(Engine(model, model.tokenizer)) as found:
        found.model = model
        yield found


def expected(model, image, text=ASK, **options):
    ids, images = model.chat(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}], [image]
    )
    return Engine(model, model.tokenizer).generate([ids], images=images, **options)


def test_answers_are_the_engines(served):
    """Whole, streamed, several, and drawn with a seed."""
    create, image = served.client.chat.completions.create, picture(3)
    messages = asking(url(encoded(image)))
    plain = expected(served.model, image, max_new_tokens=6)[0]
    reply = create(model="tiny", messages=messages, temperature=0, max_tokens=6)
    assert reply.choices[0].message.content == plain.text
    assert reply.usage.prompt_tokens == len(plain.prompt_ids)
    stream = create(model="tiny", messages=messages, temperature=0, max_tokens=6, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == plain.text
    drawn = create(model="tiny", messages=messages, seed=5, n=3, max_tokens=6)
    made = expected(served.model, image, max_new_tokens=6, seed=5, temperature=1.0, n=3)
    assert [choice.message.content for choice in drawn.choices] == [completion.text for completion in made]
    other = create(model="tiny", messages=asking(url(encoded(picture(4)))), temperature=0, max_tokens=6)
    assert other.choices[0].message.content == expected(served.model, picture(4), max_new_tokens=6)[0].text
    card = served.client.models.retrieve("tiny").model_extra["llmanac"]
    assert card["images"] and card["chat"]


def test_detail_is_named_as_ignored(served):
    messages = asking(url(encoded(picture())))
    messages[0]["content"][0]["image_url"]["detail"] = "high"
    reply = served.client.chat.completions.with_raw_response.create(model="tiny", messages=messages, max_tokens=2)
    assert reply.headers["x-llmanac-ignored"] == "messages.content.image_url.detail"


def refused(served, messages):
    with pytest.raises(openai.BadRequestError) as error:
        served.client.chat.completions.create(model="tiny", messages=messages, max_tokens=2)
    assert error.value.param and str(error.value.param).startswith("messages")
    return error.value.body["message"]


def test_messages_that_are_refused(served):
    good = url(encoded(picture()))
    assert "user" in refused(served, [{"role": "system", "content": [part(good)]}])
    assert "one image" in refused(served, [{"role": "user", "content": "hello"}])
    assert "2 images" in refused(served, [{"role": "user", "content": [part(good), part(good)]}])
    assert "17 images" in refused(served, [{"role": "user", "content": [part(good)] * 17}])
    assert "know" in refused(served, asking(good, "a zebra"))
    both = [{"role": "user", "content": [{**part(good), "text": "hi"}]}]
    assert "not supported" in refused(served, both)
    assert "not supported" in refused(served, [{"role": "user", "content": [{"type": "image_url"}]}])
    for other in ("http://127.0.0.1:1/a.png", "https://example.com/a.png", "file:///etc/passwd", "/etc/passwd", ""):
        assert "fetches nothing" in refused(served, asking(other))


def test_a_model_of_text_refuses_images(server):
    for content in ([part(url(encoded(picture())))], [part("http://localhost/x.png"), {"type": "text", "text": "a"}]):
        with pytest.raises(openai.BadRequestError, match="reads text alone") as error:
            server.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": content}])
        assert error.value.param == "messages.0.content.0.image_url.url" and error.value.code == "unsupported"
    assert "images" not in server.client.models.retrieve("tiny").model_extra["llmanac"]


# ---------------------------------------------------------------- hostile images


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, data=b"", more=b""):
    """A PNG file whose header says so many pixels, 16 million of them in a kilobyte of data."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def webp(width, height):
    """A WebP file whose header says so many pixels."""
    body = (
        b"VP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def gif(width, height):
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x01\x01\0;"  # noqa: E501 # fmt: skip


GOOD = encoded(picture())
ZTXT = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(9 << 20)))
BAD = {
    "truncated png": (url(GOOD[:-40]), "not an image"),
    "truncated jpeg": (url(encoded(picture(), "JPEG")[:400], "image/jpeg"), "not an image"),
    "truncated webp": (url(encoded(picture(), "WEBP")[:60], "image/webp"), "not an image"),
    "no image": (url(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "cannot identify"),
    "nothing": (url(b""), "not an image"),
    "wrong type": (url(encoded(picture(), "JPEG")), "is a JPEG file, declared as image/png; send it as"),
    "svg": (url(b"<svg/>", "image/svg+xml"), "is not read"),
    "bmp": (url(encoded(picture(), "BMP"), "image/bmp"), "is not read"),
    "html": (url(GOOD, "text/html"), "is not read"),
    "no type": ("data:;base64," + base64.b64encode(GOOD).decode(), "is not read"),
    "not base64": ("data:image/png;base64,****", "not base64"),
    "not encoded": ("data:image/png,abc", "expected data:"),
    "no comma": ("data:image/png;base64", "expected data:"),
    "many pixels": (url(png(60_000, 60_000)), "pixels"),
    "many pixels in webp": (url(webp(16_000, 16_000), "image/webp"), "pixels"),
    "many pixels in gif": (url(gif(60_000, 60_000), "image/gif"), "pixels"),
    "bomb of text": (url(png(2, 2, bytes(14), ZTXT)), "not an image"),
    "too many bytes": ("data:image/png;base64," + "A" * 7_200_000, "bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_hostile_images_name_their_field(served, case):
    given, said = BAD[case]
    messages = [{"role": "user", "content": [{"type": "text", "text": ASK}, part(given)]}]
    answer = httpx.post(
        f"{served.url}/v1/chat/completions", json={"model": "tiny", "messages": messages, "max_tokens": 2}
    )
    error = answer.json()["error"]
    assert answer.status_code == 400 and said in error["message"], error
    assert error["param"] == "messages.0.content.1.image_url.url" and len(error["message"]) < 400


def test_pixels_of_all_images_together_are_bounded():
    """The second image alone would fit."""
    large = url(encoded(Image.new("L", (3000, 3000))))
    assert _images.open_images([("a", large)])[0].size == (3000, 3000)
    with pytest.raises(ApiError, match=r"^b: .*pixels"):
        _images.open_images([("a", large), ("b", large)])


def pixel(data, kind):
    [image] = _images.open_images([("a", url(data, kind))])
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def test_every_kind_of_image_is_read_as_people_see_it():
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    assert pixel(encoded(red, "GIF", save_all=True, append_images=[blue]), "image/gif") == (255, 0, 0)
    assert pixel(encoded(red, "PNG", save_all=True, append_images=[blue]), "image/png") == (255, 0, 0)
    assert pixel(encoded(red, "WEBP", save_all=True, append_images=[blue], lossless=True), "image/webp") == (255, 0, 0)
    assert np.allclose(pixel(encoded(red.convert("CMYK"), "JPEG", quality=100), "image/jpeg"), (255, 0, 0), atol=4)
    assert np.allclose(pixel(encoded(red, "JPEG", quality=100), "image/jpg"), (255, 0, 0), atol=4)
    assert pixel(encoded(Image.new("RGBA", (4, 4), (0, 200, 0, 0))), "image/png") == (255, 255, 255)
    assert pixel(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128))), "image/png") == (127, 127, 127)
    assert pixel(encoded(Image.new("LA", (4, 4), (9, 255))), "image/png") == (9, 9, 9)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30])
    assert pixel(encoded(palette, transparency=0), "image/png") == (255, 255, 255)
    assert pixel(encoded(palette), "image/png") == (10, 20, 30)
    sixteen = Image.fromarray(np.full((4, 4), 0x8000, np.uint16))
    assert pixel(encoded(sixteen), "image/png") == (128, 128, 128)
    assert pixel(encoded(Image.new("1", (4, 4), 1)), "image/png") == (255, 255, 255)
    turned = Image.new("RGB", (4, 2), "blue")
    turned.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x112] = 3  # upside down
    [image] = _images.open_images([("a", url(encoded(turned, exif=exif)))])
    assert image.getpixel((3, 1)) == (255, 0, 0)
