"""Models on disk: dtypes, broken folders, atomic writes, and what a model's own format keeps."""

from __future__ import annotations

import json

import pytest
import torch
from _small_models import block, replaced, tokens, transformer
from huggingface_hub import constants
from safetensors.torch import save_file

import llmanac.models.save as save
from llmanac.core.errors import CheckpointError, LlmanacError
from llmanac.core.types import Batch
from llmanac.models.families import arrange
from llmanac.models.families._table import canonical
from llmanac.models.families.mixtral import FAMILY as MIXTRAL
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
        "README.md",
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


def test_without_network_a_name_of_the_hub_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"^nobody/nothing: .* the hub did not give it \([^\n]*refused[^\n]*\)$"):
        load_model("nobody/nothing")


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


BLOCKS = {
    "gru": {"position": "none", "blocks": block("gru")},
    "hybrid": {"blocks": [*block("mamba", "none"), *block()]},
    "experts, shared": {"blocks": block(ffn={"name": "experts", "experts": 4, "shared": "swiglu"})},
    "experts": {"blocks": block(ffn={"name": "experts", "experts": 4})},
    "mamba": {"position": "none", "blocks": block("mamba", "none")},
    "encoder-decoder": {"name": "encoder-decoder", "encoder_layers": 4, "start_id": 3},
    "scaled embeddings": {"embedding_scale": 3.0},
}


@pytest.mark.parametrize("name", BLOCKS)
def test_every_shape_is_saved_and_loaded(name, tmp_path):
    model = transformer(**BLOCKS[name])
    model.save_pretrained(tmp_path)
    kind = json.loads((tmp_path / "config.json").read_text())["model_type"]
    assert kind == {"experts": "mixtral", "mamba": "mamba"}.get(name, "llmanac")
    again = load_model(tmp_path, dtype="float64", device="cpu")
    assert canonical(again.spec) == canonical(model.spec) if kind != "llmanac" else again.spec == model.spec
    ids = tokens(2, 12)
    batch = Batch(ids=ids, source=Batch(ids=tokens(2, 9))) if name == "encoder-decoder" else Batch(ids=ids)
    assert torch.equal(again(batch).logits, model(batch).logits)
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "config.json").read_bytes()


def test_experts_and_encoder_layers_are_counted_before_they_are_built(tmp_path):
    transformer(**BLOCKS["experts, shared"]).save_pretrained(tmp_path / "experts")
    transformer(**BLOCKS["encoder-decoder"]).save_pretrained(tmp_path / "both")
    transformer(**BLOCKS["experts"]).save_pretrained(tmp_path / "mixtral")
    path = tmp_path / "experts" / "llmanac.json"
    record = json.loads(path.read_text())
    record["spec"]["blocks"][0]["ffn"]["experts"] = 2**40
    path.write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"spec.blocks.\*.ffn.experts asks for layers with experts of"):
        load_model(tmp_path / "experts", device="cpu")
    path = tmp_path / "both" / "llmanac.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "spec": {**record["spec"], "encoder_layers": 2**40}}))
    with pytest.raises(CheckpointError, match=r"spec.encoder_layers asks for 1,099,511,627,776 layers"):
        load_model(tmp_path / "both", device="cpu")
    path = tmp_path / "mixtral" / "config.json"
    config = json.loads(path.read_text())
    for changed, says in [
        ({"num_local_experts": 2_000_000_000}, "num_local_experts asks for layers with experts"),
        ({"num_local_experts": 3}, r"gate.weight gives \(4, 32\) .*\(3, 32\) \(num_local_experts\)"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok: .*top_k: 5 is not between 1 and experts, 4"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers asks for 1,000,000,000 layers"),
        ({"intermediate_size": 7}, r"w1.weight gives .*\(7, 32\) \(intermediate_size\)"),
    ]:
        path.write_text(json.dumps({**config, **changed}))
        with pytest.raises(CheckpointError, match=says):
            load_model(tmp_path / "mixtral", device="cpu")
    path.write_text(json.dumps(config))
    sources = MIXTRAL.names[1].place(
        {name: tuple(p.shape) for name, p in transformer(**BLOCKS["experts"]).named_parameters()}
    )
    stacked = arrange(dict(transformer(**BLOCKS["experts"]).named_parameters()), sources)
    save_file({name: tensor.detach() for name, tensor in stacked.items()}, tmp_path / "mixtral" / "model.safetensors")
    replaced(tmp_path / "mixtral")
    load_model(tmp_path / "mixtral", device="cpu")
    for count in (3, 2_000_000_000):
        path.write_text(json.dumps({**config, "num_local_experts": count}))
        with pytest.raises(CheckpointError, match="num_local_experts"):
            load_model(tmp_path / "mixtral", device="cpu")
