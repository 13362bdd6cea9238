"""The weights of a stranger's model: headers that lie, types and numbers that no weight has, shards elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from _hostile_models import copied, refusal, write_models
from safetensors.torch import load_file, save_file

import llmanac
from llmanac.core.errors import CheckpointError


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def llama(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A sound checkpoint that a test may spoil."""
    return copied(folders["llama"], tmp_path)


def header(entries: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def f32(shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    "data",
    [
        (1 << 62).to_bytes(8, "little") + b"{}",
        (100).to_bytes(8, "little") + b"{}",
        b"",
        header({"a": f32([2], 0, 8), "b": f32([2], 4, 12)}, bytes(12)),
        header({"a": f32([2], 0, 8)}, bytes(4)),
        header({"a": f32([1 << 62, 1 << 62], 0, 8)}, bytes(8)),
        header({"a": f32([-1], 0, 8)}, bytes(8)),
        header({"a": {**f32([2], 0, 8), "dtype": "F33"}}, bytes(8)),
        header({"a": {**f32([2], 0, 8), "dtype": {}}}, bytes(8)),
        header([]),
        header({"a": 1}),
    ],
)
def test_headers(data: bytes, llama: Path) -> None:
    (llama / "model.safetensors").write_bytes(data)
    assert "model.safetensors: not a whole safetensors file" in refusal(llama)


def test_tensors_without_number(llama: Path) -> None:
    path = llama / "model.safetensors"
    path.write_bytes(header({f"{n}": f32([0], 0, 0) for n in range(100_001)}))
    assert "more than 100,000 tensors" in refusal(llama)
    path.write_bytes((1 << 25).to_bytes(8, "little") + bytes((1 << 25) + 8))
    assert "its header claims 33,554,432 bytes" in refusal(llama)


@pytest.mark.parametrize("dtype", ["bool", "int64", "uint8", "int32", "complex64"])
def test_types_that_no_weight_has(dtype: str, llama: Path) -> None:
    path = llama / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**tensors, name: tensors[name].to(getattr(torch, dtype))}, path)
    said = refusal(llama)
    assert "model.safetensors" in said and name in said and "floating-point" in said


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "llmanac"])
def test_weights_are_finite(kind: str, stored: str, folders: dict[str, Path], tmp_path: Path) -> None:
    copied(folders[kind], tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = {name: tensor.to(getattr(torch, stored)) for name, tensor in load_file(path).items()}
    name = sorted(tensors)[1]
    flat = tensors[name].view(-1)
    flat[0], flat[3], flat[-1] = float("nan"), float("inf"), float("-inf")
    save_file(tensors, path)
    said = refusal(tmp_path)
    assert name in said and "1 NaN and 2 infinite" in said and f"{flat.numel():,} numbers" in said
    flat[0] = flat[3] = flat[-1] = torch.finfo(flat.dtype).max  # whose sum is infinite, and which are finite
    save_file(tensors, path)
    dtype = "float64" if stored == "float64" else "float32"
    llmanac.load_model(tmp_path, dtype=dtype, device="cpu")
    if stored == "float32":
        with pytest.raises(CheckpointError, match=r"3 infinite.*read as float16"):
            llmanac.load_model(tmp_path, dtype="float16", device="cpu")


def test_convert_refuses_what_is_not_finite(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from llmanac.cli import main

    path = llama / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][5] = float("nan")
    save_file(tensors, path)
    with pytest.raises(SystemExit):
        main(["convert", str(llama), str(tmp_path / "out")])
    assert "model.norm.weight holds 1 NaN of 16" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def sharded(folder: Path) -> tuple[Path, dict[str, str]]:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    table = {name: file for file, part in halves.items() for name in part}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    return index, table


def test_shards(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    expected = llmanac.load_model(llama, device="cpu").state_dict()
    index, table = sharded(llama)
    found = llmanac.load_model(llama, device="cpu").state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    # beside the weights in one file, which transformers would read instead
    shutil.copy(llama / "a.safetensors", llama / "model.safetensors")
    assert "is there too; remove one" in refusal(llama)
    (llama / "model.safetensors").unlink()
    # in two files
    first = load_file(llama / "a.safetensors")
    name = sorted(first)[0]
    save_file({**load_file(llama / "b.safetensors"), name: first[name]}, llama / "c.safetensors")
    index.write_text(json.dumps({"weight_map": {**table, **dict.fromkeys(sorted(table)[5:], "c.safetensors")}}))
    assert f"c.safetensors: holds '{name}', as a.safetensors does" in refusal(llama)
    # a link that leaves the folder
    outside = tmp_path_factory.mktemp("outside") / "b.safetensors"
    (llama / "b.safetensors").rename(outside)
    (llama / "b.safetensors").symlink_to(outside)
    index.write_text(json.dumps({"weight_map": table}))
    assert "b.safetensors is a link to" in refusal(llama)
    (llama / "b.safetensors").unlink()
    assert "b.safetensors: no such file" in refusal(llama)


def test_the_hubs_cache_links_into_its_blobs(llama: Path, tmp_path: Path) -> None:
    sharded(llama)
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "main", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(p for p in llama.iterdir() if p.is_file()):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    assert llmanac.load_model(snapshot, device="cpu").vocab_size == 40
