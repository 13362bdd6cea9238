"""What Python prints of an object that has no text of its own: never a part of a page."""

from __future__ import annotations

import html
import re

_OBJECT = re.compile(
    r"<(?:built-in|function|bound method|module|class) [^>]*>|\bobject at 0x[0-9a-f]+|field\(default_factory"
    r"|\bfunctools\.partial\(<|<generator|<MISSING"
)
_SOURCE = re.compile(r'<pre tabindex="0" class="source">.*?</pre>', re.DOTALL)


def objects_in(text: str) -> list[str]:
    """The texts of objects in a page; the source code that a page shows may have such words."""
    return _OBJECT.findall(html.unescape(_SOURCE.sub("", text)))
