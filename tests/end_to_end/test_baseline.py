"""Folders written by an earlier state of the code open, and give the same numbers (`tests/_baseline.py` wrote them)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import _baseline as make
import pytest

pytestmark = pytest.mark.usefixtures("one_thread")
GOLDEN = json.loads(make.GOLDEN.read_text("utf-8"))


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("baseline") / "folders"
    shutil.copytree(make.FOLDERS, place)  # nothing may be written beside the kept ones
    return make.observe(place)


def close(found: Any, kept: Any, path: str, relative: float) -> None:
    """Numbers within the tolerance, everything else equal; the first difference is named by its path."""
    if isinstance(kept, dict):
        assert sorted(found) == sorted(kept), path
        for key in kept:
            close(found[key], kept[key], f"{path}/{key}", relative)
    elif isinstance(kept, list):
        assert len(found) == len(kept), path
        for number, (mine, theirs) in enumerate(zip(found, kept, strict=True)):
            close(mine, theirs, f"{path}/{number}", relative)
    elif isinstance(kept, float):
        assert found == pytest.approx(kept, rel=relative, abs=relative), path
    else:
        assert found == kept, path


@pytest.mark.parametrize("name", sorted(GOLDEN["observed"]["tokenizers"]))
def test_tokenizers_give_the_same_ids(name: str, observed: dict[str, Any]) -> None:
    close(observed["tokenizers"][name], GOLDEN["observed"]["tokenizers"][name], name, 0)


@pytest.mark.parametrize("name", sorted(GOLDEN["observed"]["models"]))
def test_models_give_the_same_logits_and_tokens(name: str, observed: dict[str, Any]) -> None:
    close(observed["models"][name], GOLDEN["observed"]["models"][name], name, 1e-6 if name == "ngram" else 1e-9)


@pytest.mark.parametrize("name", sorted(GOLDEN["observed"]["classifiers"]))
def test_classifiers_give_the_same_scores(name: str, observed: dict[str, Any]) -> None:
    close(observed["classifiers"][name], GOLDEN["observed"]["classifiers"][name], name, 1e-5)


def test_training_gives_the_same_losses(observed: dict[str, Any]) -> None:
    close(observed["losses"], GOLDEN["observed"]["losses"], "losses", 1e-5)


def test_every_command_and_option_is_still_there() -> None:
    """New ones may come; one that goes is named here with the reason."""

    def missing(kept: dict[str, Any], now: dict[str, Any], path: str = "llmanac") -> list[str]:
        if "takes" in kept and isinstance(kept["takes"], list):
            have = {flag for option in now.get("takes", ()) for flag in option.split("|")}
            return [f"{path} {o}" for o in kept["takes"] if not set(o.split("|")) <= have]
        out = []
        for name, sub in kept.items():
            out += missing(sub, now[name], f"{path} {name}") if name in now else [f"{path} {name}"]
        return out

    assert missing(GOLDEN["help"], make.help_tree()) == []


def test_public_names_are_still_there() -> None:
    import llmanac

    assert set(GOLDEN["public"]) <= set(llmanac.__all__)
    assert Path(llmanac.__file__).is_file() and all(getattr(llmanac, name) for name in GOLDEN["public"])
