"""Pretrained models, for tests marked `pretrained`."""

from __future__ import annotations

from pathlib import Path

import pytest

from evidence._pretrained import PACKAGES, pretrained


def published(name: str) -> Path:
    """The file of a model; the test fails, with the packages that carry it, where they are not installed."""
    if (path := pretrained(name)) is None:
        pytest.fail(f"{name}: needs the packages {PACKAGES[name]}; `make models` installs them", pytrace=False)
    return path
