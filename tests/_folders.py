"""A small folder of documents in four formats, the fixture `folder`, and an encoder that counts words."""

from __future__ import annotations

import json

import numpy as np
import pytest

PAGE = """# Guide

Opening words about the zebra.

## Install

Run this:

```bash
# not a heading

pip install zebra
```

## Use

Naïve callers hold the reins. They ride.
"""
CODE = '# comment\nimport os\n\n\ndef first():\n    x = 1\n\n    return x\n\n\ndef second():\n    """Ride a zebra."""\n'
WORDS = ["zebra", "install", "ride", "reins", "comment", "first"]


def encode(texts):
    return np.array([[text.lower().count(word) + 0.01 for word in WORDS] for text in texts], np.float32)


@pytest.fixture(name="folder")
def small_folder(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "guide.md").write_text(PAGE, "utf-8")
    (tmp_path / "tool.py").write_text(CODE)
    page = "<html><body><h1>Stripes</h1>" + "<p>A quagga had fewer stripes than others of its kind.</p>" * 4
    (tmp_path / "page.html").write_text(page + "</body></html>")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "An okapi is no horse."}) + "\n")
    return tmp_path
