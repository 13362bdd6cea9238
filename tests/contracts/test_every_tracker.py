"""What every tracker keeps to, whatever its name."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch

from llmanac.core import registry, spec
from llmanac.core.errors import SpecError
from llmanac.train.metrics import MetricsLog

NAMES = list(registry.methods("tracker"))


@pytest.mark.parametrize("name", NAMES)
def test_takes_numbers_and_goes_on_in_the_folder_with_its_name(name, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name_in_sys in ("exit", "excepthook"):  # wandb puts methods of its own there and leaves them
        monkeypatch.setattr(sys, name_in_sys, getattr(sys, name_in_sys))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    random.seed(1)
    drawn = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    for step in (0, 2):
        asked = [spec.make_method("tracker", name)]
        log = MetricsLog(tmp_path, step=step, trackers=asked, config={"train.steps": 4}, report=pytest.fail)
        for done in (step + 1, step + 2):
            log.write(done, {"loss": 1 / done, "tokens": 64 * done})
            log.write(done, {"evaluate_loss": 2.0, "note": "no number", "none": float("nan")})
        log.close()
    assert {path.name for path in tmp_path.iterdir()} == {name, "metrics.jsonl"}
    assert drawn == [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


@pytest.mark.parametrize("name", NAMES)
def test_is_data_that_comes_back_and_names_a_wrong_field(name):
    made = spec.make_method("tracker", name)
    assert spec.make_method("tracker", spec.dump(made)) == made
    with pytest.raises(SpecError, match="nothing_like_it: no such field"):
        spec.make_method("tracker", {"name": name, "nothing_like_it": 1})
