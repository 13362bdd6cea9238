"""What every model of images keeps to, whatever its name."""

from __future__ import annotations

import pytest
import torch

from llmanac.core import registry
from llmanac.core.errors import CheckpointError
from llmanac.core.spec import dump, make_method
from llmanac.data.pictures import Pictures
from llmanac.models.images.load import load_multimodal, tensors
from llmanac.models.lm.encoder import Spec as Encoder

SMALL = {"dim": 32, "layers": 1, "image": 16}
VIT = {"name": "vit", **SMALL}
TEXT = {"name": "transformer", "dim": 32, "layers": 1, "max_length": 24}
QUANTIZER = {"name": "vq-vae", "image": 16, "base": 8, "multipliers": [1, 2, 2], "codebook": {"codes": 8}}
FIELDS = {
    "vit": SMALL,
    "clip": {"vision": VIT, "text": TEXT, "dim": 16},
    "vlm": {"vision": VIT, "text": TEXT, "encoder": "trained"},
    "flamingo": {"vision": VIT, "text": TEXT, "encoder": "trained", "language": "trained"},
    "vilt": {**SMALL, "answers": 3},
    "co-attention": {
        "vision": VIT, "text": {"name": "encoder", "dim": 16, "layers": 1}, "dim": 32, "layers": 1, "answers": 3,
    },
    "vq-vae": {key: value for key, value in QUANTIZER.items() if key != "name"},
    "dall-e": {"tokenizer": QUANTIZER, "text": TEXT},
    "diffusion": SMALL,
    "efficientnet": {"image": 32, "width": 0.1, "depth": 0.1},
}  # fmt: skip
SAME = {"siglip": "clip", "llava": "vlm", "paligemma": "vlm", "flow-matching": "diffusion"}
FIELDS |= {name: FIELDS[base] for name, base in SAME.items()}
FIELDS["bridge-tower"] = {key: value for key, value in FIELDS["co-attention"].items() if key != "links"}
NAMES = list(registry.methods("multimodal"))


def built(name):
    torch.manual_seed(0)
    spec = make_method("multimodal", {"name": name, **FIELDS[name]})
    return spec.build(vocab_size=0 if name in ("vit", "efficientnet", "vq-vae") else 40).double()


def batch(name):
    generator = torch.Generator().manual_seed(1)
    size = 32 if name == "efficientnet" else 16
    ids = torch.randint(1, 30, (3, 9), generator=generator)
    if name in ("vlm", "llava", "paligemma"):
        ids[:, 1:5] = 0
    return Pictures(
        pixels=torch.randn(3, 3, size, size, generator=generator, dtype=torch.float64), ids=ids,
        lengths=torch.tensor([9, 9, 9]), targets=ids.roll(-1, 1), labels=torch.tensor([0, 2, 1]),
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_trains_every_parameter_and_a_folder_holds_the_model(name, tmp_path):
    model, rows = built(name), batch(name)
    spread = torch.Generator().manual_seed(2)
    for parameter in model.parameters():  # gates and last products begin at 0, which stops gradients behind them
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=spread, dtype=torch.float64)
    if hasattr(model, "loss"):
        total, units, more = model.loss(rows)
        assert total.shape == () and torch.isfinite(total) and float(units) > 0
        assert all(value.shape == () and not value.requires_grad for value in more.values())
    else:
        total = model(rows.pixels).square().sum()
    total.backward()
    without = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    # a class token that nobody pools, and the norm and pool behind it
    assert all(key.startswith(("vision.model.norm", "vision.model.pool")) for key in without), without
    with torch.no_grad():
        before = {key: value.clone() for key, value in tensors(model).items()}
    model.save_pretrained(tmp_path / "model")
    again = load_multimodal(tmp_path / "model", dtype="float64", device="cpu")
    if getattr(getattr(again.spec, "text", None), "tied", None) is None or not isinstance(again.spec.text, Encoder):
        assert tensors(again).keys() == before.keys()
    for key, value in tensors(again).items():
        assert torch.equal(value, before[key]), key
    assert again.spec.name == model.spec.name and make_method("multimodal", dump(model.spec)) == model.spec


@pytest.mark.parametrize("name", NAMES)
def test_initial_weights_depend_on_the_seed_alone(name):
    first, second = built(name).initialise(3), built(name).initialise(3)
    other = built(name).initialise(4)
    pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs) and any(not torch.equal(a, c) for a, _, c in pairs)


def test_damaged_folders_are_refused(tmp_path):
    model = built("clip")
    folder = model.save_pretrained(tmp_path / "model")
    record = folder / "llmanac.json"
    text = record.read_text()
    for old, new, said in (
        ('"format_version": 1', '"format_version": 7', "format_version is 7"),
        ('"vocab_size": 40', '"vocab_size": 41', "has the shape"),
        ('"layers": 1', '"layers": 90000', "asks for 90,000 layers"),
    ):
        assert old in text
        record.write_text(text.replace(old, new))
        with pytest.raises(CheckpointError, match=said):
            load_multimodal(folder)
    record.write_text(text)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_multimodal(folder)
