"""Models on disk: dtypes, broken folders, atomic writes, and what a model's own format keeps."""

from __future__ import annotations

import json

import pytest
import torch
from _small_models import tokens, transformer

import llmanac.models.save as save
from llmanac.core.errors import CheckpointError, LlmanacError
from llmanac.models.load import load_model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("head", ["linear", "pointer"])
def test_round_trip_in_every_dtype(dtype, head, tmp_path):
    model = transformer(head=head).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == dtype
    again = load_model(tmp_path, dtype=dtype, device="cpu")
    for (name, a), (_, b) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b), name
    assert not again.training and again.lm_head.weight is again.model.embed_tokens.weight
    assert load_model(tmp_path, device="cpu").model.embed_tokens.weight.dtype == torch.float32


def test_a_loaded_model_trains(tmp_path):
    transformer(tied=False).save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())
    model(tokens(1, 5)).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_other_files_of_the_folder_are_left_alone(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    transformer().save_pretrained(tmp_path)
    transformer().save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "generation_config.json",
        "llmanac.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    model = transformer()
    model.save_pretrained(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(tensors, path, metadata):
        raise save.SafetensorError("No space left on device")

    monkeypatch.setattr(save, "save_file", full)
    with pytest.raises(LlmanacError, match=r"cannot write \(No space left on device\)"):
        transformer(dim=64).save_pretrained(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_broken_folders_are_explained(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        load_model(tmp_path / "nothing" / "here")
    with pytest.raises(CheckpointError, match=r"config.json: no such file"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json:1: not JSON"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        load_model(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected a table, got list"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder, and the hub did not give it"):
        load_model("nobody/nothing")  # tests run with the hub offline


def test_our_own_format_is_versioned(tmp_path):
    transformer(head="pointer").save_pretrained(tmp_path)
    path = tmp_path / "llmanac.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "format_version": 99}))
    with pytest.raises(CheckpointError, match=r"llmanac.json: format_version is 99, this llmanac reads 1"):
        load_model(tmp_path)
    path.write_text(json.dumps({**record, "spec": {**record["spec"], "hed": "pointer"}}))
    with pytest.raises(CheckpointError, match=r"llmanac.json: spec.hed: no such field; did you mean 'head'"):
        load_model(tmp_path)
    path.write_text(json.dumps({k: v for k, v in record.items() if k != "spec"}))
    with pytest.raises(CheckpointError, match=r"llmanac.json: spec is missing"):
        load_model(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"llmanac.json: no such file"):
        load_model(tmp_path)
