"""Small sound models on disk, for tests that then spoil them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from _small_models import replaced

import llmanac
from llmanac.core.errors import CheckpointError
from llmanac.core.registry import build

DEEP, DIGITS = "[" * 10_000 + "]" * 10_000, "9" * 5_000_000
KINDS = {
    "llama": ("config.json", {}),
    "gpt2": ("config.json", {"position": "learned", "norm": "layernorm"}),
    "llmanac": ("llmanac.json", {"head": {"name": "pointer", "width": 8}}),
    "feedforward": ("llmanac.json", {}),
}


def written(value: Any) -> str:
    """JSON with the values that Python would not write."""
    return json.dumps(value).replace('"@deep"', DEEP).replace('"@digits"', DIGITS).replace('"@long"', DIGITS[:100_000])


def write_models(root: Path) -> dict[str, Path]:
    """A folder of each kind."""
    for kind, (_, choices) in KINDS.items():
        if kind == "feedforward":
            model = build("lm", "feedforward", order=3, dim=4, hidden=8, vocab_size=40)
        else:
            fields = {"dim": 16, "layers": 2, "max_length": 32, **choices}
            if kind == "gpt2":
                block = {"name": "pre-norm", "mixer": {"name": "softmax", "biases": "all"}}
                fields["blocks"] = [{**block, "ffn": {"name": "gelu-tanh", "biases": "all"}}]
            model = build("lm", "transformer", vocab_size=40, **fields)
        (root / kind).mkdir()
        model.save_pretrained(root / kind)
        replaced(root / kind)  # a stranger's folder has no checksums
        config = json.loads((root / kind / "config.json").read_text())
        assert config["model_type"] == ("llmanac" if kind == "feedforward" else kind)
    return {kind: root / kind for kind in KINDS}


def copied(source: Path, target: Path) -> Path:
    """`target`, with the files of `source`."""
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def change(path: Path, **fields: Any) -> None:
    path.write_text(written({**json.loads(path.read_text()), **fields}))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        llmanac.load_model(folder, device="cpu")
    said = str(error.value)
    assert str(folder) in said and "\n" not in said and len(said) < 1500
    return said
