"""A distribution of its own adds methods by the entry point `llmanac.methods`: one file each, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from _engine_models import ByteTokenizer
from _forked import executables
from _small_models import tokens, transformer
from _studies import ask

from llmanac.core import catalogue, registry
from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.evaluate.load import load_benchmark, names
from llmanac.generate.engine import Engine
from llmanac.lab.sources import fingerprint

pytestmark = pytest.mark.usefixtures("one_thread")
FILES = {
    "decoding/only_even.py": '''
"""Even tokens alone: the others get -inf."""
from dataclasses import dataclass
import numpy as np
from llmanac.generate.decoding import DecodingSpec
CARD = {"title": "Even tokens"}
@dataclass(frozen=True, kw_only=True)
class Spec(DecodingSpec):
    """step: every so many tokens are kept."""
    step: int = 2
    def build(self, **dims):
        def keep(logits, sequences=()):
            odd = np.arange(logits.shape[-1]) % self.step != 0
            return np.where(odd, np.float32(-np.inf), logits)
        return keep
''',
    "mixer/near.py": '''
"""Softmax attention over the last two tokens."""
from dataclasses import dataclass, replace
from llmanac.models.mixers import softmax
CARD = {"title": "Near attention"}
@dataclass(frozen=True, kw_only=True)
class Spec(softmax.Spec):
    """As softmax attention has them."""
    def build(self, **dims):
        return softmax.Spec.build(replace(self, window=2), **dims)
''',
    "objective/hinge.py": '''
"""A hinge on the difference of mean log-probabilities."""
from dataclasses import dataclass
import torch.nn.functional as F
from llmanac.objectives import compared
from llmanac.objectives import simpo
CARD = {"title": "Hinge preference loss", "rows": "preferences"}
@dataclass(frozen=True, kw_only=True)
class Spec(simpo.Spec):
    """gamma: the margin."""
    def build(self, *, tokenizer=None, models=None, **dims):
        return Hinge(self, tokenizer, models, dims.get("reader"))
class Hinge(simpo.SimPO):
    def loss(self, model, batch):
        own, lengths = self.log_probabilities(model, batch)
        better, worse = self.halves(own / lengths)
        losses = F.relu(self.spec.gamma - (better - worse))
        return losses.sum(), len(losses), compared(better, worse)
''',
    "quantizer/tenths.py": '''
"""Weights rounded to tenths."""
from dataclasses import dataclass
from llmanac.quant import bf16
CARD = {"title": "Tenths"}
@dataclass(frozen=True, kw_only=True)
class Spec(bf16.Spec):
    """No choices."""
    def build(self, **dims):
        return Tenths(self)
class Tenths(bf16.Half):
    def pack(self, weight):
        return (weight * 10).round() / 10
''',
    "optimizer/slow_sgd.py": '''
"""SGD with a tenth of the rate."""
from dataclasses import dataclass
from llmanac.train.optimizers import sgd
CARD = {"title": "Slow SGD", "aliases": {"slower-sgd": {"lr": 1e-4}}}
@dataclass(frozen=True, kw_only=True)
class Spec(sgd.Spec):
    """lr: the rate."""
    lr: float = 1e-3
''',
    "multimodal/small_vit.py": '''
"""A vision transformer of one layer."""
from dataclasses import dataclass
from llmanac.models.images import vit
CARD = {"title": "Small vision transformer"}
@dataclass(frozen=True, kw_only=True)
class Spec(vit.Spec):
    """layers: one."""
    layers: int = 1
''',
    "benchmark/which.toml": '''
title = "Which"
about = "The larger of two numbers."
prompt = "Question: {{question}}\\nAnswer:"
[data]
files = ["which.jsonl"]
[choices]
texts = "[a, b]"
gold = "label|int"
''',
    "decoding/greedy.py": '"""A name that is taken."""\nCARD = {"title": "Taken"}\n',
    "decoding/no_card.py": '"""No card."""\n',
    "decoding/no_python.py": 'CARD = {"title": "No Python"}\ndef (:\n',
    "decoding/listed.py": 'CARD = {"title": "Listed", "aliases": ["a"]}\n',
    "decoding/ends.py": '"""It ends the process."""\nimport sys\nsys.exit(3)\nCARD = {"title": "Ends"}\n',
    "decoding/broken.py": '"""It cannot be imported."""\nimport no_such_module\nCARD = {"title": "Broken"}\n',
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages: one that adds methods, and the entry of one that is not there."""
    root = tmp_path_factory.mktemp("site")
    for name, text in FILES.items():
        path = root / "more_methods" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip("\n"), "utf-8")
        (path.parent / "__init__.py").touch()
    (root / "more_methods" / "__init__.py").touch()
    (root / "more_methods" / "decoding" / "latin.py").write_bytes(b'CARD = {"title": "\xe9"}\n')
    info = root / "more_methods-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: more-methods\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llmanac.methods]\nmore = more_methods\ngone = not_there\n")
    return root


@pytest.fixture
def added(site: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(site)
    registry.packages.cache_clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        registry.packages()
        registry.methods("decoding")
        yield "\n".join(str(one.message) for one in said)
    monkeypatch.undo()
    registry.packages.cache_clear()
    assert "near" not in registry.methods("mixer")


def command(site: Path, *arguments: str, code: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    done = subprocess.run(
        [executables() / "llmanac", *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_what_cannot_be_added_is_named_and_left_out(added: str) -> None:
    assert "gone: there is no package not_there" in added
    assert "no_card.py: a method file needs a literal" in added and "it is left out" in added
    assert all(f"{name}.py: c" in added.lower() for name in ("no_python", "listed", "latin"))
    assert "decoding 'greedy' is already the name of" in added
    assert registry.methods("decoding")["greedy"].path.is_relative_to(registry.PACKAGE)
    with pytest.raises(SpecError, match=r"decoding/broken: .*broken\.py cannot be imported: ModuleNotFoundError"):
        make_method("decoding", "broken")
    with pytest.raises(SpecError, match=r"ends\.py cannot be imported: SystemExit: 3"):
        make_method("decoding", "ends")


def test_methods_are_listed_described_and_built_as_our_own(added: str) -> None:
    listed = {entry.id: entry for entry in catalogue.entries()}
    for name in FILES:
        kind, _, file = name.partition("/")
        own = f"{kind}/{file.removesuffix('.py').replace('_', '-')}"
        if file.endswith(".py") and file not in (
            "greedy.py",
            "no_card.py",
            "broken.py",
            "ends.py",
            "no_python.py",
            "listed.py",
        ):
            assert listed[own].source == f"more_methods/{name}"
            assert make_method(kind, own.partition("/")[2]).name == own.partition("/")[2]
    assert make_method("optimizer", "slower-sgd").lr == 1e-4
    assert "which" in names() and load_benchmark("which")[1].title == "Which"


def test_they_do_what_they_say(added: str, recipe: dict[str, Any], store: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformer(max_length=64, blocks=[{"name": "pre-norm", "mixer": {"name": "near", "heads": 2}}]).eval()
    engine, prompt = Engine(model, ByteTokenizer()), tokens(1, 9)[0].tolist()
    plain, even = (engine.generate(prompt, max_new_tokens=9, stop_ids=[], **o)[0].ids
                   for o in ({}, {"decoding": ["only-even", "greedy"]}))  # fmt: skip
    assert any(i % 2 for i in plain) and not any(i % 2 for i in even)
    before = model.lm_head.weight.clone() if hasattr(model, "lm_head") else next(model.parameters()).clone()
    make_method("quantizer", "tenths").build().apply(model)
    after = next(model.parameters())
    assert torch.allclose(after * 10, (after * 10).round()) and not torch.equal(before, after)
    found = ask("mixer", "multi-head,near", recipe, tmp_path, store, seeds=2)
    values = found.data["values"]["bits_per_byte"]
    assert values["near"] != values["multi-head"] and "near" in (found.folder / "study.md").read_text()


def test_a_study_runs_again_what_was_changed(added: str, site: Path) -> None:
    """The code of another distribution, and what it imports of its own, is part of a run's key."""
    own = site / "more_methods" / "optimizer"
    found = fingerprint([make_method("optimizer", "slow-sgd")])
    assert "more_methods/optimizer/slow_sgd.py" in found and "train/optimizers/sgd.py" in found
    plain, rest = (own / "slow_sgd.py").read_text(), (own / "_rate.py")
    try:
        (own / "slow_sgd.py").write_text(plain.replace("1e-3", "_rate.RATE").replace(
            "CARD =", "from more_methods.optimizer import _rate\nCARD ="))  # fmt: skip
        keys = []
        for rate in ("RATE = 1e-3\n", "RATE = 1e-2\n"):
            rest.write_text(rate)
            os.utime(rest, ns=(len(keys), len(keys)))
            keys.append(fingerprint([make_method("optimizer", "slow-sgd")])["more_methods/optimizer/_rate.py"])
        assert keys[0] != keys[1]
    finally:
        (own / "slow_sgd.py").write_text(plain)
        rest.unlink(missing_ok=True)


def test_the_command_line_knows_them(site: Path, tmp_path: Path) -> None:
    for kind, name in (("decoding", "only-even"), ("objective", "hinge"), ("mixer", "near"), ("quantizer", "tenths"),
                       ("optimizer", "slow-sgd"), ("multimodal", "small-vit")):  # fmt: skip
        assert name in command(site, "list", kind)
        assert str(site / "more_methods" / kind) in command(site, "show", f"{kind}/{name}")
    assert json.loads(command(site, "list", "mixer", "--json").partition("]\n")[0] + "]")
    said = command(site, "evaluate", str(tmp_path), "--benchmarks", "witch", code=2)
    assert "did you mean 'which'?" in said
