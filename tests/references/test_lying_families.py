"""Configs of every kind of family that lie: a sentence that names file and field, or what transformers computes too."""

from __future__ import annotations

import copy
import json
import random
import shutil

import pytest
import torch
from _families import CASES, EAGER, auto, kind_of, ours_batch, theirs, theirs_on, values

import llmanac
from llmanac.core.errors import CheckpointError

KINDS = (
    "llama", "phi3", "gemma3_text", "exaone4", "falcon", "gpt_oss", "deepseek_v3", "qwen2_moe", "mamba2", "bert",
    "deberta-v2", "modernbert", "t5", "bart", "marian",
)  # fmt: skip
LIES = [
    None, {}, [], "", "x", True, False, -1, 0, 1, 3, 0.5, 1e308, float("nan"), float("inf"), 2**62, 10**400,
    2_000_000_000, ["a"], {"a": 1},
]  # fmt: skip
IDS = (torch.arange(40) % 50 + 7).view(2, 20)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    for kind in KINDS:
        theirs(next(case for case in CASES if kind_of(case) == kind)).float().save_pretrained(root / kind)
    return root


def leaves(data, at=()):
    for key, value in data.items():
        yield (*at, key)
        if isinstance(value, dict) and value:
            yield from leaves(value, (*at, key))


def lie(data, place, value):
    changed = copy.deepcopy(data)
    table = changed
    for key in place[:-1]:
        table = table[key]
    table[place[-1]] = value
    return changed


@pytest.mark.parametrize("told", [1, pytest.param(3, marks=pytest.mark.slow)], ids=["1 lie", "3 lies"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_field(kind, told, folders, tmp_path):
    shutil.copytree(folders / kind, folder := tmp_path / kind)
    data, rng, loaded = json.loads((folder / "config.json").read_text()), random.Random(kind), 0
    for place in leaves(data):
        for value in rng.sample(LIES, told):
            (folder / "config.json").write_text(json.dumps(lie(data, place, value)))
            try:
                model = llmanac.load_model(folder, device="cpu")
            except CheckpointError as error:
                assert str(folder) in str(error) and "\n" not in str(error) and len(str(error)) < 1500, (place, value)
            else:
                loaded += 1
                assert values(model(ours_batch(kind, IDS))).isfinite().all(), (place, value)
    assert loaded


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("t5", ("scale_decoder_outputs",)),
        ("deepseek_v3", ("norm_topk_prob",)),
        ("falcon", ("parallel_attn",)),
        ("gpt_oss", ("rope_parameters", "factor")),
        ("gpt_oss", ("rope_parameters", "truncate")),
    ],
)
def test_a_null_is_not_the_default(kind, place, folders, tmp_path):
    """transformers takes it for false, or computes a scaling of less than 1."""
    shutil.copytree(folders / kind, folder := tmp_path / kind)
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(lie(data, place, None)))
    with pytest.raises(CheckpointError, match=place[-1]):
        llmanac.load_model(folder, device="cpu")
    peer = auto(kind).from_pretrained(folder, dtype=torch.float64, **EAGER).eval()
    (folder / "config.json").write_text(json.dumps(data))
    sound = auto(kind).from_pretrained(folder, dtype=torch.float64, **EAGER).eval()
    changed = (theirs_on(peer, kind, IDS) - theirs_on(sound, kind, IDS)).abs().max()
    assert (changed > 0.01) == (place[-1] != "truncate")  # here the ramp is no longer than a step


def test_exact_gelu_is_not_its_approximation(folders, tmp_path):
    """Only Gemma 1 means the approximation by the plain name; 2 and 3 mean what they say."""
    shutil.copytree(folders / "gemma3_text", folder := tmp_path / "gemma3_text")
    data = json.loads((folder / "config.json").read_text())
    before = values(llmanac.load_model(folder, dtype="float64", device="cpu")(ours_batch("gemma3_text", IDS)))
    (folder / "config.json").write_text(json.dumps(data | {"hidden_activation": "gelu"}))
    peer = auto("gemma3_text").from_pretrained(folder, dtype=torch.float64, **EAGER).eval()
    found = values(llmanac.load_model(folder, dtype="float64", device="cpu")(ours_batch("gemma3_text", IDS)))
    torch.testing.assert_close(found, theirs_on(peer, "gemma3_text", IDS), rtol=0, atol=1e-4)
    assert (found - before).abs().max() > 1e-3
