"""LoRA on each family: a step of training, files that PEFT reads on transformers' model, and merged weights."""

import pytest
import torch
from _small_models import tokens
from peft import PeftModel
from test_family_fuzz import CONFIGS, pair

from llmanac.adapters.load import load_adapter, save_adapter
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.models.load import load_model

FUSED = ("granitemoe", "qwen2_moe", "olmoe", "glm4_moe")  # whose experts and routers PEFT has no names or no layers for


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_trained_adapter_is_pefts_and_its_merged_model_the_same(kind, tmp_path):
    peer, ours = pair(kind, 5, tmp_path / "base")
    ids = tokens(2, 20, 1, ours.vocab_size)
    before = ours(ids).logits.detach()
    targets = ["q_proj", "o_proj"] if kind in FUSED else ["all-linear"]
    transform = make_method("adapter", {"name": "lora", "rank": 2, "alpha": 8.0, "targets": targets}).build(seed=1)
    transform.apply(ours)
    trained = [parameter for parameter in ours.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    for _ in range(2):  # in the first only B learns
        optimizer.zero_grad()
        (ours.nll(Batch(ids=ids[:, :-1], targets=ids[:, 1:])) / ids.numel()).backward()
        optimizer.step()
    assert len(trained) > 4 and all(parameter.grad.abs().max() > 0 for parameter in trained)
    changed = ours(ids).logits.detach()
    assert (changed - before).abs().max() > 1e-3 * before.abs().max()
    save_adapter(transform, tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(peer, tmp_path / "adapter", autocast_adapter_dtype=False).double().eval()
    close = 1e-6 * changed.abs().max()
    assert (loaded(ids).logits.double() - changed).abs().max() < close
    again = load_model(tmp_path / "base", dtype="float64", device="cpu")
    load_adapter(again, tmp_path / "adapter").merge()
    assert (again(ids).logits - changed).abs().max() < close
