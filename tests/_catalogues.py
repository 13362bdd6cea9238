"""Django's messages by language, for tests; a test that asks for them is skipped where Django is not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

_TOOL = Path(__file__).resolve().parent.parent / "evidence" / "_messages.py"


def _module() -> ModuleType:
    pytest.importorskip("django")
    found = importlib.util.spec_from_file_location("evidence_messages", _TOOL)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def messages(language: str) -> dict[str, str]:
    """English -> the language's text."""
    return _module().messages(language)


def passages() -> dict[str, list[str]]:
    """Pieces of about 300 characters, by language."""
    return _module().passages()
