"""The packages of pretrained models: their versions and hashes are fixed, and one that is missing is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from _published import published

from evidence import _pretrained


def test_every_package_of_a_model_has_its_version_and_hash(root: Path) -> None:
    lines = [line for line in (root / "tests/models.txt").read_text("utf-8").splitlines() if not line.startswith("#")]
    found = [re.fullmatch(r"([a-z0-9-]+)==[\d.]+ --hash=sha256:[0-9a-f]{64}", line) for line in lines]
    names = [match[1] for match in found if match]
    assert len(names) == len(lines) == 12
    assert sorted(names) == sorted(" ".join(_pretrained.PACKAGES.values()).split())


@pytest.mark.parametrize("name", _pretrained.PACKAGES)
def test_a_missing_package_fails_a_test_with_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(f"LLMANAC_{name.upper()}", raising=False)
    monkeypatch.setattr(_pretrained.importlib.util, "find_spec", lambda module: None)
    for kept in (_pretrained.smollm2, _pretrained.joined):
        kept.cache_clear()
    try:
        with pytest.raises(pytest.fail.Exception, match=_pretrained.PACKAGES[name].split()[-1]):
            published(name)
    finally:
        for kept in (_pretrained.smollm2, _pretrained.joined):
            kept.cache_clear()
