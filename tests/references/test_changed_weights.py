"""Weights that were changed after they were written: a flipped bit, other numbers, and folders without checksums."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from _small_models import replaced, tokens, transformer
from safetensors.torch import load_file, save_file

from llmanac.adapters.load import load_adapter, save_adapter
from llmanac.core.errors import CheckpointError
from llmanac.core.spec import make_method
from llmanac.models.images.load import load_multimodal
from llmanac.models.load import load_model
from llmanac.models.save import save_model

CHANGED = r"{}: was changed after it was written, .*llmanac.json; restore .* remove {} from sha256 there"


def spoiled(file: Path) -> list[bytes]:
    """Copies of a safetensors file with one bit of its numbers flipped: 7 places from the first byte to the last."""
    data = file.read_bytes()
    first = 8 + int.from_bytes(data[:8], "little")
    copies = []
    for part, bit in enumerate((0, 3, 7, 1, 6, 2, 5)):
        changed = bytearray(data)
        changed[first + (len(data) - 1 - first) * part // 6] ^= 1 << bit
        copies.append(bytes(changed))
    return copies


def refuses_each(file: Path, load: Any) -> None:
    """The file is read as it is, refused with any bit flipped, and read again once it is restored."""
    whole = file.read_bytes()
    load()
    for data in spoiled(file):
        file.write_bytes(data)
        with pytest.raises(CheckpointError, match=CHANGED.format(file.name, file.name)):
            load()
    file.write_bytes(whole)
    load()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("head", ["linear", "pointer"])  # a family's folder, and our own
def test_a_flipped_bit_is_refused(head: str, dtype: str, tmp_path: Path) -> None:
    transformer(head=head).to(getattr(torch, dtype)).save_pretrained(tmp_path)
    refuses_each(tmp_path / "model.safetensors", lambda: load_model(tmp_path, dtype=dtype, device="cpu"))


def test_each_shard_has_its_checksum(tmp_path: Path) -> None:
    save_model(transformer(), tmp_path, shard_bytes=30_000)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2 and set(json.loads((tmp_path / "llmanac.json").read_text())["sha256"]) == {
        shard.name for shard in shards
    }
    for shard in shards:
        refuses_each(shard, lambda: load_model(tmp_path, device="cpu"))


@pytest.mark.parametrize("name", ["nf4", "int8", "ternary"])
def test_packed_weights(name: str, tmp_path: Path) -> None:
    model = transformer(dtype=torch.float32, dim=64)
    make_method("quantizer", name).build().apply(model)
    model.save_pretrained(tmp_path)
    refuses_each(tmp_path / "model.safetensors", lambda: load_model(tmp_path, device="cpu"))


@pytest.mark.parametrize("name", ["lora", "prefix", "prompt"])
def test_adapters(name: str, tmp_path: Path) -> None:
    save_adapter(make_method("adapter", name).build(seed=0).apply(transformer()), tmp_path)
    refuses_each(tmp_path / "adapter_model.safetensors", lambda: load_adapter(transformer(), tmp_path))


def test_an_adapter_next_to_a_model_leaves_the_models_record(tmp_path: Path) -> None:
    model = transformer(head="pointer")
    model.save_pretrained(tmp_path)
    save_adapter(make_method("adapter", "lora").build(seed=0).apply(model), tmp_path)
    assert load_model(tmp_path, device="cpu").spec == model.spec
    refuses_each(tmp_path / "model.safetensors", lambda: load_model(tmp_path, device="cpu"))
    refuses_each(tmp_path / "adapter_model.safetensors", lambda: load_adapter(transformer(head="pointer"), tmp_path))


def test_models_of_images(tmp_path: Path) -> None:
    fields = {"image": 16, "patch": 8, "dim": 16, "layers": 1}
    model = make_method("multimodal", {"name": "vit", **fields}).build(vocab_size=0)
    folder = model.save_pretrained(tmp_path / "model")
    refuses_each(folder / "model.safetensors", lambda: load_multimodal(folder, device="cpu"))


def test_folders_without_a_record_and_weights_that_are_replaced(tmp_path: Path) -> None:
    """What transformers or an earlier version wrote is read; what a user puts there, once its checksum is removed."""
    ids = tokens(1, 9)
    model = transformer(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    changed = {name: tensor * 1.5 for name, tensor in load_file(file).items()}
    save_file(changed, file)
    with pytest.raises(CheckpointError, match=CHANGED.format(file.name, file.name)):
        load_model(tmp_path, device="cpu")
    record = (tmp_path / "llmanac.json").read_text()
    replaced(tmp_path)
    found = load_model(tmp_path, device="cpu")
    assert not torch.equal(found(ids).logits, model(ids).logits)
    for sums, said in (([], "sha256 is .*expected a table; remove the field"), ({file.name: 7}, "was changed")):
        (tmp_path / "llmanac.json").write_text(json.dumps({**json.loads(record), "sha256": sums}))
        with pytest.raises(CheckpointError, match=said):
            load_model(tmp_path, device="cpu")
    (tmp_path / "llmanac.json").unlink()  # as in transformers' folders
    assert torch.equal(load_model(tmp_path, device="cpu")(ids).logits, found(ids).logits)
    found.save_pretrained(tmp_path)
    refuses_each(file, lambda: load_model(tmp_path, device="cpu"))
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_model(tmp_path, device="cpu")
