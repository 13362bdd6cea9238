"""Images of a chat request: data URLs, bounded before anything is decoded. Nothing is fetched.

data:image/png;base64,iVBORw0...
"""

import base64
import binascii
import re
from typing import Any

from llmanac.core.errors import DataError
from llmanac.data.pictures.preprocess import open_image
from llmanac.web._errors import ApiError

TYPES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP", "image/gif": "GIF"}
STARTS = {
    "image/png": rb"\x89PNG\r\n",
    "image/jpeg": rb"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF....WEBP",
}
MOST_IMAGES = 16  # of one request
MOST_BYTES = 5 << 20  # of one image
MOST_PIXELS = 16_000_000  # of all images of a request
_URL = re.compile(r"data:([^,;]{0,100})((?:;[^,;]{0,100}){0,8}),", re.IGNORECASE)


def open_images(urls: list[tuple[str, str]]) -> list[Any]:
    """The Pillow images of (field, URL), of an animation its first one.

    Raises:
        ApiError: (400) that names the field: another URL than one of data, too many images, bytes or pixels, a type
            that is not read or not what the data are, or data that cannot be decoded.
    """
    if len(urls) > MOST_IMAGES:
        raise _refused("messages", f"{len(urls)} images; a request may have {MOST_IMAGES}", "too_many_images")
    images, left = [], MOST_PIXELS
    for where, url in urls:
        kind, data = _data(where, url)
        for other, start in STARTS.items():
            if other != kind and re.match(start, data, re.DOTALL):
                message = f"is a {TYPES[other]} file, declared as {kind}; send it as data:{other};base64,..."
                raise _refused(where, message, "invalid_image")
        try:
            image = open_image(data, where, formats=(TYPES[kind],), pixels=left)
        except DataError as error:
            raise _refused(where, f"{error.reason} (as {kind})", "invalid_image") from error
        left -= image.width * image.height
        images.append(image)
    return images


def _data(where: str, url: str) -> tuple[str, bytes]:
    """The type and the bytes of a data URL."""
    if url[:5].lower() != "data:":
        message = "this server fetches nothing; send the image itself, as data:image/png;base64,..."
        raise _refused(where, message, "unsupported")
    found = _URL.match(url)
    options = found[2].lower().split(";") if found else []
    if found is None or "base64" not in options:
        raise _refused(where, "expected data:image/png;base64,...", "invalid_image")
    kind = found[1].strip().lower()
    kind = "image/jpeg" if kind == "image/jpg" else kind
    if kind not in TYPES:
        raise _refused(where, f"{kind[:60]!r} is not read; send one of {', '.join(TYPES)}", "unsupported")
    if (len(url) - found.end()) // 4 * 3 > MOST_BYTES + 3:
        raise _refused(where, f"more than {MOST_BYTES:,} bytes; send a smaller image", "image_too_large")
    try:
        return kind, base64.b64decode(url[found.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise _refused(where, "the data are not base64", "invalid_image") from None


def _refused(where: str, message: str, code: str) -> ApiError:
    return ApiError(400, f"{where}: {message}", code=code)
