"""What a model or a part can do is declared (`Capabilities`, fields of base Specs), not probed."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import torch
from _small_models import VOCABULARY, transformer

from llmanac.core import registry
from llmanac.core.spec import make_method
from llmanac.core.types import Capabilities, capabilities

SOURCE = Path(__file__).resolve().parents[2] / "src" / "llmanac"
ALLOWED = tomllib.loads((Path(__file__).with_name("probes.toml")).read_text("utf-8"))
MOST = 76  # of all; the number may only fall
NAMES = list(registry.methods("lm"))


def probes(text: str) -> list[str]:
    """What `hasattr`, and `getattr` with a default, ask for."""
    return [
        ast.unparse(node.args[1])
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3)
    ]


def test_probes_are_listed_with_a_reason() -> None:
    found = {p.relative_to(SOURCE).as_posix(): len(probes(p.read_text("utf-8"))) for p in sorted(SOURCE.rglob("*.py"))}
    found = {name: count for name, count in found.items() if count}
    listed = Counter({name: row["count"] for name, row in ALLOWED.items()})
    assert all(row["reason"].endswith(".") for row in ALLOWED.values())
    more = {name: count for name, count in found.items() if count > listed[name]}
    assert not more, f"declare it in `Capabilities` or in a base class instead: {more}"
    assert sum(found.values()) <= MOST


def test_probes_are_found_by_ast() -> None:
    assert probes("hasattr(a, 'b'); getattr(a, 'c', None); getattr(a, 'd'); x.hasattr(a, 'e')") == ["'b'", "'c'"]


@pytest.mark.parametrize("name", NAMES)
def test_every_language_model_does_what_it_says(name: str) -> None:
    small = {"ngram": {"order": 2}, "feedforward": {"order": 3, "dim": 8, "hidden": 8}}
    fields = small.get(registry.methods("lm")[name].path.stem, {"dim": 16, "layers": 2})
    if registry.methods("lm")[name].path.stem == "encoder_decoder":
        fields["encoder_layers"] = 2
    model = make_method("lm", {"name": name, **fields}).build(vocab_size=VOCABULARY)
    can = capabilities(model)
    assert isinstance(can, Capabilities)
    assert can.counted == (not list(model.parameters()))
    assert can.reads_source == (can.start_id is not None)
    assert can.counts_flops and model.flops_per_token(8) >= 0
    for setting in can.settings:
        setattr(model, setting, getattr(model, setting))
    if can.soft_prompts:
        adapter = make_method("adapter", {"name": "prompt", "tokens": 2}).build().apply(model)
        adapter.remove()


def test_a_module_that_says_nothing_has_the_defaults() -> None:
    assert capabilities(torch.nn.Linear(2, 2)) == Capabilities()
    assert capabilities(transformer()).soft_prompts
