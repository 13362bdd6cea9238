"""A checkpoint that asks for what cannot be: one sentence that names the file, and nothing is built or guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import llmanac
from llmanac.core.errors import CheckpointError
from llmanac.core.registry import build
from llmanac.models.load import export_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama") / "model"
    model = build("lm", "transformer", dim=16, layers=2, vocab_size=64, max_length=32)
    model.initialise(0)
    folder.mkdir()
    export_model(model, folder, family="llama")
    return folder


def changed(whole: Path, place: Path, **fields: Any) -> Path:
    for path in whole.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, **fields}))
    return place


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "say different things"),
        ({"rope_scaling": {"type": "wat"}}, "say different things"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "say different things"),
        ({"rope_parameters": {"rope_type": "wat"}, "rope_scaling": None}, "not supported"),
        ({"hidden_act": []}, "config.json"),
        ({"hidden_size": 10**18}, "config.json"),
        ({"num_hidden_layers": 10**9}, "1,000,000,000 layers"),
        ({"eos_token_id": "a"}, "eos_token_id"),
        ({"bos_token_id": 1.5}, "bos_token_id"),
    ],
)
def test_configs(fields: dict[str, Any], says: str, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=says):
        llmanac.load_model(changed(whole, tmp_path, **fields), device="cpu")


def test_both_spellings_of_one_rope_are_read(whole: Path, tmp_path: Path) -> None:
    linear = {"rope_type": "linear", "factor": 4.0}
    place = changed(whole, tmp_path, rope_parameters={**linear, "rope_theta": 1e4}, rope_scaling={**linear})
    assert llmanac.load_model(place, device="cpu").spec.position.scaling.factor == 4.0


@pytest.mark.parametrize("file", ["../model/model.safetensors", "/model.safetensors", 5, ["a"], "", "."])
def test_an_index_names_only_files_of_its_folder(file: Any, whole: Path, tmp_path: Path) -> None:
    place = changed(whole, tmp_path)
    table = {"weight_map": {"model.embed_tokens.weight": file}}
    (place / "model.safetensors.index.json").write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match="no file of this folder"):
        llmanac.load_model(place, device="cpu")


def test_json_nested_without_end(whole: Path, tmp_path: Path) -> None:
    place = changed(whole, tmp_path)
    (place / "config.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        llmanac.load_model(place, device="cpu")
