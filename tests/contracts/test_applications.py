"""Every application is found by name, and a run's folder says which one its assistant belongs to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmanac.core import registry
from llmanac.core.errors import CheckpointError, SpecError
from llmanac.generate.load import load_assistant
from llmanac.recipes.application import Application, find_application


@pytest.mark.parametrize("name", registry.applications())
def test_an_application_is_found_by_name_and_reports_only_its_own_results(name: str) -> None:
    application = find_application(name)
    assert isinstance(application, Application)
    assert application.report({}) is None


def test_an_unknown_application_names_the_nearest() -> None:
    assert find_application("pairs.jsonl") is None
    with pytest.raises(SpecError, match="did you mean 'docstrings'"):
        registry.application("docstring")


@pytest.mark.parametrize("run", [None, {"recipe": {}}, {"recipe": {"finetune": {"pairs": "mine.jsonl"}}}])
def test_an_assistant_of_no_application_names_its_file(run: object, tmp_path: Path) -> None:
    assert load_assistant(tmp_path, None) is None  # type: ignore[arg-type]
    (tmp_path / "assistant").mkdir()
    (tmp_path / "assistant" / "assistant.json").write_text("{}")
    if run:
        (tmp_path / "run.json").write_text(json.dumps(run))
    with pytest.raises(CheckpointError, match=r"assistant\.json"):
        load_assistant(tmp_path, None)  # type: ignore[arg-type]
